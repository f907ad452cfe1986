"""Several jobs side by side: threads for sync code, tasks for async. None ends because another fails."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

__all__ = ["SIDE_BY_SIDE", "atogether", "together"]

SIDE_BY_SIDE = 8
"""Requests that one split call has under way at a time."""


def together(jobs: Sequence[Callable[[], None]]) -> list[BaseException | None]:
    """Do all the jobs, and tell for each what it raised; a single one raises it itself.

    An interruption is raised at once: jobs that have not begun are dropped, and those under way finish behind it.
    """
    if len(jobs) == 1:
        jobs[0]()
        return [None]
    pool = ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="flux-openai")
    try:
        futures = [pool.submit(copy_context().run, job) for job in jobs]
        return [future.exception() for future in futures]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
