"""What the SDK's own tests do with its images resource, done with its clients and with ours: to the byte the same."""

import inspect
import io
import re
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import openai
import pytest
from openai.resources.images import Images
from openai.types import ImagesResponse

from flux_openai import AsyncFluxOpenAI, FluxOpenAI
from flux_openai._http.library import httpx

pytestmark = pytest.mark.anyio

BYTES = b"Example data"
FORMS = ["plain", "raw", "streamed"]
CLIENTS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "sync": (openai.OpenAI, FluxOpenAI),
    "async": (openai.AsyncOpenAI, AsyncFluxOpenAI),
}
TOKENS = {"text_tokens": 13, "image_tokens": 0}
USAGE = {"input_tokens": 13, "input_tokens_details": TOKENS, "output_tokens": 196, "total_tokens": 209}
LOOK = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
ANSWER = {"created": 1, "data": [{"b64_json": "aGVsbG8=", "revised_prompt": "An otter"}], "usage": USAGE, **LOOK}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call: the images method, its arguments, those that are files and how each is given, and the answer."""

    method: str
    arguments: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    answer: object = field(default_factory=lambda: ANSWER)
    status: int = 200

    @property
    def stream(self) -> bool:
        return self.arguments.get("stream") is True


MINIMAL = {"prompt": "A cute baby sea otter", "model": "gpt-image-2"}
COMMON: Mapping[str, Any] = {
    "prompt": "A cute baby sea otter wearing a beret",
    "background": "transparent",
    "complexity": "low",
    "frame_count": 2,
    "frame_duration_ms": 20,
    "n": 1,
    "output_compression": 100,
    "output_format": "png",
    "partial_images": 1,
    "response_format": "url",
    "safety_identifier": "user-1234",
    "size": "1024x1024",
    "svg": {"model": "x", "reasoning": {"effort": "none"}},
    "user": "user-1234",
}
GENERATE_ALL = {**COMMON, "model": "gpt-image-2.5-flare", "moderation": "low", "quality": "medium", "style": "vivid"}
EDIT_ALL = {**COMMON, "model": "gpt-image-1.5", "input_fidelity": "high", "quality": "high"}
EDIT_FILES = {"image": "bytes", "markup": "bytes", "mask": "bytes"}
VARIATION_ALL = {"model": "gpt-image-1.5", "n": 1, "response_format": "url", "size": "1024x1024", "user": "user-1234"}
ONE = {"image": "bytes"}
EXTRAS: Mapping[str, Any] = {
    "extra_headers": {"x-otter": "1"},
    "extra_query": {"beret": "red"},
    "extra_body": {"seed": 7},
    "timeout": 9,
}

# Without a model our clients mean FLUX, so every case names one: "string" is what the SDK's 2.x tests call it.
SDK_CASES: Mapping[str, Case] = {
    "create_variation": Case(method="create_variation", arguments={"model": "string"}, files=ONE),
    "create_variation all": Case(method="create_variation", arguments=VARIATION_ALL, files=ONE),
    "edit": Case(method="edit", arguments=MINIMAL, files=ONE),
    "edit all": Case(method="edit", arguments={**EDIT_ALL, "stream": False}, files=EDIT_FILES),
    "edit stream": Case(method="edit", arguments={**MINIMAL, "stream": True}, files=ONE),
    "edit stream all": Case(method="edit", arguments={**EDIT_ALL, "stream": True}, files=EDIT_FILES),
    "generate": Case(method="generate", arguments=MINIMAL),
    "generate all": Case(method="generate", arguments={**GENERATE_ALL, "stream": False}),
    "generate stream": Case(method="generate", arguments={**MINIMAL, "stream": True}),
    "generate stream all": Case(method="generate", arguments={**GENERATE_ALL, "stream": True}),
}
# Beyond the SDK's own tests: what else its methods take, and what goes wrong.
CASES: Mapping[str, Case] = {
    **SDK_CASES,
    "generate 2.x": Case(method="generate", arguments={**GENERATE_ALL, "model": "string", "size": "auto"}),
    "edit 2.x": Case(method="edit", arguments={**EDIT_ALL, "model": "string"}, files=EDIT_FILES),
    "create_variation extras": Case(method="create_variation", arguments={**VARIATION_ALL, **EXTRAS}, files=ONE),
    "edit extras": Case(method="edit", arguments={**MINIMAL, **EXTRAS}, files=ONE),
    "generate extras": Case(method="generate", arguments={**MINIMAL, **EXTRAS}),
    "generate None": Case(method="generate", arguments={**dict.fromkeys(GENERATE_ALL), **MINIMAL}),
    "edit None": Case(method="edit", arguments={**dict.fromkeys(VARIATION_ALL), **MINIMAL}, files=ONE),
    "generate omit": Case(method="generate", arguments={**MINIMAL, "n": openai.omit, "timeout": openai.not_given}),
    "generate no prompt": Case(method="generate", arguments={"model": "gpt-image-2"}),
    "edit no image": Case(method="edit", arguments=MINIMAL),
    "generate refused": Case(method="generate", arguments=MINIMAL, status=400, answer={"error": {"code": "x"}}),
    "edit refused": Case(method="edit", arguments=MINIMAL, files=ONE, status=400, answer={"error": {"code": "x"}}),
    "generate odd answer": Case(method="generate", arguments=MINIMAL, answer={"created": "then", "data": 5}),
    "edit odd answer": Case(method="edit", arguments=MINIMAL, files=ONE, answer={"created": "then", "data": 5}),
    "generate stream breaks": Case(
        method="generate", arguments={**MINIMAL, "stream": True}, answer={"error": {"message": "x"}}
    ),
}

FILES: Mapping[str, Callable[[Path, Callable[[], BinaryIO]], Any]] = {
    "bytes": lambda _path, _opened: BYTES,
    "path": lambda path, _opened: path,
    "open file": lambda _path, opened: opened(),
    "file in memory": lambda _path, _opened: io.BytesIO(BYTES),
    "name, bytes": lambda _path, _opened: ("otter.png", BYTES),
    "name, bytes, type": lambda _path, _opened: ("otter.png", BYTES, "image/png"),
    "name, path, type": lambda path, _opened: ("otter.png", path, "image/png"),
    "name, open file, type, headers": lambda _path, opened: ("o.png", opened(), "image/png", {"x-part": "1"}),
    "list of one": lambda _path, _opened: [BYTES],
    "list": lambda path, opened: [BYTES, path, opened(), ("otter.png", BYTES, "image/png")],
    "text": lambda _path, _opened: "otter.png",  # the SDK refuses a name where it wants a file
}


def known(case: Case) -> dict[str, Any]:
    """The arguments that the installed SDK's own method takes: newer releases take more."""
    names = inspect.signature(getattr(Images, case.method)).parameters
    return {name: value for name, value in case.arguments.items() if name in names}


