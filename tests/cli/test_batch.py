"""`flux-openai batch`: how a run ends, what is on its streams and in its folder, and what its folder can be asked."""

import contextlib
import io
import json
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from flux_openai import Emulator
from flux_openai.batch.ledger import Ledger

codes = pytest.importorskip("flux_openai.cli.exit_codes")
pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]
Start = Callable[..., "subprocess.Popen[str]"]
SCRIPT = """
prompt~/refused/ #1      -> status(400)
prompt~/lost/ #1         -> reset(after_bill)
prompt~/no key/ #1       -> status(401)
prompt~/no credit/ #1    -> quota
prompt~/too many/ #1     -> status(429)
"""


@pytest.fixture
def emulator() -> Emulator:
    """The service of the runs, which fails by what the prompts say, each once."""
    return Emulator(pixels=64, script=SCRIPT)


@pytest.fixture
def run(cli: Ask, emulator: Emulator, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Run `batch run` over these prompts, or over those of the last run, in the folder `out` of the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", key)
    with emulator.serve() as server:
        monkeypatch.setenv("MODELVERSE_BASE_URL", server.base_url)

        def run(*options: str, prompts: str | None = None) -> "Done":
            if prompts is not None:
                Path("prompts.txt").write_text(prompts, encoding="utf-8")
            return cli("batch", "run", "prompts.txt", "-o", "out", "--max-wait", "0", *options)

        yield run


def posts(emulator: Emulator) -> list[dict[str, object]]:
    """The bodies of the orders that the service got."""
    return [request.body or {} for request in emulator.requests if request.method == "POST"]


def test_a_file_of_prompts_becomes_a_folder_of_images(run: Ask, emulator: Emulator, tmp_path: Path, key: str) -> None:
    """Stdout is the manifest's path; the folder has images, manifest, errors, report and gallery, and never the key."""
    done = run("--set", "steps=28", "--metadata", prompts="a fox\na hare\n")
    assert (done.code, done.out) == (0, "out/manifest.jsonl\n")
    assert [(body["prompt"], body["steps"]) for body in posts(emulator)] == [("a fox", 28), ("a hare", 28)]
    rows = [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]
    assert [row["params"]["seed"] for row in rows] == [body["seed"] for body in posts(emulator)]
    images = [Path("out", file["path"]) for row in rows for file in row["files"]]
    assert [path.read_bytes()[:4] for path in images] == [b"\x89PNG"] * 2
    assert all(path.with_suffix(".json").exists() for path in images)
    names = {path.name for path in Path("out").iterdir()}
    assert {"images", "manifest.jsonl", "errors.jsonl", "report.json", "gallery", "ledger.db"} <= names
    assert Path("out/gallery/index.html").exists()
    assert "rows: 2, done: 2" in done.err
    assert "images of unknown outcome" not in done.err
    assert not any(key.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_same_command_again_goes_on(run: Ask, emulator: Emulator) -> None:
    """What is done is not asked for again; a row that is added is; a row that has changed is refused with what did."""
    assert run(prompts="a fox\n").code == 0
    assert (run().code, len(posts(emulator))) == (0, 1)
    assert (run(prompts="a fox\na hare\n").code, len(posts(emulator))) == (0, 2)
    changed = run(prompts="a blue fox\na hare\n")
    assert (changed.code, changed.out, len(posts(emulator))) == (2, "", 2)
    assert "a blue fox" in changed.err
    assert "for changed rows or another batch, give another -o" in changed.err


@pytest.mark.parametrize(
    ("prompts", "options", "code", "sent"),
    [
        ("a fox\ntoo many foxes\n", [], 0, 3),
        ("a fox\nrefused\n", [], 3, 2),
        ("a fox\na hare\n", ["--max-images", "1"], 4, 1),
        ("a fox\na hare\n", ["--budget", "1 CNY", "--price", "0.6CNY"], 4, 1),
        ("lost\n", [], 5, 1),
        ("lost\n", ["--on-unknown", "retry"], 0, 2),
        ("no key\na fox\n", ["--max-inflight", "1"], 7, 1),
        ("no credit\na fox\n", ["--max-inflight", "1"], 7, 1),
    ],
)
def test_the_exit_code_says_how_a_run_ended(
    run: Ask, emulator: Emulator, *, prompts: str, options: list[str], code: int, sent: int
) -> None:
    """It is that of the table, which is repeated on stderr; the same command again finishes what can be finished."""
    done = run(*options, prompts=prompts)
    assert (done.code, done.out, len(posts(emulator))) == (code, "out/manifest.jsonl\n", sent)
    assert not code or f"exit code {code}: {codes.BATCH_EXIT_CODES[code]}" in done.err
    assert ("run again goes on" in done.err) == (code == 7)  # at a cap it would get no further
    again = run(*options)
    assert again.code == (0 if code == 7 else code)
    assert emulator.bill.duplicates == ("lost" in prompts and code == 0)


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        (None, [], "error: PROMPTS prompts.txt: "),
        ("a fox\n", ["--set", "steps=99"], "must be an integer from 1 to 50"),
        ("a fox\n", ["--set", "steps"], "--set steps: must be name=value, such as --set steps=28\n"),
        ("a fox\n", ["--set", "steps=lots"], "--set steps=lots: must be an integer"),
        ("a fox\n", ["--set", "stesp=3"], "--set stesp: is no parameter; did you mean steps?\n"),
        ("a fox\n", ["--sweep", "seed="], "commas between them, such as --sweep seed=1,2,3\n"),
        ("a fox\n", ["--sweep", "guidance_scale=2,3,40"], "--sweep guidance_scale=40: must be"),
        ("a fox\n", ["--sweep", "guidance_scale=2,3,40"], "(nearest: 10"),
        ("a fox\n", ["--sweep", "steps=1..5"], "; write steps=1,2,3,4,5\n"),
        ("a fox\n", ["--sweep", "seed=1,1"], "--sweep seed=1: comes twice"),
        (
            "a fox\n",
            ["--set", "steps=3", "--sweep", "steps=1,2"],
            "error: --sweep steps: is in --set too; give it once\n",
        ),
        ("a fox\n", ["--format", "xml"], "--format xml"),
        ("a fox\n", ["--on-unknown", "guess"], "--on-unknown guess: must be"),
        ("a fox\n", ["--max-images", "0"], "--max-images 0: must be"),
        ("a fox\n", ["--budget", "much"], "--budget much: must be an amount"),
        ("a fox\n", ["--price", "cheap"], "--price cheap: must be an amount"),
        (
            "a fox\n",
            ["--budget", "5 CNY", "--set", "model=flux-2-pro"],
            "which is not known: give --price",
        ),
        ("a fox\n", ["--budget", "5 USD"], "--budget 5 USD: must be in the currency of the prices, CNY"),
        ("a fox\n", ["--ray", "local", "--api-key-file", "-"], "put the key into a file"),
        ("a fox\n", ["--rpm", "0"], "--rpm 0.0: must be"),
        ("a fox\n", ["--max-inflight", "0"], "--max-inflight 0: must be"),
        ("a fox\n", ["--timeout", "0"], "--timeout 0.0: must be"),
        ("a fox\n", ["--prompt", "a {animal}"], "animal"),
    ],
)
def test_2_bad_input(run: Ask, emulator: Emulator, prompts: str | None, options: list[str], says: str) -> None:
    """Whatever is wrong ends with 2, is said on stderr and in the document, and nothing is sent."""
    done = run(*options, "--json", prompts=prompts)
    assert (done.code, posts(emulator)) == (2, [])
    assert says in done.err
    assert not re.search(r"\b(set|sweep|price|rows|unsupported)=", done.err)
    assert done.document["exit_code"] == 2


