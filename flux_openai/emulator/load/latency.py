"""How long an order takes, decided by what is ordered and never by what else is under way."""

import math
import re
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Protocol, runtime_checkable

from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["BySteps", "Constant", "Latency", "Lognormal", "Work", "parse_latency"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One order as far as time and limits see it; `token` tells it from all others, `steps` is 0 where it has none."""

    token: str
    images: int = 1
    steps: int = 0


@runtime_checkable
class Latency(Protocol):
    """Says how long work takes."""

    def of(self, work: Work) -> float:
        """The seconds from the order to the first byte of its answer; the same for the same work."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same time for every order. Raises ConfigurationError unless it is finite and from 0."""

    seconds: float

    def __post_init__(self) -> None:
        """Refuse what no clock could wait for."""
        _check(seconds=self.seconds)

    def of(self, work: Work) -> float:  # noqa: ARG002  # what is asked of every latency
        """The same for all work."""
        return self.seconds


_NORMAL = NormalDist()
_P99 = _NORMAL.inv_cdf(0.99)


@dataclass(frozen=True, kw_only=True)
class Lognormal:
    """Mostly around the median, seldom much longer: half of all orders take up to `median`, 99 of 100 up to `p99`.

    Each order draws its own time from `seed` and its token. Raises ConfigurationError for a `median` that is not above
    0, and for a `p99` below it.
    """

    median: float
    p99: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no such distribution."""
        _check(median=self.median, p99=self.p99)
        if self.median <= 0:
            raise ConfigurationError.of(InvalidParam(param="median", value=self.median, rule="must be above 0"))
        if self.p99 < self.median:
            rule = "must not be below the median"
            raise ConfigurationError.of(InvalidParam(param="p99", value=self.p99, rule=rule, nearest=self.median))

    def of(self, work: Work) -> float:
        """The time drawn for this work."""
        sigma = math.log(self.p99 / self.median) / _P99
        return self.median * math.exp(sigma * _NORMAL.inv_cdf(_chance(f"{self.seed}:{work.token}")))


@dataclass(frozen=True, kw_only=True)
class BySteps:
    """`base` seconds, and so many more for each step of the order and for each of its images.

    An order whose model has no steps counts none. Raises ConfigurationError unless all are finite and from 0.
    """

    base: float = 0.0
    per_step: float = 0.0
    per_image: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no clock could wait for."""
        _check(base=self.base, per_step=self.per_step, per_image=self.per_image)

    def of(self, work: Work) -> float:
        """The time that this much work takes."""
        return self.base + self.per_step * work.steps + self.per_image * work.images


def _check(**seconds: object) -> None:
    rule = "must be a finite number of seconds from 0"
    wrong = [
        str(InvalidParam(param=param, value=value, rule=rule, nearest=0))
        for param, value in seconds.items()
        if not (isinstance(value, int | float) and 0 <= value < math.inf)
    ]
    if wrong:
        raise ConfigurationError("\n".join(wrong))


def _chance(told: str) -> float:
    """A number between 0 and 1, both excluded; 52 bits, since of more the last half would be rounded up to 1."""
    drawn = int.from_bytes(blake2b(told.encode(), digest_size=8).digest()) >> 12
    return (drawn + 0.5) / 2**52


_NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"
_TIME = rf"{_NUMBER}(ms|s|min|m)"
_CONSTANT = re.compile(_TIME, re.ASCII)
_LOGNORMAL = re.compile(rf"lognormal:{_TIME},p99={_TIME}(?:,seed=(\d{{1,18}}))?", re.ASCII)
_STEPS = re.compile(rf"steps:{_TIME}(?:\+{_TIME}\*steps)?(?:\+{_TIME}\*images)?", re.ASCII)
_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0}


def _time(number: str | None, unit: str | None) -> float:
    return float(number or 0) * _UNITS[unit]


def parse_latency(text: str) -> Latency:
    """The latency in a text: "6s", "lognormal:6s,p99=20s,seed=1" or "steps:1s+0.2s*steps+0.5s*images".

    Times are in ms, s or min; the seed, the steps and the images may be left out. Raises ConfigurationError.
    """
    plain = text.replace(" ", "")
    if found := _CONSTANT.fullmatch(plain):
        return Constant(seconds=_time(found[1], found[2]))
    if found := _LOGNORMAL.fullmatch(plain):
        median, p99 = _time(found[1], found[2]), _time(found[3], found[4])
        return Lognormal(median=median, p99=p99, seed=int(found[5] or 0))
    if found := _STEPS.fullmatch(plain):
        base, per_step, per_image = (_time(found[place], found[place + 1]) for place in (1, 3, 5))
        return BySteps(base=base, per_step=per_step, per_image=per_image)
    rule = "must be like 6s, lognormal:6s,p99=20s or steps:1s+0.2s*steps+0.5s*images"
    raise ConfigurationError.of(InvalidParam(param="latency", value=text, rule=rule, nearest=_nearest(plain)))


def _nearest(text: str) -> str:
    if hours := re.fullmatch(r"(\d{1,4})h", text, re.ASCII):
        return f"{60 * int(hours[1])}min"
    number = re.search(_NUMBER, text, re.ASCII)
    first = f"{number[1] if number else 6}s"
    if text.startswith("log"):
        return f"lognormal:{first},p99={3 * float(first[:-1]):g}s"
    return f"steps:{first}+0.2s*steps" if text.startswith("step") else first
