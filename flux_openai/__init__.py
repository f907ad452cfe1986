"""FLUX image models through the official OpenAI client: validated, retried without paying twice, normalized."""

import importlib.util
import typing

if typing.TYPE_CHECKING:
    from flux_openai.client.adapt import adapt
    from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
    from flux_openai.client.clients import AsyncFluxOpenAI as AsyncOpenAI
    from flux_openai.client.clients import FluxOpenAI as OpenAI
    from flux_openai.emulator.emulator import Emulator
    from flux_openai.errors import BadResponseError, InvalidParamsError
    from flux_openai.response.response import FluxImage, FluxImagesResponse
    from flux_openai.retry import RetryPolicy

__all__ = [
    "AsyncFluxOpenAI",
    "AsyncOpenAI",
    "BadResponseError",
    "Emulator",
    "FluxImage",
    "FluxImagesResponse",
    "FluxOpenAI",
    "InvalidParamsError",
    "OpenAI",
    "RetryPolicy",
    "adapt",
]

_HOMES = {
    "AsyncFluxOpenAI": ("client.clients", "AsyncFluxOpenAI"),
    "AsyncOpenAI": ("client.clients", "AsyncFluxOpenAI"),
    "BadResponseError": ("errors", "BadResponseError"),
    "Emulator": ("emulator.emulator", "Emulator"),
    "FluxImage": ("response.response", "FluxImage"),
    "FluxImagesResponse": ("response.response", "FluxImagesResponse"),
    "FluxOpenAI": ("client.clients", "FluxOpenAI"),
    "InvalidParamsError": ("errors", "InvalidParamsError"),
    "OpenAI": ("client.clients", "FluxOpenAI"),
    "RetryPolicy": ("retry", "RetryPolicy"),
    "adapt": ("client.adapt", "adapt"),
}
"""The module of each name, and what it is called there."""


# Hidden from the type checker, which would take any name at all for one of ours.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a public name, or a module, when it is first used.

        pytest imports this package in every test run, for its plugin, and most runs must not wait for the SDK; nor must
        a program that makes images wait for the emulator.
        """
        if name in _HOMES:
            home, theirs = _HOMES[name]
            value = getattr(importlib.import_module(f"{__name__}.{home}"), theirs)
        elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, value)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
