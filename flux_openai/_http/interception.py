"""The interception of requests in tests: an emulator in this process answers what the clients of this package send.

with intercepting(Interceptor(…)):      the pytest fixture `flux_emulator`
  readdressed(client, request)          the clients' `_send_request`: the HTTP client that sends the request
  network_of(client)                    the sender: the HTTP client and the base_url for the downloads of an answer
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import openai

from flux_openai._http.library import httpx

__all__ = ["InProcessTransport", "Interceptor", "intercepting", "network_of", "readdressed"]


class InProcessTransport(httpx.MockTransport):
    """The transport to an emulator in this process, for sync and async clients.

    A client that has it is not intercepted: it sends nothing away.
    """

    def __init__(
        self,
        handle: Callable[[httpx.Request], httpx.Response],
        ahandle: Callable[[httpx.Request], Awaitable[httpx.Response]],
    ) -> None:
        """With the emulator's two ways to answer a request."""
        super().__init__(handle)
        self._ahandle = ahandle

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request of an async client."""
        await request.aread()
        return await self._ahandle(request)


@dataclass(frozen=True, kw_only=True)
class Interceptor:
    """The transport that answers in place of those of the clients, and the base_url that requests get."""

    base_url: str
    transport: InProcessTransport


_current: Interceptor | None = None
# No ContextVar: threads and event loops that the code under test starts, perhaps before the test, have to see it.

_INTERCEPTED = re.compile(r"/(images/[\w-]+|models|flux-[\w.-]+)/*\Z")
"""The end of the paths that are intercepted: of images, whatever their model, and of the list of models."""


@contextmanager
def intercepting(interceptor: Interceptor | None) -> Iterator[None]:
    """Let the interceptor answer inside the block; None ends what an outer block has begun."""
    global _current  # noqa: PLW0603  # one for the whole process, see above
    outer, _current = _current, interceptor
    try:
        yield
    finally:
        _current = outer


@overload
def network_of(client: openai.OpenAI) -> tuple[httpx.Client, str]: ...
@overload
def network_of(client: openai.AsyncOpenAI) -> tuple[httpx.AsyncClient, str]: ...
def network_of(client: openai.OpenAI | openai.AsyncOpenAI) -> tuple[httpx.Client | httpx.AsyncClient, str]:
    """The HTTP client and the base_url of the client's calls: its own, or in a test those of the interceptor."""
    http = client._client  # noqa: SLF001  # the only way to the SDK's own HTTP client
    if _current is None or isinstance(getattr(http, "_transport", None), InProcessTransport):
        return http, str(client.base_url)
    kind: type[httpx.Client | httpx.AsyncClient] = httpx.Client
    if isinstance(client, openai.AsyncOpenAI):
        kind = httpx.AsyncClient
    transport: Any = _current.transport
    if not isinstance(http, kind):  # of the other HTTP library, which has other responses
        return kind(transport=transport), _current.base_url
    # A copy has the event hooks, the authentication and the cookies of the client. It is of the plain class, because a
    # subclass may send in its own way, and those of the SDK close themselves when they are collected.
    other: httpx.Client | httpx.AsyncClient = object.__new__(kind)
    vars(other).update(vars(http), _transport=transport, _mounts={})
    return other, _current.base_url


@overload
def readdressed(client: openai.OpenAI, request: httpx.Request) -> tuple[httpx.Client, httpx.Request] | None: ...
@overload
def readdressed(
    client: openai.AsyncOpenAI, request: httpx.Request
) -> tuple[httpx.AsyncClient, httpx.Request] | None: ...
def readdressed(
    client: openai.OpenAI | openai.AsyncOpenAI, request: httpx.Request
) -> tuple[httpx.Client | httpx.AsyncClient, httpx.Request] | None:
    """The HTTP client of the interceptor, and the request with its address; None if the request is not intercepted."""
    if _current is None or not _INTERCEPTED.search(request.url.path):
        return None
    http, base_url = network_of(client)
    if http is client._client:  # noqa: SLF001  # see above
        return None
    url = httpx.URL(base_url).copy_with(raw_path=request.url.raw_path)
    if type(request) is httpx.Request:
        request.url = url
    else:  # of the other HTTP library
        headers, extensions = request.headers.raw, request.extensions
        request = httpx.Request(request.method, url, headers=headers, content=request.read(), extensions=extensions)
    request.headers["host"] = url.netloc.decode("ascii")
    return http, request
