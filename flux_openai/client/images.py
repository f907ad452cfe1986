"""The images resource, `client.images`: `generate` and `edit`. Async mirrors sync; a test compares them."""

import os
from collections.abc import Mapping
from functools import cached_property, partial
from io import IOBase
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast, overload

import openai
from openai import Omit, omit
from openai.resources.images import AsyncImages, Images
from openai.types import ImagesResponse
from openai.types.image_edit_stream_event import ImageEditStreamEvent
from openai.types.image_gen_stream_event import ImageGenStreamEvent

from flux_openai.client.signature import with_signature
from flux_openai.client.tracebacks import hide_frames
from flux_openai.request.arguments import EditParams, GenerateParams, OpenAIEditParams, OpenAIGenerateParams
from flux_openai.request.model_choice import is_flux_call
from flux_openai.response.response import FluxImagesResponse
from flux_openai.sending.call import Call, Method, abuild_calls, build_calls
from flux_openai.sending.sender import AsyncSender, Sender
from flux_openai.sending.settings import Settings

if TYPE_CHECKING:
    from openai._legacy_response import async_to_raw_response_wrapper, to_raw_response_wrapper
    from openai._response import async_to_streamed_response_wrapper, to_streamed_response_wrapper

__all__ = ["AsyncFluxImages", "FluxImages"]


