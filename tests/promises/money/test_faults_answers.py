"""A 200 that is not what was asked for. The money is spent: nothing is sent again, and no byte is lost."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai.errors import (
    BadResponseError,
    FluxError,
    FluxInternalServerError,
    FluxRateLimitError,
    FluxStatusError,
    FluxWarning,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flux_openai import FluxImagesResponse
    from tests.promises.money.conftest import MakeServer, OpenClient, Server

HEADERS = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
LINK = {"url": "https://images.example/1.png"}


def tiny_png() -> bytes:
    """The smallest picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PNG = tiny_png()
B64 = base64.b64encode(PNG).decode()
ASKED = {"response_format": "b64_json"}


def answer(*items: object, **fields: object) -> bytes:
    """The body of a 200 with these images."""
    return json.dumps({"created": 1, "data": list(items), **fields}).encode()


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A body that gives no image: the error it ends as, and the words that say why."""

    body: bytes
    says: str
    error: type[FluxError] = BadResponseError
    sdk: type[openai.OpenAIError] = openai.APIResponseValidationError
    billing: str = "unknown"
    status: int = 200
    request_id: str = "req-header"


def mapped(code: object, error: type[FluxError], sdk: type[openai.OpenAIError], billing: str, status: int) -> Bad:
    """An error in a 200, and the HTTP error it stands for."""
    details = {"message": "It is so.", "type": "some_type", "param": "req-param", "code": code}
    return Bad(
        body=json.dumps({"error": details}).encode(),
        says="It is so",
        error=error,
        sdk=sdk,
        billing=billing,
        status=status,
        request_id="req-param",
    )


DEEP = b"[" * 100_000 + b"]" * 100_000
BAD = {
    "html": Bad(body=b"<html>Please log in</html>", says="it is not JSON"),
    "empty": Bad(body=b"", says="it is empty"),
    "blank": Bad(body=b" \r\n", says="it is empty"),
    "204": Bad(body=b"", says="it is empty", status=204),
    "broken": Bad(body=b'{"data": [', says="it is not JSON"),
    "two": Bad(body=b"{}{}", says="it is not JSON"),
    "list": Bad(body=b"[1]", says="it is not a JSON object"),
    "null": Bad(body=b"null", says="it is not a JSON object"),
    "text": Bad(body=b'"done"', says="it is not a JSON object"),
    "number": Bad(body=b"7", says="it is not a JSON object"),
    "error-rate": mapped("rate_limit_exceeded", FluxRateLimitError, openai.RateLimitError, "none", 429),
    "error-server": mapped("server_error", FluxInternalServerError, openai.InternalServerError, "unknown", 500),
    "error-timeout": mapped("upstream_timeout", FluxInternalServerError, openai.InternalServerError, "unknown", 504),
    "error-number": mapped(429, FluxRateLimitError, openai.RateLimitError, "none", 429),
    "error-number-as-text": mapped("503", FluxInternalServerError, openai.InternalServerError, "unknown", 503),
    "error-unknown-code": mapped("strange", FluxStatusError, openai.APIStatusError, "unknown", 200),
    "error-no-code": mapped(None, FluxStatusError, openai.APIStatusError, "unknown", 200),
    "error-text": Bad(
        body=b'{"error": "It is so."}', says="It is so", error=FluxStatusError, sdk=openai.APIStatusError
    ),
    "error-list": Bad(
        body=b'{"error": [1]}', says="an error in a 200", error=FluxStatusError, sdk=openai.APIStatusError
    ),
    "data-no-data": Bad(body=b'{"created": 1}', says="it holds no image"),
    "data-null": Bad(body=b'{"created": 1, "data": null}', says="it holds no image"),
    "data-empty": Bad(body=b'{"created": 1, "data": []}', says="it holds no image"),
    "data-object": Bad(body=b'{"created": 1, "data": {"url": "x"}}', says="it holds no image"),
    "data-empty-error": Bad(body=b'{"error": null, "data": null}', says="it holds no image"),
    "all": Bad(body=answer({"url": None, "b64_json": None}), says="neither a link nor data", billing="paid"),
    "nulls": Bad(body=answer(None, 7, "x"), says="neither a link nor data", billing="paid"),
    "rubbish": Bad(body=answer({"b64_json": "!!!"}), says="is not base64", billing="paid"),
    "one-letter": Bad(body=answer({"b64_json": B64 + "A"}), says="is not base64", billing="paid"),
    "padding-inside": Bad(body=answer({"b64_json": "iVBO=" + B64}), says="is not base64", billing="paid"),
    "not-ascii": Bad(body=answer({"b64_json": B64 + "é"}), says="is not base64", billing="paid"),
    "only-a-prefix": Bad(body=answer({"b64_json": "data:image/png;base64,"}), says="base64", billing="paid"),
    "nan": Bad(body=b'{"created": NaN, "data": [{"url": "https://x"}]}', says="it is not JSON"),
    "infinity": Bad(body=b'{"created": -Infinity, "data": []}', says="it is not JSON"),
    "deep-list": Bad(body=DEEP, says="it is not JSON"),
    "deep-object": Bad(body=b'{"data":' * 100_000 + b"1" + b"}" * 100_000, says="it is not JSON"),
    "deep-inside": Bad(body=b'{"data": [{"url": "https://x"}], "x": ' + DEEP + b"}", says="it is not JSON"),
    "lone-surrogate": Bad(body=b'{"data": [{"url": "\\ud800"}]}', says="it is not JSON"),
    "not-utf-8": Bad(body=b'{"data": [{"url": "\xff"}]}', says="it is not JSON"),
    "utf-16": Bad(body='{"data": []}'.encode("utf-16"), says="it is not JSON"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in BAD.items()])
async def test_a_200_without_an_image_is_an_error_and_not_bought_again(
    serve: MakeServer, open_client: OpenClient, row: Bad
) -> None:
    """One POST even where duplicates are allowed; the class and billing it stands for; the body is kept."""
    http_status = row.status if row.status == 204 else 200
    server = serve((http_status, {"Content-Type": "application/json", "X-Request-Id": "req-header"}, row.body))
    error = await open_client(server.base_url, retry={"duplicates": "allowed"}).fails()
    assert type(error) is row.error
    assert isinstance(error, row.sdk)
    assert isinstance(error, BadResponseError | FluxStatusError)
    assert (error.billing, error.attempts, error.request_id) == (row.billing, 1, row.request_id)
    assert (error.status_code, error.response.status_code) == (row.status, http_status)
    assert row.says in str(error)
    assert len(str(error)) < 600
    assert error.raw == row.body.decode(json.detect_encoding(row.body), "backslashreplace").encode()[: 64 * 1024]
    assert len(server.stop().posts) == 1


CODES = {
    **dict.fromkeys(("rate_limit_exceeded", "Too_many_requests"), 429),
    **dict.fromkeys(("insufficient_quota", "InsufficientBalance", "billing_not_active"), 429),
    **dict.fromkeys(("invalid_api_key", "unauthorized"), 401),
    **dict.fromkeys(("permission_denied", "Forbidden"), 403),
    "model_not_found": 404,
    **dict.fromkeys(("content_policy_violation", "moderation_blocked", "invalid_value"), 400),
    "upstream_timeout": 504,
    **dict.fromkeys(("service_unavailable", "engine_overloaded"), 503),
    **dict.fromkeys(("internal_error", "server_error"), 500),
}


@pytest.mark.anyio
@pytest.mark.parametrize(("code", "status"), CODES.items())
async def test_an_error_in_a_200_is_that_of_its_code(
    serve: MakeServer, open_client: OpenClient, code: str, status: int
) -> None:
    """It is the SDK's class for the status that the code stands for, and is billed as that would be."""
    error = await open_client(serve((200, HEADERS, {"error": {"code": code}})).base_url).fails()
    known = {**dict.fromkeys((500, 503, 504), openai.InternalServerError), 429: openai.RateLimitError}
    known |= {400: openai.BadRequestError, 401: openai.AuthenticationError, 403: openai.PermissionDeniedError}
    assert isinstance(error, {**known, 404: openai.NotFoundError}[status])
    assert (error.status_code, error.billing) == (status, "unknown" if status >= 500 else "none")


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A body that is odd but holds images: what must come out of it."""

    body: bytes
    images: list[dict[str, Any]] = field(default_factory=lambda: [{**LINK, "b64_json": None}])
    asked: int = 1
    missing: int = 0
    notices: tuple[str, ...] = ()
    holds: Callable[[FluxImagesResponse], bool] = lambda _: True


DATA: dict[str, Any] = {"url": None, "b64_json": B64, "mime_type": "image/png"}
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_tokens_details": {"text_tokens": 1}}


def in_base64(text: str, **expected: object) -> Odd:
    return Odd(body=answer({"b64_json": text}), images=[{**DATA, **expected}])


def with_usage(usage: object) -> Odd:
    return Odd(body=answer(LINK, usage=usage), holds=lambda response: response.usage is None)


def not_an_image(content: bytes) -> Odd:
    packed = base64.b64encode(content).decode()
    return Odd(
        body=answer({"b64_json": packed}),
        images=[{"b64_json": packed, "mime_type": None}],
        notices=("image 0: its data is of no known image type",),
    )


ODD_DATES: dict[str, object] = {"null": None, "word": "now", "negative": -1, "zero": 0, "list": [], "huge": 10**18}
ODD = {
    "error-beside-data": Odd(
        body=answer(LINK, error={"message": "half done", "code": "x"}),
        notices=("the answer also carries an error: half done",),
    ),
    "error-beside-error-text": Odd(body=answer(LINK, error="oh"), notices=("the answer also carries an error: oh",)),
    "error-beside-empty-error": Odd(body=answer(LINK, error=None)),
    "fewer": Odd(
        body=answer(LINK),
        asked=4,
        missing=3,
        notices=("3 of 4 images did not come back usable",),
    ),
    "more": Odd(body=answer(LINK, LINK, LINK), images=[LINK] * 3, asked=2),
    "one-null": Odd(
        body=answer({"url": None, "b64_json": None}, LINK),
        asked=2,
        missing=1,
        notices=("image 0: it has neither a link nor data", "1 of 2 images did not come back usable"),
    ),
    "one-rubbish": Odd(
        body=answer({"b64_json": "!"}, LINK),
        asked=2,
        missing=1,
        notices=("image 0: its b64_json is not base64", "1 of 2 images did not come back usable"),
    ),
    "both": Odd(body=answer({**LINK, "b64_json": B64}), images=[{**DATA, **LINK}]),
    "link-and-rubbish": Odd(
        body=answer({**LINK, "b64_json": "!"}),
        images=[{**LINK, "b64_json": None}],
        notices=("image 0: its b64_json is not base64",),
    ),
    "data-uri": in_base64(f"data:image/png;base64,{B64}"),
    "data-uri-odd": in_base64(f" DATA:image/png;charset=x;base64,{B64}\n"),
    "plain": in_base64(B64),
    "url-safe": in_base64(base64.urlsafe_b64encode(PNG).decode()),
    "unpadded": in_base64(B64.rstrip("=")),
    "wrapped": in_base64(base64.encodebytes(PNG).decode().replace("\n", "\r\n")),
    "type-mime-lies": in_base64(f"data:image/jpeg;base64,{B64}"),
    "type-text": not_an_image(b"no image at all"),
    "type-svg": not_an_image(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "type-html": not_an_image(b"<html><script>alert(1)</script>"),
    "type-one-byte": not_an_image(b"x"),
    "unknown-fields": Odd(
        body=answer({**LINK, "nsfw": False, "seed": 7}, provider="x", model_config=1, copy=2),
        images=[{**LINK, "nsfw": False, "seed": 7}],
        holds=lambda response: (response.model_extra or {}).get("provider") == "x",
    ),
    "private-fields": Odd(
        body=answer({**LINK, "_downloads": 1, "__class__": "x"}, _receipt=1, __dict__=2, _request_id="mine"),
        holds=lambda response: response._request_id == "req-header",
    ),
    "created-text": Odd(
        body=answer(LINK, created="1750667997"), holds=lambda response: response.expires_at.year == 2025
    ),
    **{
        f"created-{name}": Odd(body=answer(LINK, created=value), holds=lambda response: response.expires_at.year > 2025)
        for name, value in ODD_DATES.items()
    },
    "no-created": Odd(
        body=json.dumps({"data": [LINK]}).encode(), holds=lambda response: response.expires_at.year > 2025
    ),
    "usage-null": with_usage(None),
    "usage-empty": with_usage({}),
    "usage-float": with_usage({**USAGE, "total_tokens": 1.5}),
    "usage-text": with_usage({**USAGE, "total_tokens": "3"}),
    "usage-true": with_usage({**USAGE, "total_tokens": True}),
    "usage-list": with_usage([1]),
    "usage-whole": Odd(
        body=answer(LINK, usage=USAGE),
        holds=lambda response: response.usage is not None and response.usage.total_tokens == 3,
    ),
    "usage-negative": Odd(
        body=answer(LINK, usage={**USAGE, "total_tokens": -3}),
        holds=lambda response: response.usage is None or response.usage.total_tokens == -3,
    ),
    "duplicate-keys": Odd(body=b'{"data": [], "created": 1, "data": [{"url": "https://images.example/1.png"}]}'),
    "huge-number": Odd(
        body=b'{"created": 1' + b"0" * 400 + b', "data": [{"url": "https://images.example/1.png"}]}',
        holds=lambda response: response.expires_at.year > 2025 and len(response.to_json()) > 0,
    ),
    "byte-order-mark": Odd(body=b"\xef\xbb\xbf" + answer(LINK)),
}


@pytest.mark.anyio
@pytest.mark.filterwarnings("default::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ODD.items()])
async def test_an_odd_answer_with_an_image_is_an_answer(
    serve: MakeServer, open_client: OpenClient, row: Odd, recwarn: pytest.WarningsRecorder
) -> None:
    """What was paid for comes back, in OpenAI's form; what is odd about it is said, once, as notice and as warning."""
    server = serve((200, HEADERS, row.body))
    response = await open_client(server.base_url).generate(n=row.asked)
    images = [
        {name: getattr(image, name) for name in kept} for image, kept in zip(response.data, row.images, strict=True)
    ]
    assert images == row.images
    assert (response.missing, response.attempts, response.request_id) == (row.missing, 1, "req-header")
    assert response.notices == row.notices
    assert [str(warning.message) for warning in recwarn if warning.category is FluxWarning] == list(row.notices)
    assert row.holds(response)
    assert repr(response)
    assert len(server.stop().posts) == 1


