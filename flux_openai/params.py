"""Arguments and a model's row in, frozen params out; all faults of a call at once, and nothing is sent before.

Types are strict (no "20" for 20, no True for 1, no NaN; an integer is fine where a number is asked). `size` becomes the
aspect ratio it stands for.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from math import inf, isfinite
from types import MappingProxyType
from typing import Annotated, Literal

import openai
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from flux_openai.errors import Fault, InvalidParamsError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, FluxField, FluxModel
from flux_openai.ratios import fit_of_size, listed, nearest_ratio
from flux_openai.redaction import shown_value

__all__ = ["Params", "Unsupported", "given", "is_flux", "validate"]

Unsupported = Literal["error", "warn", "drop", "send"]
"""What becomes of options that a model does not take: refuse, leave out and say so, leave out, or pass on."""

FAMILY = "black-forest-labs/"

_NEVER = {
    "stream": "FLUX answers are not streamed; leave it out",
    "partial_images": "FLUX answers are not streamed; leave it out",
}
_OPENAI_ONLY = frozenset(
    {
        "background",
        "input_fidelity",
        "mask",
        "moderation",
        "output_compression",
        "output_format",
        "quality",
        "size",
        "style",
        "user",
    }
)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The parameters of one call, checked: `values` has only what was given, `extra` what is passed on unchecked."""

    model: FluxModel
    values: Mapping[str, object]
    extra: Mapping[str, object]
    notices: tuple[str, ...]


def given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that were given: None and the SDK's own marks for "not given" count as left out."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and not isinstance(value, openai.Omit | openai.NotGiven)
    }


def is_flux(model: object) -> bool:
    """Whether a call with this `model` is ours to check; the name of a model of another family is the SDK's."""
    # A slip in spaces or case is ours: passed on, it would be sent unchecked and repeated by the SDK's own retries.
    return not isinstance(model, str) or model.strip().lower().startswith(FAMILY)


def validate(
    keywords: Mapping[str, object],
    *,
    extra_body: object = None,
    defaults: Mapping[str, object] = MappingProxyType({}),
    unsupported: Unsupported = "error",
) -> Params:
    """Check one call for a FLUX model.

    `keywords` are the named arguments and `extra_body` the SDK's; a parameter may stand in either. `defaults` fill in
    what neither has. Raises InvalidParamsError with every fault.
    """
    extra, faults = _extra_body(extra_body)
    called = {**given(keywords), **extra}
    faults += _given_twice(given(keywords), extra)
    values = {**_applicable(defaults, called), **called}
    name = values.pop("model", DEFAULT_MODEL)
    model = FLUX_MODELS.get(name) if isinstance(name, str) else None
    if model is None:
        raise InvalidParamsError.of([*faults, _unknown_model(name)])
    notices = _size_to_ratio(values, model, faults)
    passed_on, left_out = _sort_out_unsupported(values, model, unsupported, faults)
    checked = _check_fields(values, model, faults)
    if faults:
        order = ["model", *model.fields]
        raise InvalidParamsError.of(sorted(faults, key=lambda f: order.index(f.param) if f.param in order else 99))
    return Params(
        model=model,
        values=MappingProxyType(checked),
        extra=MappingProxyType(passed_on),
        notices=(*notices, *left_out, *_remarks(checked, model)),
    )


def _extra_body(extra_body: object) -> tuple[dict[str, object], list[Fault]]:
    if extra_body is None:
        return {}, []
    if isinstance(extra_body, Mapping) and all(isinstance(key, str) for key in extra_body):
        return given(extra_body), []
    return {}, [Fault(param="extra_body", value=extra_body, rule="must be a mapping with text keys")]


def _given_twice(keywords: Mapping[str, object], extra: Mapping[str, object]) -> list[Fault]:
    return [
        Fault(param=name, value=value, rule=f"given twice, and the keyword says {shown}; give it once")
        for name, value in extra.items()
        if name in keywords and not _same(keywords[name], value)
        for shown in [shown_value(keywords[name], name=name)]
    ]


def _same(one: object, other: object) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _applicable(defaults: Mapping[str, object], called: Mapping[str, object]) -> dict[str, object]:
    """A default shape gives way to the shape a call asks for, in either of its two spellings."""
    shaped = not called.keys().isdisjoint({"size", "aspect_ratio"})
    return {name: value for name, value in given(defaults).items() if not (shaped and name in ("size", "aspect_ratio"))}


def _unknown_model(name: object) -> Fault:
    near = get_close_matches(name if isinstance(name, str) else "", FLUX_MODELS, n=1, cutoff=0.0)
    return Fault(param="model", value=name, rule=f"must be one of {listed(FLUX_MODELS)}", nearest=near[0])


def _sort_out_unsupported(
    values: dict[str, object], model: FluxModel, unsupported: Unsupported, faults: list[Fault]
) -> tuple[dict[str, object], list[str]]:
    """Take what the model has no field for out of `values`: (passed on, notices); what may not stay becomes a fault."""
    strange = {name: values.pop(name) for name in list(values) if name not in model.fields}
    never = {name: strange.pop(name) for name in _NEVER if name in strange}
    faults += [Fault(param=name, value=value, rule=_NEVER[name]) for name, value in never.items() if value is not False]
    if unsupported == "error":
        faults += [_unsupported_fault(name, value, model) for name, value in strange.items()]
    if unsupported == "send":
        faults += [fault for name, value in strange.items() for fault in _json_faults(name, value)]
        return strange, []
    said = [
        f"{name}={shown_value(value, name=name)} was left out: {model.id} does not take it"
        for name, value in strange.items()
    ]
    return {}, said if unsupported == "warn" else []


