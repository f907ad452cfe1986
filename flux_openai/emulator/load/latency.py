"""The latency of requests. It depends on the request alone, never on other requests at the same time."""

import math
import re
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Protocol, runtime_checkable

from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["BySteps", "Constant", "Latency", "Lognormal", "Workload", "parse_latency"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request for images, as input of latencies and limits.

    Attributes:
        occurrence_id: An id of this request and of how often it was sent before; the same in every run.
        images: The number of images.
        steps: The inference steps; 0 if the model has none.
    """

    occurrence_id: str
    images: int = 1
    steps: int = 0


@runtime_checkable
class Latency(Protocol):
    """The interface of a latency: decides how long a request takes."""

    def of(self, workload: Workload) -> float:
        """The seconds from the request to the first byte of its answer; the same for the same workload."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same time for every request. Raises ConfigurationError unless it is finite and from 0."""

    seconds: float

    def __post_init__(self) -> None:
        """Check the time."""
        _check_seconds(seconds=self.seconds)

    def of(self, workload: Workload) -> float:  # noqa: ARG002  # part of the protocol
        """The constant time."""
        return self.seconds


_NORMAL = NormalDist()
_P99 = _NORMAL.inv_cdf(0.99)


@dataclass(frozen=True, kw_only=True)
class Lognormal:
    """A lognormal distribution: half of all requests take up to `median` seconds, and 99 of 100 up to `p99`.

    Each request draws its own time from `seed` and its occurrence. Raises ConfigurationError for a `median` that is not
    above 0, and for a `p99` below it.
    """

    median: float
    p99: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the numbers define a lognormal distribution."""
        _check_seconds(median=self.median, p99=self.p99)
        if self.median <= 0:
            raise ConfigurationError.of(InvalidParam(param="median", value=self.median, rule="must be above 0"))
        if self.p99 < self.median:
            rule = "must not be below the median"
            raise ConfigurationError.of(InvalidParam(param="p99", value=self.p99, rule=rule, nearest=self.median))

    def of(self, workload: Workload) -> float:
        """The time drawn for this workload."""
        digest = blake2b(f"{self.seed}:{workload.occurrence_id}".encode(), digest_size=8).digest()
        # Strictly between 0 and 1, where `inv_cdf` is defined; with more than 52 bits the largest would round up to 1.
        chance = ((int.from_bytes(digest) >> 12) + 0.5) / 2**52
        sigma = math.log(self.p99 / self.median) / _P99
        return self.median * math.exp(sigma * _NORMAL.inv_cdf(chance))


@dataclass(frozen=True, kw_only=True)
class BySteps:
    """`base` seconds, plus `per_step` for each inference step and `per_image` for each image of the request.

    If the model has no steps, none are added. Raises ConfigurationError unless all three are finite and from 0.
    """

    base: float = 0.0
    per_step: float = 0.0
    per_image: float = 0.0

    def __post_init__(self) -> None:
        """Check the times."""
        _check_seconds(base=self.base, per_step=self.per_step, per_image=self.per_image)

    def of(self, workload: Workload) -> float:
        """The time that this workload takes."""
        return self.base + self.per_step * workload.steps + self.per_image * workload.images


def _check_seconds(**seconds: object) -> None:
    rule = "must be a finite number of seconds from 0"
    invalid = [
        InvalidParam(param=param, value=value, rule=rule, nearest=0)
        for param, value in seconds.items()
        if not (isinstance(value, int | float) and 0 <= value < math.inf)
    ]
    if invalid:
        raise ConfigurationError.of(*invalid)


_TIME = r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|min)"
_CONSTANT = re.compile(_TIME, re.ASCII)
_LOGNORMAL = re.compile(rf"lognormal:{_TIME},p99={_TIME}", re.ASCII)
_BY_STEPS = re.compile(rf"steps:{_TIME}\+{_TIME}\*steps", re.ASCII)


def parse_latency(text: str) -> Latency:
    """The latency in a text: "6s", "lognormal:6s,p99=20s" or "steps:1s+0.2s*steps", with times in ms, s or min.

    Raises ConfigurationError for any other text.
    """
    plain = text.replace(" ", "")
    if found := _CONSTANT.fullmatch(plain):
        return Constant(seconds=_seconds(found[1], found[2]))
    if found := _LOGNORMAL.fullmatch(plain):
        return Lognormal(median=_seconds(found[1], found[2]), p99=_seconds(found[3], found[4]))
    if found := _BY_STEPS.fullmatch(plain):
        return BySteps(base=_seconds(found[1], found[2]), per_step=_seconds(found[3], found[4]))
    rule = "must be like 6s, lognormal:6s,p99=20s or steps:1s+0.2s*steps"
    nearest = {"l": "lognormal:6s,p99=20s", "s": "steps:1s+0.2s*steps"}.get(plain[:1], "6s")
    raise ConfigurationError.of(InvalidParam(param="latency", value=text, rule=rule, nearest=nearest))


def _seconds(number: str, unit: str) -> float:
    return float(number) * {"ms": 0.001, "s": 1.0, "min": 60.0}[unit]
