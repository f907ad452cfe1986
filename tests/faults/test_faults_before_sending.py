"""Group A: nothing of the request reached the service, so nothing was billed and trying again is free."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any

import anyio
import openai
import pytest

from flux_openai import AsyncFluxOpenAI, FluxOpenAI, InvalidParamsError, RetryPolicy
from flux_openai.errors import ConfigurationError, FluxConnectionError, FluxError, FluxTimeoutError
from flux_openai.sdk import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.conftest import Act, MakeServer, OpenClient, Server, Side, Wire

    Scene = Callable[["Stage"], dict[str, Any]]

OK = (200, {"Content-Type": "application/json"}, {"created": 1, "data": [{"url": "https://images.example/1.png"}]})
LARGE = "fox " * 250_000
SMALL_WINDOW = {"socket_options": [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)]}
"""Both ends buffer little, so that a large upload is under way for as long as the server does not read."""
SOON = 0.05


class Stage:
    """Where a scene is set: it makes servers, and breaks what stands between them and the client."""

    def __init__(self, serve: MakeServer, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack) -> None:
        self.serve = serve
        self.monkeypatch = monkeypatch
        self.stack = stack
        self.servers: list[Server] = []

    def server(self, *script: object, certificate: str | None = None) -> Server:
        """A server whose requests are counted."""
        self.servers.append(self.serve(*(script or (OK,)), certificate=certificate))
        return self.servers[-1]

    def posts(self) -> int:
        """The whole POSTs that came to any server."""
        return sum(len(server.stop().posts) for server in self.servers)


@pytest.fixture
def stage(serve: MakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An empty stage."""
    with contextlib.ExitStack() as stack:
        yield Stage(serve, monkeypatch, stack)


