"""A deadline for all reads of a block. A time-out limits one wait only: a server may send a byte before each ends."""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import anyio

from flux_openai._http.library import httpx

__all__ = ["aread_until", "atrace_reads", "read_until", "trace_reads"]

_DEADLINE: ContextVar[float | None] = ContextVar("flux_openai_deadline", default=None)


@contextmanager
def read_until(deadline: float) -> Iterator[None]:
    """Let no read of this thread wait longer than until `deadline`, in seconds of `time.monotonic`.

    It holds for connections that were made with `trace_reads`; a read then raises `httpx.ReadTimeout`.
    """
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def aread_until(deadline: float) -> AbstractContextManager[object]:
    """Let no await in the block wait longer than until `deadline`; it then raises `TimeoutError`."""
    return anyio.fail_after(max(0.0, deadline - time.monotonic()))


class _Stream(Protocol):
    read: Callable[..., bytes]


def trace_reads(event: str, info: Mapping[str, Any]) -> None:
    """The `trace` extension of a sync request: a new connection obeys `read_until`, now and later.

    The HTTP library gives its stream to the trace, and to nobody else before the head of an answer is complete. A
    stream of an async client stays as it is.
    """
    stream = info.get("return_value")
    if stream and event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
        _limit(stream)


async def atrace_reads(_event: str, _info: Mapping[str, Any]) -> None:
    """Nothing: a task that reads can be cancelled."""


def _limit(stream: _Stream) -> None:
    read = stream.read

    def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = _DEADLINE.get()
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise httpx.ReadTimeout("the deadline has passed")
            timeout = left if timeout is None else min(left, timeout)
        return read(max_bytes, timeout)

    if not inspect.iscoroutinefunction(read):
        stream.read = read_in_time