def _unsupported_fault(name: str, value: object, model: FluxModel) -> Fault:
    near = get_close_matches(name, model.fields, n=1)
    ways = "leave it out, or set unsupported= to 'warn', 'drop' or 'send'"
    whose = "is an option of OpenAI's own models" if name in _OPENAI_ONLY else "is no parameter of this model"
    meant = f"; did you mean {near[0]}?" if near else ""
    return Fault(param=name, value=value, rule=f"{whose}{meant}; {ways}")


def _json_faults(name: str, value: object) -> Iterator[Fault]:
    try:
        json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        yield Fault(param=name, value=value, rule="must be something JSON can hold")


def _size_to_ratio(values: dict[str, object], model: FluxModel, faults: list[Fault]) -> list[str]:
    """Put the aspect ratio that OpenAI's `size` stands for in its place; a size that stands for none is a fault."""
    field = model.fields.get("aspect_ratio")
    if field is None or "size" in model.fields or "size" not in values:
        return []
    size = values.pop("size")
    if size == "auto":
        return []
    fit = fit_of_size(size, field.choices)
    rule = fit.rule
    if rule is None and values.setdefault("aspect_ratio", fit.ratio) != fit.ratio:
        rule = f"disagrees with aspect_ratio={shown_value(values['aspect_ratio'])}; give one of them"
    if rule is not None:
        faults.append(Fault(param="size", value=size, rule=rule, nearest=fit.ratio and f"aspect_ratio={fit.ratio!r}"))
        return []
    return [] if fit.off == 0 else [f"size={size!r} was sent as aspect_ratio={fit.ratio!r}, {float(fit.off):.1%} off"]


def _check_fields(values: Mapping[str, object], model: FluxModel, faults: list[Fault]) -> dict[str, object]:
    already = {fault.param for fault in faults}
    try:
        _schema(model.id).model_validate(dict(values))
    except ValidationError as error:
        names = dict.fromkeys(
            str(problem["loc"][0]) for problem in error.errors(include_url=False, include_input=False)
        )
        faults += [_field_fault(model.fields[name], values.get(name)) for name in names if name not in already]
        return {}
    # The values themselves and not pydantic's reading of them: an integer stays an integer on the wire.
    return {name: values[name] for name in model.fields if name in values}


_INT64 = 2**63 - 1
"""The largest integer that every JSON reader takes; beyond it a service may read another number than was written."""


@cache
def _schema(model_id: str) -> type[BaseModel]:
    """The pydantic model of a row; fields that only warn are checked for their type alone."""
    columns = {
        name: (_annotation(field), ... if field.required else None)
        for name, field in FLUX_MODELS[model_id].fields.items()
    }
    config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model("FluxParams", __config__=config, **columns)  # type: ignore[call-overload, no-any-return]  # columns are data


def _annotation(field: FluxField) -> object:
    if field.choices:
        return Literal[field.choices]
    if field.type is str:
        return Annotated[str, AfterValidator(_not_blank if field.required else _encodable)]
    if field.enforced == "warn":
        return Annotated[field.type, Field(ge=-_INT64 - 1, le=_INT64)]
    return Annotated[field.type, Field(ge=field.minimum, le=field.maximum)]


def _encodable(text: str) -> str:
    """Half a surrogate pair is a str to Python, and to nobody else."""
    text.encode()
    return text


def _not_blank(text: str) -> str:
    if not _encodable(text).strip():
        raise ValueError
    return text


def _field_fault(field: FluxField, value: object) -> Fault:
    return Fault(param=field.name, value=value, rule=_rule(field), nearest=_nearest(field, value))


def _rule(field: FluxField) -> str:
    if field.choices:
        text = f"must be one of {listed(field.choices)}"
    elif field.type is str:
        text = "is required and must be text that is not blank" if field.required else "must be text"
    else:
        kind = "an integer" if field.type is int else "a number"
        limits = f" from {field.minimum} to {field.maximum}" if field.enforced == "error" else " of 64 bits at most"
        text = f"must be {kind}{limits}"
    return f"{text}; {field.hint}" if field.hint else text


def _nearest(field: FluxField, value: object) -> object | None:
    if field.choices:
        ratio = nearest_ratio(value, field.choices) if ":" in field.choices[0] else None
        close = get_close_matches(value.lower(), field.choices, n=1) if isinstance(value, str) else []
        return ratio or (close[0] if close else field.default)
    if field.type is str:
        return None
    number = _number(value)
    return field.default if number is None else _clamped(field, number)


def _number(value: object) -> int | float | None:
    """The number a value was probably meant as; None when there is none."""
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value) if isinstance(value, float | str) else inf
    except ValueError:
        return None
    return number if isfinite(number) else None


def _clamped(field: FluxField, number: float) -> int | float:
    low, high = _limits(field) if field.enforced == "error" else (-_INT64 - 1, _INT64)
    return min(max(round(number) if field.type is int else number, low), high)


def _limits(field: FluxField) -> tuple[float, float]:
    return -inf if field.minimum is None else field.minimum, inf if field.maximum is None else field.maximum


def _remarks(values: Mapping[str, object], model: FluxModel) -> list[str]:
    """What is sent although a page other than the model's own speaks against it."""
    return [
        f"{name}={value} was sent as it is, but {field.source} states {field.minimum} to {field.maximum}"
        for name, value in values.items()
        if (field := model.fields[name]).enforced == "warn"
        and isinstance(value, int | float)
        and sorted((*_limits(field), value))[1] != value
    ]
