"""The tool with the emulator behind it, called sync; and where async code is no mirror of it, in every way."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_openai import Emulator
from flux_openai.tools import FluxTool, ToolResult

KEY = "key-of-the-flux-service"


@pytest.fixture
def emulator() -> Emulator:
    """An emulator with small pictures and one key."""
    return Emulator(api_key=KEY, pixels=64)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all that a test does."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def way(request: pytest.FixtureRequest) -> str:
    """How the tool is called: "sync", unless a test is parametrized with "async" or "sync in a thread"."""
    return str(getattr(request, "param", "sync"))


@pytest.fixture
def make(emulator: Emulator, way: str, runner: asyncio.Runner, tmp_path: Path) -> Iterator[Callable[..., FluxTool]]:
    """Make a tool with the kind of client that its way of being called needs."""
    with emulator.client() as client:
        aclient = emulator.async_client()
        yield lambda **options: FluxTool(
            aclient if way == "async" else client, **{"folder": tmp_path / "out", **options}
        )
        runner.run(aclient.close())


@pytest.fixture
def call(way: str, runner: asyncio.Runner) -> Callable[[FluxTool, Mapping[str, object] | str], ToolResult]:
    """Call a tool."""
    if way == "sync":
        return lambda tool, arguments: tool.call(arguments)
    return lambda tool, arguments: runner.run(tool.acall(arguments))


@pytest.fixture
def posts(emulator: Emulator) -> Callable[[], list[dict[str, Any]]]:
    """What the service was asked to draw, so far."""
    return lambda: [request.body or {} for request in emulator.requests if request.method == "POST"]
