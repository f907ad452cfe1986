import pickle
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_openai import Emulator, FluxOpenAI, InvalidParamsError
from flux_openai.errors import FluxWarning, InvalidParam
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, FluxField
from flux_openai.request.image_inputs import WireImage
from flux_openai.request.modes import Unsupported
from flux_openai.request.validation import CheckedParams, validate

INF, NAN = float("inf"), float("nan")
NOT_PRINTABLE = 10**5000  # Python refuses to write an integer of so many digits
MODES: tuple[Unsupported, ...] = get_args(Unsupported)
KEY = "sk-CANARY-2b91"
LINK = WireImage("https://img.example/fox.png?signature=1")
DATA = WireImage("data:image/png;base64,iVBORw0KGgoAAAAN")

ROWS = [(model, field) for model in FLUX_MODELS.values() for field in model.fields.values()]
each_field = pytest.mark.parametrize(
    ("model", "field"), [(m.id, f) for m, f in ROWS], ids=[f"{m.id}-{f.name}" for m, f in ROWS]
)
each_mode = pytest.mark.parametrize("mode", MODES)


def whole(model: str, **changes: object) -> dict[str, object]:
    """A call with all that the model requires."""
    needed = [field for field in FLUX_MODELS[model].fields.values() if field.required]
    required = {field.name: next(good_values(field)) for field in needed}
    return {"model": model, **required, **changes}


def faults_of(keywords: Mapping[str, object], **options: Any) -> tuple[InvalidParam, ...]:  # noqa: ANN401  # passed on
    """What is wrong with a call; none of it may make the error itself fail."""
    with pytest.raises(InvalidParamsError) as caught:
        validate(keywords, **options)
    assert len(str(caught.value).splitlines()) == 1 + len(caught.value.faults)
    assert caught.value.billing == "none"
    assert caught.value.attempts == 0
    return caught.value.faults


def only_fault(keywords: Mapping[str, object], **options: Any) -> InvalidParam:  # noqa: ANN401  # passed on
    (fault,) = faults_of(keywords, **options)
    return fault


def good_values(field: FluxField) -> Iterator[object]:
    if field.choices:
        yield from field.choices
    elif field.format == "size":
        yield from ("256x256", "1536x1536", "256x1536", "1000x999")
    elif field.format == "image":
        yield from ([LINK], [DATA, LINK]) if field.type is list else (LINK, DATA)
    elif field.type is str:
        yield from ("a fox", " a ", "fuchs, 狐, 🦊", "a\nb\tc", "x" * 20_000)
        yield from ("", " ") if field.blank else ()
    else:
        assert field.minimum is not None
        assert field.maximum is not None
        yield from (field.minimum, field.minimum + 1, field.maximum - 1, field.maximum, field.default)
        yield from (float(field.minimum), field.minimum + 0.500001, float(field.maximum)) if field.type is float else ()
        yield from (-(2**63), field.minimum - 1, field.maximum + 1, 2**63 - 1) if field.enforced == "warn" else ()


def bad_values(field: FluxField) -> Iterator[object]:
    yield from (True, False, {}, b"x", 1j, object(), NAN, INF, -INF, "\ud800", [NOT_PRINTABLE])
    yield from (10**400, -(10**400), NOT_PRINTABLE, -NOT_PRINTABLE)
    yield from ([], ())
    if field.type in (str, list):
        yield from (0, 1, 1.5)
        yield from ("", "16x9", "URL ", "\n") if field.choices or field.format else ()
        yield from ("", " ", "\n\t \r", "\u3000\u2003", "\x1c\x1f") if not field.blank else ()
        yield from ("255x1536", "256x1537", "01024x1024", "1024X1024", "auto ") if field.format == "size" else ()
    else:
        assert field.minimum is not None
        assert field.maximum is not None
        yield from ("20", "", "1e999", "9" * 5000)
        yield from (field.minimum - 1, field.maximum + 1) if field.enforced == "error" else (-(2**63) - 1, 2**63)
        beyond = (field.minimum - 1e-6, field.maximum + 1e-6, -5e-324 if field.minimum == 0 else 5e-324, 1e308)
        yield from (1.0, 1.5, 2.0) if field.type is int else beyond


def label(value: object) -> str:
    try:
        # Without the address of an object: a test keeps its name from run to run.
        return repr(value)[:60].partition(" at 0x")[0]
    except ValueError:
        return f"unprintable {type(value).__name__}"


