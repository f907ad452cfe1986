"""The keyword arguments of `images.generate` and `images.edit`, as types."""

from collections.abc import Mapping, Sequence
from typing import Literal, Required

import openai
from openai import NotGiven, Omit
from openai._types import FileTypes, SequenceNotStr
from openai.types import ImageModel

from flux_openai.models import FluxParams
from flux_openai.request.image_inputs import ImageInput

__all__ = ["EditParams", "GenerateParams"]


class _CommonParams(FluxParams, total=False):
    """The arguments of both `generate` and `edit`: FLUX parameters, options of OpenAI's own models, request options.

    The SDK's own TypedDicts cannot be reused: their values lack `Omit`, which the SDK's methods accept.
    """

    prompt: Required[str]
    model: str | None | Omit
    split: bool | None | Omit
    background: Literal["transparent", "opaque", "auto"] | None | Omit
    complexity: Literal["low", "medium", "high"] | None | Omit
    frame_count: int | None | Omit
    frame_duration_ms: int | None | Omit
    output_compression: int | None | Omit
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None | Omit
    partial_images: int | None | Omit
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"] | None | Omit
    safety_identifier: str | None | Omit
    svg: Mapping[str, object] | None | Omit
    user: str | Omit
    extra_headers: Mapping[str, str | Omit] | None
    extra_query: Mapping[str, object] | None
    extra_body: object | None
    timeout: float | openai.Timeout | None | NotGiven


class GenerateParams(_CommonParams, total=False):
    """The keyword arguments of `images.generate`, except `stream`."""

    image: ImageInput | None | Omit
    images: Sequence[ImageInput] | None | Omit
    moderation: Literal["low", "auto"] | None | Omit
    style: Literal["vivid", "natural"] | None | Omit


class EditParams(_CommonParams, total=False):
    """The keyword arguments of `images.edit`, except `stream`."""

    image: Required[ImageInput | SequenceNotStr[ImageInput]]
    input_fidelity: Literal["high", "low"] | None | Omit
    markup: FileTypes | Omit
    mask: FileTypes | Omit


class OpenAIGenerateParams(GenerateParams, total=False):
    """The keyword arguments of `images.generate` for a model of OpenAI's own."""

    model: Required[ImageModel]  # type: ignore[misc]  # fewer values than the base has, which is what tells them apart


class OpenAIEditParams(EditParams, total=False):
    """The keyword arguments of `images.edit` for a model of OpenAI's own."""

    model: Required[ImageModel]  # type: ignore[misc]  # likewise
