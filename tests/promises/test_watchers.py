"""What watches the SDK sees a FLUX call as it sees the SDK's own: patches, subclasses and tracers.

The fake service is the emulator behind a mock transport; its list of requests says what left.
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest import mock

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, BadResponseError, Emulator, FluxError, FluxImagesResponse, FluxOpenAI

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
CALLS: Mapping[str, dict[str, Any]] = {
    "generate": {"prompt": "a red fox", "aspect_ratio": "16:9", "seed": 7, "n": 2},
    "edit": {"image": PNG, "prompt": "make it snow", "strength": 0.5},
}


@pytest.mark.parametrize("method", CALLS)
def test_a_patch_of_the_sdk_s_method_intercepts_the_call(method: str) -> None:
    """`mock.patch("openai.resources.images.Images.…")`, as test suites write it, answers the call: 0 requests."""
    emulator = Emulator(pixels=64)
    with mock.patch(f"openai.resources.images.Images.{method}", return_value="patched") as patched:
        assert getattr(emulator.client().images, method)(**CALLS[method]) == "patched"
    sent = patched.call_args.kwargs
    assert sent["prompt"] == CALLS[method]["prompt"]
    assert "flux-kontext-max" in sent["model"]
    assert emulator.requests == []


@pytest.mark.parametrize("method", CALLS)
def test_a_patch_of_the_async_method_intercepts_the_call(method: str) -> None:
    """The same for AsyncImages."""
    emulator = Emulator(pixels=64)
    patched = mock.AsyncMock(return_value="patched")
    with mock.patch(f"openai.resources.images.AsyncImages.{method}", new=patched):
        assert asyncio.run(getattr(emulator.async_client().images, method)(**CALLS[method])) == "patched"
    assert patched.await_count == 1
    assert emulator.requests == []


def test_a_split_call_is_one_call_of_the_sdk_s_method() -> None:
    """Nine images in three requests are one call of `Images.generate`, with `n=9`, to whoever patches it."""
    emulator = Emulator(pixels=64)
    with mock.patch("openai.resources.images.Images.generate", return_value="patched") as patched:
        answer: object = emulator.client(split=True).images.generate(prompt="a fox", n=9)
    assert answer == "patched"
    assert (patched.call_count, patched.call_args.kwargs["n"]) == (1, 9)
    assert emulator.requests == []


def test_a_wrapper_sees_arguments_and_result() -> None:
    """A tracer's wrapper of `Images.generate` sees model and prompt, and returns the response that the caller gets."""
    emulator, seen = Emulator(pixels=64), list[object]()
    original = openai.resources.images.Images.generate

    def wrapper(self: Any, **arguments: Any) -> object:  # noqa: ANN401  # a tracer's wrapper
        result = original(self, **arguments)
        seen.extend((arguments["model"], arguments["prompt"], result))
        return result

    with mock.patch("openai.resources.images.Images.generate", wrapper):
        response = emulator.client().images.generate(prompt="a fox")
    assert seen[:2] == ["black-forest-labs/flux-kontext-max/text-to-image", "a fox"]
    assert seen[2] is response
    assert len(emulator.requests) == 1


def test_what_a_wrapper_changes_is_what_is_sent() -> None:
    """The SDK's method builds the body: a wrapper that rewrites the prompt rewrites it on the wire and in `.sent`."""
    emulator = Emulator(pixels=64)
    original = openai.resources.images.Images.generate

    def wrapper(self: Any, **arguments: Any) -> object:  # noqa: ANN401  # a guardrail's wrapper
        return original(self, **{**arguments, "prompt": "a blue fox"})

    with mock.patch("openai.resources.images.Images.generate", wrapper):
        response = emulator.client().images.generate(prompt="a red fox", seed=7)
    body = emulator.requests[0].body
    assert body is not None
    assert (body["prompt"], body["seed"]) == ("a blue fox", 7)
    assert response.sent == body


