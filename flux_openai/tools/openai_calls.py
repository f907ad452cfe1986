"""The runner for tool calls in an answer of OpenAI's Chat Completions or Responses API.

A model may call several tools in one turn, and the API refuses the next request unless every call has its result:
`run_tool_calls` gives the results for our tools, and `other_tool_calls` the calls that are left to the program.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

from openai.types.chat import ChatCompletion, ChatCompletionMessageToolCallUnion, ChatCompletionToolMessageParam
from openai.types.responses import Response, ResponseCustomToolCall, ResponseFunctionToolCall
from openai.types.responses.response_input_param import FunctionCallOutput

from flux_openai.tools.results import ToolResult
from flux_openai.tools.tool import FluxTool

if TYPE_CHECKING:
    from openai.types.responses.response_function_call_output_item_param import ResponseFunctionCallOutputItemParam

__all__ = ["arun_tool_calls", "other_tool_calls", "run_tool_calls"]

_ChatCall = ChatCompletionMessageToolCallUnion
_ResponseCall = ResponseFunctionToolCall | ResponseCustomToolCall


@overload
def run_tool_calls(response: ChatCompletion, tools: Iterable[FluxTool]) -> list[ChatCompletionToolMessageParam]: ...
@overload
def run_tool_calls(response: Response, tools: Iterable[FluxTool], *, show: bool = ...) -> list[FunctionCallOutput]: ...
def run_tool_calls(
    response: ChatCompletion | Response, tools: Iterable[FluxTool], *, show: bool = True
) -> list[ChatCompletionToolMessageParam] | list[FunctionCallOutput]:
    """Run the calls of these tools in an answer, one after the other.

    Calls of other tools are not touched: `other_tool_calls` returns them, and they need results too.

    Args:
        response: The answer of either API.
        tools: The tools that were in `tools=` of the request.
        show: Whether the results contain the images too, as `input_image` parts; only for the Responses API.

    Returns:
        For Chat Completions, the `tool` messages to append after the answer's own message; for Responses, the
        `function_call_output` items for the next `input`.

    Raises:
        ConfigurationError: A tool was made with an async client: use `arun_tool_calls`.

    Example:
        completion = client.chat.completions.create(model=…, messages=messages, tools=[tool.chat_definition()])
        messages += [completion.choices[0].message, *run_tool_calls(completion, [tool])]
    """
    results = [(id, tool.call(arguments)) for id, tool, arguments in _calls(response, tools)]
    return _outputs(response, results, show=show)


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
    """The same as `run_tool_calls`, for async code."""
    results = [(id, await tool.acall(arguments)) for id, tool, arguments in _calls(response, tools)]
    return _outputs(response, results, show=show)


@overload
def other_tool_calls(response: ChatCompletion, tools: Iterable[FluxTool]) -> list[_ChatCall]: ...
@overload
def other_tool_calls(response: Response, tools: Iterable[FluxTool]) -> list[_ResponseCall]: ...
def other_tool_calls(
    response: ChatCompletion | Response, tools: Iterable[FluxTool]
) -> list[_ChatCall] | list[_ResponseCall]:
    """The calls of all other tools in an answer, as the SDK's own objects and in their order.

    These are the calls of functions and custom tools that the program itself carries out. Nothing is run.

    Args:
        response: The answer of either API.
        tools: The same tools as for `run_tool_calls`.

    Example:
        messages += [completion.choices[0].message, *run_tool_calls(completion, tools)]
        for call in other_tool_calls(completion, tools):
            messages.append({"role": "tool", "tool_call_id": call.id, "content": my_function(call)})
    """
    names = {tool.name for tool in tools}
    if isinstance(response, ChatCompletion):
        return [call for call in _chat_calls(response) if call.type != "function" or call.function.name not in names]
    return [
        item
        for item in response.output
        if item.type == "custom_tool_call" or (item.type == "function_call" and item.name not in names)
    ]


def _chat_calls(response: ChatCompletion) -> list[_ChatCall]:
    """All tool calls of the first choice."""
    return [call for choice in response.choices[:1] for call in choice.message.tool_calls or ()]


def _calls(response: ChatCompletion | Response, tools: Iterable[FluxTool]) -> list[tuple[str, FluxTool, str]]:
    """The id, the tool and the arguments of each call of one of these tools."""
    by_name = {tool.name: tool for tool in tools}
    if isinstance(response, ChatCompletion):
        calls = [
            (call.id, call.function.name, call.function.arguments)
            for call in _chat_calls(response)
            if call.type == "function"
        ]
    else:
        calls = [(item.call_id, item.name, item.arguments) for item in response.output if item.type == "function_call"]
    return [(id, by_name[name], arguments) for id, name, arguments in calls if name in by_name]


def _outputs(
    response: ChatCompletion | Response, results: Sequence[tuple[str, ToolResult]], *, show: bool
) -> list[ChatCompletionToolMessageParam] | list[FunctionCallOutput]:
    if isinstance(response, ChatCompletion):
        messages: list[ChatCompletionToolMessageParam] = [
            {"role": "tool", "tool_call_id": id, "content": result.text} for id, result in results
        ]
        return messages
    items: list[FunctionCallOutput] = []
    for id, result in results:
        parts: list[ResponseFunctionCallOutputItemParam] = [{"type": "input_text", "text": result.text}]
        parts += [{"type": "input_image", "image_url": image.data_uri()} for image in result.shown if show]
        output = parts if len(parts) > 1 else result.text
        items.append({"type": "function_call_output", "call_id": id, "output": output})
    return items
