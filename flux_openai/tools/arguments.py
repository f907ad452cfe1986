"""The arguments of a tool: their JSON schema for the language model, and the check of the arguments that it sends.

The strict form of the schema follows OpenAI's rules for `strict` functions: every property is required, and optional
ones may be null. In the plain form, which other protocols use, optional properties may be left out. Settings of the
developer (base_url, key, paths, formats) are not arguments.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from flux_openai._http.redaction import redacted_repr
from flux_openai.errors import InvalidParam, InvalidParamsError, listed
from flux_openai.models import FAMILIES, FluxField
from flux_openai.request.model_choice import IMAGE_FIELDS
from flux_openai.request.validation import given, validate
from flux_openai.tools.session import Session

__all__ = ["CheckedArguments", "InvalidArgumentsError", "Verb", "check_arguments", "families_for", "json_schema"]

Verb = Literal["generate", "edit"]
"""What a tool does: make images from a prompt, or edit images."""

_REQUEST_KEY: Mapping[str, object] = {
    "type": "string",
    "description": "A name for this call. Another call with the same name returns the first result and costs nothing.",
}
_IMAGES: Mapping[str, object] = {
    "type": "array",
    "items": {"type": "string"},
    "minItems": 1,
    "description": "Names of the images to change or to combine, as earlier results gave them.",
}
_SEED = (
    "The same seed makes the same images, if all other arguments are the same too. "
    "If it is left out or -1, one is drawn, and the result names it."
)
_JSON_TYPES: Mapping[type, str] = MappingProxyType({str: "string", int: "integer", float: "number"})


def families_for(verb: Verb) -> tuple[str, ...]:
    """The families that a tool of this verb can use: to edit, those with a model that takes images."""
    return tuple(
        family
        for family, models in FAMILIES.items()
        if verb == "generate" or any(IMAGE_FIELDS & model.fields.keys() for model in models)
    )


def _fields(family: str, verb: Verb) -> dict[str, FluxField]:
    """The fields that are arguments of the tool: those of the family's models that it can use."""
    models = [model for model in FAMILIES[family] if bool(IMAGE_FIELDS & model.fields.keys()) == (verb == "edit")]
    fields = {name: field for model in models or FAMILIES[family] for name, field in model.fields.items()}
    # The tool sets the response format and takes images by name; `strength` has no meaning without an image.
    apart = {"response_format", *IMAGE_FIELDS, *(["strength"] if verb == "generate" else [])}
    return {name: field for name, field in fields.items() if name not in apart}


def json_schema(family: str, verb: Verb, *, max_images: int, strict: bool) -> dict[str, object]:
    """The schema of a tool's arguments, a new copy.

    Args:
        family: The family of models.
        verb: What the tool does.
        max_images: The largest `n` of one call.
        strict: Whether every property is required, and optional ones may be null.
    """
    images = {"images": deepcopy(_IMAGES)} if verb == "edit" else {}
    fields = {name: _property(field, max_images=max_images) for name, field in _fields(family, verb).items()}
    properties = {**images, **fields, "request_key": deepcopy(_REQUEST_KEY)}
    # The service requires the prompt of an edit only in some cases; this tool always requires it.
    required = [*images, "prompt"]
    if strict:
        properties = {name: inner if name in required else _nullable(inner) for name, inner in properties.items()}
        required = [*properties]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _nullable(schema: Mapping[str, object]) -> dict[str, object]:
    choices = schema.get("enum")
    enum = {"enum": [*choices, None]} if isinstance(choices, list) else {}
    return {**schema, "type": [schema["type"], "null"], **enum}


def _property(field: FluxField, *, max_images: int) -> dict[str, object]:
    limits = f" Each side from {field.minimum} to {field.maximum}." if field.format == "size" else ""
    default = "" if field.default is None else f" Usually {field.default}."
    schema: dict[str, object] = {
        "type": _JSON_TYPES[field.type],
        "description": _SEED if field.name == "seed" else f"{field.doc}{limits}{default}",
    }
    if field.choices:
        schema["enum"] = [*field.choices]
    if field.type in (int, float):
        schema["minimum"] = field.minimum
        schema["maximum"] = min(max_images, int(field.maximum or max_images)) if field.name == "n" else field.maximum
    return schema


