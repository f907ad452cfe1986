"""The commands about a batch: `run` makes the images, the others read its folder or decide about its rows.

    make_batch(prompts, options, …)
      _plan(…)           with --dry-run: the calls, their images and cost, the first bodies, and the end
      run_batch(…)       the first Ctrl-C or SIGTERM waits for what is under way, the second cancels the run
      finished(report)   the summary on stderr; the path of the manifest, or one JSON document, on stdout

The numbers are those of the library's report; only the exit code is decided here.
"""

import asyncio
import json
import shlex
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, cast

from flux_openai.batch.batch import checked_options, run_batch
from flux_openai.batch.folder import worker_of
from flux_openai.batch.input.rows import open_input, read_set, read_sweep
from flux_openai.batch.ledger import Decision, Ledger, State, Totals
from flux_openai.batch.results import gallery, reports
from flux_openai.batch.runner import BatchReport
from flux_openai.cli.batch.faults import error_in_options, in_options
from flux_openai.cli.batch.plan import DryRun
from flux_openai.cli.batch.progress import ProgressDisplay, share
from flux_openai.cli.batch.summary import document, hints, last_report, summary
from flux_openai.cli.console import Console, body_line
from flux_openai.cli.exit_codes import BATCH_EXIT_CODES, BatchExitCode
from flux_openai.cli.options import BatchRunOptions, ServiceOptions
from flux_openai.cli.report import as_printable, error_document, error_text, without_images
from flux_openai.cli.run import signals_handled
from flux_openai.cli.service import PATTERNS, async_client_of
from flux_openai.errors import (
    ConfigurationError,
    FluxError,
    FluxWarning,
    FolderInUseError,
    InvalidParamsError,
    InvalidRowsError,
    SaveError,
)
from flux_openai.sending.settings import Settings

__all__ = ["make_batch", "put_back_failed", "resolve_held", "show_status", "verify_files", "write_gallery"]

_TOGETHER = 1.0
"""Seconds in which signals count as one, as long as the first has not been answered."""

_MOMENT = 0.1
"""Seconds until a signal is answered: two that come together may reach the threads of a process one after another."""

_NOTICES = 20
"""How many different notices a dry run shows."""

_STOPPED: Mapping[str, BatchExitCode] = {
    "max_images": BatchExitCode.CAP_REACHED,
    "budget": BatchExitCode.CAP_REACHED,
    "refused": BatchExitCode.PAUSED,
    "unreachable": BatchExitCode.PAUSED,
    "unknown": BatchExitCode.PAUSED,
    "disk": BatchExitCode.NOT_SAVED,
}


def make_batch(prompts: str, options: BatchRunOptions, service: ServiceOptions, *, as_json: bool) -> int:
    """Make the images of a file of prompts, and print what became of them.

    Args:
        prompts: The path of the file, or "-" for stdin.
        options: What is asked for, and how.
        service: The service and its options.
        as_json: Whether stdout gets one JSON document instead of the path of the manifest.
    """
    console = Console(as_json=as_json)
    run = _Run(console, options.out)

    def make() -> int:
        with warnings.catch_warnings():
            # The report has their texts. A filter that turns warnings into errors would end the run half way.
            warnings.simplefilter("ignore", FluxWarning)
            if options.dry_run:
                return _plan(prompts, options, console)
            if prompts == service.api_key_file == "-":
                raise ConfigurationError("stdin holds either the prompts or the key: put the key into a file")
            with signals_handled(run.interrupt, ctrl_c=True):
                return run.finished(run.report(prompts, options, service))

    return _answered(make, console, error_in_options)


