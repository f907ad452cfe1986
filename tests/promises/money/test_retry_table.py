"""The documented table of retries: what went wrong, under which `duplicates` it is sent again, what it may cost."""

from __future__ import annotations

import inspect
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai import Emulator, FluxOpenAI, RetryPolicy, errors, retry
from flux_openai._http.library import httpx
from flux_openai.errors import (
    DOCUMENTED_CODES,
    FluxConnectionError,
    FluxError,
    FluxInternalServerError,
    FluxTimeoutError,
)
from flux_openai.retry import RetryEvent
from tests.promises.money.fakes import JSON, OK, Answers, through

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flux_openai.errors import Billing
    from flux_openai.retry import Cause, Duplicates
    from tests.promises.money.conftest import OpenClient

README, GUIDE = (
    (Path(__file__).parents[3] / name).read_text(encoding="utf-8")
    for name in ("README.md", "examples/retries_and_money.md")
)
ATTEMPTS = 3
"""Of the policy that the table is played under."""

SETTINGS: Sequence[Duplicates] = ("never", "unlikely", "allowed")
RETRIED: dict[Cause, Sequence[Duplicates]] = {
    "not_sent": SETTINGS,
    "rate_limited": SETTINGS,
    "server_failed": ("unlikely", "allowed"),
    "unknown": ("allowed",),
    "refused": (),
    "unusable": (),
}
BILLING: dict[Cause, Billing] = {
    "not_sent": "none",
    "rate_limited": "none",
    "server_failed": "unknown",
    "unknown": "unknown",
    "refused": "none",
    "unusable": "unknown",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault as a script of the emulator has it, its cause, and the class of the error."""

    fault: str
    cause: Cause
    raises: str


TABLE = [
    Row(fault="connect(dns)", cause="not_sent", raises="FluxConnectionError"),
    Row(fault="connect(refused)", cause="not_sent", raises="FluxConnectionError"),
    Row(fault="connect(tls)", cause="not_sent", raises="FluxConnectionError"),
    Row(fault="connect(timeout)", cause="not_sent", raises="FluxTimeoutError"),
    Row(fault="connect(pool)", cause="not_sent", raises="FluxTimeoutError"),
    Row(fault="upload(reset)", cause="not_sent", raises="FluxConnectionError"),
    Row(fault="status(429)", cause="rate_limited", raises="FluxRateLimitError"),
    Row(fault="status(500)", cause="server_failed", raises="FluxInternalServerError"),
    Row(fault="status(502)", cause="server_failed", raises="FluxInternalServerError"),
    Row(fault="status(503)", cause="server_failed", raises="FluxInternalServerError"),
    Row(fault="status(409)", cause="server_failed", raises="FluxConflictError"),
    Row(fault="status(408)", cause="unknown", raises="FluxStatusError"),
    Row(fault="status(504)", cause="unknown", raises="FluxInternalServerError"),
    Row(fault="status(524)", cause="unknown", raises="FluxInternalServerError"),
    Row(fault="timeout", cause="unknown", raises="FluxTimeoutError"),
    Row(fault="reset", cause="unknown", raises="FluxConnectionError"),
    Row(fault="truncate", cause="unknown", raises="FluxConnectionError"),
    Row(fault="connect(certificate)", cause="refused", raises="FluxConnectionError"),
    Row(fault="status(400)", cause="refused", raises="FluxBadRequestError"),
    Row(fault="status(401)", cause="refused", raises="FluxAuthenticationError"),
    Row(fault="status(404)", cause="refused", raises="FluxNotFoundError"),
    Row(fault="quota", cause="refused", raises="FluxRateLimitError"),
    Row(fault="redirect(302)", cause="refused", raises="FluxStatusError"),
    Row(fault="html", cause="unusable", raises="BadResponseError"),
    Row(fault="empty_data", cause="unusable", raises="BadResponseError"),
]


@pytest.mark.parametrize("duplicates", SETTINGS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.fault))
def test_a_call_is_sent_again_as_the_table_says(row: Row, duplicates: Duplicates) -> None:
    """Each cause is retried under its settings and no others, under one key, and the error says what it may cost."""
    emulator, events = Emulator(pixels=64, script=f"* -> {row.fault}"), list[RetryEvent]()
    policy = RetryPolicy(duplicates=duplicates, max_attempts=ATTEMPTS, waiting=False, on_retry=events.append)
    with emulator.client(retry=policy) as client, pytest.raises(FluxError) as caught:
        client.images.generate(prompt="a fox")
    attempts = ATTEMPTS if duplicates in RETRIED[row.cause] else 1
    assert len(emulator.requests) == attempts
    assert caught.value.attempts == attempts
    assert type(caught.value) is getattr(errors, row.raises)
    assert caught.value.billing == BILLING[row.cause]
    assert [event.reason for event in events] == [row.cause] * (attempts - 1)
    assert len({request.headers["idempotency-key"] for request in emulator.requests}) == 1
    assert len({repr(request.body) for request in emulator.requests}) == 1


def test_the_guide_has_the_documented_codes() -> None:
    """The table of codes is that of the package, row by row."""
    [table] = re.findall(r"^\| `error.code` .*\n\|[-| ]+\n((?:\|.*\n)+)", GUIDE, re.MULTILINE)
    rows = [f"| `{row.code}` | `{row.type}` | {row.status} | {row.meaning} |" for row in DOCUMENTED_CODES.values()]
    assert table.splitlines() == rows


STATUS = re.compile(r"\b[2-5][0-9]{2}\b")


def rows_of(page: str) -> list[list[str]]:
    """The cells of a page's table of retries."""
    [table] = re.findall(r"^\| what happened .*\n\|[-| ]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_readme_has_the_default_column() -> None:
    """The README's table is that of the guide under the setting that holds when none is given."""
    default = 1 + SETTINGS.index(RetryPolicy().duplicates)
    assert rows_of(README) == [[row[0], row[default], row[-1]] for row in rows_of(GUIDE)]


def test_the_guide_has_this_table() -> None:
    """Each line of the guide's table says `retry` where this file does, the same of bill and statuses."""
    lines = rows_of(GUIDE)
    causes: Sequence[Cause] = ("not_sent", "rate_limited", "server_failed", "unknown", "refused")
    for cause, (_, *cells, billing) in zip(causes, lines, strict=False):
        assert cells == ["retry" if duplicates in RETRIED[cause] else "raise" for duplicates in SETTINGS], cause
        assert billing == f"`{BILLING[cause]}`", cause
    named = {
        int(status): cause for cause, line in zip(causes, lines, strict=False) for status in STATUS.findall(line[0])
    }
    assert named == {status: cause_of(status) for status in named}
    # What the table calls "other" statuses has one cause for 4xx and one for 5xx.
    unusual = {status for status in range(400, 600) if cause_of(status) != ("unknown" if status >= 500 else "refused")}
    assert unusual <= named.keys()
    documented = retry.__doc__ or ""
    assert {int(status) for status in STATUS.findall(documented.partition("\n\n")[2])} - {200} == named.keys()


def cause_of(status: int, *, refusal: bool = False) -> Cause:
    """The table of the design, for statuses; `refusal` if the code says that nothing was done."""
    if refusal and (status in (409, 429) or (status >= 500 and status not in (504, 524))):
        return "refused"
    if status == 429:
        return "rate_limited"
    if status in (409, 500, 502, 503):
        return "server_failed"
    return "unknown" if status == 408 or status >= 500 else "refused"


def seen_cause(status: int, error: Mapping[str, object], duplicates: Duplicates) -> tuple[bool, Billing]:
    """Whether this status is sent again, and the billing of the error."""
    emulator = Emulator()
    emulator.fail(9, status=status, body={"error": {"message": "no", **error}})
    with pytest.raises(openai.APIStatusError) as caught:
        emulator.client(retry=RetryPolicy(duplicates=duplicates, max_attempts=2, waiting=False)).images.generate(
            prompt="a fox"
        )
    assert isinstance(caught.value, FluxError)
    assert caught.value.status_code == status
    return len(emulator.requests) == 2, caught.value.billing


def differing(
    statuses: Iterable[int], error: Mapping[str, object], duplicates: Duplicates, *, refusal: bool = False
) -> dict[int, tuple[bool, Billing]]:
    """The statuses that end otherwise than the table says, and how."""
    wrong = {}
    for status in statuses:
        cause = cause_of(status, refusal=refusal)
        if (seen := seen_cause(status, error, duplicates)) != (duplicates in RETRIED[cause], BILLING[cause]):
            wrong[status] = seen
    return wrong


def test_every_status_falls_as_the_table_says() -> None:
    """All 300 error statuses, those that nobody uses included; under "unlikely" no two causes look the same."""
    assert differing(range(300, 600), {}, "unlikely") == {}


SPECIAL = (400, 402, 403, 407, 408, 409, 429, 500, 502, 503, 504, 520, 524)
TEMPORARY_CODES = [row.code for row in DOCUMENTED_CODES.values() if row.status in (408, 429, 500, 504)]
REFUSAL_CODES = [row.code for row in DOCUMENTED_CODES.values() if row.status in (400, 401, 403)]


@pytest.mark.parametrize(
    "error",
    [
        *({"code": code} for code in ("", "rate_limit_exceeded", "RateLimitReached", "too_many_requests", "429", 500)),
        *({"code": code, "type": DOCUMENTED_CODES[code].type} for code in TEMPORARY_CODES),
        # What a gateway says of a bad answer from behind it leaves open whether the work was done.
        *({"code": code} for code in ("bad_response", "invalid_upstream_response", "moderation_timeout", "strange")),
        *({"code": code} for code in ("auth_server_unavailable", "https://policy.example/forbidden", "x" * 500)),
        {"code": "internal_error", "type": "invalid_request_error"},
        {"code": None, "type": "server_error"},
    ],
    ids=lambda error: str(error)[:60],
)
def test_a_code_that_is_no_refusal_changes_nothing(error: Mapping[str, object]) -> None:
    """The status alone decides."""
    assert differing(SPECIAL, error, "unlikely") == {}
    assert differing(SPECIAL, error, "never") == {}


@pytest.mark.parametrize(
    "error",
    [
        *({"code": code} for code in ("insufficient_quota", "quota_exceeded", "InsufficientBalance", "no_credit")),
        *(
            {"code": code}
            for code in ("billing_hard_limit_reached", "ARREARS", "payment_required", "insufficient-funds")
        ),
        *({"code": None, "type": kind} for kind in ("insufficient_quota", "billing_error", "balance", "quota_error")),
        {"code": "rate_limit_exceeded", "type": "insufficient_quota"},
        {"code": None, "type": "permission_error"},
        *({"code": code, "type": DOCUMENTED_CODES[code].type} for code in REFUSAL_CODES),
        *(
            {"code": code}
            for code in ("content_policy_violation", "moderation_blocked", "Content-Filter", "Request Moderated")
        ),
        *(
            {"code": code}
            for code in ("invalid_api_key", "Unauthorized", "permission_denied", "model_not_found", "401")
        ),
        {"code": 400, "type": "server_error"},
    ],
    ids=str,
)
def test_a_refusal_is_asked_once_whatever_its_status(error: Mapping[str, object]) -> None:
    """No credit, refused content, a wrong key: also as a 409, 429 or 5xx; only a time-out stays one of unknown cost."""
    assert differing(SPECIAL, error, "allowed", refusal=True) == {}


@pytest.mark.parametrize("status", [409, 429])
def test_a_type_that_any_4xx_may_have_is_no_refusal(status: int) -> None:
    """Services call every 4xx an invalid_request_error; waiting helps against a 429 all the same."""
    assert differing([status], {"code": "slow_down", "type": "invalid_request_error"}, "unlikely") == {}


def test_the_documented_codes_have_their_status_in_a_200() -> None:
    """Each documented code inside a 200 is the error of its own status, and is asked once."""
    for row in DOCUMENTED_CODES.values():
        emulator = Emulator()
        emulator.fail(status=200, body={"error": {"message": "no", "code": row.code, "type": row.type}})
        with pytest.raises(openai.APIStatusError) as caught:
            emulator.client().images.generate(prompt="a fox")
        assert (caught.value.status_code, len(emulator.requests)) == (row.status, 1), row
        assert type(caught.value) is errors.status_error_class(row.status)


# What the HTTP library raises: judged by what was seen of the request, else by the name of the error.

STEPS = {
    "connecting": ("connection.connect_tcp.started",),
    "connecting TLS": ("connection.connect_tcp.complete", "connection.start_tls.started"),
    "sending": ("connection.connect_tcp.started", "http11.send_request_headers.started"),
    "sent": ("http11.send_request_headers.started", "http11.send_request_body.complete"),
    "answering": ("http11.send_request_body.complete", "http11.receive_response_headers.complete"),
    "sent, and another connection begins": ("http11.send_request_body.complete", "connection.connect_tcp.started"),
    "sending, and another connection begins": ("http11.send_request_headers.started", "connection.connect_tcp.started"),
    "not seen": (),
}


@pytest.mark.parametrize(
    ("seen", "raised", "cause"),
    [
        ("connecting", httpx.ConnectError("x"), "not_sent"),
        ("connecting", httpx.ReadTimeout("x"), "not_sent"),
        ("connecting TLS", httpx.ReadError("x"), "not_sent"),
        ("sending", httpx.WriteTimeout("x"), "not_sent"),
        ("sending", httpx.RemoteProtocolError("x"), "not_sent"),
        ("sending", httpx.LocalProtocolError("x"), "refused"),
        ("sending, and another connection begins", httpx.WriteError("x"), "not_sent"),
        ("sent", httpx.WriteError("x"), "unknown"),
        ("sent", httpx.ReadTimeout("x"), "unknown"),
        ("sent", httpx.LocalProtocolError("x"), "unknown"),
        ("sent", httpx.ConnectError("x"), "unknown"),
        ("sent, and another connection begins", httpx.ConnectError("x"), "unknown"),
        ("answering", httpx.ConnectError("x"), "unknown"),
        ("answering", httpx.ReadError("x"), "unknown"),
        ("not seen", httpx.ConnectError("x"), "not_sent"),
        ("not seen", httpx.PoolTimeout("x"), "not_sent"),
        ("not seen", httpx.WriteTimeout("x"), "unknown"),
        ("not seen", httpx.UnsupportedProtocol("x"), "refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_was_seen_of_a_request_goes_before_the_name_of_its_error(
    open_client: OpenClient, seen: str, raised: Exception, cause: Cause
) -> None:
    """Nothing that was sent is ever called unsent, whatever the HTTP library calls the error."""
    answers = Answers(raised)

    def handler(request: httpx.Request) -> httpx.Response:
        for step in STEPS[seen]:
            request.extensions["trace"](step, {})
        return answers(request)

    caller = open_client(http=through(handler), retry={"duplicates": "never", "max_attempts": 2})
    error = caller.fails()
    assert error.billing == BILLING[cause]
    assert len(answers.requests) == (2 if cause == "not_sent" else 1)


def test_a_certificate_that_is_refused_while_connecting_is_final(open_client: OpenClient) -> None:
    """A certificate error is in the cause of a ConnectError, and waiting does not mend it."""
    error = httpx.ConnectError("x")
    error.__cause__ = ssl.SSLCertVerificationError("expired")
    answers = Answers(error)
    caught = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert (caught.billing, len(answers.requests)) == ("none", 1)


def exceptions_of(module: object) -> list[type[Exception]]:
    """Every exception class that the HTTP library exports."""
    found = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, Exception)}
    return sorted((kind for kind in found if not issubclass(kind, Warning)), key=lambda kind: kind.__name__)


def instance_of(kind: type[Exception]) -> Exception:
    """An instance, however its class wants to be called."""
    request = httpx.Request("POST", "http://127.0.0.1:1/v1")
    if issubclass(kind, httpx.HTTPStatusError):
        return kind("planted", request=request, response=httpx.Response(500, request=request))
    return kind() if list(inspect.signature(kind.__init__).parameters) == ["self"] else kind("planted")


NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
REFUSED = {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}


@pytest.mark.parametrize("duplicates", SETTINGS)
@pytest.mark.parametrize("kind", exceptions_of(httpx), ids=lambda kind: str(kind.__name__))
def test_whatever_the_http_library_raises_is_judged(
    open_client: OpenClient, kind: type[Exception], duplicates: Duplicates
) -> None:
    """Every exception class it exports gets a class, a billing and a number of POSTs as the table says.

    Behind a transport that nobody can watch only the name tells: what is not surely unsent may be paid for. An error
    about a status is what its status is.
    """
    answers = Answers(instance_of(kind))
    caller = open_client(http=through(answers), retry={"duplicates": duplicates})
    error = caller.fails()
    free, of_status = kind.__name__ in NOT_SENT | REFUSED, kind is httpx.HTTPStatusError
    retried = kind.__name__ in NOT_SENT or (not free and duplicates in ("allowed", "unlikely" if of_status else ""))
    attempts = 4 if retried else 1
    assert len(answers.requests) == attempts
    late = issubclass(kind, httpx.TimeoutException)
    assert type(error) is (FluxInternalServerError if of_status else FluxTimeoutError if late else FluxConnectionError)
    assert error.billing == ("none" if free else "unknown")
    assert error.attempts == attempts
    assert type(error.__cause__) is kind
    assert (error.__cause__.__traceback__, error.__context__) == (None, None)


def test_the_http_library_has_its_exceptions() -> None:
    """The reflection above finds them: an empty list would prove nothing."""
    names = {kind.__name__ for kind in exceptions_of(httpx)}
    assert names >= NOT_SENT | REFUSED | {"ReadTimeout", "WriteError", "RemoteProtocolError", "HTTPStatusError"}
    assert len(names) > 20


class ClientConnectionError(Exception):
    """As aiohttp names a connection that broke, before or after sending."""


class ClientConnectorError(ClientConnectionError):
    """As aiohttp names a connection that never came about."""


class ConnectionTimeoutError(ClientConnectionError):
    """As aiohttp names a connection that did not come about in time."""


@pytest.mark.parametrize(
    ("cause", "attempts", "billing"),
    [
        (ClientConnectionError, 1, "unknown"),
        (ClientConnectorError, 4, "none"),
        (ConnectionTimeoutError, 4, "none"),
    ],
)
def test_a_transport_that_misnames_a_broken_connection_costs_one_image(
    open_client: OpenClient, cause: type[Exception], attempts: int, billing: str
) -> None:
    """The SDK's aiohttp transport raises ConnectTimeout for all, without trace; only the cause tells them apart."""
    timeout = httpx.ConnectTimeout("")
    timeout.__cause__ = cause()
    answers = Answers(timeout)
    error = open_client(http=through(answers), retry={"duplicates": "never"}).fails()
    assert len(answers.requests) == attempts
    assert error.billing == billing


@pytest.mark.parametrize(
    ("outer", "own", "billing", "attempts"),
    [
        (httpx.ConnectError("before"), httpx.ReadTimeout("now"), "unknown", 1),
        (httpx.UnsupportedProtocol("before"), httpx.ReadTimeout("now"), "unknown", 1),
        (ssl.SSLCertVerificationError("before"), httpx.ConnectError("now"), "none", 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_being_handled_does_not_colour_the_next(
    open_client: OpenClient, outer: Exception, own: Exception, billing: str, attempts: int
) -> None:
    """A call made as a fallback, inside an `except`, is judged by its own error alone."""
    answers = Answers(own)
    caller = open_client(http=through(answers))
    try:
        raise outer
    except type(outer):
        error = caller.fails()
    assert error.billing == billing
    assert len(answers.requests) == attempts


# The billing of a call is that of all its attempts.


@pytest.mark.parametrize("duplicates", ["unlikely", "allowed"])
@pytest.mark.parametrize(
    "last",
    [
        pytest.param((400, JSON, {}), id="refused"),
        pytest.param((401, JSON, {}), id="no-key"),
        pytest.param((429, {**JSON, "Retry-After": "99"}, {}), id="rate-limited"),
        pytest.param((302, {**JSON, "Location": "/"}, {}), id="redirect"),
        pytest.param((200, JSON, {"error": {"code": "invalid_value"}}), id="error-in-a-200"),
    ],
)
def test_the_billing_is_that_of_the_whole_call(
    open_client: OpenClient, last: tuple[int, dict[str, str], object], duplicates: str
) -> None:
    """Once an attempt may have been billed, a later one that certainly was not does not make the call free."""
    answers = Answers((500, JSON, {}), last)
    error = open_client(http=through(answers), retry={"duplicates": duplicates}).fails()
    assert len(answers.requests) == error.attempts == 2
    assert error.billing == "unknown"
    assert "may have been carried out and billed" in str(error)


def test_a_lost_answer_is_not_forgotten_when_the_server_goes_away(open_client: OpenClient) -> None:
    """With "allowed": a read time-out, then nobody listens any more. The first may be paid for, so the call may be."""
    answers = Answers(httpx.ReadTimeout("late"), httpx.ConnectError("gone"))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert type(error) is FluxConnectionError
    assert error.attempts == 4
    assert error.billing == "unknown"


def test_a_retry_that_works_is_a_success(open_client: OpenClient) -> None:
    """Two failures and an answer are one answer that says three attempts; each attempt tells its number."""
    answers = Answers((502, JSON, {}), (429, JSON, {}), OK)
    response = open_client(http=through(answers)).generate()
    assert response.attempts == 3
    assert response.request_id == "req-header"
    assert [request.headers["x-stainless-retry-count"] for request in answers.requests] == ["0", "1", "2"]


# The policy itself, and the one layer of retries.


@pytest.mark.parametrize("status", [429, 500])
def test_there_is_one_retry_layer(open_client: OpenClient, status: int) -> None:
    """`max_retries=5` is six POSTs and not thirty-six; `with_options(max_retries=0)` is one; the default is four."""
    answers = Answers((status, JSON, {}))
    caller = open_client(http=through(answers), max_retries=5)
    assert caller.fails().attempts == len(answers.requests) == 6
    assert caller.with_options(max_retries=0).fails().attempts == 1
    assert caller.with_options(max_retries=1).fails().attempts == 2
    assert open_client(http=through(answers)).fails().attempts == 4
    assert len(answers.requests) == 6 + 1 + 2 + 4


def test_one_attempt_is_one_attempt(open_client: OpenClient) -> None:
    """`max_attempts=1` switches all retries off, whatever the cause."""
    answers = Answers(httpx.ConnectError("down"))
    assert open_client(http=through(answers), retry={"max_attempts": 1}).fails().attempts == 1
    assert len(answers.requests) == 1


def test_a_policy_no_call_could_follow_is_refused() -> None:
    """All faults of a policy are named at once."""
    with pytest.raises(errors.ConfigurationError) as caught:
        RetryPolicy(duplicates="often", max_attempts=0, max_wait=-1, max_elapsed=float("nan"))  # type: ignore[arg-type]
    assert [
        name for name in ("duplicates", "max_attempts", "max_wait", "max_elapsed") if name in str(caught.value)
    ] == [*("duplicates", "max_attempts", "max_wait", "max_elapsed")]


@pytest.mark.parametrize("name", ["initial_wait", "max_wait", "max_retry_after", "max_elapsed"])
@pytest.mark.parametrize("value", [True, float("inf"), float("nan"), -0.5, "1", None])
def test_seconds_of_a_policy_are_finite_numbers_from_0(name: str, value: object) -> None:
    """Neither True for 1 nor a wait without end."""
    with pytest.raises(errors.ConfigurationError, match=name):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]  # what a user may write


@pytest.mark.parametrize("value", [True, 0, -1, 2.0, "3", None])
def test_attempts_of_a_policy_are_an_integer_from_1(value: object) -> None:
    """Neither True for 1 nor no attempt at all."""
    with pytest.raises(errors.ConfigurationError, match="max_attempts"):
        RetryPolicy(max_attempts=value)  # type: ignore[arg-type]  # what a user may write


@pytest.mark.parametrize("value", [True, -1, 2.0, "3", float("nan")])
def test_retries_of_a_client_are_an_integer_from_0(value: object) -> None:
    """The short form is as strict as the policy, in the constructor and in its copies."""
    options: dict[str, Any] = {"max_retries": value}
    for make in (FluxOpenAI, FluxOpenAI(api_key="k").with_options):
        with pytest.raises(errors.ConfigurationError, match=f"^max_retries={value!r}"):
            make(**{"api_key": "k", **options})


def test_the_defaults_are_those_of_the_readme() -> None:
    """Four attempts, own waits up to 20 s, a Retry-After up to 60 s, no attempt after 120 s."""
    policy = RetryPolicy()
    assert policy.duplicates == "unlikely"
    assert policy.max_attempts == 4
    assert policy.initial_wait == 0.5
    assert policy.max_wait == 20
    assert policy.max_retry_after == 60
    assert policy.max_elapsed == 120