@each_field
def test_a_field_takes_every_good_value_as_it_is(model: str, field: FluxField) -> None:
    """Each limit and each choice of the table passes, and is the very object that goes on."""
    for value in good_values(field):
        taken = validate(whole(model, **{field.name: value})).values[field.name]
        assert taken is value or (field.type is list and taken == value), label(value)


@each_field
def test_a_field_refuses_every_bad_value_by_name(model: str, field: FluxField) -> None:
    """One wrong value gives one fault: parameter, value, rule, and a nearest valid value if the value suggests one."""
    wrong = {}
    for value in bad_values(field):
        try:
            fault = only_fault(whole(model, **{field.name: value}))
            assert (fault.param, fault.value is value or field.format == "image") == (field.name, True)
            assert fault.rule
            assert fault.nearest is not None or not is_finite(value) or field.type not in (int, float)
            assert_valid(model, fault)
        except (pytest.fail.Exception, AssertionError, ValueError, OverflowError, UnicodeError) as error:
            wrong[label(value)] = f"{type(error).__name__}: {str(error)[:80]}"
    assert wrong == {}


def is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -INF < value < INF


def assert_valid(model: str, fault: InvalidParam) -> None:
    if fault.nearest is not None:
        validate(whole(model, **{fault.param: fault.nearest}))


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=12),
    st.sampled_from([value for _, field in ROWS for value in (*good_values(field), *bad_values(field))]),
    st.from_regex(r"(https?://[a-z.]{1,9}/|data:image/png;base64,)[A-Za-z0-9]{0,9}", fullmatch=True),
    st.lists(st.integers() | st.floats() | st.text(max_size=4), max_size=3),
    st.from_regex(r"[0-9]{1,3}(\.[0-9])?[:x/×][0-9]{1,3}", fullmatch=True),
)


@settings(max_examples=200)
@given(row=st.sampled_from(ROWS), value=ANYTHING)
def test_any_value_is_taken_or_refused_with_a_way_out(row: tuple[Any, FluxField], value: object) -> None:
    """Whatever is given to a field either goes on unchanged or is one fault, and its nearest value is itself valid."""
    model, field = row
    call = whole(model.id, **{field.name: value})
    faults = faults_or_none(call)
    assert {fault.param for fault in faults} <= {field.name}
    for fault in faults:
        assert_valid(model.id, fault)
    taken = None if faults else validate(call).values.get(field.name)
    unchanged = taken is value or (isinstance(value, str) and taken == value)  # a subclass of str becomes a str
    assert faults or unchanged or field.format == "image" or (field.format == "size" and value == "auto")


def faults_or_none(call: Mapping[str, object]) -> tuple[InvalidParam, ...]:
    try:
        validate(call)
    except InvalidParamsError as error:
        return error.faults
    return ()


@each_field
def test_none_and_the_sdk_s_marks_mean_left_out(model: str, field: FluxField) -> None:
    """None, `omit` and `NOT_GIVEN` are no values: an optional field is left out, a required one is missing."""
    for nothing in (None, openai.omit, openai.NOT_GIVEN):
        call = whole(model, **{field.name: nothing})
        if field.required:
            fault = only_fault(call)
            assert (fault.param, fault.value) == (field.name, None)
        else:
            assert field.name not in validate(call).values


