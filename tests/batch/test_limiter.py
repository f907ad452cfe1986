"""The limiter: what each event changes, and what it makes of hidden limits in a simulation."""

import math
from random import Random
from typing import TYPE_CHECKING

import pytest

from flux_openai.batch.limiter import (
    LimiterState,
    asked_to_wait,
    next_start,
    on_cancelled,
    on_failure,
    on_rejected,
    on_start,
    on_success,
)
from flux_openai.emulator.load.limits import Concurrency, FixedWindow, Limit, State, TokenBucket
from tests.batch.simulated import simulate

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from flux_openai.emulator.api.responses import ServiceError
    from flux_openai.emulator.load.latency import Workload


def under_way(count: int, *, now: float = 100.0, max_inflight: int = 100) -> LimiterState:
    """A limiter with so many requests that were started just now."""
    state = LimiterState(max_inflight=max_inflight)
    for _ in range(count):
        state = on_start(state, now)
    return state


@pytest.mark.parametrize("latency", [0.5, 1.5, 6.0])
def test_storm(latency: float) -> None:
    """600 prompts under 50 a second all succeed, in 1.1 times what the limit takes, with 5 % refused at most."""
    run = simulate(TokenBucket(rate=50, burst=50), latency=latency, spread=0.0, prompts=600, round_trip=0.005)
    assert run.succeeded == 600
    assert run.rejected <= 0.05 * run.started
    assert run.seconds <= 1.1 * (11 + latency)


@pytest.mark.parametrize(
    ("limit", "retry_after", "latency", "share", "refused"),
    [
        (TokenBucket(rate=10, burst=10), True, 6.0, 0.95, 0.02),
        (TokenBucket(rate=10, burst=10), False, 6.0, 0.95, 0.02),
        (FixedWindow(count=300, seconds=60), False, 6.0, 0.95, 0.03),
        (TokenBucket(rate=10, burst=1), False, 1.5, 0.93, 0.02),
        (TokenBucket(rate=0.5, burst=1), True, 6.0, 0.85, 0.05),
        (TokenBucket(rate=0.5, burst=1), False, 1.5, 0.85, 0.12),
        (TokenBucket(rate=1 / 3, burst=20), False, 1.5, 0.95, 0.25),
        pytest.param(TokenBucket(rate=100, burst=100), True, 1.5, 0.95, 0.02, marks=pytest.mark.full),
        pytest.param(TokenBucket(rate=100, burst=100), True, 25.0, 0.9, 0.02, marks=pytest.mark.full),
        pytest.param(TokenBucket(rate=10, burst=10), True, 25.0, 0.95, 0.02, marks=pytest.mark.full),
    ],
)
def test_hidden_rate(limit: Limit, retry_after: bool, latency: float, share: float, refused: float) -> None:  # noqa: FBT001  # a table
    """A hidden rate is used up to its share, and few requests are refused on the way."""
    rate = limit.rate if isinstance(limit, TokenBucket) else 5.0
    run = simulate(limit, latency=latency, seconds=240, retry_after=retry_after)
    assert run.started - run.rejected >= share * rate * 240
    assert run.rejected <= refused * run.started


class Lowered:
    """A hidden limit of 20 requests a second, and for ten minutes in between of 5."""

    def __init__(self) -> None:
        self._usual, self._low = TokenBucket(rate=20, burst=20), TokenBucket(rate=5, burst=5)

    def refuse(self, state: State, *, now: "Fraction", workload: "Workload") -> "ServiceError | None":
        """Refuse by the limit of the time."""
        return self._limit(now).refuse(state, now=now, workload=workload)

    def charge(self, state: State, *, now: "Fraction", workload: "Workload", seconds: "Fraction") -> State:
        """Charge by the limit of the time."""
        return self._limit(now).charge(state, now=now, workload=workload, seconds=seconds)

    def _limit(self, now: "Fraction") -> TokenBucket:
        return self._low if 1600 <= now < 2200 else self._usual  # a simulation begins between 1000 and 1060


@pytest.mark.parametrize(("seed", "spread"), [(3, 0.35), pytest.param(3, 0.0, marks=pytest.mark.full)])
def test_a_limit_that_is_raised_again(seed: int, spread: float) -> None:
    """A limit is used up also after it was low for so long that it was often taken for a number at a time."""
    run = simulate(Lowered(), latency=6.0, spread=spread, seconds=1800, seed=seed)
    assert run.started - run.rejected >= 0.95 * (20 * 1200 + 5 * 600)
    assert run.rejected <= 0.02 * run.started


