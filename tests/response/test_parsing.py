import base64
import binascii
import copy
import json
import pickle
import string
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import openai.types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_openai import Emulator, FluxImage, FluxImagesResponse, InvalidParamsError, OpenAI
from flux_openai.errors import ConfigurationError
from flux_openai.formats import plain_base64
from flux_openai.response.download import DownloadSettings
from flux_openai.response.parsing import UnusableBody, read_answer
from flux_openai.response.response import CallInfo

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
B64 = base64.b64encode(PNG).decode()
SIGNATURE = "SIGNATURE-51cc"
LINK = f"https://files.example/a.png?signature={SIGNATURE}"
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
MADE = datetime(2026, 1, 2, tzinfo=UTC)


def read(body: object, *, n: int = 1) -> FluxImagesResponse | UnusableBody:
    """Read an answer as if `n` images had been asked for; what is no text or bytes is written as JSON first."""
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    try:
        return read_answer(
            content, info=CallInfo(sent={"prompt": "a fox", "n": n}, received=MADE), downloads=DownloadSettings()
        )
    except UnusableBody as problem:
        return problem


def usable(body: object, *, n: int = 1) -> FluxImagesResponse:
    answer = read(body, n=n)
    assert isinstance(answer, FluxImagesResponse), answer
    return answer


def unusable(body: object) -> UnusableBody:
    answer = read(body)
    assert isinstance(answer, UnusableBody)
    return answer


def exercise(answer: FluxImagesResponse) -> None:
    """Everything that code does with a response works, whatever stood in the body."""
    with warnings.catch_warnings():
        # pydantic remarks on a field that has another type than OpenAI's; it is kept all the same.
        warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
        answer.to_json()
        answer.model_dump_json()
        assert answer.model_dump()["data"] == [image.model_dump() for image in answer.data]
    back = pickle.loads(pickle.dumps(answer))  # noqa: S301  # what is loaded was dumped here
    assert type(back) is FluxImagesResponse
    assert repr(back) == repr(answer) == repr(copy.deepcopy(answer))
    assert (back.expires_at, back.sent, back.missing) == (answer.expires_at, answer.sent, answer.missing)
    assert str(answer)
    for image in answer.data:
        assert image.mime_type in (None, "image/png", "image/jpeg", "image/webp", "image/gif")
        assert image.b64_json is None or image.read()


def test_an_answer_is_openai_s_own_type() -> None:
    """Existing code that checks types, takes fields or dumps finds what it knows."""
    answer = usable({"created": 5, "data": [{"b64_json": B64, "revised_prompt": "a fox"}]})
    assert isinstance(answer, openai.types.ImagesResponse)
    assert all(isinstance(image, openai.types.Image) for image in answer.data)
    assert (answer.created, answer.data[0].revised_prompt, answer.data[0].url) == (5, "a fox", None)
    assert answer.to_dict()["data"] == [{"b64_json": B64, "revised_prompt": "a fox"}]
    assert json.loads(answer.to_json())["created"] == 5
    exercise(answer)


def test_pickles_and_copies_keep_what_belongs_to_the_answer() -> None:
    """What does not stand in the body survives a process pool and a deep copy: bytes, receipt, notices."""
    answer = usable({"data": [{"b64_json": B64}], "extra": [1]}, n=2)
    for back in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer), answer.model_copy(deep=True)):  # noqa: S301
        assert isinstance(back, FluxImagesResponse)
        assert isinstance(back.data[0], FluxImage)
        assert back.data[0].read() == PNG
        assert (back.sent, back.missing, back.notices) == ({"prompt": "a fox", "n": 2}, 1, answer.notices)


@pytest.mark.parametrize("raw", [False, True])
def test_the_answer_of_a_real_call_can_be_pickled_and_copied(raw: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """What a client returns goes into a process pool and comes back, with its images and its receipt."""
    images = Emulator(pixels=64).client().images
    call: dict[str, Any] = {"prompt": "a fox", "n": 2, "response_format": "b64_json"}
    answer = images.with_raw_response.generate(**call).parse() if raw else images.generate(**call)
    for back in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer), copy.copy(answer)):  # noqa: S301
        assert [image.read() for image in back.data] == [image.read() for image in answer.data]
        assert (back.sent, back.attempts, back.request_id) == (answer.sent, 1, answer.request_id)


