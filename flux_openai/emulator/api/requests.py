"""The service's own view of a request: who may ask, what may be asked, and what exactly was ordered.

Nothing is shared with the checks in front of the client: two readings of one contract find each other's mistakes.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from flux_openai.emulator.api.responses import Refusal
from flux_openai.models import FluxField, FluxModel

__all__ = ["Order", "is_whole", "read_json", "read_order", "refuse_key"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be drawn: `n` pictures of `ratio` (width, height), sent inside the answer if `inline`.

    `inspiration` stands for the images to start from, and for how far to depart from them. `area` is in pixels, and
    None where the order leaves it open; `steps` is 0 where the model has none.
    """

    prompt: str
    inspiration: str
    seed: int
    n: int
    ratio: tuple[int, int]
    area: int | None = None
    steps: int = 0
    inline: bool


def refuse_key(authorization: str | None, *, api_key: str | None) -> Refusal | None:
    """Why the Authorization header is not good enough, or None; without an `api_key`, any bearer token is."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        return Refusal(status=401, code="missing_api_key", message="An API key is needed: Authorization: Bearer <key>.")
    if api_key is not None and token.strip() != api_key:
        return Refusal(status=401, code="invalid_api_key", message="This API key is not known.")
    return None


def read_json(content: bytes) -> dict[str, object] | Refusal:
    """The JSON object in a body. NaN and Infinity are refused: they are Python's, not JSON's."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return Refusal(status=400, code="invalid_json", message="The body is not valid JSON.")
    if not isinstance(value, dict):
        return Refusal(status=400, code="invalid_json", message="The body must be a JSON object.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def read_order(body: Mapping[str, object], *, models: Mapping[str, FluxModel]) -> Order | Refusal:
    """The order in a body, or the refusal that names everything wrong with it."""
    name = body.get("model")
    if not isinstance(name, str):
        return Refusal(status=400, code="invalid_parameter", message="model must be given, as a string.")
    if name not in models:
        return Refusal(status=404, code="model_not_found", message=f"The model {name:.200} does not exist.")
    objections = list(_objections(body, fields=models[name].fields))
    if objections:
        return Refusal(status=400, code="invalid_parameter", message="; ".join(objections) + ".")
    return _order(body, fields=models[name].fields)


def _objections(body: Mapping[str, object], *, fields: Mapping[str, FluxField]) -> Iterator[str]:
    for field in fields.values():
        objection = _objection(body[field.name], field=field) if field.name in body else _absence(field)
        if objection is not None:
            yield f"{field.name} {objection}"
    for name in body:
        if name not in fields and name != "model":
            yield f"{name:.80} is not a field of this model"


def _absence(field: FluxField) -> str | None:
    return "must be given" if field.required and field.enforced == "error" else None


def _objection(value: object, *, field: FluxField) -> str | None:
    kind, fits = _TYPES[field.type]
    if not fits(value):
        return f"must be {kind}"
    if field.enforced == "warn":
        return None
    return _FORMATS.get(field.format, _objection_to_plain)(value, field)


def _objection_to_plain(value: object, field: FluxField) -> str | None:
    if field.choices and value not in field.choices:
        return f"must be one of {', '.join(field.choices)}"
    if isinstance(value, int | float) and not _within(value, field=field):
        return f"must be {_limits(field)}"
    if not field.blank and isinstance(value, str) and not value.strip():
        return "must not be blank"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is an int and no bool, which Python counts among them."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_TYPES: Mapping[type, tuple[str, Callable[[object], bool]]] = {
    list: ("a list of strings", _is_texts),
    str: ("a string", _is_text),
    int: ("an integer", is_whole),
    float: ("a number", _is_number),
}


def _within(value: float, *, field: FluxField) -> bool:
    above = field.minimum is None or value >= field.minimum
    return above and (field.maximum is None or value <= field.maximum)


def _limits(field: FluxField) -> str:
    ends = (("at least", field.minimum), ("at most", field.maximum))
    return " and ".join(f"{word} {limit}" for word, limit in ends if limit is not None)


_SHAPE = re.compile(r"([1-9]\d{0,3})[:x]([1-9]\d{0,3})", re.ASCII)
_LINK = re.compile(r"https?://[^/\s]+(/\S*)?", re.IGNORECASE)
_DATA = re.compile(r"data:image/(png|jpeg|webp|gif);base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
_MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "gif": b"GIF8"}


def _objection_to_images(value: object, field: FluxField) -> str | None:
    images = value if isinstance(value, list) else [value]
    if len(images) < (field.minimum or 0):
        return f"must hold {field.minimum} or more"
    if not all(_is_image(image) for image in images):
        return "must be a link or a data URI of a PNG, JPEG, WebP or GIF"
    return None


def _is_image(value: object) -> bool:
    if not isinstance(value, str):
        return False
    if _LINK.fullmatch(value):
        return True
    data = _DATA.fullmatch(value)
    try:
        return data is not None and base64.b64decode(data[2], validate=True).startswith(_MAGIC[data[1]])
    except binascii.Error:
        return False


def _objection_to_size(value: object, field: FluxField) -> str | None:
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value), re.ASCII)
    if size is None or not all(_within(int(side), field=field) for side in size.groups()):
        return f"must be WIDTHxHEIGHT, each {_limits(field)}"
    return None


_FORMATS: Mapping[str | None, Callable[[object, FluxField], str | None]] = {
    "image": _objection_to_images,
    "size": _objection_to_size,
}


def _order(body: Mapping[str, object], *, fields: Mapping[str, FluxField]) -> Order:
    values = {name: body.get(name, field.default) for name, field in fields.items()}
    prompt, seed, n, steps = (values.get(name) for name in ("prompt", "seed", "n", "steps"))
    sized = "size" in fields
    width, height = _shape(values.get("size" if sized else "aspect_ratio"))
    common = math.gcd(width, height) if sized else 1
    return Order(
        prompt=prompt if isinstance(prompt, str) else "",
        inspiration=_inspiration(values),
        seed=seed if isinstance(seed, int) else -1,
        n=n if isinstance(n, int) else 1,
        ratio=(width // common, height // common),
        area=width * height if sized else None,
        steps=steps if isinstance(steps, int) else 0,
        inline=values.get("response_format") == "b64_json",
    )


def _inspiration(values: Mapping[str, object]) -> str:
    images = [image for name in ("image", "images") if (image := values.get(name)) is not None]
    told = json.dumps([*images, values.get("strength")])
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest() if images else ""


def _shape(value: object) -> tuple[int, int]:
    shape = _SHAPE.fullmatch(str(value))
    return (int(shape[1]), int(shape[2])) if shape else (1, 1)
