"""FLUX as its users write it: every parameter, every kind of image, every way to call.

It is read by type checkers and never run.
"""

import io
import logging
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, assert_type

import openai
import PIL.Image
from openai.types import Image, ImagesResponse

from flux_openai import (
    AsyncFluxOpenAI,
    AsyncOpenAI,
    BadResponseError,
    Emulator,
    FluxError,
    FluxImage,
    FluxImagesResponse,
    FluxOpenAI,
    FluxWarning,
    InvalidParamsError,
    OpenAI,
    RateLimitError,
    RetryEvent,
    RetryPolicy,
    Timeout,
    adapt,
    omit,
)
from flux_openai.models import FLUX_MODELS

log = logging.getLogger(__name__)

KONTEXT = "black-forest-labs/flux-kontext-max/text-to-image"


# Clients


def clients() -> list[FluxOpenAI]:
    return [
        FluxOpenAI(),
        OpenAI(api_key="k", retry=RetryPolicy(duplicates="never", max_attempts=2), unsupported="warn"),
        OpenAI(split=True, defaults={"steps": 20, "aspect_ratio": "16:9"}, timeout=Timeout(300.0, connect=5.0)),
        OpenAI(api_key=lambda: "k", max_retries=0, unsupported="drop", organization="org-1", project="proj-1"),
        OpenAI(http_client=openai.DefaultHttpxClient(), default_headers={"X-Team": "images"}, default_query={"a": 1}),
    ]


def copies(client: FluxOpenAI) -> None:
    assert_type(client.copy(), FluxOpenAI)
    assert_type(client.copy(retry=RetryPolicy(), split=False).images.generate(prompt="x"), FluxImagesResponse)
    assert_type(client.with_options(unsupported="send", defaults={"seed": 7}, timeout=5), FluxOpenAI)
    assert_type(client.with_options(timeout=5).images.generate(prompt="x").data[0], FluxImage)


def adapted(sync_client: openai.OpenAI, async_client: openai.AsyncOpenAI) -> None:
    assert_type(adapt(sync_client), FluxOpenAI)
    assert_type(adapt(async_client, retry=RetryPolicy(max_attempts=1), split=True), AsyncFluxOpenAI)
    assert_type(adapt(sync_client, unsupported="drop").images.generate(prompt="x", seed=7), FluxImagesResponse)


def emulated() -> Iterator[FluxImagesResponse]:
    emulator = Emulator()
    yield emulator.client(retry=RetryPolicy(waiting=False)).images.generate(prompt="x", seed=7)
    yield emulator.client(unsupported="warn", split=True, timeout=5).images.generate(prompt="x", n=9)


