"""The tool for LangChain and LangGraph. Needs the extra `langchain`.

The argument model only tells: it checks nothing, so that whatever a model writes reaches the neutral tool, whose words
say how to put it right. Checked here, a wrong value would raise from `invoke`, or come back in pydantic's words.
"""

import os
from base64 import b64encode
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, Self

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.tools._extras import missing
from flux_openai.tools.results import ToolImage, ToolResult
from flux_openai.tools.tool import FluxTool

try:
    from langchain_core.messages import ImageContentBlock, TextContentBlock
    from langchain_core.tools import BaseTool, ToolException
except ImportError as error:
    raise missing("langchain", error) from error

__all__ = ["FluxImageTool"]

_Content = str | list[TextContentBlock | ImageContentBlock]


class FluxImageTool(BaseTool):
    """A LangChain tool that makes images, around a FluxTool, which has the model, the folder and the limits.

    The content of its ToolMessage is text, with `show` also the images, for models that see. The artifact is
    `ToolResult.artifact`: paths, sizes, seeds and what the call cost. A call that made nothing is a ToolException,
    which an agent gets as a ToolMessage with status "error"; `handle_tool_error=False` lets it through. `options` are
    BaseTool's own. A text alone in place of arguments is the prompt.
    """

    flux: FluxTool = Field(exclude=True, repr=False)
    show: bool = False
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"

    def __init__(
        self,
        flux: FluxTool | None = None,
        *,
        show: bool = False,
        **options: Any,  # noqa: ANN401  # whatever BaseTool takes
    ) -> None:
        flux = flux or FluxTool()
        told = {"name": flux.name, "description": flux.description, "args_schema": _arguments_model(flux)}
        super().__init__(**{**told, "handle_tool_error": True, **options, "flux": flux, "show": show})

    @classmethod
    def of(
        cls,
        client: FluxOpenAI | AsyncFluxOpenAI | None = None,
        *,
        folder: str | os.PathLike[str] = "out",
        show: bool = False,
    ) -> Self:
        """The tool around a new FluxTool with this client and this folder; for the other settings, make that first."""
        return cls(FluxTool(client, folder=folder), show=show)

    def _run(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        return self._answer(self.flux.call(_joined(prompt, arguments)))

    async def _arun(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        return await to_thread.run_sync(self._answer, await self.flux.acall(_joined(prompt, arguments)))

    def _answer(self, result: ToolResult) -> tuple[_Content, dict[str, object]]:
        # An exception would take the artifact with it, and with that the paths of the images that are there.
        if result.is_error and not result.images:
            raise ToolException(result.text)
        shown = result.shown if self.show else []
        if not shown:
            return result.text, result.artifact
        return [TextContentBlock(type="text", text=result.text), *map(_image_block, shown)], result.artifact


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_missing(cls, values: Mapping[str, object]) -> dict[str, object]:
        return {**dict.fromkeys(cls.model_fields), **values}


def _arguments_model(flux: FluxTool) -> type[BaseModel]:
    """A model whose JSON schema is that of the tool."""
    schema: Any = flux.parameters
    fields: dict[str, Any] = {name: _field(told) for name, told in schema["properties"].items()}
    return create_model(flux.name, __base__=_Arguments, **fields)


def _field(schema: Mapping[str, Any]) -> tuple[object, object]:
    """A field that tells its schema, in the form that pydantic itself gives to `X | None = None`.

    Not every provider's adapter reads another: Google's takes a list of types for text, and fails on null as a choice.
    """
    told = dict(schema)
    description = told.pop("description")
    if not isinstance(told["type"], list):
        return Annotated[object, WithJsonSchema(told)], Field(description=description)
    told["type"] = next(kind for kind in told["type"] if kind != "null")
    if "enum" in told:
        told["enum"] = [value for value in told["enum"] if value is not None]
    # None comes from a factory, as OpenAI's strict rules have no `default`.
    nullable = WithJsonSchema({"anyOf": [told, {"type": "null"}]})
    return Annotated[object, nullable], Field(default_factory=NoneType, description=description)


def _joined(prompt: tuple[str, ...], arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {**arguments, "prompt": prompt[0]} if prompt else arguments


def _image_block(image: ToolImage) -> ImageContentBlock:
    return ImageContentBlock(type="image", base64=b64encode(image.read()).decode(), mime_type=str(image.mime_type))