WRAPPED = "\r\n".join(B64[start : start + 60] for start in range(0, len(B64), 60))


@pytest.mark.parametrize(
    "text",
    [
        B64,
        B64.rstrip("="),
        B64.replace("+", "-").replace("/", "_"),
        WRAPPED,
        f"  {B64}\n",
        f"data:image/png;base64,{B64}",
        f"DATA:image/PNG;charset=x;BASE64,{WRAPPED}",
        f"data:image/jpeg;base64,{B64}",
        f"data:;base64,{B64}",
        f"data:,{B64}",
        f"\ndata:image/png;base64,\n{B64}",
    ],
)
def test_every_dress_of_base64_is_taken_off(text: str) -> None:
    """Data URIs, url-safe letters, missing padding and line breaks go; what stays is OpenAI's plain base64."""
    image = usable({"data": [{"b64_json": text}]}).data[0]
    assert image.b64_json == B64
    assert base64.b64decode(image.b64_json, validate=True) == image.read() == PNG
    assert image.mime_type == "image/png"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "====",
        "A",
        "AAAAA",
        "!!!!",
        "not base64 at all!",
        "<html>",
        "{image_base64_string}",
        "%2B%2B",
        "iVBO=Rw0",
        "AAAA\0",
        "AAÄA",
        "AAA\ud800",
        "\u00a0AAAA",
        "data:image/png;base64,",
        LINK,
    ],
)
def test_rubbish_is_refused_and_not_decoded_to_something(text: str) -> None:
    """What is not base64 through and through is none: lenient decoders make silent rubbish of it."""
    assert plain_base64(text) is None
    assert unusable({"data": [{"b64_json": text}]}).billing in ("unknown", "paid")


ALPHABETS = st.sampled_from([base64.b64encode, base64.urlsafe_b64encode])
PREFIXES = st.sampled_from(["", "data:image/png;base64,", "data:;base64,", "Data:image/x-y+z;q=1;base64,", " \t"])
GAPS = st.text(" \t\r\n", max_size=3)


@settings(max_examples=100)
@given(data=st.binary(min_size=1, max_size=80), encode=ALPHABETS, prefix=PREFIXES, gap=GAPS, padding=st.integers(0, 2))
def test_base64_comes_back_as_the_bytes_that_went_in(
    data: bytes, encode: Callable[[bytes], bytes], prefix: str, gap: str, padding: int
) -> None:
    """Either alphabet, with all, some or none of its padding, wrapped anywhere, behind any prefix: the same bytes."""
    text = encode(data).decode()
    text = gap.join(text[start : start + 7] for start in range(0, len(text), 7))
    plain = plain_base64(prefix + (text if padding == 0 else text.rstrip("=" * padding) + "=" * (padding - 1)) + gap)
    assert plain is not None
    assert base64.b64decode(plain, validate=True) == data


@settings(max_examples=100)
@given(text=st.text(max_size=40) | st.text(string.ascii_letters + "+/-_= \n\0é", max_size=12))
def test_any_text_is_base64_or_refused(text: str) -> None:
    """No text makes the reader fail, and what it lets through is strictly valid."""
    plain = plain_base64(text)
    if plain is not None:
        assert binascii.a2b_base64(plain, strict_mode=True)


@pytest.mark.parametrize(
    "usage",
    [
        *(None, {}, {"input_tokens_details": {}}, [], "x", 5, 1.5),
        *({**USAGE, name: value} for name in USAGE for value in (None, "3", True, 1.5)),
        *({other: USAGE[other] for other in USAGE if other != name} for name in USAGE),
    ],
)
def test_usage_without_counts_is_none(usage: object) -> None:
    """The documented `usage` has no counts; code that adds them up must find None and not half an object."""
    answer = usable({"data": [{"b64_json": B64}], "usage": usage})
    assert answer.usage is None
    exercise(answer)