def test_2_stdin_holds_the_prompts_or_the_key(cli: Ask, tmp_path: Path) -> None:
    """It cannot hold both."""
    done = cli("batch", "run", "-", "-o", str(tmp_path / "out"), "--api-key-file", "-")
    assert (done.code, "put the key into a file" in done.err) == (2, True)


@pytest.mark.parametrize(("options", "extra"), [(["--rpm", "60"], "aiolimiter"), (["--ray", "local"], "ray")])
def test_2_an_extra_that_is_missing_is_named(
    run: Ask, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, options: list[str], extra: str
) -> None:
    """One line says what to install, and nothing is sent."""
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.delitem(sys.modules, "flux_openai.batch.ray", raising=False)
    done = run(*options, prompts="a fox\n")
    assert (done.code, posts(emulator)) == (2, [])
    assert re.search(r"pip install 'flux-openai\[\w+\]'", done.err)


def test_2_every_bad_row_is_listed(run: Ask, emulator: Emulator, cli: Ask) -> None:
    """Each has its line number, and so has the document."""
    bad: dict[int, dict[str, object]] = {3: {"steps": 99}, 5: {"aspect_ratio": "16x9"}}
    rows = [{"prompt": "a fox", **bad.get(number, {})} for number in range(1, 7)]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = cli("batch", "run", "prompts.jsonl", "-o", "out", "--json")
    assert (done.code, posts(emulator)) == (2, [])
    assert [row["where"] for row in done.document["rows"]] == ["line 3", "line 5"]  # type: ignore[attr-defined]  # a list
    assert re.search(r"line 3: steps=99.*\n.*line 5: aspect_ratio='16x9'", done.err)
    Path("prompts.jsonl").write_text('{"prompt": "a fox", "sede": 3}\n', encoding="utf-8")
    done = cli("batch", "run", "prompts.jsonl", "-o", "out", "--json")
    assert ("seed" in done.err, "unsupported=" in done.err + done.out) == (True, False)


