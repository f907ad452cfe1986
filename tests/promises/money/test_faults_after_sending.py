"""The whole request was sent, and no whole answer came back. Whether it is billed, nobody here can know."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

import flux_openai
from flux_openai._http import capture as wire
from flux_openai._http.capture import BODY_TIME, Exchange, receive
from flux_openai._http.library import httpx
from flux_openai.errors import BadResponseError, FluxConnectionError, FluxError, FluxStatusError, FluxTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import Act, MakeServer, OpenClient, Side, Wire

JSON = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
BODY = b'{"created": 1, "data": [{"url": "https://images.example/1.png"}]}'
OK = (200, JSON, BODY)
SOON = openai.Timeout(30, read=0.1)
SLOW = openai.Timeout(30, read=0.5)
ATTEMPTS_IF_UNKNOWN = {"never": 1, "unlikely": 1, "allowed": 4}

each_setting = pytest.mark.parametrize("duplicates", ["never", "unlikely", "allowed"])


def head(status: str = "200 OK", **headers: object) -> bytes:
    """The head of an answer, with its headers as they are given."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nX-Request-Id: req-header\r\n{lines}\r\n".encode()


def silent(wire: Wire) -> None:
    wire.read()
    wire.freeze()


def close(wire: Wire) -> None:
    wire.read()


def reset(wire: Wire) -> None:
    wire.read()
    wire.reset()


def reset_in_body(wire: Wire) -> None:
    wire.read()
    wire.send(head(Content_Length=1000) + BODY)
    wire.connection.recv(0)
    wire.reset()


def stuck_in_head(wire: Wire) -> None:
    wire.read()
    wire.send(b"HTTP/1.1 200 OK\r\nContent-")
    wire.freeze()


def stuck_in_body(wire: Wire) -> None:
    wire.read()
    wire.send(head(Content_Length=1000) + BODY)
    wire.freeze()


