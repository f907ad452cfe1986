# needs: pip install 'flux-openai[pydantic-ai]' 'pydantic-ai-slim[openai]'
"""An agent that draws and then edits; without a key the emulator draws, and a script plays the agent's model."""

import os
from collections.abc import Iterator

from pydantic_ai import Agent, ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from flux_openai import AsyncOpenAI, Emulator
from flux_openai.tools import FluxTool
from flux_openai.tools.pydantic_ai import pydantic_ai_tool

keyed = "MODELVERSE_API_KEY" in os.environ
client = AsyncOpenAI() if keyed else Emulator().async_client()
draw = FluxTool(client, folder="out", max_images=4)
edit = draw.editing()

script: Iterator[ToolCallPart | TextPart] = iter(
    [
        ToolCallPart(draw.name, {"prompt": "a red fox", "seed": 7}),
        ToolCallPart(edit.name, {"prompt": "make it snow", "images": ["a-red-fox_seed7_0.png"]}),
        TextPart("Here is your fox in the snow."),
    ]
)


def play(_messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
    """Answer with the next line of the script."""
    return ModelResponse([next(script)])


model: Model
if keyed:
    model = OpenAIChatModel(os.environ["CHAT_MODEL"], provider=OpenAIProvider(openai_client=client))
else:
    model = FunctionModel(play)

painter = Agent(model, tools=[pydantic_ai_tool(draw), pydantic_ai_tool(edit)])
print(painter.run_sync("Draw a red fox, then make it snow.").output)
print(*draw.session.images, sep="\n")