class FluxImages(Images):
    """The images resource of a FluxOpenAI client."""

    def __init__(self, client: openai.OpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings
        self._sender = Sender(client, settings)

    if TYPE_CHECKING:  # at run time the SDK's wrappers take whatever the methods take

        @cached_property
        def with_raw_response(self) -> "_FluxImagesWithRawResponse":  # type: ignore[override]  # other parameters
            """The methods of this resource; each returns the raw response."""
            return _FluxImagesWithRawResponse(self)

        @cached_property
        def with_streaming_response(self) -> "_FluxImagesWithStreamingResponse":  # type: ignore[override]  # likewise
            """The methods of this resource; each returns a response whose body is not read yet."""
            return _FluxImagesWithStreamingResponse(self)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a literal is a str too; checkers take the first that fits
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[OpenAIGenerateParams]
    ) -> ImagesResponse: ...
    @overload
    def generate(
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[GenerateParams]
    ) -> FluxImagesResponse: ...
    @overload
    def generate(
        self, *, stream: Literal[True], **params: Unpack[GenerateParams]
    ) -> openai.Stream[ImageGenStreamEvent]: ...
    @overload
    def generate(
        self, *, stream: bool, **params: Unpack[GenerateParams]
    ) -> FluxImagesResponse | openai.Stream[ImageGenStreamEvent]: ...
    @hide_frames
    @with_signature(GenerateParams)
    def generate(
        self, *, stream: bool | None | Omit = omit, **params: Unpack[GenerateParams]
    ) -> ImagesResponse | openai.Stream[ImageGenStreamEvent]:
        """Generate images from a prompt, or from a prompt and images with a model that takes images.

        Only the parameters that you pass are sent. Their limits are those of the model's page; see `models.py`.

        Args:
            prompt: What to draw, or what to change about the images.
            model: A full name, such as "flux-2-pro", "flux-kontext-pro" or "flux-pro-1.1", or the short name
                "kontext-max" (the default), "kontext-pro" or "flux-dev": it selects the model of that family that takes
                the images of the call. A call for any other model goes to the SDK unchanged.
            n: Number of images, 1 to 4, or 1; with `split` up to 1000, in several requests, eight at a time.
            aspect_ratio: One of nine, "21:9" to "9:21"; flux-kontext-pro takes any ratio between.
            size: WIDTHxHEIGHT. It is sent as the aspect ratio that it equals within 3 %, or as width and height;
                flux-dev takes it as it is.
            width: Width in pixels for flux-2-pro and flux-pro-1.1, a multiple of 32.
            height: Height in pixels, likewise.
            image: A path, bytes, an open file, a PIL image, a link or a data URI. flux-2-pro, flux-kontext-pro and
                flux-pro-1.1 take no links.
            images: A list of them, 32 MiB in total; links do not count.
            strength: How far the picture may depart from the image, 0 to 1.
            seed: The same seed returns the same picture; -1 stands for a random seed.
            steps: Inference steps, 1 to 50.
            guidance_scale: How closely the picture follows the prompt, 1 to 10.
            negative_prompt: What must not appear.
            safety_tolerance: How much the content check lets through, 0 to 6; 0 is the strictest.
            prompt_upsampling: Whether the service may add detail to the prompt.
            output_format: "png" or "jpeg". Like the two above, it is for flux-2-pro, flux-kontext-pro or flux-pro-1.1.
            response_format: "url" for a link that works for 7 days, or "b64_json" for the image itself.
            split: Whether a call for more than 4 images is split into several requests. Default: the client's `split`.
            stream: For models that are not FLUX; FLUX answers are not streamed.
            params: Other options of OpenAI's models are handled by the client's `unsupported=`; `extra_headers`,
                `extra_query`, `extra_body` and `timeout` are the SDK's.

        Returns:
            The answer, an `openai.types.ImagesResponse` whose images can be read and saved.

        Raises:
            InvalidParamsError: With every fault of the call; nothing was sent.
            openai.OpenAIError: The request failed; an error of the SDK's own class, with `.billing` and `.attempts`.

        Example:
            client.images.generate(prompt="a red fox", aspect_ratio="16:9", seed=7).save("out")

        """
        arguments: dict[str, Any] = {**params} if isinstance(stream, Omit) else {**params, "stream": stream}
        if not is_flux_call(arguments, self._settings.defaults):
            return cast(FluxImagesResponse, super().generate(**arguments))
        calls = build_calls("generate", arguments, self._settings)
        sdk = _sdk_arguments("generate", calls, arguments)
        return cast(FluxImagesResponse, super(FluxImages, self._bound_to(calls)).generate(**sdk))

    @overload
    def edit(  # type: ignore[overload-overlap]  # a literal is a str too; checkers take the first that fits
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[OpenAIEditParams]
    ) -> ImagesResponse: ...
    @overload
    def edit(
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[EditParams]
    ) -> FluxImagesResponse: ...
    @overload
    def edit(self, *, stream: Literal[True], **params: Unpack[EditParams]) -> openai.Stream[ImageEditStreamEvent]: ...
    @overload
    def edit(
        self, *, stream: bool, **params: Unpack[EditParams]
    ) -> FluxImagesResponse | openai.Stream[ImageEditStreamEvent]: ...
    @hide_frames
    @with_signature(EditParams)
    def edit(
        self, *, stream: bool | None | Omit = omit, **params: Unpack[EditParams]
    ) -> ImagesResponse | openai.Stream[ImageEditStreamEvent]:
        """Change an image, or combine several, as the prompt says.

        Args:
            image: One image, or a list of them: a path, bytes, an open file, a PIL image, a link or a data URI, 32 MiB
                in total. One image goes to the family's model for one image, several to its /multi model; flux-2-pro
                takes up to 8 images and flux-kontext-pro up to 4.
            prompt: What to change; optional for FLUX models.
            stream: For models that are not FLUX; FLUX answers are not streamed.
            params: As in `generate`; only the /multi models take `aspect_ratio`, only the others `strength`.

        Returns:
            The answer, as from `generate`.

        Raises:
            InvalidParamsError: With every fault of the call; nothing was sent.
            openai.OpenAIError: The request failed; an error of the SDK's own class, with `.billing` and `.attempts`.

        Example:
            client.images.edit(image=open("fox.png", "rb"), prompt="make it snow").save("out")

        """
        arguments: dict[str, Any] = {**params} if isinstance(stream, Omit) else {**params, "stream": stream}
        if not is_flux_call(arguments, self._settings.defaults):
            return cast(FluxImagesResponse, super().edit(**arguments))
        calls = build_calls("edit", arguments, self._settings)
        sdk = _sdk_arguments("edit", calls, arguments)
        return cast(FluxImagesResponse, super(FluxImages, self._bound_to(calls)).edit(**sdk))

    def _bound_to(self, calls: tuple[Call, ...]) -> Self:
        """A copy of this resource whose `_post`, which the SDK's methods end in, sends these calls."""
        bound = object.__new__(type(self))
        vars(bound).update(vars(self))
        bound._post = partial(self._sender.post, calls)  # type: ignore[assignment]  # of this very class
        return bound


