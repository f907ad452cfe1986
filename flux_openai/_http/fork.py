"""Forked processes: in the child of a fork, an HTTP client forgets the connections that it shares with its parent.

Otherwise both processes write to one socket, and each may read the answer to the other's request: an image that the
other has paid for. The HTTP libraries do not notice a fork.
"""

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any
from weakref import WeakSet

from flux_openai._http.library import httpx

__all__ = ["own_connections_after_fork"]

_CLIENTS: "WeakSet[httpx.Client | httpx.AsyncClient]" = WeakSet()
_OF_THE_PARENT: list[object] = []
"""The forgotten connections. They are kept, because closing one properly would end it for the parent too."""


def own_connections_after_fork(client: httpx.Client | httpx.AsyncClient) -> None:
    """Let this HTTP client make connections of its own in the child of a fork."""
    _CLIENTS.add(client)


def _forget_connections() -> None:
    # No lock is taken: a thread that does not exist in the child may have held it. The libraries have no public way to
    # forget a connection without closing it.
    for client in [*_CLIENTS]:
        mounted = getattr(client, "_mounts", {}).values()
        for transport in chain.from_iterable(map(_transports, [getattr(client, "_transport", None), *mounted])):
            pool: Any = getattr(transport, "_pool", None)
            if hasattr(pool, "_connections") and hasattr(pool, "_optional_thread_lock"):
                _OF_THE_PARENT.append(pool._connections)  # noqa: SLF001  # see above
                pool._connections, pool._requests = [], []  # noqa: SLF001
                pool._optional_thread_lock = type(pool._optional_thread_lock)()  # noqa: SLF001
            elif type(getattr(transport, "client", None)).__name__ == "ClientSession":  # aiohttp
                _OF_THE_PARENT.append(transport.client)
                transport.client = None  # the transport makes another one


def _transports(transport: object) -> Iterator[Any]:
    """The transport and those that it wraps."""
    if isinstance(transport, httpx.BaseTransport | httpx.AsyncBaseTransport):
        yield transport
        for inner in [*vars(transport).values()]:
            yield from _transports(inner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_connections)
