"""What a run can do before and beside its requests: dry runs, prompts from files, metadata, progress, and help."""

import io
import json
import logging
import re
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
        "requests to /images/generations: 2, images: 6, estimated cost: 4.20 CNY (0.70 CNY an image, "
        "by the provider's price page of 2026-03-24)"
    )
    assert (done.code, done.err, service.posts) == (0, "nothing was sent\n", 0)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_for_a_program(cli: Ask) -> None:
    """With --json it is one document; a price of one's own replaces that of the table, and no key is needed."""
    done = cli("generate", "a fox", "-n", "3", "--seed", "7", "--dry-run", "--json", "--price", "0.5 USD")
    assert json.loads(done.out) == {
        "path": "/images/generations",
        "requests": [{"model": DEFAULT_MODEL, "prompt": "a fox", "n": 3, "seed": 7}],
        "images": 3,
        "estimated_cost": "1.5 USD",
    }


def test_a_dry_run_shows_the_bodies_of_a_model_with_its_own_path(cli: Ask) -> None:
    """What is not sent is not shown, and a price that no page states is unknown."""
    done = cli(
        "generate", "a fox", "--model", "flux-2-pro", "--size", "1024x768", "-n", "2", "--seed", "7", "--dry-run"
    )
    *bodies, summary = done.out.splitlines()
    fixed = {"prompt": "a fox", "width": 1024, "height": 768}
    assert [json.loads(body) for body in bodies] == [{**fixed, "seed": 7}, {**fixed, "seed": 8}]
    assert summary == "requests to /flux-2-pro: 2, images: 2, estimated cost: unknown"


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


@pytest.mark.parametrize(
    "command",
    [
        *([], ["generate"], ["edit"], ["mcp"], ["emulate"], ["models"], ["batch"]),
        *(["batch", name] for name in ("run", "status", "retry-failed", "resolve", "gallery", "verify")),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_no_help_text_is_torn(cli: Ask, monkeypatch: pytest.MonkeyPatch, columns: int, command: list[str]) -> None:
    """No line is longer than the window, and no short help is cut."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = cli(*command, "--help")
    assert max(map(len, done.out.splitlines())) <= columns
    assert "..." not in re.sub(r"\[[A-Z]+\]\.\.\.", "", done.out)


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


def test_the_images_of_a_large_run_are_saved_on_the_way(
    ask: Ask, service: "Service", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is several calls of as many requests as run side by side: what came is on disk before the next begins."""
    monkeypatch.setattr("flux_openai.cli.run.MAX_CONCURRENCY", 2)
    on_disk = list[int]()
    for number in range(3):
        service.draws(first=(lambda: on_disk.append(len([*(tmp_path / "out").iterdir()]))) if number == 2 else None)
    done = ask("-n", "9", "--seed", "7", "--metadata")
    assert done.code == 0
    assert on_disk == [16]
    seeds = {0: 7, 1: 7, 2: 7, 3: 7, 4: 8, 5: 8, 6: 8, 7: 8, 8: 9}
    assert [Path(line).name for line in done.out.splitlines()] == [
        f"a-red-fox_seed{seed}_{index}.png" for index, seed in seeds.items()
    ]
    assert [read_metadata(Path(line).with_suffix(".json")).index for line in done.out.splitlines()] == [
        *range(4),
        *range(4),
        0,
    ]


def test_a_run_stops_when_nothing_can_be_saved(
    ask: Ask, service: "Service", lose_folder: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further image is paid for, and what has no link is kept elsewhere."""
    monkeypatch.setattr("flux_openai.cli.run.MAX_CONCURRENCY", 1)
    service.draws(first=lose_folder)
    done = ask("-n", "9")
    assert (done.code, service.posts) == (6, 1)
    kept = [line.removeprefix("it is kept in ") for line in done.err.splitlines() if "it is kept in" in line]
    assert len(kept) == 4
    assert kept == done.out.splitlines()
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in kept)


@pytest.mark.parametrize("taken", ["fox.png", "fox.webp", "fox.bin"])
def test_a_file_of_another_extension_is_found_before_anything_is_sent(
    ask: Ask, service: "Service", tmp_path: Path, taken: str
) -> None:
    """The extension follows the bytes, so each that the image may get must be free."""
    (tmp_path / taken).write_bytes(b"mine")
    done = ask("-o", str(tmp_path / "fox.jpg"))
    assert (done.code, service.posts) == (2, 0)
    assert "already exists" in done.err


def test_a_dry_run_cannot_act_on_the_terminal(cli: Ask, tmp_path: Path) -> None:
    """Control characters of a prompt are escaped, letters of any script are not."""
    (tmp_path / "prompt.txt").write_text("狐\x9b31m\u202e\x7f", encoding="utf-8")
    done = cli("generate", f"@{tmp_path / 'prompt.txt'}", "--dry-run")
    assert all(char.isprintable() or char == "\n" for char in done.out)
    assert json.loads(done.out.splitlines()[0])["prompt"] == "狐\x9b31m\u202e\x7f"


def test_a_path_with_an_argument_in_it_is_shown_as_it_is(ask: Ask, tmp_path: Path) -> None:
    """Only rules about parameters are written in options."""
    (tmp_path / "n=4.png").write_bytes(b"mine")
    assert f"'{tmp_path / 'n=4.png'}' already exists" in ask("-o", str(tmp_path / "n=4.png")).err
