"""Arguments and a model's row in, frozen params out; all faults of a call at once, and nothing is sent before.

`size` becomes the aspect ratio it stands for, where a model takes no size, and images become links and data URIs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from flux_openai._http.redaction import redacted_repr
from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.models import FLUX_MODELS, FluxModel
from flux_openai.request.arguments import given
from flux_openai.request.fields import INT64, faults_of, remarks
from flux_openai.request.image_inputs import arranged, read_images
from flux_openai.request.model_choice import IMAGE_FIELDS, model_for
from flux_openai.request.size import fit_of_size
from flux_openai.request.unsupported import Unsupported, sort_out

__all__ = ["CheckedParams", "check_defaults", "parts", "validate"]


@dataclass(frozen=True, kw_only=True)
class CheckedParams:
    """The parameters of one call, checked: `values` has only what was given, `extra` what is passed on unchecked.

    `first` is the place of its first image among those of the call that it is a part of.
    """

    model: FluxModel
    values: Mapping[str, object]
    extra: Mapping[str, object]
    notices: tuple[str, ...]
    first: int = 0


def validate(
    keywords: Mapping[str, object],
    *,
    extra_body: object = None,
    defaults: Mapping[str, object] = MappingProxyType({}),
    unsupported: Unsupported = "error",
    editing: bool = False,
    split: bool = False,
) -> CheckedParams:
    """Check one call for a FLUX model; images are read here.

    `keywords` are the named arguments and `extra_body` the SDK's; a parameter may stand in either. `defaults` fill in
    what neither has. An edit goes to the model that takes as many images as it has. With `split`, `n` may be more than
    one request makes. Raises InvalidParamsError with every fault.
    """
    named = given(keywords)
    extra, faults = _extra_body(extra_body)
    faults += _given_twice(named, extra)
    both = {**named, **extra}
    called, flaws = read_images(arranged(both) if editing else both)
    faults += flaws
    model = model_for(called, given(defaults), editing=editing)
    if isinstance(model, InvalidParam):
        raise InvalidParamsError.of([*faults, model])
    values = {**_applicable(defaults, called, model), **called}
    values.pop("model", None)
    if editing and "images" in model.fields and "images" not in values and "image" in values:
        values["images"] = [values.pop("image")]
    if editing and not IMAGE_FIELDS & values.keys():
        faults.append(InvalidParam(param="image", value=None, rule="is required: it is what an edit starts from"))
    notices = _size_to_ratio(values, model, faults)
    passed_on, left_out = sort_out(values, model, unsupported, faults)
    params = CheckedParams(
        model=model,
        # The values themselves and not pydantic's reading of them: an integer stays an integer on the wire.
        values=MappingProxyType({name: values[name] for name in model.fields if name in values}),
        extra=MappingProxyType(passed_on),
        notices=(*notices, *left_out),
    )
    already = {fault.param for fault in faults}
    already |= IMAGE_FIELDS if IMAGE_FIELDS & already else set()
    faults += [fault for fault in faults_of(params.values, model.id, split=split) if fault.param not in already]
    last = params if faults else parts(params)[-1]
    faults = faults or _counted_too_far(params, last)
    if faults:
        order = ["model", *model.fields]
        raise InvalidParamsError.of(sorted(faults, key=lambda f: order.index(f.param) if f.param in order else 99))
    remarked = remarks(last.values, model.fields)
    return replace(params, notices=(*params.notices, *remarked)) if remarked else params


def parts(params: CheckedParams) -> tuple[CheckedParams, ...]:
    """The calls that make all the images asked for: a seed counts up, so that no two draw the same pictures."""
    most, n = int(params.model.fields["n"].maximum or 1), params.values.get("n", 1)
    if not isinstance(n, int) or n <= most:
        return (params,)
    return tuple(_part(params, first, min(most, n - first), first // most) for first in range(0, n, most))


def _part(params: CheckedParams, first: int, n: int, number: int) -> CheckedParams:
    seed = params.values.get("seed")
    # A seed below 0 means that none was chosen, and the service draws a new one each time.
    counted = {"seed": seed + number} if isinstance(seed, int) and seed >= 0 else {}
    return replace(params, values=MappingProxyType({**params.values, "n": n, **counted}), first=first)


def _counted_too_far(params: CheckedParams, last: CheckedParams) -> list[InvalidParam]:
    """What only the last part has wrong, which is its seed, told of the seed that was given."""
    seed, reached = params.values.get("seed"), last.values.get("seed")
    if not isinstance(seed, int) or not isinstance(reached, int):
        return []
    more = reached - seed
    return [
        replace(fault, value=seed, rule=f"{fault.rule}, and counts up to seed={reached} here", nearest=INT64 - more)
        for fault in faults_of(last.values, params.model.id)
    ]


def check_defaults(defaults: Mapping[str, object], *, unsupported: Unsupported, split: bool) -> None:
    """Check parameters for calls that are not made yet: each by the model named, or by one that takes it.

    Raises InvalidParamsError: a wrong default would fail every call; better here, where it was written.
    """
    model = model_for(given(defaults), {})
    if isinstance(model, InvalidParam):
        raise InvalidParamsError.of([model])
    shares: dict[str, dict[str, object]] = {}
    for name, value in given(defaults).items():
        home = next((one for one in (model, *FLUX_MODELS.values()) if _has_place(one, name)), model)
        shares.setdefault(home.id, {})[name] = value
    faults = [
        fault
        for id, share in shares.items()
        for fault in _faults_of_defaults({**share, "model": id}, unsupported, split=split)
    ]
    if faults:
        raise InvalidParamsError.of(faults)


def _faults_of_defaults(
    defaults: Mapping[str, object], unsupported: Unsupported, *, split: bool
) -> Iterator[InvalidParam]:
    for name in IMAGE_FIELDS & defaults.keys():
        yield InvalidParam(
            param=name, value=defaults[name], rule="belongs to a call, and cannot be a default of all calls"
        )
    others = {name: value for name, value in defaults.items() if name not in IMAGE_FIELDS}
    try:
        validate(others, unsupported=unsupported, split=split)
    except InvalidParamsError as error:
        yield from (fault for fault in error.faults if fault.param in defaults.keys() - IMAGE_FIELDS)


def _has_place(model: FluxModel, name: str) -> bool:
    return name in model.fields or (name == "size" and "aspect_ratio" in model.fields)


def _extra_body(extra_body: object) -> tuple[dict[str, object], list[InvalidParam]]:
    if extra_body is None:
        return {}, []
    if isinstance(extra_body, Mapping) and all(isinstance(key, str) for key in extra_body):
        return given(extra_body), []
    return {}, [InvalidParam(param="extra_body", value=extra_body, rule="must be a mapping with text keys")]


def _given_twice(keywords: Mapping[str, object], extra: Mapping[str, object]) -> list[InvalidParam]:
    return [
        InvalidParam(param=name, value=value, rule=f"given twice, and the keyword says {shown}; give it once")
        for name, value in extra.items()
        if name in keywords and not _same(keywords[name], value)
        for shown in [redacted_repr(keywords[name], name=name)]
    ]


_COMPARABLE = (str, int, float, bytes, list, tuple, dict)


def _same(one: object, other: object) -> bool:
    if not (isinstance(one, _COMPARABLE) and isinstance(other, _COMPARABLE)):
        # Arrays and their like answer `==` with an array.
        return one is other
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _applicable(defaults: Mapping[str, object], called: Mapping[str, object], model: FluxModel) -> dict[str, object]:
    """The defaults that this call can use: one for other models is left out, and a shape gives way to one given."""
    shape = {"size", "aspect_ratio"}
    unusable = shape if shape & called.keys() else set[str]()
    strange = {name for name in defaults if not _has_place(model, name)}
    unusable |= {name for name in strange if any(_has_place(other, name) for other in FLUX_MODELS.values())}
    return {name: value for name, value in given(defaults).items() if name not in unusable}


def _size_to_ratio(values: dict[str, object], model: FluxModel, faults: list[InvalidParam]) -> list[str]:
    """Put the aspect ratio that OpenAI's `size` stands for in its place; a size that stands for none is a fault."""
    if values.get("size") == "auto":
        del values["size"]
    field = model.fields.get("aspect_ratio")
    if field is None or "size" not in values:
        return []
    size = values.pop("size")
    fit = fit_of_size(size, field.choices)
    rule = fit.rule
    if rule is None and values.setdefault("aspect_ratio", fit.ratio) != fit.ratio:
        rule = f"disagrees with aspect_ratio={redacted_repr(values['aspect_ratio'])}; give one of them"
    if rule is not None:
        faults.append(
            InvalidParam(param="size", value=size, rule=rule, nearest=fit.ratio and f"aspect_ratio={fit.ratio!r}")
        )
        return []
    return [] if fit.off == 0 else [f"size={size!r} was sent as aspect_ratio={fit.ratio!r}, {float(fit.off):.1%} off"]
