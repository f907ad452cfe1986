"""A batch on Ray: what a killed worker, a cap, another machine's disk and a stop leave, and where no key ever is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from flux_openai import AsyncFluxOpenAI
from flux_openai.batch.ledger import Ledger
from flux_openai.batch.ray import run_batch_on_ray
from flux_openai.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
KEY = "a-key-that-must-be-nowhere-7f3a"
ROWS = 60

PREAMBLE = f"""
import asyncio, json, os, sys
from pathlib import Path
from flux_openai import AsyncFluxOpenAI
from flux_openai.batch import run_batch
from flux_openai.batch.ray import run_batch_on_ray

folder = Path(sys.argv[1])
rows = [
    {{"prompt": f"a fox, {{number}}", "seed": number, "custom_id": f"fox-{{number}}"}}
    for number in range(1, {ROWS + 1})
]

def told(name, report):
    names = ("done", "held", "failed", "pending", "images", "stopped", "message")
    print(json.dumps({{"run": name, **{{key: getattr(report, key) for key in names}}}}), flush=True)
"""

KILLED = (
    PREAMBLE
    + """
async def main():
    told("killed", await run_batch_on_ray(rows, folder / "alone", address="local", workers=2, max_inflight=8))

asyncio.run(main())
"""
)

OTHERS = (
    PREAMBLE
    + """
import ray
import flux_openai.batch.ray

def on_another_machine():
    flux_openai.batch.ray._machine = lambda: "another one"
    return AsyncFluxOpenAI()

async def main():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    out = folder / "capped"
    told("capped", await run_batch_on_ray(rows, out, max_images=25, max_inflight=8, price="0.50 CNY"))
    told("rest", await run_batch(rows, out, price="0.50 CNY"))
    elsewhere = str(folder / "elsewhere")
    far = {"price": "0.50 CNY", "workers": 1, "make_client": on_another_machine, "worker_folder": elsewhere}
    told("far", await run_batch_on_ray(rows, folder / "far", **far))
    stop, seen = asyncio.Event(), []

    def progress(now):
        seen.append(now)
        if now.done >= 4:
            stop.set()

    told("stopped", await run_batch_on_ray(rows, folder / "stopped", stop=stop, on_progress=progress, max_inflight=4))
    told("resumed", await run_batch(rows, folder / "stopped"))
    assert ray.is_initialized(), "a connection of the program's own stays"

asyncio.run(main())
"""
)

ALONE = (
    PREAMBLE
    + """
told("alone", asyncio.run(run_batch(rows, folder / "alone")))
"""
)


@dataclass(frozen=True)
class Service:
    """The emulator, in a process of its own: its journal is the bill."""

    base_url: str
    journal: Path

    def billed(self) -> Counter[str]:
        """How many images were billed, by prompt."""
        count = Counter[str]()
        for line in self.journal.read_text().splitlines(keepends=True):
            if line.endswith("\n") and (order := json.loads(line))["images_billed"]:
                count[order["body"]["prompt"]] += order["images_billed"]
        return count


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The emulator on a loopback port, with one key."""
    (tmp_path / "key").write_text(KEY)
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    options = ["--port", "0", "--pixels", "64", "--api-key-file", str(tmp_path / "key"), "--journal", str(journal)]
    command = [sys.executable, "-m", "flux_openai", "emulate", *options, "--latency", "lognormal:200ms,p99=600ms"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        yield Service(process.stdout.readline().split()[-1], journal)
        process.terminate()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets and its logs; sockets must have a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def started(program: str, folder: Path, service: Service, ray_folder: Path) -> "subprocess.Popen[str]":
    """A program that makes batches."""
    variables = {"MODELVERSE_API_KEY": KEY, "MODELVERSE_BASE_URL": service.base_url, "RAY_TMPDIR": str(ray_folder)}
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT), "no_proxy": "*", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-c", program, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=pipe, stderr=pipe)


def finished(process: "subprocess.Popen[str]") -> dict[str, dict[str, object]]:
    """What the program said of its runs."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert KEY not in out + err
    reports = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {report.pop("run"): report for report in reports}


def manifest(folder: Path) -> list[dict[str, object]]:
    """The lines of the manifest, without what differs from run to run."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    changing = ("attempts", "created", "key", "request_id")
    return [{name: value for name, value in line.items() if name not in changing} for line in lines]


