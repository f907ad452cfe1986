"""The emulator with our clients in front of it."""

from typing import Any

from flux_openai.client import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.emulator import Emulator as _Emulator
from flux_openai.retries import RetryPolicy

__all__ = ["Emulator"]


class Emulator(_Emulator):
    """The service on this machine, for tests and first steps: documented answers, real pictures, no network."""

    def client(self, **options: Any) -> FluxOpenAI:  # noqa: ANN401  # whatever FluxOpenAI takes
        """A FluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return FluxOpenAI(http_client=self.http_client(), **self._options(options))

    def async_client(self, **options: Any) -> AsyncFluxOpenAI:  # noqa: ANN401  # whatever AsyncFluxOpenAI takes
        """An AsyncFluxOpenAI that talks to this emulator; its retries do not wait unless `retry=` says so."""
        return AsyncFluxOpenAI(http_client=self.async_http_client(), **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        own = {"api_key": self.api_key or "emulator", "base_url": self.base_url, "retry": RetryPolicy(waiting=False)}
        return {**own, **options}
