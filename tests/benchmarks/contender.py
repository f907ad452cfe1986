"""One client under measurement, in a process of its own, which lives for a whole run.

    python contender.py CLIENT WORKLOAD BASE_URL CALLS [MODULE …]

makes CALLS calls and ends, for cachegrind; with 0, each line on stdin is a number of calls, and a line of JSON on
stdout what they cost. The modules are made missing. CLIENT is a name in `CLIENTS`; the environment in which this is
started decides the versions. Clients are imported where they are used, because each environment has one of them.
"""

import asyncio
import gc
import json
import resource
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MODEL = "black-forest-labs/flux-kontext-max/text-to-image"
OURS = {"aspect_ratio": "16:9", "seed": 7, "steps": 28, "guidance_scale": 3.0}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one call asks for, and what is done with its answer.

    Attributes:
        prompt: The prompt.
        images: The `n` of the call.
        save: Whether the images are decoded and written to files; else the answer is only parsed.
        split: Whether more than 4 images are asked for in one call; a client that cannot sends them one after another.
        in_flight: How many async calls run at a time; 0 for a sync client.
    """

    prompt: str = "a red fox in the snow"
    images: int = 1
    save: bool = False
    split: bool = False
    in_flight: int = 0


def workload_of(text: str) -> Workload:
    """The workload of a text such as "images=4 save=1" or "prompt=100000 in_flight=64"."""
    options = {name: int(value) for name, _, value in (part.partition("=") for part in text.split())}
    length = options.pop("prompt", 0)
    prompt = ("a red fox in the snow, " * (length // 23 + 1))[:length] if length else Workload.prompt
    switches = {name: bool(options.pop(name)) for name in ("save", "split") if name in options}
    return Workload(prompt=prompt, **switches, **options)  # type: ignore[arg-type]  # mypy does not know which remain


Call = Callable[[], Any]


def _requests(work: Workload) -> list[dict[str, Any]]:
    """The bodies for a client that sends each request itself."""
    body = {"model": MODEL, "prompt": work.prompt, **OURS, **({"response_format": "b64_json"} if work.save else {})}
    return [{**body, "n": min(4, work.images - first)} for first in range(0, work.images, 4)]


def _save(answer: dict[str, Any], folder: Path) -> None:
    """Decode the images and write them, as one does by hand."""
    for index, item in enumerate(answer["data"]):
        data = b64decode(item["b64_json"].partition(",")[2])
        (folder / f"{index}.png").write_bytes(data)


def http_client(base_url: str, work: Workload, folder: Path) -> Call:
    """Python's own HTTP client: the floor."""
    import http.client

    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    headers = {"content-type": "application/json", "authorization": "Bearer k"}

    def call() -> None:
        for body in _requests(work):
            connection.request("POST", f"{address.path}/images/generations", json.dumps(body), headers)
            answer = json.loads(connection.getresponse().read())
            if work.save:
                _save(answer, folder)

    return call


def httpx_client(base_url: str, work: Workload, folder: Path) -> Call:
    """The HTTP library of the SDK."""
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx  # type: ignore[no-redef]  # the older library has the same names
    client = httpx.Client(headers={"authorization": "Bearer k"}, timeout=60)

    def call() -> None:
        for body in _requests(work):
            answer = client.post(f"{base_url}/images/generations", json=body).raise_for_status().json()
            if work.save:
                _save(answer, folder)

    return call


def _sdk_arguments(body: dict[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in body.items() if name not in OURS}
    return {**named, "extra_body": OURS}


def openai_sdk(base_url: str, work: Workload, folder: Path) -> Call:
    """The SDK without retries."""
    import openai

    options: dict[str, Any] = {"api_key": "k", "base_url": base_url, "max_retries": 0, "timeout": 60}
    if work.in_flight:
        generate = openai.AsyncOpenAI(**options).images.generate

        async def acall() -> None:
            for body in _requests(work):
                await generate(**_sdk_arguments(body))

        return acall
    client = openai.OpenAI(**options)

    def call() -> None:
        for body in _requests(work):
            answer = client.images.generate(**_sdk_arguments(body))
            if work.save:
                _save(answer.model_dump(), folder)

    return call


def openai_tenacity(base_url: str, work: Workload, folder: Path) -> Call:
    """The SDK wrapped in tenacity by hand, which is what this package replaces."""
    import openai
    import tenacity

    passing = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError)
    policy: dict[str, Any] = {
        "stop": tenacity.stop_after_attempt(4),
        "wait": tenacity.wait_exponential_jitter(),
        "retry": tenacity.retry_if_exception_type(passing),
        "reraise": True,
    }
    call: Call = tenacity.retry(**policy)(openai_sdk(base_url, work, folder))
    return call


