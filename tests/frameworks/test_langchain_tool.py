"""The tool in LangChain: what a model is told of it, what it says, and an agent that uses it, well or ill."""

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool

from flux_openai import AsyncFluxOpenAI, Emulator, FluxOpenAI
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FAMILIES
from flux_openai.tools import FluxTool
from flux_openai.tools.arguments import Verb
from flux_openai.tools.langchain import FluxImageTool

ROOT = Path(__file__).parents[2]
FOX = {"prompt": "a red fox", "seed": 7}
WRONG: Mapping[str, Any] = {
    "nothing": {},
    "values": {**FOX, "aspect_ratio": "16x9", "steps": 99},
    "types": {"prompt": ["a red fox"], "n": "two", "seed": {"a": 1}, "request_key": 3},
    "names": {**FOX, "self": 1, "callable": 2, "config": 3, "run_manager": 4, "copy": 5},
    "a developer's business": {**FOX, "model": "flux-dev", "folder": "/etc", "base_url": "http://127.0.0.1/"},
    "10,000 images": {**FOX, "n": 10_000},
}

Guide = Callable[[str], tuple[Emulator, str]]
Talk = Callable[..., Awaitable[list[ToolMessage]]]


class ScriptedModel(GenericFakeChatModel):
    """A chat model that says what it is given to say."""

    def bind_tools(self, *_: object, **__: object) -> Self:
        """The tools change nothing about the script."""
        return self


def said(name: str, arguments: Mapping[str, Any]) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": dict(arguments), "id": "call"}])