class InvalidArgumentsError(ValueError):
    """The arguments of a tool call are invalid; `problems` has a sentence for the model about each."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, kw_only=True)
class CheckedArguments:
    """The checked arguments of one tool call.

    Attributes:
        body: The JSON body of the request.
        images: The number of images.
        seed: The seed; None if the model takes none.
        request_key: The model's name for the call; a second call with the same name is not sent.
    """

    body: Mapping[str, object]
    images: int
    seed: int | None
    request_key: str | None


def check_arguments(
    arguments: Mapping[str, object] | str, *, family: str, verb: Verb, session: Session, default_seed: object = None
) -> CheckedArguments:
    """Check the model's arguments, a mapping or JSON text, and read the images.

    A call without a seed gets the default one; if there is none, or it is -1, one is drawn.

    Raises:
        InvalidArgumentsError: With every problem.
    """
    values = _parse(arguments)
    fields = _fields(family, verb)
    known = {"request_key", *fields, *(["images"] if verb == "edit" else [])}
    problems = [
        f"{name}: is no argument of this tool; the arguments are {', '.join(sorted(known))}"
        for name in values
        if name not in known
    ]
    request_key = values.get("request_key")
    if request_key is not None and not (isinstance(request_key, str) and request_key.strip()):
        problems.append("request_key: must be text that is not blank, or null")
    params = {name: value for name, value in values.items() if name in known - {"request_key", "images"}}
    if verb == "edit":
        params["image"], unknown = _image_files(values.get("images"), session)
        problems += unknown
    if "seed" in fields:
        seed = params.get("seed", default_seed)
        # The service does not return the seed that it draws for -1. A seed that is drawn here can be named, and used
        # again. The service takes seeds modulo 2**31 - 1. The program's `random` stays as it is.
        params["seed"] = secrets.randbelow(2**31 - 1) if seed is None or seed == -1 else seed
    try:
        checked = validate({**params, "model": family}, editing=verb == "edit")
    except InvalidParamsError as error:
        named = {problem.partition(":")[0] for problem in problems}
        found = [fault for fault in error.faults if _argument(fault.param) not in named]
        raise InvalidArgumentsError([*problems, *map(_problem, found)]) from error
    for name, value in checked.values.items():
        low, high = checked.model.fields[name].minimum, checked.model.fields[name].maximum
        # `validate` only warns about some limits. A language model does not see warnings, so these are errors here.
        if isinstance(value, int | float) and low is not None and high is not None and not low <= value <= high:
            rule = f"must be from {low} to {high}"
            problems.append(
                _problem(InvalidParam(param=name, value=value, rule=rule, nearest=low if value < low else high))
            )
    if problems:
        raise InvalidArgumentsError(problems)
    n, seed = checked.values.get("n", 1), checked.values.get("seed")
    images = n if isinstance(n, int) else 1
    return CheckedArguments(
        # `n` is sent: otherwise a default of the client could make more images than were reserved.
        body={"model": checked.model.id, **checked.values, **({"n": images} if "n" in checked.model.fields else {})},
        images=images,
        seed=seed if isinstance(seed, int) else None,
        request_key=request_key if isinstance(request_key, str) else None,
    )


def _parse(arguments: Mapping[str, object] | str) -> dict[str, object]:
    """The arguments by name, without those that are null."""
    try:
        values = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise InvalidArgumentsError(["the arguments must be a JSON object"])
    return given(values)


def _image_files(names: object, session: Session) -> tuple[list[Path], list[str]]:
    """The files of the images with these names, and the problems with the names."""
    if not isinstance(names, list | tuple) or not names:
        return [], ["images: must be a list of one name or more"]
    images = session.images
    # The newest come first, because a long message is cut off.
    known = f"; there are {listed([*images][:-21:-1])}" if images else "; there is none yet"
    paths, problems = [], []
    for name in names:
        path = images.get(name) if isinstance(name, str) else None
        if path is None:
            problems.append(f"images: {redacted_repr(name)} is no image here{known}")
        else:
            paths.append(path)
    return paths, problems


def _argument(param: str) -> str:
    return "images" if param in IMAGE_FIELDS else param


def _problem(fault: InvalidParam) -> str:
    """The message for the model: it knows images by name, and advice for developers (after the ";") is left out."""
    rule = fault.rule.partition("; ")[0]
    if fault.param in IMAGE_FIELDS:
        return f"images: {rule}"
    nearest = "" if fault.nearest is None else f" (nearest: {fault.nearest!r})"
    return f"{fault.param}={redacted_repr(fault.value)}: {rule}{nearest}"
