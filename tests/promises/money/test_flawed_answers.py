"""An answer that came whole in a faulty way is an answer; one that cannot be used is kept whole, out of every log.

tests/response/test_lenient.py has every flaw of a body; here are the flaws of the way it came, and what a caller sees.
"""

from __future__ import annotations

import copy
import gzip
import json
import logging
import pickle
import zlib
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai._http import capture
from flux_openai._http.library import httpx
from flux_openai.errors import BadResponseError, FluxConnectionError, FluxError
from tests.promises.money.fakes import BODY, IMAGE, JSON, Answers, head, through

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from tests.promises.money.conftest import MakeServer, OpenClient
    from tests.promises.money.fakes import Connection, Step

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
quiet = pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")
PLAIN = json.dumps(BODY).encode()
TWO = json.dumps({"created": 1, "data": [IMAGE, IMAGE]}).encode()
BROKEN = "the answer ended with a broken connection, but its JSON is whole"
LENIENT = "the answer is not valid JSON; it was read leniently"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def then_hang(data: bytes) -> Step:
    """An answer after which nothing more comes."""

    def step(connection: Connection) -> None:
        connection.read()
        connection.send(data)
        connection.hang()

    return step


CHUNKED = head(Transfer_Encoding="chunked")
GZIP = gzip.compress(PLAIN)
BROKEN_OFF: dict[str, tuple[Step, tuple[str, ...]]] = {
    "a missing last chunk": (CHUNKED + chunk(PLAIN), (BROKEN,)),
    "a bad last chunk": (CHUNKED + chunk(PLAIN) + b"zz\r\n", (BROKEN,)),
    "several chunks, and no last one": (CHUNKED + chunk(PLAIN[:9]) + chunk(PLAIN[9:]), (BROKEN,)),
    "a Content-Length that is too large": (head(Content_Length=1000) + PLAIN, (BROKEN,)),
    "blanks behind it": (head(Content_Length=1000) + PLAIN + b"\r\n  ", (BROKEN,)),
    "gzip without its end": (head(Content_Length=1000, Content_Encoding="gzip") + GZIP, (BROKEN,)),
    "gzip without its trailer": (head(Content_Length=1000, Content_Encoding="gzip") + GZIP[:-8], (BROKEN,)),
    "silence behind it": (then_hang(head(Content_Length=1000) + PLAIN), (BROKEN,)),
    "a flaw in the JSON too": (head(Content_Length=1000) + b")]}'\n" + PLAIN, (BROKEN, LENIENT)),
}


@quiet
@both_sides
@pytest.mark.parametrize("name", BROKEN_OFF)
def test_a_whole_answer_on_a_broken_connection_is_the_answer(
    serve: MakeServer, open_client: OpenClient, name: str
) -> None:
    """The image is paid for and here: it is returned, and not bought again even where duplicates are allowed."""
    step, notices = BROKEN_OFF[name]
    server = serve(step)
    timeout = openai.Timeout(30, read=0.3) if callable(step) else None
    response = open_client(server.base_url, timeout=timeout, retry={"duplicates": "allowed"}).generate()
    assert response.data[0].url == IMAGE["url"]
    assert response.notices == notices
    assert response.request_id == "req-header"
    assert response.attempts == len(server.stop().posts) == 1


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection fails with this error once all of the data has come."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self.data, self.error = data, error

    def __iter__(self) -> Iterator[bytes]:
        yield self.data
        raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data
        raise self.error


def failing(data: bytes, error: Exception) -> tuple[dict[str, Any], list[httpx.Request]]:
    requests: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, headers=JSON, stream=Stream(data, error))

    return through(handler), requests


ERRORS = [
    *(httpx.ReadError("reset"), httpx.RemoteProtocolError("incomplete"), httpx.ReadTimeout("late")),
    *(ConnectionResetError("reset"), RuntimeError("Event loop is closed"), KeyError("connection"), TimeoutError()),
]


@quiet
@both_sides
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_it_does_not_matter_how_the_connection_broke(open_client: OpenClient, error: Exception) -> None:
    """A reset, a time-out or an error of the transport's own behind a whole answer loses no image."""
    http, requests = failing(PLAIN, error)
    response = open_client(http=http, retry={"duplicates": "allowed"}).generate()
    assert (response.data[0].url, response.notices, len(requests)) == (IMAGE["url"], (BROKEN,), 1)


