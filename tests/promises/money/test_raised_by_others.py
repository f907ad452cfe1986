"""What hooks, transports, key functions and event loops raise is an error of this package, with the true bill."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.errors import FluxConnectionError, FluxError, FluxRateLimitError, InvalidParamsError
from tests.promises.money.fakes import BUSY, JSON, OK, Answers, read_and_close, through

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.money.conftest import MakeServer, OpenClient, Side
    from tests.promises.money.fakes import Answer

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
BAD: Answer = (400, JSON, {"error": {"message": "no"}})


class OwnError(Exception):
    """An exception of the user's."""


RAISED = [ValueError("own"), KeyError("own"), OSError(5, "own"), RuntimeError("Event loop is closed"), OwnError("own")]


def raising(error: Exception, side: Side) -> Callable[[object], object]:
    """A hook that raises this."""

    def hook(_: object) -> object:
        raise error

    async def async_hook(_: object) -> object:
        raise error

    return hook if side == "sync" else async_hook


@dataclass(frozen=True)
class Case:
    """Where an exception is raised, what the service answers before, and what the call then cost."""

    when: str
    answer: Answer
    billing: str
    posts: int


CASES = {
    "request hook": Case("request", OK, "none", 0),
    "response hook": Case("response", OK, "unknown", 1),
    "response hook of a 400": Case("response", BAD, "none", 1),
    "response hook of a 500": Case("response", (500, JSON, {}), "unknown", 1),
}


@both_sides
@pytest.mark.parametrize("raised", RAISED, ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_what_a_hook_raises_is_the_cause_of_ours(
    serve: MakeServer, open_client: OpenClient, side: Side, name: str, raised: Exception
) -> None:
    """The error says what was paid by where the hook ran, is not retried, names the class and keeps the exception."""
    case, server = CASES[name], serve(CASES[name].answer)
    http = {"event_hooks": {case.when: [raising(raised, side)]}}
    error = open_client(server.base_url, http=http, retry={"duplicates": "allowed"}).fails()
    assert type(error) is FluxConnectionError
    assert (error.billing, error.attempts) == (case.billing, 1)
    assert error.__cause__ is raised
    assert type(raised).__name__ in str(error)
    assert raised.__traceback__ is None
    assert "Raised at:" in raised.__notes__[-1]
    assert len(server.stop().posts) == case.posts


@both_sides
@pytest.mark.parametrize(("when", "billing"), [("request", "none"), ("response", "unknown")])
def test_without_a_watched_transport_a_hook_is_judged_by_its_place(
    open_client: OpenClient, side: Side, when: str, billing: str
) -> None:
    """Behind a transport that tells nothing, a client with hooks for responses is taken to have sent the request."""
    answers = Answers(OK)
    http = {**through(answers), "event_hooks": {when: [raising(OwnError(), side)]}}
    error = open_client(http=http, retry={"duplicates": "allowed"}).fails()
    assert error.billing == billing
    assert isinstance(error.__cause__, OwnError)
    assert len(answers.requests) <= (0 if billing == "none" else 4)


@both_sides
@pytest.mark.parametrize(
    "expected",
    [
        (BUSY, openai.RateLimitError, "none", 4),
        ((503, JSON, {}), openai.InternalServerError, "unknown", 4),
        ((401, JSON, {}), openai.AuthenticationError, "none", 1),
        ((504, JSON, {}), openai.InternalServerError, "unknown", 1),
    ],
)
@pytest.mark.parametrize("network", ["port", "mock"])
def test_raise_for_status_in_a_hook_is_the_status(
    serve: MakeServer, open_client: OpenClient, side: Side, network: str, *, expected: tuple[Any, ...]
) -> None:
    """A hook that calls `raise_for_status` changes neither the class, nor the bill, nor the retries."""

    def hook(response: httpx.Response) -> None:
        response.raise_for_status()

    async def async_hook(response: httpx.Response) -> None:
        response.raise_for_status()

    answer, kind, billing, posts = expected
    server, answers = serve(answer), Answers(answer)
    http: dict[str, Any] = {"event_hooks": {"response": [hook if side == "sync" else async_hook]}}
    if network == "mock":
        http |= through(answers)
    error = open_client(server.base_url, http=http).fails()
    assert isinstance(error, kind)
    assert (error.billing, error.attempts) == (billing, posts)
    assert type(error.__cause__).__name__ == "HTTPStatusError"
    assert len(server.stop().posts) + len(answers.requests) == posts


@both_sides
@pytest.mark.parametrize("where", ["request", "response"])
def test_an_error_of_the_sdk_in_a_hook_is_its_status(open_client: OpenClient, side: Side, where: str) -> None:
    """A hook that raises an error of the SDK for a 429 is retried as one, and so is whatever stands in for the SDK."""
    answer = httpx.Response(429, request=httpx.Request("POST", "https://x.example/v1"))
    raised = openai.RateLimitError("busy", response=answer, body=None)
    error = open_client(http={**through(Answers(OK)), "event_hooks": {where: [raising(raised, side)]}}).fails()
    assert (type(error), error.billing, error.attempts) == (FluxRateLimitError, "none", 4)


@both_sides
def test_a_wait_that_a_hooked_answer_asks_for_is_kept(open_client: OpenClient, side: Side) -> None:
    """The Retry-After of a 429 that a hook refused is on the error."""
    raised = httpx.HTTPStatusError(
        "429",
        request=httpx.Request("POST", "https://x.example/v1"),
        response=httpx.Response(429, headers={"Retry-After": "61"}, json={"error": {"code": "insufficient_quota"}}),
    )
    error = open_client(http={**through(Answers(OK)), "event_hooks": {"response": [raising(raised, side)]}}).fails()
    assert type(error) is FluxRateLimitError
    assert (error.retry_after, error.code, error.attempts) == (61, "insufficient_quota", 1)


@both_sides
@pytest.mark.parametrize("network", ["port", "mock"])
def test_a_closed_client_has_sent_nothing(open_client: OpenClient, network: str) -> None:
    """A call of a closed client is free, is made once, and says why."""
    answers = Answers(OK)
    caller = open_client(http=through(answers) if network == "mock" else None, retry={"duplicates": "allowed"})
    caller.run(caller.client.close())
    error = caller.fails()
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "none", 1)
    assert "has been closed" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert answers.requests == []


