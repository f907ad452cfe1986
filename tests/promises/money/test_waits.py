"""How long is waited before a retry: Retry-After, jitter, the limits of a policy, and the quota that ends a storm."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flux_openai import FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.errors import FluxInternalServerError, FluxRateLimitError
from tests.promises.money.fakes import BUSY, JSON, OK, Answer, Answers, through

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flux_openai.retry import RetryEvent
    from tests.promises.money.conftest import OpenClient

    AskedWait = Callable[[Mapping[str, str]], float | None]

NOW = "Sun, 22 Nov 2026 12:00:00 GMT"
both_sides = pytest.mark.parametrize("side", ["sync", "async"])


def busy(**headers: str) -> Answer:
    """A 429 with these headers."""
    return 429, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}, {}


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


@pytest.mark.parametrize(("headers", "asked", "wait"), WAITS)
def test_the_wait_is_what_the_server_asks_for(
    open_client: OpenClient, headers: Mapping[str, str], asked: float | None, wait: tuple[float, float]
) -> None:
    """The wait is the server's plus at most 10 %; what makes no sense is ignored for our own; the error says which."""
    answers = Answers((429, {**JSON, **headers}, {}))
    caller = open_client(http=through(answers), retry={"max_attempts": 2})
    error = caller.fails()
    [event] = caller.events
    assert wait[0] <= event.wait <= wait[1]
    assert event.attempt == 1
    assert error.retry_after == asked
    assert len(answers.requests) == error.attempts == 2


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        pytest.param({"Retry-After": "60.1"}, 60.1, id="60.1"),
        pytest.param({"Retry-After": "61"}, 61, id="61"),
        pytest.param({"Retry-After": "121"}, 121, id="121"),
        pytest.param({"Retry-After": "1e400"}, 1e9, id="1e400"),
        pytest.param({"Retry-After": "9" * 300}, 1e9, id="300-digits"),
        pytest.param({"retry-after-ms": "1e400"}, 1e9, id="1e400-milliseconds"),
        pytest.param({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": NOW}, 1e9, id="year-9999"),
    ],
)
def test_too_long_a_wait_is_raised_and_not_waited(
    open_client: OpenClient, headers: Mapping[str, str], asked: float
) -> None:
    """One POST, and the error carries the wait, so that the caller can come back then."""
    answers = Answers((429, {**JSON, **headers}, {}))
    caller = open_client(http=through(answers), retry={"waiting": True})
    error = caller.fails()
    assert error.retry_after == asked
    assert len(answers.requests) == error.attempts == 1
    assert caller.events == []


def test_the_limit_of_retry_after_is_the_callers(open_client: OpenClient) -> None:
    """`max_retry_after` moves the limit; the wait is then as asked."""
    caller = open_client(http=through(Answers(busy(Retry_After="100"), OK)), retry={"max_retry_after": 100})
    assert caller.generate().attempts == 2
    assert 100 <= caller.events[0].wait <= 110


@pytest.mark.parametrize(("duplicates", "attempts"), [("never", 1), ("unlikely", 4)])
def test_an_overloaded_server_is_heeded(open_client: OpenClient, duplicates: str, attempts: int) -> None:
    """503 with Retry-After: "never" raises at once and tells the wait; the others wait for it."""
    answers = Answers((503, {**JSON, "Retry-After": "7"}, {}))
    caller = open_client(http=through(answers), retry={"duplicates": duplicates})
    error = caller.fails()
    assert type(error) is FluxInternalServerError
    assert error.retry_after == 7
    assert error.billing == "unknown"
    assert error.attempts == len(answers.requests) == attempts
    assert all(7 <= event.wait <= 7.7 for event in caller.events)


# Anything may stand in those headers.

