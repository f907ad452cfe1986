from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Bill, Emulator
from flux_openai.emulator.api.responses import Breakage
from flux_openai.models import DEFAULT_MODEL

Post = Callable[..., httpx.Response]


def test_the_bill_counts_images_and_calls(post: Post, emulator: Emulator) -> None:
    """Three orders of six pictures cost six pictures in three calls."""
    for n in (1, 2, 3):
        post(n=n)
    assert emulator.bill == Bill(images=6, calls=3, duplicates=0)


def test_only_orders_cost_anything(post: Post, http: httpx.Client, emulator: Emulator) -> None:
    """Refusals, lists and downloads are free."""
    url = post().json()["data"][0]["url"]
    http.get(url)
    http.get("/models")
    post(n=0)
    post(headers={"authorization": "x"})
    assert emulator.bill == Bill(images=1, calls=1, duplicates=0)


def test_a_bill_that_was_taken_does_not_change(post: Post, emulator: Emulator) -> None:
    """A bill is a statement of its time, so that two can be compared."""
    before = emulator.bill
    post()
    assert (before.images, emulator.bill.images) == (0, 1)


def test_paying_twice_is_seen(post: Post, emulator: Emulator) -> None:
    """Pictures billed again under the same Idempotency-Key are duplicates; other keys, and none, are not."""
    for key in ("a", "a", "b", "a", "", ""):
        post(n=2, headers={"Idempotency-Key": key} if key else None)
    assert emulator.bill == Bill(images=12, calls=6, duplicates=4)


def test_a_retry_after_a_free_failure_is_no_duplicate(post: Post, emulator: Emulator) -> None:
    """What was not billed the first time is billed once."""
    emulator.fail(status=503)
    for _ in range(2):
        post(headers={"Idempotency-Key": "a"})
    assert emulator.bill == Bill(images=1, calls=1, duplicates=0)


def test_a_retry_after_a_lost_answer_is_a_duplicate(post: Post, emulator: Emulator) -> None:
    """A time-out hides work that was done, so the second attempt pays again."""
    emulator.fail(error="timeout")
    with pytest.raises(httpx.ReadTimeout):
        post(n=3, headers={"Idempotency-Key": "a"})
    post(n=3, headers={"Idempotency-Key": "a"})
    assert emulator.bill == Bill(images=6, calls=2, duplicates=3)


@pytest.mark.parametrize(
    ("error", "billed", "images"),
    [
        ("connect", None, 0),
        ("connect", False, 0),
        ("timeout", None, 2),
        ("timeout", False, 0),
        ("reset", None, 2),
        ("reset", False, 0),
        ("truncate", None, 2),
        ("truncate", False, 0),
    ],
)
def test_a_broken_exchange_is_billed_if_it_was_sent(
    post: Post, emulator: Emulator, error: Breakage, *, billed: bool | None, images: int
) -> None:
    """Whatever breaks after sending is billed, unless the fault says otherwise."""
    emulator.fail(error=error, billed=billed)
    with pytest.raises(httpx.TransportError):
        post(n=2)
    assert emulator.bill.images == images


@pytest.mark.parametrize(
    ("status", "billed", "images"),
    [(200, None, 2), (200, False, 0), (201, None, 2), (500, None, 0), (500, True, 2), (429, None, 0), (504, True, 2)],
)
def test_a_status_is_billed_if_it_is_a_success(
    post: Post, emulator: Emulator, status: int, *, billed: bool | None, images: int
) -> None:
    """An error status is free and a wrong 200 is not, unless the fault says otherwise."""
    emulator.fail(status=status, billed=billed)
    post(n=2)
    assert emulator.bill.images == images


def test_threads_do_not_disturb_each_other(emulator: Emulator) -> None:
    """Eight threads at once: every request has its own number, every fault strikes once, every picture is billed."""
    threads, calls, faults = 8, 25, 40
    emulator.fail(faults, status=503)
    start = Barrier(threads)

    def work(thread: int) -> list[tuple[int, str]]:
        start.wait()
        headers = {"authorization": "Bearer k", "idempotency-key": f"thread {thread}"}
        body = {"model": DEFAULT_MODEL, "prompt": f"fox {thread}", "n": 2}
        with emulator.http_client(base_url=emulator.base_url, headers=headers) as client:
            answers = [client.post("/images/generations", json=body) for _ in range(calls)]
            links = [image["url"] for answer in answers if answer.is_success for image in answer.json()["data"]]
            assert all(client.get(link).status_code == 200 for link in links)
        return [(answer.status_code, answer.headers["x-request-id"]) for answer in answers]

    with ThreadPoolExecutor(threads) as pool:
        seen = [answer for answers in pool.map(work, range(threads)) for answer in answers]
    good = threads * calls - faults
    assert [status for status, _ in seen].count(503) == faults
    assert len({number for _, number in seen}) == threads * calls
    assert emulator.bill.images == 2 * good
    assert emulator.bill.calls == good
    assert len(emulator.requests) == threads * calls + 2 * good
