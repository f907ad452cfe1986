"""What an extra brings is missed by those only who use it, and they are told its name."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"agents": "agents", "langchain": "langchain_core", "mcp": "mcp", "pydantic-ai": "pydantic_ai"}
"""The extras, each with an adapter of its name in `flux_openai.tools`, and the package that the extra brings."""


def adapter(extra: str) -> str:
    """The module that an extra is for."""
    return f"flux_openai.tools.{extra.replace('-', '_')}"


def run_without(package: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code where a package cannot be imported, installed or not."""
    text = f"import sys; sys.modules[{package!r}] = None; {code}"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_each_name_brings_no_more_than_it_needs() -> None:
    """Who imports the client does not wait for the emulator; modules are there by name, and what is none is said."""
    code = (
        "import sys, flux_openai; assert 'openai' not in sys.modules; from flux_openai import OpenAI; "
        "assert 'flux_openai.emulator' not in sys.modules; assert flux_openai.models.FLUX_MODELS; "
        "assert flux_openai.Emulator().client().__class__ is OpenAI; assert not hasattr(flux_openai, 'nothing'); "
        "assert not hasattr(flux_openai, '__wrapped__')"
    )
    done = run_without("no_such_package", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("extra", "package"), FRAMEWORKS.items())
def test_a_missing_framework_is_named_with_the_command_that_installs_it(extra: str, package: str) -> None:
    """`flux_openai.tools` is there without it; who imports its adapter is told what to type, and what was not found."""
    there = f"import flux_openai.tools; assert {adapter(extra)!r} not in sys.modules; print('there')"
    done = run_without(package, f"{there}; import {adapter(extra)}")
    last = done.stderr.rstrip().splitlines()[-1]
    assert done.stdout == "there\n"
    assert last.startswith(f"ImportError: this tool needs the extra {extra!r}: pip install 'flux-openai[{extra}]' (")
    assert package in last
