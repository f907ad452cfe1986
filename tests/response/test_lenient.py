"""Bodies and base64 with a flaw beside an image that came whole: the image is an answer, and a notice says the flaw."""

import base64
import codecs
import copy
import json
import pickle
import warnings
from io import BytesIO
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_openai.response.download import DownloadSettings
from flux_openai.response.parsing import UnusableBody, read_answer
from flux_openai.response.response import CallInfo, FluxImagesResponse


def jpeg() -> bytes:
    """A picture whose base64 has both letters that are written differently in URLs."""
    buffer = BytesIO()
    Image.effect_noise((16, 16), 90).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


PICTURE = jpeg()
B64 = base64.b64encode(PICTURE).decode()
assert {"+", "/"} < set(B64)
GOOD = f'"data": [{{"b64_json": "{B64}", "revised_prompt": "a fox"}}]'
WHOLE = f'{{"created": 5, {GOOD}}}'
LISTS = "[" * 100_000 + "]" * 100_000
OBJECTS = '{"a":' * 100_000 + "1" + "}" * 100_000
LENIENT = "the answer is not valid JSON; it was read leniently"
BROKEN = "the answer is broken JSON; only the images that are whole in it were read"


def read(body: str | bytes, *, n: int = 1) -> FluxImagesResponse:
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    return read_answer(content, info=CallInfo(sent={"prompt": "a fox", "n": n}), downloads=DownloadSettings())


def beside(value: str, *, within: bool = False) -> str:
    """A whole answer with this JSON beside its image, or within the image's object."""
    item = f'{{"x": {value}, "b64_json": "{B64}", "revised_prompt": "a fox", "y": {value}}}'
    return f'{{"created": 5, "data": [{item}]}}' if within else f'{{"x": {value}, "created": 5, {GOOD}, "y": {value}}}'


VALUES = {
    "NaN": "NaN",
    "Infinity": "[Infinity, {}, -Infinity]",
    "half a surrogate pair": r'"\ud83d"',
    "the other half, in a name": r'{"\udc00": "\udfff"}',
    "raw newline": '"a\nb"',
    "raw control character": '"a\x01\tb"',
    "huge integer": "9" * 5000,
    "huge negative integer": "-" + "1" * 100_000,
    "deep lists": LISTS,
    "deep objects": OBJECTS,
    "deep and with brackets in texts": f'["]}}\\"[{{", {LISTS}, "[["]',
    "nesting that only pydantic refuses": "[" * 300 + "]" * 300,
    "nesting that Python decodes and cannot walk": "[" * 900 + "]" * 900,
}
UTF = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
BODIES: dict[str, str | bytes] = {
    **{f"{name} beside": beside(value) for name, value in VALUES.items()},
    **{f"{name} within": beside(value, within=True) for name, value in VALUES.items()},
    **{name: beside('"狐"').encode(name) for name in UTF},
    "utf-16-be with BOM": codecs.BOM_UTF16_BE + WHOLE.encode("utf-16-be"),
    "two BOMs": codecs.BOM_UTF8 * 2 + WHOLE.encode(),
    "latin-1": beside('"caf\xe9"').encode("latin-1"),
    "gb18030": beside('"一只红狐狸"').encode("gb18030"),
    "gb18030 with backslashes": beside('"\u8aa0\u8aa0"').encode("gb18030"),
    "junk before": "OK\n" + WHOLE,
    "junk after": WHOLE + "</html>",
    "a brace in the junk": "for (;;) { } " + WHOLE + "}",
    "a warning before": "<br />\n<b>Warning</b>: deprecated {x}\n" + WHOLE,
    "XSSI guard": ")]}'\n" + WHOLE,
    "XSSI guard with a comma": ")]}',\n" + WHOLE,
    "JSONP": f"/**/callback({WHOLE});",
    "NULs before": "\0\0\0\0" + WHOLE,
    "one NUL before": "\0" + WHOLE,
    "NULs after": WHOLE + "\0\0",
    "NULs between": WHOLE.replace(":", ":\0"),
    "a second document": WHOLE + "{}",
    "a second answer": WHOLE + '\n{"data": [{"url": "https://files.example/2.png"}]}',
    "progress before": '{"progress": 1}\n' * 50 + WHOLE,
    "an error document before": '{"error": {"message": "busy"}}\n' + WHOLE,
    "a list around": f"[{WHOLE}]",
    "encoded twice": json.dumps(WHOLE),
}
ONLY_IMAGES: dict[str, str | bytes] = {
    "cut after the images": WHOLE[:-1],
    "cut in the next field": WHOLE[:-1] + ', "usa',
    "cut in the second image": WHOLE[:-2] + f', {{"b64_json": "{B64[:40]}',
    "wrong escape": beside(r'"C:\path"'),
    "trailing comma": WHOLE[:-1] + ",}",
    "trailing comma in the list": WHOLE[:-2] + ",]}",
    "missing comma": WHOLE.replace("5,", "5 "),
    "cut and in UTF-16": WHOLE[:-1].encode("utf-16"),
}


