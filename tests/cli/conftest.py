import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from flux_openai import Emulator

Document = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the service says to one POST; `status=0` hangs up instead, and `first` happens before either."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    first: Callable[[], object] | None = None


@dataclass(kw_only=True)
class Service:
    """A service on a loopback socket that says what it is told to, in that order, and remembers every POST."""

    picture: str
    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    bodies: list[Document] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def posts(self) -> int:
        return len(self.bodies)

    def draws(self, count: int | None = None, *, first: Callable[[], object] | None = None) -> None:
        """Answer with so many images, or with as many as are asked for."""

        def answer(body: Document) -> Document:
            images = body.get("n", 1) if count is None else count
            assert isinstance(images, int)
            return {"created": 1_750_667_997, "data": [{"b64_json": self.picture}] * images}

        self.says(200, answer, first=first)

    def refuses(self, status: int, *, code: object = "some_code", message: str = "no", **headers: str) -> None:
        """Answer with the documented error."""
        self.says(status, {"error": {"message": message, "type": "t", "param": "req-1", "code": code}}, headers)

    def hangs_up(self, *, first: Callable[[], object] | None = None) -> None:
        """Read the request and say nothing."""
        self.says(0, first=first)

    def says(
        self,
        status: int,
        body: object = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        first: Callable[[], object] | None = None,
    ) -> None:
        """Answer with this."""
        self.answers.append(Answer(status=status, body=body, headers=headers, first=first))


@pytest.fixture
def key() -> str:
    """A key that must not be seen anywhere."""
    return "sk-planted-0123456789abcdef"


@pytest.fixture(scope="session")
def picture() -> str:
    """A small PNG as base64."""
    answer = Emulator(pixels=64).client().images.generate(prompt="x", response_format="b64_json")
    return answer.data[0].b64_json or ""


@pytest.fixture
def service(picture: str) -> Iterator[Service]:
    told = Service(picture=picture)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            told.keys.append(self.headers.get("authorization"))
            asked = json.loads(self.rfile.read(length))
            told.bodies.append(asked)
            answer = told.answers.pop(0)
            if answer.first is not None:
                answer.first()
            if answer.status:
                self.reply(answer, asked)

        def reply(self, answer: Answer, asked: Document) -> None:
            value = answer.body(asked) if callable(answer.body) else answer.body
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(answer.status)
            for name, value in {"content-length": str(len(body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        server.shutdown()
        thread.join()


@dataclass(frozen=True, kw_only=True)
class Done:
    """How one run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Document:
        document: Document = json.loads(self.out)
        return document


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no proxy and no terminal of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith(("MODELVERSE_", "OPENAI_"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the program in this process."""
    main = pytest.importorskip("flux_openai.cli.app", reason="needs the extra").run

    def run(*args: str) -> Done:
        capsys.readouterr()
        code = main(list(args))
        return Done(code=code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture
def ask(
    cli: Callable[..., Done], service: Service, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run a command in this process against the loopback service, with a key and without waits."""
    monkeypatch.setenv("MODELVERSE_API_KEY", key)

    def run(*args: str, prompt: str = "a red fox", command: str = "generate") -> Done:
        fixed = ["--base-url", service.url, "--max-wait", "0", "-o", str(tmp_path / "out")]
        return cli(command, prompt, *fixed, *args)

    return run


@pytest.fixture
def lose_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Put a file where the folder for images is; what is kept elsewhere then stays in the folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def lose() -> None:
        (tmp_path / "out").rmdir()
        (tmp_path / "out").write_text("in the way")

    return lose


@pytest.fixture
def program() -> Callable[..., Done]:
    """Run the program in a process of its own, for what only a process shows: its start, its streams and its end."""

    def run(*args: str, python: tuple[str, ...] = ("-m", "flux_openai")) -> Done:
        done = subprocess.run([sys.executable, *python, *args], capture_output=True, text=True, timeout=60, check=False)
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    return run
