"""A reply's way to an httpx client in this process: what it raises, and how the body comes."""

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType

from flux_openai._http.library import httpx
from flux_openai.emulator.api.responses import NEVER_SENT, Breakage, Reply, headers_of, is_bodiless, pieces_of
from flux_openai.emulator.load.clock import Clock

__all__ = ["as_seen", "atell", "deliver", "tell"]


def as_seen(reply: Reply, *, request: httpx.Request) -> Reply:
    """The reply as its caller sees it: what would come after the read time-out is given up then, and never comes."""
    read = _read_timeout(request)
    in_time = read is None or reply.delay <= read or reply.error in NEVER_SENT
    return reply if in_time or read is None else Reply(status=0, error="timeout", delay=read)


def _read_timeout(request: httpx.Request) -> float | None:
    limits: Mapping[str, float | None] = request.extensions.get("timeout", {})
    return limits.get("read")


def tell(reply: Reply, *, request: httpx.Request) -> None:
    """Tell the `trace` of the request what a transport would tell it before it raises."""
    for event in _events(reply, request):
        request.extensions["trace"](event, {})


async def atell(reply: Reply, *, request: httpx.Request) -> None:
    """The same for the request of an async client."""
    for event in _events(reply, request):
        await request.extensions["trace"](event, {})


def _events(reply: Reply, request: httpx.Request) -> tuple[str, ...]:
    # That an upload has begun is not to be seen from how it breaks off.
    told = reply.error in ("upload_reset", "upload_timeout") and "trace" in request.extensions
    return ("http11.send_request_headers.started",) if told else ()


def _no_certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", 18, "self-signed certificate"
    return error


_Raised = tuple[type[httpx.TransportError], str, Callable[[], OSError] | None]

_RAISED: Mapping[Breakage, _Raised] = MappingProxyType(
    {
        "connect": (
            httpx.ConnectError,
            "connection refused",
            lambda: ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ),
        "dns": (httpx.ConnectError, "unknown host", lambda: socket.gaierror(socket.EAI_NONAME, "unknown host")),
        "connect_timeout": (httpx.ConnectTimeout, "no connection in time", None),
        "tls": (httpx.ConnectError, "TLS hand-shake failed", lambda: ssl.SSLError(1, "[SSL] record layer failure")),
        "certificate": (httpx.ConnectError, "certificate refused", _no_certificate),
        "proxy": (httpx.ProxyError, "407 Proxy Authentication Required", None),
        "pool": (httpx.PoolTimeout, "no connection free in time", None),
        "upload_reset": (httpx.WriteError, "connection reset while sending", None),
        "upload_timeout": (httpx.WriteTimeout, "nobody took what was sent in time", None),
        "timeout": (httpx.ReadTimeout, "no answer in time", None),
        "reset": (httpx.ReadError, "connection reset", None),
        "garbage": (httpx.RemoteProtocolError, "not HTTP", None),
    }
)


def deliver(reply: Reply, *, request: httpx.Request, clock: Clock) -> httpx.Response:
    """The reply as httpx hands it to its caller; a dripping body passes on the clock.

    Raises the httpx.TransportError that belongs to its breakage, or, where the head has arrived, while the body is
    read. Nothing is unpacked yet, as on a wire: that is up to the caller.
    """
    if reply.error is not None and reply.status == 0:
        kind, says, cause = _RAISED[reply.error]
        raise kind(f"{says} (by the emulator)", request=request) from cause and cause()
    pieces = pieces_of(reply, method=request.method)
    whole = reply.error is None and not reply.drip
    stream = httpx.ByteStream(b"".join(pieces)) if whole else _Body(reply, pieces, request=request, clock=clock)
    return httpx.Response(reply.status, headers=headers_of(reply), stream=stream)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes slowly, or not to its end."""

    def __init__(self, reply: Reply, pieces: list[memoryview], *, request: httpx.Request, clock: Clock) -> None:
        self._pieces = [] if reply.error == "garbage" else pieces
        self._clock = clock
        read, pause = _read_timeout(request), reply.drip / max(1, len(pieces))
        late = read is not None and pause > read
        self._pause = read if late and read is not None else pause
        self._late = httpx.ReadTimeout("the next piece did not come in time (by the emulator)") if late else None
        self._end = _broken_end(reply, came=sum(map(len, pieces)), method=request.method)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._clock.sleep(self._pause)
            yield self._taken(piece)
        if self._end:
            raise self._end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await self._clock.asleep(self._pause)
            yield self._taken(piece)
        if self._end:
            raise self._end

    def _taken(self, piece: memoryview) -> bytes:
        if self._late:
            raise self._late
        return bytes(piece)


def _broken_end(reply: Reply, *, came: int, method: str) -> httpx.RemoteProtocolError | None:
    if reply.error == "garbage":
        return httpx.RemoteProtocolError("not a chunk (by the emulator)")
    # Of nothing, nothing can be missing.
    if reply.error is None or came == len(reply.body) or is_bodiless(reply.status, method=method):
        return None
    return httpx.RemoteProtocolError(f"peer closed connection after {came} of {len(reply.body)} bytes")
