"""What is released is what its tag, the changelog and the metadata say, and the workflows run every Python we claim."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HOME = "https://git.example/owner/name"
URLS = f"""urls = {{ Repository = "{HOME}", Issues = "{HOME}/issues", Changelog = "{HOME}/blob/main/CHANGELOG.md" }}"""

pytestmark = pytest.mark.skipif(not WORKFLOWS.exists(), reason="not a git checkout")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The script that the release workflow runs."""
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci" / "check_release.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("tag", "heading", "urls", "told"),
    [
        ("v0.2.0", "## [0.2.0] - 2026-12-01", URLS, []),
        ("v0.2.1", "## [0.2.0] - 2026-12-01", URLS, ["the tag is v0.2.1"]),
        ("0.2.0", "## [0.2.0] - 2026-12-01", URLS, ["the tag is 0.2.0"]),
        ("v0.2.0", "## [0.2.0] - Unreleased", URLS, ["CHANGELOG.md needs the heading '## [0.2.0] - YYYY-MM-DD'"]),
        ("v0.2.0", "## [0x2.0] - 2026-12-01", URLS, ["CHANGELOG.md needs the heading"]),
        ("v0.2.0", "## [0.2.0] - 2026-12-01", "", [f'Repository = "{HOME}"\nIssues = "{HOME}/issues"\nChangelog = ']),
        ("v0.2.0", "## [0.2.0] - 2026-12-01", URLS.replace("owner", "fork", 1), [f'needs:\nRepository = "{HOME}"']),
        ("v0.3.0", "", "", ["the tag is v0.3.0", "CHANGELOG.md needs", "[project.urls] in pyproject.toml needs"]),
    ],
)
def test_nothing_is_released_that_is_not_what_it_says(
    check: ModuleType, tag: str, heading: str, urls: str, told: list[str]
) -> None:
    """A tag, a changelog or an address that does not fit is named with what would; what fits passes in silence."""
    found = check.obstacles(tag, HOME, f'[project]\nversion = "0.2.0"\n{urls}\n', f"# Changelog\n\n{heading}\n")
    assert len(found) == len(told)
    assert all(part in text for part, text in zip(told, found, strict=True))


def test_the_workflow_runs_every_python_we_claim() -> None:
    """The Pythons of the classifiers, those of the gate's workflow and the environments of tox are the same."""
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    [matrix] = re.findall(r"python-version: \[(.*)\]", (WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))
    assert matrix == ", ".join(f'"{one}"' for one in claimed)
    assert PYPROJECT["project"]["requires-python"] == f">={claimed[0]}"
    named = [name for name in PYPROJECT["tool"]["tox"]["env_list"] if re.fullmatch(r"py3\d+", name)]
    assert named == [f"py{one.replace('.', '')}" for one in claimed[1:]]


def test_every_action_is_pinned() -> None:
    """A workflow uses an action by the hash of a commit, beside which its version stands, or is one of our own."""
    used = [line for path in WORKFLOWS.glob("*.yml") for line in re.findall(r"uses: (.*)", path.read_text("utf-8"))]
    assert used
    pinned = re.compile(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\$/\.github/workflows/[\w-]+\.yml")
    assert [line for line in used if not pinned.fullmatch(line)] == []


def test_only_the_job_that_publishes_may_ask_for_a_token() -> None:
    """The one permission to write is that of the job `publish`, which runs none of our code."""
    text = {path.name: path.read_text("utf-8") for path in WORKFLOWS.glob("*.yml")}
    assert [name for name, workflow in text.items() if re.search(r"^ +[\w-]+: write", workflow, re.MULTILINE)] == [
        "release.yml"
    ]
    before, publish = text["release.yml"].split("\n  publish:\n")
    assert ": write" not in before
    assert "run:" not in publish