SIXTEEN_TO_NINE = (
    *("16x9", " 16 : 9 ", "1920×1080", "landscape_16_9", "16 by 9", "16 to 9", "\uff11\uff16\uff1a\uff19", "16\u22369"),
    *("1.78", 1.78, 16 / 9, Fraction(16, 9), Decimal("1.78"), (16, 9), [16, 9], (16.0, "9"), "(16, 9)", "16/9", "16-9"),
    *("16 9", "Ratio 16:9", "aspect_ratio=16:9", "16*9", "16X9", "1.78:1", "16:9\u200b", 969),
)
"""16:9 as people write it; 969 is how YAML reads it without quotes."""
SQUARE = (
    "1024X1024",
    "1024×1024",
    "1024*1024",
    "1024 x 1024",
    "1024x1024px",
    "1024 by 1024",
    (1024, 1024),
    "1024/1024",
)


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        *[("aspect_ratio", value, "16:9") for value in SIXTEEN_TO_NINE],
        ("aspect_ratio", "16/10", "3:2"),
        ("aspect_ratio", 1.5, "3:2"),
        ("aspect_ratio", Decimal("0.7"), "2:3"),
        ("aspect_ratio", "portrait_16_9", "9:16"),
        ("aspect_ratio", "landscape 9:16", "16:9"),
        ("aspect_ratio", "portrait_4_3", "3:4"),
        ("aspect_ratio", 1, "1:1"),
        ("aspect_ratio", 61, "1:1"),
        ("aspect_ratio", 1269, "21:9"),
        *[("aspect_ratio", value, None) for value in ("wide", "landscape", "portrait", "0:0", "16:9:1", "16,9", "")],
        *[("aspect_ratio", value, None) for value in ("-16:9", 970, 16, -1.5, NAN, True, (16,), (16, 0), ("a", "b"))],
        ("n", 9, 4),
        ("n", 0, 1),
        ("n", "3", 3),
        ("n", "\uff13", 3),
        ("n", True, None),
        ("seed", "9007199254740993", 9007199254740993),
        ("steps", 20.0, 20),
        ("steps", "many", None),
        ("steps", INF, None),
        ("guidance_scale", "7.5", 7.5),
        ("guidance_scale", 11, 10),
        *[("response_format", value, "b64_json") for value in ("B64_JSON", "b64", "base64", "b64json", "Base64-JSON")],
        *[("response_format", value, "url") for value in ("URL", " url", "urls")],
        *[("response_format", value, None) for value in ("png", "json", "", "bytes", 64)],
        *[("size", value, "1024x1024") for value in SQUARE],
        ("size", "AUTO", "auto"),
        ("size", (1792, 1024), "1792x1024"),
        ("size", "1000 x 800", "aspect_ratio='4:3'"),
        ("size", "16:9", "16x9"),
        *[("size", value, None) for value in ("big", "1024", 1024, "1024x", "HD", True)],
    ],
    ids=label,
)
def test_the_nearest_value_is_what_was_probably_meant(name: str, value: object, nearest: object) -> None:
    """The hint is the value in another spelling, the limit or the number that lies nearest, and valid itself; or none.

    A text that says nothing about a valid value has no nearest, since a default would be somebody else's wish.
    """
    fault = only_fault(whole(DEFAULT_MODEL, **{name: value}))
    assert fault.nearest == nearest
    if not str(nearest).startswith("aspect_ratio="):
        assert_valid(DEFAULT_MODEL, fault)


@pytest.mark.parametrize("value", [*SQUARE, "1024:1024"], ids=label)
def test_the_nearest_size_of_a_model_that_takes_sizes(value: object) -> None:
    """The same spellings lead to the same size where it is sent as it is."""
    fault = only_fault(whole("black-forest-labs/flux.1-dev", size=value))
    assert fault.nearest == "1024x1024"
    assert_valid("black-forest-labs/flux.1-dev", fault)


def test_all_faults_come_at_once_in_the_order_of_the_fields() -> None:
    """A call that is wrong everywhere names everything, once, in keywords and in extra_body alike."""
    keywords = {"prompt": " ", "n": 9, "steps": "20", "seed": 1.5, "size": "1x9", "quality": "hd"}
    extra = {"guidance_scale": NAN, "aspect_ratio": "16x9", "negative_prompt": 5, "response_format": "png", "colour": 1}
    faults = faults_of(keywords, extra_body=extra)
    order = [*FLUX_MODELS[DEFAULT_MODEL].fields]
    assert [fault.param for fault in faults][: len(order)] == order
    assert {fault.param for fault in faults[len(order) :]} == {"size", "quality", "colour"}


def test_more_than_four_images_says_how_to_split() -> None:
    """n=5 is refused with the way to get five images."""
    fault = only_fault(whole(DEFAULT_MODEL, n=5))
    assert "split=True" in fault.rule
    assert fault.nearest == 4


def test_an_unknown_model_of_the_family_names_the_nearest() -> None:
    """A misspelt FLUX model is refused here, and not sent to find out."""
    fault = only_fault({"model": "black-forest-labs/flux-kontext-max/text-to-imag", "prompt": "a fox"})
    assert (fault.param, fault.nearest) == ("model", DEFAULT_MODEL)


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ("1024x1024", "1:1"),
        ("1536x1024", "3:2"),
        ("1024x1536", "2:3"),
        ("1920x1080", "16:9"),
        ("64x48", "4:3"),
        ("21x9", "21:9"),
        ("99999x99999", "1:1"),
    ],
)
def test_an_exact_size_becomes_its_ratio_silently(size: str, ratio: str) -> None:
    """A size of exactly a known shape is sent as that shape, and there is nothing to remark."""
    params = validate(whole(DEFAULT_MODEL, size=size))
    assert params.values["aspect_ratio"] == ratio
    assert "size" not in params.values
    assert params.notices == ()


