"""Generated calls, good and bad, and the emulator as witness of what was sent.

Two hundred of each; `pytest --hypothesis-profile=full` makes thousands.
"""

import asyncio
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flux_openai import Emulator, FluxImagesResponse, InvalidParamsError
from flux_openai.models import FAMILIES, FLUX_MODELS, FluxField, FluxModel

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
TEXT = b64encode(PICTURE).decode()
IMAGES: dict[object, str] = {
    "https://img.example/fox.png?X-Signature=a%2Fb": "https://img.example/fox.png?X-Signature=a%2Fb",
    PICTURE: f"data:image/png;base64,{TEXT}",
    f"data:image/bmp;base64,{urlsafe_b64encode(PICTURE).decode().rstrip('=')}": f"data:image/png;base64,{TEXT}",
    b"GIF89a": "data:image/gif;base64,R0lGODlh",
}
"""Images as they are given, and as they have to arrive."""

NEW_EACH_TIME = settings(
    # A call has up to twenty parameters, so that it takes more than a few examples to meet them all.
    max_examples=4 * settings().max_examples,
    database=None,
    phases=(Phase.generate, Phase.shrink),
)

Generate = Callable[..., FluxImagesResponse]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One emulator, and the methods of both kinds of client in front of it, by kind and name."""

    emulator: Emulator
    methods: dict[tuple[str, str], Generate]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    emulator = Emulator(pixels=64)
    with emulator.client() as client, asyncio.Runner() as runner:
        aclient = emulator.async_client()

        def run(method: Callable[..., Coroutine[Any, Any, FluxImagesResponse]]) -> Generate:
            return lambda **call: runner.run(method(**call))

        images, aimages = client.images, aclient.images
        methods: dict[tuple[str, str], Generate] = {
            ("sync", "generate"): images.generate,
            ("sync", "edit"): images.edit,
            ("async", "generate"): run(aimages.generate),
            ("async", "edit"): run(aimages.edit),
        }
        yield Service(emulator=emulator, methods=methods)
        runner.run(aclient.close())


def good(field: FluxField) -> st.SearchStrategy[object]:
    """Values that the row of the table allows, and that cause no remark."""
    if field.name == "response_format":
        return st.just(field.choices[0])
    if field.type is bool:
        return st.booleans()
    if field.choices:
        return st.sampled_from(field.choices)
    if field.format == "image":
        one = st.sampled_from([image for image in IMAGES if field.links or not str(image).startswith("https:")])
        return one if field.type is str else st.lists(one, min_size=1, max_size=3)
    if field.format == "size":
        side = st.integers(int(field.minimum or 0), int(field.maximum or 0))
        return st.builds("{}x{}".format, side, side)
    if field.type is str:
        visible = st.builds("{}{}{}".format, st.text(max_size=15), st.sampled_from("a.狐🦊"), st.text(max_size=15))
        return st.text(max_size=30) if field.blank else visible
    step = field.multiple_of or 1
    low, high = int(field.minimum or 0), 2048 if field.maximum is None else int(field.maximum)
    whole = st.integers(-(-low // step), high // step).map(lambda value: value * step)
    return whole if field.type is int else whole | st.floats(field.minimum, field.maximum)


def outside(field: FluxField) -> st.SearchStrategy[object]:
    """Numbers beyond the limits of a field; where those only warn, beyond what any JSON reader takes."""
    low, high = (field.minimum, field.maximum) if field.enforced == "error" else (-(2**63), 2**63 - 1)
    assert low is not None
    high = 2**63 - 1 if high is None else high
    whole = st.integers(max_value=int(low) - 1) | st.integers(min_value=int(high) + 1)
    fractions = st.floats(max_value=low, exclude_max=True) | st.floats(min_value=high, exclude_min=True)
    return whole | (fractions if field.type is float else st.floats())


def bad(field: FluxField) -> st.SearchStrategy[object]:
    """Values that break the row of the table."""
    never: st.SearchStrategy[object] = (
        st.booleans() | st.lists(st.integers(), max_size=2) | st.binary(max_size=3) | st.just({})
    )
    if field.type is bool:
        return st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.booleans(), max_size=2)
    if field.format == "image":
        # A list of several images is a good value to `edit`, whatever is in it is not.
        wrong = st.integers() | st.sampled_from([b"", b"<svg/>", "ftp://a/b.png", "no such file", "data:,", True, {}])
        return wrong if field.type is str else wrong | st.lists(wrong, min_size=1, max_size=2)
    if field.format == "size":
        return never | st.sampled_from(["255x256", "1x9", "2000x2000", "256x1537", "", "big", "1024", 1024])
    if field.choices:
        return never | st.integers() | st.text(max_size=8).filter(lambda text: text not in field.choices)
    if field.type is str:
        return (
            never
            | st.integers()
            | st.floats()
            | (st.text(" \t\n\0\u3000\u200b", max_size=4) if not field.blank else never)
        )
    return never | st.text("0123456789.e-", max_size=6) | st.sampled_from([float("nan"), float("inf")]) | outside(field)


def planted(model: FluxModel) -> dict[str, st.SearchStrategy[object]]:
    """By name, what no call for this model may have: bad values, and whatever only other models take."""
    others = {name: field for other in FLUX_MODELS.values() for name, field in other.fields.items()}
    # The only model of its family takes one image as `image` and as `images`.
    own = {*model.fields} | ({"image", "images"} if len(FAMILIES[model.family]) == 1 else set())
    alien = {name: good(field) | bad(field) for name, field in others.items() if name not in own}
    return {
        **alien,
        "size": st.sampled_from(["1x9", "3000x1000", "", "big", "1024", 1024, True, []]),
        "webhook_url": st.just("https://hooks.example/1"),
        "quality": st.sampled_from(["hd", "low", 1]),
        "colour": st.text(max_size=5) | st.integers(),
        "stream": st.just(value=True),
        "partial_images": st.integers(0, 3),
        **{name: bad(field) for name, field in model.fields.items()},
    }


def well_made(model: FluxModel) -> st.SearchStrategy[dict[str, object]]:
    """The parameters of a good call."""
    return st.fixed_dictionaries(
        {name: good(field) for name, field in model.fields.items() if field.required},
        optional={name: good(field) for name, field in model.fields.items() if not field.required},
    )


# Made once: hypothesis examines every strategy that it has not seen before, and that takes longer than a call.
MODELS = st.sampled_from(list(FLUX_MODELS.values()))
PLANTED = {id: planted(model) for id, model in FLUX_MODELS.items()}
GOOD = {id: well_made(model) for id, model in FLUX_MODELS.items()}
NAMES = sorted({name for names in PLANTED.values() for name in names})
SOME_NAMES = {id: st.sets(st.sampled_from(sorted(names)), min_size=1, max_size=4) for id, names in PLANTED.items()}
PLACES = st.integers(0, 4 ** (len(NAMES) + 1) - 1)
COIN = st.booleans()
SIDES = st.sampled_from(["sync", "async"])
SCALE = st.integers(1, 999)


def spread(values: dict[str, object], places: int) -> dict[str, Any]:
    """The values as a call: each digit of `places` says where a name stands, as a keyword, in extra_body, or in both.

    What has no value may be given as None, which stands for nothing.
    """
    keywords: dict[str, object] = {}
    extra: dict[str, object] = {}
    for name in ("model", *NAMES):
        places, place = divmod(places, 4)
        if place != 1 and (name in values or place == 0):
            keywords[name] = values.get(name)
        if place != 0 and name in values:
            extra[name] = values[name]
    return {**keywords, **({"extra_body": extra} if extra else {})}


Case = tuple[str, dict[str, Any], Any]
"""The method, its arguments, and what must come of them."""


@st.composite
def bad_calls(draw: st.DrawFn) -> Case:
    model = draw(MODELS)
    names = draw(SOME_NAMES[model.id])
    values = {**draw(GOOD[model.id]), **{name: draw(PLANTED[model.id][name]) for name in sorted(names)}}
    own = {"image", "images"} & model.fields.keys()
    if "prompt" in names and model.fields["prompt"].required and draw(COIN):
        del values["prompt"]
    # An edit chooses among siblings by what is given, so there the other kind of image is another call, and no fault.
    editing = own <= values.keys() and own and not {"image", "images"} & names - own and draw(COIN)
    call = spread({**values, "model": model.id}, draw(PLACES))
    return "edit" if editing else "generate", call, names


@st.composite
def good_calls(draw: st.DrawFn) -> Case:
    model = draw(MODELS)
    values = draw(GOOD[model.id])
    expected = body_of(model, values)
    if "aspect_ratio" in values and draw(COIN):
        width, height = map(int, str(values.pop("aspect_ratio")).split(":"))
        scale = draw(SCALE)
        values["size"] = f"{width * scale}x{height * scale}"
    if {"width", "height"} <= values.keys() and draw(COIN):
        values["size"] = f"{values.pop('width')}x{values.pop('height')}"
    images = values.get("images", [])
    assert isinstance(images, list)
    editing = bool({"image", "images"} & values.keys()) and draw(COIN)
    # One image goes to a /multi model only by its full name; else any name of the family will do, or none.
    names = [model.id] if editing and len(images) == 1 else [model.id, model.family]
    if editing and images:
        values["image"] = values.pop("images")
    if (name := draw(st.sampled_from(names))) != "kontext-max" or draw(COIN):
        values["model"] = name
    return "edit" if editing else "generate", spread(values, draw(PLACES)), expected


def body_of(model: FluxModel, values: dict[str, object]) -> dict[str, object]:
    """The body for these parameters: where the path names the model, images have names of their own and no head."""
    if model.path == "/images/generations":
        return {"model": model.id, **{name: wired(value) for name, value in values.items()}}
    body = {name: value for name, value in values.items() if name not in {"n", "response_format", "image", "images"}}
    if "image" in values:
        body["image_prompt"] = str(wired(values["image"])).partition(",")[2]
    images = values.get("images", [])
    assert isinstance(images, list)
    for number, image in enumerate(images, start=1):
        name = "input_image" if number == 1 else f"input_image_{number}"
        body[name] = str(wired(image)).partition(",")[2]
    return body


def wired(value: object) -> object:
    """A value as it has to arrive."""
    return list(map(wired, value)) if isinstance(value, list) else IMAGES.get(value, value)


@NEW_EACH_TIME
@given(case=bad_calls(), side=SIDES)
def test_no_bad_call_is_sent(service: Service, case: Case, side: str) -> None:
    """Calls with one to four planted faults: each fault is named, no other is, and not one request is made."""
    method, call, names = case
    before = len(service.emulator.requests)
    with pytest.raises(InvalidParamsError) as caught:
        service.methods[side, method](**call)
    assert {fault.param for fault in caught.value.faults} == names
    assert len(str(caught.value).splitlines()) == 1 + len(caught.value.faults)
    assert len(service.emulator.requests) == before


@NEW_EACH_TIME
@given(case=good_calls(), side=SIDES)
def test_a_good_call_is_sent_as_asked(service: Service, case: Case, side: str) -> None:
    """The body on the wire is what was asked and the model, to the last type, and nothing more."""
    method, call, expected = case
    before = len(service.emulator.requests)
    response = service.methods[side, method](**call)
    (seen,) = service.emulator.requests[before:]
    assert json.dumps(seen.body, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert response.sent == expected
    assert len(response.data) == expected.get("n", 1)
    assert (response.attempts, response.missing, response.notices) == (1, 0, ())
