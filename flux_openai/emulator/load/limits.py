"""How much the service takes: pure decisions on (state, now).

A state is a tuple of numbers, empty at first. Times are exact fractions of whole microseconds: whoever comes back after
exactly the asked wait is not turned away over the last bit of a float.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import Refusal
from flux_openai.emulator.load.latency import Work
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["Concurrency", "Credits", "FixedWindow", "Limit", "State", "TokenBucket", "instant"]

State = tuple[Fraction, ...]
"""What a limit remembers."""


@runtime_checkable
class Limit(Protocol):
    """Says what is turned away, and what is remembered of the rest; values, so that emulators can share one."""

    def refuse(self, state: State, *, now: Fraction, work: Work) -> Refusal | None:
        """Why this work is not taken now, or None."""

    def charge(self, state: State, *, now: Fraction, work: Work, seconds: Fraction) -> State:
        """The state after the work was taken; it is under way for so many seconds."""


def instant(seconds: float) -> Fraction:
    """A time to the microsecond, and from there on exact."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def _exact(number: float) -> Fraction:
    """What was meant by a float: one a minute is exactly 1/60 a second, so the next may come after 60 s, not 61."""
    return Fraction(number).limit_denominator(1_000_000_000)


def _check_count(value: object, *, param: str, least: int = 1) -> None:
    if not is_whole(value) or value < least:
        rule = f"must be a whole number from {least}"
        raise ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=least))


def _check_above(value: float, *, param: str) -> None:
    # Less would be lost in the microseconds.
    if not 1e-6 <= value < math.inf:
        raise ConfigurationError.of(
            InvalidParam(param=param, value=value, rule="must be finite and above 0", nearest=1)
        )


def _too_many(wait: Fraction, *, what: str, code: str = "rate_limit_exceeded") -> Refusal:
    # Whole seconds, as HTTP has them, and rounded up: whoever waits so long is admitted.
    after = max(1, math.ceil(wait))
    message = f"{what} Try again in {after} s."
    return Refusal(status=429, code=code, message=message, headers={"retry-after": str(after)})


def _pace(rate: float) -> str:
    for seconds, unit in ((1, "second"), (60, "minute")):
        if rate * seconds >= 1:
            return f"{rate * seconds:g} orders a {unit}"
    return f"{rate * 3600:g} orders an hour"


@dataclass(frozen=True, kw_only=True)
class TokenBucket:
    """`rate` orders a second, and up to `burst` at once after a pause; at most rate * t + burst in any t seconds.

    Its state is the time at which the bucket will be full again.
    """

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        """Refuse what would let nothing through."""
        _check_above(self.rate, param="rate")
        _check_count(self.burst, param="burst")

    def refuse(self, state: State, *, now: Fraction, work: Work) -> Refusal | None:  # noqa: ARG002  # an order is an order
        """429, with the time until there is a token."""
        wait = max((*state, now)) - now - (self.burst - 1) / _exact(self.rate)
        return _too_many(wait, what=f"More than {_pace(self.rate)}.") if wait > 0 else None

    def charge(self, state: State, *, now: Fraction, work: Work, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One token less."""
        return (max((*state, now)) + 1 / _exact(self.rate),)


@dataclass(frozen=True, kw_only=True)
class FixedWindow:
    """`count` orders in each window of `seconds`; windows begin at the multiples of their length in Unix time.

    Its state is the beginning of the last window and the orders in it.
    """

    count: int
    seconds: float

    def __post_init__(self) -> None:
        """Refuse what would let nothing through."""
        _check_count(self.count, param="count")
        _check_above(self.seconds, param="seconds")

    def refuse(self, state: State, *, now: Fraction, work: Work) -> Refusal | None:  # noqa: ARG002  # as above
        """429, with the time until the next window."""
        start, used = self._window(state, now=now)
        wait = start + _exact(self.seconds) - now
        return (
            _too_many(wait, what=f"More than {self.count} orders in {self.seconds:g} s.")
            if used >= self.count
            else None
        )

    def charge(self, state: State, *, now: Fraction, work: Work, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One more in this window."""
        start, used = self._window(state, now=now)
        return start, used + 1

    def _window(self, state: State, *, now: Fraction) -> tuple[Fraction, Fraction]:
        length = _exact(self.seconds)
        start = now // length * length
        return (state[0], state[1]) if state and state[0] >= start else (start, Fraction(0))


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """`count` orders under way at a time; an order is under way from its arrival until its latency has passed.

    Its state is the ends of those under way, soonest first.
    """

    count: int

    def __post_init__(self) -> None:
        """Refuse what would let nothing through."""
        _check_count(self.count, param="count")

    def refuse(self, state: State, *, now: Fraction, work: Work) -> Refusal | None:  # noqa: ARG002  # as above
        """429, with the time until enough of those under way have ended."""
        ends = _ends_after(now, state)
        if len(ends) < self.count:
            return None
        what, code = f"More than {self.count} orders under way.", "concurrency_limit_exceeded"
        return _too_many(ends[-self.count] - now, what=what, code=code)

    def charge(self, state: State, *, now: Fraction, work: Work, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """One more under way, and none that has ended."""
        return tuple(sorted((*_ends_after(now, state), now + seconds)))


def _ends_after(now: Fraction, state: State) -> State:
    return tuple(end for end in state if end > now)


@dataclass(frozen=True, kw_only=True)
class Credits:
    """`images` images in all; an order for more than are left is refused, and one for fewer may still pass.

    The service documents no refusal for this. The one here is that of OpenAI and most services after it: 429 with the
    code "insufficient_quota", and no Retry-After, since waiting does not help; 402 is the other usage. Both can be set.
    Its state is the images drawn.
    """

    images: int
    status: int = 429
    code: str = "insufficient_quota"

    def __post_init__(self) -> None:
        """Refuse what is no number of images, and no error."""
        _check_count(self.images, param="images", least=0)
        if not (is_whole(self.status) and 400 <= self.status <= 599):
            rule = "must be from 400 to 599"
            raise ConfigurationError.of(InvalidParam(param="status", value=self.status, rule=rule, nearest=429))

    def refuse(self, state: State, *, now: Fraction, work: Work) -> Refusal | None:  # noqa: ARG002  # as above
        """The error for an empty account, or None while there are images left."""
        left = self.images - sum(state)
        message = f"The credit is used up: {left} images are left, and {work.images} were ordered."
        return Refusal(status=self.status, code=self.code, message=message) if work.images > left else None

    def charge(self, state: State, *, now: Fraction, work: Work, seconds: Fraction) -> State:  # noqa: ARG002  # as above
        """So many images fewer."""
        return (sum(state, start=Fraction(work.images)),)