@both_sides
@pytest.mark.parametrize(
    "data", [PLAIN[:-1], TWO[:-2], b'{"data": []}', b'{"error": {"code": "x"}}', b'{"images": ["AAAA"]}']
)
def test_less_than_a_whole_answer_is_a_lost_one(open_client: OpenClient, data: bytes) -> None:
    """An object that is not closed, and one without an image, stay unknown outcomes."""
    http, requests = failing(data, httpx.ReadError("reset"))
    error = open_client(http=http).fails()
    assert type(error) is FluxConnectionError
    assert (error.billing, error.raw, len(requests)) == ("unknown", data, 1)


def encoded(encoding: str, body: bytes) -> Step:
    """A 200 whose body is said to be in this content encoding."""
    return 200, {**JSON, "Content-Encoding": encoding}, body


def bare_deflate(data: bytes) -> bytes:
    pack = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()


NOT_ASKED_FOR = "the answer comes in a content encoding that was not asked for, but its JSON is whole"
NOT_GZIP = "the answer is not valid gzip, but its JSON is whole"
PACKED = "the answer is compressed once more than it says, but its JSON is whole"
DEFLATE = "the answer comes in a content encoding that was not asked for: deflate"
ENCODED: dict[str, tuple[Step, tuple[str, ...]]] = {
    **{name: (encoded(name, PLAIN), (NOT_ASKED_FOR,)) for name in ("utf-8", "UTF-8", "none", "br", "zstd", "json")},
    "aws-chunked": (encoded("aws-chunked", PLAIN), (NOT_ASKED_FOR,)),
    "three layers": (encoded("gzip, gzip, gzip", PLAIN), (NOT_ASKED_FOR,)),
    "an encoding and gzip": (encoded("utf-8, gzip", PLAIN), (NOT_ASKED_FOR,)),
    "gzip over plain JSON": (encoded("gzip", PLAIN), (NOT_GZIP,)),
    "deflate over plain JSON": (encoded("deflate", PLAIN), ("the answer is not valid deflate, but its JSON is whole",)),
    "gzip without its trailer": (encoded("gzip", GZIP[:-8]), (NOT_GZIP,)),
    "gzip with half its trailer": (encoded("gzip", GZIP[:-4]), (NOT_GZIP,)),
    "gzip and the start of another": (encoded("gzip", GZIP + b"\x1f\x8b"), (NOT_GZIP,)),
    "gzip and junk": (encoded("gzip", GZIP + b"junk"), ()),
    "x-gzip": (encoded("x-gzip", GZIP), ()),
    "deflate": (encoded("deflate", zlib.compress(PLAIN)), (DEFLATE,)),
    "bare deflate": (encoded("deflate", bare_deflate(PLAIN)), (DEFLATE,)),
    "deflate without its sum": (
        encoded("deflate", zlib.compress(PLAIN)[:-4]),
        ("the answer is not valid deflate, but its JSON is whole",),
    ),
    "deflate, then gzip": (encoded("deflate, gzip", gzip.compress(zlib.compress(PLAIN))), (DEFLATE,)),
    "gzip that is not said": ((200, JSON, GZIP), (PACKED,)),
    "gzip within gzip": (encoded("gzip", gzip.compress(GZIP)), (PACKED,)),
    "gzip that is called br": (encoded("br", GZIP), (NOT_ASKED_FOR,)),
    "gzip that is called deflate": (
        encoded("deflate", GZIP),
        ("the answer is not valid deflate, but its JSON is whole",),
    ),
    "deflate that is called gzip": (encoded("gzip", zlib.compress(PLAIN)), (NOT_GZIP,)),
    "gzip that is called gzip twice": (encoded("gzip, gzip", GZIP), (NOT_GZIP,)),
    "gzip and a charset": (encoded("gzip, utf-8", GZIP), (NOT_ASKED_FOR,)),
    "a flaw in the JSON too": (encoded("utf-8", b'{"x": NaN, ' + PLAIN[1:]), (NOT_ASKED_FOR, LENIENT)),
    "UTF-16 that is called UTF-8": (encoded("utf-8", PLAIN.decode().encode("utf-16")), (NOT_ASKED_FOR, LENIENT)),
}


