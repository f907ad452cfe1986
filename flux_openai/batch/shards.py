"""Shards: ranges of a run's rows that are worked on apart, each with a ledger of its own and a part of the caps.

Nothing here knows Ray. A worker is whatever can run one shard's folder to its end and can be told to stop.
"""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

from flux_openai.batch.ledger import Caps, Ledger, OnUnknown, State, Totals, price_of_units, units_of
from flux_openai.batch.runner import (
    BatchProgress,
    BatchReport,
    RunSettings,
    Stopped,
    call_users,
    cap_message,
    hold_saved,
)
from flux_openai.errors import FolderInUseError
from flux_openai.models import FLUX_MODELS, FluxModel, Price

__all__ = [
    "SHARDS",
    "Amount",
    "CapName",
    "Grant",
    "NoWorkerError",
    "Plan",
    "Shard",
    "ShardRunner",
    "Worker",
    "WorkerLostError",
    "merge_left_over",
    "shard_size",
    "split",
]

SHARDS = "shards"
"""The folder of the shards, in the folder of the run; it is gone when they are merged."""

_MOST_LOSSES = 3
"""How often a shard goes on elsewhere: what kills its worker each time would go on for ever."""

_TICK = 0.25
"""Seconds between two calls of `on_progress`."""

_LAST_BREATH = 30.0
"""Seconds for a process that was killed to be gone."""

_FEWEST_ROWS = 1_000
"""Every shard begins with few requests at a time and ends with a wait for its last one, so that short ones are slow."""

_MOST_ROWS = 10_000
"""The rows whose images wait for the merge, and that are held if a machine is lost with its disk."""


