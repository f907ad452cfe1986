"""The output of the program: results on stdout, everything else on stderr.

A stream that cannot be written to (a closed pipe, a full disk) does not end a run: its images are paid for.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from rich import console as rich_console
from rich.markup import escape

from flux_openai.cli.exit_codes import EXIT_CODES, ExitCode
from flux_openai.cli.report import Report, SavedImage, as_printable
from flux_openai.errors import FluxError
from flux_openai.retry import RetryEvent

__all__ = ["Console"]


@dataclass(frozen=True, kw_only=True)
class Console:
    """Writes to stdout and stderr; with `as_json`, stdout gets only the JSON document."""

    as_json: bool

    def spinner(self, text: str) -> contextlib.AbstractContextManager[object]:
        """A spinner on stderr, if that is a terminal; nothing may be written to stdout until it ends."""
        if sys.stderr is None or not sys.stderr.isatty():
            return contextlib.nullcontext()
        # rich redirects stdout to stderr while the spinner is shown.
        return rich_console.Console(stderr=True).status(escape(text))

    def message(self, text: str) -> None:
        """Write a line to stderr."""
        with contextlib.suppress(OSError):
            _write(sys.stderr, as_printable(text))

    def retrying(self, event: RetryEvent) -> None:
        """Print that a retry follows; for `RetryPolicy.on_retry`."""
        status = "" if event.status_code is None else f", status {event.status_code}"
        self.message(f"attempt {event.attempt} failed ({event.reason}{status}); the next in {event.wait:.1f} s")

    def output(self, lines: Iterable[str]) -> None:
        """Write lines of results to stdout."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A path may hold characters that the locale cannot encode.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            for line in lines:
                _write(sys.stdout, line)
        except OSError:
            # The pipe is closed, or the disk full. Without this, Python would fail again when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def saved(self, images: Iterable[SavedImage]) -> None:
        """Print the paths of the files that were written."""
        if not self.as_json:
            self.output([image.path for image in images])

    def failed(self, error: FluxError) -> None:
        """Print an error."""
        self.message(f"error: {error}")

    def finished(self, report: Report) -> None:
        """Print how the run ended."""
        error = report.error
        if error is not None and report.exit_code != ExitCode.BAD_INPUT:
            facts = [
                f"exit code {report.exit_code}: {EXIT_CODES[report.exit_code]}",
                f"images saved: {len(report.images)}" if report.sent else "",
                f"attempts: {error.attempts}" if error.attempts else "",
                f"request id: {error.request_id}" if error.request_id else "",
                "" if error.retry_after is None else f"the service asks to wait {error.retry_after:.0f} s",
            ]
            self.message("; ".join(filter(None, facts)))
        with contextlib.suppress(OSError):
            for link in report.unsaved:
                # Not redacted: without its signature the link is useless, and the image is paid for.
                text = link.encode("unicode_escape").decode()
                _write(sys.stderr, f"not saved; until it expires, the image is at {text}")
        if self.as_json:
            self.output([report.as_json()])


def _write(stream: TextIO | None, line: str) -> None:
    # A stream is None if the program was started without it.
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()
