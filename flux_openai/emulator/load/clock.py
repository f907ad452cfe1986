"""The emulator's time: real seconds, or a virtual clock on which waiting takes no time."""

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
    """What the emulator needs of a clock; times are Unix times in seconds."""

    def now(self) -> float:
        """The time."""

    def sleep(self, seconds: float) -> None:
        """Return when so many seconds have passed."""

    async def asleep(self, seconds: float) -> None:
        """The same without blocking the event loop."""


class RealClock:
    """Real seconds. `now` is a function that gives the Unix time; waits are real whatever it gives."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def now(self) -> float:
        """The time."""
        return self._now()

    def sleep(self, seconds: float) -> None:
        """Block for so many seconds."""
        if seconds > 0:
            time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait for so many seconds without blocking the event loop."""
        if seconds > 0:
            await asyncio.sleep(seconds)


class VirtualClock:
    """A clock on which waiting takes no time: it moves when somebody waits, and only forward.

    A thread cannot know which other threads are about to wait, so the waits of threads follow one another: the time
    that passes is their sum, whatever the threads do. The waits of the tasks of one event loop overlap, as real ones
    would: whichever is due first wakes first, at exactly its time unless something else has moved the clock past it.
    Tasks that wait for something real, such as a thread, are not waited for. `start` is a Unix time in seconds.
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
        """Let so many seconds pass. Raises ConfigurationError unless they are finite and from 0."""
        passed = _checked(seconds, param="seconds")
        with self._lock:
            self._now += passed

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass, at once."""
        self.advance(seconds)

    async def asleep(self, seconds: float) -> None:
        """Let so many seconds pass, together with the waits of other tasks, as soon as all of them wait."""
        end = self.now() + _checked(seconds, param="seconds")
        loop = asyncio.get_running_loop()
        with self._lock:
            sleepers = self._sleepers.setdefault(loop, _Sleepers(move_to=self._move_to))
        if seconds > 0:
            await sleepers.sleep_until(end, loop=loop)

    def postpone(self, seconds: float) -> None:
        """Note that this thread or task must not go on before so many seconds have passed; see `postponed`."""
        self._due.set(self.now() + _checked(seconds, param="seconds"))

    def postponed(self) -> float:
        """The seconds that are left of what this thread or task has postponed."""
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
"""Rounds of the event loop without a new sleeper after which every task is taken to wait.

A call that fails and begins again passes through the loop a few times before it waits.
"""


class _Sleepers:
    """The tasks of one event loop that wait for a time; used on that loop only."""

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
