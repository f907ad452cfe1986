"""The runner: what becomes of rows, images and money under faults, limits, caps and interruptions."""

import asyncio
import contextlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flux_openai import Emulator, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.batch import BatchItem, State, run_batch
from flux_openai.batch.ledger import Ledger, OnUnknown, RowError
from flux_openai.errors import ConfigurationError
from flux_openai.models import Price
from flux_openai.sending.settings import Settings

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG"


def rows_of(count: int, **params: object) -> list[dict[str, object]]:
    return [{"prompt": f"fox {number}", **params} for number in range(count)]


def keys_of(emulator: Emulator) -> Counter[str]:
    """How often each Idempotency-Key came."""
    return Counter(seen.headers["idempotency-key"] for seen in emulator.requests if seen.method == "POST")


def items_of(out: Path, *states: State) -> list[BatchItem]:
    with Ledger.open(out, create=False, write=False) as ledger:
        return list(ledger.items(*states))


def images_in(out: Path) -> list[Path]:
    return sorted(path for path in (out / "images").rglob("*") if path.is_file())


def check_whole(out: Path, emulator: Emulator) -> None:
    """Every row that is done has its images on the disk, and nothing else is there; none is paid for twice."""
    done = items_of(out, State.DONE)
    files = [out / file.path for item in done for file in item.files]
    assert sorted(files) == images_in(out)
    assert all(path.read_bytes().startswith(PNG) for path in files)
    assert emulator.bill.duplicates == 0


@dataclass(frozen=True, kw_only=True)
class Case:
    """Faults in the way of 12 rows, and what becomes of them.

    Attributes:
        faults: The arguments of `emulator.fail`, one call each.
        script: A script of the emulator.
        ends: How many rows are done, failed, held and pending in the end.
        stopped: Why the run stopped.
        billed: How many images the emulator bills.
        requests: How many requests it sees.
        policy: The retry policy of the client.
        options: Those of the batch.
    """

    faults: Sequence[dict[str, Any]] = ()
    script: str | None = None
    ends: tuple[int, int, int, int]
    billed: int
    stopped: str | None = None
    requests: int | None = None
    policy: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


