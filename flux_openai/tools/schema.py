"""What a language model is told about a tool: its arguments as JSON schema, made from the table of models.

The schema keeps OpenAI's strict rules: every property is required, what may be left out may be null, and no keyword is
used that those rules do not name. What a developer decides (address, key, paths, formats) is no argument.
"""

from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Literal

from flux_openai.models import FAMILIES, FluxField
from flux_openai.request.model_choice import IMAGE_FIELDS

__all__ = ["REQUEST_KEY", "Verb", "arguments_of", "json_schema"]

Verb = Literal["generate", "edit"]
"""What a tool does: make images from a prompt, or from images that are there already."""

REQUEST_KEY = "request_key"

_REQUEST_KEY: Mapping[str, object] = {
    "type": ["string", "null"],
    "description": "A name for this order. The same name again returns the first result and pays nothing.",
}
_IMAGES: Mapping[str, object] = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "description": "Names of the images to change or to combine, as earlier results gave them.",
}
_JSON_TYPES: Mapping[type, str] = MappingProxyType({str: "string", int: "integer", float: "number"})


def arguments_of(family: str, verb: Verb) -> dict[str, FluxField]:
    """The fields that are arguments: those of the models of a family that such an order can go to."""
    models = [model for model in FAMILIES[family] if bool(IMAGE_FIELDS & model.fields.keys()) == (verb == "edit")]
    fields = {name: field for model in models or FAMILIES[family] for name, field in model.fields.items()}
    # The form of the answer is the tool's own business, and images go by name; without one, none can be departed from.
    apart = {"response_format", *IMAGE_FIELDS, *(["strength"] if verb == "generate" else [])}
    return {name: field for name, field in fields.items() if name not in apart}


def json_schema(family: str, verb: Verb, *, most: int) -> dict[str, object]:
    """The arguments of a tool; `most` is the number of images that one call may ask for."""
    images = {"images": deepcopy(_IMAGES)} if verb == "edit" else {}
    fields = {name: _property(field, most=most) for name, field in arguments_of(family, verb).items()}
    properties = {**images, **fields, REQUEST_KEY: deepcopy(_REQUEST_KEY)}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _property(field: FluxField, *, most: int) -> dict[str, object]:
    # The page calls the prompt of an edit "conditionally required"; a tool that draws at all is told what.
    optional = field.name != "prompt"
    kind = _JSON_TYPES[field.type]
    schema: dict[str, object] = {"type": [kind, "null"] if optional else kind, "description": _description(field)}
    if field.choices:
        schema["enum"] = [*field.choices, *([None] if optional else [])]
    if field.type in (int, float):
        schema["minimum"] = field.minimum
        schema["maximum"] = min(most, int(field.maximum or most)) if field.name == "n" else field.maximum
    return schema


def _description(field: FluxField) -> str:
    limits = f" Each side from {field.minimum} to {field.maximum}." if field.format == "size" else ""
    default = "" if field.default is None else f" Usually {field.default}."
    return f"{field.doc}{limits}{default}"
