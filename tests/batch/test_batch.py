"""The faces of a batch: `run_batch`, `run_batch_sync`, `iter_batch`, their options, callbacks and interruptions."""

import asyncio
import json
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Unpack, cast

import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, RetryEvent, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.batch import (
    BatchItem,
    BatchOptions,
    BatchProgress,
    BatchReport,
    State,
    iter_batch,
    run_batch,
    run_batch_sync,
)
from flux_openai.batch.batch import BatchRows
from flux_openai.batch.ledger import Ledger
from flux_openai.errors import (
    ChangedRowsError,
    ConfigurationError,
    FluxWarning,
    FolderInUseError,
    InvalidRowsError,
)
from flux_openai.sending.settings import Settings

pytestmark = pytest.mark.anyio


def rows_of(count: int, **params: object) -> list[dict[str, object]]:
    return [{"prompt": f"fox {number}", **params} for number in range(count)]


def posts_of(emulator: Emulator) -> int:
    return sum(seen.method == "POST" for seen in emulator.requests)


def tree(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


def states_in(out: Path) -> list[State]:
    with Ledger.open(out, create=False, write=False) as ledger:
        return [item.state for item in ledger.items()]


async def arows(count: int) -> AsyncIterator[dict[str, object]]:
    for row in rows_of(count):
        await asyncio.sleep(0)
        yield row


async def run_sync_in_a_loop(rows: BatchRows, out: Path, **options: Unpack[BatchOptions]) -> BatchReport:
    """As a notebook does: the event loop of this thread runs, and waits."""
    return run_batch_sync(rows, out, **options)


async def run_sync(rows: BatchRows, out: Path, **options: Unpack[BatchOptions]) -> BatchReport:
    return await asyncio.to_thread(run_batch_sync, rows, out, **options)


async def run_iterated(rows: BatchRows, out: Path, **options: Unpack[BatchOptions]) -> BatchReport:
    seen = [item.custom_id async for item in iter_batch(rows, out, **options)]
    assert sorted(seen) == sorted({*seen})
    return await run_batch(rows, out, **options)


FACES: dict[str, Callable[..., Any]] = {
    "async": run_batch,
    "sync": run_sync,
    "sync in a notebook": run_sync_in_a_loop,
    "iterated": run_iterated,
}


@pytest.mark.parametrize("face", FACES)
async def test_every_face_makes_the_same(face: str, tmp_path: Path) -> None:
    """Each face makes all images once, writes the reports, and leaves the client that it was given open."""
    emulator = Emulator(pixels=256)
    client = emulator.async_client()
    report = await FACES[face](rows_of(6), tmp_path, client=client)
    assert (report.rows, report.done, report.stopped, emulator.bill.images) == (6, 6, None, 6)
    manifest = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["custom_id"] for row in manifest] == ["1", "2", "3", "4", "5", "6"]
    assert json.loads((tmp_path / "report.json").read_text())["done"] == 6
    assert not client.is_closed()


async def test_rows_from_an_async_iterable(tmp_path: Path) -> None:
    """The rows can come from an async generator; all are checked before the first is sent."""
    emulator = Emulator(pixels=256)
    report = await run_batch(arows(250), tmp_path / "good", client=emulator.async_client(), max_images=3)
    assert (report.rows, report.done) == (250, 3)

    async def bad() -> AsyncIterator[dict[str, object]]:
        async for row in arows(150):
            yield row
        yield {"prompt": "x", "steps": 99}

    with pytest.raises(InvalidRowsError, match="row 151: steps"):
        await run_batch(bad(), tmp_path / "bad", client=emulator.async_client())

    async def broken() -> AsyncIterator[dict[str, object]]:
        yield {"prompt": "x"}
        raise LookupError("the source is gone")

    with pytest.raises(LookupError, match="gone"):
        await run_batch(broken(), tmp_path / "broken", client=emulator.async_client())
    assert posts_of(emulator) == 3


