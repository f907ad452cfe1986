"""The head of an answer comes in time, and to the request that it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai._http import capture
from flux_openai.errors import FluxConnectionError, FluxTimeoutError
from tests.promises.money.fakes import JSON, OK, answer_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import MakeServer, OpenClient
    from tests.promises.money.fakes import Connection

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
HEAD = b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 5000 + b"\r\n\r\n"


def drip(connection: Connection) -> None:
    """Read the request, and send a head that takes minutes, a byte at a time."""
    connection.read()
    connection.drip(HEAD, 0.02)


def drip_later(connection: Connection) -> None:
    """Answer one request, and drip the head of the answer to the next over the same connection."""
    connection.read()
    connection.send(answer_bytes(OK))
    connection.has_request()
    drip(connection)


@both_sides
@pytest.mark.parametrize(("step", "calls"), [(drip, 0), (drip_later, 1)], ids=["new", "kept alive"])
@pytest.mark.parametrize("certificate", [None, "good.pem"], ids=["plain", "TLS"])
def test_a_dripped_head_ends_in_time(  # noqa: PLR0917  # the parameters of three tables
    serve: MakeServer,
    open_client: OpenClient,
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[Connection], None],
    calls: int,
    certificate: str | None,
) -> None:
    """However often a byte comes, the head has as many read time-outs as a body: then the call may have been paid."""
    monkeypatch.setattr(capture, "BODY_TIME", 0.2 / 60)
    server = serve(step, certificate=certificate)
    caller = open_client(server.base_url, timeout=openai.Timeout(60))
    for _ in range(calls):
        caller.generate()
    error = caller.fails()
    assert type(error) is FluxTimeoutError
    assert (error.billing, error.attempts) == ("unknown", 1)
    assert "timed out" in str(error)
    assert (len(server.stop().posts), server.connections) == (calls + 1, 1)


@both_sides
def test_a_slow_head_without_a_time_out_is_waited_for(serve: MakeServer, open_client: OpenClient) -> None:
    """Without a read time-out there is no limit for the head either."""
    server = serve(lambda c: (c.read(), c.drip(answer_bytes(OK), 0.001)))
    assert open_client(server.base_url, timeout=openai.Timeout(None)).generate().data


def surplus(connection: Connection) -> None:
    """Answer the first request twice at once, and each later one by its prompt."""
    connection.read()
    connection.send(answer_bytes(OK) + answer_bytes((200, JSON, {"data": [{"url": "https://x.example/stale.png"}]})))
    while connection.has_request():
        connection.read()
        connection.send(answer_bytes(OK))


@both_sides
@pytest.mark.parametrize("certificate", [None, "good.pem"], ids=["plain", "TLS"])
def test_a_surplus_answer_is_not_the_answer_to_the_next_call(
    serve: MakeServer, open_client: OpenClient, certificate: str | None
) -> None:
    """What was there before the request was sent is refused, and the connection is not used again."""
    server = serve(surplus, certificate=certificate)
    caller = open_client(server.base_url)
    urls: list[Any] = [caller.generate().data[0].url]
    error = caller.fails()
    assert type(error) is FluxConnectionError
    assert (error.billing, error.attempts) == ("unknown", 1)
    assert "before the request was sent" in str(error.__cause__)
    urls.append(caller.generate().data[0].url)
    assert "https://x.example/stale.png" not in urls
    assert (len(server.stop().posts), server.connections) == (3, 2)
