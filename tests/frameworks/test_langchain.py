"""langchain-openai takes our clients where it takes OpenAI's, and leaves them as they were."""

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from flux_openai import AsyncFluxOpenAI, FluxOpenAI

ROUTES = [(False, "/chat/completions"), (True, "/responses")]


@pytest.fixture
def clients(client: FluxOpenAI, aclient: AsyncFluxOpenAI) -> dict[str, Any]:
    """Both clients in the four places where the model keeps them; what is left out it would make from OPENAI_*."""
    return {
        "model": "some-chat-model",
        "root_client": client,
        "client": client.chat.completions,
        "root_async_client": aclient,
        "async_client": aclient.chat.completions,
    }


@pytest.mark.anyio
@pytest.mark.parametrize(("responses", "path"), ROUTES)
async def test_langchain(
    client: FluxOpenAI, clients: dict[str, Any], service: SimpleNamespace, *, responses: bool, path: str
) -> None:
    """One call through either API gives the answer's text, and the client still draws."""
    assert ChatOpenAI(**clients, use_responses_api=responses).invoke("Which animal?").text == "a red fox"
    assert "Which animal?" in repr(service.asked_once(path))
    assert service.drew_one(client.images.generate(prompt="a red fox", seed=7))


@pytest.mark.anyio
@pytest.mark.parametrize(("responses", "path"), ROUTES)
async def test_langchain_async(
    aclient: AsyncFluxOpenAI, clients: dict[str, Any], service: SimpleNamespace, *, responses: bool, path: str
) -> None:
    """The async client does the same."""
    answer = await ChatOpenAI(**clients, use_responses_api=responses).ainvoke("Which animal?")
    assert answer.text == "a red fox"
    assert "Which animal?" in repr(service.asked_once(path))
    assert service.drew_one(await aclient.images.generate(prompt="a red fox", seed=7))
