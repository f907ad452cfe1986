"""Downloads against a server on a loopback socket; what the client is allowed to fetch is in tests/_http."""

import asyncio
import copy
import gc
import gzip
import importlib.util
import json
import logging
import pickle
import re
import socket
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import anyio
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImage, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai._http.logs import LOGGERS
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.response.download import DownloadSettings

END = b"\0\0\0\0IEND\xaeB`\x82"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x1cprVt" + b"p" * 32 + END
SIGNATURE = "SIGNATURE-0f3a"
KEY = "sk-KEY-77aa"

# The servers here speak plain HTTP; loading the system's certificates for each client would take most of the time.
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
    """A server that answers with an image unless its `replies` are changed."""
    running = Server()
    yield running
    running.close()


class Settings(TypedDict, total=False):
    """Fields of DownloadSettings that a test changes."""

    waiting: bool
    timeout: float
    total_timeout: float
    max_bytes: int
    received: float


def image(
    url: str,
    *,
    origin: str,
    client: httpx.Client | None = None,
    aclient: httpx.AsyncClient | None = None,
    **settings: Unpack[Settings],
) -> FluxImage:
    """An image of an answer that has only a URL; there are no pauses between tries."""
    downloads = DownloadSettings(origin=origin, client=client, aclient=aclient, waiting=False)
    return FluxImage.of({"url": url}, downloads=replace(downloads, **settings))


class Get:
    """Downloads a path of the server, with the client of the API at this origin; `http` are the client's options."""

    path = "/image.png?sig=x"

    def __init__(self, server: Server) -> None:
        self.origin = server.origin

    def __call__(self, path: str = path, *, http: dict[str, Any] | None = None, **settings: Unpack[Settings]) -> bytes:
        """Over a sync client."""
        with httpx.Client(**{"verify": NO_TLS, **(http or {})}) as client:
            return image(self.origin + path, origin=f"{self.origin}/v1/", client=client, **settings).read()

    def fails(
        self, path: str = path, *, http: dict[str, Any] | None = None, **settings: Unpack[Settings]
    ) -> DownloadError:
        """The error of a download that must fail."""
        with pytest.raises(DownloadError) as caught:
            self(path, http=http, **settings)
        return caught.value


class AsyncGet(Get):
    """The same over an async client."""

    def __call__(
        self, path: str = Get.path, *, http: dict[str, Any] | None = None, **settings: Unpack[Settings]
    ) -> bytes:
        """Over an async client."""

        async def get() -> bytes:
            async with httpx.AsyncClient(**{"verify": NO_TLS, **(http or {})}) as client:
                made = image(self.origin + path, origin=f"{self.origin}/v1/", aclient=client, **settings)
                return await made.aread()

        return anyio.run(get)


@pytest.fixture
def get(server: Server) -> Get:
    """A download over a sync client; that async code is the same is proved by tests/contracts/test_parity.py."""
    return Get(server)


@pytest.fixture(params=[Get, AsyncGet], ids=["sync", "async"])
def get_both(request: pytest.FixtureRequest, server: Server) -> Get:
    """A download both ways, for what goes through another half of the HTTP library, of tenacity or of anyio."""
    made: Get = request.param(server)
    return made


def test_an_image_comes_whole(server: Server, get_both: Get) -> None:
    """One GET, and the bytes are those of the server."""
    assert get_both() == PNG
    assert [request.split(b"\r\n")[0] for request in server.requests] == [b"GET /image.png?sig=x HTTP/1.1"]


UNDECLARED = {
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG),
    "until the connection ends": b"\r\n" + PNG,
}


@pytest.mark.parametrize("rest", UNDECLARED.values(), ids=UNDECLARED)
def test_an_image_of_undeclared_length_comes_whole(server: Server, get: Get, rest: bytes) -> None:
    """An answer needs no Content-Length."""
    server.replies = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + rest]
    assert get() == PNG


