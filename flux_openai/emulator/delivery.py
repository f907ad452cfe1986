"""A reply's way to an httpx client in this process: what it raises, and how the body comes."""

import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from types import MappingProxyType

from flux_openai.emulator.clock import Clock
from flux_openai.emulator.replies import Breakage, Reply, pieces_of
from flux_openai.sdk import httpx

__all__ = ["as_seen", "atell", "deliver", "tell"]


def as_seen(reply: Reply, *, request: httpx.Request) -> Reply:
    """The reply as its caller sees it: what would come after the read time-out is given up then, and never comes."""
    read = _read_timeout(request)
    return reply if read is None or reply.delay <= read else Reply(status=0, error="timeout", delay=read)


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


_Raised = tuple[type[httpx.TransportError], str, OSError | None]

_RAISED: Mapping[Breakage, _Raised] = MappingProxyType(
    {
        "connect": (httpx.ConnectError, "connection refused", None),
        "dns": (httpx.ConnectError, "unknown host", socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        "connect_timeout": (httpx.ConnectTimeout, "no connection in time", None),
        "tls": (httpx.ConnectError, "TLS hand-shake failed", ssl.SSLError(1, "[SSL] record layer failure")),
        "certificate": (
            httpx.ConnectError,
            "certificate refused",
            ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"),
        ),
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

    Raises the httpx.TransportError that belongs to its breakage; a truncated answer raises httpx.RemoteProtocolError
    while it is read. Nothing is unpacked yet, as on a wire: that is up to the caller.
    """
    if reply.error is not None and reply.error != "truncate":
        kind, says, cause = _RAISED[reply.error]
        raise kind(f"{says} (by the emulator)", request=request) from cause
    headers = {**reply.headers, "content-length": str(len(reply.body))}
    # As bytes, for httpx takes only ASCII in a string.
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    plain = reply.error is None and not reply.drip
    stream = httpx.ByteStream(reply.body) if plain else _Body(reply, read=_read_timeout(request), clock=clock)
    return httpx.Response(reply.status, headers=raw, stream=stream)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes slowly, or not to its end."""

    def __init__(self, reply: Reply, *, read: float | None, clock: Clock) -> None:
        self._pieces = pieces_of(reply)
        self._clock = clock
        pause = reply.drip / max(1, len(self._pieces))
        late = read is not None and pause > read
        self._pause = read if late and read is not None else pause
        self._late = httpx.ReadTimeout("the next piece did not come in time (by the emulator)") if late else None
        came = sum(map(len, self._pieces))
        says = f"peer closed connection after {came} of {len(reply.body)} bytes"
        self._end = httpx.RemoteProtocolError(says) if reply.error == "truncate" else None

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

    def _taken(self, piece: bytes) -> bytes:
        if self._late:
            raise self._late
        return piece
