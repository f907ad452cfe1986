"""The benchmark: what a call costs with this package, with the SDK wrapped in tenacity by hand, and with its peers.

    python tests/benchmarks/run.py                     all tables, both generations of the SDK; takes half an hour
    python tests/benchmarks/run.py calls --rounds 5    one of: calls, start, growth, flight, instructions

Each client lives in a process and an environment of its own, made by pip when it is missing. The processes take turns,
in blocks of calls, and the order changes from round to round. A figure is the median of the ratios of the rounds, with
the quartiles: other load on the machine then falls on all clients. CPU time is that of the client's process. What is a
whole process (the import, `--help`) is timed by pyperf, in turns too. Beside the figures stand causes: how often a call
makes the process wait, its page faults and, in a table of their own, its instructions, which cachegrind counts, if
valgrind is installed.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = "openai + tenacity"

ENVIRONMENTS: Mapping[str, list[str]] = {
    "openai-3": ["openai==3.*", "tenacity", f"-e{ROOT}[cli,fast]"],
    "openai-2": ["openai==2.*", "tenacity", f"-e{ROOT}[cli,fast]"],
    "together": ["together"],
    "litellm": ["litellm"],
    "tools": ["pyperf"],
}
"""What is installed in each environment."""

B64 = "b64-2000000"
CALLS: Mapping[str, tuple[str, str, int, list[str]]] = {
    "a call by url": (
        "url",
        "",
        200,
        ["http.client", "httpx", "openai", BASE, "flux_openai", "together", "litellm", "litellm, no usage"],
    ),
    "the same, async": ("url", "in_flight=1", 200, ["openai", BASE, "flux_openai", "litellm, no usage"]),
    "4 images of 2 MB, saved": (B64, "images=4 save=1", 8, ["http.client", "httpx", "openai", BASE, "flux_openai"]),
    "a prompt of 100 kB": ("url", "prompt=100000", 100, ["openai", BASE, "flux_openai"]),
    "16 images, split": ("url", "images=16 split=1", 40, [BASE, "flux_openai"]),
    "100 images, split": ("url", "images=100 split=1", 10, [BASE, "flux_openai"]),
}
"""The rows of the first table: the loopback's path, the workload, the calls in a block, and the clients."""

GROWTH: Mapping[str, tuple[str, list[str], int]] = {
    "images by url": ("url", [f"images={n}" for n in (1, 2, 3, 4)], 200),
    "prompt": ("url", [f"prompt={n}" for n in (10, 1_000, 10_000, 100_000)], 100),
    "image of 10 kB": ("b64-10000", ["save=1"], 100),
    "image of 1 MB": ("b64-1000000", ["save=1"], 20),
    "image of 4 MB": ("b64-4000000", ["save=1"], 8),
    "image of 16 MB": ("b64-16000000", ["save=1"], 3),
    "split": ("url", [f"images={n} split=1" for n in (4, 16, 100, 1000)], 4),
    "in flight": ("url", [f"in_flight={n}" for n in (1, 16, 64, 256)], 256),
}
"""How the cost grows: the loopback's path, the workloads, and the calls in a block."""


def write(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Environments:
    """The environments of the clients, in a folder that is kept between runs."""

    folder: Path

    def python(self, name: str) -> str:
        """The interpreter of an environment, which is made if it is missing."""
        home = self.folder / name
        python = home / "bin" / "python"
        if not python.exists():
            write(f"making the environment {name}: {' '.join(ENVIRONMENTS[name])}")
            venv.create(home, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name]], check=True)
        return str(python)

    def of_client(self, client: str, generation: str) -> str:
        """The interpreter for a client; peers that are no SDK have one of their own."""
        return self.python(client if client in ENVIRONMENTS else generation)


