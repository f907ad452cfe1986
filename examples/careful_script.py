"""A script for a bad network: never pays twice, says what it waits for, and tells how a failure was billed."""

import os
import sys

import openai

from flux_openai import Emulator, FluxOpenAI, RetryPolicy
from flux_openai.errors import FluxError
from flux_openai.retry import RetryEvent


def report(event: RetryEvent) -> None:
    """Say on stderr what went wrong and how long the wait is."""
    print(f"attempt {event.attempt}: {event.reason}, next in {event.wait:.1f} s", file=sys.stderr)


def make_client() -> FluxOpenAI:
    """A client that retries only what cannot have been billed."""
    policy = RetryPolicy(duplicates="never", max_attempts=6, on_retry=report)
    if "MODELVERSE_API_KEY" in os.environ:
        return FluxOpenAI(retry=policy)
    emulator = Emulator()
    # A bad minute, to have something to survive: busy twice.
    emulator.fail(2, status=429, headers={"retry-after-ms": "100"})
    return emulator.client(retry=policy)


def main() -> int:
    """Make one image; the exit status tells whether a failure may have cost something."""
    try:
        response = make_client().images.generate(prompt="a red fox in the snow", response_format="b64_json")
        print(response.data[0].save("out"), f"after {response.attempts} attempts")
    except FluxError as error:
        print(f"{error} (billing: {error.billing}, request: {error.request_id})", file=sys.stderr)
        return 4 if error.billing == "none" else 5
    except openai.OpenAIError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


sys.exit(main())
