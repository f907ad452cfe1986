"""Every promise of the README that can be executed is executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_openai.cli import main
from flux_openai.cli.exit_codes import EXIT_CODES
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.docs.conftest import Service

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def output_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program with these arguments, and return what it prints."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block.strip().splitlines()[-1])[:40])
def test_every_python_block_runs_as_it_stands(
    block: str, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reader who copies a block gets what the README says, given a key and an address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102  # that is the point


def test_the_readme_has_the_blocks_that_this_file_is_about() -> None:
    """A change of the README's layout must not silently leave this file with nothing to run."""
    assert len(BLOCKS) >= 13


def test_the_error_shown_is_the_error_raised(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message in the README is the one that its own example prints, and nothing is sent."""
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    [example] = [block for block in BLOCKS if "steps=99" in block]
    [shown] = re.findall(r"^```text\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102  # that is the point
    assert capsys.readouterr().out == shown
    assert service.emulator.requests == []


def test_the_first_block_sends_what_it_says_and_saves_two_images(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The one-line change sends the parameters as given, once, and leaves two pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    exec(compile(BLOCKS[0], "README.md", "exec"), {})  # noqa: S102  # that is the point
    [post] = [request for request in service.emulator.requests if request.method == "POST"]
    assert post.body == {
        "model": DEFAULT_MODEL,
        "prompt": "Convert to quick pencil sketch",
        "aspect_ratio": "16:9",
        "seed": 7,
        "steps": 28,
        "guidance_scale": 3.0,
        "negative_prompt": "colour",
        "n": 2,
    }
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_agent_of_the_readme_draws_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop shown for tool calls makes one image, and what the model is told of it is a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)
    [loop] = [block for block in BLOCKS if "run_tool_calls" in block]
    exec(compile(loop, "README.md", "exec"), {})  # noqa: S102  # that is the point
    [image] = (tmp_path / "out").iterdir()
    assert image.name in capsys.readouterr().out
    assert service.emulator.bill.images == 1


def test_the_parameter_table_says_what_the_model_table_says() -> None:
    """Names, limits and defaults stand in the README as they stand in the code, for every model that has them."""
    [section] = re.findall(r"^## Parameters\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    rows = {name: rest for name, *rest in re.findall(r"^\| `(\w+)` \| (.*?) \| ?(.*?) ?\|$", section, re.MULTILINE)}
    assert set(rows) == {name for model in FLUX_MODELS.values() for name in model.fields}
    for model in FLUX_MODELS.values():
        for field in model.fields.values():
            values, default = rows[field.name]
            if field.enforced == "error" and field.maximum is not None:
                assert f"{field.minimum} to {field.maximum}" in values
            assert all(choice in values for choice in field.choices)
            needed = field.required or field.name in ("prompt", "image")
            assert default.strip("`") == ("required" if needed else str(field.default or ""))


def test_the_models_listed_are_those_of_the_table(output_of: Callable[..., str]) -> None:
    """Short names, full names and what each model has of its own are the table's and the program's."""
    rows = re.findall(r"^\| `([\w-]+)` \| `(\S+/\S+)` \| (.*?) \|$", README, re.MULTILINE)
    program = output_of("models")
    assert [[name, id, *own.replace("`", "").split()] for name, id, own in rows] == [
        line.split() for line in program.splitlines()
    ]


def test_the_exit_codes_are_those_of_the_program() -> None:
    """The README's table of exit codes is the one that the program returns from and shows in its help."""
    rows = re.findall(r"^\| (\d+) \| (.*?) \|$", README, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == dict(EXIT_CODES)


def test_the_options_that_the_readme_names_exist(output_of: Callable[..., str]) -> None:
    """Whatever option the README's section on the command line names stands in the program's own help."""
    [section] = re.findall(r"^## Command line\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    help_text = output_of("edit", "--help")
    options = re.findall(r"(?<=[` ])-[-\w]+", section)
    assert {"-i", "-n", "-o", "--json", "--api-key-file"} <= set(options)
    assert [option for option in options if option not in help_text] == []