class House(FluxOpenAI):
    """A client with a style of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def draw(self, prompt: str) -> Path:
        return self.images.generate(prompt=f"{prompt}, in ink").data[0].save("out/")


def plain(client: openai.OpenAI) -> ImagesResponse:
    return client.images.generate(prompt="x", model=KONTEXT, extra_body={"seed": 7})


def is_plain() -> list[ImagesResponse]:
    return [plain(FluxOpenAI()), plain(adapt(openai.OpenAI())), plain(House().copy()), plain(Emulator().client())]


# Calls


def everything(client: OpenAI) -> None:
    response = client.images.generate(
        prompt="a red fox in the snow",
        model="kontext-max",
        n=2,
        aspect_ratio="16:9",
        seed=7,
        steps=28,
        guidance_scale=3.0,
        negative_prompt="colour",
        response_format="b64_json",
        split=False,
        extra_headers={"X-Trace": "1"},
        extra_query={"a": 1},
        extra_body={"strength": 0.5},
        width=1024,
        height=768,
        safety_tolerance=2,
        prompt_upsampling=True,
        output_format="png",
        timeout=Timeout(300.0, connect=5.0),
    )
    assert_type(response, FluxImagesResponse)


def left_out(client: OpenAI, seed: int | None, ratio: Literal["16:9", "9:16"] | None) -> FluxImagesResponse:
    return client.images.generate(
        prompt="x",
        model=omit,
        n=None,
        aspect_ratio=ratio,
        seed=seed if seed is not None else omit,
        steps=omit,
        guidance_scale=3,
        negative_prompt=omit,
        image=omit,
        images=omit,
        strength=omit,
        size="1792x1024",
        response_format=omit,
        split=omit,
        timeout=None,
    )


def in_parts(client: OpenAI) -> list[Path]:
    return client.images.generate(prompt="x", n=100, split=True).save("out/")


def by_name(client: OpenAI) -> list[FluxImagesResponse]:
    return [client.images.generate(prompt="x", model=name) for name in FLUX_MODELS]


def passed_on(client: OpenAI, name: str) -> None:
    assert_type(client.images.generate(prompt="x", model="dall-e-3"), ImagesResponse)
    assert_type(client.images.edit(image=b"...", prompt="x", model="gpt-image-1"), ImagesResponse)
    assert_type(client.images.generate(prompt="x", model=name), FluxImagesResponse)
    assert_type(client.images.generate(prompt="x", model=KONTEXT), FluxImagesResponse)


def from_image(client: OpenAI, picture: PIL.Image.Image, made: FluxImage, plain_image: Image) -> None:
    with Path("fox.png").open("rb") as opened:
        client.images.generate(prompt="x", image=opened, strength=0.8)
    client.images.generate(prompt="x", model="flux-dev", image="fox.png", strength=0.8)
    client.images.generate(prompt="x", image="https://example.com/fox.png")
    client.images.generate(prompt="x", image="data:image/png;base64,AAAA")
    client.images.generate(prompt="x", image=Path("fox.png"))
    client.images.generate(prompt="x", image=b"...")
    client.images.generate(prompt="x", image=bytearray(b"..."))
    client.images.generate(prompt="x", image=memoryview(b"..."))
    client.images.generate(prompt="x", image=io.BytesIO(b"..."))
    client.images.generate(prompt="x", image=("fox.png", b"..."))
    client.images.generate(prompt="x", image=("fox.png", b"...", "image/png"))
    client.images.generate(prompt="x", image=picture)
    client.images.generate(prompt="x", image=made)
    client.images.generate(prompt="x", image=plain_image)
    client.images.generate(prompt="x", images=[Path("fox.png"), b"...", "https://example.com/fox.png", picture, made])
    client.images.generate(prompt="x", images=("fox.png", "owl.png"), aspect_ratio="1:1")


def edited(client: OpenAI, picture: PIL.Image.Image, made: FluxImage) -> None:
    assert_type(client.images.edit(image="fox.png", prompt="x"), FluxImagesResponse)
    assert_type(client.images.edit(image=["fox.png", "owl.png"], prompt="x", aspect_ratio="3:2"), FluxImagesResponse)
    assert_type(client.images.edit(image=[Path("fox.png"), b"...", picture, made], prompt="x"), FluxImagesResponse)
    client.images.edit(image=made, prompt="x", model="flux-dev", strength=0.5, seed=-1, steps=20, n=2, split=True)
    client.images.edit(image=io.BytesIO(b"..."), prompt="x", guidance_scale=2.5, negative_prompt="y", extra_body={})
    client.images.edit(image=("fox.png", b"...", "image/png"), prompt="x", response_format="url", size="1024x1024")
    with Path("fox.png").open("rb") as opened:
        client.images.edit(image=opened, prompt="x", timeout=5)


# Answers


def answer(client: OpenAI) -> None:
    response = client.images.generate(prompt="x", aspect_ratio="16:9")
    assert_type(response.data, list[FluxImage])
    assert_type(response.data[0].save("out/"), Path)
    assert_type(response.data[0].save(Path("fox.png"), overwrite=True), Path)
    assert_type(response.data[0].read(), bytes)
    assert_type(response.data[0].url, str | None)
    assert_type(response.data[0].mime_type, str | None)
    assert_type(response.save("out/"), list[Path])
    assert_type(response.request_id, str | None)
    assert_type(response.attempts, int)
    assert_type(response.expires_at, datetime)
    assert_type(response.sent, dict[str, object])
    assert_type(response.missing, int)
    assert_type(response.notices, tuple[str, ...])
    assert_type(response.parts, tuple[FluxImagesResponse, ...])


def raw(client: OpenAI) -> None:
    response = client.images.with_raw_response.generate(prompt="x", aspect_ratio="16:9", seed=7)
    assert_type(response.status_code, int)
    assert_type(response.parse(), FluxImagesResponse)
    assert_type(client.images.with_raw_response.edit(image="fox.png", prompt="x").parse(), FluxImagesResponse)
    with client.images.with_streaming_response.generate(prompt="x", aspect_ratio="16:9") as streamed:
        assert_type(streamed.parse(), FluxImagesResponse)
    with client.images.with_streaming_response.edit(image=b"...", prompt="x", strength=0.5) as streamed:
        assert_type(streamed.parse().data[0].save(), Path)


# Errors


def careful(client: OpenAI) -> FluxImagesResponse | None:
    try:
        return client.images.generate(prompt="x", steps=28)
    except InvalidParamsError as error:
        for fault in error.faults:
            log.warning("%s %s %s %s", fault.param, fault.value, fault.rule, fault.nearest)
    except BadResponseError as error:
        assert_type(error.raw, bytes)
    except RateLimitError as error:
        log.warning("%s", error.response.headers.get("retry-after"))
    except FluxError as error:
        assert_type(error.billing, Literal["none", "unknown", "paid"])
        assert_type(error.attempts, int)
        assert_type(error.retry_after, float | None)
        assert_type(error.request_id, str | None)
        assert_type(error.rest, tuple[dict[str, Any], ...])
        if error.partial is not None:
            assert_type(error.partial.save("out/"), list[Path])
    return None


def strict_about_notices() -> None:
    warnings.simplefilter("error", FluxWarning)


def policy() -> RetryPolicy:
    def on_retry(event: RetryEvent) -> None:
        log.info("%d %.1f %s %s", event.attempt, event.wait, event.reason, event.status_code)

    return RetryPolicy(
        duplicates="allowed",
        max_attempts=6,
        initial_wait=0.1,
        max_wait=5,
        max_retry_after=30,
        max_elapsed=60,
        on_retry=on_retry,
    )


# Async twins


async def key() -> str:
    return "k"


async def async_calls(picture: PIL.Image.Image) -> AsyncIterator[FluxImagesResponse]:
    async with AsyncOpenAI(api_key=key, retry=policy(), split=True, unsupported="send") as client:
        assert_type(client, AsyncFluxOpenAI)
        assert_type(client.with_options(timeout=5, retry=RetryPolicy()).copy(split=False), AsyncFluxOpenAI)
        response = await client.images.generate(prompt="x", aspect_ratio="16:9", seed=7, image=picture, steps=omit)
        assert_type(await response.data[0].asave("out/"), Path)
        assert_type(await response.data[0].aread(), bytes)
        assert_type(await response.asave("out/"), list[Path])
        raw_response = await client.images.with_raw_response.generate(prompt="x", aspect_ratio="16:9")
        assert_type(raw_response.parse(), FluxImagesResponse)
        async with client.images.with_streaming_response.edit(image=["a.png", b"..."], prompt="x", seed=1) as streamed:
            assert_type(await streamed.parse(), FluxImagesResponse)
        yield response
        yield await client.images.edit(image=["fox.png", picture], prompt="x", negative_prompt="y", extra_body={})
    yield await Emulator().async_client(retry=policy()).images.generate(prompt="x", n=4)