async def test_a_cancelled_reading_leaves_nothing(tmp_path: Path) -> None:
    """A first run that is cancelled while its rows are read leaves no folder, and no thread that uses it."""
    emulator, out, asked = Emulator(pixels=256), tmp_path / "a" / "b", asyncio.Event()

    async def endless() -> AsyncIterator[dict[str, object]]:
        yield {"prompt": "x"}
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_batch(endless(), out, client=emulator.async_client()))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tree(tmp_path) == []
    assert (await run_batch(rows_of(2), out, client=emulator.async_client())).done == 2


@pytest.mark.parametrize(
    "rows", ["nope.txt", [], [{"prompt": "x", "steps": 99}]], ids=["no file", "no rows", "invalid"]
)
async def test_a_first_run_that_is_refused_leaves_nothing(rows: BatchRows, tmp_path: Path) -> None:
    """A refused first run removes what it made, and only that; the folder of a batch stays as it is."""
    emulator, there = Emulator(pixels=256), tmp_path / "there"
    there.mkdir()
    for out in (tmp_path / "new" / "out", there):
        with pytest.raises((ConfigurationError, InvalidRowsError)):
            await run_batch(rows, out, client=emulator.async_client())
    assert tree(tmp_path) == [there]
    await run_batch(rows_of(1), there, client=emulator.async_client())
    before = tree(there)
    with pytest.raises((ConfigurationError, InvalidRowsError)):
        await run_batch(rows, there, client=emulator.async_client())
    assert (tree(there), states_in(there)) == (before, [State.DONE])


async def test_a_folder_of_the_emulator_is_not_gone_on_with_by_a_service(tmp_path: Path) -> None:
    """A batch of the emulator is not gone on with elsewhere, nor the other way round; a service may move."""
    emulator, rows = Emulator(pixels=256), rows_of(2)
    service, moved = (emulator.async_client(base_url=f"https://{name}.example/v1") for name in ("a", "b"))
    stop = asyncio.Event()
    stop.set()
    await run_batch(rows, tmp_path, client=service, stop=stop)  # sends nothing
    await run_batch(rows, tmp_path, client=emulator.async_client(), max_images=1)
    with pytest.raises(ConfigurationError, match="made with the emulator, its images are patterns"):
        await run_batch(rows, tmp_path, client=service)
    assert (await run_batch(rows, tmp_path, client=emulator.async_client())).done == 2
    await run_batch(rows, tmp_path / "b", client=service, max_images=1)
    with pytest.raises(ConfigurationError, match=r"a service, https://a\.example,"):
        await run_batch(rows, tmp_path / "b", client=emulator.async_client())
    assert (await run_batch(rows, tmp_path / "b", client=moved)).done == 2
    assert emulator.bill.images == 4


async def test_a_refused_prompt_can_be_repaired(tmp_path: Path) -> None:
    """A row that has failed and cost nothing may change: it is made as it is now, with another key; no other may."""
    emulator, rows = Emulator(pixels=256, script="prompt~/bad/ -> status(400)"), rows_of(2)
    rows[1]["prompt"] = "a bad fox"
    first = await run_batch(rows, tmp_path, client=emulator.async_client())
    rows[1] = {"prompt": "a good fox", "n": 2}
    second = await run_batch(rows, tmp_path, client=emulator.async_client())
    assert (first.failed, second.done, second.failed, second.images, emulator.bill.images) == (1, 2, 0, 3, 3)
    assert len({seen.headers["idempotency-key"] for seen in emulator.requests if seen.method == "POST"}) == 3
    rows[1]["prompt"] = "another fox"
    with pytest.raises(ChangedRowsError):
        await run_batch(rows, tmp_path, client=emulator.async_client())