def test_the_request_carries_nothing_of_the_client(server: Server, get_both: Get) -> None:
    """No key, cookie, default header, user authentication or parameter is sent: four headers are all there is."""
    server.replies = [reply(Set_Cookie=f"session={KEY}")]
    options = {
        "headers": {"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY, "OpenAI-Organization": KEY},
        "cookies": {"session": KEY},
        "auth": ("user", KEY),
        "params": {"key": KEY},
        "follow_redirects": True,
        "base_url": f"{server.origin}/{KEY}/",
    }
    assert get_both(http=options) == PNG
    head = server.requests[0].decode()
    assert KEY not in head
    names = {line.split(":")[0].lower() for line in head.split("\r\n")[1:] if line}
    assert names == {"host", "accept", "accept-encoding", "user-agent"}
    assert "\r\naccept-encoding: identity\r\n" in head.lower()


def test_no_cookie_is_sent_back(server: Server, get: Get) -> None:
    """What the server sets is sent neither in the next try nor after a redirect."""
    server.replies = [
        reply(503, Set_Cookie=f"session={KEY}"),
        reply(302, Set_Cookie=f"session={KEY}", Location="/there"),
        reply(),
    ]
    assert get() == PNG
    assert len(server.requests) == 3
    assert all(KEY.encode() not in request for request in server.requests)


def bare(status: int) -> bytes:
    """A head without a body."""
    return f"HTTP/1.1 {status} No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", [201, 206, 300, 304, 400, 401, 405, 407, 409, 410, 418, 423, 451])
def test_other_statuses_are_final(server: Server, get: Get, status: int) -> None:
    """Any other status is reported after one GET."""
    server.replies = [bare(status)]
    error = get.fails()
    assert (error.status_code, error.attempts, error.billing) == (status, 1, "paid")
    assert f"HTTP {status}" in str(error)
    assert not isinstance(error, UnsafeURLError)
    assert len(server.requests) == 1


MINUTE, DAY = 60.0, 86_400.0


@pytest.mark.parametrize(
    ("age", "tries", "word"),
    [
        (0, 5, "came 0 minutes ago; links work for 7 days"),
        (50 * MINUTE, 5, "came 50 minutes ago; links work for 7 days"),
        (2 * 60 * MINUTE, 1, "came 2 hours ago; links work for 7 days"),
        (6.5 * DAY, 1, "came 6 days ago; links work for 7 days"),
        (7.1 * DAY, 1, "has expired or is gone; links work for 7 days"),
        (-DAY, 5, "came 0 minutes ago; links work for 7 days"),
    ],
)
@pytest.mark.parametrize("status", [202, 204, 403, 404, 425])
def test_a_new_link_gets_time(server: Server, get: Get, status: int, *, age: float, tries: int, word: str) -> None:
    """What a storage says of a file that is not there yet is tried again in the first hour; nobody calls it expired."""
    server.replies = [bare(status)]
    error = get.fails(received=time.time() - age)
    assert (error.status_code, error.attempts, len(server.requests)) == (status, tries, tries)
    assert (word in str(error)) == (status in (403, 404))


@pytest.mark.parametrize("status", [202, 204, 403, 404, 425])
def test_an_image_that_comes_late_is_read(server: Server, get_both: Get, status: int) -> None:
    """Two early answers and a good one make an image."""
    server.replies = [bare(status), bare(status), reply()]
    assert get_both() == PNG
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "whole",
    [
        reply(203),
        reply(206),
        reply(206, Content_Range=f"bytes 0-{len(PNG) - 1}/{len(PNG)}"),
        reply(206, Content_Range=f"bytes 0-{len(PNG) - 1}/*"),
        reply(201),
        reply(202),
        *(
            reply(Content_Encoding=coding)
            for coding in ("", "Identity", "identity, identity", "aws-chunked", "aws-chunked,identity", "utf-8", "br")
        ),
        *(reply(Content_Encoding=coding) for coding in ("gzip", "deflate", "zstd", "none", "x-unknown")),
    ],
)
def test_a_whole_image_is_read_whatever_its_head_says(server: Server, get_both: Get, whole: bytes) -> None:
    """A success of another kind, and a coding that the bytes do not have, are no reason to throw an image away."""
    server.replies = [whole]
    assert get_both() == PNG
    assert len(server.requests) == 1


