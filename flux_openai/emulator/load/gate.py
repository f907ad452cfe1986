"""All limits together, and how long what they admit takes."""

import math
from collections.abc import Iterable

from flux_openai.emulator.api.requests import Order
from flux_openai.emulator.api.responses import Refusal
from flux_openai.emulator.load.latency import Latency, Work, parse_latency
from flux_openai.emulator.load.limit_texts import read_limits
from flux_openai.emulator.load.limits import Limit, State, instant

__all__ = ["Gate", "work_of"]


def work_of(verdict: Order | Refusal | None, *, token: str) -> Work | None:
    """What an order is to limits and latency; None for what is none."""
    return Work(token=token, images=verdict.n, steps=verdict.steps) if isinstance(verdict, Order) else None


class Gate:
    """Limits with their states, and a latency. Not thread safe by itself: the emulator holds its lock around it."""

    def __init__(self, *, limits: Iterable[Limit | str], latency: Latency | str) -> None:
        self._limits = read_limits(limits)
        self._latency = latency if isinstance(latency, Latency) else parse_latency(str(latency))
        self._states: list[State] = [() for _ in self._limits]

    def refuse(self, work: Work, *, now: float) -> Refusal | None:
        """Why not all limits admit the work: what no waiting helps against, or else what lasts longest."""
        pairs = zip(self._limits, self._states, strict=True)
        refusals = [limit.refuse(state, now=instant(now), work=work) for limit, state in pairs]
        return max(filter(None, refusals), key=_lasting, default=None)

    def charge(self, work: Work, *, now: float) -> float:
        """Remember work that is carried out, on all limits at once; returns the seconds that it takes."""
        seconds = self._latency.of(work)
        # The end is rounded as it will be when the clock has come to it, or it would still lie ahead then.
        lasting = instant(now + seconds) - instant(now)
        pairs = zip(self._limits, self._states, strict=True)
        self._states = [limit.charge(state, now=instant(now), work=work, seconds=lasting) for limit, state in pairs]
        return seconds


def _lasting(refusal: Refusal) -> float:
    return float(refusal.headers.get("retry-after", math.inf))
