"""The arguments of one call, as the caller wrote them: unchecked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import openai

from flux_openai._http.library import httpx
from flux_openai.models import DEFAULT_MODEL
from flux_openai.request.model_choice import is_flux

__all__ = ["CallArguments", "RequestExtras", "given", "is_flux_call"]


@dataclass(frozen=True, kw_only=True)
class RequestExtras:
    """The SDK's own escape hatches, which every method of it takes."""

    headers: Mapping[str, str | openai.Omit] = field(default_factory=dict, repr=False)
    query: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN


@dataclass(frozen=True, kw_only=True)
class CallArguments:
    """What one method was called with: its named arguments, the SDK's escape hatches and `split`, unchecked."""

    verb: Literal["generate", "edit"]
    named: Mapping[str, object] = field(repr=False)
    extra_body: object = field(repr=False)
    extras: RequestExtras
    split: object


def given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that were given: None and the SDK's own marks for "not given" count as left out."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and not isinstance(value, openai.Omit | openai.NotGiven)
    }


def is_flux_call(order: CallArguments, defaults: Mapping[str, object]) -> bool:
    """Whether the call is for a FLUX model; else it is the SDK's to serve, as it came."""
    bodies = (given(order.named), given(order.extra_body) if isinstance(order.extra_body, Mapping) else {})
    models = [body["model"] for body in bodies if "model" in body] or [defaults.get("model", DEFAULT_MODEL)]
    return any(is_flux(model) for model in models)