class _Run:
    """A run, and the signals that it gets: the first lets it drain, the second stops it at once."""

    def __init__(self, console: Console, out: str) -> None:
        self._console, self._out = console, out
        self._display = ProgressDisplay(console)
        self._signals: list[int] = []
        self._first_signal = 0.0
        self._drains = self._unwritten = self._is_ending = False

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal before the first request, or after the last: it ends what is read or written, but not twice."""
        self._signals.append(number)
        was_ending, self._is_ending = self._is_ending, True
        if not was_ending:
            raise KeyboardInterrupt

    def report(self, prompts: str, options: BatchRunOptions, service: ServiceOptions) -> BatchReport | None:
        """Make the images; None if it was stopped at once, or could not write its reports. Raises FluxError."""
        try:
            return asyncio.run(self._made(prompts, options, service))
        except KeyboardInterrupt:
            self._signals = self._signals or [signal.SIGINT]
        except SaveError as error:
            self._not_written(error)
        return None

    def _not_written(self, error: SaveError) -> None:
        self._unwritten = True
        self._console.failed(error)

    async def _made(self, prompts: str, options: BatchRunOptions, service: ServiceOptions) -> BatchReport | None:
        stop, loop, task = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

        def drain() -> None:
            stop.set()
            loop.call_later(_MOMENT, answer)

        def answer() -> None:
            self._drains = True
            count = self._under_way()
            waiting = f"; waiting for {count} under way, which may be billed if you stop once more" if count else ""
            self._console.message(f"no further request starts{waiting}")

        def handle(number: int, _frame: FrameType | None) -> None:
            # A signal may come while a line is written, so the event loop writes the next one.
            now = time.monotonic()
            if self._signals and not self._drains and now - self._first_signal < _TOGETHER:
                return  # Ctrl-C and the end of a terminal, say: the first is not even answered yet
            self._signals.append(number)
            if len(self._signals) == 1:
                self._first_signal = now
            if len(self._signals) == 1:
                loop.call_soon_threadsafe(drain)
            elif len(self._signals) == 2 and self._drains and task is not None:
                loop.call_soon_threadsafe(task.cancel)
            else:
                raise KeyboardInterrupt  # the event loop is busy, with the rows of a large file; nothing is sent then

        if service.emulator:
            self._console.message(PATTERNS)
        given = {**_arguments(options), "on_progress": self._display.told, "stop": stop}
        with signals_handled(handle, ctrl_c=True), self._display.shown():
            try:
                if options.ray is not None:
                    return await _on_ray(prompts, options, service, given)
                async with async_client_of(service, on_retry=None) as client:
                    return await run_batch(prompts, options.out, client=client, **given)
            except asyncio.CancelledError:
                return None

    def _under_way(self) -> int:
        """How many requests are under way: the ledger is newer than the numbers that are shown."""
        try:
            return _totals(self._out).sent or self._display.in_flight
        except ConfigurationError:
            return 0  # the ledger is being made

    def finished(self, report: BatchReport | None) -> int:
        """Write what a run leaves beside its images, print how it ended, and return its exit code.

        Raises ConfigurationError if it ended before there was a ledger.
        """
        console, self._is_ending = self._console, False
        totals, missing = self._with_gallery()
        code = self._exit_code(report, totals, missing)
        for line in summary(totals):
            console.message(line)
        if missing:
            console.message(f"images that were paid for and did not come: {missing}")
        if report is not None:
            rejected = share(report.rejected, report.requests)
            console.message(f"requests: {report.requests}, refused with 429: {rejected}, seconds: {report.seconds:.0f}")
            for notice in report.notices:
                console.message(f"notice: {notice}")
            if report.message:
                console.message(in_options(report.message))
        stopped = "interrupted" if self._signals else None if report is None else report.stopped
        for hint in hints(totals, self._out, stopped=stopped):
            console.message(hint)
        if code != BatchExitCode.DONE:
            console.message(f"exit code {code}: {BATCH_EXIT_CODES[code]}")
        place = Path(self._out, "manifest.jsonl")
        manifest = str(place) if place.is_file() else None  # a run that is stopped while it reads the rows writes none
        facts = {**document(totals), "manifest": manifest, "stopped": stopped, "exit_code": code}
        console.output([json.dumps(facts)] if console.as_json else [manifest] if manifest else [])
        return console.exit_code(code)

    def _with_gallery(self) -> tuple[Totals, int]:
        """Write the gallery, and return the counts, and how many paid images did not come.

        Raises ConfigurationError if there is no ledger.
        """
        try:
            with _reading(self._out) as ledger:
                totals, missing = ledger.totals(), ledger.missing()
                try:
                    gallery.write_gallery([ledger], self._out)
                except SaveError as error:
                    self._not_written(error)
                except KeyboardInterrupt:
                    self._console.message(f"no gallery is written: flux-openai batch gallery {shlex.quote(self._out)}")
        except ConfigurationError:
            if not self._signals:
                raise
            totals, missing = Totals(), 0
        self._is_ending = True
        return totals, missing

    def _exit_code(self, report: BatchReport | None, totals: Totals, missing: int) -> BatchExitCode:
        if self._signals:
            interrupted = self._signals[0] == signal.SIGINT
            return BatchExitCode.INTERRUPTED if interrupted else BatchExitCode.TERMINATED
        if report is not None and report.stopped is not None:
            return _STOPPED[report.stopped]
        if totals.answered:
            return BatchExitCode.NOT_SAVED
        if totals.held:
            return BatchExitCode.HELD
        if totals.failed:
            return BatchExitCode.FAILED
        if missing:
            return BatchExitCode.NOT_SAVED
        return BatchExitCode.NOT_WRITTEN if self._unwritten else BatchExitCode.DONE


async def _on_ray(
    prompts: str, options: BatchRunOptions, service: ServiceOptions, given: Mapping[str, Any]
) -> BatchReport:
    """Make the images on a Ray cluster. Each machine reads the key by itself. Raises FluxError."""
    if service.api_key_file == "-":
        raise ConfigurationError("other machines cannot read stdin: put the key into a file, or set MODELVERSE_API_KEY")
    on_ray = import_module("flux_openai.batch.ray")  # here, because it needs another extra
    make_client = partial(async_client_of, service, on_retry=None)
    report: BatchReport = await on_ray.run_batch_on_ray(
        prompts, options.out, address=options.ray, make_client=make_client, **given
    )
    return report


def _arguments(options: BatchRunOptions) -> dict[str, Any]:
    """The options of `run_batch`. Raises ConfigurationError."""
    given = {
        **_making(options),
        "on_unknown": options.on_unknown,
        "max_images": options.max_images,
        "budget": options.budget,
        "price": options.price,
        "rpm": options.rpm,
        "max_inflight": options.max_inflight,
        "metadata": options.metadata,
    }
    return {name: value for name, value in given.items() if value is not None}


def _making(options: BatchRunOptions) -> dict[str, Any]:
    """The options that make rows of the file. Raises ConfigurationError."""
    return {
        "format": options.format,
        "set": read_set(options.settings),
        "sweep": read_sweep(options.sweep),
        "prompt": options.prompt,
    }


def _plan(prompts: str, options: BatchRunOptions, console: Console) -> int:
    """Print what a run would send, and its estimated cost. Raises ConfigurationError."""
    given = checked_options(_arguments(options))
    most, budget = given.get("max_images"), given.get("budget")
    plan = DryRun(on_unknown=given.get("on_unknown", "hold"), price=given.get("price"), budget=budget)
    with open_input(prompts, **_making(options)) as source:
        plan.read(source.checked(Settings()), options.out)
    cost, images, totals = plan.cost(), plan.images.total(), plan.totals
    first = [without_images(body) for body in plan.first]
    facts = {"requests": plan.sent, "images": images, "estimated_cost": None if cost is None else str(cost)}
    known = {state.value: count for state, count in plan.states.items() if state is not State.PENDING}
    if console.as_json:
        console.output([json.dumps({"rows": plan.rows, **known, **facts, "notices": plan.notices, "first": first})])
    else:
        more = [f"and {plan.sent - len(first)} more"] if plan.sent > len(first) else []
        named = {("cut off" if state == State.SENT else state): count for state, count in known.items()}
        counts = ", ".join([f"rows: {plan.rows}", *(f"{name}: {count}" for name, count in named.items())])
        estimate = f", estimated cost: {cost or 'unknown'}" if images else ""
        lines = [f"{counts}, to be sent: {plan.sent}"] if known else []
        console.output([*map(body_line, first), *more, *lines, f"requests: {plan.sent}, images: {images}{estimate}"])
    for notice, count in plan.notices.most_common(_NOTICES):
        console.message(f"notice: {notice}" if count == 1 else f"notice, in {count} rows: {notice}")
    unknown = totals.images_unknown + totals.images_reserved  # what is reserved was cut off
    if most is not None and images + totals.images_spent + unknown > most:
        console.message(f"more than --max-images {most}: a run pauses there")
    if budget is not None and cost is not None:
        used = totals.price(totals.cost_spent + totals.cost_unknown + totals.cost_reserved)
        if cost.amount + (used.amount if used is not None else 0) > budget.amount:
            console.message(f"more than --budget {budget}: a run pauses there")
    console.message("nothing was sent")
    return console.exit_code(BatchExitCode.DONE)


def show_status(folder: str, *, as_json: bool) -> int:
    """Print how many rows are done, failed, held and left, what they cost, and who works on them."""
    console = Console(as_json=as_json)

    def show() -> int:
        totals, worker, report = _totals(folder), worker_of(Path(folder)), last_report(folder)
        console.output([json.dumps(document(totals))] if as_json else summary(totals, working=worker is not None))
        if worker is not None:
            process = "another process" if worker.pid is None else f"process {worker.pid} on {worker.host}"
            console.message(f"a run is working: {process}")
            return console.exit_code(BatchExitCode.DONE)
        stopped = report.get("stopped")
        if stopped is not None and totals.rows > totals.done:
            message = in_options(str(report.get("message") or stopped))
            console.message(f"the last report, of {report.get('written')}: {message}")
        for hint in hints(totals, folder, stopped=stopped):
            console.message(hint)
        return console.exit_code(BatchExitCode.DONE)

    return _answered(show, console)


def put_back_failed(folder: str, ids: Sequence[str]) -> int:
    """Let failed rows be tried again by the next run."""
    console = Console(as_json=False)

    def put_back() -> int:
        with Ledger.open(folder, create=False) as ledger:
            count, left_out = ledger.retry_failed(ids or None)
            cut_off = ledger.totals().sent
        console.message(f"to be tried again by the next batch run: {count}")
        _tell_cut_off(cut_off, console)
        if left_out:
            rows = "1 row" if left_out == 1 else f"{left_out} rows"
            console.message(f"left out: {rows} that may have been paid for; name them with --only to pay again")
        return BatchExitCode.DONE

    return _answered(put_back, console)


def resolve_held(folder: str, ids: Sequence[str], *, verdict: str) -> int:
    """Decide about rows that are held, all of them without ids."""
    console = Console(as_json=False)

    def resolve() -> int:
        with Ledger.open(folder, create=False) as ledger:
            count, cut_off = ledger.resolve(cast(Decision, verdict), ids or None), ledger.totals().sent
        what = {
            "retry": "to be asked for again by the next batch run",
            "unbilled": "not counted as billed any more, and if held to be asked for again by the next run",
        }.get(verdict, "given up")
        console.message(f"{what}: {count}")
        _tell_cut_off(cut_off, console)
        return BatchExitCode.DONE

    return _answered(resolve, console)


def _tell_cut_off(count: int, console: Console) -> None:
    if count:
        console.message(f"rows that were cut off: {count}; the same batch run again holds them, then decide about them")


def write_gallery(folder: str) -> int:
    """Write the gallery anew, and print the path of its page."""
    console = Console(as_json=False)

    def write() -> int:
        try:
            with _reading(folder) as ledger:
                page = gallery.write_gallery([ledger], folder)
        except SaveError as error:
            console.failed(error)
            return BatchExitCode.NOT_WRITTEN
        console.output([str(page)])
        return console.exit_code(BatchExitCode.DONE)

    return _answered(write, console)


def verify_files(folder: str, *, as_json: bool) -> int:
    """Compare every image with its checksum in the ledger, and print what is missing, changed or of no row."""
    console = Console(as_json=as_json)

    def verify() -> int:
        with _reading(folder) as ledger:
            found = reports.verify([ledger], folder)
        code = BatchExitCode.NOT_SAVED if found.missing or found.changed else BatchExitCode.DONE
        facts = {"missing": found.missing, "changed": found.changed, "of no row": found.strays}
        lines = [f"{name}: {path}" for name, paths in facts.items() for path in paths]
        counts = ", ".join(f"{name}: {len(paths)}" for name, paths in facts.items())
        as_document = json.dumps({**asdict(found), "exit_code": code})
        console.output([as_document] if as_json else [*lines, f"files: {found.files}, {counts}"])
        if found.missing or found.changed:
            page = Path(folder, "gallery", "index.html")
            console.message(f"no run makes these again; {page} has the command for each image, which is billed")
        return console.exit_code(code)

    return _answered(verify, console)


def _answered(
    command: Callable[[], int], console: Console, worded: Callable[[FluxError], FluxError] = lambda error: error
) -> int:
    """The exit code of a command, which prints its error, in other words if need be."""
    try:
        return command()
    except FluxError as error:
        return _failed(worded(error), console)
    except ImportError as error:  # of an extra, which its message names
        return _failed(ConfigurationError(str(error)), console)


def _failed(error: FluxError, console: Console) -> int:
    """Print an error, and return its exit code."""
    rows = error.rows if isinstance(error, InvalidRowsError) else ()
    if rows:
        for line in str(error).splitlines():  # line by line, since a long message would be cut
            console.message(in_options(line))
    else:
        console.message(f"error: {in_options(error_text(error))}")
    if isinstance(error, FolderInUseError):
        code = BatchExitCode.IN_USE
    elif isinstance(error, ConfigurationError | InvalidParamsError):
        code = BatchExitCode.BAD_INPUT
    else:
        code = BatchExitCode.NOT_SAVED
    if console.as_json:
        invalid = [
            {
                "where": row.where,
                "custom_id": row.custom_id,
                "faults": [as_printable(in_options(f"{fault}")) for fault in row.faults],
            }
            for row in rows
        ]
        told = {**error_document(error), "message": in_options(error_text(error))}
        console.output([json.dumps({"error": told, "rows": invalid, "exit_code": code})])
    return code


def _reading(folder: str) -> Ledger:
    """The ledger, to be read, also while a run works on it. Raises ConfigurationError."""
    return Ledger.open(folder, create=False, write=False)


def _totals(folder: str) -> Totals:
    """The counters of the ledger. Raises ConfigurationError."""
    with _reading(folder) as ledger:
        return ledger.totals()
