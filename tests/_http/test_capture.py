"""How far a request got, as the HTTP library's `trace` events tell it, and what is left of an exchange."""

import gc
from contextvars import Context, copy_context

import pytest

from flux_openai import Emulator
from flux_openai._http.capture import Exchange, Phase
from flux_openai._http.library import httpx

CONNECTING = (
    "connection.connect_tcp.started",
    "connection.connect_unix_socket.started",
    "connection.start_tls.started",
)
REACHED: dict[str, Phase] = {
    "http11.send_request_headers.started": "sending",
    "http11.send_request_body.complete": "sent",
    "http11.receive_response_headers.complete": "answering",
}


@pytest.mark.parametrize("step", CONNECTING)
def test_a_connection_that_begins_later_takes_nothing_back(step: str) -> None:
    """TCP, Unix socket or TLS: it counts before anything was sent, and never hides how far a request got already."""
    exchange, request = Exchange(key="k", path="/images/generations"), httpx.Request("POST", "https://h.example")
    exchange.attach(request)
    for begun, phase in {step: "connecting", **REACHED}.items():
        for event in (begun, step):
            request.extensions["trace"](event, {})
            assert exchange.phase == phase


def test_no_exchange_outlives_its_call() -> None:
    """It holds the whole body: in a cycle with its request, megabytes would stay until a garbage collection.

    The context of the call may be kept for longer; asyncio does so with that of a time-out, for example.
    """
    contexts = list[Context]()

    def key() -> str:
        contexts.append(copy_context())
        return "any"

    client = Emulator(pixels=64).client(api_key=key)
    gc.collect()
    gc.disable()
    try:
        before = [held for held in gc.get_objects() if type(held) is Exchange]  # of calls that other tests abandoned
        client.images.generate(prompt="a fox")
        assert [held for held in gc.get_objects() if type(held) is Exchange] == before
        assert contexts
    finally:
        gc.enable()
