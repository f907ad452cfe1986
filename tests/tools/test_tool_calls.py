"""Tool calls in answers of OpenAI's two APIs: carried out, and answered so that a conversation can go on."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply
from flux_openai.emulator.api.responses import json_reply
from flux_openai.tools import FluxTool, arun_tool_calls, other_tool_calls, run_tool_calls

Answer = ChatCompletion | Response
Run = Callable[..., list[dict[str, Any]]]

WRONG = '{"prompt": "a fox", "steps": 99}'
RIGHT = '{"prompt": "a fox", "steps": 20, "seed": 7, "aspect_ratio": null}'


def chat_body(*calls: tuple[str, str], words: str | None = None) -> dict[str, Any]:
    """An answer of Chat Completions with these calls, each a tool's name and arguments."""
    asked = [
        {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": text}}
        for number, (name, text) in enumerate(calls)
    ]
    custom = {"id": "call-c", "type": "custom", "custom": {"name": "flux_generate_image", "input": RIGHT}}
    message = {"role": "assistant", "content": words, "tool_calls": [*asked, custom] if calls else None}
    choice = {"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def responses_body(*calls: tuple[str, str], words: str | None = None) -> dict[str, Any]:
    """The same of the Responses API."""
    output: list[dict[str, Any]] = [
        {"type": "function_call", "id": f"fc-{number}", "call_id": f"call-{number}", "name": name, "arguments": text}
        for number, (name, text) in enumerate(calls)
    ]
    custom = {"type": "custom_tool_call", "call_id": "call-c", "name": "flux_generate_image", "input": RIGHT}
    text = {"type": "output_text", "text": words or "", "annotations": []}
    said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
    fixed = {"id": "r", "object": "response", "created_at": 1, "model": "m", "tools": [], "tool_choice": "auto"}
    return {**fixed, "parallel_tool_calls": True, "output": [*output, custom] if calls else [said]}


BODIES = {ChatCompletion: chat_body, Response: responses_body}


@pytest.fixture
def tool(emulator: Emulator, tmp_path: Path) -> FluxTool:
    """A tool that draws on the emulator."""
    return FluxTool(emulator.client(), folder=tmp_path)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both ways to carry out the calls of an answer."""
    if request.param == "sync":
        return run_tool_calls  # type: ignore[return-value]  # read as JSON by the tests
    return lambda *arguments, **options: asyncio.run(arun_tool_calls(*arguments, **options))


def text_of(output: Mapping[str, Any]) -> str:
    """What a result says to the model."""
    return str(output.get("content", output.get("output")))


def files_in(folder: Path) -> list[str]:
    """The names of the files in a folder."""
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("kind", BODIES)
def test_our_calls_are_answered_and_no_others(run: Run, tool: FluxTool, emulator: Emulator, kind: type[Answer]) -> None:
    """Each call of ours is carried out and answered under its id, in order; other tools' calls are left alone."""
    calls = [("flux_generate_image", RIGHT), ("search", "{}"), ("flux_generate_image", "{"), ("flux_edit_image", "{}")]
    answer = kind.model_validate(BODIES[kind](*calls))
    outputs = run(answer, iter([tool, tool.editing()]))
    assert [one.get("tool_call_id", one.get("call_id")) for one in outputs] == ["call-0", "call-2", "call-3"]
    assert {one.get("role", one.get("type")) for one in outputs} <= {"tool", "function_call_output"}
    assert json.loads(json.dumps(outputs)) == outputs
    drawn, broken, empty = map(text_of, outputs)
    assert "- a-fox_seed7_0.png (image/png" in drawn
    assert "must be a JSON object" in broken
    assert "images: must be a list" in empty
    assert emulator.bill.images == 1


@pytest.mark.parametrize("kind", BODIES)
def test_the_calls_of_other_tools_are_returned(
    run: Run, tool: FluxTool, emulator: Emulator, kind: type[Answer]
) -> None:
    """What ours leave unanswered comes back as the SDK's objects, in order, so that each call gets one result."""
    calls = [("search", '{"q": 1}'), ("flux_generate_image", RIGHT), ("search", "{"), ("flux_generate_image", "{")]
    answer = kind.model_validate(BODIES[kind](*calls))
    others: list[Any] = other_tool_calls(answer, iter([tool]))
    assert emulator.requests == [], "nothing is run"
    ids = [getattr(call, "call_id", None) or call.id for call in others]
    assert ids == ["call-0", "call-2", "call-c"]
    assert getattr(others[0], "function", others[0]).arguments == '{"q": 1}'
    every = answer.choices[0].message.tool_calls if isinstance(answer, ChatCompletion) else answer.output
    assert [call for call in every or () if call in others] == others
    answered = [one.get("tool_call_id", one.get("call_id")) for one in run(answer, [tool])]
    assert sorted([*answered, *ids]) == ["call-0", "call-1", "call-2", "call-3", "call-c"]


@pytest.mark.parametrize("kind", BODIES)
def test_an_answer_without_calls_asks_for_nothing(run: Run, tool: FluxTool, kind: type[Answer]) -> None:
    """A plain answer gives an empty list, and so does one without tools."""
    assert run(kind.model_validate(BODIES[kind](words="no")), [tool]) == []
    assert other_tool_calls(kind.model_validate(BODIES[kind](words="no")), [tool]) == []
    assert run(kind.model_validate(BODIES[kind](("flux_generate_image", RIGHT))), []) == []


def test_images_are_shown_unless_they_shall_not(run: Run, tool: FluxTool) -> None:
    """The pictures follow the words as parts of the output; an error, or show=False, leaves the words alone."""
    answer = Response.model_validate(responses_body(("flux_generate_image", RIGHT), ("flux_generate_image", "{}")))
    drawn, broken = (one["output"] for one in run(answer, [tool]))
    [image] = tool.session.images
    words, shown = drawn
    assert (words["type"], shown["type"]) == ("input_text", "input_image")
    assert image in words["text"]
    assert shown["image_url"].startswith("data:image/png;base64,iVBOR")
    assert "prompt" in broken
    assert isinstance(run(answer, [tool], show=False)[0]["output"], str)


def test_only_images_are_shown(run: Run, tool: FluxTool, emulator: Emulator) -> None:
    """What was paid for and is no known kind of image is kept and told, but an API would refuse to be shown it."""
    emulator.fail(status=200, body={"created": 1, "data": [{"b64_json": "aGVsbG8gd29ybGQ="}]})
    answer = Response.model_validate(responses_body(("flux_generate_image", RIGHT)))
    [output] = run(answer, [tool])
    assert "a-fox_seed7_0.bin (unknown type, seed 7)" in output["output"]


class Service:
    """A chat model that errs, corrects itself when it is told, and then speaks; and the emulator beside it."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.seen: list[dict[str, Any]] = []

    def reply(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        route = request.url.path.rpartition("/")[2]
        if route not in ("completions", "responses"):
            return self.emulator.handle(request)
        self.seen.append(json.loads(request.content))
        [last] = self.seen[-1]["messages" if route == "completions" else "input"][-1:]
        [tool] = self.seen[-1]["tools"]
        name = tool.get("function", tool)["name"]
        calls = [(name, RIGHT if "nearest: 50" in text_of(last) else WRONG)]
        done = "Made 1 image" in text_of(last)
        body = (chat_body if route == "completions" else responses_body)(
            *([] if done else calls), words="done" if done else None
        )
        return httpx.Response(200, json=body)


def test_a_chat_goes_from_error_to_picture(emulator: Emulator, tmp_path: Path) -> None:
    """Over Chat Completions: a wrong call is told, the corrected one draws, and one image is paid for."""
    service = Service(emulator)
    http = httpx.Client(transport=httpx.MockTransport(service.reply))
    with FluxOpenAI(api_key="key-of-the-flux-service", http_client=http) as client:
        tool = FluxTool(client, folder=tmp_path)
        messages: list[Any] = [{"role": "user", "content": "Draw a fox."}]
        while True:
            answer = client.chat.completions.create(model="m", messages=messages, tools=[tool.chat_definition()])
            if answer.choices[0].finish_reason == "stop":
                break
            messages += [answer.choices[0].message, *run_tool_calls(answer, [tool])]
    assert answer.choices[0].message.content == "done"
    assert ([len(one["messages"]) for one in service.seen], emulator.bill.images) == ([1, 3, 5], 1)
    assert [*tool.session.images] == files_in(tmp_path) == ["a-fox_seed7_0.png"]


@pytest.mark.anyio
async def test_responses_go_from_error_to_picture(emulator: Emulator, tmp_path: Path) -> None:
    """Over the Responses API, async: a wrong call is told, the corrected one draws, and one image is paid for."""
    service = Service(emulator)
    http = httpx.AsyncClient(transport=httpx.MockTransport(service.reply))
    async with AsyncFluxOpenAI(api_key="key-of-the-flux-service", http_client=http) as client:
        tool = FluxTool(client, folder=tmp_path)
        items: list[Any] = [{"role": "user", "content": "Draw a fox."}]
        while True:
            answer = await client.responses.create(model="m", input=items, tools=[tool.responses_definition()])
            outputs = await arun_tool_calls(answer, [tool])
            if not outputs:
                break
            items += [*answer.output, *outputs]
    assert answer.output_text == "done"
    assert ([len(one["input"]) for one in service.seen], emulator.bill.images) == ([1, 4, 7], 1)
    assert [*tool.session.images] == files_in(tmp_path) == ["a-fox_seed7_0.png"]


def test_the_loop_of_the_guide_answers_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide's loop with a function of one's own: a turn that calls both gets one result for each call."""
    text = (Path(__file__).parents[2] / "examples" / "agents.md").read_text(encoding="utf-8")
    [block] = [one for one in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) if "weather(" in one]
    seen: list[dict[str, Any]] = []

    class Chat(Emulator):
        def answer(self, request: httpx.Request) -> Reply:
            if not request.url.path.endswith("/completions"):
                return super().answer(request)
            seen.append(json.loads(request.content))
            done = seen[-1]["messages"][-1]["role"] == "tool"
            body = chat_body(*([] if done else [("weather", '{"city": "Oslo"}'), ("flux_generate_image", RIGHT)]))
            body["choices"][0]["message"]["tool_calls"] = (
                [] if done else body["choices"][0]["message"]["tool_calls"][:2]
            )
            return json_reply(body)

    emulator = Chat(pixels=64)
    with emulator.serve() as server:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MODELVERSE_API_KEY", "k")
        monkeypatch.setenv("MODELVERSE_BASE_URL", server.base_url)
        exec(compile(block, "agents.md", "exec"), {"__name__": "__main__"})  # noqa: S102  # that is the point
    results = {one["tool_call_id"]: one["content"] for one in seen[-1]["messages"] if one["role"] == "tool"}
    assert results.keys() == {"call-0", "call-1"}
    assert results["call-0"] == "It snows in Oslo."
    assert files_in(tmp_path / "out")[0] in results["call-1"]
    assert emulator.bill.images == 1
