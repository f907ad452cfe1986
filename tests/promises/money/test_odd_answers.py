"""A 200 that is odd but holds images: what was paid for comes back, and what is odd about it is said once.

tests/response/test_parsing.py has every shape of JSON; here is what a caller sees of one of each kind.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from flux_openai.errors import BadResponseError, FluxWarning
from tests.promises.money.fakes import BODY, IMAGE, JSON, OK, Answers, through

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flux_openai import FluxImagesResponse
    from tests.promises.money.conftest import MakeServer, OpenClient

B64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
PNG = base64.b64decode(B64)
DATA: dict[str, Any] = {"url": None, "b64_json": B64, "mime_type": "image/png"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_tokens_details": {"text_tokens": 1}}


def answer(*items: object, **fields: object) -> bytes:
    """The body of a 200 with these images."""
    return json.dumps({"created": 1, "data": list(items), **fields}).encode()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A body, and what must come out of it when `asked` images were asked for."""

    body: bytes
    images: list[dict[str, Any]] = field(default_factory=lambda: [{**IMAGE, "b64_json": None}])
    asked: int = 1
    missing: int = 0
    notices: tuple[str, ...] = ()
    holds: Callable[[FluxImagesResponse], bool] = lambda _: True


ODD = {
    "error beside an image": Row(
        body=answer(IMAGE, error={"message": "half done", "code": "x"}),
        notices=("the answer also carries an error: half done",),
    ),
    "error text beside an image": Row(
        body=answer(IMAGE, error="oh"), notices=("the answer also carries an error: oh",)
    ),
    "empty error beside an image": Row(body=answer(IMAGE, error=None)),
    "fewer": Row(body=answer(IMAGE), asked=4, missing=3, notices=("3 of 4 images did not come back usable",)),
    "more": Row(body=answer(IMAGE, IMAGE, IMAGE), images=[IMAGE] * 3, asked=2),
    "one empty": Row(
        body=answer({"url": None, "b64_json": None}, IMAGE),
        asked=2,
        missing=1,
        notices=("image 0: it has neither a link nor data", "1 of 2 images did not come back usable"),
    ),
    "one rubbish": Row(
        body=answer({"b64_json": "!"}, IMAGE),
        asked=2,
        missing=1,
        notices=("image 0: its b64_json is not base64", "1 of 2 images did not come back usable"),
    ),
    "link and data": Row(body=answer({**IMAGE, "b64_json": B64}), images=[{**DATA, **IMAGE}]),
    "link and rubbish": Row(body=answer({**IMAGE, "b64_json": "!"}), notices=("image 0: its b64_json is not base64",)),
    "link and data that is no image": Row(
        body=answer({**IMAGE, "b64_json": "aGVsbG8gd29ybGQ="}),
        notices=("image 0: its data is of no known image type",),
    ),
    "data URI": Row(body=answer({"b64_json": f" DATA:image/png;charset=x;base64,{B64}\n"}), images=[DATA]),
    "data URI that lies about its type": Row(body=answer({"b64_json": f"data:image/jpeg;base64,{B64}"}), images=[DATA]),
    "data that is no image": Row(
        body=answer({"b64_json": "eA=="}),
        images=[{"b64_json": "eA==", "mime_type": None}],
        notices=("image 0: its data is of no known image type",),
    ),
    "unknown fields": Row(
        body=answer({**IMAGE, "nsfw": False, "seed": 7}, provider="x", model_config=1, copy=2),
        images=[{**IMAGE, "nsfw": False, "seed": 7}],
        holds=lambda response: (response.model_extra or {}).get("provider") == "x",
    ),
    "fields with private names": Row(
        body=answer({**IMAGE, "_downloads": 1, "__class__": "x"}, _info=1, __dict__=2, _request_id="mine"),
        holds=lambda response: response._request_id == "req-header",
    ),
    "created as text": Row(
        body=answer(IMAGE, created="1750667997"), holds=lambda response: response.expires_at.year == 2025
    ),
    **{
        f"created as {value!r}": Row(
            body=answer(IMAGE, created=value), holds=lambda response: response.expires_at.year > 2025
        )
        for value in (None, -1, 10**18, "now")
    },
    "created is left out": Row(
        body=json.dumps({"data": [IMAGE]}).encode(), holds=lambda response: response.expires_at.year > 2025
    ),
    "usage without counts": Row(body=answer(IMAGE, usage={}), holds=lambda response: response.usage is None),
    "usage without one count": Row(
        body=answer(IMAGE, usage={name: USAGE[name] for name in USAGE if name != "output_tokens"}),
        holds=lambda response: response.usage is None,
    ),
    "usage with counts": Row(
        body=answer(IMAGE, usage=USAGE),
        holds=lambda response: response.usage is not None and response.usage.total_tokens == 3,
    ),
    "a name twice": Row(body=b'{"data": [], "created": 1, "data": [{"url": "https://images.example/1.png"}]}'),
    "a huge number": Row(
        body=b'{"created": 1' + b"0" * 400 + b', "data": [{"url": "https://images.example/1.png"}]}',
        holds=lambda response: response.expires_at.year > 2025 and len(response.to_json()) > 0,
    ),
    "a byte order mark": Row(body=b"\xef\xbb\xbf" + answer(IMAGE)),
}


