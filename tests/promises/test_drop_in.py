"""Existing OpenAI code runs on: same types, same resources, same bytes for every model that is not FLUX."""

import base64
import copy
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

import flux_openai
from flux_openai import (
    AsyncFluxOpenAI,
    AsyncOpenAI,
    Emulator,
    FluxImagesResponse,
    FluxOpenAI,
    InvalidParamsError,
    OpenAI,
    RetryPolicy,
    adapt,
)
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, FluxRateLimitError
from flux_openai.models import DEFAULT_MODEL

BASE = "https://flux.example/v1"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def test_the_clients_are_the_sdk_s() -> None:
    """Code that checks for the SDK's clients accepts ours, under both names."""
    emulator = Emulator()
    assert isinstance(emulator.client(), openai.OpenAI)
    assert isinstance(emulator.async_client(), openai.AsyncOpenAI)
    assert (OpenAI, AsyncOpenAI) == (FluxOpenAI, AsyncFluxOpenAI)
    assert isinstance(emulator.client().images, openai.resources.Images)


@pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])
@pytest.mark.parametrize("method", ["copy", "with_options"])
def test_copies_keep_type_and_settings(kind: type[FluxOpenAI], method: str) -> None:
    """A copy has the same policy, mode, defaults and retry quota, and its own changes do not reach back."""
    retry = RetryPolicy(max_attempts=7, duplicates="never")
    client = kind(api_key="k", retry=retry, unsupported="drop", defaults={"steps": 9}, base_url=BASE)
    same = getattr(client, method)(timeout=7)
    assert type(same) is kind
    assert same._settings == client._settings
    assert same._settings.quota is client._settings.quota
    assert (same.timeout, same.api_key, str(same.base_url)) == (7, "k", f"{BASE}/")
    assert same._client is client._client
    other = getattr(same, method)(unsupported="warn", defaults={"steps": 3}, max_retries=1)
    assert type(other.with_options()) is kind
    assert (other._settings.unsupported, dict(other._settings.defaults)) == ("warn", {"steps": 3})
    assert (other._settings.retry.max_attempts, other._settings.retry.duplicates) == (2, "never")
    assert other._settings.quota is client._settings.quota
    assert client._settings.unsupported == "drop"
    assert client._settings.retry == retry


def test_a_copy_behaves_as_set() -> None:
    """Defaults, mode and retries of a copy are what its calls follow."""
    emulator = Emulator(pixels=64)
    client = emulator.client(defaults={"steps": 9}).with_options(unsupported="drop").with_options(max_retries=1)
    emulator.fail(1, status=503)
    response = client.images.generate(prompt="a fox", quality="hd")
    assert response.sent == {"model": DEFAULT_MODEL, "prompt": "a fox", "steps": 9}
    assert response.attempts == 2
    emulator.fail(2, status=503)
    with pytest.raises(openai.InternalServerError):
        client.images.generate(prompt="a fox")
    assert len(emulator.requests) == 4


@pytest.mark.parametrize(("retries", "posts"), [(0, 1), (1, 2), (3, 4), (5, 6)])
def test_max_retries_means_our_retries(retries: int, posts: int) -> None:
    """`max_retries=N` gives N + 1 requests, on the client and in with_options: one layer, not two multiplied."""
    for way in ("client", "with_options"):
        emulator = Emulator(pixels=64)
        emulator.fail(99, status=429)
        fast = RetryPolicy(waiting=False)
        client = emulator.client(retry=fast, max_retries=retries) if way == "client" else emulator.client()
        with pytest.raises(openai.RateLimitError) as caught:
            client.with_options(max_retries=retries).images.generate(prompt="a fox")
        assert isinstance(caught.value, FluxRateLimitError)
        assert (len(emulator.requests), caught.value.attempts) == (posts, posts)
        assert len({seen.headers["idempotency-key"] for seen in emulator.requests}) == 1


