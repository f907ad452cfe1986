"""The emulator behind a loopback port, so that documents and examples run as they stand, clients and all."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from flux_openai import Emulator
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply


def chat(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat model that calls the first tool it is given, once; otherwise it says what it was told."""
    last = asked["messages"][-1]
    if last["role"] == "tool" or "tools" not in asked:
        message = {"role": "assistant", "content": last["content"]}
    else:
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"prompt": "a red fox", "seed": 7}'}
        message = {"role": "assistant", "tool_calls": [{"id": "call", "type": "function", "function": function}]}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [choice]}


class EmulatorWithChat(Emulator):
    """The emulator, which also chats; `chats` are the requests about that."""

    def __init__(self, *, pixels: int) -> None:
        super().__init__(pixels=pixels)
        self.chats: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> Reply:
        if request.url.path.endswith("/completions"):
            self.chats.append(request)
            body = json.dumps(chat(json.loads(request.content))).encode()
            return Reply(status=200, headers={"content-type": "application/json"}, body=body)
        return super().answer(request)


@dataclass(frozen=True, kw_only=True)
class Service:
    """An emulator and the base URL that reaches it."""

    emulator: EmulatorWithChat
    base_url: str


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator as a service on this machine."""
    emulator = EmulatorWithChat(pixels=256)
    with emulator.serve() as server:
        yield Service(emulator=emulator, base_url=server.base_url)
