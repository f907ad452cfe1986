"""A call that is stopped: Ctrl-C, SystemExit and cancellation go through at once, and nothing more is sent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import flux_openai
from flux_openai import AsyncFluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from tests.promises.money.fakes import JSON, OK, through

if TYPE_CHECKING:
    from tests.promises.money.conftest import MakeServer, OpenClient, Side
    from tests.promises.money.fakes import Connection

both_sides = pytest.mark.parametrize("side", ["sync", "async"])


@both_sides
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_not_retried(open_client: OpenClient, stop: type[BaseException]) -> None:
    """Raised while sending, it goes through as it is after one attempt, in the loosest setting."""
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise stop

    caller = open_client(http=through(handler), retry={"duplicates": "allowed"})
    with pytest.raises(stop):
        caller.generate()
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end the program before it can say so
    print("interrupted", flush=True)
"""


def output_after_ctrl_c(child: subprocess.Popen[str]) -> str:
    """What a program prints after Ctrl-C. One that comes just before a blocking call is only seen with the next one."""
    for _ in range(6):
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=10)[0]
    child.kill()
    raise AssertionError("Ctrl-C did not end the program")


@pytest.mark.skipif(sys.platform == "win32", reason="a child cannot be sent Ctrl-C there")
@pytest.mark.parametrize(
    ("side", "moment"),
    [
        ("sync", "awaiting"),
        ("async", "waiting"),
        pytest.param("sync", "waiting", marks=pytest.mark.full),
        pytest.param("async", "awaiting", marks=pytest.mark.full),
    ],
)
def test_ctrl_c_ends_the_call(serve: MakeServer, side: Side, moment: str) -> None:
    """A real Ctrl-C, while the answer is awaited or before a retry, raises KeyboardInterrupt and sends nothing more."""
    arrived = threading.Event()

    def read_and_hang(connection: Connection) -> None:
        connection.read()
        arrived.set()
        connection.hang()

    server = serve(read_and_hang if moment == "awaiting" else (429, {**JSON, "Retry-After": "50"}, b""))
    command = [sys.executable, "-c", CHILD, side, server.base_url]
    root = Path(flux_openai.__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if moment == "awaiting":
            assert arrived.wait(60)
        else:
            assert child.stdout.readline() == "waiting\n"
        output = output_after_ctrl_c(child)
    assert output == "interrupted\n"
    assert child.returncode == 0
    assert len(server.stop().posts) == 1


# Cancellation: only async code can be cancelled.


def async_client(base_url: str, *, connections: int = 10, **policy: Any) -> AsyncFluxOpenAI:  # noqa: ANN401  # of any type
    """An async client on real connections; `policy` is that of its retries."""
    limits = httpx.Limits(max_connections=connections)
    return AsyncFluxOpenAI(
        api_key="sk-test",
        base_url=base_url,
        http_client=httpx.AsyncClient(limits=limits, verify=False, timeout=30),  # plain http
        retry=RetryPolicy(**{"waiting": False, **policy}),
    )


@pytest.mark.anyio
@pytest.mark.parametrize("moment", ["awaiting", "reading"])
async def test_a_cancelled_task_is_cancelled(serve: MakeServer, moment: str) -> None:
    """CancelledError goes through, one POST was made and no more, and the client works afterwards."""
    arrived = threading.Event()

    def answer_and_hang(connection: Connection) -> None:
        connection.read()
        if moment == "reading":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        arrived.set()
        connection.hang()

    server = serve(answer_and_hang, OK)
    async with async_client(server.base_url, connections=1, duplicates="allowed") as client:
        task = asyncio.create_task(client.images.generate(prompt="a fox"))
        assert await anyio.to_thread.run_sync(arrived.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(server.posts) == 1
        assert (await client.images.generate(prompt="a fox")).attempts == 1
    assert len(server.stop().posts) == 2


@pytest.mark.anyio
async def test_a_task_cancelled_while_it_waits_sends_nothing_more(serve: MakeServer) -> None:
    """In the wait before a retry, too, CancelledError goes through at once."""
    told = asyncio.Event()
    server = serve((429, {**JSON, "Retry-After": "50"}, b""))
    async with async_client(server.base_url, waiting=True, on_retry=lambda _: told.set()) as client:
        task = asyncio.create_task(client.images.generate(prompt="a fox"))
        await told.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
async def test_cancelled_calls_leave_the_pool_whole(serve: MakeServer) -> None:
    """However often calls are cancelled while they wait for their answers, no connection is lost to them."""
    arrived = threading.Semaphore(0)

    def read_and_hang(connection: Connection) -> None:
        connection.read()
        arrived.release()
        connection.hang()

    server = serve(read_and_hang)
    async with async_client(server.base_url, connections=2) as client:
        for _ in range(10):
            tasks = [asyncio.create_task(client.images.generate(prompt="a fox")) for _ in range(2)]
            for _ in tasks:
                await anyio.to_thread.run_sync(arrived.acquire)
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
        server.script[:] = [OK]
        assert (await client.images.generate(prompt="a fox")).attempts == 1
    assert len(server.stop().posts) == 21


@pytest.mark.anyio
@pytest.mark.skipif(httpx.__name__ == "httpx", reason="httpcore 1 loses connections that are cancelled while they open")
async def test_calls_may_be_cancelled_at_any_step(serve: MakeServer) -> None:
    """After each number of turns of the event loop, from none to beyond the whole request, a cancelled call ends."""
    server = serve(lambda connection: (connection.read(), connection.hang()))
    async with async_client(server.base_url, connections=2) as client:
        for turns in range(60):
            task = asyncio.create_task(client.images.generate(prompt="a fox"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        server.script[:] = [OK]
        assert (await client.images.generate(prompt="a fox")).attempts == 1