def test_usage_with_counts_is_kept() -> None:
    """A service that counts is believed."""
    answer = usable({"data": [{"b64_json": B64}], "usage": USAGE})
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (1, 2, 3)
    exercise(answer)


def test_unknown_fields_are_kept() -> None:
    """What a newer service adds can be read by its name, in the answer and in each image."""
    fields: dict[str, object] = {"seed": 7, "timings": {"inference": 0.5}, "none": None}
    answer = usable({**fields, "data": [{**fields, "b64_json": B64}]})
    for holder in (answer, answer.data[0]):
        assert {name: getattr(holder, name) for name in fields} == fields
        assert fields.items() <= holder.to_dict().items()
    exercise(answer)


HOSTILE = [
    *("cls", "self", "values", "_fields_set", "_request_id", "_info", "__class__", "__dict__", "__pydantic_extra__")
]
HOSTILE += [
    "model_config",
    "model_dump",
    "model_extra",
    "copy",
    "construct",
    "read",
    "save",
    "request_id",
    "sent",
    "notices",
]
HOSTILE += ["attempts", "expires_at", "missing", "mime_type", "", "a b", "b64_json2", "size", "quality"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("value", ["x", None, {"a": [1]}])
def test_no_field_name_can_break_an_answer(name: str, value: object) -> None:
    """A field may be called like a method, a private attribute or an argument: the image is still there and works."""
    answer = usable({name: value, "data": [{name: value, "b64_json": B64}]})
    assert answer.data[0].read() == PNG
    assert (answer.attempts, answer.request_id, answer.missing, answer.notices) == (0, None, 0, ())
    exercise(answer)


@pytest.mark.parametrize(
    ("created", "kept", "since"),
    [
        (1_750_667_997, 1_750_667_997, datetime.fromtimestamp(1_750_667_997, UTC)),
        ("1750667997", 1_750_667_997, datetime.fromtimestamp(1_750_667_997, UTC)),
        (0, 0, MADE),
        (-5, -5, MADE),
        (None, None, MADE),
        (2**63, 2**63, MADE),
        (10**400, 10**400, MADE),
        ("soon", "soon", MADE),
        ("9" * 40, "9" * 40, MADE),
        (1.5, 1.5, MADE),
        ([], [], MADE),
        ({"at": 1}, None, MADE),
    ],
)
def test_an_odd_created_is_kept_and_expires_at_still_works(created: object, kept: object, since: datetime) -> None:
    """Seven days count from `created` where it is a usable time, else from when the answer came in."""
    answer = usable({"created": created, "data": [{"b64_json": B64}]})
    assert kept is None or answer.created == kept
    assert answer.expires_at == since + timedelta(days=7)
    exercise(answer)


def test_a_link_and_data_are_both_kept_and_the_data_is_read() -> None:
    """The service may send both: the link is recorded, and reading needs no download."""
    image = usable({"data": [{"url": LINK, "b64_json": f"data:image/png;base64,{B64}"}]}).data[0]
    assert (image.url, image.b64_json) == (LINK, B64)
    assert image.read() == PNG


@pytest.mark.parametrize(
    "item",
    [
        None,
        "x",
        5,
        True,
        [],
        {},
        {"url": ""},
        {"url": 5},
        {"url": None, "b64_json": None},
        {"b64_json": "!"},
        {"b64_json": 5},
    ],
)
def test_a_bad_item_does_not_take_the_good_ones_with_it(item: object) -> None:
    """An item that is no image is named and left out; alone, it makes an answer that is paid and unusable."""
    answer = usable({"data": [item, {"b64_json": B64}]}, n=2)
    assert [image.b64_json for image in answer.data] == [B64]
    assert answer.missing == 1
    assert answer.notices[0].startswith("image 0: ")
    assert "1 of 2" in answer.notices[-1]
    alone = unusable({"data": [item]})
    assert alone.billing == "paid"
    exercise(answer)


@pytest.mark.parametrize(("came", "missing"), [(1, 2), (2, 1), (3, 0), (5, 0)])
def test_fewer_images_are_said_and_more_are_kept(came: int, missing: int) -> None:
    """Of three images asked for, each that came is kept, and those that did not are counted."""
    answer = usable({"data": [{"b64_json": B64}] * came}, n=3)
    assert (len(answer.data), answer.missing, len(answer.notices)) == (came, missing, 1 if missing else 0)


def test_an_error_beside_an_image_is_a_notice() -> None:
    """A paid image is not thrown away for an error object next to it."""
    answer = usable({"data": [{"b64_json": B64}], "error": {"message": f"half\nfailed {LINK}", "code": "x"}})
    assert len(answer.notices) == 1
    assert "half failed" in answer.notices[0].replace("\n", " ")
    assert SIGNATURE not in answer.notices[0]


@pytest.mark.parametrize("error", ["text", 5, True, [1], {"message": "no"}, {"code": 7}, {"error": {"code": 7}}])
def test_an_error_without_an_image_is_told_apart(error: object) -> None:
    """An error inside a 200 is known as one in whatever form, so that it can become the error it stands for."""
    assert unusable({"error": error}).error is not None
    assert unusable({"error": error, "data": []}).error is not None


DEEP = "[" * 100_000 + "]" * 100_000
GOOD = f'"data": [{{"b64_json": "{B64}"}}]'


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" \n", b"null", b"[]", b"5", b'"x"', b"{}", b"<html>login</html>", b'{"data":', b"\xff\xfe", b"\0"),
        *(b'{"data": null}', b'{"data": []}', b'{"data": {}}', b'{"data": "x"}', b'{"error": null}', b'{"error": {}}'),
        DEEP.encode(),
        f'{{{GOOD}, "data": []}}'.encode(),
    ],
    ids=lambda body: repr(body[:12] + b"~" + body[-16:]),
)
def test_what_is_no_answer_is_unusable_and_never_a_foreign_error(body: bytes) -> None:
    """Broken JSON, other JSON, nesting a hundred thousand deep: UnusableBody."""
    answer = unusable(body)
    assert answer.reason
    assert answer.error is None


