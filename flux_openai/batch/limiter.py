"""Adaptive concurrency: how many requests may be under way, and when the next may start, under limits nobody tells us.

Pure functions on a frozen `LimiterState`. They read no clock: the time comes in as `now`, in monotonic seconds.

There are two kinds of hidden limits, a rate and a number of requests at a time, and a 429 does not say which one it
was. So there is a `rate`, which spaces the starts, and a `window`, the number of requests under way.

*Start.* Both grow fast until the first 429, which costs nothing, as far as answers come and the window is used.

*429.* One cut for all requests under way, then no start until Retry-After, or a growing wait, has passed. One request
probes: if it is answered, or not refused at once, the others follow.

*Rate.* Between two cuts the limit has let through what it lets through, so the requests admitted, divided by the time,
are a lower bound for the rate of the limit; the pace at the 429 is an upper one. The pace starts again a little below
their middle, comes back to it within a cycle, and then searches upwards, faster and faster.

*Window.* If as many requests had not been under way before, their number may be the limit, and the window is set to it.
One request more is tried soon, and each time that is refused after twice as many answers, up to some; if it is
admitted, the window grows by doubling steps until it no longer matters.

*Trouble.* A failure pauses growth. Many of them count as a 429. If answers become much slower while no more of them
come, nothing grows either: more requests would only wait longer, until they time out.
"""

import math
from random import Random
from typing import NamedTuple

__all__ = [
    "LimiterState",
    "asked_to_wait",
    "next_start",
    "on_cancelled",
    "on_failure",
    "on_rejected",
    "on_start",
    "on_success",
]

_FIRST = 50.0
"""The first window, and the first starts a second. With 4, a service for 50 a second is half idle for ten seconds.
Above twice the answers a second and this, no rate grows: a service that does not keep up would only be flooded."""

_GROWTH = 1.5
"""The growth in a second until the first 429."""

_CUT = 0.96
"""The pace after a cut, as a share of what the limit seems to be. At 1.0, the next 429 would come at once."""

_UPWARDS = 0.4
"""Where the limit is looked for, between the requests a second that were admitted and the pace that was refused."""

_CYCLE, _CYCLE_REQUESTS = 10.0, 60
"""A cycle lasts so many seconds, and so many requests at least: a shorter one has more than 2 % of refused requests."""

_FIRST_TRIAL, _FIRST_SHARE = 4, 8
"""The answers before the first trial of a larger window, or the window divided by this, if that is more. Each refused
trial is a 429, and a pause of the starts: with 200 under way, 4 answers come at once, and so would the next pause."""

_RARE_TRIAL, _TRIAL_SECONDS = 64, 45.0
"""At most so many answers or seconds, whichever is longer, are between two trials. A limit of a rate is often taken for
a window: at 5 a second, 512 answers between two trials hide for 100 s that the limit was raised."""

_CERTAIN = 4
"""The refused trials in a row after which the rate is not cut below what a full window lets through. Each such 429 and
its pause would lower it once more, and it would take too long to come back: 200 at a time for 1.5 s each gave 70 %."""

_LATE, _LATEST = 0.03, 0.1
"""Seconds that a start may be late and be made up for, under any limit, and under one that saves up starts. Without
this, each late timer would lower the rate, and a busy event loop would start one request each time it comes round."""

_EARLY = 0.95
"""The share of the time between two starts below which the second one is early."""

_SETTLED = 0.15
"""Seconds after which a request counts as admitted, or twice what the last 429 took, if that is longer."""

_WAIT, _LONGEST_WAIT = 0.1, 8.0
"""Seconds before the first probe, and at most before a further one, if the service names no time."""

_LONG = 120.0
"""Seconds. A run that has to wait for longer is better paused."""

_HEALTH, _CALM = 30.0, 5.0
"""Seconds in which failures are counted, and for which a failure pauses growth."""

_FAILING, _FAILURES, _FAILING_CUT = 0.05, 3, 0.7
"""The share of failures that means congestion, from so many on (one of ten says nothing), and what is left then."""

