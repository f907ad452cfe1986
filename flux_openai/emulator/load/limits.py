"""Rate limits: each is a pure function of its state and the time; `RateLimiter` holds the states.

A state is a tuple of numbers, empty at first. Times are exact fractions of whole microseconds: with floats, a client
that retries after exactly the Retry-After could be refused because of a rounding error.
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
"""The state of a limit between requests."""


@runtime_checkable
class Limit(Protocol):
    """The interface of a limit: decides which requests are refused. It is immutable, so emulators can share one."""

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:
        """The error if the workload is refused now, or None."""

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:
        """The state after the workload was admitted; `seconds` is how long it runs."""


class RateLimiter:
    """All limits with their states, and the latency of the requests that they admit.

    Not thread safe: the service holds its lock around every use. The constructor raises ConfigurationError for limits
    and latencies that are neither objects nor texts of the documented forms.
    """

    def __init__(self, *, limits: Iterable[Limit | str], latency: Latency | str) -> None:
        given = [limits] if isinstance(limits, str) else limits
        if not isinstance(given, Iterable):
            raise ConfigurationError.of(InvalidParam(param="limits", value=limits, rule=_RULE, nearest=["10/s"]))
        self._limits = [limit if isinstance(limit, Limit) else parse_limit(str(limit)) for limit in given]
        self._latency = latency if isinstance(latency, Latency) else parse_latency(str(latency))
        self._states: list[State] = [() for _ in self._limits]

    def refuse(self, workload: Workload, *, now: float) -> ServiceError | None:
        """None if every limit admits the workload, else the error with the longest Retry-After, or without one."""
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
        # The end is rounded in the same way as the time of later requests: otherwise it could be later than theirs.
        lasting = _instant(now + seconds) - start
        self._states = [
            limit.charge(state, now=start, workload=workload, seconds=lasting)
            for limit, state in zip(self._limits, self._states, strict=True)
        ]
        return seconds


def _instant(seconds: float) -> Fraction:
    """A time, rounded to the microsecond, as an exact fraction."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def _exact(number: float) -> Fraction:
    """The simple fraction nearest to a float: the float 1/60 is not exact, and Retry-After would become 61 s."""
    return Fraction(number).limit_denominator(1_000_000_000)


def _check_count(value: object, *, param: str, least: int = 1) -> None:
    if not is_whole(value) or value < least:
        rule = f"must be a whole number from {least}"
        raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=least))


def _check_positive(value: float, *, param: str) -> None:
    # A smaller value would become 0 when times are rounded to microseconds.
    if not 1e-6 <= value < math.inf:
        rule = "must be finite and above 0"
        raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=1))


def _too_many(wait: Fraction, *, message: str, code: str = "rate_limit") -> ServiceError:
    # Retry-After has whole seconds. It is rounded up, otherwise a client that waits that long would be refused again.
    after = max(1, math.ceil(wait))
    message, headers = f"{message} Try again in {after} s.", {"retry-after": str(after)}
    return ServiceError(status=429, code=code, message=message, headers=headers)


@dataclass(frozen=True, kw_only=True)
class TokenBucket:
    """A token bucket: at most rate * t + burst requests in any t seconds, so up to `burst` at once after a pause.

    `rate` is in requests a second. The state is the time at which the bucket will be full again. Raises
    ConfigurationError unless `rate` is above 0 and `burst` at least 1.
    """

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        """Check that the bucket admits requests."""
        _check_positive(self.rate, param="rate")
        _check_count(self.burst, param="burst")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # requests count alike
        """The 429 until there is a token."""
        wait = max((*state, now)) - now - (self.burst - 1) / _exact(self.rate)
        if wait <= 0:
            return None
        units = ((1, "a second"), (60, "a minute"), (3600, "an hour"))
        seconds, unit = next((one for one in units if self.rate * one[0] >= 1), units[-1])
        return _too_many(wait, message=f"More than {self.rate * seconds:g} orders {unit}.")

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """Take a token."""
        return (max((*state, now)) + 1 / _exact(self.rate),)