def test_a_doubled_name_counts_once() -> None:
    """JSON with the same name twice is read as every JSON reader does: the last one counts."""
    assert usable(f'{{"data": [], {GOOD}}}').data[0].b64_json == B64


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.dictionaries(st.sampled_from([*HOSTILE, "extra"]) | st.text(max_size=4), JSON, max_size=2)
PACKED = st.sampled_from([B64, B64.rstrip("="), f"data:image/png;base64,{B64}", "", "!", "AAAA"])
ITEMS = st.fixed_dictionaries(
    {}, optional={"b64_json": PACKED | JSON, "url": st.just(LINK) | JSON, "revised_prompt": JSON}
)
ANSWERS = st.fixed_dictionaries(
    {"data": st.lists(st.builds(dict.__or__, NAMED, ITEMS) | JSON, max_size=3) | JSON},
    optional={"created": JSON, "usage": st.just(USAGE) | JSON, "error": JSON, "size": JSON},
)


@settings(max_examples=150)
@given(body=st.builds(dict.__or__, NAMED, ANSWERS) | JSON, n=st.integers(1, 4))
def test_any_json_is_an_answer_or_unusable(body: object, n: int) -> None:
    """Whatever JSON comes back, it is a response on which everything works, or UnusableBody with a reason."""
    answer = read(body, n=n)
    if isinstance(answer, UnusableBody):
        assert answer.reason
        assert answer.billing in ("unknown", "paid")
    else:
        assert answer.data
        exercise(answer)


