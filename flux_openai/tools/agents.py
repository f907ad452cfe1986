"""The adapter for the OpenAI Agents SDK. Needs the extra `agents`.

Example:
    Agent(name="artist", tools=[function_tool(FluxTool(), show=True)])
"""

from flux_openai.tools._extras import missing_extra
from flux_openai.tools.tool import FluxTool

try:
    from agents import FunctionTool, ToolOutputImage, ToolOutputText
except ImportError as error:
    raise missing_extra("agents", error) from error

__all__ = ["function_tool"]


def function_tool(tool: FluxTool, *, show: bool = False) -> FunctionTool:
    """Make a tool for `tools=` of an agent; with `show`, its results contain the images, not only their names."""

    async def invoke(_: object, arguments: str) -> str | list[ToolOutputText | ToolOutputImage]:
        result = await tool.acall(arguments)
        images = [ToolOutputImage(image_url=image.data_uri()) for image in result.shown if show]
        return [ToolOutputText(text=result.text), *images] if images else result.text

    return FunctionTool(
        name=tool.name, description=tool.description, params_json_schema=tool.parameters, on_invoke_tool=invoke
    )
