"""`client.images`: the methods and their arguments. Async mirrors sync, and a test proves it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import openai
from openai.resources.images import AsyncImages, Images

from flux_openai._http.library import httpx
from flux_openai.client.setup import check
from flux_openai.models import AspectRatio, ResponseFormat
from flux_openai.request.arguments import CallArguments, RequestExtras, is_flux_call
from flux_openai.request.image_inputs import ImageInput
from flux_openai.response.response import FluxImagesResponse
from flux_openai.sending.sender import AsyncSender, Sender
from flux_openai.sending.settings import Settings

__all__ = ["AsyncFluxImages", "FluxImages"]


class FluxImages(Images):
    """The images resource of a FluxOpenAI client."""

    def __init__(self, client: openai.OpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings
        self._sender = Sender(client, settings)

    def generate(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        image: ImageInput | None | openai.Omit = openai.omit,
        images: Sequence[ImageInput] | None | openai.Omit = openai.omit,
        strength: float | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        split: bool | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Make images from a prompt, or from images where the model takes them; the call this package is about.

        `model`: a full name, or "kontext-max" (when left out), "kontext-pro" or "flux-dev" for whichever model of that
        family takes the images given; the name of a model that is not FLUX passes the call on to the SDK unchanged.
        `n`: 1 to 4 images, with `split` up to 1000, made in several requests side by side. `aspect_ratio`: one of nine,
        "21:9" to "9:21"; or OpenAI's `size`, which stands for the nearest one within 3 %; for flux-dev, `size` itself.
        `image`, `images`: a path, bytes, an open file, a PIL image, a link or a data URI, 32 MiB together. `strength`:
        0 to 1. `seed`: -1 draws a new one. `steps`: 1 to 50. `guidance_scale`: 1 to 10. `response_format`: "url" (a
        link that lives 7 days) or "b64_json". What is left out is not sent. Other options of OpenAI's follow the
        client's `unsupported=`. The rules are those of the model's own page; see `models.py`.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "image": image,
            "images": images,
            "strength": strength,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = RequestExtras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        order = CallArguments(verb="generate", named=named, extra_body=extra_body, extras=extras, split=split)
        check(self._client)
        if not is_flux_call(order, self._settings.defaults):
            return cast(FluxImagesResponse, super().generate(**_passed_on(order)))
        return self._sender.send(order)

    def edit(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        image: ImageInput | Sequence[ImageInput] | None | openai.Omit = openai.omit,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        strength: float | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        split: bool | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Change an image, or combine several, as the prompt says.

        `image`: one, or a list of them: a path, bytes, an open file, a PIL image, a link or a data URI, 32 MiB
        together. One goes to the family's image model, several to its /multi sibling, both as `generate` would send
        them. All else as in `generate`, `aspect_ratio` for the /multi models and `strength` for the others.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "image": image,
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "strength": strength,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = RequestExtras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        order = CallArguments(verb="edit", named=named, extra_body=extra_body, extras=extras, split=split)
        check(self._client)
        if not is_flux_call(order, self._settings.defaults):
            return cast(FluxImagesResponse, super().edit(**_passed_on(order)))
        return self._sender.send(order)


class AsyncFluxImages(AsyncImages):
    """The images resource of an AsyncFluxOpenAI client."""

    def __init__(self, client: openai.AsyncOpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings
        self._sender = AsyncSender(client, settings)

    async def generate(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        image: ImageInput | None | openai.Omit = openai.omit,
        images: Sequence[ImageInput] | None | openai.Omit = openai.omit,
        strength: float | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        split: bool | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Make images from a prompt, or from images where the model takes them; the call this package is about.

        `model`: a full name, or "kontext-max" (when left out), "kontext-pro" or "flux-dev" for whichever model of that
        family takes the images given; the name of a model that is not FLUX passes the call on to the SDK unchanged.
        `n`: 1 to 4 images, with `split` up to 1000, made in several requests side by side. `aspect_ratio`: one of nine,
        "21:9" to "9:21"; or OpenAI's `size`, which stands for the nearest one within 3 %; for flux-dev, `size` itself.
        `image`, `images`: a path, bytes, an open file, a PIL image, a link or a data URI, 32 MiB together. `strength`:
        0 to 1. `seed`: -1 draws a new one. `steps`: 1 to 50. `guidance_scale`: 1 to 10. `response_format`: "url" (a
        link that lives 7 days) or "b64_json". What is left out is not sent. Other options of OpenAI's follow the
        client's `unsupported=`. The rules are those of the model's own page; see `models.py`.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "image": image,
            "images": images,
            "strength": strength,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = RequestExtras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        order = CallArguments(verb="generate", named=named, extra_body=extra_body, extras=extras, split=split)
        check(self._client)
        if not is_flux_call(order, self._settings.defaults):
            return cast(FluxImagesResponse, await super().generate(**_passed_on(order)))
        return await self._sender.send(order)

    async def edit(  # type: ignore[override]  # the SDK's overloads change with every release; this takes all they take
        self,
        *,
        image: ImageInput | Sequence[ImageInput] | None | openai.Omit = openai.omit,
        prompt: str | None | openai.Omit = openai.omit,
        model: str | None | openai.Omit = openai.omit,
        n: int | None | openai.Omit = openai.omit,
        aspect_ratio: AspectRatio | None | openai.Omit = openai.omit,
        strength: float | None | openai.Omit = openai.omit,
        seed: int | None | openai.Omit = openai.omit,
        steps: int | None | openai.Omit = openai.omit,
        guidance_scale: float | None | openai.Omit = openai.omit,
        negative_prompt: str | None | openai.Omit = openai.omit,
        response_format: ResponseFormat | None | openai.Omit = openai.omit,
        size: str | None | openai.Omit = openai.omit,
        split: bool | None | openai.Omit = openai.omit,
        extra_headers: Mapping[str, str | openai.Omit] | None = None,
        extra_query: Mapping[str, object] | None = None,
        extra_body: Mapping[str, object] | None = None,
        timeout: float | httpx.Timeout | None | openai.NotGiven = openai.NOT_GIVEN,
        **options: object,
    ) -> FluxImagesResponse:
        """Change an image, or combine several, as the prompt says.

        `image`: one, or a list of them: a path, bytes, an open file, a PIL image, a link or a data URI, 32 MiB
        together. One goes to the family's image model, several to its /multi sibling, both as `generate` would send
        them. All else as in `generate`, `aspect_ratio` for the /multi models and `strength` for the others.

        Raises InvalidParamsError before anything is sent, and errors that are also the SDK's own afterwards.
        """
        named = {
            "image": image,
            "prompt": prompt,
            "model": model,
            "n": n,
            "aspect_ratio": aspect_ratio,
            "strength": strength,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "response_format": response_format,
            "size": size,
            **options,
        }
        extras = RequestExtras(headers=extra_headers or {}, query=extra_query or {}, timeout=timeout)
        order = CallArguments(verb="edit", named=named, extra_body=extra_body, extras=extras, split=split)
        check(self._client)
        if not is_flux_call(order, self._settings.defaults):
            return cast(FluxImagesResponse, await super().edit(**_passed_on(order)))
        return await self._sender.send(order)


def _passed_on(order: CallArguments) -> dict[str, Any]:
    """The arguments for the SDK's own method, as they came."""
    escapes = {"extra_headers": order.extras.headers, "extra_query": order.extras.query, "extra_body": order.extra_body}
    return {
        **{name: value for name, value in order.named.items() if not isinstance(value, openai.Omit)},
        **{name: value or None for name, value in escapes.items()},
        "timeout": order.extras.timeout,
    }