def test_8_another_run_uses_the_folder(run: Ask, emulator: Emulator) -> None:
    """It is said who does, and nothing is sent; the status can be asked all the same."""
    run(prompts="a fox\n")
    with Ledger.open("out", create=False):
        done = run(prompts="a fox\na hare\n")
    assert (done.code, done.out, len(posts(emulator))) == (8, "", 1)
    assert str(os.getpid()) in done.err


@pytest.mark.parametrize("name", ["gallery", "manifest.jsonl"])
def test_1_what_cannot_be_written_is_said(run: Ask, name: str) -> None:
    """A gallery or a manifest that cannot be written does not hide that the images are there."""
    Path("out").mkdir()
    if name == "gallery":
        Path("out/gallery").write_text("in the way", encoding="utf-8")
    else:
        Path("out", name, "in the way").mkdir(parents=True)
    done = run(prompts="a fox\n")
    assert done.code == 1
    assert f"out/{name}" in done.err
    assert "rows: 1, done: 1" in done.err
    assert len([*Path("out/images").rglob("*.png")]) == 1


def test_1_a_closed_stdout(run: Ask, tmp_path: Path) -> None:
    """The path of the manifest is the result: where nobody can read it, that is an error."""
    run(prompts="a fox\n")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flux_openai", "batch", "run", "prompts.txt", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.endswith("error: the output could not be written: Broken pipe\n")


def test_a_program_gets_one_document(run: Ask) -> None:
    """With --json stdout is the counts, the costs, the manifest and the exit code."""
    document = run("--json", "--price", "0.5 CNY", prompts="a fox\nlost\nrefused\n").document
    expected = {
        "rows": 3,
        "done": 1,
        "failed": 1,
        "held": 1,
        "pending": 0,
        "answered": 0,
        "in_flight": 0,
        "images": 1,
        "cost": "0.50 CNY",
        "unknown_images": 1,
        "unknown_cost": "0.50 CNY",
        "manifest": "out/manifest.jsonl",
        "stopped": None,
        "exit_code": 5,
    }
    assert expected.items() <= document.items()


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_dry_run_sends_nothing(run: Ask, emulator: Emulator, flags: list[str]) -> None:
    """It prints the first bodies, how many there are, and the cost; it makes no folder."""
    done = run("--dry-run", "--sweep", "seed=1,2", "--sweep", "steps=20,28", *flags, prompts="a fox\na hare\n")
    assert (done.code, posts(emulator), Path("out").exists(), done.err) == (0, [], False, "nothing was sent\n")
    if flags:
        facts = {"requests": 8, "images": 8, "estimated_cost": "5.60 CNY"}
        assert facts.items() <= done.document.items()
        bodies = done.document["first"]
    else:
        *lines, more, summary = done.out.splitlines()
        assert (more, summary) == ("and 5 more", "requests: 8, images: 8, estimated cost: 5.60 CNY")
        bodies = [json.loads(line) for line in lines]
    swept = [{"seed": 1, "steps": 20}, {"seed": 1, "steps": 28}, {"seed": 2, "steps": 20}]
    fixed = {"model": "black-forest-labs/flux-kontext-max/text-to-image", "prompt": "a fox"}
    assert bodies == [{**fixed, **one} for one in swept]


