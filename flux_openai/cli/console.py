"""What the user sees: results on stdout, all else on stderr; neither can end a run that images are paid for."""

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from flux_openai.cli.exit_codes import EXIT_CODES, ExitCode
from flux_openai.cli.report import Failure, Report, SavedImage, shown
from flux_openai.errors import FluxError
from flux_openai.retry import RetryEvent

__all__ = ["Screen"]


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The two streams; with `as_json`, stdout is kept for the one document."""

    as_json: bool

    def busy(self, text: str) -> contextlib.AbstractContextManager[object]:
        """Something that moves while the service works, if there is a person to see it."""
        if sys.stderr is None or not sys.stderr.isatty():
            return contextlib.nullcontext()
        # As long as it moves, rich takes stdout too and would write it to stderr: paths have to wait for its end.
        return Console(stderr=True).status(escape(text))

    def say(self, text: str) -> None:
        """Write a line to stderr."""
        with contextlib.suppress(OSError):
            _write(sys.stderr, shown(text))

    def retrying(self, event: RetryEvent) -> None:
        """Tell about a retry; for `RetryPolicy.on_retry`."""
        status = "" if event.status_code is None else f", status {event.status_code}"
        self.say(f"attempt {event.attempt} failed ({event.reason}{status}); the next in {event.wait:.1f} s")

    def listed(self, lines: Iterable[str]) -> None:
        """Write the lines that were asked for to stdout."""
        _print(lines)

    def saved(self, images: Iterable[SavedImage]) -> None:
        """Name the files that were written."""
        if not self.as_json:
            _print([image.path for image in images])

    def failed(self, error: FluxError) -> None:
        """Say what went wrong."""
        self.say(f"error: {error}")

    def ended(self, report: Report) -> None:
        """Say how the run ended."""
        if report.exit_code not in (ExitCode.DONE, ExitCode.BAD_INPUT) and report.error is not None:
            self.say(_conclusion(report, Failure.of(report.error)))
        with contextlib.suppress(OSError):
            for link in report.unsaved:
                # In full, signature and all: it is all that is left of an image that is paid for.
                _write(
                    sys.stderr, f"not saved; until it expires, the image is at {link.encode('unicode_escape').decode()}"
                )
        if self.as_json:
            _print([report.as_json()])


def _conclusion(report: Report, failure: Failure) -> str:
    facts = [
        f"exit code {report.exit_code}: {EXIT_CODES[report.exit_code]}",
        f"images saved: {len(report.images)}" if report.sent else "",
        f"attempts: {failure.attempts}" if failure.attempts else "",
        f"request id: {failure.request_id}" if failure.request_id else "",
        "" if failure.retry_after is None else f"the service asks to wait {failure.retry_after:.0f} s",
    ]
    return "; ".join(filter(None, facts))


def _print(lines: Iterable[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold what the locale cannot write.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        for line in lines:
            _write(sys.stdout, line)
    except OSError:
        # Whoever read has left, or a disk is full; the images are saved all the same. Without this, Python would
        # complain about the rest when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write(stream: TextIO | None, line: str) -> None:
    # A program can be started without one of its streams.
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()
