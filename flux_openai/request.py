"""Checked params -> the exact call to the SDK. The only place where `extra_body` is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

import openai
from openai import RequestOptions

from flux_openai.images import FluxImagesResponse
from flux_openai.models import DEFAULT_MODEL
from flux_openai.params import Params, Unsupported, given, is_flux, validate
from flux_openai.sdk import httpx

__all__ = ["Call", "Extras", "prepare"]

_OPENAI_FIELDS = ("model", "prompt", "n", "response_format")
"""What the SDK itself has names for; all else goes through `extra_body`."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """The SDK's own escape hatches, which every method of it takes."""

    headers: Mapping[str, str | openai.Omit] = field(default_factory=dict, repr=False)
    query: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN


@dataclass(frozen=True, kw_only=True)
class Call:
    """One logical call: the same body and the same Idempotency-Key on every attempt."""

    params: Params
    key: str
    extras: Extras

    @property
    def body(self) -> dict[str, object]:
        """The fields the SDK knows."""
        values = {"model": self.params.model.id, **self.params.values}
        return {name: values[name] for name in _OPENAI_FIELDS if name in values}

    @property
    def extra_body(self) -> dict[str, object]:
        """The fields it does not."""
        values = {name: value for name, value in self.params.values.items() if name not in _OPENAI_FIELDS}
        return {**values, **self.params.extra}

    @property
    def sent(self) -> dict[str, object]:
        """The body as the SDK merges it."""
        return {**self.body, **self.extra_body}

    @property
    def raw(self) -> bool:
        """Whether the caller asked for the raw response: the SDK's wrappers say so in a header."""
        return any(name.lower() == "x-stainless-raw-response" for name in self.extras.headers)

    def options(self, *, attempt: int, parser: Callable[[object], object]) -> RequestOptions:
        """The SDK's request options for one attempt: no retries and no redirects of its own.

        `parser` turns what `.parse()` of a raw response made into what the caller gets.
        """
        options: RequestOptions = {
            "headers": {"X-Stainless-Retry-Count": str(attempt - 1), **self.extras.headers},
            "extra_json": self.extra_body,
            "params": self.extras.query,
            "max_retries": 0,
            "follow_redirects": False,
        }
        if not isinstance(self.extras.timeout, openai.NotGiven):
            options["timeout"] = self.extras.timeout
        # The SDK takes this option on every request but leaves it out of the type.
        options["post_parser"] = parser  # type: ignore[typeddict-unknown-key]
        return options


def prepare(
    keywords: Mapping[str, object],
    *,
    extra_body: object,
    extras: Extras,
    defaults: Mapping[str, object],
    unsupported: Unsupported,
) -> Call | None:
    """The call for these arguments, checked; None when the model is of another family and the SDK's to serve.

    Raises InvalidParamsError.
    """
    named = given(keywords)
    bodies = (named, given(extra_body) if isinstance(extra_body, Mapping) else {})
    models = [body["model"] for body in bodies if "model" in body] or [defaults.get("model", DEFAULT_MODEL)]
    if not any(is_flux(model) for model in models):
        return None
    params = validate(named, extra_body=extra_body, defaults=defaults, unsupported=unsupported)
    return Call(params=params, key=_key(extras.headers), extras=extras)


def _key(headers: Mapping[str, str | openai.Omit]) -> str:
    own = (value for name, value in headers.items() if name.lower() == "idempotency-key" and isinstance(value, str))
    return next(own, "") or str(uuid4())


def parsed_as(response: Callable[[], FluxImagesResponse | None]) -> Callable[[object], object]:
    """The parser of a raw response: our reading of the answer where the caller asked for no other type."""

    def parser(parsed: object) -> object:
        return response() if isinstance(parsed, FluxImagesResponse) else parsed

    return parser
