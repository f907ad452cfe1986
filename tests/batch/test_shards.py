"""How a run is cut into shards, and how its caps are: the decisions alone, and then whole runs without Ray."""

import asyncio
import importlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai import AsyncFluxOpenAI, Emulator
from flux_openai.batch import shards as shards_module
from flux_openai.batch.batch import opened, run_batch
from flux_openai.batch.ledger import BatchItem, Caps, Ledger, State
from flux_openai.batch.runner import BatchProgress, BatchReport, Runner, RunSettings
from flux_openai.batch.shards import (
    SHARDS,
    Amount,
    CapName,
    Grant,
    NoWorkerError,
    Plan,
    Shard,
    ShardRunner,
    WorkerLostError,
    shard_size,
    split,
)
from flux_openai.errors import ConfigurationError
from flux_openai.models import Price
from flux_openai.sending.settings import Settings

PRICE = Price.of("0.50 CNY")
SLOW = "lognormal:50ms,p99=300ms"
"""Requests that do not all end at once."""

ROWS = [{"prompt": f"a fox, {number}", "seed": number, "custom_id": f"fox-{number}"} for number in range(1, 41)]


@pytest.mark.parametrize(
    ("rows", "workers", "size"),
    [
        pytest.param(1_000_000, 8, 10_000, id="never more than 10,000"),
        pytest.param(40_000, 2, 5_000, id="four for each worker"),
        pytest.param(5_000, 4, 1_000, id="short ones are slow"),
        pytest.param(3_000, 8, 375, id="every worker has one"),
        pytest.param(5, 2, 3, id="a few rows"),
        pytest.param(1, 8, 1, id="one row"),
        pytest.param(0, 8, 1, id="no row"),
    ],
)
def test_the_size_of_a_shard(rows: int, workers: int, size: int) -> None:
    """A shard is a quarter of a worker's rows, between 1,000 and 10,000 of them, and never leaves a worker idle."""
    assert shard_size(rows, workers) == size


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_the_parts_of_a_limit_are_the_whole(whole: int, parts: int) -> None:
    """The parts of a limit make up the whole, and no part is larger than another by more than one."""
    split_up = split(whole, parts)
    assert len(split_up) == parts
    assert sum(split_up) == whole
    assert max(split_up) - min(split_up) <= 1


@dataclass
class Rows:
    """The rows of a run, as ends of requests: the images of each, and whether they are billed when it is sent."""

    images: list[int]
    billed: list[bool]
    price: int
    next_row: dict[Shard, int] = field(default_factory=dict)
    spent: Amount = field(default_factory=lambda: Amount(0, 0))

    def left_in(self, shard: Shard) -> list[int]:
        """The numbers of the rows that have not been sent."""
        return list(range(self.next_row.get(shard, shard.first), shard.last + 1))

    def wants(self, shard: Shard) -> Amount:
        """What the rows of a shard need."""
        images = sum(self.images[row - 1] for row in self.left_in(shard))
        return Amount(images, images * self.price)

    def run(self, part: Grant, most: int) -> tuple[Amount, CapName | None]:
        """What a worker spends that sends some rows at most, and the cap on which it pauses."""
        spent = 0
        for row in self.left_in(part.shard)[:most]:
            wanted = spent + self.images[row - 1]
            if part.amount.images is not None and wanted > part.amount.images:
                return Amount(spent, spent * self.price), "max_images"
            if part.amount.cost is not None and wanted * self.price > part.amount.cost:
                return Amount(spent, spent * self.price), "budget"
            spent += self.images[row - 1] if self.billed[row - 1] else 0
            self.next_row[part.shard] = row + 1
        return Amount(spent, spent * self.price), None


