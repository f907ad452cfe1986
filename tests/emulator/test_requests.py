"""What the service reads in the body of a request, and what it refuses."""

from collections.abc import Callable, Iterator
from types import MappingProxyType

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.emulator.api.requests import GenerateRequest, read_generate_request
from flux_openai.emulator.api.responses import ServiceError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, FluxField, FluxModel

Post = Callable[..., httpx.Response]

WRONG_TYPES: dict[type, tuple[object, ...]] = {
    str: (7, True, ["a"], {}, None),
    int: ("1", 1.0, 1.5, True, [1], None),
    float: ("2.5", False, [2.5], {}, None, float("inf")),
    list: ("https://x.test/a.png", [1], {}, None),
    bool: ("true", 0, 1, [True], None),
}
PICTURE = "https://x.test/a.png"
BASE64 = "iVBORw0KGgo="
DATA = f"data:image/png;base64,{BASE64}"
GOOD_BY_NAME: dict[str, tuple[object, ...]] = {
    "prompt": ("a fox",),
    "image": (PICTURE, DATA),
    "images": ([PICTURE], [DATA, PICTURE]),
    "size": ("256x256", "1536x1536", "1000x257"),
}
BAD_BY_FORMAT: dict[str | None, tuple[object, ...]] = {
    "image": ("", "fox.png", "ftp://x.test/a.png", "data:image/png;base64,QUJD", "data:text/plain;base64,iVBORw0KGgo="),
    "base64": ("", PICTURE, DATA, "QUJD", "fox.png", BASE64 + "!"),
    "between": ("", "22:9", "9:22", "16x9", "1:0"),
    "size": ("", "255x256", "1024x1537", "1024", "1024 x 1024", "16:9"),
}


def good_values(field: FluxField) -> tuple[object, ...]:
    """Values of a field that the service takes: every choice, both limits, or an example."""
    if field.format == "image" and not field.links:
        return (BASE64,)
    if field.between:
        return (*field.choices, "5:4", "7:3", "1000:999")
    if field.type is bool:
        return (True, False)
    if field.name in GOOD_BY_NAME:
        return GOOD_BY_NAME[field.name]
    if field.choices:
        return field.choices
    limits = tuple(limit for limit in (field.minimum, field.maximum) if limit is not None)
    return limits or ("something",)


def bad_values(field: FluxField) -> Iterator[object]:
    """Values of a field that the service refuses."""
    yield from WRONG_TYPES[field.type if field.sent_as is None else str]
    if field.enforced == "warn":
        return
    if field.multiple_of is not None:
        yield from (int(field.minimum or 0) + 1, 1000)
    if field.format == "image" and not field.links:
        yield from BAD_BY_FORMAT["base64"]
        return
    if field.between:
        yield from BAD_BY_FORMAT["between"]
        return
    if field.choices:
        yield from ("", field.choices[0].upper() + "x", f" {field.choices[0]}")
    if field.format in BAD_BY_FORMAT:
        bad = BAD_BY_FORMAT[field.format]
        yield from ([], *([value] for value in bad)) if field.type is list else bad
        return
    if field.minimum is not None:
        yield field.minimum - 1
    if field.maximum is not None:
        yield field.maximum + 1
    if not field.blank:
        yield from ("", " \n")


FIELDS = [(model, field) for model in FLUX_MODELS.values() for field in model.fields.values()]
NAMES = [
    (model, field, name)
    for model, field in FIELDS
    for name in ((field.name,) if field.sent_as is None else field.sent_as)
]
GOOD = [(model, name, value) for model, field, name in NAMES for value in good_values(field)]
BAD = [(model, name, value) for model, field, name in NAMES for value in bad_values(field)]


def request_of(model: FluxModel, **fields: object) -> GenerateRequest | ServiceError:
    """What the service reads in a request with all that the model requires, and these fields."""
    needed = {name: good_values(field)[0] for name, field in model.fields.items() if field.required}
    named = {"model": model.id} if model.path == "/images/generations" else {}
    return read_generate_request(named | needed | fields, path=f"/v1{model.path}", models={model.id: model})


def error_of(model: FluxModel, **fields: object) -> ServiceError:
    """The error for such a request."""
    error = request_of(model, **fields)
    assert isinstance(error, ServiceError)
    return error


@pytest.mark.parametrize(("model", "name", "value"), GOOD, ids=repr)
def test_good_values_are_taken(model: FluxModel, name: str, value: object) -> None:
    """Each field takes its choices and both of its limits."""
    assert isinstance(request_of(model, **{name: value}), GenerateRequest)


@pytest.mark.parametrize(("model", "name", "value"), BAD, ids=repr)
def test_bad_values_are_refused(model: FluxModel, name: str, value: object) -> None:
    """Each field refuses wrong types and the first value beyond each limit, and the error names the field."""
    error = error_of(model, **{name: value})
    assert (error.status, error.code) == (400, "param_error")
    assert error.message.startswith(f"{name} must ")


