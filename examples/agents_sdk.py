# needs: pip install 'flux-openai[agents]'
"""An agent that draws and then edits; without a key the emulator draws, and a script plays the agent's model."""

import os

from agents import Agent, Model, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from flux_openai import AsyncOpenAI, Emulator
from flux_openai.tools import FluxTool
from flux_openai.tools.agents import function_tool

keyed = "MODELVERSE_API_KEY" in os.environ
client = AsyncOpenAI() if keyed else Emulator().async_client()
draw = FluxTool(client, folder="out", max_images=4)
edit = draw.editing()

model: Model
if keyed:
    model = OpenAIChatCompletionsModel(model=os.environ["CHAT_MODEL"], openai_client=client)
else:
    fox = {"prompt": "a red fox", "seed": 7}
    snow = {"prompt": "make it snow", "images": ["a-red-fox_seed7_0.png"]}
    model = ScriptedModel(
        [
            [function_call(draw.name, fox, call_id="1")],
            [function_call(edit.name, snow, call_id="2")],
            [assistant_message("Here is your fox in the snow.")],
        ]
    )

set_tracing_disabled(disabled=True)  # traces would go to OpenAI
painter = Agent(name="painter", model=model, tools=[function_tool(draw), function_tool(edit)])
print(Runner.run_sync(painter, "Draw a red fox, then make it snow.").final_output)
print(*draw.session.images, sep="\n")
