from collections.abc import Callable, Iterator, Mapping

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.models import DEFAULT_MODEL

Post = Callable[..., httpx.Response]


@pytest.fixture
def anyio_backend() -> str:
    """The async tests run on asyncio: it is what the SDK runs on."""
    return "asyncio"


@pytest.fixture
def now() -> list[float]:
    """The time on the clock of `emulator`, which stands still until its one value is set."""
    return [1_750_667_997.5]


@pytest.fixture
def emulator(now: list[float]) -> Emulator:
    """An emulator with tiny pictures."""
    return Emulator(pixels=256, clock=lambda: now[0])


@pytest.fixture
def http(emulator: Emulator) -> Iterator[httpx.Client]:
    """A client with a key, at the service's own address."""
    with emulator.http_client(base_url=emulator.base_url, headers={"authorization": "Bearer test"}) as client:
        yield client


@pytest.fixture
def post(http: httpx.Client) -> Post:
    """Order a fox: keyword arguments are fields of the body, and None leaves a field out."""

    def order(*, headers: Mapping[str, str] | None = None, **fields: object) -> httpx.Response:
        body = {"model": DEFAULT_MODEL, "prompt": "a fox"} | fields
        chosen = {name: value for name, value in body.items() if value is not None}
        return http.post("/images/generations", json=chosen, headers=headers)

    return order