NUMBERS = st.one_of(
    st.floats().map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.tuples(st.integers(0, 10**6), st.integers(-999, 999)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.text("0123456789.eE+-, _xnaif", max_size=30),
)
DATE_WORDS = [
    *("Sun,", "22", "Nov", "2026", "99999", "-1", "12:00:30", "25:61:61", "GMT", "+9999", "-0000", "EST", "0", "", "-"),
]
DATES = st.one_of(
    st.datetimes(timezones=st.timezones()).map(format_datetime),
    st.datetimes(timezones=st.just(UTC)).map(lambda date: format_datetime(date, usegmt=True)),
    st.lists(st.sampled_from(DATE_WORDS), max_size=8).map(" ".join),
)
VALUES = st.one_of(NUMBERS, DATES, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), VALUES)


@pytest.fixture
def asked(open_client: OpenClient) -> AskedWait:
    """The `.retry_after` of the error after a 429 with these headers; one client serves all examples."""
    answers = Answers()
    caller = open_client(http=through(answers), retry={"max_attempts": 1})

    def ask(headers: Mapping[str, str]) -> float | None:
        answers.answers = ((429, headers, {}),)
        return caller.fails().retry_after

    return ask


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(headers=HEADERS)
@example(headers={"retry-after": "1e400"})
@example(headers={"retry-after": "9" * 5000})
@example(headers={"retry-after-ms": "0.0000000000000000001"})
@example(headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359", "date": "Mon, 01 Jan 0001 00:00:00 +2359"})
@example(headers={"retry-after": "Fri, 31 Dec 9999 23:59:59 +9999"})
@example(headers={"retry-after": "\x00"})
@example(headers={"retry-after": " "})
def test_whatever_a_server_asks_for_is_a_time_or_nothing(asked: AskedWait, headers: dict[str, str]) -> None:
    """Never an exception, never NaN, never 0 or less, never without end."""
    seconds = asked(headers)
    assert seconds is None or (0 < seconds <= 1e9 and math.isfinite(seconds))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seconds=st.integers(1, 10**6), skew=st.integers(-(10**9), 10**9))
def test_a_date_counts_from_the_servers_own(asked: AskedWait, seconds: int, skew: int) -> None:
    """A clock that is wrong by years on this side changes nothing."""
    start = 1_795_348_800 + skew
    headers = {
        "retry-after": format_datetime(datetime.fromtimestamp(start + seconds, UTC), usegmt=True),
        "date": format_datetime(datetime.fromtimestamp(start, UTC), usegmt=True),
    }
    assert asked(headers) == seconds


def test_a_date_without_the_servers_own_counts_from_now(asked: AskedWait) -> None:
    """Then the clock of this side is the only one there is."""
    then = format_datetime(datetime.fromtimestamp(time.time() + 1000, UTC), usegmt=True)
    seconds = asked({"retry-after": then})
    assert seconds is not None
    assert 900 < seconds <= 1000


# Jitter.


def waits(answer: Answer, calls: int, **policy: float) -> list[list[float]]:
    """The waits before the first, the second, … retry of so many calls, each by a client of its own."""
    found: list[list[float]] = []
    handler = Answers(answer)
    with httpx.Client(transport=httpx.MockTransport(handler)) as http_client:
        for _ in range(calls):
            events: list[RetryEvent] = []
            retry = RetryPolicy(waiting=False, max_elapsed=1e6, on_retry=events.append, **policy)  # type: ignore[arg-type]
            client = FluxOpenAI(api_key="k", base_url="http://127.0.0.1:1/v1", http_client=http_client, retry=retry)
            with pytest.raises((FluxRateLimitError, FluxInternalServerError)):
                client.images.generate(prompt="a fox")
            found.append([event.wait for event in events])
    return [list(column) for column in zip(*found, strict=True)]


def test_waits_have_full_jitter() -> None:
    """Waits lie evenly between 0 and a ceiling that doubles up to `max_wait`: no quarter of the range is left out."""
    random.seed(11)
    columns = waits((503, JSON, {}), 60, max_attempts=4, initial_wait=8)
    assert len(columns) == 3
    for ceiling, column in zip((8, 16, 20), columns, strict=True):
        assert min(column) >= 0
        assert max(column) <= ceiling
        quarters = [sum(quarter <= 4 * wait / ceiling < quarter + 1 for wait in column) for quarter in range(4)]
        assert min(quarters) >= 8, (ceiling, quarters)