def drip(wire: Wire) -> None:
    wire.read()
    wire.send(head(Content_Length=1000))
    wire.drip(BODY * 10, 0.01)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault of every attempt, and what must come of it; `raw` is the part of the answer that is kept."""

    act: Act
    error: type[FluxError] = FluxConnectionError
    sdk: type[openai.OpenAIError] = openai.APIConnectionError
    raw: bytes = b""
    request_id: str | None = None
    timeout: openai.Timeout | None = None


def late(act: Act, **options: object) -> Row:
    return Row(act=act, error=FluxTimeoutError, sdk=openai.APITimeoutError, timeout=SOON, **options)  # type: ignore[arg-type]


def cut(act: Act, raw: bytes = b"") -> Row:
    return Row(act=act, raw=raw, request_id="req-header")


UNKNOWN = [
    pytest.param(late(silent), id="read-timeout"),
    pytest.param(late(stuck_in_head), id="read-timeout-in-head"),
    pytest.param(late(stuck_in_body, raw=BODY, request_id="req-header"), id="read-timeout-in-body"),
    pytest.param(Row(act=close), id="closed"),
    pytest.param(Row(act=b"HTTP/1.1 200 OK\r\nContent-"), id="closed-in-head"),
    pytest.param(Row(act=reset), id="reset"),
    pytest.param(Row(act=b"nonsense\r\n\r\n"), id="garbage"),
    pytest.param(Row(act=b"HTTP/1.1 two hundred\r\n\r\n"), id="garbage-status"),
    pytest.param(Row(act=b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), id="garbage-header"),
    pytest.param(Row(act=head(X_Huge="x" * 300_000)), id="huge-header"),
    pytest.param(Row(act=head(Content_Length="ten")), id="garbage-length"),
    pytest.param(Row(act=head(Transfer_Encoding="rot13")), id="garbage-transfer"),
    pytest.param(cut(head(Content_Length=1000) + BODY, BODY), id="truncated"),
    pytest.param(cut(head(Content_Length=1000)), id="truncated-at-once"),
    pytest.param(cut(head(Transfer_Encoding="chunked") + b'5\r\n{"dat\r\n', b'{"dat'), id="truncated-chunks"),
    pytest.param(cut(head(Transfer_Encoding="chunked") + b"zz\r\n{}\r\n"), id="bad-chunk"),
    pytest.param(cut(head(Transfer_Encoding="chunked") + b"2\r\n{}}}\r\n0\r\n\r\n", b"{}"), id="chunk-too-long"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("row", UNKNOWN)
async def test_a_lost_answer_is_not_paid_for_again(serve: MakeServer, open_client: OpenClient, row: Row) -> None:
    """One POST, billing unknown, and what had come is kept."""
    server = serve(row.act)
    caller = open_client(server.base_url, timeout=row.timeout)
    error = await caller.fails()
    assert type(error) is row.error
    assert isinstance(error, row.sdk)
    assert isinstance(error, FluxConnectionError)
    assert (error.billing, error.attempts, error.retry_after) == ("unknown", 1, None)
    assert (error.raw, error.request_id) == (row.raw, row.request_id)
    assert "may have been carried out and billed" in str(error)
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
async def test_a_reset_in_the_body_is_a_lost_answer(serve: MakeServer, open_client: OpenClient) -> None:
    """A reset may take with it what was under way; the POST is not repeated, and the rest is as for a cut answer."""
    server = serve(reset_in_body)
    error = await open_client(server.base_url).fails()
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "unknown", 1)
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("act", [silent, close, reset, head(Content_Length=1000) + BODY])
async def test_an_allowed_duplicate_ends_with_the_first_whole_answer(
    serve: MakeServer, open_client: OpenClient, act: Act
) -> None:
    """With "allowed", two lost answers and a good one are three POSTs under one key."""
    server = serve(act, act, OK)
    answer = await open_client(server.base_url, timeout=SLOW, retry={"duplicates": "allowed"}).generate()
    assert answer.attempts == 3
    assert len({post.headers["idempotency-key"] for post in server.stop().posts}) == 1
    assert len(server.posts) == 3


@dataclass(frozen=True, kw_only=True)
class UnusableBody:
    """A whole 200 that nobody can use, and the words that say why."""

    act: Act
    says: str
    body_time: float = BODY_TIME


def packed(encoding: str, body: bytes) -> Act:
    return (200, {**JSON, "Content-Encoding": encoding}, body)


UNUSABLE = [
    pytest.param(UnusableBody(act=drip, says="was not complete after 0.5 s", body_time=0.5 / 60), id="drip"),
    pytest.param(UnusableBody(act=packed("gzip", b"no gzip"), says="not valid gzip"), id="no-gzip"),
    pytest.param(UnusableBody(act=packed("gzip", gzip.compress(BODY)[:-9]), says="not valid gzip"), id="cut-gzip"),
    pytest.param(UnusableBody(act=packed("gzip", b""), says="not valid gzip"), id="empty-gzip"),
    pytest.param(
        UnusableBody(act=packed("gzip", gzip.compress(BODY)[:-8] + bytes(8)), says="not valid gzip"), id="bad-sum"
    ),
    pytest.param(
        UnusableBody(act=packed("gzip, gzip, gzip", b""), says="content encoding that was not asked for"),
        id="three-layers",
    ),
    pytest.param(
        UnusableBody(act=packed("deflate", zlib.compress(BODY)), says="content encoding that was not asked for"),
        id="deflate",
    ),
    pytest.param(UnusableBody(act=packed("br", b"?"), says="content encoding that was not asked for"), id="brotli"),
]


@pytest.mark.anyio
@pytest.mark.parametrize("row", UNUSABLE)
async def test_a_body_that_cannot_be_read_is_never_bought_again(
    serve: MakeServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, row: UnusableBody
) -> None:
    """One POST even where duplicates are allowed: the service did its work and would be paid again."""
    monkeypatch.setattr(wire, "BODY_TIME", row.body_time)
    server = serve(row.act)
    error = await open_client(server.base_url, timeout=60, retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, BadResponseError)
    assert isinstance(error, openai.APIResponseValidationError)
    assert row.says in str(error)
    assert (error.billing, error.attempts, error.request_id, error.status_code) == ("unknown", 1, "req-header", 200)
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "gzip, gzip", "identity", "identity, gzip", ""])
async def test_honest_gzip_is_unpacked(serve: MakeServer, open_client: OpenClient, encoding: str) -> None:
    """What is asked for is gzip or nothing, and both are read, twice packed too."""
    body = BODY
    for _ in range(encoding.lower().count("gzip")):
        body = gzip.compress(body)
    server = serve(packed(encoding, body))
    answer = await open_client(server.base_url).generate()
    assert answer.data[0].url == "https://images.example/1.png"
    assert server.stop().posts[0].headers["accept-encoding"] == "gzip"


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["fin", "rst"])
async def test_a_connection_that_ended_while_idle_is_replaced(
    serve: MakeServer, open_client: OpenClient, ending: str
) -> None:
    """The second call finds the kept connection closed, opens another and is not an attempt more."""
    answered = threading.Event()

    def answer_and_end(wire: Wire) -> None:
        wire.read()
        wire.send(head(Content_Length=len(BODY)) + BODY)
        answered.wait(10)
        if ending == "rst":
            wire.reset()

    server = serve(answer_and_end, OK)
    caller = open_client(server.base_url)
    assert (await caller.generate()).attempts == 1
    answered.set()
    assert server.ended.acquire(timeout=10)
    assert (await caller.generate()).attempts == 1
    assert (len(server.stop().posts), server.connections) == (2, 2)


@each_setting
@pytest.mark.anyio
@pytest.mark.parametrize("act", [close, reset], ids=["closed", "reset"])
async def test_a_kept_connection_that_breaks_after_the_request_is_a_lost_answer(
    serve: MakeServer, open_client: OpenClient, act: Callable[[Wire], None], duplicates: str
) -> None:
    """The second request was whole when the connection broke, so it may be billed, and is not sent again unasked."""
    server = serve(OK, act)
    caller = open_client(server.base_url, retry={"duplicates": duplicates})
    assert (await caller.generate()).attempts == 1
    error = await caller.fails()
    attempts = ATTEMPTS_IF_UNKNOWN[duplicates]
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "unknown", attempts)
    assert (len(server.stop().posts), server.connections) == (1 + attempts, attempts)


@pytest.mark.anyio
@pytest.mark.parametrize("hints", [3, 1000])
async def test_early_hints_are_skipped(serve: MakeServer, open_client: OpenClient, hints: int) -> None:
    """Answers before the answer do not count, and no limit on them loses an image."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    server = serve(hint * hints + head(Content_Length=len(BODY)) + BODY)
    assert (await open_client(server.base_url).generate()).attempts == 1
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
async def test_hints_alone_are_a_lost_answer(serve: MakeServer, open_client: OpenClient) -> None:
    """A server that ends after its hints has not answered."""
    server = serve(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    error = await open_client(server.base_url).fails()
    assert (error.billing, error.attempts, len(server.stop().posts)) == ("unknown", 1, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 303, 307])
