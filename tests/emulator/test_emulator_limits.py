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
from flux_openai.emulator.load.gate import Gate
from flux_openai.emulator.load.latency import Work
from flux_openai.emulator.load.limit_texts import parse_limit
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL

START = 1_750_000_000.0
WORK = Work(token="a fox")  # noqa: S106  # no password
GAPS = st.lists(st.floats(0, 5) | st.sampled_from((0.0, 0.1, 1.0)), min_size=1, max_size=60)
RATES = st.sampled_from((0.1, 1 / 3, 1.0, 7.0, 60.0)) | st.floats(0.01, 100)
LIMITS = st.one_of(
    st.builds(TokenBucket, rate=RATES, burst=st.integers(1, 20)),
    st.builds(FixedWindow, count=st.integers(1, 20), seconds=st.sampled_from((0.5, 1.0, 60.0)) | st.floats(0.1, 100)),
    st.builds(Concurrency, count=st.integers(1, 20)),
)


def admitted(limit: Limit, gaps: list[float], *, latency: str = "0s") -> list[float]:
    """The times at which orders get through, of one after each gap."""
    gate, now, through = Gate(limits=[limit], latency=latency), START, []
    for gap in gaps:
        now += gap
        if gate.refuse(WORK, now=now) is None:
            gate.charge(WORK, now=now)
            through.append(now)
    return through


def windows(times: list[float]) -> list[tuple[float, int]]:
    """The length of each stretch between two admissions, and how many it holds, both included."""
    return [(end - first, n) for at, first in enumerate(times) for n, end in enumerate(times[at:], start=1)]


@given(gaps=GAPS, rate=RATES, burst=st.integers(1, 20))
def test_a_bucket_gives_no_more_than_its_rate_and_its_burst(gaps: list[float], rate: float, burst: int) -> None:
    """No stretch of t seconds has more than rate * t + burst orders; two microseconds are for the rounding."""
    through = admitted(TokenBucket(rate=rate, burst=burst), gaps)
    assert all(n <= rate * (length + 2e-6) + burst for length, n in windows(through))


