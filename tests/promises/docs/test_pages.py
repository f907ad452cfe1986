"""Every promise of the README and of the guides that can be executed is executed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from flux_openai.cli import main
from flux_openai.cli.exit_codes import BATCH_EXIT_CODES, EXIT_CODES
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS
from flux_openai.retry import RetryPolicy
from tests.promises.docs.pages import BLOCKS, PAGES, README, ROOT, blocks, section, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.promises.docs.conftest import Service
    from tests.promises.docs.pages import Block

PARAMETERS = "examples/parameters_and_models.md"
BATCH = "examples/batch.md"
MONEY = "examples/retries_and_money.md"
RUN_ELSEWHERE = {
    "ci: try": ".ci/run",
    "ci: test": ".ci/run",
    "run: emulate": "tests/promises/docs/test_emulate.py",
    "run: curl": "tests/promises/docs/test_emulate.py",
}
"""The markers of blocks that other files run, and those files."""
pytestmark = pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")


@pytest.fixture
def output_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the program with these arguments, and return what it prints."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def posts(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Block], list[object]]:
    """Run a block as a reader would who has a key and an address; return the bodies that the service got."""
    monkeypatch.chdir(tmp_path)
    for name in ("MODELVERSE", "OPENAI"):
        monkeypatch.setenv(f"{name}_API_KEY", "my-key")
        monkeypatch.setenv(f"{name}_BASE_URL", service.base_url)

    def run(block: Block) -> list[object]:
        exec(compile(block.code, block.page, "exec"), {"__name__": "__main__"})  # noqa: S102  # that is the point
        return [request.body for request in service.emulator.requests if request.method == "POST"]

    return run


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_block_runs_as_it_stands(block: Block, posts: Callable[[Block], list[object]]) -> None:
    """A reader who copies a block, and nothing else, gets what the page says, given a key and an address."""
    posts(block)


@pytest.fixture
def shell(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Paste lines into a shell of a reader who has a key and an address; they must not fail."""
    pytest.importorskip("flux_openai.cli.app", reason="needs the extra")
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "flux-openai"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m flux_openai \"$@\"\n", encoding="utf-8")
    program.chmod(0o755)
    python = programs / "python"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MODELVERSE_API_KEY", "my-key")
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.base_url)

    def run(code: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-euc", code],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.parametrize("block", [one for one in blocks("sh") if not one.marker and one.page != BATCH], ids=str)
def test_every_command_runs_as_it_stands(block: Block, shell: Callable[[str], None]) -> None:
    """A reader who pastes the lines of a block into a shell gets no error, given a key and an address."""
    shell(block.code)


def test_the_guide_to_batches_is_followed_from_top_to_bottom(shell: Callable[[str], None], tmp_path: Path) -> None:
    """In one directory each block runs after those before it, since each batch has a folder of its own."""
    for block in (block for block in BLOCKS if block.page == BATCH):
        if block.language == "python":
            (tmp_path / "block.py").write_text(block.code, encoding="utf-8")
        shell("python block.py" if block.language == "python" else block.code)
    made = {path.parent.name for path in tmp_path.glob("*/ledger.db")}
    code = "".join(block.code for block in BLOCKS if block.page == BATCH)
    assert made == {*re.findall(r"-o (\w+)", code), *re.findall(r'batch(?:_sync)?\([^,]+, "(\w+)"', code)}
    assert len(made) == 6


def test_every_block_is_run_by_some_test() -> None:
    """There is no block that nothing runs, and the layout of the pages has not left these tests without blocks."""
    for block in BLOCKS:
        if block.marker:
            # A source distribution has no .ci/run.
            runner = ROOT / RUN_ELSEWHERE[block.marker]
            assert not runner.exists() or block.marker.removeprefix("ci: ").removeprefix("run: ") in (
                runner.read_text(encoding="utf-8")
            )
        elif block.language == "py":  # tests/testing/test_plugin.py and tests/frameworks run these
            assert "def test_" in block.code or "flux_openai.tools." in block.code, block
        elif block.language == "json":
            json.loads(block.code)
        else:
            assert block.language in ("python", "sh", "text"), block
    assert len(blocks("python")) >= 15
    assert len(blocks("text")) == 1  # compared by the next test but one


def test_the_readme_is_read_in_one_sitting() -> None:
    """The README has at most 200 lines: reference matter belongs to the guides."""
    assert len(README.splitlines()) <= 200


def test_the_badges_say_what_the_package_asks_for() -> None:
    """The versions of Python and openai in the README's badges are those of the package's metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    badges = unquote(" ".join(re.findall(r"img.shields.io/badge/(\S+?)-blue", README)))
    assert f"python-{project['requires-python'].removeprefix('>=')}+" in badges
    [openai] = re.findall(r"openai>=([\d.]+),<4", " ".join(project["dependencies"]))
    assert f"openai-{openai} to 3.x" in badges
    assert project["license"].replace("-", "--") in badges


def test_whoever_has_a_key_is_told_how_to_record(pytestconfig: pytest.Config) -> None:
    """The README says that the service was never asked, and its command names a file and an option that exist."""
    assert "Never run against the live service" in README
    [(path, mode)] = re.findall(r"pytest (\S+) --flux-record=(\w+)`", section("README.md", "What this is not"))
    assert (ROOT / path).exists()
    assert mode == "live"
    assert hasattr(pytestconfig.option, "flux_record")


def test_links_are_absolute_on_pypi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the repository has an address, the package's description is the README without a relative link."""
    hatchling = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", hatchling)  # comes with a build only
    hook = runpy.run_path(str(ROOT / ".ci" / "readme_for_pypi.py"))["ReadmeHook"]()
    hook.root = str(ROOT)
    alone: dict[str, Any] = {"version": "1.2.3"}
    homed: dict[str, Any] = {"version": "1.2.3", "urls": {"Repository": "https://example.com/a/b"}}
    hook.update(alone)
    hook.update(homed)
    assert alone["readme"]["text"] == README
    text = homed["readme"]["text"]
    assert re.findall(r"\]\((?!https://)", text) == []
    assert "](https://example.com/a/b/raw/v1.2.3/examples/first_run.svg)" in text
    assert "](https://example.com/a/b/blob/v1.2.3/LICENSE)" in text
    assert re.sub(r"https://example.com/a/b/(raw|blob)/v1.2.3/", "", text) == README


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Each link to a file of the repository names one that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        path = (ROOT / page).parent / target
        # A source distribution has no .github folder.
        assert target.startswith("https://") or path.exists() or ".github" in target, target


def test_the_index_has_every_guide_and_every_program() -> None:
    """A page or a program that the index of the guides does not name would not be found."""
    index = PAGES["examples/README.md"]
    files = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".md", ".py")} - {"README.md"}
    assert set(re.findall(r"\]\(([^)]+)\)", index)) == files


