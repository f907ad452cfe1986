"""What a run can do before and beside its requests: dry runs, prompts from files, metadata, progress, and help."""

import io
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_openai.models import DEFAULT_MODEL
from flux_openai.response.metadata import read_metadata

pytest.importorskip("click")

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]


def test_a_dry_run_sends_nothing(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """It prints the body of each request and the estimated cost; it needs no key and makes no folder."""
    done = ask("-n", "6", "--seed", "7", "--dry-run")
    *bodies, summary = done.out.splitlines()
    fixed = {"model": DEFAULT_MODEL, "prompt": "a red fox"}
    assert [json.loads(body) for body in bodies] == [{**fixed, "n": 4, "seed": 7}, {**fixed, "n": 2, "seed": 8}]
    assert summary == (
        "requests: 2, images: 6, estimated cost: 4.20 CNY (0.70 CNY an image, "
        "by the provider's price page of 2026-03-24)"
    )
    assert (done.code, done.err, service.posts) == (0, "nothing was sent\n", 0)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_for_a_program(cli: Ask) -> None:
    """With --json it is one document; a price of one's own replaces that of the table, and no key is needed."""
    done = cli("generate", "a fox", "-n", "3", "--seed", "7", "--dry-run", "--json", "--price", "0.5 USD")
    assert json.loads(done.out) == {
        "requests": [{"model": DEFAULT_MODEL, "prompt": "a fox", "n": 3, "seed": 7}],
        "images": 3,
        "estimated_cost": "1.5 USD",
    }


def test_a_dry_run_finds_what_is_wrong(ask: Ask) -> None:
    """Bad input ends it with 2, as it would end the run."""
    assert ask("--dry-run", "--steps", "99").code == 2
    done = ask("--dry-run", "--price", "cheap")
    assert (done.code, "--price cheap: must be an amount" in done.err) == (2, True)


def test_an_image_is_made_again_from_its_metadata(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """`--metadata` writes the file, `--from` sends the same body again, and other options change it."""
    service.draws()
    first = ask("--steps", "28", "--metadata")
    sidecar = Path(first.out.strip()).with_suffix(".json")
    assert read_metadata(sidecar).parameters["steps"] == 28
    service.draws()
    service.draws()
    assert ask("--from", str(sidecar), prompt="").code == 2  # a prompt that is given counts
    again = ["--from", str(sidecar), "-o", str(tmp_path / "again")]
    run = pytest.importorskip("flux_openai.cli.app").run
    assert run(["generate", "--base-url", service.url, *again]) == 0
    assert service.bodies[1] == service.bodies[0]
    assert ask("--from", str(sidecar), "--steps", "30", prompt="a blue fox").code == 0
    assert service.bodies[2] == {**service.bodies[0], "steps": 30, "prompt": "a blue fox"}


def test_an_edit_is_made_again_with_its_images(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """Metadata holds no image: `generate` says so, and `edit` notices an image that is another one."""
    for _ in range(4):
        service.draws()
    fox = ask("-o", str(tmp_path / "fox.png")).out.strip()
    first = ask("-i", fox, "--metadata", command="edit")
    sidecar = str(Path(first.out.strip()).with_suffix(".json"))
    refused = ask("--from", sidecar)
    assert refused.code == 2
    assert f"was made from 1 image: use flux-openai edit --from {sidecar} -i FILE" in refused.err
    assert ask("-i", fox, "--from", sidecar, command="edit").err == ""
    assert service.bodies[-1] == service.bodies[1]
    done = ask("-i", "https://images.example/other.png", "--from", sidecar, command="edit")
    assert "notice: these are not the images" in done.err


def test_a_prompt_is_read_from_a_file_or_stdin(
    ask: Ask, service: "Service", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`@FILE` and `-` are read, without the line break at the end; `@@` begins a prompt with an @."""
    (tmp_path / "prompt.txt").write_text("\ufeffein Fuchs\nim Schnee\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO("a blue fox\n"))
    for prompt in (f"@{tmp_path / 'prompt.txt'}", "-", "@@home"):
        service.draws()
        assert ask(prompt=prompt).code == 0
    assert [body["prompt"] for body in service.bodies] == ["ein Fuchs\nim Schnee", "a blue fox", "@home"]


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\xff\xfe\x00", "it is not text")])
def test_a_prompt_that_cannot_be_read(
    ask: Ask, service: "Service", tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """The error names the file and the way to write such a prompt; nothing is sent."""
    if content is not None:
        (tmp_path / "prompt.txt").write_bytes(content)
    done = ask(prompt=f"@{tmp_path / 'prompt.txt'}")
    assert (done.code, service.posts) == (2, 0)
    assert reason in done.err
    assert "written with @@" in done.err


def test_a_prompt_is_required(cli: Ask) -> None:
    """Without a prompt and without --from, the command is used wrongly."""
    done = cli("generate", "--emulator")
    assert (done.code, "Missing argument 'PROMPT'" in done.err) == (2, True)


def test_progress_is_told_where_there_is_no_terminal(
    ask: Ask, service: "Service", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line at each interval says how many images have come, which attempt it is, and for how long it has waited."""
    told = threading.Event()
    console = pytest.importorskip("flux_openai.cli.console")
    monkeypatch.setattr(console, "_INTERVAL", 0.01)
    message = console.Console.message

    def note(self: object, text: str) -> None:
        message(self, text)
        if "attempt 2" in text and "failed" not in text:
            told.set()

    monkeypatch.setattr(console.Console, "message", note)
    service.refuses(429)
    service.draws(first=lambda: told.wait(30))
    done = ask("-n", "3")
    assert done.code == 0
    assert "waiting for the service: 0 of 3 images, attempt 2, 0 s" in done.err


def test_progress_counts_the_images_of_the_requests_that_ended() -> None:
    """The log record of each request has the number of its images."""
    console = pytest.importorskip("flux_openai.cli.console")
    emulator = pytest.importorskip("flux_openai").Emulator()
    progress = console.Progress(console.Console(as_json=False), 9)
    with progress.shown():
        emulator.client(split=True).images.generate(prompt="a fox", n=9)
    assert progress._text() == "waiting for the service: 9 of 9 images"
    assert logging.getLogger("flux_openai").handlers == []


@pytest.mark.parametrize("command", [[], ["generate"], ["edit"], ["mcp"], ["emulate"], ["models"]])
@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_help_text_is_torn(cli: Ask, monkeypatch: pytest.MonkeyPatch, columns: int, command: list[str]) -> None:
    """No line is longer than the window, and no short help is cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = cli(*command, "--help")
    assert max(map(len, done.out.splitlines())) <= columns
    assert "..." not in done.out.replace("COMMAND [ARGS]...", "").replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("flux-openai generate x --model kontext-p", ["kontext-pro"]),
        ("flux-openai generate x --aspect-ratio 9:", ["9:16", "9:21"]),
        ("flux-openai edit x --response-format u", ["url"]),
    ],
)
def test_the_shell_completes_values(
    program: Ask, monkeypatch: pytest.MonkeyPatch, words: str, offered: list[str]
) -> None:
    """The names of models and the values of an option that has a list of them are offered."""
    monkeypatch.setenv("_FLUX_OPENAI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    done = program()
    assert [line.partition(",")[2] for line in done.out.splitlines()] == offered


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "1536x1"], "--size 1536x1: has no aspect ratio"),
        (["--size", "1024x1024", "--aspect-ratio", "16:9"], "disagrees with --aspect-ratio 16:9"),
        (["--base-url", "http://example.com/v1"], "--allow-http allows it"),
        (["--timeout", "0"], "--timeout 0.0: must be seconds above 0"),
        (["--max-attempts", "0"], "--max-attempts 0: must be"),
        (["--seed", str(2**63 - 2), "-n", "12"], "--seed 9223372036854775806: must be"),
    ],
)
def test_errors_name_options(ask: Ask, service: "Service", options: list[str], says: str) -> None:
    """What the library says about an argument is said about the option; nothing is in Python's words."""
    done = ask(*options)
    assert (done.code, service.posts) == (2, 0)
    assert says in done.err
    assert not any(word in done.err for word in ("=True", "timeout=", "size=", "seed=", "max_attempts="))