class AsyncFluxImages(AsyncImages):
    """The images resource of an AsyncFluxOpenAI client."""

    def __init__(self, client: openai.AsyncOpenAI, settings: Settings) -> None:
        """Made by the client, as the SDK makes its resources."""
        super().__init__(client)
        self._settings = settings
        self._sender = AsyncSender(client, settings)

    if TYPE_CHECKING:  # at run time the SDK's wrappers take whatever the methods take

        @cached_property
        def with_raw_response(self) -> "_AsyncFluxImagesWithRawResponse":  # type: ignore[override]  # other parameters
            """The methods of this resource; each returns the raw response."""
            return _AsyncFluxImagesWithRawResponse(self)

        @cached_property
        def with_streaming_response(self) -> "_AsyncFluxImagesWithStreamingResponse":  # type: ignore[override]  # likewise
            """The methods of this resource; each returns a response whose body is not read yet."""
            return _AsyncFluxImagesWithStreamingResponse(self)

    @overload
    async def generate(  # type: ignore[overload-overlap]  # a literal is a str too; checkers take the first that fits
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[OpenAIGenerateParams]
    ) -> ImagesResponse: ...
    @overload
    async def generate(
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[GenerateParams]
    ) -> FluxImagesResponse: ...
    @overload
    async def generate(
        self, *, stream: Literal[True], **params: Unpack[GenerateParams]
    ) -> openai.AsyncStream[ImageGenStreamEvent]: ...
    @overload
    async def generate(
        self, *, stream: bool, **params: Unpack[GenerateParams]
    ) -> FluxImagesResponse | openai.AsyncStream[ImageGenStreamEvent]: ...
    @hide_frames
    @with_signature(GenerateParams)
    async def generate(
        self, *, stream: bool | None | Omit = omit, **params: Unpack[GenerateParams]
    ) -> ImagesResponse | openai.AsyncStream[ImageGenStreamEvent]:
        """Make images from a prompt; the arguments and errors are those of `FluxImages.generate`."""
        arguments: dict[str, Any] = {**params} if isinstance(stream, Omit) else {**params, "stream": stream}
        if not is_flux_call(arguments, self._settings.defaults):
            return cast(FluxImagesResponse, await super().generate(**arguments))
        calls = await abuild_calls("generate", arguments, self._settings)
        sdk = _sdk_arguments("generate", calls, arguments)
        return cast(FluxImagesResponse, await super(AsyncFluxImages, self._bound_to(calls)).generate(**sdk))

    @overload
    async def edit(  # type: ignore[overload-overlap]  # a literal is a str too; checkers take the first that fits
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[OpenAIEditParams]
    ) -> ImagesResponse: ...
    @overload
    async def edit(
        self, *, stream: Literal[False] | None | Omit = omit, **params: Unpack[EditParams]
    ) -> FluxImagesResponse: ...
    @overload
    async def edit(
        self, *, stream: Literal[True], **params: Unpack[EditParams]
    ) -> openai.AsyncStream[ImageEditStreamEvent]: ...
    @overload
    async def edit(
        self, *, stream: bool, **params: Unpack[EditParams]
    ) -> FluxImagesResponse | openai.AsyncStream[ImageEditStreamEvent]: ...
    @hide_frames
    @with_signature(EditParams)
    async def edit(
        self, *, stream: bool | None | Omit = omit, **params: Unpack[EditParams]
    ) -> ImagesResponse | openai.AsyncStream[ImageEditStreamEvent]:
        """Change an image, or combine several; the arguments and errors are those of `FluxImages.edit`."""
        arguments: dict[str, Any] = {**params} if isinstance(stream, Omit) else {**params, "stream": stream}
        if not is_flux_call(arguments, self._settings.defaults):
            return cast(FluxImagesResponse, await super().edit(**arguments))
        calls = await abuild_calls("edit", arguments, self._settings)
        sdk = _sdk_arguments("edit", calls, arguments)
        return cast(FluxImagesResponse, await super(AsyncFluxImages, self._bound_to(calls)).edit(**sdk))

    def _bound_to(self, calls: tuple[Call, ...]) -> Self:
        """A copy of this resource whose `_post`, which the SDK's methods end in, sends these calls."""
        bound = object.__new__(type(self))
        vars(bound).update(vars(self))
        bound._post = partial(self._sender.post, calls)  # type: ignore[assignment]  # of this very class
        return bound


