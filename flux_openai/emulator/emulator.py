"""The public class `Emulator`: clients, faults, recorded requests and a server, on top of `ImageService`."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from flux_openai._http.interception import InProcessTransport
from flux_openai._http.library import httpx
from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import Reply, TransportFault
from flux_openai.emulator.faults.fault import Target
from flux_openai.emulator.faults.queue import make_fault
from flux_openai.emulator.faults.rules import Rule, Script
from flux_openai.emulator.faults.script import as_script
from flux_openai.emulator.journal import Bill, JournalFile, SeenRequest
from flux_openai.emulator.load.clock import Clock, RealClock, VirtualClock
from flux_openai.emulator.load.latency import Latency
from flux_openai.emulator.load.limits import Limit, RateLimiter
from flux_openai.emulator.service import ImageService
from flux_openai.emulator.transport.in_process import apply_read_timeout, asend_trace, deliver, send_trace
from flux_openai.emulator.transport.server import Server
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.retry import RetryEvent, RetryPolicy

__all__ = ["Emulator", "HTTPClientOptions"]


class HTTPClientOptions(TypedDict, total=False):
    """The options of an httpx client that have an effect without a network."""

    auth: tuple[str, str] | httpx.Auth
    base_url: str | httpx.URL
    cookies: dict[str, str]
    event_hooks: Mapping[str, list[Callable[..., object]]]
    follow_redirects: bool
    headers: Mapping[str, str]
    max_redirects: int
    params: Mapping[str, str]
    timeout: float | httpx.Timeout | None
    trust_env: bool


class Emulator:
    """A FLUX image service on this machine, for tests and first steps: documented answers, real pictures, no network.

        emulator = Emulator()
        client = emulator.client()
        emulator.fail(status=429)
        client.images.generate(prompt="a red fox")  # the client retries after the 429
        assert emulator.bill.images == 1

    It is safe to use from several threads. An "order" is a request for images. Limits are checked first: a request that
    a limit refuses uses up no fault. Then come the faults: an order that its fault leaves unbilled counts against no
    limit and has no latency.

    With a VirtualClock the clients wait in virtual time, so a limit admits them when they retry. Two things are still
    measured in real time: `max_elapsed` of their RetryPolicy, and the time-outs for a whole body and a download.

    Args:
        api_key: The only key accepted; None accepts any.
        pixels: The approximate area of a picture, at least 1. None stands for a megapixel, or for the exact size where
            the request has one.
        clock: A clock, or a function that returns the Unix time in seconds.
        limits: The rate limits and quotas: objects such as TokenBucket, or texts such as "10/s", "window:60/min",
            "concurrency=8" and "credits=100".
        latency: How long an order takes: an object such as Lognormal, or a text such as "6s", "lognormal:6s,p99=20s"
            or "steps:1s+0.2s*steps".
        script: A fault script, such as "prompt~/cat/ #1 -> status(503)".
        seed: The seed of the script's probabilities.
        journal: The path of a file to which each request is appended as a line of JSON.

    Raises:
        ConfigurationError: An option is invalid.
    """

    base_url: str = "https://flux-emulator.invalid/v1"
    """The base_url of the clients, with a name that never exists: links and log lines show that nothing was paid."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        pixels: int | None = None,
        clock: Clock | Callable[[], float] = time.time,
        limits: Iterable[Limit | str] = (),
        latency: Latency | str = "0s",
        script: str | Script | Rule | None = None,
        seed: int = 0,
        journal: str | Path | None = None,
    ) -> None:
        _check_options(api_key=api_key, pixels=pixels, clock=clock, seed=seed, journal=journal)
        self.api_key = api_key
        self.clock = clock if isinstance(clock, Clock) else RealClock(now=clock)
        self._service = ImageService(
            api_key=api_key,
            pixels=pixels,
            clock=self.clock,
            limiter=RateLimiter(limits=limits, latency=latency),
            script=as_script(script),
            seed=seed,
            journal=None if journal is None else JournalFile(journal),
        )

    @property
    def requests(self) -> list[SeenRequest]:
        """A list of every request so far, oldest first, including those that failed."""
        return self._service.requests

    @property
    def bill(self) -> Bill:
        """What the calls so far would have cost: an immutable snapshot."""
        return self._service.bill

    def client(self, **options: Any) -> FluxOpenAI:  # noqa: ANN401  # whatever FluxOpenAI takes
        """A FluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return FluxOpenAI(http_client=self.http_client(), **self._client_options(options))

    def async_client(self, **options: Any) -> AsyncFluxOpenAI:  # noqa: ANN401  # whatever AsyncFluxOpenAI takes
        """An AsyncFluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return AsyncFluxOpenAI(http_client=self.async_http_client(), **self._client_options(options))

    def _client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = {
            "api_key": self.api_key or "emulators-need-no-key",
            "base_url": self.base_url,
            "retry": RetryPolicy(waiting=False),
        }
        chosen = {**own, **options}
        if isinstance(self.clock, VirtualClock) and isinstance(chosen["retry"], RetryPolicy):
            chosen["retry"] = _wait_on(self.clock, chosen["retry"])
        return chosen

    def http_client(self, **options: Unpack[HTTPClientOptions]) -> httpx.Client:
        """An `httpx.Client` whose requests are answered by this emulator, whatever their host."""
        return httpx.Client(transport=InProcessTransport(self.handle, self.ahandle), **options)

    def async_http_client(self, **options: Unpack[HTTPClientOptions]) -> httpx.AsyncClient:
        """An `httpx.AsyncClient` whose requests are answered by this emulator, whatever their host."""
        return httpx.AsyncClient(transport=InProcessTransport(self.handle, self.ahandle), **options)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> Server:
        """Serve this emulator on a port of this machine, until `close` or the end of a `with` block.

        Args:
            host: A loopback address.
            port: 0 to 65535; 0 picks a free one.

        Raises:
            ConfigurationError: `host` is not a loopback address, or the port is not available.

        Example:
            with emulator.serve() as server:
                requests.get(f"{server.base_url}/models", headers={"Authorization": "Bearer any"})
        """
        return Server(self.answer, host=host, port=port, wait=self.clock.asleep)

    def fail(
        self,
        times: int = 1,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: object | bytes | str | None = None,
        error: TransportFault | None = None,
        billed: bool | None = None,
        on: Target = "generate",
    ) -> None:
        """Make the next `times` calls of one kind fail. Several calls of this method queue up.

        Args:
            times: The number of calls, at least 1.
            status: The status of the answer, 200 to 599. Give this or `error`.
            headers: Additional headers of that answer.
            body: Its body: bytes, text, or a value for JSON. Default: the documented error of the status.
            error: How the exchange breaks: before the request is sent ("connect", "dns", "tls", …), afterwards
                ("timeout", "reset", "garbage"), or half way through the body of a good answer ("truncate").
            billed: Whether an order is billed. Default: True for a 2xx, and for an error after the request was sent.
            on: The kind of call: "generate" or "download".

        Raises:
            ConfigurationError: With everything that is wrong with the arguments.

        Example:
            emulator.fail(2, status=429, headers={"retry-after": "1"})
            emulator.fail(error="timeout")
        """
        fault = make_fault(times=times, status=status, headers=headers, body=body, error=error, billed=billed, on=on)
        self._service.fail(fault, times=times, on=on)

    def script(self, script: str | Script | Rule | None) -> None:
        """Replace the fault script; None removes it. Faults that `fail` has queued come before the script.

        Occurrences (`#1`, `#every 5`) count all requests that no limit refused, also those before this call.

        Raises:
            ScriptError: The text is not a valid script.

        Example:
            emulator.script("prompt~/cat/ #1..2 -> status(429, retry_after=1s)")
        """
        self._service.script(as_script(script))

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request after its latency, for `httpx.MockTransport`.

        Raises:
            httpx.TransportError: A fault breaks the exchange.
        """
        self.clock.sleep(self._postponed())
        reply = apply_read_timeout(self.answer(request), request=request)
        self.clock.sleep(reply.delay)
        send_trace(reply, request=request)
        return deliver(reply, request=request, clock=self.clock)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        """The same as `handle`, for async clients."""
        await self.clock.asleep(self._postponed())
        reply = apply_read_timeout(self.answer(request), request=request)
        await self.clock.asleep(reply.delay)
        await asend_trace(reply, request=request)
        return deliver(reply, request=request, clock=self.clock)

    def _postponed(self) -> float:
        return self.clock.postponed() if isinstance(self.clock, VirtualClock) else 0.0

    def answer(self, request: httpx.Request) -> Reply:
        """Answer one request with plain values, for a custom transport. It does not wait: see `Reply.delay`."""
        return self._service.answer(request)


def _check_options(*, api_key: object, pixels: object, clock: object, seed: object, journal: object) -> None:
    """Raise ConfigurationError at once for an option that would fail in a later call."""
    invalid = []
    if api_key is not None and not (isinstance(api_key, str) and api_key.strip()):
        rule = "must be a string that is not blank; None takes any"
        invalid.append(InvalidParam(param="api_key", value=api_key, rule=rule))
    if pixels is not None and (not is_whole(pixels) or pixels < 1):
        invalid.append(InvalidParam(param="pixels", value=pixels, rule="must be an int from 1", nearest=1))
    if isinstance(clock, type) or not (isinstance(clock, Clock) or callable(clock)):
        rule = "must be a clock, as in VirtualClock(), or a function that gives the Unix time in seconds"
        invalid.append(InvalidParam(param="clock", value=clock, rule=rule))
    if not is_whole(seed):
        invalid.append(InvalidParam(param="seed", value=seed, rule="must be an int", nearest=0))
    if not isinstance(journal, str | PathLike | None):
        rule = "must be the path of a file"
        invalid.append(InvalidParam(param="journal", value=journal, rule=rule, nearest="emulator.jsonl"))
    if invalid:
        raise ConfigurationError.of(*invalid)


def _wait_on(clock: VirtualClock, policy: RetryPolicy) -> RetryPolicy:
    """The policy with waits on a virtual clock instead of real ones.

    `on_retry` is not a coroutine, so it cannot wait for the clock. Instead it postpones the next request of its thread
    or task, and `handle` waits before it answers that.
    """
    users_hook = policy.on_retry

    def on_retry(event: RetryEvent) -> None:
        if users_hook is not None:
            users_hook(event)
        clock.postpone(event.wait)

    return replace(policy, waiting=False, on_retry=on_retry)
