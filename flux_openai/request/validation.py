"""Validation of one call: keyword arguments in, checked parameters out, or one error with every fault.

    validate(keywords, extra_body=…, defaults=…)
      given(…)                                     plain.py: Decimals, enums … -> the text or number that they equal
      keywords and extra_body are merged           the same parameter twice with different values is a fault
      take_wire_names(…)                           image_inputs.py: input_image, input_image_2 … -> images
      read_images(…)                               image_inputs.py: paths, bytes, files -> data URIs
      model_for(…)                                 model_choice.py: short name -> model
      defaults fill in what is missing
      size -> aspect_ratio, or width and height    size.py, for models that take no `size`
      handle_unsupported(…)                        unsupported.py: options that the model does not take
      faults_of(…)                                 fields.py: types, limits, choices
      split_params(…)                              with `split`: the seed of the last request has a limit too
    CheckedParams, or InvalidParamsError

Faults are collected on the way, and raised together at the end; or where no model has the name, since without a model
there are no rules for the other parameters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import openai

from flux_openai._http.redaction import redacted_repr
from flux_openai.errors import InvalidParam, InvalidParamsError
from flux_openai.models import FAMILIES, FLUX_MODELS, GENERATIONS, FluxField, FluxModel
from flux_openai.request.fields import INT64, fault_of_size, faults_of, limit_warnings
from flux_openai.request.image_inputs import WireImage, normalize_edit_images, read_images, take_wire_names
from flux_openai.request.model_choice import IMAGE_FIELDS, IMAGE_NAMES, model_for, model_named
from flux_openai.request.modes import Unsupported
from flux_openai.request.plain import plain
from flux_openai.request.size import fit_of_size, sides_of
from flux_openai.request.unsupported import handle_unsupported

__all__ = ["SHAPE", "CheckedParams", "body_of", "check_defaults", "given", "split_params", "validate"]

SHAPE = frozenset({"aspect_ratio", "height", "size", "width"})
"""The parameters that give an image its shape."""


@dataclass(frozen=True, kw_only=True)
class CheckedParams:
    """The checked parameters of one call.

    Attributes:
        model: The model of the call.
        values: The parameters that were given, in the order of the model's fields.
        extra: The unchecked options that `unsupported="send"` lets through.
        notices: The texts of the warnings about this call.
        first: The index of its first image in the whole call; above 0 for a part of a split call.
    """

    model: FluxModel
    values: Mapping[str, object]
    extra: Mapping[str, object]
    notices: tuple[str, ...]
    first: int = 0


def body_of(params: Mapping[str, object], model: FluxModel) -> dict[str, object]:
    """The JSON body: the parameters by the names that the model has for them. A path of its own names the model."""
    if model.path == GENERATIONS:
        return {"model": model.id, **params}
    body = dict[str, object]()
    for name, value in params.items():
        field = model.fields.get(name)
        if field is not None and field.sent_as is not None:
            values = value if isinstance(value, list) else [value]
            body |= zip(field.sent_as, [_on_the_wire(one, field) for one in values], strict=False)
        else:
            body[name] = value
    return body


def _on_the_wire(value: object, field: FluxField) -> object:
    if isinstance(value, WireImage) and not field.links:
        return WireImage(value.partition(",")[2])
    return value


_LEFT_OUT = (openai.Omit, openai.NotGiven)


def given(options: Mapping[str, object]) -> dict[str, object]:
    """The options without those that are None, `omit` or `NOT_GIVEN`, which count as left out; their values are plain.

    Images stay as they are.
    """
    return {
        name: value if name in IMAGE_NAMES else plain(value)
        for name, value in options.items()
        if value is not None and not isinstance(value, _LEFT_OUT)
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
        keywords: The named arguments; those that are None, `omit` or `NOT_GIVEN` count as left out.
        extra_body: The SDK's argument of that name; it may contain parameters too.
        defaults: Values for parameters that are in neither.
        unsupported: What happens to options that the model does not take.
        editing: Whether the call is an edit; then the number of images selects the model.
        split: Whether `n` may be larger than one request allows.

    Raises:
        InvalidParamsError: With every fault of the call.

    """
    called = given(keywords)
    faults: list[InvalidParam] = []
    preset = given(defaults) if defaults else defaults
    if extra_body is not None:
        _add_extra_body(called, extra_body, faults)
    if editing:
        called = dict(normalize_edit_images(called))
    if with_images := IMAGE_NAMES & called.keys():
        if (named := model_named(called, preset)) is not None:
            faults += take_wire_names(called, named)
        called, invalid_images = read_images(called)
        faults += invalid_images
    try:
        model = model_for(called, preset, editing=editing)
    except InvalidParamsError as error:
        raise InvalidParamsError.of([*faults, *error.faults]) from None
    values = {**_applicable(preset, called, model), **called} if preset else called
    values.pop("model", None)
    image = values.get("image")
    if with_images:
        _fit_images(values, model, editing=editing)
    if editing and not IMAGE_FIELDS & values.keys():
        faults.append(InvalidParam(param="image", value=None, rule="is required: it is what an edit starts from"))
    notices = _fit_size(values, model, faults) if "size" in values else []
    passed_on: dict[str, object] = {}
    if not values.keys() <= model.fields.keys():
        passed_on, left_out = handle_unsupported(values, model, unsupported, faults)
        notices += left_out
    # The caller's values are sent, not those that pydantic returns: it would turn an integer into a float.
    ordered: dict[str, object] = {}
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
    if image is not None and "image" not in values:  # the error names what was given: see `_fit_images`
        found = [replace(one, param="image", value=image) if one.param == "images" else one for one in found]
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
    """Add the parameters in `extra_body` to the keywords; a parameter in both must have the same value."""
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
        # `==` between NumPy arrays returns an array, which has no truth value.
        return one is other
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _applicable(defaults: Mapping[str, object], called: Mapping[str, object], model: FluxModel) -> dict[str, object]:
    """The defaults for a call: without parameters of other models only, and without a shape if the call has one."""
    shape = SHAPE & called.keys()
    # A default height stays beside the width of a call.
    unusable = set(SHAPE - {"height", "width"} if shape <= {"height", "width"} else SHAPE) if shape else set[str]()
    not_taken = {name for name in defaults if not _accepts(model, name)}
    unusable |= {name for name in not_taken if any(_accepts(other, name) for other in FLUX_MODELS.values())}
    return {name: value for name, value in defaults.items() if name not in unusable}


