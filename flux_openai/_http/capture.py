"""One attempt as seen on the wire: how far the request got, and its answer, read under a cap.

The SDK hands over neither. How far a request got decides whether it can have been billed; an answer that is read
without a cap can be a decompression bomb.
"""

import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from flux_openai._http.library import httpx
from flux_openai._http.redaction import redact_headers, secrets_of

__all__ = [
    "BODY_LIMIT",
    "BODY_TIME",
    "PATH",
    "Exchange",
    "Phase",
    "areceive",
    "current_exchange",
    "receive",
    "watching",
]

Phase = Literal["connecting", "sending", "sent", "answering"]
"""How far a request got that has no whole answer."""

PATH = "/images/generations"

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes an answer may have, packed and unpacked."""

ACCEPT_ENCODING = "gzip"
"""What `unpacked` can unpack under a cap."""

BODY_TIME: float = 2
"""How many read time-outs a body may take until it is whole."""

_CHUNK = 1024 * 1024
_MEMBERS = 16
"""Pieces a gzip body may come in, one after the other; a body of millions would keep the processor busy for hours."""


@dataclass(kw_only=True)
class Exchange:
    """What is seen of one attempt. `key` is its Idempotency-Key."""

    key: str
    phase: Phase | None = None
    response: httpx.Response | None = None
    flaw: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    _tunnelling: bool = False

    @property
    def read_timeout(self) -> float | None:
        """Seconds for one wait on the network, as the call had them; None for no limit, or no answer."""
        return None if self.response is None else _read_timeout(self.response)

    def watch(self, request: httpx.Request) -> None:
        """Follow the request through the HTTP library's own trace; call it before the request is sent."""
        self.secrets = secrets_of(request.headers)
        request.extensions = {**request.extensions, "trace": self._saw}

    def watch_async(self, request: httpx.Request) -> None:
        """The same for a request that an async client sends."""
        self.secrets = secrets_of(request.headers)
        request.extensions = {**request.extensions, "trace": self._asaw}

    async def _asaw(self, event: str, info: Mapping[str, object]) -> None:
        self._saw(event, info)

    def _saw(self, event: str, info: Mapping[str, object]) -> None:
        step = event.partition(".")[2]
        if step == "send_request_headers.started":
            # A proxy is sent a request of its own first, under the same trace: nothing of ours is on its way yet.
            self._tunnelling = getattr(info.get("request"), "method", b"") == b"CONNECT"
        self.phase = _phase_after(step, self.phase, tunnelling=self._tunnelling)


def _phase_after(step: str, phase: Phase | None, *, tunnelling: bool) -> Phase | None:
    if tunnelling or step.startswith(("connect_", "start_tls")):
        return phase if phase in ("sending", "sent", "answering") else "connecting"
    known: Mapping[str, Phase] = {
        "send_request_headers.started": "sending",
        "send_request_body.complete": "sent",
        "receive_response_headers.complete": "answering",
    }
    return known.get(step, phase)


_CURRENT: ContextVar[Exchange | None] = ContextVar("flux_openai_exchange", default=None)


@contextmanager
def watching(exchange: Exchange) -> Iterator[None]:
    """Make this the exchange of the requests that this thread or task sends inside the block."""
    token = _CURRENT.set(exchange)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_exchange(request: httpx.Request) -> Exchange | None:
    """The exchange a request belongs to, its headers set; None for every request that is not a FLUX call.

    The headers are set here and not in the SDK's options: openai 2 would send a default header of another spelling too.
    """
    exchange = _CURRENT.get()
    if exchange is None or request.method != "POST" or not request.url.path.endswith(PATH):
        return None
    request.headers["Idempotency-Key"] = exchange.key
    request.headers["Accept-Encoding"] = ACCEPT_ENCODING
    return exchange


@dataclass(kw_only=True)
class _Intake:
    """A body under way: bytes and time are counted, and the first limit that is passed is the flaw."""

    limit: int
    seconds: float | None
    clock: Callable[[], float]
    packed: bool
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    flaw: str | None = None

    def __post_init__(self) -> None:
        self.start = self.clock()

    def full(self, chunk: bytes) -> bool:
        """Take the chunk; True when nothing more may be read."""
        self.parts.append(chunk)
        self.size += len(chunk)
        if self.size > self.limit:
            self.flaw = f"is larger than {self.limit // _CHUNK} MiB"
        elif self.seconds is not None and self.clock() - self.start > self.seconds:
            self.flaw = f"was not complete after {self.seconds:g} s"
        return self.flaw is not None

    def taken(self) -> bytes:
        """The whole body, or the beginning of one that is not worth the memory of a second copy."""
        return b"".join(self.parts if self.flaw is None or self.size <= _CHUNK else self.parts[:8])


