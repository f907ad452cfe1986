"""Recording and replaying: what is recorded holds no secret, and a replay fails wherever a call has changed."""

import asyncio
import gzip
import json
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs
from vcr.cassette import Cassette

from flux_openai import AsyncFluxOpenAI, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.testing.cassettes import decode_content, make_vcr, replaying

pytestmark = pytest.mark.usefixtures("blocked_network")

KEY = "sk-CANARY-opens-nothing"
URL = "https://api.umodelverse.ai/v1/images/generations"
LINK = "https://api.umodelverse.ai/files/1.png?Expires=1750667997&Signature=CANARY-0f3a"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82" + bytes(range(256)) * 8
FAILURE = pytest.fail.Exception


def record(path: Path) -> AbstractContextManager[Cassette]:
    """Record, as the plugin does, from any transport."""
    tape: AbstractContextManager[Cassette] = make_vcr(secrets=(KEY,)).use_cassette(path, record_mode="all")
    return tape


def replay(path: Path) -> AbstractContextManager[Cassette]:
    """Replay, as the plugin does."""
    return replaying(path, command="pytest --flux-record=emulator", secrets=(KEY,))


@pytest.fixture
def tape_path(tmp_path: Path) -> Path:
    """A recording of one image made and downloaded, from a service that tells every secret it can."""
    answer = json.dumps({"created": 1, "data": [{"url": LINK}], "echo": f"you are {KEY}"})
    careless = {
        "content-type": "application/json",
        "content-encoding": "gzip",
        "set-cookie": "session=CANARY",
        "openai-organization": "CANARY",
        "date": "Sun, 22 Nov 2026 12:00:00 GMT",
        "x-request-id": "r-1",
    }

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, content=PNG, headers={"content-type": "image/png", "set-cookie": "CANARY"})
        # A stream, as from a wire: httpx takes what is given as `content` for decoded already.
        body = httpx.ByteStream(gzip.compress(answer.replace("&", r"\u0026").encode()))
        return httpx.Response(200, stream=body, headers=careless)

    path = tmp_path / "tape.yaml"
    http_client = httpx.Client(transport=httpx.MockTransport(serve), cookies={"session": "CANARY"})
    with record(path), FluxOpenAI(api_key=KEY, organization="CANARY", http_client=http_client) as client:
        assert client.images.generate(prompt="a fox").data[0].read() == PNG
    return path


def make(prompt: str = "a fox") -> bytes:
    """Make an image, and download it."""
    with FluxOpenAI(api_key=KEY) as client:
        return client.images.generate(prompt=prompt).data[0].read()


def amake(prompt: str = "a fox") -> bytes:
    """The same with the async client."""

    async def run() -> bytes:
        async with AsyncFluxOpenAI(api_key=KEY) as client:
            return await (await client.images.generate(prompt=prompt)).data[0].aread()

    return asyncio.run(run())


each_client = pytest.mark.parametrize("make", [make, amake], ids=["sync", "async"])


@each_client
def test_a_careless_service_leaves_no_secret_on_tape(make: Callable[[], bytes], tape_path: Path) -> None:
    """Keys, cookies and signatures are gone, gzip is unpacked, the image is cut to 1 KiB; and it still replays."""
    text = tape_path.read_text(encoding="utf-8")
    assert "CANARY" not in text
    assert "set-cookie" not in text.lower()
    with replay(tape_path) as tape:
        assert make() == PNG[:1024]
    made, downloaded = tape.responses
    assert json.loads(made["body"]["string"])["echo"] == "you are redacted"
    assert made["headers"] == {
        "content-type": ["application/json"],
        "date": ["Mon, 23 Jun 2025 08:39:57 GMT"],
        "x-request-id": ["r-1"],
    }
    assert downloaded["headers"] == {"content-type": ["image/png"]}
    assert tape.requests[1].uri == "https://api.umodelverse.ai/files/1.png?Expires=redacted&Signature=redacted"


@each_client
def test_a_link_on_another_host_replays_without_a_look_up(make: Callable[[], bytes], tape_path: Path) -> None:
    """Before such a link is opened, its host's address is checked; a replay makes one up."""
    text = tape_path.read_text(encoding="utf-8")
    tape_path.write_text(text.replace("api.umodelverse.ai/files", "img.example.com/files"), encoding="utf-8")
    with replay(tape_path) as tape:
        assert make() == PNG[:1024]
    assert [request.host for request in tape.requests] == ["api.umodelverse.ai", "img.example.com"]


@each_client
def test_another_body_is_not_on_tape(make: Callable[[str], bytes], tape_path: Path) -> None:
    """The test fails with the real reason and at once, where the SDK would see a failed connection and go on."""
    with (
        pytest.raises(FAILURE, match=r"(?s)raw_body differs.*-.*a fox.*\+.*a dog.*pytest --flux-record"),
        replay(tape_path),
    ):
        make("a dog")