def box(kind: bytes) -> bytes:
    """The beginning of an ISO media file."""
    return b"\0\0\0\x1cftyp" + kind + b"\0" * 40


JPEG = b"\xff\xd8\xff\xe0\0\x06\xff\xd9xx\xff\xff\xda\0\x04xxscan\xff\0scan\xff\xd9"
WEBP = b"RIFF\x12\0\0\0WEBPVP8 \x05\0\0\0hello\0"
GIF = b"GIF89a" + bytes(20) + b";"


@pytest.mark.parametrize(
    "data",
    [
        *(PNG + b"behind", PNG + PNG[:20], JPEG, JPEG + b"behind" + JPEG[:9], WEBP, WEBP[:-1], WEBP + b"x"),
        *(GIF, GIF + b"\0\n", box(b"avif"), box(b"avis"), box(b"heic"), box(b"mif1")),
        *(
            b"\xff\x0acodestream",
            b"\0\0\0\x0cJXL \r\n\x87\n",
            b"II*\0tiff",
            b"MM\0*tiff",
            b"BM" + b"\x99" * 4 + bytes(9),
        ),
    ],
)
def test_every_type_of_image_is_kept(server: Server, get: Get, tmp_path: Path, data: bytes) -> None:
    """Types without an extension of ours are kept too, as they are from b64_json, and so is what is behind an image."""
    server.replies = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data]
    assert get() == data


CUT = {
    "png": PNG[:-1],
    "png, in a chunk": PNG[:30],
    "png with an end inside": PNG[:8] + b"\0\0\0\x10thMb" + END + b"\0\0\0\0" + b"\0\0\0\1IDAT",
    "jpeg": JPEG[:-1],
    "jpeg, behind its thumbnail": JPEG[:12],
    "jpeg, only its beginning": JPEG[:3],
    "webp": WEBP[:-2],
    "gif": GIF[:-1],
    "part": (reply(206, Content_Range=f"bytes 0-{len(PNG) - 1}/{len(PNG) + 9}")),
    "another part": (reply(206, Content_Range=f"bytes 7-{len(PNG) + 6}/{len(PNG) + 7}")),
}


@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_cut_image_is_tried_again(server: Server, get_both: Get, cut: bytes) -> None:
    """A connection that ends early looks like a whole answer if no length was declared; the image shows it."""
    if not cut.startswith(b"HTTP"):
        cut = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + cut
    server.replies = [cut, reply()]
    assert get_both() == PNG
    server.replies = [cut]
    error = get_both.fails()
    assert error.attempts == 5
    assert "only the beginning" in str(error)
    assert len(server.requests) == 7


