"""The pytest plugin: an emulator, clients and cassettes as fixtures.

pytest loads it wherever flux-openai is installed, also for tests that make no image at all. So whatever takes time to
import is imported by the fixture that needs it.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pluggy import Result
    from vcr.cassette import Cassette

    from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
    from flux_openai.emulator.emulator import Emulator

__all__ = ["async_flux_client", "flux_cassette", "flux_cassette_dir", "flux_client", "flux_emulator"]

KEY = "flux-tests-need-no-key"
"""The API key in a test with a cassette that is not recorded from the service."""

PIXELS = 256

NOW = 1_750_667_997
"""The time of the service's documented example; with it, the emulator's cassettes come out the same each time."""

MARKERS = (
    "flux_cassette(name): the cassette of this test is <name>.yaml, in the folder of `flux_cassette_dir`.",
    "flux_script(script): what goes wrong in this test's `flux_emulator`: a text, as for Emulator(script=...).",
)

_FAILED = pytest.StashKey[bool]()
_RECORDED = pytest.StashKey[dict[Path, object]]()


class _TestFailed(Exception):  # noqa: N818  # no error: it only closes the cassette of a test that has failed already
    """The requests of a failed test are not all that it would make, so none is missed on the cassette."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that says where cassettes come from."""
    parser.getgroup("flux_openai", "images with FLUX").addoption(
        "--flux-record",
        choices=("none", "emulator", "live"),
        default="none",
        help="what `flux_cassette` does: replay (none, the default), or record anew, from the emulator or, with "
        "MODELVERSE_API_KEY set, from the live service (billed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and ask for the key before any test runs."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if config.getoption("flux_record") == "live" and not os.environ.get("MODELVERSE_API_KEY"):
        raise pytest.UsageError("--flux-record=live asks the service, which is billed: set MODELVERSE_API_KEY")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse the marker of a cassette on a test that does not use it: such a test would ask the service."""
    named = any(marker.name == "flux_cassette" for marker in item.own_markers)
    if named and "flux_cassette" not in getattr(item, "fixturenames", ()):
        reason = "a marker names the cassette of this test, which does not use it"
        pytest.fail(f"{reason}: add @pytest.mark.usefixtures('flux_cassette')", pytrace=False)


@pytest.hookimpl(hookwrapper=True)  # the old style, which every pytest knows
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Result[None], None]:
    """Remember whether the test failed, which its fixtures could not find out."""
    outcome = yield
    item.stash[_FAILED] = outcome.excinfo is not None


@pytest.fixture
def flux_emulator(request: pytest.FixtureRequest) -> Emulator:
    """A FLUX service in this process, fresh for each test, with small pictures: see `.requests`, `.bill`, `.fail()`."""
    from flux_openai.emulator.emulator import Emulator
    from flux_openai.errors import ScriptError

    marker = request.node.get_closest_marker("flux_script")
    script = _only_text(marker) if marker else None
    clock = (lambda: float(NOW)) if _uses_cassette(request) else time.time
    try:
        return Emulator(pixels=PIXELS, script=script, clock=clock)
    except ScriptError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture
def flux_client(request: pytest.FixtureRequest, flux_emulator: Emulator) -> Iterator[FluxOpenAI]:
    """A FluxOpenAI on `flux_emulator`, or on the cassette in a test with `flux_cassette`; its retries do not wait."""
    from flux_openai.client.clients import FluxOpenAI
    from flux_openai.retry import RetryPolicy

    if _uses_cassette(request):
        request.getfixturevalue("flux_cassette")
        client = FluxOpenAI(retry=RetryPolicy(waiting=_record_from(request) == "live"))
    else:
        client = flux_emulator.client()
    with client:
        yield client


@pytest.fixture
def async_flux_client(request: pytest.FixtureRequest, flux_emulator: Emulator) -> Iterator[AsyncFluxOpenAI]:
    """The same as an AsyncFluxOpenAI, for whichever plugin runs your async tests; it is closed after the test."""
    import asyncio

    from openai import DefaultAsyncHttpxClient

    from flux_openai._http.library import httpx
    from flux_openai.client.clients import AsyncFluxOpenAI
    from flux_openai.retry import RetryPolicy

    if _uses_cassette(request):
        request.getfixturevalue("flux_cassette")
        # A pooled connection belongs to the test's event loop, which is gone when the client is closed.
        http_client = DefaultAsyncHttpxClient(limits=httpx.Limits(max_keepalive_connections=0))
        policy = RetryPolicy(waiting=_record_from(request) == "live")
        client = AsyncFluxOpenAI(http_client=http_client, retry=policy)
    else:
        client = flux_emulator.async_client()
    yield client
    # With a factory, the runner does not touch the thread's current event loop, which may be another plugin's.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(client.close())


@pytest.fixture
def flux_cassette_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the cassettes: `cassettes`, beside the test file. Override it to keep them elsewhere.

    In a conftest.py:

        @pytest.fixture(scope="session")
        def flux_cassette_dir():
            return pathlib.Path(__file__).parent / "recordings"
    """
    return request.path.parent / "cassettes"


@pytest.fixture
def flux_cassette(
    request: pytest.FixtureRequest,
    flux_emulator: Emulator,
    flux_cassette_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Cassette]:
    """Replay `<file>.<test>.yaml`, from the folder of `flux_cassette_dir`: no key, no network, the same each time.

    It works for every client of the test. The test fails if it asks for anything else, down to the prompt, or for less.
    `--flux-record=emulator` or `--flux-record=live` records it; no key and no signature is kept, of images 1 KiB.
    """
    try:
        from flux_openai.testing.cassettes import recorded_requests, recording, replaying
    except ModuleNotFoundError as error:
        if error.name not in ("vcr", "yaml"):
            raise
        message = "flux_cassette needs vcrpy: pip install 'flux-openai[testing]'"
        raise pytest.fail.Exception(message, pytrace=False) from None
    marker, record_from = request.node.get_closest_marker("flux_cassette"), _record_from(request)
    path = Path(flux_cassette_dir) / f"{_only_text(marker) if marker else _cassette_name(request)}.yaml"
    command = f"pytest {shlex.quote(request.node.nodeid)} --flux-record=emulator"
    if record_from != "live":
        monkeypatch.setenv("MODELVERSE_API_KEY", KEY)
    if record_from != "none":
        serve = flux_emulator.handle if record_from == "emulator" else None
        secrets = (os.environ["MODELVERSE_API_KEY"],)
        opened = recording(path, fresh=tmp_path / "fresh.yaml", secrets=secrets, serve=serve)
    elif path.exists():
        opened = replaying(path, command=command, secrets=(KEY,))
    else:
        pytest.fail(f"there is no cassette {path}\n\nTo record: {command}", pytrace=False)
    with suppress(_TestFailed), opened as tape:
        yield tape
        if request.node.stash.get(_FAILED, False):
            raise _TestFailed
    if record_from != "none" and not request.node.stash.get(_FAILED, False):
        # Tests may share a cassette as long as they ask for the same: otherwise the last to record it would decide.
        requests = recorded_requests(path)
        if request.config.stash.setdefault(_RECORDED, {}).setdefault(path, requests) != requests:
            pytest.fail(f"another test has recorded {path.name}, and asked for something else", pytrace=False)


def _uses_cassette(request: pytest.FixtureRequest) -> bool:
    return "flux_cassette" in request.fixturenames


def _record_from(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("flux_record"))


def _only_text(marker: pytest.Mark) -> str:
    if len(marker.args) != 1 or not isinstance(marker.args[0], str) or marker.kwargs:
        pytest.fail(f"the marker {marker.name} takes one text, and nothing else", pytrace=False)
    return str(marker.args[0])


def _cassette_name(request: pytest.FixtureRequest) -> str:
    name = ".".join([request.path.stem, *([request.cls.__qualname__] if request.cls else []), request.node.name])
    clean = re.sub(r"[^\w.,=\[\]-]", "_", name, flags=re.ASCII)[:150]
    # Two parameters that differ only in characters a file name cannot have are two cassettes all the same.
    return clean if clean == name else f"{clean}-{crc32(name.encode('utf-8', 'backslashreplace')):08x}"
