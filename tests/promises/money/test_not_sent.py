"""Nothing of the request reached the service: it is free, so it is tried again under every setting."""

from __future__ import annotations

import contextlib
import socket
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI, InvalidParamsError
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, FluxConnectionError, FluxTimeoutError
from tests.promises.money.fakes import OK, close, hang, read_and_close, read_and_reset, reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import MakeServer, OpenClient, Side
    from tests.promises.money.fakes import Connection, FakeServer, Step

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
ATTEMPTS = 3
SOON = 0.05
LARGE = "fox " * 250_000
SMALL_WINDOW = {"socket_options": [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)]}
"""Both ends buffer little, so that a large upload is under way for as long as the server does not read."""


@dataclass(kw_only=True)
class Network:
    """What stands between a client and the service; it knows its servers, so that their requests can be counted."""

    serve: MakeServer
    monkeypatch: pytest.MonkeyPatch
    stack: contextlib.ExitStack
    servers: list[FakeServer] = field(default_factory=list)

    def server(self, step: Step = OK, *, certificate: str | None = None) -> FakeServer:
        """A server whose requests are counted."""
        self.servers.append(self.serve(step, certificate=certificate))
        return self.servers[-1]

    def posts(self) -> int:
        """The whole POSTs that came to any server."""
        return sum(len(server.stop().posts) for server in self.servers)