def exercise(answer: FluxImagesResponse) -> None:
    """Everything that code does with a response works."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
        json.loads(answer.to_json())
        json.loads(answer.model_dump_json())
        json.dumps(answer.to_dict()).encode()
        str(answer.to_dict()).encode()
    back = pickle.loads(pickle.dumps(answer))  # noqa: S301  # what is loaded was dumped here
    assert repr(back) == repr(answer) == repr(copy.deepcopy(answer))
    assert repr(answer).encode()


@pytest.mark.parametrize(
    ("name", "notice"), [*((name, LENIENT) for name in BODIES), *((name, BROKEN) for name in ONLY_IMAGES)]
)
def test_a_flaw_beside_an_image_loses_no_image(name: str, notice: str) -> None:
    """The image is there with its fields, the flaw is said once, and the answer can be dumped, printed and pickled."""
    body = BODIES.get(name) or ONLY_IMAGES[name]
    notice = "" if name == "utf-8-sig" else notice  # valid JSON, since a BOM may be ignored
    answer = read(body)
    assert [image.read() for image in answer.data] == [PICTURE]
    assert answer.data[0].revised_prompt == "a fox"
    assert answer.notices == ((notice,) if notice else ())
    assert answer.created == (None if notice == BROKEN else 5)
    exercise(answer)


def test_what_is_beside_the_image_is_kept_as_well_as_it_can_be() -> None:
    """NaN stays NaN in Python and becomes null in JSON; half a pair becomes U+FFFD; a huge integer becomes text."""
    answer = read('{"nan": NaN, "half": "a\\ud83db", "huge": ' + "7" * 5000 + f', "deep": {LISTS}, {GOOD}}}')
    fields: dict[str, Any] = answer.model_extra or {}
    assert fields["nan"] != fields["nan"]
    assert json.loads(answer.to_json())["nan"] is None
    assert (fields["half"], fields["huge"]) == ("a\ufffdb", "7" * 5000)
    assert isinstance(fields["deep"], list)


def test_an_image_that_is_cut_is_not_one() -> None:
    """Of two images in a body that was cut, the whole one is kept and the other one is missing."""
    answer = read(ONLY_IMAGES["cut in the second image"], n=2)
    assert [image.read() for image in answer.data] == [PICTURE]
    assert answer.missing == 1
    assert answer.notices == (BROKEN, "1 of 2 images did not come back usable")


BESIDE = ["007", "+1", "0x1F", "nan", "undefined", "True", r'"\x41"', r'"\'"', "'a'", "", "1 2"]


@pytest.mark.parametrize("value", BESIDE)
@pytest.mark.parametrize("where", ["before", "behind"])
def test_an_object_that_is_broken_beside_its_image_loses_no_image(value: str, where: str) -> None:
    """Of three images of which the middle one has no JSON value beside it, all are kept, in their order."""
    fields = [f'"b64_json": "{B64}"', f'"x": {value}']
    middle = ", ".join(reversed(fields) if where == "before" else fields)
    link = '{"url": "https:\\/\\/files.example\\/1.png"}'
    answer = read(f'{{"created": 5, "data": [{link}, {{{middle}}}, {{"b64_json": "{B64}"}}]}}', n=3)
    assert [image.url or image.read() for image in answer.data] == ["https://files.example/1.png", PICTURE, PICTURE]
    assert (answer.missing, answer.notices) == (0, (BROKEN,))
    exercise(answer)


def test_an_image_whose_object_is_cut_behind_it_is_kept() -> None:
    """The closing quote of the image came: nothing of it is missing."""
    assert read(f'{{"data": [{{"b64_json": "{B64}"').data[0].read() == PICTURE


def percent(text: str, letters: str) -> str:
    return "".join(f"%{ord(letter):02X}" if letter in letters else letter for letter in text)


def split(text: str, by: str) -> str:
    return by.join(text[start : start + 19] for start in range(0, len(text), 19))


URI = f"data:image/jpeg;base64,{B64}"
FLAWED = {
    "prefixed twice": f"data:image/png;base64,{URI}",
    "prefixed three times": f"data:image/png;base64,data:image/png;base64,{URI}",
    "percent-encoded": percent(B64, "+/="),
    "percent-encoded twice": percent(percent(B64, "+/="), "%"),
    "percent-encoded with its head": percent(URI, ":;,/+="),
    "percent-encoded line breaks": split(B64, "%0A"),
    "percent-encoded CRLF in a data URI": f"data:image/jpeg;base64,{split(B64, '%0D%0A')}",
    "a quoted comma in the head": f'data:image/jpeg;name="a,b";base64,{B64}',
    "an encoded comma in the head": f"data:image/jpeg;name=a%2Cb;base64,{percent(B64, '+/=')}",
    "a long head": f"data:image/jpeg;name={'x' * 300};base64,{B64}",
    "a BOM": f"\ufeff{B64}",
    "a BOM before the head": f"\ufeff{URI}",
    **{
        f"U+{ord(letter):04X}": split(B64, letter)
        for letter in "\u200b\u200c\u200d\u2060\ufeff\u00ad\u00a0\u3000\u2028"
    },
    "NULs": split(B64, "\0"),
    "control characters": split(B64, "\x01\x7f"),
    "a head without data:": f"image/jpeg;base64,{B64}",
    "base64 for a head": f"base64,{B64}",
    "the text of a line break": split(B64, "\\n"),
    "quotes": f'"{B64}"',
    "the repr of bytes": f"b'{B64}'",
}


@pytest.mark.parametrize("name", FLAWED)
@pytest.mark.parametrize("where", ["b64_json", "url"])
def test_flawed_base64_of_an_image_is_read(name: str, where: str) -> None:
    """What a strict reader refuses is read once more, in either field; OpenAI's plain base64 comes out of it."""
    answer = read(json.dumps({"data": [{where: FLAWED[name]}]}))
    image = answer.data[0]
    assert (image.b64_json, image.url, image.mime_type) == (B64, None, "image/jpeg")
    said = (
        "its b64_json is flawed base64; it was read leniently"
        if where == "b64_json"
        else "its url holds the image itself"
    )
    assert answer.notices == (f"image 0: {said}",)
    exercise(answer)


