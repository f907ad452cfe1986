"""Cassettes for vcrpy: what is kept of an exchange, how it is compared, and how it is played.

Needs vcrpy and pytest; `flux_openai.testing` imports it for a test that uses a cassette, and nothing else does.
"""

import base64
import binascii
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast
from unittest import mock
from urllib.parse import urlsplit, urlunsplit

import pytest
import vcr
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs
from vcr.cassette import Cassette
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request

from flux_openai.files import sniff
from flux_openai.sdk import httpx

__all__ = [
    "Label",
    "Provenance",
    "bare_link",
    "kept_bytes",
    "kept_text",
    "player",
    "recording",
    "replaying",
    "spare_live",
]

Provenance = Literal["emulator", "documented example", "live"]

IMAGE_LIMIT = 1024

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
        decode_compressed_response=True,
        match_on=("method", "scheme", "host", "port", "path", "query", "raw_body"),
        record_mode="none",
        record_on_exception=False,
        serializer="labelled",
    )
    machine.register_serializer("labelled", Label(provenance=provenance))
    return machine


def _asked(request: Request, *, told: list[str]) -> Request:
    # A key that was given to the client itself may come back in an answer, as in "incorrect key: ...".
    credentials = str(request.headers.get("authorization", "")).partition(" ")[2].strip()
    if len(credentials) >= 8 and credentials not in told:
        told.append(credentials)
    return kept_request(request, secrets=tuple(told))


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
    with machine.use_cassette(fresh, record_mode="all") as tape, _served(serve) if serve else nullcontext():
        yield tape
    if not fresh.exists():
        pytest.fail(f"nothing was asked of the service, so there is nothing for {path.name}", pytrace=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")


@contextmanager
def _served(serve: Callable[[httpx.Request], httpx.Response]) -> Iterator[None]:
    # Entered after vcrpy, which has the mock transport too: so what is answered here is recorded there.
    wire = httpx.MockTransport(serve)

    def handle(_: object, request: httpx.Request) -> httpx.Response:
        return wire.handle_request(request)

    async def ahandle(_: object, request: httpx.Request) -> httpx.Response:
        return await wire.handle_async_request(request)

    with (
        mock.patch.object(httpx.HTTPTransport, "handle_request", handle),
        mock.patch.object(httpx.AsyncHTTPTransport, "handle_async_request", ahandle),
    ):
        yield


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