def kill_worker(process: "subprocess.Popen[str]", out: Path, service: Service) -> None:
    """Kill one of the workers while it has requests under way."""
    while process.poll() is None:
        for lock in sorted((out / "shards").glob("*/.lock")) if sum(service.billed().values()) > 15 else []:
            with suppress(ConfigurationError, OSError), Ledger.open(lock.parent, create=False, write=False) as ledger:
                if ledger.totals().sent == 4:
                    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
                    return
        time.sleep(0.01)  # other processes write the journal and the ledger


def test_one_of_two_workers_is_killed(tmp_path: Path, service: Service, ray_folder: Path) -> None:
    """Its shard goes on elsewhere: only what was under way is held, nothing is paid twice, and no key is written."""
    alone = finished(started(ALONE, tmp_path, service, ray_folder))["alone"]
    assert alone["done"] == ROWS
    (tmp_path / "alone").rename(tmp_path / "expected")
    expected = {str(line["custom_id"]): line for line in manifest(tmp_path / "expected")}
    service.journal.write_text("")
    process = started(KILLED, tmp_path, service, ray_folder)
    out = tmp_path / "alone"
    kill_worker(process, out, service)
    report = finished(process)["killed"]
    held = int(str(report["held"]))
    assert report["done"] == ROWS - held, str(report)
    assert 0 < held <= 4, "the half of max_inflight=8"
    assert set(service.billed().values()) == {1}
    lines = manifest(out)
    assert lines == [expected[str(line["custom_id"])] for line in lines]
    rest = [str(json.loads(line)["custom_id"]) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert sorted(expected) == sorted([*rest, *(str(line["custom_id"]) for line in lines)])
    assert not (out / "shards").exists()
    with Ledger.open(out, create=False) as ledger:
        ledger.resolve("retry")
    assert finished(started(ALONE, tmp_path, service, ray_folder))["alone"]["done"] == ROWS
    assert manifest(out) == list(expected.values())
    logs = [path for path in ray_folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs, "there is something to look through"
    assert [path for path in logs if KEY.encode() in path.read_bytes()] == []


def test_caps_another_machine_and_a_stop(tmp_path: Path, service: Service, ray_folder: Path) -> None:
    """A cap is used up and not exceeded; images of another disk arrive; a stop drains, and one process goes on."""
    reports = finished(started(OTHERS, tmp_path, service, ray_folder))
    capped, rest, far, stopped, resumed = (reports[name] for name in ("capped", "rest", "far", "stopped", "resumed"))
    assert (capped["done"], capped["images"], capped["stopped"]) == (25, 25, "max_images")
    assert (rest["done"], rest["images"], rest["stopped"]) == (ROWS, ROWS, None)
    assert (far["done"], far["held"]) == (ROWS, 0)
    assert manifest(tmp_path / "far") == manifest(tmp_path / "capped")
    images = [path.relative_to(tmp_path / "capped") for path in (tmp_path / "capped" / "images").rglob("*.png")]
    assert all((tmp_path / "far" / path).read_bytes() == (tmp_path / "capped" / path).read_bytes() for path in images)
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []
    assert stopped["stopped"] == "interrupted"
    assert 4 <= int(str(stopped["done"])) < ROWS
    assert stopped["held"] == 0
    assert (resumed["done"], resumed["images"]) == (ROWS, ROWS)
    assert set(service.billed().values()) == {3}, "each row once for each of the three folders"


@pytest.mark.anyio
async def test_a_client_cannot_travel(tmp_path: Path) -> None:
    """A client is refused before anything starts: it holds a key, and each worker makes its own."""
    async with AsyncFluxOpenAI(api_key=KEY) as client:
        with pytest.raises(ConfigurationError, match="make_client") as info:
            await run_batch_on_ray([{"prompt": "a fox"}], tmp_path / "out", client=client)
    assert KEY not in str(info.value)
    assert not (tmp_path / "out").exists()
