"""Cassettes: `play` runs a test three times, once to record and twice, sync and async, to replay what is committed.

A recording is made from the real stack, with the emulator behind a mock transport at the service's real address, and
must equal the committed cassette to the byte. A replay uses the SDK's own default transport, while the network is
blocked. `pytest -n 0 --record emulator` writes the recordings into `cassettes/`; `--record live` asks the service.
"""

import asyncio
import inspect
import ipaddress
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from openai.pagination import AsyncPage, SyncPage
from openai.types import Model
from vcr.cassette import Cassette

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.testing.cassettes import Provenance, player, replaying, spare_live
from flux_openai.testing.scrubbing import scrub_body, scrub_text

Handler = Callable[[httpx.Request], httpx.Response]
Play = Callable[..., AbstractContextManager["Flux"]]
OpenTape = Callable[[Path], AbstractContextManager[Cassette]]

CASSETTES = Path(__file__).parents[3] / "cassettes"
KEY = "sk-CANARY-opens-nothing"
NOW = 1_750_667_997
"""The time of the documented example; recordings know no other, so that each one comes out the same."""

COMMAND = "pytest -n 0 --record emulator"

_T = TypeVar("_T")


class Network:
    """The block on the network; `open` is for a live recording."""

    def __init__(self) -> None:
        self.open = False

    def guard(self, real: Callable[..., _T], sock: socket.socket, address: object, *rest: object) -> _T:
        if not self.open and isinstance(address, tuple) and not _is_loopback(address[0]):
            pytest.fail(f"a replay must not use the network, but something connects to {address[0]!r}")
        return real(sock, address, *rest)

    def resolve(self, real: Callable[..., object], host: object, *rest: object, **options: object) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if self.open or _is_loopback(name):
            return real(host, *rest, **options)
        return pytest.fail(f"a replay must not use the network, but something looks up {name!r}")


def _is_loopback(host: object) -> bool:
    try:
        return host is None or ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Network:
    """The network is blocked in every test here, below whatever library might want to use it."""
    network = Network()
    if pytestconfig.getoption("record") != "live":
        monkeypatch.setenv("no_proxy", "*")  # a proxy on this machine would be a way around the block
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)
        monkeypatch.setattr(socket.socket, name, _method(network.guard, real))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        monkeypatch.setattr(socket, name, partial(network.resolve, getattr(socket, name)))
    return network


def _method(guard: Callable[..., _T], real: Callable[..., _T]) -> Callable[..., _T]:
    def guarded(sock: socket.socket, *arguments: object) -> _T:
        return guard(real, sock, *arguments)

    return guarded


@dataclass(kw_only=True)
class Flux:
    """One client under test, sync or async, behind one face; `tape` is what it records or replays."""

    client: FluxOpenAI | AsyncFluxOpenAI
    tape: Cassette
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def settle(self, value: Awaitable[_T] | _T) -> _T:
        """The value, or what it comes to."""
        return self.runner.run(_awaited(value)) if inspect.isawaitable(value) else value

    def generate(self, **arguments: object) -> FluxImagesResponse:
        generate: Callable[..., Any] = self.client.images.generate
        return cast(FluxImagesResponse, self.settle(generate(**arguments)))

    def edit(self, **arguments: object) -> FluxImagesResponse:
        edit: Callable[..., Any] = self.client.images.edit
        return cast(FluxImagesResponse, self.settle(edit(**arguments)))

    def models(self) -> SyncPage[Model] | AsyncPage[Model]:
        pages: Any = self.client.models.list()
        return cast(SyncPage[Model] | AsyncPage[Model], self.settle(pages))

    def save(self, response: FluxImagesResponse, folder: Path) -> list[Path]:
        return self.settle(response.save(folder) if isinstance(self.client, FluxOpenAI) else response.asave(folder))

    def read(self, response: FluxImagesResponse) -> bytes:
        image = response.data[0]
        return self.settle(image.read() if isinstance(self.client, FluxOpenAI) else image.aread())

    def asked(self, index: int) -> dict[str, Any]:
        """The JSON of a request on the tape."""
        return cast(dict[str, Any], json.loads(self.tape.requests[index].body))

    def answer(self, index: int) -> dict[str, Any]:
        """The JSON of an answer on the tape."""
        return cast(dict[str, Any], json.loads(self.body(index)))

    def body(self, index: int) -> bytes:
        """The body of an answer on the tape."""
        return cast(bytes, self.tape.responses[index]["body"]["string"])

    def request_id(self, index: int) -> str | None:
        """The request id in the headers of an answer on the tape."""
        return cast(str | None, next(iter(self.tape.responses[index]["headers"].get("x-request-id", ())), None))

    @staticmethod
    def kept(value: bytes | str) -> bytes | str:
        """What the tape keeps of bytes or a link; in a replay, all of it."""
        return scrub_body(value) if isinstance(value, bytes) else scrub_text(value)

    def close(self) -> None:
        self.settle(self.client.close())
        self.runner.close()


