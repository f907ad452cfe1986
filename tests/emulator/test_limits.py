"""The limits: what they admit over time, what they answer, and their text forms."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai._http.library import httpx
from flux_openai.emulator import (
    Bill,
    Concurrency,
    Constant,
    Credits,
    Emulator,
    FixedWindow,
    Limit,
    TokenBucket,
    VirtualClock,
)
from flux_openai.emulator.load.latency import Workload
from flux_openai.emulator.load.limits import RateLimiter, parse_limit
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL

START = 1_750_000_000.0
WORKLOAD = Workload(occurrence_id="a fox")  # no password
GAPS = st.lists(st.floats(0, 5) | st.sampled_from((0.0, 0.1, 1.0)), min_size=1, max_size=60)
RATES = st.sampled_from((0.1, 1 / 3, 1.0, 7.0, 60.0)) | st.floats(0.01, 100)
LIMITS = st.one_of(
    st.builds(TokenBucket, rate=RATES, burst=st.integers(1, 20)),
    st.builds(FixedWindow, count=st.integers(1, 20), seconds=st.sampled_from((0.5, 1.0, 60.0)) | st.floats(0.1, 100)),
    st.builds(Concurrency, count=st.integers(1, 20)),
)


def admitted(limit: Limit, gaps: list[float], *, latency: str = "0s") -> list[float]:
    """The times at which orders are admitted, with one order after each gap."""
    limiter, now, through = RateLimiter(limits=[limit], latency=latency), START, []
    for gap in gaps:
        now += gap
        if limiter.refuse(WORKLOAD, now=now) is None:
            limiter.charge(WORKLOAD, now=now)
            through.append(now)
    return through


def windows(times: list[float]) -> list[tuple[float, int]]:
    """The length of each stretch between two admissions, and how many it holds, both included."""
    return [(end - first, n) for at, first in enumerate(times) for n, end in enumerate(times[at:], start=1)]


@given(gaps=GAPS, rate=RATES, burst=st.integers(1, 20))
def test_a_bucket_gives_no_more_than_its_rate_and_its_burst(gaps: list[float], rate: float, burst: int) -> None:
    """In no t seconds are more than rate * t + burst orders admitted; two microseconds are for the rounding."""
    through = admitted(TokenBucket(rate=rate, burst=burst), gaps)
    assert all(n <= rate * (length + 2e-6) + burst for length, n in windows(through))


@given(gaps=GAPS, count=st.integers(1, 20), seconds=st.integers(1, 100))
def test_a_window_gives_no_more_than_its_count(gaps: list[float], count: int, seconds: int) -> None:
    """In no window of Unix time are more than `count` orders admitted."""
    through = admitted(FixedWindow(count=count, seconds=seconds), gaps)
    starts = [now // seconds for now in through]
    assert all(starts.count(start) <= count for start in starts)


@given(gaps=GAPS, count=st.integers(1, 20))
def test_no_more_than_so_many_are_under_way(gaps: list[float], count: int) -> None:
    """Of orders that take two seconds, those admitted in the last two seconds are never more than `count`."""
    through = admitted(Concurrency(count=count), gaps, latency="2s")
    assert all(sum(now - 2 + 2e-6 < other <= now for other in through) <= count for now in through)


@given(limit=LIMITS, pause=st.floats(0, 100))
def test_no_limit_is_stricter_than_it_says(limit: Limit, pause: float) -> None:
    """Of many orders at once exactly as many are admitted as the limit allows, and again after a long pause."""
    assert isinstance(limit, TokenBucket | FixedWindow | Concurrency)
    room = limit.burst if isinstance(limit, TokenBucket) else limit.count
    at_once = [0.0] * 30
    assert len(admitted(limit, [pause, *at_once], latency="2s")) == room
    assert len(admitted(limit, [pause, *at_once, 100_000.0, *at_once], latency="2s")) == 2 * room


@given(seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_place_is_free_when_its_order_has_ended(seconds: list[float]) -> None:
    """A client that orders again as soon as it has its answer is admitted under a concurrency of one."""
    now = START
    for latency in seconds:
        limiter = RateLimiter(limits=["concurrency=1"], latency=Constant(seconds=latency))
        now += limiter.charge(WORKLOAD, now=now)
        assert limiter.refuse(WORKLOAD, now=now) is None


@given(limits=st.lists(LIMITS, min_size=1, max_size=3), gaps=GAPS)
def test_who_waits_as_asked_is_admitted(limits: list[Limit], gaps: list[float]) -> None:
    """A client that comes back after exactly Retry-After, in whole seconds, is admitted by all limits."""
    limiter, now = RateLimiter(limits=limits, latency="2s"), START
    for gap in gaps:
        now += gap
        refusal = limiter.refuse(WORKLOAD, now=now)
        if refusal is not None:
            assert refusal.status == 429
            now += int(refusal.headers["retry-after"])
        assert limiter.refuse(WORKLOAD, now=now) is None
        limiter.charge(WORKLOAD, now=now)


@given(limit=LIMITS, gaps=GAPS)
def test_waiting_less_by_a_second_is_not_enough(limit: Limit, gaps: list[float]) -> None:
    """Retry-After is not longer than it has to be."""
    limiter, now = RateLimiter(limits=[limit], latency="2s"), START
    for gap in gaps:
        now += gap
        refusal = limiter.refuse(WORKLOAD, now=now)
        if refusal is None:
            limiter.charge(WORKLOAD, now=now)
        elif (less := int(refusal.headers["retry-after"]) - 1) > 0:
            assert limiter.refuse(WORKLOAD, now=now + less - 2e-6) is not None


@given(orders=st.lists(st.integers(1, 4), max_size=40), images=st.integers(0, 60))
def test_credit_is_drawn_by_what_is_carried_out(orders: list[int], images: int) -> None:
    """The images admitted never exceed the credit, and an order is refused only if it is for more than is left."""
    limiter, left = RateLimiter(limits=[Credits(images=images)], latency="0s"), images
    for n in orders:
        workload = replace(WORKLOAD, images=n)
        refusal = limiter.refuse(workload, now=START)
        assert (refusal is not None) == (n > left)
        if refusal is None:
            limiter.charge(workload, now=START)
            left -= n
    assert left >= 0


Order = Callable[..., httpx.Response]


def ordering(emulator: Emulator) -> Order:
    http = emulator.http_client(base_url=emulator.base_url, headers={"authorization": "Bearer test"})
    return lambda n=1: http.post("/images/generations", json={"model": DEFAULT_MODEL, "prompt": "a fox", "n": n})


def test_an_account_without_credit_may_answer_otherwise() -> None:
    """Status and code of the error can be set."""
    order = ordering(Emulator(pixels=64, limits=[Credits(images=0, status=402, code="no_balance")]))
    refused = order()
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "no_balance")


def test_a_refusal_is_the_documented_error_and_costs_nothing() -> None:
    """429 as a documented error with Retry-After, not billed, at once; lists and downloads are not limited."""
    clock = VirtualClock()
    emulator = Emulator(pixels=64, clock=clock, limits=["1/min"], latency="4s")
    order = ordering(emulator)
    url = order().json()["data"][0]["url"]
    refused = order(n=4)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "56")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit")
    assert error["param"] == refused.headers["x-request-id"]
    assert emulator.bill == Bill(images=1, calls=1)
    assert emulator.http_client().get(url).status_code == 200
    assert len(emulator.requests) == 3
    assert clock.now() == VirtualClock().now() + 4


def test_what_one_limit_refuses_draws_on_no_other() -> None:
    """An order for more than the credit takes no token from the bucket beside it, and gets no Retry-After."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits=["1/h", "credits=2"]))
    refused = order(n=3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "retry-after" not in refused.headers
    assert [order(n=2).status_code, order(n=1).json()["error"]["code"]] == [200, "insufficient_quota"]


def test_the_longest_wait_is_asked_for() -> None:
    """Of several limits that refuse, the one with the longest Retry-After answers."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits=["1/s", "1/min", "concurrency=1"], latency="0s"))
    assert [order().status_code, order().headers["retry-after"]] == [200, "60"]


def test_invalid_orders_use_up_no_limit() -> None:
    """A request that is refused for its content counts against no limit."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits="1/h"))
    assert [order(n=n).status_code for n in (9, 0, 1, 1)] == [400, 400, 200, 429]


def test_faults_strike_what_the_limits_admit() -> None:
    """A call that a limit refuses uses up no fault; an unbilled fault draws on no limit, and a billed one does."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["1/h"])
    order = ordering(emulator)
    emulator.fail(status=503)
    emulator.fail(status=504, billed=True)
    emulator.fail(status=500)
    assert [order().status_code for _ in range(3)] == [503, 504, 429]
    emulator.clock.sleep(3600)
    assert [order().status_code for _ in range(2)] == [500, 200]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10/s", TokenBucket(rate=10, burst=10)),
        ("60/min", TokenBucket(rate=1, burst=60)),
        ("36 / h", TokenBucket(rate=0.01, burst=36)),
        ("window:60/min", FixedWindow(count=60, seconds=60)),
        ("concurrency=8", Concurrency(count=8)),
        ("credits=100", Credits(images=100)),
        ("credits=0", Credits(images=0)),
    ],
)
def test_limits_are_read_from_text(text: str, limit: Limit) -> None:
    """Each limit has a text form; spaces do not count."""
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("", "10/s"),
        ("10", "10/s"),
        ("10/m", "10/min"),
        ("ten/min", "10/min"),
        ("window:5", "window:5/min"),
        ("concurrent=4", "concurrency=4"),
        ("credit:100", "credits=100"),
    ],
)
def test_unreadable_limits_are_refused_with_what_would_do(text: str, nearest: str) -> None:
    """The error names the forms there are, and the nearest one, which is itself a limit."""
    with pytest.raises(ConfigurationError, match="must be like 10/s") as caught:
        Emulator(limits=[text])
    assert f"nearest: {nearest!r}" in str(caught.value)
    parse_limit(nearest)


@pytest.mark.parametrize(
    ("rate", "pace"), [(2, "2 orders a second"), (10 / 60, "10 orders a minute"), (9 / 3600, "9 orders an hour")]
)
def test_a_refusal_names_the_rate_in_whole_orders(rate: float, pace: str) -> None:
    """A slow rate is named by the minute or the hour, and not in fractions of an order."""
    limiter = RateLimiter(limits=[TokenBucket(rate=rate)], latency="0s")
    limiter.charge(WORKLOAD, now=START)
    refusal = limiter.refuse(WORKLOAD, now=START)
    assert refusal is not None
    assert refusal.message.startswith(f"More than {pace}. Try again in ")


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenBucket(rate=0),
        lambda: TokenBucket(rate=float("nan")),
        lambda: TokenBucket(rate=1, burst=0),
        lambda: FixedWindow(count=1, seconds=float("inf")),
        lambda: FixedWindow(count=True, seconds=1),
        lambda: Concurrency(count=0),
        lambda: Credits(images=-1),
        lambda: Credits(images=1, status=200),
        lambda: parse_limit("0/s"),
    ],
)
def test_impossible_limits_are_refused(make: Callable[[], object]) -> None:
    """A limit that admits nothing for ever, or answers with no error, is a mistake."""
    with pytest.raises(ConfigurationError, match="must be"):
        make()


def test_a_shared_limit_shares_no_state() -> None:
    """Two emulators with the same limit count for themselves."""
    limit = TokenBucket(rate=0.001)
    first, second = (ordering(Emulator(pixels=64, clock=VirtualClock(), limits=[limit])) for _ in range(2))
    assert [order().status_code for order in (first, first, second)] == [200, 429, 200]
