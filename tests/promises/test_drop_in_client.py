"""The options of a client, the headers of its calls and the forms of its answers, beside those of the SDK."""

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI, RetryPolicy, adapt
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, InvalidParamsError
from flux_openai.models import FLUX_MODELS

BASE = "https://flux.example/v1"
LINK = "https://img.example/a.png"
OF_THE_SDK = inspect.signature(openai.OpenAI).parameters
"""The options that the installed SDK knows; some are newer than others."""


class Service:
    """A service that keeps every request and gives one answer."""

    def __init__(self, **answer: object) -> None:
        self.answer = answer or {"created": 1, "data": [{"url": LINK}]}
        self.requests: list[httpx.Request] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return httpx.Response(200, json=self.answer)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        return self.handle(request)

    def client(self, kind: Any = FluxOpenAI, **options: Any) -> Any:  # noqa: ANN401  # of any of the four kinds
        asynchronous = issubclass(kind, openai.AsyncOpenAI)
        transport = httpx.MockTransport(self.ahandle if asynchronous else self.handle)
        http = (httpx.AsyncClient if asynchronous else httpx.Client)(transport=transport)
        return kind(**{"api_key": "k", "base_url": BASE, "http_client": http, **options})


def ask(client: Any, method: str = "generate", **call: Any) -> Any:  # noqa: ANN401  # of either kind
    """One call, awaited if the client is async."""
    made = getattr(client.images, method)(**{"prompt": "a fox", **call})
    return asyncio.run(made) if isinstance(client, openai.AsyncOpenAI) else made


each_kind = pytest.mark.parametrize("kind", [FluxOpenAI, AsyncFluxOpenAI])

URLS = {
    f"{BASE}?api-version=1": BASE,
    f"{BASE}?": BASE,
    f"{BASE}/?key=SECRET": f"{BASE}/",
    f"{BASE}#top": BASE,
    f"{BASE}/images/generations": BASE,
    f"{BASE}/images/generations/": BASE,
    **{f"{BASE}{model.path}": BASE for model in FLUX_MODELS.values()},
    f"{BASE}/images/edits": BASE,
    f"{BASE}/Images/Generations?x=1": BASE,
    f"{BASE}/images": BASE,
    f"{BASE}//images//generations": BASE,
    f"{BASE}/chat/completions": BASE,
    "flux.example/v1": BASE,
    "ftp://flux.example/v1": BASE,
    "//flux.example/v1": BASE,
    f" {BASE}": BASE,
    f"{BASE} ": BASE,
    f"{BASE}%20": BASE,
    f"{BASE} /x": BASE,
    f"{BASE}\n": BASE,
    f'"{BASE}"': BASE,
    "https://user:SECRET@flux.example/v1": BASE,
    "user:SECRET@flux.example/v1": None,
    "http://flux.example/v1": BASE,
    "http://flux.example/v1/images/generations": BASE,
    "http://127.0.0.1:8000/v1/images/generations": "http://127.0.0.1:8000/v1",
    "localhost:8000/v1?x": "https://localhost:8000/v1",
    "": None,
    "https://": None,
    "v1": None,
}


