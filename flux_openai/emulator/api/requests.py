"""The request parser of the emulated service: route, API key, JSON body, and the checks of every field.

It shares no code with the client's validation: two independent implementations of one contract reveal each other's
mistakes in the tests.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from flux_openai.emulator.api.responses import ServiceError
from flux_openai.models import FluxField, FluxModel

__all__ = [
    "ROUTES",
    "GenerateRequest",
    "Route",
    "check_key",
    "find_route",
    "is_whole",
    "read_generate_request",
    "read_json",
]

Route = Literal["generate", "models", "download"]

ROUTES: tuple[tuple[re.Pattern[str], str, Route], ...] = (
    (re.compile(r"/images/generations\Z"), "POST", "generate"),
    (re.compile(r"/models\Z"), "GET", "models"),
    (re.compile(r"/files/[^/]+\Z"), "GET", "download"),
)
"""The end of the path, the method and the name of each route."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A checked request for images (an order).

    Attributes:
        prompt: The prompt; may be empty.
        source_digest: A hash of the images to start from and of `strength`; empty without images.
        seed: The seed; -1 for a random one.
        n: The number of pictures.
        ratio: Width to height.
        area: The area in pixels; None if the request does not determine it.
        steps: The inference steps; 0 if the model has none.
        inline: Whether the answer contains the images as base64.
    """

    prompt: str
    source_digest: str
    seed: int
    n: int
    ratio: tuple[int, int]
    area: int | None = None
    steps: int = 0
    inline: bool


def find_route(method: str, *, path: str) -> Route | ServiceError:
    """The route of a request, or a 404 or 405."""
    for pattern, allowed, route in ROUTES:
        if pattern.search(path):
            if method == allowed:
                return route
            message, headers = f"{method} is not possible here; {allowed} is.", {"allow": allowed}
            return ServiceError(status=405, code="method_not_allowed", message=message, headers=headers)
    return ServiceError(status=404, code="not_found", message=f"There is nothing at {path:.200}.")


def check_key(authorization: str | None, *, api_key: str | None) -> ServiceError | None:
    """The error for a missing or wrong bearer token, or None; if `api_key` is None, any token is accepted."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        message = "An API key is needed: Authorization: Bearer <key>."
        return ServiceError(status=401, code="auth_error", message=message)
    if api_key is not None and token.strip() != api_key:
        return ServiceError(status=401, code="auth_error", message="This API key is not known.")
    return None


def read_json(content: bytes) -> dict[str, object] | ServiceError:
    """The JSON object in a body. NaN and Infinity are refused: `json.loads` accepts them, but they are not JSON."""

    def refuse_constant(name: str) -> float:
        raise ValueError(name)

    try:
        value = json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return ServiceError(status=400, code="param_error", message="The body is not valid JSON.")
    if not isinstance(value, dict):
        return ServiceError(status=400, code="param_error", message="The body must be a JSON object.")
    return value


