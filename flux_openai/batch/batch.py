"""The batch: rows in, a folder of images out, and every crash, limit and refusal in between.

    run_batch(rows, out, …)  run_batch_sync  iter_batch
      opened(…)
        Ledger.open(out)             ledger.py
        ledger.add(checked rows)     input/rows.py: all of them, before anything is sent; none if the input is the same
        ledger.recover(on_unknown)   what was under way when the last run ended
        Runner(ledger, …).run()      runner.py
      write_reports(…)               results/reports.py: manifest.jsonl, errors.jsonl, report.json

The three differ only in what they return: the report, or each row as it ends.
"""

import asyncio
import contextlib
import inspect
import math
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent import futures
from contextvars import copy_context
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack, get_args

from flux_openai._http.library import httpx
from flux_openai.batch.folder import refused
from flux_openai.batch.input.rows import CheckedRow, Format, Rows, open_input
from flux_openai.batch.ledger import BatchItem, Caps, Ledger, OnUnknown, State, price_of_units, units_of
from flux_openai.batch.results.reports import IMAGES, write_reports
from flux_openai.batch.runner import BatchReport, OnProgress, OnResult, Runner, RunSettings, hold_saved
from flux_openai.batch.shards import ShardRunner, merge_left_over
from flux_openai.client.clients import AsyncFluxOpenAI
from flux_openai.client.signature import with_signature
from flux_openai.errors import ConfigurationError, FluxError, InvalidParam, SaveError, listed
from flux_openai.models import FLUX_MODELS, FluxModel, Price
from flux_openai.sending.settings import Settings

__all__ = [
    "BatchOptions",
    "BatchRows",
    "check_price",
    "checked_options",
    "iter_batch",
    "opened",
    "run_batch",
    "run_batch_sync",
]

BatchRows: TypeAlias = Rows | AsyncIterable[Mapping[str, object]]
"""A path, "-" for stdin, or the rows themselves, each a mapping of parameters, perhaps with a "custom_id"."""


_AnyRunner = TypeVar("_AnyRunner", Runner, ShardRunner)


class BatchOptions(TypedDict, total=False):
    """The options of `run_batch`; None is the same as left out."""

    client: AsyncFluxOpenAI | None
    format: Format | None
    set: Mapping[str, object] | None
    sweep: Mapping[str, Sequence[object]] | None
    prompt: str | None
    on_unknown: OnUnknown | None
    max_images: int | None
    budget: Price | str | None
    price: Price | str | None
    rpm: float | None
    max_inflight: int | None
    metadata: bool | None
    on_result: OnResult | None
    on_progress: OnProgress | None
    stop: asyncio.Event | None


