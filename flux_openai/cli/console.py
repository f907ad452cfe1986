"""The output of the program: results on stdout, everything else on stderr.

A stream that cannot be written to (a closed pipe, a full disk) does not end a run: its images are paid for.
"""

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich import console as rich_console
from rich import progress as rich_progress

from flux_openai.cli.exit_codes import EXIT_CODES, ExitCode
from flux_openai.cli.report import Report, SavedImage, as_printable, error_text, without_images
from flux_openai.errors import FluxError
from flux_openai.models import Price
from flux_openai.retry import RetryEvent, log

__all__ = ["Console", "Progress", "body_line", "lines_printed", "on_terminal"]

_INTERVAL: float = 10
"""Seconds between two lines about the progress, where stderr is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Console:
    """Writes to stdout and stderr; with `as_json`, stdout gets only the JSON document."""

    as_json: bool
    unwritten: list[str] = field(default_factory=list)

    def message(self, text: str) -> None:
        """Write a line to stderr."""
        with contextlib.suppress(OSError):
            _write(sys.stderr, as_printable(text))

    def retrying(self, event: RetryEvent) -> None:
        """Print that a retry follows; for `RetryPolicy.on_retry`."""
        status = "" if event.status_code is None else f", status {event.status_code}"
        self.message(f"attempt {event.attempt} failed ({event.reason}{status}); the next in {event.wait:.1f} s")

    def planned(self, bodies: Sequence[Mapping[str, object]], *, path: str, images: int, price: Price | None) -> None:
        """Print the bodies that a run would send to this path, and its estimated cost."""
        cost = None if price is None else str(price.for_images(images))
        shown = [without_images(body) for body in bodies]
        if self.as_json:
            self.output([json.dumps({"path": path, "requests": shown, "images": images, "estimated_cost": cost})])
            return
        per_image = "" if price is None else f" ({price} an image{_page(price)})"
        self.output(
            [
                *(body_line(body) for body in shown),
                f"requests to {path}: {len(bodies)}, images: {images}, estimated cost: {cost or 'unknown'}{per_image}",
            ]
        )
        self.message("nothing was sent")

    def output(self, lines: Iterable[str]) -> None:
        """Write lines of results to stdout. If that fails, the run goes on, and `unwritten` has the reason."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A path may hold characters that the locale cannot encode.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            for line in lines:
                _write(sys.stdout, line)
        except OSError as error:
            self.unwritten.append(error.strerror or type(error).__name__)
            # The pipe is closed, or the disk full. Without this, Python would fail again when it closes the stream.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def exit_code(self, code: int) -> int:
        """The exit code of a command, which is an error if its output could not be written."""
        if code != ExitCode.DONE or not self.unwritten:
            return code
        self.message(f"error: the output could not be written: {self.unwritten[0]}")
        return ExitCode.NOT_WRITTEN

    def saved(self, images: Iterable[SavedImage]) -> None:
        """Print the paths of the files that were written."""
        if not self.as_json:
            self.output([image.path for image in images])

    def failed(self, error: FluxError) -> None:
        """Print an error."""
        self.message(f"error: {error_text(error)}")

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


def body_line(body: Mapping[str, object]) -> str:
    """JSON in which the letters of all scripts are legible, and no character can act on the terminal."""
    text = json.dumps(body, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _page(price: Price) -> str:
    return f", by {price.source} of {price.date}" if price.source else ""


class Progress(logging.Handler):
    """How far a run is, on stderr: a line that changes on a terminal, or else one every 10 s.

    The images that have come are counted from the log records of the requests that ended.
    """

    def __init__(self, console: Console, images: int) -> None:
        """For a run that asks for so many images."""
        super().__init__()
        self._console, self._images = console, images
        self._came, self._attempt, self._start = 0, 1, time.monotonic()
        self._bar: rich_progress.Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Count the images of a request that ended."""
        self._came += getattr(record, "images", 0)
        self._update()

    def retrying(self, event: RetryEvent) -> None:
        """Print that a retry follows; for `RetryPolicy.on_retry`."""
        self._attempt = event.attempt + 1
        self._console.retrying(event)
        self._update()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress until the block ends; nothing may be written to stdout in it."""
        level = log.level
        log.addHandler(self)
        log.setLevel(logging.INFO)
        try:
            with self._bar_shown() if on_terminal() else lines_printed(self._console, self._line):
                yield
        finally:
            log.setLevel(level)
            log.removeHandler(self)

    @contextlib.contextmanager
    def _bar_shown(self) -> Iterator[None]:
        columns = (rich_progress.SpinnerColumn(), "{task.description}", rich_progress.TimeElapsedColumn())
        # rich redirects stdout to stderr while the bar is shown.
        with rich_progress.Progress(*columns, console=rich_console.Console(stderr=True), transient=True) as self._bar:
            self._bar.add_task(self._text())
            yield

    def _line(self) -> str:
        return f"{self._text()}, {time.monotonic() - self._start:.0f} s"

    def _text(self) -> str:
        attempt = "" if self._attempt == 1 else f", attempt {self._attempt}"
        return f"waiting for the service: {self._came} of {self._images} images{attempt}"

    def _update(self) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=self._text())


def on_terminal() -> bool:
    """Whether stderr is a terminal on which something can change in its place."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextlib.contextmanager
def lines_printed(console: Console, line: Callable[[], str]) -> Iterator[None]:
    """Print a line about the progress every 10 s until the block ends."""
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(_INTERVAL):
            console.message(line())

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _write(stream: TextIO | None, line: str) -> None:
    # A stream is None if the program was started without it.
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()
