"""The emulated service: its state, and the decisions about each request, under one lock.

    answer(request)
      call = _admit(request)     check key and body; then under the lock: record, limit, choose faults, bill
      reply = _serve(call)       the answer without faults
      apply_faults(reply, …)     the fault that `fail()` has queued, or else those of the script
      journal.add(…)

Transports wait for `reply.delay` and deliver the reply.
"""

import base64
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from threading import Lock

from flux_openai._http.library import httpx
from flux_openai._http.redaction import scrub
from flux_openai.emulator.api.hosting import LINK_LIFETIME, HostedImage, check_link, file_name, link_to, name_in
from flux_openai.emulator.api.pictures import PictureSpec, area_to_size, draw
from flux_openai.emulator.api.requests import (
    GenerateRequest,
    Route,
    check_key,
    find_route,
    read_generate_request,
    read_json,
)
from flux_openai.emulator.api.responses import Reply, ServiceError, error_response, json_reply, xml_error
from flux_openai.emulator.faults.effects import apply_faults
from flux_openai.emulator.faults.fault import Fault, Target
from flux_openai.emulator.faults.queue import FaultQueue
from flux_openai.emulator.faults.rules import Script, find_faults
from flux_openai.emulator.journal import Bill, JournalEntry, JournalFile, RequestLog, SeenRequest, request_key
from flux_openai.emulator.load.clock import Clock
from flux_openai.emulator.load.latency import Workload
from flux_openai.emulator.load.limits import RateLimiter
from flux_openai.models import FLUX_MODELS

__all__ = ["ImageService"]

_log = logging.getLogger("flux_openai.emulator")

_MEGAPIXEL = 2**20