_SLOW, _MORE = 2.5, 1.1
"""Answers this much slower than usual, without this much more of them a second, stop growth. The times of equal rows
already differ by a factor of two."""


class LimiterState(NamedTuple):  # a frozen dataclass of this size takes five times as long to change
    """What has been learned so far.

    Attributes:
        max_inflight: The most requests that may ever be under way at once.
        in_flight: The number of requests under way.
        now: The latest time seen. A clock that goes back stands still here.
        window: The most requests under way; while nothing is `held`, it grows.
        held: Whether the window was set by a 429.
        peak: The most requests that were under way, lately.
        trials: The trials of a larger window that were refused in a row.
        trial_after: The answers until the next trial.
        over_at: When the request was started that is more than the window; None without one.
        step: What the window grows by if that request is admitted.
        rate: The starts a second.
        low: The rate at the beginning of the cycle.
        middle: The rate at its end; None before the first 429.
        progress: The cycles since the cut.
        cuts: How often the rate was cut.
        credit: The starts that are due.
        burst: The most starts that may be due: a limit saves up what is not used, often for a second.
        started_at: When the last request was started.
        last_start: The same, or when it should have been started if it was late.
        paced: Whether it had to wait for the rate, not for the window or for the caller.
        early: Whether it came of what was saved up, sooner than the rate alone would have it.
        ahead: How many such requests were started since the last cut.
        cut_at: When the last cut was made.
        admitted: The requests started since then and not refused.
        outage: Whether nothing but a probe may start.
        gate: When the probe may start.
        probe_at: When it was started; None if it was not, or is refused.
        probes: The requests refused in this outage, but for those that were under way before.
        closed: How long the last outage lasted.
        settled: The seconds after which a request counts as admitted.
        asked_until: The end of a long Retry-After.
        calm_at: When growth goes on after a failure.
        counted_from: When the counting of failures began.
        answered: The answers since then.
        failed: The failures since then.
        latency: The seconds of an answer, smoothed.
        usual: The seconds of a quick answer: falls faster than it rises.
        round_from: When this round began; a round is the usual time of an answer, or a second until the first 429.
        round_answers: The answers in it.
        flow: The answers a second in the last round.
        best: The answers a second in the best round.
        slow: Whether answers became slower, and not more.
    """

    max_inflight: int
    in_flight: int = 0
    now: float = -math.inf
    window: float = _FIRST
    held: bool = False
    peak: int = 0
    trials: int = 0
    trial_after: int = 0
    over_at: float | None = None
    step: int = 1
    rate: float = _FIRST
    low: float = 0.0
    middle: float | None = None
    progress: float = 0.0
    cuts: int = 0
    credit: float = 1.0
    burst: float = 10.0
    started_at: float = -math.inf
    last_start: float = -math.inf
    paced: bool = True
    early: bool = False
    ahead: int = 0
    cut_at: float = -math.inf
    admitted: int = 0
    outage: bool = False
    gate: float = -math.inf
    probe_at: float | None = None
    probes: int = 0
    closed: float = 0.0
    settled: float = _SETTLED
    asked_until: float = -math.inf
    calm_at: float = -math.inf
    counted_from: float = -math.inf
    answered: int = 0
    failed: int = 0
    latency: float = 0.0
    usual: float = 0.0
    round_from: float = -math.inf
    round_answers: int = 0
    flow: float = 0.0
    best: float = 0.0
    slow: bool = False


