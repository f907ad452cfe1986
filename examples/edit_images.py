"""Draw, change what was drawn, and combine the two: OpenAI's own `images.edit`, with FLUX behind it."""

import os

from flux_openai import Emulator, OpenAI

client = OpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().client()

fox = client.images.generate(prompt="a red fox", seed=7, response_format="b64_json")
[path] = fox.save("out")

with path.open("rb") as file:
    snow = client.images.edit(image=file, prompt="make it snow", strength=0.6, seed=7)

both = client.images.edit(image=[path, snow.data[0]], prompt="the two side by side", aspect_ratio="21:9")

for response in (snow, both):
    print(response.sent["model"], *response.save("out"))
