"""Cassettes: `play` runs a test three times, once to record and twice, sync and async, to replay what is committed.

A recording is made from the real stack, with the emulator behind a mock transport at the service's real address, and
must equal the committed cassette to the byte. A replay uses the SDK's own default transport, while the network is
blocked. `pytest -n 0 --record emulator` writes the recordings into `cassettes/`; `--record live` asks the service.
"""

import asyncio
import base64
import binascii
import inspect
import ipaddress
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

import pytest
import vcr
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs
from openai.pagination import AsyncPage, SyncPage
from openai.types import Model
from vcr.cassette import Cassette
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI, RetryPolicy
from flux_openai.files import sniff
from flux_openai.sdk import httpx

Provenance = Literal["emulator", "documented example", "live"]
Handler = Callable[[httpx.Request], httpx.Response]
Play = Callable[..., AbstractContextManager["Flux"]]
OpenTape = Callable[[Path], AbstractContextManager[Cassette]]

CASSETTES = Path(__file__).parents[2] / "cassettes"
KEY = "sk-CANARY-opens-nothing"
NOW = 1_750_667_997
"""The time of the documented example; recordings know no other, so that each one comes out the same."""

IMAGE_LIMIT = 1024

_T = TypeVar("_T")

_LINK = re.compile(r"""https?://[^\s"'<>\\]+""")
_DATA = re.compile(r"(\s*data:[^,]{0,200},)?([A-Za-z0-9+/_=\s-]+)")


