"""How much the service takes at a time: limits as pure decisions on (state, now), and the limiter that applies them.

A state is a tuple of numbers, empty at first. Times are exact fractions of whole microseconds: with floats, a client
that comes back after exactly the Retry-After could be turned away over the last bit.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import ServiceError
from flux_openai.emulator.load.latency import Latency, Workload, parse_latency
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["Concurrency", "Credits", "FixedWindow", "Limit", "RateLimiter", "State", "TokenBucket", "parse_limit"]

State = tuple[Fraction, ...]
"""What a limit remembers between requests."""


@runtime_checkable
class Limit(Protocol):
    """Decides which requests are turned away; an immutable value, so that several emulators can share one."""

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:
        """The error if the workload is not admitted now, or None."""

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:
        """The state after the workload was admitted; it is under way for so many seconds."""


class RateLimiter:
    """All limits with their states, and the latency of what they admit.

    Not thread safe: the service holds its lock around every use. Raises ConfigurationError for limits and latencies
    that are neither objects nor texts of the documented forms.
    """

    def __init__(self, *, limits: Iterable[Limit | str], latency: Latency | str) -> None:
        given = [limits] if isinstance(limits, str) else limits
        if not isinstance(given, Iterable):
            raise ConfigurationError.of(InvalidParam(param="limits", value=limits, rule=_RULE, nearest=["10/s"]))
        self._limits = [limit if isinstance(limit, Limit) else parse_limit(str(limit)) for limit in given]
        self._latency = latency if isinstance(latency, Latency) else parse_latency(str(latency))
        self._states: list[State] = [() for _ in self._limits]

    def refuse(self, workload: Workload, *, now: float) -> ServiceError | None:
        """None if every limit admits the workload, else the error with the longest Retry-After; one without it wins."""
        pairs = zip(self._limits, self._states, strict=True)
        errors = [limit.refuse(state, now=_instant(now), workload=workload) for limit, state in pairs]
        return max(
            (error for error in errors if error is not None),
            key=lambda error: float(error.headers.get("retry-after", math.inf)),
            default=None,
        )

    def charge(self, workload: Workload, *, now: float) -> float:
        """Count an admitted workload against every limit; returns the seconds that it takes."""
        start, seconds = _instant(now), self._latency.of(workload)
        # The end is rounded as the clock's reading will be when it gets there; otherwise it could still lie ahead then.
        lasting = _instant(now + seconds) - start
        self._states = [
            limit.charge(state, now=start, workload=workload, seconds=lasting)
            for limit, state in zip(self._limits, self._states, strict=True)
        ]
        return seconds


def _instant(seconds: float) -> Fraction:
    """A time to the microsecond, and from there on exact."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def _exact(number: float) -> Fraction:
    """The fraction that a float stands for: with 1/60 a second, the next may come after 60 s, and not after 61."""
    return Fraction(number).limit_denominator(1_000_000_000)


def _check_count(value: object, *, param: str, least: int = 1) -> None:
    if not is_whole(value) or value < least:
        rule = f"must be a whole number from {least}"
        raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=least))


def _check_positive(value: float, *, param: str) -> None:
    # Anything smaller would be lost when times are rounded to microseconds.
    if not 1e-6 <= value < math.inf:
        rule = "must be finite and above 0"
        raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=1))


def _too_many(wait: Fraction, *, message: str, code: str = "rate_limit_exceeded") -> ServiceError:
    # Retry-After has whole seconds. They are rounded up, so that whoever waits that long is admitted.
    after = max(1, math.ceil(wait))
    message, headers = f"{message} Try again in {after} s.", {"retry-after": str(after)}
    return ServiceError(status=429, code=code, message=message, headers=headers)


