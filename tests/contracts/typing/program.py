"""A program of OpenAI's, as its users write it, in which nothing is known about FLUX.

It is read by type checkers and never run. Without an error against `openai`, it must have none either when its imports
name `flux_openai` instead: all of them, or only those that say `from openai import`.
"""

import base64
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import openai
from openai import (
    NOT_GIVEN,
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncAzureOpenAI,
    AsyncClient,
    AsyncOpenAI,
    AsyncStream,
    AzureOpenAI,
    BadRequestError,
    Client,
    DefaultAsyncHttpxClient,
    DefaultHttpxClient,
    NotGiven,
    Omit,
    OpenAI,
    OpenAIError,
    RateLimitError,
    Stream,
    Timeout,
    not_given,
    omit,
)
from openai.types import CreateEmbeddingResponse, Image, ImageGenStreamEvent, ImagesResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming

log = logging.getLogger(__name__)

Quality = Literal["low", "medium", "high"]


# Clients


def default_client() -> OpenAI:
    return OpenAI()


def configured_client(key: str, *, retries: int = 3) -> Client:
    return Client(
        api_key=key,
        organization="org-1",
        project=os.environ.get("PROJECT"),
        base_url=os.environ.get("BASE_URL", "https://api.example.com/v1"),
        timeout=Timeout(60.0, connect=5.0),
        max_retries=retries,
        default_headers={"X-Team": "images"},
        default_query={"trace": "1"},
        http_client=DefaultHttpxClient(follow_redirects=False),
    )


def rotating_key_client(keys: Iterator[str]) -> OpenAI:
    return OpenAI(api_key=lambda: next(keys), timeout=20)


def client_from_settings(settings: dict[str, Any]) -> OpenAI:
    return OpenAI(**settings)


def either_client(*, azure: bool) -> OpenAI | AzureOpenAI:
    if azure:
        return AzureOpenAI(azure_endpoint="https://example.azure.com", api_version="2024-10-21", api_key="k")
    return OpenAI()


def async_azure_client() -> AsyncAzureOpenAI:
    return AsyncAzureOpenAI(azure_endpoint="https://example.azure.com", api_version="2024-10-21", api_key="k")


def hasty(client: OpenAI) -> OpenAI:
    return client.with_options(timeout=5, max_retries=2)


def copies(client: OpenAI, timeout: float | NotGiven = not_given) -> list[OpenAI]:
    return [
        client.copy(),
        client.copy(timeout=timeout, max_retries=NOT_GIVEN),
        client.with_options(timeout=Timeout(None, connect=2.0), default_headers={"X-Team": "images"}),
        client.copy(api_key="other", base_url="https://other.example.com", set_default_query={}),
    ]


class MeteredClient(OpenAI):
    """A client that counts."""

    def __init__(self, *, team: str, **options: Any) -> None:
        super().__init__(**options)
        self.team = team
        self.calls = 0

    def count(self) -> "MeteredClient":
        self.calls += 1
        return self


class Studio:
    """Holds a client that it is given, or makes one."""

    def __init__(self, client: openai.OpenAI | None = None) -> None:
        self.client = client or OpenAI()

    def draw(self, prompt: str) -> ImagesResponse:
        return self.client.images.generate(prompt=prompt, model="gpt-image-1", size="1024x1024")


def studios() -> list[Studio]:
    return [Studio(), Studio(OpenAI()), Studio(MeteredClient(team="a", api_key="k").count()), Studio(hasty(OpenAI()))]


# Other resources


def chat(client: openai.OpenAI, question: str) -> str:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": question},
    ]
    completion: ChatCompletion = client.chat.completions.create(model="gpt-4o", messages=messages, temperature=0.2)
    return completion.choices[0].message.content or ""


def streaming_chat(client: OpenAI, question: str) -> Iterator[str]:
    stream: Stream[ChatCompletionChunk] = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": question}], stream=True
    )
    for chunk in stream:
        yield chunk.choices[0].delta.content or ""


def responses(client: OpenAI, question: str) -> str:
    return client.responses.create(model="gpt-4o", input=question).output_text


