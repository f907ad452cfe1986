"""What this package costs beside the SDK: CPU of one call, and of the import; not a test, so it is run by name.

A call is compared with `openai` wrapped in tenacity by hand, both answered in this process. Each figure is the smallest
of many, since all else on the machine only adds; the ratio is that of two figures of one run.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import openai
import tenacity

from flux_openai import FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.models import DEFAULT_MODEL

BATCHES, CALLS, IMPORTS = 30, 200, 9
ANSWER = json.dumps({"created": 1, "data": [{"url": "https://images.example/1.png"}], "usage": {}}).encode()
OURS = {"aspect_ratio": "16:9", "seed": 7, "steps": 28, "guidance_scale": 3.0}
PASSING = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError)


def network() -> httpx.Client:
    """An HTTP client with one answer."""
    headers = {"content-type": "application/json"}
    return httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=ANSWER, headers=headers)))


def by_hand() -> Callable[[], object]:
    """The SDK, with what one writes around it."""
    client = openai.OpenAI(api_key="k", base_url="https://x.example/v1", max_retries=0, http_client=network())

    def call() -> object:
        waiting, passing = tenacity.wait_exponential_jitter(), tenacity.retry_if_exception_type(PASSING)
        for attempt in tenacity.Retrying(
            stop=tenacity.stop_after_attempt(4), wait=waiting, retry=passing, reraise=True
        ):
            with attempt:
                return client.images.generate(model=DEFAULT_MODEL, prompt="a red fox", n=1, extra_body=OURS)
        return None

    return call


def with_us() -> Callable[[], object]:
    """The same call with this package."""
    client = FluxOpenAI(api_key="k", http_client=network())
    call: dict[str, Any] = {"prompt": "a red fox", "n": 1, **OURS}
    return lambda: client.images.generate(**call)


def microseconds(call: Callable[[], object]) -> float:
    """CPU of one call, over a batch."""
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS * 1e6


def milliseconds(code: str) -> float:
    """CPU of a line of Python in a process of its own."""
    timed = f"import time; start = time.process_time(); {code}; print(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True).stdout) * 1e3


def main() -> None:
    """Print both pairs and their ratios."""
    write = sys.stdout.write
    write(f"Python {platform.python_version()}, openai {openai.__version__}, tenacity {version('tenacity')}\n")
    hand, ours = by_hand(), with_us()
    calls = [(microseconds(hand), microseconds(ours)) for _ in range(BATCHES)]
    lines = ("from openai import OpenAI", "from flux_openai import OpenAI")
    imports = [tuple(map(milliseconds, lines)) for _ in range(IMPORTS)]
    for name, unit, pairs in (("a call", "us", calls), ("the import", "ms", imports)):
        theirs, own = (min(column) for column in zip(*pairs, strict=True))
        write(f"{name:10}  by hand {theirs:6.0f} {unit}  with us {own:6.0f} {unit}  ratio {own / theirs:.2f}\n")


if __name__ == "__main__":
    main()