@pytest.mark.parametrize("cross_origin", [False, True], ids=["same-origin", "cross-origin"])
@pytest.mark.parametrize("follow", [None, True], ids=["default", "client-follows"])
async def test_redirects_are_not_followed(
    serve: MakeServer, open_client: OpenClient, status: int, *, cross_origin: bool, follow: bool | None
) -> None:
    """Key and prompt go nowhere else: one POST here, nothing there, billing none, whatever the HTTP client would do."""
    elsewhere = serve(OK)
    target = f"{elsewhere.base_url}/images/generations" if cross_origin else "/v1/elsewhere"
    server = serve((status, {**JSON, "Location": target}, b""))
    http = {} if follow is None else {"follow_redirects": follow}
    error = await open_client(server.base_url, http=http, retry={"duplicates": "allowed"}).fails()
    assert type(error) is FluxStatusError
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.billing, error.attempts) == (status, "none", 1)
    assert (error.request_id, "redirect is not followed" in str(error)) == ("req-header", True)
    assert len(server.stop().requests) == 1
    assert (elsewhere.stop().connections, elsewhere.requests) == (0, [])


def flood(start: bytes, block: bytes) -> Callable[[Wire], None]:
    """An answer that goes on far beyond what anybody should take."""

    def act(wire: Wire) -> None:
        wire.read()
        wire.send(start)
        for _ in range(120):
            wire.send(block)

    return act


