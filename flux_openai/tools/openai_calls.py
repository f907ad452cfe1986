"""The tool calls in an answer of OpenAI's Chat Completions or Responses API: carried out, and answered in kind."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from openai.types.chat import ChatCompletion, ChatCompletionToolMessageParam
from openai.types.responses import Response
from openai.types.responses.response_input_param import FunctionCallOutput

from flux_openai.tools.results import ToolResult
from flux_openai.tools.tool import FluxTool

if TYPE_CHECKING:
    from openai.types.responses.response_function_call_output_item_param import ResponseFunctionCallOutputItemParam

__all__ = ["arun_tool_calls", "run_tool_calls"]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One tool call of an answer: its id, the tool that is meant, and the arguments as the model wrote them."""

    id: str
    tool: FluxTool
    arguments: str


@overload
def run_tool_calls(response: ChatCompletion, tools: Iterable[FluxTool]) -> list[ChatCompletionToolMessageParam]: ...
@overload
def run_tool_calls(response: Response, tools: Iterable[FluxTool], *, show: bool = ...) -> list[FunctionCallOutput]: ...
def run_tool_calls(
    response: ChatCompletion | Response, tools: Iterable[FluxTool], *, show: bool = True
) -> list[ChatCompletionToolMessageParam] | list[FunctionCallOutput]:
    """Carry out the calls of these tools in an answer, one after the other, and return what to send back.

    For Chat Completions: the `tool` messages to append after the answer's own message. For Responses: the
    `function_call_output` items for the next `input`, with the images as `input_image` parts unless `show` is False.
    Calls of other tools are left to their owners.
    """
    results = [(call, call.tool.call(call.arguments)) for call in _calls(response, tools)]
    if isinstance(response, ChatCompletion):
        return [_message(call, result) for call, result in results]
    return [_item(call, result, show=show) for call, result in results]


@overload
async def arun_tool_calls(
    response: ChatCompletion, tools: Iterable[FluxTool]
) -> list[ChatCompletionToolMessageParam]: ...
@overload
async def arun_tool_calls(
    response: Response, tools: Iterable[FluxTool], *, show: bool = ...
) -> list[FunctionCallOutput]: ...
async def arun_tool_calls(
    response: ChatCompletion | Response, tools: Iterable[FluxTool], *, show: bool = True
) -> list[ChatCompletionToolMessageParam] | list[FunctionCallOutput]:
    """The same for async code."""
    results = [(call, await call.tool.acall(call.arguments)) for call in _calls(response, tools)]
    if isinstance(response, ChatCompletion):
        return [_message(call, result) for call, result in results]
    return [_item(call, result, show=show) for call, result in results]


def _calls(response: ChatCompletion | Response, tools: Iterable[FluxTool]) -> list[_Call]:
    by_name = {tool.name: tool for tool in tools}
    if isinstance(response, ChatCompletion):
        asked = [
            (call.id, call.function.name, call.function.arguments)
            for choice in response.choices[:1]
            for call in choice.message.tool_calls or ()
            if call.type == "function"
        ]
    else:
        asked = [(item.call_id, item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return [_Call(id=id, tool=by_name[name], arguments=text) for id, name, text in asked if name in by_name]


def _message(call: _Call, result: ToolResult) -> ChatCompletionToolMessageParam:
    return {"role": "tool", "tool_call_id": call.id, "content": result.text}


def _item(call: _Call, result: ToolResult, *, show: bool) -> FunctionCallOutput:
    parts: list[ResponseFunctionCallOutputItemParam] = [{"type": "input_text", "text": result.text}]
    parts += [{"type": "input_image", "image_url": image.data_uri()} for image in result.shown]
    output = parts if show and result.shown else result.text
    return {"type": "function_call_output", "call_id": call.id, "output": output}