def raw_ways(client: FluxOpenAI) -> dict[str, Callable[..., Any]]:
    return {
        "images.raw": client.images.with_raw_response.generate,
        "raw.images": client.with_raw_response.images.generate,
    }


def assert_parsed(parsed: object, raw: Any, emulator: Emulator) -> None:  # noqa: ANN401  # of three kinds
    assert isinstance(parsed, FluxImagesResponse)
    assert parsed.data[0].b64_json is not None
    assert base64.b64decode(parsed.data[0].b64_json, validate=True).startswith(b"\x89PNG")
    assert parsed.sent == emulator.requests[-1].body
    assert (raw.http_response.status_code, parsed.usage, parsed.attempts) == (200, None, 2)
    assert raw.headers["x-request-id"] == parsed.request_id == "emu-000002"


CALL: Mapping[str, Any] = {"prompt": "a fox", "aspect_ratio": "16:9", "response_format": "b64_json"}


@pytest.mark.parametrize("way", ["images.raw", "raw.images"])
def test_raw_responses(way: str) -> None:
    """A raw response is validated and retried like any other call, and parses to our answer."""
    emulator = Emulator(pixels=64)
    emulator.fail(1, status=503)
    generate = raw_ways(emulator.client())[way]
    raw = generate(**CALL)
    assert_parsed(raw.parse(), raw, emulator)
    assert json.loads(raw.text if isinstance(raw.text, str) else raw.text())["data"]
    with pytest.raises(InvalidParamsError):
        generate(prompt="a fox", n=9)
    assert len(emulator.requests) == 2


@pytest.mark.parametrize("way", ["images", "client"])
def test_streamed_responses(way: str) -> None:
    """`with_streaming_response` works as with the SDK: headers, raw bytes and the parsed answer."""
    emulator = Emulator(pixels=64)
    emulator.fail(1, status=503)
    client = emulator.client()
    images = client.images.with_streaming_response if way == "images" else client.with_streaming_response.images
    with images.generate(**CALL) as raw:
        assert_parsed(raw.parse(), raw, emulator)
        assert json.loads(raw.read())["data"]
    with images.generate(**CALL) as raw:
        assert json.loads(b"".join(raw.iter_bytes()))["data"]
    with pytest.raises(InvalidParamsError), images.generate(prompt="a fox", n=9):
        pass
    assert len(emulator.requests) == 3


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["images", "client"])
async def test_raw_and_streamed_responses_async(way: str) -> None:
    """The async client's raw and streamed responses do the same."""
    emulator = Emulator(pixels=64)
    client = emulator.async_client()
    emulator.fail(1, status=503)
    raw_images = client.images.with_raw_response if way == "images" else client.with_raw_response.images
    raw = await raw_images.generate(**CALL)
    assert_parsed(raw.parse(), raw, emulator)
    streamed = client.images.with_streaming_response if way == "images" else client.with_streaming_response.images
    async with streamed.generate(**CALL) as response:
        parsed = await response.parse()
        assert isinstance(parsed, FluxImagesResponse)
        assert json.loads(await response.read())["data"]
    with pytest.raises(InvalidParamsError):
        await raw_images.generate(prompt="a fox", n=9)
    assert len(emulator.requests) == 3