@given(st.data())
def test_no_more_than_the_whole_is_granted_and_nothing_is_left_over(data: st.DataObject) -> None:
    """Grants and spending never exceed a cap; what is left at the end buys no first row of any shard."""
    size = data.draw(st.integers(1, 5), "rows of a shard")
    count = data.draw(st.integers(1, 30), "rows")
    rows = Rows(
        images=data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count), "images"),
        billed=data.draw(st.lists(st.booleans(), min_size=count, max_size=count), "billed"),
        price=data.draw(st.integers(0, 3), "price"),
    )
    caps = st.none() | st.integers(0, 60)
    whole = Amount(data.draw(caps, "images cap"), data.draw(caps, "budget"))
    shards = [Shard(first, min(first + size - 1, count)) for first in range(1, count + 1, size)]
    plan = Plan(waiting=shards.copy(), left=whole, wants=rows.wants)
    workers = data.draw(st.integers(1, 4), "workers")
    runs: list[Grant] = []
    spent = 0
    while True:
        while len(runs) < workers and (part := plan.next()) is not None:
            runs.append(part)
        if not runs:
            break
        part = runs.pop(data.draw(st.integers(0, len(runs) - 1), "the one that ends"))
        killed = data.draw(st.booleans(), "killed") if spent < 500 else False
        most = data.draw(st.integers(0, 5), "rows before the kill") if killed else count
        used, paused_on = rows.run(part, most)
        spent += 1 + (used.images or 0)
        plan.ended(part.shard, used, paused_on=paused_on, done=not rows.left_in(part.shard))
        rows.spent = Amount((rows.spent.images or 0) + (used.images or 0), (rows.spent.cost or 0) + (used.cost or 0))
        for cap, left, used_up, granted in zip(
            whole,
            plan.left,
            rows.spent,
            zip(*plan.running.values(), strict=True) if runs else ((0,), (0,)),
            strict=True,
        ):
            assert (left is None) == (cap is None)
            if cap is not None:
                assert left is not None
                assert left >= 0
                assert left + (used_up or 0) + sum(one or 0 for one in granted) == cap
    for shard in plan.waiting:
        needed = rows.images[rows.left_in(shard)[0] - 1]
        images_short = plan.left.images is not None and needed > plan.left.images
        assert images_short or (plan.left.cost is not None and needed * rows.price > plan.left.cost)


def test_a_shard_that_paused_gets_what_others_left() -> None:
    """Three shards of ten images and 25 to spend: what the first two did not need brings the third one on."""
    wants = {Shard(1, 10): 10, Shard(11, 20): 10, Shard(21, 30): 10}
    plan = Plan(waiting=list(wants), left=Amount(25, None), wants=lambda shard: Amount(wants[shard], None))
    grants = [plan.next(), plan.next(), plan.next()]
    assert [part and part.amount.images for part in grants] == [10, 10, 5]
    assert plan.next() is None
    wants[Shard(21, 30)] = 5
    plan.ended(Shard(21, 30), Amount(5, 0), paused_on="max_images", done=False)
    assert plan.next() is None, "there is nothing that it could be given"
    plan.ended(Shard(1, 10), Amount(7, 0), paused_on=None, done=True)
    assert plan.next() == Grant(Shard(21, 30), Amount(3, None))
    plan.ended(Shard(21, 30), Amount(3, 0), paused_on="max_images", done=False)
    plan.ended(Shard(11, 20), Amount(8, 0), paused_on=None, done=True)
    assert plan.next() == Grant(Shard(21, 30), Amount(2, None))
    assert plan.left == (0, None)