@pytest.mark.parametrize(
    ("model", "field"), [(model, field) for model, field in FIELDS if field.enforced == "warn"], ids=repr
)
def test_doubtful_limits_are_not_enforced(model: FluxModel, field: FluxField) -> None:
    """A limit that only the provider's general page states refuses nothing."""
    outside = [limit + step for limit, step in ((field.minimum, -1), (field.maximum, 1)) if limit is not None]
    assert outside
    assert all(isinstance(request_of(model, **{field.name: value}), GenerateRequest) for value in outside)


@pytest.mark.parametrize("value", [3, 10, 1])
def test_a_whole_number_does_for_a_float(post: Post, value: int) -> None:
    """guidance_scale takes ints."""
    assert post(guidance_scale=value).status_code == 200


def test_every_fault_is_named_at_once(post: Post, emulator: Emulator) -> None:
    """One 400 in the documented form names all that is wrong, and nothing is billed."""
    response = post(prompt=None, n=9, steps="20", quality="hd", aspect_ratio="5:4")
    error = response.json()["error"]
    assert response.status_code == 400
    assert (error["type"], error["code"], error["param"]) == (
        "invalid_request_error",
        "param_error",
        response.headers["x-request-id"],
    )
    for part in (
        "prompt must be given",
        "n must be at least 1 and at most 4",
        "steps must be an integer",
        "quality is not a field of this model",
        "aspect_ratio must be one of 21:9, ",
    ):
        assert part in error["message"]
    assert emulator.bill.calls == 0


@pytest.mark.parametrize("model", ["flux", "", DEFAULT_MODEL.upper(), DEFAULT_MODEL + " "])
def test_unknown_models_are_not_found(post: Post, model: str) -> None:
    """A model that is not in the table is a 404 with a code of its own."""
    response = post(model=model)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("model", [None, 7, [DEFAULT_MODEL]])
def test_a_model_must_be_named(post: Post, model: object) -> None:
    """A request without the name of a model is a 400."""
    response = post(model=model)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("model must")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"prompt"',
        b"null",
        b'{"n": NaN}',
        b'{"n": Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"prompt=fox",
        b'{"seed": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_must_be_a_json_object(http: httpx.Client, emulator: Emulator, body: bytes) -> None:
    """Anything else is a 400, and is recorded without a parsed body."""
    response = http.post("/images/generations", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "param_error")
    assert emulator.requests[0].body is None


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_numbers_must_be_finite(http: httpx.Client, number: str) -> None:
    """A number too large for a float is refused."""
    body = f'{{"model": "{DEFAULT_MODEL}", "prompt": "a fox", "guidance_scale": {number}}}'
    response = http.post("/images/generations", content=body)
    assert response.status_code == 400
    assert "guidance_scale must be a number" in response.text


def test_half_a_surrogate_pair_is_a_prompt(http: httpx.Client) -> None:
    """JSON can hold a lone surrogate, which strict UTF-8 cannot encode; the service draws it all the same."""
    body = f'{{"model": "{DEFAULT_MODEL}", "prompt": "\\ud83e", "response_format": "b64_json"}}'
    response = http.post("/images/generations", content=body)
    assert response.status_code == 200
    assert http.get(response.json()["data"][0]["url"]).status_code == 200


def row(*fields: FluxField) -> FluxModel:
    """A model that the table does not have."""
    return FluxModel(
        id="test/new", family="new", fields=MappingProxyType({field.name: field for field in fields}), source="test"
    )


def field(name: str, kind: type = str, **rules: object) -> FluxField:
    """A field that the table does not have."""
    return FluxField(name=name, type=kind, doc="", **rules)  # type: ignore[arg-type]


IMAGE_ROW = row(field("image", required=True), field("strength", float, minimum=0, maximum=1, default=0.8))


def test_a_required_image_must_be_there() -> None:
    """A field is required where the table says so."""
    error = read_generate_request({"model": "test/new"}, models={"test/new": IMAGE_ROW})
    assert isinstance(error, ServiceError)
    assert error.message == "image must be given."


@pytest.mark.parametrize(
    ("model", "fields", "ratio"),
    [
        (FLUX_MODELS[DEFAULT_MODEL], {}, (1, 1)),
        (FLUX_MODELS[DEFAULT_MODEL], {"aspect_ratio": "21:9"}, (21, 9)),
        (IMAGE_ROW, {"image": PICTURE}, (1, 1)),
        (row(field("aspect_ratio", default="16:9")), {}, (16, 9)),
        (row(field("aspect_ratio", enforced="warn")), {"aspect_ratio": "wide"}, (1, 1)),
    ],
)
def test_the_ratio_comes_from_the_row(model: FluxModel, fields: dict[str, object], ratio: tuple[int, int]) -> None:
    """The ratio is that of aspect_ratio, given or by default; without either it is a square."""
    wanted = request_of(model, **fields)
    assert isinstance(wanted, GenerateRequest)
    assert wanted.ratio == ratio


def test_a_row_may_lack_what_others_have() -> None:
    """Without these fields a request is for one picture without a prompt or a seed, sent as a link."""
    model = row(field("anything"))
    assert request_of(model) == GenerateRequest(
        model=model, prompt="", source_digest="", seed=-1, n=1, ratio=(1, 1), inline=False
    )