ONE = {"max_inflight": 1}
CASES = {
    "no fault": Case(faults=[], ends=(12, 0, 0, 0), billed=12, requests=12),
    "a storm of 429": Case(faults=[{"times": 60, "status": 429}], ends=(12, 0, 0, 0), billed=12, requests=72),
    "a storm with Retry-After": Case(
        faults=[{"times": 30, "status": 429, "headers": {"retry-after": "5"}}], ends=(12, 0, 0, 0), billed=12
    ),
    "no connection for a while": Case(
        faults=[{"times": 20, "error": "connect"}],
        ends=(12, 0, 0, 0),
        billed=12,
        policy={"max_elapsed": 86_400},  # waits that are skipped count, and under load many are, while one error comes
    ),
    "no connection at all": Case(
        faults=[{"times": 999_999, "error": "connect"}], ends=(0, 0, 0, 12), billed=0, stopped="unreachable"
    ),
    "500 now and then": Case(faults=[{"times": 3, "status": 500}], ends=(12, 0, 0, 0), billed=12, requests=15),
    "500 for one row": Case(script="prompt~/fox 0/ -> status(500)", ends=(11, 0, 1, 0), billed=11, requests=15),
    "500, never twice": Case(
        faults=[{"times": 2, "status": 500}],
        ends=(10, 0, 2, 0),
        billed=10,
        requests=12,
        policy={"duplicates": "never"},
    ),
    "500, two attempts": Case(
        script="prompt~/fox 0/ -> status(500)",
        ends=(11, 0, 1, 0),
        billed=11,
        requests=13,
        policy={"max_attempts": 2},
    ),
    "refused rows": Case(
        faults=[{"times": 2, "status": 400}, {"times": 1, "status": 422}], ends=(9, 3, 0, 0), billed=9, requests=12
    ),
    "key refused": Case(
        faults=[{"times": 1, "status": 401}], ends=(0, 0, 0, 12), billed=0, stopped="refused", requests=1, options=ONE
    ),
    "no credit": Case(
        faults=[{"times": 1, "status": 429, "body": {"error": {"code": "insufficient_quota", "message": "no"}}}],
        ends=(0, 0, 0, 12),
        billed=0,
        stopped="refused",
        requests=1,
        options=ONE,
    ),
    "a wait of an hour": Case(
        faults=[{"times": 1, "status": 429, "headers": {"retry-after": "3600"}}],
        ends=(0, 0, 0, 12),
        billed=0,
        stopped="refused",
        requests=1,
        options=ONE,
    ),
    "a time-out": Case(faults=[{"error": "timeout"}], ends=(11, 0, 1, 0), billed=12, requests=12),
    "a time-out, retried": Case(
        faults=[{"error": "timeout"}],
        ends=(12, 0, 0, 0),
        billed=13,
        requests=13,
        options={"on_unknown": "retry"},
    ),
    "two time-outs, retried once": Case(
        script="prompt~/fox 0/ -> timeout",
        ends=(11, 0, 1, 0),
        billed=13,
        requests=13,
        options={"on_unknown": "retry"},
    ),
    "time-outs, allowed": Case(
        faults=[{"times": 2, "error": "timeout"}],
        ends=(12, 0, 0, 0),
        billed=14,
        requests=14,
        policy={"duplicates": "allowed"},
        options=ONE,
    ),
    "five time-outs in a row": Case(
        faults=[{"times": 99, "error": "timeout"}],
        ends=(0, 0, 5, 7),
        billed=5,
        stopped="unknown",
        requests=5,
        options=ONE,
    ),
    "an answer without images": Case(
        faults=[{"status": 200, "body": {"data": []}}], ends=(11, 0, 1, 0), billed=12, requests=12
    ),
    "an answer that cannot be used": Case(
        faults=[{"status": 200, "body": {"data": [{"b64_json": "!"}]}}], ends=(11, 1, 0, 0), billed=12, requests=12
    ),
    "a download that fails at first": Case(
        faults=[{"times": 9, "status": 503, "on": "download"}], ends=(12, 0, 0, 0), billed=12
    ),
    "a link that is refused within its life": Case(
        faults=[{"times": 3, "status": 404, "on": "download"}], ends=(12, 0, 0, 0), billed=12
    ),
    "a link that is dead": Case(faults=[{"status": 410, "on": "download"}], ends=(11, 1, 0, 0), billed=12),
    "images, no more than": Case(
        faults=[], ends=(7, 0, 0, 5), billed=7, stopped="max_images", requests=7, options={"max_images": 7}
    ),
    "money, no more than": Case(
        faults=[], ends=(4, 0, 0, 8), billed=4, stopped="budget", requests=4, options={"budget": "3 CNY"}
    ),
    "money, by another price": Case(
        faults=[],
        ends=(3, 0, 0, 9),
        billed=3,
        stopped="budget",
        options={"budget": "3 EUR", "price": "1 EUR"},
    ),
    "a cap with refusals": Case(
        faults=[{"times": 3, "status": 429}, {"times": 3, "status": 400}],
        ends=(6, 3, 0, 3),
        billed=6,
        stopped="max_images",
        options={"max_images": 6},
    ),
    "a cap counts what is unknown": Case(
        faults=[{"times": 2, "error": "reset"}],
        ends=(4, 0, 2, 6),
        billed=6,
        stopped="max_images",
        options={"max_images": 6},
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_every_row_ends_as_its_requests_did(name: str, tmp_path: Path) -> None:
    """After any fault each row is done, failed, held or still to be sent, and the bill has what the ledger says."""
    case = CASES[name]
    emulator = Emulator(pixels=256, script=case.script)
    for fault in case.faults:
        emulator.fail(**fault)
    client = emulator.async_client(retry=RetryPolicy(waiting=False, **case.policy))
    report = await run_batch(rows_of(12), tmp_path, client=client, **case.options)
    assert (report.done, report.failed, report.held, report.pending) == case.ends
    assert (report.stopped, report.answered, report.rows) == (case.stopped, 0, 12)
    assert emulator.bill.images == case.billed
    keys = keys_of(emulator)
    if case.requests is not None:
        assert sum(keys.values()) == report.requests == case.requests
    assert len(keys) <= 12  # one key for a row, on every attempt
    items = items_of(tmp_path)
    assert all(len(item.files) == 1 for item in items if item.state is State.DONE)
    assert sorted(images_in(tmp_path)) == sorted(tmp_path / file.path for item in items for file in item.files)
    errors = [item.error for item in items if item.state in (State.FAILED, State.HELD)]
    assert all(error is not None and error.message for error in errors)
    assert not client.is_closed()


async def test_the_next_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    """After a pause the same call sends the rows that are left, and only those."""
    emulator, rows = Emulator(pixels=256), rows_of(12)
    client = emulator.async_client()
    emulator.script("prompt~/fox 4/ -> status(403)")
    first = await run_batch(rows, tmp_path, client=client, max_inflight=1)
    emulator.script(None)
    second = await run_batch(rows, tmp_path, client=client)
    third = await run_batch(rows, tmp_path, client=client)
    assert (first.stopped, second.stopped, third.requests) == ("refused", None, 0)
    assert second.done == 12
    assert emulator.bill.images == 12
    check_whole(tmp_path, emulator)


@pytest.mark.parametrize("answer", ["links", "base64"])
async def test_answers_of_several_images(tmp_path: Path, answer: str) -> None:
    """A row of several images has a file for each, with the seed of the ledger, and its metadata if asked for."""
    emulator, seen = Emulator(pixels=256), list[BatchItem]()
    form = {"response_format": "b64_json"} if answer == "base64" else {}
    report = await run_batch(
        rows_of(5, n=3, **form), tmp_path, client=emulator.async_client(), metadata=True, on_result=seen.append
    )
    assert (report.done, report.images, emulator.bill.images) == (5, 15, 15)
    assert str(report.cost) == "10.50 CNY"
    names = [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path)]
    assert names[:4] == [f"images/0000/000001-1_{index}.{end}" for index in (0, 1) for end in ("json", "png")]
    assert len(names) == 30
    sidecar = json.loads((tmp_path / "images/0000/000002-2_1.json").read_bytes())
    items = {item.seq: item for item in seen}
    assert sidecar["parameters"]["seed"] == items[2].params["seed"]
    assert sidecar["sha256"] == items[2].files[1].sha256
    assert sidecar["index"] == 1
    sent = {seen.body["seed"] for seen in emulator.requests if seen.method == "POST" and seen.body}
    assert sent == {item.params["seed"] for item in seen}
    assert (items[2].files[0].mime_type, items[2].files[0].width) == ("image/png", 16)


async def test_fewer_images_than_asked(tmp_path: Path) -> None:
    """Where images are missing the row is done, and says how many; what was asked for counts as paid."""
    emulator = Emulator(pixels=256, script="prompt~/fox 0/ -> partial(1)")
    report = await run_batch(rows_of(2, n=3), tmp_path, client=emulator.async_client(), max_inflight=1, max_images=6)
    assert (report.done, emulator.bill.images) == (2, 6)
    assert [(item.missing, len(item.files)) for item in items_of(tmp_path)] == [(2, 1), (0, 3)]
    assert len(report.notices) == 1


async def test_models_of_every_kind(tmp_path: Path) -> None:
    """Rows may name models with a path of their own, and images from files, as a call may."""
    emulator = Emulator(pixels=256)
    picture = tmp_path / "fox.png"
    emulator.client().images.generate(prompt="a fox", response_format="b64_json").data[0].save(picture)
    rows: list[dict[str, object]] = [
        {"model": "flux-2-pro", "prompt": "a fox", "width": 256, "height": 256},
        {"model": "flux-kontext-pro", "prompt": "snow", "image": str(picture)},
        {"model": "kontext-pro", "prompt": "snow", "images": [str(picture), str(picture)]},
        {"prompt": "a fox"},
    ]
    report = await run_batch(rows, tmp_path / "out", client=emulator.async_client(), metadata=True)
    assert (report.done, report.stopped) == (4, None)
    posts = [seen for seen in emulator.requests[1:] if seen.method == "POST"]
    assert {seen.path.rpartition("/")[2] for seen in posts} == {"flux-2-pro", "flux-kontext-pro", "generations"}
    sidecar = json.loads(next((tmp_path / "out").rglob("000003*.json")).read_bytes())
    assert len(sidecar["images"]) == 2


async def test_an_image_file_that_is_gone_fails_its_row_only(tmp_path: Path) -> None:
    """A file that was there when the rows were checked, and is not when its row is sent, costs nothing else."""
    emulator, picture = Emulator(pixels=256), tmp_path / "fox.png"
    emulator.client().images.generate(prompt="a fox", response_format="b64_json").data[0].save(picture)
    rows, client = tmp_path / "prompts.jsonl", emulator.async_client()
    rows.write_text('{"prompt": "a"}\n{"prompt": "b", "image": "fox.png"}\n{"prompt": "c"}\n')
    await run_batch(rows, tmp_path / "out", client=client, max_images=1)
    picture.unlink()
    report = await run_batch(rows, tmp_path / "out", client=client)
    assert (report.done, report.failed, report.stopped) == (2, 1, None)
    assert emulator.bill.images == 3


# Links.


async def test_images_that_cannot_be_downloaded_wait_for_the_next_run(tmp_path: Path) -> None:
    """While the storage is down, what is paid for stays answered; the next run downloads it, and generates nothing."""
    emulator, rows = Emulator(pixels=256), rows_of(5)
    emulator.fail(5 * 3 * 5, status=503, on="download")
    first = await run_batch(rows, tmp_path, client=emulator.async_client())
    assert (first.answered, first.done, first.stopped, emulator.bill.images) == (5, 0, "unreachable", 5)
    second = await run_batch(rows, tmp_path, client=emulator.async_client(), metadata=True)
    assert (second.done, second.requests, emulator.bill.images) == (5, 0, 5)
    check = json.loads(images_in(tmp_path)[0].read_bytes())
    assert (check["parameters"]["prompt"], check["request_id"]) == ("fox 0", items_of(tmp_path)[0].request_id)


async def test_an_expired_link_is_a_failed_row_that_was_paid_for(tmp_path: Path) -> None:
    """When the link has expired the row fails, says that it was paid for, and is not generated again."""
    emulator, rows = Emulator(pixels=256), rows_of(1)
    emulator.fail(15, status=503, on="download")
    await run_batch(rows, tmp_path, client=emulator.async_client())
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE progress SET expires = expires - 8 * 86400")
    emulator.fail(status=403, on="download")
    report = await run_batch(rows, tmp_path, client=emulator.async_client())
    assert (report.failed, report.images, report.requests, emulator.bill.images) == (1, 1, 0, 1)
    (error,) = [item.error for item in items_of(tmp_path)]
    assert error is not None
    assert (error.billing, error.status) == ("paid", 403)
    assert "paid for" in error.message
    assert "expired" in error.message


@pytest.mark.parametrize("status", [403, 404])
async def test_a_link_is_not_given_up_while_it_lives(status: int, tmp_path: Path) -> None:
    """A storage that refuses a link of two days costs no image: the row stays answered, and a later run saves it."""
    emulator, rows = Emulator(pixels=256), rows_of(1)
    emulator.fail(15, status=503, on="download")
    await run_batch(rows, tmp_path, client=emulator.async_client())
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as database, database:
        database.execute("UPDATE progress SET expires = expires - 2 * 86400")
    emulator.fail(999, status=status, on="download")
    report = await run_batch(rows, tmp_path, client=emulator.async_client())
    (item,) = items_of(tmp_path)
    assert (item.state, len(item.links), report.failed, emulator.bill.images) == (State.ANSWERED, 1, 0, 1)


# Files that the ledger does not know.


async def sent_by_a_run_that_was_killed(out: Path, emulator: Emulator, **params: object) -> None:
    """Leave a row SENT, as a run does that is killed while its request is on its way."""
    await run_batch(rows_of(1, **params), out, client=emulator.async_client())
    with contextlib.closing(sqlite3.connect(out / "ledger.db")) as database, database:
        database.execute("UPDATE progress SET state = 1, files = NULL")
        database.execute("UPDATE totals SET sent = 1, done = 0, images_spent = 0, images_reserved = 1")
        database.execute("UPDATE totals SET cost_spent = 0, cost_reserved = 700000000")


@pytest.mark.parametrize("on_unknown", ["hold", "retry"])
@pytest.mark.parametrize("answer", ["url", "b64_json"])
async def test_a_file_is_no_proof_of_an_answer(answer: str, on_unknown: OnUnknown, tmp_path: Path) -> None:
    """A row that was on its way when the run was killed is held if there is a file of its name, which it is told."""
    emulator, form = Emulator(pixels=256), {"response_format": answer}
    await sent_by_a_run_that_was_killed(tmp_path, emulator, **form)
    report = await run_batch(rows_of(1, **form), tmp_path, client=emulator.async_client(), on_unknown=on_unknown)
    (item,) = items_of(tmp_path)
    assert (item.state, item.files, report.requests, emulator.bill.images) == (State.HELD, (), 0, 1)
    assert item.error is not None
    assert "images/0000/000001-1_0.png" in item.error.message


async def test_images_of_another_ledger_are_not_replaced(tmp_path: Path) -> None:
    """A folder whose ledger has sent nothing and that has images is refused: they would be paid for once more."""
    emulator, rows = Emulator(pixels=256), rows_of(2)
    await run_batch(rows, tmp_path, client=emulator.async_client())
    before = {path: path.read_bytes() for path in images_in(tmp_path)}
    (tmp_path / "ledger.db").unlink()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="images that its ledger does not know") as caught:
            await run_batch(rows, tmp_path, client=emulator.async_client())
        assert "nothing was sent" in str(caught.value)
    assert emulator.bill.images == 2
    assert {path: path.read_bytes() for path in images_in(tmp_path)} == before