class Recorder:
    """Another service: keeps every request to the byte and gives the answers it was told to."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = [*answers]
        self.seen: list[tuple[str, str, bytes, list[tuple[bytes, bytes]]]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, str(request.url), request.read(), known_headers(request)))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(status, json=body, headers={"retry-after-ms": "1", "x-request-id": "req-1"})

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        return self.handle(request)

    def options(self, *, asynchronous: bool = False) -> dict[str, Any]:
        kind = httpx.AsyncClient if asynchronous else httpx.Client
        transport = httpx.MockTransport(self.ahandle if asynchronous else self.handle)
        return {"api_key": "k", "base_url": BASE, "http_client": kind(transport=transport)}


def known_headers(request: httpx.Request) -> list[tuple[bytes, bytes]]:
    """The headers in their order, without those by which the SDK describes itself."""
    noise = (b"user-agent", b"x-stainless-")
    return [(name, value) for name, value in request.headers.raw if not name.lower().startswith(noise)]


def multipart_edit(client: Any) -> Any:  # noqa: ANN401  # of either kind
    headers = {"Content-Type": "multipart/form-data; boundary=fixed"}
    return client.images.edit(
        image=("a.png", PNG, "image/png"), prompt="a hat", model="gpt-image-1", extra_headers=headers
    )


OTHERS: Mapping[str, Callable[[Any], Any]] = {
    "generate": lambda c: c.images.generate(prompt="a fox", model="gpt-image-1"),
    "generate, all options": lambda c: c.images.generate(
        prompt=" ",
        model="gpt-image-1.5",
        n=10,
        size="auto",
        quality="high",
        background="transparent",
        moderation="low",
        output_format="webp",
        output_compression=80,
        user="u",
        extra_headers={"x-a": "1"},
        extra_query={"q": "1"},
        extra_body={"seed": 7, "aspect_ratio": "nonsense"},
        timeout=9,
    ),
    "generate, None": lambda c: c.images.generate(prompt="a fox", model="dall-e-3", style=None, n=None, size="1x1"),
    "generate, extra_body model": lambda c: c.images.generate(prompt="a fox", extra_body={"model": "gpt-image-1"}),
    "generate, raw": lambda c: c.images.with_raw_response.generate(prompt="a fox", model="gpt-image-1").parse(),
    "edit": multipart_edit,
    "chat": lambda c: c.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], seed=7),
    "embeddings": lambda c: c.embeddings.create(model="m", input=["a", "b"], encoding_format="float"),
    "models": lambda c: c.models.list(),
}


@pytest.mark.parametrize("call", OTHERS)
def test_all_else_goes_through_byte_for_byte(call: str) -> None:
    """Method, URL, headers and body of calls that are not for FLUX are the SDK's own, and so is what comes back."""
    answer = (200, {"created": 1, "data": [{"b64_json": "data:x", "url": None}], "usage": None, "error": {"code": "x"}})
    plain, ours = Recorder(answer), Recorder(answer)
    expected = OTHERS[call](openai.OpenAI(**plain.options()))
    result = OTHERS[call](FluxOpenAI(**ours.options(), defaults={"steps": 9}, unsupported="drop"))
    assert ours.seen == plain.seen
    assert type(result) is type(expected)
    assert repr(result) == repr(expected)


@pytest.mark.anyio
async def test_all_else_goes_through_byte_for_byte_async() -> None:
    """The async client passes on what is not for FLUX in the same way."""
    answer = (200, {"created": 1, "data": [{"b64_json": "data:x"}]})
    plain, ours = Recorder(answer), Recorder(answer)
    clients = openai.AsyncOpenAI(**plain.options(asynchronous=True)), AsyncFluxOpenAI(**ours.options(asynchronous=True))
    for client in clients:
        result = await OTHERS["generate, all options"](client)
        assert type(result) is openai.types.ImagesResponse
        await OTHERS["chat"](client)
        await OTHERS["embeddings"](client)
        async for _ in client.models.list():
            pass
    assert ours.seen == plain.seen


def test_a_default_model_that_is_not_flux_can_be_chosen_per_call() -> None:
    """`model=` decides for each call: without it, it is FLUX; with another name, the SDK's."""
    service = Recorder((200, {"created": 1, "data": [{"url": "https://x.example/a.png"}]}))
    client = FluxOpenAI(**service.options())
    assert type(client.images.generate(prompt="a fox")) is FluxImagesResponse
    assert type(client.images.generate(prompt="a fox", model="gpt-image-1")) is openai.types.ImagesResponse
    assert [json.loads(body)["model"] for _, _, body, _ in service.seen] == [DEFAULT_MODEL, "gpt-image-1"]


