"""The whole request was sent, and no whole answer came back: whether it is billed, nobody here can know."""

from __future__ import annotations

import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai import Emulator, FluxOpenAI
from flux_openai.errors import FluxConnectionError, FluxError, FluxStatusError, FluxTimeoutError
from tests.promises.money.fakes import JSON, OK, answer_bytes, head, read_and_close, read_and_hang, read_and_reset

if TYPE_CHECKING:
    from flux_openai._http.library import httpx
    from tests.promises.money.conftest import MakeServer, OpenClient
    from tests.promises.money.fakes import Connection, Step

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
PART = b'{"created": 1, "data": [{"url": "https://images.example/1.png"}'
SOON = openai.Timeout(30, read=0.1)


def reset_in_body(connection: Connection) -> None:
    connection.read()
    connection.send(head(Content_Length=1000) + PART)
    connection.reset()


def hang_in_head(connection: Connection) -> None:
    connection.read()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-")
    connection.hang()


def hang_in_body(connection: Connection) -> None:
    connection.read()
    connection.send(head(Content_Length=1000) + PART)
    connection.hang()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault of every attempt; `raw` is the part of the answer that the error keeps, and None if that may vary."""

    step: Step
    raw: bytes | None = b""
    request_id: str | None = None
    late: bool = False


def cut(step: Step, raw: bytes = b"") -> Row:
    """An answer that breaks off in its body."""
    return Row(step=step, raw=raw, request_id="req-header")


UNKNOWN = {
    "read time-out": Row(step=read_and_hang, late=True),
    "read time-out in the head": Row(step=hang_in_head, late=True),
    "read time-out in the body": Row(step=hang_in_body, late=True, raw=PART, request_id="req-header"),
    "closed": Row(step=read_and_close),
    "closed in the head": Row(step=b"HTTP/1.1 200 OK\r\nContent-"),
    "reset": Row(step=read_and_reset),
    "garbage": Row(step=b"nonsense\r\n\r\n"),
    "garbage for a status": Row(step=b"HTTP/1.1 two hundred\r\n\r\n"),
    "garbage for a header": Row(step=b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
    "a huge header": Row(step=head(X_Huge="x" * 300_000)),
    "garbage for a length": Row(step=head(Content_Length="ten")),
    "garbage for a transfer encoding": Row(step=head(Transfer_Encoding="rot13")),
    "hints and no answer": Row(step=b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "truncated": cut(head(Content_Length=1000) + PART, PART),
    "truncated at once": cut(head(Content_Length=1000)),
    "truncated in chunks": cut(head(Transfer_Encoding="chunked") + b'5\r\n{"dat\r\n', b'{"dat'),
    "a bad chunk": cut(head(Transfer_Encoding="chunked") + b"zz\r\n{}\r\n"),
    "a chunk that is too long": cut(head(Transfer_Encoding="chunked") + b"2\r\n{}}}\r\n0\r\n\r\n", b"{}"),
}


@both_sides
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_lost_answer_is_not_paid_for_again(serve: MakeServer, open_client: OpenClient, name: str) -> None:
    """One POST, billing unknown, and what had come is kept."""
    row = UNKNOWN[name]
    server = serve(row.step)
    error = open_client(server.base_url, timeout=SOON if row.late else None).fails()
    assert len(server.stop().posts) == 1
    assert type(error) is (FluxTimeoutError if row.late else FluxConnectionError)
    assert isinstance(error, openai.APITimeoutError if row.late else openai.APIConnectionError)
    assert isinstance(error, FluxConnectionError)
    assert error.billing == "unknown"
    assert error.attempts == 1
    assert error.retry_after is None
    assert error.raw == row.raw
    assert error.request_id == row.request_id
    assert "may have been carried out and billed" in str(error)


@both_sides
def test_a_reset_in_the_body_is_a_lost_answer(serve: MakeServer, open_client: OpenClient) -> None:
    """A reset may take with it what was under way; the POST is not repeated, and the rest is as for a cut answer."""
    server = serve(reset_in_body)
    error = open_client(server.base_url).fails()
    assert type(error) is FluxConnectionError
    assert error.billing == "unknown"
    assert error.attempts == len(server.stop().posts) == 1


@both_sides
@pytest.mark.parametrize("name", ["read time-out", "closed", "reset", "truncated"])
def test_an_allowed_duplicate_ends_with_the_first_whole_answer(
    serve: MakeServer, open_client: OpenClient, name: str
) -> None:
    """With "allowed", two lost answers and a good one are three POSTs under one key."""
    row = UNKNOWN[name]
    server = serve(row.step, row.step, OK)
    timeout = openai.Timeout(30, read=0.3) if row.late else None
    response = open_client(server.base_url, timeout=timeout, retry={"duplicates": "allowed"}).generate()
    assert response.attempts == len(server.stop().posts) == 3
    assert len(set(server.keys)) == 1


@both_sides
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_that_ended_while_idle_is_replaced(
    serve: MakeServer, open_client: OpenClient, *, reset: bool
) -> None:
    """The second call finds the kept connection closed, opens another and is not an attempt more."""
    answered = threading.Event()

    def answer_and_end(connection: Connection) -> None:
        connection.read()
        connection.send(answer_bytes(OK))
        answered.wait(10)
        if reset:
            connection.reset()

    server = serve(answer_and_end, OK)
    caller = open_client(server.base_url)
    assert caller.generate().attempts == 1
    answered.set()
    assert server.ended.acquire(timeout=10)
    assert caller.generate().attempts == 1
    assert len(server.stop().posts) == 2
    assert server.connections == 2


@both_sides
@pytest.mark.parametrize(("duplicates", "attempts"), [("never", 1), ("unlikely", 1), ("allowed", 4)])
@pytest.mark.parametrize("step", [read_and_close, read_and_reset])
def test_a_kept_connection_that_breaks_after_the_request_is_a_lost_answer(
    serve: MakeServer, open_client: OpenClient, step: Step, duplicates: str, attempts: int
) -> None:
    """The second request was whole when the connection broke, so it may be billed, and is not sent again unasked."""
    server = serve(OK, step)
    caller = open_client(server.base_url, retry={"duplicates": duplicates})
    assert caller.generate().attempts == 1
    error = caller.fails()
    assert type(error) is FluxConnectionError
    assert error.billing == "unknown"
    assert error.attempts == attempts
    assert len(server.stop().posts) == 1 + attempts
    assert server.connections == attempts


@both_sides
@pytest.mark.parametrize("hints", [3, 1000])
def test_early_hints_are_skipped(serve: MakeServer, open_client: OpenClient, hints: int) -> None:
    """Answers before the answer do not count, and no limit on them loses an image."""
    server = serve(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * hints + answer_bytes(OK))
    assert open_client(server.base_url).generate().attempts == 1
    assert len(server.stop().posts) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("cross_origin", [False, True], ids=["same-origin", "cross-origin"])
@pytest.mark.parametrize("follow", [None, True], ids=["default", "client-follows"])
def test_redirects_are_not_followed(
    serve: MakeServer, open_client: OpenClient, status: int, *, cross_origin: bool, follow: bool | None
) -> None:
    """Key and prompt go nowhere else: one POST here, nothing there, billing none, whatever the HTTP client would do."""
    elsewhere = serve(OK)
    target = f"{elsewhere.base_url}/images/generations" if cross_origin else "/v1/elsewhere"
    server = serve((status, {**JSON, "Location": target}, b""))
    http = {} if follow is None else {"follow_redirects": follow}
    error = open_client(server.base_url, http=http, retry={"duplicates": "allowed"}).fails()
    assert type(error) is FluxStatusError
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status
    assert error.billing == "none"
    assert error.attempts == 1
    assert error.request_id == "req-header"
    assert "redirect is not followed" in str(error)
    assert len(server.stop().requests) == 1
    assert elsewhere.stop().connections == 0


def test_an_answer_past_this_client_is_no_answer() -> None:
    """A subclass that fetches on its own takes the eyes off the wire; what it cost is then unknown, and said."""

    class Past(FluxOpenAI):
        def _send_request(self, request: httpx.Request, *, stream: bool, **_: Any) -> httpx.Response:  # noqa: ANN401
            return self._client.send(request, stream=stream)

    emulator = Emulator(pixels=64)
    client = Past(api_key="any", http_client=emulator.http_client())
    with pytest.raises(FluxError, match="past this client") as caught:
        client.images.generate(prompt="a fox")
    assert caught.value.billing == "unknown"
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert not any(name.endswith("_base_client.py") for name in frames)  # their locals hold the key
    assert emulator.bill.images == 1