@pytest.mark.parametrize(
    "url", [URI, B64, f" {URI}", URI.replace("data:image/jpeg", "DATA:image/JPEG"), B64.rstrip("=")]
)
def test_a_url_that_is_the_image_is_its_data(url: str) -> None:
    """A data URI or bare base64 in `url` needs no download: it is the image, as if it stood in `b64_json`."""
    for item in ({"url": url}, {"url": url, "b64_json": None}, {"url": url, "b64_json": ""}):
        image = read(json.dumps({"data": [item]})).data[0]
        assert (image.b64_json, image.url, image.read()) == (B64, None, PICTURE)
    both = read(json.dumps({"data": [{"url": url, "b64_json": B64}]}))
    assert (both.data[0].b64_json, both.data[0].url, both.notices) == (B64, None, ())


def test_a_data_uri_may_be_percent_encoded_bytes() -> None:
    """A data URI without base64 is one too."""
    image = read(json.dumps({"data": [{"url": f"data:image/jpeg,{quote_from_bytes(PICTURE)}"}]})).data[0]
    assert (image.b64_json, image.url) == (B64, None)


@pytest.mark.parametrize("url", ["AAAA", "/9j/x.png", "//files.example/a", "files/abc", "iVBORw0KGgo.png"])
def test_a_link_that_looks_like_base64_stays_a_link(url: str) -> None:
    """Only the base64 of a known image type is data: a relative path can be base64 by accident."""
    assert read(json.dumps({"data": [{"url": url}]})).data[0].url == url


def test_a_data_uri_without_an_image_is_not_quoted() -> None:
    """A megabyte in `url` that is no image makes a short reason."""
    with pytest.raises(UnusableBody) as caught:
        read(json.dumps({"data": [{"url": "data:text/html," + "<b>" * 400_000}]}))
    assert (caught.value.billing, len(caught.value.reason) < 100) == ("paid", True)


ANSWER: dict[str, Any] = {"created": 5, "data": [{"b64_json": B64}]}


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "message": "ok", "data": ANSWER},
        {"code": "200", "message": "ok", "data": ANSWER},
        {"code": 0, "message": "success", "data": ANSWER},
        {"code": "Success", "data": ANSWER},
        {"data": ANSWER},
        {"code": 200, "created": 5, "data": ANSWER["data"]},
        {"code": None, **ANSWER},
        {"code": True, **ANSWER},
    ],
)
def test_the_envelope_of_the_provider_is_read(body: dict[str, Any]) -> None:
    """The images may stand at `data.data`; a code of success beside them is not a fault."""
    answer = read(json.dumps(body))
    assert (answer.data[0].read(), answer.created, answer.notices) == (PICTURE, 5, ())
    exercise(answer)


