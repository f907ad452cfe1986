"""One exchange as seen on the wire: how far the request got, and its answer, read under a cap.

The SDK hands over neither. How far a request got decides whether it can have been billed; an answer that is read
without a cap can be a decompression bomb.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from flux_openai._http.library import httpx
from flux_openai._http.redaction import identifier, redact_headers, secrets_of

__all__ = [
    "BODY_LIMIT",
    "BODY_TIME",
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
"""Bytes that the body of an answer may have, compressed and decompressed."""

BODY_TIME: float = 2
"""How many read time-outs the body of an answer may take until it is complete."""

_CHUNK = 1024 * 1024
_EMPTY_ANSWER = b'{"created":0,"data":[]}'
_GZIP_MEMBERS = 16
"""Members that a gzip body may have; one of millions would keep the processor busy for hours."""


@dataclass(kw_only=True)
class Exchange:
    """What is seen of one attempt.

    `key` is its Idempotency-Key, and `secrets` the values of its headers that must not be shown. `phase` is how far the
    request got, None if the transport has no trace. `response` is the answer as the SDK got it, and `body` its whole
    body, or the beginning of one that broke off or has a `body_error`. `request_id` is the answer's X-Request-Id, and
    `read_timeout` how many seconds the call waits for the network at a time, None for no limit.
    """

    key: str
    phase: Phase | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    response: httpx.Response | None = None
    body: bytes = b""
    body_error: str | None = None
    request_id: str | None = None
    read_timeout: float | None = None
    _tunnelling: bool = False

    def attach(self, request: httpx.Request) -> None:
        """Follow the request through the HTTP library's `trace` extension; call it before the request is sent."""
        self.secrets = secrets_of(request.headers)
        request.extensions = {**request.extensions, "trace": self._trace}

    def attach_async(self, request: httpx.Request) -> None:
        """The same for a request that an async client sends."""
        self.secrets = secrets_of(request.headers)
        request.extensions = {**request.extensions, "trace": self._atrace}

    async def _atrace(self, event: str, info: Mapping[str, object]) -> None:
        self._trace(event, info)

    def _trace(self, event: str, info: Mapping[str, object]) -> None:
        step = event.partition(".")[2]
        if step == "send_request_headers.started":
            # A proxy is sent a CONNECT request first, under the same trace: nothing of ours is on its way yet.
            self._tunnelling = getattr(info.get("request"), "method", b"") == b"CONNECT"
        if self._tunnelling or step.startswith(("connect_", "start_tls")):
            if self.phase not in ("sending", "sent", "answering"):
                self.phase = "connecting"
        elif step in _PHASES:
            self.phase = _PHASES[step]

    def full_response(self) -> httpx.Response | None:
        """The answer with its whole body, which the SDK is not always given."""
        if self.response is None:
            return None
        response = self.response
        return type(response)(
            response.status_code, headers=response.headers, content=self.body, request=response.request
        )


_PHASES: Mapping[str, Phase] = {
    "send_request_headers.started": "sending",
    "send_request_body.complete": "sent",
    "receive_response_headers.complete": "answering",
}

_CURRENT: ContextVar[Exchange | None] = ContextVar("flux_openai_exchange", default=None)


@contextmanager
def capture(exchange: Exchange) -> Iterator[None]:
    """Make this the exchange of the requests that this thread or task sends inside the block."""
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def captured(request: httpx.Request) -> Exchange | None:
    """The exchange that a request belongs to, its headers set; None for every request that is not a FLUX call.

    The headers are set here and not in the SDK's options: openai 2 would send a default header of another spelling too.
    """
    exchange = _CURRENT.get()
    if exchange is None or request.method != "POST" or not request.url.path.endswith(PATH):
        return None
    request.headers["Idempotency-Key"] = exchange.key
    request.headers["Accept-Encoding"] = "gzip"  # the one coding that is decompressed under a cap
    return exchange


@dataclass(kw_only=True)
class _BodyReader:
    """A body under way: bytes and seconds are counted, and the first limit that is passed is the `error`."""

    limit: int
    seconds: float | None
    clock: Callable[[], float]
    start: float
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    error: str | None = None

    def feed(self, chunk: bytes) -> bool:
        """Add a chunk; True when nothing more may be read."""
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
    """Read the body of an open response under the caps, into the exchange, and return the response for the SDK.

    If the body breaks off, the error of the HTTP library is raised, and the exchange keeps what had come.
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
    """The same for the response of an async client."""
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
    """Record the answer in the exchange, and make the response that the SDK is given.

    `encoded` is False for a body that a mock transport made: the HTTP library has decompressed it already.
    """
    # Of a body above the limit the beginning is enough: a second copy would only cost memory.
    whole = reader.error is None or reader.size <= _CHUNK
    body, exchange.body_error = b"".join(reader.chunks if whole else reader.chunks[:8]), reader.error
    encoding = response.headers.get("content-encoding")
    if encoding and encoded and reader.error is None:
        body, exchange.body_error = decompressed(body, encoding, reader.limit)
    exchange.body = body
    # The trace leads from the response back to the exchange: such a cycle lives until a garbage collection.
    request, extensions = response.request, {**response.request.extensions}
    extensions.pop("trace", None)
    request.extensions = extensions
    # The SDK parses the body of a success, unless the caller asked for the raw response. It would be the second time,
    # and it would raise a bare ValueError for a body that is no JSON.
    unparsed = response.is_success and "x-stainless-raw-response" not in request.headers
    # Redacted here, for some releases of the SDK log every header of what they are given.
    headers = redact_headers(response.headers, exchange.secrets)
    exchange.request_id = identifier(response.headers.get("x-request-id"))
    exchange.response = type(response)(
        response.status_code,
        headers=headers,
        content=_EMPTY_ANSWER if unparsed else body,
        request=request,
        extensions=response.extensions,
    )
    exchange.response.elapsed = timedelta(seconds=reader.clock() - reader.start)
    return exchange.response


def decompressed(data: bytes, encoding: str, limit: int) -> tuple[bytes, str | None]:
    """The body without its content encoding, and what is wrong with it, if anything.

    Only gzip is asked for. It is undone twice at most, for each layer can multiply a few bytes by a thousand.
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
    """Decompress one gzip member onto `out`, until it is over the limit, and return what comes after it."""
    gunzip, rest = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), data
    while not gunzip.eof and len(out) <= limit:
        piece = gunzip.decompress(rest, _CHUNK)
        rest = gunzip.unconsumed_tail
        if not piece and not rest and not gunzip.eof:
            raise zlib.error
        out += piece
    return gunzip.unused_data
