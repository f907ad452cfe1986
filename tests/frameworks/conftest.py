"""A chat service on this machine with the emulator beside it: what a framework sends is seen, and nothing else answers.

Not part of the usual run: each framework is installed by the tox environments that name its file.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply, Server
from flux_openai.emulator.api.responses import json_reply
from tests.promises.docs.conftest import EmulatorWithChat

KEY = "key-of-the-flux-service"
MODEL = "some-chat-model"

COMPLETION: Mapping[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a red fox"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}
RESPONSE: Mapping[str, Any] = {
    "id": "resp-1",
    "object": "response",
    "created_at": 1,
    "model": MODEL,
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "msg-1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "a red fox", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    },
}


def completion(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer in words or, where a tool is offered, the call of that tool."""
    if not body.get("tools"):
        return COMPLETION
    function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"animal": "fox", "colour": "red"}'}
    call = {"id": "call-1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {**COMPLETION, "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request, as the service saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChatService:
    """What was asked for chat, and the emulator that answers for images."""

    base_url: str = ""
    emulator: Emulator = field(default_factory=lambda: Emulator(api_key=KEY, pixels=64))
    seen: list[Seen] = field(default_factory=list)

    def reply(self, request: httpx.Request) -> Reply:
        """Chat in OpenAI's shape; all else is the emulator's."""
        route = request.url.path.removeprefix("/v1")
        if route not in ("/chat/completions", "/responses"):
            return self.emulator.answer(request)
        body = json.loads(request.content)
        self.seen.append(Seen(method=request.method, path=route, headers=dict(request.headers), body=body))
        return json_reply(RESPONSE if route == "/responses" else completion(body))

    def asked_once(self, path: str) -> Mapping[str, Any]:
        """The body of the one request there was, which was ours in every respect; it is then forgotten."""
        [seen] = self.seen
        self.seen.clear()
        assert (seen.method, seen.path, seen.body["model"]) == ("POST", path, MODEL)
        assert seen.headers["authorization"] == f"Bearer {KEY}"
        assert [name for name in seen.headers if name.startswith("openai-")] == []
        assert "foreign" not in repr(seen)
        return seen.body

    def drew_one(self, response: FluxImagesResponse) -> bool:
        """Whether an answer is the emulator's first and only image."""
        [request] = self.emulator.requests
        return request.body == response.sent and self.emulator.bill.images == len(response.data) == 1


@pytest.fixture
def guide(tmp_path: Path) -> Callable[[str], tuple[Emulator, str]]:
    """Run the block about a framework in examples/agents.md as it stands: the service that it used, and its output."""
    root = Path(__file__).parents[2]
    text = (root / "examples" / "agents.md").read_text(encoding="utf-8")

    def run(word: str) -> tuple[Emulator, str]:
        [block] = [block for block in re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if word in block]
        emulator = EmulatorWithChat(pixels=64)
        with emulator.serve() as server:
            variables = {"MODELVERSE_API_KEY": "k", "MODELVERSE_BASE_URL": server.base_url, "PYTHONPATH": str(root)}
            # In a process of its own: the frameworks leave their event loops and connections open.
            command = [sys.executable, "-c", block]
            done = subprocess.run(
                command, cwd=tmp_path, env={**variables, "no_proxy": "*"}, capture_output=True, text=True, check=False
            )
        assert done.returncode == 0, done.stderr
        return emulator, done.stdout

    return run


@pytest.fixture
def service() -> Iterator[ChatService]:
    """The service on a loopback port."""
    chat = ChatService()
    with Server(chat.reply) as server:
        yield replace(chat, base_url=server.base_url)


@pytest.fixture
def client(service: ChatService) -> Iterator[FluxOpenAI]:
    """Our client, as a user makes it, in front of the service."""
    with FluxOpenAI(api_key=KEY, base_url=service.base_url) as client:
        yield client


@pytest.fixture
async def aclient(service: ChatService) -> AsyncIterator[AsyncFluxOpenAI]:
    """The same for async code."""
    async with AsyncFluxOpenAI(api_key=KEY, base_url=service.base_url) as client:
        yield client


@pytest.fixture(autouse=True)
def foreign_environment(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another service's account is set up on the machine; no telemetry and no proxy is."""
    for name in [name for name in os.environ if name.startswith(("LANGCHAIN_", "LANGSMITH_", "LOGFIRE_", "OTEL_"))]:
        monkeypatch.delenv(name)
    for name in ("API_KEY", "ORG_ID", "ORGANIZATION", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "foreign")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-note: foreign")
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No framework reaches beyond this machine, not even from a thread of its own that swallows the refusal."""
    strangers: list[object] = []

    def guarded(real: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  # of several functions
            address = arguments[position]
            host = address[0] if isinstance(address, tuple) else address
            if isinstance(address, tuple | str) and host not in ("127.0.0.1", "::1", "localhost"):
                strangers.append(host)
                raise OSError(f"a test must not use the network, but something asks for {host!r}")
            return real(*arguments, **options)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name), 1))
    monkeypatch.setattr(socket, "getaddrinfo", guarded(socket.getaddrinfo, 0))
    yield
    assert strangers == []