class InProcess:
    """A worker without Ray: a Runner in this process, and a kill is a cancellation."""

    price: Price | None = PRICE

    def __init__(self, client: AsyncFluxOpenAI, emulator: Emulator, out: Path, kills: list[int]) -> None:
        """Args: what the run has, and how many requests are sent before the first shards are killed."""
        self.client, self.emulator, self.out, self.kills = client, emulator, out, kills
        self.runner: Runner | None = None

    async def run(self, folder: Path, caps: Caps) -> BatchReport:
        with Ledger.open(folder, create=False, caps=caps) as ledger:
            self.runner = Runner(
                ledger,
                RunSettings(client=self.client, out=self.out, price_of=lambda _: self.price, caps=caps, max_inflight=4),
            )
            work = asyncio.create_task(self.runner.run())
            if self.kills:
                most = len(self.emulator.requests) + self.kills.pop(0)
                while len(self.emulator.requests) < most and not work.done():  # noqa: ASYNC110  # it sets no event
                    await asyncio.sleep(0)
                work.cancel()
                await asyncio.wait({work})
                if work.cancelled():
                    raise WorkerLostError("killed")
            return await work

    async def drain(self) -> None:
        if self.runner is not None:
            self.runner.stop()

    def end(self) -> None:
        self.runner = None

    async def progress(self) -> BatchProgress | None:
        return None if self.runner is None else self.runner.progress()


async def run_in_shards(
    out: Path,
    emulator: Emulator,
    *,
    workers: int = 3,
    kills: Sequence[int] = (),
    **options: Any,  # noqa: ANN401  # those of `run_batch`
) -> BatchReport:
    """Run the rows with so many workers, whose first shards are killed after so many requests."""
    async with emulator.async_client() as client:
        left = list(kills)
        team = [InProcess(client, emulator, out, left) for _ in range(workers)]
        given = {"client": client, "price": PRICE, **options}
        async with opened(ROWS, out, given, partial(ShardRunner, workers=team)) as runner:
            return await runner.run()


def made(out: Path) -> list[BatchItem]:
    """The rows of a folder without what differs from run to run."""
    with Ledger.open(out, create=False, write=False) as ledger:
        return [replace(item, key="", request_id=None, created=None) for item in ledger.items()]


