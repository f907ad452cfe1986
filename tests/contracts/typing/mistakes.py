"""Mistakes that a type checker must find; each is one that a misread page or a slip of the finger makes.

It is read by type checkers and never run.
"""

from flux_openai import AsyncOpenAI, OpenAI


def mistakes(client: OpenAI) -> None:
    client.images.generate(prompt="x", quality="hgih")  # mistake: 1
    client.images.generate(prompt="x", qualty="high")  # mistake: 2
    client.images.generate(aspect_ratio="16:9")  # mistake: 3
    client.images.generate(prompt="x", stepz=28)  # mistake: 4
    client.images.generate(prompt="x", aspectratio="16:9")  # mistake: 5
    client.images.generate(prompt="x", image=3)  # mistake: 6
    client.with_options(timeuot=5)  # mistake: 7
    client.with_options(timeout="5")  # mistake: 8
    OpenAI(organisation="org-1")  # mistake: 9
    client.copy(max_retries="x")  # mistake: 10
    client.images.edit(prompt="x")  # mistake: 11


async def async_mistakes(client: AsyncOpenAI) -> None:
    await client.images.generate(prompt="x", quality="hgih")  # mistake: 1
    await client.images.generate(prompt="x", qualty="high")  # mistake: 2
    await client.images.generate(aspect_ratio="16:9")  # mistake: 3
    await client.images.generate(prompt="x", stepz=28)  # mistake: 4
    await client.images.generate(prompt="x", aspectratio="16:9")  # mistake: 5
    await client.images.generate(prompt="x", image=3)  # mistake: 6
    client.with_options(timeuot=5)  # mistake: 7
    client.with_options(timeout="5")  # mistake: 8
    AsyncOpenAI(organisation="org-1")  # mistake: 9
    client.copy(max_retries="x")  # mistake: 10
    await client.images.edit(prompt="x")  # mistake: 11
