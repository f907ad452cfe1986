"""What is on the two streams: one JSON document or one path per line on stdout, words for people on stderr."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_openai.errors import DownloadError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS

codes = pytest.importorskip("flux_openai.cli.exit_codes")

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]

FIELDS = [
    "images",
    "request_ids",
    "sent",
    "attempts",
    "notices",
    "missing",
    "estimated_cost",
    "unsaved",
    "expires_at",
    "error",
    "exit_code",
]
ERROR_FIELDS = ["type", "message", "billing", "attempts", "retry_after", "request_id", "status_code"]


PATTERN = "the emulator draws patterns, not the service's pictures; nothing is billed\n"
"""What stderr says of every run on the emulator."""


def strict(text: str) -> dict[str, object]:
    """The one JSON document that a text is; NaN and Infinity are no JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    document: dict[str, object] = json.loads(text, parse_constant=refuse)
    return document


def test_the_document_of_a_good_run(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """--json puts one document with all documented fields on stdout, and nothing on stderr."""
    service.draws(2)
    done = ask("-n", "2", "--seed", "7", "--json")
    document = strict(done.out)
    paths = [str(path) for path in sorted((tmp_path / "out").iterdir())]
    size = os.stat(paths[0]).st_size  # noqa: PTH116  # a text, as it stands in the document
    assert done.err == ""
    assert list(document) == FIELDS
    assert document == {
        "images": [{"path": path, "mime_type": "image/png", "bytes": size} for path in paths],
        "request_ids": [],
        "sent": [{"model": DEFAULT_MODEL, "prompt": "a red fox", "n": 2, "seed": 7}],
        "attempts": 1,
        "notices": [],
        "missing": 0,
        "estimated_cost": "1.40 CNY",
        "unsaved": [],
        "expires_at": "2025-06-30T08:39:57+00:00",
        "error": None,
        "exit_code": 0,
    }


def test_the_document_of_a_failure(ask: Ask, service: "Service") -> None:
    """--json tells a failure in the same fields, with what was made before it."""
    service.draws(4)
    service.refuses(429, message="slow", **{"retry-after": "600"})
    done = ask("-n", "8", "--json")
    document = strict(done.out)
    assert list(document) == FIELDS
    assert (document["exit_code"], document["attempts"]) == (6, 2)
    assert len(document["images"]) == 4  # type: ignore[arg-type]  # it is a list
    assert document["error"] == {
        "type": "FluxRateLimitError",
        "message": "Error code: 429 - slow; the images that came are paid for",
        "billing": "paid",
        "attempts": 2,
        "retry_after": 600.0,
        "request_id": "req-1",
        "status_code": 429,
    }


@pytest.mark.parametrize("wrong", [["--steps", "99"], ["--steps", "many"], ["--no-such-option"], ["--timeout", "0"]])
def test_the_document_of_bad_input(ask: Ask, wrong: list[str]) -> None:
    """--json is kept to also where the command line itself cannot be read."""
    done = ask("--json", *wrong)
    document = strict(done.out)
    assert list(document) == FIELDS
    assert list(document["error"]) == ERROR_FIELDS  # type: ignore[call-overload]  # it is a mapping
    assert document["exit_code"] == done.code == 2


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_words_of_the_service_cannot_act(ask: Ask, service: "Service", flags: list[str]) -> None:
    """Control characters in an error are taken out, and square brackets stay what they are."""
    service.refuses(400, message="\x1b[31mred\x07 [bold]text[/bold] [/nothing]")
    done = ask(*flags, prompt="a [bold]fox[/] \\[x]")
    assert done.code == 3
    assert not {"\x1b", "\x07"} & set(done.out + done.err)
    assert "\\u001b" not in done.out
    assert "[bold]text[/bold] [/nothing]" in done.err


def test_an_error_of_any_kind_cannot_act(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever an error is made of, its text is cleaned on both ways out."""
    error = DownloadError("\x1b[2Jgone\x9b https://example.com/x.png?signature=abc")
    pytest.importorskip("flux_openai.cli.console").Console(as_json=False).failed(error)
    document = pytest.importorskip("flux_openai.cli.report").error_document(error)
    expected = "[2Jgone  https://example.com/x.png?[redacted]"
    assert capsys.readouterr().err == f"error: {expected}\n"
    assert document["message"] == expected


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_key_is_never_shown(ask: Ask, service: "Service", key: str, tmp_path: Path, flags: list[str]) -> None:
    """A service that repeats the key in its error does not get it into the output."""
    service.refuses(401, message=f"key {key} is wrong, Bearer {key}", code=key)
    service.answers[0] = type(service.answers[0])(
        status=401, body=service.answers[0].body, headers={"x-request-id": key}
    )
    done = ask(*flags)
    assert service.keys == [f"Bearer {key}"]
    assert done.code == 3
    assert key not in done.out + done.err


@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("generate", DEFAULT_MODEL),
        ("edit", "black-forest-labs/flux-kontext-max"),
        ("edit", "black-forest-labs/flux-kontext-max/multi"),
    ],
)
def test_the_help_is_complete(cli: Ask, command: str, model: str) -> None:
    """The help has an option for every field, the values of the model table, and every exit code."""
    done = cli(command, "--help")
    words = " ".join(done.out.split())
    assert (done.code, done.err) == (0, "")
    for field in FLUX_MODELS[model].fields.values():
        if field.format == "image":
            assert "--image FILE" in words
            continue
        assert "PROMPT" in words if field.name == "prompt" else f"--{field.name.replace('_', '-')} " in words
        assert field.doc in words
        assert ", ".join(field.choices) in words
        assert field.name == "n" or field.minimum is None or f"From {field.minimum} to {field.maximum}" in words
    for option in ("--json", "--emulator", "--out", "--max-attempts", "--duplicates", "--timeout", "--api-key-file"):
        assert option in words
    for code, meaning in codes.EXIT_CODES.items():
        assert f"{code} {meaning}" in words


NEW_PARAMETER = """
import sys
from dataclasses import replace
from flux_openai import models

new = models.FluxField(name="new_parameter", type=float, minimum=0, maximum=2, default=0.5, doc="How new it looks.")
rows = [replace(model, fields={**model.fields, new.name: new}) for model in models.FLUX_MODELS.values()]
models.FLUX_MODELS = {model.id: model for model in rows}
models.FAMILIES = {name: tuple(model for model in rows if model.family == name) for name in models.FAMILIES}

from flux_openai.cli import main
main([sys.argv[1], "--help"])
sys.exit(main(sys.argv[1:]))
"""


def test_a_new_parameter_of_the_table_is_an_option(program: Ask, tmp_path: Path) -> None:
    """A field that is added to the models, and nowhere else, has an option with its help, and its value is sent."""
    options = [
        "--emulator",
        "--json",
        "--response-format",
        "b64_json",
        "--new-parameter",
        "1.5",
        "--seed",
        "7",
        "-o",
        str(tmp_path),
    ]
    done = program("generate", "a fox", *options, python=("-c", NEW_PARAMETER))
    help_text, _, document = done.out.rpartition("\n{")
    line = "--new-parameter NUMBER How new it looks. From 0 to 2; the service's default is 0.5."
    assert line in " ".join(help_text.split())
    assert done.code == 0
    assert strict(f"{{{document}")["sent"] == [
        {"model": DEFAULT_MODEL, "prompt": "a fox", "seed": 7, "response_format": "b64_json", "new_parameter": 1.5}
    ]


def test_no_option_takes_the_key_itself(cli: Ask, key: str) -> None:
    """A key on the command line would stay in the history of the shell."""
    assert cli("generate", "x", "--emulator", "--api-key", key).code == 2


@pytest.mark.parametrize("args", [["--help"], ["generate", "-h"], []])
def test_the_exit_codes_are_in_every_help(cli: Ask, args: list[str]) -> None:
    """Also the help of the program itself has the table, one code to a line."""
    done = cli(*args)
    lines = [line.split(maxsplit=1) for line in (done.out + done.err).splitlines()]
    assert [[str(int(code)), meaning] for code, meaning in codes.EXIT_CODES.items()] == lines[-len(codes.EXIT_CODES) :]


def test_the_version(cli: Ask) -> None:
    """--version says one line."""
    done = cli("--version")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"flux-openai.*\n", done.out)


def test_the_real_program_makes_an_image(program: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program saves a picture and prints its path alone; colours that are asked for do not get into a log."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = program("generate", "a red fox", "--emulator", "-o", str(tmp_path))
    assert (done.code, done.err) == (0, PATTERN)
    assert Path(done.out.rstrip("\n")).read_bytes().startswith(b"\x89PNG")


def test_a_path_that_the_locale_cannot_write(cli: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A paid image is not followed by a traceback because of the name of its folder."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    done = cli("generate", "x", "--emulator", "-o", str(tmp_path / "Füchse"))
    assert (done.code, done.err) == (0, PATTERN)
    stdout.seek(0)
    assert "F\\xfcchse" in stdout.read()


def test_without_a_key_the_document_is_on_stdout(cli: Ask) -> None:
    """Without a key, --json still prints its document, and stderr names the way on."""
    done = cli("generate", "x", "--json")
    assert (done.code, strict(done.out)["exit_code"]) == (2, 2)
    assert "--emulator" in done.err


LOADED = """
import atexit, sys
from flux_openai.cli import main
atexit.register(lambda: print(*sys.modules))
sys.exit(main())
"""
"""The program, which prints the names of all modules that it has loaded when it ends."""


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["generate", "--help"],
        ["--version"],
        ["models", "--help"],
        ["batch", "--help"],
        ["batch", "run", "--help"],
    ],
    ids=" ".join,
)
def test_a_help_text_loads_neither_the_sdk_nor_rich(program: Ask, args: list[str]) -> None:
    """`--help` and `--version` answer without the packages that take most of the time to load."""
    done = program(*args, python=("-c", LOADED))
    assert done.code == 0
    assert not {"openai", "rich", "pydantic", "httpx", "httpx2"} & set(done.out.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("words", "offered"), [("flux-openai ge", "generate"), ("flux-openai generate --asp", "--aspect-ratio")]
)
def test_the_shell_completes(program: Ask, monkeypatch: pytest.MonkeyPatch, words: str, offered: str) -> None:
    """The program completes commands and options for the shell, without loading the SDK."""
    monkeypatch.setenv("_FLUX_OPENAI_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    done = program(python=("-c", LOADED))
    first, modules = done.out.splitlines()
    assert (done.code, first) == (0, f"plain,{offered}")
    assert "openai" not in modules.split()


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(program: Ask, missing: str) -> None:
    """Without the extra, one line names the command that installs it, and the code is 2."""
    code = f"import sys; sys.modules[{missing!r}] = None; from flux_openai.cli import main; sys.exit(main(['--help']))"
    done = program(python=("-c", code))
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "pip install 'flux-openai[cli]'" in done.err


def test_another_missing_module_is_not_blamed_on_the_extra(program: Ask) -> None:
    """A broken installation is not passed off as a missing extra."""
    code = "import sys; sys.modules['flux_openai.cli.options'] = None; from flux_openai.cli import main; main([])"
    done = program(python=("-c", code))
    assert done.code == 1
    assert "pip install" not in done.err
    assert "flux_openai.cli.options" in done.err


@pytest.mark.parametrize("command", ["generate x --emulator -n 5 -o images", "models", "emulate --help-faults"])
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path, command: str) -> None:
    """A closed stdout costs neither images nor a traceback, but the exit code and stderr say that it was closed."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "flux_openai", *command.split()],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr.decode().removeprefix(PATTERN) == "error: the output could not be written: Broken pipe\n"
    assert len(list(tmp_path.rglob("*.png"))) == (5 if "-n" in command else 0)


def test_a_spinner_on_a_terminal(cli: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spinner turns on a terminal, and the path still goes to stdout."""
    ours, theirs = pytest.importorskip("pty").openpty()
    monkeypatch.setenv("TERM", "xterm")
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(lambda: b"".join(everything_from(ours)))
        with os.fdopen(theirs, "w") as terminal:
            monkeypatch.setattr("sys.stderr", terminal)
            done = cli("generate", "x", "--emulator", "-o", str(tmp_path))
    assert b"waiting for the service" in seen.result()
    assert (done.code, [Path(line).parent for line in done.out.splitlines()]) == (0, [tmp_path])


def everything_from(descriptor: int) -> Iterator[bytes]:
    """What is read until the other end is closed, which a terminal tells by an error."""
    with contextlib.suppress(OSError):
        while data := os.read(descriptor, 4096):
            yield data
    os.close(descriptor)
