"""No cassette holds a secret or a large file, and each says where it comes from.

The checks share nothing with the code that records, so that one finds the other's mistakes.
"""

import ast
import base64
import binascii
import gzip
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs

pytest_plugins = "pytester"

TESTS = Path(__file__).parents[1]
REPLAY = Path(__file__).with_name("test_replay.py")
CASSETTES = sorted((TESTS.parent / "cassettes").iterdir())
NAMES = {path.name for path in CASSETTES}
PROVENANCES = ("emulator", "documented example", "live")
HEADERS = {"accept", "content-type", "date", "location", "retry-after", "x-request-id"}
DATES = {"Mon, 23 Jun 2025 08:39:57 GMT"}
SIZE_LIMIT = 64 * 1024
IMAGE_LIMIT = 1024
DEPTH = 6

SECRET = re.compile(
    rb"(?i)canary|flux-tests-need|\bbearer\s+\S|\b(sk|pk|rk)-[\w-]{6}|\bAKIA[0-9A-Z]{12}|\beyJ[\w-]{8,}\.|-----BEGIN|"
    rb"\b(authorization|cookie|set-cookie|x-api-key|api-key|idempotency-key|openai-organization|openai-project)\W{1,3}\S"
)
LINK = re.compile(rb"""(?:https?:)?//[^\s"'<>\\]+""")
PACKED = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")


def layers(data: bytes, depth: int = DEPTH) -> Iterator[bytes]:
    """The data, and whatever it is once it is read as JSON, gunzipped or decoded from base64, as deep as that goes."""
    yield data
    if depth:
        for inner in (*unzipped(data), *texts_in(data), *unpacked(data)):
            yield from layers(inner, depth - 1)


def unzipped(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x1f\x8b"):
        try:
            yield gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return


def texts_in(data: bytes) -> Iterator[bytes]:
    try:
        value = json.loads(data) if data[:1] in b'{["' else None
    except ValueError:
        return
    yield from (text.encode("utf-8", "surrogatepass") for text in strings(value))


def strings(value: object) -> Iterator[str]:
    """Every string in a JSON value, names too."""
    if isinstance(value, str):
        yield value
    for inner in value if isinstance(value, list) else (*value, *value.values()) if isinstance(value, dict) else ():
        yield from strings(inner)


def unpacked(data: bytes) -> Iterator[bytes]:
    for match in PACKED.finditer(data):
        text = match[0].rstrip(b"=")
        try:
            yield base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_" if re.search(b"[-_]", text) else None)
        except binascii.Error:
            continue


def violations(path: Path) -> list[str]:
    """Every rule that a cassette breaks."""
    raw = path.read_bytes()
    try:
        tape = yaml.safe_load(raw)
    except yaml.YAMLError:
        return ["is not plain YAML"]
    found = [] if len(raw) <= SIZE_LIMIT else [f"is larger than {SIZE_LIMIT} bytes"]
    if tape.get("provenance") not in PROVENANCES:
        found.append("does not say where it comes from")
    if tape.get("model", "") == "" or not tape.get("interactions"):
        found.append("has no model or no interactions")
    for interaction in tape.get("interactions") or ():
        found += [rule for part in ("request", "response") for rule in flaws(interaction[part])]
    return found + ([] if not SECRET.search(raw) else ["holds a secret"])


def flaws(part: dict[str, Any]) -> Iterator[str]:
    """The rules that one request or one answer breaks."""
    headers = {name.lower(): values for name, values in part["headers"].items()}
    if set(headers) - HEADERS or set(headers.get("date", ())) - DATES:
        yield "has headers that are not needed"
    body = part["body"]["string"] if isinstance(part["body"], dict) else part["body"] or ""
    values = [body, part.get("uri", ""), *(value for values in headers.values() for value in values)]
    for data in (layer for value in values for layer in layers(value if isinstance(value, bytes) else value.encode())):
        if SECRET.search(data):
            yield "holds a secret"
        if any(map(signed, LINK.findall(data))):
            yield "holds a signed link"
        if (is_image(data) or isinstance(body, bytes)) and len(data) > IMAGE_LIMIT:
            yield f"holds a file of more than {IMAGE_LIMIT} bytes"


def signed(link: bytes) -> bool:
    """Whether anything in a link's query has a value, or somebody's name stands before its host."""
    parts = urlsplit(link.decode("latin-1"))
    items = [item.partition("=") for item in parts.query.split("&") if item]
    return "@" in parts.netloc or any((value if equals else name) != "redacted" for name, equals, value in items)


def is_image(data: bytes) -> bool:
    return data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8")) or data[:4] + data[8:12] == b"RIFFWEBP"


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.name)
def test_a_cassette_is_clean(path: Path) -> None:
    """It is small and plain, says where it comes from, and holds no key, no signature and no large file."""
    assert violations(path) == []


def test_every_cassette_is_played_and_every_one_played_is_there() -> None:
    """The cassettes named in the tests are the files in the folder, no more and no fewer."""
    played: list[str] = []
    for node in ast.walk(ast.parse(REPLAY.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="flux_cassette"), args=[ast.Constant(value=str(name))]):
                played.append(name)
            case ast.AnnAssign(target=ast.Name(id="TAPES"), value=ast.Dict(keys=keys)):
                played += [str(ast.literal_eval(key)) for key in keys if key is not None]
            case _:
                pass
    assert sorted(f"{name}.yaml" for name in played) == sorted(NAMES)


