"""Large base64 is cut out of a body and decoded once, and nobody can tell from the answer."""

import copy
import json
import pickle
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

from flux_openai.response.download import DownloadSettings
from flux_openai.response.parsing import UnusableBody, read_answer
from flux_openai.response.pictures import parse_body
from flux_openai.response.response import CallInfo, FluxImage, FluxImagesResponse

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
B64 = b64encode(PNG).decode()
URI = f"data:image/png;base64,{B64}"
URL_SAFE = B64.replace("+", "-").replace("/", "_")


def read(body: bytes) -> FluxImagesResponse:
    """The answer for a body."""
    return read_answer(body, info=CallInfo(sent={"n": 1}), downloads=DownloadSettings())


def as_json(data: object, **fields: object) -> bytes:
    """A body with this `data`."""
    return json.dumps({"created": 5, "data": data, **fields}).encode()


@pytest.mark.parametrize(
    "body",
    [
        as_json([{"b64_json": B64}]),
        as_json([{"b64_json": URI}]),
        as_json([{"b64_json": URL_SAFE}]),
        as_json([{"b64_json": B64.rstrip("=")}]),
        as_json([{"b64_json": URI.replace("/", "\\/")}]).replace(b"\\\\/", b"\\/"),
        as_json({"data": [{"b64_json": B64}]}, code=200),
        as_json([{"b64_json": B64, "revised_prompt": f'"b64_json":"{B64}"'}]),
        as_json([{"b64_json": "x"}]).replace(b'"x"', b'"x","b64_json" : "' + B64.encode() + b'"'),
        b"\xef\xbb\xbf" + as_json([{"b64_json": B64}]),
        as_json([{"b64_json": B64}]).replace(b"5", b"NaN", 1),
        as_json([{"b64_json": f"{B64[:5000]}\n{B64[5000:]}"}]).replace(b"\\n", b"\n"),
    ],
    ids=[
        *("plain", "data URI", "url-safe", "unpadded", "escaped slashes", "envelope", "base64 in a text", "twice"),
        *("BOM", "NaN", "raw newline"),
    ],
)
def test_a_large_picture_is_read_whatever_its_form(body: bytes) -> None:
    """The bytes, the base64 and all other fields are those that came."""
    image = read(body).data[0]
    assert (image.read(), image.b64_json, image.mime_type) == (PNG, B64, "image/png")
    assert set(image.to_dict()) == {"b64_json", *image.model_fields_set}


def test_a_large_picture_is_decoded_once() -> None:
    """Reads give the very same bytes; other base64 that is assigned, and a pickle, have their own."""
    image = read(as_json([{"b64_json": B64}])).data[0]
    assert image.read() is image.read()
    assert pickle.loads(pickle.dumps(image)).read() == PNG  # noqa: S301  # our own
    image.b64_json = b64encode(b"another").decode()
    assert image.read() == b"another"


@pytest.mark.parametrize("field", ["images", "output"])
def test_a_picture_in_another_place_is_left_where_it_is(field: str) -> None:
    """What a service sends in fields of its own is not changed, whether or not the answer can be used."""
    pictures = [{"b64_json": B64}]
    with pytest.raises(UnusableBody):
        read(as_json(None, **{field: pictures}))
    answer = read(as_json(pictures, **{field: pictures}))
    assert (answer.model_extra or {})[field] == pictures
    assert answer.data[0].read() == PNG


@pytest.mark.parametrize("odd", [["x"], {"x": 1}, 5, None, True])
def test_an_odd_item_does_not_lose_the_picture_beside_it(odd: object) -> None:
    """Whatever stands in the `b64_json` of one item, the image of the other is read."""
    answer = read(as_json([{"b64_json": odd}, {"b64_json": B64}, odd]))
    assert [image.read() for image in answer.data] == [PNG]


def test_only_the_text_beside_the_pictures_is_searched_for_secrets() -> None:
    """What is left of a body without its pictures has all of its text."""
    parsed = parse_body(as_json([{"b64_json": B64}, {"b64_json": URI}], note="secret"))
    assert len(parsed.text) < 400
    assert b"secret" in parsed.text
    assert isinstance(parsed.value, dict)
    assert [item["b64_json"] for item in parsed.value["data"]] == [PNG, PNG]


