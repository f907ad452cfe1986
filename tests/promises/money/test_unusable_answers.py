"""A whole 200 without an image: it may be paid for, so nothing is sent again, and no byte of it is lost."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

import flux_openai
from flux_openai.errors import (
    BadResponseError,
    FluxError,
    FluxInternalServerError,
    FluxRateLimitError,
    FluxStatusError,
)
from tests.promises.money.fakes import BODY, IMAGE, JSON, Answers, head, through

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import MakeServer, OpenClient, Side
    from tests.promises.money.fakes import Answer, Connection

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
B64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
DEEP = b"[" * 100_000 + b"]" * 100_000


def answer(*items: object) -> bytes:
    """The body of a 200 with these images."""
    return json.dumps({"created": 1, "data": list(items)}).encode()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A body that gives no image: the words that say why, and the error it ends as."""

    body: bytes
    says: str
    error: type[FluxError] = BadResponseError
    sdk: type[openai.OpenAIError] = openai.APIResponseValidationError
    billing: str = "unknown"
    status: int = 200
    request_id: str = "req-header"


def no_json(body: bytes) -> Row:
    return Row(body=body, says="it is not JSON")


def no_image(body: bytes) -> Row:
    return Row(body=body, says="it holds no image")


def paid(says: str, *items: object) -> Row:
    return Row(body=answer(*items), says=says, billing="paid")


def error_of(code: object, error: type[FluxError], sdk: type[openai.OpenAIError], billing: str, status: int) -> Row:
    """An error in a 200, and the HTTP error it stands for."""
    details = {"message": "It is so.", "type": "some_type", "param": "req-param", "code": code}
    body = json.dumps({"error": details}).encode()
    return Row(body=body, says="It is so", error=error, sdk=sdk, billing=billing, status=status, request_id="req-param")


UNUSABLE = {
    "html": no_json(b"<html>Please log in</html>"),
    "empty": Row(body=b"", says="it is empty"),
    "blank": Row(body=b" \r\n", says="it is empty"),
    "204": Row(body=b"", says="it is empty", status=204),
    "broken": no_json(b'{"data": ['),
    "two": no_json(b"{}{}"),
    "list": Row(body=b"[1]", says="it is not a JSON object"),
    "null": Row(body=b"null", says="it is not a JSON object"),
    "text": Row(body=b'"done"', says="it is not a JSON object"),
    "number": Row(body=b"7", says="it is not a JSON object"),
    "error-rate": error_of("rate_limit_exceeded", FluxRateLimitError, openai.RateLimitError, "none", 429),
    "error-server": error_of("server_error", FluxInternalServerError, openai.InternalServerError, "unknown", 500),
    "error-timeout": error_of("upstream_timeout", FluxInternalServerError, openai.InternalServerError, "unknown", 504),
    "error-number": error_of(429, FluxRateLimitError, openai.RateLimitError, "none", 429),
    "error-number-as-text": error_of("503", FluxInternalServerError, openai.InternalServerError, "unknown", 503),
    "error-unknown-code": error_of("strange", FluxStatusError, openai.APIStatusError, "unknown", 200),
    "error-no-code": error_of(None, FluxStatusError, openai.APIStatusError, "unknown", 200),
    "error-text": Row(
        body=b'{"error": "It is so."}', says="It is so", error=FluxStatusError, sdk=openai.APIStatusError
    ),
    "error-list": Row(
        body=b'{"error": [1]}', says="an error in a 200", error=FluxStatusError, sdk=openai.APIStatusError
    ),
    "no-data": no_image(b'{"created": 1}'),
    "data-null": no_image(b'{"created": 1, "data": null}'),
    "data-empty": no_image(b'{"created": 1, "data": []}'),
    "data-object": no_image(b'{"created": 1, "data": {"url": "x"}}'),
    "data-empty-error": no_image(b'{"error": null, "data": null}'),
    "empty-items": paid("neither a link nor data", {"url": None, "b64_json": None}),
    "no-objects": paid("neither a link nor data", None, 7, "x"),
    "rubbish": paid("is not base64", {"b64_json": "!!!"}),
    "one-letter": paid("is not base64", {"b64_json": B64 + "A"}),
    "padding-inside": paid("is not base64", {"b64_json": "iVBO=" + B64}),
    "not-ascii": paid("is not base64", {"b64_json": B64 + "é"}),
    "only-a-prefix": paid("base64", {"b64_json": "data:image/png;base64,"}),
    "infinity": no_json(b'{"created": -Infinity, "data": []}'),
    "deep-list": no_json(DEEP),
    "deep-object": no_json(b'{"data":' * 100_000 + b"1" + b"}" * 100_000),
    "utf-16": no_json('{"data": []}'.encode("utf-16")),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_200_without_an_image_is_an_error_and_not_bought_again(open_client: OpenClient, name: str) -> None:
    """One POST even where duplicates are allowed; the class and billing it stands for; the body is kept."""
    row = UNUSABLE[name]
    http_status = row.status if row.status == 204 else 200
    answers = Answers((http_status, JSON, row.body))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert len(answers.requests) == error.attempts == 1
    assert type(error) is row.error
    assert isinstance(error, row.sdk)
    assert isinstance(error, BadResponseError | FluxStatusError)
    assert error.billing == row.billing
    assert error.request_id == row.request_id
    assert error.status_code == row.status
    assert error.response.status_code == http_status
    assert row.says in str(error)
    assert len(str(error)) < 600
    text = row.body.decode(json.detect_encoding(row.body), "surrogateescape")
    assert error.raw == text.encode("utf-8", "surrogateescape")[: 64 * 1024]


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
SDK_CLASSES = {
    **dict.fromkeys((500, 503, 504), openai.InternalServerError),
    429: openai.RateLimitError,
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
}


@pytest.mark.parametrize(("code", "status"), CODES.items())
def test_an_error_in_a_200_is_that_of_its_code(open_client: OpenClient, code: str, status: int) -> None:
    """It is the SDK's class for the status that the code stands for, and is billed as that would be."""
    answers = Answers((200, JSON, {"error": {"code": code}}))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, SDK_CLASSES[status])
    assert error.status_code == status
    assert error.billing == ("unknown" if status >= 500 else "none")
    assert len(answers.requests) == 1


