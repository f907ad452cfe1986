"""Validation of one call: arguments and a model's row in, frozen parameters out, every fault at once.

Where a model takes no `size`, the size becomes the aspect ratio that it stands for; images become links and data URIs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import openai

from flux_openai._http.redaction import redacted_repr
from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.models import FLUX_MODELS, FluxModel
from flux_openai.request.fields import INT64, faults_of, limit_warnings
from flux_openai.request.image_inputs import normalize_edit_images, read_images
from flux_openai.request.model_choice import IMAGE_FIELDS, model_for
from flux_openai.request.size import fit_of_size
from flux_openai.request.unsupported import Unsupported, handle_unsupported

__all__ = ["CheckedParams", "check_defaults", "given", "split_params", "validate"]


@dataclass(frozen=True, kw_only=True)
class CheckedParams:
    """The checked parameters of one call.

    `values` has the parameters of the model that were given, `extra` what `unsupported="send"` passes on unchecked.
    `first` is the index of its first image, other than 0 for a part of a split call.
    """

    model: FluxModel
    values: Mapping[str, object]
    extra: Mapping[str, object]
    notices: tuple[str, ...]
    first: int = 0


def given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that were given: None and the SDK's own marks for "not given" count as left out."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and not isinstance(value, openai.Omit | openai.NotGiven)
    }


def validate(
    keywords: Mapping[str, object],
    *,
    extra_body: object = None,
    defaults: Mapping[str, object] = MappingProxyType({}),
    unsupported: Unsupported = "error",
    editing: bool = False,
    split: bool = False,
) -> CheckedParams:
    """Check the arguments of one call for a FLUX model; image files are read here.

    Args:
        keywords: The named arguments; None and the SDK's marks for "not given" count as left out.
        extra_body: The SDK's argument of that name; a parameter may stand there instead.
        defaults: Parameters that fill in what neither has.
        unsupported: What happens to options that the model does not take.
        editing: Whether the call is an edit, which goes to the model that takes as many images as it has.
        split: Whether `n` may be more than one request makes.

    Raises:
        InvalidParamsError: With every fault of the call.

    """
    called, faults = given(keywords), list[InvalidParam]()
    if extra_body is not None:
        _add_extra_body(called, extra_body, faults)
    if editing:
        called = dict(normalize_edit_images(called))
    if IMAGE_FIELDS & called.keys():
        called, invalid_images = read_images(called)
        faults += invalid_images
    try:
        model = model_for(called, given(defaults) if defaults else defaults, editing=editing)
    except InvalidParamsError as error:
        raise InvalidParamsError.of([*faults, *error.faults]) from None
    values = {**_applicable(defaults, called, model), **called} if defaults else called
    values.pop("model", None)
    if editing and "images" in model.fields and "images" not in values and "image" in values:
        values["images"] = [values.pop("image")]
    if editing and not IMAGE_FIELDS & values.keys():
        faults.append(InvalidParam(param="image", value=None, rule="is required: it is what an edit starts from"))
    notices = list[str]()
    if "size" in values:
        notices += _size_to_ratio(values, model, faults)
    passed_on: dict[str, object] = {}
    if not values.keys() <= model.fields.keys():
        passed_on, left_out = handle_unsupported(values, model, unsupported, faults)
        notices += left_out
    # The values themselves and not pydantic's reading of them: an integer stays an integer on the wire.
    ordered = dict[str, object]()
    for name in model.fields:
        if name in values:
            ordered[name] = values[name]
    params = CheckedParams(
        model=model,
        values=MappingProxyType(ordered),
        extra=MappingProxyType(passed_on),
        notices=tuple(notices),
    )
    found = faults_of(params.values, model.id, split=split)
    if faults and found:
        already = {fault.param for fault in faults}
        already |= IMAGE_FIELDS if IMAGE_FIELDS & already else set()
        found = [fault for fault in found if fault.param not in already]
    faults += found
    last = params
    if split and not faults:
        last = split_params(params)[-1]
        faults = _seed_overflow(params, last)
    if faults:
        order = ["model", *model.fields]
        raise InvalidParamsError.of(sorted(faults, key=lambda f: order.index(f.param) if f.param in order else 99))
    warnings = limit_warnings(last.values, model.fields)
    return replace(params, notices=(*params.notices, *warnings)) if warnings else params


def _add_extra_body(called: dict[str, object], extra_body: object, faults: list[InvalidParam]) -> None:
    """Add the parameters in `extra_body` to the named ones; one that is given twice must have the same value."""
    if not isinstance(extra_body, Mapping) or not all(isinstance(key, str) for key in extra_body):
        faults.append(InvalidParam(param="extra_body", value=extra_body, rule="must be a mapping with text keys"))
        return
    extra = given(extra_body)
    for name, value in extra.items():
        if name in called and not _same(called[name], value):
            keyword = redacted_repr(called[name], name=name)
            rule = f"given twice, and the keyword says {keyword}; give it once"
            faults.append(InvalidParam(param=name, value=value, rule=rule))
    called.update(extra)


_COMPARABLE = (str, int, float, bytes, list, tuple, dict)


def _same(one: object, other: object) -> bool:
    if not (isinstance(one, _COMPARABLE) and isinstance(other, _COMPARABLE)):
        # Arrays and their like answer `==` with an array.
        return one is other
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _applicable(defaults: Mapping[str, object], called: Mapping[str, object], model: FluxModel) -> dict[str, object]:
    """The defaults that a call can use: none of other models, and no shape where the call gives one."""
    shape = {"size", "aspect_ratio"}
    unusable = shape if shape & called.keys() else set[str]()
    not_taken = {name for name in defaults if not _accepts(model, name)}
    unusable |= {name for name in not_taken if any(_accepts(other, name) for other in FLUX_MODELS.values())}
    return {name: value for name, value in given(defaults).items() if name not in unusable}


def _accepts(model: FluxModel, name: str) -> bool:
    return name in model.fields or (name == "size" and "aspect_ratio" in model.fields)


def _size_to_ratio(values: dict[str, object], model: FluxModel, faults: list[InvalidParam]) -> list[str]:
    """Replace OpenAI's `size` by the aspect ratio that it stands for; a size that stands for none is a fault."""
    if values["size"] == "auto":
        del values["size"]
        return []
    field = model.fields.get("aspect_ratio")
    if field is None:
        return []
    size = values.pop("size")
    fit = fit_of_size(size, field.choices)
    rule = fit.rule
    if rule is None and values.setdefault("aspect_ratio", fit.ratio) != fit.ratio:
        rule = f"disagrees with aspect_ratio={redacted_repr(values['aspect_ratio'])}; give one of them"
    if rule is not None:
        nearest = fit.ratio and f"aspect_ratio={fit.ratio!r}"
        faults.append(InvalidParam(param="size", value=size, rule=rule, nearest=nearest))
        return []
    return [] if fit.off == 0 else [f"size={size!r} was sent as aspect_ratio={fit.ratio!r}, {float(fit.off):.1%} off"]


