"""A client that exists already, with its own HTTP client and time-outs, made FLUX-aware where it is used."""

import os

import openai

from flux_openai import Emulator, adapt


def existing() -> openai.OpenAI:
    """The client as the rest of the code base makes it."""
    if "MODELVERSE_API_KEY" in os.environ:
        base_url = os.environ.get("MODELVERSE_BASE_URL", "https://api.umodelverse.ai/v1")
        return openai.OpenAI(api_key=os.environ["MODELVERSE_API_KEY"], base_url=base_url, timeout=600)
    emulator = Emulator()
    return openai.OpenAI(api_key="any", base_url=emulator.base_url, http_client=emulator.http_client())


client = adapt(existing())
response = client.images.generate(prompt="a lighthouse at dusk", size="1792x1024", seed=7)

for notice in response.notices:
    print(notice)
print(response.data[0].save("out"))