def given(case: Case, path: Path, stack: ExitStack) -> dict[str, Any]:
    """The arguments of one call, with its files as the case has them: new ones each time, as reading uses them up."""
    names = inspect.signature(getattr(Images, case.method)).parameters
    path.write_bytes(BYTES)
    files = {
        name: FILES[how](path, lambda: stack.enter_context(path.open("rb")))
        for name, how in case.files.items()
        if name in names
    }
    return {**known(case), **files}


def events(method: str) -> list[dict[str, Any]]:
    """What a streamed call is answered with: two drafts, then the picture."""
    kind = "image_edit" if method == "edit" else "image_generation"
    common = {"b64_json": "aGVsbG8=", "created_at": 1, **LOOK}
    drafts = [{"type": f"{kind}.partial_image", "partial_image_index": index, **common} for index in (0, 1)]
    return [*drafts, {"type": f"{kind}.completed", "usage": USAGE, **common}]


class Arriving(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is not there before it is read, so that open and closed answers can be told apart."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self.body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


class Service:
    """The other side: keeps each request as it came and answers as the case says."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.seen: list[tuple[object, ...]] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        # Two things may differ: the random boundary, and the class name by which a client calls itself.
        boundary = re.search(rb"boundary=(\S+)", request.headers.get("content-type", "").encode())
        mark = boundary[1] if boundary else b"no boundary"
        headers = [(name, value.replace(mark, b"~").replace(b"Flux", b"")) for name, value in request.headers.raw]
        self.seen.append((request.method, str(request.url), headers, request.read().replace(mark, b"~")))
        return self.answer()

    def answer(self) -> httpx.Response:
        answer, headers = self.case.answer, {"x-request-id": "req-1"}
        if not self.case.stream:
            # Encoded by the library, sent as something yet to arrive.
            body = httpx.Response(200, json=answer).content
            headers["content-type"] = "application/json"
            return httpx.Response(self.case.status, headers=headers, stream=Arriving(body))
        parts = events(self.case.method) if answer is ANSWER else [answer]
        lines = [httpx.Response(200, json=part).content for part in parts]
        headers["content-type"] = "text/event-stream"
        return httpx.Response(200, headers=headers, stream=Arriving(b"".join(b"data: %b\n\n" % part for part in lines)))

    def client(self, kind: type[Any], *, strict: bool) -> Any:  # noqa: ANN401  # of four kinds
        transport = httpx.MockTransport(self.handle)
        http = (httpx.AsyncClient if issubclass(kind, openai.AsyncOpenAI) else httpx.Client)(transport=transport)
        # A time-out, because the SDK tells it to the service and ours has another default.
        options = {"api_key": "my-key", "base_url": "https://images.example/v1", "http_client": http, "timeout": 60}
        return kind(**options, max_retries=0, _strict_response_validation=strict)


async def settled(value: Any) -> Any:  # noqa: ANN401  # whatever it is
    """The value itself, from a sync client, or what an async one has to be waited for."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:  # noqa: ANN401  # of either kind
    if isinstance(manager, AbstractContextManager):
        with manager as value:
            yield value
    else:
        async with manager as value:
            yield value


async def facts_of(result: Any) -> list[object]:  # noqa: ANN401  # an answer or a stream of events
    """All there is to see of a result: types, values and, of a stream, each event."""
    if isinstance(result, openai.Stream | openai.AsyncStream):
        seen = list(result) if isinstance(result, openai.Stream) else [event async for event in result]
        await settled(result.close())
        assert result.response.is_closed
        return [type(result), [(type(event), event.to_dict()) for event in seen]]
    return [type(result), repr(result), result.to_dict(warnings=False), getattr(result, "_request_id", None)]


async def facts_of_call(client: Any, case: Case, form: str, arguments: Mapping[str, Any]) -> list[object]:  # noqa: ANN401
    """Make the call in one of its three forms, with the checks that the SDK's own tests make on the way."""
    images = {
        "plain": client.images,
        "raw": client.images.with_raw_response,
        "streamed": client.images.with_streaming_response,
    }[form]
    pending = getattr(images, case.method)(**arguments)
    if form == "plain":
        return await facts_of(await settled(pending))
    if form == "raw":
        raw = await settled(pending)
        assert case.stream or raw.is_closed is True
        assert raw.http_request.headers.get("X-Stainless-Lang") == "python"
        return [type(raw), dict(raw.headers), *await facts_of(await settled(raw.parse()))]
    async with entered(pending) as response:
        assert not response.is_closed
        assert response.http_request.headers.get("X-Stainless-Lang") == "python"
        found = [type(response), dict(response.headers), *await facts_of(await settled(response.parse()))]
    assert response.is_closed is True
    return found


async def outcome(client: Any, case: Case, form: str, arguments: Mapping[str, Any]) -> list[object]:  # noqa: ANN401
    """What came of a call: facts or an error, and the SDK's warnings of what it has deprecated."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("error")
        warnings.simplefilter("always", DeprecationWarning)
        try:
            found = await facts_of_call(client, case, form, arguments)
        except (openai.OpenAIError, TypeError, RuntimeError) as error:
            found = [type(error), str(error)]
    return [*found, [(warning.category, str(warning.message), warning.filename) for warning in caught]]


async def both(case: Case, form: str, clients: str, path: Path, *, strict: bool = False) -> list[list[Any]]:
    """The outcome of a case, and the requests it made, with the SDK's client and with ours."""
    results = []
    for kind in CLIENTS[clients]:
        service = Service(case)
        with ExitStack() as stack:
            found = await outcome(service.client(kind, strict=strict), case, form, given(case, path, stack))
        results.append([*found, service.seen])
    return results


@pytest.mark.parametrize("answers", ["loose", "strict"])
@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_call_for_another_model_is_the_sdk_s(
    case: Case, form: str, clients: str, answers: str, tmp_path: Path
) -> None:
    """Same request, same answer, same error and same warning, whichever client it goes through."""
    theirs, ours = await both(case, form, clients, tmp_path / "otter.png", strict=answers == "strict")
    assert ours == theirs


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("case", SDK_CASES.values(), ids=SDK_CASES)
async def test_the_sdk_s_cases_end_as_its_tests_expect(case: Case, clients: str, tmp_path: Path) -> None:
    """No case of the SDK's is the same only because it fails for both: one request, and an answer or a whole stream."""
    expected = {"sync": openai.Stream, "async": openai.AsyncStream}[clients] if case.stream else ImagesResponse
    for kind, *rest in await both(case, "plain", clients, tmp_path / "otter.png", strict=True):
        assert kind is expected
        assert len(rest[-1]) == 1
        assert not case.stream or [event["type"] for _, event in rest[0]] == [e["type"] for e in events(case.method)]


@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize(("method", "parameter"), [("create_variation", "image"), ("edit", "image"), ("edit", "mask")])
async def test_a_file_is_sent_as_the_sdk_sends_it(
    method: str, parameter: str, clients: str, how: str, tmp_path: Path
) -> None:
    """However a file is given, and one or several: the same parts, names and types, or the same refusal."""
    arguments = {"model": "gpt-image-2"} if method == "create_variation" else MINIMAL
    case = Case(method=method, arguments=arguments, files={"image": "bytes", parameter: how})
    theirs, ours = await both(case, "plain", clients, tmp_path / "otter.png")
    assert ours == theirs


class Watched(io.BytesIO):
    """A file that keeps a note of everything done to it."""

    def __init__(self) -> None:
        super().__init__(BYTES)
        self.notes: list[tuple[object, ...]] = []

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401  # whatever a file has
        if not name.startswith("_") and name != "notes":
            self.notes.append((name, super().tell()))
        return super().__getattribute__(name)


@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("method", ["create_variation", "edit"])
async def test_a_file_is_read_by_the_sdk_alone(method: str, clients: str, tmp_path: Path) -> None:
    """Nothing of ours touches a file object that is meant for another model: the same steps in the same order."""
    notes = []
    for kind in CLIENTS[clients]:
        case, file = CASES[method], Watched()
        await settled(outcome(Service(case).client(kind, strict=True), case, "plain", {**known(case), "image": file}))
        notes.append([*file.notes])
    theirs, ours = notes
    assert ours == theirs
    assert "read" in {name for name, _ in theirs}
