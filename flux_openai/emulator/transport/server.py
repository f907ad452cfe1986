"""The second face of the emulator: HTTP/1.1 on a port of this machine, for programs in any language.

Requests are answered one after another in the order of their arrival, each as a whole, while any number of connections
is open; what has to wait, waits without holding up the others.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import Self

from flux_openai._http.library import httpx
from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.api.responses import NEVER_SENT, Reply, ServiceError, body_pieces, error_response
from flux_openai.emulator.transport.http1 import (
    MAX_BODY,
    MAX_HEAD,
    TOO_LARGE,
    Head,
    chunk_size,
    make_request,
    read_head,
    write_head,
)
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["Server"]

Answer = Callable[[httpx.Request], Reply]
Wait = Callable[[float], Awaitable[object]]

_HEAD_TOO_LARGE = ServiceError(
    status=431,
    code="request_header_fields_too_large",
    message=f"The head of the request has more than {MAX_HEAD // 1024} KiB.",
)
_NOT_HTTP = ServiceError(status=400, code="bad_request", message="This is not HTTP; https:// is not spoken here.")
_CHUNK_TOO_LONG = ServiceError(status=400, code="bad_request", message="A chunk is longer than it says.")
_PIECE = 64 * 1024

# A client that finds the queue full tries again a second later, and a burst of test clients fills a hundred places.
_BACKLOG = 1024

_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 0.1
"""Seconds after which connections are accepted again, when there was no room for one."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A request that has arrived whole."""

    request: httpx.Request
    keep_alive: bool


class Server:
    """`answer` on a port of this machine, from now until `close` or the end of a `with` block, in its own thread.

    Port 0 picks a free one; `wait` lets the seconds pass that an answer takes. What breaks below HTTP breaks the
    connection: "reset" after the request was read, "truncate" half way through the body, "garbage" after other bytes
    than HTTP, and "timeout" says nothing until the client goes. A request that has arrived cannot fail to be sent any
    more, so what breaks before that is a reset too, which no client can tell from "reset"; it is never billed.

    Raises ConfigurationError for a host that other machines can reach, and for a port that cannot be had.
    """

    def __init__(self, answer: Answer, *, host: str = "127.0.0.1", port: int = 0, wait: Wait = asyncio.sleep) -> None:
        self._answer = answer
        self._wait = wait
        self._socket = _listen(_loopback(host), port=_checked_port(port))
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
        """Stop listening, break off what is under way, and end the thread; closing twice does no harm."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        # Not asyncio's own server: one that is closed while it accepts loses the connections on their way in.
        with self._socket:
            self._resume()
            await self._stop.wait()
            self._loop.remove_reader(self._socket)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was just broken off is closed in the next turn

    def _resume(self) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
            connection.settimeout(0)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:  # else the client has gone again
            if error.errno in _FULL:
                # Whoever waits in the queue would be looked at again at once, and for ever.
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_PAUSE, self._resume)
            return
        task = self._loop.create_task(self._attend(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).close()

    async def _attend(self, connection: socket.socket) -> None:
        # The client may go at any time, and there is nobody to tell.
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(sock=connection, limit=MAX_HEAD)
            try:
                while await self._exchange(reader, writer):
                    pass
                writer.close()
                await writer.wait_closed()
            finally:
                writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether another may follow on this connection."""
        asked = await _receive(reader, writer, origin=self.base_url.removesuffix("/v1"))
        if isinstance(asked, ServiceError):
            await _turn_away(asked, reader, writer)
            return False
        reply = self._answer(asked.request)
        if reply.delay > 0:
            await self._wait(reply.delay)
        return await _send(reply, asked, reader, writer, wait=self._wait)


def _loopback(host: str) -> str:
    address = "127.0.0.1" if host == "localhost" else host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            return address
    rule = "must be an address of this machine alone, since nothing here is made to be reached from elsewhere"
    raise ConfigurationError.of(InvalidParam(param="host", value=host, rule=rule, nearest="127.0.0.1"))