PASSING = {
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
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_tried_again(server: Server, get: Get, fault: Reply) -> None:
    """Two bad answers and a good one make an image, with three GETs."""
    server.replies = [fault, fault, reply()]
    assert get() == PNG
    assert len(server.requests) == 3


@pytest.mark.parametrize(("fault", "timeout"), [(reply(503), 30), (RESET, 30), (SILENT, 0.05)])
def test_five_tries_are_the_end(server: Server, get_both: Get, fault: Reply, timeout: float) -> None:
    """A fault that stays is reported after five GETs; silence until the time-out is such a fault."""
    server.replies = [fault]
    error = get_both.fails(timeout=timeout)
    assert (error.attempts, error.billing) == (5, "paid")
    server.close()
    assert len(server.requests) == 5


def test_a_refused_connection_is_tried_again(server: Server, get: Get) -> None:
    """Where nothing listens, five tries are counted."""
    server.close()
    assert get.fails().attempts == 5


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
    """A longer wait is reported instead of waited for; a value that cannot be used is ignored."""
    server.replies = [reply(429, Retry_After=value)]
    error = get.fails()
    assert (error.attempts, error.retry_after) == (tries, known)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, recorded instead of slept."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


def test_pauses_have_full_jitter_and_a_cap(server: Server, get_both: Get, sleeps: list[float]) -> None:
    """Five tries have four pauses, each between nothing and a bound that doubles."""
    server.replies = [reply(500)]
    get_both.fails(waiting=True)
    assert len(sleeps) == 4
    assert all(0 <= pause <= bound for pause, bound in zip(sleeps, (0.5, 1, 2, 4), strict=True))
    assert len(set(sleeps)) == 4


@pytest.mark.parametrize(("waiting", "pauses"), [(True, [7, 2]), (False, [0, 0])])
def test_the_server_says_how_long(
    server: Server, get_both: Get, sleeps: list[float], *, waiting: bool, pauses: list[float]
) -> None:
    """Retry-After is the pause; waiting=False leaves out all pauses, that one too."""
    server.replies = [reply(429, Retry_After="7"), reply(503, Retry_After="2"), reply()]
    assert get_both(waiting=waiting) == PNG
    assert sleeps == pauses


def test_no_pause_passes_the_total_timeout(server: Server, get: Get, sleeps: list[float]) -> None:
    """A pause that would end after the total time-out is not begun."""
    server.replies = [reply(429, Retry_After="50")]
    assert get.fails(waiting=True, total_timeout=40).retry_after == 50
    assert (sleeps, len(server.requests)) == ([], 1)


def test_after_the_total_timeout_there_is_no_other_try(get: Get) -> None:
    """A fault that may pass is reported like the rest when the time is up."""
    unavailable = httpx.MockTransport(lambda request: httpx.Response(503))
    assert get.fails(http={"transport": unavailable}, total_timeout=0).attempts == 1


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_trickle_ends_at_the_total_timeout(get: Get, pieces: int) -> None:
    """However small the pieces are, the first one after the total time-out is the last, and there is no other try."""
    read: list[int] = []

    def trickle() -> Iterator[bytes]:
        for piece in range(pieces):
            read.append(piece)
            yield PNG[:1]

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=trickle()))
    error = get.fails(http={"transport": transport}, total_timeout=-1)
    assert "longer than -1 s" in str(error)
    assert (error.attempts, read) == (1, [0])


NO_IMAGES = {
    "html": b"<!doctype html><title>Please log in</title>",
    "nothing": b"",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.7",
    "json": b'{"error": "expired"}',
}


