"""Image tools for language models: the framework-neutral `FluxTool`, and an adapter module for each framework.

    tool = FluxTool(folder="out", max_images=8)
    completion = client.chat.completions.create(model=…, messages=…, tools=[tool.chat_definition()])
    messages += [completion.choices[0].message, *run_tool_calls(completion, [tool])]

The adapters are `langchain`, `agents`, `pydantic_ai` and `mcp`; each needs the extra of its name.
"""

from flux_openai.tools.openai_calls import arun_tool_calls, other_tool_calls, run_tool_calls
from flux_openai.tools.results import ToolImage, ToolResult
from flux_openai.tools.tool import FluxTool

__all__ = ["FluxTool", "ToolImage", "ToolResult", "arun_tool_calls", "other_tool_calls", "run_tool_calls"]
