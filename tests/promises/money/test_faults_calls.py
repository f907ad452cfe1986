"""What holds for a call as a whole: its key, its retries, its quota, its time, and how it is stopped (group F)."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import openai
import pytest

import flux_openai
from flux_openai import FluxImagesResponse, InvalidParamsError, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.errors import FluxConnectionError, FluxError, FluxRateLimitError, FluxTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import Act, Caller, MakeServer, OpenClient, Request, Side, Wire

HEADERS = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
BODY = {"created": 1, "data": [{"url": "https://images.example/1.png"}]}
OK = (200, HEADERS, BODY)
BUSY = (429, HEADERS, {"error": {"message": "slow down", "code": "rate_limited"}})
BASE_URL = "http://127.0.0.1:1/v1"


def keys_of(posts: list[Request]) -> list[str]:
    return [post.headers["idempotency-key"] for post in posts]


@pytest.mark.anyio
async def test_a_call_has_one_key_of_its_own(serve: MakeServer, open_client: OpenClient) -> None:
    """All attempts of a call share a random key, also over copies of the client; no two calls do."""
    server = serve(BUSY, BUSY, OK, BUSY, OK, OK)
    caller = open_client(server.base_url)
    assert [(await each.generate()).attempts for each in (caller, caller, caller.with_options(timeout=20))] == [3, 2, 1]
    keys = keys_of(server.stop().posts)
    assert [len(set(part)) for part in (keys[:3], keys[3:5], keys[5:], keys)] == [1, 1, 1, 3]
    assert all(UUID(key).version == 4 for key in keys)
    assert len({post.body for post in server.posts}) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-key", "IDEMPOTENCY-KEY"])
async def test_a_key_of_the_callers_is_kept(serve: MakeServer, open_client: OpenClient, name: str) -> None:
    """Who keeps a journal names the call; the name goes out once, on every attempt."""
    server = serve(BUSY, OK)
    await open_client(server.base_url).generate(extra_headers={name: "order-7"})
    assert keys_of(server.stop().posts) == ["order-7", "order-7"]


@pytest.mark.anyio
@pytest.mark.parametrize("value", [openai.omit, ""])
async def test_a_call_cannot_be_without_a_key(serve: MakeServer, open_client: OpenClient, value: object) -> None:
    """Whoever takes the key away gets ours: without one, nobody can tell two attempts from two orders."""
    server = serve(BUSY, OK)
    assert (await open_client(server.base_url).generate(extra_headers={"Idempotency-Key": value})).attempts == 2
    keys = keys_of(server.stop().posts)
    assert len(set(keys)) == 1
    assert UUID(keys[0]).version == 4


@pytest.mark.anyio
async def test_a_key_for_the_whole_client_does_not_join_its_calls(serve: MakeServer, open_client: OpenClient) -> None:
    """A default header of that name would make every call the same order; each call has its own key all the same."""
    server = serve(OK)
    caller = open_client(server.base_url, default_headers={"Idempotency-Key": "always"})
    await caller.generate()
    await caller.generate()
    assert len(set(keys_of(server.stop().posts))) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("status", [429, 500])
async def test_there_is_one_retry_layer(serve: MakeServer, open_client: OpenClient, status: int) -> None:
    """`max_retries=5` is six POSTs and not thirty-six; `with_options(max_retries=0)` is one; the default is four."""
    server = serve((status, HEADERS, b""))
    caller = open_client(server.base_url, max_retries=5)
    assert (await caller.fails()).attempts == len(server.posts) == 6
    assert (await caller.with_options(max_retries=0).fails()).attempts == 1
    assert (await caller.with_options(max_retries=1).fails()).attempts == 2
    assert (await open_client(server.base_url).fails()).attempts == 4
    assert len(server.stop().posts) == 6 + 1 + 2 + 4


class Counted:
    """A handler that counts what it is sent, and answers in turn, the last for ever."""

    def __init__(self, *answers: tuple[int, object] | Exception) -> None:
        self.answers = answers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx.Response(status, json=body)


def over(handler: Callable[[httpx.Request], httpx.Response]) -> dict[str, Any]:
    """The `http` options for a transport without sockets."""
    return {"transport": httpx.MockTransport(handler)}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "retries"), [((429, {}), 20), ((503, {}), 10), (httpx.ConnectError("no"), 10)], ids=["429", "503", "down"]
)
async def test_a_storm_is_stopped(open_client: OpenClient, fault: tuple[int, object] | Exception, retries: int) -> None:
    """When all fails, a client and its copies retry until their bucket is empty, and then send each call once."""
    handler = Counted(fault)
    caller = open_client(BASE_URL, http=over(handler))
    copies = itertools.cycle(
        [caller, caller.with_options(timeout=9), caller.with_options(retry=RetryPolicy(waiting=False))]
    )
    attempts = [(await next(copies).fails()).attempts for _ in range(150)]
    assert len(handler.requests) == sum(attempts) == 150 + retries
    assert sum(attempts) / len(attempts) <= 1.15
    assert set(attempts[10:]) == {1}


@pytest.mark.anyio
async def test_clients_do_not_share_a_quota(open_client: OpenClient) -> None:
    """What one client cannot reach says nothing about another's service."""
    handler = Counted((429, {}))
    first, second = (open_client(BASE_URL, http=over(handler)) for _ in range(2))
    assert [(await first.fails()).attempts for _ in range(10)][-1] == 1
    assert (await second.fails()).attempts == 4