@pytest.mark.parametrize("body", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_not_an_image_is_an_error(server: Server, get: Get, body: bytes) -> None:
    """The bytes decide, whatever the header says, and another try would not help."""
    server.replies = [reply(200, body, Content_Type="image/png")]
    assert "not an image" in str(get.fails())
    assert len(server.requests) == 1


def test_a_declared_size_above_the_limit_is_not_read(server: Server, get: Get) -> None:
    """Content-Length alone is enough to refuse an image of more than 64 MiB."""
    server.replies = [reply(200, PNG, Content_Length=str(2**40))]
    assert "larger than 67108864 bytes" in str(get.fails())
    assert len(server.requests) == 1


def test_an_undeclared_size_is_cut_at_the_limit(server: Server, get: Get) -> None:
    """An answer without end is read up to the limit."""
    server.replies = [b"HTTP/1.1 200 OK\r\n\r\n" + PNG + b"x" * 2**21]
    assert "larger than 1000 bytes" in str(get.fails(max_bytes=1000))
    assert len(server.requests) == 1


def test_the_limit_itself_is_allowed(get: Get) -> None:
    """The limit is inclusive."""
    assert get(max_bytes=len(PNG)) == PNG
    assert "larger" in str(get.fails(max_bytes=len(PNG) - 1))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP", "x-unknown"])
def test_compression_is_refused(server: Server, get: Get, coding: str) -> None:
    """A decompression bomb is not unpacked: the request accepts no coding, so any coding is refused."""
    server.replies = [reply(200, gzip.compress(PNG + bytes(2**20)), Content_Encoding=coding)]
    assert "compressed" in str(get.fails())
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed(server: Server, get: Get, status: int) -> None:
    """Relative and absolute redirects are followed with GET."""
    server.replies = [
        reply(status, b"", Location="next"),
        reply(status, b"", Location="/third?sig=y"),
        reply(status, b"", Location=f"{server.origin}/fourth"),
        reply(),
    ]
    assert get("/first/a") == PNG
    paths = [request.split(b" ")[1] for request in server.requests]
    assert paths == [b"/first/a", b"/first/next", b"/third?sig=y", b"/fourth"]


def test_a_loop_ends_after_three_redirects(server: Server, get: Get) -> None:
    """After four GETs the URL is refused, and there is no other try."""
    server.replies = [reply(302, b"", Location="/image.png")]
    assert isinstance(get.fails(), UnsafeURLError)
    assert len(server.requests) == 4


def test_a_redirect_without_location_is_a_status_like_others(server: Server, get: Get) -> None:
    """Without a Location there is nothing to follow."""
    server.replies = [reply(302, b"")]
    assert get.fails().status_code == 302


def everything_about(error: DownloadError) -> str:
    """All that a log, a report or another process may get to see of an error; the frames of this file hold the URL."""
    assert (error.__cause__, error.__context__) == (None, None)
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in report.stack if frame.filename != __file__]
    assert frames[-1].name in ("fetch", "afetch")
    state = pickle.dumps(error)
    again = pickle.loads(state)  # noqa: S301  # dumped in the line above
    assert (str(again), again.attempts, again.billing) == (str(error), error.attempts, error.billing)
    return "\n".join(
        [str(error), repr(error), *(str(frame.locals) for frame in frames), repr(vars(error)), repr(state)]
    )


LEAKY = {
    "gone": reply(403, SIGNATURE.encode(), Set_Cookie=f"a={SIGNATURE}"),
    "broken": reply(200, SIGNATURE.encode(), Content_Length="999"),
    "reset": RESET,
    "rubbish": SIGNATURE.encode() + b"\r\n\r\n",
    "away": reply(302, b"", Location=f"http://10.0.0.1/?sig={SIGNATURE}"),
    "nonsense": reply(302, b"", Location=f"http://[{SIGNATURE}/"),
    "html": reply(200, b"<html>" + SIGNATURE.encode()),
}