@pytest.mark.parametrize(("peak", "burst"), [(40, 1.0), (16, 20.0)])
def test_what_a_limit_saves_up(peak: int, burst: float) -> None:
    """A refused early start says how little a limit saves up, unless the number under way may be the limit."""
    state = under_way(16)._replace(middle=50.0, held=True, window=40.0, peak=peak, burst=40.0, early=True, ahead=2)
    assert on_rejected(state, 100.5, retry_after=None, latency=0.02).burst == burst


@pytest.mark.parametrize("seed", range(1, 4))
def test_growth_after_the_first_answers(seed: int) -> None:
    """The first answers, after six seconds, let the rate grow, not those that come six seconds later."""
    run = simulate(TokenBucket(rate=100, burst=100), latency=6.0, seconds=60, seed=seed)
    assert run.started - run.rejected >= 0.895 * 100 * 60


@pytest.mark.parametrize("seed", [4, 6, 8, 12])
def test_a_limit_that_saves_nothing_up(seed: int) -> None:
    """A limit that admits one request at a time is not taken for one that saves up, whenever the first 429 comes."""
    run = simulate(TokenBucket(rate=10, burst=1), latency=1.5, retry_after=False, seconds=300, seed=seed)
    assert run.started - run.rejected >= 0.93 * 10 * 300
    assert run.rejected <= 0.02 * run.succeeded


@pytest.mark.parametrize(
    ("count", "latency", "spread", "share"),
    [
        (16, 1.5, 0.35, 0.95),
        (16, 6.0, 0.0, 0.95),
        (60, 1.5, 0.35, 0.93),
        pytest.param(200, 1.5, 0.0, 0.88, marks=pytest.mark.full),
        pytest.param(200, 6.0, 0.35, 0.95, marks=pytest.mark.full),
    ],
)
def test_hidden_concurrency(count: int, latency: float, spread: float, share: float) -> None:
    """A hidden number of requests at a time is found, kept, and tried again more and more seldom."""
    run = simulate(Concurrency(count=count), latency=latency, spread=spread, seconds=600)
    assert run.succeeded >= share * count * 600 / (latency * math.exp(spread**2 / 2) + 0.02)
    assert run.rejected <= 0.02 * run.started
    assert run.most <= count + 4


@pytest.mark.parametrize(("servers", "most"), [(8, 450), (200, 1000)])
def test_queue_without_a_limit(servers: int, most: int) -> None:
    """A service that queues instead of refusing is not flooded: growth stops when answers only become slower."""
    run = simulate(None, latency=2.0, seconds=120, servers=servers)
    assert run.succeeded >= 0.9 * servers / 2.13 * 110
    assert run.most < most


@pytest.mark.parametrize(("rate", "late"), [(100, 0.1), (20, 0.2)])
def test_busy_event_loop(rate: int, late: float) -> None:
    """Late timers do not lower the rate: what is due is started together, and nothing wrong is learned from it."""
    run = simulate(TokenBucket(rate=rate, burst=rate), latency=1.5, seconds=120, late=late)
    assert run.started - run.rejected >= 0.93 * rate * 120
    assert run.rejected <= 0.02 * run.started


def test_growth_follows_the_answers() -> None:
    """However long a service answers 20 requests a second, no more than a few times as many are started."""
    state, now = under_way(40), 100.0
    for _ in range(2000):
        now += 0.05
        state = on_start(on_success(state, now, latency=2.0), now)
    assert state.rate <= 50 + 2 * 20.1
    assert state.window <= 100
    for _ in range(40):  # then none is answered any more
        state = on_cancelled(state, now)
    assert on_cancelled(state, now + 60).window == state.window


def test_an_answered_probe_ends_the_outage() -> None:
    """The answer to the probe ends an outage at once, however long a refusal had taken."""
    state = on_rejected(under_way(40), 110.0, retry_after=None, latency=10.0)
    state = on_start(state, 120.0)
    assert (next_start(state, 120.1) or 0) > 1
    state = on_success(state, 120.1, latency=0.05)
    assert (next_start(state, 121.0) or 0) < 1


