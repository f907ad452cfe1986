import ast
import functools
import gzip
import importlib.util
import inspect
import logging
import pickle
import re
import socket
import ssl
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI
from flux_openai._http import url_guard as links
from flux_openai._http.library import httpx
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.response import download as downloads
from flux_openai.response.download import afetch, fetch
from flux_openai.response.transfers import Body, Trip, expected_errors, meaning, unsafe

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 40
SIGNATURE = "SIGNATURE-0f3a"
KEY = "sk-KEY-77aa"

# The servers here speak plain HTTP; to load the certificates of the world for each client takes most of the time.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Reply = bytes | None


def reply(status: int = 200, body: bytes = PNG, **headers: str) -> bytes:
    """A whole answer; the length is right unless it is given."""
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\nConnection: close\r\n{head}\r\n".encode() + body


RESET: Reply = None
SILENT = b""


class Server:
    """A server on a raw socket: it plays its replies in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self) -> None:
        self.replies: list[Reply] = [reply()]
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.last: object = None
        self.threads = [threading.Thread(target=self.serve)]
        self.threads[0].start()

    def serve(self) -> None:
        """Take connections until the last one, which `close` makes."""
        while True:
            connection, address = self.listener.accept()
            if address == self.last:
                connection.close()
                return
            said = self.replies[min(len(self.threads), len(self.replies)) - 1]
            self.threads.append(threading.Thread(target=self.answer, args=(connection, said)))
            self.threads[-1].start()

    def answer(self, connection: socket.socket, said: Reply) -> None:
        """Read one request and play the reply."""
        with connection:
            request = b""
            while b"\r\n\r\n" not in request and (piece := connection.recv(65536)):
                request += piece
            self.requests.append(request)
            if said is None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif said == SILENT:
                connection.recv(1)
            else:
                try:
                    connection.sendall(said)
                except OSError:
                    return

    def close(self) -> None:
        """Stop, once every request that was sent has been read, also one that its client did not wait for."""
        if self.last is None:
            with socket.socket() as last:
                last.bind(("127.0.0.1", 0))
                self.last = last.getsockname()
                last.connect(self.listener.getsockname())
        for thread in self.threads:
            thread.join(5)
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that gives an image unless told otherwise."""
    running = Server()
    yield running
    running.close()


class Get(Protocol):
    """Fetch a path of the server over a client of our own: one test for both ways."""

    def __call__(
        self,
        path: str = "/image.png?sig=x",
        /,
        *,
        timeout: float = 30,
        wall: float = 120,
        limit: int = ...,
        waiting: bool = False,
        **client: object,
    ) -> bytes | DownloadError: ...


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest, server: Server) -> Get:
    """`fetch`, and `afetch` behind the same signature."""

    def options(limits: dict[str, object]) -> dict[str, object]:
        return {"own_origin": f"{server.origin}/v1/", "waiting": False, **limits}

    def get_sync(path: str = "/image.png?sig=x", /, **given: object) -> bytes | DownloadError:
        limits = {name: given.pop(name) for name in ("timeout", "wall", "limit", "waiting") if name in given}
        with httpx.Client(**{"verify": NO_TLS, **given}) as client:  # type: ignore[arg-type]
            return fetch(server.origin + path, own_client=client, **options(limits))  # type: ignore[arg-type]

    async def get_async(path: str, given: dict[str, object]) -> bytes | DownloadError:
        limits = {name: given.pop(name) for name in ("timeout", "wall", "limit", "waiting") if name in given}
        async with httpx.AsyncClient(**{"verify": NO_TLS, **given}) as client:  # type: ignore[arg-type]
            return await afetch(server.origin + path, own_client=client, **options(limits))  # type: ignore[arg-type]

    def run(path: str = "/image.png?sig=x", /, **given: object) -> bytes | DownloadError:
        return anyio.run(get_async, path, given)

    return get_sync if request.param == "sync" else run


def failed(outcome: bytes | DownloadError) -> DownloadError:
    """The error, where bytes would fail the test."""
    assert isinstance(outcome, DownloadError)
    return outcome


def test_an_image_comes_whole(server: Server, get: Get) -> None:
    """One GET, the bytes as they were."""
    assert get() == PNG
    assert [request.split(b"\r\n")[0] for request in server.requests] == [b"GET /image.png?sig=x HTTP/1.1"]


