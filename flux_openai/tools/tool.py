"""The neutral tool: what every framework's adapter wraps. It checks its own input, draws, saves, and answers in words.

Async mirrors sync. Nothing is raised for what a model did wrong or what the service refused: the result says it.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from anyio import to_thread
from openai.types.chat import ChatCompletionToolParam
from openai.types.responses import FunctionToolParam

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.errors import ConfigurationError, FluxError, InvalidParam, listed
from flux_openai.models import FAMILIES
from flux_openai.response.response import FluxImage, FluxImagesResponse
from flux_openai.tools.arguments import Order, read_order
from flux_openai.tools.results import ToolImage, ToolResult, failed, limited, made, misused, repeated, unknown
from flux_openai.tools.schema import Verb, json_schema
from flux_openai.tools.session import Album

if TYPE_CHECKING:
    from openai.types.shared_params import FunctionDefinition

__all__ = ["FluxTool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMES: Mapping[Verb, str] = {"generate": "flux_generate_image", "edit": "flux_edit_image"}
_DESCRIPTIONS: Mapping[Verb, str] = {
    "generate": "Makes images from a prompt and saves them. Returns their names. Every image costs money.",
    "edit": "Changes an image, or combines several, as a prompt says, and saves what comes. Images are given by the "
    "names that earlier results gave. Returns the names of the new ones. Every image costs money.",
}


class FluxTool:
    """A tool with which a language model makes images.

    `client`: a FluxOpenAI, or an AsyncFluxOpenAI if only `acall` is used; a FluxOpenAI when left out. `verb`:
    "generate" or "edit". `model`: the short name of a family. `folder`: where the images go; nothing is written outside
    it. `max_images` and `max_calls`: what all calls together may send. `images`: files to start from, by the names that
    the model shall use. `name`, `description`: what the model is told. Raises ConfigurationError.
    """

    def __init__(
        self,
        client: FluxOpenAI | AsyncFluxOpenAI | None = None,
        *,
        verb: Verb = "generate",
        model: str = "kontext-max",
        folder: str | os.PathLike[str] = "out",
        max_images: int = 16,
        max_calls: int = 16,
        images: Mapping[str, str | os.PathLike[str]] | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        self.album = Album(
            Path(folder),
            max_images=max_images,
            max_calls=max_calls,
            images={word: Path(path) for word, path in (images or {}).items()},
        )
        self.verb = cast(Verb, _checked("verb", verb, _NAMES))
        self.model = _checked("model", model, FAMILIES)
        self.name = _checked_name(_NAMES[self.verb] if name is None else name)
        self.description = _DESCRIPTIONS[self.verb] if description is None else description
        self._client = None if isinstance(client, AsyncFluxOpenAI) else client or FluxOpenAI()
        self._aclient = client if isinstance(client, AsyncFluxOpenAI) else None

    def editing(self, *, name: str | None = None, description: str | None = None) -> Self:
        """The tool that changes images: it shares folder, limits and images with this one."""
        tool = type(self)(
            self._client or self._aclient, verb="edit", model=self.model, name=name, description=description
        )
        tool.album = self.album
        return tool

    @property
    def parameters(self) -> dict[str, object]:
        """The arguments as JSON schema, valid under OpenAI's strict rules; a fresh copy."""
        return json_schema(self.model, self.verb, most=self.album.max_images)

    def chat_definition(self) -> ChatCompletionToolParam:
        """The tool as it stands in `tools=` of Chat Completions."""
        function: FunctionDefinition = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": True,
        }
        return {"type": "function", "function": function}

    def responses_definition(self) -> FunctionToolParam:
        """The tool as it stands in `tools=` of the Responses API."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": True,
        }

    def call(self, arguments: Mapping[str, object] | str) -> ToolResult:
        """Carry out one call of the model's; `arguments` are a mapping, or JSON text as a model writes it.

        Raises ConfigurationError when the tool was made with an async client, and what is no error of the call's.
        """
        if self._client is None:
            raise ConfigurationError("this tool was made with an async client: use `await tool.acall(…)`")
        return self._call(arguments, self._client)

    async def acall(self, arguments: Mapping[str, object] | str) -> ToolResult:
        """The same for async code; with a sync client, it runs in a thread."""
        if self._aclient is None:
            return await to_thread.run_sync(self.call, arguments)
        return await self._acall(arguments, self._aclient)

    def _call(self, arguments: Mapping[str, object] | str, client: FluxOpenAI) -> ToolResult:
        order = self._read(arguments)
        if isinstance(order, ToolResult):
            return order
        if order.key is None:
            return self._draw(order, client)
        key = f"{self.name}:{order.key}"
        claim = self.album.claim(key)
        if not claim.first:
            return repeated(claim.outcome())
        result = unknown()
        try:
            result = self._draw(order, client)
        finally:
            # Whoever interrupts this leaves an order that may have been carried out.
            self.album.settle(key, result)
        return result

    async def _acall(self, arguments: Mapping[str, object] | str, client: AsyncFluxOpenAI) -> ToolResult:
        order = await self._aread(arguments)
        if isinstance(order, ToolResult):
            return order
        if order.key is None:
            return await self._adraw(order, client)
        key = f"{self.name}:{order.key}"
        claim = self.album.claim(key)
        if not claim.first:
            return repeated(await claim.aoutcome())
        result = unknown()
        try:
            result = await self._adraw(order, client)
        finally:
            # Whoever interrupts this leaves an order that may have been carried out.
            self.album.settle(key, result)
        return result

    def _draw(self, order: Order, client: FluxOpenAI) -> ToolResult:
        limit = self.album.admit(order.images)
        if limit is not None:
            return limited(limit)
        try:
            response = client.images.generate(**_arguments(order))
        except FluxError as error:
            return self._not_made(order, error)
        return _kept(response, [self._saved(image, order) for image in response.data])

    async def _adraw(self, order: Order, client: AsyncFluxOpenAI) -> ToolResult:
        limit = self.album.admit(order.images)
        if limit is not None:
            return limited(limit)
        try:
            response = await client.images.generate(**_arguments(order))
        except FluxError as error:
            return self._not_made(order, error)
        return _kept(response, [await self._asaved(image, order) for image in response.data])

    def _saved(self, image: FluxImage, order: Order) -> ToolImage | FluxError:
        try:
            path = image.save(self.album.place)
        except FluxError as error:
            return error
        return self.album.enter(path, seed=order.seed)

    async def _asaved(self, image: FluxImage, order: Order) -> ToolImage | FluxError:
        try:
            path = await image.asave(self.album.place)
        except FluxError as error:
            return error
        return await self.album.aenter(path, seed=order.seed)

    def _not_made(self, order: Order, error: FluxError) -> ToolResult:
        if error.billing == "none":
            self.album.give_back(order.images)
        return failed(error)

    def _read(self, arguments: Mapping[str, object] | str) -> Order | ToolResult:
        order = read_order(arguments, family=self.model, verb=self.verb, album=self.album)
        return misused(order) if isinstance(order, list) else order

    async def _aread(self, arguments: Mapping[str, object] | str) -> Order | ToolResult:
        """The same in a thread: the images of an edit are read from files."""
        return await to_thread.run_sync(self._read, arguments)


def _kept(response: FluxImagesResponse, saved: Sequence[ToolImage | FluxError]) -> ToolResult:
    return made(
        response,
        [image for image in saved if isinstance(image, ToolImage)],
        [(error, image.url) for error, image in zip(saved, response.data, strict=True) if isinstance(error, FluxError)],
    )


def _checked(param: str, value: str, choices: Collection[str]) -> str:
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
    raise ConfigurationError.of(
        InvalidParam(param=param, value=value, rule=f"must be one of {listed(choices)}", nearest=near)
    )


def _checked_name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    rule = "must be 1 to 64 ASCII letters, digits, _ and -"
    near = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64] or None
    raise ConfigurationError.of(InvalidParam(param="name", value=name, rule=rule, nearest=near))


def _arguments(order: Order) -> dict[str, Any]:
    return {"extra_body": order.body}
