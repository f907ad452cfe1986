"""Several jobs side by side: threads for sync code, tasks for async. None ends because another fails."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Semaphore, Thread

__all__ = ["SIDE_BY_SIDE", "atogether", "together"]

SIDE_BY_SIDE = 8
"""Requests that one split call has under way at a time."""

_GLANCE = 0.2
"""Seconds until an interruption is seen at the latest."""


def together(jobs: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """Do all the jobs, and tell for each what it raised; a single one raises it itself.

    An interruption is raised at once: jobs that have not begun are dropped, and those under way finish behind it. A
    process that ends does not wait for them, as it would for the threads of a pool: nobody will see what they bring.
    """
    if len(jobs) == 1:
        jobs[0]()
        return [None]
    ordered = [_Job(job) for job in jobs]
    left, idle = deque(ordered), Semaphore(0)
    work = partial(_work, left, idle)
    threads = [Thread(target=work, name="flux-openai", daemon=True) for _ in ordered[:SIDE_BY_SIDE]]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            # A signal ends no wait on Windows, and on Linux none that is just beginning; it is seen between two. And
            # not `join`: it marks a thread as ended when it is interrupted.
            while not idle.acquire(timeout=_GLANCE):
                pass
    finally:
        left.clear()
    for thread in threads:
        thread.join()
    return [job.told() for job in ordered]


def _work(left: "deque[_Job]", idle: Semaphore) -> None:
    with suppress(IndexError):
        while True:
            left.popleft().do()
    idle.release()


class _Job:
    """One job, in the context in which it was ordered, and what it raised."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job = job
        self._context = copy_context()
        self._raised: BaseException | None = None

    def do(self) -> None:
        try:
            self._context.run(self._job)
        except BaseException as error:  # noqa: BLE001  # it is raised where the job was ordered, and not in this thread
            self._raised = error

    def told(self) -> BaseException | None:
        """What it raised, which is kept no longer: its traceback leads back here, and the two would stay for ever."""
        error, self._raised = self._raised, None
        return error


async def atogether(jobs: Sequence[Callable[[], Coroutine[object, object, None]]]) -> list[BaseException | None]:
    """The same for async jobs; a cancellation cancels them all."""
    if len(jobs) == 1:
        await jobs[0]()
        return [None]
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def admitted(job: Callable[[], Coroutine[object, object, None]]) -> None:
        async with room:
            await job()

    return await asyncio.gather(*map(admitted, jobs), return_exceptions=True)