@pytest.mark.anyio
async def test_success_fills_the_quota_again(open_client: OpenClient) -> None:
    """A retry that works gives back what it took and a little more: a service with hiccups is served for ever."""
    handler = Counted(*[(429, {}), (200, BODY)] * 60)
    caller = open_client(BASE_URL, http=over(handler))
    assert [(await caller.generate()).attempts for _ in range(60)] == [2] * 60
    drained = open_client(BASE_URL, http=over(Counted(*[(429, {})] * 27, *[(200, BODY)] * 15, *[(429, {})] * 9)))
    assert [(await drained.fails()).attempts for _ in range(7)][-1] < 4
    assert [(await drained.generate()).attempts for _ in range(15)] == [1] * 15
    assert (await drained.fails()).attempts == 4


@pytest.mark.anyio
@pytest.mark.parametrize(("max_elapsed", "attempts"), [(5, 1), (0, 1)])
async def test_no_attempt_starts_too_late(
    serve: MakeServer, open_client: OpenClient, max_elapsed: float, attempts: int
) -> None:
    """A wait that would end after `max_elapsed` is not waited: the error comes at once and tells the wait."""
    server = serve((429, {**HEADERS, "Retry-After": "7"}, b""))
    caller = open_client(server.base_url, retry={"max_elapsed": max_elapsed, "waiting": True})
    error = await caller.fails()
    assert (error.attempts, error.retry_after, error.billing, caller.events) == (attempts, 7, "none", [])
    assert len(server.stop().posts) == attempts


@pytest.mark.anyio
async def test_the_wait_that_is_told_is_the_wait(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, side: Side
) -> None:
    """`on_retry` hears of each wait before it begins, and it is exactly as long; neither prompt nor key is told."""
    slept: list[float] = []
    caller = open_client(BASE_URL, http=over(Counted((429, {}), (503, {}), (200, BODY))), retry={"waiting": True})
    pause, apause = time.sleep, asyncio.sleep

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        pause(0)

    async def asleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
        await apause(0)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", asleep)
    await caller.generate("a secret fox")
    assert slept == [event.wait for event in caller.events]
    assert [(event.attempt, event.status_code) for event in caller.events] == [(1, 429), (2, 503)]
    assert "secret" not in repr(caller.events)