@both_sides
@pytest.mark.parametrize("raised", RAISED, ids=repr)
def test_what_a_transport_raises_may_have_been_paid(open_client: OpenClient, raised: Exception) -> None:
    """Behind a transport that nobody can watch, an exception that proves nothing is "unknown", and not retried."""
    answers = Answers(raised)
    error = open_client(http=through(answers)).fails()
    assert (type(error), error.billing, error.attempts) == (FluxConnectionError, "unknown", 1)
    assert error.__cause__ is raised
    assert len(answers.requests) == 1


@both_sides
@pytest.mark.parametrize("raised", [ConnectionRefusedError(111, "refused"), socket.gaierror(-2, "none")])
def test_a_refused_connection_is_free_whoever_says_so(open_client: OpenClient, raised: Exception) -> None:
    """Python's own exceptions for a connection that was not made are as good as the HTTP library's."""
    error = open_client(http=through(Answers(raised))).fails()
    assert (error.billing, error.attempts) == ("none", 4)


@both_sides
def test_a_function_for_the_key_that_raises_has_sent_nothing(serve: MakeServer, open_client: OpenClient) -> None:
    """What the user's own function raises is the cause of an error that says that nothing was sent."""

    def key() -> str:
        raise KeyError("vault")

    server = serve(OK)
    options: dict[str, Any] = {"api_key": key}
    error = open_client(server.base_url, **options).fails()
    assert (type(error), error.billing, error.attempts) == (FluxError, "none", 1)
    assert isinstance(error.__cause__, KeyError)
    assert server.stop().connections == 0


