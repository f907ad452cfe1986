"""A service with a hidden limit, in virtual time: a discrete-event simulation for the limiter."""

import heapq
import math
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from flux_openai.batch import limiter
from flux_openai.batch.limiter import LimiterState
from flux_openai.emulator.load.latency import Workload
from flux_openai.emulator.load.limits import Limit, State


@dataclass(kw_only=True)
class Run:
    """What came of a simulated run."""

    started: int = 0
    succeeded: int = 0
    rejected: int = 0
    seconds: float = 0.0
    most: int = 0


def simulate(
    limit: Limit | None,
    *,
    latency: float,
    spread: float = 0.35,
    prompts: int = 10**9,
    seconds: float = math.inf,
    retry_after: bool = True,
    round_trip: float = 0.02,
    servers: int | None = None,
    max_inflight: int = 4000,
    late: float = 0.002,
    seed: int = 1,
) -> Run:
    """Run until all prompts succeeded, or for so many seconds.

    `spread` is the sigma of the lognormal latency, and `servers` the number of requests that are worked on at a time;
    the others wait in a queue. `late` is how late a timer is at most.
    """
    random, run, state = Random(seed), Run(), LimiterState(max_inflight=max_inflight)  # noqa: S311  # no secret
    start = now = 1000.0 + random.random() * 60
    ends: list[tuple[float, int, float, bool, float | None]] = []
    hidden: State = ()
    free = [0.0] * (servers or 0)
    waiting = prompts
    while True:
        while waiting and (wait := limiter.next_start(state, now)) == 0:
            state, waiting = limiter.on_start(state, now), waiting - 1
            run.started, run.most = run.started + 1, max(run.most, state.in_flight)
            took = latency * math.exp(random.gauss(0, spread))
            instant = Fraction(round(now * 1_000_000), 1_000_000)
            work = Workload(occurrence_id=str(run.started))
            if limit is not None and (error := limit.refuse(hidden, now=instant, workload=work)):
                after = float(error.headers["retry-after"]) if retry_after else None
                heapq.heappush(ends, (now + round_trip, run.started, now, False, after))
                continue
            if servers:
                begin = max(heapq.heappop(free), now)
                heapq.heappush(free, begin + took)
                took += begin - now
            if limit is not None:
                lasting = Fraction(round(took * 1_000_000), 1_000_000)
                hidden = limit.charge(hidden, now=instant, workload=work, seconds=lasting)
            heapq.heappush(ends, (now + took + round_trip, run.started, now, True, None))
        wait = limiter.next_start(state, now) if waiting else None
        wake = math.inf if wait is None else now + wait + random.random() * late
        end = ends[0][0] if ends else math.inf
        if min(wake, end) > start + seconds or (wait is None and not ends):
            run.seconds = min(seconds, now - start)
            return run
        if wake < end:
            now = wake
            continue
        now, _, began, admitted, after = heapq.heappop(ends)
        if admitted:
            state, run.succeeded = limiter.on_success(state, now, latency=now - began), run.succeeded + 1
        else:
            state = limiter.on_rejected(state, now, retry_after=after, latency=now - began)
            run.rejected, waiting = run.rejected + 1, waiting + 1