@with_signature(BatchOptions)
async def run_batch(rows: BatchRows, out: str | PathLike[str], **options: Unpack[BatchOptions]) -> BatchReport:
    """Make the images of many rows, and save them in a folder.

    The same call again goes on where the last one ended, also after a crash: what is done stays done, and what is paid
    for is downloaded and never made again. Rows may be added. A row that changed is refused, unless it has failed and
    has surely cost nothing, such as a refused prompt: then it is made as it is now.

    Args:
        rows: A file (JSONL, CSV, TSV, TXT, Parquet, each also as .gz), "-" for stdin, or an iterable or async iterable
            of mappings. The columns are the parameters of `images.generate`, and an optional `custom_id`. All of it is
            read and checked before the first request.
        out: The folder. Images are in `out/images`, what became of each row is in `out/ledger.db` and
            `out/manifest.jsonl`.
        client: An AsyncFluxOpenAI, which stays open. Its retry policy decides about rows whose request failed. Where
            many requests are under way, more HTTP clients are made, unless it was given an `http_client`. By default a
            client is made.
        format: The format of the file, if its ending does not say it.
        set: Values for every row, which replace those of the file.
        sweep: Several values of a parameter: each row is multiplied by them.
        prompt: A template for the prompt, in which "{column}" stands for the value of a column.
        on_unknown: What becomes of a row whose request may have been carried out without an answer: "hold" (default)
            keeps it for a decision, "retry" sends it again once, which may pay twice. Rows that an earlier run holds
            stay held: `flux-openai batch resolve` decides about them.
        max_images: How many images all runs with this folder may pay for.
        budget: How much money they may spend, such as "50 CNY".
        price: The price of one image, such as "0.65 CNY", instead of that of the table or the client.
        rpm: How many requests may start in a minute; needs the extra `batch`. Without it the limit is found out.
        max_inflight: How many requests may be under way.
        metadata: Whether each image gets a file beside it that says how to make it again.
        on_result: A function or coroutine function that is called with the BatchItem of each row that ends.
        on_progress: Likewise, with a BatchProgress, at most four times a second and at the end.
        stop: An event that ends the run early: no further request starts, and what is under way ends and is saved.

    Returns:
        The report. `report.stopped` says why the run ended before the last row; the rows that are left stay in the
        folder for the next call. Rows that failed or are held do not raise.

    Raises:
        InvalidRowsError: Rows are invalid; the error has all of them, and nothing was sent.
        ChangedRowsError: Rows differ from those that the folder knows; nothing was sent.
        FolderInUseError: Another run uses the folder.
        ConfigurationError: An option is invalid, there are no rows, or the folder belongs to another service or has
            images that its ledger does not know; nothing was sent. A first run that is refused leaves no folder.
        Exception: What a callback raised, after everything under way has ended and is saved.

    Example:
        report = await run_batch("prompts.jsonl", "out", budget="50 CNY")
        print(report.done, report.failed, report.held, report.cost)

    """
    async with opened(rows, out, options, Runner) as runner:
        return await runner.run()


