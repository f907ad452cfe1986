"""The journal file: one line of JSON for each request, written at once and without secrets."""

import json
from pathlib import Path
from typing import Any

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL

KEY = "sk-planted-0123456789"
ORDER = {"model": DEFAULT_MODEL, "prompt": "a fox"}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_journal_is_read_while_the_server_runs(tmp_path: Path) -> None:
    """After each answer its line is there, with the request, the answer and the bill."""
    path = tmp_path / "journal.jsonl"
    emulator = Emulator(pixels=256, journal=path, clock=lambda: 1_750_667_997.5)
    headers = {"authorization": f"Bearer {KEY}", "idempotency-key": "once"}
    assert path.read_text(encoding="utf-8") == ""
    with emulator.serve() as server, httpx.Client(base_url=server.base_url, headers=headers, trust_env=False) as http:
        link = http.post("/images/generations", json=ORDER | {"n": 2}).json()["data"][0]["url"]
        assert lines_of(path) == [
            {
                "time": "2025-06-23T08:39:57.500+00:00",
                "number": 1,
                "method": "POST",
                "path": "/v1/images/generations",
                "status": 200,
                "body": ORDER | {"n": 2},
                "idempotency_key": "once",
                "request_id": "emu-000001",
                "images_billed": 2,
                "duplicate": False,
                "fault": None,
            }
        ]
        emulator.fail(status=503)
        http.post("/images/generations", json=ORDER)
        http.post("/images/generations", json=ORDER)
        emulator.fail(error="reset")
        with pytest.raises(httpx.ReadError):
            http.post("/images/generations", json=ORDER)
        http.get(link)
        outcomes = [
            (line["status"], line["images_billed"], line["duplicate"], line["fault"]) for line in lines_of(path)
        ]
        assert outcomes[1:] == [
            (503, 0, False, "status 503"),
            (200, 1, True, None),
            (0, 1, True, "reset"),
            (200, 0, False, None),
        ]
    text = path.read_text(encoding="utf-8")
    assert KEY not in text
    assert "signature" not in text


def test_images_and_secrets_stay_out_of_the_file(tmp_path: Path) -> None:
    """Images, long texts and the queries of links do not get into the file, at any depth."""
    path = tmp_path / "journal.jsonl"
    emulator = Emulator(journal=path)
    link = "https://me:word@host.example/a.png?signature=planted"
    body = {"image": f"data:image/png;base64,{'A' * 99}", "images": [link], "prompt": "x" * 1001, "n": {"a": link}}
    with emulator.http_client() as http:
        http.post("https://api.example/v1/images/generations", json=body)
        http.post("https://api.example/v1/images/generations", content=b"[]")
    first, second = lines_of(path)
    assert first["body"] == {
        "image": "<image/png, 121 characters>",
        "images": ["https://host.example/a.png?[redacted]"],
        "prompt": f"{'x' * 1000}… <1001 characters>",
        "n": {"a": "https://host.example/a.png?[redacted]"},
    }
    assert (second["body"], second["status"]) == (None, 401)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("HTTPS://h.example/a?sig=planted", "HTTPS://h.example/a?[redacted]"),
        ("see https://h.example/a?planted now", "see https://h.example/a?[redacted] now"),
        (r"https:\/\/me:planted@h.example\/a?sig=planted", r"https:\/\/h.example\/a?[redacted]"),
        ("https://h.example/a?b='c'&sig=planted", "https://h.example/a?[redacted]'c'&sig=[redacted]"),
        ("/files/a.png?expires=1&signature=planted", "/files/a.png?expires=[redacted]&signature=[redacted]"),
        ("what? you & me", "what? you & me"),
    ],
)
def test_no_line_opens_a_link(tmp_path: Path, text: str, kept: str) -> None:
    """Passwords and queries of links are removed from values and names, however the link is written."""
    path = tmp_path / "journal.jsonl"
    with Emulator(journal=path).http_client() as http:
        http.post("https://api.example/v1/images/generations", json={text: [text]})
    assert lines_of(path)[0]["body"] == {kept: [kept]}


def test_no_request_stalls_the_journal(tmp_path: Path) -> None:
    """A million beginnings of links take linear time, and of a deeply nested body 50 levels are written."""
    path = tmp_path / "journal.jsonl"
    deep = '{"a":' * 900 + "1" + "}" * 900
    with Emulator(journal=path).http_client() as http:
        for body in (json.dumps({"a": "http://" * 1_000_000}), deep):
            assert http.post("https://api.example/v1/images/generations", content=body).status_code == 401
    first, second = lines_of(path)
    assert first["body"]["a"].endswith("<7000000 characters>")
    assert json.dumps(second["body"]).count("a") == 50


def test_a_request_is_answered_without_its_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file is gone, a billed request is answered all the same, and a log message names the missing line."""
    folder = tmp_path / "folder"
    folder.mkdir()
    emulator = Emulator(pixels=64, journal=folder / "journal.jsonl")
    (folder / "journal.jsonl").unlink()
    folder.rmdir()
    with emulator.http_client(headers={"authorization": f"Bearer {KEY}"}) as http:
        assert http.post("https://api.example/v1/images/generations", json=ORDER).status_code == 200
    assert "cannot write request 1 to the journal" in caplog.text
    assert emulator.bill.images == 1


def test_a_journal_only_grows(tmp_path: Path) -> None:
    """A second emulator appends to the file of the first."""
    path = tmp_path / "journal.jsonl"
    for _ in range(2):
        with Emulator(journal=str(path)).http_client() as http:
            http.get("https://api.example/v1/models")
    assert [line["path"] for line in lines_of(path)] == ["/v1/models"] * 2


def test_a_journal_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    """A path that cannot be opened is named before any request is made."""
    with pytest.raises(ConfigurationError, match="cannot write the journal"):
        Emulator(journal=tmp_path / "no" / "journal.jsonl")
