"""Call: one checked request with its Idempotency-Key, as the arguments of the SDK's own method and as a JSON body."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import IOBase
from typing import Any, Literal
from uuid import uuid4

import openai
from anyio import to_thread

from flux_openai._http.library import httpx
from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.request.image_inputs import needs_reading
from flux_openai.request.validation import CheckedParams, split_params, validate
from flux_openai.sending.settings import Settings

__all__ = ["Call", "abuild_calls", "build_calls", "sdk_arguments"]

Method = Literal["generate", "edit"]

_SDK_FIELDS = ("model", "prompt", "n", "response_format")
"""The fields that the SDK's method has a parameter for; all others go through `extra_body`."""

_OPTIONS = ("extra_headers", "extra_query", "extra_body", "timeout", "split")
"""The arguments that are options of the request and no parameters of the model."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it goes out: the same body and the same Idempotency-Key on every attempt.

    `headers`, `query` and `timeout` are the SDK's `extra_headers`, `extra_query` and `timeout` of the call.
    """

    params: CheckedParams
    key: str
    headers: Mapping[str, str | openai.Omit] = field(default_factory=dict, repr=False)
    query: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN

    @property
    def body(self) -> dict[str, object]:
        """The whole JSON body."""
        return {"model": self.params.model.id, **self.params.values, **self.params.extra}

    @property
    def extra_body(self) -> dict[str, object]:
        """The part of the body that the SDK's method has no parameters for."""
        return {name: value for name, value in self.body.items() if name not in _SDK_FIELDS}

    @property
    def images(self) -> int:
        """How many images it asks for."""
        n = self.params.values.get("n", 1)
        return n if isinstance(n, int) else 1

    @property
    def raw_response(self) -> bool:
        """Whether the caller asked for the raw response; the SDK's wrappers say so in a header."""
        return any(name.lower() == "x-stainless-raw-response" for name in self.headers)

    @property
    def resend_arguments(self) -> dict[str, object]:
        """The arguments of `images.generate` that ask for the same images under the same Idempotency-Key.

        The caller's own headers and query are left out: an error carries these arguments, and a key may stand in those.
        """
        body = self.body
        # A call without a shape would take the one in the client's `defaults`; "auto" keeps it without.
        shape = {} if {"aspect_ratio", "size"} & body.keys() else {"size": "auto"}
        timeout = {} if isinstance(self.timeout, openai.NotGiven) else {"timeout": self.timeout}
        return {"extra_body": {**body, **shape}, "extra_headers": {"Idempotency-Key": self.key}, **timeout}


def sdk_arguments(method: Method, calls: tuple[Call, ...], given: Mapping[str, object]) -> dict[str, Any]:
    """The arguments for the SDK's own `generate` or `edit`, so that whatever patches it sees the call.

    `given` are the caller's arguments. Of a split call the SDK is shown the whole, with the `n` of all parts.
    """
    first = calls[0]
    body = first.body | ({"n": sum(call.images for call in calls)} if len(calls) > 1 else {})
    arguments: dict[str, Any] = {
        # The SDK insists on a prompt; FLUX does without one where an image is given.
        "prompt": openai.omit,
        **{name: body[name] for name in _SDK_FIELDS if name in body},
        "extra_headers": first.headers or None,
        "extra_query": first.query or None,
        "extra_body": first.extra_body,
        "timeout": first.timeout,
    }
    if method == "edit":
        image = given.get("image")
        arguments["image"] = [*map(_sdk_file, image)] if isinstance(image, list) else _sdk_file(image)
    return arguments


def _sdk_file(image: object) -> object:
    """An image as the SDK's `edit` accepts it; what is sent is the link or data URI in the JSON body."""
    if isinstance(image, bytes | IOBase | os.PathLike | tuple):
        return image
    return image.encode("utf-8", "replace") if isinstance(image, str) else b""


def build_calls(method: Method, params: Mapping[str, object], settings: Settings) -> tuple[Call, ...]:
    """The calls for the arguments of `images.generate` or `images.edit`, checked.

    It is one call, or several if `split` is on and there are more images than one request makes. Raises
    InvalidParamsError.
    """
    named = {name: value for name, value in params.items() if name not in _OPTIONS}
    split = params.get("split")
    if split is None or isinstance(split, openai.Omit):
        split = settings.split
    if not isinstance(split, bool):
        raise InvalidParamsError.of([InvalidParam(param="split", value=split, rule="must be True or False")])
    checked = validate(
        named,
        extra_body=params.get("extra_body"),
        defaults=settings.defaults,
        unsupported=settings.unsupported,
        editing=method == "edit",
        split=split,
    )
    headers: Any = params.get("extra_headers") or {}
    query: Any = params.get("extra_query") or {}
    timeout: Any = params.get("timeout", openai.NOT_GIVEN)
    key = _own_key(headers) or str(uuid4())
    call = Call(params=checked, key=key, headers=headers, query=query, timeout=timeout)
    return _split(call) if split else (call,)


def _own_key(headers: Mapping[str, object]) -> str:
    own = (value for name, value in headers.items() if name.lower() == "idempotency-key" and isinstance(value, str))
    return next(own, "")


def _split(call: Call) -> tuple[Call, ...]:
    parts = split_params(call.params)
    if len(parts) == 1:
        return (call,)
    if call.raw_response:
        most = parts[0].values["n"]
        rule = f"a raw response is the answer to one request, which makes {most} at most"
        raise InvalidParamsError.of([InvalidParam(param="n", value=call.images, rule=rule, nearest=most)])
    return tuple(
        Call(params=part, key=f"{call.key}-{number}", headers=call.headers, query=call.query, timeout=call.timeout)
        for number, part in enumerate(parts)
    )


async def abuild_calls(method: Method, params: Mapping[str, object], settings: Settings) -> tuple[Call, ...]:
    """The same for async code; image files are read in a thread."""
    if needs_reading(params) or needs_reading(params.get("extra_body")):
        return await to_thread.run_sync(build_calls, method, params, settings)
    return build_calls(method, params, settings)
