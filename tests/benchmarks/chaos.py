"""The chaos run in full size, three clients side by side; not a test: `python -m tests.benchmarks.chaos [CALLS]`."""

import platform
import sys
import time
import warnings
from dataclasses import asdict

import openai

from flux_openai.errors import FluxWarning
from tests.promises.money.test_chaos import CLIENTS, SEED, run


def main() -> None:
    """Print the figures of each client; every one must have met 20,000 faults."""
    warnings.simplefilter("ignore", FluxWarning)
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 24_000
    columns, seconds = [], []
    for name in CLIENTS:
        start = time.perf_counter()
        columns.append(asdict(run(name, calls)))
        seconds.append(time.perf_counter() - start)
    write = sys.stdout.write
    write(f"Python {platform.python_version()}, openai {openai.__version__}, seed {SEED}\n")
    write(f"{'':20}{''.join(f'{name:>10}' for name in CLIENTS)}\n")
    for row in columns[0]:
        write(f"{row:20}{''.join(f'{column[row]:10,}' for column in columns)}\n")
    write(f"{'seconds':20}{''.join(f'{spent:10.1f}' for spent in seconds)}\n")
    if min(column["order_faults"] for column in columns) < 20_000:
        write("fewer than 20,000 faults: give more calls\n")


if __name__ == "__main__":
    main()