def sees(server: Server, methods: list[str]) -> bool:
    """Whether these requests came, and no others."""
    return [request.method for request in server.stop().requests] == methods


@pytest.mark.anyio
async def test_data_is_not_downloaded_again(serve: MakeServer, open_client: OpenClient, tmp_path: Path) -> None:
    """Where an answer has both, the data is the image: no request goes to the link."""
    server = serve((404, {}, b""))
    server.script[:] = [(200, HEADERS, answer({"url": f"{server.origin}/1.png", "b64_json": B64}))]
    response = await open_client(server.base_url).generate()
    assert await response.data[0].aread() == PNG
    assert (await response.data[0].asave(tmp_path)).read_bytes() == PNG
    assert sees(server, ["POST"])


@pytest.mark.anyio
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
async def test_the_bytes_name_the_file(
    serve: MakeServer, open_client: OpenClient, tmp_path: Path, content: bytes, suffix: str
) -> None:
    """Whatever the answer calls it, the extension follows the bytes, and bytes of no known type are kept as .bin."""
    body = answer({"b64_json": f"data:image/gif;base64,{base64.b64encode(content).decode()}"})
    response = await open_client(serve((200, HEADERS, body)).base_url).generate()
    path = await response.data[0].asave(tmp_path)
    assert (path.suffix, path.read_bytes()) == (suffix, content)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 201, 202, 206, 299])