def receive(
    response: httpx.Response,
    exchange: Exchange,
    *,
    limit: int = BODY_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Response:
    """Read an open answer under the caps and return it as one that is already read.

    What is wrong with the body as such becomes `exchange.flaw`. When the body breaks off, the error of the HTTP library
    goes on, and `exchange` keeps what had come.
    """
    intake = _intake(response, limit, clock)
    try:
        for chunk in _in_memory(response) or response.iter_raw():
            if intake.full(chunk):
                break
    finally:
        response.close()
        buffered = _kept(response, exchange, intake)
    return buffered


async def areceive(
    response: httpx.Response,
    exchange: Exchange,
    *,
    limit: int = BODY_LIMIT,
    clock: Callable[[], float] = time.monotonic,
) -> httpx.Response:
    """The same for the answer of an async client."""
    intake = _intake(response, limit, clock)
    try:
        async for chunk in _ain_memory(response) or response.aiter_raw():
            if intake.full(chunk):
                break
    finally:
        await response.aclose()
        buffered = _kept(response, exchange, intake)
    return buffered


def _in_memory(response: httpx.Response) -> Iterator[bytes] | None:
    """The body of an answer that was never on a wire, as a mock transport makes them; None for all others."""
    return iter((response.content,)) if response.is_stream_consumed else None


def _ain_memory(response: httpx.Response) -> AsyncIterator[bytes] | None:
    async def chunks() -> AsyncIterator[bytes]:
        yield response.content

    return chunks() if response.is_stream_consumed else None


def _read_timeout(response: httpx.Response) -> float | None:
    limits: Mapping[str, float | None] = response.request.extensions.get("timeout", {})
    return limits.get("read")


def _intake(response: httpx.Response, limit: int, clock: Callable[[], float]) -> _Intake:
    read = _read_timeout(response)
    return _Intake(
        limit=limit,
        seconds=None if read is None else BODY_TIME * read,
        clock=clock,
        packed=not response.is_stream_consumed,
    )


def _kept(response: httpx.Response, exchange: Exchange, intake: _Intake) -> httpx.Response:
    packing = response.headers.get("content-encoding", "") if intake.packed else ""
    body, flaw = intake.taken(), intake.flaw
    if flaw is None:
        body, flaw = unpacked(body, packing, intake.limit)
    exchange.flaw = flaw
    # It leads from the answer back to the exchange: what leads back to itself stays until a garbage collection.
    response.request.extensions = {key: value for key, value in response.request.extensions.items() if key != "trace"}
    exchange.response = type(response)(
        response.status_code,
        # Scrubbed here, for some releases of the SDK log every header of what they are given.
        headers=redact_headers(response.headers, exchange.secrets),
        content=body,
        request=response.request,
        extensions=response.extensions,
    )
    exchange.response.elapsed = timedelta(seconds=intake.clock() - intake.start)
    return exchange.response


def unpacked(data: bytes, encoding: str, limit: int) -> tuple[bytes, str | None]:
    """The body without its content encoding, and what was wrong with it, if anything.

    Only gzip is asked for, and twice at most is taken: each layer can multiply a few bytes by a thousand.
    """
    layers = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(layers) > 2 or set(layers) - {"gzip"}:
        return data, "comes in a content encoding that was not asked for"
    for _ in layers:
        data, flaw = _gunzipped(data, limit)
        if flaw is not None:
            return data, flaw
    return data, None


def _gunzipped(data: bytes, limit: int) -> tuple[bytes, str | None]:
    out, rest = bytearray(), data
    try:
        for _ in range(_MEMBERS):
            rest = _member(rest, out, limit)
            if len(out) > limit:
                return data, f"is larger than {limit // _CHUNK} MiB when unpacked"
            if not rest.startswith(b"\x1f\x8b"):
                return bytes(out), None
    except zlib.error:
        return data, "is not valid gzip"
    return data, "is packed in too many pieces"


def _member(data: bytes, out: bytearray, limit: int) -> bytes:
    """Unpack one gzip member onto `out`, until it is over the limit, and return what comes after it."""
    gunzip, rest = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), data
    while not gunzip.eof and len(out) <= limit:
        piece = gunzip.decompress(rest, _CHUNK)
        rest = gunzip.unconsumed_tail
        if not piece and not rest and not gunzip.eof:
            raise zlib.error
        out += piece
    return gunzip.unused_data
