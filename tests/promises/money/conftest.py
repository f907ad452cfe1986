"""A server on a raw socket that misbehaves as told, and one face for the sync and the async client before it."""

import contextlib
import inspect
import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, FluxImagesResponse, FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.errors import FluxError
from flux_openai.retry import RetryEvent

CERTIFICATES = Path(__file__).parent / "certificates"
KEY = "sk-flux-test-KEY-0f3a"

Side = Literal["sync", "async"]
Answer = tuple[int, Mapping[str, str], object]
"""A well-formed answer: status, headers, body. The connection stays open."""

Act = Answer | bytes | Callable[["Wire"], object]
"""What happens to one request: an answer; bytes that are sent as they are, and the end; or what a function does."""


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


class Wire:
    """One connection, as an act sees it."""

    def __init__(self, server: "Server", connection: socket.socket) -> None:
        self.server = server
        self.connection = connection

    def read(self) -> None:
        """Take one whole request and let the server remember it; one that breaks off is not remembered."""
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
        piece = self.connection.recv(1 << 20)
        if not piece:
            raise ConnectionResetError
        return piece

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def freeze(self) -> None:
        """Neither read nor send any more until the test is over."""
        self.server.closing.wait(60)

    def drip(self, data: bytes, seconds: float) -> None:
        """Send one byte at a time, with a pause after each."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.closing.wait(seconds):
                return

    def waits_to_be_read(self) -> bool:
        """Whether another request begins; False when the connection ends."""
        select.select([self.connection], [], [])
        return isinstance(self.connection, ssl.SSLSocket) or self.connection.recv(1, socket.MSG_PEEK) != b""


def rendered(answer: Answer) -> bytes:
    """The bytes of a well-formed answer; a body that is no bytes and no text becomes JSON."""
    status, headers, body = answer
    content = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    fields = {"Content-Length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + content


class Server:
    """Plays its acts in turn, one for each request, the last one for ever; keeps every whole request."""

    def __init__(self, *script: Act, certificate: str | None = None) -> None:
        self.script = list(script)
        self.requests: list[Request] = []
        self.connections = 0
        self.ended = threading.Semaphore(0)
        self.closing = threading.Event()
        self._acts = 0
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
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.address[1]}"

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"{self.origin}/v1"

    @property
    def posts(self) -> list[Request]:
        """The whole POSTs that came."""
        return [request for request in self.requests if request.method == "POST"]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.closing.is_set():
                connection.close()
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, raw: socket.socket) -> None:
        connection = raw
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(raw, server_side=True)
                self._open.append(connection)
            self._talk(Wire(self, connection))
        except OSError:
            pass  # the other side hung up, or the test is over
        finally:
            connection.close()
            raw.close()
            self.ended.release()

    def _talk(self, wire: Wire) -> None:
        while wire.waits_to_be_read():
            with self._lock:
                act = self.script[min(self._acts, len(self.script) - 1)]
                self._acts += 1
            if callable(act):
                act(wire)
                return
            wire.read()
            wire.send(act if isinstance(act, bytes) else rendered(act))
            if isinstance(act, bytes) or self._tls is not None:
                return

    def stop(self) -> Self:
        """End all connections and wait for all threads: from here on `requests` is complete."""
        if not self.closing.is_set():
            self.closing.set()
            # The last in the queue: all connections that were made before it are served first.
            with socket.create_connection(self.address):
                self._threads[0].join(10)
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join(10)
            self._listener.close()
        return self


MakeServer = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    """Start a server with a script; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*script: Act, certificate: str | None = None) -> Server:
            server = Server(*script, certificate=certificate)
            stack.callback(server.stop)
            return server

        yield start


class Caller:
    """A client of either kind behind one async face. It keeps what `on_retry` was told."""

    def __init__(self, client: FluxOpenAI | AsyncFluxOpenAI, events: list[RetryEvent]) -> None:
        self.client = client
        self.events = events

    @property
    def images(self) -> Any:  # noqa: ANN401  # of either kind
        """The images resource of the client."""
        return self.client.images

    async def generate(self, prompt: str = "a red fox", **options: object) -> FluxImagesResponse:
        """One call."""
        return cast("FluxImagesResponse", await done(self.images.generate(prompt=prompt, **options)))

    async def fails(self, prompt: str = "a red fox", **options: object) -> FluxError:
        """One call that must end with an error, which must be one of ours."""
        with pytest.raises(openai.OpenAIError) as caught:
            await self.generate(prompt, **options)
        assert isinstance(caught.value, FluxError)
        return caught.value

    def with_options(self, **options: Any) -> "Caller":  # noqa: ANN401  # whatever with_options takes
        """The same over a copy of the client."""
        return Caller(self.client.with_options(**options), self.events)


async def done(result: Any) -> Any:  # noqa: ANN401  # whatever a method of either client gives back
    """The result of a method of the sync or the async client."""
    return await result if inspect.isawaitable(result) else result


OpenClient = Callable[..., Caller]


@pytest.fixture(params=["sync", "async"])
def side(request: pytest.FixtureRequest) -> Side:
    """Every test that makes a client runs with both kinds."""
    return cast("Side", request.param)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine stands between a client and the loopback interface."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    """The test authority is trusted; made once, since reading certificates takes most of the time of a client."""
    return ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))


@pytest.fixture
async def open_client(anyio_backend: str, side: Side, trust: ssl.SSLContext) -> AsyncIterator[OpenClient]:
    """Make a client of this test's kind.

    `http` are options of its HTTP client, `retry` are options of its RetryPolicy, which never waits unless told to.
    """
    async with contextlib.AsyncExitStack() as stack:

        def start(
            base_url: str,
            *,
            http: Mapping[str, object] | None = None,
            retry: Mapping[str, object] | None = None,
            timeout: openai.Timeout | None = None,
            **options: Any,  # noqa: ANN401  # whatever the client takes
        ) -> Caller:
            events: list[RetryEvent] = []
            policy = RetryPolicy(**cast("Any", {"waiting": False, "on_retry": events.append, **(retry or {})}))
            settings = {"api_key": KEY, "base_url": base_url, "timeout": timeout or openai.Timeout(30), **options}
            network = cast("Any", {"verify": trust, **(http or {})})
            kind = httpx.HTTPTransport if side == "sync" else httpx.AsyncHTTPTransport
            if "socket_options" in network:
                network["transport"] = kind(verify=trust, socket_options=network.pop("socket_options"))
            client: FluxOpenAI | AsyncFluxOpenAI
            if side == "sync":
                client = FluxOpenAI(http_client=openai.DefaultHttpxClient(**network), retry=policy, **settings)
                stack.callback(client.close)
            else:
                anetwork = openai.DefaultAsyncHttpxClient(**network)
                client = AsyncFluxOpenAI(http_client=anetwork, retry=policy, **settings)
                stack.push_async_callback(client.close)
            return Caller(client, events)

        yield start