def test_a_dry_run_finds_what_is_wrong(run: Ask) -> None:
    """A cap that is too small is said; wrong options and rows end it as they would end the run."""
    done = run("--dry-run", "--max-images", "1", "--budget", "1 CNY", prompts="a fox\na hare\n")
    assert done.code == 0
    assert done.err.splitlines() == [
        "more than --max-images 1: a run pauses there",
        "more than --budget 1 CNY: a run pauses there",
        "nothing was sent",
    ]
    for wrong in (["--rpm", "0"], ["--price", "cheap"], ["--set", "steps=99"], ["--sweep", "seed=1,,2"]):
        assert run("--dry-run", *wrong).code == 2
    for wrong in (["--budget", "1 USD"], ["--budget", "1 CNY", "--price", "0.1 USD"]):
        dry, real = run("--dry-run", *wrong), run(*wrong)
        assert (dry.code, real.code) == (2, 2)
        assert "--budget" in dry.err
        assert dry.err == real.err


def test_a_dry_run_counts_what_the_folder_has(run: Ask, emulator: Emulator) -> None:
    """Rows that are done are not sent again and cost nothing; the ledger stays as it is, and so does its cap."""
    run("--max-images", "1", prompts="a fox\na hare\n")
    before = Path("out/ledger.db").read_bytes()
    done = run("--dry-run", "--max-images", "2", prompts="a fox\na hare\nan owl\n")
    assert (done.code, len(posts(emulator))) == (0, 1)
    assert done.out.splitlines()[2:] == [
        "rows: 3, done: 1, to be sent: 2",
        "requests: 2, images: 2, estimated cost: 1.40 CNY",
    ]
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()[:2]] == ["a hare", "an owl"]
    assert "more than --max-images 2: a run pauses there" in done.err
    document = run("--dry-run", "--json").document
    assert {"rows": 3, "done": 1, "requests": 2, "images": 2}.items() <= document.items()
    assert Path("out/ledger.db").read_bytes() == before


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("a fox\na blue hare\n", "line 2 (custom_id '2'): prompt: 'a hare' -> 'a blue hare'"),
        ("a fox\n", "custom_id '2': not in the input any more"),
    ],
)
def test_a_dry_run_names_the_rows_that_changed(run: Ask, emulator: Emulator, prompts: str, says: str) -> None:
    """It ends as the run would end, with the same words."""
    run(prompts="a fox\na hare\n")
    planned, done = run("--dry-run", prompts=prompts), run()
    assert (planned.code, done.code, len(posts(emulator))) == (2, 2, 2)
    assert says in planned.err
    assert planned.err == done.err


def test_a_dry_run_sends_a_repaired_row(run: Ask, emulator: Emulator) -> None:
    """A row that was refused, and has cost nothing, may be another one, as in the run."""
    run(prompts="refused\n")
    done = run("--dry-run", prompts="a fox\n")
    assert (done.code, done.out.splitlines()[-1]) == (0, "requests: 1, images: 1, estimated cost: 0.70 CNY")
    assert (run().code, len(posts(emulator))) == (0, 2)


def test_a_dry_run_tells_notices(run: Ask) -> None:
    """A value that the service may not take is told before it is paid for, once for all rows."""
    done = run("--dry-run", "--set", "seed=99999999999", prompts="a fox\na hare\n")
    assert done.code == 0
    assert re.search(r"^notice, in 2 rows: .*seed", done.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "start", "offered"),
    [
        ("batch run p -o o --on-unknown", "", ["hold", "retry"]),
        ("batch run p -o o --format", "t", ["tsv", "txt"]),
        ("batch run p -o o --duplicates", "", ["never", "unlikely", "allowed"]),
        ("generate --duplicates", "n", ["never"]),
    ],
)
def test_the_shell_completes_closed_lists(words: str, start: str, offered: list[str]) -> None:
    """An option with a closed list of values offers them."""
    assert completions(words, start) == offered


def test_the_shell_completes_each_model_once() -> None:
    """A model whose short name is its full name is offered once."""
    found = completions("generate --model", "")
    assert len(found) == len(set(found)) > 5