def bomb(size: int) -> bytes:
    """So many MiB of zeros in gzip. After a full flush a block knows nothing of those before, so one stands for all."""
    pack = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    first, second = (pack.compress(bytes(MEGABYTE)) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + second * (size - 1)


MEGABYTE = 1 << 20
TOO_LARGE = [  # the floods last: the small pieces that they leave behind stay with the process
    packed("gzip", bomb(400)),
    packed("gzip, gzip", gzip.compress(bomb(400))),
    flood(head(Transfer_Encoding="chunked"), b"100000\r\n" + bytes(MEGABYTE) + b"\r\n"),
    flood(head(), bytes(MEGABYTE)),
]
CHILD = """
import asyncio, pathlib, re, sys
import flux_openai

side, base_url, calls = sys.argv[1:]
kind = flux_openai.FluxOpenAI if side == "sync" else flux_openai.AsyncFluxOpenAI
retry = flux_openai.RetryPolicy(duplicates="allowed", waiting=False)
client = kind(api_key="sk-test", base_url=base_url, retry=retry)

async def generate():
    try:
        answer = client.images.generate(prompt="a red fox")
        return answer if side == "sync" else await answer
    except flux_openai.BadResponseError as error:
        return f"{error.billing}, {error.attempts}, {str(error).partition(': ')[2]}"

def peak():  # in MiB; getrusage would also count what the parent had when it forked
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024

async def main():
    before = None
    for _ in range(int(calls)):
        said = await generate()
        before = before or peak()
        print(f"{peak() - before}, {said}")

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_the_size_of_an_answer_is_bounded(serve: MakeServer, side: Side) -> None:
    """However much comes, or unpacks: one POST each, and the process never grows by more than the cap and 46 MiB."""
    server = serve((200, JSON, b""), *TOO_LARGE)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, side, server.base_url, str(1 + len(TOO_LARGE))],
        cwd=Path(flux_openai.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    growths, *said = zip(*(line.split(", ", 3) for line in done.stdout.splitlines()), strict=True)
    assert said == [
        ("unknown",) * 5,
        ("1",) * 5,
        ("it is empty", *["it is larger than 64 MiB when unpacked"] * 2, *["it is larger than 64 MiB"] * 2),
    ]
    assert max(map(int, growths)) < 110
    assert len(server.stop().posts) == 5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("limit", "flaw"), [(1000, None), (999, "is larger than 0 MiB")])
def test_an_answer_may_be_as_large_as_the_limit(limit: int, flaw: str | None, *, packed: bool) -> None:
    """A byte more is too much, packed or not, and how long it took is told."""
    body, request = bytes(1000), httpx.Request("POST", "https://flux.example")
    headers = {"content-encoding": "gzip"} if packed else {}
    stream = httpx.ByteStream(gzip.compress(body) if packed else body)
    exchange = Exchange(key="k")
    ticks = iter((100.0, 100.25, 100.5))
    received = receive(
        httpx.Response(200, headers=headers, stream=stream, request=request),
        exchange,
        limit=limit,
        clock=ticks.__next__,
    )
    assert exchange.flaw == (flaw and f"{flaw} when unpacked" if packed else flaw)
    assert received.elapsed.total_seconds() == 0.25


def test_the_bomb_is_small() -> None:
    """One packet is enough for 400 MiB, so the bomb of the test above is a real one."""
    assert len(gzip.compress(bomb(400))) < 4000
