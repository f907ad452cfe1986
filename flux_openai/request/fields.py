"""Field checks: the type, limits and choices of each value, and the nearest valid value.

Types are strict: no "20" for 20, no True for 1, no NaN; an integer is accepted for a float. By now, Decimals and enums
are plain values: see `plain.py`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from math import inf
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from flux_openai.errors import InvalidParam, listed
from flux_openai.models import FLUX_MODELS, FluxField
from flux_openai.request.plain import canonical, half_surrogate, is_blank, number_of
from flux_openai.request.size import nearest_ratio, nearest_size, sides_of

__all__ = ["INT64", "SPLIT_LIMIT", "faults_of", "fields_of", "limit_warnings"]

SPLIT_LIMIT = 1000
"""The largest `n` of a split call. A larger number is more likely a mistake."""

INT64 = 2**63 - 1
"""The largest 64-bit integer: many JSON parsers would read a larger number as another one."""


@cache
def fields_of(model_id: str, *, split: bool = False) -> Mapping[str, FluxField]:
    """The fields of a model; with `split`, `n` may be larger than one request allows."""
    fields = FLUX_MODELS[model_id].fields
    if not split:
        return fields
    return MappingProxyType({**fields, "n": replace(fields["n"], maximum=SPLIT_LIMIT, hint="")})


def faults_of(values: Mapping[str, object], model_id: str, *, split: bool = False) -> list[InvalidParam]:
    """The invalid values; every name must be a field of the model."""
    fields = fields_of(model_id, split=split)
    try:
        _schema(model_id, split=split).model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        names = dict.fromkeys(str(problem["loc"][0]) for problem in problems)
        return [_fault(fields[name], values.get(name)) for name in names]
    return []


@cache
def _schema(model_id: str, *, split: bool) -> type[BaseModel]:
    """The pydantic model of a row; of fields with `enforced="warn"` it checks only the type."""
    columns = {
        name: (_annotation(field), ... if field.required else None)
        for name, field in fields_of(model_id, split=split).items()
    }
    config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model("CheckedValues", __config__=config, **columns)  # type: ignore[call-overload, no-any-return]  # columns are data


def _annotation(field: FluxField) -> object:
    if field.choices:
        return Literal[field.choices]
    if field.type is list:
        return Annotated[list[str], Field(min_length=int(field.minimum or 0))]
    if field.format == "size":
        return Annotated[str, AfterValidator(_sized(field))]
    if field.type is str:
        return Annotated[str, AfterValidator(_encodable if field.blank else _not_blank)]
    if field.enforced == "warn":
        return Annotated[field.type, Field(ge=-INT64 - 1, le=INT64)]
    limits = Field(ge=field.minimum, le=field.maximum)
    if field.type is float:
        # Strict or not, pydantic takes whatever has `__float__` for a float.
        return Annotated[float, limits, BeforeValidator(_plain_number)]
    return Annotated[field.type, limits]


def _plain_number(value: object) -> object:
    """Refuse a number that is not plain, such as a Decimal that no float equals: JSON has no such type."""
    if type(value) not in (int, float):
        raise ValueError
    return value


def _encodable(text: str) -> str:
    """Refuse lone surrogates: they cannot be encoded as UTF-8."""
    if not text.isascii():  # known at once, while `encode` copies the text
        text.encode()
    return text


def _not_blank(text: str) -> str:
    if is_blank(_encodable(text)):
        raise ValueError
    return text


def _sized(field: FluxField) -> Callable[[str], str]:
    low, high = _limits(field)

    def check(text: str) -> str:
        sides = sides_of(text)
        if sides is None or not low <= min(sides) <= max(sides) <= high:
            raise ValueError
        return text

    return check


def _fault(field: FluxField, value: object) -> InvalidParam:
    rule, half = _rule(field), half_surrogate(value) if isinstance(value, str) else None
    rule = f"has {half}, which is no character; {rule}" if half else rule
    return InvalidParam(param=field.name, value=value, rule=rule, nearest=_nearest(field, value))


def _rule(field: FluxField) -> str:
    limits = f"from {field.minimum} to {field.maximum}"
    match field:
        case FluxField(choices=choices) if choices:
            text = f"must be one of {listed(choices)}"
        case FluxField(format="size"):
            text = f"must be WIDTHxHEIGHT, each {limits}"
        case FluxField(format="image"):
            text = f"is required{', at least one' if field.type is list else ''}"
        case FluxField(type=kind) if kind is str:
            needs = "is required and must be text" if field.required else "must be text"
            text = needs if field.blank else f"{needs} that is not blank"
        case _:
            kind_name = "an integer" if field.type is int else "a number"
            text = f"must be {kind_name} {limits if field.enforced == 'error' else 'of 64 bits at most'}"
    return f"{text}; {field.hint}" if field.hint else text


def _nearest(field: FluxField, value: object) -> object | None:
    """The valid value that was probably meant; None if the value suggests none."""
    if field.format == "ratio":
        return nearest_ratio(value, field.choices)
    if field.format == "size":
        low, high = _limits(field)
        return nearest_size(value, low=int(low), high=int(high))
    if field.choices:
        return _nearest_choice(value, field.choices) if isinstance(value, str) else None
    if field.type in (str, list):
        return None
    number = number_of(value)
    return None if number is None else _clamped(field, number)


def _nearest_choice(text: str, choices: Iterable[str]) -> str | None:
    """The choice that is spelt most like the text, or has the same digits: "base64" stands for "b64_json"."""
    written = {re.sub(r"[\W_]", "", choice): choice for choice in choices}
    letters = re.sub(r"[\W_]", "", canonical(text))
    digits = re.findall(r"\d+", letters)
    close = get_close_matches(letters, written, n=1, cutoff=0.75)
    close += [choice for choice in written if digits and re.findall(r"\d+", choice) == digits]
    return written[close[0]] if close else None


def _clamped(field: FluxField, number: float) -> int | float:
    low, high = _limits(field) if field.enforced == "error" else (-INT64 - 1, INT64)
    return min(max(round(number) if field.type is int else number, low), high)


def _limits(field: FluxField) -> tuple[float, float]:
    return -inf if field.minimum is None else field.minimum, inf if field.maximum is None else field.maximum


def limit_warnings(values: Mapping[str, object], fields: Mapping[str, FluxField]) -> list[str]:
    """A warning for each value outside a limit that is not enforced: see `FluxField.enforced`."""
    warnings = []
    for name, value in values.items():
        field = fields[name]
        if field.enforced == "warn" and isinstance(value, int | float):
            low, high = _limits(field)
            if not low <= value <= high:
                limits = f"{field.minimum} to {field.maximum}"
                warnings.append(f"{name}={value} was sent as it is, but {field.source} states {limits}")
    return warnings
