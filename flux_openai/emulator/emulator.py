"""The emulator with our clients in front of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flux_openai._http.library import httpx
from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.emulator import Emulator as _Emulator
from flux_openai.emulator import VirtualClock
from flux_openai.retry import RetryEvent, RetryPolicy

__all__ = ["Emulator"]


class Emulator(_Emulator):
    """The service on this machine, for tests and first steps: documented answers, real pictures, no network.

    On a VirtualClock the clients wait in virtual time, so that a limit is open again when they come back. What they
    measure themselves is real still: `max_elapsed` of their RetryPolicy, and how long a body or a download may take.
    """

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request of httpx when it is time, after what its client waits before it."""
        self.clock.sleep(self._postponed())
        return super().handle(request)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        """The same without blocking the event loop."""
        await self.clock.asleep(self._postponed())
        return await super().ahandle(request)

    def client(self, **options: Any) -> FluxOpenAI:  # noqa: ANN401  # whatever FluxOpenAI takes
        """A FluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return FluxOpenAI(http_client=self.http_client(), **self._options(options))

    def async_client(self, **options: Any) -> AsyncFluxOpenAI:  # noqa: ANN401  # whatever AsyncFluxOpenAI takes
        """An AsyncFluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return AsyncFluxOpenAI(http_client=self.async_http_client(), **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = {"api_key": self.api_key or "emulator", "base_url": self.base_url, "retry": RetryPolicy(waiting=False)}
        chosen = {**own, **options}
        if isinstance(self.clock, VirtualClock) and isinstance(chosen["retry"], RetryPolicy):
            chosen["retry"] = _virtual(chosen["retry"], clock=self.clock)
        return chosen

    def _postponed(self) -> float:
        return self.clock.postponed() if isinstance(self.clock, VirtualClock) else 0.0


def _virtual(policy: RetryPolicy, *, clock: VirtualClock) -> RetryPolicy:
    """The policy with its waits on that clock.

    `on_retry` cannot wait itself, since it is no coroutine: the next attempt is in the same thread or task, and pays.
    """
    return replace(policy, waiting=False, on_retry=_then_postpone(policy.on_retry, clock=clock))


def _then_postpone(
    told: Callable[[RetryEvent], object] | None, *, clock: VirtualClock
) -> Callable[[RetryEvent], object]:
    def on_retry(event: RetryEvent) -> None:
        if told is not None:
            told(event)
        clock.postpone(event.wait)

    return on_retry
