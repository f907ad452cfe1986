"""The calls of one `images.generate` or `images.edit`: checked requests, each with its Idempotency-Key."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import openai
from anyio import to_thread

from flux_openai._http.library import httpx
from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.models import FluxModel, Price
from flux_openai.request.image_inputs import needs_reading
from flux_openai.request.sdk_arguments import header_faults, query_faults, timeout_faults
from flux_openai.request.validation import SHAPE, CheckedParams, body_of, split_params, validate
from flux_openai.sending.settings import Settings

__all__ = ["Call", "Method", "abuild_calls", "build_calls"]

Method = Literal["generate", "edit"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One checked request; every attempt has the same body and the same Idempotency-Key.

    Attributes:
        model: The model, whose path the request goes to.
        params: Its parameters, as `images.generate` takes them.
        body: The JSON body: the parameters, as the model takes them.
        key: The Idempotency-Key.
        price: The price of one image, if it is known.
        images: How many images the request is for.
        first: The index of its first image in the whole call; above 0 for a part of a split call.
        notices: The texts of the warnings about the request.
        headers: The SDK's `extra_headers`.
        query: The SDK's `extra_query`.
        timeout: The SDK's `timeout`.
    """

    model: FluxModel
    params: Mapping[str, object]
    body: Mapping[str, object]
    key: str
    images: int
    price: Price | None = None
    first: int = 0
    notices: tuple[str, ...] = ()
    headers: Mapping[str, str | openai.Omit] = field(default_factory=dict, repr=False)
    query: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN

    @property
    def raw_response(self) -> bool:
        """Whether the caller used `with_raw_response` or `with_streaming_response`: they add a header to the call."""
        return any(name.lower() == "x-stainless-raw-response" for name in self.headers)

    @property
    def resend_arguments(self) -> dict[str, object]:
        """The arguments of `images.generate` that send the same request with the same Idempotency-Key.

        The caller's own headers and query are left out, since they may hold a key: errors carry these arguments.
        """
        # If the request had no shape, "auto" keeps the client's `defaults` from adding one.
        shape = {} if SHAPE & self.params.keys() else {"size": "auto"}
        timeout = {} if isinstance(self.timeout, openai.NotGiven) else {"timeout": self.timeout}
        return {
            "extra_body": {"model": self.model.id, **self.params, **shape},
            "extra_headers": {"Idempotency-Key": self.key},
            **timeout,
        }


def build_calls(method: Method, arguments: Mapping[str, object], settings: Settings) -> tuple[Call, ...]:
    """Check the arguments of `images.generate` or `images.edit`, and make one call from them.

    With `split` there are several calls if `n` is larger than one request allows.

    Raises:
        InvalidParamsError: With every fault of the arguments.
    """
    params: dict[str, Any] = {**arguments}
    headers, query = params.pop("extra_headers", None), params.pop("extra_query", None)
    timeout, split = params.pop("timeout", openai.NOT_GIVEN), params.pop("split", None)
    faults = [*header_faults(headers), *query_faults(query), *timeout_faults(timeout)]
    headers, query = headers or {}, query or {}
    if split is None or isinstance(split, openai.Omit):
        split = settings.split
    if not isinstance(split, bool):
        raise InvalidParamsError.of([InvalidParam(param="split", value=split, rule="must be True or False")])
    extra_body = params.pop("extra_body", None)
    try:
        checked = validate(
            params,
            extra_body=extra_body,
            defaults=settings.defaults,
            unsupported=settings.unsupported,
            editing=method == "edit",
            split=split,
        )
    except InvalidParamsError as error:
        raise InvalidParamsError.of([*error.faults, *faults]) from None
    if faults:
        raise InvalidParamsError.of(faults)
    key = ""
    for name, value in headers.items():
        if name.lower() == "idempotency-key" and isinstance(value, str):
            key = value
    price = settings.price_of(checked.model)
    call = _call(checked, key=key or str(uuid4()), price=price, headers=headers, query=query, timeout=timeout)
    return _split(call, checked) if split else (call,)


def _call(params: CheckedParams, **options: Any) -> Call:  # noqa: ANN401  # the other fields of a Call
    images, values = params.values.get("n", 1), {**params.values, **params.extra}
    return Call(
        model=params.model,
        params=values,
        body=options.pop("body", None) or body_of(values, params.model),
        images=images if isinstance(images, int) else 1,
        first=params.first,
        notices=params.notices,
        **options,
    )


def _split(call: Call, params: CheckedParams) -> tuple[Call, ...]:
    """Split the call into one for each request; each has its own Idempotency-Key."""
    parts = split_params(params)
    if len(parts) == 1:
        return (call,)
    if call.raw_response:
        most = parts[0].values["n"]
        rule = f"a raw response is the answer to one request, which makes {most} at most"
        raise InvalidParamsError.of([InvalidParam(param="n", value=call.images, rule=rule, nearest=most)])
    options = {"price": call.price, "headers": call.headers, "query": call.query, "timeout": call.timeout}
    calls = []
    for number, part in enumerate(parts):
        # The images are shared: a copy for each part could be gigabytes.
        own = {name: part.values[name] for name in ("n", "seed") if name in call.body and name in part.values}
        calls.append(_call(part, key=f"{call.key}-{number}", body={**call.body, **own}, **options))
    return tuple(calls)


async def abuild_calls(method: Method, arguments: Mapping[str, object], settings: Settings) -> tuple[Call, ...]:
    """The same as `build_calls`, for async code; image files are read in a thread."""
    if needs_reading(arguments) or needs_reading(arguments.get("extra_body")):
        calls = await to_thread.run_sync(build_calls, method, arguments, settings)
    else:
        calls = build_calls(method, arguments, settings)
    if len(calls) > 1:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            rule = "needs asyncio, and this is another event loop (trio): make several calls instead"
            raise InvalidParamsError.of([InvalidParam(param="split", value=True, rule=rule)]) from None
    return calls
