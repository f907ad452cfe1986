# needs: pip install langchain 'flux-openai[langchain]'
"""A LangChain agent that draws: its first call is wrong, it is told what would do, and it puts that right."""

import os
from typing import Self

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from flux_openai import Emulator, FluxOpenAI
from flux_openai.tools import FluxTool
from flux_openai.tools.langchain import FluxImageTool


class ScriptedModel(GenericFakeChatModel):
    """Stands in for your chat model, so that this runs without one: it says what is written below."""

    def bind_tools(self, *_: object, **__: object) -> Self:
        """Take the tools, as every chat model of an agent does."""
        return self


def call(**arguments: object) -> AIMessage:
    """A tool call, as a chat model writes it."""
    return AIMessage("", tool_calls=[{"name": "flux_generate_image", "args": arguments, "id": "call"}])


client = FluxOpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().client()
tool = FluxImageTool(FluxTool(client, folder="out", max_images=4))
script = [
    call(prompt="a red fox in the snow", aspect_ratio="16x9", steps=99),
    call(prompt="a red fox in the snow", aspect_ratio="16:9", steps=28, seed=7),
    AIMessage("Here is your fox."),
]

agent = create_agent(ScriptedModel(messages=iter(script)), [tool])
state = agent.invoke({"messages": [{"role": "user", "content": "Draw a fox, wide."}]})

for message in state["messages"]:
    message.pretty_print()