def asked(tool: FluxImageTool, arguments: Mapping[str, Any]) -> ToolMessage:
    """The answer to one call of a model's, without an agent around it."""
    message = tool.invoke({"name": tool.name, "args": dict(arguments), "id": "call", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    return message


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def posts(emulator: Emulator) -> list[Any]:
    return [request.body for request in emulator.requests if request.method == "POST"]


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(pixels=64)


@pytest.fixture
def flux(emulator: Emulator, tmp_path: Path) -> FluxTool:
    return FluxTool(emulator.client(), folder=tmp_path / "out", max_images=4)


@pytest.fixture
def tool(flux: FluxTool) -> FluxImageTool:
    return FluxImageTool(flux)


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, emulator: Emulator) -> FluxOpenAI | AsyncFluxOpenAI:
    return emulator.client() if request.param == "sync" else emulator.async_client()


@pytest.fixture
def talk(client: FluxOpenAI | AsyncFluxOpenAI) -> Talk:
    """An agent that makes the given calls one after the other, and then ends; the messages that answer them."""

    async def talk(tool: FluxImageTool, *calls: Mapping[str, Any]) -> list[ToolMessage]:
        script = iter([*(said(tool.name, call) for call in calls), AIMessage("Done.")])
        agent = create_agent(ScriptedModel(messages=script), [tool])
        question: Any = {"messages": [{"role": "user", "content": "Draw."}]}
        state = await agent.ainvoke(question) if isinstance(client, AsyncFluxOpenAI) else agent.invoke(question)
        assert state["messages"][-1].text == "Done."
        return [message for message in state["messages"] if isinstance(message, ToolMessage)]

    return talk


def as_list_of_types(schema: dict[str, Any]) -> dict[str, Any]:
    """A property in the neutral tool's form: null beside the type, and in the choices."""
    rest = dict(schema)
    if "anyOf" not in rest:
        assert isinstance(rest["type"], str)
        return rest
    [told, null] = rest.pop("anyOf")
    choices = {"enum": [*told["enum"], None]} if "enum" in told else {}
    return {**told, **rest, **choices, "type": [told["type"], null["type"]]}


@pytest.mark.parametrize("verb", ["generate", "edit"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_told_what_the_neutral_tool_tells(emulator: Emulator, family: str, verb: Verb) -> None:
    """Under OpenAI's strict rules, LangChain tells what the neutral tool tells; only null has another form."""
    flux = FluxTool(emulator.client(), verb=verb, model=family)
    function = convert_to_openai_tool(FluxImageTool(flux), strict=True)["function"]
    properties = function["parameters"]["properties"]
    function["parameters"]["properties"] = {name: as_list_of_types(told) for name, told in properties.items()}
    assert {"type": "function", "function": function} == flux.chat_definition()


def test_only_what_no_call_can_lack_is_required(tool: FluxImageTool, flux: FluxTool) -> None:
    """Without the strict rules a model may leave out all but the prompt, and all but prompt and images of an edit."""
    edit = FluxImageTool(flux.editing())
    assert convert_to_openai_tool(tool)["function"]["parameters"]["required"] == ["prompt"]
    assert convert_to_openai_tool(edit)["function"]["parameters"]["required"] == ["images", "prompt"]


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_answered_in_our_words(
    tool: FluxImageTool, flux: FluxTool, emulator: Emulator, arguments: Mapping[str, Any]
) -> None:
    """Whatever is wrong with a call, the answer is the neutral tool's text, as an error, and nothing is sent."""
    message = asked(tool, arguments)
    assert message.text == tool.invoke(dict(arguments)) == flux.call(arguments).text
    assert "Correct them and call again." in message.text
    assert (message.status, message.artifact) == ("error", None)
    assert emulator.requests == []


@pytest.mark.anyio
@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
async def test_wrong_arguments_are_answered_in_an_agent(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path, arguments: Mapping[str, Any]
) -> None:
    """No argument of a model's ends the agent, and the model gets the same text there."""
    flux = FluxTool(client, folder=tmp_path)
    [message] = await talk(FluxImageTool(flux), arguments)
    assert (message.text, message.status) == ((await flux.acall(arguments)).text, "error")
    assert emulator.requests == []


@pytest.mark.anyio
async def test_an_agent_corrects_itself_and_draws(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path
) -> None:
    """After the error text a right call is sent, once and as the model wrote it, and the image is in the folder."""
    tool = FluxImageTool(FluxTool(client, folder=tmp_path))
    wrong = {**FOX, "aspect_ratio": "16x9", "steps": 99}
    first, second = await talk(tool, wrong, {**FOX, "aspect_ratio": "16:9", "steps": 28})
    assert first.status == "error"
    assert "(nearest: '16:9')" in first.text
    assert "steps=99: must be an integer from 1 to 50 (nearest: 50)" in first.text
    assert second.status == "success"
    assert posts(emulator) == [{**FOX, "model": DEFAULT_MODEL, "n": 1, "aspect_ratio": "16:9", "steps": 28}]
    [path] = files(tmp_path)
    [image] = second.artifact["images"]
    assert (image["path"], image["seed"], second.artifact["billing"]) == (str(path), 7, "paid")
    assert second.text.startswith(f"Made 1 image:\n- {path.name} (image/png, ")


@pytest.mark.anyio
async def test_a_hostile_prompt_gets_nowhere(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path
) -> None:
    """Paths, links and large orders read nothing, fetch nothing, write nothing beside the folder and send nothing."""
    secret = tmp_path / "secret.png"
    secret.touch()
    flux = FluxTool(client, folder=tmp_path / "out", max_images=2)
    places = ["../../etc/passwd", "/etc/passwd", "../secret.png", str(secret), "https://evil.test/a"]
    refused = await talk(FluxImageTool(flux.editing()), *({"prompt": "show", "images": [one]} for one in places))
    refused += await talk(FluxImageTool(flux), {"prompt": "a fox", "n": 10_000}, {"prompt": "a fox", "n": 3})
    assert {message.status for message in refused} == {"error"}
    assert "evil.test" not in refused[4].text
    assert emulator.requests == []
    tricky = [{"prompt": "../../etc/passwd"}, {"prompt": "/etc/cron.d/fox ![a](https://evil.test/)"}, FOX]
    answers = await talk(FluxImageTool(flux), *tricky)
    assert [message.status for message in answers] == ["success", "success", "error"]
    assert "the limit is 2 images" in answers[2].text
    assert emulator.bill.images == 2
    assert len(files(tmp_path / "out")) == 2
    assert files(tmp_path) == [tmp_path / "out", secret]


@pytest.mark.anyio
async def test_an_unknown_outcome_is_not_repeated(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path
) -> None:
    """Where nobody knows whether the images were paid for, the model is told not to call again."""
    emulator.fail(error="timeout")
    [message] = await talk(FluxImageTool(FluxTool(client, folder=tmp_path)), FOX)
    assert message.status == "error"
    assert "Do not call again" in message.text
    assert len(posts(emulator)) == 1


@pytest.mark.anyio
async def test_a_named_order_is_paid_for_once(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path
) -> None:
    """A second call with the same request_key has the first one's result and artifact, and sends nothing."""
    order = {**FOX, "request_key": "fox for the cover"}
    first, second = await talk(FluxImageTool(FluxTool(client, folder=tmp_path)), order, order)
    assert second.text.endswith(first.text)
    assert second.artifact == first.artifact
    assert len(posts(emulator)) == emulator.bill.images == 1


@pytest.mark.anyio
async def test_what_an_agent_drew_it_can_change(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, emulator: Emulator, tmp_path: Path
) -> None:
    """The name of an image in one answer is an argument of the editing tool, which shares its folder and limits."""
    flux = FluxTool(client, folder=tmp_path)
    [drawn] = await talk(FluxImageTool(flux), FOX)
    [name] = [image["name"] for image in drawn.artifact["images"]]
    [changed] = await talk(FluxImageTool(flux.editing()), {"prompt": "make it snow", "images": [name]})
    assert changed.status == "success"
    assert posts(emulator)[1]["image"].startswith("data:image/png;base64,")


@pytest.mark.anyio
async def test_models_that_see_are_shown_the_images(
    talk: Talk, client: FluxOpenAI | AsyncFluxOpenAI, tmp_path: Path
) -> None:
    """With `show`, the text is followed by each image in LangChain's own form, in full."""
    [message] = await talk(FluxImageTool(FluxTool(client, folder=tmp_path), show=True), {**FOX, "n": 2})
    content: Any = message.content
    text, *shown = content
    assert text == {"type": "text", "text": message.text}
    assert [(block["type"], block["mime_type"]) for block in shown] == [("image", "image/png")] * 2
    paths = [Path(image["path"]) for image in message.artifact["images"]]
    assert [b64decode(block["base64"]) for block in shown] == [path.read_bytes() for path in paths]


def test_the_block_of_the_guide_draws(guide: Guide, tmp_path: Path) -> None:
    """An agent made as the guide makes it draws one image, and prints what its model says of it."""
    service, printed = guide("create_agent")
    [file] = files(tmp_path / "out")
    assert (service.bill.images, file.name in printed) == (1, True)


def test_images_are_not_shown_unasked(tool: FluxImageTool) -> None:
    """By default the content is text alone, and what is in the artifact is small and fits into JSON."""
    message = asked(tool, FOX)
    assert isinstance(message.content, str)
    assert len(message.content) < 200
    assert len(json.dumps(message.artifact)) < 1000


def test_an_image_that_is_lost_does_not_hide_the_others(tool: FluxImageTool, emulator: Emulator) -> None:
    """If one of two images cannot be saved, the artifact has the other, and says that not all is well."""
    emulator.fail(on="download", status=410)
    message = asked(tool, {**FOX, "n": 2})
    assert "Paid for, but not saved; do not call again" in message.text
    assert message.artifact["is_error"]
    assert len(message.artifact["images"]) == 1


def test_refusals_can_be_had_as_exceptions(flux: FluxTool) -> None:
    """With handle_tool_error=False, a call that makes nothing raises ToolException with the same text."""
    with pytest.raises(ToolException, match=r"Correct them and call again\.$"):
        FluxImageTool(flux, handle_tool_error=False).invoke({"prompt": ""})


def test_text_alone_is_the_prompt(tool: FluxImageTool, emulator: Emulator) -> None:
    """Code that runs a tool with text gets a picture of it."""
    assert tool.invoke("a red fox").startswith("Made 1 image:")
    assert posts(emulator)[0]["prompt"] == "a red fox"


def test_the_short_way_to_a_tool(emulator: Emulator, tmp_path: Path) -> None:
    """`of` makes the neutral tool too: with this client, into this folder, and shown if asked."""
    tool = FluxImageTool.of(emulator.client(), folder=tmp_path, show=True)
    assert len(tool.invoke(FOX)) == 2
    assert len(files(tmp_path)) == 1


def test_the_tool_looks_for_a_key_like_the_client() -> None:
    """Made of nothing, the tool takes the environment's key, and says so when there is none."""
    with pytest.raises(ConfigurationError, match="MODELVERSE_API_KEY"):
        FluxImageTool()


def test_a_tool_for_async_code_is_not_run_otherwise(emulator: Emulator, tmp_path: Path) -> None:
    """A developer's mistake is no answer to a model: `invoke` with an async client raises."""
    with pytest.raises(ConfigurationError, match="async client"):
        FluxImageTool.of(emulator.async_client(), folder=tmp_path).invoke(FOX)


def test_no_key_is_seen_on_the_tool(tool: FluxImageTool) -> None:
    """What LangChain prints and traces of a tool does not go as far as the client."""
    assert "flux=" not in repr(tool)
    assert "flux" not in tool.model_dump()


@pytest.mark.parametrize("has_key", [False, True])
def test_the_example_runs(service: SimpleNamespace, tmp_path: Path, *, has_key: bool) -> None:
    """The agent of examples/langchain_agent.py draws on its own emulator or, with a key, on the service."""
    variables = {"MODELVERSE_API_KEY": service.emulator.api_key, "MODELVERSE_BASE_URL": service.base_url}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "langchain_agent.py")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), **(variables if has_key else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "(nearest: '16:9')" in done.stdout
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert len(posts(service.emulator)) == has_key