def test_the_documented_form_is_read_first() -> None:
    """Where `data` is the list of images, an object of that name within an image is not an envelope."""
    answer = read(json.dumps({"code": 200, "data": [{"b64_json": B64, "data": {"data": [{"url": "https://x"}]}}]}))
    assert [image.b64_json for image in answer.data] == [B64]


def test_an_image_outweighs_the_code_of_its_envelope() -> None:
    """A code of failure beside an image that came is a notice."""
    assert read(json.dumps({"code": 500, "message": "half failed", "data": ANSWER})).notices == (
        "the answer also carries an error: half failed",
    )


OTHER_SHAPES: dict[str, str | bytes] = {
    "images": json.dumps({"images": [B64]}),
    "output": json.dumps({"output": ["https://files.example/a.png"]}),
    "an envelope of images": json.dumps({"code": 0, "data": {"images": [B64]}}),
    "an event stream": f"event: image\ndata: {WHOLE}\n\ndata: [DONE]\n\n",
    "an event stream that begins with its data": f"data: {WHOLE}\n\n",
    "the picture": PICTURE,
    "HTML": "<html><script>x = {}</script></html>",
}


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_another_shape_is_not_guessed(name: str) -> None:
    """A shape that is not OpenAI's stays unusable and no error of the service, whatever is in it."""
    with pytest.raises(UnusableBody) as caught:
        read(OTHER_SHAPES[name])
    assert caught.value.error is None


@pytest.mark.parametrize(
    ("body", "billing", "error"),
    [
        (")]}'" + json.dumps({"error": {"code": "x"}}), "unknown", {"error": {"code": "x"}}),
        (json.dumps({"error": {"code": "x"}}).encode("utf-16"), "unknown", {"error": {"code": "x"}}),
        ('{"status": 1} {"data": [{"b64_json": "!"}]} {"error": "x"} {"data": []}', "unknown", {"error": "x"}),
        ('{"x": NaN, "data": [{"b64_json": "!"}]}', "paid", None),
    ],
)
def test_a_flawed_body_without_an_image_says_most_of_what_it_can(
    body: str | bytes, billing: str, error: object
) -> None:
    """An error in it counts first, then an image that cannot be used, then that it is not JSON."""
    with pytest.raises(UnusableBody) as caught:
        read(body)
    assert (caught.value.billing, caught.value.error) == (billing, error)


@pytest.mark.parametrize(
    "text", ["%2B%2B", "\u00a0AAAA", "data:x,data:y,AAAA", '"AAAA"', "data:image/png;base64,%3Cb%3E"]
)
def test_rubbish_is_not_decoded_leniently(text: str) -> None:
    """What a strict reader refuses must at least be an image: text can be base64 by accident."""
    with pytest.raises(UnusableBody, match="is not base64"):
        read(json.dumps({"data": [{"b64_json": text}]}))


HOSTILE = {
    "brackets": b"[" * 4_000_000,
    "objects": b'{"a":' * 1_000_000,
    "empty objects": b"{}" * 2_000_000,
    "quotes": b'{"a":' * 100_000 + b'\\"' * 2_000_000,
    "lists of data": b'"data":[' * 500_000,
    "objects in lists of data": b'{"data":[' * 500_000,
    "images in lists of data": b'"data":[{"b64_json":"",' * 200_000,
    "open images": b'"data":[{"b64_json":"\\"' + b'\\"b64_json\\":\\"' * 200_000,
    "braces": b"{" * 4_000_000,
    "commas": b'{"data":[1' + b",1" * 1_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_takes_linear_time(name: str) -> None:
    """A body of megabytes that is made to be slow to read ends in UnusableBody; quadratic code would take hours."""
    with pytest.raises(UnusableBody) as caught:
        read(HOSTILE[name])
    assert len(caught.value.reason) < 1000


@settings(max_examples=100)
@given(before=st.binary(max_size=30), after=st.binary(max_size=30))
def test_any_bytes_around_an_answer_lose_no_image(before: bytes, after: bytes) -> None:
    """Whatever stands around an answer, its image is found, unless the bytes open a text or are another encoding."""
    before = before.replace(b"{", b"").replace(b"data:", b"")
    if 0 in before[:4]:
        before = b"\n" + before.replace(b"\0", b"")
    assert [image.read() for image in read(before + WHOLE.encode() + after).data][:1] == [PICTURE]