def test_one_cut_for_all_under_way() -> None:
    """When everything in flight is refused at once, the rate is cut once, and one probe goes out."""
    state = under_way(40)
    first = on_rejected(state, 100.2, retry_after=2, latency=0.2)
    state = first
    for _ in range(39):
        state = on_rejected(state, 100.2, retry_after=2, latency=0.2)
    assert (state.in_flight, state.rate) == (0, first.rate)
    assert next_start(state, 100.2) == pytest.approx(2)
    assert next_start(state, 102.3) == 0
    state = on_start(state, 102.3)
    assert next_start(state, 102.3) == pytest.approx(0.4, abs=0.01)  # until the probe counts as admitted
    refused = on_rejected(state, 102.5, retry_after=None, latency=0.2)
    assert refused.rate == pytest.approx(first.rate)
    assert (next_start(refused, 102.5) or 0) > 0
    assert next_start(state, 103.2) == 0


def test_all_in_flight_fail_at_once() -> None:
    """When everything in flight fails at once, there is one cut and one probe, and no request more until it is over."""
    state = under_way(40)
    for _ in range(40):
        state = on_failure(state, 101.0)
    assert state.in_flight == 0
    assert state.window >= 20
    assert (next_start(state, 101.0) or 0) > 0
    state = on_start(state, 110.0)
    assert next_start(state, 110.0) != 0


@pytest.mark.parametrize(("retry_after", "asked"), [(None, None), (120, None), (121, 121), (3600, 3600)])
def test_long_retry_after(retry_after: float | None, asked: float | None) -> None:
    """A Retry-After is waited for, and one of more than 120 s is shown to the caller while it lasts."""
    state = on_rejected(under_way(2), 100.0, retry_after=retry_after, latency=0.1)
    assert asked_to_wait(state, 100.0) == asked
    assert asked_to_wait(state, 100.0 + (retry_after or 0)) is None
    if retry_after:
        assert next_start(on_cancelled(state, 100.0), 100.0) == pytest.approx(retry_after)


def test_failure_pauses_growth() -> None:
    """A failure pauses growth, one of many is no cut, and growth goes on afterwards."""
    state = on_failure(under_way(40), 100.0)
    assert (state.rate, state.outage) == (LimiterState(max_inflight=1).rate, False)
    paused, later = on_cancelled(state, 104.0), on_cancelled(state, 107.0)
    assert paused.window == state.window
    assert later.window > state.window


def test_answers_in_no_time() -> None:
    """Thousands of answers within one tick of a coarse clock do not break the next cut."""
    state = on_success(under_way(16), 101.0, latency=1.0)
    for second in range(7000):
        state = on_success(on_start(state, 102.0 + second), 102.0 + second, latency=0.0)
    assert state.latency < 1e-300
    state = on_start(state._replace(held=True), 8000.0)
    assert on_rejected(state, 8000.0, retry_after=None, latency=0.0).trial_after == 8


def test_zero_latency() -> None:
    """Calls that take no time, at a clock that stands still, never bring the rate or the window out of range."""
    state, now = LimiterState(max_inflight=8), 5.0
    for _ in range(5000):
        now += next_start(state, now) or 0.0
        state = on_success(on_start(state, now), now, latency=0.0)
    assert state.in_flight == 0
    assert state.window == 8
    assert state.rate <= 10_000


@pytest.mark.parametrize("max_inflight", [1, 2, 64])
def test_any_order_of_events(max_inflight: int) -> None:
    """Whatever happens, also when time goes back, nothing crashes, the cap holds, and it never waits for nothing."""
    events: list[Callable[[LimiterState, float], LimiterState]] = [
        lambda state, now: on_success(state, now, latency=0.3),
        lambda state, now: on_rejected(state, now, retry_after=None, latency=0.1),
        lambda state, now: on_rejected(state, now, retry_after=1, latency=50),
        on_failure,
        on_cancelled,
    ]
    random = Random(max_inflight)  # noqa: S311  # no secret
    state, now = LimiterState(max_inflight=max_inflight), 0.0
    for _ in range(5000):
        now += random.choice([0.0, 0.01, 1.0, 40.0, -5.0])
        wait = next_start(state, now)
        if wait == 0:
            state = on_start(state, now)
        elif wait is None:
            assert state.in_flight > 0
        if state.in_flight and random.random() < 0.6:
            state = random.choice(events)(state, now)
        assert 0 <= state.in_flight <= max_inflight
        assert 0 < state.rate <= 10_000
        assert state.window >= 1
