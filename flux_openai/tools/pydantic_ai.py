"""The tool for pydantic-ai. Needs the extra `pydantic-ai`."""

from pydantic_core import SchemaValidator, core_schema

from flux_openai.tools._extras import missing_extra
from flux_openai.tools.tool import FluxTool

try:
    from pydantic_ai import BinaryImage, ModelRetry, Tool, ToolReturn
except ImportError as error:
    raise missing_extra("pydantic-ai", error) from error

__all__ = ["pydantic_ai_tool"]


def pydantic_ai_tool(tool: FluxTool, *, show: bool = False) -> Tool[object]:
    """The tool for `tools=` of an agent; with `show`, the model is sent the images, and not only their names.

    Wrong arguments count as one of the agent's `retries`; every other error is a result. `ToolResult.artifact` is the
    `metadata` of the message.
    """

    async def draw(**arguments: object) -> ToolReturn:
        result = await tool.acall(arguments)
        if result.correctable:
            raise ModelRetry(result.text)
        images = [BinaryImage(image.read(), media_type=str(image.mime_type)) for image in result.shown if show]
        return ToolReturn([result.text, *images] if images else result.text, metadata=result.artifact)

    adapted = Tool[object].from_schema(draw, tool.name, tool.description, tool.parameters)
    adapted.strict = True
    # The framework's own validator accepts every JSON value, and a call with one that is no object would end the run.
    adapted.function_schema.validator = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))
    return adapted
