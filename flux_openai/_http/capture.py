"""Capture of one HTTP exchange: how far the request got, and the body of the answer, read up to a limit.

The SDK gives access to neither. How far a request got decides whether it may have been billed; without a limit the
body could be a decompression bomb.

    with capture(exchange):                    the sender, around `client.post`
      exchange = captured(request)             the client's `_send_request`, a hook of the SDK
      exchange.attach(request)                 follows connect, send and receive through the `trace` extension
      read_capped(response, exchange)          -> the response for the SDK, without secrets
"""

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Literal
from weakref import ref

from flux_openai._http.library import httpx
from flux_openai._http.redaction import identifier, redact_headers, redact_record, scrub, secrets_of

__all__ = [
    "BODY_LIMIT",
    "BODY_TIME",
    "HTTP_LOGGERS",
    "PATH",
    "Exchange",
    "Phase",
    "aread_capped",
    "capture",
    "captured",
    "decompressed",
    "read_capped",
]

Phase = Literal["connecting", "sending", "sent", "answering"]
"""How far a request without a whole answer got."""

PATH = "/images/generations"

BODY_LIMIT = 64 * 1024 * 1024
"""The largest body of an answer in bytes, both compressed and decompressed."""

BODY_TIME: float = 2
"""The longest time for the head of an answer, and for its whole body, in read time-outs."""

_CHUNK = 1024 * 1024
_EMPTY_ANSWER = b'{"created":0,"data":[]}'
_GZIP_MEMBERS = 16
"""The largest number of members in a gzip body; one with millions would keep the processor busy for hours."""


@dataclass(kw_only=True)
class Exchange:
    """The captured request and answer of one attempt.

    Attributes:
        key: The Idempotency-Key to send.
        phase: The furthest that the request got; None if the transport has no `trace` extension.
        status: The status of the answer's head; None if none came, or the transport has no `trace` extension.
        request: The request; None before it is sent, and after its answer was read.
        secrets: The values of the request's headers that are credentials.
        response: The answer as the SDK got it; None if none came.
        body: The whole body, or its beginning if it broke off or has a `body_error`.
        body_error: What is wrong with the body, as the end of a sentence; None if nothing is.
        request_id: The answer's X-Request-Id.
        read_timeout: Seconds of one wait on the network; None for no limit.
        writes: How often something was sent over a connection that is watched.
    """

    key: str
    phase: Phase | None = None
    status: int | None = None
    request: httpx.Request | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    response: httpx.Response | None = None
    body: bytes = b""
    body_error: str | None = None
    request_id: str | None = None
    read_timeout: float | None = None
    writes: int = 0
    _tunnelling: bool = False
    _head_until: float | None = None
    _reads: int = 0

    def attach(self, request: httpx.Request) -> None:
        """Follow the request through the HTTP library's `trace` extension; call it before the request is sent."""
        self.request, self.secrets = request, secrets_of(request.headers, request.url)
        request.extensions = {**request.extensions, "trace": self._trace}

    def attach_async(self, request: httpx.Request) -> None:
        """The same as `attach`, for an async client."""
        self.request, self.secrets = request, secrets_of(request.headers, request.url)
        request.extensions = {**request.extensions, "trace": self._atrace}

    def time_to_read(self, timeout: float | None) -> float | None:
        """Seconds for the next read from the connection, at most `timeout`.

        Raises:
            httpx.ReadTimeout: The time for the head of the answer is over.
        """
        self._reads += 1
        if self._head_until is None:
            return timeout
        left = self._head_until - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("the head of the answer was not complete in time")
        return left if timeout is None else min(left, timeout)

    async def _atrace(self, event: str, info: Mapping[str, object]) -> None:
        self._trace(event, info)

    def _trace(self, event: str, info: Mapping[str, object]) -> None:
        step = event.partition(".")[2]
        if step in _NEW_STREAM:
            _watch(info.get("return_value"))
        elif step == "receive_response_headers.started":
            timeouts = {} if self.request is None else self.request.extensions.get("timeout", {})
            read = timeouts.get("read")
            self._head_until, self._reads = None if read is None else time.monotonic() + BODY_TIME * read, 0
        elif step.startswith("receive_response_headers."):
            self._head_until = None
            if event == "http11.receive_response_headers.complete" and self.writes and not self._reads:
                # With this exception the HTTP library closes the connection.
                raise httpx.RemoteProtocolError("the answer was there before the request was sent: it is to another")
        if step == "send_request_headers.started":
            # The CONNECT request to a proxy comes first, with the same trace: our request is not sent yet.
            self._tunnelling = getattr(info.get("request"), "method", b"") == b"CONNECT"
        connecting = self._tunnelling or step.startswith(("connect_", "start_tls"))
        phase = "connecting" if connecting else _PHASES.get(step)
        # The phase never falls back: a transport that sends the request once more by itself has sent it all the same.
        if phase is not None and _ORDER[phase] > _ORDER[self.phase]:
            self.phase = phase
        if phase == "answering":
            head = info.get("return_value")  # of HTTP/1: version, status, reason, headers; of HTTP/2: status, headers
            parts = head if isinstance(head, tuple) else ()
            self.status = next((part for part in parts if isinstance(part, int)), None)


