"""`flux-openai emulate`: where it listens, how it ends, and what it says of the cost."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_openai import FluxOpenAI
from flux_openai.emulator import fault_table
from flux_openai.errors import FluxStatusError

pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

if TYPE_CHECKING:
    from tests.cli.conftest import Done

FIRST_LINE = "listening on "


@contextmanager
def emulation(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running program and the address that its first line names."""
    command = [sys.executable, "-m", "flux_openai", "emulate", "--port", "0", "--pixels", "64", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.startswith(f"{FIRST_LINE}http://127.0.0.1:")
            yield running, line.removeprefix(FIRST_LINE).strip()
        finally:
            running.kill()


def test_what_goes_wrong_can_be_said_on_the_command_line(key: str, tmp_path: Path) -> None:
    """A script, as text or in a file, and a limit hold for whoever asks; what a limit refuses is not billed."""
    script = tmp_path / "faults.txt"
    script.write_text("prompt~/cat/ #1 -> status(503)\n", encoding="utf-8-sig")  # as editors on Windows begin a file
    for text in ("prompt~/cat/ #1 -> status(503)", str(script)):
        options = ["--script", text, "--seed", "7", "--limit", "credits=2", "--latency", "1ms"]
        with emulation(*options) as (running, address), FluxOpenAI(api_key=key, base_url=address) as client:
            assert client.images.generate(prompt="a cat", n=2).attempts == 2
            with pytest.raises(FluxStatusError, match="429"):
                client.images.generate(prompt="a dog")
            running.terminate()
            out, _ = running.communicate(timeout=60)
        assert out == "requests: 3, images billed: 2, of them duplicates: 0\n"


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_serves_until_it_is_told_to_stop(number: signal.Signals, code: int, key: str, tmp_path: Path) -> None:
    """The address comes first, the cost last, nothing on stderr, and the key nowhere."""
    journal = tmp_path / "journal.jsonl"
    with (
        emulation("--journal", str(journal)) as (running, address),
        FluxOpenAI(api_key=key, base_url=address) as client,
    ):
        client.images.generate(prompt="a red fox", n=2)
        for _ in range(2):
            client.images.generate(prompt="a hare", extra_headers={"Idempotency-Key": "mine"})
        assert [json.loads(line)["images_billed"] for line in journal.read_text(encoding="utf-8").splitlines()] == [
            2,
            1,
            1,
        ]
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (code, "requests: 3, images billed: 4, of them duplicates: 1\n", "")
    assert key not in journal.read_text(encoding="utf-8")


def test_only_the_key_in_the_file_is_accepted(key: str, tmp_path: Path) -> None:
    """With a key file, another key is refused as the service refuses it."""
    tmp_path.joinpath("key").write_text(f"{key}\n", encoding="utf-8")
    with emulation("--api-key-file", str(tmp_path / "key")) as (running, address):
        with FluxOpenAI(api_key=key, base_url=address) as right, FluxOpenAI(api_key="other", base_url=address) as wrong:
            assert right.images.generate(prompt="a red fox").data
            with pytest.raises(FluxStatusError, match="not known"):
                wrong.images.generate(prompt="a red fox")
        running.terminate()
        assert key not in "".join(running.communicate(timeout=60))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--host", "0.0.0.0"), "host='0.0.0.0': must be an address of this machine alone"),  # noqa: S104
        (("--port", "65536"), "port=65536: must be an int from 0 to 65535"),
        (("--port", "0", "--pixels", "0"), "pixels=0: must be an int from 1"),
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
