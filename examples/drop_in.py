"""Existing OpenAI code with one import changed: the documented example, which now also validates, retries and saves."""

import os

from flux_openai import Emulator, OpenAI

client = OpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().client()

response = client.images.generate(
    model="black-forest-labs/flux-kontext-max/text-to-image",
    prompt="Convert to quick pencil sketch",
    extra_body={"aspect_ratio": "16:9"},
)
print(response.data[0].save("out"))