def _accepts(model: FluxModel, name: str) -> bool:
    return name in model.fields or (name == "size" and bool(SHAPE & model.fields.keys()))


def _fit_images(values: dict[str, object], model: FluxModel, *, editing: bool) -> None:
    """Give a model one image as a list, or a list of one as an image, if it is the only model of its family.

    A family with several models has one for each; there only an edit may turn one image into a list.
    """
    fields, alone = model.fields.keys(), len(FAMILIES[model.family]) == 1
    if "image" in values and "images" not in values and "images" in fields - {"image"} and (alone or editing):
        values["images"] = [values.pop("image")]
    images = values.get("images")
    if isinstance(images, list) and len(images) == 1 and "image" not in values and "images" not in fields and alone:
        [values["image"]] = images
        del values["images"]


def _fit_size(values: dict[str, object], model: FluxModel, faults: list[InvalidParam]) -> list[str]:
    """Replace OpenAI's `size` by what the model takes in its place; a size that matches nothing is a fault.

    Returns the notices.
    """
    if values["size"] == "auto":
        del values["size"]
    elif "width" in model.fields:
        _size_to_sides(values, model.fields["width"], faults)
    elif (ratio := model.fields.get("aspect_ratio")) is not None:
        return _size_to_ratio(values, ratio, faults)
    return []


def _size_to_sides(values: dict[str, object], side: FluxField, faults: list[InvalidParam]) -> None:
    size = values.pop("size")
    fault = fault_of_size(size, side)
    if fault is not None:
        faults.append(fault)
        return
    for name, value in zip(("width", "height"), sides_of(str(size)) or (), strict=False):
        if values.setdefault(name, value) != value:
            rule = f"disagrees with {name}={redacted_repr(values[name])}; give one of them"
            faults.append(InvalidParam(param="size", value=size, rule=rule))
            return


def _size_to_ratio(values: dict[str, object], field: FluxField, faults: list[InvalidParam]) -> list[str]:
    size = values.pop("size")
    fit = fit_of_size(size, field.choices, between=field.between)
    rule = fit.rule
    if rule is None and values.setdefault("aspect_ratio", fit.ratio) != fit.ratio:
        rule = f"disagrees with aspect_ratio={redacted_repr(values['aspect_ratio'])}; give one of them"
    if rule is not None:
        nearest = fit.size or (fit.ratio and f"aspect_ratio={fit.ratio!r}")
        faults.append(InvalidParam(param="size", value=size, rule=rule, nearest=nearest))
        return []
    return [] if fit.off == 0 else [f"size={size!r} was sent as aspect_ratio={fit.ratio!r}, {float(fit.off):.1%} off"]


def split_params(params: CheckedParams) -> tuple[CheckedParams, ...]:
    """The parameters of each request of a call: several if `n` is larger than one request allows.

    The seed is incremented from request to request: with the same seed, each would return the same images.
    """
    most, n = int(params.model.fields["n"].maximum or 1), params.values.get("n", 1)
    if not isinstance(n, int) or n <= most:
        return (params,)
    seed = params.values.get("seed")
    # A seed below 0 stands for a random one, which the service draws for each request.
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
    """Check the `defaults=` of a client: each by the rules of their own `model`, or else of a model that takes it.

    Without this check every call would fail instead, far from the line that sets the default.

    Raises:
        InvalidParamsError: With every fault of the defaults.
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
