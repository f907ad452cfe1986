"""The server of the emulator: HTTP/1.1 on a port of this machine, for programs in any language.

One thread runs an event loop with a task for each connection. h11 parses the requests. The answers are written without
it, because some faults are invalid HTTP. A connection that waits for its latency does not block the others.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http.client import responses
from threading import Thread
from types import TracebackType
from typing import Self, cast

import h11

from flux_openai._http.library import httpx
from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import (
    NEVER_SENT,
    Reply,
    body_pieces,
    error_response,
    raw_headers,
    status_error,
)
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["MAX_BODY", "MAX_HEAD", "Server"]

MAX_HEAD = 64 * 1024
"""The largest head of a request in bytes."""

MAX_BODY = 64 * 1024 * 1024
"""The largest body of a request in bytes: enough for the 32 MiB of images that a client sends as base64."""

_PIECE = 64 * 1024

# With the default of 100, a burst of test clients fills the accept queue, and the others retry a second later.
_BACKLOG = 1024

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1
"""Seconds until connections are accepted again, after the process had no file descriptor or memory for one."""

_Wait = Callable[[float], Awaitable[object]]


class Server:
    """An HTTP server in its own thread, from its construction until `close` or the end of a `with` block.

    Transport faults break the connection: "reset" after the request was read, "truncate" half way through the body,
    "garbage" after bytes that are not HTTP; "timeout" sends nothing until the client closes. Faults before sending
    ("connect", "dns", …) cannot be emulated on a real connection, since the request has already arrived: they become a
    "reset", but are not billed.

    Args:
        answer: Returns the reply to a request: `Emulator.answer`.
        host: A loopback address.
        port: 0 to 65535; 0 picks a free one.
        wait: An async function that waits for the seconds of a reply's `delay` and `drip`.

    Attributes:
        port: The port.
        base_url: The base URL for clients, such as "http://127.0.0.1:8123/v1".

    Raises:
        ConfigurationError: `host` is not a loopback address, or the port is not available.
    """

    def __init__(
        self,
        answer: Callable[[httpx.Request], Reply],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        wait: _Wait = asyncio.sleep,
    ) -> None:
        self._answer = answer
        self._wait = wait
        self._socket = _listen(host, port=port)
        address: tuple[str, int] = self._socket.getsockname()[:2]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.port: int = address[1]
        self.base_url: str = f"http://{name}:{self.port}/v1"
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._loop = asyncio.SelectorEventLoop()  # on Windows too: only this kind can watch the listening socket
        self._stop = asyncio.Event()
        self._thread = Thread(target=self._run, name=f"emulator on port {self.port}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, abort open connections, and end the thread. Closing twice does no harm."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        # Not asyncio.start_server: if it is closed during an accept, it leaks the new connection.
        with self._socket:
            self._watch()
            await self._stop.wait()
            self._loop.remove_reader(self._socket)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports are closed in the next round of the loop

    def _watch(self) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
            connection.settimeout(0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:  # the client has gone again, or there is no room
            if error.errno in _NO_ROOM:
                # The connection stays in the queue, so the socket stays readable: without a pause the loop would spin.
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_PAUSE, self._watch)
            return
        task = self._loop.create_task(self._attend(connection))
        self._tasks[task] = connection
        task.add_done_callback(lambda done: self._tasks.pop(done).close())

    async def _attend(self, connection: socket.socket) -> None:
        """Answer the requests of one connection until it ends."""
        # The client may disconnect at any time; that is no error of the server.
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                unread, keep_alive = b"", True
                while keep_alive:
                    try:
                        received = await _receive(reader, writer, unread=unread, origin=self.base_url[:-3])
                    except _BadRequestError as bad:
                        await _turn_away(bad, reader, writer)
                        break
                    unread = received.unread
                    reply = self._answer(received.request)
                    if reply.delay > 0:
                        await self._wait(reply.delay)
                    keep_alive = await _send(reply, received, reader, writer, wait=self._wait)
                writer.close()
                await writer.wait_closed()
            finally:
                writer.transport.abort()


def _listen(host: str, *, port: int) -> socket.socket:
    """A listening socket. Raises ConfigurationError."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        rule = "must be an address of this machine alone: the emulator is not safe to expose to other machines"
        raise ConfigurationError.of(InvalidParam(param="host", value=host, rule=rule, nearest="127.0.0.1"))
    if not (is_whole(port) and 0 <= port <= 65_535):
        rule, nearest = "must be an int from 0 to 65535", 65_535 if is_whole(port) and port > 0 else 0
        raise ConfigurationError.of(InvalidParam(param="port", value=port, rule=rule, nearest=nearest))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        rule = f"cannot be listened on: {(error.strerror or str(error)).lower()}; 0 picks a free one"
        raise ConfigurationError.of(InvalidParam(param="port", value=port, rule=rule, nearest=0)) from error
    server.settimeout(0)
    return server


@dataclass(frozen=True, kw_only=True)
class _Received:
    """A complete request, and the bytes after it, which belong to the next one."""

    request: httpx.Request
    keep_alive: bool
    unread: bytes