def flux_openai(base_url: str, work: Workload, folder: Path) -> Call:
    """This package."""
    import flux_openai as package

    options: dict[str, Any] = {"api_key": "k", "base_url": base_url, "split": work.split, "timeout": 60}
    wanted: dict[str, Any] = {"prompt": work.prompt, "n": work.images, **OURS}
    if work.save:
        wanted["response_format"] = "b64_json"
    if work.in_flight:
        generate = package.AsyncFluxOpenAI(**options).images.generate
        return lambda: generate(**wanted)
    client = package.FluxOpenAI(**options)

    def call() -> None:
        response = client.images.generate(**wanted)
        if work.save:
            response.save(folder / "image.png", overwrite=True)

    return call


def together(base_url: str, work: Workload, folder: Path) -> Call:
    """Together's client, which knows FLUX parameters of its own."""
    from together import Together

    client = Together(api_key="k", base_url=base_url, max_retries=0)

    def call() -> None:
        for body in _requests(work):
            body.pop("aspect_ratio")
            answer = client.images.generate(**_sdk_arguments(body))
            if work.save:
                _save(answer.model_dump(), folder)

    return call


def litellm(base_url: str, work: Workload, folder: Path) -> Call:
    """LiteLLM, with its own parameters only: it refuses `response_format` unless `extra_body` carries it."""
    import litellm as library

    library.suppress_debug_info = True
    options = {"api_base": base_url, "api_key": "k", "model": f"openai/{MODEL}", "prompt": work.prompt}
    extra = {**OURS, **({"response_format": "b64_json"} if work.save else {})}
    if work.in_flight:
        return lambda: library.aimage_generation(**options, n=work.images, extra_body=extra)

    def call() -> None:
        for body in _requests(work):
            answer = library.image_generation(**options, n=body["n"], extra_body=extra)
            if work.save:
                _save({"data": [{"b64_json": item.b64_json} for item in answer.data or []]}, folder)

    return call


CLIENTS = {
    "http.client": (http_client, []),
    "httpx": (httpx_client, ["httpx2", "httpx"]),
    "openai": (openai_sdk, ["openai"]),
    "openai + tenacity": (openai_tenacity, ["openai", "tenacity"]),
    "flux_openai": (flux_openai, ["flux-openai", "openai", "httpx2", "httpx", "pydantic", "tenacity", "pybase64"]),
    "together": (together, ["together"]),
    "litellm": (litellm, ["litellm"]),
}
"""The clients by name, and the packages whose versions matter for each."""


def versions(packages: list[str]) -> str:
    """The versions of those packages that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except ImportError:
            continue
    return ", ".join(found)


async def _flight(call: Callable[[], Awaitable[object]], calls: int, in_flight: int) -> None:
    """Make the calls, at most so many at a time."""
    waiting = iter(range(calls))

    async def work() -> None:
        for _ in waiting:
            await call()

    await asyncio.gather(*(work() for _ in range(in_flight)))


def main() -> None:
    """Set the client up, and make calls as often as stdin asks for them."""
    name, text, base_url, calls, *missing = sys.argv[1:]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is what makes an import fail
    work = workload_of(text)
    make, packages = CLIENTS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:  # noqa: S108  # not on a disk
        call = make(base_url, work, Path(folder))
        loop = asyncio.new_event_loop()

        def run(calls: int) -> None:
            if work.in_flight:
                loop.run_until_complete(_flight(call, calls, work.in_flight))
            else:
                for _ in range(calls):
                    call()

        if calls != "0":
            run(int(calls))
            return
        run(max(3, work.in_flight))
        sys.stdout.write(json.dumps({"versions": versions(packages)}) + "\n")
        sys.stdout.flush()
        for line in sys.stdin:
            gc.collect()
            before, start, wall = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
            run(int(line))
            cpu, wall = time.process_time() - start, time.perf_counter() - wall
            after = resource.getrusage(resource.RUSAGE_SELF)
            cost = {
                "cpu": cpu / int(line),
                "wall": wall,
                "peak": after.ru_maxrss / 1024,
                "waits": (after.ru_nvcsw - before.ru_nvcsw) / int(line),
                "faults": (after.ru_minflt - before.ru_minflt) / int(line),
            }
            sys.stdout.write(json.dumps(cost) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
