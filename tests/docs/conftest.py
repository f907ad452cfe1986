"""The emulator behind a loopback port, so that documents and examples run as they stand, clients and all."""

from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from flux_openai import Emulator
from flux_openai.sdk import httpx


@dataclass(frozen=True, kw_only=True)
class Service:
    """An emulator and the base URL that reaches it."""

    emulator: Emulator
    base_url: str


@pytest.fixture
def service() -> Iterator[Service]:
    """The emulator as a service on this machine."""
    emulator = Emulator(pixels=256)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"http://{self.headers['host']}{self.path}"
            response = emulator.handle(httpx.Request(self.command, url, headers=self.headers.items(), content=body))
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
