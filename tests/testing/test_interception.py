"""The fixture `flux_emulator` and code under test that makes its own clients: nothing of it leaves this process."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from threading import Thread
from typing import cast

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, AsyncOpenAI, Emulator, FluxOpenAI, OpenAI, RetryPolicy, adapt
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS

pytestmark = pytest.mark.usefixtures("elsewhere")

SERVICE = "https://api.umodelverse.ai/v1"
AT_IMPORT = OpenAI(api_key="sk-of-the-user")
ASYNC_AT_IMPORT = AsyncOpenAI(api_key="sk-of-the-user")


class Leak(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A transport of the user's own, which would send."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url} leaves")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url} leaves")


class OwnWay(httpx.Client):
    """A client of the user's own, which would send in another way."""

    def send(self, request: httpx.Request, **_: object) -> httpx.Response:
        raise AssertionError(f"{request.method} {request.url} leaves")


CLIENTS: Mapping[str, Callable[[], openai.OpenAI]] = {
    "OpenAI": OpenAI,
    "FluxOpenAI": FluxOpenAI,
    "key": lambda: OpenAI(api_key="sk-of-the-user"),
    "key function": lambda: OpenAI(api_key=lambda: "sk-of-the-user"),
    "service": lambda: OpenAI(base_url=SERVICE),
    "plain http": lambda: OpenAI(base_url="http://gateway.example:8080/flux/v1/", allow_http=True),
    "adapted": lambda: adapt(openai.OpenAI(api_key="sk-of-the-user", base_url=SERVICE)),
    "copy": lambda: OpenAI().with_options(timeout=7),
    "copy with another address": lambda: OpenAI().copy(base_url=SERVICE),
    "made at import": lambda: AT_IMPORT,
    "copy of one made at import": lambda: AT_IMPORT.with_options(max_retries=3),
    "HTTP client": lambda: OpenAI(http_client=httpx.Client()),
    "HTTP client of the SDK": lambda: OpenAI(http_client=openai.DefaultHttpxClient()),
    "HTTP client of a subclass": lambda: OpenAI(http_client=OwnWay()),
    "transport": lambda: OpenAI(http_client=httpx.Client(transport=Leak())),
    "mock transport": lambda: OpenAI(http_client=httpx.Client(transport=httpx.MockTransport(Leak().handle_request))),
    "mounts": lambda: OpenAI(http_client=httpx.Client(mounts={"all://": Leak()})),
    "proxy": lambda: OpenAI(http_client=httpx.Client(proxy="http://proxy.example:3128")),
    "assigned address": lambda: with_address(OpenAI(), SERVICE),
}

ASYNC_CLIENTS: Mapping[str, Callable[[], openai.AsyncOpenAI]] = {
    "AsyncOpenAI": AsyncOpenAI,
    "AsyncFluxOpenAI": AsyncFluxOpenAI,
    "service": lambda: AsyncOpenAI(base_url=SERVICE),
    "adapted": lambda: adapt(openai.AsyncOpenAI(api_key="sk-of-the-user", base_url=SERVICE)),
    "copy": lambda: AsyncOpenAI().with_options(timeout=7),
    "made at import": lambda: ASYNC_AT_IMPORT,
    "HTTP client": lambda: AsyncOpenAI(http_client=httpx.AsyncClient()),
    "transport": lambda: AsyncOpenAI(http_client=httpx.AsyncClient(transport=Leak())),
    "mounts": lambda: AsyncOpenAI(http_client=httpx.AsyncClient(mounts={"all://": Leak()})),
}


def with_address(client: OpenAI, address: str) -> OpenAI:
    client.base_url = address
    return client


@pytest.fixture
def elsewhere(flux_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, blocked_network: None) -> Iterator[None]:
    """A service on this machine at MODELVERSE_BASE_URL, which nobody may connect to, as to no other machine."""
    connections: list[object] = []

    def refuse() -> None:
        with suppress(OSError):
            while True:
                connection, address = server.accept()
                connections.append(address)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("MODELVERSE_BASE_URL", f"http://127.0.0.1:{port}/v1")
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert connections == []


