"""Capture of one HTTP exchange: how far the request got, and the body of the answer, read up to a limit.

The SDK gives access to neither. How far a request got decides whether it may have been billed; without a limit the
body could be a decompression bomb.

    with capture(exchange):                    the sender, around `client.post`; logs are redacted inside (logs.py)
      exchange = captured(request)             the client's `_send_request`, a hook of the SDK
      exchange.attach(request)                 follows connect, send and receive through the `trace` extension, limits
                                               the wait for the head, and refuses an answer to another request
      read_capped(response, exchange)          body under the limits, decompressed -> the response for the SDK, redacted
"""

import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from itertools import chain
from typing import Any, Literal
from weakref import ref

from flux_openai._http.library import httpx
from flux_openai._http.logs import filtered_logs, redact_record
from flux_openai._http.redaction import identifier, redact_headers, scrub, secrets_of
from flux_openai._http.streams import TRAFFIC, Traffic, watch_new_stream

__all__ = [
    "BLANK_TIME",
    "BODY_LIMIT",
    "BODY_TIME",
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

BODY_LIMIT = 64 * 1024 * 1024
"""The largest body of an answer in bytes, both compressed and decompressed."""

BODY_TIME: float = 2
"""The longest time for the head of an answer, and for its whole body, in read time-outs; waiting for blanks does not
count."""

BLANK_TIME: float = 10
"""The same, and waiting for blanks counts: a service sends them to keep a connection open while it makes the images."""

_CHUNK = 1024 * 1024
_EMPTY_ANSWER = b'{"created":0,"data":[]}'
_GZIP_MEMBERS = 16
"""The largest number of members in a gzip body; one with millions would keep the processor busy for hours."""


@dataclass(kw_only=True)
class Exchange:
    """The captured request and answer of one attempt.

    Attributes:
        key: The Idempotency-Key to send.
        path: The end of the request's path, by which it is told from others of the same call, such as for a token.
        is_answer: Whether a body is a whole answer. Then it is accepted although it came in a faulty way.
        phase: The furthest that the request got; None if the transport has no `trace` extension.
        status: The status of the answer's head; None if none came, or the transport has no `trace` extension.
        request: The request; None before it is sent, and after its answer was read.
        secrets: The values of the request's headers that are credentials.
        response: The answer as the SDK got it; None if none came.
        body: The whole body, or its beginning if it broke off or has a `body_error`.
        body_error: What is wrong with the body, as the end of a sentence; None if it can be read.
        notices: What was wrong with the way that an accepted body came.
        request_id: The answer's X-Request-Id.
        peer: The host that was connected to, such as a proxy; None if a connection of the pool was used.
        key_source: Says where the key of the request came from, for the error of a 401.
        read_timeout: Seconds of one wait on the network; None for no limit.
        traffic: The reads and writes of this attempt.
    """

    key: str
    path: str
    is_answer: Callable[[bytes], bool] = field(default=lambda _: False, repr=False)
    phase: Phase | None = None
    status: int | None = None
    request: httpx.Request | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    response: httpx.Response | None = None
    body: bytes = field(default=b"", repr=False)
    body_error: str | None = None
    notices: tuple[str, ...] = ()
    request_id: str | None = None
    read_timeout: float | None = None
    peer: str | None = None
    key_source: Callable[[], str] | None = field(default=None, repr=False)
    traffic: Traffic = field(default_factory=Traffic, repr=False)
    _tunnelling: bool = False

    def attach(self, request: httpx.Request) -> None:
        """Follow the request through the HTTP library's `trace` extension; call it before the request is sent."""
        self.request, self.secrets = request, secrets_of(request.headers, request.url)
        request.extensions = {**request.extensions, "trace": self._trace}

    def attach_async(self, request: httpx.Request) -> None:
        """The same as `attach`, for an async client."""
        self.request, self.secrets = request, secrets_of(request.headers, request.url)
        request.extensions = {**request.extensions, "trace": self._atrace}

    async def _atrace(self, event: str, info: Mapping[str, object]) -> None:
        self._trace(event, info)

    def _trace(self, event: str, info: Mapping[str, object]) -> None:
        step = event.partition(".")[2]
        if step not in _STEPS:
            return
        if step == "connect_tcp.started":
            self.peer = str(info.get("host"))
        elif step.endswith(".complete") and _STEPS[step] == "connecting":
            watch_new_stream(event, info)
        elif step == "receive_response_headers.started":
            timeouts = {} if self.request is None else self.request.extensions.get("timeout", {})
            read = timeouts.get("read")
            self.traffic.until, self.traffic.reads = None if read is None else time.monotonic() + BODY_TIME * read, 0
        elif step.startswith("receive_response_headers."):
            self.traffic.until = None
            if event == "http11.receive_response_headers.complete" and self.traffic.writes and not self.traffic.reads:
                # With this exception the HTTP library closes the connection.
                raise httpx.RemoteProtocolError("the answer was there before the request was sent: it is to another")
        elif step == "send_request_headers.started":
            # The CONNECT request to a proxy comes first, with the same trace: our request is not sent yet.
            self._tunnelling = getattr(info.get("request"), "method", b"") == b"CONNECT"
        phase = "connecting" if self._tunnelling else _STEPS[step]
        # The phase never falls back: a transport that sends the request once more by itself has sent it all the same.
        if phase is not None and _ORDER[phase] > _ORDER[self.phase]:
            self.phase = phase
        if phase == "answering":
            head = info.get("return_value")  # of HTTP/1: version, status, reason, headers; of HTTP/2: status, headers
            parts = head if isinstance(head, tuple) else ()
            self.status = next((part for part in parts if isinstance(part, int)), None)


_STEPS: Mapping[str, Phase | None] = {
    **{
        f"{step}.{state}": "connecting"
        for step in ("connect_tcp", "connect_unix_socket", "start_tls")
        for state in ("started", "complete", "failed")
    },
    "send_request_headers.started": "sending",
    "send_request_body.complete": "sent",
    "receive_response_headers.started": None,
    "receive_response_headers.complete": "answering",
    "receive_response_headers.failed": None,
}
"""The steps of a request that are followed, and the phase that each begins, if any."""
_ORDER: Mapping[Phase | None, int] = {None: 0, "connecting": 1, "sending": 2, "sent": 3, "answering": 4}

_CURRENT: ContextVar["ref[Exchange] | None"] = ContextVar("flux_openai_exchange", default=None)
"""A weak reference: asyncio keeps the context of a cancelled time-out for a while, and it would keep the answer."""


def _current() -> Exchange | None:
    current = _CURRENT.get()
    return None if current is None else current()


def capture(exchange: Exchange) -> AbstractContextManager[None]:
    """Make this the exchange of the requests that this thread or task sends inside the block."""
    return filtered_logs(_redact_record, (_CURRENT, ref(exchange)), (TRAFFIC, exchange.traffic))


def _redact_record(record: logging.LogRecord) -> bool:
    exchange = _current()
    return redact_record(record, () if exchange is None else exchange.secrets)


def captured(request: httpx.Request) -> Exchange | None:
    """The exchange of a FLUX request, whose Idempotency-Key and Accept-Encoding are set; None for other requests.

    The headers are set here because openai 2, given them as options, would also send default headers that differ in
    case only.
    """
    exchange = _current()
    if exchange is None or request.method != "POST" or not request.url.path.endswith(exchange.path):
        return None
    request.headers["Idempotency-Key"] = exchange.key
    request.headers["Accept-Encoding"] = "gzip"  # the one coding that is decompressed under a cap
    return exchange


@dataclass(kw_only=True)
class _BodyReader:
    """The body of an answer while it is read.

    Attributes:
        limit: The largest number of bytes.
        read_timeout: Seconds of one wait on the network; None for no limit.
        clock: The clock.
        start: When the body began to be read.
        last: When the last chunk came.
        buffer: What came so far.
        error: What is wrong with how it came, as the end of a sentence: which limit it exceeds, say.
    """

    limit: int
    read_timeout: float | None
    clock: Callable[[], float]
    start: float
    last: float
    buffer: BytesIO = field(default_factory=BytesIO)
    error: str | None = None
    _blank: float = 0

    def feed(self, chunk: bytes) -> bool:
        """Add a chunk; True if a limit is exceeded and nothing more may be read."""
        self.buffer.write(chunk)
        now = self.clock()
        self._blank += now - self.last if chunk.isspace() else 0
        self.last = now
        if self.buffer.tell() > self.limit:
            self.error = f"is larger than {self.limit // _CHUNK} MiB"
        elif self.read_timeout is not None:
            for waited, longest in ((now - self.start - self._blank, BODY_TIME), (now - self.start, BLANK_TIME)):
                if waited > longest * self.read_timeout:
                    self.error = f"was not complete after {longest * self.read_timeout:g} s"
        return self.error is not None


def read_capped(
    response: httpx.Response,
    exchange: Exchange,
    *,
    limit: int = BODY_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Response:
    """Read the body of an open response into the exchange, up to the limits, and return the response for the SDK.

    If the body breaks off before it is a whole answer, the error of the HTTP library is raised, and the exchange has
    the beginning.
    """
    in_memory = response.is_stream_consumed
    reader = _reader(response, exchange, limit, clock)
    try:
        try:
            if in_memory:
                reader.feed(response.content)
            else:
                for chunk in response.iter_raw():
                    if reader.feed(chunk):
                        break
        finally:
            response.close()
    except Exception:
        # Whatever it is (a transport may raise errors of its own): what counts is whether the answer came whole.
        reader.error = "ended with a broken connection"
        for_sdk = _recorded(response, exchange, reader, encoded=not in_memory)
        if exchange.body_error is not None:
            raise
        return for_sdk
    return _recorded(response, exchange, reader, encoded=not in_memory)


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
        try:
            if in_memory:
                reader.feed(response.content)
            else:
                async for chunk in response.aiter_raw():
                    if reader.feed(chunk):
                        break
        finally:
            await response.aclose()
    except Exception:
        # Whatever it is (a transport may raise errors of its own): what counts is whether the answer came whole.
        reader.error = "ended with a broken connection"
        for_sdk = _recorded(response, exchange, reader, encoded=not in_memory)
        if exchange.body_error is not None:
            raise
        return for_sdk
    return _recorded(response, exchange, reader, encoded=not in_memory)


def _reader(response: httpx.Response, exchange: Exchange, limit: int, clock: Callable[[], float]) -> _BodyReader:
    timeouts: Mapping[str, float | None] = response.request.extensions.get("timeout", {})
    exchange.read_timeout = timeouts.get("read")
    start = clock()
    return _BodyReader(limit=limit, read_timeout=exchange.read_timeout, clock=clock, start=start, last=start)


def _recorded(response: httpx.Response, exchange: Exchange, reader: _BodyReader, *, encoded: bool) -> httpx.Response:
    """Record the answer in the exchange, and make the response for the SDK.

    `encoded` is False for the body of a mock transport, which the HTTP library has already decompressed.
    """
    _record_body(response, exchange, reader, encoded=encoded)
    # Remove the trace callback: it refers back to the exchange, and such a cycle lives until a garbage collection. The
    # HTTP library has the same dict in a request of its own.
    request = response.request
    request.extensions.pop("trace", None)
    # The SDK would parse the body of a success a second time, and raise a bare ValueError if it is not JSON. So the SDK
    # gets a placeholder, unless the caller uses `with_raw_response` and reads the body.
    raw = request.headers.get("x-stainless-raw-response") if response.is_success else ""
    # Redacted here because some releases of the SDK log all headers.
    headers = redact_headers(response.headers, exchange.secrets)
    exchange.request_id = identifier(response.headers.get("x-request-id"))
    if raw is None:
        response.headers = type(response.headers)(headers)
        response.extensions = {**response.extensions, **_reason(response, exchange.secrets)}
        response._content = _EMPTY_ANSWER  # noqa: SLF001  # a new Response would take much longer
        exchange.response = response
        return response
    content: dict[str, Any] = {"content": exchange.body}
    if raw == "stream" and encoded:
        # `with_streaming_response` gives out a response that is still to be read: `is_closed` is False.
        headers.append((b"content-length", str(len(exchange.body)).encode()))
        content = {"stream": httpx.ByteStream(exchange.body)}
    exchange.response = type(response)(
        response.status_code,
        headers=headers,
        request=request,
        extensions={**response.extensions, **_reason(response, exchange.secrets)},
        **content,
    )
    exchange.response.elapsed = timedelta(seconds=reader.clock() - reader.start)
    return exchange.response


def _reason(response: httpx.Response, secrets: tuple[str, ...]) -> dict[str, bytes]:
    """The reason phrase for the `extensions` of a response, without the key that a server may repeat in it."""
    reason: bytes | None = response.extensions.get("reason_phrase")
    return (
        {} if reason in (None, b"OK") else {"reason_phrase": scrub(reason.decode("latin-1"), secrets).encode("latin-1")}
    )


def _record_body(response: httpx.Response, exchange: Exchange, reader: _BodyReader, *, encoded: bool) -> None:
    body = raw = reader.buffer.getvalue()
    fault, encoding = reader.error, response.headers.get("content-encoding", "").lower()
    if encoding and encoded and len(raw) <= reader.limit:
        body, wrong = decompressed(raw, encoding, reader.limit)
        fault = fault or wrong
    if fault is None and body.startswith(_GZIP_MAGIC):
        fault = "is compressed once more than it says"
    if fault is None:
        exchange.body = body
        exchange.notices = (f"the answer {_NOT_ASKED_FOR}: deflate",) if "deflate" in encoding else ()
        return
    # An image that came whole is paid for. So the body counts if it is an answer, unpacked or as it came.
    for candidate in chain((body, raw) if body is not raw else (raw,), _guessed(body, raw, reader.limit)):
        if response.is_success and len(candidate) <= reader.limit and exchange.is_answer(candidate):
            exchange.body, exchange.notices = candidate, (f"the answer {fault}, but its JSON is whole",)
            return
    exchange.body, exchange.body_error = raw, fault


_GZIP_MAGIC = b"\x1f\x8b"


def _guessed(body: bytes, raw: bytes, limit: int) -> Iterator[bytes]:
    """What is in a body that is compressed in another way than its Content-Encoding says."""
    if len(raw) > limit:
        return
    packed = body if body.startswith(_GZIP_MAGIC) else raw
    yield _unpack(packed, "gzip" if packed.startswith(_GZIP_MAGIC) else "deflate", limit)[0]


_NOT_ASKED_FOR = "comes in a content encoding that was not asked for"


def decompressed(data: bytes, encoding: str, limit: int) -> tuple[bytes, str | None]:
    """The decompressed body and None, or what could be decompressed and what is wrong with it.

    Only gzip and deflate are accepted, in two layers at most, because each layer can expand a body a thousandfold.
    """
    layers = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(layers) > 2 or set(layers) - _UNPACK.keys():
        return data, _NOT_ASKED_FOR
    for name in reversed(layers):
        data, error = _unpack(data, name, limit)
        if error is not None:
            return data, error
    return data, None


_UNPACK: Mapping[str, tuple[int, ...]] = {
    "gzip": (zlib.MAX_WBITS | 16,),
    "x-gzip": (zlib.MAX_WBITS | 16,),
    # The standard says zlib, and some servers send the bare stream.
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
"""The `wbits` of zlib to try for each content encoding."""


def _unpack(data: bytes, name: str, limit: int) -> tuple[bytes, str | None]:
    """The body without one content encoding."""
    out, rest = bytearray(), data
    for _ in range(_GZIP_MEMBERS):
        rest, whole = _unpack_member(rest, _UNPACK[name], out, limit)
        if len(out) > limit:
            return data, f"is larger than {limit // _CHUNK} MiB when decompressed"
        if not whole:
            return bytes(out), f"is not valid {name}"
        if not rest.startswith(_GZIP_MAGIC):
            return bytes(out), None
    return data, "is packed in too many pieces"


def _unpack_member(data: bytes, formats: tuple[int, ...], out: bytearray, limit: int) -> tuple[bytes, bool]:
    """Decompress one member into `out`, stop above the limit; the data behind it, and whether it came whole."""
    start = len(out)
    for wbits in formats:
        del out[start:]
        member, rest = zlib.decompressobj(wbits=wbits), data
        try:
            while not member.eof and len(out) <= limit:
                piece = member.decompress(rest, _CHUNK)
                rest = member.unconsumed_tail
                if not piece and not rest and not member.eof:
                    return b"", False
                out += piece
        except zlib.error:
            continue
        return member.unused_data, True
    return b"", False