def test_a_key_that_becomes_invalid_hides_no_bill() -> None:
    """The error about the key of a second attempt says that the first may have been billed."""
    emulator, keys = Emulator(), iter(["sk-good", "sk bad"])
    emulator.fail(status=500)
    client = emulator.client(api_key=lambda: next(keys), retry=RetryPolicy(waiting=False))
    with pytest.raises(FluxError) as caught:
        client.images.generate(prompt="a fox")
    assert (caught.value.billing, caught.value.attempts) == ("unknown", 1)
    assert "earlier attempt may have been" in str(caught.value)


def test_images_that_came_before_something_was_raised_are_on_the_error() -> None:
    """A subclass that raises after the answer was read loses no image: it is in `.partial`, and paid for."""

    class Strict(FluxOpenAI):
        def post(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # the SDK's, passed on unread
            super().post(*args, **kwargs)
            raise OwnError

    emulator = Emulator(pixels=64)
    client = Strict(api_key="k", http_client=emulator.http_client())
    with pytest.raises(FluxError) as caught:
        client.images.generate(prompt="a fox", response_format="b64_json")
    assert caught.value.billing == "paid"
    assert caught.value.partial is not None
    assert caught.value.partial.data[0].read()
    assert isinstance(caught.value.__cause__, OwnError)


class Again(httpx.HTTPTransport):
    """A transport that sends once more by itself, to a port where nobody listens."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return super().handle_request(request)
        except httpx.TransportError:
            request.url = httpx.URL("http://127.0.0.1:1/v1/images/generations")
            return super().handle_request(request)


def test_sent_stays_sent(serve: MakeServer, open_client: OpenClient) -> None:
    """A request that was lost whole is not called unsent because a transport's own retry found no connection."""
    server = serve(read_and_close)
    error = open_client(server.base_url, http={"transport": Again()}).fails()
    assert (error.billing, error.attempts) == ("unknown", 1)
    assert len(server.stop().posts) == 1


@both_sides
def test_retries_of_the_http_library_change_no_bill(serve: MakeServer, open_client: OpenClient, side: Side) -> None:
    """With `HTTPTransport(retries=2)` a lost request is "unknown" after one POST."""
    kind = httpx.HTTPTransport if side == "sync" else httpx.AsyncHTTPTransport
    server = serve(read_and_close)
    error = open_client(server.base_url, http={"transport": kind(retries=2)}).fails()
    assert (error.billing, error.attempts) == ("unknown", 1)
    assert len(server.stop().posts) == 1


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # nobody can close a connection of a closed loop
def test_a_client_in_a_second_event_loop_says_what_may_have_been_paid(serve: MakeServer) -> None:
    """The kept-alive connection of a loop that is closed takes the request, but nobody can read the answer."""

    def call(client: AsyncFluxOpenAI) -> object:
        async def run() -> object:
            return await client.images.generate(prompt="a fox")

        return asyncio.run(run())

    def call_twice(base_url: str) -> FluxError:
        client = AsyncFluxOpenAI(api_key="k", base_url=base_url, retry=RetryPolicy(waiting=False))
        call(client)
        with pytest.raises(FluxConnectionError, match="Event loop is closed") as caught:
            call(client)
        return caught.value.with_traceback(None)

    server = serve(OK)
    error = call_twice(server.base_url)
    assert (error.billing, error.attempts) == ("unknown", 1)
    assert len(server.stop().posts) == 2
    gc.collect()  # while the warnings are ignored


def test_a_split_call_outside_of_asyncio_is_refused() -> None:
    """Under another event loop (trio) `split` is refused before anything is sent."""
    emulator = Emulator()
    coroutine = emulator.async_client(split=True).images.generate(prompt="a fox", n=8)
    with pytest.raises(InvalidParamsError, match="asyncio"):
        coroutine.send(None)  # no event loop runs it, as none of asyncio's would
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    assert emulator.requests == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_what_ends_a_program_passes(open_client: OpenClient, stop: type[BaseException]) -> None:
    """An interruption is no failure of the call: it is neither caught nor turned into an error."""

    def interrupt(_: httpx.Request) -> httpx.Response:
        raise stop

    with pytest.raises(stop):
        open_client(http=through(interrupt)).generate()
