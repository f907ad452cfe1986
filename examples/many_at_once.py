"""Several prompts side by side with the async client; one that fails does not lose the others."""

import asyncio
import os

import openai

from flux_openai import AsyncOpenAI, Emulator

PROMPTS = ["a red fox in the snow", "a lighthouse at dusk", "a bowl of cherries"]


async def draw(client: AsyncOpenAI, prompt: str, *, seed: int) -> None:
    """Make one image and save it."""
    try:
        response = await client.images.generate(prompt=prompt, seed=seed, aspect_ratio="3:2")
        print(*await response.asave("out"))
    except openai.OpenAIError as error:
        print(f"{prompt}: {error}")


async def main() -> None:
    """Draw them all."""
    client = AsyncOpenAI() if "MODELVERSE_API_KEY" in os.environ else Emulator().async_client()
    async with client, asyncio.TaskGroup() as group:
        for seed, prompt in enumerate(PROMPTS):
            group.create_task(draw(client, prompt, seed=seed))


asyncio.run(main())
