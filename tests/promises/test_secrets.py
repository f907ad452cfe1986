"""A key, the signature of a link and a cookie are planted; after every kind of failure they must be found nowhere."""

import asyncio
import copy
import json
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImage, FluxImagesResponse, FluxOpenAI, RetryPolicy, adapt
from flux_openai._http.library import httpx
from flux_openai.emulator.api.responses import TransportFault
from flux_openai.errors import (
    ConfigurationError,
    DownloadError,
    FluxError,
    InvalidParamsError,
    SaveError,
    UnsafeURLError,
)
from flux_openai.tools import FluxTool

# Globals on purpose: a traceback that shows locals must not find them in these very tests.
KEY = "sk-CANARY-7f3a/q+9="
SIGNATURE = "SIGNATURE-CANARY-18d0"
COOKIE = "COOKIE-CANARY-44e6"
CANARIES = ("CANARY-7f3a", SIGNATURE, COOKIE)
LINK = f"https://127.0.0.1/a.png?X-Signature={SIGNATURE}&expires=1"
HEADERS = {"set-cookie": f"session={COOKIE}; Path=/", "x-echo": f"Bearer {KEY}", "x-link": LINK}

Way = Callable[[Emulator, dict[str, Any]], FluxImagesResponse]


def sync_way(emulator: Emulator, call: dict[str, Any]) -> FluxImagesResponse:
    with emulator.client(api_key=KEY, retry=RetryPolicy(max_attempts=2, waiting=False)) as client:
        response: FluxImagesResponse = client.images.generate(**call)
        return response


def async_way(emulator: Emulator, call: dict[str, Any]) -> FluxImagesResponse:
    async def run() -> FluxImagesResponse:
        async with emulator.async_client(api_key=KEY, retry=RetryPolicy(max_attempts=2, waiting=False)) as client:
            response: FluxImagesResponse = await client.images.generate(**call)
            return response

    return asyncio.run(run())


both_ways = pytest.mark.parametrize("way", [sync_way, async_way], ids=["sync", "async"])


def ways(
    *names: str, rows: Iterable[tuple[object, ...]], async_rows: Iterable[tuple[object, ...]]
) -> pytest.MarkDecorator:
    """Each row sync, and some of them async.

    Both clients make the error in the same functions. What differs is the capture of an exchange and the frames that a
    traceback shows, and those do not depend on what the answer says.
    """
    played = [("sync", sync_way, row) for row in rows] + [("async", async_way, row) for row in async_rows]
    cases = [pytest.param(way, *row, id="-".join(map(str, (kind, *row)))) for kind, way, row in played]
    return pytest.mark.parametrize(("way", *names), cases)


class Records(logging.Handler):
    """Everything that any logger says, with its arguments."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said += [record.getMessage(), repr(record.args), repr(vars(record))]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """All loggers at DEBUG, those too that a `dictConfig` elsewhere in this process has silenced."""
    handler, root = Records(), logging.getLogger()
    for logger in (root, *(logging.getLogger(name) for name in root.manager.loggerDict)):
        monkeypatch.setattr(logger, "disabled", False)
        monkeypatch.setattr(logger, "propagate", True)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        logger._cache.clear()  # type: ignore[attr-defined]  # what it has remembered about its level
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    monkeypatch.undo()
    for logger in (root, *(logging.getLogger(name) for name in root.manager.loggerDict)):
        logger._cache.clear()  # type: ignore[attr-defined]


def contents(value: object, seen: set[int] | None = None) -> Iterator[str]:
    """What an object holds, as text, through attributes, containers, headers, requests and responses."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    yield repr(value)
    match value:
        case str():
            yield value
        case bytes():
            yield value.decode("latin-1")
        case httpx.Headers():
            yield repr(value.raw)
        case Mapping():
            for item in value.items():
                yield from contents(item, seen)
        case list() | tuple() | set() | frozenset():
            for item in value:
                yield from contents(item, seen)
        case type():
            pass
        case _:
            yield from contents(getattr(value, "__dict__", {}), seen)