@settings(max_examples=100)
@given(
    body=st.binary(max_size=40)
    | st.text('{}[]":,\\0truefalsn.eE-+ \ud800', max_size=30).map(lambda t: t.encode("utf-8", "replace"))
)
def test_any_bytes_are_an_answer_or_unusable(body: bytes) -> None:
    """Bytes that are no JSON at all raise nothing either."""
    assert isinstance(read(body), UnusableBody)


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        f"HTTPS://files.example/a.png?X-Amz-Signature={SIGNATURE}",
        f"https://files.example/a.png?x={'y' * 1000}&sig={SIGNATURE}",
        f"https://files.example/{'x' * 395}?sig={SIGNATURE}",
        f"https://files.example/a'b\"c.png?sig={SIGNATURE}",
        f"https://files.example/a b.png?sig={SIGNATURE}",
        f"//files.example/a.png?sig={SIGNATURE}",
        f"files.example/a.png?sig={SIGNATURE}",
    ],
    ids=["usual", "upper case", "long query", "long path", "quotes", "space", "no scheme", "no slashes"],
)
def test_a_repr_shows_no_signature(link: str) -> None:
    """The printed form of an answer has no signed query in it, and `url` itself is untouched."""
    answer = usable({"data": [{"url": link}]})
    assert answer.data[0].url == link
    assert all(SIGNATURE not in text for text in (repr(answer), str(answer), repr(answer.data), f"{answer.data[0]}"))


def test_a_repr_shows_no_signature_in_other_fields() -> None:
    """A signed link may also stand in a field that nobody knows yet, in the answer or deep in an image."""
    image = {"url": LINK, "revised_prompt": f"see {LINK}", "thumbnails": [{"url": LINK}]}
    answer = usable({"data": [image], "next": LINK, "meta": {"links": [LINK]}})
    assert SIGNATURE not in repr(answer.data[0])
    assert SIGNATURE not in repr(answer)


def test_a_repr_is_short() -> None:
    """A megabyte of base64 does not flood a terminal, nor does it in a list of four images."""
    big = base64.b64encode(PNG * 4000).decode()
    answer = usable({"data": [{"b64_json": big}] * 4}, n=4)
    assert len(repr(answer)) < 2000
    assert big[:200] not in repr(answer)


def test_a_notebook_shows_the_picture() -> None:
    """An image with data shows itself; one that is no picture, and one whose link does not open, shows its text."""
    data, odd, link = usable(
        {"data": [{"b64_json": B64}, {"b64_json": "AAAA"}, {"url": f"https://127.0.0.1/a?sig={SIGNATURE}"}]}
    ).data
    assert data._repr_mimebundle_() == {"image/png": B64, "text/plain": repr(data)}
    assert odd._repr_mimebundle_(include=None, exclude=None) == {"text/plain": repr(odd)}
    assert link._repr_mimebundle_() == {"text/plain": repr(link)}
    assert SIGNATURE not in repr(link)


def test_a_notebook_shows_the_pictures_of_an_answer() -> None:
    """One picture is shown as it is, several side by side; an answer without a readable one shows its text."""
    one, two = usable({"data": [{"b64_json": B64}]}), usable({"data": [{"b64_json": B64}] * 2}, n=2)
    none = usable({"data": [{"b64_json": "AAAA"}]})
    assert one._repr_mimebundle_() == {"image/png": B64, "text/plain": repr(one)}
    shown = two._repr_mimebundle_(include=None, exclude=None)
    assert shown.keys() == {"text/html", "text/plain"}
    assert shown["text/html"].count(f'<img src="data:image/png;base64,{B64}"') == 2
    assert none._repr_mimebundle_() == {"text/plain": repr(none)}


@pytest.mark.parametrize("make", [lambda: OpenAI(api_key=""), lambda: Emulator().client(defaults={"steps": 99})])
def test_a_notebook_prints_the_message_of_an_error_about_arguments(make: Callable[[], object]) -> None:
    """IPython calls `_render_traceback_` instead of printing the code of each frame."""
    with pytest.raises((InvalidParamsError, ConfigurationError)) as caught:
        make()
    error = caught.value
    assert isinstance(error, InvalidParamsError | ConfigurationError)
    assert error._render_traceback_() == f"{type(error).__name__}: {error}".splitlines()