@pytest.mark.parametrize(("size", "ratio"), [("1792x1024", "16:9"), ("1024x1792", "9:16"), ("1030x1000", "1:1")])
def test_a_near_size_becomes_its_ratio_with_a_warning(size: str, ratio: str) -> None:
    """A size within 3 % is sent as the nearest ratio; the warning and the response say the same."""
    emulator = Emulator(pixels=64)
    with pytest.warns(FluxWarning) as caught:
        response = emulator.client().images.generate(prompt="a fox", size=size)
    assert emulator.requests[0].body == {"model": DEFAULT_MODEL, "prompt": "a fox", "aspect_ratio": ratio}
    assert [str(warning.message) for warning in caught] == list(response.notices)
    assert size in response.notices[0]
    assert repr(ratio) in response.notices[0]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("size", "three"),
    [
        ("1000x800", ["4:3", "1:1", "3:2"]),
        ("800x1000", ["3:4", "1:1", "2:3"]),
        ("99999x1", ["21:9", "16:9", "3:2"]),
        ("1031x1000", ["1:1", "4:3", "3:4"]),
    ],
)
def test_a_far_size_names_the_three_nearest(size: str, three: list[str]) -> None:
    """A size further off is refused, and the message names three ratios, the nearest first."""
    fault = only_fault(whole(DEFAULT_MODEL, size=size))
    assert (fault.param, fault.nearest) == ("size", f"aspect_ratio={three[0]!r}")
    named = [ratio for ratio in FLUX_MODELS[DEFAULT_MODEL].fields["aspect_ratio"].choices if f"'{ratio}'" in fault.rule]
    assert sorted(named) == sorted(three)
    assert f"'{three[0]}'" == fault.rule.partition("nearest are ")[2].partition(",")[0]


@pytest.mark.parametrize(
    "size",
    ["", "1024", "1024X1024", "1024x", "x1024", "0x5", "-1x1", "1e3x1e3", "1024x1024 ", "auto ", "\uff11x\uff11"],
)
def test_a_size_that_is_none_is_refused(size: str) -> None:
    """Only WIDTHxHEIGHT in plain digits is a size."""
    assert only_fault(whole(DEFAULT_MODEL, size=size)).param == "size"


@pytest.mark.parametrize(
    "size",
    [1024, True, 1.5, NAN, INF, [1024, 1024], {}, 10**400, NOT_PRINTABLE, [NOT_PRINTABLE], "\ud800"],
    ids=lambda value: label(value)[:20],
)
def test_a_size_of_another_type_is_refused(size: object) -> None:
    """What is no text is no size, however large it is."""
    assert only_fault(whole(DEFAULT_MODEL, size=size)).param == "size"


def test_size_and_ratio_must_agree() -> None:
    """Both spellings of the shape may be given when they say the same; else the call is refused."""
    agreed = validate(whole(DEFAULT_MODEL, size="1024x1024"), extra_body={"aspect_ratio": "1:1"})
    assert agreed.values["aspect_ratio"] == "1:1"
    fault = only_fault(whole(DEFAULT_MODEL, size="1024x1024", aspect_ratio="16:9"))
    assert fault.param == "size"
    assert "disagrees" in fault.rule


def test_auto_size_is_left_out() -> None:
    """OpenAI's `size="auto"` leaves the shape to the service."""
    params = validate(whole(DEFAULT_MODEL, size="auto"))
    assert dict(params.values) == {"prompt": "a fox"}
    assert params.notices == ()


def sorted_out(mode: Unsupported, **options: object) -> CheckedParams:
    return validate(whole(DEFAULT_MODEL, **options), unsupported=mode)


def test_unsupported_options_are_refused_by_default() -> None:
    """OpenAI's own options and unknown names are faults, and a near miss is pointed out."""
    faults = {fault.param: fault for fault in faults_of(whole(DEFAULT_MODEL, quality="hd", step=20, whatever=1))}
    assert {*faults} == {"quality", "step", "whatever"}
    assert "OpenAI" in faults["quality"].rule
    assert "did you mean steps?" in faults["step"].rule
    assert all("unsupported=" in fault.rule for fault in faults.values())


