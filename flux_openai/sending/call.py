"""Checked params -> the exact call to the SDK. The only place where `extra_body` is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import openai
from anyio import to_thread
from openai import RequestOptions

from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.request.arguments import CallArguments, RequestExtras
from flux_openai.request.image_inputs import needs_reading
from flux_openai.request.validation import CheckedParams, parts, validate
from flux_openai.response.response import FluxImagesResponse
from flux_openai.sending.settings import Settings

__all__ = ["Call", "acalls_of", "calls_of", "parsed_as"]

_OPENAI_FIELDS = ("model", "prompt", "n", "response_format")
"""What the SDK itself has names for; all else goes through `extra_body`."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One logical call: the same body and the same Idempotency-Key on every attempt."""

    params: CheckedParams
    key: str
    extras: RequestExtras

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
    def images(self) -> int:
        """How many images it asks for."""
        n = self.params.values.get("n", 1)
        return n if isinstance(n, int) else 1

    @property
    def again(self) -> dict[str, object]:
        """The arguments of `images.generate` that ask for the same under the same Idempotency-Key.

        Without the caller's headers and query: an error carries these arguments, and a key may stand in those.
        """
        sent = self.sent
        # A call without a shape would now get the shape that stands in the client's defaults; "auto" means none.
        shape = {} if {"aspect_ratio", "size"} & sent.keys() else {"size": "auto"}
        again: dict[str, object] = {"extra_body": {**sent, **shape}, "extra_headers": {"Idempotency-Key": self.key}}
        timeout = {} if isinstance(self.extras.timeout, openai.NotGiven) else {"timeout": self.extras.timeout}
        return {**again, **timeout}

    @property
    def raw(self) -> bool:
        """Whether the caller asked for the raw response: the SDK's wrappers say so in a header."""
        return _is_raw(self.extras.headers)

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


def calls_of(order: CallArguments, settings: Settings) -> tuple[Call, ...]:
    """The calls for these arguments, checked: one, or several if there are more images than one can make.

    Raises InvalidParamsError.
    """
    split = settings.split if order.split is None or isinstance(order.split, openai.Omit) else order.split
    if not isinstance(split, bool):
        raise InvalidParamsError.of([InvalidParam(param="split", value=split, rule="must be True or False")])
    params = validate(
        order.named,
        extra_body=order.extra_body,
        defaults=settings.defaults,
        unsupported=settings.unsupported,
        editing=order.verb == "edit",
        split=split,
    )
    several = parts(params)
    if len(several) > 1 and _is_raw(order.extras.headers):
        most = several[0].values["n"]
        rule = f"a raw response is the answer to one request, which makes {most} at most"
        raise InvalidParamsError.of([InvalidParam(param="n", value=params.values["n"], rule=rule, nearest=most)])
    keys = _keys(order.extras.headers, len(several))
    return tuple(Call(params=part, key=key, extras=order.extras) for part, key in zip(several, keys, strict=True))


async def acalls_of(order: CallArguments, settings: Settings) -> tuple[Call, ...]:
    """The same for async code, with the reading of files in a thread."""
    if needs_reading(order.named) or needs_reading(order.extra_body):
        return await to_thread.run_sync(calls_of, order, settings)
    return calls_of(order, settings)


def _keys(headers: Mapping[str, str | openai.Omit], count: int) -> Sequence[str]:
    own = (value for name, value in headers.items() if name.lower() == "idempotency-key" and isinstance(value, str))
    key = next(own, "") or str(uuid4())
    return [key] if count == 1 else [f"{key}-{number}" for number in range(count)]


def _is_raw(headers: Mapping[str, object]) -> bool:
    return any(name.lower() == "x-stainless-raw-response" for name in headers)


def parsed_as(response: Callable[[], FluxImagesResponse | None]) -> Callable[[object], object]:
    """The parser of a raw response: our reading of the answer where the caller asked for no other type."""

    def parser(parsed: object) -> object:
        return response() if isinstance(parsed, FluxImagesResponse) else parsed

    return parser
