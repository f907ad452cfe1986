"""What the tests of money run against: four fakes, each for what it shows best.

- `Emulator().client()`, the emulator behind httpx.MockTransport, for whatever a status, a body or a named exception can
  say. There is no socket, so a test takes milliseconds, and the emulator's bill says what was paid.
- `Emulator().serve()`, the emulator on a port: the same faults as bytes on a connection (test_matrix.py).
- `serve(...)`, a FakeServer on a raw socket, for what no HTTP server does: resets, silence, half an answer, broken
  TLS and proxies. Its `requests` has every request that arrived whole.
- `Answers(...)`, a function behind MockTransport, for exceptions and answers that the emulator does not have.

A test is sync unless the async code differs: tests/contracts/test_parity.py proves that it is the same code. Where the
HTTP library underneath differs, `side` runs a test with both kinds of client.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Literal, cast

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, FluxOpenAI, RetryPolicy
from flux_openai._http import capture
from flux_openai._http.library import httpx
from flux_openai.errors import FluxError
from tests.promises.money.fakes import CERTIFICATES, FakeServer, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from flux_openai import FluxImagesResponse
    from flux_openai.retry import RetryEvent

KEY = "sk-flux-test-KEY-0f3a"
Side = Literal["sync", "async"]


class Caller:
    """A client of either kind, called from sync code; `events` has what its `on_retry` was called with."""

    def __init__(
        self, client: FluxOpenAI | AsyncFluxOpenAI, run: Callable[[Any], Any], events: list[RetryEvent]
    ) -> None:
        self.client = client
        self.events = events
        self.run = run

    @property
    def images(self) -> Any:  # noqa: ANN401  # of either kind
        """The images resource of the client."""
        return self.client.images

    def generate(self, prompt: str = "a red fox", **options: object) -> FluxImagesResponse:
        """One call that succeeds."""
        return cast("FluxImagesResponse", self.run(self.images.generate(prompt=prompt, **options)))

    def fails(self, prompt: str = "a red fox", **options: object) -> FluxError:
        """One call that must raise an error of the SDK's kind, which must be one of ours."""
        with pytest.raises(openai.OpenAIError) as caught:
            self.generate(prompt, **options)
        assert isinstance(caught.value, FluxError)
        return caught.value

    def with_options(self, **options: Any) -> Caller:  # noqa: ANN401  # whatever with_options takes
        """The same over a copy of the client."""
        return Caller(self.client.with_options(**options), self.run, self.events)


if TYPE_CHECKING:
    MakeServer = Callable[..., FakeServer]
    OpenClient = Callable[..., Caller]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine stands between a client and the loopback interface."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    """Start a FakeServer with a script; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*script: Step, certificate: str | None = None) -> FakeServer:
            server = FakeServer(*script, certificate=certificate)
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def side() -> Side:
    """The kind of client; `@both_sides` overrides it."""
    return "sync"


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    """The test authority is trusted; made once, since reading certificates takes most of the time of a client."""
    return ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))


@pytest.fixture
def open_client(side: Side, trust: ssl.SSLContext) -> Iterator[OpenClient]:
    """Make a client of this test's kind.

    `http` are options of its HTTP client, `retry` are options of its RetryPolicy, which never waits unless told to.
    """
    with contextlib.ExitStack() as stack:
        run: Callable[[Any], Any] = lambda result: result  # noqa: E731  # the sync half of the next line
        if side == "async":
            run = stack.enter_context(asyncio.Runner()).run

        def start(
            base_url: str = "http://127.0.0.1:1/v1",
            *,
            http: Mapping[str, object] | None = None,
            retry: Mapping[str, object] | None = None,
            timeout: openai.Timeout | None = None,
            **options: Any,  # noqa: ANN401  # whatever the client takes
        ) -> Caller:
            events: list[RetryEvent] = []
            policy = RetryPolicy(**cast("Any", {"waiting": False, "on_retry": events.append, **(retry or {})}))
            settings = {"api_key": KEY, "base_url": base_url, "timeout": timeout or openai.Timeout(30), **options}
            network = cast("Any", {"verify": trust, **(http or {})})
            if "socket_options" in network:
                kind = httpx.HTTPTransport if side == "sync" else httpx.AsyncHTTPTransport
                network["transport"] = kind(verify=trust, socket_options=network.pop("socket_options"))
            client: FluxOpenAI | AsyncFluxOpenAI
            if side == "sync":
                client = FluxOpenAI(http_client=openai.DefaultHttpxClient(**network), retry=policy, **settings)
            else:
                anetwork = openai.DefaultAsyncHttpxClient(**network)
                client = AsyncFluxOpenAI(http_client=anetwork, retry=policy, **settings)
            stack.callback(lambda: run(client.close()))
            return Caller(client, run, events)

        yield start


@pytest.fixture
def short_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body may take 0.1 s under a read time-out of 60 s, where it has 120 s otherwise.

    The one inner name that is patched: with a real read time-out so short, a busy machine would end the wait for the
    head of an answer as well.
    """
    monkeypatch.setattr(capture, "BODY_TIME", 0.1 / 60)