@each_kind
@pytest.mark.parametrize("url", URLS)
def test_a_base_url_that_is_more_or_less_than_one_is_refused(
    kind: Any,  # noqa: ANN401  # of either kind
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the address that was meant; a copy, an assignment and the environment are checked as well."""
    service = Service()
    client, nearest = service.client(kind), URLS[url]

    def assign() -> object:
        client.base_url = url
        return ask(client)

    attempts: list[Callable[[], object]] = [
        lambda: service.client(kind, base_url=url),
        lambda: client.copy(base_url=url),
        lambda: client.with_options(base_url=httpx.URL(url)),
        assign,
    ]
    # The SDK takes an empty base_url of a copy for none, and httpx refuses some of these itself.
    for attempt in attempts if "?" in url or "/images" in url else attempts[:1]:
        with pytest.raises(ConfigurationError) as caught:
            attempt()
        said = str(caught.value)
        assert said.startswith("base_url=")
        assert "SECRET" not in said
        if attempt is attempts[0]:
            assert said.endswith(f"(nearest: {nearest!r})") == (nearest is not None)
    if url:
        monkeypatch.setenv("MODELVERSE_BASE_URL", url)
        with pytest.raises(ConfigurationError):
            kind(api_key="k")
    if nearest is not None:
        assert str(kind(api_key="k", base_url=nearest).base_url).startswith(nearest)
    assert service.requests == []


@pytest.mark.parametrize(
    "url",
    [f"{BASE}/", "https://gateway.example/openai/images-api", "https://[::1]/v1", "https://h/models", "https://h"],
)
def test_any_other_base_url_is_taken(url: str) -> None:
    """A path of the gateway's own is no pasted endpoint."""
    service = Service()
    ask(service.client(base_url=url))
    assert str(service.requests[0].url) == f"{url.rstrip('/')}/images/generations"


WRONG_OPTIONS: list[tuple[dict[str, object], str, str | None]] = [
    ({"retry": 3}, "retry", "'max_retries=3'"),
    ({"retry": True}, "retry", None),
    ({"retry": 0}, "retry", "'max_retries=0'"),
    ({"retry": "never"}, "retry", None),
    ({"retry": RetryPolicy}, "retry", None),
    ({"retry": {"max_attempts": 3}}, "retry", None),
    ({"max_retries": None}, "max_retries", None),
    ({"max_retries": -1}, "max_retries", "0"),
    ({"max_retries": True}, "max_retries", None),
    ({"max_retries": 2.0}, "max_retries", None),
    ({"max_retries": "3"}, "max_retries", None),
    ({"max_retries": float("inf")}, "max_retries", None),
    ({"unsupported": "wran"}, "unsupported", "'warn'"),
    ({"unsupported": "ERROR"}, "unsupported", "'error'"),
    ({"unsupported": ""}, "unsupported", None),
    ({"unsupported": ["drop"]}, "unsupported", None),
    ({"split": 1}, "split", None),
    ({"split": "yes"}, "split", None),
    ({"allow_http": "yes"}, "allow_http", None),
    ({"defaults": 5}, "defaults", None),
    ({"defaults": [("steps", 3)]}, "defaults", None),
    ({"defaults": {1: 2}}, "defaults", None),
]


@each_kind
@pytest.mark.parametrize(("options", "name", "nearest"), WRONG_OPTIONS, ids=repr)
def test_a_wrong_option_is_refused_where_it_is_set(
    kind: Any,  # noqa: ANN401  # of either kind
    options: dict[str, Any],
    name: str,
    nearest: str | None,
) -> None:
    """The constructor, a copy, `with_options` and `adapt` name the option; no call has to fail first."""
    client = Service().client(kind)
    given = Service().client(openai.OpenAI if kind is FluxOpenAI else openai.AsyncOpenAI)
    ways: list[Callable[[], object]] = [
        lambda: kind(api_key="k", **options),
        lambda: client.copy(**options),
        lambda: client.with_options(**options),
    ]
    if name != "max_retries":
        ways += [lambda: adapt(given, **options), lambda: adapt(client, **options)]
    for way in ways:
        with pytest.raises(ConfigurationError) as caught:
            way()
        assert str(caught.value).startswith(f"{name}=")
        assert str(caught.value).endswith(f"(nearest: {nearest})" if nearest else ")") or nearest is None


@pytest.mark.parametrize(
    "value", [{"steps": 99}, {"seed": "7"}, {"model": "kontext"}, {"model": ""}, {"stream": True}, {"size": "1x9"}]
)
def test_wrong_values_among_the_defaults_are_refused_where_they_are_set(value: dict[str, object]) -> None:
    """Each fault is that of a call, by name and nearest, in the constructor, a copy and `adapt`."""
    client, given = Service().client(), Service().client(openai.OpenAI)
    ways: list[Callable[[], object]] = [
        lambda: FluxOpenAI(api_key="k", defaults=value),
        lambda: client.copy(defaults=value),
    ]
    for way in ways:
        with pytest.raises(InvalidParamsError) as caught:
            way()
        assert [fault.param for fault in caught.value.faults] == [*value]
    with pytest.raises(InvalidParamsError):
        adapt(given, defaults=value)


SIGN_IN = {
    "workload_identity": {"client_id": "c", "identity_provider_id": "i", "service_account_id": "s", "provider": {}},
    "provider": object(),
    "data_residency": "eu",
}


@each_kind
@pytest.mark.parametrize("name", SIGN_IN)
def test_options_that_lead_to_another_service_are_refused(kind: Any, name: str) -> None:  # noqa: ANN401
    """They would take the address or the credentials from OpenAI or a cloud; the error says so. None is no wish."""
    client = Service().client(kind)
    option = {name: SIGN_IN[name]}
    ways: list[Callable[[], object]] = [lambda: kind(api_key="k", **option), lambda: kind(**option)]
    ways.append(lambda: client.copy(**option))
    for way in ways:
        with pytest.raises(ConfigurationError, match=rf"{name}=.*serves no FLUX model"):
            way()
    if name in OF_THE_SDK:
        assert kind(api_key="k", **{name: None}).api_key == "k"
        assert client.with_options(**{name: None}).api_key == "k"


@pytest.mark.skipif(not hasattr(openai.OpenAI(api_key="k"), "admin_api_key"), reason="newer than this SDK")
def test_the_admin_key_is_kept_and_used_as_the_sdk_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin key is for administration only; copies and `adapt` keep it, and the variable of OpenAI is not read."""
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "ambient")
    sent: list[list[str]] = []
    for kind in (openai.OpenAI, FluxOpenAI):
        service = Service(object="list", data=[], has_more=False)
        client = service.client(kind, admin_api_key="admin").copy()
        client.admin.organization.projects.list()
        client.models.list()
        sent.append([request.headers["authorization"] for request in service.requests])
    assert sent == [["Bearer admin", "Bearer k"]] * 2
    service = Service()
    adapted = adapt(service.client(openai.OpenAI, admin_api_key="admin"))
    adapted.images.generate(prompt="a fox")
    assert (adapted.admin_api_key, service.requests[0].headers["authorization"]) == ("admin", "Bearer k")
    assert adapt(service.client(openai.OpenAI)).admin_api_key is None
    assert service.client().admin_api_key is None


@pytest.mark.skipif("data_residency" not in OF_THE_SDK, reason="newer than this SDK")
@pytest.mark.parametrize("region", ["us", "eu", "global"])
def test_a_client_of_an_openai_region_is_not_adapted(region: Any) -> None:  # noqa: ANN401  # a literal
    """Its address serves no FLUX model, as api.openai.com does not."""
    with pytest.raises(ConfigurationError, match=r"api\.openai\.com"):
        adapt(openai.OpenAI(api_key="k", data_residency=region))


HTTP = ["http://flux:8000/v1", "http://10.0.0.7/v1", "http://flux.internal/v1"]


@each_kind
@pytest.mark.parametrize("url", HTTP)
def test_plain_http_has_one_explicit_opt_in(kind: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """`allow_http=True` holds for the client, its copies and what is assigned later; the error without it names it."""
    service = Service()
    with pytest.raises(ConfigurationError, match="allow_http=True"):
        service.client(kind, base_url=url)
    client = service.client(kind, base_url=url, allow_http=True)
    for sender in (client, client.copy(timeout=9), client.with_options(max_retries=0).copy()):
        ask(sender)
    other = service.client(kind).with_options(allow_http=True)
    other.base_url = url
    ask(other)
    ask(service.client(kind).copy(base_url=url, allow_http=True))
    monkeypatch.setenv("MODELVERSE_BASE_URL", url)
    ask(service.client(kind, base_url=None, allow_http=True))
    assert {str(request.url) for request in service.requests} == {f"{url}/images/generations"}
    assert len(service.requests) == 6
    ways: list[Callable[[], object]] = [
        lambda: client.copy(allow_http=False),
        lambda: service.client(kind, base_url=None),
    ]
    for back in ways:
        with pytest.raises(ConfigurationError, match="plain http"):
            back()


def test_plain_http_can_be_allowed_for_an_adapted_client() -> None:
    """`adapt` takes the option too, and other resources of the client work over it."""
    service = Service(object="list", data=[])
    given = service.client(openai.OpenAI, base_url=HTTP[0])
    with pytest.raises(ConfigurationError, match="allow_http=True"):
        adapt(given)
    adapt(given, allow_http=True).models.list()
    assert str(service.requests[0].url) == f"{HTTP[0]}/models"


def test_a_link_to_the_service_s_own_plain_http_is_read() -> None:
    """A service in a network of containers links to itself; its images can be read."""
    emulator = Emulator(pixels=64)
    http = httpx.Client(transport=httpx.MockTransport(emulator.handle))
    client = FluxOpenAI(api_key="any", base_url="http://flux:8000/v1", allow_http=True, http_client=http)
    image = client.images.generate(prompt="a fox").data[0]
    assert str(image.url).startswith("http://flux:8000/")
    assert image.read().startswith(b"\x89PNG")


@pytest.mark.parametrize("key", ["sk a", " sk", "sk\n", "sk\u200b", "sk\tb", "clé"])
def test_a_key_with_a_space_or_another_letter_is_refused(key: str) -> None:
    """No key of the service has one: it would be a header that is not the key, or none at all."""
    client = Service().client()
    ways: list[Callable[[], object]] = [lambda: FluxOpenAI(api_key=key), lambda: client.copy(api_key=key)]
    for way in ways:
        with pytest.raises(ConfigurationError, match="plain ASCII without spaces") as caught:
            way()
        assert key not in str(caught.value)


BODY_HEADERS = [
    {"Content-Type": "multipart/form-data"},
    {"content-type": "multipart/form-data; boundary=x"},
    {"CONTENT-TYPE": "application/x-www-form-urlencoded"},
    {"Content-Length": "3"},
    {"content-length": "99999"},
    {"Transfer-Encoding": "chunked"},
    {"Content-Encoding": "gzip"},
    {"Content-Type": "text/plain", "content-length": "0", "Transfer-Encoding": "gzip", "x-mine": "1"},
]


@each_kind
@pytest.mark.parametrize("place", ["call", "client", "both"])
@pytest.mark.parametrize("method", ["generate", "edit"])
@pytest.mark.parametrize("headers", BODY_HEADERS, ids=repr)
def test_headers_of_the_caller_do_not_change_the_form_of_the_body(
    kind: Any,  # noqa: ANN401  # of either kind
    place: str,
    method: str,
    headers: dict[str, str],
) -> None:
    """The body is JSON, whole and of the stated length; the caller's other headers are sent."""
    service, call = Service(), {"image": LINK} if method == "edit" else {}
    client = service.client(kind, default_headers=headers if place != "call" else None)
    ask(client, method, **call, extra_headers=headers if place != "client" else None)
    (request,) = service.requests
    body = json.loads(request.content)
    assert (body["prompt"], "image" in body) == ("a fox", method == "edit")
    told = [(name, value) for name, value in request.headers.multi_items() if name in FORM]
    assert sorted(told) == [("content-length", str(len(request.content))), ("content-type", "application/json")]
    assert request.headers.get("x-mine") == headers.get("x-mine")


FORM = ("content-type", "content-length", "content-encoding", "transfer-encoding")


def test_headers_of_the_caller_arrive_over_a_socket() -> None:
    """On a real connection too the emulator gets the whole JSON body."""
    emulator = Emulator(pixels=64)
    headers = {"Content-Length": "3", "Content-Type": "multipart/form-data", "Transfer-Encoding": "chunked"}
    with (
        emulator.serve() as server,
        FluxOpenAI(api_key="any", base_url=server.base_url, default_headers=headers) as client,
    ):
        client.images.generate(prompt="a fox", extra_headers=headers)
    assert [request.body for request in emulator.requests if request.method == "POST"] == [
        {"model": "black-forest-labs/flux-kontext-max/text-to-image", "prompt": "a fox"}
    ]


ANSWERS: list[dict[str, object]] = [
    {"created": 1, "data": [{"url": LINK}]},
    {"created": 1, "data": [{"url": LINK, "b64_json": None, "revised_prompt": None}], "usage": None},
    {"created": 1, "data": [{"b64_json": "iVBORw0KGgoAAAAN"}], "size": "1024x1024", "newer": {"a": None}},
    {"data": [{"url": LINK, "newer": None}]},
    {"created": 1, "data": [{"url": LINK}], "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}},
]


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_an_answer_is_dumped_with_the_fields_that_were_sent(answer: dict[str, object]) -> None:
    """`to_dict`, `to_json` and `model_dump(exclude_unset=True)` give what the SDK's own answer gives."""
    ours, sdk = ask(Service(**answer).client()), ask(Service(**answer).client(openai.OpenAI), model="dall-e-3")
    for dump in ("to_dict", "to_json"):
        assert getattr(ours, dump)() == getattr(sdk, dump)()
        assert getattr(ours.data[0], dump)() == getattr(sdk.data[0], dump)()
    assert ours.model_dump(exclude_unset=True) == sdk.model_dump(exclude_unset=True) == answer
    assert (ours.created, ours.usage is None) == (answer.get("created"), not answer.get("usage"))
    assert (ours.data[0].url is None, ours.data[0].b64_json is None) != (True, True)


def test_a_usage_without_counts_is_left_out_of_a_dump() -> None:
    """The documented `usage` has no counts, so that it is None; a dump has no such field, of a split call neither."""
    answer = Service(created=1, data=[{"url": LINK}], usage={"input_tokens_details": {}})
    assert ask(answer.client()).to_dict() == {"created": 1, "data": [{"url": LINK}]}
    with pytest.warns(UserWarning, match="images did not come back"):
        split = ask(answer.client(), n=5, split=True)
    assert split.to_dict() == {"created": 1, "data": [{"url": LINK}, {"url": LINK}]}


Look = Callable[[Any], object]
LOOKS: dict[str, Look] = {
    "iter_raw": lambda raw: b"".join(raw.http_response.iter_raw()),
    "iter_bytes": lambda raw: b"".join(raw.iter_bytes()),
    "iter_text": lambda raw: "".join(raw.iter_text()),
    "iter_lines": lambda raw: "\n".join(raw.iter_lines()),
    "read": lambda raw: raw.read(),
    "text": lambda raw: raw.text(),
    "json": lambda raw: raw.json(),
    "parse": lambda raw: len(raw.parse().data),
    "content": lambda raw: raw.http_response.content,
}
ASKED: dict[str, Any] = {"model": "black-forest-labs/flux.1-dev", "prompt": "a fox", "response_format": "b64_json"}


@pytest.mark.parametrize("look", LOOKS)
def test_a_streamed_response_behaves_as_the_sdk_s(look: str) -> None:
    """Before it is read it is open, it is read once, and it is closed at the end of the block."""
    emulator, seen = Emulator(pixels=64), list[list[object]]()
    with emulator.serve() as server:
        for kind in (openai.OpenAI, FluxOpenAI):
            with (
                kind(api_key="any", base_url=server.base_url) as client,
                client.images.with_streaming_response.generate(**ASKED, extra_body={"seed": 7}) as raw,
            ):
                states = [state(raw)]
                for _ in range(2):
                    try:
                        states.append(images_in(LOOKS[look](raw)))
                    except (httpx.StreamError, openai.OpenAIError) as error:
                        states.append(type(error).__name__)
                    states.append(state(raw))
            seen.append([*states, state(raw), int(raw.headers["content-length"]) > 0])
    assert seen[1] == seen[0]
    assert seen[0][0] == (False, False, False)


def state(raw: Any) -> object:  # noqa: ANN401  # of any kind
    http = raw.http_response
    return raw.is_closed, http.is_closed, http.is_stream_consumed


def images_in(content: object) -> object:
    """The images in a body, whose times and links differ from call to call."""
    if isinstance(content, bytes | str):
        content = json.loads(content)
    if isinstance(content, dict):
        return [image["b64_json"] for image in content["data"]]
    return content


@pytest.mark.anyio
async def test_a_streamed_response_behaves_as_the_sdk_s_async() -> None:
    """The same with the async clients."""
    emulator, seen = Emulator(pixels=64), list[list[object]]()
    with emulator.serve() as server:
        for kind in (openai.AsyncOpenAI, AsyncFluxOpenAI):
            async with (
                kind(api_key="any", base_url=server.base_url) as client,
                client.images.with_streaming_response.generate(**ASKED, extra_body={"seed": 7}) as raw,
            ):
                states = [state(raw)]
                states += [images_in(b"".join([chunk async for chunk in raw.iter_bytes()])), state(raw)]
            seen.append([*states, state(raw)])
    assert seen[1] == seen[0]
    assert seen[0][0] == (False, False, False)