def no_such_host(stage: Stage) -> dict[str, Any]:
    """The name of the service does not resolve."""
    found = socket.getaddrinfo

    def getaddrinfo(host: object, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if host in ("flux.invalid", b"flux.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *arguments, **options)  # type: ignore[arg-type]

    stage.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return {"base_url": "https://flux.invalid/v1"}


def closed_port(stage: Stage) -> dict[str, Any]:
    """Nobody listens."""
    return {"base_url": stage.server().stop().base_url}


def full_backlog(stage: Stage) -> dict[str, Any]:
    """The server is there, but takes no connection any more."""
    listener = stage.stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(3):
        filler = stage.stack.enter_context(socket.socket())
        filler.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        filler.connect_ex(listener.getsockname())
    return {
        "base_url": f"http://127.0.0.1:{listener.getsockname()[1]}/v1",
        "timeout": openai.Timeout(30, connect=SOON),
    }


def tls(act: object, **options: object) -> Scene:
    """A server that does not speak TLS, and does this when it is greeted in TLS."""

    def scene(stage: Stage) -> dict[str, Any]:
        return {"base_url": stage.server(act).base_url.replace("http:", "https:"), **options}

    return scene


def proxy(act: object, **options: object) -> Scene:
    """A proxy that does this when it is asked for a tunnel to the service."""

    def scene(stage: Stage) -> dict[str, Any]:
        service = stage.server(certificate="good.pem")
        return {"base_url": service.base_url, "http": {"proxy": stage.server(act).origin}, **options}

    return scene


def proxy_is_away(stage: Stage) -> dict[str, Any]:
    """Nobody listens where the proxy should be."""
    return {"base_url": "https://flux.invalid/v1", "http": {"proxy": stage.server().stop().origin}}


def upload(act: object, **options: object) -> Scene:
    """A server that does this when a large request begins."""

    def scene(stage: Stage) -> dict[str, Any]:
        return {"base_url": stage.server(act).base_url, "prompt": LARGE, "http": SMALL_WINDOW, **options}

    return scene


def close(wire: Wire) -> None:
    """End the connection without a word; what came is not read."""


def read_and_close(wire: Wire) -> None:
    wire.read()


def peek_and_close(wire: Wire) -> None:
    wire.connection.recv(1 << 16)


def answer_in_plain(wire: Wire) -> None:
    wire.connection.recv(1 << 16)
    wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def reset(wire: Wire) -> None:
    wire.reset()


def read_and_reset(wire: Wire) -> None:
    wire.read()
    wire.reset()


def freeze(wire: Wire) -> None:
    wire.freeze()


Ends = tuple[type[FluxError], type[openai.OpenAIError]]
LOST: Ends = (FluxConnectionError, openai.APIConnectionError)
LATE: Ends = (FluxTimeoutError, openai.APITimeoutError)

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse instead of keeping silent")

NEVER_SENT = [
    pytest.param(no_such_host, LOST, id="row-02-no-such-host"),
    pytest.param(closed_port, LOST, id="row-03-refused"),
    pytest.param(full_backlog, LATE, id="row-04-connect-timeout", marks=only_linux),
    pytest.param(tls(answer_in_plain), LOST, id="row-05-tls-plain-server"),
    pytest.param(tls(peek_and_close), LOST, id="row-05-tls-closed"),
    pytest.param(tls(reset), LOST, id="row-05-tls-reset"),
    pytest.param(tls(freeze, timeout=openai.Timeout(30, connect=SOON)), LATE, id="row-05-tls-timeout"),
    pytest.param(proxy((403, {}, "no")), LOST, id="row-07-proxy-403"),
    pytest.param(proxy((407, {}, "who?")), LOST, id="row-07-proxy-407"),
    pytest.param(proxy((502, {}, "")), LOST, id="row-07-proxy-502"),
    pytest.param(proxy(read_and_close), LOST, id="row-07-proxy-closed"),
    pytest.param(proxy(read_and_reset), LOST, id="row-07-proxy-reset"),
    pytest.param(proxy(b"nonsense\r\n\r\n"), LOST, id="row-07-proxy-garbage"),
    pytest.param(proxy(freeze, timeout=openai.Timeout(30, read=SOON)), LATE, id="row-07-proxy-timeout"),
    pytest.param(proxy(b"HTTP/1.1 200 Connection established\r\n\r\n"), LOST, id="row-07-proxy-tunnel-closed"),
    pytest.param(proxy_is_away, LOST, id="row-07-proxy-refused"),
    pytest.param(upload(freeze, timeout=openai.Timeout(30, write=SOON)), LATE, id="row-10-write-timeout"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("scene", "ends"), NEVER_SENT)
async def test_what_was_never_sent_is_retried_and_free(
    stage: Stage, open_client: OpenClient, scene: Scene, ends: Ends
) -> None:
    """Four attempts even in the strictest setting, the SDK's own class, no bill, and no whole POST at any server."""
    options = scene(stage)
    prompt = options.pop("prompt", "a red fox")
    caller = open_client(**options, retry={"duplicates": "never"})
    error = await caller.fails(prompt)
    ours, theirs = ends
    assert (type(error), isinstance(error, theirs)) == (ours, True)
    assert (error.billing, error.attempts, error.retry_after, error.request_id) == ("none", 4, None, None)
    assert [(event.reason, event.status_code) for event in caller.events] == [("not_sent", None)] * 3
    assert stage.posts() == 0


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [pytest.param(reset, id="row-09-reset"), pytest.param(close, id="row-09-closed")])
async def test_an_upload_that_the_server_breaks_off_is_never_called_paid(
    serve: MakeServer, open_client: OpenClient, side: Side, fault: Callable[[Wire], None]
) -> None:
    """No whole POST came: the sync client tries again, free of charge; the async one may see less, and stays careful.

    The async HTTP library calls an upload complete when the connection is lost while it waits for the other side.
    """
    server = serve(fault)
    caller = open_client(server.base_url, http=SMALL_WINDOW, retry={"duplicates": "never"})
    error = await caller.fails(LARGE)
    assert type(error) is FluxConnectionError
    seen = (error.billing, error.attempts)
    assert seen == ("none", 4) if side == "sync" else seen in [("none", 4), *(("unknown", k) for k in range(1, 5))]
    assert {event.reason for event in caller.events} <= {"not_sent"}
    assert len(server.stop().posts) == 0


@pytest.mark.anyio
async def test_row_10_an_upload_that_breaks_off_is_sent_again_whole(serve: MakeServer, open_client: OpenClient) -> None:
    """Two stuck uploads and a good one are one image, one whole POST and three attempts."""
    server = serve(freeze, freeze, OK)
    options: dict[str, Any] = {"http": SMALL_WINDOW, "timeout": openai.Timeout(30, write=0.3)}
    answer = await open_client(server.base_url, **options, retry={"duplicates": "never"}).generate(LARGE)
    assert (answer.attempts, len(server.stop().posts)) == (3, 1)
    assert server.posts[0].json["prompt"] == LARGE


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("certificate", "through_proxy"),
    [
        pytest.param("self-signed.pem", False, id="row-06-self-signed"),
        pytest.param("expired.pem", False, id="row-06-expired"),
        pytest.param("other-host.pem", False, id="row-06-other-host"),
        pytest.param("self-signed.pem", True, id="row-06-behind-a-proxy"),
    ],
)
async def test_a_bad_certificate_is_final(
    serve: MakeServer, open_client: OpenClient, certificate: str, *, through_proxy: bool
) -> None:
    """One attempt even in the loosest setting: waiting does not mend a certificate, and nothing was sent."""
    service = serve(OK, certificate=certificate)
    http = {"proxy": serve(tunnel_to(service)).origin} if through_proxy else {}
    error = await open_client(service.base_url, http=http, retry={"duplicates": "allowed"}).fails()
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "none", 1)
    assert isinstance(error, openai.APIConnectionError)
    assert "trying again will not help" in str(error)
    assert "verify=False" not in str(error)
    assert len(service.stop().posts) == 0


def tunnel_to(service: Server) -> Callable[[Wire], None]:
    """The act of a proxy that works."""

    def act(wire: Wire) -> None:
        wire.read()
        wire.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(service.address) as other:
            wire.server._open.append(other)
            anyio.run(relay, wire.connection, other)

    return act


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