def next_start(state: LimiterState, now: float) -> float | None:
    """Seconds until the next request may start: 0.0 for now, None if a request under way has to end first.

    Ask again after these seconds, and after each change of the state.
    """
    state = _advance(state, now)
    if state.in_flight >= state.max_inflight:
        return None
    full = state.in_flight >= max(1, int(state.window))
    if state.outage:
        if state.probe_at is not None:
            return _until(state, state.probe_at + state.settled)
        # The first probe may go over the window: if it is admitted, the window was not what the 429 was about.
        return None if full and state.trials else max(0.0, state.gate - state.now)
    due = max(state.last_start + _spacing(state), state.now + (1 - state.credit) / state.rate)
    if full:
        if state.over_at is not None:
            due = max(due, state.over_at + state.settled)
        elif state.held:
            if state.trial_after > 0 or state.in_flight > state.window or not _growing(state):
                return None
            due = max(due, state.last_start + _between_answers(state))
        elif not _growing(state):
            return None
        elif (wanted := state.in_flight + 1) > state.window:
            due = max(due, state.now + math.log(wanted / state.window, _GROWTH))
    return _until(state, due) if due > state.now else 0.0


def asked_to_wait(state: LimiterState, now: float) -> float | None:
    """The seconds left of a Retry-After of more than 120 s, for which a run should rather pause; None without one."""
    left = state.asked_until - max(now, state.now)
    return left if left > 0 else None


def on_start(state: LimiterState, now: float) -> LimiterState:
    """The state after a request was started."""
    state = _advance(state, now)
    in_flight = state.in_flight + 1
    credit, late = state.credit, min((state.credit - 1) / state.rate, state.now - state.last_start - _spacing(state))
    if late >= _LATE / 2:  # the caller had nothing to send: only what the limit saves up is still there
        credit = min(credit, state.burst)
    over = state.held and in_flight > int(state.window)
    early = state.now - state.started_at < _EARLY / state.rate
    return state._replace(
        in_flight=in_flight,
        peak=max(state.peak, in_flight),
        over_at=state.now if over else state.over_at,
        credit=(max(1.0, credit) if state.outage else credit) - 1,
        started_at=state.now,
        last_start=state.now - max(0.0, min(late, _LATEST)),  # when it should have been
        paced=state.step > 1 or late < _LATE,
        early=early,
        ahead=state.ahead + early,
        admitted=state.admitted + 1,
        probe_at=state.now if state.outage else state.probe_at,
    )


def on_success(state: LimiterState, now: float, *, latency: float) -> LimiterState:
    """The state after an answer; one that refuses the request for its content counts too, unless it is a 429."""
    state = _count(_ended(state, now), answers=1)
    tried = state.probe_at if state.outage else state.over_at
    if tried is not None and latency <= state.now - tried:  # it is answered, or one that was started later
        state = state._replace(settled=min(state.settled, state.now - tried))
    latency = state.latency + (latency - state.latency) / 8 if state.latency else latency
    usual = state.usual or latency
    state = state._replace(
        trial_after=state.trial_after - 1,
        latency=latency,
        usual=usual,
        round_answers=state.round_answers + 1,
    )
    seconds = state.now - state.round_from
    if seconds < (1.0 if state.middle is None else max(1.0, state.usual)):  # until the first 429, growth waits for it
        return state
    flow = state.round_answers / seconds
    usual += (latency - usual) / (4 if latency < usual else 512)
    slow = latency > _SLOW * usual and flow < _MORE * state.best
    if slow and not state.held:
        state = state._replace(window=min(state.window, state.in_flight + 1.0))
    best = max(flow, state.best)
    return state._replace(usual=usual, round_from=state.now, round_answers=0, flow=flow, best=best, slow=slow)


def on_rejected(state: LimiterState, now: float, *, retry_after: float | None, latency: float) -> LimiterState:
    """The state after a 429; `latency` is the time since that request was started."""
    state = _ended(state, now)
    now, started = state.now, state.now - latency
    state = state._replace(admitted=max(0, state.admitted - 1), settled=max(_SETTLED, 2 * latency))
    gate = -math.inf if retry_after is None else now + retry_after
    if retry_after is not None and retry_after > _LONG:
        state = state._replace(asked_until=max(state.asked_until, gate))
    if started <= state.cut_at:  # it was under way when the cut was made: one cut for all of them
        if state.held and state.window < state.max_inflight and not state.trials:
            state = state._replace(window=float(max(1, min(int(state.window), state.in_flight))))
        return state._replace(outage=True, gate=gate, probe_at=None) if gate > max(now, state.gate) else state
    if state.outage:
        # A probe that is refused although there was room shows that the window was not what the 429 was about.
        if state.in_flight < state.window / 2 and state.window < state.max_inflight:
            state = state._replace(window=float(state.max_inflight), peak=2 * state.peak)
        state = state._replace(probes=state.probes + 1, probe_at=None, over_at=None)
    else:
        state = _cut(state)._replace(outage=True, probes=1, probe_at=None)
    return state._replace(gate=max(gate, state.gate) if retry_after is not None else now + _backoff(state))