@dataclass(frozen=True, kw_only=True)
class FixedWindow:
    """A fixed window: at most `count` requests in each window of `seconds`.

    Windows begin at multiples of their length in Unix time. The state is the beginning of the last window and the
    number of requests in it. Raises ConfigurationError unless `count` is at least 1 and `seconds` above 0.
    """

    count: int
    seconds: float

    def __post_init__(self) -> None:
        """Check that a window admits requests."""
        _check_count(self.count, param="count")
        _check_positive(self.seconds, param="seconds")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # as above
        """The 429 until the next window."""
        start, used = self._window(state, now=now)
        if used < self.count:
            return None
        wait = start + _exact(self.seconds) - now
        return _too_many(wait, message=f"More than {self.count} orders in {self.seconds:g} s.")

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """Count the request in its window."""
        start, used = self._window(state, now=now)
        return start, used + 1

    def _window(self, state: State, *, now: Fraction) -> tuple[Fraction, Fraction]:
        length = _exact(self.seconds)
        start = now // length * length
        return (state[0], state[1]) if state and state[0] >= start else (start, Fraction(0))


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """A concurrency limit: at most `count` requests at a time.

    A request runs from its arrival to the end of its latency. The state is the end times of the running requests, in
    order. Raises ConfigurationError unless `count` is at least 1.
    """

    count: int

    def __post_init__(self) -> None:
        """Check that the limit admits requests."""
        _check_count(self.count, param="count")

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # as above
        """The 429 until enough running requests have ended."""
        ends = [end for end in state if end > now]
        if len(ends) < self.count:
            return None
        message, code = f"More than {self.count} orders under way.", "concurrency_limit_exceeded"
        return _too_many(ends[-self.count] - now, message=message, code=code)

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """Add the end of the request, and remove those that have passed."""
        return tuple(sorted((*(end for end in state if end > now), now + seconds)))


@dataclass(frozen=True, kw_only=True)
class Credits:
    """A prepaid balance of `images`: a request for more images than are left is refused.

    The service documents "forbidden" for a key whose spend cap is reached, but not its status. The default is that of
    OpenAI and compatible services: 429 with the code "insufficient_quota", and no Retry-After, since waiting does not
    help. Other services use 402; `status` and `code` can be set. The state is the number of images used. Raises
    ConfigurationError for a negative number of images, and for a status outside 400 to 599.
    """

    images: int
    status: int = 429
    code: str = "insufficient_quota"

    def __post_init__(self) -> None:
        """Check the balance and the status."""
        _check_count(self.images, param="images", least=0)
        if not (is_whole(self.status) and 400 <= self.status <= 599):
            rule = "must be from 400 to 599"
            raise ConfigurationError.of(InvalidParam(param="status", value=self.status, rule=rule, nearest=429))

    def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:  # noqa: ARG002  # waiting does not help
        """The error if the balance is too small for the workload."""
        left = self.images - sum(state)
        if workload.images <= left:
            return None
        message = f"The credit is used up: {left} images are left, and {workload.images} were ordered."
        return ServiceError(status=self.status, code=self.code, message=message)

    def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """Add the images to those used."""
        return (sum(state, start=Fraction(workload.images)),)


_RATE = re.compile(r"(window:)?(\d{1,9})/(s|min|h)", re.ASCII)
_COUNTED = re.compile(r"(concurrency|credits)=(\d{1,9})", re.ASCII)
_RULE = "must be like 10/s, 60/min, 100/h, window:60/min, concurrency=8 or credits=100"


def parse_limit(text: str) -> Limit:
    """The limit in a text.

    "10/s", "60/min" and "100/h" are token buckets whose burst is the whole number, "window:60/min" is a FixedWindow,
    "concurrency=8" a Concurrency and "credits=100" a Credits; the classes have more options. Raises ConfigurationError
    for any other text.
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
