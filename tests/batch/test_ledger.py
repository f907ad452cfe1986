"""The ledger of a batch: durable before a request is sent, whole after every crash, never over a cap."""

import asyncio
import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import multiprocessing.context
import os
import platform
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flux_openai.batch import folder as batch_folder
from flux_openai.batch.input.rows import CheckedRow
from flux_openai.batch.ledger import BatchItem, Caps, Decision, Ledger, OnUnknown, RowError, SavedFile, State, Totals
from flux_openai.errors import (
    Billing,
    ChangedRowsError,
    ConfigurationError,
    FolderInUseError,
    InvalidRowsError,
    SaveError,
)
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, Price

pytestmark = pytest.mark.anyio

T = TypeVar("T")
PRICE = Price.of("0.70 CNY")
LINK = "https://cdn.example.com/a.png?X-Signature=a-secret-signature"
FILE = SavedFile(path="images/0000/000001-1_0.png", sha256="ab" * 32, bytes=9, mime_type="image/png", width=1, height=1)
UNKNOWN = RowError(type="FluxTimeoutError", message="no answer", billing="unknown")
REFUSED = RowError(type="FluxBadRequestError", message="no", code="param_error", status=400)


def row(number: int | str, images: int = 1, **params: object) -> CheckedRow:
    given = {"prompt": f"a fox {number}", "n": images, **params}
    model = FLUX_MODELS[DEFAULT_MODEL]
    return CheckedRow(custom_id=str(number), params=given, model=model, images=images, where=f"line {number}")