async def test_a_callback_that_raises_cancelled_error_ends_the_run(tmp_path: Path) -> None:
    """A CancelledError that a callback raises by itself comes out of the run, as any other exception does."""
    emulator = Emulator(pixels=256)

    def cancel(_: BatchItem) -> None:
        raise asyncio.CancelledError("of the callback")

    with pytest.raises(asyncio.CancelledError, match="of the callback"):
        await run_batch(rows_of(3), tmp_path, client=emulator.async_client(), on_result=cancel)
    assert states_in(tmp_path).count(State.DONE) == emulator.bill.images


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "client": ({"client": Emulator().client()}, "must be an AsyncFluxOpenAI"),
    "on_unknown": ({"on_unknown": "ask"}, "must be one of 'hold', 'retry'"),
    "max_images": ({"max_images": 0}, "must be an integer from 1"),
    "max_images as text": ({"max_images": "5"}, "must be an integer from 1"),
    "max_inflight": ({"max_inflight": True}, "must be an integer from 1"),
    "rpm": ({"rpm": 0}, "must be a number above 0"),
    "metadata": ({"metadata": "yes"}, "must be True or False"),
    "on_result": ({"on_result": 1}, "must be a function"),
    "stop": ({"stop": True}, "must be an asyncio.Event"),
    "budget": ({"budget": "50"}, "must be an amount and the three letters of a currency"),
    "price": ({"price": 0.5}, "must be an amount and the three letters of a currency"),
    "a misspelt option": ({"max_image": 5}, "is not an option of a batch (nearest: 'max_images')"),
    "another currency": ({"budget": "50 USD"}, "must be in the currency of the prices, CNY"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_invalid_options(name: str, tmp_path: Path) -> None:
    """An invalid option is named with its rule, and nothing is sent."""
    options, rule = INVALID[name]
    emulator = Emulator(pixels=256)
    with pytest.raises(ConfigurationError) as caught:
        await run_batch(rows_of(2), tmp_path, **{"client": emulator.async_client(), **options})
    assert rule in str(caught.value)
    assert emulator.requests == []


async def test_a_budget_needs_a_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget every model needs a price: of the table, of the client, or the one that is given."""
    emulator = Emulator(pixels=256)
    monkeypatch.setattr(Settings, "price_of", lambda self, wanted: self.prices.get(wanted.id))
    rows = [{"prompt": "a fox"}]
    with pytest.raises(ConfigurationError, match=r"needs the price of .*row 1"):
        await run_batch(rows, tmp_path, client=emulator.async_client(), budget="0.5 CNY")
    assert emulator.requests == []
    client = emulator.async_client(prices={"kontext-max": "0.5 CNY"})
    report = await run_batch(rows, tmp_path, client=client, budget="0.5 CNY")
    assert (report.done, str(report.cost)) == (1, "0.50 CNY")


async def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    """While a run uses a folder, another is refused before it sends anything."""
    emulator = Emulator(pixels=256)
    async with aclosing(iter_batch(rows_of(5), tmp_path, client=emulator.async_client())) as items:
        await anext(items)
        sent = posts_of(emulator)
        with pytest.raises(FolderInUseError):
            await run_batch(rows_of(5), tmp_path, client=Emulator().async_client())
        assert posts_of(emulator) >= sent
    assert emulator.bill.duplicates == 0


async def test_a_client_of_our_own_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `client` one is made from the environment, and closed at the end."""
    made, emulator = list[AsyncFluxOpenAI](), Emulator(pixels=256)

    def make() -> AsyncFluxOpenAI:
        made.append(emulator.async_client())
        return made[-1]

    monkeypatch.setattr(
        "flux_openai.batch.batch.AsyncFluxOpenAI", type("Made", (AsyncFluxOpenAI,), {"__new__": lambda _: make()})
    )
    assert (await run_batch(rows_of(2), tmp_path)).done == 2
    assert [client.is_closed() for client in made] == [True]


# Callbacks.


async def test_callbacks_of_both_kinds(tmp_path: Path) -> None:
    """`on_result` has every row that ends once, `on_progress` the numbers, and the last call has the final ones."""
    emulator, seen, told = Emulator(pixels=256), list[BatchItem](), list[BatchProgress]()
    emulator.fail(status=400)

    async def on_result(item: BatchItem) -> None:
        await asyncio.sleep(0)
        seen.append(item)

    client = emulator.async_client()
    await run_batch(rows_of(8), tmp_path, client=client, on_result=on_result, on_progress=told.append)
    assert sorted(item.seq for item in seen) == [*range(1, 9)]
    assert [item.error.status for item in seen if item.state is State.FAILED and item.error] == [400]
    assert all((tmp_path / file.path).exists() for item in seen for file in item.files)
    last = told[-1]
    assert (last.done, last.failed, last.in_flight, last.eta) == (7, 1, 0, 0)
    assert last.images_per_second > 0


@pytest.mark.parametrize("place", ["on_result", "on_progress", "on_retry", "async"])
async def test_an_exception_in_a_callback_loses_nothing(place: str, tmp_path: Path) -> None:
    """The run ends, what was under way is saved, and then the exception is raised; the next run goes on."""
    emulator, rows = Emulator(pixels=256), rows_of(12)

    def fail(_: object) -> None:
        raise LookupError("a bug of the user's")

    async def afail(_: object) -> None:
        raise LookupError("a bug of the user's")

    policy: dict[str, Any] = {"on_retry": fail} if place == "on_retry" else {}
    options: dict[str, Any] = {"async": {"on_result": afail}, "on_retry": {}}.get(place, {place: fail})
    emulator.fail(status=500)
    client = emulator.async_client(retry=RetryPolicy(waiting=False, **policy))
    with pytest.raises(LookupError, match="a bug"):
        await run_batch(rows, tmp_path, client=client, **options)
    assert states_in(tmp_path).count(State.DONE) == emulator.bill.images
    report = await run_batch(rows, tmp_path, client=emulator.async_client())
    assert (report.done, emulator.bill.images) == (12, 12)


async def test_the_retry_policy_is_the_clients(tmp_path: Path) -> None:
    """One layer of retries: the policy's attempts in all, and its `on_retry` for each, with one key for all."""
    events, emulator = list[RetryEvent](), Emulator(pixels=256, script="* -> status(503)")
    policy = RetryPolicy(max_attempts=3, on_retry=events.append, waiting=False)
    report = await run_batch(rows_of(1), tmp_path, client=emulator.async_client(retry=policy))
    assert (report.held, posts_of(emulator)) == (1, 3)
    assert [(event.attempt, event.reason, event.status_code) for event in events] == [
        (1, "server_failed", 503),
        (2, "server_failed", 503),
    ]
    assert len({seen.headers["idempotency-key"] for seen in emulator.requests}) == 1


async def test_warnings_are_notices_of_the_report(tmp_path: Path) -> None:
    """What a call would warn about is in the report once, and a filter that raises warnings loses no image."""
    emulator = Emulator(pixels=256, script="* -> partial(1)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = await run_batch(rows_of(4, n=2), tmp_path, client=emulator.async_client())
    assert (report.done, len(report.notices)) == (4, 1)


# Interruptions.


async def test_ignored_columns_are_a_notice_of_the_report(tmp_path: Path) -> None:
    """The report names the columns that are not sent; where warnings are errors, nothing is sent."""
    emulator = Emulator(pixels=256)
    rows, text = (
        [{"animal": "fox", "sku": 7}],
        "ignored columns, which are neither parameters nor in the prompt template",
    )
    with pytest.raises(FluxWarning, match=text):
        await run_batch(rows, tmp_path, client=emulator.async_client(), prompt="a {animal}")
    assert posts_of(emulator) == 0
    with pytest.warns(FluxWarning, match=text):
        report = await run_batch(rows, tmp_path, client=emulator.async_client(), prompt="a {animal}")
    assert report.notices == (f"{text}: sku",)
    [body] = [request.body for request in emulator.requests if request.method == "POST"]
    assert "sku" not in cast("dict[str, object]", body)


async def test_a_stop_event_drains(tmp_path: Path) -> None:
    """After `stop` no further request starts; what is under way ends, and is saved."""
    emulator, rows, stop = Emulator(pixels=256), rows_of(30), asyncio.Event()

    def on_result(_: BatchItem) -> None:
        stop.set()

    client = emulator.async_client()
    report = await run_batch(rows, tmp_path, client=client, on_result=on_result, stop=stop, max_inflight=3)
    assert (report.stopped, report.held, report.answered) == ("interrupted", 0, 0)
    assert report.done == emulator.bill.images < 30
    stopped = await run_batch(rows, tmp_path, client=client, stop=stop)
    assert (stopped.requests, stopped.stopped) == (0, "interrupted")
    assert (await run_batch(rows, tmp_path, client=client)).done == emulator.bill.images == 30


@pytest.mark.parametrize("answer", ["url", "b64_json"])
async def test_a_cancelled_run_leaves_the_ledger_right(answer: str, tmp_path: Path) -> None:
    """After a cancellation rows on their way count as unknown, and no other; nothing is lost or paid twice."""
    emulator, rows, first = Emulator(pixels=256), rows_of(30, response_format=answer), asyncio.Event()

    def on_result(_: BatchItem) -> None:
        first.set()

    client = emulator.async_client()
    task = asyncio.create_task(run_batch(rows, tmp_path, client=client, on_result=on_result, max_inflight=4))
    await first.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert states_in(tmp_path).count(State.SENT) <= 4
    report = await run_batch(rows, tmp_path, client=client)
    assert report.done + report.held == 30
    assert report.held <= 4
    assert emulator.bill.duplicates == 0
    assert emulator.bill.images <= 30


async def test_an_iteration_that_ends_early(tmp_path: Path) -> None:
    """A loop that ends early lets what is under way end: nothing is unknown, and the next call goes on."""
    emulator, rows = Emulator(pixels=256), rows_of(200)
    client = emulator.async_client()
    items = iter_batch(rows, tmp_path, client=client, max_inflight=4)
    async with aclosing(items):
        async for _ in items:
            break
    assert {*states_in(tmp_path)} == {State.DONE, State.PENDING}
    assert states_in(tmp_path).count(State.DONE) == emulator.bill.images < 200
    rest = [item.seq async for item in iter_batch(rows, tmp_path, client=client)]
    assert len(rest) + states_in(tmp_path).count(State.DONE) >= 200
    assert emulator.bill.images == 200


async def test_a_slow_consumer_slows_the_run_down(tmp_path: Path) -> None:
    """Rows that nobody takes pile up to a limit only: then no request starts."""
    emulator = Emulator(pixels=256)
    client = emulator.async_client()
    async with aclosing(iter_batch(rows_of(200), tmp_path, client=client, max_inflight=8)) as items:
        await anext(items)
        before = -1
        while before < (before := posts_of(emulator)) or before == 0:
            for _ in range(2000):
                await asyncio.sleep(0)
        assert before < 100


async def test_rpm_spaces_the_requests_out(tmp_path: Path) -> None:
    """With `rpm` the requests start one after another, without a burst."""
    pytest.importorskip("aiolimiter")
    emulator, started = Emulator(pixels=256), list[float]()
    real = emulator.ahandle

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            started.append(asyncio.get_running_loop().time())
        return await real(request)

    emulator.ahandle = handle  # type: ignore[method-assign]  # the clock of the loop, not of the emulator
    report = await run_batch(rows_of(5), tmp_path, client=emulator.async_client(), rpm=1200)
    assert (report.done, len(started)) == (5, 5)
    assert started[-1] - started[0] >= 4 * 60 / 1200 * 0.9


async def test_rpm_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where aiolimiter is not installed, the error names the extra, and nothing is sent."""
    monkeypatch.setitem(sys.modules, "aiolimiter", None)
    emulator = Emulator(pixels=256)
    with pytest.raises(ImportError, match=r"flux-openai\[batch\]"):
        await run_batch(rows_of(2), tmp_path, client=emulator.async_client(), rpm=60)
    assert emulator.requests == []


def test_an_interruption_just_as_the_rows_begin_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler can raise before anything is awaited: the ledger is not closed under the thread that reads."""
    emulator, started, ended = Emulator(pixels=64), threading.Event(), list[BaseException]()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begin = loop.run_in_executor

        def begun(_: None, read: Callable[..., object], *given: object) -> None:
            def reading() -> None:
                started.set()
                try:
                    read(*given)
                except BaseException as error:
                    ended.append(error)
                    raise

            monkeypatch.undo()
            reader = begin(None, reading)
            assert started.wait(60)
            reader.cancel()  # nobody asks what came of it
            raise KeyboardInterrupt

        monkeypatch.setattr(loop, "run_in_executor", begun)
        async with emulator.async_client() as client:
            await run_batch(rows_of(20_000), tmp_path / "out", client=client)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert [str(error) for error in ended] == ["interrupted"]
    assert (posts_of(emulator), tree(tmp_path)) == (0, [])