def completions(words: str, start: str) -> list[str]:
    """What the shell is offered after these words."""
    complete = pytest.importorskip("click.shell_completion").ShellComplete
    program = pytest.importorskip("flux_openai.cli.app")._program
    return [item.value for item in complete(program, {}, "flux-openai", "").get_completions(words.split(), start)]


def test_prompts_come_from_stdin(run: Ask, emulator: Emulator, cli: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is a prompt a line, or JSON Lines."""
    assert run(prompts="").code in (0, 2)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a fox", "seed": 7}\n')))
    assert cli("batch", "run", "-", "-o", "piped").code == 0
    assert [(body["prompt"], body["seed"]) for body in posts(emulator)] == [("a fox", 7)]


def test_the_status_is_asked_while_a_run_works(run: Ask, cli: Ask) -> None:
    """It reads the folder that another process has locked."""
    run("--max-images", "1", prompts="a fox\na hare\n")
    with Ledger.open("out", create=False):
        done = cli("batch", "status", "out")
    assert (done.code, done.err) == (0, f"a run is working: process {os.getpid()} on {platform.node()}\n")
    assert done.out.splitlines() == ["rows: 2, done: 1, left: 1", "images paid for: 1, cost: 0.70 CNY"]
    later = cli("batch", "status", "out")
    assert (later.out, "working" in later.err) == (done.out, False)
    message = json.loads(Path("out/report.json").read_text())["message"].replace("max_images=", "--max-images ")
    assert re.fullmatch(rf"the last report, of 20.*: {re.escape(message)}\n", later.err)
    assert cli("batch", "status", "out", "--json").document["pending"] == 1


def test_failed_rows_are_tried_again(run: Ask, emulator: Emulator, cli: Ask) -> None:
    """`retry-failed` lets the next run ask for them again, all of them or those that are named."""
    assert run(prompts="refused 1\nrefused 2\n").code == 3
    assert "flux-openai batch retry-failed out" in cli("batch", "status", "out").err
    assert cli("batch", "retry-failed", "out", "--only", "2").code == 0
    done = run()
    assert (done.code, [body["prompt"] for body in posts(emulator)]) == (3, ["refused 1", "refused 2", "refused 2"])
    assert cli("batch", "retry-failed", "out").code == 0
    assert run().code == 0
    assert emulator.bill.images == 2


def test_rows_that_may_be_paid_for_are_tried_again_by_name(run: Ask, emulator: Emulator, cli: Ask) -> None:
    """`retry-failed` leaves out what may have been billed, says so, and takes it if it is named."""
    assert run(prompts="lost\nrefused\n").code == 5
    assert cli("batch", "resolve", "out", "1", "--billed").code == 0
    done = cli("batch", "retry-failed", "out")
    assert "to be tried again by the next batch run: 1" in done.err
    assert "left out: 1 row that may have been paid for; name them with --only to pay again" in done.err
    assert (run().code, len(posts(emulator))) == (3, 3)
    assert cli("batch", "retry-failed", "out", "--only", "1").code == 0
    assert (run().code, len(posts(emulator))) == (0, 4)


def test_a_refused_key_is_named_as_it_was_given(
    run: Ask, cli: Ask, emulator: Emulator, tmp_path: Path, key: str
) -> None:
    """The variable, or the option of the command line, which has no argument `api_key=`."""
    emulator.script("* -> status(401)")
    (tmp_path / "key").write_text(key)
    for given, source in ([], "MODELVERSE_API_KEY"), (["--api-key-file", "key"], "--api-key-file"):
        told = f"the key came from {source}"
        assert told in run(*given, prompts="a fox\n").err
        assert told in cli("generate", "a fox", "-o", "images", *given).err


def test_an_address_without_tls_names_the_option_that_allows_it(run: Ask, cli: Ask) -> None:
    """`--allow-http`, and not the argument of the library."""
    refused = "--allow-http allows it in a network that you trust"
    for command in (["batch", "run", "prompts.txt", "-o", "out"], ["generate", "a fox"]):
        run(prompts="a fox\n")
        assert refused in cli(*command, "--base-url", "http://flux.test/v1").err


def test_a_gallery_that_cannot_be_written_ends_with_1(run: Ask, cli: Ask) -> None:
    """No image is missing: it has the code of output that could not be written, as a run has."""
    run(prompts="a fox\n")
    shutil.rmtree("out/gallery")
    Path("out/gallery").write_text("in the way")
    done = cli("batch", "gallery", "out")
    assert (done.code, done.out) == (1, "")
    assert "gallery" in done.err


def test_6_images_that_did_not_come(run: Ask, emulator: Emulator) -> None:
    """Where fewer images came than were paid for, the run says how many, and does not end with "every row is done"."""
    emulator.script("* -> partial(1)")
    done = run("--set", "n=3", prompts="a fox\n")
    assert done.code == 6
    assert "images that were paid for and did not come: 2" in done.err


@pytest.mark.parametrize(
    ("verdict", "code", "sent", "unknown"),
    [("--retry", 0, 2, 1), ("--unbilled", 0, 2, 0), ("--fail", 3, 1, 1), ("--billed", 3, 1, 0)],
)
def test_held_rows_wait_for_a_decision(
    run: Ask,
    emulator: Emulator,
    cli: Ask,
    *,
    verdict: str,
    code: int,
    sent: int,
    unknown: int,
) -> None:
    """A held row is asked for again only if that is said, with the same key; what it may have cost stays counted."""
    assert run(prompts="lost\n").code == 5
    assert (run().code, len(posts(emulator))) == (5, 1)
    assert cli("batch", "resolve", "out", "1", verdict).code == 0
    done = run("--json")
    assert (done.code, len(posts(emulator)), done.document["unknown_images"]) == (code, sent, unknown)
    assert len({request.headers["idempotency-key"] for request in emulator.requests if request.method == "POST"}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ["status", "nowhere"],
        ["gallery", "nowhere"],
        ["verify", "nowhere"],
        ["retry-failed", "nowhere"],
        ["retry-failed", "out", "--only", "nobody"],
        ["resolve", "out", "--retry"],
        ["resolve", "out", "--all"],
        ["resolve", "out", "1", "--all", "--fail"],
        ["resolve", "out", "1", "--retry", "--fail"],
        ["resolve", "out", "nobody", "--fail"],
    ],
    ids=" ".join,
)
def test_a_command_that_makes_no_sense_changes_nothing(run: Ask, cli: Ask, wrong: list[str]) -> None:
    """It ends with 2 and says why; no folder is made."""
    run(prompts="lost\n")
    before = cli("batch", "status", "out").out
    done = cli("batch", *wrong)
    assert (done.code, done.out, "rror: " in done.err) == (2, "", True)
    assert (cli("batch", "status", "out").out, Path("nowhere").exists()) == (before, False)


def test_the_files_are_compared_with_the_ledger(run: Ask, cli: Ask) -> None:
    """A file that is missing, changed or of no row is named, and the gallery is written anew."""
    run(prompts="a fox\na hare\n")
    assert cli("batch", "verify", "out").out == "files: 2, missing: 0, changed: 0, of no row: 0\n"
    first, second = sorted(Path("out/images").rglob("*.png"))
    first.unlink()
    second.write_bytes(b"another")
    (second.parent / "mine.png").write_bytes(b"mine")
    done = cli("batch", "verify", "out")
    folder = second.parent.relative_to("out")
    assert (done.code, done.out.splitlines()) == (
        6,
        [
            f"missing: {folder / first.name}",
            f"changed: {folder / second.name}",
            f"of no row: {folder / 'mine.png'}",
            "files: 2, missing: 1, changed: 1, of no row: 1",
        ],
    )
    assert "out/gallery/index.html has the command for each image, which is billed" in done.err
    assert cli("batch", "verify", "out", "--json").document["exit_code"] == 6
    assert cli("batch", "gallery", "out").out == "out/gallery/index.html\n"


def test_without_a_key_or_a_network(cli: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--emulator` draws in the process itself."""
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a fox\n", encoding="utf-8")
    done = cli("batch", "run", "prompts.txt", "-o", "out", "--emulator")
    assert (done.code, done.out) == (0, "out/manifest.jsonl\n")
    assert "draws patterns" in done.err


RUN = ("batch", "run", "prompts.txt", "-o", "out", "--max-inflight", "1", "--max-wait", "0")


@pytest.fixture
def start(service: "Service", tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a run of two prompts, one after the other, in a process of its own, against the service of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", key)
    monkeypatch.setenv("MODELVERSE_BASE_URL", service.url)
    Path("prompts.txt").write_text("a fox\na hare\n", encoding="utf-8")

    def start(stderr: int = subprocess.PIPE) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "flux_openai", *RUN], stdout=subprocess.PIPE, stderr=stderr, text=True
        )

    return start


