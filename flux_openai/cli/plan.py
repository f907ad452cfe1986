"""What is asked for -> the calls that make it, all of them checked before the first is sent."""

from collections.abc import Iterator, Mapping

from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, FluxField
from flux_openai.params import validate

__all__ = ["calls_of", "check", "field_help", "images_per_call"]

Call = Mapping[str, object]


def images_per_call(params: Mapping[str, object]) -> int:
    """The most images that the model makes in one call."""
    name = params.get("model")
    model = FLUX_MODELS.get(name if isinstance(name, str) else DEFAULT_MODEL, FLUX_MODELS[DEFAULT_MODEL])
    return int(model.fields["n"].maximum or 1)


def calls_of(params: Mapping[str, object]) -> Iterator[Call]:
    """The parameters of each call: `n` is split, and a seed counts up so that no two calls draw the same pictures."""
    return (_call(params, number) for number in range(_how_many(params)))


def check(params: Mapping[str, object]) -> tuple[str, ...]:
    """What is to be said about the calls before they are sent. Raises InvalidParamsError."""
    # The calls differ in `n` and `seed` alone: if the first and the last are good, so are those in between.
    ends = {0, _how_many(params) - 1}
    return tuple(dict.fromkeys(notice for number in sorted(ends) for notice in validate(_call(params, number)).notices))


def _how_many(params: Mapping[str, object]) -> int:
    return max(1, -(-_images(params) // images_per_call(params)))


def _images(params: Mapping[str, object]) -> int:
    n = params.get("n", 1)
    return n if isinstance(n, int) else 1


def _call(params: Mapping[str, object], number: int) -> Call:
    most, seed = images_per_call(params), params.get("seed")
    # A seed below 0 means that none was chosen, and the service draws a new one each time.
    counted = {"seed": seed + number} if isinstance(seed, int) and seed >= 0 else {}
    split = {"n": min(most, _images(params) - number * most)} if "n" in params else {}
    return {**params, **counted, **split}


def field_help(name: str) -> str:
    """The help text of a parameter, from the table of models."""
    field = FLUX_MODELS[DEFAULT_MODEL].fields[name]
    default = "" if field.default is None else f"the service's default is {field.default}"
    facts = "; ".join(filter(None, (_values_of(field), default)))
    return f"{field.doc} {facts[0].upper()}{facts[1:]}." if facts else field.doc


def _values_of(field: FluxField) -> str:
    if field.choices:
        return f"one of {', '.join(field.choices)}"
    # How many images one call makes is no limit here: more are made in several.
    return "" if field.minimum is None or field.name == "n" else f"from {field.minimum} to {field.maximum}"
