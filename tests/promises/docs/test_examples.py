"""Every example runs: without a key on its own emulator, with a key against the address that is set.

An example whose first line says what it needs beyond this package is run where that is installed: in tests/frameworks.
"""

from __future__ import annotations

import gc
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.docs.conftest import Service

ROOT = Path(__file__).parents[3]
ALL = sorted((ROOT / "examples").glob("*.py"))
TESTS = [path for path in ALL if path.name.startswith("test_")]
DEMANDING = [path for path in ALL if path.read_text(encoding="utf-8").startswith("# needs: ")]
EXAMPLES = [path for path in ALL if path not in (*DEMANDING, *TESTS)]


pytestmark = pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], list[Path]]:
    """Run an example in an empty folder, and return the pictures that it leaves there."""

    def run(example: Path) -> list[Path]:
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            # A script may leave its client open, since its process ends.
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                runpy.run_path(str(example), run_name="__main__")
            except SystemExit as end:
                assert end.code in (None, 0)  # noqa: PT017  # an example may say so itself
            gc.collect()
        return list((tmp_path / "out").rglob("*.png"))

    return run


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.stem))
def test_an_example_runs_without_a_key(run: Callable[[Path], list[Path]], example: Path) -> None:
    """A newcomer without a key sees pictures, drawn by the emulator in the example itself."""
    assert run(example)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.stem))
def test_an_example_with_a_key_asks_the_service(
    run: Callable[[Path], list[Path]], example: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key the same file draws on the service, and signs in with that key."""
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    assert run(example)
    posts = [request for request in service.emulator.requests if request.method == "POST"]
    assert posts
    assert {request.headers["authorization"] for request in posts} == {"Bearer my-key"}


def test_an_example_runs_as_a_program(tmp_path: Path) -> None:
    """It needs nothing of this process: neither what a test run has imported nor its folder."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "drop_in.py")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("example", TESTS, ids=lambda path: str(path.stem))
def test_an_example_of_tests_passes(example: Path, tmp_path: Path) -> None:
    """An example that is a test file passes, in a project that has pytest and this package, even if a key is set."""
    shutil.copy(example, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "flux_openai.testing", "-p", "no:cacheprovider", example.name],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MODELVERSE_API_KEY": "my-key"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("names", [["MODELVERSE"], ["OPENAI"], ["MODELVERSE", "OPENAI"]], ids=" and ".join)
def test_each_service_gets_its_own_key(
    run: Callable[[Path], list[Path]], service: Service, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """Chat beside images: a service is asked if its key is set, and is sent no other."""
    for name in names:
        monkeypatch.setenv(f"{name}_API_KEY", f"key-of-{name}")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    monkeypatch.setenv("OPENAI_BASE_URL", service.base_url)
    assert run(ROOT / "examples" / "chat_beside_images.py")
    images = [request for request in service.emulator.requests if request.method == "POST"]
    seen = {
        "MODELVERSE": [request.headers["authorization"] for request in images],
        "OPENAI": [request.headers["authorization"] for request in service.emulator.chats],
    }
    assert seen == {name: [f"Bearer key-of-{name}"] if name in names else [] for name in seen}


@pytest.mark.parametrize("example", DEMANDING, ids=lambda path: str(path.stem))
def test_an_example_that_needs_more_is_run_elsewhere(example: Path) -> None:
    """What is left out here is named by a test of a framework."""
    tests = (ROOT / "tests" / "frameworks").glob("test_*.py")
    assert any(example.name in path.read_text(encoding="utf-8") for path in tests)