def test_the_first_ceiling_is_half_a_second_and_doubles() -> None:
    """By default the waits of many calls reach up to 0.5, 1 and 2 s."""
    random.seed(5)
    columns = waits((503, JSON, {}), 40, max_attempts=4)
    for ceiling, column in zip((0.5, 1, 2), columns, strict=True):
        assert 0.9 * ceiling < max(column) <= ceiling


def test_the_wait_asked_for_has_a_little_jitter() -> None:
    """Waits after the same Retry-After lie evenly in the tenth above it, so that a herd spreads."""
    random.seed(7)
    [column] = waits(busy(Retry_After="30"), 60, max_attempts=2)
    assert 30 <= min(column) < 30.3
    assert 32.7 < max(column) <= 33
    assert sum(column) / len(column) == pytest.approx(31.5, abs=0.4)


def test_waits_are_the_policys_own(open_client: OpenClient) -> None:
    """`initial_wait=0` is no wait at all, and no number of attempts makes it one."""
    caller = open_client(
        http=through(Answers((503, JSON, {}))), retry={"initial_wait": 0, "max_attempts": 11, "max_elapsed": 1e6}
    )
    assert caller.fails().attempts == 11
    assert [event.wait for event in caller.events] == [0] * 10


# Time.


@pytest.mark.parametrize("max_elapsed", [0, 5])
def test_a_wait_that_would_end_too_late_is_not_waited(open_client: OpenClient, max_elapsed: float) -> None:
    """A wait that would end after `max_elapsed` is not begun: the error comes at once and tells the wait."""
    answers = Answers(busy(Retry_After="7"))
    caller = open_client(http=through(answers), retry={"max_elapsed": max_elapsed, "waiting": True})
    error = caller.fails()
    assert error.attempts == len(answers.requests) == 1
    assert error.retry_after == 7
    assert error.billing == "none"
    assert caller.events == []


@pytest.mark.parametrize(("each", "attempts"), [(30, 4), (50, 3), (119, 2), (121, 1)])
def test_no_attempt_starts_too_late(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, each: float, attempts: int
) -> None:
    """`max_elapsed` counts from the first attempt, with the time that the attempts themselves have taken."""
    passed, real, answers = 0.0, time.monotonic, Answers((503, JSON, {}))

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal passed
        passed += each
        return answers(request)

    caller = open_client(http=through(handler), retry={"max_elapsed": 120})
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed)
    error = caller.fails()
    assert error.attempts == len(answers.requests) == attempts


