"""How far a batch is, on stderr: a bar and the numbers below it on a terminal, or else a line every 10 s."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flux_openai.cli.console import Console, lines_printed, on_terminal

if TYPE_CHECKING:
    from flux_openai.batch.runner import BatchProgress

__all__ = ["ProgressDisplay", "share"]

_LEAST_BAR = 8
"""The width in columns below which a bar shows too little to be worth its place."""


class ProgressDisplay:
    """Shows the progress that it is told."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._terminal = RichConsole(stderr=True)
        self._progress: BatchProgress | None = None

    def told(self, progress: "BatchProgress") -> None:
        """Take the newest numbers; for `on_progress` of a batch."""
        self._progress = progress

    @property
    def in_flight(self) -> int:
        """How many requests were under way when it was last told."""
        return 0 if self._progress is None else self._progress.in_flight

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the progress until the block ends; nothing may be written to stdout in it."""
        if not on_terminal():
            with lines_printed(self._console, self._line):
                yield
            return
        with Live(get_renderable=self._picture, console=self._terminal, transient=True):
            yield

    def _line(self) -> str:
        progress = self._progress
        return "reading the rows" if progress is None else ", ".join([_rows(progress), *_facts(progress)])

    def _picture(self) -> Group:
        progress, width = self._progress, self._terminal.width - 1  # some terminals wrap a line that fills them
        if progress is None:
            return Group(Text("reading the rows"))
        bar, rows = Table.grid(padding=(0, 1)), _rows(progress)
        space = min(40, width - len(rows) - 1)
        if space >= _LEAST_BAR:
            bar.add_row(ProgressBar(total=max(1, progress.rows), completed=_ended(progress), width=space), Text(rows))
        else:
            bar.add_row(Text(rows))
        return Group(bar, *map(Text, _filled(_facts(progress), width)))


def _ended(progress: "BatchProgress") -> int:
    return progress.done + progress.failed + progress.held


def _rows(progress: "BatchProgress") -> str:
    eta = "" if progress.eta is None else f", {_duration(progress.eta)} left"
    return f"{_ended(progress)} of {progress.rows} rows{eta}"


def _facts(progress: "BatchProgress") -> list[str]:
    return [
        f"{progress.done} done",
        f"{progress.failed} failed",
        f"{progress.held} held",
        f"{progress.images_per_second:.1f} images/s",
        f"{progress.in_flight} in flight",
        f"429: {share(progress.rejected, progress.requests)}",
        *([] if progress.cost is None else [f"{progress.cost}"]),
    ]


def share(part: int, whole: int) -> str:
    """A part of a whole in per cent."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _filled(facts: list[str], width: int) -> list[str]:
    """The facts in lines of at most this width; none of them is torn."""
    lines = facts[:1]
    for fact in facts[1:]:
        if len(lines[-1]) + len(fact) + 2 <= width:
            lines[-1] += f", {fact}"
        else:
            lines.append(fact)
    return lines
