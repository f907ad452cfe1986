"""The batch in full size, against the emulator over TCP in a process of its own, whose bill is the witness.

    python tests/benchmarks/batch.py                all cases; takes about an hour
    python tests/benchmarks/batch.py kills memory   some of them

kills      random `kill -9`s over one run: rows lost, images paid twice, rows held for each kill
storm      600 prompts against 50 requests a second that nobody told us about
limits     twelve limits that nobody told us about, for five minutes each: the share of each that was used
memory     the peak of memory with 10,000 and with 100,000 rows, and the slope between them
resume     from the start of the program to its first request, with a ledger of 1,000,000 rows
cpu        CPU time for each row against the plain async client that downloads and writes by hand
folder     eight processes on one folder

Sizes can be made smaller: `--scale 0.02`. Times are those of a machine that does other things too.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

PROGRAM = [sys.executable, "-m", "flux_openai"]
IN_FLIGHT = 64


def write(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Service:
    """The emulator in a process of its own.

    Attributes:
        base_url: Its address.
        bill: What it printed when it ended: requests, images billed, duplicates.
        latencies: The seconds of each request that it admitted, if it was started by `--serve`.
    """

    def __init__(self, *options: str, command: Sequence[str] = (*PROGRAM, "emulate")) -> None:
        """Start it with these options of `flux-openai emulate`, or of another program that does the same."""
        arguments = [*command, "--port", "0", "--pixels", "64", *options]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().split()[-1]
        self.bill: Mapping[str, int] = {}
        self.latencies: Sequence[float] = ()

    def end(self) -> None:
        """End it, and read its bill, unless that was done before."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate()
        *before, last = output.splitlines()
        self.latencies = json.loads(before[-1]) if before else ()
        words = last.replace(",", " ").split()
        numbers = [int(word) for word in words if word.isdecimal()]
        self.bill = dict(zip(("requests", "images", "duplicates"), numbers[-3:], strict=True))


@contextmanager
def service(*options: str, command: Sequence[str] = (*PROGRAM, "emulate")) -> Iterator[Service]:
    """The emulator while the block runs."""
    running = Service(*options, command=command)
    try:
        yield running
    finally:
        running.end()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on a local disk."""
    with tempfile.TemporaryDirectory(prefix="flux-batch-") as place:
        yield Path(place)


def prompts(place: Path, count: int) -> Path:
    """A file of so many prompts."""
    path = place / f"prompts-{count}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            file.write(json.dumps({"custom_id": f"fox-{number}", "prompt": f"a red fox, number {number}"}) + "\n")
    return path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A process that ended: its exit code, CPU seconds, peak memory in bytes, wall seconds, and its output."""

    code: int
    cpu: float
    memory: int
    seconds: float
    output: str