@pytest.mark.parametrize("fault", LEAKY.values(), ids=LEAKY)
def test_the_signature_is_nowhere(
    server: Server, get_both: Get, fault: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not in a log at DEBUG, and in nothing that an error shows: text, pickle, or locals of its traceback."""
    caplog.set_level(logging.DEBUG)
    server.replies = [fault]
    error = get_both.fails(f"/image.png?X-Signature={SIGNATURE}")
    assert SIGNATURE.encode() in server.requests[0]
    logged = "\n".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert SIGNATURE not in everything_about(error) + logged + caplog.text


def test_a_good_download_logs_no_signature(server: Server, get_both: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the URL nor a cookie of the answer is in a log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    server.replies = [reply(Set_Cookie=f"a={SIGNATURE}")]
    assert get_both(f"/image.png?X-Signature={SIGNATURE}") == PNG
    assert not [record for record in caplog.records if SIGNATURE in f"{record.getMessage()} {record.args!r}"]


def test_other_requests_are_logged_as_before(server: Server, get_both: Get, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own GETs are muted; other requests in the same thread log as before."""
    caplog.set_level(logging.DEBUG)
    get_both()
    assert not [record for record in caplog.records if record.name.startswith("http")]
    httpx.get(f"{server.origin}/after")
    assert {f"{server.origin}/after"} <= {str(argument) for record in caplog.records for argument in record.args or ()}


def test_a_new_logging_setup_does_not_unmute(get: Get, caplog: pytest.LogCaptureFixture) -> None:
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
    assert names <= set(LOGGERS)


@pytest.mark.parametrize("name", ["hpack.hpack", "hpack.table"])
def test_the_loggers_of_http_2_are_muted(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A caller's own client may speak HTTP/2, whose library logs each header: the path with its signature is one."""

    def handler(request: httpx.Request) -> httpx.Response:
        logging.getLogger(name).debug("Decoded %r", request.url.raw_path)
        return httpx.Response(200, content=PNG)

    with httpx.Client(transport=httpx.MockTransport(handler)) as client:
        made = image(f"http://127.0.0.1/a?sig={SIGNATURE}", origin="http://127.0.0.1", client=client)
        caplog.set_level(logging.DEBUG)
        assert made.read() == PNG
        assert SIGNATURE not in caplog.text
        client.get(f"http://127.0.0.1/a?sig={SIGNATURE}")
    assert SIGNATURE in caplog.text


def read_in_a_thread(made: FluxImage) -> bytes:
    """`aread` with a sync client."""
    return anyio.run(made.aread)


@pytest.mark.parametrize("read", [FluxImage.read, read_in_a_thread])
def test_a_closed_client_is_a_download_error(server: Server, read: Callable[[FluxImage], bytes]) -> None:
    """A client that was closed meanwhile is reported as such, and not as a RuntimeError with the URL in its frames."""
    client = httpx.Client()
    client.close()
    made = image(f"{server.origin}/a?sig={SIGNATURE}", origin=server.origin, client=client)
    with pytest.raises(DownloadError, match="closed") as caught:
        read(made)
    assert SIGNATURE not in everything_about(caught.value)
    assert server.requests == []


def test_a_sync_read_of_an_image_of_an_async_client_works(server: Server) -> None:
    """A notebook reads an awaited image so, also one on the API's own host; nothing of the client goes out."""
    client = httpx.AsyncClient(verify=NO_TLS, headers={"authorization": "Bearer k"}, cookies={"c": "1"})
    made = image(f"{server.origin}/a", origin=server.origin, aclient=client)
    assert made.read() == PNG
    [request] = server.requests
    assert not any(word in request.lower() for word in (b"authorization", b"cookie"))


def test_an_awaited_image_of_the_emulator_shows_itself() -> None:
    """The emulator's async client has no network, and its images can be read in sync code all the same."""
    emulator = Emulator()
    answer = anyio.run(lambda: emulator.async_client().images.generate(prompt="a fox"))
    assert "image/png" in answer._repr_mimebundle_()


def test_an_async_read_through_a_sync_client_works(server: Server) -> None:
    """`aread` uses a sync client in a thread."""
    with httpx.Client(verify=NO_TLS) as client:
        assert anyio.run(image(f"{server.origin}/a", origin=server.origin, client=client).aread) == PNG


def test_ctrl_c_passes_at_once(get: Get) -> None:
    """Ctrl-C is neither turned into a DownloadError nor tried again."""
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(http={"transport": httpx.MockTransport(handler)})
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
                await image("http://api.test/a", origin="http://api.test", aclient=client).aread()
        return scope.cancelled_caught

    assert anyio.run(cancelled)
    assert calls == ["GET"]


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
        made = image(f"{server.origin}/a", origin=server.origin, client=client)
        server.replies = [RESET, reply(302, b"", Location="/there"), reply()]
        assert made.read() == PNG
        server.replies = [RESET]
        with pytest.raises(DownloadError) as caught:
            image(f"{server.origin}/b", origin=server.origin, client=client).read()
    assert caught.value.attempts == 5
    assert KEY.encode() not in b"".join(server.requests)


def with_cause(error: Exception, cause: Exception) -> Exception:
    """An error as `raise error from cause` makes it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "tries", "word"),
    [
        (httpx.ConnectError("x"), 5, "connection"),
        (httpx.ReadTimeout("x"), 5, "timed out"),
        (httpx.RemoteProtocolError("x"), 5, "connection"),
        (ConnectionResetError(), 5, "connection"),
        (socket.gaierror(), 5, "resolved"),
        (with_cause(httpx.ConnectError("x"), ssl.SSLCertVerificationError()), 1, "certificate"),
        (FileNotFoundError(), 1, "settings"),
        (ImportError("socksio"), 1, "settings"),
        (ValueError("proxy"), 1, "settings"),
        (httpx.InvalidURL("x"), 1, "URL"),
        (httpx.DecodingError("x"), 1, "DecodingError"),
        (TimeoutError(), 5, "timed out"),
        (RuntimeError("Event loop is closed"), 5, "connection"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"),
        (KeyError("x"), 1, "KeyError"),
    ],
)
def test_errors_of_the_transport_have_a_meaning(get: Get, raised: Exception, tries: int, word: str) -> None:
    """Faults of the network are tried again; certificates and settings are not."""
    calls: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        raise raised

    error = get.fails(http={"transport": httpx.MockTransport(handler)})
    assert word in str(error)
    assert isinstance(error, UnsafeURLError) == (word == "URL")
    assert error.attempts == len(calls) == tries


def test_an_error_that_the_caller_handles_does_not_count(get: Get) -> None:
    """A download inside an `except` is judged by its own error: the caller's certificate error is not its cause."""

    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x")

    def fail() -> None:
        raise ssl.SSLCertVerificationError

    try:
        fail()
    except ssl.SSLCertVerificationError:
        assert get.fails(http={"transport": httpx.MockTransport(handler)}).attempts == 5


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
@pytest.mark.parametrize(("read", "waits"), [(7, 7), (300, 30), (None, 30)])
async def test_a_download_waits_no_longer_than_its_call(
    kind: type[FluxOpenAI] | type[AsyncFluxOpenAI], read: float | None, waits: float
) -> None:
    """The client's time-out holds for the download too, up to 30 s, and for a copy of the image in another process."""
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


class Api:
    """An API on a raw socket: a POST is answered with a URL of its own, whose GETs get this; it keeps the requests."""

    def __init__(self, answer: Callable[[socket.socket], None], *, keep_alive: bool) -> None:
        self.answer, self.keep_alive = answer, keep_alive
        self.requests: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Take connections until the listener is closed."""
        with suppress(OSError):
            while True:
                threading.Thread(target=self.talk, args=self.listener.accept()[:1], daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        """Answer the requests of one connection."""
        with suppress(OSError), connection:
            while True:
                message = b""
                while not re.search(rb"(?s)\r\n\r\n.*\}$|^GET.*\r\n\r\n$", message):
                    if not (piece := connection.recv(65536)):
                        return
                    message += piece
                self.requests.append(message.split(b" ")[0].decode())
                if message.startswith(b"GET"):
                    self.answer(connection)
                    continue
                body = json.dumps({"created": 0, "data": [{"url": f"{self.origin}/a.png"}]}).encode()
                close = b"" if self.keep_alive else b"Connection: close\r\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (close, len(body), body))
                if not self.keep_alive:
                    return


def drip(connection: socket.socket) -> None:
    """The head of an answer that never ends: each byte comes long before any time-out of one wait."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)


def good(connection: socket.socket) -> None:
    """An image."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PNG), PNG))


@pytest.fixture
def api() -> Iterator[Callable[..., Api]]:
    """Start an API of this kind."""
    running: list[Api] = []

    def start(answer: Callable[[socket.socket], None], *, keep_alive: bool = True) -> Api:
        running.append(Api(answer, keep_alive=keep_alive))
        return running[-1]

    yield start
    for started in running:
        started.listener.close()


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
def test_the_head_of_an_answer_has_a_time_limit(
    api: Callable[..., Api], kind: type[FluxOpenAI] | type[AsyncFluxOpenAI], *, keep_alive: bool
) -> None:
    """A head that comes byte by byte ends at the total time-out, on a new connection and on that of the call."""
    server = api(drip, keep_alive=keep_alive)

    async def fail() -> DownloadError:
        client: Any = kind(api_key="k", base_url=f"{server.origin}/v1", max_retries=0)
        made = client.images.generate(prompt="a fox")
        image = (made if kind is FluxOpenAI else await made).data[0]
        image._downloads = replace(image._downloads, total_timeout=0.3)
        with pytest.raises(DownloadError, match=r"timed out|longer than") as caught:
            await image.aread()
        await client.close() if kind is AsyncFluxOpenAI else client.close()
        return caught.value

    assert anyio.run(fail).attempts == 1
    assert server.requests == ["POST", "GET"]


# The HTTP library cannot close a connection of a loop that is closed itself.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_an_async_client_of_an_earlier_loop_downloads(api: Callable[..., Api]) -> None:
    """An idle connection of a finished `asyncio.run` is given up for a new one."""
    client = AsyncFluxOpenAI(api_key="k", base_url=f"{api(good).origin}/v1")

    async def generate() -> FluxImage:
        return (await client.images.generate(prompt="a fox")).data[0]

    async def read(made: FluxImage) -> bytes:
        async with client:
            return await made.aread()

    assert asyncio.run(read(asyncio.run(generate()))) == PNG
    gc.collect()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A client."""
    with httpx.Client(verify=NO_TLS) as opened:
        yield opened


def assert_one_get(server: Server, made: FluxImage, data: list[bytes], saved: Path) -> None:
    """What was read and saved of an image is one GET, and its type and its picture in a notebook need no other."""
    assert (data, saved.read_bytes()) == ([PNG] * 3, PNG)
    assert made.mime_type == "image/png"
    assert "image/png" in made._repr_mimebundle_()
    assert len(server.requests) == 1


def test_an_image_is_downloaded_once(server: Server, client: httpx.Client, tmp_path: Path) -> None:
    """Three reads and a save are one GET; the type is known afterwards; another URL is another image."""
    made = image(f"{server.origin}/a.png", origin=server.origin, client=client)
    assert made.mime_type is None
    assert_one_get(server, made, [made.read(), made.read(), made.read()], made.save(tmp_path))
    made.url = f"{server.origin}/b.png"
    assert made.mime_type is None
    assert made.read() == PNG
    assert len(server.requests) == 2


def test_an_async_image_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    """The same with `aread` and `asave`."""

    async def use() -> None:
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            made = image(f"{server.origin}/a.png", origin=server.origin, aclient=client)
            data = [await made.aread(), await made.aread(), made.read()]
            assert_one_get(server, made, data, await made.asave(tmp_path))

    anyio.run(use)


def test_a_failed_download_is_not_kept(server: Server, client: httpx.Client) -> None:
    """The next read tries again."""
    made = image(f"{server.origin}/a.png", origin=server.origin, client=client)
    server.replies = [reply(400), reply()]
    with pytest.raises(DownloadError):
        made.read()
    assert made.read() == PNG


def test_kept_bytes_are_shared_by_copies_and_by_nothing_else(server: Server, client: httpx.Client) -> None:
    """A copy needs no GET; pickle, JSON, repr and comparison are those of an image without bytes."""
    made, unread = (image(f"{server.origin}/a.png", origin=server.origin, client=client) for _ in range(2))
    before = (made.to_dict(), made.model_dump(), repr(made), len(pickle.dumps(made)))
    assert made.read() == PNG
    assert (made.to_dict(), made.model_dump(), repr(made), len(pickle.dumps(made))) == before
    assert made == unread
    for twin in (copy.copy(made), copy.deepcopy(made), made.model_copy(), made.model_copy(deep=True)):
        assert (twin, twin.read(), twin.mime_type) == (made, PNG, "image/png")
    assert len(server.requests) == 1
    assert pickle.loads(pickle.dumps(made)).mime_type is None  # noqa: S301  # our own


def test_a_relative_link_is_read_from_the_api(server: Server, client: httpx.Client) -> None:
    """The origin that an answer leaves out is that of the API, and the API may call itself localhost."""
    port = server.origin.rpartition(":")[2]
    for url in ("/image/x.png?sig=a", f"http://localhost:{port}/y.png"):
        assert image(url, origin=f"{server.origin}/v1/", client=client).read() == PNG
    assert [request.split(b" ")[1] for request in server.requests] == [b"/image/x.png?sig=a", b"/y.png"]
