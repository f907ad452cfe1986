"""Two prompts, each with two seeds and two guidance scales, and a gallery of them; started again, it goes on."""

import os

from flux_openai import AsyncOpenAI, Emulator
from flux_openai.batch import run_batch_sync

ROWS = [{"prompt": "a red fox in the snow"}, {"prompt": "a lighthouse at dusk"}]

client = AsyncOpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().async_client()
report = run_batch_sync(
    ROWS, "out", client=client, set={"steps": 28}, sweep={"seed": [1, 2], "guidance_scale": [2.0, 4.0]}, max_images=8
)
print(f"{report.done} of {report.rows} rows, {report.cost}: open out/gallery/index.html")
