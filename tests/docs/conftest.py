"""The emulator behind a loopback port, so that documents and examples run as they stand, clients and all."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from flux_openai import Emulator
from flux_openai.sdk import httpx


@dataclass(frozen=True, kw_only=True)
class Service:
    """An emulator and the base URL that reaches it."""

    emulator: Emulator
    base_url: str


def chat(asked: Mapping[str, Any]) -> httpx.Response:
    """A chat model that calls the first tool it is given, once, and then says what it was told."""
    last = asked["messages"][-1]
    if last["role"] == "tool":
        message = {"role": "assistant", "content": last["content"]}
    else:
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"prompt": "a red fox", "seed": 7}'}
        message = {"role": "assistant", "tool_calls": [{"id": "call", "type": "function", "function": function}]}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return httpx.Response(200, json={"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]})


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator as a service on this machine."""
    emulator = Emulator(pixels=256)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"http://{self.headers['host']}{self.path}"
            request = httpx.Request(self.command, url, headers=self.headers.items(), content=body)
            response = chat(json.loads(body)) if self.path.endswith("/completions") else emulator.handle(request)
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = _answer  # noqa: N815  # the names that http.server calls

        def log_message(self, *_: object) -> None:
            """Stay silent: what was asked stands in the emulator's journal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Service(emulator=emulator, base_url=f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    thread.join()
    server.server_close()