DECODED = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
from flux_openai.formats import decoded_base64
import json
decoded = [decoded_base64(text.encode()) for text in json.load(sys.stdin)]
print(json.dumps([None if data is None else data.hex() for data in decoded]))
"""
TEXTS = [
    "QUJD",
    "QUI=",
    "QQ==",
    "",
    "QQ",
    "Q===",
    "QR==",
    "-_-_",
    "+/+/",
    "QU JD",
    "QUJD\n",
    "QUJDéé",
    "====",
    "QUJD=",
    "A",
    "A" * 65534 + "==QUJD",
    "A" * 65535 + "=QUJD",
]


def test_every_decoder_takes_and_refuses_the_same() -> None:
    """With pybase64 or without, the same base64 is decoded to the same bytes."""
    expected = ["414243", "4142", "41", None, None, None, "41", None, "fbffbf", *[None] * 8]
    for missing in ([], ["pybase64"]):
        command = [sys.executable, "-c", DECODED, *missing]
        done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    "item",
    [{"url": "https://x"}, {"b64_json": B64, "url": None}, {"revised_prompt": "x", "seed": 5, "more": {"a": [1]}}],
)
def test_an_image_is_the_one_that_the_sdk_would_build(item: dict[str, object]) -> None:
    """Fields, those that were set, unknown ones and their JSON are as from the SDK's `construct`."""
    built, theirs = FluxImage.of(item, downloads=DownloadSettings()), FluxImage.construct(None, **item)
    assert (vars(built), built.model_fields_set, built.model_extra) == (
        vars(theirs),
        theirs.model_fields_set,
        theirs.model_extra,
    )
    assert built.to_json() == theirs.to_json()


def test_an_answer_is_the_one_that_the_sdk_would_build() -> None:
    """Also with counts of tokens, which are models of their own."""
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_tokens_details": {"text_tokens": 1}}
    answer = read(as_json([{"url": "https://x"}], usage=usage, quality="high", own=1))
    theirs = FluxImagesResponse.construct(None, **json.loads(as_json([], usage=usage, quality="high", own=1)))
    assert (answer.usage, answer.quality, answer.model_extra) == (theirs.usage, theirs.quality, theirs.model_extra)
    assert type(answer.usage) is type(theirs.usage)
    assert answer.model_fields_set == theirs.model_fields_set


LOOSE = f"{B64[:-4]}{b64encode(b'1').decode().replace('MQ', 'MR')}"
"""Base64 with a bit behind its last byte, which every decoder drops."""

_ASKING: list[Callable[[Any], Any]] = [
    lambda image: image.b64_json,
    lambda image: image.model_dump()["b64_json"],
    lambda image: image.to_dict()["b64_json"],
    lambda image: json.loads(image.to_json())["b64_json"],
    lambda image: json.loads(image.model_dump_json())["b64_json"],
    lambda image: json.loads(FluxImagesResponse.construct(created=1, data=[image]).to_json())["data"][0]["b64_json"],
    lambda image: vars(image)["b64_json"],
    lambda image: dict(image)["b64_json"],
    lambda image: copy.copy(image).b64_json,
    lambda image: copy.deepcopy(image).to_dict()["b64_json"],
    lambda image: image.model_copy(update={"url": "https://x"}).b64_json,
    lambda image: pickle.loads(pickle.dumps(image)).b64_json,  # noqa: S301  # our own
]


@pytest.mark.parametrize("ask", _ASKING)
@pytest.mark.parametrize("text", [B64, URI, LOOSE])
def test_base64_that_is_made_late_is_there_whoever_asks(ask: Callable[[FluxImage], str], text: str) -> None:
    """The base64 is the one that came, after the bytes were read as well as before, and they stay the same bytes."""
    image, same = (read(as_json([{"b64_json": text}])).data[0] for _ in range(2))
    data = image.read()
    assert ask(image) == ask(same) == (B64 if text == URI else text)
    assert image.read() is data or (text == LOOSE and image.read() == data)
    assert list(vars(image)) == list(vars(FluxImage.construct(b64_json=text)))


def test_an_image_is_equal_and_shown_as_if_its_base64_had_been_there() -> None:
    """Comparison, repr and assignment do not depend on who asked first."""
    image, other, third = (read(as_json([{"b64_json": B64}])).data[0] for _ in range(3))
    theirs = FluxImage(b64_json=B64)
    assert (image, repr(other)) == (third, repr(theirs))
    assert theirs.to_dict() == image.to_dict()
    with pytest.raises(AttributeError):
        image.nothing  # type: ignore[attr-defined]  # noqa: B018  # there is none
    fresh = read(as_json([{"b64_json": B64}])).data[0]
    fresh.b64_json = None
    assert (fresh.b64_json, fresh.mime_type) == (None, None)