@pytest.mark.anyio
@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "proxy"])
@pytest.mark.parametrize(
    ("act", "billing"), [pytest.param(OK, None, id="answered"), pytest.param(read_and_close, "unknown", id="closed")]
)
async def test_behind_tls_and_proxy_the_request_is_still_seen_to_leave(
    serve: MakeServer, open_client: OpenClient, act: Act, billing: str | None, *, through_proxy: bool
) -> None:
    """The tunnel and the hand-shake are not taken for the request, nor the request for them: one POST either way."""
    service = serve(act, certificate="good.pem")
    http = {"proxy": serve(tunnel_to(service)).origin} if through_proxy else {}
    caller = open_client(service.base_url, http=http)
    if billing is None:
        assert (await caller.generate()).attempts == 1
    else:
        error = await caller.fails()
        assert (type(error), error.billing, error.attempts) == (FluxConnectionError, billing, 1)
    assert len(service.stop().posts) == 1


@pytest.mark.anyio
async def test_row_08_a_full_pool_is_waited_for_again_and_free(
    serve: MakeServer, open_client: OpenClient, side: Side
) -> None:
    """While the only connection is taken the call fails free of charge after four attempts; then it works."""
    server = serve(lambda wire: (wire.read(), wire.send(b"HTTP/1.1 200 OK\r\n\r\n"), wire.freeze()), OK)
    caller = open_client(
        server.base_url,
        http={"limits": httpx.Limits(max_connections=1)},
        timeout=openai.Timeout(30, pool=0.05),
        retry={"duplicates": "allowed"},
    )
    network: Any = caller.client._client
    request = network.build_request("GET", server.origin)
    held = network.send(request, stream=True) if side == "sync" else await network.send(request, stream=True)
    error = await caller.fails()
    assert (type(error), error.billing, error.attempts) == (FluxTimeoutError, "none", 4)
    held.close() if side == "sync" else await held.aclose()
    assert (await caller.generate()).attempts == 1
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
async def test_row_01_invalid_parameters_reach_no_socket(serve: MakeServer, open_client: OpenClient) -> None:
    """The error says that nothing was tried, and the server saw no connection."""
    server = serve(OK)
    error = await open_client(server.base_url).fails("", n=9, aspect_ratio="16x9")
    assert isinstance(error, InvalidParamsError)
    assert isinstance(error, ValueError)
    assert (error.billing, error.attempts, len(error.faults)) == ("none", 0, 3)
    assert (server.stop().connections, server.requests) == (0, [])


@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"api_key": "sk-SECRET\n"}, id="row-11-key-with-line-break"),
        pytest.param({"api_key": "sk-SECRET é"}, id="row-11-key-not-ascii"),
        pytest.param({"api_key": "sk-SECRET x"}, id="row-11-key-with-space"),
        pytest.param({"base_url": "ftp://127.0.0.1/v1"}, id="row-11-scheme"),
        pytest.param({"base_url": "127.0.0.1/v1"}, id="row-11-no-scheme"),
        pytest.param({"base_url": "https://"}, id="row-11-no-host"),
        pytest.param({"base_url": "https://me:sk-SECRET@127.0.0.1/v1"}, id="row-11-user-in-url"),
        pytest.param({"base_url": "https://127.0.0.1:port/v1"}, id="row-11-no-port"),
        pytest.param({"base_url": "http://flux.example/v1"}, id="row-12-plain-http"),
        pytest.param({"base_url": "http://10.0.0.1/v1"}, id="row-12-plain-http-private"),
    ],
)
def test_a_wrong_set_up_is_refused_at_once(kind: Any, options: dict[str, str]) -> None:  # noqa: ANN401
    """The constructor raises, before any call, and never repeats the key."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**{"api_key": "sk-SECRET", **options})
    assert isinstance(caught.value, ValueError)
    assert caught.value.billing == "none"
    assert "SECRET" not in str(caught.value)


@pytest.mark.anyio
async def test_row_11_a_header_that_cannot_be_sent_is_final_and_free(
    serve: MakeServer, open_client: OpenClient, side: Side
) -> None:
    """A key that comes with a line break from a function is refused before a byte leaves, and is not repeated."""

    async def key() -> str:
        return "sk-SECRET\n"

    server = serve(OK)
    options: Any = {"api_key": key if side == "async" else lambda: "sk-SECRET\n", "retry": {"duplicates": "allowed"}}
    error = await open_client(server.base_url, **options).fails()
    assert (error.billing, error.attempts, server.stop().posts) == ("none", 0, [])
    assert "SECRET" not in repr(error) + str(error)


def test_a_policy_no_call_could_follow_is_refused() -> None:
    """All faults of a policy are named at once."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(duplicates="often", max_attempts=0, max_wait=-1, max_elapsed=float("nan"))  # type: ignore[arg-type]
    assert all(name in str(caught.value) for name in ("duplicates", "max_attempts", "max_wait", "max_elapsed"))
