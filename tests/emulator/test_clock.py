"""The virtual clock, for threads and for tasks."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from flux_openai.emulator import VirtualClock
from flux_openai.errors import ConfigurationError

pytestmark = pytest.mark.anyio

START = VirtualClock().now()


async def test_tasks_wait_together_and_wake_in_order() -> None:
    """Sixty waits on one event loop take as long as the longest of them, and each ends at its own time."""
    clock = VirtualClock()

    async def wait(seconds: int) -> tuple[int, float]:
        await clock.asleep(seconds)
        woken = clock.now() - START
        await clock.asleep(seconds)
        return seconds, woken

    woken = await asyncio.gather(*(wait(seconds) for seconds in range(60, 0, -1)))
    assert all(seconds == at for seconds, at in woken)
    assert clock.now() == START + 120


async def test_a_cancelled_wait_does_not_count() -> None:
    """The others do not wait for a cancelled task, and the clock does not move to its time."""
    clock = VirtualClock()
    gone = asyncio.ensure_future(clock.asleep(1))
    other = asyncio.ensure_future(clock.asleep(2))
    await asyncio.sleep(0)
    gone.cancel()
    await other
    assert (gone.cancelled(), clock.now()) == (True, START + 2)


async def test_time_never_goes_back() -> None:
    """A wait ends where the clock is, if something else has moved it past the end of the wait."""
    clock = VirtualClock()
    waiting = asyncio.ensure_future(clock.asleep(1))
    await asyncio.sleep(0)
    clock.advance(10)
    await waiting
    assert clock.now() == START + 10


def test_one_clock_serves_many_event_loops() -> None:
    """Event loops in different threads do not wait for each other's tasks."""
    clock = VirtualClock()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seconds: asyncio.run(clock.asleep(seconds)), (1, 2, 3, 4)))
    assert START + 4 <= clock.now() <= START + 10


def test_waits_of_threads_add_up() -> None:
    """The time that passes is the sum of the waits, however eight threads take turns."""
    clock = VirtualClock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(clock.sleep, [0.25] * 400))
    assert clock.now() == START + 100


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_no_clock_runs_backwards(seconds: float) -> None:
    """Only finite times from 0 can pass."""
    with pytest.raises(ConfigurationError, match="finite"):
        VirtualClock().advance(seconds)