def _checked_port(port: int) -> int:
    if is_whole(port) and 0 <= port <= 65_535:
        return port
    rule, nearest = "must be an int from 0 to 65535", 65_535 if is_whole(port) and port > 0 else 0
    raise ConfigurationError.of(InvalidParam(param="port", value=port, rule=rule, nearest=nearest))


def _listen(address: str, *, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fault = InvalidParam(
            param="port", value=port, rule=f"cannot be listened on: {reason}; 0 picks a free one", nearest=0
        )
        raise ConfigurationError(str(fault)) from error
    server.settimeout(0)
    return server


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, origin: str) -> _Asked | ServiceError:
    """The next request; raises EOFError if there is none any more."""
    first = await reader.readexactly(1)
    if not first.isalpha():
        return _NOT_HTTP  # or the first bytes of TLS, whose end could be waited for in vain
    try:
        head = read_head(first + await reader.readuntil(b"\r\n\r\n"))
    except asyncio.LimitOverrunError:
        return _HEAD_TOO_LARGE
    if isinstance(head, ServiceError):
        return head
    if head.expects_continue and head.length != 0:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(head, reader)
    request = body if isinstance(body, ServiceError) else make_request(head, body=body, origin=origin)
    return request if isinstance(request, ServiceError) else _Asked(request=request, keep_alive=head.keep_alive)


async def _read_body(head: Head, reader: asyncio.StreamReader) -> bytes | ServiceError:
    if head.length is not None:
        return await reader.readexactly(head.length)
    body = bytearray()
    while size := chunk_size(await _read_line(reader)):
        if isinstance(size, ServiceError):
            return size
        if len(body) + size > MAX_BODY:
            return TOO_LARGE
        body += await reader.readexactly(size)
        if await _read_line(reader) != b"\r\n":
            return _CHUNK_TOO_LONG
    while line := await _read_line(reader):  # trailers, which say nothing that is used here
        if line == b"\r\n":
            return bytes(body)
    return _HEAD_TOO_LARGE


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """A line with its end, or what there is of one that is too long or broken off."""
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        return b""


async def _turn_away(refusal: ServiceError, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reply = error_response(refusal, request_id="none")
    writer.write(write_head(reply, keep_alive=False) + reply.body)
    writer.write_eof()
    # To close on bytes that nobody has read would reset the connection, and with it the refusal.
    await _silence(reader)


async def _silence(reader: asyncio.StreamReader) -> None:
    while await reader.read(_PIECE):
        pass


async def _send(
    reply: Reply, asked: _Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, wait: Wait
) -> bool:
    """Deliver a reply in the way it asks for; returns whether another request may follow."""
    if reply.error == "timeout":
        await _silence(reader)
        return False
    if reply.error == "reset" or reply.error in NEVER_SENT:
        _reset(writer)
        return False
    if reply.error == "garbage" and reply.status == 0:
        writer.write(reply.body)
        return False
    keep_alive = asked.keep_alive and reply.error is None and not _says_close(reply)
    head, pieces = write_head(reply, keep_alive=keep_alive), body_pieces(reply, method=asked.request.method)
    if reply.drip or not pieces:
        writer.write(head)
    else:
        # In one piece with what follows: a small packet after another waits for an acknowledgement that is in no hurry.
        pieces[0] = memoryview(head + pieces[0])
    for piece in pieces:
        if reply.drip:
            await wait(reply.drip / len(pieces))
        writer.write(piece)
        await writer.drain()
    await writer.drain()
    return keep_alive


def _says_close(reply: Reply) -> bool:
    return "close" in map(str.strip, reply.headers.get("connection", "").lower().split(","))


def _reset(writer: asyncio.StreamWriter) -> None:
    # To linger for no time at all turns closing into a reset.
    at_once = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    writer.transport.abort()