def test_a_wrong_answer_keeps_64_kib_at_most(open_client: OpenClient) -> None:
    """The beginning of a large wrong answer is enough to see what it was."""
    error = open_client(http=through(Answers((200, JSON, b"<html>" + b"x" * 1_000_000)))).fails()
    assert isinstance(error, BadResponseError)
    assert len(error.raw) == 64 * 1024
    assert error.raw.startswith(b"<html>x")
    assert len(error.response.content) == 64 * 1024


# The body as it comes over the wire: encodings, sizes, time.


def encoded(encoding: str, body: bytes) -> Answer:
    """A 200 whose body is said to be in this content encoding."""
    return 200, {**JSON, "Content-Encoding": encoding}, body


PLAIN = json.dumps(BODY).encode()
NOT_UNPACKED = {
    "no gzip": (encoded("gzip", b"no gzip"), "not valid gzip"),
    "cut gzip": (encoded("gzip", gzip.compress(PLAIN)[:-20]), "not valid gzip"),
    "empty gzip": (encoded("gzip", b""), "not valid gzip"),
    "wrong sum": (encoded("gzip", gzip.compress(PLAIN)[:-8] + bytes(8)), "not valid gzip"),
    "cut in its head": (encoded("gzip", gzip.compress(PLAIN)[:5]), "not valid gzip"),
    "17 members": (
        encoded("gzip", b"".join(gzip.compress(bytes([byte])) for byte in (PLAIN + b" " * 17)[-17:])),
        "packed in too many pieces",
    ),
    "three layers": (encoded("gzip, gzip, gzip", b""), "content encoding that was not asked for"),
    "cut deflate": (encoded("deflate", zlib.compress(PLAIN)[:-20]), "not valid deflate"),
    "brotli": (encoded("br", b"?"), "content encoding that was not asked for"),
}


@both_sides
@pytest.mark.parametrize("name", NOT_UNPACKED)
def test_a_body_that_cannot_be_unpacked_is_never_bought_again(
    serve: MakeServer, open_client: OpenClient, name: str
) -> None:
    """One POST even where duplicates are allowed: the service did its work and would be paid again."""
    step, says = NOT_UNPACKED[name]
    server = serve(step)
    error = open_client(server.base_url, retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, BadResponseError)
    assert isinstance(error, openai.APIResponseValidationError)
    assert says in str(error)
    assert error.billing == "unknown"
    assert error.request_id == "req-header"
    assert error.status_code == 200
    assert error.attempts == len(server.stop().posts) == 1


@both_sides
@pytest.mark.usefixtures("short_bodies")
def test_a_body_that_drips_for_ever_is_never_bought_again(serve: MakeServer, open_client: OpenClient) -> None:
    """Each byte comes within the read time-out, and all of them never would: the time for a whole body is bounded."""

    def drip(connection: Connection) -> None:
        connection.read()
        connection.send(head(Content_Length=10_000))
        connection.drip(PLAIN * 2, 0.01)  # then the connection ends, so that this test does too

    server = serve(drip)
    caller = open_client(server.base_url, timeout=openai.Timeout(60), retry={"duplicates": "allowed"})
    error = caller.fails()
    assert isinstance(error, BadResponseError)
    assert "was not complete after 0.1 s" in str(error)
    assert error.billing == "unknown"
    assert error.attempts == len(server.stop().posts) == 1


