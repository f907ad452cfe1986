"""The server at the level of bytes: framing, limits, bad requests, broken connections, and how it ends."""

import contextlib
import http.client
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flux_openai import Emulator, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply, Server
from flux_openai.emulator.transport.server import MAX_BODY, MAX_HEAD
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL

ORDER = json.dumps({"model": DEFAULT_MODEL, "prompt": "a fox"}).encode()
POST = b"POST /v1/images/generations HTTP/1.1\r\nhost: elsewhere.example\r\nauthorization: Bearer k\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nhost: elsewhere.example\r\nauthorization: Bearer k\r\n"
CLOSE = b"connection: close\r\n"


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(pixels=64)


@pytest.fixture
def server(emulator: Emulator) -> Iterator[Server]:
    with emulator.serve() as server:
        yield server


def dial(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


@pytest.fixture
def talk(server: Server) -> Callable[..., bytes]:
    """Send bytes on a connection of their own, and return all until the server closes it."""

    def talk(*parts: bytes) -> bytes:
        with dial(server) as connection:
            for part in parts:
                connection.sendall(part)
            heard = b""
            while piece := connection.recv(65536):
                heard += piece
            return heard

    return talk


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_one_connection_takes_many_requests(talk: Callable[..., bytes], emulator: Emulator) -> None:
    """A connection stays open between requests, also when several are sent at once."""
    heard = talk(GET + b"\r\n" + GET + b"\r\n", GET + CLOSE + b"\r\n")
    assert heard.count(b"HTTP/1.1 200 OK\r\n") == heard.count(b'{"object": "list"') == len(emulator.requests) == 3


def test_an_upgrade_is_ignored(talk: Callable[..., bytes], emulator: Emulator) -> None:
    """A client that offers another protocol gets its answer in this one, and may go on."""
    answers = talk(GET + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n", GET + CLOSE + b"\r\n")
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == len(emulator.requests) == 2


def test_a_body_may_come_in_chunks(talk: Callable[..., bytes], emulator: Emulator) -> None:
    """Chunks of any size, with extensions and trailers, make one body."""
    chunks = b"".join(b"%x;note=1\r\n%s\r\n" % (1, ORDER[at : at + 1]) for at in range(len(ORDER)))
    answer = talk(POST + CLOSE + b"transfer-encoding: chunked\r\n\r\n", chunks, b"0\r\nlast: 1\r\n\r\n")
    assert status_of(answer) == 200
    assert emulator.requests[0].body == json.loads(ORDER)


@pytest.mark.parametrize("value", [b" " * 60_000 + b"\0", b"x" + b" \t" * 30_000 + b"x", b" " * 255])
def test_blanks_do_not_stall_the_server(talk: Callable[..., bytes], value: bytes) -> None:
    """A long run of blanks, over which the parser would take a minute, is refused; a shorter one is no harm."""
    answer = talk(GET + CLOSE + b"a:" + value + b"\r\n\r\n")
    assert status_of(answer) == (200 if len(value) < 256 else 400)


def test_a_trailer_without_end_is_refused(talk: Callable[..., bytes], emulator: Emulator) -> None:
    """The bytes after it are not taken for the next request."""
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(ORDER), ORDER)
    answer = talk(POST + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"a" * 2 * MAX_HEAD)
    assert status_of(answer) == 431
    assert emulator.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_without_file_descriptors_accepting_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no file can be opened any more, connected clients are still answered, and the server does not spin."""
    import resource  # noqa: PLC0415  # not on Windows

    looks = threading.Semaphore(0)
    accept = Server._accept

    def look(server: Server) -> None:
        looks.release()
        accept(server)

    monkeypatch.setattr(Server, "_accept", look)
    monkeypatch.setattr("flux_openai.emulator.transport.server._PAUSE", 3600)
    emulator = Emulator(pixels=64)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(emulator.serve())
        first = stack.enter_context(dial(server))
        assert looks.acquire(timeout=30)
        first.sendall(GET + b"\r\n")
        assert first.recv(12) == b"HTTP/1.1 200"
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        # The lowest that is free is left for the next client, and none for the server.
        lowest = os.dup(first.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        second = stack.enter_context(dial(server))
        assert looks.acquire(timeout=30)
        for _ in range(3):
            first.sendall(GET + b"\r\n")
            assert first.recv(65536)
        assert not looks.acquire(blocking=False)
        second.close()


def test_100_continue_is_answered(server: Server) -> None:
    """A client that waits before it sends its body, as curl does with a large one, is told to go on."""
    with dial(server) as connection:
        connection.sendall(POST + CLOSE + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(ORDER))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(ORDER)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_head_has_the_headers_alone(talk: Callable[..., bytes]) -> None:
    """HEAD gets the head of the 405 that any other wrong method gets, without the body."""
    head = talk(b"HEAD /v1/models HTTP/1.1\r\nhost: here\r\n" + CLOSE + b"\r\n")
    whole = talk(b"PUTS /v1/models HTTP/1.1\r\nhost: here\r\n" + CLOSE + b"\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert head.replace(b"emu-000001", b"emu-000002") == whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert status_of(head) == 405


@pytest.mark.parametrize("target", [b"/v1/images/generations", b"http://evil.example/v1/images/generations"])
def test_links_lead_back_to_the_server(talk: Callable[..., bytes], server: Server, target: bytes) -> None:
    """Neither a Host header nor a target with another host can make a link point elsewhere."""
    asked = POST.replace(b"/v1/images/generations", target)
    answer = talk(asked + CLOSE + b"content-length: %d\r\n\r\n" % len(ORDER), ORDER)
    [image] = json.loads(answer.partition(b"\r\n\r\n")[2])["data"]
    assert image["url"].startswith(f"http://127.0.0.1:{server.port}/files/")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_links_are_on_the_host_that_was_asked(server: Server, name: str, tmp_path: Path) -> None:
    """A client whose base_url has the other name of this machine can open them."""
    base_url = server.base_url.replace("127.0.0.1", name)
    with FluxOpenAI(api_key="k", base_url=base_url) as client:
        [image] = client.images.generate(prompt="a fox").data
        assert image.url is not None
        assert image.url.startswith(f"http://{name}:{server.port}/files/")
        assert image.save(tmp_path).exists()


def test_http_1_0_is_answered_and_closed(talk: Callable[..., bytes]) -> None:
    """After an answer to HTTP/1.0 the connection ends, which such a client waits for."""
    assert status_of(talk(GET.replace(b"1.1", b"1.0") + b"\r\n")) == 200


HOST = b"host: here\r\n"
REFUSED: tuple[tuple[bytes, int], ...] = (
    (b"\x16\x03\x01\x02\x00", 400),  # TLS
    (b"GET\r\n\r\n", 400),
    (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET /v1/models HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    (b"GET /" + b"x" * (MAX_HEAD - 22) + b" HTTP/1.1\r\nhost:h\r\n\r\n", 400),  # too long for a URL
    (b"GET v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (GET + b"no colon\r\n\r\n", 400),
    (GET + b"name : value\r\n\r\n", 400),
    (GET + b"name: a\0b\r\n\r\n", 400),
    (GET + b"name: a\rb\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\n", 505),
    (GET + b"content-length: x\r\n\r\n", 400),
    (GET + b"content-length: -1\r\n\r\n", 400),
    (GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    (GET + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    (GET + b"transfer-encoding: gzip\r\n\r\n", 501),
    (GET + b"transfer-encoding: gzip, chunked\r\n\r\n", 501),
    (GET + b"transfer-encoding: chunked\r\n\r\nx\r\n", 400),
    (GET + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n", 400),
    (GET + b"transfer-encoding: chunked\r\n\r\n" + b"1" * (MAX_HEAD + 9), 431),
    (GET + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY + 1), 413),
    (GET + b"name: " + b"x" * (MAX_HEAD + 1), 431),
    (GET + b"name: " + b"x" * (MAX_HEAD + 1) + b"\r\n\r\n", 431),
    (b"GET /" + b"x" * (MAX_HEAD + 1), 431),
)


@pytest.mark.parametrize(("asked", "status"), REFUSED)
def test_bytes_that_are_no_request_are_refused(server: Server, emulator: Emulator, asked: bytes, status: int) -> None:
    """The client gets the documented error and an end of the connection, and the emulator sees nothing of it."""
    with dial(server) as connection:
        connection.sendall(asked)
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read()
        assert (response.status, response.getheader("connection")) == (status, "close")
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert b"Bearer" not in body
        assert connection.recv(1) == b""
        response.close()
    assert emulator.requests == []


def test_a_refusal_does_not_repeat_the_line(talk: Callable[..., bytes]) -> None:
    """The error for an invalid header does not quote it, since it may hold the key."""
    answer = talk(b"GET /v1/models HTTP/1.1\r\nauthorization : Bearer sk-planted\r\n\r\n")
    assert b"(illegal header line)" in answer
    assert b"planted" not in answer


def test_a_body_in_chunks_has_the_same_limit(
    talk: Callable[..., bytes], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that does not announce its length is refused as soon as it is too long."""
    monkeypatch.setattr("flux_openai.emulator.transport.server.MAX_BODY", 100)
    chunked = POST + CLOSE + b"transfer-encoding: chunked\r\n\r\n"
    assert status_of(talk(chunked + b"64\r\n" + b" " * 100 + b"\r\n0\r\n\r\n")) == 400
    assert status_of(talk(chunked + b"64\r\n" + b" " * 100 + b"\r\n1\r\n \r\n")) == 413
    assert len(emulator.requests) == 1


def test_clients_that_leave_half_way_do_no_harm(server: Server, emulator: Emulator) -> None:
    """Connections that end in the head, in the body or by a reset leave the server as it was."""
    for part in (b"", b"GET", POST + b"content-length: 9\r\n\r\n{", POST + b"transfer-encoding: chunked\r\n\r\n9\r\n{"):
        with dial(server) as connection:
            connection.sendall(part)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with dial(server) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert len(emulator.requests) == 1


def test_connections_do_not_wait_for_each_other(server: Server, emulator: Emulator) -> None:
    """While one client gets no answer and another is half way through its request, a third is served."""
    emulator.fail(error="timeout")
    with dial(server) as silent, dial(server) as slow, dial(server) as third:
        silent.sendall(POST + b"content-length: 0\r\n\r\n")
        slow.sendall(GET)
        third.sendall(GET + b"\r\n")
        assert third.recv(12) == b"HTTP/1.1 200"
        slow.sendall(b"\r\n")
        assert slow.recv(12) == b"HTTP/1.1 200"


def test_half_of_a_truncated_body_arrives(talk: Callable[..., bytes], emulator: Emulator) -> None:
    """The length is that of the whole, and the connection ends in the middle."""
    emulator.fail(error="truncate")
    head, _, body = talk(POST + b"content-length: %d\r\n\r\n" % len(ORDER), ORDER).partition(b"\r\n\r\n")
    [length] = [int(line.split()[1]) for line in head.splitlines() if line.startswith(b"content-length")]
    assert len(body) == length // 2


@pytest.mark.parametrize("error", ["connect", "reset"])
def test_a_reset_is_a_reset(talk: Callable[..., bytes], emulator: Emulator, error: str) -> None:
    """The connection does not just end: the client's system is told that it was reset."""
    emulator.fail(error=error)  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        talk(POST + b"content-length: %d\r\n\r\n" % len(ORDER), ORDER)
    assert emulator.bill.images == (error == "reset")


def test_closing_ends_everything(emulator: Emulator) -> None:
    """Open connections end, also those that wait for a late answer; no thread and no port is left."""
    late = threading.Semaphore(0)

    def answer(request: object) -> Reply:
        late.release()
        return Reply(status=200, delay=3600)

    before = set(threading.enumerate())
    emulator.fail(error="timeout")
    with emulator.serve() as server, Server(answer) as slow:
        idle, silent, waiting = dial(server), dial(server), dial(slow)
        silent.sendall(POST + b"content-length: 0\r\n\r\n")
        waiting.sendall(GET + b"\r\n")
        assert late.acquire(timeout=30)
    for connection in (idle, silent, waiting):
        with connection, contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        dial(server)
    server.close()


def test_a_short_answer_is_one_packet(server: Server) -> None:
    """Head and body arrive together: a body behind its head may wait for an acknowledgement."""
    with dial(server) as connection:
        for _ in range(3):
            connection.sendall(GET + b"\r\n")
            head, _, body = connection.recv(1 << 20).partition(b"\r\n\r\n")
            [length] = [int(line.split()[1]) for line in head.splitlines() if line.startswith(b"content-length")]
            assert len(body) == length > 0


def test_a_body_drips_and_hints_come_before_it() -> None:
    """Interim answers come first, the length is that of the whole, and the pieces make up the body."""
    body = bytes(range(250))
    with (
        Server(lambda request: Reply(status=200, body=body, drip=0.05, hints=2)) as server,
        dial(server) as connection,
    ):
        connection.sendall(GET + CLOSE + b"\r\n")
        came = connection.makefile("rb").read()
    assert came.count(b"HTTP/1.1 103 ") == 2
    assert came.partition(b"HTTP/1.1 200 ")[2].endswith(b"content-length: 250\r\nconnection: close\r\n\r\n" + body)


def test_a_delay_comes_before_the_first_byte() -> None:
    """A delayed answer arrives."""
    with Server(lambda request: Reply(status=200, body=b"late", delay=0.01)) as server, dial(server) as connection:
        connection.sendall(GET + CLOSE + b"\r\n")
        assert connection.makefile("rb").read().endswith(b"\r\n\r\nlate")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.com", "", "127.1"])  # noqa: S104
def test_only_this_machine_can_reach_it(emulator: Emulator, host: str) -> None:
    """A host that others could reach is refused before anything listens."""
    with pytest.raises(ConfigurationError, match=r"host=.*must be an address of this machine alone"):
        emulator.serve(host)


@pytest.mark.parametrize("port", [-1, 65_536, True, "8399"])
def test_impossible_ports_are_refused(emulator: Emulator, port: int) -> None:
    """The error names the parameter and its range."""
    with pytest.raises(ConfigurationError, match=r"port=.*must be an int from 0 to 65535"):
        emulator.serve(port=port)


def test_a_port_in_use_is_refused(emulator: Emulator, server: Server) -> None:
    """Two servers cannot have one port, and the error of the second names it."""
    with pytest.raises(ConfigurationError, match=f"port={server.port}: cannot be listened on: address already in use"):
        emulator.serve("localhost", server.port)


def test_ipv6_can_be_served(emulator: Emulator) -> None:
    """The other loopback address works too; on a machine without IPv6 the error says so."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        with pytest.raises(ConfigurationError, match="cannot be listened on"):
            emulator.serve("::1")
    else:
        with emulator.serve("::1") as server:
            assert server.base_url == f"http://[::1]:{server.port}/v1"


def received_by_server(*parts: bytes) -> httpx.Request:
    """The one request that a server makes of these bytes."""
    received: list[httpx.Request] = []

    def answer(request: httpx.Request) -> Reply:
        received.append(request)
        return Reply(status=200)

    with Server(answer) as server, dial(server) as connection:
        for part in parts:
            connection.sendall(part)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200 OK")
    [request] = received
    return request


def test_a_request_arrives_as_it_was_sent() -> None:
    """Method, target, headers and body are those of the client; the space around a value does not count."""
    request = received_by_server(
        b"PUT /a?b HTTP/1.1\r\nHost: here\r\nConnection:keep-alive, Close \r\nContent-Length: 7\r\nX: \xe9\r\n\r\n",
        b"content",
    )
    assert (request.method, request.url.raw_path, request.read()) == ("PUT", b"/a?b", b"content")
    assert request.headers.raw == [
        (b"host", b"here"),
        (b"connection", b"keep-alive, Close"),
        (b"content-length", b"7"),
        (b"x", b"\xe9"),
    ]


def test_a_folded_header_is_one_header() -> None:
    """A line that begins with a blank goes on with the value before it, as RFC 9112 allows a server to read it."""
    assert received_by_server(GET + CLOSE + b"name: a\r\n b: c\r\n\r\n").headers["name"] == "a b: c"


def test_a_header_stays_one_header() -> None:
    """Line breaks in a value start no header, and the length of the body is up to the server."""
    headers = {"x-note": "a\r\nb: c", "content-length": "9", "transfer-encoding": "chunked"}
    reply = Reply(status=299, headers=headers, body=b"yes")
    with Server(lambda request: reply) as server, dial(server) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(1 << 16) == b"HTTP/1.1 299 \r\nx-note: a  b: c\r\ncontent-length: 3\r\n\r\nyes"


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    """A client reads no body after these: it would take one for the next answer."""
    with Server(lambda request: Reply(status=status, body=b"no")) as server, dial(server) as connection:
        connection.sendall(GET + CLOSE + b"\r\n")
        came = connection.makefile("rb").read()
    assert came.endswith(b"\r\n\r\n")
    assert b"content-length" not in came
