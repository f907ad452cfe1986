"""The tool for pydantic-ai. Needs the extra `pydantic-ai`."""

from pydantic_core import SchemaValidator, core_schema

from flux_openai.tools._extras import missing
from flux_openai.tools.tool import FluxTool

try:
    from pydantic_ai import BinaryImage, ModelRetry, Tool, ToolReturn
except ImportError as error:
    raise missing("pydantic-ai", error) from error

__all__ = ["pydantic_ai_tool"]


def pydantic_ai_tool(tool: FluxTool, *, show: bool = False) -> Tool[object]:
    """The tool as an agent takes it in `tools=`; with `show`, the model sees the images and not their names alone.

    Wrong arguments count among the agent's `retries`; every other error is an answer. The artifact of a result is the
    `metadata` of its message.
    """

    async def draw(**arguments: object) -> ToolReturn:
        result = await tool.acall(arguments)
        if result.correctable:
            raise ModelRetry(result.text)
        shown = [BinaryImage(image.read(), media_type=str(image.mime_type)) for image in result.shown] if show else []
        return ToolReturn([result.text, *shown] if shown else result.text, metadata=result.artifact)

    made = Tool[object].from_schema(draw, tool.name, tool.description, tool.parameters)
    made.strict = True
    # Theirs lets every JSON value through, and one that is no object would end the run.
    made.function_schema.validator = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))
    return made
