"""The pytest plugin: an emulator, clients and cassettes as fixtures.

    def test_it_draws_a_fox(flux_client, flux_emulator):      without a network, on the emulator
        flux_emulator.fail(status=503)
        draw_fox(flux_client)                             or draw_fox(): a client that it makes itself is caught too
        assert flux_emulator.bill.images == 1

    def test_the_answer_is_read(flux_client, flux_cassette):  replayed from cassettes/<file>.<test>.yaml

pytest loads this module wherever flux-openai is installed, also in projects that do not use it. So each fixture imports
what it needs itself: imports at the top would slow down every run.
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
"""The API key in the environment of a test with these fixtures, unless cassettes are recorded from the service."""

PIXELS = 256

NOW = 1_750_667_997
"""The Unix time of the service's documented example: with a fixed time, recording again gives the same cassette."""

MARKERS = (
    "flux_cassette(name): the cassette of this test is <name>.yaml, in the folder of `flux_cassette_dir`.",
    "flux_script(script): what goes wrong in this test's `flux_emulator`: a text, as for Emulator(script=...).",
)

_FIXTURE_OF = {"flux_cassette": "flux_cassette", "flux_script": "flux_emulator"}
"""The fixture without which a marker has no effect."""

_FAILED = pytest.StashKey[bool]()
_RECORDED = pytest.StashKey[dict[Path, object]]()


