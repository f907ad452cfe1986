"""`adapt`: makes a FLUX-aware client from an existing OpenAI client, with the same options and HTTP client."""

import os
from dataclasses import replace
from typing import Any, Unpack, overload

import openai

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.client.setup import env_headers
from flux_openai.client.signature import with_signature
from flux_openai.client.tracebacks import hide_locals
from flux_openai.errors import ConfigurationError
from flux_openai.sending.settings import FluxOptions

__all__ = ["adapt"]


@overload
def adapt(client: openai.OpenAI, **options: Unpack[FluxOptions]) -> FluxOpenAI: ...
@overload
def adapt(client: openai.AsyncOpenAI, **options: Unpack[FluxOptions]) -> AsyncFluxOpenAI: ...
@hide_locals
@with_signature(FluxOptions)
def adapt(client: openai.OpenAI | openai.AsyncOpenAI, **options: Unpack[FluxOptions]) -> FluxOpenAI | AsyncFluxOpenAI:
    """Make a FLUX-aware client from an `openai.OpenAI` or `openai.AsyncOpenAI`.

    Args:
        client: The existing client. Key, base_url, HTTP client, time-outs, headers and query are taken from it, and the
            HTTP client is shared: closing either closes both. `max_retries` is taken too, unless it is the SDK's
            default or `retry` is given. Values that the client read from OPENAI_ORG_ID, OPENAI_PROJECT_ID and
            OPENAI_CUSTOM_HEADERS are not taken: they belong to another service. A FLUX-aware client is returned as it
            is, or copied if there are options.
        options: `retry`, `unsupported`, `split`, `defaults` and `allow_http`, as for `FluxOpenAI`.

    Raises:
        ConfigurationError: The client is of a subclass, signs in without an API key, or is for api.openai.com.

    Example:
        adapt(existing).images.generate(prompt="a red fox")

    """
    if isinstance(client, FluxOpenAI | AsyncFluxOpenAI):
        return client.copy(**options) if options else client
    _refuse(client)
    merged: dict[str, Any] = {**_inherited(client), **options}
    if options.get("retry") is not None:
        merged["max_retries"] = openai.NOT_GIVEN
    adapted = FluxOpenAI(**merged) if isinstance(client, openai.OpenAI) else AsyncFluxOpenAI(**merged)
    adapted._settings = replace(adapted._settings, key_source="the adapted client")  # noqa: SLF001  # ours
    return adapted


def _inherited(client: openai.OpenAI | openai.AsyncOpenAI) -> dict[str, Any]:
    """The options of a client, as arguments for `FluxOpenAI`."""
    ambient = env_headers()
    untouched = client.max_retries == openai.DEFAULT_MAX_RETRIES
    admin_key = _unless_ambient(getattr(client, "admin_api_key", None), "OPENAI_ADMIN_KEY")
    return {
        # Older releases of the SDK have no such option.
        **({} if admin_key is None else {"admin_api_key": admin_key}),
        "api_key": getattr(client, "_api_key_provider", None) or client.api_key,
        "base_url": client.base_url,
        "max_retries": openai.NOT_GIVEN if untouched else client.max_retries,
        "timeout": client.timeout,
        "organization": _unless_ambient(client.organization, "OPENAI_ORG_ID"),
        "project": _unless_ambient(client.project, "OPENAI_PROJECT_ID"),
        "default_headers": {k: v for k, v in client._custom_headers.items() if ambient.get(k) != v},  # noqa: SLF001
        "default_query": client._custom_query,  # noqa: SLF001
        "webhook_secret": client.webhook_secret,
        "websocket_base_url": client.websocket_base_url,
        "_strict_response_validation": client._strict_response_validation,  # noqa: SLF001
        "http_client": client._client,  # noqa: SLF001
    }


def _unless_ambient(value: str | None, variable: str) -> str | None:
    return None if value == os.environ.get(variable) else value


def _refuse(client: object) -> None:
    """Raise ConfigurationError for a client that cannot be adapted, and say what to do instead."""
    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise ConfigurationError(f"adapt() takes an openai.OpenAI or openai.AsyncOpenAI, not {_name(client)}")
    if type(client) not in (openai.OpenAI, openai.AsyncOpenAI):
        raise ConfigurationError(
            f"adapt() cannot adapt {_name(client)}: what it changes about the client would be lost. "
            "Make a FluxOpenAI beside it, with http_client= for a shared connection"
        )
    if client.base_url.host.endswith("api.openai.com"):  # also the regions of `data_residency`
        raise ConfigurationError(
            "adapt() keeps the client's base_url, and api.openai.com serves no FLUX model: "
            "give the client the base_url and key of a FLUX service first, or use FluxOpenAI()"
        )
    if getattr(client, "workload_identity", None) is not None or getattr(client, "_provider", None) is not None:
        raise ConfigurationError("adapt() takes clients with an API key; this one signs in by another way")


def _name(client: object) -> str:
    kind = client if isinstance(client, type) else type(client)
    return f"{kind.__module__}.{kind.__qualname__}"
