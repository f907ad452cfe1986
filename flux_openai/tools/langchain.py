"""The adapter for LangChain and LangGraph. Needs the extra `langchain`.

The pydantic model of the arguments only publishes their schema and validates nothing: `FluxTool` checks the arguments,
because its messages tell the language model how to correct them. With pydantic `invoke` would raise instead.
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
    """A LangChain tool that makes images. It wraps a FluxTool, which has the model, the folder and the limits.

    The content of its ToolMessage is text, and with `show` the images too. The artifact is `ToolResult.artifact`:
    paths, sizes, seeds and cost. If a call saved no image, ToolException is raised, and an agent gets a ToolMessage
    with status "error"; with `handle_tool_error=False` the exception reaches the caller. The tool can also be invoked
    with a plain text, which is the prompt.

    Args:
        flux: The neutral tool. By default a new FluxTool.
        show: Whether the content contains the images, for models that read images.
        options: Options of BaseTool, such as `name`, `description` or `callbacks`.

    Example:
        agent = create_agent("openai:gpt-5", tools=[FluxImageTool(FluxTool(folder="out", max_images=8))])
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
        schema: Any = flux.input_schema
        fields: dict[str, Any] = {
            name: _field(inner, required=name in schema["required"]) for name, inner in schema["properties"].items()
        }
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
        """Make the tool with a new FluxTool for this client and folder; for other settings, pass a FluxTool."""
        return cls(FluxTool(client, folder=folder), show=show)

    def _run(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        return self._to_content(self.flux.call(_with_prompt(prompt, arguments)))

    async def _arun(self, /, *prompt: str, **arguments: object) -> tuple[_Content, dict[str, object]]:
        result = await self.flux.acall(_with_prompt(prompt, arguments))
        return await to_thread.run_sync(self._to_content, result)

    def _to_content(self, result: ToolResult) -> tuple[_Content, dict[str, object]]:
        # No exception if there are images: it would lose the artifact, which has their paths.
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
    """A pydantic model that accepts everything: missing arguments become None, unknown ones are kept."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Mapping[str, object]) -> dict[str, object]:
        return {**dict.fromkeys(cls.model_fields), **values}


def _field(schema: Mapping[str, Any], *, required: bool) -> tuple[object, object]:
    """A field with this schema, in the form that pydantic generates for `X | None = None`.

    Some adapters of model providers support no other form: Google's reads a list of types as text, and fails on null in
    an enum.
    """
    inner = dict(schema)
    description = inner.pop("description")
    if required:
        return Annotated[object, WithJsonSchema(inner)], Field(description=description)
    # A factory, because a default would be in the schema, and OpenAI's strict rules do not allow `default`.
    nullable = WithJsonSchema({"anyOf": [inner, {"type": "null"}]})
    return Annotated[object, nullable], Field(default_factory=NoneType, description=description)