def until(stream: IO[str] | None, text: str) -> None:
    """Read lines until one has this text."""
    assert stream is not None
    assert any(text in line for line in stream)


SIGNALS = [
    pytest.param(signal.SIGINT, 130, id="ctrl-c"),
    pytest.param(signal.SIGTERM, 143, id="sigterm"),
    pytest.param(signal.SIGHUP, 143, id="closed terminal"),
]


@pytest.fixture
def _terminal_can_be_closed() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, also by the programs that are started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_terminal_can_be_closed")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_first_signal_waits_for_what_is_under_way(
    start: Start, cli: Ask, service: "Service", number: signal.Signals, code: int
) -> None:
    """The answer that comes afterwards is saved, no further request starts, and the same command goes on."""
    asked = threading.Event()

    def interrupt() -> None:
        running.send_signal(number)
        until(running.stderr, "no further request starts; waiting for 1 under way")
        asked.set()

    service.draws(first=interrupt)
    with start() as running:
        assert asked.wait(60)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, service.posts) == (code, "out/manifest.jsonl\n", 1)
    assert "rows: 2, done: 1, left: 1" in err
    service.draws()
    assert (cli(*RUN).code, service.posts) == (0, 2)


def test_two_signals_at_once_are_one(start: Start, service: "Service") -> None:
    """Signals that arrive together let the run drain, as one does: what is under way is saved."""
    asked = threading.Event()

    def interrupt() -> None:
        running.send_signal(signal.SIGSTOP)  # so that both wait when it goes on
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGCONT)
        until(running.stderr, "no further request starts; waiting for 1 under way")
        asked.set()

    service.draws(first=interrupt)
    with start() as running:
        assert asked.wait(60)
        _, err = running.communicate(timeout=60)
    assert service.posts == 1
    assert "rows: 2, done: 1, left: 1" in err