@both_sides
def test_the_wait_that_is_told_is_the_wait(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """`on_retry` hears of each wait before it begins, and it is exactly as long; neither prompt nor key is told."""
    slept: list[float] = []
    answers = Answers((429, JSON, {}), (503, JSON, {}), OK)
    caller = open_client(http=through(answers), retry={"waiting": True})
    pause, apause = time.sleep, asyncio.sleep

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        pause(0)

    async def asleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
        await apause(0)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", asleep)
    caller.generate("a secret fox")
    assert slept == [event.wait for event in caller.events]
    assert [event.attempt for event in caller.events] == [1, 2]
    assert [event.status_code for event in caller.events] == [429, 503]
    assert [event.reason for event in caller.events] == ["rate_limited", "server_failed"]
    assert "secret" not in repr(caller.events)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_jumping_clock_changes_nothing(open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Waits and limits follow a clock that cannot be set; a Retry-After date counts from the server's own Date."""
    later = busy(Retry_After="Sun, 22 Nov 2026 12:00:30 GMT", Date=NOW)
    answers = Answers(later, BUSY, BUSY, OK)
    caller = open_client(http=through(answers))
    jumps, real = itertools.count(1), time.time
    monkeypatch.setattr(time, "time", lambda: real() + step * next(jumps))
    response = caller.generate()
    monkeypatch.undo()
    first, second, third = (event.wait for event in caller.events)
    assert 30 <= first <= 33
    assert 0 <= second <= 1
    assert 0 <= third <= 2
    assert response.attempts == len(answers.requests) == 4


@pytest.mark.parametrize("stopped_by", [RuntimeError, KeyboardInterrupt])
def test_what_on_retry_raises_ends_the_call(open_client: OpenClient, stopped_by: type[BaseException]) -> None:
    """A hook may stop the retries with an exception of its own: one POST, and the exception as it is."""

    def stop(_: RetryEvent) -> None:
        raise stopped_by

    answers = Answers((429, JSON, {}))
    caller = open_client(http=through(answers), retry={"on_retry": stop})
    with pytest.raises(stopped_by):
        caller.generate()
    assert len(answers.requests) == 1


# The quota of retries.


@pytest.mark.parametrize(
    ("fault", "retries"), [((429, JSON, {}), 20), ((503, JSON, {}), 10), (httpx.ConnectError("no"), 10)]
)
def test_a_storm_is_stopped(open_client: OpenClient, fault: Answer | Exception, retries: int) -> None:
    """When all fails, a client and its copies retry until their bucket is empty, and then send each call once."""
    answers = Answers(fault)
    caller = open_client(http=through(answers))
    copies = itertools.cycle(
        [caller, caller.with_options(timeout=9), caller.with_options(retry=RetryPolicy(waiting=False))]
    )
    attempts = [next(copies).fails().attempts for _ in range(40)]
    assert len(answers.requests) == sum(attempts) == 40 + retries
    assert set(attempts[10:]) == {1}


def test_clients_do_not_share_a_quota(open_client: OpenClient) -> None:
    """What one client cannot reach says nothing about another's service."""
    answers = Answers((429, JSON, {}))
    first, second = (open_client(http=through(answers)) for _ in range(2))
    assert [first.fails().attempts for _ in range(10)][-1] == 1
    assert second.fails().attempts == 4


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_that_works_costs_no_quota(open_client: OpenClient, status: int) -> None:
    """A success gives back what its own retries took: a service with hiccups is served for ever."""
    caller = open_client(http=through(Answers(*[(status, JSON, {}), OK] * 40)))
    assert [caller.generate().attempts for _ in range(40)] == [2] * 40


def test_a_success_gives_back_one_token_more(open_client: OpenClient) -> None:
    """An empty bucket holds a retry after a 429 again after five successes, and not after four."""
    drained = (busy(),) * 27  # 6 calls of 4 requests with 3 retries each, then one with 2, then none
    for successes, attempts in ((4, 1), (5, 2)):
        caller = open_client(http=through(Answers(*drained, *[OK] * successes, busy())))
        assert [caller.fails().attempts for _ in range(7)] == [4] * 6 + [3]
        assert [caller.generate().attempts for _ in range(successes)] == [1] * successes
        assert caller.fails().attempts == attempts


def test_a_full_bucket_holds_no_more(open_client: OpenClient) -> None:
    """A hundred successes in a row save up nothing: the next storm is stopped as soon as any."""
    answers = Answers(*[OK] * 100, (429, JSON, {}))
    caller = open_client(http=through(answers))
    assert {caller.generate().attempts for _ in range(100)} == {1}
    assert sum(caller.fails().attempts for _ in range(10)) == 10 + 20


def test_a_retry_waits_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default policy sleeps as long as the server asks; without that a busy service would be stormed."""
    slept = list[float]()
    monkeypatch.setattr(time, "sleep", slept.append)
    answers = Answers((429, {**JSON, "Retry-After": "7"}, {}), OK)
    client = FluxOpenAI(api_key="k", http_client=httpx.Client(transport=httpx.MockTransport(answers)))
    assert client.images.generate(prompt="a fox").attempts == 2
    assert len(slept) == 1
    assert 7 <= slept[0] <= 7.7