@pytest.mark.filterwarnings("default::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize("name", ODD)
def test_an_odd_answer_with_an_image_is_an_answer(
    open_client: OpenClient, name: str, recwarn: pytest.WarningsRecorder
) -> None:
    """What was paid for comes back, in OpenAI's form; what is odd about it is said, once, as notice and as warning."""
    row, answers = ODD[name], Answers((200, JSON, ODD[name].body))
    response = open_client(http=through(answers)).generate(n=row.asked)
    assert len(answers.requests) == response.attempts == 1
    assert len(response.data) == len(row.images)
    for image, expected in zip(response.data, row.images, strict=True):
        assert {field: getattr(image, field) for field in expected} == expected
    assert response.missing == row.missing
    assert response.request_id == "req-header"
    assert response.notices == row.notices
    assert [str(warning.message) for warning in recwarn if warning.category is FluxWarning] == list(row.notices)
    assert row.holds(response)
    assert repr(response)


def test_a_warning_that_is_an_error_loses_no_image(open_client: OpenClient) -> None:
    """With `-W error` the notice is still no reason to drop an image that is paid for."""
    response = open_client(http=through(Answers(OK))).generate(n=2)
    assert len(response.data) == 1
    assert response.missing == 1
    assert len(response.notices) == 1


def test_data_is_not_downloaded_again(serve: MakeServer, open_client: OpenClient, tmp_path: Path) -> None:
    """Where an answer has both, the data is the image: no request goes to the link."""
    server = serve((404, {}, b""))
    server.script[:] = [(200, JSON, answer({"url": f"{server.origin}/1.png", "b64_json": B64}))]
    image = open_client(server.base_url).generate().data[0]
    assert image.read() == PNG
    assert image.save(tmp_path).read_bytes() == PNG
    assert [request.method for request in server.stop().requests] == ["POST"]


@pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"<svg/>", ".bin"),
        (b"MZ\x90", ".bin"),
        (PNG, ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
    ],
)
def test_the_bytes_name_the_file(open_client: OpenClient, tmp_path: Path, content: bytes, suffix: str) -> None:
    """Whatever the answer calls it, the extension follows the bytes, and bytes of no known type are kept as .bin."""
    body = answer({"b64_json": f"data:image/gif;base64,{base64.b64encode(content).decode()}"})
    path = open_client(http=through(Answers((200, JSON, body)))).generate().data[0].save(tmp_path)
    assert path.suffix == suffix
    assert path.read_bytes() == content


@pytest.mark.parametrize("status", [200, 201, 202, 206, 299])
def test_any_success_with_an_image_is_a_success(open_client: OpenClient, status: int) -> None:
    """A gateway may turn 200 into another 2xx; the image counts."""
    answers = Answers((status, JSON, BODY))
    assert open_client(http=through(answers)).generate().data[0].url == IMAGE["url"]
    assert len(answers.requests) == 1


@pytest.mark.parametrize("content_type", ["text/html", "", "application/octet-stream", "text/event-stream", "nonsense"])
def test_the_declared_type_of_an_answer_does_not_matter(open_client: OpenClient, content_type: str) -> None:
    """An image in JSON is an image, whatever the header calls it."""
    answers = Answers((200, {"Content-Type": content_type}, answer(IMAGE)))
    assert open_client(http=through(answers)).generate().data[0].url == IMAGE["url"]


@pytest.mark.parametrize("good", [True, False])
def test_a_header_beyond_ascii_loses_no_answer(serve: MakeServer, open_client: OpenClient, *, good: bool) -> None:
    """An image is an image, and an unusable answer is a BadResponseError, whatever stands in the headers."""
    server = serve((200, {**JSON, "X-City": "München"}, answer(IMAGE) if good else b""))
    caller = open_client(server.base_url)
    if good:
        assert caller.generate().data[0].url == IMAGE["url"]
    else:
        error = caller.fails()
        assert type(error) is BadResponseError
        assert error.billing == "unknown"
    assert len(server.stop().posts) == 1


@pytest.mark.parametrize("side", ["sync", "async"])
def test_a_large_answer_over_a_socket_arrives_whole(serve: MakeServer, open_client: OpenClient) -> None:
    """Four images of megabytes come in many reads: each is whole, and one request was sent."""
    images = [PNG + bytes([number]) * 1_000_000 for number in range(4)]
    data = [{**DATA, "b64_json": base64.b64encode(image).decode()} for image in images]
    server = serve((200, JSON, json.loads(answer(*data))))
    response = open_client(server.base_url).generate(n=4, response_format="b64_json")
    assert [image.read() for image in response.data] == images
    assert len(server.stop().posts) == 1