@quiet
@both_sides
@pytest.mark.parametrize("name", ENCODED)
def test_a_wrong_content_encoding_loses_no_image(serve: MakeServer, open_client: OpenClient, name: str) -> None:
    """A body is read as its header says, and as it came where that fails; one POST, and the fault is said."""
    step, notices = ENCODED[name]
    server = serve(step)
    response = open_client(server.base_url, retry={"duplicates": "allowed"}).generate()
    assert response.data[0].url == IMAGE["url"]
    assert response.notices == notices
    assert len(server.stop().posts) == 1


def bomb(mebibytes: int) -> bytes:
    pack = zlib.compressobj(9)
    return b"".join([*(pack.compress(bytes(1 << 20)) for _ in range(mebibytes)), pack.flush()])


@pytest.mark.parametrize("pack", [lambda data: data, zlib.compress])
def test_a_deflate_bomb_is_stopped(serve: MakeServer, open_client: OpenClient, pack: Any) -> None:  # noqa: ANN401  # bytes to bytes
    """The cap of 64 MiB holds for deflate as for gzip, and what came is kept packed."""
    packed = pack(bomb(70))
    layers = "deflate" if packed == bomb(70) else "deflate, deflate"
    error = open_client(serve(encoded(layers, packed)).base_url).fails()
    assert isinstance(error, BadResponseError)
    assert str(error).endswith("is larger than 64 MiB when decompressed")
    assert error.read_body() == packed


def heartbeat(before: bytes, blanks: bytes, after: bytes) -> Step:
    """An answer that comes slowly: a blank every 20 ms."""

    def step(connection: Connection) -> None:
        connection.read()
        connection.send(head() + before)
        connection.drip(blanks, 0.02)
        connection.send(after)

    return step