@given(gaps=GAPS, count=st.integers(1, 20), seconds=st.integers(1, 100))
def test_a_window_gives_no_more_than_its_count(gaps: list[float], count: int, seconds: int) -> None:
    """No window of Unix time has more than `count` orders, and so no stretch as long more than twice as many."""
    through = admitted(FixedWindow(count=count, seconds=seconds), gaps)
    starts = [now // seconds for now in through]
    assert all(starts.count(start) <= count for start in starts)


@given(gaps=GAPS, count=st.integers(1, 20))
def test_no_more_than_so_many_are_under_way(gaps: list[float], count: int) -> None:
    """Of orders that take two seconds, those of the last two seconds are under way."""
    through = admitted(Concurrency(count=count), gaps, latency="2s")
    assert all(sum(now - 2 + 2e-6 < other <= now for other in through) <= count for now in through)


@given(limit=LIMITS, pause=st.floats(0, 100))
def test_no_limit_is_stricter_than_it_says(limit: Limit, pause: float) -> None:
    """Of many orders at once, exactly as many get through as there is room for; and so again after a long pause."""
    assert isinstance(limit, TokenBucket | FixedWindow | Concurrency)
    room = limit.burst if isinstance(limit, TokenBucket) else limit.count
    at_once = [0.0] * 30
    assert len(admitted(limit, [pause, *at_once], latency="2s")) == room
    assert len(admitted(limit, [pause, *at_once, 100_000.0, *at_once], latency="2s")) == 2 * room


@given(seconds=st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_a_place_is_free_when_its_order_has_ended(seconds: list[float]) -> None:
    """Who orders again as soon as the answer is there is never alone too many."""
    now = START
    for latency in seconds:
        gate = Gate(limits=["concurrency=1"], latency=Constant(seconds=latency))
        now += gate.charge(WORK, now=now)
        assert gate.refuse(WORK, now=now) is None


@given(limits=st.lists(LIMITS, min_size=1, max_size=3), gaps=GAPS)
def test_who_waits_as_asked_is_admitted(limits: list[Limit], gaps: list[float]) -> None:
    """A client that comes back after exactly Retry-After, in whole seconds, gets through all limits."""
    gate, now = Gate(limits=limits, latency="2s"), START
    for gap in gaps:
        now += gap
        refusal = gate.refuse(WORK, now=now)
        if refusal is not None:
            assert refusal.status == 429
            now += int(refusal.headers["retry-after"])
        assert gate.refuse(WORK, now=now) is None
        gate.charge(WORK, now=now)


@given(limit=LIMITS, gaps=GAPS)
def test_waiting_less_by_a_second_is_not_enough(limit: Limit, gaps: list[float]) -> None:
    """Retry-After is not longer than it has to be."""
    gate, now = Gate(limits=[limit], latency="2s"), START
    for gap in gaps:
        now += gap
        refusal = gate.refuse(WORK, now=now)
        if refusal is None:
            gate.charge(WORK, now=now)
        elif (less := int(refusal.headers["retry-after"]) - 1) > 0:
            assert gate.refuse(WORK, now=now + less - 2e-6) is not None


@given(orders=st.lists(st.integers(1, 4), max_size=40), images=st.integers(0, 60))
def test_credit_is_drawn_by_what_is_carried_out(orders: list[int], images: int) -> None:
    """Images never exceed the credit, and an order is refused only if it does not fit any more."""
    gate, left = Gate(limits=[Credits(images=images)], latency="0s"), images
    for n in orders:
        work = replace(WORK, images=n)
        refusal = gate.refuse(work, now=START)
        assert (refusal is not None) == (n > left)
        if refusal is None:
            gate.charge(work, now=START)
            left -= n
    assert left >= 0


Order = Callable[..., httpx.Response]


def ordering(emulator: Emulator) -> Order:
    http = emulator.http_client(base_url=emulator.base_url, headers={"authorization": "Bearer test"})
    return lambda n=1: http.post("/images/generations", json={"model": DEFAULT_MODEL, "prompt": "a fox", "n": n})


def test_a_refusal_is_the_documented_error_and_costs_nothing() -> None:
    """429 in the envelope with Retry-After, nothing billed and no latency; lists and downloads are not limited."""
    clock = VirtualClock()
    emulator = Emulator(pixels=64, clock=clock, limits=["1/min"], latency="4s")
    order = ordering(emulator)
    url = order().json()["data"][0]["url"]
    refused = order(n=4)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "56")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["param"] == refused.headers["x-request-id"]
    assert emulator.bill == Bill(images=1, calls=1)
    assert emulator.http_client().get(url).status_code == 200
    assert len(emulator.requests) == 3
    assert clock.now() == VirtualClock().now() + 4


def test_what_one_limit_refuses_draws_on_no_other() -> None:
    """An order for more than the credit takes no token from the bucket beside it, and no waiting is asked for."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits=["1/h", "credits=2"]))
    refused = order(n=3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "retry-after" not in refused.headers
    assert [order(n=2).status_code, order(n=1).json()["error"]["code"]] == [200, "insufficient_quota"]


def test_the_longest_wait_is_asked_for() -> None:
    """Two limits that refuse at once speak with the voice of the slower."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits=["1/s", "1/min", "concurrency=1"], latency="0s"))
    assert [order().status_code, order().headers["retry-after"]] == [200, "60"]


def test_wrong_orders_use_up_no_limit() -> None:
    """What is refused for its content never got as far."""
    order = ordering(Emulator(pixels=64, clock=VirtualClock(), limits="1/h"))
    assert [order(n=n).status_code for n in (9, 0, 1, 1)] == [400, 400, 200, 429]


def test_faults_strike_what_the_limits_admit() -> None:
    """A refused call uses up no fault; an unbilled fault draws on no limit, and a billed one does."""
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
        ("36/h, burst=2", TokenBucket(rate=0.01, burst=2)),
        ("window:60/min", FixedWindow(count=60, seconds=60)),
        ("concurrency=8", Concurrency(count=8)),
        ("credits=100", Credits(images=100)),
        ("credits=0,status=402,code=no_balance", Credits(images=0, status=402, code="no_balance")),
    ],
)
def test_limits_are_read_from_text(text: str, limit: Limit) -> None:
    """Each limit has a text form."""
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("", "10/s"),
        ("10", "10/s"),
        ("10/m", "10/min"),
        ("ten/min", "10/min"),
        ("window:5/s,burst=2", "window:5/min"),
        ("concurrent=4", "concurrency=4"),
        ("credit:100", "credits=100"),
    ],
)
def test_unreadable_limits_are_refused_with_what_would_do(text: str, nearest: str) -> None:
    """The error has the forms there are and the nearest one, which can be read itself."""
    with pytest.raises(ConfigurationError, match="must be like 10/s") as caught:
        Emulator(limits=[text])
    assert f"nearest: {nearest!r}" in str(caught.value)
    parse_limit(nearest)


@pytest.mark.parametrize(
    ("text", "pace"),
    [("2/s", "2 orders a second"), ("10/min", "10 orders a minute"), ("9/h", "9 orders an hour")],
)
def test_a_refusal_says_the_rate_as_it_was_meant(text: str, pace: str) -> None:
    """Not in fractions of an order."""
    gate = Gate(limits=[f"{text},burst=1"], latency="0s")
    gate.charge(WORK, now=START)
    refusal = gate.refuse(WORK, now=START)
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
def test_limits_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    """What would admit nothing for ever, or is no error, is a mistake."""
    with pytest.raises(ConfigurationError, match="must be"):
        make()


def test_a_shared_limit_is_no_shared_state() -> None:
    """Limits are values: two emulators with the same one count for themselves."""
    limit = TokenBucket(rate=0.001)
    first, second = (ordering(Emulator(pixels=64, clock=VirtualClock(), limits=[limit])) for _ in range(2))
    assert [order().status_code for order in (first, first, second)] == [200, 429, 200]