async def _awaited(value: Awaitable[_T]) -> _T:
    return await value


@dataclass(frozen=True, kw_only=True)
class Player:
    """`play`: opens the named cassette for a test, to record it or to replay it."""

    mode: str
    source: str | None
    folder: Path
    network: Network
    live_key: str = field(repr=False)

    @contextmanager
    def __call__(
        self,
        name: str,
        *,
        live: bool = False,
        plan: Callable[[Emulator], object] = lambda _: None,
        documented: Handler | None = None,
        **options: object,
    ) -> Iterator[Flux]:
        """A client at the cassette of this name, made with these options of its own.

        `live` says that the service can be asked for the same, `plan` tells the emulator what to do, and `documented`
        is what answers in its place.
        """
        path = CASSETTES / f"{name}.yaml"
        usual: dict[str, Any] = {"api_key": KEY, "retry": RetryPolicy(waiting=False), **options}
        client: FluxOpenAI | AsyncFluxOpenAI
        if self.mode == "recording":
            provenance: Provenance = "documented example" if documented else "emulator"
            if live and self.source == "live":
                provenance, self.network.open = "live", True
                client = FluxOpenAI(**{**usual, "api_key": options.get("api_key", self.live_key)})
            else:
                client = _emulated(plan, documented, usual)
            opened = self._recording(path, provenance)
        else:
            client = (FluxOpenAI if self.mode == "sync" else AsyncFluxOpenAI)(**usual)
            opened = replaying(path, command=COMMAND, secrets=(KEY,))
        with opened as tape, closing(Flux(client=client, tape=tape)) as flux:
            yield flux

    @contextmanager
    def _recording(self, path: Path, provenance: Provenance) -> Iterator[Cassette]:
        committed = path.read_text(encoding="utf-8") if path.exists() else None
        if provenance != "live":
            spare_live(path)
        fresh = self.folder / path.name
        secrets = (KEY, self.live_key) if provenance == "live" else (KEY,)
        with player(provenance=provenance, secrets=secrets).use_cassette(fresh, record_mode="all") as tape:
            yield tape
        recorded = fresh.read_text(encoding="utf-8")
        if provenance == "live" or self.source == "emulator":
            path.parent.mkdir(exist_ok=True)
            path.write_text(recorded, encoding="utf-8", newline="\n")
        elif committed is None:
            pytest.fail(f"there is no {path.name} yet; to record it: {COMMAND}", pytrace=False)
        else:
            assert recorded == committed


def _emulated(plan: Callable[[Emulator], object], documented: Handler | None, options: dict[str, Any]) -> FluxOpenAI:
    if documented is not None:
        return FluxOpenAI(http_client=httpx.Client(transport=httpx.MockTransport(documented)), **options)
    emulator = Emulator(api_key=KEY, pixels=256, clock=lambda: float(NOW))
    plan(emulator)
    return emulator.client(**options)


@pytest.fixture(scope="session")
def live_key(pytestconfig: pytest.Config) -> str:
    """The developer's own key if it is needed, read before the environment of each test is cleared."""
    return os.environ["MODELVERSE_API_KEY"] if pytestconfig.getoption("record") == "live" else ""


@pytest.fixture(params=["recording", "sync", "async"])
def play(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, live_key: str, tmp_path: Path, network: Network
) -> Play:
    """The cassette player; it makes three tests of each one that uses it."""
    source, folder = pytestconfig.getoption("record"), tmp_path / "recorded"
    return Player(mode=request.param, source=source, live_key=live_key, folder=folder, network=network)


@pytest.fixture
def record() -> OpenTape:
    """Record into any file, as the cassettes are recorded."""
    return lambda path: player(secrets=(KEY,)).use_cassette(path, record_mode="all")


@pytest.fixture
def replay() -> OpenTape:
    """Replay any file, as the cassettes are replayed."""
    return partial(replaying, command=COMMAND, secrets=(KEY,))
