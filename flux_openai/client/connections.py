"""The connections of a batch: several HTTP clients, each for a few requests at a time.

At the start and at the end of each request, the HTTP library looks at every connection of its client: the CPU time of a
request grows with the number of those under way. With one HTTP client, a row of 64 under way takes a fifth more.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import openai

from flux_openai._http.library import httpx
from flux_openai.client.clients import AsyncFluxOpenAI

__all__ = ["Connections"]

_MOST = 8
"""How many requests and their downloads one HTTP client has under way."""


class Connections:
    """A client and copies of it, each with an HTTP client of its own.

    Args:
        client: The client, which stays open. If it was given an `http_client`, there are no copies: nobody knows how
            that was set up.
    """

    def __init__(self, client: AsyncFluxOpenAI) -> None:
        """Made with the client alone; copies are made when they are needed."""
        self._clients, self._in_use = [client], [0]
        self._only = not client._settings.default_http_client  # noqa: SLF001  # a client of this package
        self._made = list[httpx.AsyncClient]()

    @contextmanager
    def client(self) -> Iterator[AsyncFluxOpenAI]:
        """A client for one request and its downloads, the first that has room for them."""
        place = 0 if self._only else self._place()
        self._in_use[place] += 1
        try:
            yield self._clients[place]
        finally:
            self._in_use[place] -= 1

    def _place(self) -> int:
        for place, requests in enumerate(self._in_use):
            if requests < _MOST:
                return place
        http = openai.DefaultAsyncHttpxClient(verify=self._certificates)
        self._made.append(http)
        self._clients.append(self._clients[0].with_options(http_client=http))
        self._in_use.append(0)
        return len(self._in_use) - 1

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()  # once: it takes as long as several requests

    async def aclose(self) -> None:
        """Close what was made."""
        for http in self._made:
            await http.aclose()