_MODELS_CREATED = 1_750_667_997  # from the documented example; the current time would change every recording


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A request and the decisions about it.

    The answer is `error` if there is one, else `images` by name (to generate or to download), else the list of models.
    `id` is the request id, `seconds` the latency, and `faults` are those that `_admit` has chosen.
    """

    request: httpx.Request
    seen: SeenRequest
    number: int
    id: str
    now: float
    seconds: float
    route: Route | None
    error: ServiceError | None
    wanted: GenerateRequest | None
    images: Mapping[str, HostedImage]
    faults: tuple[Fault, ...]
    images_billed: int
    duplicate: bool


class ImageService:
    """The service behind every transport; safe to use from several threads. The arguments are those of `Emulator`."""

    def __init__(
        self,
        *,
        api_key: str | None,
        pixels: int | None,
        clock: Clock,
        limiter: RateLimiter,
        script: Script,
        seed: int,
        journal: JournalFile | None,
    ) -> None:
        self._api_key = api_key
        self._pixels = pixels
        self._clock = clock
        self._journal = journal
        self._seed = seed
        self._lock = Lock()  # guards the attributes below
        self._limiter = limiter
        self._script = script
        self._log = RequestLog()
        self._queue = FaultQueue()
        self._hosted: dict[str, HostedImage] = {}

    @property
    def requests(self) -> list[SeenRequest]:
        """A copy of the requests so far."""
        with self._lock:
            return list(self._log.requests)

    @property
    def bill(self) -> Bill:
        """An immutable snapshot of the bill."""
        with self._lock:
            return self._log.bill

    def fail(self, fault: Fault, *, times: int, on: Target) -> None:
        """Queue a fault for that many calls."""
        with self._lock:
            self._queue.add(fault, times=times, on=on)

    def script(self, script: Script) -> None:
        """Use this fault script from now on."""
        with self._lock:
            self._script = script

    def answer(self, request: httpx.Request) -> Reply:
        """The reply to one request, with its delay."""
        call = self._admit(request)
        on: Target = "download" if call.route == "download" else "generate"
        path = request.url.raw_path.decode("ascii")
        reply = apply_faults(_serve(call), call.faults, request_id=call.id, on=on, path=path)
        entry = _journal_entry(call, status=reply.status)
        if self._journal is not None:
            self._journal.add(entry)
        if _log.isEnabledFor(logging.INFO):
            # The encoded path: the decoded one may have control characters, which a terminal would execute.
            route, faults = path.partition("?")[0], scrub(f", fault: {entry.fault}") if entry.fault else ""
            _log.info("%s %s %d, images billed: %d%s", entry.method, route, entry.status, entry.images_billed, faults)
        # A "timeout" carries its own delay, or lasts until the client gives up.
        latency = 0.0 if reply.error == "timeout" else call.seconds
        return replace(reply, headers={"x-request-id": call.id, **reply.headers}, delay=reply.delay + latency)

    def _admit(self, request: httpx.Request) -> _Call:
        """Make the decisions that depend on the state: limits first, then faults, then the bill.

        A request that a limit refuses uses up no fault. An order that is not billed counts against no limit and has no
        latency.
        """
        content = read_json(request.read())
        seen = SeenRequest(
            method=request.method,
            path=request.url.path,
            headers=httpx.Headers(request.headers),
            body=None if isinstance(content, ServiceError) else content,
        )
        key, name = request_key(seen), name_in(request.url)
        route, wanted, error = self._check(request, content=content)
        faults: tuple[Fault, ...] = ()
        images_billed, duplicate, seconds = 0, False, 0.0
        with self._lock:
            # The clock is read under the lock, so that the order of times is that of the request numbers.
            now = self._clock.now()
            number, nth = self._log.add(seen), self._log.admitted[key] + 1
            images = {name: self._hosted[name]} if name in self._hosted else {}
            if route == "download":
                error = check_link(request.url, now=now)
            workload = None
            if wanted is not None:
                workload = Workload(occurrence_id=f"{key}:{nth}", images=wanted.n, steps=wanted.steps)
                error = self._limiter.refuse(workload, now=now)
            if workload is None or error is None:
                self._log.admitted[key] += 1
                body = images[name].request_body if images else seen.body
                faults = () if route is None else self._queue.take(route)
                faults = faults or find_faults(self._script, body, on=route, key=key, nth=nth, seed=self._seed)
            if wanted is not None and workload is not None and error is None:
                images = self._images(wanted, occurrence_id=workload.occurrence_id, body=seen.body)
                self._hosted |= images
                if all(fault.bills for fault in faults):
                    images_billed = wanted.n
                    duplicate = self._log.charge(wanted.n, key=key, headers=seen.headers)
                    seconds = self._limiter.charge(workload, now=now)
        return _Call(
            request=request,
            seen=seen,
            number=number,
            id=f"emu-{number:06d}",
            now=now,
            seconds=seconds,
            route=route,
            error=error,
            wanted=wanted,
            images=images,
            faults=faults,
            images_billed=images_billed,
            duplicate=duplicate,
        )

    def _check(
        self, request: httpx.Request, *, content: dict[str, object] | ServiceError
    ) -> tuple[Route | None, GenerateRequest | None, ServiceError | None]:
        """The route of a request, with the parsed request or the error; no state is needed for these checks."""
        route = find_route(request.method, path=request.url.path)
        if isinstance(route, ServiceError):
            return None, None, route
        if route == "download":  # needs no key: the link is signed
            return route, None, None
        error = check_key(request.headers.get("authorization"), api_key=self._api_key)
        if error is not None or route == "models":
            return route, None, error
        read = content if isinstance(content, ServiceError) else read_generate_request(content, models=FLUX_MODELS)
        return (route, None, read) if isinstance(read, ServiceError) else (route, read, None)

    def _images(
        self, wanted: GenerateRequest, *, occurrence_id: str, body: dict[str, object] | None
    ) -> dict[str, HostedImage]:
        """The images of a request by name, in order. They are drawn later, when an answer contains them."""
        pixels = _MEGAPIXEL if wanted.area is None else wanted.area
        if self._pixels is not None:
            pixels = min(self._pixels, wanted.area or self._pixels)
        width, height = area_to_size(pixels, ratio=wanted.ratio)
        images = {}
        for index in range(wanted.n):
            spec = PictureSpec(
                prompt=wanted.prompt,
                # A seed below 0 stands for a random one, so every request gets another picture.
                source_digest=wanted.source_digest + (occurrence_id if wanted.seed < 0 else ""),
                seed=wanted.seed,
                index=index,
                width=width,
                height=height,
            )
            images[file_name(spec, occurrence_id=occurrence_id)] = HostedImage(spec=spec, request_body=body)
        return images


def _serve(call: _Call) -> Reply:
    """The answer without faults."""
    if call.error is not None:
        error_reply = xml_error if call.route == "download" else error_response
        return error_reply(call.error, request_id=call.id)
    if call.wanted is not None:
        data = []
        for name, image in call.images.items():
            item = {"url": link_to(name, expires=int(call.now) + LINK_LIFETIME, origin=call.request.url)}
            if call.wanted.inline:
                item["b64_json"] = f"data:image/png;base64,{base64.b64encode(draw(image.spec)).decode('ascii')}"
            data.append(item)
        return json_reply({"created": int(call.now), "data": data, "usage": {"input_tokens_details": {}}})
    if call.route == "download":
        for image in call.images.values():
            return Reply(status=200, headers={"content-type": "image/png"}, body=draw(image.spec))
        missing = ServiceError(status=404, code="NoSuchKey", message="There is no such picture here.")
        return xml_error(missing, request_id=call.id)
    models = [
        {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": name.partition("/")[0]}
        for name in FLUX_MODELS
    ]
    return json_reply({"object": "list", "data": models})


def _journal_entry(call: _Call, *, status: int) -> JournalEntry:
    return JournalEntry(
        time=call.now,
        number=call.number,
        method=call.seen.method,
        path=call.seen.path,
        status=status,
        body=call.seen.body,
        idempotency_key=call.seen.headers.get("idempotency-key"),
        request_id=call.id,
        images_billed=call.images_billed,
        duplicate=call.duplicate,
        fault=", ".join(map(str, call.faults)) or None,
    )