def shard_size(rows: int, workers: int) -> int:
    """The rows of a shard: about four shards for each worker, none much too short or too long, one each at least."""
    wished = min(max(-(-rows // (4 * workers)), _FEWEST_ROWS), _MOST_ROWS)
    return max(1, min(wished, -(-rows // workers)))


def split(whole: int, parts: int) -> list[int]:
    """A limit in equal parts, whose sum is the whole; the first ones are larger by one where it does not divide."""
    each, over = divmod(whole, parts)
    return [each + (part < over) for part in range(parts)]


_T = TypeVar("_T")

PriceOf: TypeAlias = Callable[[FluxModel], Price | None]

CapName: TypeAlias = Literal["max_images", "budget"]


class Amount(NamedTuple):
    """Images, and money in billionths of the currency. None: not capped."""

    images: int | None
    cost: int | None


class Shard(NamedTuple):
    """A range of rows: the first and the last number, both included. The lowest ones run first."""

    first: int
    last: int


class Grant(NamedTuple):
    """A shard to run now, and what it may spend at most."""

    shard: Shard
    amount: Amount


class Plan:
    """Which shard runs next and what it may spend: every decision of a run in shards, without any I/O.

    What is granted to the shards that run, and what was spent, never exceed `left` as it was at the start. A shard
    is granted what its rows need, in the order of the rows, as one process would spend it. What it did not spend comes
    back, and goes to a shard that paused with too little.

    Args:
        waiting: The shards.
        left: What may still be spent.
        wants: What the rows of a shard that are not done need, at one request each.
    """

    def __init__(self, waiting: Iterable[Shard], left: Amount, wants: Callable[[Shard], Amount]) -> None:
        """No shard runs yet."""
        self.waiting, self.left, self.wants = [*waiting], left, wants
        self.running = dict[Shard, Amount]()
        # What a shard had left when it paused: in the cap that it paused on, more must be there before it runs again.
        self._too_little = dict[Shard, Amount]()

    def next(self) -> Grant | None:
        """The next shard to start; None if none can start now."""
        for shard in sorted(self.waiting):
            grant = _each(_least, self.wants(shard), self.left)
            if self.lacks(shard) is None:
                self.waiting.remove(shard)
                self.running[shard] = grant
                self.left = _each(_minus, self.left, grant)
                return Grant(shard, grant)
        return None

    def lacks(self, shard: Shard) -> CapName | None:
        """The cap that leaves too little for a shard to get further than it is; None if there is enough."""
        wanted, too_little = self.wants(shard), self._too_little.get(shard, Amount(None, None))
        grant = _each(_least, wanted, self.left)
        if not _helps(grant.images, wanted.images, too_little.images):
            return "max_images"
        return None if _helps(grant.cost, wanted.cost, too_little.cost) else "budget"

    def ended(self, shard: Shard, spent: Amount, *, paused_on: CapName | None, done: bool) -> None:
        """Take back what a shard did not spend; one that is not done waits again."""
        rest = _each(_minus, self.running.pop(shard), spent)
        self.left = _each(_plus, self.left, rest)
        if paused_on is not None:
            images, cost = rest
            self._too_little[shard] = Amount(images, None) if paused_on == "max_images" else Amount(None, cost)
        if not done:
            self.waiting.append(shard)


def _each(function: Callable[[int | None, int | None], int | None], one: Amount, other: Amount) -> Amount:
    return Amount(function(one.images, other.images), function(one.cost, other.cost))


def _least(wanted: int | None, left: int | None) -> int | None:
    return left if wanted is None or left is None else min(wanted, left)


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _minus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one - other


def _helps(grant: int | None, wanted: int | None, too_little: int | None) -> bool:
    """Whether a shard with this grant gets further than it is."""
    if grant is None:
        return True
    if too_little is not None:
        return grant > too_little
    return grant > 0 or wanted == 0


class WorkerLostError(Exception):
    """The process that worked on a shard is gone. What it knew is in the shard's folder."""


class NoWorkerError(Exception):
    """No process could be started for a worker: it runs nothing any more."""


class Worker(Protocol):
    """What runs shards, one at a time."""

    async def run(self, folder: Path, caps: Caps) -> BatchReport:
        """Run the ledger in a folder to its end.

        Raises:
            WorkerLostError: The process is gone; the next call has another one.
            NoWorkerError: There is none, and nothing was run.
        """
        ...

    async def drain(self) -> None:
        """Start no request any more, and let those under way end."""
        ...

    async def progress(self) -> BatchProgress | None:
        """The numbers of the shard that runs; None if none runs."""
        ...

    def end(self) -> None:
        """End the process; what is under way in it may have been carried out, as after a kill."""
        ...


class ShardRunner:
    """One run over a ledger, like `Runner`: each worker takes a shard, and what became of its rows is merged.

    Args:
        ledger: The ledger of the run, open for writing.
        settings: The settings of the run; how fast each worker may be, it knows itself.
        workers: Who runs the shards.
    """

    def __init__(self, ledger: Ledger, settings: RunSettings, workers: Sequence[Worker]) -> None:
        """Nothing is sent before `run`."""
        self._ledger, self._settings, self._workers = ledger, settings, workers
        self._losses = Counter[Shard]()
        self._changed = asyncio.Event()
        self._reports = list[BatchReport]()
        self._stopped: Stopped | None = None
        self._message = ""
        self._error: BaseException | None = None
        self._draining = set[asyncio.Task[None]]()
        self._began = time.monotonic()

    async def run(self) -> BatchReport:
        """Run all shards. What could not be run stays in the ledger as it is.

        Raises:
            Exception: What a worker or a callback raised, once everything under way has ended.
        """
        totals = self._ledger.totals()
        size = shard_size(totals.pending + totals.answered, len(self._workers))
        shards = [Shard(*ends) for ends in self._ledger.ranges(size)]
        plan = Plan(waiting=shards, left=_left(self._settings.caps, totals), wants=self._wants)
        ticker = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as tasks:
                for worker in self._workers:
                    tasks.create_task(self._serve(worker, plan))
        finally:
            ticker.cancel()
            for worker in self._workers:
                worker.end()
            # After a cancellation there are shards that nobody has merged.
            await merge_left_over(self._ledger, self._settings.out, self._settings.on_unknown, self._settings.price_of)
        if self._stopped is None and plan.waiting:
            self._stop_short(plan.lacks(min(plan.waiting)))
        if self._settings.on_progress is not None:
            await self._call(self._settings.on_progress, await self.progress())
        if self._error is not None:
            raise self._error
        return self.report()

    def stop(self, reason: Stopped = "interrupted", message: str = "") -> None:
        """Start no further request; what is under way ends, and is saved. The first reason counts."""
        if self._stopped is None:
            self._stopped, self._message = reason, message
            self._changed.set()
            self._draining = {asyncio.create_task(worker.drain()) for worker in self._workers}

    def report(self) -> BatchReport:
        """The numbers of the run."""
        return BatchReport(
            **self._counts(),
            stopped=self._stopped,
            message=self._message,
            missing=self._ledger.missing(),
            notices=tuple(dict.fromkeys(notice for report in self._reports for notice in report.notices)),
        )

    def _counts(self) -> dict[str, Any]:
        return {
            **self._ledger.totals().numbers(),
            "requests": sum(report.requests for report in self._reports),
            "rejected": sum(report.rejected for report in self._reports),
            "seconds": time.monotonic() - self._began,
        }

    def _stop_short(self, lacks: CapName | None) -> None:
        """Say why there are rows that nobody could send."""
        match lacks:
            case "max_images":
                self.stop(lacks, self._cap_message(lacks))
            case "budget":
                self.stop(lacks, self._cap_message(lacks))
            case None:
                self.stop("unreachable", "no worker could be started")

    def _cap_message(self, cap: CapName) -> str:
        item = next(self._ledger.items(State.PENDING), None)
        return "" if item is None else cap_message(cap, item, self._ledger, self._settings)

    async def _serve(self, worker: Worker, plan: Plan) -> None:
        while self._stopped is None:
            grant = plan.next()
            if grant is not None:
                try:
                    await self._run_shard(worker, plan, grant)
                except NoWorkerError:
                    return
            elif plan.running:  # it may leave something for a shard that waits
                self._changed.clear()
                await self._changed.wait()
            else:
                return

    async def _run_shard(self, worker: Worker, plan: Plan, grant: Grant) -> None:
        shard, report = grant.shard, None
        folder = self._settings.out / SHARDS / f"{shard.first:08}"
        self._ledger.deal(folder, *shard)
        try:
            report = await worker.run(folder, _caps(grant.amount, self._settings.caps))
        except NoWorkerError:
            plan.ended(shard, await self._merge(folder), paused_on=None, done=False)
            self._changed.set()
            raise
        except WorkerLostError:
            self._losses[shard] += 1
        except Exception as error:  # noqa: BLE001  # the other workers' requests are paid for: they end first
            self._error = self._error or error
        spent = await self._merge(folder)
        stopped = None if report is None else report.stopped
        paused_on = stopped if stopped in ("max_images", "budget") else None
        plan.ended(shard, spent, paused_on=paused_on, done=report is not None and paused_on is None)
        self._changed.set()
        if report is not None:
            self._reports.append(report)
            if stopped is not None and paused_on is None:
                self.stop(stopped, report.message)
        if self._error is not None:
            self.stop("interrupted", f"{type(self._error).__name__}: {self._error}")
        elif self._losses[shard] == _MOST_LOSSES:
            self.stop("unreachable", f"{_MOST_LOSSES} workers were lost with the rows {shard.first} to {shard.last}")

    async def _merge(self, folder: Path) -> Amount:
        """Merge a shard, and tell the user's function of the rows that ended in it."""
        ended = self._settings.on_result
        if not folder.exists():  # noqa: ASYNC240  # it was on another machine, and that is lost too
            before = _used(self._ledger.totals())
            self._ledger.lose(folder.name, lambda model: self._settings.price_of(FLUX_MODELS[model]))
            await hold_saved(self._ledger, self._settings.out)
            self._ledger.recover(self._settings.on_unknown)
            images, cost = _used(self._ledger.totals())
            return Amount(images - before[0], cost - before[1])
        async with _merged(self._ledger, folder, self._settings.on_unknown) as shard:
            totals = shard.totals()
            if ended is not None:
                for item in shard.items(State.DONE, State.FAILED, State.HELD):
                    await self._call(ended, item)
        return Amount(*_used(totals))

    async def _call(self, function: Callable[[_T], object], value: _T) -> None:
        await call_users(function, value, failed=self._keep_error)

    def _keep_error(self, error: BaseException) -> None:
        self._error = self._error or error

    async def _tick(self) -> None:
        while self._settings.on_progress is not None:
            await asyncio.sleep(_TICK)
            await self._call(self._settings.on_progress, await self.progress())

    async def progress(self) -> BatchProgress:
        """The numbers as they are now: those of the run, and of the shards that are not merged yet."""
        parts = [part for part in [await worker.progress() for worker in self._workers] if part is not None]
        counts = self._counts()
        done, failed, held, sent, answered, images, requests, rejected = (
            counts[name] + sum(getattr(part, name) for part in parts)
            for name in ("done", "failed", "held", "sent", "answered", "images", "requests", "rejected")
        )
        speed = sum(part.images_per_second for part in parts)
        pending = counts["rows"] - done - failed - held - sent - answered
        return BatchProgress(
            rows=counts["rows"],
            done=done,
            failed=failed,
            held=held,
            sent=sent,
            answered=answered,
            pending=pending,
            images=images,
            cost=_sum([counts["cost"], *(part.cost for part in parts)]),
            unknown_cost=_sum([counts["unknown_cost"], *(part.unknown_cost for part in parts)]),
            requests=requests,
            rejected=rejected,
            seconds=counts["seconds"],
            in_flight=sum(part.in_flight for part in parts),
            images_per_second=speed,
            eta=pending / speed if speed else None,
        )

    def _wants(self, shard: Shard) -> Amount:
        """What the rows of a shard that are to be sent need."""
        if self._settings.caps == Caps():
            return Amount(None, None)
        images = self._ledger.needed(*shard)
        prices = {model: self._settings.price_of(FLUX_MODELS[model]) for model in images}
        known = {model: price for model, price in prices.items() if price is not None}
        return Amount(sum(images.values()), sum(units_of(price) * images[model] for model, price in known.items()))


async def merge_left_over(ledger: Ledger, out: Path, on_unknown: OnUnknown, price_of: PriceOf) -> None:
    """Merge the shards that a run has left, by the rules for a run that was killed; call `ledger.recover` after it.

    Raises:
        FolderInUseError: Another process works on one of them.
    """
    for name in ledger.shards():
        if (out / SHARDS / name).exists():
            async with _merged(ledger, out / SHARDS / name, on_unknown):
                pass
        else:
            ledger.lose(
                name, lambda model: price_of(FLUX_MODELS[model])
            )  # it was on another machine, or somebody removed it
    shutil.rmtree(out / SHARDS, ignore_errors=True)  # what was never dealt out


@asynccontextmanager
async def _merged(ledger: Ledger, folder: Path, on_unknown: OnUnknown) -> AsyncIterator[Ledger]:
    """The ledger of a shard; afterwards it is merged into that of its run, and its folder is removed."""
    until = time.monotonic() + _LAST_BREATH
    with ExitStack() as stack:
        shard = None
        while shard is None:
            try:
                shard = stack.enter_context(Ledger.open(folder, create=False))
            except FolderInUseError:  # the process that had it is not quite gone
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.1)
        await hold_saved(shard, folder.parent.parent)
        shard.recover(on_unknown)
        yield shard
        ledger.merge(folder)
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()  # it was the last one


def _used(totals: Totals) -> tuple[int, int]:
    """The images and the money that are spent, or may be."""
    return (
        totals.images_spent + totals.images_reserved + totals.images_unknown,
        totals.cost_spent + totals.cost_reserved + totals.cost_unknown,
    )


def _left(caps: Caps, totals: Totals) -> Amount:
    """What may still be spent."""
    images, cost = _used(totals)
    return Amount(
        None if caps.max_images is None else caps.max_images - images,
        None if caps.budget is None else units_of(caps.budget, ROUND_FLOOR) - cost,
    )


def _caps(amount: Amount, whole: Caps) -> Caps:
    """A grant as the caps of a ledger that has spent nothing yet."""
    budget = whole.budget
    if budget is not None and amount.cost is not None:
        budget = price_of_units(amount.cost, budget.currency)
    return Caps(max_images=amount.images, budget=budget)


def _sum(costs: Sequence[Price | None]) -> Price | None:
    known = [cost for cost in costs if cost is not None]
    return replace(known[0], amount=sum((cost.amount for cost in known), Decimal())) if known else None
