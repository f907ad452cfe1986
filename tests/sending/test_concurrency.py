"""Threads of a split call begin only while others wait."""

import json
import threading
import time
from types import SimpleNamespace

import pytest

from flux_openai import Emulator, FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
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


def test_a_system_without_more_threads_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that there are send the rest; only if there is none at all, nothing can be sent."""
    start, allowed = threading.Thread.start, 2

    def limited(thread: threading.Thread) -> None:
        nonlocal allowed
        if thread.name == "flux-openai" and allowed == 0:
            raise RuntimeError("can't start new thread")
        allowed -= thread.name == "flux-openai"
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(concurrency, "_PATIENCE", 0)
    emulator = Emulator(pixels=64)
    assert len(emulator.client(split=True).images.generate(prompt="a fox", n=20).data) == 20
    assert emulator.bill.images == 20
    allowed = 0
    with pytest.raises(RuntimeError, match="can't start new thread"):
        emulator.client(split=True).images.generate(prompt="a fox", n=20)
    assert emulator.bill.images == 20


def test_each_request_of_a_split_call_has_a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_elapsed` counts from the first attempt of a request, also of one that waited long for its turn."""
    emulator, passed, asked = Emulator(pixels=64), 0.0, list[int]()
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal passed
        seed = json.loads(request.content)["seed"]
        asked.append(seed)
        if seed == 7:
            passed += 1000
        elif asked.count(seed) == 1:
            return httpx.Response(429, request=request)
        return emulator.handle(request)

    monkeypatch.setattr(concurrency, "MAX_CONCURRENCY", 1)
    for module in ("sender", "retry_loop"):
        monkeypatch.setattr(f"flux_openai.sending.{module}.time", clock)
    http = httpx.Client(transport=httpx.MockTransport(handle))
    policy = RetryPolicy(max_elapsed=60, waiting=False)
    client = FluxOpenAI(api_key="k", base_url=emulator.base_url, split=True, retry=policy, http_client=http)
    assert len(client.images.generate(prompt="a fox", n=8, seed=7).data) == 8
    assert asked == [7, 8, 8]