@pytest.mark.anyio
@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_jumping_clock_changes_nothing(
    serve: MakeServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Waits and limits follow a clock that cannot be set; a Retry-After date counts from the server's own Date."""
    later = {**HEADERS, "Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": "Sun, 22 Nov 2026 12:00:00 GMT"}
    server = serve((429, later, b""), BUSY, BUSY, OK)
    caller = open_client(server.base_url)
    jumps, real = itertools.count(1), time.time
    monkeypatch.setattr(time, "time", lambda: real() + step * next(jumps))
    answer = await caller.generate()
    monkeypatch.undo()
    first, second, third = (event.wait for event in caller.events)
    assert 30 <= first <= 33
    assert 0 <= second <= 1
    assert 0 <= third <= 2
    assert (answer.attempts, len(server.stop().posts)) == (4, 4)


@pytest.mark.anyio
@pytest.mark.parametrize("duplicates", ["unlikely", "allowed"])
@pytest.mark.parametrize(
    "last",
    [
        pytest.param((400, HEADERS, b""), id="refused"),
        pytest.param((401, HEADERS, b""), id="no-key"),
        pytest.param((429, {**HEADERS, "Retry-After": "99"}, b""), id="rate-limited"),
        pytest.param((302, {**HEADERS, "Location": "/"}, b""), id="redirect"),
        pytest.param((200, HEADERS, {"error": {"code": "invalid_value"}}), id="error-in-a-200"),
    ],
)
async def test_the_billing_is_that_of_the_whole_call(
    serve: MakeServer, open_client: OpenClient, last: Act, duplicates: str
) -> None:
    """Once an attempt may have been billed, a later one that certainly was not does not make the call free."""
    server = serve((500, HEADERS, b""), last)
    error = await open_client(server.base_url, retry={"duplicates": duplicates}).fails()
    assert (error.attempts, error.billing) == (2, "unknown")
    assert "may have been carried out and billed" in str(error)
    assert len(server.stop().posts) == 2


@pytest.mark.anyio
async def test_a_lost_answer_is_not_forgotten_when_the_server_goes_away(
    open_client: OpenClient,
) -> None:
    """With "allowed": a read time-out, then nobody listens any more. The first may be paid for, so the call may be."""
    caller = open_client(
        BASE_URL,
        http=over(Counted(httpx.ReadTimeout("late"), httpx.ConnectError("gone"))),
        retry={"duplicates": "allowed"},
    )
    error = await caller.fails()
    assert (type(error), error.attempts, error.billing) == (FluxConnectionError, 4, "unknown")


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["with_raw_response", "with_streaming_response"])
async def test_raw_and_streaming_calls_are_calls_too(
    serve: MakeServer, open_client: OpenClient, side: Side, way: str
) -> None:
    """They are retried, parse to the same answer, and raise the same errors; what is invalid is not sent."""
    server = serve(BUSY, BUSY, OK, *[BUSY] * 4, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    caller = open_client(server.base_url)
    for prompt, error in (
        ("", InvalidParamsError),
        ("fox", None),
        ("fox", FluxRateLimitError),
        ("fox", FluxConnectionError),
    ):
        if error is None:
            status, headers, parsed = await through(caller, side, way, prompt)
            assert (status, headers["x-request-id"]) == (200, "req-header")
            assert isinstance(parsed, FluxImagesResponse)
            assert (parsed.attempts, parsed.data[0].url) == (3, "https://images.example/1.png")
        else:
            with pytest.raises(error):
                await through(caller, side, way, prompt)
    keys = keys_of(server.stop().posts)
    assert (len(keys), len(set(keys[:3])), len(set(keys[3:7])), len(set(keys))) == (8, 1, 1, 3)


async def through(caller: Caller, side: Side, way: str, prompt: str) -> tuple[int, Any, object]:
    """One call through `with_raw_response` or `with_streaming_response`: status, headers, and what it parses to."""
    result = getattr(caller.images, way).generate(prompt=prompt)
    if way == "with_raw_response":
        response = result if side == "sync" else await result
    elif side == "sync":
        with result as response:
            return response.status_code, response.headers, response.parse()
    else:
        async with result as response:
            return response.status_code, response.headers, await response.parse()
    return response.status_code, response.headers, response.parse()


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["async"], indirect=True)
async def test_concurrent_calls_do_not_mix_up_their_results(open_client: OpenClient) -> None:
    """A hundred calls at once, every fifth with a retry: each gets the answer to its own prompt."""
    failed: set[str] = set()

    def handler(request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["prompt"]
        if int(prompt) % 5 == 0 and prompt not in failed:
            failed.add(prompt)
            return httpx.Response(429)
        return httpx.Response(200, json={"created": 1, "data": [{"url": f"https://images.example/{prompt}"}]})

    caller = open_client(BASE_URL, http=over(handler))
    answers = await asyncio.gather(*(caller.generate(str(number)) for number in range(100)))
    assert [answer.data[0].url for answer in answers] == [f"https://images.example/{n}" for n in range(100)]
    assert [answer.attempts for answer in answers] == [1 if number % 5 else 2 for number in range(100)]


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["sync"], indirect=True)
async def test_threads_do_not_mix_up_their_results(open_client: OpenClient) -> None:
    """The same for twenty threads that share one sync client."""

    def handler(request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["prompt"]
        if request.headers["x-stainless-retry-count"] == "0":
            return httpx.Response(429)
        return httpx.Response(200, json={"created": 1, "data": [{"url": f"https://images.example/{prompt}"}]})

    client: Any = open_client(BASE_URL, http=over(handler)).client
    found: dict[int, tuple[str, int]] = {}

    def work(number: int) -> None:
        answer = client.images.generate(prompt=str(number))
        found[number] = (answer.data[0].url, answer.attempts)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: (f"https://images.example/{number}", 2) for number in range(20)}


