"""Tools for agents: a neutral one for every language model, and a thin adapter for each framework."""

from flux_openai.tools.openai_calls import arun_tool_calls, run_tool_calls
from flux_openai.tools.results import ToolImage, ToolResult
from flux_openai.tools.tool import FluxTool

__all__ = ["FluxTool", "ToolImage", "ToolResult", "arun_tool_calls", "run_tool_calls"]
