"""The table of versions in pyproject.toml is true: what it pins, what is said about it, and that it runs every test."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOX = PYPROJECT["tool"]["tox"]
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"


def bound(requirement: Requirement, operator: str) -> Version:
    """The version that stands after an operator, once."""
    [found] = [one.version for one in requirement.specifier if one.operator == operator]
    return Version(found)


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    """The environment of the lowest versions pins each dependency of the package to its lower bound, and no other."""
    declared = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
    pinned = [Requirement(text) for text in TOX["env"]["openai-2-lowest"]["deps"]]
    assert {one.name: bound(one, "==") for one in pinned} == {one.name: bound(one, ">=") for one in declared}


def test_the_lowest_langchain_is_run() -> None:
    """LangChain's own tests run on the lower bound of the extra that brings LangChain."""
    [declared] = [Requirement(text) for text in PYPROJECT["project"]["optional-dependencies"]["langchain"]]
    pinned = [Requirement(text) for text in TOX["env"]["frameworks-langchain"]["deps"]]
    assert [bound(one, "==") for one in pinned if one.name == declared.name] == [bound(declared, ">=")]


def test_every_environment_is_in_the_list() -> None:
    """What the gate goes through is the whole table."""
    assert sorted(TOX["env_list"]) == sorted(TOX["env"])


def test_what_contributors_are_told_is_the_table() -> None:
    """CONTRIBUTING names every environment with its description, and README and CONTRIBUTING name no other."""
    if not CONTRIBUTING.exists():
        pytest.skip("not a git checkout")
    text = CONTRIBUTING.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", text, re.MULTILINE))
    assert rows == {name: environment["description"] for name, environment in TOX["env"].items()}
    named = re.findall(r"tox (?:run )?-e ([\w-]+)", text + (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named
    assert set(named) <= set(rows)


def test_every_framework_is_run_somewhere() -> None:
    """Each file in tests/frameworks, which the usual run leaves out, is named by an environment, and no other is."""
    words = [word for one in TOX["env"].values() for command in one.get("commands", ()) for word in command]
    named = {word for word in words if str(word).startswith("tests/frameworks/")}
    assert named == {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "frameworks").glob("test_*.py")}


def test_a_wrong_version_ends_the_environment() -> None:
    """Before a suite starts, an environment that got other versions than it asks for is refused, and they are named."""
    done = subprocess.run(
        [sys.executable, "tests/versions.py", "openai-2-last", "openai-3-last"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    got = version("openai")
    assert f"| openai {got} |" in done.stdout
    assert done.returncode == 1
    assert f"asks for: openai{'==3.*' if got.startswith('2.') else '<3'}, not {got}\n" in done.stderr
