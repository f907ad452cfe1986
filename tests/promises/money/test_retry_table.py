"""The README's table of retries: what went wrong, under which `duplicates` it is sent again, and what it may cost."""

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
from flux_openai.errors import FluxConnectionError, FluxError, FluxTimeoutError
from flux_openai.retry import RetryEvent
from tests.promises.money.fakes import JSON, OK, Answers, through

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flux_openai.errors import Billing
    from flux_openai.retry import Cause, Duplicates
    from tests.promises.money.conftest import OpenClient

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


STATUS = re.compile(r"\b[2-5][0-9]{2}\b")


def test_the_readme_has_this_table() -> None:
    """Each line of the README's table says `retry` where this file does, the same of bill and statuses."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| what happened .*\n\|[-| ]+\n((?:\|.*\n)+)", readme, re.MULTILINE)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
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


def cause_of(status: int, *, quota: bool = False) -> Cause:
    """The table of the design, for statuses."""
    if status == 429:
        return "refused" if quota else "rate_limited"
    if status in (409, 500, 502, 503):
        return "server_failed"
    return "unknown" if status == 408 or status >= 500 else "refused"


def seen_cause(status: int, code: str | None, duplicates: Duplicates) -> tuple[bool, Billing]:
    """Whether this status is sent again, and the billing of the error."""
    emulator = Emulator()
    body = {"error": {"message": "no", "code": code}}
    emulator.fail(9, status=status, body=body)
    with pytest.raises(openai.APIStatusError) as caught:
        emulator.client(retry=RetryPolicy(duplicates=duplicates, max_attempts=2, waiting=False)).images.generate(
            prompt="a fox"
        )
    assert isinstance(caught.value, FluxError)
    assert caught.value.status_code == status
    return len(emulator.requests) == 2, caught.value.billing


def differing(
    statuses: Iterable[int], code: str | None, duplicates: Duplicates, *, quota: bool
) -> dict[int, tuple[bool, Billing]]:
    """The statuses that end otherwise than the table says, and how."""
    wrong = {}
    for status in statuses:
        cause = cause_of(status, quota=quota)
        if (seen := seen_cause(status, code, duplicates)) != (duplicates in RETRIED[cause], BILLING[cause]):
            wrong[status] = seen
    return wrong


def test_every_status_falls_as_the_table_says() -> None:
    """All 300 error statuses, those that nobody uses included; under "unlikely" no two causes look the same."""
    assert differing(range(300, 600), None, "unlikely", quota=False) == {}


SPECIAL = (400, 402, 403, 408, 409, 429, 500, 502, 503, 504, 524)


@pytest.mark.parametrize("code", ["", "rate_limit_exceeded", "too_many_requests", "429"])
def test_a_code_that_is_not_about_money_changes_nothing(code: str) -> None:
    """The status alone decides."""
    assert differing(SPECIAL, code, "never", quota=False) == {}


@pytest.mark.parametrize(
    "code",
    [
        "insufficient_quota",
        "quota_exceeded",
        "InsufficientBalance",
        "billing_hard_limit_reached",
        "no_credit",
        "ARREARS",
    ],
)
def test_waiting_brings_no_money(code: str) -> None:
    """A 429 whose code says that the credit is gone is refused; beside all other statuses the code changes nothing."""
    assert differing(SPECIAL, code, "allowed", quota=True) == {}


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

    Behind a transport that nobody can watch only the name tells: what is not surely unsent may be paid for. Exceptions
    that are no failures of a request, but mistakes in using the library, may also come as they are, after one POST.
    """
    answers = Answers(instance_of(kind))
    caller = open_client(http=through(answers), retry={"duplicates": duplicates})
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is looked at below
        caller.generate()
    error = caught.value
    if type(error) is kind and not issubclass(kind, httpx.RequestError):
        assert len(answers.requests) == 1
        return
    free = kind.__name__ in NOT_SENT | REFUSED
    retried = kind.__name__ in NOT_SENT or (duplicates == "allowed" and not free)
    attempts = 4 if retried else 1
    assert len(answers.requests) == attempts
    assert isinstance(error, FluxError)
    assert type(error) is (FluxTimeoutError if issubclass(kind, httpx.TimeoutException) else FluxConnectionError)
    assert error.billing == ("none" if free else "unknown")
    assert error.attempts == attempts
    assert (error.__cause__, error.__context__) == (None, None)


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