def paths(out: Path) -> list[str]:
    """The images, and whatever else there is that is not the ledger."""
    return sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and "/" in str(path.relative_to(out))
    )


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few rows, so that each worker has several."""
    monkeypatch.setattr(shards_module, "_FEWEST_ROWS", 8)


@pytest.fixture
async def alone(tmp_path: Path) -> list[BatchItem]:
    """What one process makes of the rows."""
    async with Emulator(pixels=64).async_client() as client:
        report = await run_batch(ROWS, tmp_path / "alone", client=client, price=PRICE)
    assert report.done == 40
    return made(tmp_path / "alone")


@pytest.mark.anyio
async def test_shards_make_what_one_process_makes(tmp_path: Path, alone: list[BatchItem], small_shards: None) -> None:
    """The ledger and the images of a run in shards are those of a run in one process; no shard is left."""
    emulator = Emulator(pixels=64)
    ended: list[int] = []
    report = await run_in_shards(tmp_path / "out", emulator, on_result=lambda item: ended.append(item.seq))
    assert (report.done, report.images, report.stopped, emulator.bill.images) == (40, 40, None, 40)
    assert report.cost == Price.of("20.00 CNY")
    assert made(tmp_path / "out") == alone
    assert paths(tmp_path / "out") == paths(tmp_path / "alone")
    assert sorted(ended) == [*range(1, 41)]
    with Ledger.open(tmp_path / "out", create=False, write=False) as ledger:
        keys = {item.key for item in ledger.items()}
    sent = {request.headers["idempotency-key"] for request in emulator.requests if request.method == "POST"}
    assert sent == keys, "a shard sends the keys of its run, and so would whoever goes on with its rows"
    await run_in_shards(tmp_path / "out", emulator)
    assert emulator.bill.calls == 40, "the same call again finds nothing to do"


@pytest.mark.anyio
@pytest.mark.parametrize("on_unknown", ["hold", "retry"])
async def test_a_lost_worker_is_a_run_that_was_killed(tmp_path: Path, alone: list[BatchItem], on_unknown: str) -> None:
    """The shards of killed workers go on with others: nothing is lost, and only what was on its way is in doubt."""
    emulator = Emulator(pixels=64, latency=SLOW)
    report = await run_in_shards(tmp_path / "out", emulator, kills=[7, 5], on_unknown=on_unknown)
    again = [item.custom_id for item in made(tmp_path / "out") if item.unknown]
    assert 0 < len(again) <= 8, "as many as the two workers had on their way"
    if on_unknown == "hold":
        assert (report.done, report.held, report.stopped) == (40 - len(again), len(again), None)
        assert emulator.bill.duplicates == 0
        expected = [item for item in alone if item.custom_id not in again]
        assert [item for item in made(tmp_path / "out") if item.state is State.DONE] == expected
    else:
        assert (report.done, report.held) == (40, 0)
        assert emulator.bill.duplicates <= len(again)
        assert [replace(item, attempts=1, unknown=0) for item in made(tmp_path / "out")] == alone
    assert report.unknown_cost == PRICE.for_images(len(again))


@pytest.mark.anyio
async def test_what_kills_every_worker_stops_the_run(tmp_path: Path) -> None:
    """A shard that loses its third worker ends the run: it would lose the next one too."""
    emulator = Emulator(pixels=64, latency=SLOW)
    report = await run_in_shards(tmp_path / "out", emulator, workers=1, kills=[3] * 9)
    assert report.stopped == "unreachable"
    assert report.message == "3 workers were lost with the rows 1 to 40"
    assert emulator.bill.duplicates == 0


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "stopped"),
    [
        pytest.param({"max_images": 25}, "max_images", id="images"),
        pytest.param({"budget": "12.50 CNY"}, "budget", id="money"),
        pytest.param({"budget": "12.50 CNY", "max_images": 30}, "budget", id="both"),
    ],
)
async def test_a_cap_is_shared_and_used_up(
    tmp_path: Path, small_shards: None, options: dict[str, Any], stopped: str
) -> None:
    """All shards together pay for what the cap allows, no more and no less; refused rows leave theirs to others."""
    emulator = Emulator(pixels=64, script="prompt~/, [1-9]$/ -> status(400)")
    report = await run_in_shards(tmp_path / "out", emulator, kills=[1], on_unknown="retry", **options)
    unknown = sum(item.unknown for item in made(tmp_path / "out"))
    assert (report.failed, report.images + unknown, report.stopped) == (9, 25, stopped)
    assert emulator.bill.images <= 25
    report = await run_in_shards(tmp_path / "out", emulator, max_images=100)
    assert (report.done, report.failed, report.held, report.stopped) == (31, 9, 0, None)


@pytest.mark.anyio
async def test_a_cost_that_is_not_known_in_a_shard_is_not_known(
    tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a shard has paid for images of unknown price, the cost of the run is None, and no budget can be kept."""
    emulator, out = Emulator(pixels=64), tmp_path / "out"
    with monkeypatch.context() as unpriced:
        unpriced.setattr(Settings, "price_of", lambda *_: None)
        unpriced.setattr(InProcess, "price", None)
        first = await run_in_shards(out, emulator, price=None, max_images=25)
    assert (first.images, first.cost, first.missing, first.sent) == (25, None, 0, 0)
    assert first.message == (
        "25 of 25 images are paid for, or may be, and the next row asks for 1: "
        "15 rows are left; go on with max_images=40 or more"
    )
    with pytest.raises(ConfigurationError, match="price was not known"):
        await run_in_shards(out, emulator, budget="100 CNY")
    second = await run_in_shards(out, emulator)
    assert (second.images, second.cost) == (40, None)


@pytest.mark.anyio
async def test_a_run_that_is_cancelled_is_merged(tmp_path: Path) -> None:
    """A second Ctrl-C ends every worker: what they had done is in the ledger, and what was under way is held."""
    emulator, out = Emulator(pixels=64, latency=SLOW), tmp_path / "out"
    run = asyncio.create_task(run_in_shards(out, emulator))
    while len(emulator.requests) < 15:  # noqa: ASYNC110  # it sets no event
        await asyncio.sleep(0)
    run.cancel()
    await asyncio.wait({run})
    assert run.cancelled()
    items = made(out)
    held = [item for item in items if item.state is State.HELD]
    assert 0 < len(held) <= 12, "3 workers with 4 requests each"
    assert sum(item.state is not State.PENDING for item in items) >= emulator.bill.images
    assert not (out / SHARDS).exists()


