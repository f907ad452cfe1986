"""The service answered with an error status: what the errors say, and how long is waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flux_openai._http.redaction import redact_body, scrub
from flux_openai.errors import FluxBadRequestError, FluxInternalServerError, FluxStatusError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.promises.money.conftest import MakeServer, OpenClient

HEADERS = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
OK = (200, HEADERS, {"created": 1, "data": [{"url": "https://images.example/1.png"}]})
PAGE = "<html>\x07<head><title>Oops</title></head><body>\u202enginx</body></html>" + "x" * 5000
NOW = "Sun, 22 Nov 2026 12:00:00 GMT"

each_status = pytest.mark.parametrize(
    ("status", "billing", "attempts"), [(400, "none", 1), (408, "unknown", 1), (429, "none", 4), (500, "unknown", 4)]
)


@each_status
@pytest.mark.anyio
async def test_an_error_says_what_the_body_says(
    serve: MakeServer, open_client: OpenClient, status: int, billing: str, attempts: int
) -> None:
    """Message, code and request id are the body's own, and what may be billed is said."""
    body = {"error": {"message": "It is so.", "type": "some_type", "param": "req-param", "code": "some_code"}}
    server = serve((status, HEADERS, body))
    error = await open_client(server.base_url).fails()
    assert isinstance(error, FluxStatusError)
    assert (error.billing, error.attempts, error.retry_after) == (billing, attempts, None)
    assert (error.request_id, error.code, error.type, error.param) == (
        *("req-param", "some_code", "some_type", "req-param"),
    )
    assert (error.status_code, error.response.status_code) == (status, status)
    assert str(error).startswith(f"Error code: {status} - It is so")
    assert ("may have been carried out" in str(error)) is (billing == "unknown")
    assert len(server.stop().posts) == attempts


BODIES = {"page": PAGE, "empty": "", "text": '{"error": "in plain words"}', "list": "[[]]", "broken": '{"error":'}


@pytest.mark.anyio
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_an_error_without_the_documented_body_ends_the_same(
    serve: MakeServer, open_client: OpenClient, body: str
) -> None:
    """The status alone decides; the message stays short and printable, and the request id is the header's."""
    server = serve((500, {**HEADERS, "Content-Type": "text/html"}, body))
    error = await open_client(server.base_url).fails()
    assert isinstance(error, FluxInternalServerError)
    assert (error.billing, error.attempts, error.request_id) == ("unknown", 4, "req-header")
    assert error.raw == body.encode()[: 64 * 1024]
    assert str(error).startswith("Error code: 500 - ")
    assert len(str(error)) < 450
    assert str(error).isprintable()
    assert len(server.stop().posts) == 4


def test_text_of_any_length_is_scrubbed_in_one_go() -> None:
    """However many links begin in it; a service could stop its clients with such an answer otherwise."""
    begun = "http://" * 1_000_000
    assert scrub(begun) == begun


