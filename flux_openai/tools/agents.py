"""The tool for the OpenAI Agents SDK. Needs the extra `agents`."""

from flux_openai.tools._extras import missing
from flux_openai.tools.tool import FluxTool

try:
    from agents import FunctionTool, ToolOutputImage, ToolOutputText
except ImportError as error:
    raise missing("agents", error) from error

__all__ = ["function_tool"]


def function_tool(tool: FluxTool, *, show: bool = False) -> FunctionTool:
    """The tool as an agent takes it in `tools=`; with `show`, the model sees the images and not their names alone."""

    async def invoke(_: object, arguments: str) -> str | list[ToolOutputText | ToolOutputImage]:
        result = await tool.acall(arguments)
        shown = [ToolOutputImage(image_url=image.data_uri()) for image in result.shown] if show else []
        return [ToolOutputText(text=result.text), *shown] if shown else result.text

    return FunctionTool(
        name=tool.name, description=tool.description, params_json_schema=tool.parameters, on_invoke_tool=invoke
    )
