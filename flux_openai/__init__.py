"""FLUX image models through the official OpenAI client: validated, retried without paying twice, normalized."""

from flux_openai.adapter import adapt
from flux_openai.client import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.client import AsyncFluxOpenAI as AsyncOpenAI
from flux_openai.client import FluxOpenAI as OpenAI
from flux_openai.emulated import Emulator
from flux_openai.errors import BadResponseError, InvalidParamsError
from flux_openai.images import FluxImage, FluxImagesResponse
from flux_openai.retries import RetryPolicy

__all__ = [
    "AsyncFluxOpenAI",
    "AsyncOpenAI",
    "BadResponseError",
    "Emulator",
    "FluxImage",
    "FluxImagesResponse",
    "FluxOpenAI",
    "InvalidParamsError",
    "OpenAI",
    "RetryPolicy",
    "adapt",
]