class _BadRequestError(Exception):
    """The client sent a malformed or too large request. It is answered here, and the emulator does not record it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.error = replace(status_error(status), message=message)


async def _receive(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, unread: bytes, origin: str
) -> _Received:
    """The next request. Raises EOFError if the client closes before its end, and _BadRequestError."""
    # A new parser for each request: h11 refuses to parse the next one until it has written the answer itself.
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    if unread:
        parser.receive_data(unread)
    head = cast(h11.Request, await _next_event(parser, reader, writer))  # it comes before everything else
    _check_head(head)
    body = bytearray()
    while isinstance(event := await _next_event(parser, reader, writer), h11.Data):
        body += event.data
        if len(body) > MAX_BODY:
            raise _too_large()
    return _Received(
        request=_make_request(head, body=bytes(body), origin=origin),
        keep_alive=parser.their_state is not h11.MUST_CLOSE,
        unread=parser.trailing_data[0],
    )


async def _next_event(parser: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> h11.Event:
    """The next part of a request, read from the connection as far as it is needed."""
    while True:
        if parser.their_state is h11.IDLE:
            _check_unread_head(parser.trailing_data[0])
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            # After a colon the message quotes the line, which may hold the key.
            message = f"This is not an HTTP/1.1 request ({str(error).partition(':')[0]}); https:// is not supported."
            raise _BadRequestError(error.error_status_hint, message) from error
        if isinstance(event, h11.Event):  # else it is h11.NEED_DATA
            return event
        if parser.they_are_waiting_for_100_continue:
            writer.write(parser.send(h11.InformationalResponse(status_code=100, reason=b"Continue", headers=[])))
        data = await reader.read(_PIECE)
        if not data:
            raise EOFError
        parser.receive_data(data)


_BLANKS = re.compile(rb"[ \t]{256}")


def _check_unread_head(received: bytes) -> None:
    """Refuse a head that is too large, or that would take h11 too long to parse."""
    head = received.partition(b"\r\n\r\n")[0]
    # h11 checks the size only of an incomplete head, so its limit would depend on how the bytes are split.
    if len(head) > MAX_HEAD:
        raise _BadRequestError(431, f"The head of the request has more than {MAX_HEAD // 1024} KiB.")
    # h11's header pattern takes quadratic time on a run of blanks: 64 KiB of them take a minute.
    if _BLANKS.search(head):
        raise _BadRequestError(400, "The head of the request has more than 255 blanks in a row.")


def _check_head(head: h11.Request) -> None:
    """Refuse other versions of HTTP, ambiguous framing and too large bodies, which h11 accepts."""
    if not head.http_version.startswith(b"1."):
        raise _BadRequestError(505, "Only HTTP/1.1 is supported.")
    framing = {name: value for name, value in head.headers if name in (b"content-length", b"transfer-encoding")}
    # h11 prefers Transfer-Encoding; a proxy may prefer Content-Length and see other requests (request smuggling).
    if len(framing) == 2:
        raise _BadRequestError(400, "A body has a Content-Length or a Transfer-Encoding, not both.")
    if int(framing.get(b"content-length", b"0")) > MAX_BODY:
        raise _too_large()


def _too_large() -> _BadRequestError:
    return _BadRequestError(413, f"The body has more than {MAX_BODY // 2**20} MiB, the limit here.")


_AUTHORITY = re.compile(r"https?://[^/?]*", re.IGNORECASE)


def _make_request(head: h11.Request, *, body: bytes, origin: str) -> httpx.Request:
    """The request for the emulator.

    The emulator builds links from its URL, so that is on `origin`; or on `localhost`, if the Host header says so.
    """
    local = f"localhost:{origin.rpartition(':')[2]}"
    if (b"host", local.encode("ascii")) in [(name, value.lower()) for name, value in head.headers]:
        origin = f"http://{local}"
    path = _AUTHORITY.sub("", head.target.decode("ascii"), count=1)
    if not path.startswith("/"):
        raise _BadRequestError(400, "The target of a request must be a path.")
    try:
        url = httpx.URL(f"{origin}{path}")
    except httpx.InvalidURL as error:
        raise _BadRequestError(400, "The target of the request is not a valid path.") from error
    return httpx.Request(head.method.decode("ascii"), url, headers=list(head.headers), content=body)


async def _turn_away(bad: _BadRequestError, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reply = error_response(bad.error, request_id="none")
    writer.write(_head_of(reply, keep_alive=False) + reply.body)
    writer.write_eof()
    # Closing with unread bytes would reset the connection, and the client might not receive the answer.
    await _read_to_end(reader)


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(_PIECE):
        pass


def _head_of(reply: Reply, *, keep_alive: bool) -> bytes:
    """The interim answers and the head of the reply, with the length of the whole body even if it is truncated."""
    headers = [*raw_headers(reply), *([] if keep_alive else [(b"connection", b"close")])]
    status_line = f"HTTP/1.1 {reply.status} {responses.get(reply.status, '')}".encode()
    head = b"\r\n".join([status_line, *map(b": ".join, headers), b"", b""])
    return b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * reply.hints + head


async def _send(
    reply: Reply, received: _Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, wait: _Wait
) -> bool:
    """Send a reply, or break the connection by its fault; returns whether the connection stays open."""
    if reply.error == "timeout":
        await _read_to_end(reader)
        return False
    if reply.error == "reset" or reply.error in NEVER_SENT:
        # With SO_LINGER of 0 seconds, closing sends a RST.
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        return False
    if reply.error == "garbage" and reply.status == 0:
        writer.write(reply.body)
        return False
    closing = "close" in map(str.strip, reply.headers.get("connection", "").lower().split(","))
    keep_alive = received.keep_alive and reply.error is None and not closing
    head, pieces = _head_of(reply, keep_alive=keep_alive), body_pieces(reply, method=received.request.method)
    if reply.drip or not pieces:
        writer.write(head)
    else:
        # Head and body in one write: otherwise a small second packet would wait for a delayed acknowledgement.
        pieces[0] = memoryview(head + pieces[0])
    for piece in pieces:
        if reply.drip:
            await wait(reply.drip / len(pieces))
        writer.write(piece)
        await writer.drain()
    await writer.drain()
    return keep_alive
