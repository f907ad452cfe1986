"""The request parser of the emulated service: route, API key, JSON body, and the checks of every field.

Some models are named in `model`, others have a path of their own. The parser shares no code
with the client's validation: two independent implementations of one contract reveal each other's
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
from flux_openai.formats import image_size
from flux_openai.models import FLUX_MODELS, GENERATIONS, FluxField, FluxModel

__all__ = [
    "ROUTES",
    "GenerateRequest",
    "Route",
    "check_key",
    "find_route",
    "is_whole",
    "megapixels",
    "order_of",
    "read_generate_request",
    "read_json",
]

Route = Literal["generate", "models", "download"]

ROUTES: tuple[tuple[re.Pattern[str], str, Route], ...] = (
    *((re.compile(rf"{re.escape(path)}\Z"), "POST", "generate") for path in {m.path: m for m in FLUX_MODELS.values()}),
    (re.compile(r"/models\Z"), "GET", "models"),
    (re.compile(r"/files/[^/]+\Z"), "GET", "download"),
)
"""The end of the path, the method and the name of each route."""


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A checked request for images (an order).

    Attributes:
        model: The model.
        prompt: The prompt; may be empty.
        source_digest: A hash of the images to start from and of `strength`; empty without images.
        seed: The seed; -1 for a random one.
        n: The number of pictures.
        ratio: Width to height.
        area: The area in pixels; None if the request does not determine it.
        steps: The inference steps; 0 if the model has none.
        inline: Whether the answer contains the images as base64.
        input_megapixels: The area of the images to start from, if they are in the request.
    """

    model: FluxModel
    prompt: str
    source_digest: str
    seed: int
    n: int
    ratio: tuple[int, int]
    area: int | None = None
    steps: int = 0
    inline: bool
    input_megapixels: int = 0


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


def _model_of_path(path: str, models: Mapping[str, FluxModel]) -> FluxModel | None:
    """The model that the path of an order names; None where the body names it."""
    return next((one for one in models.values() if one.path != GENERATIONS and path.endswith(one.path)), None)


def order_of(body: dict[str, object] | None, *, path: str) -> dict[str, object] | None:
    """The body of an order with its `model`, also where only the path names it: the fault scripts ask for it."""
    model = _model_of_path(path, FLUX_MODELS)
    return body if body is None or model is None else {**body, "model": model.id}


