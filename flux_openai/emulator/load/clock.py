"""The clocks of the emulator: real time, or virtual time in which waiting takes no real time."""

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from heapq import heappop, heappush
from itertools import count
from threading import Lock
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["Clock", "RealClock", "VirtualClock"]


@runtime_checkable
class Clock(Protocol):
    """The interface of a clock; times are Unix times in seconds."""

    def now(self) -> float:
        """The current time."""

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""

    async def asleep(self, seconds: float) -> None:
        """The same as `sleep`, without blocking the event loop."""


class RealClock:
    """Real time. `now` may be another function that returns a Unix time; the waits are real in any case."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def now(self) -> float:
        """The current time."""
        return self._now()

    def sleep(self, seconds: float) -> None:
        """Block for this many seconds."""
        if seconds > 0:
            time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait for this many seconds without blocking the event loop."""
        if seconds > 0:
            await asyncio.sleep(seconds)


class VirtualClock:
    """A virtual clock: a wait returns at once and moves the clock forward instead.

    Threads: their waits add up, as if one followed the other, because a thread cannot know which others are about to
    wait.

    Tasks of one event loop: their waits overlap, as real ones would. The task that is due first wakes first, at exactly
    its time unless a thread or `advance` has moved the clock further. Tasks that wait for something else, such as a
    thread, do not hold the clock back.

    Args:
        start: The first time, a Unix time in seconds.

    Raises:
        ConfigurationError: `start` is negative or not finite.

    Example:
        clock = VirtualClock()
        client = Emulator(clock=clock, latency="6s").client()
        client.images.generate(prompt="a red fox")  # returns at once; clock.now() is 6 s later
    """

    def __init__(self, *, start: float = 1_750_000_000.0) -> None:
        self._now = _checked(start, param="start")
        self._lock = Lock()
        self._due: ContextVar[float] = ContextVar("due", default=self._now)
        self._sleepers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Sleepers] = WeakKeyDictionary()

    def now(self) -> float:
        """The time."""
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward by this many seconds. Raises ConfigurationError for a negative or infinite number."""
        passed = _checked(seconds, param="seconds")
        with self._lock:
            self._now += passed

    def sleep(self, seconds: float) -> None:
        """Move the clock forward by this many seconds."""
        self.advance(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait for this many virtual seconds; the clock moves as soon as all tasks of the event loop wait."""
        end = self.now() + _checked(seconds, param="seconds")
        loop = asyncio.get_running_loop()
        with self._lock:
            sleepers = self._sleepers.setdefault(loop, _Sleepers(move_to=self._move_to))
        if seconds > 0:
            await sleepers.sleep_until(end, loop=loop)

    def postpone(self, seconds: float) -> None:
        """Note that this thread or task has to wait for this many seconds before its next request."""
        self._due.set(self.now() + _checked(seconds, param="seconds"))

    def postponed(self) -> float:
        """How many seconds this thread or task still has to wait because of `postpone`."""
        return max(0.0, self._due.get() - self.now())

    def _move_to(self, moment: float) -> None:
        with self._lock:
            self._now = max(self._now, moment)


def _checked(seconds: float, *, param: str) -> float:
    if not 0 <= seconds < math.inf:
        rule = "must be a finite number of seconds from 0"
        raise ConfigurationError.of(InvalidParam(param=param, value=seconds, rule=rule, nearest=0))
    return seconds


_QUIET_ROUNDS = 10
"""After this many rounds of the event loop without a new sleeper, all tasks are assumed to wait.

One round would be too few: a task that retries a call passes through the loop a few times before it waits again.
"""


class _Sleepers:
    """The tasks of one event loop that wait on a VirtualClock; used on that loop only."""

    def __init__(self, *, move_to: Callable[[float], None]) -> None:
        self._move_to = move_to
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = count()
        self._quiet = 0

    async def sleep_until(self, end: float, *, loop: asyncio.AbstractEventLoop) -> None:
        woken = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._round, loop)
        heappush(self._waiting, (end, next(self._number), woken))
        self._quiet = 0
        await woken

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet += 1
        if self._quiet > _QUIET_ROUNDS:
            self._quiet = 0
            end, _, woken = heappop(self._waiting)
            if not woken.done():  # a cancelled task no longer waits
                self._move_to(end)
                woken.set_result(None)
        if self._waiting:
            loop.call_soon(self._round, loop)