def gzip_members(body: bytes, pieces: int) -> bytes:
    """The body in so many gzip members, one after the other."""
    size = -(-len(body) // pieces)
    return b"".join(gzip.compress(body[at : at + size]) for at in range(0, len(body), size))


@both_sides
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "gzip, gzip", "identity", "identity, gzip", ""])
def test_honest_gzip_is_unpacked(serve: MakeServer, open_client: OpenClient, encoding: str) -> None:
    """What is asked for is gzip or nothing, and both are read, twice packed too."""
    body = PLAIN
    for _ in range(encoding.lower().count("gzip")):
        body = gzip.compress(body)
    server = serve(encoded(encoding, body))
    assert open_client(server.base_url).generate().data[0].url == IMAGE["url"]
    assert server.stop().posts[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("pieces", [3, 16])
def test_a_gzip_body_may_come_in_pieces(serve: MakeServer, open_client: OpenClient, pieces: int) -> None:
    """Members one after the other are one body, as every gzip reader takes them."""
    server = serve(encoded("gzip", gzip_members(PLAIN, pieces)))
    assert open_client(server.base_url).generate().data[0].url == IMAGE["url"]


MEBIBYTE = 1 << 20
LIMIT = 64 * MEBIBYTE


@pytest.mark.parametrize(("extra", "fits"), [(0, True), (1, False)])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_may_be_as_large_as_the_limit(
    serve: MakeServer, open_client: OpenClient, extra: int, *, fits: bool, packed: bool
) -> None:
    """64 MiB are read, a byte more is too much, packed or not."""
    body = PLAIN + b" " * (LIMIT - len(PLAIN) + extra)
    server = serve(encoded("gzip", gzip.compress(body, 1)) if packed else (200, JSON, body))
    caller = open_client(server.base_url)
    if fits:
        assert caller.generate().data[0].url == IMAGE["url"]
    else:
        error = caller.fails()
        assert isinstance(error, BadResponseError)
        assert str(error).endswith(f"it is larger than 64 MiB{' when decompressed' if packed else ''}")
        assert error.attempts == 1


def flood(start: bytes, block: bytes) -> Callable[[Connection], None]:
    """An answer that goes on far beyond what anybody should take."""

    def step(connection: Connection) -> None:
        connection.read()
        connection.send(start)
        for _ in range(120):
            connection.send(block)

    return step


def bomb(size: int) -> bytes:
    """So many MiB of zeros in gzip. After a full flush a block knows nothing of those before, so one stands for all."""
    pack = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    first, second = (pack.compress(bytes(MEBIBYTE)) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + second * (size - 1)


TOO_LARGE = [  # the floods last: the small pieces that they leave behind stay with the process
    encoded("gzip", bomb(400)),
    encoded("gzip, gzip", gzip.compress(bomb(400))),
    flood(head(Transfer_Encoding="chunked"), b"100000\r\n" + bytes(MEBIBYTE) + b"\r\n"),
    flood(head(), bytes(MEBIBYTE)),
]
CHILD = """
import asyncio, pathlib, re, sys
import flux_openai

side, base_url, calls = sys.argv[1:]
kind = flux_openai.FluxOpenAI if side == "sync" else flux_openai.AsyncFluxOpenAI
retry = flux_openai.RetryPolicy(duplicates="allowed", waiting=False)
client = kind(api_key="sk-test", base_url=base_url, retry=retry)

async def generate():
    try:
        answer = client.images.generate(prompt="a red fox")
        return answer if side == "sync" else await answer
    except flux_openai.BadResponseError as error:
        return f"{error.billing}, {error.attempts}, {str(error).partition(': ')[2]}"

def peak():  # in MiB; getrusage would also count what the parent had when it forked
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024

async def main():
    before = None
    for _ in range(int(calls)):
        said = await generate()
        before = before or peak()
        print(f"{peak() - before}, {said}")

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("side", ["sync", pytest.param("async", marks=pytest.mark.full)])
def test_the_memory_for_an_answer_is_bounded(serve: MakeServer, side: Side) -> None:
    """However much comes, or unpacks: one POST each, and the process never grows by more than the cap and 46 MiB."""
    server = serve((200, JSON, b""), *TOO_LARGE)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, side, server.base_url, str(1 + len(TOO_LARGE))],
        cwd=Path(flux_openai.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    growths, billings, attempts, reasons = zip(*(line.split(", ", 3) for line in done.stdout.splitlines()), strict=True)
    assert billings == ("unknown",) * 5
    assert attempts == ("1",) * 5
    assert reasons == (
        "it is empty",
        *["it is larger than 64 MiB when decompressed"] * 2,
        *["it is larger than 64 MiB"] * 2,
    )
    assert max(map(int, growths)) < 110
    assert len(server.stop().posts) == 5


def test_the_bomb_is_small() -> None:
    """One packet is enough for 400 MiB, so the bomb of the test above is a real one."""
    assert len(gzip.compress(bomb(400))) < 4000


def test_the_picture_of_the_rows_is_one() -> None:
    """The rows with spoiled base64 spoil something that is base64."""
    assert base64.b64decode(B64, validate=True).startswith(b"\x89PNG")