def started(source: Path, out: Path, base_url: str, *options: str) -> "subprocess.Popen[str]":
    """A run of the batch that was started."""
    command = [*PROGRAM, "batch", "run", str(source), "-o", str(out), "--base-url", base_url, *options]
    environment = {**os.environ, "MODELVERSE_API_KEY": "any"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def ended(process: "subprocess.Popen[str]", begin: float) -> Ended:
    """Wait for the end of a process."""
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(
        code=process.returncode,
        cpu=usage.ru_utime + usage.ru_stime,
        memory=usage.ru_maxrss * 1024,
        seconds=time.monotonic() - begin,
        output=output,
    )


def run(source: Path, out: Path, base_url: str, *options: str) -> Ended:
    """Run the batch to its end."""
    begin = time.monotonic()
    return ended(started(source, out, base_url, *options), begin)


def report(out: Path) -> Mapping[str, object]:
    """The report of the last run."""
    loaded: Mapping[str, object] = json.loads((out / "report.json").read_text())
    return loaded


def rows_of(out: Path, file: str) -> list[Mapping[str, object]]:
    """The rows of the manifest, or of the errors."""
    with (out / file).open() as lines:
        return [json.loads(line) for line in lines]


def states_of(out: Path) -> Mapping[str, int]:
    """How many rows are done, and how many of the others are in which state."""
    done = Counter(done=len(rows_of(out, "manifest.jsonl")))
    return done + Counter(str(row["state"]) for row in rows_of(out, "errors.jsonl"))


def kills(scale: float) -> None:
    """Kill one run at random moments, go on with the same command, and count."""
    rows, count = max(50, int(5000 * scale)), max(3, int(100 * scale))
    rng = random.Random(14)  # noqa: S311  # no secret
    with folder() as place:
        journal = place / "journal.jsonl"
        journal.touch()
        with service("--latency", "lognormal:300ms,p99=1s", "--journal", str(journal)) as emulator:
            source, out = prompts(place, rows), place / "out"
            options = ("--max-inflight", str(IN_FLIGHT))
            killed = 0
            while killed < count:
                process = started(source, out, emulator.base_url, *options)
                # At a random moment between the start of the program and its hundredth request or so.
                target = size_of(journal) + rng.randrange(0, 60_000)
                while process.poll() is None and size_of(journal) < target:
                    time.sleep(rng.uniform(0, 0.02))
                if process.poll() is not None:
                    break
                process.kill()
                process.communicate()
                killed += 1
            last = run(source, out, emulator.base_url, *options)
            states = states_of(out)
            missing = [row for row in rows_of(out, "manifest.jsonl") if not all_there(out, row)]
    bill = emulator.bill
    write(f"  rows {rows}, kills {killed}, exit code of the last run {last.code}, states {dict(states)}")
    write(f"  rows lost: {rows - sum(states.values()) + len(missing)}")
    write(f"  images billed {bill['images']}, of them paid twice {bill['duplicates']} (held rows are not sent again)")
    write(f"  held for each kill: {states.get('held', 0) / max(1, killed):.1f}, at most {IN_FLIGHT} in flight")


def size_of(file: Path) -> int:
    """The size of a file."""
    return file.stat().st_size


def all_there(out: Path, row: Mapping[str, object]) -> bool:
    """Whether the files of a row exist."""
    files = row["files"]
    assert isinstance(files, list)
    return bool(files) and all((out / file["path"]).is_file() for file in files)


def storm(scale: float) -> None:
    """600 prompts against a limit of 50 requests a second."""
    rows = max(100, int(600 * scale))
    for latency in ("0s", "200ms", "1500ms", "6s", "lognormal:1s,p99=3s"):
        with folder() as place, service("--latency", latency, command=hidden_limit("50/s")) as emulator:
            out = place / "out"
            run(prompts(place, rows), out, emulator.base_url)
            states, told = states_of(out), report(out)
        refused = emulator.bill["requests"] - emulator.bill["images"] * 2  # each image is one order and one download
        # The first 50 can be admitted at once, and then one each 1/50 s.
        own = max(max(0, number - 50) / 50 + taken for number, taken in enumerate(emulator.latencies, start=1))
        seconds = float(str(told["seconds"]))
        write(
            f"  latency {latency:20} {dict(states)}, refused {refused} ({refused / (rows + refused):.1%} of the "
            f"requests), {seconds:.1f} s = {seconds / own:.2f} x the {own:.1f} s that the limit and the answers take; "
            f"load {os.getloadavg()[0]:.1f}"
        )


LATENCIES = {"1500ms": 1.5, "6s": 6.0}


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """A limit as it is in `KINDS`.

    Attributes:
        limit: A text that an emulator knows, or "step": 20 a second, then 5, then 20, each for a third of the run.
        silent: Whether its 429s have no Retry-After.
        burst: How many requests it admits at once; None as the text says.
        owed: What it admits from the first request on, by its Unix time, the seconds, and the latency.
        whole: The seconds of a window; what counts ends with the last one that has ended, since a limit that starts
            anew a moment before the end of the run would owe what nobody can use. 0 for other limits.
    """

    limit: str
    owed: Callable[[float, float, float], float] = lambda _begin, _seconds, _latency: 0.0
    silent: bool = False
    burst: int | None = None
    whole: int = 0


KINDS: Mapping[str, Hidden] = {
    "10/s": Hidden(limit="10/s", owed=lambda _begin, seconds, _latency: 10 + 10 * seconds),
    "10/s, silent": Hidden(limit="10/s", silent=True, owed=lambda _begin, seconds, _latency: 10 + 10 * seconds),
    "300 a minute, silent": Hidden(
        limit="window:300/min",
        silent=True,
        owed=lambda begin, seconds, _latency: 300 * ((begin + seconds) // 60 - begin // 60),
        whole=60,
    ),
    "16 at a time": Hidden(limit="concurrency=16", owed=lambda _begin, seconds, latency: 16 * seconds / latency),
    "20/s, 5/s, 20/s": Hidden(limit="step", owed=lambda _begin, seconds, _latency: 20 + 15 * seconds),
    "100/s": Hidden(limit="100/s", owed=lambda _begin, seconds, _latency: 100 + 100 * seconds),
    "200 at a time": Hidden(limit="concurrency=200", owed=lambda _begin, seconds, latency: 200 * seconds / latency),
    "strict 10/s, silent": Hidden(
        limit="10/s", silent=True, burst=1, owed=lambda _begin, seconds, _latency: 1 + 10 * seconds
    ),
    "20 a minute": Hidden(limit="20/min", owed=lambda _begin, seconds, _latency: 20 + seconds / 3),
    "20 a minute, silent": Hidden(limit="20/min", silent=True, owed=lambda _begin, seconds, _latency: 20 + seconds / 3),
    "strict 0.5/s": Hidden(limit="30/min", burst=1, owed=lambda _begin, seconds, _latency: 1 + seconds / 2),
    "strict 0.5/s, silent": Hidden(
        limit="30/min", silent=True, burst=1, owed=lambda _begin, seconds, _latency: 1 + seconds / 2
    ),
}


def limits(scale: float) -> None:
    """Runs for a time against limits; the emulator's journal says what it admitted, and when."""
    seconds = max(30.0, 300 * scale)
    for latency in ("1500ms", "6s"):
        for names in (list(KINDS)[:3], list(KINDS)[3:5], ["100/s"], ["200 at a time"], list(KINDS)[7:]):
            side_by_side(names, latency, seconds)


def side_by_side(names: Sequence[str], latency: str, seconds: float) -> None:
    """Runs against several limits at the same time."""
    with ExitStack() as stack:
        under_way = []
        for name in names:
            place = stack.enter_context(folder())
            options = ("--latency", latency, "--journal", str(place / "journal.jsonl"))
            emulator = stack.enter_context(service(*options, command=hidden_limit(name, seconds)))
            owed = KINDS[name].owed(0.0, seconds + 60, LATENCIES[latency])
            source = prompts(place, 500 + int(1.1 * owed))  # more than it admits
            process = started(source, place / "out", emulator.base_url, "--max-inflight", "2000")
            under_way.append((name, place, emulator, process))
        journals = [place / "journal.jsonl" for _, place, _, _ in under_way]
        while not all(journal.read_text().count("generations") for journal in journals):
            time.sleep(0.05)
        time.sleep(seconds + 1)
        load = os.getloadavg()[0]
        for _, _, _, process in under_way:
            process.send_signal(signal.SIGTERM)
        for name, place, emulator, process in under_way:
            ended(process, 0.0)
            emulator.end()
            line = measured(name, place, emulator, latency, seconds)
            write(f"  {name:22} {latency:>6} {line}, load {load:.1f}")


def measured(name: str, place: Path, emulator: Service, latency: str, seconds: float) -> str:
    """What one run got out of its limit."""
    lines = [json.loads(line) for line in (place / "journal.jsonl").read_text().splitlines() if line]
    orders = [line for line in lines if line["method"] == "POST"]
    for order in orders:
        order["at"] = datetime.fromisoformat(order["time"]).timestamp()
    begin = min(order["at"] for order in orders)
    admitted = [order for order in orders if order["status"] == 200]
    end = begin + seconds
    if KINDS[name].whole:
        end -= end % KINDS[name].whole
    in_time = sum(order["at"] <= end for order in admitted)
    refused = sum(order["status"] == 429 for order in orders)
    share = in_time / KINDS[name].owed(begin, seconds, LATENCIES[latency])
    billed, twice = emulator.bill["images"], emulator.bill["duplicates"]
    done = len(rows_of(place / "out", "manifest.jsonl"))
    return (
        f"{share:6.1%} of the limit, 429/success {refused / len(admitted):.4f}, admitted {len(admitted)}, "
        f"billed {billed}, paid twice {twice}, done {done}"
    )


def hidden_limit(name: str, seconds: float = 0.0) -> Sequence[str]:
    """The command of an emulator with one of the limits in `KINDS`, or another one that an emulator knows."""
    return (sys.executable, __file__, "--serve", name, str(seconds))


def serve(name: str, seconds: float, options: Sequence[str]) -> None:
    """An emulator with a limit that the command line does not know: it takes `flux-openai emulate`'s place."""
    from fractions import Fraction

    from flux_openai.emulator import Emulator
    from flux_openai.emulator.api.responses import ServiceError
    from flux_openai.emulator.load.latency import Workload
    from flux_openai.emulator.load.limits import Limit, State, TokenBucket, parse_limit

    hidden, begin, latencies = KINDS.get(name, Hidden(limit=name)), list[Fraction](), list[float]()

    class Wrapped:
        """The limit, without its Retry-After if it is silent."""

        def refuse(self, state: State, *, now: Fraction, workload: Workload) -> ServiceError | None:
            begin.append(now) if not begin else None
            error = self._limit(now).refuse(state, now=now, workload=workload)
            return replace(error, headers={}) if error is not None and hidden.silent else error

        def charge(self, state: State, *, now: Fraction, workload: Workload, seconds: Fraction) -> State:
            latencies.append(float(seconds))
            return self._limit(now).charge(state, now=now, workload=workload, seconds=seconds)

        def _limit(self, now: Fraction) -> Limit:
            if hidden.limit == "step":
                rate = 5 if seconds / 3 <= now - begin[0] < 2 * seconds / 3 else 20
                return TokenBucket(rate=rate, burst=rate)
            limit = parse_limit(hidden.limit)
            return replace(limit, burst=hidden.burst) if isinstance(limit, TokenBucket) and hidden.burst else limit

    given = dict(zip(options[::2], options[1::2], strict=True))
    emulator = Emulator(
        limits=[Wrapped()],
        latency=given["--latency"],
        journal=given.get("--journal"),
        pixels=int(given["--pixels"]),
    )
    with emulator.serve() as server:
        write(server.base_url)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.pause()
        bill = emulator.bill
    write(json.dumps(latencies))
    write(f"requests: {len(emulator.requests)}, images billed: {bill.images}, of them duplicates: {bill.duplicates}")


def memory(scale: float) -> None:
    """The peak of memory by the number of rows."""
    sizes = [max(500, int(size * scale)) for size in (10_000, 100_000)]
    peaks = []
    for rows in sizes:
        with folder() as place, service() as emulator:
            result = run(prompts(place, rows), place / "out", emulator.base_url)
            peaks.append(result.memory)
            write(
                f"  {rows} rows: peak {result.memory / 1e6:.0f} MB, exit code {result.code}, {result.seconds:.0f} s, "
                f"{rows / result.seconds:.0f} rows/s, CPU {result.cpu / rows * 1e3:.2f} ms a row"
            )
    write(f"  slope: {(peaks[1] - peaks[0]) / (sizes[1] - sizes[0]):.0f} bytes a row")


def resume(scale: float) -> None:
    """The time to the first request with a large ledger."""
    rows = max(1000, int(1_000_000 * scale))
    with folder() as place:
        journal = place / "journal.jsonl"
        with service("--journal", str(journal)) as emulator:
            source, out = prompts(place, rows), place / "out"
            first = run(source, out, emulator.base_url, "--max-images", "10")
            write(f"  first start with {rows} rows: {first.seconds:.1f} s, exit code {first.code}")
            for images in (20, 30, 40):
                before = len(journal.read_text().splitlines())
                begin, process = time.time(), started(source, out, emulator.base_url, "--max-images", str(images))
                ended(process, time.monotonic())
                line = json.loads(journal.read_text().splitlines()[before])
                seconds = datetime.fromisoformat(line["time"]).timestamp() - begin
                write(f"  started again: {seconds:.2f} s to the first request")


def cpu(scale: float) -> None:
    """CPU time for each row against the plain client: medians of pairs that were measured one after the other.

    Requests take different times, as in the field: if all were answered at once, the HTTP library would look through
    its idle connections most of the time.
    """
    few, many = max(100, int(600 * scale)), max(300, int(2400 * scale))
    ratios = []
    for turn in range(7):
        order = ("batch", "plain") if turn % 2 else ("plain", "batch")
        ms = {name: slope(partial(cpu_time, name), few, many) * 1e3 for name in order}
        ratios.append(ms["batch"] / ms["plain"])
        write(f"  CPU a row: batch {ms['batch']:.2f} ms, plain {ms['plain']:.2f} ms, ratio {ratios[-1]:.2f}")
    write(f"  median ratio {median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]")
    if shutil.which("valgrind"):
        batch, by_hand = (slope(partial(instructions, name), 30, 90) / 1e6 for name in ("batch", "plain"))
        write(f"  instructions a row: batch {batch:.2f} M, plain {by_hand:.2f} M, ratio {batch / by_hand:.2f}")


def slope(cost: Callable[[int], float], few: int, many: int) -> float:
    """What each row costs, without the start of the process."""
    return (cost(many) - cost(few)) / (many - few)


def both_ways(
    name: str, rows: int, *wrapper: str, latency: str = "lognormal:1s,p99=3s", in_flight: int = IN_FLIGHT
) -> Ended:
    """The calls for so many prompts, by the batch or by the plain client."""
    with folder() as place, service("--latency", latency) as emulator:
        source, out = prompts(place, rows), place / "out"
        out.mkdir()
        if name == "batch":
            arguments = (*PROGRAM, "batch", "run", str(source), "-o", str(out), "--base-url", emulator.base_url)
            command = [*wrapper, *arguments, "--max-inflight", str(in_flight)]
        else:
            command = [*wrapper, sys.executable, __file__, "--plain", emulator.base_url, str(source), str(out)]
            command += ["--in-flight", str(in_flight)]
        environment = {**os.environ, "MODELVERSE_API_KEY": "any", "PYTHONHASHSEED": "0"}
        begin = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        return ended(process, begin)


def cpu_time(name: str, rows: int) -> float:
    """The CPU seconds of these calls, with the kernel's."""
    return both_ways(name, rows).cpu


def instructions(name: str, rows: int) -> int:
    """The instructions of the same, which do not depend on what else the machine does; the kernel's do not count."""
    valgrind = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    output = both_ways(name, rows, *valgrind, latency="0s", in_flight=8).output
    found = re.search(r"I +refs: +([0-9,]+)", output)
    assert found is not None, output
    return int(found[1].replace(",", ""))


async def plain(base_url: str, source: Path, place: Path, in_flight: int) -> None:
    """The same calls by the plain async client, which downloads with the SDK's HTTP library and writes by hand."""
    import openai

    from flux_openai._http.library import httpx

    async with openai.AsyncOpenAI(base_url=base_url, api_key="any") as client, httpx.AsyncClient() as downloads:
        room = asyncio.Semaphore(in_flight)

        async def make(row: Mapping[str, str]) -> None:
            async with room:
                response = await client.images.generate(
                    model="black-forest-labs/flux-kontext-max/text-to-image", prompt=row["prompt"]
                )
                for image in response.data or []:
                    answer = await downloads.get(image.url or "")
                    (place / f"{row['custom_id']}.png").write_bytes(answer.content)

        with source.open() as lines:
            await asyncio.gather(*(make(json.loads(line)) for line in lines))


def one_folder(_scale: float) -> None:
    """Eight processes on one folder."""
    with folder() as place, service("--latency", "1s") as emulator:
        source, out = prompts(place, 100), place / "out"
        processes = [started(source, out, emulator.base_url) for _ in range(8)]
        codes = Counter(ended(process, 0.0).code for process in processes)
    bill = emulator.bill
    write(f"  exit codes {dict(codes)}; images billed {bill['images']} of 100, paid twice {bill['duplicates']}")


CASES: Mapping[str, Callable[[float], None]] = {
    "kills": kills,
    "storm": storm,
    "limits": limits,
    "memory": memory,
    "resume": resume,
    "cpu": cpu,
    "folder": one_folder,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--plain", nargs=3, metavar=("BASE_URL", "SOURCE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.serve:
        name, seconds, *options = given.serve
        serve(name, float(seconds), options)
        return
    if given.plain:
        base_url, source, place = given.plain
        asyncio.run(plain(base_url, Path(source), Path(place), given.in_flight))
        return
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("openai", "pydantic"))
    write(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} processors")
    for name in given.cases or CASES:
        write(f"{name}:")
        CASES[name](given.scale)


if __name__ == "__main__":
    main()