def test_a_chunked_image_comes_whole(server: Server, get: Get) -> None:
    """An answer without Content-Length is fine."""
    server.replies = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG)
    ]
    assert get() == PNG


def test_an_image_until_the_connection_ends_comes_whole(server: Server, get: Get) -> None:
    """An answer that ends with the connection is fine too."""
    server.replies = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + PNG]
    assert get() == PNG


def test_the_request_carries_nothing_of_the_client(server: Server, get: Get) -> None:
    """No key, no cookie, no default header, no user authentication, no parameter: four headers are all there is."""
    server.replies = [reply(Set_Cookie=f"session={KEY}")]
    settings = {
        "headers": {"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY, "OpenAI-Organization": KEY},
        "cookies": {"session": KEY},
        "auth": ("user", KEY),
        "params": {"key": KEY},
        "follow_redirects": True,
        "base_url": f"{server.origin}/{KEY}/",
    }
    assert get(**settings) == PNG  # type: ignore[arg-type]
    head = server.requests[0].decode()
    assert KEY not in head
    assert "authorization" not in head.lower()
    names = {line.split(":")[0].lower() for line in head.split("\r\n")[1:] if line}
    assert names == {"host", "accept", "accept-encoding", "user-agent"}
    assert "\r\naccept-encoding: identity\r\n" in head.lower()


def test_a_cookie_of_one_try_does_not_come_back_in_the_next(server: Server, get: Get) -> None:
    """What the server sets is not sent, neither in the next try nor after a redirect."""
    server.replies = [
        reply(503, Set_Cookie=f"session={KEY}"),
        reply(302, Set_Cookie=f"session={KEY}", Location="/there"),
        reply(),
    ]
    assert get() == PNG
    assert len(server.requests) == 3
    assert all(KEY.encode() not in request for request in server.requests)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_link_is_asked_once(server: Server, get: Get, status: int) -> None:
    """The error says that links expire and has the status."""
    server.replies = [reply(status, b"<Error>AccessDenied</Error>")]
    error = failed(get())
    assert (error.status_code, error.attempts, error.billing) == (status, 1, "paid")
    assert "7 days" in str(error)
    assert not isinstance(error, UnsafeURLError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 405, 407, 409, 418, 451])
def test_other_refusals_are_final(server: Server, get: Get, status: int) -> None:
    """Any other status is asked once and reported."""
    server.replies = [f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()]
    error = failed(get())
    assert (error.status_code, len(server.requests)) == (status, 1)
    assert f"HTTP {status}" in str(error)


FLAWS = {
    "408": reply(408),
    "429": reply(429),
    "500": reply(500),
    "502": reply(502),
    "503": reply(503),
    "529": reply(529),
    "short": reply(200, PNG[:20], Content_Length=str(len(PNG))),
    "only headers": reply(200, b"", Content_Length=str(len(PNG))),
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + PNG,
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "rubbish": b"\x00\x01\x02\r\n\r\n",
    "reset": RESET,
    "silent": SILENT,
}


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS)
def test_what_may_pass_is_tried_again(server: Server, get: Get, flaw: Reply) -> None:
    """Two bad answers and a good one make an image, with three GETs."""
    server.replies = [flaw, flaw, reply()]
    assert get(timeout=1 if flaw == SILENT else 30) == PNG
    assert len(server.requests) == 3


@pytest.mark.parametrize("flaw", FLAWS.values(), ids=FLAWS)
def test_five_tries_are_the_end(server: Server, get: Get, flaw: Reply) -> None:
    """A fault that stays is asked for five times and then reported, with the count."""
    server.replies = [flaw]
    error = failed(get(timeout=0.1 if flaw == SILENT else 30))
    assert (error.attempts, error.billing) == (5, "paid")
    server.close()
    assert len(server.requests) == 5


def test_a_refused_connection_is_tried_again(server: Server, get: Get) -> None:
    """Where nobody listens, five tries are counted."""
    server.close()
    assert failed(get()).attempts == 5


