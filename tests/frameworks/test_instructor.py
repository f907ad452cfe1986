"""instructor takes our clients where it takes OpenAI's, and leaves them as they were."""

from types import SimpleNamespace

import instructor
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from flux_openai import AsyncFluxOpenAI, FluxOpenAI

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Which animal?"}]


class Animal(BaseModel):
    animal: str
    colour: str


def assert_a_fox(answer: Animal) -> None:
    """The answer has the type that was asked for; instructor's own subclass of it is what comes."""
    assert isinstance(answer, Animal)
    assert answer.model_dump() == {"animal": "fox", "colour": "red"}


def test_instructor(client: FluxOpenAI, service: SimpleNamespace) -> None:
    """One call gives the typed answer, and the client still draws."""
    patched = instructor.from_openai(client)
    answer = patched.chat.completions.create(model="some-chat-model", response_model=Animal, messages=ASKED)
    assert_a_fox(answer)
    assert service.asked_once("/chat/completions")["messages"] == ASKED
    assert service.drew_one(client.images.generate(prompt="a red fox", seed=7))


@pytest.mark.anyio
async def test_instructor_async(aclient: AsyncFluxOpenAI, service: SimpleNamespace) -> None:
    """The async client does the same."""
    patched = instructor.from_openai(aclient)
    answer = await patched.chat.completions.create(model="some-chat-model", response_model=Animal, messages=ASKED)
    assert_a_fox(answer)
    assert service.asked_once("/chat/completions")["messages"] == ASKED
    assert service.drew_one(await aclient.images.generate(prompt="a red fox", seed=7))
