"""FLUX image models through the official OpenAI client: validated, retried without paying twice, normalized."""

import importlib
import typing

if typing.TYPE_CHECKING:
    from flux_openai.adapter import adapt
    from flux_openai.client import AsyncFluxOpenAI, FluxOpenAI
    from flux_openai.client import AsyncFluxOpenAI as AsyncOpenAI
    from flux_openai.client import FluxOpenAI as OpenAI
    from flux_openai.emulated import Emulator
    from flux_openai.errors import BadResponseError, InvalidParamsError
    from flux_openai.images import FluxImage, FluxImagesResponse
    from flux_openai.retries import RetryPolicy

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
    "adapter": {"adapt": "adapt"},
    "client": {
        "AsyncFluxOpenAI": "AsyncFluxOpenAI",
        "AsyncOpenAI": "AsyncFluxOpenAI",
        "FluxOpenAI": "FluxOpenAI",
        "OpenAI": "FluxOpenAI",
    },
    "emulated": {"Emulator": "Emulator"},
    "errors": {"BadResponseError": "BadResponseError", "InvalidParamsError": "InvalidParamsError"},
    "images": {"FluxImage": "FluxImage", "FluxImagesResponse": "FluxImagesResponse"},
    "retries": {"RetryPolicy": "RetryPolicy"},
}
"""The module of each name, and what it is called there."""


# Hidden from the type checker, which would take any name at all for one of ours.
if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load everything at the first use of anything.

        pytest imports this package in every test run, for its plugin; most runs make no image, and must not wait for
        the SDK.
        """
        if name.startswith("__") or "adapt" in globals():
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = {home: importlib.import_module(f"{__name__}.{home}") for home in _HOMES}
        found = {ours: getattr(modules[home], theirs) for home in _HOMES for ours, theirs in _HOMES[home].items()}
        globals().update(found)  # at once: another thread sees all names or none
        return getattr(importlib.import_module(__name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
