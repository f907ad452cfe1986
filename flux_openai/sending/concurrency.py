"""Concurrency: several jobs side by side, in threads for sync code and in tasks for async code.

The failure of one job does not cancel the others.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Semaphore, Thread

__all__ = ["MAX_CONCURRENCY", "arun_all", "run_all"]

MAX_CONCURRENCY = 8
"""Requests of one split call that are under way at a time."""

_POLL_SECONDS = 0.2
"""How often the waiting thread wakes up to notice Ctrl-C."""


def run_all(jobs: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """Run all the jobs, and return for each the exception that it raised.

    KeyboardInterrupt is raised at once: jobs that have not begun are dropped, and those under way finish in the
    background. The threads are daemons: unlike those of a ThreadPoolExecutor, they do not keep a process from ending.
    """
    ordered = [_Job(job) for job in jobs]
    left, idle = deque(ordered), Semaphore(0)
    work = partial(_work, left, idle)
    threads = [Thread(target=work, name="flux-openai", daemon=True) for _ in ordered[:MAX_CONCURRENCY]]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            # `acquire` cannot be interrupted on Windows, nor on Linux just as it begins to wait, so it is repeated.
            # `Thread.join` would mark a thread as ended when it is interrupted.
            while not idle.acquire(timeout=_POLL_SECONDS):
                pass
    finally:
        left.clear()
    for thread in threads:
        thread.join()
    return [job.take_error() for job in ordered]


def _work(left: "deque[_Job]", idle: Semaphore) -> None:
    with suppress(IndexError):
        while True:
            left.popleft().run()
    idle.release()


class _Job:
    """A job, the context that it was ordered in, and the exception that it raised."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job = job
        self._context = copy_context()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._context.run(self._job)
        except BaseException as error:  # noqa: BLE001  # it is raised by the thread that ordered the job
            self._error = error

    def take_error(self) -> BaseException | None:
        """The exception, which is then forgotten: its traceback leads back here, a cycle for the garbage collector."""
        error, self._error = self._error, None
        return error


async def arun_all(jobs: Sequence[Callable[[], Coroutine[object, object, None]]]) -> list[BaseException | None]:
    """The same for async jobs; a cancellation cancels them all."""
    room = asyncio.Semaphore(MAX_CONCURRENCY)

    async def limited(job: Callable[[], Coroutine[object, object, None]]) -> None:
        async with room:
            await job()

    return await asyncio.gather(*map(limited, jobs), return_exceptions=True)
