"""openai-agents takes our async client where it takes OpenAI's, and leaves it as it was.

Its sync form, `Runner.run_sync`, is the same call in an event loop of its own.
"""

from types import SimpleNamespace
from typing import Literal

import agents
import pytest

from flux_openai import AsyncFluxOpenAI

MODELS = [
    (agents.OpenAIChatCompletionsModel, "/chat/completions"),
    (agents.OpenAIResponsesModel, "/responses"),
]


@pytest.fixture(autouse=True)
def quiet_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traces leave the machine, and what a test sets as the default is gone after it."""
    agents.set_tracing_disabled(disabled=True)
    monkeypatch.setattr("agents.models._openai_shared._default_openai_client", None)
    monkeypatch.setattr("agents.models._openai_shared._use_responses_by_default", True)  # their flag


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "path"), MODELS)
async def test_agents(aclient: AsyncFluxOpenAI, service: SimpleNamespace, kind: type, path: str) -> None:
    """An agent whose model was given the client answers through either API, and the client still draws."""
    agent = agents.Agent(name="guide", model=kind(model="some-chat-model", openai_client=aclient))
    assert (await agents.Runner.run(agent, "Which animal?")).final_output == "a red fox"
    assert "Which animal?" in repr(service.asked_once(path))
    assert service.drew_one(await aclient.images.generate(prompt="a red fox", seed=7))


@pytest.mark.anyio
@pytest.mark.parametrize(("api", "path"), [("chat_completions", "/chat/completions"), ("responses", "/responses")])
async def test_agents_default_client(
    aclient: AsyncFluxOpenAI, service: SimpleNamespace, api: Literal["chat_completions", "responses"], path: str
) -> None:
    """An agent that names only its model goes through the default client, and the client still draws."""
    agents.set_default_openai_client(aclient, use_for_tracing=False)
    agents.set_default_openai_api(api)
    answer = await agents.Runner.run(agents.Agent(name="guide", model="some-chat-model"), "Which animal?")
    assert answer.final_output == "a red fox"
    assert "Which animal?" in repr(service.asked_once(path))
    assert service.drew_one(await aclient.images.generate(prompt="a red fox", seed=7))