@pytest.mark.anyio
async def test_a_worker_that_cannot_start_leaves_its_shard_to_others(tmp_path: Path, small_shards: None) -> None:
    """Where there is room for one process only, it does all the work; where there is none, the run says so."""

    class Absent(InProcess):
        async def run(self, folder: Path, caps: Caps) -> BatchReport:
            raise NoWorkerError

    emulator, out = Emulator(pixels=64), tmp_path / "out"
    async with emulator.async_client() as client:
        team = [Absent(client, emulator, out, [])]
        for present in ([], [InProcess(client, emulator, out, [])]):
            given = {"client": client, "max_images": 100}
            async with opened(ROWS, out, given, partial(ShardRunner, workers=[*team, *present])) as runner:
                report = await runner.run()
            assert (report.done, report.stopped) == ((40, None) if present else (0, "unreachable"))


@pytest.mark.anyio
async def test_a_stop_drains_every_worker(tmp_path: Path, small_shards: None) -> None:
    """After a stop no worker starts a request, what is under way is saved, and the next run does the rest."""
    emulator, stop = Emulator(pixels=64, latency="10ms"), asyncio.Event()
    report = await run_in_shards(tmp_path / "out", emulator, stop=stop, on_result=lambda item: stop.set())
    assert report.stopped == "interrupted"
    assert 0 < report.done < 40
    assert (report.held, report.failed) == (0, 0)
    assert report.done == emulator.bill.images
    assert (await run_in_shards(tmp_path / "out", emulator)).done == 40
    assert emulator.bill.duplicates == 0


@pytest.mark.anyio
@pytest.mark.parametrize("kept", [True, False], ids=["its folder is there", "its folder is gone"])
async def test_shards_of_a_driver_that_was_killed(tmp_path: Path, *, kept: bool) -> None:
    """A run without shards takes over what a killed driver left; without the shard's folder, nothing is paid twice."""
    emulator, out = Emulator(pixels=64, latency=SLOW), tmp_path / "out"
    async with emulator.async_client() as client:
        async with opened(ROWS, out, {"client": client}, Runner):
            pass
        with Ledger.open(out, create=False) as ledger:
            ledger.deal(out / SHARDS / "00000011", 11, 20)
        with pytest.raises(WorkerLostError):
            await InProcess(client, emulator, out, [3]).run(out / SHARDS / "00000011", Caps())
        if not kept:
            shutil.rmtree(out / SHARDS)
        report = await run_batch(ROWS, out, client=client)
    assert emulator.bill.duplicates == 0
    assert report.held + report.done == 40
    assert 0 < report.held < 8 if kept else report.held == 10
    assert not (out / SHARDS).exists()


@pytest.mark.anyio
async def test_a_shard_is_merged_once(tmp_path: Path) -> None:
    """A driver that is killed between the merge and the removal of the shard's folder counts nothing twice."""
    emulator, out = Emulator(pixels=64), tmp_path / "out"
    folder = out / SHARDS / "00000011"
    async with emulator.async_client() as client:
        async with opened(ROWS, out, {"client": client}, Runner):
            pass
        with Ledger.open(out, create=False) as ledger:
            ledger.deal(folder, 11, 20)
            await InProcess(client, emulator, out, []).run(folder, Caps())
            ledger.merge(folder)
            once = ledger.totals()
            ledger.merge(folder)
            assert (ledger.totals(), once.done, once.images_spent) == (once, 10, 10)
        assert (await run_batch(ROWS, out, client=client)).images == 40
    assert (emulator.bill.images, emulator.bill.duplicates) == (40, 0)


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, the error says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "flux_openai.batch.ray", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'flux-openai\[ray\]'"):
        importlib.import_module("flux_openai.batch.ray")
