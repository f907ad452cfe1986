"""Cassettes for vcrpy: what is kept of an exchange, how it is compared, and how it is played.

Needs vcrpy and pytest; `flux_openai.testing` imports it for a test that uses a cassette, and nothing else does.
"""

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock

import pytest
import vcr
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs
from vcr.cassette import Cassette
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request

from flux_openai._http.library import httpx
from flux_openai._http.redaction import replace_secrets, secrets_of
from flux_openai.testing.scrubbing import PLACEHOLDER, scrub_body, scrub_text, strip_query_values

__all__ = [
    "Label",
    "Provenance",
    "asked_of",
    "decode_content",
    "player",
    "recording",
    "replaying",
    "spare_live",
]

Provenance = Literal["emulator", "documented example", "live"]


# Headers are named one by one, so that what nobody thought of stays out.
REQUEST_HEADERS = ("accept", "content-type")
RESPONSE_HEADERS: Mapping[str, Callable[[str], str]] = {
    "content-type": str,
    "date": lambda _: "Mon, 23 Jun 2025 08:39:57 GMT",
    "location": strip_query_values,
    "retry-after": str,
    "x-request-id": str,
}


def kept_request(request: Request, *, secrets: tuple[str, ...]) -> Request:
    """The request as it is written, and as it is compared: a replay asks for the link that the recording shows."""
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    body = _in_order(scrub_body(request.body or b"", secrets, request=True))
    uri = strip_query_values(replace_secrets(request.uri, secrets, by=PLACEHOLDER))
    return Request(request.method, uri, body or None, headers)


def _in_order(body: bytes) -> bytes:
    """JSON with its names sorted: order and spaces are the SDK's affair.

    This text is what is compared, and not its values: to Python, but not to the service, 1, 1.0 and True are all one.
    """
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        return body


def kept_response(response: Mapping[str, Any], *, secrets: tuple[str, ...]) -> dict[str, object]:
    """The answer as it is written, and as it is played back."""
    headers = {name.lower(): values for name, values in response["headers"].items()}
    kept = {
        name: [scrub_text(keep(value), secrets) for value in headers[name]]
        for name, keep in RESPONSE_HEADERS.items()
        if name in headers
    }
    packing = {"content-encoding": headers.get("content-encoding", [])}
    packed = response["body"]["string"]
    body = decode_content(packed, ", ".join(packing["content-encoding"]))
    if body is None:
        # Unpacked already, or a client must fail over it again: in either case its header still holds.
        kept, body = kept | packing, packed
    return {"status": response["status"], "headers": kept, "body": {"string": scrub_body(body, secrets)}}


@dataclass(frozen=True, kw_only=True)
class Label:
    """A serializer for vcrpy that writes where a cassette comes from on top of it, and keeps the lines in order."""

    provenance: Provenance

    def serialize(self, tape: Mapping[str, Any]) -> str:
        """The text of a cassette."""
        bodies = (interaction["request"]["body"] for interaction in tape["interactions"])
        models = (model for body in bodies if body and (model := _model_in(body)))
        told = {"provenance": self.provenance, "model": next(models, None), **tape}
        # The dumper in pure Python: the one in C, where there is one, breaks lines at other places.
        return cast(str, yaml.dump(told, Dumper=yaml.SafeDumper, sort_keys=False, width=120))

    @staticmethod
    def deserialize(text: str) -> object:
        """What stands in the text of a cassette."""
        return yaml.safe_load(text)


def _model_in(body: str | bytes) -> object:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value.get("model") if isinstance(value, dict) else None


def player(*, provenance: Provenance = "emulator", secrets: tuple[str, ...] = ()) -> vcr.VCR:
    """Vcrpy as cassettes are recorded and replayed: nothing secret is kept, and bodies are compared."""
    told = [*secrets]
    machine = vcr.VCR(
        before_record_request=partial(_asked, told=told),
        before_record_response=partial(_answered, told=told),
        match_on=("method", "scheme", "host", "port", "path", "query", "raw_body"),
        record_mode="none",
        record_on_exception=False,
        serializer="labelled",
    )
    machine.register_serializer("labelled", Label(provenance=provenance))
    return machine


def _asked(request: Request, *, told: list[str]) -> Request:
    # A key that was given to the client itself may come back in an answer, as in "incorrect key: ...".
    sent = secrets_of(httpx.Headers({name: _text(value) for name, value in request.headers.items()}, encoding="utf-8"))
    told += [secret for secret in sent if len(secret) >= 8 and secret not in told]  # less may be a word like any other
    return kept_request(request, secrets=tuple(told))


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _answered(response: Mapping[str, Any], *, told: list[str]) -> dict[str, object]:
    return kept_response(response, secrets=tuple(told))