def assert_clean(said: Mapping[str, str]) -> None:
    leaks = {place: canary for place, text in said.items() for canary in CANARIES if canary in text}
    assert leaks == {}


def everything_in(error: BaseException) -> dict[str, str]:
    """All that an error shows or hands on, by the place where it can be seen."""
    said = {
        "str": str(error),
        "repr": repr(error),
        "args": repr(error.args),
        "vars": "\n".join(contents(vars(error))),
        "copy": "\n".join(contents(vars(copy.copy(error)))),
        "pickle": pickle.dumps(error).decode("latin-1"),
        "traceback": "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()),
        "plain traceback": "".join(traceback.format_exception(error)),
    }
    response = getattr(error, "response", None)
    if response is not None:
        said |= {"response": response.text, "headers": repr(response.headers.raw), "url": str(response.request.url)}
    request = getattr(error, "request", None)
    if request is not None:
        said |= {"request": repr(request.headers.raw), "request url": str(request.url), "body": repr(request.content)}
    return said


def assert_same_after_pickling(error: FluxError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # what is loaded was dumped here
    assert type(back) is type(error)
    for name in ("args", "billing", "attempts", "retry_after", "request_id", "status_code", "message", "code", "raw"):
        assert getattr(back, name, None) == getattr(error, name, None), name
    assert str(back) == str(error)


def failing(way: Way, emulator: Emulator, call: dict[str, Any]) -> FluxError:
    with pytest.raises(openai.OpenAIError) as caught:
        way(emulator, call)
    assert isinstance(caught.value, FluxError)
    return caught.value


def escaped(text: str) -> str:
    """The text as a JSON writer may write it that escapes more than it has to."""
    return json.dumps(text)[1:-1].replace("/", "\\/").replace("+", "\\u002b")


ECHO = f"key {KEY} is wrong, Authorization: Bearer {KEY}, see {LINK}"
BODIES = {
    "envelope": json.dumps({"error": {"message": ECHO, "code": KEY, "type": LINK, "param": f"id {KEY}"}}),
    "escaped envelope": f'{{"error": {{"message": "{escaped(ECHO)}", "param": "{escaped(KEY)}", "code": "x"}}}}',
    "html": f"<html><body>{ECHO} <a href='{LINK}'>image</a></body></html>",
    "text": ECHO,
    "junk": json.dumps({"request": {"headers": {"Authorization": f"Bearer {KEY}"}}, "links": [LINK]}),
    "list": json.dumps([KEY, LINK]),
    "cut off": f'{{"data": [{{"key": "{KEY}", "url": "{LINK}',
    "long": json.dumps({"padding": "x" * 65_500, "key": KEY, "link": LINK, "more": [KEY] * 9000}),
    "no image": json.dumps({"data": [{"b64_json": f"!{KEY}", "x": LINK}, LINK, {"url": None, "key": KEY}]}),
}


STATUSES = (200, 302, 400, 401, 429, 500, 504)


@ways("status", "body", rows=product(STATUSES, BODIES), async_rows=product(STATUSES, ["envelope"]))
def test_a_server_that_echoes_secrets_leaks_none(way: Way, status: int, body: str) -> None:
    """The key and a signed link in an error's body and headers are gone from the error and from its pickle."""
    emulator = Emulator(pixels=64)
    emulator.fail(2, status=status, body=BODIES[body], headers=HEADERS)
    error = failing(way, emulator, {"prompt": "a fox"})
    assert error.attempts == (2 if status in (429, 500) else 1)
    assert_clean(everything_in(error))
    assert_same_after_pickling(error)


@both_ways
@pytest.mark.parametrize("status", [200, 302, 400, 500])
def test_what_a_server_echoes_is_in_no_log(records: Records, way: Way, status: int) -> None:
    """With every logger at DEBUG, no secret of the answer's headers or body is logged, by us or the SDK."""
    emulator = Emulator(pixels=64)
    emulator.fail(2, status=status, body=ECHO, headers=HEADERS)
    failing(way, emulator, {"prompt": "a fox"})
    assert records.said
    assert_clean({"logs": "\n".join(records.said)})


READ_HEADERS = ("x-request-id", "retry-after", "content-type", "location")


@ways("status", "header", rows=product([200, 400, 500], READ_HEADERS), async_rows=product([400], READ_HEADERS))
def test_a_key_in_a_header_that_is_read_leaks_not(records: Records, way: Way, status: int, header: str) -> None:
    """Also where a header has a meaning for us or the SDK, the key that stands in it goes nowhere."""
    emulator = Emulator(pixels=64)
    emulator.fail(2, status=status, body="x", headers={header: f"a {KEY}"})
    error = failing(way, emulator, {"prompt": "a fox"})
    assert_clean(everything_in(error) | {"logs": "\n".join(records.said)})


@both_ways
@pytest.mark.parametrize("fault", ["connect", "timeout", "reset", "truncate"])
def test_a_broken_exchange_leaks_nothing(records: Records, way: Way, fault: TransportFault) -> None:
    """The errors of the connection carry neither the request with its key nor half an answer with its links."""
    emulator = Emulator(pixels=64)
    emulator.fail(2, error=fault)
    error = failing(way, emulator, {"prompt": "a fox", "response_format": "url"})
    assert_clean(everything_in(error) | {"logs": "\n".join(records.said)})
    assert "signature=" not in repr(everything_in(error))
    assert_same_after_pickling(error)


@both_ways
@pytest.mark.parametrize(
    "call",
    [
        {"prompt": " ", "n": 9, "quality": "hd"},
        {"prompt": LINK, "aspect_ratio": LINK, "negative_prompt": LINK, "seed": LINK},
        {"prompt": "a fox", "size": LINK, "extra_body": {"link": LINK, "prompt": LINK}},
        {"prompt": "a fox", "extra_body": LINK},
    ],
    ids=["plain", "links", "size", "extra_body"],
)
def test_a_refused_call_leaks_nothing(records: Records, way: Way, call: dict[str, Any]) -> None:
    """An error about parameters does not hold the client's key, and its text shows no signed link."""
    error = failing(way, Emulator(pixels=64), call)
    assert isinstance(error, InvalidParamsError)
    assert_same_after_pickling(error)
    # Not in the frames of these very tests, whose locals are the caller's own.
    assert_clean(without_own_frames(error) | {"logs": "\n".join(records.said)})


def without_own_frames(error: BaseException) -> dict[str, str]:
    """All that an error shows, with the frames of the package, of the SDK and of the HTTP library only."""
    own, kept = error.__traceback__, []
    while own is not None:
        if own.tb_frame.f_code.co_filename != __file__:
            kept.append({name: repr(value) for name, value in own.tb_frame.f_locals.items()})
        own = own.tb_next
    return everything_in(error.with_traceback(None)) | {"frames": repr(kept)}


TOKEN = f"TOKEN-{SIGNATURE}"
SECRET_CALL: dict[str, Any] = {
    "prompt": "a fox",
    "model": "kontext-max",
    "image": f"https://me:{TOKEN}@images.example/a.png?sig={TOKEN}",
    "extra_headers": {"X-Own": TOKEN, "X-Token": TOKEN},
    "extra_query": {"token": TOKEN},
}
FAILURES: dict[str, dict[str, Any]] = {
    "refused": {"status": 400},
    "broken off": {"error": "reset"},
    "unusable": {"status": 200, "body": "{}"},
}


@both_ways
@pytest.mark.parametrize("method", ["generate", "edit"])
@pytest.mark.parametrize("fault", [*FAILURES, "invalid"])
def test_no_frame_below_the_caller_s_holds_the_call(records: Records, way: Way, method: str, fault: str) -> None:
    """The headers, the query and the signed links of a call are in no frame of a traceback, and in no log."""
    emulator = Emulator(pixels=64)
    call = {**SECRET_CALL, **({"steps": 99, "image": f"{LINK} "} if fault == "invalid" else {})}
    if fault != "invalid":
        call["image"] = LINK.replace("127.0.0.1", "images.example")
        emulator.fail(2, **FAILURES[fault])

    def sync_call() -> None:
        getattr(emulator.client(api_key=KEY, default_query={"key": TOKEN}).images, method)(**call)

    async def async_call() -> None:
        await getattr(emulator.async_client(api_key=KEY, default_query={"key": TOKEN}).images, method)(**call)

    with pytest.raises(FluxError) as caught:
        sync_call() if way is sync_way else asyncio.run(async_call())
    assert records.said or fault == "invalid"
    logs = "\n".join(said for said in records.said if "asyncio" not in said)
    assert_clean(without_own_frames(caught.value) | {"logs": logs})


@pytest.mark.parametrize(
    "value",
    [
        LINK,
        f"https://me:{SIGNATURE}@x.example/a.png",
        [f"{LINK}", "a.png"],
        {"deep": [{"link": LINK}]},
        f"https://x.example/a b.png?sig={SIGNATURE}",
        f"sk-{SIGNATURE}",
        f"Bearer {SIGNATURE}",
    ],
    ids=repr,
)
@pytest.mark.parametrize("param", ["style", "aspect_ratio"])
def test_the_value_of_a_wrong_parameter_is_redacted(param: str, value: object) -> None:
    """Whatever looks like a credential in a value is in neither `.value`, nor the text, nor the pickle."""
    with pytest.raises(InvalidParamsError) as caught:
        cast(Any, Emulator(pixels=64).client().images).generate(prompt="a fox", **{param: value})
    [fault] = caught.value.faults
    said = f"{fault} {fault!r} {fault.value!r} {fault.nearest!r} {caught.value}"
    assert_clean({"fault": said, "pickle": pickle.dumps(caught.value).decode("latin-1")})


@pytest.mark.parametrize("param", ["api_key", "user", "style", "prompt", "aspect_ratio", "size", "seed"])
def test_the_client_s_key_as_a_parameter_is_not_repeated(param: str) -> None:
    """A key that was passed in the wrong place is in no error, whatever form it has."""
    arguments: dict[str, Any] = {"prompt": "a fox", "steps": 99, param: KEY}
    with pytest.raises(InvalidParamsError) as caught:
        Emulator(pixels=64).client(api_key=KEY).images.generate(**arguments)
    assert_clean({"str": str(caught.value), "faults": repr([vars(fault) for fault in caught.value.faults])})


@both_ways
@pytest.mark.parametrize("status", [302, 200, 401])
def test_a_key_in_a_reason_phrase_is_not_repeated(records: Records, way: Way, status: int) -> None:
    """Of a server on a port: a key in the status line, a cookie and a signed Location are in no error and no log."""
    from tests.promises.money.fakes import FakeServer, head  # noqa: PLC0415  # the one test here with a socket

    line = f"{status} {KEY}"
    server = FakeServer(
        head(line, Set_Cookie=f"s={COOKIE}", Location=LINK, Link=f"</a?sig={SIGNATURE}>") + ECHO.encode()
    )
    options: dict[str, Any] = {"api_key": KEY, "base_url": server.base_url, "default_query": {"sig": SIGNATURE}}

    async def run() -> None:
        async with AsyncFluxOpenAI(**options) as client:
            await client.images.generate(prompt="a fox")

    with pytest.raises(FluxError) as caught:
        asyncio.run(run()) if way is async_way else FluxOpenAI(**options).images.generate(prompt="a fox")
    server.stop()
    assert any("receive_response_headers" in said for said in records.said)
    assert_clean(without_own_frames(caught.value) | {"logs": "\n".join(records.said)})


def test_a_credential_of_the_query_is_not_repeated() -> None:
    """What a service echoes of the credentials in a query stands in no error."""
    emulator = Emulator()
    emulator.fail(status=400, body={"error": {"message": "no such token: CANARY-7f3a-x"}})
    with pytest.raises(FluxError) as caught:
        emulator.client().images.generate(prompt="a fox", extra_query={"access_token": "CANARY-7f3a-x"})
    assert_clean({"str": str(caught.value), "vars": repr(vars(caught.value))})


def test_what_other_clients_log_is_left_alone(records: Records) -> None:
    """The address in the log of a request that is not ours is the HTTP library's business."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        client.get(f"https://x.example/?sig={SIGNATURE}")
    assert SIGNATURE in "\n".join(records.said)


def make_bad_key() -> object:
    return FluxOpenAI(api_key=f"{KEY}\n")


def make_bad_async_key() -> object:
    return AsyncFluxOpenAI(api_key=f"{KEY}ü")


def make_bad_base() -> object:
    return FluxOpenAI(api_key=KEY, base_url="http://example.com/v1")


def make_bad_base_with_query() -> object:
    return FluxOpenAI(api_key="k", base_url=f"http://example.com/v1?x={SIGNATURE}")


def make_bad_policy() -> object:
    return AsyncFluxOpenAI(api_key=KEY, max_retries=-1)


def make_bad_mode() -> object:
    return FluxOpenAI(api_key=KEY, unsupported="never")  # type: ignore[arg-type]  # what a user may write


def make_bad_defaults() -> object:
    return FluxOpenAI(api_key=KEY, defaults={"n": 9})


def make_bad_copy() -> object:
    return FluxOpenAI(api_key=KEY).with_options(base_url="http://example.com/v1")


def make_bad_adapted() -> object:
    client = openai.OpenAI(api_key=KEY, base_url="https://example.com/v1")
    return adapt(client, unsupported="never")  # type: ignore[call-overload]  # what a user may write


def make_bad_adapted_key() -> object:
    return adapt(openai.AsyncOpenAI(api_key=f"{KEY}\r\n", base_url="https://example.com/v1"))


MAKERS = [
    *(make_bad_key, make_bad_async_key, make_bad_base, make_bad_base_with_query, make_bad_policy, make_bad_mode),
    *(make_bad_defaults, make_bad_copy, make_bad_adapted, make_bad_adapted_key),
]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_a_client_that_cannot_be_made_leaks_nothing(make: Callable[[], object]) -> None:
    """An error about the set-up holds no key, neither in its text nor in the locals of a traceback."""
    with pytest.raises((ConfigurationError, InvalidParamsError)) as caught:
        make()
    assert_clean(everything_in(caught.value))
    assert_same_after_pickling(caught.value)


def answer_with(emulator: Emulator, url: str, **fields: object) -> None:
    emulator.fail(1, status=200, body={"data": [{"url": url}], **fields})


def read_it(emulator: Emulator) -> object:
    with emulator.client(api_key=KEY) as client:
        return client.images.generate(prompt="a fox").data[0].read()


async def aread_it(emulator: Emulator) -> object:
    async with emulator.async_client(api_key=KEY) as client:
        return await (await client.images.generate(prompt="a fox")).data[0].aread()


DOWNLOADS = {
    "refused": LINK,
    "not found": f"https://api.umodelverse.ai/files/none.png?signature={SIGNATURE}&expires=1",
    "no URL": f"https://[?signature={SIGNATURE}",
    "other scheme": f"ftp://example.com/?signature={SIGNATURE}",
}


@pytest.mark.parametrize("link", DOWNLOADS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_failed_download_leaks_nothing(records: Records, link: str, mode: str) -> None:
    """The error, its traceback with locals and the logs show neither the signed link nor a key."""
    emulator = Emulator(pixels=64)
    answer_with(emulator, DOWNLOADS[link])
    with pytest.raises(DownloadError) as caught:
        read_it(emulator) if mode == "sync" else asyncio.run(aread_it(emulator))
    assert isinstance(caught.value, UnsafeURLError) == (link != "not found")
    assert caught.value.billing == "paid"
    assert_clean(everything_in(caught.value) | {"logs": "\n".join(records.said)})
    assert_same_after_pickling(caught.value)


def failed_download(emulator: Emulator) -> tuple[DownloadError, FluxImage]:
    with emulator.client(api_key=KEY) as client:
        image = client.images.generate(prompt="a fox").data[0]
        with pytest.raises(DownloadError) as caught:
            image.save()
    return caught.value, image


@pytest.mark.parametrize("status", [302, 403, 404, 410, 429, 500, 200])
def test_a_download_that_is_refused_leaks_nothing(records: Records, status: int) -> None:
    """What a file server says instead of an image, its redirects and cookies stay out of the error and the logs."""
    emulator = Emulator(pixels=64)
    emulator.fail(5, status=status, body=ECHO, headers={**HEADERS, "location": LINK}, on="download")
    error, image = failed_download(emulator)
    said = everything_in(error) | {"logs": "\n".join(records.said), "repr of the image": repr(image)}
    assert_clean(said)
    assert image.url is not None
    signature = image.url.partition("signature=")[2].partition("&")[0]
    assert len(signature) > 20
    assert [place for place, text in said.items() if signature in text] == []


def test_a_failed_save_leaks_nothing(records: Records, tmp_path: Path) -> None:
    """An image that cannot be written is reported by its path, and not by its link or its bytes."""
    (tmp_path / "file").touch()
    with Emulator(pixels=64).client(api_key=KEY) as client:
        response = client.images.generate(prompt="a fox", response_format="b64_json")
        with pytest.raises(SaveError) as caught:
            response.save(tmp_path / "file")
    said = everything_in(caught.value) | {"logs": "\n".join(records.said)}
    assert_clean(said)
    assert "signature=" not in repr(said)
    assert_same_after_pickling(caught.value)


@both_ways
def test_a_good_call_leaks_nothing(records: Records, way: Way) -> None:
    """Logs, the printed answer and its pickle hold no key, and only the pickle its link, also after a retry."""
    emulator = Emulator(pixels=64)
    emulator.fail(1, status=503, body=BODIES["envelope"])
    answer_with(emulator, LINK)
    response = way(emulator, {"prompt": "a fox"})
    assert response.attempts == 2
    assert response.data[0].url == LINK
    assert_clean({"logs": "\n".join(records.said), "repr": repr(response), "str": str(response)})
    assert KEY not in repr(response._info) + repr(response.data[0]._downloads)
    assert KEY not in pickle.dumps(response).decode("latin-1")


@both_ways
def test_a_notice_leaks_nothing(records: Records, way: Way) -> None:
    """What the service says beside a good image is passed on as a warning without the secrets in it."""
    emulator = Emulator(pixels=64)
    answer_with(emulator, LINK, error={"message": ECHO})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        response = way(emulator, {"prompt": "a fox"})
    said = {"warnings": repr([str(w.message) for w in caught]), "notices": repr(response.notices)}
    assert len(response.notices) == 1
    assert_clean(said | {"logs": "\n".join(records.said)})


def test_nothing_that_is_printed_shows_a_key() -> None:
    """The repr of clients, settings, policies, resources, the emulator and what it saw holds no key."""
    emulator = Emulator(pixels=64, api_key=KEY)
    clients: list[Any] = [emulator.client(), emulator.async_client(), emulator.client().with_options(timeout=3)]
    clients += [adapt(openai.OpenAI(api_key=KEY, base_url="https://example.com/v1"))]
    for client in clients:
        shown = [client, client.images, client._settings, client._settings.retry, client.with_options()._settings]
        assert_clean({repr(type(thing)): f"{thing!r} {thing!s}" for thing in shown})
    emulator.client().images.generate(prompt="a fox")
    assert_clean({"emulator": repr(emulator), "requests": repr(emulator.requests)})


@pytest.fixture
def foreign_environment(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that belongs to OpenAI is set, each with a word of its own."""
    plain = ["API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"]
    words = [f"foreign-{name.lower()}" for name in plain]
    for name, word in zip(plain, words, strict=True):
        monkeypatch.setenv(f"OPENAI_{name}", word)
    headers = {
        "X-Custom": "foreign-custom",
        "Authorization": "Bearer foreign-auth",
        "OpenAI-Organization": "foreign-org",
    }
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "\n".join(f"{name}: {value}" for name, value in headers.items()))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://foreign-base.example/v1")
    return ["foreign-", "x-custom"]


