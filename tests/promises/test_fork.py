"""The child of a fork has connections of its own: no process gets the image that another one has paid for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.promises.money.fakes import JSON, FakeServer, answer_bytes

if TYPE_CHECKING:
    from tests.promises.money.fakes import Connection

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

HEAD = """
import asyncio, os, sys
import openai
from flux_openai import AsyncFluxOpenAI, FluxOpenAI
from flux_openai._http.library import httpx

base_url, rounds = sys.argv[1], 6

class Wrapped(httpx.HTTPTransport):
    def __init__(self):
        super().__init__()
        self.inner = httpx.HTTPTransport()

    def handle_request(self, request):
        return self.inner.handle_request(request)

def wrong(name):
    return sum(generate(f"{name} {i}").data[0].url != f"https://x.example/{name}-{i}.png" for i in range(rounds))
"""
SYNC = """
client = FluxOpenAI(api_key="k", base_url=base_url, http_client={http_client})
generate = lambda prompt: client{copy}.images.generate(prompt=prompt)
"""
ASYNC = """
client = AsyncFluxOpenAI(api_key="k", base_url=base_url, http_client={http_client})
runner = asyncio.Runner()

async def call(prompt):
    return await client.images.generate(prompt=prompt)

generate = lambda prompt: runner.run(call(prompt))
"""
FORK = """
generate("first 0")
child = os.fork()
if child == 0:
    try:
        if "runner" in globals():
            runner = asyncio.Runner()
        os._exit(wrong("child"))
    finally:
        os._exit(99)
mistakes = wrong("parent")
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("mistakes of the parent", mistakes, "and of the child", status)
os._exit(0 if mistakes == status == 0 else 1)
"""
CLIENTS = {
    "own": SYNC.format(http_client="None", copy=""),
    "given, with a transport around another": SYNC.format(
        http_client="httpx.Client(transport=Wrapped())", copy=".with_options(timeout=9)"
    ),
    "async": ASYNC.format(http_client="None"),
}


def answer_by_prompt(connection: Connection) -> None:
    """Answer each request with a link that names its prompt, and keep the connection open."""
    while connection.has_request():
        connection.read()
        name = connection.server.requests[-1].json["prompt"].replace(" ", "-")
        body = {"created": 1, "data": [{"url": f"https://x.example/{name}.png"}]}
        connection.send(answer_bytes((200, JSON, body)))


@pytest.mark.parametrize("kind", CLIENTS)
def test_parent_and_child_get_their_own_images(kind: str) -> None:
    """Both call at the same time on a client that had a kept-alive connection: each answer is for its own prompt."""
    server = FakeServer(answer_by_prompt)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEAD + CLIENTS[kind] + FORK, server.base_url],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.stop().connections == 2  # the one of the parent, and the one of the child