_PHASES: Mapping[str, Phase] = {
    "send_request_headers.started": "sending",
    "send_request_body.complete": "sent",
    "receive_response_headers.complete": "answering",
}
_ORDER: Mapping[Phase | None, int] = {None: 0, "connecting": 1, "sending": 2, "sent": 3, "answering": 4}

_NEW_STREAM = ("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")


def _watch(stream: object) -> None:
    """Bound the time for the head of an answer that comes over this connection, and see whether it comes too early.

    The HTTP library has a time-out for each read only: a server that sends a byte at a time could go on for ever. It
    also takes what a server sent behind the last answer for the answer to the next request. A connection is kept for
    later requests; each is watched by its own exchange.
    """
    with suppress(AttributeError, TypeError):  # a network backend of the user's may forbid it
        # The methods do not hold the connection: it would refer to itself, and live until a garbage collection.
        stream.read, stream.write = partial(_read, ref(stream)), partial(_write, ref(stream))  # type: ignore[attr-defined]


def _read(stream_ref: Callable[[], Any], max_bytes: int, timeout: float | None = None) -> object:
    stream, exchange = stream_ref(), _CURRENT.get()
    if exchange is not None:
        timeout = exchange.time_to_read(timeout)
    return type(stream).read(stream, max_bytes, timeout=timeout)


def _write(stream_ref: Callable[[], Any], buffer: bytes, timeout: float | None = None) -> object:
    stream, exchange = stream_ref(), _CURRENT.get()
    if exchange is not None:
        exchange.writes += 1
    return type(stream).write(stream, buffer, timeout=timeout)


_CURRENT: ContextVar[Exchange | None] = ContextVar("flux_openai_exchange", default=None)


def _redact_logs(record: logging.LogRecord) -> bool:
    exchange = _CURRENT.get()
    if exchange is not None:
        redact_record(record, exchange.secrets)
    return True


HTTP_LOGGERS = (
    *("httpx", "httpx2", "hpack.hpack", "hpack.table"),
    *(
        f"{core}.{part}"
        for core in ("httpcore", "httpcore2")
        for part in ("connection", "http11", "http2", "proxy", "socks")
    ),
)
"""The loggers of the HTTP libraries; a filter works for the very logger that it was added to."""

_LOGGERS = tuple(logging.getLogger(name) for name in (*HTTP_LOGGERS, "openai._base_client"))


@contextmanager
def capture(exchange: Exchange) -> Iterator[None]:
    """Make this the exchange of the requests that this thread or task sends inside the block."""
    for logger in _LOGGERS:
        # Added again and again, because `logging.config.dictConfig` may have removed it.
        logger.addFilter(_redact_logs)
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def captured(request: httpx.Request) -> Exchange | None:
    """The exchange of a FLUX request, whose Idempotency-Key and Accept-Encoding are set; None for other requests.

    The headers are set here because openai 2, given them as options, would also send default headers that differ in
    case only.
    """
    exchange = _CURRENT.get()
    if exchange is None or request.method != "POST" or not request.url.path.endswith(PATH):
        return None
    request.headers["Idempotency-Key"] = exchange.key
    request.headers["Accept-Encoding"] = "gzip"  # the one coding that is decompressed under a cap
    return exchange