def on_failure(state: LimiterState, now: float) -> LimiterState:
    """The state after a 5xx, a time-out or a broken connection."""
    state = _count(_ended(state, now), failures=1)
    state = state._replace(calm_at=state.now + _CALM)
    if state.failed < _FAILURES or state.failed <= _FAILING * (state.answered + state.failed):
        return state
    if state.outage:  # the service does not work for the probe either, or this one was under way with the others
        return (
            state._replace(probes=state.probes + 1, probe_at=None, gate=state.now + _backoff(state))
            if state.probe_at
            else state
        )
    cut = _cut(state)
    rate, window = _FAILING_CUT * min(state.rate, cut.rate), max(1.0, _FAILING_CUT * min(state.peak, state.window))
    cut = cut._replace(
        rate=rate, low=rate, middle=rate / _CUT, window=window, held=True, step=1, trial_after=_FIRST_TRIAL
    )
    cut = cut._replace(outage=True, probes=1, probe_at=None, counted_from=state.now, answered=0, failed=0)
    return cut._replace(gate=state.now + _backoff(cut))


def on_cancelled(state: LimiterState, now: float) -> LimiterState:
    """The state after a call that we ended ourselves, or that was never sent: it says nothing about the service."""
    return _ended(state, now)


def _advance(state: LimiterState, now: float) -> LimiterState:
    """The state at a later time, if nothing ended or started since."""
    if state.now == -math.inf:
        window = min(state.window, float(state.max_inflight))
        return state._replace(now=now, cut_at=now - 1e-3, counted_from=now, round_from=now, window=window)
    seconds = max(0.0, now - state.now)
    most = max(1.0, min(state.burst, state.rate)) + _LATE * state.rate
    state = state._replace(now=state.now + seconds, credit=min(most, state.credit + seconds * state.rate))
    if state.outage and state.probe_at is not None and state.now >= state.probe_at + state.settled:
        state = state._replace(outage=False, probe_at=None, probes=0, closed=state.probe_at - state.cut_at)
    if state.over_at is not None and state.now >= state.over_at + state.settled:
        window = min(float(state.max_inflight), state.window + state.step)
        state = state._replace(window=window, step=2 * state.step, over_at=None, trial_after=0)
    if state.outage or not _growing(state):
        return state
    growth = _GROWTH ** min(seconds, 50.0)
    if not state.held and 2 * state.in_flight >= state.window:  # a window that is not used says nothing
        state = state._replace(window=min(state.window * growth, float(state.max_inflight)))
    fastest = _FIRST + 2 * state.flow
    if state.middle is None:
        return state._replace(rate=min(state.rate * growth, fastest))
    if not state.paced:  # a rate that is not used says nothing about the limit
        return state
    requests = min(_CYCLE_REQUESTS, 2 ** min(state.cuts + 2, 20))  # the first estimates are rough, and corrected soon
    progress = state.progress + seconds / max(_CYCLE, requests / state.rate)
    height = 16 * state.middle if progress > 1 else state.middle - state.low
    rate = state.middle + height * (progress - 1) ** 3
    return state._replace(progress=progress, rate=min(rate, max(state.rate, fastest)))