def test_unsupported_options_can_be_left_out_or_passed_on() -> None:
    """`warn` leaves them out and says so, `drop` leaves them out, `send` passes them on as they are."""
    options = {"quality": "hd", "newer": {"deep": [1, None]}}
    assert {mode: dict(sorted_out(mode, **options).extra) for mode in MODES[1:]} == {
        "warn": {},
        "drop": {},
        "send": options,
    }
    said = sorted_out("warn", **options).notices
    assert ["quality='hd'" in said[0], "newer=" in said[1]] == [True, True]
    assert sorted_out("drop", **options).notices == sorted_out("send", **options).notices == ()


@each_mode
@pytest.mark.parametrize(("name", "value"), [("stream", True), ("stream", "yes"), ("partial_images", 2)])
def test_streaming_is_always_refused(mode: Unsupported, name: str, value: object) -> None:
    """No setting lets a streaming option through, as a keyword or in extra_body; `stream=False` is no wish at all."""
    assert only_fault(whole(DEFAULT_MODEL, **{name: value}), unsupported=mode).param == name
    assert only_fault(whole(DEFAULT_MODEL), extra_body={name: value}, unsupported=mode).param == name
    assert dict(sorted_out(mode, stream=False, partial_images=None).extra) == {}


@pytest.mark.parametrize(
    "value",
    [NAN, [INF], object(), {1, 2}, b"x", "\ud800", {"a": ["\udfff"]}, {"\ud800": 1}, NOT_PRINTABLE],
    ids=lambda value: label(value)[:24],
)
def test_what_json_cannot_hold_is_not_sent(value: object) -> None:
    """Even `unsupported="send"` refuses a value that no JSON body can carry, before the SDK fails on it."""
    client = Emulator(pixels=64).client(unsupported="send")
    with pytest.raises(InvalidParamsError) as caught:
        client.images.generate(prompt="a fox", newer=value)  # type: ignore[call-overload]  # newer than the types
    assert [fault.param for fault in caught.value.faults] == ["newer"]


def test_a_name_that_json_cannot_hold_is_not_sent() -> None:
    """The name of an option is checked like its value."""
    client = Emulator(pixels=64).client(unsupported="send")
    with pytest.raises(InvalidParamsError):
        client.images.generate(prompt="a fox", extra_body={"\ud800": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 2), (1, True), (0, False), ("1", 1), (NOT_PRINTABLE, 1), ([NOT_PRINTABLE], [1])],
    ids=lambda value: label(value)[:12],
)
def test_the_same_name_twice_must_say_the_same(one: object, other: object) -> None:
    """A keyword and an extra_body entry that differ are an error; two equal ones are one."""
    faults = faults_of(whole(DEFAULT_MODEL, seed=one), extra_body={"seed": other})
    assert {fault.param for fault in faults} == {"seed"}
    assert "twice" in faults[0].rule
    assert validate(whole(DEFAULT_MODEL, seed=7), extra_body={"seed": 7}).values["seed"] == 7


@pytest.mark.parametrize("extra_body", ["seed=1", 5, True, [("seed", 1)], {1: 2}, {None: 1}, {("a",): 1}])
def test_extra_body_must_be_a_mapping_with_text_keys(extra_body: object) -> None:
    """Anything else is a fault beside the others, and nothing in it is guessed."""
    faults = faults_of(whole(DEFAULT_MODEL, n=9), extra_body=extra_body)
    assert {fault.param for fault in faults} == {"extra_body", "n"}


@each_mode
@pytest.mark.parametrize("extra_body", [{}, {"api_key": KEY}, {"api_key": f"{KEY}-other"}, {"api_key": KEY.encode()}])
def test_a_key_in_the_wrong_place_is_not_echoed(mode: Unsupported, extra_body: dict[str, object]) -> None:
    """An API key passed as a parameter appears neither in the error, its faults and its pickle nor in a notice."""
    try:
        said = repr(validate(whole(DEFAULT_MODEL, api_key=KEY), extra_body=extra_body, unsupported=mode).notices)
    except InvalidParamsError as error:
        said = f"{error} {error!r} {error.faults!r} {vars(error)!r} {pickle.dumps(error)!r}"
    assert KEY not in said


DEFAULTS: Mapping[str, object] = {"steps": 30, "aspect_ratio": "16:9", "guidance_scale": 4}