def embed(client: OpenAI, texts: list[str]) -> list[list[float]]:
    answer: CreateEmbeddingResponse = client.embeddings.create(model="text-embedding-3-small", input=texts)
    return [row.embedding for row in answer.data]


def model_names(client: OpenAI) -> list[str]:
    models: list[Model] = list(client.models.list())
    return sorted(model.id for model in models)


# Images


def dall_e(client: OpenAI, prompt: str) -> str | None:
    response = client.images.generate(
        model="dall-e-3", prompt=prompt, n=1, size="1792x1024", quality="hd", style="vivid", user="u-1"
    )
    if response.data is None:
        return None
    return response.data[0].url


def gpt_image(client: OpenAI, prompt: str, quality: Quality = "high", count: int | None = None) -> list[bytes]:
    response = client.images.generate(
        model="gpt-image-1",
        prompt=prompt,
        quality=quality,
        background="transparent",
        moderation="low",
        output_format="webp",
        output_compression=80,
        n=count,
    )
    images: list[Image] = response.data or []
    if response.usage is not None:
        log.info("%d tokens", response.usage.total_tokens)
    return [base64.b64decode(image.b64_json) for image in images if image.b64_json]


def left_out(client: OpenAI, prompt: str, size: str | None, user: str | Omit = omit) -> ImagesResponse:
    return client.images.generate(
        prompt=prompt,
        model=omit,
        n=omit,
        quality=omit,
        style=omit,
        background=omit,
        size="512x512" if size else omit,
        response_format="b64_json" if size else omit,
        stream=omit,
        user=user,
        timeout=NOT_GIVEN,
    )


def nothing_said(client: OpenAI, prompt: str) -> ImagesResponse:
    return client.images.generate(prompt=prompt, model=None, n=None, quality=None, size=None, stream=False)


def extras(client: OpenAI, prompt: str, headers: Mapping[str, str]) -> ImagesResponse:
    return client.images.generate(
        prompt=prompt,
        extra_headers=headers,
        extra_query={"trace": 1},
        extra_body={"seed": 7},
        timeout=Timeout(30.0),
    )


def from_dict(client: OpenAI, **params: Any) -> ImagesResponse:
    defaults: dict[str, Any] = {"model": "gpt-image-1", "n": 1}
    return cast("ImagesResponse", client.images.generate(**(defaults | params)))


def from_typed_dict(client: OpenAI, prompt: str) -> ImagesResponse:
    params: ImageGenerateParamsNonStreaming = {"prompt": prompt, "model": "gpt-image-1", "quality": "low"}
    return client.images.generate(**params)


def streamed(client: OpenAI, prompt: str) -> bytes:
    stream: Stream[ImageGenStreamEvent] = client.images.generate(
        model="gpt-image-1", prompt=prompt, stream=True, partial_images=2
    )
    last = ""
    with stream:
        for event in stream:
            if event.type == "image_generation.partial_image":
                log.info("part %d", event.partial_image_index)
            last = event.b64_json
    return base64.b64decode(last)


def streamed_or_not(client: OpenAI, prompt: str, *, stream: bool) -> int:
    answer = client.images.generate(model="gpt-image-1", prompt=prompt, stream=stream)
    if isinstance(answer, ImagesResponse):
        return len(answer.data or [])
    return sum(1 for _ in answer)


def edit_file(client: OpenAI, path: Path, prompt: str) -> ImagesResponse:
    with path.open("rb") as image, Path("mask.png").open("rb") as mask:
        return client.images.edit(model="gpt-image-1", image=image, mask=mask, prompt=prompt, input_fidelity="high")


def edit_others(client: OpenAI, paths: Sequence[Path], prompt: str) -> list[ImagesResponse]:
    opened = [path.open("rb") for path in paths]
    return [
        client.images.edit(image=paths[0], prompt=prompt),
        client.images.edit(image=b"...", prompt=prompt, size="1024x1024", n=2, user=omit),
        client.images.edit(image=("a.png", b"..."), prompt=prompt),
        client.images.edit(image=("a.png", b"...", "image/png"), prompt=prompt, mask=("m.png", b"...")),
        client.images.edit(image=opened, prompt=prompt, quality="high"),
        client.images.edit(image=[("a.png", b"..."), ("b.png", b"...")], prompt=prompt, background="auto"),
    ]