@pytest.mark.usefixtures("_terminal_can_be_closed")
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_second_signal_stops_at_once(
    start: Start, cli: Ask, service: "Service", number: signal.Signals, code: int
) -> None:
    """What was under way may be billed: it is said, and the next run holds it."""
    ended = threading.Event()

    def interrupt() -> None:
        running.send_signal(number)
        until(running.stderr, "no further request starts")
        running.send_signal(number)
        until(
            running.stderr,
            "rows that were cut off, and may have been carried out and billed: 1 (1 image, cost: 0.70 CNY)",
        )
        running.wait(60)
        ended.set()

    service.hangs_up(first=interrupt)
    with start() as running:
        assert ended.wait(60)
        out, _ = running.communicate(timeout=60)
    assert (running.returncode, out, service.posts) == (code, "out/manifest.jsonl\n", 1)
    left = cli("batch", "status", "out")
    assert left.out.startswith("rows: 2, done: 0, cut off: 1, left: 1\n")
    assert "run the same command again: it holds them until you decide" in left.err
    assert "images of unknown outcome: 1, which may have cost 0.70 CNY" in left.out
    cut_off = "rows that were cut off: 1; the same batch run again holds them, then decide about them"
    for undecided in (["resolve", "out", "--all", "--retry"], ["retry-failed", "out"]):
        assert cli("batch", *undecided).err.splitlines()[1:] == [cut_off]
    planned = cli(*RUN, "--dry-run", "--on-unknown", "retry", "--max-images", "2")
    assert planned.out.splitlines()[-2] == "rows: 2, cut off: 1, to be sent: 2"
    assert "more than --max-images 2: a run pauses there" in planned.err
    service.draws()
    done = cli(*RUN)
    assert (done.code, service.posts) == (5, 2)
    assert "done: 1, held (may be billed; you decide): 1" in done.err


