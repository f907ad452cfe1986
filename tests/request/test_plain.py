"""Numbers and texts of other types: what is sent of a Decimal, an enum or a NumPy scalar, and what is refused."""

import json
from collections import UserString, deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import pytest

from flux_openai import Emulator, FluxOpenAI, InvalidParamsError
from flux_openai.errors import InvalidParam
from flux_openai.request.validation import validate


class Whole(IntEnum):
    TWO = 2


class Text(str, Enum):  # noqa: UP042  # people have both kinds, and their `str()` differs
    RATIO = "16:9"


class Word(StrEnum):
    URL = "url"


class Shout(str):
    """A text that says something else about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "SHOUT"

    __repr__ = __str__


class Half(float):
    __slots__ = ()

    def __repr__(self) -> str:
        return "half"


class Index:
    """What has nothing but `__index__`."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Inexact:
    """What says nothing about equality, so that its `__float__` may be rounded."""

    def __init__(self, number: float) -> None:
        self.number = number

    def __float__(self) -> float:
        return self.number


class Exact(Inexact):
    def __eq__(self, other: object) -> bool:
        return self.number == other

    __hash__ = None  # type: ignore[assignment]  # not needed


class Scalar:
    """What NumPy's scalars, arrays and tensors have in common."""

    def __init__(self, value: object, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def item(self) -> object:
        return self.value

    def __float__(self) -> float:
        return float(str(self.value))

    def __eq__(self, other: object) -> bool:
        return self.value == other

    __hash__ = None  # type: ignore[assignment]  # an array has none


class Hostile:
    """What fails whatever is done with it."""

    def __getattr__(self, name: str) -> object:
        if name == "item":
            raise RuntimeError(name)
        raise AttributeError(name)

    def __float__(self) -> float:
        raise RuntimeError("no")

    __index__ = __float__

    def __repr__(self) -> str:
        raise RuntimeError("no")


TAKEN: list[tuple[str, object, object]] = [
    ("n", Whole.TWO, 2),
    ("n", Decimal(2), 2),
    ("n", Decimal("2.0"), 2),
    ("n", Fraction(4, 2), 2),
    ("n", Index(2), 2),
    ("n", Scalar(2), 2),
    ("steps", Scalar(Decimal(20)), 20),
    ("seed", Decimal(2**53 + 1), 2**53 + 1),
    ("seed", Index(2**53 + 1), 2**53 + 1),
    ("guidance_scale", Decimal("2.5"), 2.5),
    ("guidance_scale", Fraction(5, 2), 2.5),
    ("guidance_scale", Exact(2.5), 2.5),
    ("guidance_scale", Scalar(2.5), 2.5),
    ("guidance_scale", Half(2.5), 2.5),
    ("guidance_scale", Index(3), 3),
    ("aspect_ratio", Text.RATIO, "16:9"),
    ("aspect_ratio", UserString("16:9"), "16:9"),
    ("aspect_ratio", Shout("16:9"), "16:9"),
    ("aspect_ratio", Scalar("16:9"), "16:9"),
    ("size", Shout("1024x1024"), None),
    ("response_format", Word.URL, "url"),
    ("negative_prompt", UserString("blur"), "blur"),
    ("prompt", UserString("a fox"), "a fox"),
    ("prompt", UserString(Shout("a fox")), "a fox"),
    ("model", UserString("kontext-max"), "black-forest-labs/flux-kontext-max/text-to-image"),
]


TAKEN_AS_DEFAULT = [case for case in TAKEN if case[0] != "prompt"]


def name_of(value: object) -> str:
    return type(value).__name__


@pytest.mark.filterwarnings("ignore::flux_openai.FluxWarning")
@pytest.mark.parametrize(
    ("place", "name", "value", "sent"),
    [
        *[(place, *case) for place in ("keyword", "extra_body", "both") for case in TAKEN],
        *[("defaults", *case) for case in TAKEN_AS_DEFAULT],
    ],
    ids=name_of,
)
def test_a_value_is_sent_as_what_it_equals(place: str, name: str, value: object, sent: object) -> None:
    """The body has the plain number or text, in the type of the JSON that another client would send."""
    emulator = Emulator(pixels=64)
    given = {"prompt": "a fox", "model": "kontext-max", name: value}
    client = emulator.client(defaults={name: value} if place == "defaults" else None)
    ways: dict[str, dict[str, Any]] = {
        "keyword": given,
        "extra_body": {"prompt": given["prompt"], "extra_body": given},
        "both": {**given, "extra_body": given},
        "defaults": {"prompt": given["prompt"]},
    }
    with client:
        response = client.images.generate(**ways[place])
    body = emulator.requests[0].body or {}
    if name == "size":
        assert body["aspect_ratio"] == "1:1"
    else:
        assert json.dumps(body[name]) == json.dumps(sent)
        assert type(response.sent[name]) is type(sent)


REFUSED: list[tuple[str, object, object]] = [
    ("n", Decimal("2.5"), 2),
    ("n", Fraction(7, 2), 4),
    ("n", Exact(2.0), 2),
    ("n", Scalar(2.0), 2),
    ("n", Scalar(value=True), None),
    ("n", Scalar([2], shape=(1,)), None),
    ("n", Decimal("1e999999999"), None),
    ("n", Decimal("NaN"), None),
    ("n", Decimal("sNaN"), None),
    ("n", 2 + 0j, None),
    ("n", Hostile(), None),
    ("steps", Whole, None),
    ("steps", UserString("20"), 20),
    ("seed", Index(2**70), 2**63 - 1),
    ("guidance_scale", Decimal("2.1"), 2.1),
    ("strength", Decimal("0.1"), 0.1),
    ("strength", Fraction(3, 2), 1),
    ("guidance_scale", Fraction(10, 3), 10 / 3),
    ("guidance_scale", Inexact(2.5), 2.5),
    ("guidance_scale", Exact(float("nan")), None),
    ("guidance_scale", Half("inf"), None),
    ("guidance_scale", Hostile(), None),
    ("aspect_ratio", Decimal("1.78"), "16:9"),
    ("aspect_ratio", UserString("16x9"), "16:9"),
    ("aspect_ratio", Hostile(), None),
    ("aspect_ratio", Whole.TWO, "16:9"),
    ("response_format", UserString("b64"), "b64_json"),
    ("prompt", 5, None),
    ("prompt", b"a fox", None),
    ("prompt", UserString(" "), None),
    ("negative_prompt", Decimal(2), None),
    ("size", Hostile(), None),
    ("model", Hostile(), None),
    ("model", Decimal(2), None),
    ("image", Decimal(2), None),
    ("image", UserString("ftp://img.example/a.png"), None),
]


@pytest.mark.parametrize(("name", "value", "nearest"), REFUSED, ids=name_of)
def test_a_value_that_equals_none_is_refused_by_name(name: str, value: object, nearest: object) -> None:
    """A value that would have to be rounded, or is no number at all, is one fault; JSON never gets to see it."""
    (fault,) = faults(prompt="a fox", **{name: value}) if name != "prompt" else faults(prompt=value)
    assert (fault.param, fault.nearest) == (name, nearest)
    assert type(fault.nearest) is type(nearest)


def faults(**call: Any) -> tuple[InvalidParam, ...]:  # noqa: ANN401  # passed on
    """The faults of a call, of which nothing was sent."""
    emulator = Emulator(pixels=64)
    if "image" in call or "strength" in call:
        call = {"image": "https://img.example/a.png", **call, "model": "kontext-max"}
    with emulator.client() as client, pytest.raises(InvalidParamsError) as caught:
        client.images.generate(**call)
    assert emulator.requests == []
    assert str(caught.value)
    return caught.value.faults


def test_options_that_are_passed_on_are_plain_too() -> None:
    """With `unsupported="send"` the value itself is plain, and one inside another value is refused if JSON has none."""
    wrong = {"newer": {"deep": [Decimal("2.5")]}, "other": {"\ud800": 1}}
    with pytest.raises(InvalidParamsError) as caught:
        validate({"prompt": "x"}, extra_body=wrong, unsupported="send")
    assert [fault.param for fault in caught.value.faults] == ["newer", "other"]
    assert "half of a surrogate pair" in caught.value.faults[1].rule
    right = {"newer": Decimal("2.5"), "other": {"deep": [Whole.TWO]}}
    sent = validate({"prompt": "x"}, extra_body=right, unsupported="send").extra
    assert json.dumps(dict(sent)) == '{"newer": 2.5, "other": {"deep": [2]}}'


def test_an_image_may_be_a_user_string() -> None:
    """A link is a link in that type too, alone and in a list."""
    link = "https://img.example/a.png"
    emulator = Emulator(pixels=64)
    with emulator.client() as client:
        images: Any = client.images  # a UserString is not in the types
        images.edit(prompt="x", image=UserString(link))
        images.edit(prompt="x", image=deque([Shout(link), UserString(link)]))
    bodies = [request.body or {} for request in emulator.requests]
    assert (bodies[0]["image"], bodies[1]["images"]) == (link, [link, link])


NUMPY: Mapping[str, tuple[Callable[[Any], object], object]] = {
    "int64": (lambda np: {"n": np.int64(2), "seed": np.uint8(7)}, {"n": 2, "seed": 7}),
    "float64": (lambda np: {"guidance_scale": np.float64(2.5)}, {"guidance_scale": 2.5}),
    "float32": (lambda np: {"guidance_scale": np.float32(2.5)}, {"guidance_scale": 2.5}),
    "array": (lambda np: {"n": np.array(2), "guidance_scale": np.array(2.5)}, {"n": 2, "guidance_scale": 2.5}),
    "str": (lambda np: {"aspect_ratio": np.str_("16:9")}, {"aspect_ratio": "16:9"}),
    "float as int": (lambda np: {"n": np.float64(2)}, None),
    "bool": (lambda np: {"n": np.bool_(True)}, None),  # noqa: FBT003  # NumPy's own
    "array of one": (lambda np: {"n": np.array([2])}, None),
    "NaN": (lambda np: {"guidance_scale": np.float64("nan")}, None),
}


@pytest.mark.parametrize("case", NUMPY)
def test_numpy_s_numbers(case: str) -> None:
    """NumPy's own scalars and arrays, where it is installed."""
    np = pytest.importorskip("numpy")
    make, sent = NUMPY[case]
    emulator, call = Emulator(pixels=64), make(np)
    assert isinstance(call, dict)
    if sent is None:
        assert [fault.param for fault in faults(prompt="x", **call)] == [*call]
        return
    emulator.client().images.generate(prompt="x", **call)
    body = emulator.requests[0].body or {}
    assert json.dumps({name: body[name] for name in call}) == json.dumps(sent)


BLANK = ["", " ", "\0", "\u200b\u200d\ufeff", "\x01\x1b\x7f", "\u3164", "\u2800", "\ufe0f", "\u00ad", "\u2028\u3000"]


@pytest.mark.parametrize("prompt", BLANK, ids=ascii)
def test_a_prompt_that_nobody_can_see_is_blank(prompt: str) -> None:
    """Zero-width and control characters are no prompt, and so is no picture paid for that nobody described."""
    (fault,) = faults(prompt=prompt)
    assert (fault.param, "not blank" in fault.rule) == ("prompt", True)


@pytest.mark.parametrize("prompt", ["a\0fox", "\u200bfox", "🦊", "狐", ".", "e\u0301", "\U0010fffd"], ids=ascii)
def test_a_prompt_with_something_to_see_is_sent_as_it_is(prompt: str) -> None:
    """What stands beside invisible characters is the prompt, and not a character of it changes."""
    emulator = Emulator(pixels=64)
    emulator.client().images.generate(prompt=prompt)
    assert (emulator.requests[0].body or {})["prompt"] == prompt


@pytest.mark.parametrize(
    ("name", "value", "at"),
    [
        ("prompt", "a f\ud83dx", 4),
        ("prompt", "\udc00", 1),
        ("prompt", "\ud83d\ude00", 1),
        ("negative_prompt", "blur\ud800", 5),
        ("aspect_ratio", "16:9\udfff", 5),
        ("response_format", "\ud800url", 1),
        ("image", "https://img.example/\ud800.png", 21),
        ("image", "fox\ud800.png", 4),
    ],
)
def test_half_a_surrogate_pair_is_called_that(name: str, value: str, at: int) -> None:
    """The fault says what is wrong with the text and where, for no other character is refused in a prompt."""
    (fault,) = faults(**{"prompt": "a fox", name: value})
    assert fault.param == name
    assert f"half of a surrogate pair at character {at}" in fault.rule


@pytest.mark.parametrize("value", [5, "steps=3", [("steps", 3)], {1: 2}, {None: 1}])
def test_defaults_that_are_no_mapping_are_refused_when_the_client_is_made(value: Any) -> None:  # noqa: ANN401
    """The error names `defaults`, and comes from the line that sets it."""
    with pytest.raises(ValueError, match="defaults"):
        FluxOpenAI(api_key="k", defaults=value)
