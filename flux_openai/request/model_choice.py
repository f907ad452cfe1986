"""Model choice: short names, the models of a family, and which models accept a field that another does not."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from difflib import get_close_matches

from openai import NotGiven, Omit

from flux_openai.errors import InvalidParam, InvalidParamsError, listed
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS, FluxModel

__all__ = ["IMAGE_FIELDS", "is_flux_call", "model_for", "models_with_field"]

IMAGE_FIELDS = frozenset({"image", "images"})
"""The parameters that hold images; which of them are given decides among the models of a family."""


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
    if not isinstance(model, str):
        return True
    # A misspelt FLUX name counts too: otherwise the SDK would send it unchecked, and with its own retries.
    name = model.strip().lower()
    return "flux" in name or name.startswith("black-forest-labs/") or name in FAMILIES or model in FLUX_MODELS


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
    named = FLUX_MODELS.get(name) if isinstance(name, str) else None
    given = IMAGE_FIELDS & called.keys() or ({"image"} if editing else set[str]())
    if family is not None:
        return _best_match(family, given)
    if named is None:
        known = [*FAMILIES, *FLUX_MODELS]
        near = get_close_matches(name.strip().lower() if isinstance(name, str) else "", known, n=1, cutoff=0.0)
        unknown = InvalidParam(param="model", value=name, rule=f"must be one of {listed(known)}", nearest=near[0])
        raise InvalidParamsError.of([unknown])
    strict = "model" in called and not (editing and IMAGE_FIELDS & named.fields.keys())
    if (
        strict
        or _REQUIRED_IMAGES[named.id] <= given <= named.fields.keys()
        or (editing and "images" in named.fields and len(given) == 1)
    ):
        return named
    return _best_match(FAMILIES[named.family], given)


def _best_match(family: tuple[FluxModel, ...], given: AbstractSet[str]) -> FluxModel:
    """The model that takes exactly these image parameters; if none does, the one with the most helpful error."""
    matching = (model for model in family if _REQUIRED_IMAGES[model.id] <= given <= model.fields.keys())
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