def kept_text(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Text without the secrets, and without what signs the links in it; base64 of a picture is cut short."""
    for secret in secrets:
        text = text.replace(secret, "redacted")
    if len(text) > IMAGE_LIMIT and (data := _DATA.fullmatch(text)):
        return _cut_short(data[1] or "", data[2]) or text
    return _LINK.sub(lambda link: bare_link(link[0]), text)


def _cut_short(prefix: str, packed: str) -> str | None:
    try:
        data = base64.b64decode(packed.replace("-", "+").replace("_", "/") + "==")
    except binascii.Error:
        return None
    return f"{prefix}{base64.b64encode(kept_bytes(data)).decode()}" if sniff(data) else None


def bare_link(link: str) -> str:
    """The link with every value in its query, and whatever stands before the host, made unusable."""
    parts = urlsplit(link)
    # What has no name is all value.
    items = (re.sub(r"(=).*|^[^=]+$", r"\1redacted", item) for item in parts.query.split("&") if item)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "&".join(items), ""))


def kept_bytes(body: bytes, secrets: tuple[str, ...] = ()) -> bytes:
    """A body without secrets. Where there are none, not a byte changes; of binary data the first KiB stays."""
    for secret in secrets:
        body = body.replace(secret.encode(), b"redacted")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body[:IMAGE_LIMIT]  # the start says what type it is, which is all that a replay looks at
    try:
        value = json.loads(text)
    except ValueError:
        return kept_text(text, secrets).encode()
    # JSON is read before it is searched: `\/` and `\u0026` hide a link from whoever reads it as text.
    kept = kept_value(value, secrets)
    return body if kept == value else json.dumps(kept).encode()


def kept_value(value: object, secrets: tuple[str, ...] = ()) -> object:
    """A JSON value with `kept_text` applied to every string in it, also to names."""
    match value:
        case str():
            return kept_text(value, secrets)
        case list():
            return [kept_value(item, secrets) for item in value]
        case dict():
            return {kept_text(name, secrets): kept_value(item, secrets) for name, item in value.items()}
        case _:
            return value


# Headers are named one by one, so that what nobody thought of stays out.
REQUEST_HEADERS = ("accept", "content-type")
RESPONSE_HEADERS: Mapping[str, Callable[[str], str]] = {
    "content-type": str,
    "date": lambda _: "Mon, 23 Jun 2025 08:39:57 GMT",
    "location": bare_link,
    "retry-after": str,
    "x-request-id": str,
}


def kept_request(request: Request, *, secrets: tuple[str, ...]) -> Request:
    """The request as it is written, and as it is compared: a replay asks for the link that the recording shows."""
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    body = _in_order(kept_bytes(request.body or b"", secrets))
    return Request(request.method, bare_link(request.uri), body or None, headers)


def _in_order(body: bytes) -> bytes:
    """JSON with its names sorted: order and spaces are the SDK's affair.

    This text is what is compared, and not its values: to Python, but not to the service, 1, 1.0 and True are all one.
    """
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except ValueError:
        return body


def kept_response(response: Mapping[str, Any], *, secrets: tuple[str, ...]) -> dict[str, object]:
    """The answer as it is written, and as it is played back."""
    headers = {name.lower(): values for name, values in response["headers"].items()}
    return {
        "status": response["status"],
        "headers": {
            name: [kept_text(keep(value), secrets) for value in headers[name]]
            for name, keep in RESPONSE_HEADERS.items()
            if name in headers
        },
        "body": {"string": kept_bytes(response["body"]["string"], secrets)},
    }


@dataclass(frozen=True, kw_only=True)
class Label:
    """A serializer for vcrpy that writes where a cassette comes from on top of it, and keeps the lines in order."""

    provenance: Provenance

    def serialize(self, tape: Mapping[str, Any]) -> str:
        bodies = (interaction["request"]["body"] for interaction in tape["interactions"])
        models = (json.loads(body)["model"] for body in bodies if body)
        told = {"provenance": self.provenance, "model": next(models, None), **tape}
        # The dumper in pure Python: the one in C, where there is one, breaks lines at other places.
        return cast(str, yaml.dump(told, Dumper=yaml.SafeDumper, sort_keys=False, width=120))

    @staticmethod
    def deserialize(text: str) -> object:
        return yaml.safe_load(text)


def player(*, provenance: Provenance = "emulator", secrets: tuple[str, ...] = (KEY,)) -> vcr.VCR:
    """Vcrpy as all cassettes here are recorded and replayed."""
    machine = vcr.VCR(
        before_record_request=partial(kept_request, secrets=secrets),
        before_record_response=partial(kept_response, secrets=secrets),
        decode_compressed_response=True,
        match_on=("method", "scheme", "host", "port", "path", "query", "raw_body"),
        record_mode="none",
        record_on_exception=False,
        serializer="labelled",
    )
    machine.register_serializer("labelled", Label(provenance=provenance))
    return machine


@contextmanager
def replaying(path: Path, network: "Network") -> Iterator[Cassette]:
    """Play a cassette: asking for more than it holds fails the test at once, asking for less fails it at the end."""
    with player().use_cassette(path, allow_playback_repeats=False) as tape:
        tape.can_play_response_for = partial(_playable, tape, tape.can_play_response_for)
        network.names = {request.host for request in tape.requests}
        yield tape
    unplayed = [str(request) for index, request in enumerate(tape.requests) if not tape.play_counts[index]]
    if unplayed:
        pytest.fail(f"{path.name} was not played to its end: {len(unplayed)} left, the first is {unplayed[0]}")


def _playable(tape: Cassette, ask: Callable[[Request], bool], request: Request) -> bool:
    if ask(request):
        return True
    # Not vcrpy's own error: openai 2.x takes every Exception for a failed connection, and the reason would be lost.
    reason = str(CannotOverwriteExistingCassetteException(cassette=tape, failed_request=request))
    pytest.fail(
        f"{reason.partition('How to fix:')[0].rstrip()}\n\nTo record: pytest -n 0 --record emulator", pytrace=False
    )


class Network:
    """The block on the network. `names` may be looked up, with a made-up result; `open` is for a live recording."""

    def __init__(self) -> None:
        self.open = False
        self.names: set[str] = set()

    def guard(self, real: Callable[..., _T], sock: socket.socket, address: object, *rest: object) -> _T:
        if not self.open and isinstance(address, tuple) and not _is_loopback(address[0]):
            pytest.fail(f"a replay must not use the network, but something connects to {address[0]!r}")
        return real(sock, address, *rest)

    def resolve(self, real: Callable[..., object], host: object, *rest: object, **options: object) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if self.open or _is_loopback(name):
            return real(host, *rest, **options)
        if name in self.names:
            # Before a link on a foreign host is opened, its address is checked: one that passes, and nobody connects.
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("1.1.1.1", 443))]
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
        return kept_bytes(value) if isinstance(value, bytes) else kept_text(value)

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
            opened = replaying(path, self.network)
        with opened as tape, closing(Flux(client=client, tape=tape)) as flux:
            yield flux

    @contextmanager
    def _recording(self, path: Path, provenance: Provenance) -> Iterator[Cassette]:
        committed = path.read_text(encoding="utf-8") if path.exists() else None
        if committed and provenance != "live" and yaml.safe_load(committed)["provenance"] == "live":
            pytest.skip("recorded from the service, which alone can repeat it; to use the emulator, delete it first")
        fresh = self.folder / path.name
        secrets = (KEY, self.live_key) if provenance == "live" else (KEY,)
        with player(provenance=provenance, secrets=secrets).use_cassette(fresh, record_mode="all") as tape:
            yield tape
        recorded = fresh.read_text(encoding="utf-8")
        if provenance == "live" or self.source == "emulator":
            path.parent.mkdir(exist_ok=True)
            path.write_text(recorded, encoding="utf-8", newline="\n")
        elif committed is None:
            pytest.fail(f"there is no {path.name} yet; to record it: pytest -n 0 --record emulator", pytrace=False)
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
    return lambda path: player().use_cassette(path, record_mode="all")


@pytest.fixture
def replay(network: Network) -> OpenTape:
    """Replay any file, as the cassettes are replayed."""
    return partial(replaying, network=network)