@with_signature(BatchOptions)
def run_batch_sync(rows: BatchRows, out: str | PathLike[str], **options: Unpack[BatchOptions]) -> BatchReport:
    """The same as `run_batch`, for code that is not async; the arguments and errors are the same.

    Where an event loop runs already, as in a notebook, the batch runs in a thread of its own, and so do the callbacks.
    A client that is given must then not be in use elsewhere.

    Example:
        report = run_batch_sync("prompts.jsonl", "out")
    """
    batch = run_batch(rows, out, **options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(batch)
    return _in_thread(batch)


_T = TypeVar("_T")


def _in_thread(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on an event loop in another thread. Ctrl-C cancels it."""
    outcome, running = futures.Future[_T](), list[tuple[asyncio.AbstractEventLoop, "asyncio.Task[_T] | None"]]()

    async def main() -> _T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    def target() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001  # raised in the other thread
            outcome.set_exception(error)

    thread = threading.Thread(target=target, name="flux-openai-batch", daemon=True)
    thread.start()
    try:
        while not futures.wait([outcome], timeout=_POLL_SECONDS).done:
            """Look again."""
    except BaseException:
        for loop, task in running:
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    thread.join()
    return outcome.result()


_POLL_SECONDS = 0.2
"""How often the waiting thread wakes up to notice Ctrl-C."""


@with_signature(BatchOptions)
async def iter_batch(
    rows: BatchRows, out: str | PathLike[str], **options: Unpack[BatchOptions]
) -> AsyncGenerator[BatchItem, None]:
    """The rows of this run as they end: done, failed or held; rows that ended in an earlier run are left out.

    The arguments and errors are those of `run_batch`. A consumer that is slow slows the run down. If the iteration ends
    early, no further request starts, and what is under way ends and is saved; use `contextlib.aclosing` to wait for it.

    Example:
        async for item in iter_batch("prompts.jsonl", "out"):
            print(item.custom_id, item.state, [file.path for file in item.files])
    """
    # One place: a row that ends waits until the one before is taken, and holds the run up if many wait.
    queue, closed, users = asyncio.Queue[BatchItem | None](maxsize=1), asyncio.Event(), options.get("on_result")

    async def hand_over(item: BatchItem) -> None:
        if users is not None and inspect.isawaitable(result := users(item)):
            await result
        if not closed.is_set():
            await queue.put(item)

    async with opened(rows, out, {**options, "on_result": hand_over}, Runner) as runner:

        async def work() -> None:
            try:
                await runner.run()
            finally:
                await queue.put(None)

        task = asyncio.create_task(work())
        try:
            while (item := await queue.get()) is not None:
                yield item
        except BaseException as error:
            closed.set()
            if isinstance(error, GeneratorExit):
                runner.stop("interrupted", "the iteration ended early")
            else:
                task.cancel()
            while await queue.get() is not None:
                """Let the rows that have ended by now go."""
            await asyncio.wait([task])
            raise
        await task


@contextlib.asynccontextmanager
async def opened(
    rows: BatchRows,
    out: str | PathLike[str],
    options: Mapping[str, object],
    make_runner: Callable[[Ledger, RunSettings], _AnyRunner],
) -> AsyncIterator[_AnyRunner]:
    """The runner of a batch whose options and rows are checked; in the end the reports are written."""
    given = checked_options({name: value for name, value in options.items() if value is not None})
    async with contextlib.AsyncExitStack() as stack:
        client: AsyncFluxOpenAI | None = given.get("client")
        if client is None:
            client = await stack.enter_async_context(AsyncFluxOpenAI())
        settings: Settings = client._settings  # noqa: SLF001  # a client of this package
        price: Price | None = given.get("price")
        caps = Caps(max_images=given.get("max_images"), budget=given.get("budget"))

        def price_of(model: FluxModel) -> Price | None:
            return price or settings.price_of(model)

        def check(row: CheckedRow) -> None:
            check_price(price_of(row.model), row, budget=caps.budget)

        making = {name: given.get(name) for name in ("format", "set", "sweep", "prompt")}
        making["unsupported"] = settings.unsupported
        on_unknown: OnUnknown = given.get("on_unknown", "hold")
        with _nothing_left_if_new(Path(out)) as made:
            ledger = stack.enter_context(Ledger.open(out, create=True, caps=caps))
            made.append(ledger)
            _prove_images_known(ledger, Path(out))
            _prove_origin(ledger, Path(out), client.base_url)
            reading = _Reading(ledger, settings, check)
            await reading.read(rows, making)
            await merge_left_over(ledger, Path(out), on_unknown, price_of)
            await hold_saved(ledger, Path(out))
            ledger.recover(on_unknown)
            _prove_first_row_fits(ledger, caps, price_of)
        names = ("rpm", "max_inflight", "metadata", "on_result", "on_progress")
        chosen = {name: given[name] for name in names if name in given} | {"notices": reading.notices}
        runner = make_runner(
            ledger,
            RunSettings(client=client, out=Path(out), price_of=price_of, caps=caps, on_unknown=on_unknown, **chosen),
        )
        if "stop" in given:
            if given["stop"].is_set():
                runner.stop()
            watcher = asyncio.create_task(_stop_on(given["stop"], runner))
            stack.callback(watcher.cancel)
        try:
            yield runner
        finally:
            report = runner.report()
            with contextlib.suppress(*([SaveError] if report.stopped == "disk" else [])):
                write_reports([ledger], out, report)


@contextlib.contextmanager
def _nothing_left_if_new(out: Path) -> Iterator[list[Ledger]]:
    """Remove a ledger that is made in the block, and the folders made for it, if the block raises an error."""
    missing = [place for place in (out, *out.parents) if not os.path.lexists(place)]
    is_new, made = not os.path.lexists(out / "ledger.db"), list[Ledger]()
    try:
        yield made
    except BaseException:
        if is_new:
            for ledger in made:
                ledger.close(remove=True)
        for place in missing:
            with contextlib.suppress(OSError):  # there is something in it, or it was not made
                place.rmdir()
        raise


def _prove_origin(ledger: Ledger, out: Path, url: httpx.URL) -> None:
    """Note down to which service the rows are sent.

    Raises ConfigurationError if a run with the emulator would go on with a service, or the other way round: patterns
    would pass for pictures. The address of a service may change.
    """
    origin, before = f"{url.scheme}://{url.netloc.decode('ascii')}", ledger.origin
    if before and not ledger.is_unused and (before == _EMULATOR) != (origin == _EMULATOR):
        made = "the emulator, its images are patterns" if before == _EMULATOR else f"a service, {before}"
        raise refused(out, f"it was made with {made}, and this run would use {origin}: give another folder")
    if before != origin:
        ledger.origin = origin


def _prove_first_row_fits(ledger: Ledger, caps: Caps, price_of: Callable[[FluxModel], Price | None]) -> None:
    """Raise ConfigurationError if a cap is too small for a single row."""
    if caps == Caps() or (item := next(ledger.items(State.PENDING), None)) is None:
        return
    if caps.max_images is not None and item.images > caps.max_images:
        rule = f"is not enough for one row: that of {item.where} asks for {item.images} images"
        raise ConfigurationError.of(
            InvalidParam(param="max_images", value=caps.max_images, rule=rule, nearest=item.images)
        )
    price = price_of(FLUX_MODELS[item.model])
    if caps.budget is not None and price is not None and price.for_images(item.images).amount > caps.budget.amount:
        cost = price_of_units(units_of(price) * item.images, price.currency)
        rule = f"is not enough for one row: that of {item.where} costs {cost}"
        raise ConfigurationError.of(InvalidParam(param="budget", value=str(caps.budget), rule=rule, nearest=str(cost)))


def _prove_images_known(ledger: Ledger, out: Path) -> None:
    """Raise ConfigurationError if images would be made again and replaced, because the ledger is another one."""
    if ledger.is_unused and not ledger.shards() and any(place.is_file() for place in (out / IMAGES).rglob("*")):
        raise refused(out, f"it has images that its ledger does not know, in {out / IMAGES}")


async def _stop_on(event: asyncio.Event, runner: Runner | ShardRunner) -> None:
    await event.wait()
    runner.stop()


class _Reading:
    """The reading of the rows, in a thread: a million of them would block the event loop for a minute."""

    def __init__(self, ledger: Ledger, settings: Settings, check: Callable[[CheckedRow], None]) -> None:
        self._ledger, self._settings, self._check = ledger, settings, check
        self._loop = asyncio.get_running_loop()
        self._interrupted, self._at_work = threading.Event(), threading.Lock()
        self.notices: tuple[str, ...] = ()
        self._pulling: futures.Future[list[Mapping[str, object]]] | None = None

    async def read(self, rows: BatchRows, making: Mapping[str, Any]) -> None:
        """Check every row and note it down, unless the input is the same as last time. Raises ConfigurationError."""
        found = self._pulled(rows) if isinstance(rows, AsyncIterable) else rows
        work: asyncio.Future[None] | None = None
        try:
            # No task: the end of `asyncio.run` would cancel it, and close the ledger under the thread.
            work = self._loop.run_in_executor(None, copy_context().run, self._read, found, making)
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._interrupt()
            while work is not None and not work.done():  # a second cancellation does not stop the thread either
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([work])
            if work is not None:
                work.exception()  # or asyncio would complain that nobody looked
            raise
        except BaseException:
            # A signal handler can raise at any place, also before `await`: the ledger would be closed under the thread.
            self._interrupt()
            if work is not None:
                work.cancel()  # likewise; the thread goes on
            with self._at_work:
                raise

    def _interrupt(self) -> None:
        self._interrupted.set()
        if self._pulling is not None:
            self._pulling.cancel()

    def _read(self, rows: Rows, making: Mapping[str, Any]) -> None:
        with self._at_work, open_input(rows, **making) as source:
            if self._interrupted.is_set():
                raise FluxError("interrupted")
            fingerprint = source.fingerprint(self._settings)
            if fingerprint is None or fingerprint != self._ledger.fingerprint:
                self._ledger.add(self._checked(source.checked(self._settings)), fingerprint=fingerprint)
            self.notices = source.notices

    def _checked(self, rows: Iterable[CheckedRow]) -> Iterator[CheckedRow]:
        row = None
        for row in rows:
            if self._interrupted.is_set():
                raise FluxError("interrupted")
            self._check(row)
            yield row
        if row is None:
            raise ConfigurationError("the input has no rows; nothing was sent")

    def _pulled(self, rows: AsyncIterable[Mapping[str, object]]) -> Iterator[Mapping[str, object]]:
        """The rows of an async iterable, for the thread; several at a time, because each takes a turn of both."""
        iterator = aiter(rows)

        async def some() -> list[Mapping[str, object]]:
            found = list[Mapping[str, object]]()
            with contextlib.suppress(StopAsyncIteration):
                while len(found) < _PULLED and not self._interrupted.is_set():
                    found.append(await anext(iterator))
            return found

        while not self._interrupted.is_set():
            self._pulling = asyncio.run_coroutine_threadsafe(some(), self._loop)
            if self._interrupted.is_set():  # in the meantime, by somebody who saw the one before
                self._pulling.cancel()
            found = self._pulling.result()
            yield from found
            if len(found) < _PULLED:
                return


_PULLED = 100

_EMULATOR = "https://flux-emulator.invalid"
"""The origin of the emulator in this process."""


def check_price(price: Price | None, row: CheckedRow, *, budget: Price | None) -> None:
    """Raise ConfigurationError if nobody could say when the budget is used up."""
    if budget is None:
        return
    if price is None:
        hint = "name it with price, or in the client's prices"
        rule = f"needs the price of {row.model.id} ({row.where}), which is not known: {hint}"
    elif price.currency != budget.currency:
        rule = f"must be in the currency of the prices, {price.currency}"
    else:
        return
    raise ConfigurationError.of(InvalidParam(param="budget", value=str(budget), rule=rule))


_CHOICES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "client": ("must be an AsyncFluxOpenAI", lambda value: isinstance(value, AsyncFluxOpenAI)),
    "on_unknown": (f"must be one of {listed(get_args(OnUnknown))}", lambda value: value in get_args(OnUnknown)),
    "max_images": ("must be an integer from 1", lambda value: type(value) is int and value >= 1),
    "max_inflight": ("must be an integer from 1", lambda value: type(value) is int and value >= 1),
    "rpm": ("must be a number above 0", lambda value: type(value) in (int, float) and 0 < value < math.inf),
    "metadata": ("must be True or False", lambda value: isinstance(value, bool)),
    "on_result": ("must be a function", callable),
    "on_progress": ("must be a function", callable),
    "stop": ("must be an asyncio.Event", lambda value: isinstance(value, asyncio.Event)),
}
"""The rule of each option, and whether a value keeps it. `rows.py` checks those that make rows."""


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with prices as such. Raises ConfigurationError with every invalid one."""
    checked, faults = dict[str, Any](options), list[InvalidParam]()
    for name in ("budget", "price"):
        value = options.get(name)
        if value is not None and not isinstance(value, Price):
            try:
                checked[name] = Price.of(value if isinstance(value, str) else "")
            except ValueError as error:
                faults.append(InvalidParam(param=name, value=value, rule=str(error)))
    for name, value in options.items():
        if name not in BatchOptions.__annotations__:
            near = get_close_matches(name, BatchOptions.__annotations__, n=1)
            rule = "is not an option of a batch"
            faults.append(InvalidParam(param=name, value=value, rule=rule, nearest=near[0] if near else None))
        elif name in _CHOICES and not _CHOICES[name][1](value):
            faults.append(InvalidParam(param=name, value=value, rule=_CHOICES[name][0]))
    if faults:
        raise ConfigurationError.of(*faults)
    return checked