def exceptions_of(module: object) -> list[type[Exception]]:
    """Every exception class that the HTTP library exports."""
    found = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Exception)}
    return sorted((kind for kind in found if not issubclass(kind, Warning)), key=lambda kind: kind.__name__)


def made(kind: type[Exception]) -> Exception:
    """An instance, however it wants to be made."""
    request = httpx.Request("POST", BASE_URL)
    if issubclass(kind, httpx.HTTPStatusError):
        return kind("planted", request=request, response=httpx.Response(500, request=request))
    return kind() if list(inspect.signature(kind.__init__).parameters) == ["self"] else kind("planted")


NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
REFUSED = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}


@pytest.mark.anyio
@pytest.mark.parametrize("duplicates", ["never", "unlikely", "allowed"])
@pytest.mark.parametrize("kind", exceptions_of(httpx), ids=lambda kind: kind.__name__)
async def test_whatever_the_http_library_raises_is_judged(
    open_client: OpenClient, kind: type[Exception], duplicates: str
) -> None:
    """Every exception class it exports gets a class, a billing and a number of POSTs as the table says.

    Behind a transport that nobody can watch only the name tells: what is not surely unsent may be paid for. Exceptions
    that are no failures of a request, but mistakes in using the library, may also come as they are, after one POST.
    """
    handler = Counted(made(kind))
    caller = open_client(BASE_URL, http=over(handler), retry={"duplicates": duplicates})
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is looked at below
        await caller.generate()
    error = caught.value
    if type(error) is kind and not issubclass(kind, httpx.RequestError):
        assert len(handler.requests) == 1
        return
    free = kind.__name__ in NOT_SENT | REFUSED
    again = kind.__name__ in NOT_SENT or (duplicates == "allowed" and not free)
    attempts = 4 if again else 1
    late = issubclass(kind, httpx.TimeoutException)
    assert type(error) is (FluxTimeoutError if late else FluxConnectionError)
    assert isinstance(error, FluxError)
    assert isinstance(error, openai.APITimeoutError if late else openai.APIConnectionError)
    assert (error.billing, error.attempts, len(handler.requests)) == ("none" if free else "unknown", attempts, attempts)
    assert (error.__cause__, error.__context__) == (None, None)


def test_the_http_library_has_its_exceptions() -> None:
    """The reflection above finds them: an empty list would prove nothing."""
    names = {kind.__name__ for kind in exceptions_of(httpx)}
    assert names >= NOT_SENT | REFUSED | {"ReadTimeout", "WriteError", "RemoteProtocolError", "HTTPStatusError"}
    assert len(names) > 20


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("outer", "own", "billing", "attempts"),
    [
        (httpx.ConnectError("before"), httpx.ReadTimeout("now"), "unknown", 1),
        (httpx.UnsupportedProtocol("before"), httpx.ReadTimeout("now"), "unknown", 1),
        (ssl.SSLCertVerificationError("before"), httpx.ConnectError("now"), "none", 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_an_error_being_handled_does_not_colour_the_next(
    open_client: OpenClient, outer: Exception, own: Exception, billing: str, attempts: int
) -> None:
    """A call made as a fallback, inside an `except`, is judged by its own error alone."""
    handler = Counted(own)
    caller = open_client(BASE_URL, http=over(handler))
    try:
        raise outer
    except type(outer):
        error = await caller.fails()
    assert (error.billing, error.attempts, len(handler.requests)) == (billing, attempts, attempts)


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["async"], indirect=True)
@pytest.mark.parametrize("moment", ["awaiting", "reading"])
async def test_a_cancelled_task_is_cancelled(serve: MakeServer, open_client: OpenClient, moment: str) -> None:
    """CancelledError goes through, one POST was made and no more, and the client works afterwards."""
    arrived = threading.Event()

    def hang(wire: Wire) -> None:
        wire.read()
        if moment == "reading":
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        arrived.set()
        wire.freeze()

    server = serve(hang, OK)
    caller = open_client(
        server.base_url, retry={"duplicates": "allowed"}, http={"limits": httpx.Limits(max_connections=1)}
    )
    task = asyncio.create_task(caller.generate())
    assert await anyio.to_thread.run_sync(arrived.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.posts) == 1
    assert (await caller.generate()).attempts == 1
    assert len(server.stop().posts) == 2


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["async"], indirect=True)
async def test_a_task_cancelled_while_it_waits_sends_nothing_more(serve: MakeServer, open_client: OpenClient) -> None:
    """In the wait before a retry, too, CancelledError goes through at once."""
    told = asyncio.Event()
    server = serve((429, {**HEADERS, "Retry-After": "50"}, b""))
    retry = {"waiting": True, "on_retry": lambda _: told.set()}
    task = asyncio.create_task(open_client(server.base_url, retry=retry).generate())
    await told.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("side", ["async"], indirect=True)