def rows(count: int, **params: object) -> list[CheckedRow]:
    return [row(number, 1, **params) for number in range(1, count + 1)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def opened(out: Path, count: int = 0, *, max_images: int | None = None, budget: Price | None = None) -> Ledger:
    ledger = Ledger.open(out, create=True, caps=Caps(max_images=max_images, budget=budget))
    if count:
        ledger.add(rows(count))
    return ledger


def sums(out: Path) -> dict[str, int]:
    """The counters as a count over all rows of the file gives them."""
    with contextlib.closing(sqlite3.connect(out / "ledger.db")) as connection:
        query = """SELECT state, count(*), sum(images), sum(ifnull(cost, 0)), sum(spent_images), sum(spent_cost),
            sum(unknown_images), sum(unknown_cost) FROM progress JOIN item USING (seq) GROUP BY state"""
        found = {line[0]: line[1:] for line in connection.execute(query)}
    names = ("pending", "sent", "answered", "held", "failed", "done")
    sent = found.get(1, (0, 0, 0))
    return {
        **{name: found[code][0] if code in found else 0 for code, name in enumerate(names)},
        "images_reserved": sent[1],
        "cost_reserved": sent[2],
        **{
            name: sum(line[place] for line in found.values())
            for place, name in enumerate(("images_spent", "cost_spent", "images_unknown", "cost_unknown"), start=3)
        },
    }


def counters(totals: Totals) -> dict[str, int]:
    return {name: getattr(totals, name) for name in Totals.__slots__ if name not in ("currency", "unpriced")}


def modes(out: Path) -> dict[str, int]:
    """The modes of the files of the ledger."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in out.glob("ledger.db*")}


def content(out: Path) -> bytes | None:
    """The content of the file; None if it is no file."""
    return (out / "ledger.db").read_bytes() if (out / "ledger.db").is_file() else None


async def to_state(ledger: Ledger, item: BatchItem, state: State) -> BatchItem:
    """Bring a pending row into a state."""
    if state is State.PENDING:
        return item
    sent = await ledger.send(item, PRICE)
    assert sent is not None
    match state:
        case State.ANSWERED:
            return await ledger.answer(sent, [LINK])
        case State.DONE:
            return await ledger.done(sent, [FILE])
        case State.HELD:
            return await ledger.hold(sent, UNKNOWN)
        case State.FAILED:
            return await ledger.fail(sent, REFUSED)
        case _:
            return sent


# Transitions

CALLS: dict[str, Callable[[Ledger, BatchItem], Any]] = {
    "send": lambda ledger, item: ledger.send(item, PRICE),
    "answer": lambda ledger, item: ledger.answer(item, [LINK]),
    "done": lambda ledger, item: ledger.done(item, [FILE]),
    "fail": lambda ledger, item: ledger.fail(item, REFUSED),
    "hold": lambda ledger, item: ledger.hold(item, UNKNOWN),
    "put_back": lambda ledger, item: ledger.put_back(item),
}


async def test_an_image_goes_from_row_to_file(out: Path) -> None:
    """A row is sent, answered and done; what each step knows is in the file before its `await` ends."""
    expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    with opened(out, 1) as ledger, Ledger.open(out, create=False, write=False) as reader:

        def stored() -> BatchItem:
            (item,) = reader.items()
            return item

        (item,) = ledger.take(5)
        assert (item, ledger.take(5)) == (stored(), [])
        sent = await ledger.send(item, PRICE)
        assert sent == stored() == replace(item, state=State.SENT, attempts=1, cost=PRICE)
        answered = await ledger.answer(sent, [LINK, None], created="now", expires=expires, request_id="r-1", missing=1)
        assert answered == stored()
        assert (answered.links, answered.expires, answered.request_id) == ((LINK, None), expires, "r-1")
        assert LINK not in repr(answered)
        done = await ledger.done(answered, [FILE])
        assert done == stored()
        assert (done.state, done.links, done.expires, done.files) == (State.DONE, (), None, (FILE,))
        assert (done.created, done.request_id, done.missing, done.cost) == ("now", "r-1", 1, PRICE)
        assert counters(ledger.totals()) == counters(reader.totals()) == sums(out)
        assert ledger.totals().price(ledger.totals().cost_spent) == PRICE


MONEY: dict[str, tuple[Callable[[Ledger, BatchItem], Coroutine[Any, Any, object]], State, tuple[int, int, int]]] = {
    # What is done with a row of two images that was sent: its state, and the images spent, reserved and unknown.
    "send": (lambda ledger, item: asyncio.sleep(0), State.SENT, (0, 2, 0)),
    "answer": (lambda ledger, item: ledger.answer(item, [LINK]), State.ANSWERED, (2, 0, 0)),
    "done with the images inside": (lambda ledger, item: ledger.done(item, [FILE]), State.DONE, (2, 0, 0)),
    "fail, not billed": (lambda ledger, item: ledger.fail(item, REFUSED), State.FAILED, (0, 0, 0)),
    "fail, paid": (lambda ledger, item: ledger.fail(item, replace(REFUSED, billing="paid")), State.FAILED, (2, 0, 0)),
    "fail, unknown": (lambda ledger, item: ledger.fail(item, UNKNOWN), State.FAILED, (0, 0, 2)),
    "hold": (lambda ledger, item: ledger.hold(item, REFUSED), State.HELD, (0, 0, 2)),
    "put back": (lambda ledger, item: ledger.put_back(item), State.PENDING, (0, 0, 0)),
    "put back, unknown": (lambda ledger, item: ledger.put_back(item, UNKNOWN), State.PENDING, (0, 0, 2)),
}


@pytest.mark.parametrize("name", MONEY)
async def test_a_reservation_ends_as_it_should(out: Path, name: str) -> None:
    """What was reserved is spent, released or unknown, by how the attempt ended; the counters are those of the rows."""
    end, state, (spent, reserved, unknown) = MONEY[name]
    with opened(out) as ledger:
        ledger.add([row(1, images=2)])
        sent = await ledger.send(ledger.take(1)[0], PRICE)
        assert sent is not None
        await end(ledger, sent)
        (item,) = ledger.items()
        totals = ledger.totals()
        assert (item.state, item.attempts, item.unknown) == (state, 1, unknown)
        assert (totals.images_spent, totals.images_reserved, totals.images_unknown) == (spent, reserved, unknown)
        assert (totals.cost_spent, totals.cost_reserved, totals.cost_unknown) == tuple(
            images * 700_000_000 for images in (spent, reserved, unknown)
        )
        assert counters(totals) == sums(out)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("name", ["send", "answer", "done", "fail", "hold", "put_back"])
async def test_a_transition_starts_where_it_may(out: Path, name: str, state: State) -> None:
    """A transition from another state is a ValueError, changes nothing, and does not harm what is committed with it."""
    allowed = {
        "send": {State.PENDING},
        "answer": {State.SENT},
        "done": {State.SENT, State.ANSWERED},
        "fail": {State.PENDING, State.SENT, State.ANSWERED},
        "hold": {State.SENT},
        "put_back": {State.SENT},
    }
    with opened(out, 2) as ledger:
        first, second = ledger.take(2)
        item = await to_state(ledger, first, state)
        # The second row was pending when it was taken, and the first is given as it was then: both are found anew.
        given = first if name != "send" or state is State.SENT else item
        results = await asyncio.gather(CALLS[name](ledger, given), ledger.send(second, PRICE), return_exceptions=True)
        refused = isinstance(results[0], ValueError)
        assert refused is (state not in allowed[name]), results
        assert isinstance(results[1], BatchItem)
        if refused:
            assert next(ledger.items()).state is state
        assert counters(ledger.totals()) == sums(out)


async def test_a_refusal_for_the_rate_limit_is_no_attempt(out: Path) -> None:
    """`put_back(counted=False)` takes the attempt back; the row is taken again with the same key and seed."""
    with opened(out, 1) as ledger:
        (item,) = ledger.take(1)
        for counted, attempts in ((False, 0), (True, 1), (False, 1)):
            sent = await ledger.send(item, PRICE)
            assert sent is not None
            await ledger.put_back(sent, REFUSED, counted=counted)
            (again,) = ledger.take(1)
            assert (again.attempts, again.key, again.params, again.cost) == (attempts, item.key, item.params, None)


async def test_what_expires_first_is_downloaded_first(out: Path) -> None:
    """`answered` returns each row once in a run, those first whose links expire first."""
    with opened(out, 3) as ledger:
        now = datetime(2030, 1, 1, tzinfo=UTC)
        for item, days in zip(ledger.take(3), (3, 1, 2), strict=True):
            sent = await ledger.send(item)
            assert sent is not None
            await ledger.answer(sent, [LINK], expires=now + timedelta(days=days))
        assert ledger.answered(5) == []
    with opened(out) as ledger:
        assert [item.seq for item in ledger.answered(2)] == [2, 3]
        assert [item.seq for item in ledger.answered(2)] == [1]


async def test_many_sends_are_few_commits(out: Path) -> None:
    """What is queued while a commit waits for the disk is committed together."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    with opened(out, 64) as ledger:
        ledger._writer.set_trace_callback(count)

        async def one(item: BatchItem) -> None:
            sent = await ledger.send(item, PRICE)
            assert sent is not None
            await ledger.done(await ledger.answer(sent, [LINK]), [FILE])

        await asyncio.gather(*map(one, ledger.take(64)))
        ledger._writer.set_trace_callback(None)
        assert ledger.totals().done == 64
    assert commits <= 6


async def test_every_commit_reaches_the_disk(out: Path) -> None:
    """The file is a write-ahead log with full sync, readable by its owner only, and a saved image's link is gone."""
    with opened(out, 1) as ledger:
        ask = ledger._writer.execute
        assert [ask(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == ["wal", 2]
        answered = await to_state(ledger, ledger.take(1)[0], State.ANSWERED)
        assert modes(out) == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)
        await ledger.done(answered, [FILE])
    assert modes(out) == {"ledger.db": 0o600}
    assert b"a-secret-signature" not in (content(out) or b"")


async def test_a_cancelled_task_leaves_no_false_intent(out: Path) -> None:
    """A row whose `send` is cancelled is not SENT, before or during the commit; an answer is kept whoever waits."""
    with opened(out, 3) as ledger:
        before, during, answered = ledger.take(3)
        sent = await ledger.send(answered, PRICE)
        assert sent is not None
        tasks = [asyncio.create_task(ledger.send(before)), asyncio.create_task(ledger.answer(sent, [LINK]))]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        task = asyncio.create_task(ledger.send(during))
        while during.seq not in ledger._fresh:  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        while ledger._group is not None or ledger._queue:  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0)
        assert [(item.state, item.attempts) for item in ledger.items()] == [
            (State.PENDING, 0),
            (State.PENDING, 0),
            (State.ANSWERED, 1),
        ]
        assert [item.seq for item in ledger.take(5)] == [2]
        assert counters(ledger.totals()) == sums(out)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_what_is_queued_at_the_end_is_kept(out: Path, turns: int) -> None:
    """An answer that is queued, or in its commit, when the event loop ends is in the ledger after `close`."""

    async def main() -> None:
        sent = await ledger.send(ledger.take(1)[0], PRICE)
        assert sent is not None
        lost.append(asyncio.create_task(ledger.answer(sent, [LINK])))
        for _ in range(turns):
            await asyncio.sleep(0)

    lost: list[object] = []
    ledger = opened(out, 1)
    asyncio.run(main())
    ledger.close()
    ledger.close()
    with opened(out) as again:
        assert [item.state for item in again.items()] == [State.ANSWERED]
        assert counters(again.totals()) == sums(out)
    with pytest.raises(ValueError, match="closed"):
        ledger.take(1)


# Crashes

CRASHES = {
    # After which step a process is killed, and before or after its commit: the state, and what may be billed.
    ("add", "before"): None,
    ("add", "after"): (State.PENDING, 0),
    ("send", "before"): (State.PENDING, 0),
    ("send", "after"): (State.SENT, 0),
    ("answer", "before"): (State.SENT, 0),
    ("answer", "after"): (State.ANSWERED, 0),
    ("done", "before"): (State.ANSWERED, 0),
    ("done", "after"): (State.DONE, 0),
    ("fail", "before"): (State.SENT, 0),
    ("fail", "after"): (State.FAILED, 0),
    ("hold", "before"): (State.SENT, 0),
    ("hold", "after"): (State.HELD, 1),
    ("put_back", "before"): (State.SENT, 0),
    ("put_back", "after"): (State.PENDING, 0),
    ("recover", "before"): (State.SENT, 0),
    ("recover", "after"): (State.HELD, 1),
    ("resolve", "before"): (State.HELD, 1),
    ("resolve", "after"): (State.PENDING, 1),
    ("retry_failed", "before"): (State.FAILED, 0),
    ("retry_failed", "after"): (State.PENDING, 0),
}


def forked(function: Callable[..., object], *arguments: object) -> multiprocessing.context.ForkProcess:
    """A process of its own that runs the function."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def crash(out: Path, step: str, when: str) -> None:
    """Bring a row to a step, and be killed before or after its commit."""
    ledger = opened(out)
    commit = ledger._commit

    def die() -> None:
        if when == "after":
            commit()
        os.kill(os.getpid(), signal.SIGKILL)

    async def main() -> None:
        if step == "add":
            ledger._commit = die  # type: ignore[method-assign]
        ledger.add(rows(1))
        start = {"done": State.ANSWERED, "send": State.PENDING, "resolve": State.HELD, "retry_failed": State.FAILED}
        item = await to_state(ledger, ledger.take(1)[0], start.get(step, State.SENT))
        ledger._commit = die  # type: ignore[method-assign]
        match step:
            case "recover":
                ledger.recover("hold")
            case "resolve":
                ledger.resolve("retry")
            case "retry_failed":
                ledger.retry_failed()
            case _:
                await CALLS[step](ledger, item)

    asyncio.run(main())


@pytest.mark.parametrize(("step", "when"), CRASHES)
def test_a_crash_leaves_a_whole_ledger(out: Path, step: str, when: str) -> None:
    """Killed before or after the commit of any step, the ledger is as before or after the step, and nothing between."""
    process = forked(crash, out, step, when)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    expected = CRASHES[step, when]
    with opened(out) as ledger:
        assert counters(ledger.totals()) == sums(out)
        assert ledger._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if expected is None:
            assert ledger.totals().rows == 0
            return
        (item,) = ledger.items()
        assert (item.state, item.unknown) == expected
        assert item.links == ((LINK,) if item.state is State.ANSWERED else ())
        # The next start: what was on its way is held and counted, what is answered is downloaded, the rest stays.
        recovered = ledger.recover("hold")
        assert recovered == {State.HELD: int(item.state is State.SENT), State.PENDING: 0}
        assert [answered.links for answered in ledger.answered(1)] == ([(LINK,)] if item.links else [])
        assert [pending.seq for pending in ledger.take(1)] == ([1] if item.state is State.PENDING else [])
        assert counters(ledger.totals()) == sums(out)


async def test_a_row_of_unknown_outcome_is_asked_for_once_more(out: Path) -> None:
    """`recover("retry")` asks again once, with the same key; the first attempt stays counted. After that it is held."""
    with opened(out, 2) as ledger:
        first = await to_state(ledger, ledger.take(1)[0], State.SENT)
    with opened(out) as ledger:
        assert ledger.recover("retry") == {State.HELD: 0, State.PENDING: 1}
        again = ledger.take(1)[0]
        assert (again.key, again.params, again.unknown, again.attempts) == (first.key, first.params, 1, 1)
        assert again.error is not None
        assert again.error.billing == "unknown"
        await to_state(ledger, again, State.SENT)
        assert (ledger.totals().images_unknown, ledger.totals().images_reserved) == (1, 1)
    with opened(out) as ledger:
        assert ledger.recover("retry") == {State.HELD: 1, State.PENDING: 0}
        assert ledger.totals().images_unknown == 2
        assert counters(ledger.totals()) == sums(out)


@pytest.mark.parametrize(
    ("verdict", "state", "spent", "unknown"),
    [
        ("retry", State.PENDING, 0, 1),
        ("unbilled", State.PENDING, 0, 0),
        ("failed", State.FAILED, 0, 1),
        ("billed", State.FAILED, 1, 0),
    ],
)
async def test_a_held_row_is_resolved(out: Path, verdict: Decision, state: State, spent: int, unknown: int) -> None:
    """`resolve` asks again with the same key, or gives up, and counts as the verdict says; other ids are refused."""
    with opened(out, 2) as ledger:
        held = await to_state(ledger, ledger.take(1)[0], State.HELD)
        for wrong in ("2", "no such row"):
            with pytest.raises(ConfigurationError, match=wrong):
                ledger.resolve(verdict, ["1", wrong])
        assert next(ledger.items()) == held
        assert (ledger.resolve(verdict, ["1"]), ledger.resolve(verdict)) == (1, 0)
        item = next(ledger.items())
        totals = ledger.totals()
        assert (item.state, item.key, totals.images_spent, totals.images_unknown) == (state, held.key, spent, unknown)
        assert counters(totals) == sums(out)


@pytest.mark.parametrize("ids", [None, ["1", "2", "3", "4"]])
async def test_what_was_not_billed_is_given_back(out: Path, ids: list[str] | None) -> None:
    """What may have been billed of a row is cleared, be it done, to be sent, failed or held; other rows stay."""
    with opened(out, 5, max_images=5) as ledger:
        done, pending, failed, held, never = ledger.take(5)
        for item in (done, pending):
            sent = await ledger.send(item, PRICE)
            assert sent is not None
            await ledger.put_back(sent, UNKNOWN)
        await to_state(ledger, ledger.take(1)[0], State.DONE)
        sent = await ledger.send(failed, PRICE)
        assert sent is not None
        await ledger.fail(sent, UNKNOWN)
        await to_state(ledger, held, State.HELD)
        with pytest.raises(ConfigurationError, match="row '5' is pending, and nothing of it is of unknown outcome"):
            ledger.resolve("unbilled", [never.custom_id])
        assert ledger.resolve("unbilled", ids) == 4
        states = [State.DONE, State.PENDING, State.FAILED, State.PENDING, State.PENDING]
        assert [(item.state, item.unknown) for item in ledger.items()] == [(state, 0) for state in states]
        assert (ledger.totals().images_spent, ledger.totals().images_unknown) == (1, 0)
        assert counters(ledger.totals()) == sums(out)
        assert ledger.retry_failed() == (1, 0)


async def test_a_failed_row_is_asked_for_again_under_a_new_key(out: Path) -> None:
    """`retry_failed` draws a new Idempotency-Key, keeps the seed and what was spent, and starts its attempts anew."""
    with opened(out, 3) as ledger:
        first = ledger.take(1)[0]
        sent = await ledger.send(first, PRICE)
        assert sent is not None
        await ledger.fail(sent, replace(REFUSED, billing="paid"))
        await to_state(ledger, ledger.take(1)[0], State.FAILED)
        assert ledger.retry_failed(["1"]) == (1, 0)
        (again,) = ledger.take(1)
        assert (again.seq, again.attempts, again.params) == (1, 0, first.params)
        assert again.key != first.key
        assert ledger.totals().images_spent == 1
        assert ledger.retry_failed() == (1, 0)
        assert len({item.key for item in ledger.items()} | {first.key}) == 4


async def test_rows_that_may_be_paid_for_are_named_to_be_asked_for_again(out: Path) -> None:
    """Without ids, `retry_failed` leaves rows out that were, or may have been, billed, and says how many."""
    with opened(out, 4) as ledger:
        bills: list[Billing] = ["paid", "unknown", "none"]
        for item, billing in zip(ledger.take(3), bills, strict=True):
            sent = await ledger.send(item, PRICE)
            assert sent is not None
            await ledger.fail(sent, replace(REFUSED, billing=billing))
        await to_state(ledger, ledger.take(1)[0], State.HELD)
        ledger.resolve("billed")
        assert ledger.retry_failed() == (1, 3)
        assert [item.seq for item in ledger.items(State.FAILED)] == [1, 2, 4]
        assert ledger.retry_failed(["1", "2"]) == (2, 0)


# Rows


def test_rows_are_added_and_nothing_else_changes(out: Path) -> None:
    """The same input adds nothing, a longer one what is new; seeds are drawn once, and only where none is given."""
    with opened(out) as ledger:
        first = [*rows(3), row("s", seed=7), row("m", seed=-1), row("e", extra_body={"seed": 8})]
        assert ledger.add(first, fingerprint="one") == 6
        before = list(ledger.items())
        seeds = [item.params.get("seed") for item in before]
        assert (seeds[3], seeds[5]) == (7, None)
        assert len({*seeds[:3], seeds[4]}) == 4
        assert ledger.fingerprint == "one"
    with opened(out) as ledger:
        assert ledger.add([row("new"), *first], fingerprint="two") == 1
        after = list(ledger.items())
        assert after[:6] == before
        assert (after[6].custom_id, after[6].seq, ledger.fingerprint, ledger.totals().pending) == ("new", 7, "two", 7)
        assert isinstance(after[6].params["seed"], int)


def broken() -> Iterator[CheckedRow]:
    yield from rows(5)
    raise InvalidRowsError("a bad row")


BAD_INPUTS: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    "changed": (lambda: rows(2, steps=28), ChangedRowsError, ["line 1 (custom_id '1'): steps: 20 -> 28", "2 rows"]),
    "left out": (
        lambda: [replace(each, params={"prompt": each.params["prompt"], "n": 1}) for each in rows(2)],
        ChangedRowsError,
        ["steps: 20 -> left out"],
    ),
    "another model": (
        lambda: [replace(each, model=FLUX_MODELS["black-forest-labs/flux.1-dev"]) for each in rows(2, steps=20)],
        ChangedRowsError,
        ["model: 'black-forest-labs/flux-kontext-max/text-to-image' -> 'black-forest-labs/flux.1-dev'"],
    ),
    "a long prompt": (
        lambda: rows(2, steps=20, prompt="fox " * 50 + "in rain"),
        ChangedRowsError,
        ["in snow", "in rain"],
    ),
    "removed": (lambda: rows(1, steps=20), ChangedRowsError, ["custom_id '2': not in the input any more"]),
    "twice, old": (
        lambda: [*rows(2, steps=20), *rows(1, steps=20)],
        InvalidRowsError,
        ["line 1: custom_id='1': must be unique, and line 1 has it too"],
    ),
    "twice, new": (
        lambda: [*rows(2, steps=20), row("x"), replace(row("x"), where="line 9")],
        InvalidRowsError,
        ["line 9 (custom_id 'x'): custom_id='x': must be unique, and line x has it too"],
    ),
    "no Unicode": (lambda: [*rows(2, steps=20), row("\ud800")], InvalidRowsError, ["lone surrogates"]),
    "a bad row later": (broken, InvalidRowsError, ["a bad row"]),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_wrong_input_leaves_the_ledger_as_it_was(out: Path, name: str) -> None:
    """Changed, removed, doubled and broken rows are all listed with their lines, and not one row is added."""
    make, kind, texts = BAD_INPUTS[name]
    with opened(out) as ledger:
        first = rows(2, steps=20)
        if name == "a long prompt":
            first = rows(2, steps=20, prompt="fox " * 50 + "in snow")
        ledger.add(first, fingerprint="one")
        before = list(ledger.items())
        with pytest.raises(kind) as caught:
            ledger.add(make() if name == "a bad row later" else [*make(), row("added")], fingerprint="two")
        for text in texts:
            assert text in str(caught.value)
        assert (list(ledger.items()), ledger.fingerprint) == (before, "one")
        assert counters(ledger.totals()) == sums(out)
        assert ledger.add(first) == 0


def test_a_long_list_of_changes_is_cut(out: Path) -> None:
    """The message has the first 20 of many changes and says how many there are; the error has them all."""
    with opened(out) as ledger:
        ledger.add(rows(50, steps=20))
        with pytest.raises(ChangedRowsError) as caught:
            ledger.add(rows(40, steps=21))
        assert (len(caught.value.changed), len(caught.value.removed), caught.value.count) == (40, 10, 50)
        assert len(str(caught.value).splitlines()) == 23
        assert "… and 30 more" in str(caught.value)


def test_a_reader_cannot_write(out: Path) -> None:
    """A ledger that was opened for reading adds nothing."""
    opened(out).close()
    with Ledger.open(out, create=False, write=False) as ledger, pytest.raises(ValueError, match="for reading"):
        ledger.add([])


# Caps


@pytest.mark.parametrize(
    ("caps", "sends"),
    [
        ({"max_images": 5}, 2),
        ({"max_images": 6}, 3),
        ({"budget": Price.of("4.19 CNY")}, 2),
        ({"budget": Price.of("4.20 CNY")}, 3),
        ({"max_images": 0}, 0),
        ({}, 8),
    ],
)
async def test_a_cap_is_kept_by_sends_at_the_same_time(out: Path, caps: dict[str, Any], sends: int) -> None:
    """Of eight rows of two images sent together, as many go as the cap has room for; later runs too."""
    with opened(out, **caps) as ledger:
        ledger.add([row(number, images=2) for number in range(8)])
        results = await asyncio.gather(*(ledger.send(item, PRICE) for item in ledger.take(8)))
        assert sum(result is not None for result in results) == sends
    with opened(out, **caps) as ledger:
        ledger.recover("retry")
        used = ledger.totals().images_unknown
        assert used == 2 * sends
        if caps:
            assert await ledger.send(ledger.take(1)[0], PRICE) is None


async def test_a_budget_needs_a_price_of_its_currency(out: Path) -> None:
    """Without a price there is no budget; a price or a budget in another currency is refused."""
    dollars = Price.of("0.10 USD")
    with opened(out, 2, budget=Price.of("50 CNY")) as ledger:
        item = ledger.take(1)[0]
        for price in (None, dollars):
            with pytest.raises(ConfigurationError):
                await ledger.send(item, price)
        assert await ledger.send(item, PRICE)
    with pytest.raises(ConfigurationError, match="counted in CNY"):
        opened(out, budget=Price.of("5 USD"))
    with opened(out) as ledger, pytest.raises(ConfigurationError, match="counted in CNY"):
        await ledger.send(ledger.take(1)[0], dollars)


class LedgerMachine(RuleBasedStateMachine):
    """Random transitions, crashes and new runs of a batch with caps."""

    place: Path
    numbers = iter(range(10**9))

    @initialize(max_images=st.integers(0, 8), cents=st.integers(0, 600))
    def start(self, max_images: int, cents: int) -> None:
        self.max_images, self.budget = max_images, Price.of(f"{cents / 100:.2f} CNY")
        self.out = self.place / str(next(self.numbers))
        self.loop = asyncio.new_event_loop()
        self.ledger = opened(self.out, max_images=self.max_images, budget=self.budget)
        self.ledger.add([row(number, images=1 + number % 3) for number in range(8)])
        self.sent: list[BatchItem] = []
        self.billed = 0
        """What a service that bills every request might have billed at most."""

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(awaitable)

    @rule(limit=st.integers(1, 3))
    def send(self, limit: int) -> None:
        async def all_of(items: list[BatchItem]) -> list[BatchItem | None]:
            return await asyncio.gather(*(self.ledger.send(item, PRICE) for item in items))

        items = self.ledger.take(limit)
        for item, sent in zip(items, self.run(all_of(items)), strict=True):
            if sent is None:
                self.ledger._out.pop(item.seq)  # the next run takes it again
            else:
                self.sent.append(sent)
                self.billed += sent.images

    @precondition(lambda self: self.sent)
    @rule(how=st.sampled_from(["answer", "done", "paid", "unknown", "none", "hold", "back", "back, unknown"]))
    def end(self, how: str) -> None:
        item = self.sent.pop()
        ledger = self.ledger
        match how:
            case "answer":
                self.run(ledger.answer(item, [LINK]))
            case "done":
                self.run(ledger.done(item, [FILE]))
            case "hold":
                self.run(ledger.hold(item, UNKNOWN))
            case "back" | "none":
                self.billed -= item.images  # the service said so
                self.run(ledger.put_back(item) if how == "back" else ledger.fail(item, REFUSED))
            case "back, unknown":
                self.run(ledger.put_back(item, UNKNOWN))
            case "paid":
                self.run(ledger.fail(item, replace(REFUSED, billing="paid")))
            case _:
                self.run(ledger.fail(item, UNKNOWN))

    @rule(expired=st.booleans())
    def download(self, *, expired: bool) -> None:
        for item in self.ledger.answered(1):
            failed = replace(REFUSED, billing="paid")
            self.run(self.ledger.fail(item, failed) if expired else self.ledger.done(item, [FILE]))

    @rule(verdict=st.sampled_from(["retry", "failed", "billed"]))
    def resolve(self, verdict: Decision) -> None:
        self.ledger.resolve(verdict)

    @rule()
    def retry_failed(self) -> None:
        self.ledger.retry_failed()

    @rule(on_unknown=st.sampled_from(["hold", "retry"]))
    def crash(self, on_unknown: OnUnknown) -> None:
        self.ledger.close()
        self.sent.clear()
        self.ledger = opened(self.out, max_images=self.max_images, budget=self.budget)
        self.ledger.recover(on_unknown)
        assert self.ledger.totals().sent == 0

    @invariant()
    def caps_hold(self) -> None:
        totals = self.ledger.totals()
        images = totals.images_spent + totals.images_reserved + totals.images_unknown
        assert images == self.billed
        assert images <= self.max_images
        assert totals.cost_spent + totals.cost_reserved + totals.cost_unknown == images * 700_000_000
        assert images * PRICE.amount <= self.budget.amount
        assert counters(totals) == sums(self.out)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.loop.close()


def test_no_run_of_events_breaks_a_cap(tmp_path: Path) -> None:
    """Whatever happens in whatever order, spent, reserved and unknown stay within the caps and equal the rows."""
    machine = type("Machine", (LedgerMachine,), {"place": tmp_path})
    run_state_machine_as_test(machine, settings=settings(max_examples=20, stateful_step_count=20))


# The folder


def work(out: Path, pipe: multiprocessing.connection.Connection) -> None:
    """Say who has the folder, and keep it until told to end."""
    try:
        ledger = opened(out)
    except FolderInUseError as error:
        pipe.send((error.pid, error.host))
    else:
        pipe.send("works")
        pipe.recv()
        ledger.close()


def test_one_of_eight_processes_works(out: Path) -> None:
    """Of eight processes on one folder one works, and seven say which; killed, it leaves the folder to the next."""
    ours, theirs = zip(*(multiprocessing.Pipe() for _ in range(8)), strict=True)
    processes = [forked(work, out, pipe) for pipe in theirs]
    said = [pipe.recv() for pipe in ours]
    (owner,) = [process for process, text in zip(processes, said, strict=True) if text == "works"]
    assert sorted(map(str, said)) == sorted(["works", *[str((owner.pid, platform.node()))] * 7])
    with pytest.raises(FolderInUseError, match=f"process {owner.pid} on"):
        opened(out)
    with Ledger.open(out, create=False, write=False) as reader:  # to look is allowed
        assert reader.totals().rows == 0
    owner.kill()
    for process in processes:
        process.join()
    opened(out).close()


def test_one_process_has_a_folder_once(out: Path, tmp_path: Path) -> None:
    """A second ledger of the same folder is refused in the same process, also through a link; two folders are fine."""
    link = tmp_path / "link"
    with opened(out, 1), opened(tmp_path / "other", 2) as other:
        link.symlink_to(out, target_is_directory=True)
        for path in (out, link):
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
                opened(path)
        assert other.totals().rows == 2
    with opened(link) as ledger:
        assert ledger.totals().rows == 1


def in_child(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="forked"):
        ledger.take(1)
    with pytest.raises(FolderInUseError):
        opened(ledger._folder)
    ledger.close()


async def test_a_fork_leaves_the_ledger_to_the_parent(out: Path) -> None:
    """The child of a fork cannot use the ledger or take its lock, and when it ends, the parent works on."""
    with opened(out, 2) as ledger:
        await to_state(ledger, ledger.take(1)[0], State.SENT)
        child = forked(in_child, ledger)
        child.join()
        assert child.exitcode == 0
        await to_state(ledger, ledger.take(1)[0], State.DONE)
        assert ledger._writer.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with pytest.raises(FolderInUseError):
            opened(out)
    with opened(out) as ledger:
        assert (ledger.totals().sent, ledger.totals().done) == (1, 1)


def test_a_child_does_not_keep_the_lock_of_a_dead_parent(out: Path) -> None:
    """A forked child that outlives its parent does not keep the folder in use."""

    def parent(ready: multiprocessing.connection.Connection) -> None:
        ledger = opened(out)
        if os.fork() == 0:
            ready.send(os.getpid())
            ready.poll(60)  # until the test kills it
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        ledger.close()

    ours, theirs = multiprocessing.Pipe()
    forked(parent, theirs).join()
    child = ours.recv()
    try:
        opened(out).close()
    finally:
        os.kill(child, signal.SIGKILL)


def write_text(out: Path) -> None:
    (out / "ledger.db").write_text("this is a text file, and no ledger at all " * 200)


def write_foreign(out: Path) -> None:
    with contextlib.closing(sqlite3.connect(out / "ledger.db")) as connection:
        connection.execute("CREATE TABLE other (x)")


def change(statement: str) -> Callable[[Path], None]:
    def run(out: Path) -> None:
        opened(out, 50).close()
        with contextlib.closing(sqlite3.connect(out / "ledger.db", isolation_level=None)) as connection:
            connection.execute(statement)

    return run


def cut(out: Path) -> None:
    opened(out, 500).close()
    os.truncate(out / "ledger.db", (out / "ledger.db").stat().st_size // 2)


def overwrite(out: Path) -> None:
    opened(out, 500).close()
    with (out / "ledger.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 60_000)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (write_text, "is no ledger, or is damaged"),
    "a database of another program": (write_foreign, "belongs to another program"),
    "newer": (change("PRAGMA user_version = 2"), "newer release"),
    "cut": (cut, "damaged"),
    "overwritten": (overwrite, "damaged"),
    "rows removed": (change("DELETE FROM item WHERE seq > 40"), "damaged"),
    "no totals": (change("DELETE FROM totals"), "damaged"),
    "a table removed": (change("DROP TABLE totals"), "cannot be used"),
    "a folder": (lambda out: (out / "ledger.db").mkdir(), "cannot be used"),
}


@pytest.mark.parametrize("write", [True, False])
@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_no_whole_ledger_is_refused(out: Path, name: str, *, write: bool) -> None:
    """A foreign, damaged or newer file is one clear error, is not changed, and leaves the folder unlocked."""
    damage, text = DAMAGE[name]
    out.mkdir()
    damage(out)
    before = content(out)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=text) as caught:
            Ledger.open(out, create=True, write=write)
        assert not isinstance(caught.value, FolderInUseError)
        assert len(str(caught.value).splitlines()) == 1
    assert content(out) == before


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    """A file as folder, a folder below a file, a missing one, one without a batch: one clear error, nothing made."""
    file = tmp_path / "file"
    file.write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, create, text in (
        (file, True, "there is a file where the folder should be"),
        (file / "below", True, "there is a file where the folder should be"),
        (tmp_path / "missing", False, "it does not exist"),
        (empty, False, "there is no batch in it"),
        (Path("a\0b"), True, "NUL"),
    ):
        for write in (True, False):
            with pytest.raises(ConfigurationError, match=text if create is False or write else "."):
                Ledger.open(path, create=create, write=write)
    assert sorted(tmp_path.iterdir()) == [empty, file]
    assert not list(empty.iterdir())


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ("nfs", True),
        ("nfs4", True),
        ("cifs", True),
        ("smb3", True),
        ("9p", True),
        ("ceph", True),
        ("fuse.sshfs", True),
        ("fuse.rclone", True),
        ("fuse.never-heard-of", True),
        ("fuse.mergerfs", False),
        ("fuseblk", False),
        ("ext4", False),
        ("xfs", False),
        ("overlay", False),
        ("tmpfs", False),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the list of mounts is Linux's")
def test_a_network_file_system_is_refused(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, refused: bool
) -> None:
    """A ledger on a network file system is refused in one line that names it, before anything is made there."""
    out.mkdir()
    device = out.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 0:99 / /proc rw - proc proc rw\n"
        f"36 35 {os.major(device)}:{os.minor(device)} / /a\\040b rw,noatime shared:1 master:2 - {kind} server:/x rw\n"
    )
    monkeypatch.setattr(batch_folder, "_MOUNTS", mounts)
    if refused:
        with pytest.raises(ConfigurationError, match=rf"network file system \({kind}\)") as caught:
            opened(out)
        assert len(str(caught.value).splitlines()) == 1
        assert not list(out.iterdir())
    else:
        opened(out).close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_read_only_folder_can_be_read(out: Path) -> None:
    """In a folder without write permission a run is refused with the reason, and `write=False` reads the ledger."""
    opened(out, 3).close()
    out.chmod(0o555)
    (out / "ledger.db").chmod(0o444)
    closed = out.parent / "closed"
    opened(closed).close()
    closed.chmod(0)
    for parent in out.parents:
        if not parent.stat().st_mode & 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)

    def nobody(pipe: multiprocessing.connection.Connection) -> None:
        os.setuid(65534)
        for path in (out, out / "below"):
            with pytest.raises(ConfigurationError) as caught:
                opened(path)
            pipe.send(str(caught.value))
        with pytest.raises(ConfigurationError, match="Permission denied"):
            Ledger.open(closed, create=False, write=False)
        with Ledger.open(out, create=False, write=False) as ledger:
            pipe.send((ledger.totals().pending, len(list(ledger.items()))))

    ours, theirs = multiprocessing.Pipe()
    process = forked(nobody, theirs)
    process.join()
    assert process.exitcode == 0
    assert [ours.recv() for _ in range(3)] == [
        f"cannot use the folder {str(out)!r}: Permission denied; nothing was sent",
        f"cannot use the folder {str(out / 'below')!r}: Permission denied; nothing was sent",
        (3, 3),
    ]


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if mount is None or unmount is None:
        pytest.skip("there is no mount command")
    command = [mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run([unmount, str(place)], check=True)


def fill(disk: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_full_disk_loses_no_answer(small_disk: Path) -> None:
    """On a full disk, answers that are paid for are still kept, in the room of the ballast; no more is sent."""
    out = small_disk / "out"
    with opened(out, 40) as ledger:
        items = ledger.take(40)
        sent = [item for item in await asyncio.gather(*(ledger.send(item, PRICE) for item in items[:30])) if item]
        fill(small_disk)
        long_links = [LINK + "a" * 4000]
        results = await asyncio.gather(
            *(ledger.answer(item, long_links) for item in sent),
            *(ledger.send(item, PRICE) for item in items[30:]),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [BatchItem] * 30 + [SaveError] * 10
        error = results[-1]
        assert isinstance(error, SaveError)
        assert (error.errno, error.billing) == (errno.ENOSPC, "none")
        assert "the disk is full" in str(error)
        with pytest.raises(SaveError, match="the disk is full"):
            await ledger.send(items[-1], PRICE)
    # The next run is refused before anything is sent, as long as there is no room.
    with pytest.raises(ConfigurationError, match="No space left"):
        opened(out)
    (small_disk / "filler").unlink()
    with opened(out) as ledger:
        assert (ledger.totals().answered, ledger.totals().pending, ledger.totals().sent) == (30, 10, 0)
        assert counters(ledger.totals()) == sums(out)
        assert await ledger.send(ledger.take(1)[0], PRICE)


def test_a_file_that_may_not_grow_is_an_error_with_words(out: Path) -> None:
    """Where even the ballast does not help, whoever waits gets the error, and the ledger stays whole."""
    opened(out, 40).close()

    async def main() -> tuple[list[str], int]:
        with opened(out) as ledger:
            items = ledger.take(40)
            sent = [await to_state(ledger, item, State.SENT) for item in items[:2]]
            size = (out / "ledger.db-wal").stat().st_size  # nobody else waits
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            calls = ledger.answer(sent[0], [LINK]), ledger.send(items[5], PRICE)
            results = await asyncio.gather(*calls, return_exceptions=True)
            return [type(result).__name__ for result in results], ledger.totals().images_reserved

    ours, theirs = multiprocessing.Pipe()
    forked(lambda: theirs.send(asyncio.run(main()))).join()
    assert ours.recv() == (["SaveError", "SaveError"], 2)
    with opened(out) as ledger:
        assert (ledger.totals().sent, ledger.totals().pending) == (2, 38)
        assert ledger.recover("hold")[State.HELD] == 2
        assert counters(ledger.totals()) == sums(out)


async def test_a_clock_that_jumps_changes_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the order of the rows nor a state depends on the clock, which may go back by years between two runs."""
    with opened(out, 2) as ledger:
        sent = await ledger.send(ledger.take(1)[0], PRICE)
        assert sent is not None
        await ledger.answer(sent, [LINK], expires=datetime(1999, 1, 1, tzinfo=UTC))
    for now in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with opened(out) as ledger:
            assert ledger.recover("hold") == {State.HELD: 0, State.PENDING: 0}
            assert [item.links for item in ledger.answered(1)] == [(LINK,)]
            assert [item.seq for item in ledger.take(1)] == [2]
