"""The pure decisions behind the retries, over all their inputs."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flux_openai._http.library import httpx
from flux_openai.retry import RetryPolicy, RetryQuota, cause_of_failure, cause_of_status, next_wait, retry_after

if TYPE_CHECKING:
    from flux_openai.retry import Cause, Duplicates

SERVER_FAILED = {409, 500, 502, 503}
QUOTA_CODES = ["insufficient_quota", "quota_exceeded", "InsufficientBalance", "billing_hard_limit_reached", "no_credit"]
OTHER_CODES = [None, "", "rate_limit_exceeded", "too_many_requests", "429"]


def expected_cause(status: int) -> str:
    """The table of the design."""
    if status in SERVER_FAILED:
        return "server_failed"
    if status == 429:
        return "rate_limited"
    return "unknown" if status == 408 or status >= 500 else "refused"


@pytest.mark.parametrize("code", OTHER_CODES)
def test_the_cause_of_every_status(code: str | None) -> None:
    """All 500 statuses fall as the table of the design says, whatever code stands beside them."""
    assert {status: cause_of_status(status, code) for status in range(100, 600)} == {
        status: expected_cause(status) for status in range(100, 600)
    }


@pytest.mark.parametrize("code", QUOTA_CODES)
def test_waiting_brings_no_money(code: str) -> None:
    """A 429 whose code says that the credit is gone is refused; beside all other statuses the code changes nothing."""
    assert {status: cause_of_status(status, code) for status in range(100, 600)} == {
        status: "refused" if status == 429 else expected_cause(status) for status in range(100, 600)
    }


@pytest.mark.parametrize(
    ("phase", "name", "cause"),
    [
        ("connecting", "ConnectError", "not_sent"),
        ("connecting", "ReadTimeout", "not_sent"),
        ("sending", "WriteTimeout", "not_sent"),
        ("sending", "RemoteProtocolError", "not_sent"),
        ("sent", "WriteError", "unknown"),
        ("sent", "ReadTimeout", "unknown"),
        ("sent", "LocalProtocolError", "unknown"),
        ("answering", "ConnectError", "unknown"),
        (None, "ConnectError", "not_sent"),
        (None, "PoolTimeout", "not_sent"),
        (None, "WriteTimeout", "unknown"),
        (None, "Exception", "unknown"),
        ("connecting", "SSLCertVerificationError", "refused"),
        ("sending", "LocalProtocolError", "refused"),
        (None, "UnsupportedProtocol", "refused"),
    ],
)
def test_the_cause_of_a_failure(phase: object, name: str, cause: str) -> None:
    """What was seen of the request goes before the name of the error; nothing that was sent is ever called unsent."""
    assert cause_of_failure(phase, frozenset({name, "Exception"})) == cause  # type: ignore[arg-type]


NUMBERS = st.one_of(
    st.floats().map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.tuples(st.integers(0, 10**6), st.integers(-999, 999)).map(lambda pair: f"{pair[0]}e{pair[1]}"),
    st.text("0123456789.eE+-, _xnaif", max_size=30),
)
DATES = st.one_of(
    st.datetimes(timezones=st.timezones()).map(format_datetime),
    st.datetimes(timezones=st.just(UTC)).map(lambda date: format_datetime(date, usegmt=True)),
    st.lists(
        st.sampled_from(
            [
                "Sun,",
                "22",
                "Nov",
                "2026",
                "99999",
                "-1",
                "12:00:30",
                "25:61:61",
                "GMT",
                "+9999",
                "-0000",
                "EST",
                "0",
                "",
                "-",
            ]
        ),
        max_size=8,
    ).map(" ".join),
)
VALUES = st.one_of(NUMBERS, DATES, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), VALUES)


@given(HEADERS, st.one_of(st.none(), st.datetimes(timezones=st.just(UTC))))
@example({"retry-after": "1e400"}, None)
@example({"retry-after": "9" * 5000}, None)
@example({"retry-after-ms": "0.0000000000000000001"}, None)
@example({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2359", "date": "Mon, 01 Jan 0001 00:00:00 +2359"}, None)
@example({"retry-after": "Fri, 31 Dec 9999 23:59:59 +9999"}, None)
@example({"retry-after": "\x00"}, None)
@example({"retry-after": " "}, None)
def test_whatever_a_server_asks_for_is_a_time_or_nothing(headers: dict[str, str], now: datetime | None) -> None:
    """Never an exception, never NaN, never 0 or less, never without end."""
    asked = retry_after(headers, now=now)
    assert asked is None or (0 < asked <= 1e9 and math.isfinite(asked))
    fixed = now or datetime(2026, 1, 1, tzinfo=UTC)  # a clock that runs on between two readings is no fault of theirs
    assert retry_after(httpx.Headers(headers), now=fixed) == retry_after(headers, now=fixed)


@given(st.integers(1, 10**6), st.integers(-3600, 3600))
def test_a_date_counts_from_the_servers_own(seconds: int, skew: int) -> None:
    """A clock that is wrong by an hour on this side changes nothing."""
    start = 1_795_348_800
    headers = {
        "retry-after": format_datetime(datetime.fromtimestamp(start + seconds, UTC), usegmt=True),
        "date": format_datetime(datetime.fromtimestamp(start, UTC), usegmt=True),
    }
    assert retry_after(headers, now=datetime.fromtimestamp(start + skew, UTC)) == seconds


def wait(
    policy: RetryPolicy, attempt: int, asked: float | None, chance: float, cause: Cause = "not_sent"
) -> float | None:
    """The next wait at the beginning of a call, with this random number."""
    return next_wait(cause, policy=policy, attempt=attempt, elapsed=0, asked=asked, random=lambda: chance)


@pytest.mark.parametrize("attempt", [1, 2, 3, 7, 20])
def test_waits_have_full_jitter(attempt: int) -> None:
    """10,000 waits lie evenly between 0 and the ceiling: no part of the range is off by more than 5 %."""
    source = random.Random(attempt)  # noqa: S311  # a simulation
    policy = RetryPolicy(max_attempts=99, max_elapsed=1e6)
    ceiling = min(20.0, 0.5 * 2 ** (attempt - 1))
    waits = sorted(
        next_wait("not_sent", policy=policy, attempt=attempt, elapsed=0, asked=None, random=source.random) or 0.0
        for _ in range(10_000)
    )
    assert 0 <= waits[0] <= waits[-1] <= ceiling
    assert all(abs(value / ceiling - index / 10_000) < 0.05 for index, value in enumerate(waits))
    assert sum(waits) / len(waits) == pytest.approx(ceiling / 2, rel=0.05)


def test_the_wait_asked_for_has_a_little_jitter() -> None:
    """10,000 waits after the same Retry-After lie evenly in the tenth above it, so that a herd spreads."""
    source = random.Random(7)  # noqa: S311  # a simulation
    policy = RetryPolicy()
    waits = [
        next_wait("rate_limited", policy=policy, attempt=1, elapsed=0, asked=30, random=source.random) or 0.0
        for _ in range(10_000)
    ]
    assert 30 <= min(waits) <= max(waits) <= 33
    assert sum(waits) / len(waits) == pytest.approx(31.5, rel=0.005)


seconds = st.floats(0, 1e6)


@given(
    st.builds(
        RetryPolicy, max_attempts=st.integers(1, 10**6), initial_wait=seconds, max_wait=seconds, max_elapsed=seconds
    ),
    st.integers(1, 10**6),
    st.one_of(st.none(), st.floats(0, 1e9, exclude_min=True)),
    st.floats(0, 1),
    st.floats(0, 1e6),
)
def test_no_wait_is_above_its_limit(
    policy: RetryPolicy, attempt: int, asked: float | None, chance: float, elapsed: float
) -> None:
    """Own waits stay under `max_wait`, asked ones under `max_retry_after` and a tenth, all within `max_elapsed`."""
    pause = next_wait("not_sent", policy=policy, attempt=attempt, elapsed=elapsed, asked=asked, random=lambda: chance)
    if pause is None:
        return
    assert attempt < policy.max_attempts
    assert 0 <= pause < math.inf
    assert elapsed + pause <= policy.max_elapsed
    assert pause <= (policy.max_wait if asked is None else policy.max_retry_after * 1.1)
    assert asked is None or asked <= pause <= asked * 1.1


CAUSES: dict[Cause, set[Duplicates]] = {
    "not_sent": {"never", "unlikely", "allowed"},
    "rate_limited": {"never", "unlikely", "allowed"},
    "server_failed": {"unlikely", "allowed"},
    "unknown": {"allowed"},
    "refused": set(),
    "unusable": set(),
}


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("duplicates", ["never", "unlikely", "allowed"])
def test_the_table_of_retries(cause: Cause, duplicates: Duplicates) -> None:
    """What is retried under which setting; the last attempt has no next one, nor has a single attempt."""
    policy = RetryPolicy(duplicates=duplicates)
    waits = [wait(policy, attempt, None, 0.5, cause) for attempt in (1, 2, 3, 4, 5)]
    retried = duplicates in CAUSES[cause]
    assert waits == ([0.25, 0.5, 1.0, None, None] if retried else [None] * 5)
    assert wait(RetryPolicy(duplicates=duplicates, max_attempts=1), 1, None, 0.5, cause) is None


def test_the_limits_are_where_they_are_said_to_be() -> None:
    """60 s are waited for, 60.1 s are not; an attempt may start at `max_elapsed` and not after."""
    policy = RetryPolicy()
    assert wait(policy, 1, 60, 1.0) == pytest.approx(66)
    assert wait(policy, 1, 60.1, 0.0) is None
    at = {"cause": "not_sent", "policy": policy, "attempt": 1, "asked": 20, "random": lambda: 0.0}
    assert next_wait(**at, elapsed=100) == 20  # type: ignore[arg-type]
    assert next_wait(**at, elapsed=100.1) is None  # type: ignore[arg-type]


def test_a_quota_pays_for_ten_or_twenty_retries() -> None:
    """A retry costs 10 of 100 tokens, or 5 after a 429; a success gives back its own and one more, to 100 at most."""
    quota = RetryQuota()
    assert [quota.take("not_sent") for _ in range(11)] == [10] * 10 + [None]
    quota.give_back(9)
    assert (quota.take("rate_limited"), quota.take("rate_limited"), quota.take("rate_limited")) == (5, 5, None)
    quota.give_back(10**6)
    assert [quota.take("rate_limited") for _ in range(21)] == [5] * 20 + [None]