@pytest.mark.parametrize(
    ("value", "tries", "known"),
    [
        ("7", 5, 7),
        ("0.5", 5, 0.5),
        ("60", 5, 60),
        ("61", 1, 61),
        ("86400", 1, 86400),
        ("0", 5, None),
        ("-1", 5, None),
        ("nan", 5, None),
        ("1e9", 5, None),
        ("9" * 400, 5, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 5, None),
    ],
)
def test_retry_after_is_honoured_up_to_a_minute(
    server: Server, get: Get, value: str, tries: int, known: float | None
) -> None:
    """A longer wait is not waited for but reported; rubbish counts as nothing said."""
    server.replies = [reply(429, Retry_After=value)]
    error = failed(get())
    assert (error.attempts, error.retry_after) == (tries, known)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, written down and not waited."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    monkeypatch.setattr("asyncio.sleep", sleep)
    return waits


def test_waits_have_full_jitter_and_a_cap(server: Server, get: Get, sleeps: list[float]) -> None:
    """Four waits between five tries, each between nothing and twice the last bound."""
    server.replies = [reply(500)]
    failed(get(waiting=True))
    assert len(sleeps) == 4
    assert all(0 <= wait <= bound for wait, bound in zip(sleeps, (0.5, 1, 2, 4), strict=True))
    assert len(set(sleeps)) == 4


def test_the_server_says_how_long(server: Server, get: Get, sleeps: list[float]) -> None:
    """Retry-After is the wait."""
    server.replies = [reply(429, Retry_After="7"), reply(503, Retry_After="2"), reply()]
    assert get(waiting=True) == PNG
    assert sleeps == [7, 2]


def test_no_wait_passes_the_wall(server: Server, get: Get, sleeps: list[float]) -> None:
    """A wait that would end after the limit is not begun."""
    server.replies = [reply(429, Retry_After="50")]
    assert failed(get(waiting=True, wall=40)).retry_after == 50
    assert (sleeps, len(server.requests)) == ([], 1)


def test_no_waits_when_told(server: Server, get: Get, sleeps: list[float]) -> None:
    """waiting=False leaves all waits out, those of the server too."""
    server.replies = [reply(429, Retry_After="7"), reply(500), reply()]
    assert get(waiting=False) == PNG
    assert not any(sleeps)


def test_after_the_wall_there_is_no_other_try(server: Server, get: Get) -> None:
    """When the time for the whole download is over, what may pass is reported like the rest."""
    server.replies = [reply(503)]
    assert failed(get(wall=0)).attempts == 1


NO_IMAGES = {
    "html": b"<!doctype html><title>Please log in</title>",
    "nothing": b"",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.7",
    "json": b'{"error": "expired"}',
}