def read_generate_request(
    body: Mapping[str, object], *, models: Mapping[str, FluxModel]
) -> GenerateRequest | ServiceError:
    """The request in a body, or the error that names everything that is wrong with it."""
    name = body.get("model")
    if not isinstance(name, str):
        return ServiceError(status=400, code="param_error", message="model must be given, as a string.")
    if name not in models:
        return ServiceError(status=404, code="model_not_found", message=f"The model {name:.200} does not exist.")
    fields = models[name].fields
    problems = list(_problems(body, fields=fields))
    if problems:
        return ServiceError(status=400, code="param_error", message="; ".join(problems) + ".")

    values = {name: body.get(name, field.default) for name, field in fields.items()}
    prompt, seed, n, steps = (values.get(name) for name in ("prompt", "seed", "n", "steps"))
    sized = "size" in fields
    shape = _SHAPE.fullmatch(str(values.get("size" if sized else "aspect_ratio")))
    width, height = (int(shape[1]), int(shape[2])) if shape else (1, 1)
    divisor = math.gcd(width, height) if sized else 1
    return GenerateRequest(
        prompt=prompt if isinstance(prompt, str) else "",
        source_digest=_source_digest(values),
        seed=seed if isinstance(seed, int) else -1,
        n=n if isinstance(n, int) else 1,
        ratio=(width // divisor, height // divisor),
        area=width * height if sized else None,
        steps=steps if isinstance(steps, int) else 0,
        inline=values.get("response_format") == "b64_json",
    )


def _source_digest(values: Mapping[str, object]) -> str:
    images = [image for name in ("image", "images") if (image := values.get(name)) is not None]
    if not images:
        return ""
    text = json.dumps([*images, values.get("strength")])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _problems(body: Mapping[str, object], *, fields: Mapping[str, FluxField]) -> Iterator[str]:
    """Everything that is wrong with a body, each named by its field."""
    for field in fields.values():
        if field.name in body:
            problem = _problem(body[field.name], field)
            if problem is not None:
                yield f"{field.name} {problem}"
        elif field.required and field.enforced == "error":
            yield f"{field.name} must be given"
    for name in body:
        if name not in fields and name != "model":
            yield f"{name:.80} is not a field of this model"


def _problem(value: object, field: FluxField) -> str | None:
    """What is wrong with a value, as the end of a sentence that begins with the field's name; None if it is valid."""
    type_name, is_of_type = _TYPES[field.type]
    if not is_of_type(value):
        return f"must be {type_name}"
    if field.enforced == "warn":
        return None
    check = {"image": _image_problem, "size": _size_problem}.get(field.format or "", _plain_problem)
    return check(value, field)


def _plain_problem(value: object, field: FluxField) -> str | None:
    if field.choices and value not in field.choices:
        return f"must be one of {', '.join(field.choices)}"
    if isinstance(value, int | float) and not _is_within(value, field):
        return f"must be {_limits(field)}"
    if not field.blank and isinstance(value, str) and not value.strip():
        return "must not be blank"
    return None


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an int but not a bool, which is a subclass of int."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_TYPES: Mapping[type, tuple[str, Callable[[object], bool]]] = {
    list: ("a list of strings", lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value)),
    str: ("a string", lambda value: isinstance(value, str)),
    int: ("an integer", is_whole),
    float: ("a number", _is_number),
}


def _is_within(value: float, field: FluxField) -> bool:
    above = field.minimum is None or value >= field.minimum
    return above and (field.maximum is None or value <= field.maximum)


def _limits(field: FluxField) -> str:
    ends = (("at least", field.minimum), ("at most", field.maximum))
    return " and ".join(f"{word} {limit}" for word, limit in ends if limit is not None)


_SHAPE = re.compile(r"([1-9]\d{0,3})[:x]([1-9]\d{0,3})", re.ASCII)
_LINK = re.compile(r"https?://[^/\s]+(/\S*)?", re.IGNORECASE)
_DATA_URI = re.compile(r"data:image/(png|jpeg|webp|gif);base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
_MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "gif": b"GIF8"}


def _size_problem(value: object, field: FluxField) -> str | None:
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value), re.ASCII)
    if size is None or not all(_is_within(int(side), field) for side in size.groups()):
        return f"must be WIDTHxHEIGHT, each {_limits(field)}"
    return None


def _image_problem(value: object, field: FluxField) -> str | None:
    images = value if isinstance(value, list) else [value]
    if len(images) < (field.minimum or 0):
        return f"must hold {field.minimum} or more"
    if not all(isinstance(image, str) and (_LINK.fullmatch(image) or _is_image_data(image)) for image in images):
        return "must be a link or a data URI of a PNG, JPEG, WebP or GIF"
    return None


def _is_image_data(text: str) -> bool:
    data = _DATA_URI.fullmatch(text)
    try:
        return data is not None and base64.b64decode(data[2], validate=True).startswith(_MAGIC[data[1]])
    except binascii.Error:
        return False
