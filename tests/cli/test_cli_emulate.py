"""`flux-openai emulate`: where it listens, how it ends, and what it says of the cost."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from flux_openai import FluxOpenAI
from flux_openai.emulator import fault_table
from flux_openai.errors import FluxStatusError

pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

if TYPE_CHECKING:
    from tests.cli.conftest import Done

ENDLESS = ("emulate", "--port", "0", "--pixels", "64")


class Lines(io.StringIO):
    """A stdout whose lines another thread can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: SimpleQueue[str] = SimpleQueue()

    def write(self, line: str) -> int:
        self.lines.put(line.rstrip("\n"))
        return len(line)


@pytest.fixture
def emulate(cli: Callable[..., "Done"], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the program in this process, use its address in a thread, end it with SIGTERM, and return its last line.

    Stderr has the line to copy, and a line for each request.
    """
    main_thread = threading.main_thread().ident or 0

    def run(use: Callable[[str], None], *args: str) -> str:
        stdout = Lines()

        def use_and_end() -> None:
            line = stdout.lines.get(timeout=60)
            assert line.startswith("listening on http://127.0.0.1:")
            try:
                use(line.removeprefix("listening on "))
            finally:
                signal.pthread_kill(main_thread, signal.SIGTERM)

        with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stdout)
            used = pool.submit(use_and_end)
            done = cli(*ENDLESS, *args)
            used.result()
        assert done.code == 0
        pattern, export, *requests = done.err.splitlines()
        assert "not the service's pictures" in pattern
        assert re.fullmatch(
            r"export MODELVERSE_BASE_URL=http://127\.0\.0\.1:\d+/v1( MODELVERSE_API_KEY=any-key)?", export
        )
        last = stdout.lines.get_nowait()
        assert last.startswith(f"requests: {len(requests)},")
        assert all(re.fullmatch(r"(POST|GET) /\S+ \d+, images billed: \d+(, fault: .+)?", line) for line in requests)
        return last

    return run


@pytest.mark.parametrize("in_a_file", [False, True])
def test_what_goes_wrong_can_be_said_on_the_command_line(
    emulate: Callable[..., str], key: str, tmp_path: Path, *, in_a_file: bool
) -> None:
    """A script, as text or in a file, and a limit hold for whoever asks; what a limit refuses is not billed."""
    script, file = "prompt~/cat/ #1 -> status(503)", tmp_path / "faults.txt"
    file.write_text(f"{script}\n", encoding="utf-8-sig")  # as editors on Windows begin a file

    def use(address: str) -> None:
        with FluxOpenAI(api_key=key, base_url=address) as client:
            assert client.images.generate(prompt="a cat", n=2).attempts == 2
            with pytest.raises(FluxStatusError, match="429"):
                client.images.generate(prompt="a dog")

    options = ["--script", str(file) if in_a_file else script, "--seed", "7", "--limit", "credits=2"]
    last = emulate(use, *options, "--latency", "1ms")
    assert last == "requests: 3, images billed: 2, of them duplicates: 0"


def test_every_fault_is_listed(cli: Callable[..., "Done"]) -> None:
    """--help-faults names each fault once, with what it costs and what a client raises, in lines of 100 characters."""
    done = cli("emulate", "--help-faults")
    assert done.code == 0
    listed, name, what = [], "", ""
    for line in re.sub(r"\n {47,}", " ", done.out).splitlines():
        if line.startswith("    "):
            on, billed, raised, firsts = (
                line[start:end].strip() for start, end in ((4, 9), (11, 21), (23, 51), (53, None))
            )
            told = (
                *({"img": "download", "order": "generate"}[on], what),
                *({"billed": "yes", "not billed": "no"}[billed], raised.replace("served", "")),
            )
            listed += [(f"{name}({first})" if first else name, *told) for first in firsts.split(", ")]
        else:
            act, _, what = line.partition("  ")
            name = act.partition("(")[0]
    # An act that cannot do without an argument is named with one in the table.
    table = [
        (re.sub(r"^status\(400\)$", "status", row[0]) if row[1] == "download" else row[0], *row[1:])
        for row in fault_table()
    ]
    assert sorted(listed) == sorted(table)
    assert max(map(len, done.out.splitlines())) <= 100


def test_ctrl_c_ends_the_process_with_130(key: str) -> None:
    """The address is the first line of the process, what was billed the last, and stderr has each request."""
    command = [sys.executable, "-m", "flux_openai", *ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            address = running.stdout.readline().removeprefix("listening on ").strip()
            with FluxOpenAI(api_key=key, base_url=address) as client:
                client.images.generate(prompt="a red fox", n=2)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, out) == (130, "requests: 1, images billed: 2, of them duplicates: 0\n")
    assert err.splitlines()[2:] == ["POST /v1/images/generations 200, images billed: 2"]


def test_every_request_is_in_the_journal_and_on_the_bill(emulate: Callable[..., str], key: str, tmp_path: Path) -> None:
    """A repeated Idempotency-Key is billed again as a duplicate, and the key stands nowhere."""
    journal = tmp_path / "journal.jsonl"

    def use(address: str) -> None:
        with FluxOpenAI(api_key=key, base_url=address) as client:
            client.images.generate(prompt="a red fox", n=2)
            for _ in range(2):
                client.images.generate(prompt="a hare", extra_headers={"Idempotency-Key": "mine"})
        lines = journal.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["images_billed"] for line in lines] == [2, 1, 1]

    last = emulate(use, "--journal", str(journal))
    assert last == "requests: 3, images billed: 4, of them duplicates: 1"
    assert key not in journal.read_text(encoding="utf-8")


def test_only_the_key_in_the_file_is_accepted(emulate: Callable[..., str], key: str, tmp_path: Path) -> None:
    """With a key file, another key is refused as the service refuses it."""
    tmp_path.joinpath("key").write_text(f"{key}\n", encoding="utf-8")

    def use(address: str) -> None:
        with FluxOpenAI(api_key=key, base_url=address) as right, FluxOpenAI(api_key="other", base_url=address) as wrong:
            assert right.images.generate(prompt="a red fox").data
            with pytest.raises(FluxStatusError, match="not known"):
                wrong.images.generate(prompt="a red fox")

    assert key not in emulate(use, "--api-key-file", str(tmp_path / "key"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0: must be an address of this machine alone"),  # noqa: S104
        (("--port", "65536"), "--port 65536: must be an int from 0 to 65535"),
        (("--port", "0", "--pixels", "0"), "--pixels 0: must be an int from 1"),
        (("--port", "0", "--script", "no-such-file"), "'no-such-file' is neither a script, which has '->' in it, nor"),
        (("--port", "0", "--journal", "no/such/folder/journal"), "cannot write the journal"),
        (("--port", "0", "--api-key-file", "no-such-file"), "cannot read the key from 'no-such-file'"),
        (("--port", "0", "--api-key-file", "/dev/null"), "no key in '/dev/null'"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    cli: Callable[..., "Done"], args: tuple[str, ...], said: str
) -> None:
    """Wrong options end the program with 2, before it listens."""
    done = cli("emulate", *args)
    assert (done.code, done.out) == (2, "")
    [line] = done.err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_wrong_script_is_shown_where_it_is_wrong(cli: Callable[..., "Done"]) -> None:
    """The line of the script and a caret stand below what is wrong."""
    done = cli("emulate", "--port", "0", "--script", "* status(429)")
    assert (done.code, done.out) == (2, "")
    message, line, caret = done.err.splitlines()
    assert message.startswith("error: line 1, column 3: expected -> after the selector")
    assert line.index("status") == caret.index("^")


def test_a_port_in_use_is_said_in_one_line(cli: Callable[..., "Done"]) -> None:
    """Two programs cannot listen on one port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("emulate", "--port", str(taken.getsockname()[1]))
    assert (done.code, done.out) == (2, "")
    [line] = done.err.splitlines()
    assert "address already in use" in line