_SDK_FIELDS = ("prompt", "n", "response_format")
"""The fields, beside `model`, for which the SDK's methods have a parameter; all others go through `extra_body`."""


def _sdk_arguments(method: Method, calls: tuple[Call, ...], given: Mapping[str, object]) -> dict[str, Any]:
    """The arguments for the SDK's own method; for a split call, with the total `n`.

    Tracers and test suites that patch the SDK's method see these arguments. `given` are the caller's.
    """
    first = calls[0]
    extra_body = {**first.body}
    # The SDK requires a prompt; FLUX models that take images do not.
    arguments: dict[str, Any] = {"prompt": omit, "model": first.model.id}
    extra_body.pop("model", None)
    for name in _SDK_FIELDS:
        if name in first.params:
            arguments[name] = first.params[name]
            extra_body.pop(name, None)
    if len(calls) > 1:
        arguments["n"] = sum(call.images for call in calls)
    if method == "edit":
        image = given.get("image")
        arguments["image"] = [*map(_sdk_file, image)] if isinstance(image, list) else _sdk_file(image)
    if first.headers:
        arguments["extra_headers"] = first.headers
    if first.query:
        arguments["extra_query"] = first.query
    if not isinstance(first.timeout, openai.NotGiven):
        arguments["timeout"] = first.timeout
    return {**arguments, "extra_body": extra_body}


def _sdk_file(image: object) -> object:
    """An image as the SDK's `edit` accepts it; what is sent is the link or data URI in the JSON body."""
    if isinstance(image, bytes | IOBase | os.PathLike | tuple):
        return image
    return image.encode("utf-8", "replace") if isinstance(image, str) else b""


if TYPE_CHECKING:

    class _FluxImagesWithRawResponse:
        def __init__(self, images: FluxImages) -> None:
            self.create_variation = to_raw_response_wrapper(images.create_variation)  # type: ignore[deprecated]  # as the SDK has it
            self.edit = to_raw_response_wrapper(images.edit)
            self.generate = to_raw_response_wrapper(images.generate)

    class _FluxImagesWithStreamingResponse:
        def __init__(self, images: FluxImages) -> None:
            self.create_variation = to_streamed_response_wrapper(images.create_variation)  # type: ignore[deprecated]  # as the SDK has it
            self.edit = to_streamed_response_wrapper(images.edit)
            self.generate = to_streamed_response_wrapper(images.generate)

    class _AsyncFluxImagesWithRawResponse:
        def __init__(self, images: AsyncFluxImages) -> None:
            self.create_variation = async_to_raw_response_wrapper(images.create_variation)  # type: ignore[deprecated]  # as the SDK has it
            self.edit = async_to_raw_response_wrapper(images.edit)
            self.generate = async_to_raw_response_wrapper(images.generate)

    class _AsyncFluxImagesWithStreamingResponse:
        def __init__(self, images: AsyncFluxImages) -> None:
            self.create_variation = async_to_streamed_response_wrapper(images.create_variation)  # type: ignore[deprecated]  # as the SDK has it
            self.edit = async_to_streamed_response_wrapper(images.edit)
            self.generate = async_to_streamed_response_wrapper(images.generate)
