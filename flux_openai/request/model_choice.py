"""Model choice: short names, the models of a family, and which models accept a field that another does not."""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from types import MappingProxyType

from openai import NotGiven, Omit

from flux_openai.errors import ConfigurationError, InvalidParam, InvalidParamsError, listed
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS, FluxModel, Price
from flux_openai.request.plain import canonical, is_blank

__all__ = [
    "IMAGE_FIELDS",
    "IMAGE_NAMES",
    "checked_prices",
    "is_flux_call",
    "model_for",
    "model_named",
    "models_with_field",
]

IMAGE_FIELDS = frozenset({"image", "images"})
"""The parameters that hold images; which of them are given decides among the models of a family."""

IMAGE_NAMES = IMAGE_FIELDS.union(
    *(
        field.sent_as or ()
        for model in FLUX_MODELS.values()
        for field in model.fields.values()
        if field.format == "image"
    )
)
"""The same, and the names that some models have for images in the body, such as `input_image_2`."""

_REQUIRED_IMAGES: Mapping[str, AbstractSet[str]] = {
    model.id: {name for name in IMAGE_FIELDS & model.fields.keys() if model.fields[name].required}
    for model in FLUX_MODELS.values()
}


def is_flux_call(params: Mapping[str, object], defaults: Mapping[str, object]) -> bool:
    """Whether a call is for a FLUX model, by `model` or `extra_body["model"]`; other calls go to the SDK unchanged."""
    extra_body = params.get("extra_body")
    named = False
    for model in (params.get("model"), extra_body.get("model") if isinstance(extra_body, Mapping) else None):
        if model is not None and not isinstance(model, Omit | NotGiven):
            named = True
            if _is_flux_name(model):
                return True
    return not named and ("model" not in defaults or _is_flux_name(defaults["model"]))


def _is_flux_name(model: object) -> bool:
    """Whether `model` is meant as a FLUX model; a value that is not text counts too, so that it is reported."""
    return not isinstance(model, str) or model in FLUX_MODELS or model in FAMILIES or _is_near_flux(model)


@lru_cache(maxsize=128)
def _is_near_flux(name: str) -> bool:
    """Whether a name that is in no table is a FLUX name all the same: blank, of another FLUX model, or misspelt.

    Otherwise the SDK would send it unchecked, and with its own retries. Names of other models, deployments and
    fine-tunes must not count: calls for them are the SDK's.
    """
    text = canonical(name)
    if is_blank(name):
        return True
    if text.startswith("ft:"):  # a fine-tune of OpenAI's, whose name ends in a word that its owner chose
        return False
    words = re.findall(r"[a-z0-9]+", text)
    letters = "".join(words)
    return (
        "flux" in text
        or "kontext" in text
        or "blackforestlab" in letters
        or "bfl" in words
        or any(sorted(word) in _SWAPPED for word in words)
        or any(get_close_matches(word, ["kontext"], cutoff=0.9) for word in words)
        or bool(get_close_matches(letters, _NAMES, n=1, cutoff=0.85))
    )


_SWAPPED = (sorted("flux"), sorted("kontext"))
"""The letters of the two words in which letters are swapped most often: "fulx", "knotext"."""


def _letters(name: str) -> str:
    """The letters and digits of a name: what is left when case, spaces, dots, dashes and slashes do not count."""
    return "".join(re.findall(r"[a-z0-9]+", canonical(name)))


_VENDOR = "blackforestlabs"
_NAMES: Mapping[str, str] = {
    **{_letters(family): family for family in FAMILIES},
    **{_letters(id).removeprefix(_VENDOR): id for id in FLUX_MODELS},
    **{_letters(id): id for id in FLUX_MODELS},
}
"""Each name by its letters and digits; the full names also without their vendor."""


def model_named(called: Mapping[str, object], defaults: Mapping[str, object]) -> FluxModel | None:
    """The model that a call or the defaults name in full, if any."""
    name = called.get("model", defaults.get("model", DEFAULT_MODEL))
    return FLUX_MODELS.get(name) if isinstance(name, str) else None