@pytest.mark.usefixtures("all_is_imported")
def test_the_emulator_records_the_same_to_the_byte(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cassettes in the repository are what `--flux-record=emulator` writes today; the documented ones stay."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    copy = pytester.path / "copied" / "promises" / REPLAY.name  # `tests.promises` would be the module of this run
    copy.parent.mkdir(parents=True)
    shutil.copy(REPLAY, copy)
    shutil.copy(TESTS / "conftest.py", copy.parents[1])
    folder = pytester.mkdir("cassettes")
    for path in CASSETTES:
        if provenance(path) != "emulator":
            shutil.copy(path, folder)
    plugins = ("-p", "flux_openai.testing", "-p", "no:cacheprovider", "-W", "error", "--import-mode=importlib")
    pytester.runpytest_inprocess(*plugins, "--flux-record=emulator").assert_outcomes(passed=19, skipped=25)
    recorded = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert recorded == {path.name: path.read_bytes() for path in CASSETTES}


def provenance(path: Path) -> str:
    """What a cassette says of where it comes from."""
    return str(yaml.safe_load(path.read_bytes())["provenance"])


def test_the_documented_examples_are_marked_as_such() -> None:
    """What the document shows and what the emulator says are told apart."""
    documented = {path.name for path in CASSETTES if provenance(path) == "documented example"}
    assert documented == {"documented_success.yaml", "documented_error_400.yaml", "documented_error_200.yaml"}


KEY = "sk-CANARY-4711"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(2000)
SIGNED = "https://img.example.com/1.png?Expires=1750667997&Signature=0f3a"


def put_body(tape: dict[str, Any], body: str | bytes) -> None:
    tape["interactions"][0]["response"]["body"]["string"] = body


def put_header(tape: dict[str, Any], name: str, value: str) -> None:
    tape["interactions"][0]["response"]["headers"][name] = [value]


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


PLANTED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no provenance": ("does not say", lambda tape: tape.pop("provenance")),
    "unknown provenance": ("does not say", lambda tape: tape.update(provenance="hearsay")),
    "no model": ("no model", lambda tape: tape.pop("model")),
    "nothing recorded": ("no interactions", lambda tape: tape.update(interactions=[])),
    "large": ("larger than 65536", lambda tape: put_body(tape, "words " * 12_000)),
    "key": ("secret", lambda tape: put_body(tape, f"the key {KEY} is wrong")),
    "bearer": ("secret", lambda tape: put_body(tape, "you sent Bearer 0123456789abcdef")),
    "key in base64": ("secret", lambda tape: put_body(tape, packed(f"{{'k': '{KEY}'}}".encode()))),
    "key in gzip": ("secret", lambda tape: put_body(tape, gzip.compress(KEY.encode()))),
    "key in gzip in base64 in JSON": (
        "secret",
        lambda tape: put_body(tape, json.dumps({"data": [{"x": packed(gzip.compress(KEY.encode()))}]})),
    ),
    "key under another name": ("secret", lambda tape: put_body(tape, '{"x": "\\u0073k-CANARY-4711"}')),
    "authorization": ("not needed", lambda tape: put_header(tape, "Authorization", "redacted")),
    "cookie": ("not needed", lambda tape: put_header(tape, "Set-Cookie", "session=1")),
    "organisation": ("not needed", lambda tape: put_header(tape, "openai-organization", "acme")),
    "date": ("not needed", lambda tape: put_header(tape, "date", "Sun, 22 Nov 2026 12:00:00 GMT")),
    "key in a header": ("secret", lambda tape: put_header(tape, "x-request-id", KEY)),
    "signed link": ("signed link", lambda tape: put_body(tape, json.dumps({"url": SIGNED}))),
    "signed link, escaped": (
        "signed link",
        lambda tape: put_body(tape, json.dumps({"url": SIGNED}).replace("/", r"\/").replace("&", r"\u0026")),
    ),
    "signed link, asked for": ("signed link", lambda tape: tape["interactions"][0]["request"].update(uri=SIGNED)),
    "signed redirect": ("signed link", lambda tape: put_header(tape, "location", SIGNED)),
    "signature without a name": ("signed link", lambda tape: put_body(tape, "https://img.example.com/1.png?0f3a")),
    "password": ("signed link", lambda tape: put_body(tape, "https://me:pw@img.example.com/1.png")),
    "image": ("more than 1024", lambda tape: put_body(tape, PNG)),
    "image in base64": ("more than 1024", lambda tape: put_body(tape, json.dumps({"b64_json": packed(PNG)}))),
    "image in gzip": ("more than 1024", lambda tape: put_body(tape, gzip.compress(PNG))),
    "unknown file": ("more than 1024", lambda tape: put_body(tape, b"\xfe" * 2000)),
}


@pytest.mark.parametrize(("rule", "plant"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(rule: str, plant: Callable[[dict[str, Any]], object], tmp_path: Path) -> None:
    """A rule that nothing breaks proves nothing: each is broken here once."""
    tape = yaml.safe_load(next(path for path in CASSETTES if path.name == "url.yaml").read_bytes())
    plant(tape)
    path = tmp_path / "planted.yaml"
    path.write_text(yaml.safe_dump(tape), encoding="utf-8")
    assert any(rule in violation for violation in violations(path))


def test_a_cassette_that_makes_objects_is_refused(tmp_path: Path) -> None:
    """A YAML tag that would run code on loading is a fault by itself."""
    path = tmp_path / "planted.yaml"
    path.write_text("provenance: !!python/object/apply:os.getcwd []\n", encoding="utf-8")
    assert violations(path) == ["is not plain YAML"]