@pytest.mark.parametrize("body", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_an_error(server: Server, get: Get, body: bytes) -> None:
    """The bytes decide, whatever the header says, and nobody asks again."""
    server.replies = [reply(200, body, Content_Type="image/png")]
    assert "not an image" in str(failed(get()))
    assert len(server.requests) == 1


def test_a_declared_size_above_the_limit_is_not_read(server: Server, get: Get) -> None:
    """Content-Length alone is enough to refuse."""
    server.replies = [reply(200, PNG, Content_Length=str(2**40))]
    assert "larger than 67108864 bytes" in str(failed(get()))
    assert len(server.requests) == 1


def test_an_undeclared_size_is_cut_at_the_limit(server: Server, get: Get) -> None:
    """An answer without end is read up to the limit."""
    server.replies = [b"HTTP/1.1 200 OK\r\n\r\n" + PNG + b"x" * 2**21]
    assert "larger than 1000 bytes" in str(failed(get(limit=1000)))
    assert len(server.requests) == 1


def test_the_limit_itself_is_allowed(server: Server, get: Get) -> None:
    """The limit is inclusive."""
    assert get(limit=len(PNG)) == PNG
    assert "larger" in str(failed(get(limit=len(PNG) - 1)))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP", "x-unknown"])
def test_compression_is_refused(server: Server, get: Get, coding: str) -> None:
    """A bomb is not unpacked: what was not asked for is not read."""
    server.replies = [reply(200, gzip.compress(PNG + bytes(2**20)), Content_Encoding=coding)]
    assert "compressed" in str(failed(get()))
    assert len(server.requests) == 1


def test_identity_is_no_compression(server: Server, get: Get) -> None:
    """A server may say that it did nothing."""
    server.replies = [reply(Content_Encoding="Identity")]
    assert get() == PNG


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed(server: Server, get: Get, status: int) -> None:
    """Relative and absolute ones, as GET."""
    server.replies = [
        reply(status, b"", Location="next"),
        reply(status, b"", Location="/third?sig=y"),
        reply(status, b"", Location=f"{server.origin}/fourth"),
        reply(),
    ]
    assert get("/first/a") == PNG
    paths = [request.split(b" ")[1] for request in server.requests]
    assert paths == [b"/first/a", b"/first/next", b"/third?sig=y", b"/fourth"]


def test_a_loop_ends_after_three(server: Server, get: Get) -> None:
    """Four GETs, then the link is refused, and nobody asks again."""
    server.replies = [reply(302, b"", Location="/image.png")]
    error = failed(get())
    assert isinstance(error, UnsafeURLError)
    assert len(server.requests) == 4


def test_a_redirect_to_nowhere_is_an_answer_like_others(server: Server, get: Get) -> None:
    """Without a Location there is nothing to follow."""
    server.replies = [reply(302, b"")]
    assert failed(get()).status_code == 302


def everything_about(error: DownloadError) -> str:
    """All that a log, a report or another process may get to see of an error."""
    try:
        raise error
    except DownloadError as caught:
        report = traceback.TracebackException.from_exception(caught, capture_locals=True)
    state = pickle.dumps(error)
    again = pickle.loads(state)  # noqa: S301
    assert (str(again), again.attempts, again.billing) == (str(error), error.attempts, error.billing)
    return "\n".join([str(error), repr(error), *report.format(), repr(vars(error)), repr(state)])


LEAKY = {
    "image": reply(200, PNG, Set_Cookie=f"a={SIGNATURE}"),
    "gone": reply(403, SIGNATURE.encode(), Set_Cookie=f"a={SIGNATURE}"),
    "broken": reply(200, SIGNATURE.encode(), Content_Length="999"),
    "reset": RESET,
    "rubbish": SIGNATURE.encode() + b"\r\n\r\n",
    "away": reply(302, b"", Location=f"http://10.0.0.1/?sig={SIGNATURE}"),
    "nonsense": reply(302, b"", Location=f"http://[{SIGNATURE}/"),
    "html": reply(200, b"<html>" + SIGNATURE.encode()),
}


@pytest.mark.parametrize("said", LEAKY.values(), ids=LEAKY)
def test_the_signature_is_nowhere(server: Server, get: Get, said: Reply, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a log at DEBUG, and in nothing that an error shows, raised and pickled, locals and all."""
    caplog.set_level(logging.DEBUG)
    server.replies = [said]
    outcome = get(f"/image.png?X-Signature={SIGNATURE}")
    assert SIGNATURE.encode() in server.requests[0]
    shown = everything_about(outcome) if isinstance(outcome, DownloadError) else ""
    logged = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert SIGNATURE not in shown + logged + caplog.text


def test_other_requests_are_logged_as_before(server: Server, get: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own GETs are muted: the same client is as talkative as ever before and after."""
    caplog.set_level(logging.DEBUG)
    get()
    assert not [record for record in caplog.records if record.name.startswith("http")]
    httpx.get(f"{server.origin}/after")
    assert {f"{server.origin}/after"} <= {str(argument) for record in caplog.records for argument in record.args or ()}


def test_a_new_logging_setup_does_not_unmute(server: Server, get: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Filters that somebody dropped are back for the next download."""
    get()
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).filters.clear()
    caplog.set_level(logging.DEBUG)
    assert get() == PNG
    assert not [record for record in caplog.records if record.name.startswith("http")]


def test_every_logger_of_the_http_library_is_muted() -> None:
    """The list of loggers is complete for the installed libraries."""
    core = importlib.util.find_spec(httpx.__name__.replace("httpx", "httpcore"))
    library = importlib.util.find_spec(httpx.__name__)
    assert core is not None
    assert library is not None
    folders = [Path(spec.origin or "").parent for spec in (core, library)]
    source = "\n".join(path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))
    names = set(re.findall(r"getLogger\(\"([^\"]+)\"\)", source))
    assert names
    assert names <= set(downloads._LOGGERS)


def test_a_closed_client_is_an_error_and_not_an_exception(server: Server) -> None:
    """A client that was closed meanwhile does not put the link into a traceback."""
    client = httpx.Client()
    client.close()
    error = failed(fetch(f"{server.origin}/a", own_origin=server.origin, own_client=client))
    assert "closed" in str(error)
    assert server.requests == []


def test_an_interrupt_passes_at_once() -> None:
    """Ctrl-C is neither turned into an error nor tried again."""
    calls: list[str] = []

    def interrupt(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        raise KeyboardInterrupt

    with httpx.Client(transport=httpx.MockTransport(interrupt)) as client, pytest.raises(KeyboardInterrupt):
        fetch("http://api.test/a", own_origin="http://api.test", own_client=client)
    assert calls == ["GET"]


def test_a_cancellation_passes_at_once() -> None:
    """A cancelled task ends, without an error and without another try."""
    calls: list[str] = []

    async def cancelled() -> bool:
        with anyio.CancelScope() as scope:

            async def cancel(request: httpx.Request) -> httpx.Response:
                calls.append(request.method)
                scope.cancel()
                await anyio.sleep_forever()
                raise AssertionError

            async with httpx.AsyncClient(transport=httpx.MockTransport(cancel)) as client:
                await afetch("http://api.test/a", own_origin="http://api.test", own_client=client)
        return scope.cancelled_caught

    assert anyio.run(cancelled)
    assert calls == ["GET"]


def test_a_transport_of_the_caller_is_enough(get: Get) -> None:
    """The emulator's transport answers without a network, with bodies that are there already."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
    assert get(transport=transport) == PNG


def test_a_bug_of_the_callers_transport_is_not_hidden() -> None:
    """What is no fault of network or settings goes through."""

    def broken(request: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with httpx.Client(transport=httpx.MockTransport(broken)) as client, pytest.raises(ZeroDivisionError):
        fetch("http://api.test/a", own_origin="http://api.test", own_client=client)


@pytest.fixture
def other_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A second copy of the HTTP library under the name of the other one, with classes of its own."""
    name = "httpx" if httpx.__name__ == "httpx2" else "httpx2"
    spec = importlib.util.find_spec(httpx.__name__)
    assert spec is not None
    assert spec.origin is not None
    copy = importlib.util.spec_from_file_location(
        name, spec.origin, submodule_search_locations=[str(Path(spec.origin).parent)]
    )
    assert copy is not None
    assert copy.loader is not None
    module = importlib.util.module_from_spec(copy)
    monkeypatch.setitem(sys.modules, name, module)
    copy.loader.exec_module(module)
    yield module
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(f"{name}.")]:
        del sys.modules[loaded]


def test_a_client_of_the_other_library_works(server: Server, other_library: object) -> None:
    """A legacy client gets a request of its own kind, and its errors are understood."""
    client_class: type[httpx.Client] = other_library.Client  # type: ignore[attr-defined]
    assert client_class is not httpx.Client
    with client_class(headers={"Authorization": KEY}, cookies={"a": KEY}) as client:
        get_it = functools.partial(fetch, own_origin=server.origin, own_client=client, waiting=False)
        server.replies = [RESET, reply(302, b"", Location="/there"), reply()]
        assert get_it(f"{server.origin}/a") == PNG
        server.replies = [RESET]
        assert failed(get_it(f"{server.origin}/a")).attempts == 5
    assert KEY.encode() not in b"".join(server.requests)


def raised(error: Exception, *, cause: Exception | None = None, context: Exception | None = None) -> Exception:
    """An error as it comes out of a stack, with what stands behind it."""
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = cause is not None
    return error


@pytest.mark.parametrize(
    ("error", "again", "word"),
    [
        (httpx.ConnectError("x"), True, "connection"),
        (httpx.ReadTimeout("x"), True, "timed out"),
        (httpx.RemoteProtocolError("x"), True, "connection"),
        (ConnectionResetError(), True, "connection"),
        (socket.gaierror(), True, "resolved"),
        (raised(httpx.ConnectError("x"), cause=ssl.SSLCertVerificationError()), False, "certificate"),
        (raised(httpx.ConnectError("x"), context=ssl.SSLCertVerificationError()), True, "connection"),
        (FileNotFoundError(), False, "settings"),
        (ImportError("socksio"), False, "settings"),
        (ValueError("proxy"), False, "settings"),
        (httpx.InvalidURL("x"), False, "URL"),
        (httpx.DecodingError("x"), False, "DecodingError"),
    ],
)
def test_errors_have_a_meaning(error: Exception, again: bool, word: str) -> None:  # noqa: FBT001
    """What may pass is tried again; certificates and settings are not, and an error of the caller's does not count."""
    assert isinstance(error, expected_errors())
    found = meaning(error)
    assert found.again is again
    assert word in found.reason


def test_a_body_is_judged_piece_by_piece() -> None:
    """Too much and too little are told apart, and the sum is what counts."""
    trip = Trip(start=unsafe("x"), own_origin=None, timeout=1, wall=1, deadline=float("inf"), limit=100)
    body = Body(trip=trip, declared=len(PNG))
    assert body.add(PNG[:10]) is None
    short = body.end()
    assert not isinstance(short, bytes)
    assert short.again
    assert body.add(PNG[10:]) is None
    assert body.end() == PNG
    large = body.add(bytes(100))
    assert large is not None
    assert "larger than 100 bytes" in large.reason


def test_a_trickle_ends_at_the_wall() -> None:
    """However small the pieces are, the first one after the time for the whole download is the last."""
    trip = Trip(start=unsafe("x"), own_origin=None, timeout=1, wall=120, deadline=float("-inf"), limit=100)
    late = Body(trip=trip, declared=None).add(b"x")
    assert late is not None
    assert (late.reason, late.again) == ("it took longer than 120 s", False)


ASYNC_WORDS = {
    "AsyncClient": "Client",
    "AsyncHTTPTransport": "HTTPTransport",
    "AsyncRetrying": "Retrying",
    "_AsyncStream": "_Stream",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
    "anyio": "socket",
    "async ": "",
    "await ": "",
    "acheck_peer": "check_peer",
    "afetch": "fetch",
    "_aask": "_ask",
    "_aask_stranger": "_ask_stranger",
    "_aattempt": "_attempt",
    "_avisit": "_visit",
}


def without_async(function: Callable[..., object]) -> str:
    """The syntax tree of a function as text, the async words erased."""
    text = ast.unparse(ast.parse(inspect.getsource(function)))
    return re.sub(r"\b(async |await |\w+)", lambda word: ASYNC_WORDS.get(word[0], word[0]), text)


@pytest.mark.parametrize(
    ("sync", "asynchronous"),
    [
        (fetch, afetch),
        (downloads._attempt, downloads._aattempt),
        (downloads._visit, downloads._avisit),
        (downloads._ask_stranger, downloads._aask_stranger),
        (downloads._ask, downloads._aask),
        (links.check_peer, links.acheck_peer),
    ],
)
def test_both_ways_are_one(sync: Callable[..., object], asynchronous: Callable[..., object]) -> None:
    """Sync and async differ in the async words and in nothing else."""
    assert without_async(sync) == without_async(asynchronous)


def test_no_pair_is_left_out() -> None:
    """Every async function of the two modules stands in the table above."""
    trees = [ast.parse(inspect.getsource(module)) for module in (downloads, links)]
    names = {node.name for tree in trees for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    assert names == {"afetch", "_aattempt", "_avisit", "_aask_stranger", "_aask", "acheck_peer"}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
@pytest.mark.parametrize(("read", "waits"), [(7, 7), (300, 30), (None, 30)])
async def test_a_download_waits_no_longer_than_its_call(
    kind: type[FluxOpenAI] | type[AsyncFluxOpenAI], read: float | None, waits: float
) -> None:
    """A client that is in a hurry is in a hurry for the image too, and so is a copy of the image in another process."""
    emulator, seen = Emulator(pixels=1), []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return emulator.handle(request)

    http = (httpx.Client if kind is FluxOpenAI else httpx.AsyncClient)(transport=httpx.MockTransport(handler))
    client: Any = kind(api_key="k", http_client=http, timeout=httpx.Timeout(60, read=read))  # type: ignore[arg-type]
    made = client.images.generate(prompt="a fox")
    image = (made if kind is FluxOpenAI else await made).data[0]
    assert (await image.aread())[:4] == PNG[:4]
    assert seen == [read, waits]
    assert pickle.loads(pickle.dumps(image))._downloads.timeout == waits  # noqa: S301  # our own
