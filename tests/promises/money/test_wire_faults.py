"""One table of what can go wrong on the wire: for each HTTP library the POSTs that came, the error and the bill."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, FluxOpenAI, RetryPolicy
from flux_openai.errors import FluxError
from tests.promises.money.fakes import OK, answer_bytes, close, read_and_close, read_and_hang, read_and_reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import MakeServer
    from tests.promises.money.fakes import Connection, Step

LARGE = "fox " * 250_000
WHOLE = answer_bytes(OK)


def then_reset(data: bytes) -> Callable[[Connection], None]:
    """Read the request, send this, and reset the connection."""

    def step(connection: Connection) -> None:
        connection.read()
        connection.send(data)
        connection.reset()

    return step


def reset_while_sending(connection: Connection) -> None:
    """Read a part of a large request, and reset the connection."""
    connection.socket.recv(1 << 12)
    connection.reset()


def drip_the_head(connection: Connection) -> None:
    """Read the request, and send a head that takes minutes."""
    connection.read()
    connection.drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 5000, 0.02)


def drip_the_body(connection: Connection) -> None:
    """Read the request, and send a body that takes minutes."""
    connection.read()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    connection.drip(b"x" * 5000, 0.02)


def talk_nonsense(connection: Connection) -> None:
    """Take the greeting of TLS, and answer in none."""
    connection.socket.recv(1 << 16)
    connection.send(b"garbage")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the server does, the whole POSTs that it gets, and the bills that the error may name."""

    step: Step | None = None
    base_url: str | None = None
    tls: bool = False
    prompt: str = "a red fox"
    billing: tuple[str, ...] = ("unknown",)
    posts: int = 1
    read: float = 30


NEVER = ("none",)
CAREFUL = ("none", "unknown")
"""Where a library does not say how far an upload got, "unknown" is right too."""

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAULTS = {
    "refused connection": Fault(base_url="http://127.0.0.1:1/v1", billing=NEVER, posts=0),
    "no such host": Fault(base_url="https://flux.invalid/v1", billing=NEVER, posts=0),
    "TLS garbage": Fault(step=talk_nonsense, tls=True, billing=NEVER, posts=0),
    "closed after accept": Fault(step=close, billing=CAREFUL, posts=0),
    "reset while sending": Fault(step=reset_while_sending, prompt=LARGE, billing=CAREFUL, posts=0),
    "end before the answer": Fault(step=read_and_close),
    "reset after the request": Fault(step=read_and_reset),
    "no answer in time": Fault(step=read_and_hang, read=0.3),
    "garbage status line": Fault(step=b"garbage\r\n\r\n"),
    "garbage header": Fault(step=b"HTTP/1.1 200 OK\r\n\x00bad\r\n\r\n"),
    "truncated head": Fault(step=WHOLE[:30]),
    "half a head and reset": Fault(step=then_reset(WHOLE[:30])),
    "oversized header": Fault(step=b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 300_000 + b"\r\n\r\n" + b"{}"),
    "truncated body": Fault(step=WHOLE[:-20]),
    "half a body and reset": Fault(step=then_reset(WHOLE[:-20])),
    "chunked garbage": Fault(step=CHUNKED + b"zz\r\ngarbage\r\n"),
    "no last chunk": Fault(step=CHUNKED + b'9\r\n{"data":[\r\n'),
    "dripped head": Fault(step=drip_the_head, read=0.3),
    "dripped body": Fault(step=drip_the_body, read=0.3),
}
LIBRARIES = [
    "sync",
    "async",
    pytest.param(
        "aiohttp",
        marks=pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="aiohttp is an extra of openai"),
    ),
]


def failing(library: str, base_url: str, fault: Fault) -> FluxError:
    """The error of one call."""
    options: dict[str, Any] = {
        "api_key": "k",
        "base_url": base_url,
        "retry": RetryPolicy(max_attempts=2, waiting=False),
        "timeout": openai.Timeout(30, read=fault.read),
    }

    async def call() -> None:
        http: Any = openai.DefaultAioHttpClient() if library == "aiohttp" else openai.DefaultAsyncHttpxClient()
        async with AsyncFluxOpenAI(http_client=http, **options) as client:
            await client.images.generate(prompt=fault.prompt)

    def sync_call() -> None:
        with FluxOpenAI(**options) as client:
            client.images.generate(prompt=fault.prompt)

    with pytest.raises(openai.OpenAIError) as caught:
        sync_call() if library == "sync" else asyncio.run(call())
    assert isinstance(caught.value, FluxError)
    return caught.value


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_on_the_wire_is_one_bill_at_most(
    serve: MakeServer, monkeypatch: pytest.MonkeyPatch, name: str, library: str
) -> None:
    """An error of this package says what was sent; what may have been paid is not sent again."""
    fault = FAULTS[name]
    if library == "aiohttp" and name == "dripped head":
        pytest.skip("aiohttp has a time-out for each read only, and shows nobody its connections")
    found = socket.getaddrinfo

    def getaddrinfo(host: object, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if host in ("flux.invalid", b"flux.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server = serve(fault.step or OK)
    base_url = fault.base_url or (server.base_url.replace("http:", "https:") if fault.tls else server.base_url)
    error = failing(library, base_url, fault)
    assert error.billing in fault.billing
    assert error.attempts == 2 or error.billing == "unknown"
    assert len(server.stop().posts) == fault.posts
