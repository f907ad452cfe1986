"""Group C: the service answered with an error status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import openai
import pytest

from flux_openai.errors import (
    FluxAuthenticationError,
    FluxBadRequestError,
    FluxConflictError,
    FluxError,
    FluxInternalServerError,
    FluxNotFoundError,
    FluxPermissionDeniedError,
    FluxRateLimitError,
    FluxStatusError,
    FluxUnprocessableEntityError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.conftest import MakeServer, OpenClient

HEADERS = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
OK = (200, HEADERS, {"created": 1, "data": [{"url": "https://images.example/1.png"}]})
PAGE = "<html>\x07<head><title>Oops</title></head><body>\u202enginx</body></html>" + "x" * 5000
NOW = "Sun, 22 Nov 2026 12:00:00 GMT"

each_setting = pytest.mark.parametrize("duplicates", ["never", "unlikely", "allowed"])

ATTEMPTS = {
    "refused": {"never": 1, "unlikely": 1, "allowed": 1},
    "rate_limited": {"never": 4, "unlikely": 4, "allowed": 4},
    "server_failed": {"never": 1, "unlikely": 4, "allowed": 4},
    "unknown": {"never": 1, "unlikely": 1, "allowed": 4},
}
BILLING = {"refused": "none", "rate_limited": "none", "server_failed": "unknown", "unknown": "unknown"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One status, and what must come of it."""

    status: int
    cause: str
    error: type[FluxError] = FluxStatusError
    sdk: type[openai.OpenAIError] = openai.APIStatusError
    code: str = "some_code"


def refused(
    status: int,
    error: type[FluxError] = FluxStatusError,
    sdk: type[openai.OpenAIError] = openai.APIStatusError,
    code: str = "some_code",
) -> Row:
    return Row(status=status, cause="refused", error=error, sdk=sdk, code=code)


def failed(status: int, cause: str) -> Row:
    return Row(status=status, cause=cause, error=FluxInternalServerError, sdk=openai.InternalServerError)


ROWS = {
    "row-26-400": refused(400, FluxBadRequestError, openai.BadRequestError),
    "row-26-404": refused(404, FluxNotFoundError, openai.NotFoundError),
    "row-26-405": refused(405),
    "row-26-422": refused(422, FluxUnprocessableEntityError, openai.UnprocessableEntityError),
    "row-27-moderation": refused(400, FluxBadRequestError, openai.BadRequestError, code="content_policy_violation"),
    "row-28-401": refused(401, FluxAuthenticationError, openai.AuthenticationError),
    "row-29-402": refused(402),
    "row-29-quota": refused(429, FluxRateLimitError, openai.RateLimitError, code="insufficient_quota"),
    "row-29-balance": refused(429, FluxRateLimitError, openai.RateLimitError, code="InsufficientBalance"),
    "row-30-403": refused(403, FluxPermissionDeniedError, openai.PermissionDeniedError),
    "row-31-408": Row(status=408, cause="unknown"),
    "row-32-409": Row(status=409, cause="server_failed", error=FluxConflictError, sdk=openai.ConflictError),
    "row-33-413": refused(413),
    "row-34-421": refused(421),
    "row-34-425": refused(425),
    "row-34-431": refused(431),
    "row-34-451": refused(451),
    "row-34-499": refused(499),
    "row-35-429": Row(status=429, cause="rate_limited", error=FluxRateLimitError, sdk=openai.RateLimitError),
    "row-41-500": failed(500, "server_failed"),
    "row-41-501": failed(501, "unknown"),
    "row-41-502": failed(502, "server_failed"),
    "row-41-503": failed(503, "server_failed"),
    "row-41-504": failed(504, "unknown"),
    "row-41-505": failed(505, "unknown"),
    "row-41-507": failed(507, "unknown"),
    "row-41-511": failed(511, "unknown"),
    "row-41-520": failed(520, "unknown"),
    "row-41-524": failed(524, "unknown"),
    "row-41-529": failed(529, "unknown"),
    "row-41-599": failed(599, "unknown"),
}
each_row = pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in ROWS.items()])