@dataclass(kw_only=True)
class _BodyReader:
    """The body of an answer while it is read; `error` says which limit it exceeds, if any."""

    limit: int
    seconds: float | None
    clock: Callable[[], float]
    start: float
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    error: str | None = None

    def feed(self, chunk: bytes) -> bool:
        """Add a chunk; True if a limit is exceeded and nothing more may be read."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        if self.size > self.limit:
            self.error = f"is larger than {self.limit // _CHUNK} MiB"
        elif self.seconds is not None and self.clock() - self.start > self.seconds:
            self.error = f"was not complete after {self.seconds:g} s"
        return self.error is not None


def read_capped(
    response: httpx.Response,
    exchange: Exchange,
    *,
    limit: int = BODY_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Response:
    """Read the body of an open response into the exchange, up to the limits, and return the response for the SDK.

    If the body breaks off, the error of the HTTP library is raised, and the exchange has the beginning.
    """
    in_memory = response.is_stream_consumed
    reader = _reader(response, exchange, limit, clock)
    try:
        if in_memory:
            reader.feed(response.content)
        else:
            for chunk in response.iter_raw():
                if reader.feed(chunk):
                    break
    finally:
        response.close()
        for_sdk = _recorded(response, exchange, reader, encoded=not in_memory)
    return for_sdk


async def aread_capped(
    response: httpx.Response,
    exchange: Exchange,
    *,
    limit: int = BODY_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Response:
    """The same as `read_capped`, for an async client."""
    in_memory = response.is_stream_consumed
    reader = _reader(response, exchange, limit, clock)
    try:
        if in_memory:
            reader.feed(response.content)
        else:
            async for chunk in response.aiter_raw():
                if reader.feed(chunk):
                    break
    finally:
        await response.aclose()
        for_sdk = _recorded(response, exchange, reader, encoded=not in_memory)
    return for_sdk


def _reader(response: httpx.Response, exchange: Exchange, limit: int, clock: Callable[[], float]) -> _BodyReader:
    timeouts: Mapping[str, float | None] = response.request.extensions.get("timeout", {})
    exchange.read_timeout = read = timeouts.get("read")
    return _BodyReader(limit=limit, seconds=None if read is None else BODY_TIME * read, clock=clock, start=clock())


def _recorded(response: httpx.Response, exchange: Exchange, reader: _BodyReader, *, encoded: bool) -> httpx.Response:
    """Record the answer in the exchange, and make the response for the SDK.

    `encoded` is False for the body of a mock transport, which the HTTP library has already decompressed.
    """
    # Of a body above the limit only the first chunks are kept: joining all would double the memory.
    whole = reader.error is None or reader.size <= _CHUNK
    body, exchange.body_error = b"".join(reader.chunks if whole else reader.chunks[:8]), reader.error
    encoding = response.headers.get("content-encoding")
    if encoding and encoded and reader.error is None:
        body, exchange.body_error = decompressed(body, encoding, reader.limit)
    exchange.body = body
    # Remove the trace callback: it refers back to the exchange, and such a cycle lives until a garbage collection.
    request, extensions = response.request, {**response.request.extensions}
    extensions.pop("trace", None)
    request.extensions = extensions
    # The SDK would parse the body of a success a second time, and raise a bare ValueError if it is not JSON. So the SDK
    # gets a placeholder, unless the caller uses `with_raw_response` and reads the body.
    unparsed = response.is_success and "x-stainless-raw-response" not in request.headers
    # Redacted here because some releases of the SDK log all headers.
    headers = redact_headers(response.headers, exchange.secrets)
    exchange.request_id = identifier(response.headers.get("x-request-id"))
    exchange.response = type(response)(
        response.status_code,
        headers=headers,
        content=_EMPTY_ANSWER if unparsed else body,
        request=request,
        extensions={**response.extensions, **_reason(response, exchange.secrets)},
    )
    exchange.response.elapsed = timedelta(seconds=reader.clock() - reader.start)
    return exchange.response


def _reason(response: httpx.Response, secrets: tuple[str, ...]) -> dict[str, bytes]:
    """The reason phrase for the `extensions` of a response, without the key that a server may repeat in it."""
    reason: bytes | None = response.extensions.get("reason_phrase")
    return {} if reason is None else {"reason_phrase": scrub(reason.decode("latin-1"), secrets).encode("latin-1")}


def decompressed(data: bytes, encoding: str, limit: int) -> tuple[bytes, str | None]:
    """The decompressed body and None, or the body as it came and what is wrong with it.

    Only gzip is accepted, in two layers at most, because each layer can expand a body a thousandfold.
    """
    layers = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(layers) > 2 or set(layers) - {"gzip"}:
        return data, "comes in a content encoding that was not asked for"
    for _ in layers:
        data, error = _gunzip(data, limit)
        if error is not None:
            return data, error
    return data, None


def _gunzip(data: bytes, limit: int) -> tuple[bytes, str | None]:
    out, rest = bytearray(), data
    try:
        for _ in range(_GZIP_MEMBERS):
            rest = _gunzip_member(rest, out, limit)
            if len(out) > limit:
                return data, f"is larger than {limit // _CHUNK} MiB when decompressed"
            if not rest.startswith(b"\x1f\x8b"):
                return bytes(out), None
    except zlib.error:
        return data, "is not valid gzip"
    return data, "is packed in too many pieces"


def _gunzip_member(data: bytes, out: bytearray, limit: int) -> bytes:
    """Decompress one gzip member into `out`, stop above the limit, and return the data behind the member."""
    gunzip, rest = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), data
    while not gunzip.eof and len(out) <= limit:
        piece = gunzip.decompress(rest, _CHUNK)
        rest = gunzip.unconsumed_tail
        if not piece and not rest and not gunzip.eof:
            raise zlib.error
        out += piece
    return gunzip.unused_data