@pytest.mark.parametrize(
    ("keywords", "extra_body", "expected"),
    [
        ({}, {}, {"steps": 30, "aspect_ratio": "16:9", "guidance_scale": 4}),
        ({"steps": 5}, {}, {"steps": 5, "aspect_ratio": "16:9", "guidance_scale": 4}),
        ({}, {"steps": 5}, {"steps": 5, "aspect_ratio": "16:9", "guidance_scale": 4}),
        ({"steps": None}, {"guidance_scale": None}, {"steps": 30, "aspect_ratio": "16:9", "guidance_scale": 4}),
        ({"size": "1024x1024"}, {}, {"steps": 30, "aspect_ratio": "1:1", "guidance_scale": 4}),
        ({}, {"size": "1024x1024"}, {"steps": 30, "aspect_ratio": "1:1", "guidance_scale": 4}),
        ({"aspect_ratio": "9:21"}, {}, {"steps": 30, "aspect_ratio": "9:21", "guidance_scale": 4}),
    ],
)
def test_defaults_fill_in_what_a_call_leaves_out(
    keywords: dict[str, object], extra_body: dict[str, object], expected: dict[str, object]
) -> None:
    """The call goes before the defaults, and a shape in the call replaces the default shape in either spelling."""
    params = validate(whole(DEFAULT_MODEL, **keywords), extra_body=extra_body, defaults=DEFAULTS)
    assert dict(params.values) == {"prompt": "a fox", **expected}


def test_a_default_size_gives_way_to_a_ratio() -> None:
    """OpenAI's `size` works as a default too, and does not fight with a call's aspect_ratio."""
    given_ratio = validate(whole(DEFAULT_MODEL, aspect_ratio="9:16"), defaults={"size": "1024x1024"})
    assert given_ratio.values["aspect_ratio"] == "9:16"
    assert validate(whole(DEFAULT_MODEL), defaults={"size": "1536x1024"}).values["aspect_ratio"] == "3:2"


def test_wrong_defaults_are_refused_where_they_are_written() -> None:
    """A client with a default that no call could use is not made, nor copied."""
    for wrong in ({"n": 9}, {"stream": True}, {"quality": "hd"}, {"model": "black-forest-labs/none"}):
        with pytest.raises(InvalidParamsError):
            FluxOpenAI(api_key="k", defaults=wrong)
        with pytest.raises(InvalidParamsError):
            FluxOpenAI(api_key="k").with_options(defaults=wrong)


def test_a_rule_of_the_general_page_only_warns() -> None:
    """A value outside limits that the model's own page does not state is sent, and the notice names its source."""
    for model, field in ROWS:
        if field.enforced == "warn" and field.maximum is not None:
            params = validate(whole(model.id, **{field.name: field.maximum + 1}))
            assert params.values[field.name] == field.maximum + 1
            assert len(params.notices) == 1
            assert field.source in params.notices[0]


def test_a_message_stays_on_its_line() -> None:
    """A value cannot forge lines, colours or direction in the message; it is cut to a readable length."""
    text = str(only_fault(whole(DEFAULT_MODEL, aspect_ratio="16:9\n\x1b[31m\u202e" + "x" * 10_000)))
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize("value", [lambda: None, iter(()), open], ids=["lambda", "iterator", "builtin"])
def test_the_error_survives_pickling_whatever_was_given(value: object) -> None:
    """A process pool can hand the error back, also when the value itself cannot be pickled."""
    with pytest.raises(InvalidParamsError) as caught:
        validate(whole(DEFAULT_MODEL, n=value))
    back = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # what is loaded was dumped here
    assert type(back) is InvalidParamsError
    assert str(back) == str(caught.value)
    assert [fault.param for fault in back.faults] == ["n"]


@pytest.mark.parametrize("models", [("gpt-image-1", None), (None, "gpt-image-1")])
def test_a_model_that_is_given_twice_is_refused(models: tuple[str | None, str | None]) -> None:
    """One FLUX name beside another name is a fault in whichever place it stands, and nothing is sent."""
    flux = "black-forest-labs/flux-kontext-max/text-to-image"
    keyword, extra = (name or flux for name in models)
    emulator = Emulator()
    with pytest.raises(ValueError, match="given twice"):
        emulator.client().images.generate(prompt="a fox", model=keyword, extra_body={"model": extra})
    assert emulator.requests == []