@dataclass(frozen=True, kw_only=True)
class TokenBucket:
    """`rate` requests a second, and up to `burst` at once after a pause; at most rate * t + burst in any t seconds.

    Its state is the time at which the bucket will be full again.
    """

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        """Refuse a bucket that would let nothing through."""
        _check_positive(self.rate, param="rate")
        _check_count(self.burst, param="burst")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # requests count alike
        """429, with the time until there is a token."""
        wait = max((*state, now)) - now - (self.burst - 1) / _exact(self.rate)
        if wait <= 0:
            return None
        units = ((1, "a second"), (60, "a minute"), (3600, "an hour"))
        seconds, unit = next((one for one in units if self.rate * one[0] >= 1), units[-1])
        return _too_many(wait, message=f"More than {self.rate * seconds:g} orders {unit}.")

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One token less."""
        return (max((*state, now)) + 1 / _exact(self.rate),)


@dataclass(frozen=True, kw_only=True)
class FixedWindow:
    """`count` requests in each window of `seconds`; windows begin at the multiples of their length in Unix time.

    Its state is the beginning of the last window and the requests in it.
    """

    count: int
    seconds: float

    def __post_init__(self) -> None:
        """Refuse a window that would let nothing through."""
        _check_count(self.count, param="count")
        _check_positive(self.seconds, param="seconds")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # as above
        """429, with the time until the next window."""
        start, used = self._window(state, now=now)
        if used < self.count:
            return None
        wait = start + _exact(self.seconds) - now
        return _too_many(wait, message=f"More than {self.count} orders in {self.seconds:g} s.")

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One more in this window."""
        start, used = self._window(state, now=now)
        return start, used + 1

    def _window(self, state: State, *, now: Fraction) -> tuple[Fraction, Fraction]:
        length = _exact(self.seconds)
        start = now // length * length
        return (state[0], state[1]) if state and state[0] >= start else (start, Fraction(0))


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """`count` requests under way at a time; a request is under way from its arrival until its latency has passed.

    Its state is the ends of those under way, soonest first.
    """

    count: int

    def __post_init__(self) -> None:
        """Refuse a count that would let nothing through."""
        _check_count(self.count, param="count")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # as above
        """429, with the time until enough of those under way have ended."""
        ends = [end for end in state if end > now]
        if len(ends) < self.count:
            return None
        message, code = f"More than {self.count} orders under way.", "concurrency_limit_exceeded"
        return _too_many(ends[-self.count] - now, message=message, code=code)

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One more under way; those that have ended are forgotten."""
        return tuple(sorted((*(end for end in state if end > now), now + seconds)))


@dataclass(frozen=True, kw_only=True)
class Credits:
    """`images` images in all; a request for more than are left is refused, and one for fewer may still pass.

    The service documents no error for this. The one here is that of OpenAI and most services after it: 429 with the
    code "insufficient_quota", and no Retry-After, since waiting does not help; others use 402. Both can be set.
    Its state is the number of images drawn.
    """

    images: int
    status: int = 429
    code: str = "insufficient_quota"

    def __post_init__(self) -> None:
        """Refuse a negative number of images, and a status that is no error."""
        _check_count(self.images, param="images", least=0)
        if not (is_whole(self.status) and 400 <= self.status <= 599):
            rule = "must be from 400 to 599"
            raise ConfigurationError.of(InvalidParam(param="status", value=self.status, rule=rule, nearest=429))

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # waiting does not help
        """The error for an empty account, or None while there are images left."""
        left = self.images - sum(state)
        if workload.images <= left:
            return None
        message = f"The credit is used up: {left} images are left, and {workload.images} were ordered."
        return ServiceError(status=self.status, code=self.code, message=message)

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """So many images fewer."""
        return (sum(state, start=Fraction(workload.images)),)


_RATE = re.compile(r"(window:)?(\d{1,9})/(s|min|h)", re.ASCII)
_COUNTED = re.compile(r"(concurrency|credits)=(\d{1,9})", re.ASCII)
_RULE = "must be like 10/s, 60/min, 100/h, window:60/min, concurrency=8 or credits=100"


def parse_limit(text: str) -> Limit:
    """The limit in a text.

    "10/s", "60/min" and "100/h" are token buckets that may be emptied at once, "window:60/min" is a fixed window,
    "concurrency=8" a number of requests under way, and "credits=100" the images that are paid for. The classes can be
    set up more finely. Raises ConfigurationError for any other text.
    """
    plain = text.replace(" ", "")
    if found := _RATE.fullmatch(plain):
        count, seconds = int(found[2]), {"s": 1, "min": 60, "h": 3600}[found[3]]
        return FixedWindow(count=count, seconds=seconds) if found[1] else TokenBucket(rate=count / seconds, burst=count)
    if found := _COUNTED.fullmatch(plain):
        number = int(found[2])
        return Concurrency(count=number) if found[1] == "concurrency" else Credits(images=number)
    number = max(1, int(found[0])) if (found := re.search(r"\d{1,9}", plain, re.ASCII)) else 10
    examples = {"conc": f"concurrency={number}", "cred": f"credits={number}", "wind": f"window:{number}/min"}
    nearest = examples.get(plain[:4], f"{number}/min" if "m" in plain else f"{number}/s")
    raise ConfigurationError.of(InvalidParam(param="limits", value=text, rule=_RULE, nearest=nearest))
