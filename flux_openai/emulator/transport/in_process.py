"""A reply on its way to an httpx client in this process: what the transport raises, and how the body arrives."""

import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import MappingProxyType

from flux_openai._http.library import httpx
from flux_openai.emulator.api.responses import (
    NEVER_SENT,
    Reply,
    TransportFault,
    body_pieces,
    is_bodiless,
    raw_headers,
)
from flux_openai.emulator.load.clock import Clock

__all__ = ["apply_read_timeout", "asend_trace", "deliver", "send_trace"]


def apply_read_timeout(reply: Reply, *, request: httpx.Request) -> Reply:
    """The reply as its client sees it: one that comes after the read time-out is a time-out, at that moment."""
    read = _read_timeout(request)
    if read is None or reply.delay <= read or reply.error in NEVER_SENT:
        return reply
    return Reply(status=0, error="timeout", delay=read)


def _read_timeout(request: httpx.Request) -> float | None:
    timeouts: Mapping[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("read")


def send_trace(reply: Reply, *, request: httpx.Request) -> None:
    """Call the `trace` extension of the request as a transport would before it raises."""
    for event in _trace_events(reply, request):
        request.extensions["trace"](event, {})


async def asend_trace(reply: Reply, *, request: httpx.Request) -> None:
    """The same for the request of an async client."""
    for event in _trace_events(reply, request):
        await request.extensions["trace"](event, {})


def _trace_events(reply: Reply, request: httpx.Request) -> tuple[str, ...]:
    # The exception of a broken upload does not show that the upload had begun; only the trace does.
    traced = reply.error in ("upload_reset", "upload_timeout") and "trace" in request.extensions
    return ("http11.send_request_headers.started",) if traced else ()


def _self_signed() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", 18, "self-signed certificate"
    return error


_Raised = tuple[type[httpx.TransportError], str, Callable[[], OSError] | None]

_RAISED: Mapping[TransportFault, _Raised] = MappingProxyType(
    {
        "connect": (
            httpx.ConnectError,
            "connection refused",
            lambda: ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ),
        "dns": (httpx.ConnectError, "unknown host", lambda: socket.gaierror(socket.EAI_NONAME, "unknown host")),
        "connect_timeout": (httpx.ConnectTimeout, "no connection in time", None),
        "tls": (httpx.ConnectError, "TLS handshake failed", lambda: ssl.SSLError(1, "[SSL] record layer failure")),
        "certificate": (httpx.ConnectError, "certificate refused", _self_signed),
        "proxy": (httpx.ProxyError, "407 Proxy Authentication Required", None),
        "pool": (httpx.PoolTimeout, "no connection free in time", None),
        "upload_reset": (httpx.WriteError, "connection reset while sending", None),
        "upload_timeout": (httpx.WriteTimeout, "the request could not be sent in time", None),
        "timeout": (httpx.ReadTimeout, "no answer in time", None),
        "reset": (httpx.ReadError, "connection reset", None),
        "garbage": (httpx.RemoteProtocolError, "not HTTP", None),
    }
)
"""What httpx raises for each fault that leaves no head, with its message and its cause."""


def deliver(reply: Reply, *, request: httpx.Request, clock: Clock) -> httpx.Response:
    """The reply as httpx hands it to its caller; a dripping body takes its time on the clock.

    Raises the httpx.TransportError that belongs to the reply's fault or, where the head arrives, raises it while the
    body is read. The content coding is left alone, as on a wire: decoding is up to the caller.
    """
    if reply.error is not None and reply.status == 0:
        kind, message, cause = _RAISED[reply.error]
        raise kind(f"{message} (by the emulator)", request=request) from cause and cause()
    pieces = body_pieces(reply, method=request.method)
    whole = reply.error is None and not reply.drip
    stream = httpx.ByteStream(b"".join(pieces)) if whole else _Body(reply, pieces, request=request, clock=clock)
    return httpx.Response(reply.status, headers=raw_headers(reply), stream=stream)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives slowly, or not to its end."""

    def __init__(self, reply: Reply, pieces: list[memoryview], *, request: httpx.Request, clock: Clock) -> None:
        self._pieces = [] if reply.error == "garbage" else pieces
        self._clock = clock
        self._pause = reply.drip / max(1, len(pieces))
        self._timeout: httpx.ReadTimeout | None = None
        read = _read_timeout(request)
        if read is not None and self._pause > read:
            self._pause = read
            self._timeout = httpx.ReadTimeout("the next piece did not come in time (by the emulator)")
        self._end: httpx.RemoteProtocolError | None = None
        arrived = sum(map(len, pieces))
        if reply.error == "garbage":
            self._end = httpx.RemoteProtocolError("not a chunk (by the emulator)")
        # A body that is empty, or that may not follow its head, is whole even when truncated.
        elif reply.error and arrived < len(reply.body) and not is_bodiless(reply.status, method=request.method):
            message = f"peer closed connection after {arrived} of {len(reply.body)} bytes"
            self._end = httpx.RemoteProtocolError(message)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._clock.sleep(self._pause)
            yield self._arrived(piece)
        if self._end:
            raise self._end

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await self._clock.asleep(self._pause)
            yield self._arrived(piece)
        if self._end:
            raise self._end

    def _arrived(self, piece: memoryview) -> bytes:
        if self._timeout:
            raise self._timeout
        return bytes(piece)