@contextmanager
def loopback(python: str) -> Iterator[str]:
    """The service, in a process of its own; yields its address without a path."""
    with subprocess.Popen([python, HERE / "loopback.py"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


@dataclass(kw_only=True)
class Contender:
    """A process that makes calls when it is asked to, and what it measured."""

    name: str
    process: "subprocess.Popen[str]"
    versions: str = ""
    refusal: str = ""
    blocks: list[dict[str, float]] = field(default_factory=list)

    def ready(self) -> None:
        """Read the first line, or why there is none: a client may refuse the documented answer."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        if line:
            self.versions = json.loads(line)["versions"]
        else:
            lines = self.process.stderr.read().strip().splitlines()
            self.refusal = next((line for line in reversed(lines) if "Error" in line), "it ended without a word")[:120]

    def block(self, calls: int) -> None:
        """Make so many calls, and note what they cost."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        self.blocks.append(json.loads(self.process.stdout.readline()))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the clients of one table run: their environments, the generation of the SDK, and the service's address."""

    environments: Environments
    generation: str
    address: str

    @contextmanager
    def contenders(self, clients: Iterable[str], path: str, workload: str) -> Iterator[list[Contender]]:
        """The processes of several clients, ready for their first block.

        "X, no fast" runs without pybase64. "X, no usage" gets answers without the documented `usage`.
        """
        with ExitStack() as stack:
            started = []
            for name in clients:
                client, _, without = name.partition(", no ")
                base_url = f"{self.address}/{path}{'-bare' if without == 'usage' else ''}/v1"
                missing = ["pybase64"] if without == "fast" else []
                python = self.environments.of_client(client, self.generation)
                command = [python, str(HERE / "contender.py"), client, workload, base_url, "0", *missing]
                process = stack.enter_context(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                    )
                )
                stack.callback(process.kill)
                started.append(Contender(name=name, process=process))
            for contender in started:
                contender.ready()
            yield started


def in_turns(started: list[Contender], calls: int, rounds: int) -> None:
    """Let the clients make their blocks in turns, in another order every other round."""
    usable = [contender for contender in started if not contender.refusal]
    for number in range(rounds):
        for contender in usable if number % 2 else reversed(usable):
            contender.block(calls)


def spread(ratios: list[float]) -> str:
    """The median and the quartiles."""
    low, middle, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return f"{middle:5.2f} [{low:.2f}-{high:.2f}]"


def compared(started: list[Contender], base: str, *, measure: str = "cpu") -> None:
    """Print a row for each client, with its ratios to the base, round by round."""
    reference = next(contender for contender in started if contender.name == base)
    for contender in started:
        if contender.refusal:
            write(f"  {contender.name:22} refuses the answer: {contender.refusal}")
            continue
        pairs = zip(contender.blocks, reference.blocks, strict=True)
        ratios = [own[measure] / theirs[measure] for own, theirs in pairs]
        cost = median(block[measure] for block in contender.blocks) * (1e6 if measure == "cpu" else 1)
        unit = "us" if measure == "cpu" else "s "
        peak = f"peak {max(block['peak'] for block in contender.blocks):5.0f} MB"
        waits, faults = (median(block[name] for block in contender.blocks) for name in ("waits", "faults"))
        causes = f"waits {waits:5.1f}  page faults {faults:7.1f}"
        write(
            f"  {contender.name:22} {cost:9.0f} {unit}  ratio {spread(ratios)}  {peak}  {causes}  {contender.versions}"
        )


def calls_table(bench: Bench, rounds: int) -> None:
    """What one call costs, client by client."""
    for title, (path, workload, calls, clients) in CALLS.items():
        write(f"\n{title} ({bench.generation}; {rounds} rounds of {calls} calls)")
        names = [*clients, *(["flux_openai, no fast"] if "save=1" in workload else [])]
        with bench.contenders(names, path, workload) as started:
            in_turns(started, calls, rounds)
            compared(started, BASE)


def growth_table(bench: Bench, rounds: int) -> None:
    """How the cost grows with the images, the prompt, their size and the calls in flight."""
    for title, (path, workloads, calls) in GROWTH.items():
        for workload in workloads:
            write(f"\n{title}: {workload} ({bench.generation}; {rounds} rounds)")
            with bench.contenders([BASE, "flux_openai"], path, workload) as started:
                in_turns(started, calls, rounds)
                compared(started, BASE)


def flight_table(bench: Bench, rounds: int) -> None:
    """How long 2,000 calls take that each wait 200 ms, 64 at a time."""
    write(f"\n2,000 calls of 200 ms, 64 in flight: wall time ({bench.generation}; {rounds} rounds; 6.25 s at best)")
    clients = ["openai", "flux_openai", "litellm, no usage"]
    with bench.contenders(clients, "url-200ms", "in_flight=64") as started:
        in_turns(started, 2000, rounds)
        compared(started, "openai", measure="wall")


def start_table(bench: Bench, rounds: int) -> None:
    """How long whole processes take, by pyperf: the imports and the help text, against Python itself."""
    python = bench.environments.python(bench.generation)
    program = str(Path(python).with_name("flux-openai"))
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "from openai import OpenAI": [python, "-c", "from openai import OpenAI"],
        "from flux_openai import OpenAI": [python, "-c", "from flux_openai import OpenAI"],
        "flux-openai --help": [python, program, "--help"],
        "flux-openai generate --help": [python, program, "generate", "--help"],
    }
    write(f"\nwhole processes ({bench.generation}; {rounds} rounds)")
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds):
        for name in commands if number % 2 else reversed(commands):
            seconds[name].append(_pyperf(bench.environments, commands[name]))
    for name, base in [
        ("from flux_openai import OpenAI", "from openai import OpenAI"),
        ("flux-openai --help", "python -c pass"),
        ("flux-openai generate --help", "python -c pass"),
    ]:
        ratios = [own / theirs for own, theirs in zip(seconds[name], seconds[base], strict=True)]
        write(f"  {name:32} {median(seconds[name]) * 1e3:6.0f} ms  ratio to {base}: {spread(ratios)}")


