"""The in-process transport: delivers a reply to an httpx client, as a response or as the exception of a fault."""

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
    """The reply, or a time-out in its place if its delay is longer than the read time-out of the request."""
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
    """The same as `send_trace`, for an async client."""
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
        "proxy": (httpx.ProxyError, "502 Bad Gateway", None),
        "pool": (httpx.PoolTimeout, "no connection free in time", None),
        "upload_reset": (httpx.WriteError, "connection reset while sending", None),
        "upload_timeout": (httpx.WriteTimeout, "the request could not be sent in time", None),
        "timeout": (httpx.ReadTimeout, "no answer in time", None),
        "reset": (httpx.ReadError, "connection reset", None),
        "garbage": (httpx.RemoteProtocolError, "not HTTP", None),
    }
)
"""The exception of httpx for each fault without a head, its message and its cause."""


def deliver(reply: Reply, *, request: httpx.Request, clock: Clock) -> httpx.Response:
    """The reply as a response of httpx; a body with `drip` waits on the clock while it is read.

    The content encoding is not decoded, as on a real connection.

    Raises:
        httpx.TransportError: For the reply's fault; if the head is sent, it is raised while the body is read.
    """
    if reply.error is not None and reply.status == 0:
        kind, message, cause = _RAISED[reply.error]
        raise kind(f"{message} (by the emulator)", request=request) from cause and cause()
    pieces = body_pieces(reply, method=request.method)
    whole = reply.error is None and not reply.drip
    stream = httpx.ByteStream(b"".join(pieces)) if whole else _Body(reply, pieces, request=request, clock=clock)
    return httpx.Response(reply.status, headers=raw_headers(reply), stream=stream)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The stream of a body that arrives slowly or breaks off."""

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
        # An empty body, or one that HTTP forbids, cannot break off: nothing is missing.
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
