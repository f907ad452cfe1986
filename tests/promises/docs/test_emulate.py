"""The guide's lines for programs in other languages, run by a shell: the emulator in one terminal, curl in another."""

import argparse
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flux_openai._http.library import httpx
from tests.promises.docs.pages import BLOCKS, PAGES, ROOT

PAGE = PAGES["examples/testing_your_code.md"]
COMMANDS = {block.marker: block.code for block in BLOCKS}
PROGRAM = f"'{sys.executable}' -m flux_openai"


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program can be started from an empty folder, as where it is installed."""
    pytest.importorskip("flux_openai.cli.app", reason="needs the extra")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


def asked(command: str) -> str:
    """What curl prints for a command; where there is no curl, what the same request is answered with."""
    if shutil.which("curl"):
        return subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True).stdout
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-H", action="append", dest="headers")
    parser.add_argument("-d", dest="body")
    given = parser.parse_args(shlex.split(command.replace("\\\n", " "))[1:])
    headers = dict(line.split(": ", 1) for line in given.headers)
    return httpx.post(given.url, headers=headers, content=given.body, trust_env=False).text


def test_curl_against_the_emulator(tmp_path: Path) -> None:
    """The address, the answer to curl, the journal and the bill are what the page says, but for the port."""
    [said] = re.findall(r"^It says `(.*)`", PAGE, re.MULTILINE)
    [bill] = re.findall(r"^`(requests: .*)`\.$", PAGE, re.MULTILINE)
    # `exec`, so that the signal of Ctrl-C reaches the program itself; any port, since others may run here.
    start = f"exec {COMMANDS['run: emulate'].replace('flux-openai', PROGRAM).strip()} --port 0"
    with subprocess.Popen(["/bin/sh", "-c", start], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline().strip()
            [port] = re.findall(r"\d+(?=/v1$)", line)
            assert line.replace(port, "8399") == said
            ask = COMMANDS["run: curl"].replace("8399", port)
            answer = asked(ask)
            links = [image["url"] for image in json.loads(answer)["data"]]
            assert [httpx.get(link, trust_env=False).content[:4] for link in links] == [b"\x89PNG"] * 2
            running.send_signal(signal.SIGINT)
            out, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    assert out.strip() == bill.replace("requests: 1", "requests: 3")  # both links were opened
    seen = [json.loads(line) for line in (tmp_path / "emulator.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["images_billed"] for entry in seen] == [2, 0, 0]
