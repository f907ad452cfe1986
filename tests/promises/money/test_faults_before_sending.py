"""Nothing of the request reached the service, so nothing was billed: what the matrix does not say of it."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import anyio
import openai
import pytest

from flux_openai import AsyncFluxOpenAI, FluxOpenAI, InvalidParamsError, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, FluxConnectionError, FluxTimeoutError
from tests.promises.money.network import LARGE, OK, SMALL_WINDOW, close, freeze, read_and_close, reset

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import Act, MakeServer, OpenClient, Server, Side, Wire


@pytest.mark.anyio
@pytest.mark.parametrize("fault", [pytest.param(reset, id="reset"), pytest.param(close, id="closed")])
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
async def test_an_upload_that_breaks_off_is_sent_again_whole(serve: MakeServer, open_client: OpenClient) -> None:
    """Two stuck uploads and a good one are one image, one whole POST and three attempts."""
    server = serve(freeze, freeze, OK)
    options: dict[str, Any] = {"http": SMALL_WINDOW, "timeout": openai.Timeout(30, write=0.3)}
    answer = await open_client(server.base_url, **options, retry={"duplicates": "never"}).generate(LARGE)
    assert (answer.attempts, len(server.stop().posts)) == (3, 1)
    assert server.posts[0].json["prompt"] == LARGE


@pytest.mark.anyio
@pytest.mark.parametrize("through_proxy", [False, True], ids=["direct", "proxy"])
async def test_a_bad_certificate_is_final(serve: MakeServer, open_client: OpenClient, *, through_proxy: bool) -> None:
    """One attempt even in the loosest setting: waiting does not mend a certificate, and the error says so."""
    service = serve(OK, certificate="self-signed.pem")
    http = {"proxy": serve(tunnel_to(service)).origin} if through_proxy else {}
    error = await open_client(service.base_url, http=http, retry={"duplicates": "allowed"}).fails()
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "none", 1)
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
async def test_a_full_pool_is_waited_for_again_and_free(serve: MakeServer, open_client: OpenClient, side: Side) -> None:
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
async def test_invalid_parameters_reach_no_socket(serve: MakeServer, open_client: OpenClient) -> None:
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
        pytest.param({"api_key": "sk-SECRET\n"}, id="key-with-line-break"),
        pytest.param({"api_key": "sk-SECRET é"}, id="key-not-ascii"),
        pytest.param({"api_key": "sk-SECRET x"}, id="key-with-space"),
        pytest.param({"base_url": "ftp://127.0.0.1/v1"}, id="scheme"),
        pytest.param({"base_url": "127.0.0.1/v1"}, id="no-scheme"),
        pytest.param({"base_url": "https://"}, id="no-host"),
        pytest.param({"base_url": "https://me:sk-SECRET@127.0.0.1/v1"}, id="user-in-url"),
        pytest.param({"base_url": "https://127.0.0.1:port/v1"}, id="no-port"),
        pytest.param({"base_url": "http://flux.example/v1"}, id="plain-http"),
        pytest.param({"base_url": "http://10.0.0.1/v1"}, id="plain-http-private"),
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
async def test_a_header_that_cannot_be_sent_is_final_and_free(
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
