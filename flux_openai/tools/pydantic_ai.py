"""The adapter for pydantic-ai. Needs the extra `pydantic-ai`.

Example:
    Agent("openai:gpt-5", tools=[pydantic_ai_tool(FluxTool(), show=True)])
"""

from pydantic_core import SchemaValidator, core_schema

from flux_openai.tools._extras import missing_extra
from flux_openai.tools.tool import FluxTool

try:
    from pydantic_ai import BinaryImage, ModelRetry, Tool, ToolReturn
except ImportError as error:
    raise missing_extra("pydantic-ai", error) from error

__all__ = ["pydantic_ai_tool"]


def pydantic_ai_tool(tool: FluxTool, *, show: bool = False) -> Tool[object]:
    """Make a tool for `tools=` of an agent; with `show`, its results contain the images, not only their names.

    Invalid arguments raise ModelRetry, which counts as one of the agent's `retries`; every other error is a result for
    the model. The `metadata` of the message is `ToolResult.artifact`.
    """

    async def draw(**arguments: object) -> ToolReturn:
        result = await tool.acall(arguments)
        if result.correctable:
            raise ModelRetry(result.text)
        images = [BinaryImage(image.read(), media_type=str(image.mime_type)) for image in result.shown if show]
        return ToolReturn([result.text, *images] if images else result.text, metadata=result.artifact)

    adapted = Tool[object].from_schema(draw, tool.name, tool.description, tool.parameters)
    adapted.strict = True
    # The framework's default validator accepts every JSON value, and arguments that are no object would end the run.
    adapted.function_schema.validator = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))
    return adapted