def test_a_flux_call_leaves_nothing_behind_for_the_next_call() -> None:
    """After it, a call that is not for FLUX is sent as ever: without its Idempotency-Key, and read by the SDK."""
    answers: list[tuple[int, object]] = [(400, {}), (200, {"created": 1, "data": [{"b64_json": "data:x"}]})]
    plain, ours = Recorder(*answers), Recorder(*answers)
    found = []
    for client in (openai.OpenAI(**plain.options()), FluxOpenAI(**ours.options())):
        with pytest.raises(openai.BadRequestError):
            client.images.generate(prompt="a fox", model=DEFAULT_MODEL)
        found.append(repr(client.images.generate(prompt="a fox", model="gpt-image-1")))
    assert ours.seen[1] == plain.seen[1]
    assert found[0] == found[1]


@pytest.mark.parametrize("call", ["generate", "chat"])
def test_errors_and_retries_of_all_else_stay_the_sdk_s(call: str) -> None:
    """Two retries and the SDK's own error class, as ever; our policy is for FLUX alone."""
    service = Recorder((429, {"error": {"message": "slow down"}}))
    client = FluxOpenAI(**service.options(), retry=RetryPolicy(max_attempts=1))
    with pytest.raises(openai.RateLimitError) as caught:
        OTHERS[call](client)
    assert type(caught.value) is openai.RateLimitError
    assert len(service.seen) == 1 + openai.DEFAULT_MAX_RETRIES
    with pytest.raises(openai.RateLimitError):
        OTHERS[call](client.with_options(max_retries=0))
    assert len(service.seen) == 2 + openai.DEFAULT_MAX_RETRIES


GIVEN: Mapping[str, Any] = {
    "base_url": "https://given.example/v2",
    "timeout": 42.0,
    "max_retries": 5,
    "organization": "org-given",
    "project": "project-given",
    "default_headers": {"x-given": "1"},
    "default_query": {"q": "given"},
}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_adapt_keeps_what_the_client_was_set_up_with(kind: str) -> None:
    """Key, base, HTTP client, time-out, headers, query and retries are the given client's."""
    given: Any = (openai.OpenAI if kind == "sync" else openai.AsyncOpenAI)(api_key="sk-given", **GIVEN)
    client: Any = adapt(given, unsupported="drop", defaults={"steps": 9})
    assert type(client) is (FluxOpenAI if kind == "sync" else AsyncFluxOpenAI)
    assert client._client is given._client
    for name in ("api_key", "base_url", "timeout", "organization", "project", "default_query"):
        assert getattr(client, name) == getattr(given, name), name
    assert client._custom_headers == {"x-given": "1"}
    assert (client.max_retries, client._settings.retry.max_attempts) == (5, 6)
    assert (client._settings.unsupported, dict(client._settings.defaults)) == ("drop", {"steps": 9})
    assert adapt(client) is client


def test_an_adapted_client_sends_what_the_given_one_would() -> None:
    """On the wire: the given address, key, query and headers."""
    service = Recorder((200, {"created": 1, "data": [{"url": "https://x.example/a.png"}]}))
    options = {**GIVEN, **service.options(), "base_url": GIVEN["base_url"]}
    adapt(openai.OpenAI(**options)).images.generate(prompt="a fox")
    ((method, url, _, headers),) = service.seen
    assert (method, url) == ("POST", "https://given.example/v2/images/generations?q=given")
    names = {name.lower(): value for name, value in headers}
    assert names[b"authorization"] == b"Bearer k"
    assert (names[b"x-given"], names[b"openai-organization"]) == (b"1", b"org-given")