INTERRUPTED = """
import os, signal, sys
from flux_openai.batch.input.rows import Input
from flux_openai.batch.results import gallery, reports
from flux_openai.cli.app import run
from flux_openai.cli.batch import commands

commands._TOGETHER = 0

def at(owner, name, *names):
    real = getattr(owner, name)
    def told(*given, **named):
        for each in names:
            os.kill(os.getpid(), getattr(signal, each))
        return real(*given, **named)
    setattr(owner, name, told)

stage, *names = sys.argv[1].split(",")
at(*{"rows": (Input, "checked"), "reports": (reports, "_encoded"), "gallery": (gallery, "_page")}[stage], *names)
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.usefixtures("_terminal_can_be_closed")
@pytest.mark.parametrize(
    ("stage", "code", "says"),
    [
        ("reports,SIGINT", 130, "rows: 2, done: 2"),
        ("reports,SIGTERM", 143, "rows: 2, done: 2"),
        ("gallery,SIGINT", 130, "rows: 2, done: 2"),
        ("gallery,SIGTERM", 143, "rows: 2, done: 2"),
        ("gallery,SIGHUP,SIGHUP", 143, "rows: 2, done: 2"),
        ("rows,SIGTERM,SIGHUP", 143, "rows: 0, done: 0"),
    ],
)
def test_a_signal_while_files_are_read_or_written(
    start: Start, service: "Service", stage: str, code: int, says: str
) -> None:
    """The summary is printed all the same, no temporary file stays, and stdout names no file that is not there."""
    service.draws()
    service.draws()
    command = [sys.executable, "-c", INTERRUPTED, stage, *RUN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert says in done.stderr
    assert f"exit code {code}: " in done.stderr
    assert [*Path("out").rglob("*.part")] == []
    assert all(Path(line).is_file() for line in done.stdout.splitlines())


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_shows_a_bar(
    start: Start, service: "Service", monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Rows, time, speed, requests under way, refusals and cost are drawn within its width, and are gone at the end."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = threading.Event()
    service.draws(first=lambda: shown.wait(60))
    service.draws()
    output = b""
    with start(theirs) as running:
        os.close(theirs)
        while chunk := read(ours):
            output += chunk
            if b"1 in flight" in output:
                shown.set()
        os.close(ours)
        running.communicate(timeout=60)
    assert shown.is_set()
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", output.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    drawn = lines[: lines.index("rows: 2, done: 2")]
    assert max(map(len, drawn)) < columns
    for fact in ("0 of 2 rows", "0 done", "0 failed", "0 held", "0.0 images/s", "1 in flight", "429: 0 %"):
        assert any(fact in line for line in drawn), fact
    assert any("━━━" in line for line in drawn)


def read(terminal: int) -> bytes:
    """What a terminal shows next; nothing at its end, for which Linux has an error."""
    with contextlib.suppress(OSError):
        return os.read(terminal, 4096)
    return b""


def test_a_log_gets_lines(
    cli: Ask, service: "Service", tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stderr is no terminal, there is a line at each interval, with the same numbers."""
    told = threading.Event()
    console = pytest.importorskip("flux_openai.cli.console")
    monkeypatch.setattr(console, "_INTERVAL", 0.01)
    message = console.Console.message

    def note(self: object, text: str) -> None:
        message(self, text)
        if "1 in flight" in text:
            told.set()

    monkeypatch.setattr(console.Console, "message", note)
    monkeypatch.setenv("MODELVERSE_API_KEY", key)
    service.draws(first=lambda: told.wait(60))
    (tmp_path / "prompts.txt").write_text("a fox\n", encoding="utf-8")
    done = cli("batch", "run", str(tmp_path / "prompts.txt"), "-o", str(tmp_path / "out"), "--base-url", service.url)
    assert done.code == 0
    assert "0 of 1 rows, 0 done, 0 failed, 0 held, 0.0 images/s, 1 in flight, 429: 0 %" in done.err


def test_facts_are_not_torn() -> None:
    """In a narrow window they fill lines, each whole."""
    display = pytest.importorskip("flux_openai.cli.batch.progress")
    facts = ["400 done", "2 failed", "0 held", "9.8 images/s", "24 in flight", "429: 3 %", "280.00 CNY"]
    for width in (20, 39, 79):
        lines = display._filled(facts, width)
        assert [fact for line in lines for fact in line.split(", ")] == facts
        assert max(map(len, lines)) <= width
