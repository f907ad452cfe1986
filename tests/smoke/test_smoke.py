"""What must hold for the installed wheel alone: no checkout beside it, no extras, no network, no key."""

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

import flux_openai


def test_the_wheel_is_whole() -> None:
    """The distribution has a version, and the package carries its types."""
    assert version("flux-openai")
    assert (files(flux_openai) / "py.typed").is_file()


def test_one_image_is_made_and_saved(tmp_path: Path) -> None:
    """The first lines of the README work with the core dependencies alone."""
    client = flux_openai.Emulator().client()
    path = client.images.generate(prompt="a red fox").data[0].save(tmp_path)
    assert path.parent == tmp_path
    assert path.stat().st_size > 0


def test_the_pytest_plugin_is_there(flux_client: flux_openai.FluxOpenAI) -> None:
    """Where the wheel is installed, its fixtures are, with pytest alone."""
    assert flux_client.images.generate(prompt="a red fox").data[0].read()


@pytest.mark.skipif(find_spec("click") is not None, reason="the cli extra is installed")
def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    """Without the cli extra, the program ends with code 2 and one line that can be pasted."""
    command = [sys.executable, "-m", "flux_openai", "generate", "x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'flux-openai[cli]'" in done.stderr