def test_adapt_keeps_a_key_that_is_a_function() -> None:
    """A key that is fetched anew for each request stays so, in copies too."""
    service = Recorder((200, {"created": 1, "data": [{"url": "https://x.example/a.png"}]}))
    keys = iter(["first", "second", "third"])
    client = adapt(openai.OpenAI(**{**service.options(), "api_key": lambda: next(keys)}))
    for sender in (client, client, client.copy()):
        sender.images.generate(prompt="a fox")
    sent = [dict(headers).get(b"Authorization") or dict(headers)[b"authorization"] for *_, headers in service.seen]
    assert sent == [b"Bearer first", b"Bearer second", b"Bearer third"]


def test_adapt_takes_options_for_a_client_that_is_adapted_already() -> None:
    """A FLUX-aware client is returned as it is; with options, a copy that has them, on the same HTTP client."""
    emulator = Emulator(pixels=64)
    client = emulator.client()
    assert adapt(client) is client
    assert len(adapt(client, split=True).images.generate(prompt="a fox", n=5).data) == 5
    assert len(emulator.requests) == 2


def test_adapt_leaves_the_default_retries_to_the_policy() -> None:
    """The SDK's own default of two retries is no choice of the user's; `retry=` goes before `max_retries`."""
    untouched = adapt(openai.OpenAI(api_key="k", base_url=BASE))
    assert untouched._settings.retry.max_attempts == RetryPolicy().max_attempts
    chosen = adapt(openai.OpenAI(api_key="k", base_url=BASE, max_retries=9), retry=RetryPolicy(max_attempts=3))
    assert chosen._settings.retry.max_attempts == 3


class OwnClient(openai.OpenAI):
    """A client that somebody made their own."""


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: openai.AzureOpenAI(api_key="k", azure_endpoint="https://a.example", api_version="1"), "AzureOpenAI"),
        (lambda: openai.AsyncAzureOpenAI(api_key="k", azure_endpoint="https://a.example", api_version="1"), "Azure"),
        (lambda: OwnClient(api_key="k", base_url=BASE), "OwnClient"),
        (lambda: openai.OpenAI(api_key="k"), "api.openai.com"),
        (lambda: openai.AsyncOpenAI(api_key="k"), "api.openai.com"),
        (lambda: openai.OpenAI(api_key="k", base_url="http://plain.example/v1"), "plain http"),
        (lambda: openai, "module"),
        (lambda: openai.OpenAI, "OpenAI"),
        (lambda: None, "NoneType"),
        (lambda: "client", "str"),
    ],
    ids=["azure", "async azure", "subclass", "openai", "async openai", "plain http", "module", "class", "none", "text"],
)
def test_adapt_says_what_it_cannot_adapt(make: Callable[[], Any], word: str) -> None:
    """What would not work afterwards is refused at once, by name."""
    with pytest.raises(ConfigurationError) as caught:
        adapt(make())
    assert word in str(caught.value)


PLAIN = ["http://flux.example/v1", "HTTP://10.0.0.1/v1", "http://localhost.example/v1", "http://127.0.0.1.example"]


@pytest.mark.parametrize("url", PLAIN)
def test_plain_http_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key never goes out in the clear: not by the constructor, the environment, a copy or an assignment."""
    emulator = Emulator(pixels=64)
    client, aclient = emulator.client(), emulator.async_client()
    for attempt in (
        lambda: FluxOpenAI(api_key="k", base_url=url),
        lambda: AsyncFluxOpenAI(api_key="k", base_url=httpx.URL(url)),
        lambda: client.copy(base_url=url),
        lambda: aclient.with_options(base_url=url),
    ):
        with pytest.raises(ConfigurationError, match="plain http"):
            attempt()
    monkeypatch.setenv("MODELVERSE_BASE_URL", url)
    with pytest.raises(ConfigurationError, match="plain http"):
        FluxOpenAI(api_key="k")
    client.base_url = url
    with pytest.raises(ConfigurationError, match="plain http"):
        client.images.generate(prompt="a fox")
    assert emulator.requests == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1", "http://localhost:9/v1", "http://[::1]:9/v1", "http://127.9.9.9"]
)
def test_plain_http_is_taken_on_this_machine(url: str) -> None:
    """Loopback addresses may be plain: that is how a local server is tested."""
    assert str(FluxOpenAI(api_key="k", base_url=url).base_url).startswith(url)


@pytest.mark.parametrize(
    "url", ["", "flux.example/v1", "ftp://flux.example", "https://", "https://u:p@flux.example", 5]
)
def test_what_is_no_address_is_refused(url: object) -> None:
    """A base_url that cannot work is refused when the client is made; a password in it is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        FluxOpenAI(api_key="k", base_url=url)  # type: ignore[arg-type]  # what a user may write
    assert "u:p" not in str(caught.value)


