"""The connections of a run: several HTTP clients, and only where nobody has set one up."""

import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator
from flux_openai._http.library import httpx
from flux_openai.batch import run_batch
from flux_openai.client.connections import Connections
from tests.promises.money.fakes import CERTIFICATES, FakeServer

pytestmark = pytest.mark.anyio

ROWS = [{"prompt": f"fox {number}"} for number in range(120)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[httpx.AsyncClient]:
    """The HTTP clients that are made beside the one of the client."""
    clients = list[httpx.AsyncClient]()
    real = openai.DefaultAsyncHttpxClient

    def make(*, verify: ssl.SSLContext) -> httpx.AsyncClient:
        clients.append(real(verify=verify))
        return clients[-1]

    monkeypatch.setattr(openai, "DefaultAsyncHttpxClient", make)
    return clients


@pytest.fixture
def emulator() -> Emulator:
    """An emulator whose answers take long enough for many requests to be under way."""
    return Emulator(pixels=256, latency="200ms")


@pytest.fixture
def base_url(emulator: Emulator) -> Iterator[str]:
    with emulator.serve() as server:
        yield server.base_url


def posts_in(emulator: Emulator) -> Counter[str]:
    return Counter(seen.headers["idempotency-key"] for seen in emulator.requests if seen.method == "POST")


async def test_many_requests_have_several_http_clients_which_are_closed(
    emulator: Emulator, base_url: str, made: list[httpx.AsyncClient], tmp_path: Path
) -> None:
    """Beyond eight rows under way there is another HTTP client; each row is sent once, and none of them stays open."""
    async with AsyncFluxOpenAI(base_url=base_url, api_key="any") as client:
        report = await run_batch(ROWS, tmp_path, client=client, max_inflight=40)
        assert not client.is_closed()
    assert (report.done, report.requests, emulator.bill.images) == (120, 120, 120)
    assert len(posts_in(emulator)) == 120
    assert 1 <= len(made) <= 12
    assert all(http.is_closed for http in made)


async def test_an_http_client_that_was_set_up_is_the_only_one(
    base_url: str, made: list[httpx.AsyncClient], tmp_path: Path
) -> None:
    """What somebody has given as http_client= sends every request and download, also of a copy of the client."""
    sent = Counter[str]()

    async def count(request: httpx.Request) -> None:
        sent[request.method] += 1

    async with httpx.AsyncClient(event_hooks={"request": [count]}) as http:
        client = AsyncFluxOpenAI(base_url=base_url, api_key="any", http_client=http)
        report = await run_batch(ROWS, tmp_path, client=client.with_options(max_retries=3), max_inflight=40)
    assert (report.done, report.requests, made) == (120, 120, [])
    assert sent == {"POST": 120, "GET": 120}


async def test_an_http_client_that_cannot_be_made_ends_the_run_before_its_row_is_sent(
    emulator: Emulator, base_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error is raised when what is under way has ended; no row is held for it, and the next run goes on."""

    def fail(**_: object) -> httpx.AsyncClient:
        raise FileNotFoundError("the certificates are gone")

    async with AsyncFluxOpenAI(base_url=base_url, api_key="any") as client:
        with monkeypatch.context() as patch:
            patch.setattr(openai, "DefaultAsyncHttpxClient", fail)
            with pytest.raises(FileNotFoundError, match="certificates"):
                await run_batch(ROWS, tmp_path, client=client, max_inflight=40)
        sent = sum(posts_in(emulator).values())
        assert emulator.bill.images == sent < 120
        report = await run_batch(ROWS, tmp_path, client=client, max_inflight=40)
    assert (report.done, report.held, report.requests) == (120, 0, 120 - sent)
    assert emulator.bill.images == len(posts_in(emulator)) == 120


async def test_other_http_clients_trust_what_the_first_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificates that the environment names count for each; the time-out, headers and key are the client's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    server = FakeServer((200, {}, {"data": [{"url": "https://cdn.example/a.png"}]}), certificate="good.pem")
    options: dict[str, Any] = {"timeout": 7, "default_headers": {"x-team": "foxes"}, "api_key": "sk-canary"}
    try:
        async with AsyncFluxOpenAI(base_url=server.base_url, **options) as client:
            connections = Connections(client)
            with ExitStack() as stack:
                clients = [stack.enter_context(connections.client()) for _ in range(9)]
                await clients[8].images.generate(prompt="a fox")
            await connections.aclose()
    finally:
        server.stop()
    assert [clients.count(one) for one in dict.fromkeys(clients)] == [8, 1]
    assert clients[8].timeout == 7
    [post] = server.posts
    assert (post.headers["x-team"], post.headers["authorization"]) == ("foxes", "Bearer sk-canary")