def draws(client: openai.OpenAI, emulator: Emulator) -> None:
    """Two images as links, which come from the emulator and name it."""
    image = cast("OpenAI", client).images.generate(prompt="a red fox", n=2).data[1]
    assert str(image.url).startswith("https://flux-emulator.invalid/files/")
    assert image.read().startswith(b"\x89PNG")
    assert [seen.method for seen in emulator.requests] == ["POST", "GET"]
    assert emulator.requests[0].headers["host"] == "flux-emulator.invalid"
    assert (emulator.bill.images, emulator.bill.duplicates) == (2, 0)


async def adraws(client: openai.AsyncOpenAI, emulator: Emulator) -> None:
    """The same as `draws`, for async clients."""
    image = (await cast("AsyncOpenAI", client).images.generate(prompt="a red fox", n=2)).data[1]
    assert str(image.url).startswith("https://flux-emulator.invalid/files/")
    assert (await image.aread()).startswith(b"\x89PNG")
    assert [seen.method for seen in emulator.requests] == ["POST", "GET"]
    assert (emulator.bill.images, emulator.bill.duplicates) == (2, 0)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_of_the_code_under_test_ends_in_the_emulator(name: str, flux_emulator: Emulator) -> None:
    """However it was made, whatever its address, key, HTTP client or transport: no connection is made anywhere."""
    draws(CLIENTS[name](), flux_emulator)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ASYNC_CLIENTS)
async def test_an_async_client_ends_in_the_emulator(name: str, flux_emulator: Emulator) -> None:
    """The same for async clients."""
    await adraws(ASYNC_CLIENTS[name](), flux_emulator)


async def acaught(client: AsyncOpenAI) -> None:
    """Nine images of an event loop in another thread."""
    await client.images.generate(prompt="a cow", n=9)


