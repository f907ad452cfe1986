"""What can stand between a client and the service: scenes in which no request gets through."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    import pytest

    from tests.promises.money.conftest import MakeServer, Server, Wire

OK = (200, {"Content-Type": "application/json"}, {"created": 1, "data": [{"url": "https://images.example/1.png"}]})
LARGE = "fox " * 250_000
SMALL_WINDOW = {"socket_options": [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)]}
"""Both ends buffer little, so that a large upload is under way for as long as the server does not read."""
SOON = 0.05


@dataclass(kw_only=True)
class Stage:
    """Where a scene is set: it makes servers, and breaks what stands between them and the client."""

    serve: MakeServer
    monkeypatch: pytest.MonkeyPatch
    stack: contextlib.ExitStack
    servers: list[Server] = field(default_factory=list)

    def server(self, *script: object, certificate: str | None = None) -> Server:
        """A server whose requests are counted."""
        self.servers.append(self.serve(*(script or (OK,)), certificate=certificate))
        return self.servers[-1]

    def posts(self) -> int:
        """The whole POSTs that came to any server."""
        return sum(len(server.stop().posts) for server in self.servers)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Sets the stage, and gives the options of the client that is to fail there, and its `prompt`."""

    name: str
    set_up: Callable[[Stage], dict[str, Any]]


def _no_such_host(stage: Stage) -> dict[str, Any]:
    found = socket.getaddrinfo

    def getaddrinfo(host: object, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if host in ("flux.invalid", b"flux.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(host, *arguments, **options)  # type: ignore[arg-type]

    stage.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return {"base_url": "https://flux.invalid/v1"}


def _full_backlog(stage: Stage) -> dict[str, Any]:
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


def _tls(name: str, act: object, **options: object) -> Scene:
    """A server that does not speak TLS, and does this when it is greeted in TLS."""

    def set_up(stage: Stage) -> dict[str, Any]:
        return {"base_url": stage.server(act).base_url.replace("http:", "https:"), **options}

    return Scene(name=name, set_up=set_up)


def _certificate(name: str) -> Scene:
    """A server with this certificate."""

    def set_up(stage: Stage) -> dict[str, Any]:
        return {"base_url": stage.server(certificate=f"{name}.pem").base_url}

    return Scene(name=name, set_up=set_up)


def _proxy(name: str, act: object, **options: object) -> Scene:
    """A proxy that does this when it is asked for a tunnel to the service."""

    def set_up(stage: Stage) -> dict[str, Any]:
        service = stage.server(certificate="good.pem")
        return {"base_url": service.base_url, "http": {"proxy": stage.server(act).origin}, **options}

    return Scene(name=name, set_up=set_up)


def _proxy_is_away(stage: Stage) -> dict[str, Any]:
    return {"base_url": "https://flux.invalid/v1", "http": {"proxy": stage.server().stop().origin}}


def _stuck_upload(stage: Stage) -> dict[str, Any]:
    late = openai.Timeout(30, write=SOON)
    return {"base_url": stage.server(freeze).base_url, "prompt": LARGE, "http": SMALL_WINDOW, "timeout": late}


def close(wire: Wire) -> None:
    """End the connection without a word; what came is not read."""


def read_and_close(wire: Wire) -> None:
    """End it when the request is there."""
    wire.read()


def reset(wire: Wire) -> None:
    """Reset it at once."""
    wire.reset()


def freeze(wire: Wire) -> None:
    """Do nothing any more."""
    wire.freeze()


def _peek_and_close(wire: Wire) -> None:
    wire.connection.recv(1 << 16)


def _answer_in_plain(wire: Wire) -> None:
    wire.connection.recv(1 << 16)
    wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _read_and_reset(wire: Wire) -> None:
    wire.read()
    wire.reset()


NO_SUCH_HOST = Scene(name="no such host", set_up=_no_such_host)
CLOSED_PORT = Scene(name="closed port", set_up=lambda stage: {"base_url": stage.server().stop().base_url})
FULL_BACKLOG = Scene(name="full backlog", set_up=_full_backlog)
NO_TLS = (_tls("plain server", _answer_in_plain), _tls("closed", _peek_and_close), _tls("reset", reset))
TLS_IN_SILENCE = _tls("TLS in silence", freeze, timeout=openai.Timeout(30, connect=SOON))
BAD_CERTIFICATES = tuple(map(_certificate, ("self-signed", "expired", "other-host")))
NO_TUNNEL = (
    *(_proxy(f"proxy says {status}", (status, {}, "no")) for status in (403, 407, 502)),
    _proxy("proxy closes", read_and_close),
    _proxy("proxy resets", _read_and_reset),
    _proxy("proxy talks nonsense", b"nonsense\r\n\r\n"),
    _proxy("tunnel closes", b"HTTP/1.1 200 Connection established\r\n\r\n"),
    Scene(name="no proxy", set_up=_proxy_is_away),
)
PROXY_IN_SILENCE = _proxy("proxy in silence", freeze, timeout=openai.Timeout(30, read=SOON))
STUCK_UPLOAD = Scene(name="stuck upload", set_up=_stuck_upload)