def spare_live(path: Path) -> None:
    """Skip the test if its cassette is from the service: that was paid for, and the emulator must not overwrite it."""
    if path.exists() and yaml.safe_load(path.read_bytes()).get("provenance") == "live":
        pytest.skip("recorded from the service, which alone can repeat it; to use the emulator, delete it first")


@contextmanager
def recording(
    path: Path, *, fresh: Path, secrets: tuple[str, ...], serve: Callable[[httpx.Request], httpx.Response] | None
) -> Iterator[Cassette]:
    """Record into the file `fresh`, and put it at `path` if all goes well.

    `serve` answers in place of the network, for whatever client of httpx; None is the network itself.
    """
    if serve:
        spare_live(path)
    machine = player(provenance="emulator" if serve else "live", secrets=secrets)
    served = _served(serve) if serve else nullcontext(list[str]())
    with machine.use_cassette(fresh, record_mode="all") as tape, served as broken:
        yield tape
    if broken:
        reason = f"an exchange broke off, which no cassette can repeat: {broken[0]}"
        pytest.fail(f"{reason}\n\nPlay such a fault on `flux_emulator`, in a test without a cassette", pytrace=False)
    if not fresh.exists():
        pytest.fail(f"nothing was asked of the service, so there is nothing for {path.name}", pytrace=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")


@contextmanager
def _served(serve: Callable[[httpx.Request], httpx.Response]) -> Iterator[list[str]]:
    # Entered after vcrpy, which has the mock transport too: so what is answered here is recorded there.
    wire, broken = httpx.MockTransport(serve), list[str]()

    def handle(_: object, request: httpx.Request) -> httpx.Response:
        with _noted(broken, request):
            response = wire.handle_request(request)
            response.stream = httpx.ByteStream(b"".join(cast("httpx.SyncByteStream", response.stream)))
        return response

    async def ahandle(_: object, request: httpx.Request) -> httpx.Response:
        with _noted(broken, request):
            response = await wire.handle_async_request(request)
            pieces = [piece async for piece in cast("httpx.AsyncByteStream", response.stream)]
            response.stream = httpx.ByteStream(b"".join(pieces))
        return response

    with (
        mock.patch.object(httpx.HTTPTransport, "handle_request", handle),
        mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", ahandle),
    ):
        yield broken


@contextmanager
def _noted(broken: list[str], request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        broken.append(f"{request.method} {request.url.path}: {type(error).__name__}")
        raise


@contextmanager
def replaying(path: Path, *, command: str, secrets: tuple[str, ...] = ()) -> Iterator[Cassette]:
    """Play a cassette: asking for more than it holds fails the test at once, asking for less fails it at the end.

    `command` is what would record it anew. The hosts on the cassette need no look-up.
    """
    with player(secrets=secrets).use_cassette(path, allow_playback_repeats=False) as tape:
        tape.can_play_response_for = partial(_playable, tape, tape.can_play_response_for, command)
        look_up = partial(_resolve, frozenset(request.host for request in tape.requests), socket.getaddrinfo)
        with mock.patch.object(socket, "getaddrinfo", look_up):
            yield tape
    unplayed = [str(request) for index, request in enumerate(tape.requests) if not tape.play_counts[index]]
    if unplayed:
        reason = f"{path.name} was not played to its end: {len(unplayed)} left, the first is {unplayed[0]}"
        pytest.fail(f"{reason}\n\nTo record: {command}", pytrace=False)


def asked_of(path: Path) -> object:
    """What the requests on a cassette are."""
    return [interaction["request"] for interaction in yaml.safe_load(path.read_bytes())["interactions"]]


def _playable(tape: Cassette, ask: Callable[[Request], bool], command: str, request: Request) -> bool:
    if ask(request):
        return True
    # Not vcrpy's own error: openai 2.x takes every Exception for a failed connection, and the reason would be lost.
    reason = str(CannotOverwriteExistingCassetteException(cassette=tape, failed_request=request))
    return pytest.fail(f"{reason.partition('How to fix:')[0].rstrip()}\n\nTo record: {command}", pytrace=False)


def _resolve(
    names: frozenset[str], real: Callable[..., object], host: object, *rest: object, **options: object
) -> object:
    if (host.decode() if isinstance(host, bytes) else host) not in names:
        return real(host, *rest, **options)
    # Before a link on a foreign host is opened, its address is checked: one that passes, and nobody connects.
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("1.1.1.1", 443))]


def decode_content(body: bytes, encodings: str) -> bytes | None:
    """A body without its content encodings; None if it is not encoded like that."""
    names = [name for part in encodings.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    try:
        if set(names) == {"gzip"}:  # not by httpx, which does not notice that the end of a body is missing
            for _ in names:
                body = gzip.decompress(body)
            return body
        return httpx.Response(200, headers={"content-encoding": encodings}, content=body).content
    except (OSError, EOFError, zlib.error, httpx.DecodingError):
        return None
