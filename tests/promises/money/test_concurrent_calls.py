"""Calls side by side, and calls through the SDK's raw wrappers: each is a call of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from flux_openai import FluxImagesResponse, InvalidParamsError
from flux_openai._http.library import httpx
from flux_openai.errors import FluxConnectionError, FluxRateLimitError
from tests.promises.money.fakes import BUSY, OK, through

if TYPE_CHECKING:
    from tests.promises.money.conftest import Caller, MakeServer, OpenClient, Side

both_sides = pytest.mark.parametrize("side", ["sync", "async"])


def answer_to_the_prompt(request: httpx.Request) -> httpx.Response:
    """A link with the prompt in it; a first attempt for a prompt that 5 divides is turned away."""
    prompt = json.loads(request.content)["prompt"]
    if int(prompt) % 5 == 0 and request.headers["x-stainless-retry-count"] == "0":
        return httpx.Response(429)
    return httpx.Response(200, json={"created": 1, "data": [{"url": f"https://images.example/{prompt}"}]})


EXPECTED = {number: (f"https://images.example/{number}", 1 if number % 5 else 2) for number in range(20)}


@pytest.mark.parametrize("side", ["async"])
def test_tasks_do_not_mix_up_their_results(open_client: OpenClient) -> None:
    """Twenty calls at once, every fifth with a retry: each gets the answer to its own prompt."""
    caller = open_client(http=through(answer_to_the_prompt))

    async def all_calls() -> list[FluxImagesResponse]:
        return [*await asyncio.gather(*(caller.images.generate(prompt=str(number)) for number in EXPECTED))]

    found: list[FluxImagesResponse] = caller.run(all_calls())
    assert {number: (each.data[0].url, each.attempts) for number, each in enumerate(found)} == EXPECTED


def test_threads_do_not_mix_up_their_results(open_client: OpenClient) -> None:
    """The same for twenty threads that share one sync client."""
    caller = open_client(http=through(answer_to_the_prompt))
    found: dict[int, tuple[str | None, int]] = {}

    def call(number: int) -> None:
        response = caller.generate(str(number))
        found[number] = (response.data[0].url, response.attempts)

    threads = [threading.Thread(target=call, args=(number,)) for number in EXPECTED]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == EXPECTED


def parsed_through(caller: Caller, side: Side, wrapper: str, prompt: str) -> tuple[int, Any, object]:
    """One call through `with_raw_response` or `with_streaming_response`: status, headers, and what it parses to."""
    result = getattr(caller.images, wrapper).generate(prompt=prompt)
    if wrapper == "with_raw_response":
        response = caller.run(result)
        return response.status_code, response.headers, response.parse()
    if side == "sync":
        with result as response:
            return response.status_code, response.headers, response.parse()

    async def read() -> tuple[int, Any, object]:
        async with result as response:
            return response.status_code, response.headers, await response.parse()

    parsed: tuple[int, Any, object] = caller.run(read())
    return parsed


@both_sides
@pytest.mark.parametrize("wrapper", ["with_raw_response", "with_streaming_response"])
def test_raw_and_streaming_calls_are_calls_too(
    serve: MakeServer, open_client: OpenClient, side: Side, wrapper: str
) -> None:
    """They are retried, parse to the same answer, and raise the same errors; what is invalid is not sent."""
    server = serve(BUSY, BUSY, OK, *[BUSY] * 4, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    caller = open_client(server.base_url)
    with pytest.raises(InvalidParamsError):
        parsed_through(caller, side, wrapper, "")
    status, headers, parsed = parsed_through(caller, side, wrapper, "fox")
    assert status == 200
    assert headers["x-request-id"] == "req-header"
    assert isinstance(parsed, FluxImagesResponse)
    assert parsed.attempts == 3
    assert parsed.data[0].url == "https://images.example/1.png"
    with pytest.raises(FluxRateLimitError):
        parsed_through(caller, side, wrapper, "fox")
    with pytest.raises(FluxConnectionError):
        parsed_through(caller, side, wrapper, "fox")
    keys = server.stop().keys
    assert len(keys) == 3 + 4 + 1
    assert len(set(keys[:3])) == len(set(keys[3:7])) == 1
    assert len(set(keys)) == 3
