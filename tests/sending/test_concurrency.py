"""Threads of a split call begin only while others wait."""

import threading

import pytest

from flux_openai import Emulator
from flux_openai.sending import concurrency
from flux_openai.sending.concurrency import MAX_CONCURRENCY, run_all


def test_jobs_that_end_at_once_need_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that answers at once is asked over one connection, one request after the other."""
    monkeypatch.setattr(concurrency, "_PATIENCE", 60)
    threads: list[threading.Thread] = []
    run_all([lambda: threads.append(threading.current_thread())] * 20)
    assert (len(threads), len(set(threads))) == (20, 1)


def test_jobs_that_wait_run_side_by_side() -> None:
    """Eight requests are under way at a time, and no more."""
    together = threading.Barrier(MAX_CONCURRENCY)

    def job() -> None:
        together.wait(60)

    assert run_all([job] * (2 * MAX_CONCURRENCY)) == [None] * (2 * MAX_CONCURRENCY)


def test_the_images_of_a_split_call_have_the_order_of_their_requests() -> None:
    """Whichever thread sends a part, its seed and its place in the answer are its own."""
    emulator = Emulator(pixels=64)
    answer = emulator.client(split=True).images.generate(prompt="a fox", n=20, seed=1)
    assert [part.sent["seed"] for part in answer.parts] == [1, 2, 3, 4, 5]
    assert (len(answer.data), emulator.bill.images) == (20, 20)