@pytest.fixture
def network(serve: MakeServer, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401  # a generator fixture
    """A network of this test's own."""
    with contextlib.ExitStack() as stack:
        yield Network(serve=serve, monkeypatch=monkeypatch, stack=stack)


Options = dict[str, Any]
"""Of the client that is to fail, and the `prompt` of its call."""


def no_such_host(network: Network) -> Options:
    found = socket.getaddrinfo

    def getaddrinfo(host: object, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if host in ("flux.invalid", b"flux.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *arguments, **options)  # type: ignore[arg-type]

    network.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return {"base_url": "https://flux.invalid/v1"}


def closed_port(network: Network) -> Options:
    return {"base_url": network.server().stop().base_url}


def full_backlog(network: Network) -> Options:
    listener = network.stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(3):
        filler = network.stack.enter_context(socket.socket())
        filler.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        filler.connect_ex(listener.getsockname())
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    return {"base_url": address, "timeout": openai.Timeout(30, connect=SOON)}


def no_tls(step: Step) -> Callable[[Network], Options]:
    """A server that does not speak TLS, and does this when it is greeted in TLS."""
    return lambda network: {"base_url": network.server(step).base_url.replace("http:", "https:")}


def answer_in_plain(connection: Connection) -> None:
    connection.socket.recv(1 << 16)
    connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def take_greeting_and_close(connection: Connection) -> None:
    connection.socket.recv(1 << 16)


def tls_in_silence(network: Network) -> Options:
    return {**no_tls(hang)(network), "timeout": openai.Timeout(30, connect=SOON)}


def bad_proxy(step: Step) -> Callable[[Network], Options]:
    """A proxy that does this when it is asked for a tunnel to the service."""

    def set_up(network: Network) -> Options:
        service = network.server(certificate="good.pem")
        return {"base_url": service.base_url, "http": {"proxy": network.server(step).origin}}

    return set_up


def proxy_in_silence(network: Network) -> Options:
    return {**bad_proxy(hang)(network), "timeout": openai.Timeout(30, read=SOON)}


def no_proxy(network: Network) -> Options:
    return {"base_url": "https://flux.invalid/v1", "http": {"proxy": network.server().stop().origin}}


def stuck_upload(network: Network) -> Options:
    late = openai.Timeout(30, write=SOON)
    return {"base_url": network.server(hang).base_url, "prompt": LARGE, "http": SMALL_WINDOW, "timeout": late}


NOT_SENT: dict[str, Callable[[Network], Options]] = {
    "no such host": no_such_host,
    "closed port": closed_port,
    "plain server": no_tls(answer_in_plain),
    "closed in TLS": no_tls(take_greeting_and_close),
    "reset in TLS": no_tls(reset),
    **{f"proxy says {status}": bad_proxy((status, {}, "no")) for status in (403, 502)},
    "proxy closes": bad_proxy(read_and_close),
    "proxy resets": bad_proxy(read_and_reset),
    "proxy talks nonsense": bad_proxy(b"nonsense\r\n\r\n"),
    "tunnel closes": bad_proxy(b"HTTP/1.1 200 Connection established\r\n\r\n"),
    "no proxy": no_proxy,
}
NOT_SENT_IN_TIME = {
    "full backlog": full_backlog,
    "TLS in silence": tls_in_silence,
    "proxy in silence": proxy_in_silence,
    "stuck upload": stuck_upload,
}


@both_sides
@pytest.mark.parametrize("name", [*NOT_SENT, *NOT_SENT_IN_TIME])
def test_what_never_left_is_free_and_tried_again(network: Network, open_client: OpenClient, name: str) -> None:
    """Under the strictest setting all attempts are made, no whole POST comes anywhere, and nothing is billed."""
    if name == "full backlog" and sys.platform != "linux":
        pytest.skip("other kernels refuse instead of keeping silent")
    options = {**NOT_SENT, **NOT_SENT_IN_TIME}[name](network)
    prompt = options.pop("prompt", "a red fox")
    caller = open_client(**options, retry={"max_attempts": ATTEMPTS, "duplicates": "never"})
    error = caller.fails(prompt)
    assert type(error) is (FluxTimeoutError if name in NOT_SENT_IN_TIME else FluxConnectionError)
    assert error.billing == "none"
    assert error.attempts == ATTEMPTS
    assert [event.reason for event in caller.events] == ["not_sent"] * (ATTEMPTS - 1)
    assert (error.retry_after, error.request_id) == (None, None)
    assert "before the request was sent" in str(error)
    assert network.posts() == 0


@both_sides
@pytest.mark.parametrize("step", [reset, close])
def test_an_upload_that_the_server_breaks_off_is_never_called_paid(
    serve: MakeServer, open_client: OpenClient, side: Side, step: Step
) -> None:
    """No whole POST came: the sync client tries again, free of charge; the async one may see less, and stays careful.

    The async HTTP library calls an upload complete when the connection is lost while it waits for the other side.
    """
    server = serve(step)
    caller = open_client(server.base_url, http=SMALL_WINDOW, retry={"duplicates": "never"})
    error = caller.fails(LARGE)
    assert type(error) is FluxConnectionError
    careful = error.billing == "unknown" and side == "async"
    assert careful or (error.billing, error.attempts) == ("none", 4)
    assert {event.reason for event in caller.events} <= {"not_sent"}
    assert len(server.stop().posts) == 0


@both_sides
def test_an_upload_that_breaks_off_is_sent_again_whole(serve: MakeServer, open_client: OpenClient) -> None:
    """A stuck upload and a good one are one image, one whole POST and two attempts."""
    server = serve(hang, OK)
    options: Options = {"http": SMALL_WINDOW, "timeout": openai.Timeout(30, write=0.3)}
    response = open_client(server.base_url, **options, retry={"duplicates": "never"}).generate(LARGE)
    assert response.attempts == 2
    [post] = server.stop().posts
    assert post.json["prompt"] == LARGE


def tunnel_to(service: FakeServer) -> Callable[[Connection], None]:
    """The step of a proxy that works."""

    def step(connection: Connection) -> None:
        connection.read()
        connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(service.address) as other:
            connection.server.sockets.append(other)
            anyio.run(relay, connection.socket, other)

    return step


async def relay(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes on in both directions until either side ends."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, pump, one, other)
        tasks.start_soon(anyio.to_thread.run_sync, pump, other, one)


def options_through(serve: MakeServer, service: FakeServer, way: str) -> Options:
    """The options of a client that reaches this service directly or through a proxy that works."""
    return {"http": {"proxy": serve(tunnel_to(service)).origin}} if way == "proxy" else {}


@both_sides
@pytest.mark.parametrize(
    ("certificate", "way"),
    [("self-signed", "direct"), ("self-signed", "proxy"), ("expired", "direct"), ("other-host", "direct")],
)
def test_a_bad_certificate_is_final(serve: MakeServer, open_client: OpenClient, certificate: str, way: str) -> None:
    """One attempt even in the loosest setting: waiting does not mend a certificate, and the error says so."""
    service = serve(OK, certificate=f"{certificate}.pem")
    options = options_through(serve, service, way)
    error = open_client(service.base_url, **options, retry={"duplicates": "allowed"}).fails()
    assert type(error) is FluxConnectionError
    assert error.billing == "none"
    assert error.attempts == 1
    assert "trying again will not help" in str(error)
    assert "verify=False" not in str(error)
    assert len(service.stop().posts) == 0


@both_sides
@pytest.mark.parametrize("way", ["direct", "proxy"])
@pytest.mark.parametrize("step", [OK, read_and_close], ids=["answered", "closed"])
def test_behind_tls_and_proxy_the_request_is_still_seen_to_leave(
    serve: MakeServer, open_client: OpenClient, step: Step, way: str
) -> None:
    """The tunnel and the hand-shake are not taken for the request, nor the request for them: one POST either way."""
    service = serve(step, certificate="good.pem")
    caller = open_client(service.base_url, **options_through(serve, service, way))
    if step is OK:
        assert caller.generate().attempts == 1
    else:
        error = caller.fails()
        assert type(error) is FluxConnectionError
        assert error.billing == "unknown"
        assert error.attempts == 1
    assert len(service.stop().posts) == 1


@both_sides
def test_a_full_pool_is_waited_for_again_and_free(serve: MakeServer, open_client: OpenClient, side: Side) -> None:
    """While the only connection is taken the call fails free of charge after four attempts; then it works."""
    server = serve(lambda c: (c.read(), c.send(b"HTTP/1.1 200 OK\r\n\r\n"), c.hang()), OK)
    caller = open_client(
        server.base_url,
        http={"limits": httpx.Limits(max_connections=1)},
        timeout=openai.Timeout(30, pool=SOON),
        retry={"duplicates": "allowed"},
    )
    http_client: Any = caller.client._client
    held = caller.run(http_client.send(http_client.build_request("GET", server.origin), stream=True))
    error = caller.fails()
    assert type(error) is FluxTimeoutError
    assert error.billing == "none"
    assert error.attempts == 4
    held.close() if side == "sync" else caller.run(held.aclose())
    assert caller.generate().attempts == 1
    assert len(server.stop().posts) == 1


# What is wrong before there is a connection.


def test_invalid_parameters_reach_no_socket(serve: MakeServer, open_client: OpenClient) -> None:
    """The error says that nothing was tried, and the server saw no connection."""
    server = serve(OK)
    error = open_client(server.base_url).fails("", n=9, aspect_ratio="16x9")
    assert isinstance(error, InvalidParamsError)
    assert isinstance(error, ValueError)
    assert error.billing == "none"
    assert error.attempts == 0
    assert len(error.faults) == 3
    assert server.stop().connections == 0


@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"api_key": "sk-SECRET\n"}, id="key-with-line-break"),
        pytest.param({"api_key": "sk-SECRET é"}, id="key-not-ascii"),
        pytest.param({"api_key": "sk-SECRET x"}, id="key-with-space"),
        pytest.param({"base_url": "ftp://127.0.0.1/v1"}, id="scheme"),
        pytest.param({"base_url": "127.0.0.1/v1"}, id="no-scheme"),
        pytest.param({"base_url": "https://"}, id="no-host"),
        pytest.param({"base_url": "https://me:sk-SECRET@127.0.0.1/v1"}, id="user-in-url"),
        pytest.param({"base_url": "https://user:pa/SECRET@h.test/v1"}, id="slash-in-password"),
        pytest.param({"base_url": "https://user:p@SECRET@h.test/v1"}, id="at-sign-in-password"),
        pytest.param({"base_url": "https://127.0.0.1:port/v1"}, id="no-port"),
        pytest.param({"base_url": "http://flux.example/v1"}, id="plain-http"),
        pytest.param({"base_url": "http://10.0.0.1/v1"}, id="plain-http-private"),
    ],
)
def test_a_wrong_set_up_is_refused_at_once(kind: Any, options: dict[str, str]) -> None:  # noqa: ANN401
    """The constructor raises, before any call, and never repeats a key or a password."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**{"api_key": "sk-SECRET", **options})
    assert isinstance(caught.value, ValueError)
    assert caught.value.billing == "none"
    assert "SECRET" not in str(caught.value)


@both_sides
def test_a_header_that_cannot_be_sent_is_final_and_free(serve: MakeServer, open_client: OpenClient, side: Side) -> None:
    """A key that comes with a line break from a function is refused before a byte leaves, and is not repeated."""

    async def key() -> str:
        return "sk-SECRET\n"

    server = serve(OK)
    options: Options = {"api_key": key if side == "async" else lambda: "sk-SECRET\n"}
    error = open_client(server.base_url, **options, retry={"duplicates": "allowed"}).fails()
    assert error.billing == "none"
    assert error.attempts == 0
    assert server.stop().posts == []
    assert "SECRET" not in repr(error) + str(error)


@pytest.mark.parametrize("key", ["sk-SECRETä", "sk-SECRET\n", "sk SECRET"])
def test_a_key_that_comes_late_is_checked_too(key: str) -> None:
    """From a function or by assignment, a key that no header can hold is refused unseen, and nothing is sent."""
    emulator = Emulator()
    assigned = emulator.client()
    assigned.api_key = key
    for client in (assigned, emulator.client(api_key=lambda: key)):
        with pytest.raises(ConfigurationError) as caught:
            client.images.generate(prompt="a fox")
        assert "SECRET" not in str(caught.value)
    assert emulator.requests == []