def test_the_error_shown_is_the_error_raised(
    posts: Callable[[Block], list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The message on the page is the one that its own example prints, and nothing is sent."""
    [example] = blocks("python", "steps=99")
    [shown] = blocks("text")
    assert posts(example) == []
    assert capsys.readouterr().out == shown.code


def test_the_first_block_sends_what_it_says_and_saves_two_images(
    posts: Callable[[Block], list[object]], tmp_path: Path
) -> None:
    """The one-line change sends the parameters as given, once, and leaves two pictures."""
    assert posts(blocks("python")[0]) == [
        {
            "model": DEFAULT_MODEL,
            "prompt": "Convert to quick pencil sketch",
            "aspect_ratio": "16:9",
            "seed": 7,
            "steps": 28,
            "guidance_scale": 3.0,
            "negative_prompt": "colour",
            "n": 2,
        }
    ]
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_agent_of_the_guide_draws_once(
    posts: Callable[[Block], list[object]], service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop shown for tool calls makes one image, and what the model is told of it is a name."""
    loop, *_ = blocks("python", "run_tool_calls")
    posts(loop)
    [image] = (tmp_path / "out").iterdir()
    assert image.name in capsys.readouterr().out
    assert service.emulator.bill.images == 1


def test_the_parameter_table_says_what_the_model_table_says() -> None:
    """Names, limits and defaults stand on the page as they stand in the code, for every model that has them."""
    rows = {
        name: (values, default)
        for names, values, default in table(PARAMETERS, "parameter")
        for name in names.replace("`", "").split()
    }
    assert set(rows) == {name for model in FLUX_MODELS.values() for name in model.fields}
    for model in FLUX_MODELS.values():
        for field in model.fields.values():
            values, default = rows[field.name]
            if field.enforced == "error" and field.maximum is not None:
                same = field.minimum == field.maximum
                assert (f"{field.minimum} for" if same else f"{field.minimum} to {field.maximum}") in values
            assert all(choice in values for choice in field.choices)
            if field.name in ("prompt", "image", "images"):  # some model needs it
                assert default == "required"
            elif field.default is not None or default == "required":
                assert str(field.default) in default.replace("`", "").split(", ")
    stated = {
        field.name for model in FLUX_MODELS.values() for field in model.fields.values() if field.default is not None
    }
    assert {name for name, (_, default) in rows.items() if default not in ("", "required")} == stated


def test_the_models_listed_are_those_of_the_table(output_of: Callable[..., str]) -> None:
    """Short names, full names and what each model has of its own are the table's and the program's."""
    program = output_of("models")
    assert [" ".join(row).replace("`", "").split() for row in table(PARAMETERS, "short name")] == [
        line.split() for line in program.splitlines()
    ]


@pytest.mark.parametrize(
    ("page", "first", "codes"),
    [(PARAMETERS, "exit code", EXIT_CODES), (BATCH, "exit code of `batch run`", BATCH_EXIT_CODES)],
)
def test_the_exit_codes_are_those_of_the_program(page: str, first: str, codes: Mapping[int, str]) -> None:
    """The tables of exit codes are those that the program returns from and shows in its help."""
    assert {int(code): meaning for code, meaning in table(page, first)} == dict(codes)


def test_the_retry_options_are_those_of_the_policy() -> None:
    """Each option of `RetryPolicy` stands in the table with its default."""
    shown = {name.strip("`"): default.strip("`") for name, default, _ in table(MONEY, "option of `RetryPolicy`")}
    assert shown == {
        field.name: str(field.default) if field.name != "duplicates" else f'"{field.default}"'
        for field in dataclasses.fields(RetryPolicy)
    }


def test_the_options_that_are_named_exist(output_of: Callable[..., str]) -> None:
    """Whatever option the section on the command line names stands in the program's own help."""
    help_text = output_of("edit", "--help")
    options = re.findall(r"(?<=[` ])-[-\w]+", section(PARAMETERS, "Command line"))
    assert {"-i", "-n", "-o", "--json", "--api-key-file"} <= set(options)
    assert [option for option in options if option not in help_text] == []


def test_the_options_that_the_guide_to_batches_names_exist(output_of: Callable[..., str]) -> None:
    """Each stands in the help of a command, and the guide names every option that `batch run` alone has."""
    options = pytest.importorskip("flux_openai.cli.options", reason="needs the extra").BatchRunOptions
    helps = [output_of("batch", name, "--help") for name in ("run", "resolve", "retry-failed", "verify")]
    named = set(re.findall(r"(?<=[` ])--[-\w]+", PAGES[BATCH]))
    assert [option for option in named if not any(option in text for text in helps)] == ["--from"]
    own = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options)} - {"--settings", "--out"}
    assert own | {"--set"} <= named