def _cut(state: LimiterState) -> LimiterState:
    """The state after the first refused request of an outage."""
    others, learning = state.in_flight, state.middle is None
    at_peak = others >= 1 and others + 1 >= state.peak
    cut = state._replace(held=True, over_at=None)
    if at_peak:
        trials = state.trials + 1 if state.held and 8 * (state.step - 1) < state.window else 0
        after = _answers_before_trial(state, trials) if trials else 0
        cut = cut._replace(window=float(others), peak=others, trials=trials, trial_after=after, step=1)
    else:
        window = state.window if state.held else float(state.max_inflight)
        cut = cut._replace(window=window, peak=(others + state.peak + 1) // 2)
    if not at_peak or state.paced or learning:  # else the window is what was full
        cut = _slowed(cut, at_peak=at_peak)
    return cut._replace(cut_at=state.now, admitted=0, ahead=0)


def _answers_before_trial(state: LimiterState, trials: int) -> int:
    """The answers until one request more than the window is tried, after so many trials that were refused."""
    answers = max(_FIRST_TRIAL, state.in_flight // _FIRST_SHARE) << min(trials, 20)
    by_time = _TRIAL_SECONDS * state.in_flight / state.latency if state.latency else math.inf
    return int(min(answers, max(_RARE_TRIAL, by_time)))


def _slowed(state: LimiterState, *, at_peak: bool) -> LimiterState:
    """The state with a lower rate, after a 429; `at_peak` if it may be about the number of requests under way."""
    admitted = max(1, state.admitted)
    middle = lowest = admitted / max(state.now - state.cut_at, 1e-3)
    burst = state.burst
    if state.middle is None:
        burst = float(admitted)
    else:
        middle = lowest + _UPWARDS * (max(lowest, min(state.rate, 4 * lowest)) - lowest)
        # It was refused although the limit should have saved it up. About half of those that were started early were
        # saved up, as the limit refilled meanwhile. But a limit of the number under way refuses the first early one
        # too, and with a burst of one, a window whose requests end together is filled one by one. Where timers are
        # late, many are started early, and one of them is the last whatever the limit saves up.
        if state.early and state.ahead <= 2 * state.burst:
            burst = max(1.0, (burst if at_peak else min(burst, state.ahead)) / 2)
        if at_peak and state.trials >= _CERTAIN and state.latency:
            middle = max(middle, min(state.rate / _CUT, state.in_flight / state.latency))
    low = _CUT * middle
    return state._replace(cuts=state.cuts + 1, low=low, middle=middle, rate=low, progress=0.0, credit=0.0, burst=burst)


def _ended(state: LimiterState, now: float) -> LimiterState:
    state = _advance(state, now)
    return state._replace(in_flight=max(0, state.in_flight - 1))


def _count(state: LimiterState, *, answers: int = 0, failures: int = 0) -> LimiterState:
    if state.now - state.counted_from > _HEALTH:
        state = state._replace(counted_from=state.now, answered=0, failed=0)
    return state._replace(answered=state.answered + answers, failed=state.failed + failures)


def _growing(state: LimiterState) -> bool:
    return state.now >= state.calm_at and not state.slow


def _spacing(state: LimiterState) -> float:
    """The least time between two starts: what was saved up is sent at twice the rate, not at once."""
    return 0.5 / state.rate


def _between_answers(state: LimiterState) -> float:
    """Half the time between two answers, for a first trial: right after a start, the rate could refuse it."""
    return 0.5 * state.latency / state.window if state.step == 1 else 0.0


def _backoff(state: LimiterState) -> float:
    """Seconds before the next probe, a little at random: several runs behind one limit should not probe together."""
    first = max(_WAIT, 0.5 / state.rate, state.closed / 4)
    longest = max(_LONGEST_WAIT, 0.5 / state.rate, state.closed / 2)
    return min(longest, first * 2.0 ** min(state.probes - 1, 20)) * Random(state.now).uniform(0.75, 1.0)  # noqa: S311  # no secret


def _until(state: LimiterState, instant: float) -> float:
    # A little more, so that the time is over in spite of rounding when the caller asks again.
    return max(0.0, instant - state.now) + 1e-6