def model_for(called: Mapping[str, object], defaults: Mapping[str, object], *, editing: bool = False) -> FluxModel:
    """The model for the parameters of a call.

    A short name selects the model of its family that takes the images of the call. A full name is used as it is, with
    two exceptions: an edit goes to the model of the family that takes as many images, and a full name that comes from
    `defaults` is treated like a short name.

    Raises:
        InvalidParamsError: No model has this name.
    """
    name = called.get("model", defaults.get("model", DEFAULT_MODEL))
    family = FAMILIES.get(name) if isinstance(name, str) else None
    named = model_named(called, defaults)
    given = IMAGE_FIELDS & called.keys() or ({"image"} if editing else set())
    if family is not None:
        return _best_match(family, given)
    if named is None:
        rule = f"must be one of {listed({**FAMILIES, **FLUX_MODELS})}"
        near = _nearest_name(name, given) if isinstance(name, str) else None
        raise InvalidParamsError.of([InvalidParam(param="model", value=name, rule=rule, nearest=near)])
    strict = "model" in called and not (editing and IMAGE_FIELDS & named.fields.keys())
    if strict or _takes(named, given) or (editing and "images" in named.fields and len(given) == 1):
        return named
    return _best_match(FAMILIES[named.family], given)


def _nearest_name(name: str, given: AbstractSet[str]) -> str | None:
    """The name that was probably meant, of a model that takes the images of the call."""
    letters = _letters(name)
    if letters not in _NAMES:
        letters = letters.removeprefix(_VENDOR).removeprefix("bfl")
    likeness = {known: SequenceMatcher(None, letters, known).ratio() for known in _NAMES}
    closest = max(likeness, key=likeness.__getitem__)
    if likeness[closest] < 0.65:
        return None
    near = _NAMES[closest]
    model = FLUX_MODELS.get(near)
    return near if model is None or _takes(model, given) else model.family


def _takes(model: FluxModel, given: AbstractSet[str]) -> bool:
    """Whether a model takes exactly these image parameters."""
    return _REQUIRED_IMAGES[model.id] <= given <= model.fields.keys()


def _best_match(family: tuple[FluxModel, ...], given: AbstractSet[str]) -> FluxModel:
    """The model that takes exactly these image parameters; if none does, the one with the most helpful error."""
    matching = (model for model in family if _takes(model, given))
    closest = (model for model in family if given & model.fields.keys())
    return next(matching, next(closest, family[0]))


def models_with_field(field: str, *, instead_of: FluxModel) -> list[str]:
    """The names of the models that have a field which `instead_of` lacks: of its family if there are any, else of all.

    If `instead_of` takes images, only models that take images count.
    """
    found = [model for model in FLUX_MODELS.values() if field in model.fields]
    if IMAGE_FIELDS & instead_of.fields.keys():
        found = [model for model in found if IMAGE_FIELDS & model.fields.keys()]
    siblings = [model for model in found if model.family == instead_of.family]
    return [model.id for model in siblings or found]


def checked_prices(prices: object) -> Mapping[str, Price]:
    """The `prices=` of a client, by full name of the model; a short name stands for all models of its family.

    Raises:
        ConfigurationError: With every name that is no model's, and every value that is no price.
    """
    if not isinstance(prices, Mapping):
        rule = "must be a mapping of model names to prices, such as {'kontext-max': '0.65 CNY'}"
        raise ConfigurationError.of(InvalidParam(param="prices", value=prices, rule=rule))
    checked, faults = dict[str, Price](), list[InvalidParam]()
    for name, price in prices.items():
        models = FAMILIES.get(name) or tuple(model for model in FLUX_MODELS.values() if model.id == name)
        if not models:
            rule = f"must have names of models: {listed({**FAMILIES, **FLUX_MODELS})}"
            near = _nearest_name(name, set()) if isinstance(name, str) else None
            faults.append(InvalidParam(param="prices", value=name, rule=rule, nearest=near))
            continue
        try:
            value = price if isinstance(price, Price) else Price.of(price if isinstance(price, str) else "")
        except ValueError as problem:
            faults.append(InvalidParam(param="prices", value=price, rule=str(problem), nearest=_nearest_price(price)))
        else:
            checked |= {model.id: value for model in models}
    if faults:
        raise ConfigurationError.of(*faults)
    return MappingProxyType(checked)


def _nearest_price(price: object) -> str | None:
    """The price that a bare number, or a text in another form, probably means."""
    if isinstance(price, bool) or not isinstance(price, str | int | float | Decimal):
        return None
    text = str(price).strip().upper().replace("¥", "CNY").replace("$", "USD").replace("€", "EUR")
    number, letters = re.sub(r"[^0-9.-]", "", text), re.sub(r"[^A-Z]", "", text)
    nearest = f"{number} {letters or 'CNY'}"
    try:
        Price.of(nearest)
    except ValueError:
        return None
    return nearest