async def test_any_success_with_an_image_is_a_success(serve: MakeServer, open_client: OpenClient, status: int) -> None:
    """A gateway may turn 200 into another 2xx; the image counts."""
    server = serve((status, HEADERS, answer(LINK)))
    assert (await open_client(server.base_url).generate()).data[0].url == LINK["url"]
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("content_type", ["text/html", "", "application/octet-stream", "text/event-stream", "nonsense"])
async def test_the_declared_type_of_an_answer_does_not_matter(
    serve: MakeServer, open_client: OpenClient, content_type: str
) -> None:
    """An image in JSON is an image, whatever the header calls it."""
    server = serve((200, {"Content-Type": content_type}, answer(LINK)))
    assert (await open_client(server.base_url).generate()).data[0].url == LINK["url"]


@pytest.mark.anyio
@pytest.mark.parametrize("good", [True, False])
async def test_a_header_beyond_ascii_loses_no_answer(serve: MakeServer, open_client: OpenClient, *, good: bool) -> None:
    """An image is an image, and an unusable answer is a BadResponseError, whatever stands in the headers."""
    server = serve((200, {**HEADERS, "X-City": "München"}, answer(LINK) if good else b""))
    caller = open_client(server.base_url)
    if good:
        assert (await caller.generate()).data[0].url == LINK["url"]
    else:
        error = await caller.fails()
        assert (type(error), error.billing) == (BadResponseError, "unknown")
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
async def test_a_warning_that_is_an_error_loses_no_image(serve: MakeServer, open_client: OpenClient) -> None:
    """With `-W error` the notice is still no reason to drop an image that is paid for."""
    server = serve((200, HEADERS, answer(LINK)))
    response = await open_client(server.base_url).generate(n=2)
    assert (response.missing, len(response.data), len(response.notices)) == (1, 1, 1)


@pytest.mark.anyio
async def test_a_wrong_answer_keeps_64_kib_at_most(serve: MakeServer, open_client: OpenClient) -> None:
    """The beginning of a large wrong answer is enough to see what it was."""
    server = serve((200, HEADERS, b"<html>" + b"x" * 1_000_000))
    error = await open_client(server.base_url).fails()
    assert isinstance(error, BadResponseError)
    assert (len(error.raw), error.raw[:6]) == (64 * 1024, b"<html>")
    assert len(error.response.content) == 64 * 1024