def test_key_and_base_come_from_the_service_s_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments go before MODELVERSE_API_KEY and MODELVERSE_BASE_URL, and those before the documented address."""
    monkeypatch.setenv("MODELVERSE_API_KEY", "from-environment")
    assert str(FluxOpenAI().base_url) == "https://api.umodelverse.ai/v1/"
    monkeypatch.setenv("MODELVERSE_BASE_URL", "https://api.modelverse.cn/v1")
    client = FluxOpenAI()
    assert (client.api_key, str(client.base_url)) == ("from-environment", "https://api.modelverse.cn/v1/")
    client = FluxOpenAI(api_key="given", base_url=BASE)
    assert (client.api_key, str(client.base_url)) == ("given", f"{BASE}/")


@pytest.mark.parametrize(("kind", "http"), [(FluxOpenAI, httpx.Client), (AsyncFluxOpenAI, httpx.AsyncClient)])
def test_time_outs(kind: Any, http: Any) -> None:  # noqa: ANN401  # of either kind
    """Connect 5 s, write 30 s, read 300 s, pool 10 s; unless time-outs are given, here or with the HTTP client."""
    ours = httpx.Timeout(connect=5, write=30, read=300, pool=10)
    assert httpx.Timeout(kind(api_key="k").timeout) == ours
    assert httpx.Timeout(kind(api_key="k", http_client=http()).timeout) == ours
    assert kind(api_key="k", timeout=9).timeout == 9
    assert kind(api_key="k", timeout=None).timeout is None
    assert kind(api_key="k", http_client=http(timeout=7)).timeout == httpx.Timeout(7)
    assert kind(api_key="k", http_client=http(timeout=7), timeout=9).timeout == 9
    assert httpx.Timeout(kind(api_key="k").copy().timeout) == ours


def test_a_time_out_can_be_given_per_call() -> None:
    """`timeout=` of a call goes before the client's, as in the SDK."""
    seen: list[object] = []
    emulator = Emulator(pixels=64)

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"]["read"])
        return emulator.handle(request)

    client = FluxOpenAI(api_key="k", http_client=httpx.Client(transport=httpx.MockTransport(handle)))
    client.images.generate(prompt="a fox")
    client.images.generate(prompt="a fox", timeout=7)
    assert seen == [300, 7]


PYTHON_EXAMPLE = """\
import os
from openai import OpenAI
client = OpenAI(
base_url=os.getenv("BASE_URL", "https://api.umodelverse.ai/v1"),
api_key=os.getenv("API_KEY", "$MODELVERSE_API_KEY")
)
response = client.images.generate(
model="black-forest-labs/flux-kontext-max/text-to-image",
prompt="Convert to quick pencil sketch",
extra_body={
"aspect_ratio": "16:9"
}
)
print(response.data[0].url)"""
"""The documented example, word for word."""

CURL_BODY = """\
{
"model": "black-forest-labs/flux-kontext-max/text-to-image",
"prompt": "Convert to quick pencil sketch",
"aspect_ratio": "16:9"
}"""
"""The `--data` of the documented curl example, word for word."""

ASKED = {"model": DEFAULT_MODEL, "prompt": "Convert to quick pencil sketch", "aspect_ratio": "16:9"}