class _TestFailed(Exception):  # noqa: N818  # no error: it ends the `with` block of the cassette
    """The test has failed, so requests of the cassette that it did not make are no second failure."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--flux-record`."""
    parser.getgroup("flux_openai", "images with FLUX").addoption(
        "--flux-record",
        choices=("none", "emulator", "live"),
        default="none",
        help="what `flux_cassette` does: replay (none, the default), or record anew, from the emulator or, with "
        "MODELVERSE_API_KEY set, from the live service (billed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and check that recording from the live service has a key."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    if config.getoption("flux_record") == "live" and not os.environ.get("MODELVERSE_API_KEY"):
        raise pytest.UsageError("--flux-record=live calls the service, which is billed: set MODELVERSE_API_KEY")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that has a marker itself, but not its fixture: without a cassette it would call the service."""
    for marker in item.own_markers:
        fixture = _FIXTURE_OF.get(marker.name)
        if fixture is None:
            continue
        _only_text(marker)
        if fixture not in getattr(item, "fixturenames", ()):
            reason = f"this test has the marker {marker.name}, but does not use the fixture {fixture}"
            pytest.fail(f"{reason}: add @pytest.mark.usefixtures({fixture!r})", pytrace=False)


@pytest.hookimpl(hookwrapper=True)  # the old style of wrapper, which every version of pytest supports
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Result[None], None]:
    """Store whether the test failed: its fixtures cannot find out otherwise."""
    outcome = yield
    item.stash[_FAILED] = outcome.excinfo is not None


@pytest.fixture
def flux_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An `Emulator` in this process, a new one for each test, with small pictures. It answers the code under test too.

    Caught are the requests for images, for the list of models and for links of the emulator, of every client of this
    package: FluxOpenAI, OpenAI, AsyncOpenAI, adapt(...) and their copies, made before the test or in it, with any
    base_url (also of a server on this machine), HTTP client or transport, in any thread and event loop. The event hooks
    and the authentication of such a client work, its transport is not called, and its retries wait as they always do.
    MODELVERSE_API_KEY is set to a key that is worth nothing, so these clients need none, and a real one is not used.

    Not caught are the clients of another `Emulator`, a plain `openai.OpenAI`, the requests of our clients for other
    things (such as chat), other processes, and threads that outlive the test. With `flux_cassette`, the cassette
    answers.

    Mark a test with `@pytest.mark.flux_script("* #1 -> status(503)")` to set its fault script.

    Example:
        def test_a_retry_is_not_billed(flux_emulator):
            flux_emulator.fail(status=429)
            FluxOpenAI().images.generate(prompt="a red fox")
            assert len(flux_emulator.requests) == 2
            assert flux_emulator.bill.images == 1
    """
    from flux_openai._http.interception import InProcessTransport, Interceptor, intercepting
    from flux_openai.emulator.emulator import Emulator
    from flux_openai.errors import ScriptError

    marker = request.node.get_closest_marker("flux_script")
    script = _only_text(marker) if marker else None
    clock = (lambda: float(NOW)) if _uses_cassette(request) else time.time
    try:
        emulator = Emulator(pixels=PIXELS, script=script, clock=clock)
    except ScriptError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    if _record_from(request) != "live":
        monkeypatch.setenv("MODELVERSE_API_KEY", KEY)
    transport = InProcessTransport(emulator.handle, emulator.ahandle)
    with intercepting(Interceptor(base_url=emulator.base_url, transport=transport)):
        yield emulator


@pytest.fixture
def flux_client(request: pytest.FixtureRequest, flux_emulator: Emulator) -> Iterator[FluxOpenAI]:
    """A FluxOpenAI whose requests are answered by `flux_emulator`, or by the cassette in a test with `flux_cassette`.

    Its retries do not wait, except while a cassette is recorded from the live service.
    """
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
    """The same as `flux_client`, as an AsyncFluxOpenAI. It works with any plugin for async tests."""
    import asyncio

    from openai import DefaultAsyncHttpxClient

    from flux_openai._http.library import httpx
    from flux_openai.client.clients import AsyncFluxOpenAI
    from flux_openai.retry import RetryPolicy

    if _uses_cassette(request):
        request.getfixturevalue("flux_cassette")
        # No pooled connections: they belong to the event loop of the test, which is closed before the client is.
        http_client = DefaultAsyncHttpxClient(limits=httpx.Limits(max_keepalive_connections=0))
        policy = RetryPolicy(waiting=_record_from(request) == "live")
        client = AsyncFluxOpenAI(http_client=http_client, retry=policy)
    else:
        client = flux_emulator.async_client()
    yield client
    # With a factory, the runner leaves the thread's current event loop alone: it may belong to another plugin.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(client.close())


@pytest.fixture
def flux_cassette_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of the cassettes, by default `cassettes` beside the test file. Override the fixture to change it.

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
    """Replay the cassette `<file>.<test>.yaml` in `flux_cassette_dir`, without key and network.

    It works for every client in the test. The test fails if it sends a request that is not on the cassette, with
    another prompt for example, or if it does not send one that is. Mark a test with
    `@pytest.mark.flux_cassette("name")` to use the cassette `name.yaml`.

    `pytest --flux-record=emulator` or `--flux-record=live` records it. Keys and the signatures of links are removed,
    and images are cut to 1 KiB.

    Example:
        def test_a_fox(flux_client, flux_cassette):
            assert flux_client.images.generate(prompt="a red fox").data[0].url
    """
    from flux_openai._http.interception import intercepting

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
        # Again: a fixture of the project may have deleted it since `flux_emulator` set it.
        monkeypatch.setenv("MODELVERSE_API_KEY", KEY)
    if record_from != "none":
        serve = flux_emulator.handle if record_from == "emulator" else None
        secrets = (os.environ["MODELVERSE_API_KEY"],)
        opened = recording(path, fresh=tmp_path / "fresh.yaml", secrets=secrets, serve=serve)
    elif path.exists():
        opened = replaying(path, command=command, secrets=(KEY,))
    else:
        pytest.fail(f"there is no cassette {path}\n\nTo record: {command}", pytrace=False)
    with intercepting(None), suppress(_TestFailed), opened as tape:
        yield tape
        if request.node.stash.get(_FAILED, False):
            raise _TestFailed
    if record_from != "none" and not request.node.stash.get(_FAILED, False):
        # Tests may share a cassette if they send the same requests: otherwise each would overwrite that of the others.
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
    if not marker.args[0].strip():
        pytest.fail(f"the text of the marker {marker.name} is empty", pytrace=False)
    return str(marker.args[0])


def _cassette_name(request: pytest.FixtureRequest) -> str:
    name = ".".join([request.path.stem, *([request.cls.__qualname__] if request.cls else []), request.node.name])
    clean = re.sub(r"[^\w.,=\[\]-]", "_", name, flags=re.ASCII)[:150]
    # The checksum keeps tests apart whose parameters differ only in characters that a file name cannot have.
    return clean if clean == name else f"{clean}-{crc32(name.encode('utf-8', 'backslashreplace')):08x}"