@pytest.mark.parametrize("end", ["", " "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("start", ["", "\xe9 ", "{\0", "\u4e2d "])
def test_a_body_is_searched_however_it_is_encoded(start: str, encoding: str, end: str) -> None:
    """Also one that looks like something else."""
    body = f"{start}key CANARY-KEY https://h.example/p?sig=CANARY{end}".encode(encoding, "replace")
    shown = redact_body(body, ("CANARY-KEY",))
    assert b"CANARY" not in shown
    assert b"key [redacted] https://h.example/p?[redacted]" in shown


@pytest.mark.anyio
async def test_a_retry_that_works_is_a_success(serve: MakeServer, open_client: OpenClient) -> None:
    """Two failures and an answer are one answer that says three attempts; each attempt tells its number."""
    server = serve((502, HEADERS, b""), (429, HEADERS, b""), OK)
    answer = await open_client(server.base_url).generate()
    assert (answer.attempts, answer.request_id) == (3, "req-header")
    assert [post.headers["x-stainless-retry-count"] for post in server.stop().posts] == ["0", "1", "2"]


WAITS = [
    pytest.param({}, None, (0, 0.5), id="no-header"),
    pytest.param({"Retry-After": "7"}, 7, (7, 7.7), id="seconds"),
    pytest.param({"Retry-After": " 7 "}, 7, (7, 7.7), id="spaces"),
    pytest.param({"Retry-After": "0.5"}, 0.5, (0.5, 0.55), id="fraction"),
    pytest.param({"Retry-After": "60"}, 60, (60, 66), id="longest"),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": NOW}, 30, (30, 33), id="date"),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 13:00:30 +0100", "Date": NOW}, 30, (30, 33), id="date-zone"),
    pytest.param({"Retry-After": "Sunday, 22-Nov-26 12:00:30 GMT", "Date": NOW}, 30, (30, 33), id="date-rfc850"),
    pytest.param({"retry-after-ms": "1500"}, 1.5, (1.5, 1.65), id="milliseconds"),
    pytest.param({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, (1.5, 1.65), id="milliseconds-first"),
    pytest.param({"retry-after-ms": "soon", "Retry-After": "9"}, 9, (9, 9.9), id="seconds-then"),
    *(
        pytest.param({"Retry-After": text}, None, (0, 0.5), id=f"{text or 'empty'}")
        for text in ("-7", "0", "NaN", "inf", "-inf", "abc", "120, 5", "1e", "0x10", "7s", "1_000", "")
    ),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 11:59:00 GMT", "Date": NOW}, None, (0, 0.5), id="past"),
    pytest.param({"Retry-After": NOW, "Date": NOW}, None, (0, 0.5), id="now"),
    pytest.param({"Retry-After": "Sun, 99 Nov 2026 12:00:30 GMT", "Date": NOW}, None, (0, 0.5), id="no-date"),
    pytest.param({"Retry-After": "Sun, 22 Nov 99999 12:00:00 GMT"}, None, (0, 0.5), id="no-year"),
    pytest.param({"retry-after-ms": "-1"}, None, (0, 0.5), id="negative-milliseconds"),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("headers", "asked", "wait"), WAITS)
async def test_the_wait_is_what_the_server_asks_for(
    serve: MakeServer,
    open_client: OpenClient,
    headers: Mapping[str, str],
    asked: float | None,
    wait: tuple[float, float],
) -> None:
    """The wait is the server's plus at most 10 %; what makes no sense is ignored for our own; the error says which."""
    server = serve((429, {**HEADERS, **headers}, b""))
    caller = open_client(server.base_url, retry={"max_attempts": 2})
    error = await caller.fails()
    (event,) = caller.events
    assert wait[0] <= event.wait <= wait[1]
    assert (event.attempt, error.retry_after, error.attempts) == (1, asked, 2)
    assert len(server.stop().posts) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        pytest.param({"Retry-After": "61"}, 61, id="61"),
        pytest.param({"Retry-After": "121"}, 121, id="121"),
        pytest.param({"Retry-After": "1e400"}, 1e9, id="1e400"),
        pytest.param({"Retry-After": "9" * 300}, 1e9, id="300-digits"),
        pytest.param({"retry-after-ms": "1e400"}, 1e9, id="1e400-milliseconds"),
        pytest.param({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": NOW}, 1e9, id="year-9999"),
    ],
)
async def test_too_long_a_wait_is_told_and_not_waited(
    serve: MakeServer, open_client: OpenClient, headers: Mapping[str, str], asked: float
) -> None:
    """One POST, and the error carries the wait, so that the caller can come back then."""
    server = serve((429, {**HEADERS, **headers}, b""))
    caller = open_client(server.base_url, retry={"waiting": True})
    error = await caller.fails()
    assert (error.attempts, error.retry_after, caller.events) == (1, asked, [])
    assert len(server.stop().posts) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(("duplicates", "attempts"), [("never", 1), ("unlikely", 4)])
async def test_an_overloaded_server_is_heeded(
    serve: MakeServer, open_client: OpenClient, duplicates: str, attempts: int
) -> None:
    """503 with Retry-After: "never" raises at once and tells the wait; the others wait for it."""
    server = serve((503, {**HEADERS, "Retry-After": "7"}, b""))
    caller = open_client(server.base_url, retry={"duplicates": duplicates})
    error = await caller.fails()
    assert (type(error), error.retry_after, error.billing) == (FluxInternalServerError, 7, "unknown")
    assert error.attempts == attempts == len(server.stop().posts)
    assert all(7 <= event.wait <= 7.7 for event in caller.events)


@pytest.mark.anyio
async def test_the_limit_of_retry_after_is_the_callers(serve: MakeServer, open_client: OpenClient) -> None:
    """`max_retry_after` moves the limit; the wait is then as asked."""
    server = serve((429, {**HEADERS, "Retry-After": "100"}, b""), OK)
    caller = open_client(server.base_url, retry={"max_retry_after": 100})
    assert (await caller.generate()).attempts == 2
    assert 100 <= caller.events[0].wait <= 110


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["X-City", "Retry-After", "X-Request-Id"])
async def test_a_header_beyond_ascii_changes_nothing(serve: MakeServer, open_client: OpenClient, name: str) -> None:
    """Servers and proxies write what they like into headers; the error stays the one that belongs to the status."""
    server = serve((400, {**HEADERS, name: "M\u00fcnchen \u0661 \U0001f98a"}, b""))
    error = await open_client(server.base_url).fails()
    assert (type(error), error.billing, error.attempts) == (FluxBadRequestError, "none", 1)
    assert len(server.stop().posts) == 1
