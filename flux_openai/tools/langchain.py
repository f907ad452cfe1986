"""The tool for LangChain and LangGraph. Needs the extra `langchain`.

The pydantic model of the arguments only publishes their schema and validates nothing: what a model writes reaches the
neutral tool, whose messages say how to correct it. A value that pydantic refused would raise from `invoke` instead.
"""

import os
from base64 import b64encode
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any, Literal, Self

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.tools._extras import missing_extra
from flux_openai.tools.results import ToolResult
from flux_openai.tools.tool import FluxTool

try:
    from langchain_core.messages import ImageContentBlock, TextContentBlock
    from langchain_core.tools import BaseTool, ToolException
except ImportError as error:
    raise missing_extra("langchain", error) from error

__all__ = ["FluxImageTool"]

_Content = str | list[TextContentBlock | ImageContentBlock]


class FluxImageTool(BaseTool):
    """A LangChain tool that makes images, around a FluxTool, which has the model, the folder and the limits.

    The content of its ToolMessage is text and, with `show`, the images, for models that see. The artifact is
    `ToolResult.artifact`: paths, sizes, seeds and what the call cost. A call that made nothing raises ToolException,
    which an agent gets as a ToolMessage with status "error"; with `handle_tool_error=False` it is raised to the caller.
    `options` are those of BaseTool. A plain text in place of arguments is the prompt.
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
        schema: Any = flux.parameters
        fields: dict[str, Any] = {name: _field(inner) for name, inner in schema["properties"].items()}
        defaults = {
            "name": flux.name,
            "description": flux.description,
            "args_schema": create_model(flux.name, __base__=_Arguments, **fields),
            "handle_tool_error": True,
        }
        super().__init__(**{**defaults, **options, "flux": flux, "show": show})

    @classmethod
    def of(
        cls,
        client: FluxOpenAI | AsyncFluxOpenAI | None = None,
        *,
        folder: str | os.PathLike[str] = "out",
        show: bool = False,
    ) -> Self:
        """The tool around a new FluxTool with this client and folder; for other settings, make that yourself."""
        return cls(FluxTool(client, folder=folder), show=show)

    def _run(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        return self._to_content(self.flux.call(_with_prompt(prompt, arguments)))

    async def _arun(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        result = await self.flux.acall(_with_prompt(prompt, arguments))
        return await to_thread.run_sync(self._to_content, result)

    def _to_content(self, result: ToolResult) -> tuple[_Content, dict[str, object]]:
        # With images it is no exception, which would lose the artifact and with it the paths of the images.
        if result.is_error and not result.images:
            raise ToolException(result.text)
        images = [
            ImageContentBlock(type="image", base64=b64encode(image.read()).decode(), mime_type=str(image.mime_type))
            for image in result.shown
            if self.show
        ]
        content = [TextContentBlock(type="text", text=result.text), *images] if images else result.text
        return content, result.artifact


def _with_prompt(prompt: tuple[str, ...], arguments: Mapping[str, object]) -> Mapping[str, object]:
    return {**arguments, "prompt": prompt[0]} if prompt else arguments


class _Arguments(BaseModel):
    """A model that accepts everything: an argument that is missing is None, and an unknown one is kept."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Mapping[str, object]) -> dict[str, object]:
        return {**dict.fromkeys(cls.model_fields), **values}


def _field(schema: Mapping[str, Any]) -> tuple[object, object]:
    """A field with this schema, in the form that pydantic itself gives to `X | None = None`.

    Not every provider's adapter can read another: Google's takes a list of types for text, and fails on a null choice.
    """
    inner = dict(schema)
    description = inner.pop("description")
    if not isinstance(inner["type"], list):
        return Annotated[object, WithJsonSchema(inner)], Field(description=description)
    inner["type"] = next(kind for kind in inner["type"] if kind != "null")
    if "enum" in inner:
        inner["enum"] = [value for value in inner["enum"] if value is not None]
    # None comes from a factory, because a default would be in the schema, and OpenAI's strict rules have no `default`.
    nullable = WithJsonSchema({"anyOf": [inner, {"type": "null"}]})
    return Annotated[object, nullable], Field(default_factory=NoneType, description=description)