class Witness:
    """A service that keeps each request as it came, URL, headers and body, and answers like the emulator."""

    def __init__(self) -> None:
        self.emulator = Emulator(pixels=64)
        self.seen: list[str] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(f"{request.url} {request.headers.raw!r} {request.read()!r}".lower())
        return self.emulator.handle(request)

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self.handle))

    def async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handle))


SERVICE = "https://api.umodelverse.ai/v1"

SyncMaker = Callable[[Witness], FluxOpenAI]
SYNC_MAKERS: dict[str, SyncMaker] = {
    "new": lambda w: FluxOpenAI(api_key=KEY, http_client=w.client()),
    "key from the environment": lambda w: FluxOpenAI(http_client=w.client()),
    "copy": lambda w: FluxOpenAI(api_key=KEY, http_client=w.client()).copy(timeout=9),
    "with_options": lambda w: FluxOpenAI(api_key=KEY, http_client=w.client()).with_options(max_retries=1).copy(),
    "set headers": lambda w: FluxOpenAI(api_key=KEY, http_client=w.client()).copy(set_default_headers={"x-own": "own"}),
    "adapted": lambda w: adapt(openai.OpenAI(api_key=KEY, base_url=SERVICE, http_client=w.client())),
    "adapted copy": lambda w: adapt(
        openai.OpenAI(api_key=KEY, base_url=SERVICE, http_client=w.client()).with_options(timeout=5)
    ).copy(),
}


