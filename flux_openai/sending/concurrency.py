"""Concurrency: runs several jobs at a time, in threads for sync code and in tasks for async code.

The failure of one job does not cancel the others.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from threading import Event, Thread

__all__ = ["MAX_CONCURRENCY", "arun_all", "run_all"]

MAX_CONCURRENCY = 8
"""How many requests of one split call run at a time."""

_PATIENCE = 0.005
"""Seconds without the end of a job after which another thread begins. Where answers come at once, one thread is faster
than several that wait for each other, and needs one connection."""

_POLL_SECONDS = 0.2
"""How often the waiting thread wakes up to notice Ctrl-C."""


def run_all(jobs: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """Run all the jobs, and return for each the exception that it raised.

    KeyboardInterrupt is raised at once: jobs that have not begun are dropped, and running jobs finish in the
    background. The threads are daemons: otherwise, as with ThreadPoolExecutor, the interpreter would wait for them at
    exit.
    """
    ordered = [_Job(job) for job in jobs]
    left, ended, all_ended = deque(ordered), list[_Job](), Event()

    def work() -> None:
        with suppress(IndexError):
            while True:
                job = left.popleft()
                job.run()
                ended.append(job)
                if len(ended) == len(ordered):
                    all_ended.set()

    threads, seen = list[Thread](), 0
    try:
        while len(ended) < len(ordered):
            more = bool(left) and len(threads) < MAX_CONCURRENCY
            if more and len(ended) == seen:
                thread = Thread(target=work, name="flux-openai", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system allows no more threads
                    if not threads:
                        raise
                else:
                    threads.append(thread)
            seen = len(ended)
            # Polled, because a signal does not interrupt a wait on Windows, nor on Linux just as it begins. To wake up
            # at the end of each job would take the interpreter's lock from the thread that begins the next.
            # `Thread.join` is no alternative: after an interruption it takes the thread for ended.
            all_ended.wait(_PATIENCE if more else _POLL_SECONDS)
    finally:
        left.clear()
    for thread in threads:
        thread.join()
    return [job.take_error() for job in ordered]


class _Job:
    """A job, the context variables of the caller, and the exception that the job raised."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job = job
        self._context = copy_context()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._context.run(self._job)
        except BaseException as error:  # noqa: BLE001  # `run_all` returns it
            self._error = error

    def take_error(self) -> BaseException | None:
        """Return and drop the exception: its traceback refers to this object, which would be a reference cycle."""
        error, self._error = self._error, None
        return error


async def arun_all(jobs: Sequence[Callable[[], Coroutine[object, object, None]]]) -> list[BaseException | None]:
    """The same as `run_all`, for async jobs; a cancellation cancels them all."""
    room = asyncio.Semaphore(MAX_CONCURRENCY)

    async def limited(job: Callable[[], Coroutine[object, object, None]]) -> None:
        async with room:
            await job()

    return await asyncio.gather(*map(limited, jobs), return_exceptions=True)