def streamed_edit(client: OpenAI, image: bytes, prompt: str) -> list[str]:
    events = client.images.edit(model="gpt-image-1", image=image, prompt=prompt, stream=True, partial_images=1)
    return [event.b64_json for event in events if event.type == "image_edit.completed"]


# Raw responses


def raw(client: OpenAI, prompt: str) -> tuple[str | None, ImagesResponse]:
    response = client.images.with_raw_response.generate(prompt=prompt, model="dall-e-3")
    images: ImagesResponse = response.parse()
    return response.headers.get("x-request-id"), images


def raw_client(client: OpenAI, prompt: str) -> int:
    response = client.with_raw_response.images.generate(prompt=prompt)
    edited = client.with_raw_response.images.edit(image=b"...", prompt=prompt)
    return len(response.parse().data or []) + edited.status_code


def raw_events(client: OpenAI, prompt: str) -> list[str]:
    stream = client.images.with_raw_response.generate(prompt=prompt, model="gpt-image-1", stream=True).parse()
    return [event.b64_json for event in stream]


def streaming_response(client: OpenAI, prompt: str, path: Path) -> None:
    with client.images.with_streaming_response.generate(prompt=prompt) as response:
        log.info("%d %s", response.status_code, response.parse().created)
        path.write_bytes(b"".join(response.iter_bytes()))


# Errors


def careful(client: OpenAI, prompt: str) -> ImagesResponse | None:
    try:
        return client.images.generate(prompt=prompt)
    except RateLimitError as error:
        log.warning("%s after %s", error.response.headers.get("retry-after"), error.request_id)
    except BadRequestError as error:
        log.warning("%s %s", error.code, error.param)
    except openai.AuthenticationError as error:
        log.warning("%s", error.message)
    except APITimeoutError as error:
        log.warning("%s", error.request.url)
    except APIConnectionError as error:
        log.warning("%s", error.__cause__)
    except APIStatusError as error:
        log.warning("%d", error.status_code)
    except (APIError, OpenAIError):
        log.exception("failed")
    return None


# Async twins


def async_client(key: str) -> AsyncClient:
    return AsyncClient(api_key=key, http_client=DefaultAsyncHttpxClient(), timeout=Timeout(60.0), max_retries=0)


async def fresh_key() -> str:
    return os.environ["KEY"]


def async_rotating_key_client() -> AsyncOpenAI:
    return AsyncOpenAI(api_key=fresh_key).with_options(timeout=5, max_retries=2).copy()


async def async_chat(client: openai.AsyncOpenAI, question: str) -> str | None:
    completion = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": question}])
    return completion.choices[0].message.content


async def async_streaming_chat(client: AsyncOpenAI, question: str) -> AsyncIterator[str]:
    stream: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": question}], stream=True
    )
    async for chunk in stream:
        yield chunk.choices[0].delta.content or ""


async def async_images(prompt: str) -> list[ImagesResponse]:
    async with AsyncOpenAI() as client:
        return [
            await client.images.generate(model="gpt-image-1", prompt=prompt, quality="high", n=omit),
            await client.images.edit(image=("a.png", b"..."), prompt=prompt),
            (await client.images.with_raw_response.generate(prompt=prompt)).parse(),
        ]


async def async_streamed(client: AsyncOpenAI, prompt: str) -> list[str]:
    stream: AsyncStream[ImageGenStreamEvent] = await client.images.generate(
        model="gpt-image-1", prompt=prompt, stream=True, partial_images=2
    )
    edits = await client.images.edit(image=b"...", prompt=prompt, stream=True, partial_images=1)
    return [event.b64_json async for event in stream] + [event.b64_json async for event in edits]


async def async_streaming_response(client: AsyncOpenAI, prompt: str) -> bytes:
    async with client.images.with_streaming_response.generate(prompt=prompt) as response:
        return await response.read()


async def main() -> None:
    client = async_client("k")
    try:
        log.info("%s", await async_chat(client, "Why?"))
        log.info("%d", len(await async_streamed(client, "a cat")))
        log.info("%d", len(await async_streaming_response(AsyncOpenAI(), "a cat")))
    except openai.APIError:
        log.exception("failed")