@both_sides
@pytest.mark.parametrize("before", [b"", PLAIN[:1]], ids=["before", "within"])
def test_heartbeats_do_not_count_as_the_time_of_a_body(
    serve: MakeServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    """Blanks that keep a connection open for longer than a body may take lose no image."""
    monkeypatch.setattr(capture, "BODY_TIME", 0.3 / 60)
    server = serve(heartbeat(before, b" " * 30, PLAIN[len(before) :]))
    response = open_client(server.base_url, timeout=openai.Timeout(60)).generate()
    assert (response.data[0].url, response.notices) == (IMAGE["url"], ())
    assert len(server.stop().posts) == 1


@both_sides
@pytest.mark.usefixtures("short_bodies")
def test_heartbeats_without_end_are_ended(
    serve: MakeServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blanks have a limit of their own, and are never bought again."""
    monkeypatch.setattr(capture, "BLANK_TIME", 0.15 / 60)
    server = serve(heartbeat(b"", b" " * 100, PLAIN))
    error = open_client(server.base_url, timeout=openai.Timeout(60), retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, BadResponseError)
    assert "was not complete after 0.15 s" in str(error)
    assert len(server.stop().posts) == 1


@quiet
@both_sides
@pytest.mark.usefixtures("short_bodies")
def test_a_whole_answer_that_never_ends_is_an_answer(serve: MakeServer, open_client: OpenClient) -> None:
    """What drips behind a whole answer until the time is up does not take it away."""
    server = serve(heartbeat(PLAIN, b"x" * 100, b""))
    response = open_client(server.base_url, timeout=openai.Timeout(60)).generate()
    assert response.data[0].url == IMAGE["url"]
    assert response.notices == ("the answer was not complete after 0.1 s, but its JSON is whole", LENIENT)
    assert len(server.stop().posts) == 1


@quiet
@pytest.mark.parametrize("stream", [False, True], ids=["raw", "streaming"])
@pytest.mark.parametrize("body", [b")]}'" + PLAIN, b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"," + PLAIN[1:]])
def test_a_raw_response_can_be_parsed_all_the_same(open_client: OpenClient, body: bytes, *, stream: bool) -> None:
    """`with_raw_response` has the bytes as they came, and its `parse()` gives the image."""
    images = open_client(http=through(Answers((200, JSON, body)))).images
    if stream:
        with images.with_streaming_response.generate(prompt="a fox") as raw:
            assert (raw.read(), raw.parse().data[0].url) == (body, IMAGE["url"])
    else:
        raw = images.with_raw_response.generate(prompt="a fox")
        assert (raw.content, raw.parse().data[0].url) == (body, IMAGE["url"])


ENVELOPES: dict[str, tuple[Mapping[str, object], int, type[openai.OpenAIError], str]] = {
    "a key": ({"code": 401, "message": "It is so.", "data": None}, 401, openai.AuthenticationError, "none"),
    "a key, as text": ({"code": "401", "message": "It is so."}, 401, openai.AuthenticationError, "none"),
    "a refusal": ({"code": 400, "message": "It is so.", "data": {}}, 400, openai.BadRequestError, "none"),
    "too many": ({"code": 429, "message": "It is so.", "data": []}, 429, openai.RateLimitError, "none"),
    "a failure": ({"code": 500, "message": "It is so."}, 500, openai.InternalServerError, "unknown"),
    "a word": ({"code": "rate_limit", "message": "It is so."}, 429, openai.RateLimitError, "none"),
    "a code of its own": ({"code": 1001, "message": "It is so."}, 200, openai.APIStatusError, "unknown"),
    "zero and nothing": ({"code": 0, "message": "It is so."}, 200, openai.APIStatusError, "unknown"),
    "an error within": (
        {"code": 200, "message": "ok", "data": {"error": {"code": "rate_limit", "message": "It is so."}}},
        429,
        openai.RateLimitError,
        "none",
    ),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_with_another_code_is_an_error(open_client: OpenClient, name: str) -> None:
    """Its message and the class of its code reach the caller; a 200 is not sent again, whatever is in it."""
    body, status, sdk, billing = ENVELOPES[name]
    answers = Answers((200, JSON, body))
    error: Any = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert issubclass(type(error), sdk)
    assert (error.status_code, error.billing, len(answers.requests)) == (status, billing, 1)
    assert "It is so" in str(error)


SIGNATURE = "SIGNATURE-51cc"
SIGNED = f"https://files.example/a.png?signature={SIGNATURE}"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 1000
OTHER_SHAPES = {
    "images": json.dumps({"images": [{"url": SIGNED}]}).encode(),
    "output": json.dumps({"output": SIGNED}).encode(),
    "an envelope of images": json.dumps({"code": 200, "data": {"images": [SIGNED]}}).encode(),
    "an event stream": f'data: {{"data": [{{"url": "{SIGNED}"}}]}}\n\ndata: [DONE]\n\n'.encode(),
    "HTML": f'<html><a href="{SIGNED}">your image</a></html>'.encode(),
    "the picture": PICTURE + SIGNED.encode(),
    "larger than what an error shows": b"<html>" + b"x" * 1_000_000 + SIGNED.encode(),
    "rubbish for an image": json.dumps({"data": [{"b64_json": "!"}], "source": SIGNED}).encode(),
}


@both_sides
@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_an_answer_that_cannot_be_used_is_kept_whole_and_out_of_sight(
    serve: MakeServer, open_client: OpenClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`read_body()` has every byte, signatures included; no text, attribute, log or pickle of the error has."""
    caplog.set_level(logging.DEBUG)
    body = OTHER_SHAPES[name]
    server = serve((200, JSON, body))
    error = open_client(server.base_url, retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, BadResponseError)
    assert error.read_body() == body
    assert "error.read_body()" in str(error)
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), repr(error.response.__dict__)]
    shown += [str(error.raw), caplog.text, str(pickle.dumps(error)), repr(error.__reduce__())]
    assert not any(SIGNATURE in text for text in shown)
    assert len(server.stop().posts) == 1


@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])  # noqa: S301  # ours
def test_a_pickled_error_says_that_the_body_is_gone(open_client: OpenClient, copied: Any) -> None:  # noqa: ANN401  # any error
    """The whole body does not go into a pickle; asked for it, the copy says so, and `raw` has the beginning."""
    error = open_client(http=through(Answers((200, JSON, b"<html>")))).fails()
    back = copied(error)
    assert back.raw == b"<html>"
    with pytest.raises(FluxError, match="does not survive pickling") as caught:
        back.read_body()
    assert caught.value.billing == "unknown"


def test_an_empty_answer_has_nothing_to_keep(open_client: OpenClient) -> None:
    """The message does not point to a body that is not there."""
    error = open_client(http=through(Answers((200, JSON, b"")))).fails()
    assert isinstance(error, BadResponseError)
    assert error.read_body() == b""
    assert "read_body" not in str(error)
