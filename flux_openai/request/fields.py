"""Field checks: the type, limits and choices of each value, and the nearest valid value.

Types are strict: no "20" for 20, no True for 1, no NaN; an integer is accepted for a float.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from math import inf, isfinite
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from flux_openai.errors import InvalidParam, listed
from flux_openai.models import FLUX_MODELS, FluxField
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
    return Annotated[field.type, Field(ge=field.minimum, le=field.maximum)]


def _encodable(text: str) -> str:
    """Refuse lone surrogates: they cannot be encoded as UTF-8."""
    text.encode()
    return text


def _not_blank(text: str) -> str:
    text.encode()
    if not text.strip():
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
    return InvalidParam(param=field.name, value=value, rule=_rule(field), nearest=_nearest(field, value))


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
    if field.format == "ratio" and (ratio := nearest_ratio(value, field.choices)):
        return ratio
    if field.format == "size":
        low, high = _limits(field)
        return nearest_size(value, low=int(low), high=int(high)) or field.default
    if field.choices:
        close = get_close_matches(value.lower(), field.choices, n=1) if isinstance(value, str) else []
        return close[0] if close else field.default
    if field.type in (str, list):
        return None
    number = _number(value)
    return field.default if number is None else _clamped(field, number)


def _number(value: object) -> int | float | None:
    """The number that a value was probably meant as, such as 20 for "20"; None if there is none."""
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value) if isinstance(value, float | str) else inf
    except ValueError:
        return None
    return number if isfinite(number) else None


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