@pytest.mark.parametrize("made", SYNC_MAKERS)
def test_nothing_of_openai_s_reaches_the_service(
    made: str, foreign_environment: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No OPENAI_* variable gets into a URL, header or body, whether a client is made, copied or adapted."""
    monkeypatch.setenv("MODELVERSE_API_KEY", KEY)
    witness = Witness()
    client = SYNC_MAKERS[made](witness)
    client.images.generate(prompt="a fox")
    client.images.with_raw_response.generate(prompt="a fox")
    client.models.list()
    assert len(witness.seen) == 3
    assert [(word, seen) for seen in witness.seen for word in foreign_environment if word in seen] == []
    assert all(seen.startswith(f"{SERVICE}/") for seen in witness.seen)
    assert all(f"bearer {KEY}".lower() in seen for seen in witness.seen)


@pytest.mark.anyio
@pytest.mark.parametrize("made", ["new", "copy", "adapted"])
async def test_nothing_of_openai_s_reaches_the_service_async(made: str, foreign_environment: list[str]) -> None:
    """The same holds for the async client."""
    witness = Witness()
    client = AsyncFluxOpenAI(api_key=KEY, http_client=witness.async_client())
    if made == "copy":
        client = client.copy(timeout=9).with_options(max_retries=1)
    if made == "adapted":
        plain = openai.AsyncOpenAI(api_key=KEY, base_url=SERVICE, http_client=witness.async_client())
        client = adapt(plain).copy()
    await client.images.generate(prompt="a fox")
    await client.models.list()
    assert len(witness.seen) == 2
    assert [(word, seen) for seen in witness.seen for word in foreign_environment if word in seen] == []


def test_what_the_user_gave_is_kept(foreign_environment: list[str]) -> None:
    """An organization, project or header that was passed explicitly goes out, also through adapt and copy."""
    witness = Witness()
    given: dict[str, Any] = {
        "organization": "org-given",
        "project": "project-given",
        "default_headers": {"x-given": "given"},
    }
    clients = [
        FluxOpenAI(api_key=KEY, http_client=witness.client(), **given),
        adapt(openai.OpenAI(api_key=KEY, base_url=SERVICE, http_client=witness.client(), **given)),
    ]
    for client in [*clients, *(client.copy() for client in clients)]:
        client.images.generate(prompt="a fox")
        assert all(word in witness.seen[-1] for word in ("org-given", "project-given", "x-given"))
        assert [word for word in foreign_environment if word in witness.seen[-1]] == []


def test_no_key_of_openai_s_stands_in(foreign_environment: list[str]) -> None:
    """Without a key of this service no client is made, although OPENAI_API_KEY is there."""
    for kind in (FluxOpenAI, AsyncFluxOpenAI):
        with pytest.raises(ConfigurationError, match="MODELVERSE_API_KEY"):
            kind()


def test_what_a_split_call_leaves_to_be_asked_for_holds_no_key_of_the_query() -> None:
    """A key in `extra_query` or `extra_headers` is in no attribute and no pickle of the error that carries `.rest`."""
    emulator = Emulator(pixels=64)
    emulator.fail(status=400)
    with pytest.raises(FluxError) as caught:
        emulator.client(split=True).images.generate(
            prompt="a fox", n=8, extra_query={"api-key": "sk-in-the-query"}, extra_headers={"X-Key": "sk-in-a-header"}
        )
    assert caught.value.rest
    said = f"{vars(caught.value)!r} {pickle.dumps(caught.value)!r}"
    assert "sk-in-the-query" not in said
    assert "sk-in-a-header" not in said


def test_the_link_of_an_unsaved_image_is_in_no_repr(tmp_path: Path) -> None:
    """The result of a tool call has the link that is left of an image, and does not show it."""
    emulator = Emulator(pixels=64)
    emulator.fail(status=410, on="download")
    result = FluxTool(emulator.client(), folder=tmp_path).call({"prompt": "a fox"})
    assert "signature=" in result.unsaved[0]
    assert "signature=" not in f"{result!r} {result.text} {result.artifact}"


@pytest.mark.parametrize("header", ["Proxy-Authorization", "X-Auth", "Authorization", "X-Api-Key", "X-Access-Token"])
def test_a_credential_in_any_usual_header_is_not_repeated(header: str) -> None:
    """What a service echoes of the credentials that a caller adds stands in no error."""
    emulator = Emulator()
    emulator.fail(status=400, body={"error": {"message": "no such key: CANARY-5d1e"}})
    with pytest.raises(FluxError) as caught:
        emulator.client().images.generate(prompt="a fox", extra_headers={header: "CANARY-5d1e"})
    assert "CANARY" not in str(caught.value) + str(caught.value.__dict__)


def test_a_key_that_an_answer_repeats_is_in_no_repr_and_no_pickle() -> None:
    """A 200 that echoes the key is read without it, but for the image and its link, which would be lost."""
    emulator = Emulator(pixels=64)
    link = {"url": "https://x.example/sk-echoed-key/a.png", "revised_prompt": "key: sk-echoed-key"}
    emulator.fail(status=200, body={"created": 1, "data": [link], "note": ["sk-echoed-key"]})
    response = emulator.client(api_key="sk-echoed-key").images.generate(prompt="a fox")
    assert response.data[0].url == link["url"]
    assert response.data[0].revised_prompt == "key: [redacted]"
    assert repr(response).count("sk-echoed-key") == pickle.dumps(response).count(b"sk-echoed-key") == 1


def test_a_key_that_stands_in_an_image_by_chance_does_not_break_it() -> None:
    """Base64 has any short word somewhere; a paid image must come out as it came in."""
    emulator = Emulator(pixels=64)
    client = emulator.client(api_key="iVBORw0KGgo")  # how every PNG begins in base64
    [image] = client.images.generate(prompt="a fox", response_format="b64_json").data
    assert image.b64_json is not None
    assert image.b64_json.startswith("iVBORw0KGgo")
    assert image.read().startswith(b"\x89PNG\r\n\x1a\n")