def _pyperf(environments: Environments, command: list[str]) -> float:
    """The seconds of one command by pyperf: the smallest of a few values."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        options = ["--quiet", "--processes=1", "--values=5", "--warmups=1", f"--output={result}"]
        pyperf = [environments.python("tools"), "-m", "pyperf", "command", *options, "--", *command]
        subprocess.run(pyperf, stdout=subprocess.DEVNULL, check=True)
        [benchmark] = json.loads(result.read_bytes())["benchmarks"]
    values: list[float] = [value for run in benchmark["runs"] for value in run.get("values", ())]
    return min(values)


COUNTED: Mapping[str, tuple[str, str, int, int]] = {
    "a call by url": ("url", "", 30, 80),
    "the same, async": ("url", "in_flight=1", 30, 80),
    "4 images of 2 MB, saved": (B64, "images=4 save=1", 3, 6),
    "a prompt of 100 kB": ("url", "prompt=100000", 30, 80),
}
"""The rows of the table of instructions: the loopback's path, the workload, and the calls of a short and a long run.
What each call takes is their difference. Threads are not among them: cachegrind is so slow that others would begin."""


def instructions_table(bench: Bench) -> None:
    """How many instructions a call takes, which no other load on the machine changes."""
    write(f"\ninstructions ({bench.generation})")
    if shutil.which("valgrind") is None:
        write("  valgrind is not installed")
        return
    for title, (path, workload, few, many) in COUNTED.items():
        clients = ("openai", BASE, "flux_openai")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = [
                [pool.submit(_instructions, bench, client, path, workload, calls) for calls in (few, many)]
                for client in clients
            ]
        costs = [(long.result() - short.result()) / (many - few) for short, long in counts]
        for client, cost in zip(clients, costs, strict=True):
            write(f"  {title:24} {client:18} {cost / 1e6:7.3f} M  ratio {cost / costs[clients.index(BASE)]:.3f}")


def _instructions(bench: Bench, client: str, path: str, workload: str, calls: int) -> int:
    python = bench.environments.of_client(client, bench.generation)
    command = [python, str(HERE / "contender.py"), client, workload, f"{bench.address}/{path}/v1", str(calls)]
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run(
        ["valgrind", *options, *command],  # noqa: S607  # wherever it is installed
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    line = next(line for line in done.stderr.splitlines() if "I refs:" in line or "I   refs:" in line)
    return int(line.rpartition(":")[2].replace(",", ""))


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = ["calls", "start", "growth", "flight", "instructions"]
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"one of {', '.join(tables)}; default: all")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of blocks (default: 15)")
    parser.add_argument("--generation", choices=["openai-3", "openai-2"], help="default: both")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "flux-openai-benchmarks"
    parser.add_argument("--environments", type=Path, default=cache, help=f"folder of the environments ({cache})")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(tables):
        parser.error(f"no table {', '.join(sorted(unknown))}: choose from {', '.join(tables)}")
    wanted = options.tables or tables
    environments = Environments(options.environments)
    machine = f"{platform.platform()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}"
    write(f"Python {platform.python_version()}, {machine}")
    for generation in [options.generation] if options.generation else ["openai-3", "openai-2"]:
        with loopback(sys.executable) as address:
            bench = Bench(environments=environments, generation=generation, address=address)
            if "calls" in wanted:
                calls_table(bench, options.rounds)
            if "start" in wanted:
                start_table(bench, options.rounds)
            if "growth" in wanted:
                growth_table(bench, options.rounds)
            if "flight" in wanted:
                flight_table(bench, min(3, options.rounds))
            if "instructions" in wanted:
                instructions_table(bench)


if __name__ == "__main__":
    main()