@pytest.fixture
def served() -> Iterator[tuple[str, Emulator]]:
    """The emulator behind a real socket on this machine: its base URL, and the emulator."""
    emulator = Emulator(pixels=64, api_key="sk-example")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"http://{self.headers['host']}{self.path}"
            reply = emulator.answer(httpx.Request(self.command, url, headers=dict(self.headers), content=content))
            self.send_response(reply.status)
            for name, value in {**reply.headers, "content-length": str(len(reply.body)), "connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = answer  # noqa: N815  # the names that http.server looks for

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", emulator
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_documented_python_example_runs_but_for_the_import(served: tuple[str, Emulator]) -> None:
    """One changed import in the provider's own example, run as a program of its own, prints a link that opens."""
    base_url, emulator = served
    program = PYTHON_EXAMPLE.replace("from openai import OpenAI", "from flux_openai import OpenAI")
    assert program != PYTHON_EXAMPLE
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "BASE_URL": base_url,
        "API_KEY": "sk-example",
        "PYTHONPATH": str(Path(flux_openai.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [seen.body for seen in emulator.requests] == [ASKED]
    link = done.stdout.strip()
    with httpx.Client(trust_env=False) as client:
        assert client.get(link).content.startswith(b"\x89PNG")


def test_the_documented_curl_example_runs_as_it_is(served: tuple[str, Emulator]) -> None:
    """The bytes that curl sends for the documented command bring the documented answer."""
    base_url, emulator = served
    host = base_url.removeprefix("http://").removesuffix("/v1")
    request = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
        "Authorization: Bearer sk-example\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(CURL_BODY)}\r\n\r\n{CURL_BODY}"
    )
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=10) as connection, connection.makefile("rb") as answer:
        connection.sendall(request.encode())
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    parsed = json.loads(body)
    assert {*parsed} == {"created", "data", "usage"}
    assert parsed["usage"] == {"input_tokens_details": {}}
    assert parsed["data"][0]["url"].startswith(f"http://{host}/")
    assert [seen.body for seen in emulator.requests] == [ASKED]


def test_a_call_over_a_real_socket_is_the_same(served: tuple[str, Emulator], tmp_path: Path) -> None:
    """Nothing depends on the mock transport: generate, read and save over TCP."""
    base_url, emulator = served
    with FluxOpenAI(api_key="sk-example", base_url=base_url, http_client=httpx.Client(trust_env=False)) as client:
        response = client.images.generate(prompt="a fox", n=2)
        paths = response.save(tmp_path)
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2
    assert emulator.bill.images == 2
    downloads = [seen for seen in emulator.requests if seen.method == "GET"]
    assert ["authorization" in seen.headers for seen in downloads] == [False, False]


def test_a_copied_client_object_is_still_usable() -> None:
    """`copy.copy` of a client, as some frameworks do, still speaks FLUX."""
    emulator = Emulator(pixels=64)
    assert copy.copy(emulator.client()).images.generate(prompt="a fox").attempts == 1


def test_the_raw_response_counts_the_retries() -> None:
    """`retries_taken` says what the SDK's own would say."""
    emulator = Emulator(pixels=64)
    emulator.fail(2, status=503)
    raw = emulator.client().images.with_raw_response.generate(prompt="a fox")
    response = raw.parse()
    assert isinstance(response, FluxImagesResponse)
    assert (raw.retries_taken, response.attempts) == (2, 3)


def test_adapt_keeps_what_only_other_resources_use() -> None:
    """Secrets for webhooks and addresses for WebSockets come along."""
    plain = openai.OpenAI(api_key="any", base_url="https://flux.test/v1", websocket_base_url="wss://ws.test")
    plain.webhook_secret = "whsec"  # noqa: S105  # opens nothing
    client = adapt(plain)
    assert (client.webhook_secret, client.websocket_base_url) == ("whsec", "wss://ws.test")
