"""Chat at OpenAI beside images here: two clients in one file, and each key goes to its own service."""

import os

import openai

from flux_openai import Emulator, FluxOpenAI


def better_prompt(idea: str) -> str:
    """The idea as a chat model at OpenAI would have it drawn; without a key for OpenAI, the idea as it is."""
    if "OPENAI_API_KEY" not in os.environ:
        return idea
    chat = openai.OpenAI()  # OPENAI_API_KEY and OPENAI_BASE_URL
    answer = chat.chat.completions.create(
        model=os.environ.get("CHAT_MODEL", "gpt-5.4-mini"),
        messages=[{"role": "user", "content": f"Write one sentence that describes this picture to a painter: {idea}"}],
    )
    return answer.choices[0].message.content or idea


# MODELVERSE_API_KEY and MODELVERSE_BASE_URL; nothing that begins with OPENAI_ is read.
images = FluxOpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().client()

prompt = better_prompt("a red fox in the snow")
print(prompt)
print(images.images.generate(prompt=prompt, aspect_ratio="3:2").data[0].save("out"))
