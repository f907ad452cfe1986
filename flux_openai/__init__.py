"""FLUX image models through the official OpenAI client: validated, retried without paying twice, normalized.

    from flux_openai import OpenAI  # was: from openai import OpenAI

Every other public name of `openai` can be imported from here too, and is the SDK's own object.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # `openai` and this package both have `OpenAI`, `AsyncOpenAI`, `Client` and `AsyncClient`. Of two star imports mypy
    # keeps the first such name and pyright the last, so ours stand both before and after those of the SDK.
    # isort: off
    from flux_openai.client.clients import *  # noqa: F403
    from openai import *  # type: ignore[assignment]  # noqa: F403
    from flux_openai.client.clients import *  # noqa: F403

    # isort: on
    # Public names that `openai` does not list in its `__all__`, so that the star leaves them out:
    from openai import VERSION as VERSION
    from openai import APIResponse as APIResponse
    from openai import AssistantEventHandler as AssistantEventHandler
    from openai import AsyncAPIResponse as AsyncAPIResponse
    from openai import AsyncAssistantEventHandler as AsyncAssistantEventHandler
    from openai import AsyncAzureOpenAI as AsyncAzureOpenAI
    from openai import AzureOpenAI as AzureOpenAI
    from openai import HttpxBinaryResponseContent as HttpxBinaryResponseContent
    from openai import pydantic_function_tool as pydantic_function_tool
    from openai import pydantic_responses_function_tool as pydantic_responses_function_tool

    from flux_openai.client.adapt import adapt as adapt
    from flux_openai.emulator.emulator import Emulator as Emulator
    from flux_openai.errors import BadResponseError as BadResponseError
    from flux_openai.errors import FluxError as FluxError
    from flux_openai.errors import FluxWarning as FluxWarning
    from flux_openai.errors import InvalidParamsError as InvalidParamsError
    from flux_openai.response.response import FluxImage as FluxImage
    from flux_openai.response.response import FluxImagesResponse as FluxImagesResponse
    from flux_openai.retry import RetryEvent as RetryEvent
    from flux_openai.retry import RetryPolicy as RetryPolicy

# Hidden from type checkers: a module with `__getattr__` has every name for them, misspelt ones too.
if not TYPE_CHECKING:
    _MODULES = {
        "AsyncClient": "client.clients",
        "AsyncFluxOpenAI": "client.clients",
        "AsyncOpenAI": "client.clients",
        "BadResponseError": "errors",
        "Client": "client.clients",
        "Emulator": "emulator.emulator",
        "FluxError": "errors",
        "FluxImage": "response.response",
        "FluxImagesResponse": "response.response",
        "FluxOpenAI": "client.clients",
        "FluxWarning": "errors",
        "InvalidParamsError": "errors",
        "OpenAI": "client.clients",
        "RetryEvent": "retry",
        "RetryPolicy": "retry",
        "adapt": "client.adapt",
    }
    """The public names, and the module of each."""

    __all__ = list(_MODULES)

    def __getattr__(name: str) -> object:
        """Load a public name, a module of this package, or a public name of `openai`, when it is first used.

        Importing everything at once would cost time: pytest imports this package in every run, for its plugin, and most
        runs do not need the SDK; a program that makes images does not need the emulator.
        """
        if name in _MODULES:
            value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        elif name == "__version__":
            value = importlib.import_module("importlib.metadata").version("flux-openai")
        elif name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        elif importlib.util.find_spec(f"{__name__}.{name}"):
            value = importlib.import_module(f"{__name__}.{name}")
        else:
            try:
                # Not cached: `openai` has module attributes that change, such as `api_key`.
                return getattr(importlib.import_module("openai"), name)
            except AttributeError:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}, nor has openai") from None
        return globals().setdefault(name, value)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