def read_generate_request(
    body: Mapping[str, object], *, path: str = GENERATIONS, models: Mapping[str, FluxModel]
) -> GenerateRequest | ServiceError:
    """The request in a body, or the error that names everything that is wrong with it."""
    model, name = _model_of_path(path, models), body.get("model")
    if model is None:
        if not isinstance(name, str):
            return ServiceError(status=400, code="param_error", message="model must be given, as a string.")
        model = models.get(name)
        if model is None or model.path != GENERATIONS:
            return ServiceError(status=404, code="model_not_found", message=f"The model {name:.200} does not exist.")
    problems = list(_problems(body, model))
    if problems:
        return ServiceError(status=400, code="param_error", message="; ".join(problems) + ".")

    values = {name: _value(body, field) for name, field in model.fields.items()}
    prompt, seed, n, steps = (values.get(name) for name in ("prompt", "seed", "n", "steps"))
    images = [values.get("image"), *given] if isinstance(given := values.get("images"), list) else [values.get("image")]
    width, height, sized = _shape(values)
    divisor = math.gcd(width, height) if sized else 1
    return GenerateRequest(
        model=model,
        prompt=prompt if isinstance(prompt, str) else "",
        source_digest=_source_digest(values),
        seed=seed if isinstance(seed, int) else -1,
        n=n if isinstance(n, int) else 1,
        ratio=(width // divisor, height // divisor),
        area=width * height if sized else None,
        steps=steps if isinstance(steps, int) else 0,
        inline=values.get("response_format") == "b64_json",
        input_megapixels=sum(_megapixels_of(image) for image in images),
    )


def _value(body: Mapping[str, object], field: FluxField) -> object:
    """The value of a field in a body, or its default; a list whose items have a name each is put together."""
    if field.sent_as is None:
        return body.get(field.name, field.default)
    items = [body[name] for name in field.sent_as if name in body]
    if not items:
        return field.default
    return items if field.type is list else items[0]


def _shape(values: Mapping[str, object]) -> tuple[int, int, bool]:
    """Width and height, and whether they are pixels and not only a ratio."""
    if "width" in values:
        width, height = (side if is_whole(side) else _USUAL_SIDE for side in (values["width"], values["height"]))
        return width, height, True
    sized = "size" in values
    shape = _SHAPE.fullmatch(str(values.get("size" if sized else "aspect_ratio")))
    return (int(shape[1]), int(shape[2]), sized) if shape else (1, 1, sized)


def megapixels(width: int, height: int) -> int:
    """The area in whole megapixels, rounded up, as the service counts."""
    return -(-width * height // 2**20)


def _megapixels_of(image: object) -> int:
    """The area of an image in plain base64; 0 for a link and a data URI, whose models do not count it."""
    size = image_size(base64.b64decode(image)) if isinstance(image, str) and ":" not in image else None
    return 0 if size is None else megapixels(*size)


def _source_digest(values: Mapping[str, object]) -> str:
    images = [image for name in ("image", "images") if (image := values.get(name)) is not None]
    if not images:
        return ""
    text = json.dumps([*images, values.get("strength")])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _problems(body: Mapping[str, object], model: FluxModel) -> Iterator[str]:
    """Everything that is wrong with a body, each named by its field."""
    known = set() if model.path != GENERATIONS else {"model"}
    for field in model.fields.values():
        names = (field.name,) if field.sent_as is None else field.sent_as
        known |= {*names}
        for name in names:
            problem = _problem(body[name], field) if name in body else None
            if problem is not None:
                yield f"{name} {problem}"
        if field.required and field.enforced == "error" and not body.keys() & {*names}:
            yield f"{field.name} must be given"
    for name in body:
        if name not in known:
            yield f"{name:.80} is not a field of this model"


def _problem(value: object, field: FluxField) -> str | None:
    """What is wrong with a value, as the end of a sentence that begins with the field's name; None if it is valid."""
    type_name, is_of_type = _TYPES[field.type if field.sent_as is None else str]
    if not is_of_type(value):
        return f"must be {type_name}"
    if field.enforced == "warn":
        return None
    check = {"image": _image_problem, "size": _size_problem, "ratio": _ratio_problem}.get(
        field.format or "", _plain_problem
    )
    return check(value, field)


def _ratio_problem(value: object, field: FluxField) -> str | None:
    ratio = re.fullmatch(r"([1-9]\d{0,4}):([1-9]\d{0,4})", str(value), re.ASCII)
    if not field.between or ratio is None:
        return _plain_problem(value, field)
    width, height = int(ratio[1]), int(ratio[2])
    # Compared without division: 21:9 itself is allowed.
    wide, high = (tuple(map(int, field.choices[end].split(":"))) for end in (0, -1))
    fits = width * wide[1] <= height * wide[0] and width * high[1] >= height * high[0]
    return None if fits else f"must be from {field.choices[0]} to {field.choices[-1]}"


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
    bool: ("true or false", lambda value: isinstance(value, bool)),
}


def _is_within(value: float, field: FluxField) -> bool:
    above = field.minimum is None or value >= field.minimum
    even = field.multiple_of is None or value % field.multiple_of == 0
    return above and even and (field.maximum is None or value <= field.maximum)


def _limits(field: FluxField) -> str:
    ends = (("at least", field.minimum), ("at most", field.maximum), ("a multiple of", field.multiple_of))
    return " and ".join(f"{word} {limit}" for word, limit in ends if limit is not None)


_USUAL_SIDE = 1024
"""A side in pixels that the request leaves to the service; what it takes then is not documented."""

_SHAPE = re.compile(r"([1-9]\d{0,4})[:x]([1-9]\d{0,4})", re.ASCII)
_LINK = re.compile(r"https?://[^/\s]+(/\S*)?", re.IGNORECASE)
_DATA_URI = re.compile(r"data:image/(png|jpeg|webp|gif);base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
_MAGIC = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF", "gif": b"GIF8"}


def _size_problem(value: object, field: FluxField) -> str | None:
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value), re.ASCII)
    if size is None or not all(_is_within(int(side), field) for side in size.groups()):
        return f"must be WIDTHxHEIGHT, each {_limits(field)}"
    return None


def _image_problem(value: object, field: FluxField) -> str | None:
    if not field.links:
        inline = isinstance(value, str) and any(_is_image_data(f"data:image/{kind};base64,{value}") for kind in _MAGIC)
        return None if inline else "must be a PNG, JPEG, WebP or GIF in plain base64"
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
