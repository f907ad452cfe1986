"""Cassettes: how vcrpy records, compares and replays an exchange.

Needs vcrpy; only the fixture `flux_cassette` imports it.

    recording(path, serve=…)     the emulator, or the live service, answers; scrub; write the file if the test passes
    replaying(path)              scrub the request in the same way; it must equal a recorded one, body included
"""

import gzip
import json
import socket
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
from flux_openai.models import FLUX_MODELS, GENERATIONS
from flux_openai.testing.scrubbing import PLACEHOLDER, scrub_body, scrub_text, strip_query_values

__all__ = ["Provenance", "decode_content", "make_vcr", "recorded_requests", "recording", "replaying"]

Provenance = Literal["emulator", "documented example", "live"]
"""Where a cassette comes from. A documented example is copied from the service's pages, and never recorded."""

# Both are lists of what is recorded, so that an unexpected header with a secret in it is not.
REQUEST_HEADERS = ("accept", "content-type")
RESPONSE_HEADERS: Mapping[str, Callable[[str], str]] = {
    "content-type": str,
    "date": lambda _: "Mon, 23 Jun 2025 08:39:57 GMT",
    "location": strip_query_values,
    "retry-after": str,
    "x-request-id": str,
}


def make_vcr(*, provenance: Provenance = "emulator", secrets: tuple[str, ...] = ()) -> vcr.VCR:
    """The configured `vcr.VCR`: it removes secrets, and the body is part of the match."""
    known = [*secrets]

    def scrub_request(request: Request) -> Request:
        # Keys are removed from answers too: an error message may quote one, as in "incorrect key: ...".
        sent = {
            name: value.decode("latin-1") if isinstance(value, bytes) else str(value)
            for name, value in request.headers.items()
        }
        found = secrets_of(httpx.Headers(sent, encoding="utf-8"))
        known.extend(secret for secret in found if len(secret) >= 8)  # a shorter one may be an ordinary word
        return _scrub_request(request, tuple(known))

    machine = vcr.VCR(
        before_record_request=scrub_request,
        before_record_response=lambda response: _scrub_response(response, tuple(known)),
        match_on=("method", "scheme", "host", "port", "path", "query", "raw_body"),
        record_mode="none",
        record_on_exception=False,
        serializer="labelled",
    )
    serialize = partial(_serialize, provenance=provenance)
    machine.register_serializer("labelled", SimpleNamespace(serialize=serialize, deserialize=yaml.safe_load))
    return machine


def _scrub_request(request: Request, secrets: tuple[str, ...]) -> Request:
    """The request for the file and for the comparison, scrubbed like the links in the recorded answers."""
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    uri = strip_query_values(replace_secrets(request.uri, secrets, by=PLACEHOLDER))
    body = scrub_body(request.body or b"", secrets, request=True)
    with suppress(ValueError, RecursionError):  # what is not JSON is compared as it is
        # The SDK may change the order of names. The text is compared and not the values, because 1, 1.0 and True are
        # equal in Python and different to the service.
        body = json.dumps(json.loads(body), sort_keys=True).encode()
    return Request(request.method, uri, body or None, headers)


def _scrub_response(response: Mapping[str, Any], secrets: tuple[str, ...]) -> dict[str, object]:
    """The answer for the file, scrubbed."""
    received = {name.lower(): values for name, values in response["headers"].items()}
    headers = {
        name: [scrub_text(keep(value), secrets) for value in received[name]]
        for name, keep in RESPONSE_HEADERS.items()
        if name in received
    }
    encodings = received.get("content-encoding", [])
    body = decode_content(response["body"]["string"], ", ".join(encodings))
    if body is None:
        # The encoding cannot be undone, so it is recorded as it is: in the replay the client must fail in the same way.
        headers["content-encoding"], body = encodings, response["body"]["string"]
    return {"status": response["status"], "headers": headers, "body": {"string": scrub_body(body, secrets)}}