def test_threads_and_their_event_loops_are_caught(flux_emulator: Emulator) -> None:
    """Also a split call, whose parts are sent in threads, and an event loop that another thread runs."""
    jobs: list[Callable[[], object]] = [
        lambda: OpenAI().images.generate(prompt="a cat", n=1).data[0].read(),  # noqa: PLW0108  # made in the thread
        lambda: OpenAI(split=True).images.generate(prompt="a dog", n=9),
        lambda: asyncio.run(acaught(AsyncOpenAI(split=True))),
    ]
    threads = [Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flux_emulator.bill.images == 19


CALLS: Mapping[str, tuple[Callable[[OpenAI], object], int | None]] = {
    "an edit": (lambda c: c.images.edit(image=b"\x89PNG\r\n\x1a\n" + bytes(99), prompt="snow"), None),
    "raw": (lambda c: c.images.with_raw_response.generate(prompt="a fox").parse(), None),
    "raw, of the client": (lambda c: c.with_raw_response.images.generate(prompt="a fox"), None),
    "by hand": (
        lambda c: c.post("/images/generations", cast_to=object, body={"model": DEFAULT_MODEL, "prompt": "a"}),
        None,
    ),
    "the models": (lambda c: c.models.list().data[0], None),
    "another model": (lambda c: c.images.generate(model="gpt-image-1", prompt="a fox"), 404),
    "an edit by another model": (lambda c: c.images.edit(model="gpt-image-1", image=b"a", prompt="a"), 404),
    "a model of another path": (lambda c: c.post("/flux-2-pro-x", cast_to=object, body={"prompt": "a fox"}), 404),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_request_for_images_is_answered_or_refused(name: str, flux_emulator: Emulator) -> None:
    """Not only `generate` for FLUX: what the emulator does not have is refused by it, and nothing is billed."""
    call, status = CALLS[name]
    if status is None:
        assert call(OpenAI())
    else:
        with pytest.raises(openai.APIStatusError) as caught:
            call(OpenAI())
        assert (caught.value.status_code, flux_emulator.bill.images) == (status, 0)
        assert caught.value.request.url.host == "flux-emulator.invalid"
    assert len(flux_emulator.requests) == 1


def test_what_the_user_built_around_the_transport_works(flux_emulator: Emulator) -> None:
    """Event hooks and the authentication of the HTTP client, and the headers of the client."""
    seen: list[str] = []
    hooks = {"request": [lambda request: seen.append(request.url.host)], "response": [lambda _: seen.append("answer")]}
    http = httpx.Client(event_hooks=hooks, cookies={"session": "7"})
    OpenAI(http_client=http, default_headers={"x-team": "art"}).images.generate(prompt="a fox")
    assert seen == ["flux-emulator.invalid", "answer"]
    [request] = flux_emulator.requests
    assert (request.headers["x-team"], request.headers["cookie"]) == ("art", "session=7")


def test_the_key_is_worth_nothing(flux_emulator: Emulator) -> None:
    """A client without a key of its own has the one of the fixture, whatever the machine has."""
    OpenAI().images.generate(prompt="a fox")
    assert flux_emulator.requests[0].headers["authorization"] == "Bearer flux-tests-need-no-key"


def test_each_attempt_is_caught(flux_emulator: Emulator) -> None:
    """A retry ends in the emulator like the first attempt, with the same key, so nothing is billed twice unseen."""
    flux_emulator.fail(error="timeout")
    client = OpenAI(retry=RetryPolicy(waiting=False, duplicates="allowed"))
    assert client.images.generate(prompt="a fox").attempts == 2
    assert (flux_emulator.bill.images, flux_emulator.bill.duplicates) == (2, 1)


@pytest.mark.parametrize("link", ["/files/a.png", "a.png"])
def test_a_relative_link_does_not_leave(flux_emulator: Emulator, link: str) -> None:
    """It belongs to the emulator, not to the address that the client was made for."""
    flux_emulator.fail(status=200, body={"created": 1, "data": [{"url": link}]})
    client = OpenAI(base_url=SERVICE, retry=RetryPolicy(waiting=False))
    image = client.images.generate(prompt="a fox").data[0]
    with pytest.raises(openai.OpenAIError, match=r"from flux-emulator\.invalid: HTTP"):
        image.read()


def test_the_clients_of_another_emulator_are_its_own(flux_emulator: Emulator) -> None:
    """A test may have one emulator for each service."""
    other = Emulator(pixels=64)
    assert other.client().images.generate(prompt="a fox").data[0].read()
    assert OpenAI(http_client=other.http_client(), base_url=SERVICE).images.generate(prompt="a fox").data[0].read()
    assert (len(other.requests), len(flux_emulator.requests)) == (4, 0)


def test_a_served_emulator_is_bypassed(flux_emulator: Emulator) -> None:
    """Its clients in this process are answered without a connection, others over the port, all on one bill."""
    with flux_emulator.serve() as server:
        draws(OpenAI(base_url=server.base_url), flux_emulator)
        with httpx.Client(base_url=server.base_url, headers={"authorization": "Bearer k"}, trust_env=False) as plain:
            answer = plain.post("/images/generations", json={"model": DEFAULT_MODEL, "prompt": "a fox"}).json()
        assert answer["data"][0]["url"].startswith(f"{server.base_url.removesuffix('/v1')}/files/")
    assert flux_emulator.bill.images == 3


def test_chat_is_left_alone(flux_emulator: Emulator) -> None:
    """What is not about images goes its usual way, so that other mocks of the user see it."""
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "c", "choices": []})))
    client = OpenAI(http_client=http)
    assert client.chat.completions.create(model="m", messages=[]).id == "c"
    assert client.images.generate(prompt="a fox").data
    assert len(flux_emulator.requests) == 1


def test_log_lines_name_the_emulator(flux_emulator: Emulator, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody who reads the log believes to have paid; also not for the emulator's own clients."""
    caplog.set_level("INFO")
    OpenAI(base_url=SERVICE).images.generate(prompt="a fox")
    first = len(caplog.messages)
    flux_emulator.client().images.generate(prompt="a fox")
    for messages in (caplog.messages[:first], caplog.messages[first:]):
        assert any("POST https://flux-emulator.invalid/v1/images/generations" in message for message in messages)
    assert "umodelverse" not in "\n".join(caplog.messages)


@pytest.mark.parametrize("path", sorted({model.path for model in FLUX_MODELS.values()}))
def test_the_path_of_every_model_is_caught_and_is_no_base_url(flux_emulator: Emulator, path: str) -> None:
    """A row of the table with a new path is known to the interception and to the check of the base_url."""
    with pytest.raises(openai.OpenAIError):
        OpenAI().post(path, cast_to=object, body={})
    assert [request.path for request in flux_emulator.requests] == [f"/v1{path}"]
    with pytest.raises(ConfigurationError, match="base_url"):
        OpenAI(base_url=f"{SERVICE}{path}")
