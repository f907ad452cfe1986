"""One prompt and one seed, drawn by three models that need no image to start from."""

import os

from flux_openai import Emulator, OpenAI

client = OpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().client()

for model in ("kontext-max", "kontext-pro", "flux-dev"):
    # A size is a size for flux-dev and becomes an aspect ratio for the others.
    response = client.images.generate(model=model, prompt="a red fox", size="1536x1024", seed=7)
    print(response.sent, response.data[0].save(f"out/{model}.png"))