@each_setting
@each_row
@pytest.mark.anyio
async def test_an_error_status_ends_as_the_table_says(
    serve: MakeServer, open_client: OpenClient, row: Row, duplicates: str
) -> None:
    """Both classes, the billing, the number of POSTs; message, code and request id are the body's own."""
    body = {"error": {"message": "It is so.", "type": "some_type", "param": "req-param", "code": row.code}}
    server = serve((row.status, HEADERS, body))
    caller = open_client(server.base_url, retry={"duplicates": duplicates})
    error = await caller.fails()
    attempts = ATTEMPTS[row.cause][duplicates]
    assert type(error) is row.error
    assert isinstance(error, row.sdk)
    assert isinstance(error, FluxStatusError)
    assert (error.billing, error.attempts, error.retry_after) == (BILLING[row.cause], attempts, None)
    assert (error.request_id, error.code, error.type, error.param) == ("req-param", row.code, "some_type", "req-param")
    assert (error.status_code, error.response.status_code) == (row.status, row.status)
    assert str(error).startswith(f"Error code: {row.status} - It is so")
    assert ("may have been carried out" in str(error)) is (BILLING[row.cause] == "unknown")
    assert [(event.reason, event.status_code) for event in caller.events] == [(row.cause, row.status)] * (attempts - 1)
    assert len(server.stop().posts) == attempts


PLAIN = {name: row for name, row in ROWS.items() if row.code == "some_code"}
ONE_OF_A_KIND = ("row-26-400", "row-31-408", "row-35-429", "row-41-500")
OTHER_BODIES = {"text": '{"error": "in plain words"}', "list": "[[]]", "broken": '{"error":'}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("row", "body"),
    [
        *(pytest.param(row, PAGE, id=f"{name}-row-42-html") for name, row in PLAIN.items()),
        *(pytest.param(row, "", id=f"{name}-row-43-empty") for name, row in PLAIN.items()),
        *(
            pytest.param(ROWS[name], body, id=f"{name}-{kind}")
            for name in ONE_OF_A_KIND
            for kind, body in OTHER_BODIES.items()
        ),
    ],
)
async def test_an_error_without_the_documented_body_ends_the_same(
    serve: MakeServer, open_client: OpenClient, row: Row, body: str
) -> None:
    """The status alone decides; the message stays short and printable, and the request id is the header's."""
    server = serve((row.status, {**HEADERS, "Content-Type": "text/html"}, body))
    error = await open_client(server.base_url).fails()
    attempts = ATTEMPTS[row.cause]["unlikely"]
    assert type(error) is row.error
    assert isinstance(error, row.sdk)
    assert isinstance(error, FluxStatusError)
    assert (error.billing, error.attempts, error.request_id) == (BILLING[row.cause], attempts, "req-header")
    assert error.raw == body.encode()[: 64 * 1024]
    assert str(error).startswith(f"Error code: {row.status} - ")
    assert len(str(error)) < 450
    assert str(error).isprintable()
    assert len(server.stop().posts) == attempts


@pytest.mark.anyio
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if ATTEMPTS[row.cause]["allowed"] > 1])
async def test_a_retry_that_works_is_a_success(serve: MakeServer, open_client: OpenClient, name: str) -> None:
    """Two failures and an answer are one answer that says three attempts; each attempt tells its number."""
    row = ROWS[name]
    failure = (row.status, HEADERS, {"error": {"code": row.code}})
    server = serve(failure, failure, OK)
    answer = await open_client(server.base_url, retry={"duplicates": "allowed"}).generate()
    assert (answer.attempts, answer.request_id) == (3, "req-header")
    assert [post.headers["x-stainless-retry-count"] for post in server.stop().posts] == ["0", "1", "2"]