@pytest.mark.parametrize("level", ["post", "request"])
def test_a_subclass_sees_each_attempt_and_its_result(level: str) -> None:
    """`client.post` and `client.request`, overridden, get our response type and return the parsed response."""
    emulator, seen = Emulator(pixels=64), list[object]()

    class Watching(FluxOpenAI):
        def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return note("post", options["cast_to"], super().post(*args, **options))

        def request(self, cast_to: Any, options: Any, **more: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return note("request", cast_to, super().request(cast_to, options, **more))

    def note(name: str, cast_to: object, result: Any) -> Any:  # noqa: ANN401  # whatever the SDK returns
        if name == level:
            seen.extend((cast_to, result))
        return result

    client = Watching(api_key="any", http_client=emulator.http_client())
    response = client.images.generate(prompt="a fox", response_format="b64_json")
    assert seen == [FluxImagesResponse, response]
    assert seen[1] is response
    assert response.data[0].read() is not None


def test_a_subclass_sees_the_error_of_an_answer_that_cannot_be_used() -> None:
    """What is raised for an unusable 200 passes `client.post`, as the SDK's own errors do; it is sent once."""
    emulator, seen = Emulator(pixels=64), list[type]()

    class Watching(FluxOpenAI):
        def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            try:
                return super().post(*args, **options)
            except openai.OpenAIError as error:
                seen.append(type(error))
                raise

    emulator.fail(status=200, body=b"{}")
    client = Watching(api_key="any", http_client=emulator.http_client())
    with pytest.raises(BadResponseError):
        client.images.generate(prompt="a fox")
    assert seen == [BadResponseError]
    assert len(emulator.requests) == 1


@pytest.mark.parametrize("level", ["post", "request"])
def test_a_subclass_that_answers_from_a_cache_sends_nothing(level: str) -> None:
    """A second, equal call is answered by the subclass from its cache: one request, and the same response."""
    emulator, cache = Emulator(pixels=64), list[object]()

    def cached(name: str, fetch: Any) -> Any:  # noqa: ANN401  # whatever the SDK returns
        if name != level:
            return fetch()
        if not cache:
            cache.append(fetch())
        return cache[0]

    class Caching(FluxOpenAI):
        def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return cached("post", lambda: super(Caching, self).post(*args, **options))

        def request(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return cached("request", lambda: super(Caching, self).request(*args, **options))

    client = Caching(api_key="any", http_client=emulator.http_client())
    first, second = (client.images.generate(prompt="a fox") for _ in range(2))
    assert first is second
    assert len(emulator.requests) == 1


def test_a_subclass_may_answer_the_parts_of_a_split_call_from_a_cache() -> None:
    """Each part that the cache knows is an answer like any other, and what is no answer is a FluxError."""
    emulator, cache = Emulator(pixels=64), dict[str, Any]()

    class Caching(FluxOpenAI):
        def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            key = repr((options["body"], options["options"]["extra_json"]))
            if key not in cache:
                cache[key] = super().post(*args, **options)
            return cache[key]

    client = Caching(api_key="any", http_client=emulator.http_client())
    first, second = (client.images.generate(prompt="a fox", seed=1, n=6, split=True) for _ in range(2))
    assert [image.url for image in first.data] == [image.url for image in second.data]
    assert (len(second.data), len(emulator.requests)) == (6, 2)
    cache.update(dict.fromkeys(cache, "something else"))
    with pytest.raises(FluxError, match="another type of response"):
        client.images.generate(prompt="a fox", seed=1, n=6, split=True)
    assert len(emulator.requests) == 2


@pytest.mark.parametrize("level", ["post", "request"])
def test_an_async_subclass_that_answers_from_a_cache_sends_nothing(level: str) -> None:
    """The same for `AsyncFluxOpenAI`."""
    emulator, cache = Emulator(pixels=64), list[object]()

    async def cached(name: str, fetch: Any) -> Any:  # noqa: ANN401  # whatever the SDK returns
        if name != level:
            return await fetch()
        if not cache:
            cache.append(await fetch())
        return cache[0]

    class Caching(AsyncFluxOpenAI):
        async def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return await cached("post", lambda: super(Caching, self).post(*args, **options))

        async def request(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            return await cached("request", lambda: super(Caching, self).request(*args, **options))

    async def run() -> list[object]:
        client = Caching(api_key="any", http_client=emulator.async_http_client())
        return [await client.images.generate(prompt="a fox") for _ in range(2)]

    first, second = asyncio.run(run())
    assert first is second
    assert len(emulator.requests) == 1


def test_an_async_subclass_sees_each_attempt() -> None:
    """The same for `AsyncFluxOpenAI.post`: three attempts after two 503, and the response of the last."""
    emulator, seen = Emulator(pixels=64), list[object]()

    class Watching(AsyncFluxOpenAI):
        async def post(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401  # whatever the SDK takes
            seen.append(options["cast_to"])
            return await super().post(*args, **options)

    emulator.fail(2, status=503)
    client = emulator.async_client()
    watching = Watching(api_key="any", http_client=emulator.async_http_client(), retry=client._settings.retry)
    response = asyncio.run(watching.images.generate(prompt="a fox"))
    assert seen == [FluxImagesResponse] * 3
    assert response.attempts == len(emulator.requests) == 3


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"content-type": "multipart/form-data"}])
def test_a_content_type_of_one_s_own_does_not_change_the_body_s_form(headers: dict[str, str]) -> None:
    """The body is JSON and is called that, also for `edit`, whose SDK method would send a form."""
    emulator = Emulator(pixels=64)
    client = emulator.client()
    client.images.generate(prompt="a fox", extra_headers=headers)
    client.images.edit(image=PNG, prompt="snow", extra_headers=headers)
    assert [request.headers["content-type"] for request in emulator.requests] == ["application/json"] * 2
    assert all(request.body is not None for request in emulator.requests)