# Money.


@pytest.mark.parametrize("later", [False, True], ids=["at once", "after a run without a price"])
async def test_no_budget_over_images_of_unknown_price(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, later: bool
) -> None:
    """Where the price of a paid image is not known, the cost is None, also later on, and a budget is refused."""
    emulator, rows = Emulator(pixels=256), rows_of(4)
    with monkeypatch.context() as unpriced:
        if later:
            unpriced.setattr(Settings, "price_of", lambda *_: None)
        first = await run_batch(rows, tmp_path, client=emulator.async_client(), max_images=2)
    second = await run_batch(rows, tmp_path, client=emulator.async_client(), max_images=3)
    assert (first.cost is None, second.cost is None, second.images) == (later, later, 3)
    if later:
        with pytest.raises(ConfigurationError, match="price was not known"):
            await run_batch(rows, tmp_path, client=emulator.async_client(), budget="2.80 CNY")
        assert emulator.bill.images == 3
    else:
        assert (await run_batch(rows, tmp_path, client=emulator.async_client(), budget="2.80 CNY")).done == 4


async def test_a_row_that_was_cut_off_is_counted(tmp_path: Path) -> None:
    """Rows that are on their way when a run is cancelled are in its report, with what they may have cost."""
    emulator, sent = Emulator(pixels=256), asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError(request)

    emulator.ahandle = never  # type: ignore[method-assign]  # a service that does not answer
    task = asyncio.create_task(run_batch(rows_of(2), tmp_path, client=emulator.async_client(), max_inflight=1))
    await sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert (report["sent"], report["pending"], report["unknown_cost"]) == (1, 1, "0.70 CNY")
    (line,) = (tmp_path / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["state"] == "sent"


@pytest.mark.parametrize("end", ["429", "stop"])
async def test_what_would_only_be_refused_is_not_sent(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose intent is still being written, when another gets a 429 or the run is stopped, is not sent."""
    emulator, stop, refused = Emulator(pixels=256), asyncio.Event(), asyncio.Event()
    send, put_back, seen = Ledger.send, Ledger.put_back, dict[int, int]()
    if end == "429":
        emulator.fail(status=429)

    async def slow_send(self: Ledger, item: BatchItem, price: Price | None = None) -> BatchItem | None:
        sent = await send(self, item, price)
        if item.seq == 2 and not refused.is_set():
            stop.set() if end == "stop" else None
            await refused.wait()
        return sent

    async def seen_put_back(
        self: Ledger, item: BatchItem, error: RowError | None = None, *, counted: bool = True
    ) -> BatchItem:
        seen[item.seq] = len(keys_of(emulator))
        refused.set()
        return await put_back(self, item, error, counted=counted)

    async def saved(_: BatchItem) -> None:
        refused.set()

    monkeypatch.setattr(Ledger, "send", slow_send)
    monkeypatch.setattr(Ledger, "put_back", seen_put_back)
    report = await run_batch(rows_of(2), tmp_path, client=emulator.async_client(), stop=stop, on_result=saved)
    assert seen[2] == 1, "the server saw the other request only"
    assert (report.done, report.pending, report.images) == ((2, 0, 2) if end == "429" else (1, 1, 1))
    assert {item.attempts for item in items_of(tmp_path)} == ({1} if end == "429" else {0, 1})
    check_whole(tmp_path, emulator)


async def test_a_row_that_fits_below_a_cap_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that does not fit below the cap ends the run, but not a row that fits and is being noted down."""
    emulator, send, stopped, ended = Emulator(pixels=256), Ledger.send, asyncio.Event(), list[int]()

    async def slow_send(self: Ledger, item: BatchItem, price: Price | None = None) -> BatchItem | None:
        sent = await send(self, item, price)
        if item.seq == 2 and ended:
            asyncio.get_running_loop().call_later(0, stopped.set)  # the run is stopped as soon as this returns
        if item.seq == 3:
            await stopped.wait()
        return sent

    monkeypatch.setattr(Ledger, "send", slow_send)
    rows = [*rows_of(1), *rows_of(1, n=2), *rows_of(1, seed=1)]
    client = emulator.async_client()
    report = await run_batch(rows, tmp_path, client=client, max_images=2, on_result=lambda item: ended.append(item.seq))
    assert (report.stopped, report.done, report.pending, report.images) == ("max_images", 2, 1, 2)
    assert emulator.bill.images == 2


async def test_missing_images_are_in_the_report(tmp_path: Path) -> None:
    """The report says how many images were paid for and did not come."""
    emulator = Emulator(pixels=256, script="* -> partial(1)")
    report = await run_batch(rows_of(2, n=3), tmp_path, client=emulator.async_client())
    assert (report.done, report.missing) == (2, 4)
    assert json.loads((tmp_path / "report.json").read_bytes())["missing"] == 4


async def test_an_answer_that_cannot_be_used_is_kept(tmp_path: Path) -> None:
    """The body of a paid answer without a usable image is a file that only its owner reads; the error names it."""
    emulator, body = Emulator(pixels=256), b'{"data": [{"b64_json": "!"}]}'
    emulator.fail(status=200, body=body)
    report = await run_batch(rows_of(1), tmp_path, client=emulator.async_client())
    (item,) = items_of(tmp_path)
    assert item.error is not None
    assert "kept in answers/000001-1.bin" in item.error.message
    assert "read_body" not in item.error.message
    kept = tmp_path / "answers/000001-1.bin"
    assert (report.failed, kept.read_bytes()) == (1, body)
    if os.name == "posix":
        assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_images": 5},
            (
                "4 of 5 images are paid for, or may be, and the next row asks for 2: 2 rows are left; "
                "go on with max_images=8 or more"
            ),
        ),
        (
            {"budget": "3 CNY"},
            (
                "2.80 CNY of 3 CNY are spent, or may be, and the next row costs 1.40 CNY: 2 rows are left; "
                "go on with a budget of 5.60 CNY or more"
            ),
        ),
    ],
)
async def test_the_message_of_a_cap_says_how_to_go_on(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """At a cap the message has what is spent, what the next row needs, what is left, and the cap for all of it."""
    emulator = Emulator(pixels=256)
    report = await run_batch(rows_of(4, n=2), tmp_path, client=emulator.async_client(), **options)
    assert report.message == message


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_images": 2}, "is not enough for one row: that of row 1 asks for 3 images (nearest: 3)"),
        ({"budget": "2 CNY"}, "is not enough for one row: that of row 1 costs 2.10 CNY (nearest: '2.10 CNY')"),
    ],
)
async def test_a_cap_below_one_row_is_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    """A cap with which nothing could ever be sent is an invalid option, with the value that is enough for a row."""
    emulator = Emulator(pixels=256)
    with pytest.raises(ConfigurationError) as caught:
        await run_batch(rows_of(2, n=3), tmp_path / "out", client=emulator.async_client(), **options)
    assert text in str(caught.value)
    assert emulator.requests == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "ends"),
    [
        ("prompt~/fox 0/ #1 -> status(500); prompt~/fox 0/ #2 -> timeout", (1, 0)),
        ("prompt~/fox 0/ #1 -> timeout; prompt~/fox 0/ #2 -> status(500); prompt~/fox 0/ #3 -> timeout", (0, 1)),
    ],
    ids=["500, time-out", "time-out, 500, time-out"],
)
async def test_a_500_is_no_unknown_outcome(script: str, ends: tuple[int, int], tmp_path: Path) -> None:
    """`on_unknown="retry"` sends a row again after its first time-out, also after a 500, and once."""
    emulator = Emulator(pixels=256, script=script.replace("; ", "\n"))
    client = emulator.async_client(retry=RetryPolicy(waiting=False))
    report = await run_batch(rows_of(1), tmp_path, client=client, on_unknown="retry")
    assert (report.done, report.held) == ends
