"""Watched network streams: the connections of the HTTP library, with a deadline for reads and a count of them.

The HTTP library has a time-out for each read only: a server that sends a byte at a time could go on for ever. It also
takes what a server sent behind the last answer for the answer to the next request, and finds out slowly whether an idle
connection was closed. It hands each new stream to the `trace` extension of the request that opens it. A stream is kept
for later requests, so the current block decides what limits its reads, see `TRAFFIC`.
"""

import select
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import anyio

from flux_openai._http.context import Bound
from flux_openai._http.library import httpx

__all__ = ["TRAFFIC", "Traffic", "aread_until", "awatch_new_stream", "read_until", "watch_new_stream"]


@dataclass(kw_only=True)
class Traffic:
    """The reads and writes of one block over watched streams.

    Attributes:
        until: When reads must end, in seconds of `time.monotonic`; None for no limit.
        reads: How often something was read.
        writes: How often something was written.
    """

    until: float | None = None
    reads: int = 0
    writes: int = 0

    def time_to_read(self, timeout: float | None) -> float | None:
        """Seconds for the next read, at most `timeout`.

        Raises:
            httpx.ReadTimeout: The deadline has passed.
        """
        self.reads += 1
        if self.until is None:
            return timeout
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpx.ReadTimeout("the deadline has passed")
        return left if timeout is None else min(left, timeout)


TRAFFIC: ContextVar[Traffic | None] = ContextVar("flux_openai_traffic", default=None)
"""Counts what this thread or task reads and writes, and limits how long it reads."""


def read_until(deadline: float) -> AbstractContextManager[None]:
    """Let no read of this thread wait longer than until `deadline`; it then raises `httpx.ReadTimeout`."""
    return Bound((TRAFFIC, Traffic(until=deadline)))


def aread_until(deadline: float) -> AbstractContextManager[object]:
    """Let no await in the block wait longer than until `deadline`, whatever the transport; `TimeoutError` is raised."""
    return anyio.fail_after(max(0.0, deadline - time.monotonic()))


_NEW = (".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")


def watch_new_stream(event: str, info: Mapping[str, Any]) -> None:
    """Watch the stream that this event is about, if it is about a new one. It can be a `trace` extension."""
    if event.endswith(_NEW):
        stream: Any = info.get("return_value")
        with suppress(AttributeError, TypeError):  # a network backend of the user's may forbid it
            # The methods do not hold the stream: it would refer to itself, and live until a garbage collection.
            stream.read, stream.write = partial(_read, ref(stream)), partial(_write, ref(stream))
            # Windows has no `poll`, and the library's own way stays.
            if hasattr(stream, "aclose") and hasattr(select, "poll"):
                socket, poll = stream.get_extra_info("socket"), select.poll()
                poll.register(socket, select.POLLIN)
                stream.get_extra_info = partial(_extra_info, ref(stream), socket.fileno, poll.poll)


async def awatch_new_stream(event: str, info: Mapping[str, Any]) -> None:
    """The same as `watch_new_stream`, for async clients."""
    watch_new_stream(event, info)


def _read(stream_ref: Callable[[], Any], max_bytes: int, timeout: float | None = None) -> object:
    stream, traffic = stream_ref(), TRAFFIC.get()
    if traffic is not None:
        timeout = traffic.time_to_read(timeout)
    return type(stream).read(stream, max_bytes, timeout=timeout)


def _write(stream_ref: Callable[[], Any], buffer: bytes, timeout: float | None = None) -> object:
    stream, traffic = stream_ref(), TRAFFIC.get()
    if traffic is not None:
        traffic.writes += 1
    return type(stream).write(stream, buffer, timeout=timeout)


def _extra_info(
    stream_ref: Callable[[], Any], fileno: Callable[[], int], poll: Callable[[int], list[tuple[int, int]]], info: str
) -> object:
    # The HTTP library asks this of every idle connection at the start and the end of every request: if it is readable,
    # the server has closed it. By its own way it then asks anyio for all attributes of the stream, which took a third
    # of the CPU time of a batch.
    if info == "is_readable":
        return fileno() < 0 or bool(poll(0))
    stream = stream_ref()
    return type(stream).get_extra_info(stream, info)
