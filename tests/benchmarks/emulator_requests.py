"""How many requests a second each face of the emulator answers; not a test, so it is run by name with Python.

One client, one connection, orders of one small picture by link: what is measured is the way there and back.
"""

import platform
import statistics
import sys
import time

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.models import DEFAULT_MODEL

RUNS = 5
REQUESTS = 1000
BODY = {"model": DEFAULT_MODEL, "prompt": "a red fox"}
SIGNED = {"authorization": "Bearer any"}


def rate(client: httpx.Client) -> float:
    """Requests a second, over one run."""
    start = time.perf_counter()
    for _ in range(REQUESTS):
        client.post("/images/generations", json=BODY).raise_for_status()
    return REQUESTS / (time.perf_counter() - start)


def in_process() -> float:
    """The face that is an httpx transport."""
    emulator = Emulator(pixels=256)
    with emulator.http_client(base_url=emulator.base_url, headers=SIGNED) as client:
        return rate(client)


def served() -> float:
    """The face that is a port, client and server in one process."""
    with (
        Emulator(pixels=256).serve() as server,
        httpx.Client(base_url=server.base_url, headers=SIGNED, trust_env=False) as client,
    ):
        return rate(client)


def main() -> None:
    """Print the smallest, the median and the largest of the runs."""
    sys.stdout.write(f"Python {platform.python_version()}, {RUNS} runs of {REQUESTS} requests, requests/s\n")
    for face in (in_process, served):
        rates = [face() for _ in range(RUNS)]
        least, usual, most = min(rates), statistics.median(rates), max(rates)
        sys.stdout.write(f"{face.__name__:10}  min {least:6.0f}  median {usual:6.0f}  max {most:6.0f}\n")


if __name__ == "__main__":
    main()