def decode_content(body: bytes, encodings: str) -> bytes | None:
    """The decoded body; None if its content encodings do not fit."""
    names = [name for part in encodings.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    try:
        if set(names) == {"gzip"}:  # httpx would not notice that the end of the body is missing
            for _ in names:
                body = gzip.decompress(body)
            return body
        return httpx.Response(200, headers={"content-encoding": encodings}, content=body).content
    except (OSError, EOFError, zlib.error, httpx.DecodingError):
        return None


def _serialize(tape: Mapping[str, Any], *, provenance: Provenance) -> str:
    """The text of a cassette, with its provenance and the first model at the top."""
    model = None
    for interaction in tape["interactions"]:
        request = interaction["request"]
        with suppress(ValueError, TypeError, AttributeError):  # no body, or not of JSON, or no object
            model = model or json.loads(request["body"]).get("model")
        named = [
            one.id for one in FLUX_MODELS.values() if one.path != GENERATIONS and request["uri"].endswith(one.path)
        ]
        model = model or next(iter(named), None)
    # The pure Python dumper: the one in C breaks lines elsewhere and is not always installed, so files would differ.
    labelled = {"provenance": provenance, "model": model, **tape}
    return cast(str, yaml.dump(labelled, Dumper=yaml.SafeDumper, sort_keys=False, width=120))


def recorded_requests(path: Path) -> object:
    """The requests on a cassette."""
    return [interaction["request"] for interaction in yaml.safe_load(path.read_bytes())["interactions"]]


@contextmanager
def recording(
    path: Path, *, fresh: Path, secrets: tuple[str, ...], serve: Callable[[httpx.Request], httpx.Response] | None
) -> Iterator[Cassette]:
    """Record into the file `fresh`, and copy it to `path` if the test passes.

    `serve` answers every httpx client in place of the network; if it is None, the requests go to the service. The test
    is skipped if the recording would replace a documented example, or a live cassette by one of the emulator.
    """
    provenance: Provenance = "emulator" if serve else "live"
    found = yaml.safe_load(path.read_bytes()).get("provenance") if path.exists() else None
    if found == "documented example":
        pytest.skip("its cassette is an example from the service's documents; to record one, delete it first")
    if found == "live" and provenance != "live":
        pytest.skip("its cassette was recorded from the service, and paid for; to use the emulator, delete it first")
    machine = make_vcr(provenance=provenance, secrets=secrets)
    answering = _answering(serve) if serve else nullcontext(list[str]())
    with machine.use_cassette(fresh, record_mode="all") as tape, answering as broken:
        yield tape
    if broken:
        reason = f"an exchange broke off, which no cassette can repeat: {broken[0]}"
        pytest.fail(f"{reason}\n\nPlay such a fault on `flux_emulator`, in a test without a cassette", pytrace=False)
    if not fresh.exists():
        pytest.fail(f"the test sent no request, so there is nothing to record in {path.name}", pytrace=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh.read_text(encoding="utf-8"), encoding="utf-8", newline="\n")


@contextmanager
def _answering(serve: Callable[[httpx.Request], httpx.Response]) -> Iterator[list[str]]:
    """Answer in place of httpx's own transports; yields the list of exchanges that broke off."""
    broken = list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        try:
            response = serve(request)
            response.stream = httpx.ByteStream(b"".join(cast("httpx.SyncByteStream", response.stream)))
        except httpx.TransportError as error:
            broken.append(f"{request.method} {request.url.path}: {type(error).__name__}")
            raise
        return response

    # vcrpy has patched the mock transport too, so it records these answers.
    transport = httpx.MockTransport(answer)
    with (
        mock.patch.object(httpx.HTTPTransport, "handle_request", lambda _, request: transport.handle_request(request)),
        mock.patch.object(
            httpx.AsyncHTTPTransport, "handle_async_request", lambda _, request: transport.handle_async_request(request)
        ),
    ):
        yield broken


@contextmanager
def replaying(path: Path, *, command: str, secrets: tuple[str, ...] = ()) -> Iterator[Cassette]:
    """Replay a cassette. A request that is not on it fails the test at once, one that was not sent fails it at the end.

    The messages contain `command`, which records the cassette anew. DNS is not asked for the hosts on the cassette.
    """
    advice = f"\n\nTo record: {command}"
    with make_vcr(secrets=secrets).use_cassette(path, allow_playback_repeats=False) as tape:
        hosts = {request.host for request in tape.requests}
        can_play: Callable[[Request], bool] = tape.can_play_response_for
        look_up: Callable[..., object] = socket.getaddrinfo

        def can_play_or_fail(request: Request) -> bool:
            if can_play(request):
                return True
            # `pytest.fail` raises a BaseException. vcrpy's own error is an Exception, which openai 2 would turn into an
            # APIConnectionError without the reason.
            reason = str(CannotOverwriteExistingCassetteException(cassette=tape, failed_request=request))
            return pytest.fail(reason.partition("How to fix:")[0].rstrip() + advice, pytrace=False)

        def resolve(host: object, *rest: object, **options: object) -> object:
            if (host.decode() if isinstance(host, bytes) else host) not in hosts:
                return look_up(host, *rest, **options)
            # A download checks that the host's address is public before it connects. Replay never connects to it.
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("1.1.1.1", 443))]

        tape.can_play_response_for = can_play_or_fail
        with mock.patch.object(socket, "getaddrinfo", resolve):
            yield tape
    unplayed = [str(request) for index, request in enumerate(tape.requests) if not tape.play_counts[index]]
    if unplayed:
        reason = f"{path.name} was not played to its end: {len(unplayed)} left, the first is {unplayed[0]}"
        pytest.fail(reason + advice, pytrace=False)
