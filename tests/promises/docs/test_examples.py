"""Every example runs: without a key on its own emulator, with a key against the address that is set.

An example whose first line says what it needs beyond this package is run where that is installed: in tests/frameworks.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[3]
ALL = sorted((ROOT / "examples").glob("*.py"))
DEMANDING = [path for path in ALL if path.read_text(encoding="utf-8").startswith("# needs: ")]
EXAMPLES = [path for path in ALL if path not in DEMANDING]


def _run(example: Path, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, str(example)], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.stem))
def test_an_example_runs_without_a_key(example: Path, tmp_path: Path) -> None:
    """A newcomer without a key sees pictures, drawn by the emulator in the example itself."""
    done = _run(example, tmp_path, {})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.stem))
def test_an_example_with_a_key_asks_the_service(example: Path, tmp_path: Path, service: SimpleNamespace) -> None:
    """With a key the same file draws on the service, and signs in with that key."""
    done = _run(example, tmp_path, {"MODELVERSE_API_KEY": "my-key", "MODELVERSE_BASE_URL": service.base_url})
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.png"))
    posts = [request for request in service.emulator.requests if request.method == "POST"]
    assert posts
    assert {request.headers["authorization"] for request in posts} == {"Bearer my-key"}


@pytest.mark.parametrize("example", DEMANDING, ids=lambda path: str(path.stem))
def test_an_example_that_needs_more_is_run_elsewhere(example: Path) -> None:
    """What is left out here is named by a test of a framework."""
    tests = (ROOT / "tests" / "frameworks").glob("test_*.py")
    assert any(example.name in path.read_text(encoding="utf-8") for path in tests)
