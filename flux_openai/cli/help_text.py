"""The words and numbers of the help and of the list of models, from the table."""

from collections.abc import Mapping

from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS, FluxField, FluxModel

__all__ = ["IMAGE_MODEL", "field_help", "model_document", "model_lines", "short_names"]

IMAGE_MODEL = "black-forest-labs/flux-kontext-max"


def field_help(name: str, *, model: str = DEFAULT_MODEL) -> str:
    """The help text of a parameter as a model has it, or the first model that has it."""
    field = next(one.fields[name] for one in (FLUX_MODELS[model], *FLUX_MODELS.values()) if name in one.fields)
    default = "" if field.default is None else f"the service's default is {field.default}"
    facts = "; ".join(filter(None, (_values_of(field), default)))
    return f"{field.doc} {facts[0].upper()}{facts[1:]}." if facts else field.doc


def _values_of(field: FluxField) -> str:
    if field.choices:
        return f"one of {', '.join(field.choices)}"
    # How many images one call makes is no limit here: more are made in several.
    if field.maximum is None or field.name == "n":
        return ""
    return f"{'each side ' if field.format == 'size' else ''}from {field.minimum} to {field.maximum}"


def short_names() -> str:
    """The short names of the models, as they stand in a sentence."""
    return ", ".join(FAMILIES)


def model_lines() -> list[str]:
    """The models, one per line: short name, full name, and what is their own beside the fields of all."""
    common = set.intersection(*(set(model.fields) for model in FLUX_MODELS.values()))
    rows = [
        (model.family, model.id, " ".join(name for name in model.fields if name not in common))
        for model in FLUX_MODELS.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{family:{widths[0]}}  {id:{widths[1]}}  {own}" for family, id, own in rows]


def model_document() -> list[Mapping[str, object]]:
    """The table of models as plain values."""
    return [_plain(model) for model in FLUX_MODELS.values()]


def _plain(model: FluxModel) -> Mapping[str, object]:
    fields = [
        {
            "name": field.name,
            "type": field.type.__name__,
            "format": field.format,
            "required": field.required,
            "minimum": field.minimum,
            "maximum": field.maximum,
            "choices": field.choices,
            "default": field.default,
            "enforced": field.enforced,
            "source": field.source,
        }
        for field in model.fields.values()
    ]
    return {"id": model.id, "short_name": model.family, "source": model.source, "fields": fields}
