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


LOADED_BY_THE_CLIENT = {
    *("flux_openai", "flux_openai.errors", "flux_openai.retry"),
    *(f"flux_openai._http{module}" for module in ("", ".fork", ".library", ".reasons", ".redaction")),
    *(f"flux_openai.client{module}" for module in ("", ".clients", ".setup", ".signature", ".tracebacks")),
    *(f"flux_openai.request{module}" for module in ("", ".modes", ".sdk_arguments")),
    *(f"flux_openai.sending{module}" for module in ("", ".settings")),
}
"""What a program waits for that imports the client; the rest is loaded by the first request."""


def test_the_client_loads_few_modules_beyond_those_of_the_sdk() -> None:
    """The import of the client loads what the SDK's client loads, and these modules of ours."""
    code = (
        "from openai import OpenAI; import sys; before = {*sys.modules}; from flux_openai import OpenAI; "
        "print(*sorted({*sys.modules} - before))"
    )
    done = run_without("no_such_package", code)
    assert {*done.stdout.split()} == LOADED_BY_THE_CLIENT, done.stderr


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
