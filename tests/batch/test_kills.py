"""Kills: kill -9 at every step of a row and at random moments, then the same call again; the bill is witness."""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux_openai import Emulator
from flux_openai.batch import State
from flux_openai.batch.ledger import Ledger
from flux_openai.batch.results.reports import verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks of a process that has all loaded")

IN_FLIGHT = 8

PROGRAM = """
import inspect, json, os, signal, sys, threading
from flux_openai import AsyncFluxOpenAI, RetryPolicy
from flux_openai.batch import run_batch_sync
from flux_openai.batch.ledger import Ledger
from flux_openai.client.images import AsyncFluxImages
from flux_openai.response.response import FluxImage

OWNERS = {"generate": AsyncFluxImages, "aread": FluxImage, "save": FluxImage}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def kill_at(name, when, count):
    owner = OWNERS.get(name, Ledger)
    real, left = getattr(owner, name), [count]

    def at(moment):
        if moment == when:
            left[0] -= 1
            if left[0] == 0:
                die()

    async def afunction(*arguments, **options):
        at("before")
        result = await real(*arguments, **options)
        at("after")
        return result

    def function(*arguments, **options):
        at("before")
        result = real(*arguments, **options)
        at("after")
        return result

    setattr(owner, name, afunction if inspect.iscoroutinefunction(real) else function)

def run(job):
    if "point" in job:
        kill_at(*job["point"])
    if "seconds" in job:
        timer = threading.Timer(job["seconds"], die)
        timer.daemon = True
        timer.start()
    client = AsyncFluxOpenAI(api_key="any", base_url=job["base_url"], retry=RetryPolicy(initial_wait=0))
    report = run_batch_sync(job["rows"], job["out"], client=client, **job["options"])
    return [report.done, report.failed, report.held, report.requests, report.stopped]

for line in sys.stdin:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, json.dumps(run(json.loads(line))).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    answer = os.read(reader, 10_000).decode()
    os.close(reader)
    print(json.dumps([status, json.loads(answer) if answer else None]), flush=True)
"""


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[..., tuple[int, Any]]]:
    """Run a batch in a process of its own, and return its wait status and its report."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def answer(**job: Any) -> tuple[int, Any]:  # noqa: ANN401  # JSON
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            status, report = json.loads(process.stdout.readline())
            return status, report

        yield answer
        assert process.stdin is not None
        process.stdin.close()


def keys_of(emulator: Emulator) -> Counter[str]:
    return Counter(seen.headers["idempotency-key"] for seen in emulator.requests if seen.method == "POST")


def write_rows(path: Path, count: int, **params: object) -> str:
    path.write_text("".join(json.dumps({"prompt": f"fox {number}", **params}) + "\n" for number in range(count)))
    return str(path)


def check_nothing_lost(out: Path, emulator: Emulator, *, rows: int) -> int:
    """Every image that was billed is on the disk, or its row is held; returns how many rows are held."""
    with Ledger.open(out, create=False, write=False) as ledger:
        totals = ledger.totals()
        assert (totals.done + totals.held, totals.rows) == (rows, rows)
        found = verify([ledger], out)
        assert (found.missing, found.changed) == ((), ())
        # What was being written, which the next save in the folder removes, and a part of the images of a held row.
        held = {f"{item.seq:06}" for item in ledger.items(State.HELD)}
        strays = [Path(path).name for path in found.strays]
        assert all(name.endswith(".part") or name[:6] in held for name in strays)
        done = list(ledger.items(State.DONE))
        assert found.files == sum(item.images for item in done)
        assert totals.images_spent + totals.images_unknown >= emulator.bill.images
    assert emulator.bill.images >= found.files
    return totals.held


POINTS = [
    ("send", "before"),
    ("send", "after"),
    ("generate", "after"),
    ("answer", "before"),
    ("answer", "after"),
    ("aread", "after"),
    ("save", "after"),
    ("done", "before"),
    ("done", "after"),
]


@pytest.mark.parametrize("answer", ["url", pytest.param("b64_json", marks=pytest.mark.full)])
def test_a_kill_at_each_step_of_a_row(run: Callable[..., tuple[int, Any]], tmp_path: Path, answer: str) -> None:
    """Killed once at every step, the last call ends the batch: nothing is lost, and nothing is sent twice with hold."""
    emulator = Emulator(pixels=256)
    rows, out = write_rows(tmp_path / "rows.jsonl", 100, n=2, response_format=answer), tmp_path / "out"
    options = {"max_inflight": IN_FLIGHT}
    with emulator.serve() as server:
        job = {"base_url": server.base_url, "rows": rows, "out": str(out), "options": options}
        points = [point for point in POINTS if answer == "url" or point[0] not in ("answer", "aread")]
        for name, when in points:
            status, _ = run(**job, point=[name, when, 4])
            assert os.WTERMSIG(status) == signal.SIGKILL, (name, when)
        status, report = run(**job)
    assert (status, report[4]) == (0, None)
    assert max(keys_of(emulator).values()) == 1
    assert emulator.bill.duplicates == 0
    held = check_nothing_lost(out, emulator, rows=100)
    assert held <= IN_FLIGHT * len(points)


@pytest.mark.parametrize("on_unknown", ["hold", "retry"])
@pytest.mark.parametrize(
    ("kills", "count"), [(4, 150), pytest.param(100, 5000, marks=pytest.mark.long)], ids=["few", "many"]
)
def test_kills_at_random_moments(
    run: Callable[..., tuple[int, Any]], tmp_path: Path, on_unknown: str, kills: int, count: int
) -> None:
    """However often it is killed, each image is saved or its row is held; retried rows keep their key."""
    emulator, chance = Emulator(pixels=256, latency="20ms"), random.Random(kills)  # noqa: S311  # for the moments
    rows, out = write_rows(tmp_path / "rows.jsonl", count), tmp_path / "out"
    options = {"max_inflight": IN_FLIGHT, "on_unknown": on_unknown}
    held = killed = 0
    with emulator.serve() as server:
        job = {"base_url": server.base_url, "rows": rows, "out": str(out), "options": options}
        while killed < kills:
            status, _ = run(**job, seconds=chance.uniform(0.2, 0.6))
            if status == 0:
                break
            killed += 1
        status, report = run(**job)
    assert (status, report[4]) == (0, None)
    held = check_nothing_lost(out, emulator, rows=count)
    most = max(keys_of(emulator).values())
    if on_unknown == "hold":
        assert (most, emulator.bill.duplicates) == (1, 0)
        assert held <= IN_FLIGHT * killed
    else:
        assert most <= 2
        assert emulator.bill.duplicates <= IN_FLIGHT * killed
    assert killed > 0
