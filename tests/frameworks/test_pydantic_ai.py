"""pydantic-ai takes our async client where it takes OpenAI's, and leaves it as it was.

Its sync form, `Agent.run_sync`, is the same call in an event loop of its own; a sync client it does not take.
"""

from types import SimpleNamespace

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from flux_openai import AsyncFluxOpenAI

MODELS = [(OpenAIChatModel, "/chat/completions"), (OpenAIResponsesModel, "/responses")]


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "path"), MODELS)
async def test_pydantic_ai(aclient: AsyncFluxOpenAI, service: SimpleNamespace, kind: type, path: str) -> None:
    """An agent on either API answers through the client, and the client still draws."""
    agent = Agent(kind("some-chat-model", provider=OpenAIProvider(openai_client=aclient)))
    assert (await agent.run("Which animal?")).output == "a red fox"
    assert "Which animal?" in repr(service.asked_once(path))
    assert service.drew_one(await aclient.images.generate(prompt="a red fox", seed=7))