@each_client
def test_a_missing_part_is_not_made_up(make: Callable[[], bytes], tape_path: Path) -> None:
    """Where the download was cut out of the cassette, the test fails when it asks for it."""
    rewrite(tape_path, lambda tape: tape["interactions"].pop())
    reason = r"(?s)Can't play back this request.*GET https://api\.umodelverse\.ai/files/1\.png"
    with pytest.raises(FAILURE, match=reason), replay(tape_path):
        make()


@each_client
def test_nothing_plays_twice(make: Callable[[], bytes], tape_path: Path) -> None:
    """A second call for the same needs a second recording: this is how a call that goes out twice is seen."""
    with replay(tape_path):
        make()
        with pytest.raises(FAILURE, match="already been played back"):
            make()


def test_what_is_never_played_fails(tape_path: Path) -> None:
    """A cassette that holds more than its test asks for is out of date."""
    with (
        pytest.raises(FAILURE, match=r"not played to its end: 1 left, the first is .*files/1\.png"),
        replay(tape_path),
        FluxOpenAI(api_key=KEY) as client,
    ):
        client.images.generate(prompt="a fox")


def test_an_error_in_the_test_is_not_hidden_by_the_rest_of_the_tape(tape_path: Path) -> None:
    """A test that stops half way leaves parts unplayed; what it stopped for is what is reported."""
    with pytest.raises(ZeroDivisionError), replay(tape_path):
        _ = 1 / 0


def test_a_missing_cassette_fails(tmp_path: Path) -> None:
    """Without a cassette nothing is asked of the network, and the message says what to do."""
    reason = r"(?s)the cassette doesn't exist.*pytest --flux-record"
    with pytest.raises(FAILURE, match=reason), replay(tmp_path / "none.yaml"):
        make()


@pytest.mark.parametrize("value", [1, True, "1"])
def test_bodies_are_compared_as_json(value: object, tmp_path: Path) -> None:
    """Order and spaces do not matter; a value of another type does, also where Python calls the two equal."""
    path = tmp_path / "tape.yaml"
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    with record(path), httpx.Client(transport=transport) as client:
        client.post(URL, json={"model": "any", "scale": 1.0})
    with replay(path), httpx.Client() as client:
        assert client.post(URL, content=b'{"scale" : 1.0, "model":"any"}').status_code == 200
    with pytest.raises(FAILURE, match="raw_body differs"), replay(path), httpx.Client() as client:
        client.post(URL, json={"model": "any", "scale": value})


def test_a_replay_takes_the_sdks_own_transport(tape_path: Path) -> None:
    """Nothing of a test stands between the client and the network: only vcrpy, and it is on the default transport."""
    with replay(tape_path), FluxOpenAI(api_key=KEY) as client:
        assert type(client._client._transport) is httpx.HTTPTransport
        client.images.generate(prompt="a fox").data[0].read()


@each_client
def test_the_network_is_blocked(make: Callable[[], bytes]) -> None:
    """Without any cassette, a client on its default transport fails at its first look-up."""
    with pytest.raises(BaseException, match=r"must not use the network") as caught:
        make()
    assert isinstance(caught.value, FAILURE)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a cassette by hand."""
    tape = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(tape)
    path.write_text(yaml.safe_dump(tape), encoding="utf-8")


def test_content_encodings_are_decoded() -> None:
    """As often as the header says; None where it is wrong."""
    once = gzip.compress(b"a fox")
    assert (
        decode_content(once, "gzip")
        == decode_content(gzip.compress(once), "gzip, gzip")
        == decode_content(b"a fox", "")
        == b"a fox"
    )
    assert decode_content(once + once, "GZIP, identity") == b"a foxa fox"
    for wrong in (b"a fox", once[:-9], once[:-8] + bytes(8), b"\x1f\x8b"):
        assert decode_content(wrong, "gzip") is None
    assert decode_content(b"a fox", "deflate") is None


@pytest.mark.parametrize("name", ["getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"])
@pytest.mark.parametrize("host", ["api.umodelverse.ai", b"api.umodelverse.ai", "localhost", "192.0.2.1"])
def test_no_name_is_looked_up(name: str, host: str | bytes) -> None:
    """Every way to ask for an address is closed, for every name."""
    look_up = getattr(socket, name)
    with pytest.raises(FAILURE, match="looks up"):
        look_up(host, *([443] if name == "getaddrinfo" else []))


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("api.umodelverse.ai", 443), ("2001:db8::1", 443, 0, 0)])
def test_no_socket_is_connected(method: str, address: tuple[Any, ...]) -> None:
    """No address but this machine's own is connected to."""
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with socket.socket(family) as sock, pytest.raises(FAILURE, match="connects to"):
        getattr(sock, method)(address)


def test_this_machine_can_be_reached() -> None:
    """Loopback is no network: servers of tests stay reachable."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        assert sock.getpeername() == server.getsockname()