async def test_cancelled_calls_leave_the_pool_whole(serve: MakeServer, open_client: OpenClient) -> None:
    """However often calls are cancelled while they wait for their answers, no connection is lost to them."""
    arrived = threading.Semaphore(0)

    def hang(wire: Wire) -> None:
        wire.read()
        arrived.release()
        wire.freeze()

    server = serve(hang)
    caller = open_client(server.base_url, http={"limits": httpx.Limits(max_connections=2)})
    for _ in range(30):
        tasks = [asyncio.create_task(caller.generate()) for _ in range(2)]
        for _ in tasks:
            await anyio.to_thread.run_sync(arrived.acquire)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
    server.script[:] = [OK]
    assert (await caller.generate()).attempts == 1
    assert len(server.stop().posts) == 61


@pytest.mark.anyio
@pytest.mark.skipif(httpx.__name__ == "httpx", reason="httpcore 1 loses connections that are cancelled while they open")
@pytest.mark.parametrize("side", ["async"], indirect=True)
async def test_calls_may_be_cancelled_at_any_step(serve: MakeServer, open_client: OpenClient) -> None:
    """After each number of turns of the event loop, from none to beyond the whole request, a cancelled call ends."""
    server = serve(lambda wire: (wire.read(), wire.freeze()))
    caller = open_client(server.base_url, http={"limits": httpx.Limits(max_connections=2)})
    for turns in range(60):
        task = asyncio.create_task(caller.generate())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    server.script[:] = [OK]
    assert (await caller.generate()).attempts == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_not_retried(side: Side, stop: type[BaseException]) -> None:
    """Raised while sending, it goes through as it is after one attempt, in the loosest setting."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise stop

    options: dict[str, Any] = {"api_key": "sk-test", "base_url": BASE_URL}
    options["retry"] = RetryPolicy(duplicates="allowed", waiting=False)

    def call() -> None:
        with flux_openai.FluxOpenAI(http_client=httpx.Client(**over(handler)), **options) as client:
            client.images.generate(prompt="a red fox")

    async def acall() -> None:
        async with flux_openai.AsyncFluxOpenAI(http_client=httpx.AsyncClient(**over(handler)), **options) as client:
            await client.images.generate(prompt="a red fox")

    with pytest.raises(stop):
        call() if side == "sync" else asyncio.run(acall())
    assert len(sent) == 1


CHILD = """
import asyncio, signal, sys
import flux_openai

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off for what it runs behind
side, base_url = sys.argv[1:]
retry = flux_openai.RetryPolicy(duplicates="allowed", on_retry=lambda _: print("waiting", flush=True))
options = {"api_key": "sk-test", "base_url": base_url, "retry": retry}

async def call():
    async with flux_openai.AsyncFluxOpenAI(**options) as client:
        await client.images.generate(prompt="a red fox")

try:
    if side == "sync":
        flux_openai.FluxOpenAI(**options).images.generate(prompt="a red fox")
    else:
        asyncio.run(call())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def interrupted(child: subprocess.Popen[str]) -> str:
    """What a program says after Ctrl-C. One that comes just before a blocking call is only seen with the next one."""
    for _ in range(20):
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=3)[0]
    child.kill()
    raise AssertionError("Ctrl-C did not end the program")


@pytest.mark.skipif(sys.platform == "win32", reason="a child cannot be sent Ctrl-C there")
@pytest.mark.parametrize("moment", ["awaiting", "waiting"])
def test_ctrl_c_ends_the_call(serve: MakeServer, side: Side, moment: str) -> None:
    """A real Ctrl-C, while the answer is awaited or before a retry, raises KeyboardInterrupt and sends nothing more."""
    arrived = threading.Event()

    def hang(wire: Wire) -> None:
        wire.read()
        arrived.set()
        wire.freeze()

    server = serve(hang if moment == "awaiting" else (429, {**HEADERS, "Retry-After": "50"}, b""))
    command = [sys.executable, "-c", CHILD, side, server.base_url]
    root = Path(flux_openai.__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if moment == "awaiting":
            assert arrived.wait(60)
        else:
            assert child.stdout.readline() == "waiting\n"
        said = interrupted(child)
    assert (said, child.returncode) == ("interrupted\n", 0)
    assert len(server.stop().posts) == 1
