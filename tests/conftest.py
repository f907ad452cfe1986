import argparse
import gc
import os

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:
    pass  # LangChain's own tests of a tool run without
else:
    # A machine that is busy with something else fails no test.
    untimed = settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("untimed", untimed, max_examples=50)
    settings.register_profile("full", untimed, max_examples=2000)  # with `--hypothesis-profile=full`
    settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        type=_source,
        metavar="{emulator,live}",
        help="record the cassettes anew, from the emulator or, with MODELVERSE_API_KEY set, from the service (billed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Recording writes what other tests read, so it has the suite to itself."""
    if config.getoption("record") and config.getoption("numprocesses", None):
        raise pytest.UsageError("recording needs a single process: add -n 0")


def _source(value: str) -> str:
    if value not in ("emulator", "live"):
        raise argparse.ArgumentTypeError(f"{value!r} is neither 'emulator' nor 'live'")
    if value == "live" and not os.environ.get("MODELVERSE_API_KEY"):
        raise argparse.ArgumentTypeError("'live' asks the service itself: set MODELVERSE_API_KEY to your key")
    return value


@pytest.fixture
def anyio_backend() -> str:
    """The async tests run on asyncio: it is what the SDK runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set on the developer's machine must not decide a test, and no key may get into one."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "MODELVERSE_")):
            monkeypatch.delenv(name)


def pytest_collection_finish() -> None:
    """Thousands of tests are known by now: no garbage collection needs to look at them again and again."""
    gc.collect()
    gc.freeze()