WAITS = [
    pytest.param({}, None, (0, 0.5), id="row-35-no-header"),
    pytest.param({"Retry-After": "7"}, 7, (7, 7.7), id="row-36-seconds"),
    pytest.param({"Retry-After": " 7 "}, 7, (7, 7.7), id="row-36-spaces"),
    pytest.param({"Retry-After": "0.5"}, 0.5, (0.5, 0.55), id="row-36-fraction"),
    pytest.param({"Retry-After": "60"}, 60, (60, 66), id="row-36-longest"),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT", "Date": NOW}, 30, (30, 33), id="row-37-date"),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 13:00:30 +0100", "Date": NOW}, 30, (30, 33), id="row-37-date-zone"),
    pytest.param({"Retry-After": "Sunday, 22-Nov-26 12:00:30 GMT", "Date": NOW}, 30, (30, 33), id="row-37-date-rfc850"),
    pytest.param({"retry-after-ms": "1500"}, 1.5, (1.5, 1.65), id="row-38-milliseconds"),
    pytest.param({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5, (1.5, 1.65), id="row-38-milliseconds-first"),
    pytest.param({"retry-after-ms": "soon", "Retry-After": "9"}, 9, (9, 9.9), id="row-38-seconds-then"),
    *(
        pytest.param({"Retry-After": text}, None, (0, 0.5), id=f"row-40-{text or 'empty'}")
        for text in ("-7", "0", "NaN", "inf", "-inf", "abc", "120, 5", "1e", "0x10", "7s", "1_000", "")
    ),
    pytest.param({"Retry-After": "Sun, 22 Nov 2026 11:59:00 GMT", "Date": NOW}, None, (0, 0.5), id="row-40-past"),
    pytest.param({"Retry-After": NOW, "Date": NOW}, None, (0, 0.5), id="row-40-now"),
    pytest.param({"Retry-After": "Sun, 99 Nov 2026 12:00:30 GMT", "Date": NOW}, None, (0, 0.5), id="row-40-no-date"),
    pytest.param({"Retry-After": "Sun, 22 Nov 99999 12:00:00 GMT"}, None, (0, 0.5), id="row-40-no-year"),
    pytest.param({"retry-after-ms": "-1"}, None, (0, 0.5), id="row-40-negative-milliseconds"),
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
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        pytest.param({"Retry-After": "61"}, 61, id="row-39-61"),
        pytest.param({"Retry-After": "121"}, 121, id="row-39-121"),
        pytest.param({"Retry-After": "1e400"}, 1e9, id="row-39-1e400"),
        pytest.param({"Retry-After": "9" * 300}, 1e9, id="row-39-300-digits"),
        pytest.param({"retry-after-ms": "1e400"}, 1e9, id="row-39-1e400-milliseconds"),
        pytest.param({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": NOW}, 1e9, id="row-39-year-9999"),
    ],
)
async def test_too_long_a_wait_is_told_and_not_waited(
    serve: MakeServer, open_client: OpenClient, headers: Mapping[str, str], asked: float, status: int
) -> None:
    """One POST, and the error carries the wait, so that the caller can come back then."""
    server = serve((status, {**HEADERS, **headers}, b""))
    caller = open_client(server.base_url, retry={"waiting": True})
    error = await caller.fails()
    assert (error.attempts, error.retry_after, caller.events) == (1, asked, [])
    assert len(server.stop().posts) == 1


@each_setting
@pytest.mark.anyio
async def test_row_44_an_overloaded_server_is_heeded(
    serve: MakeServer, open_client: OpenClient, duplicates: str
) -> None:
    """503 with Retry-After: "never" raises at once and tells the wait; the others wait for it."""
    server = serve((503, {**HEADERS, "Retry-After": "7"}, b""))
    caller = open_client(server.base_url, retry={"duplicates": duplicates})
    error = await caller.fails()
    assert (type(error), error.retry_after, error.billing) == (FluxInternalServerError, 7, "unknown")
    assert error.attempts == ATTEMPTS["server_failed"][duplicates] == len(server.stop().posts)
    assert all(7 <= event.wait <= 7.7 for event in caller.events)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "says", "attempts"),
    [(400, "true", 1), (504, "true", 1), (429, "false", 4), (503, "false", 4), (401, "true", 1)],
)
async def test_row_45_x_should_retry_is_not_obeyed(
    serve: MakeServer, open_client: OpenClient, status: int, says: str, attempts: int
) -> None:
    """Whether money may be spent again is the caller's policy and not a header's."""
    server = serve((status, {**HEADERS, "X-Should-Retry": says}, b""))
    error = await open_client(server.base_url).fails()
    assert (error.attempts, len(server.stop().posts)) == (attempts, attempts)


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