def split_params(params: CheckedParams) -> tuple[CheckedParams, ...]:
    """The parameters of each request of a call: several if `n` is more than one request makes.

    A seed counts up from request to request: with the same one, each would draw the same pictures.
    """
    most, n = int(params.model.fields["n"].maximum or 1), params.values.get("n", 1)
    if not isinstance(n, int) or n <= most:
        return (params,)
    seed = params.values.get("seed")
    # A seed below 0 means that none was chosen, and the service draws a new one each time.
    counts = isinstance(seed, int) and seed >= 0
    return tuple(
        replace(
            params,
            values=MappingProxyType(
                {**params.values, "n": min(most, n - first)}
                | ({"seed": seed + number} if counts and isinstance(seed, int) else {})
            ),
            first=first,
        )
        for number, first in enumerate(range(0, n, most))
    )


def _seed_overflow(params: CheckedParams, last: CheckedParams) -> list[InvalidParam]:
    """The fault of a seed that is valid for the first request of a split call, and too large for the last."""
    seed, reached = params.values.get("seed"), last.values.get("seed")
    if not isinstance(seed, int) or not isinstance(reached, int) or seed == reached:
        return []
    rule, nearest = f"and counts up to seed={reached} here", INT64 - (reached - seed)
    return [
        replace(fault, value=seed, rule=f"{fault.rule}, {rule}", nearest=nearest)
        for fault in faults_of(last.values, params.model.id)
    ]


def check_defaults(defaults: Mapping[str, object], *, unsupported: Unsupported, split: bool) -> None:
    """Check the `defaults=` of a client, each by the model named in them or by one that takes it.

    Raises InvalidParamsError: otherwise each call would fail with it, far from the line that sets it.
    """
    model = model_for(given(defaults), {})
    shares: dict[str, dict[str, object]] = {}
    for name, value in given(defaults).items():
        home = next((one for one in (model, *FLUX_MODELS.values()) if _accepts(one, name)), model)
        shares.setdefault(home.id, {})[name] = value
    faults = [
        fault
        for id, share in shares.items()
        for fault in _default_faults({**share, "model": id}, unsupported, split=split)
    ]
    if faults:
        raise InvalidParamsError.of(faults)


def _default_faults(defaults: Mapping[str, object], unsupported: Unsupported, *, split: bool) -> Iterator[InvalidParam]:
    for name in IMAGE_FIELDS & defaults.keys():
        yield InvalidParam(
            param=name, value=defaults[name], rule="belongs to a call, and cannot be a default of all calls"
        )
    others = {name: value for name, value in defaults.items() if name not in IMAGE_FIELDS}
    try:
        validate(others, unsupported=unsupported, split=split)
    except InvalidParamsError as error:
        yield from (fault for fault in error.faults if fault.param in defaults.keys() - IMAGE_FIELDS)
