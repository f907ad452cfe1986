"""Two fake services: one on a raw socket, and one behind MockTransport; conftest.py says which is for what."""

import contextlib
import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flux_openai._http.library import httpx

CERTIFICATES = Path(__file__).parent / "certificates"

Answer = tuple[int, Mapping[str, str], object]
"""A well-formed answer: status, headers, body. The connection stays open."""

Step = Answer | bytes | Callable[["Connection"], object]
"""What happens to one request: an answer; bytes as they are, then the end; or whatever a function does."""

JSON = {"Content-Type": "application/json", "X-Request-Id": "req-header"}
IMAGE = {"url": "https://images.example/1.png"}
BODY = {"created": 1, "data": [IMAGE]}
OK: Answer = (200, JSON, BODY)
BUSY: Answer = (429, JSON, {"error": {"message": "slow down", "code": "rate_limited"}})


@dataclass(frozen=True, kw_only=True)
class Request:
    """One whole request, as the server got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  # whatever was sent
        """The body, read as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection, as a step of the script sees it."""

    def __init__(self, server: "FakeServer", socket: socket.socket) -> None:
        self.server = server
        self.socket = socket

    def read(self) -> None:
        """Read one whole request, which the server then lists; one that breaks off is not listed."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._piece()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        parts, missing = [body], int(headers.get("content-length", 0)) - len(body)
        while missing > 0:
            parts.append(self._piece())
            missing -= len(parts[-1])
        method, path, _ = first.split(" ")
        self.server.requests.append(Request(method=method, path=path, headers=headers, body=b"".join(parts)))

    def _piece(self) -> bytes:
        piece = self.socket.recv(1 << 20)
        if not piece:
            raise ConnectionResetError
        return piece

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def hang(self) -> None:
        """Neither read nor send any more until the test is over."""
        self.server.closing.wait(60)

    def drip(self, data: bytes, seconds: float) -> None:
        """Send one byte at a time, with a pause after each."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.closing.wait(seconds):
                return

    def has_request(self) -> bool:
        """Wait until another request begins; False when the connection ends instead."""
        select.select([self.socket], [], [])
        return isinstance(self.socket, ssl.SSLSocket) or self.socket.recv(1, socket.MSG_PEEK) != b""


def close(_: Connection) -> None:
    """End the connection without reading the request."""


def reset(connection: Connection) -> None:
    """Reset the connection without reading the request."""
    connection.reset()


def hang(connection: Connection) -> None:
    """Neither read the request nor answer."""
    connection.hang()


def read_and_close(connection: Connection) -> None:
    """Read the whole request and end the connection."""
    connection.read()


def read_and_reset(connection: Connection) -> None:
    """Read the whole request and reset the connection."""
    connection.read()
    connection.reset()


def read_and_hang(connection: Connection) -> None:
    """Read the whole request and never answer."""
    connection.read()
    connection.hang()


def head(status: str = "200 OK", **headers: object) -> bytes:
    """The head of an answer, with its headers as they are given."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\nX-Request-Id: req-header\r\n{lines}\r\n".encode()


def answer_bytes(answer: Answer) -> bytes:
    """The bytes of a well-formed answer; a body that is neither bytes nor text becomes JSON."""
    status, headers, body = answer
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    fields = {"Content-Length": str(len(content)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content


class FakeServer:
    """Plays the steps of its script, one for each request and the last one for ever; lists every whole request."""

    def __init__(self, *script: Step, certificate: str | None = None) -> None:
        self.script = list(script)
        self.requests: list[Request] = []
        self.connections = 0
        self.ended = threading.Semaphore(0)
        self.closing = threading.Event()
        self._steps = 0
        self._lock = threading.Lock()
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(CERTIFICATES / certificate)
        self._listener = socket.socket()
        # A small window, so that a large upload cannot hide in it; connections inherit it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address = self._listener.getsockname()
        self.sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.address[1]}"

    @property
    def base_url(self) -> str:
        """The base URL for a client."""
        return f"{self.origin}/v1"

    @property
    def posts(self) -> list[Request]:
        """The whole POSTs that came."""
        return [request for request in self.requests if request.method == "POST"]

    @property
    def keys(self) -> list[str]:
        """The Idempotency-Key of each whole POST."""
        return [post.headers["idempotency-key"] for post in self.posts]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.closing.is_set():
                connection.close()
                return
            self.connections += 1
            self.sockets.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(raw, server_side=True)
                self.sockets.append(connection)
            self._play(Connection(self, connection))
        except OSError:
            pass  # the client hung up, or the test is over
        finally:
            connection.close()
            raw.close()
            self.ended.release()

    def _play(self, connection: Connection) -> None:
        while connection.has_request():
            with self._lock:
                step = self.script[min(self._steps, len(self.script) - 1)]
                self._steps += 1
            if callable(step):
                step(connection)
                return
            connection.read()
            connection.send(step if isinstance(step, bytes) else answer_bytes(step))
            if isinstance(step, bytes) or self._tls is not None:
                return

    def stop(self) -> Self:
        """End all connections and wait for all threads: from here on `requests` is complete."""
        if not self.closing.is_set():
            self.closing.set()
            # The last in the queue: all connections that were made before it are served first.
            with socket.create_connection(self.address):
                self._threads[0].join(10)
            for connection in self.sockets:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(10)
            self._listener.close()
        return self


class Answers:
    """A handler for MockTransport: gives its answers in turn and the last one for ever, and lists the requests."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = answers
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer
        if isinstance(body, bytes):
            return httpx.Response(status, headers=headers, content=body)
        return httpx.Response(status, headers=headers, json=body)


def through(handler: Callable[[httpx.Request], httpx.Response]) -> dict[str, Any]:
    """The `http` options of a client whose requests end in this handler."""
    return {"transport": httpx.MockTransport(handler)}
