"""Which model a call goes to: short names, the siblings of a model, and who takes what another does not."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from difflib import get_close_matches

from flux_openai.errors import InvalidParam, listed
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS, FluxModel

__all__ = ["IMAGE_FIELDS", "is_flux", "model_for", "takers"]

IMAGE_FIELDS = frozenset({"image", "images"})
"""The parameters that hold images; the ones given choose among the models of a family."""


def is_flux(model: object) -> bool:
    """Whether a call with this `model` is ours to check; the name of a model of another family is the SDK's."""
    if not isinstance(model, str):
        return True
    # A slip in a name is ours too: passed on, it would be sent unchecked and repeated by the SDK's own retries.
    name = model.strip().lower()
    return "flux" in name or name.startswith("black-forest-labs/") or name in FAMILIES


def model_for(
    called: Mapping[str, object], defaults: Mapping[str, object], *, editing: bool = False
) -> FluxModel | InvalidParam:
    """The model for the parameters of a call, or the fault in the name it gives.

    A short name stands for whichever model of its family takes the images given. A full name is taken at its word,
    except that an edit goes to the sibling that takes as many images, and that a default gives way like a short name.
    """
    name = called.get("model", defaults.get("model", DEFAULT_MODEL))
    family = FAMILIES.get(name) if isinstance(name, str) else None
    named = FLUX_MODELS.get(name) if isinstance(name, str) else None
    given = IMAGE_FIELDS & called.keys() or ({"image"} if editing else set[str]())
    if family is not None:
        return _fitting(family, given)
    if named is None:
        return _unknown(name)
    strict = "model" in called and not (editing and IMAGE_FIELDS & named.fields.keys())
    if strict or _fits(named, given) or (editing and "images" in named.fields and len(given) == 1):
        return named
    return _fitting(FAMILIES[named.family], given)


def _fitting(family: tuple[FluxModel, ...], given: AbstractSet[str]) -> FluxModel:
    """The model that takes just these images; if none does, the one whose objection helps most."""
    fitting = (model for model in family if _fits(model, given))
    closest = (model for model in family if given & model.fields.keys())
    return next(fitting, next(closest, family[0]))


def _fits(model: FluxModel, given: AbstractSet[str]) -> bool:
    needed = {name for name in IMAGE_FIELDS & model.fields.keys() if model.fields[name].required}
    return needed <= given <= model.fields.keys()


def _unknown(name: object) -> InvalidParam:
    known = [*FAMILIES, *FLUX_MODELS]
    near = get_close_matches(name.strip().lower() if isinstance(name, str) else "", known, n=1, cutoff=0.0)
    return InvalidParam(param="model", value=name, rule=f"must be one of {listed(known)}", nearest=near[0])


def takers(field: str, *, instead_of: FluxModel) -> list[str]:
    """The models that take a parameter which this one does not; those nearest to it, and images if it takes them."""
    found = [model for model in FLUX_MODELS.values() if field in model.fields]
    if IMAGE_FIELDS & instead_of.fields.keys():
        found = [model for model in found if IMAGE_FIELDS & model.fields.keys()]
    siblings = [model for model in found if model.family == instead_of.family]
    return [model.id for model in siblings or found]
