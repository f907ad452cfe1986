"""The emulator itself: routes, and the little state that lies behind them."""

import base64
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TypedDict, Unpack

from flux_openai._http.library import httpx
from flux_openai.emulator.api.hosting import LIFETIME, Hosted, file_name, link_to, name_in, refuse_link
from flux_openai.emulator.api.pictures import Sketch, area_to_size, draw
from flux_openai.emulator.api.requests import Order, read_json, read_order, refuse_key
from flux_openai.emulator.api.responses import Breakage, Refusal, Reply, envelope, json_reply, xml_error
from flux_openai.emulator.api.routes import Route, find_route
from flux_openai.emulator.call import Call, entry_of
from flux_openai.emulator.faults.effects import apply_faults
from flux_openai.emulator.faults.fault import Fault, Target
from flux_openai.emulator.faults.queue import FaultQueue, make_fault
from flux_openai.emulator.faults.rules import Rule, Script, find_faults
from flux_openai.emulator.faults.script import as_script
from flux_openai.emulator.journal import Bill, Charge, Journal, SeenRequest, request_key
from flux_openai.emulator.load.clock import Clock, RealClock
from flux_openai.emulator.load.gate import Gate, work_of
from flux_openai.emulator.load.latency import Latency
from flux_openai.emulator.load.limits import Limit
from flux_openai.emulator.options import as_logbook, check_options
from flux_openai.emulator.transport.in_process import as_seen, atell, deliver, tell
from flux_openai.emulator.transport.server import Server
from flux_openai.models import FLUX_MODELS

__all__ = ["ClientOptions", "Emulator"]

_MEGAPIXEL = 2**20

_MODELS_CREATED = 1_750_667_997  # of the documented example: there has to be one, and it must not move


class ClientOptions(TypedDict, total=False):
    """The options of an httpx client that mean something when no network lies behind it."""

    auth: tuple[str, str] | httpx.Auth
    base_url: str | httpx.URL
    cookies: dict[str, str]
    event_hooks: Mapping[str, list[Callable[..., object]]]
    follow_redirects: bool
    headers: Mapping[str, str]
    max_redirects: int
    params: Mapping[str, str]
    timeout: float | httpx.Timeout | None
    trust_env: bool


class Emulator:
    """A FLUX image service in this process, to be put behind an httpx client; safe to use from several threads.

    `flux_openai.Emulator` is the same with our clients in front of it.

    `api_key` is the only key accepted, or None for any; `pixels` is the approximate area of a picture, at least 1, or
    None for a megapixel, and for the exact size where an order has one. `clock` is a clock, or gives the Unix time in
    seconds. `limits` and `latency`, objects or text, say what is turned away and how long the rest takes. `script` says
    what goes wrong, and `seed` decides where it leaves that to chance. `journal` is a file that gets a line of JSON for
    each request. What a limit refuses uses up no fault; what a fault leaves unbilled draws on no limit and takes no
    time. Raises ConfigurationError for other values.
    """

    base_url: str = "https://api.umodelverse.ai/v1"

    def __init__(
        self,
        *,
        api_key: str | None = None,
        pixels: int | None = None,
        clock: Clock | Callable[[], float] = time.time,
        limits: Iterable[Limit | str] = (),
        latency: Latency | str = "0s",
        script: str | Script | Rule | None = None,
        seed: int = 0,
        journal: str | Path | None = None,
    ) -> None:
        check_options(api_key=api_key, pixels=pixels, clock=clock, seed=seed)
        self.api_key = api_key
        self._pixels = pixels
        self.clock = clock if isinstance(clock, Clock) else RealClock(now=clock)
        self._gate = Gate(limits=limits, latency=latency)
        self._lock = Lock()
        self._journal = Journal()
        self._logbook = as_logbook(journal)
        self._queue = FaultQueue()
        self._hosted: dict[str, Hosted] = {}
        self._script = as_script(script)
        self._seed = seed

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request so far, oldest first, those that failed included; a copy."""
        with self._lock:
            return list(self._journal.requests)

    @property
    def bill(self) -> Bill:
        """What the calls so far would have cost; it does not change after it was taken."""
        with self._lock:
            return self._journal.bill

    def http_client(self, **options: Unpack[ClientOptions]) -> httpx.Client:
        """A client of httpx whose requests end here, whatever their host."""
        return httpx.Client(transport=httpx.MockTransport(self.handle), **options)

    def async_http_client(self, **options: Unpack[ClientOptions]) -> httpx.AsyncClient:
        """An async client of httpx whose requests end here, whatever their host."""
        return httpx.AsyncClient(transport=httpx.MockTransport(self.ahandle), **options)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> Server:
        """This emulator on a port of this machine, for a `with` block or until `close`; port 0 picks a free one.

        Raises ConfigurationError for a host that other machines can reach, and for a port that cannot be had.
        """
        return Server(self.answer, host=host, port=port, wait=self.clock.asleep)

    def fail(
        self,
        times: int = 1,
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: object | bytes | str | None = None,
        error: Breakage | None = None,
        billed: bool | None = None,
        on: Target = "generate",
    ) -> None:
        """Make the next `times` calls of one kind go wrong, after those already lined up.

        Either `status`, from 200 to 599, answers in place of the service: with `body`, or with the documented error
        if there is none. Or `error` breaks the exchange: before the order was sent ("connect", "dns", "tls", …), after
        that ("timeout", "reset", "garbage"), or "truncate" half way through a good answer. `billed` says whether an
        order counts on the bill all the same; left out, it does for a 2xx and for what breaks after sending. Raises
        ConfigurationError for anything else.
        """
        fault = make_fault(times=times, status=status, headers=headers, body=body, error=error, billed=billed, on=on)
        with self._lock:
            self._queue.add(fault, times=times, on=on)

    def script(self, script: str | Script | Rule | None) -> None:
        """Let this script say from now on what goes wrong, or nothing with None; what `fail` lines up goes first.

        Occurrences count what no limit turned away, also before now. Raises ScriptError for a text that is no script.
        """
        read = as_script(script)
        with self._lock:
            self._script = read

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request of httpx when it is time; for `httpx.MockTransport`. Raises what `fail` asked for."""
        reply = as_seen(self.answer(request), request=request)
        self.clock.sleep(reply.delay)
        tell(reply, request=request)
        return deliver(reply, request=request, clock=self.clock)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        """The same without blocking the event loop."""
        reply = as_seen(self.answer(request), request=request)
        await self.clock.asleep(reply.delay)
        await atell(reply, request=request)
        return deliver(reply, request=request, clock=self.clock)

    def answer(self, request: httpx.Request) -> Reply:
        """Answer one request in plain values, for any way of delivery."""
        call = self._admit(request)
        on: Target = "download" if call.route == "download" else "generate"
        path = request.url.raw_path.decode("ascii")
        reply = apply_faults(self._serve(call), call.faults, request_id=call.id, on=on, path=path)
        if self._logbook is not None:
            self._logbook.add(entry_of(call, status=reply.status))
        # An exchange that was to time out is as late as it says itself.
        late = 0.0 if reply.error == "timeout" else call.seconds
        return replace(reply, headers={"x-request-id": call.id, **reply.headers}, delay=reply.delay + late)

    def _admit(self, request: httpx.Request) -> Call:
        content = read_json(request.read())
        route = find_route(request.method, path=request.url.path)
        seen = SeenRequest(
            method=request.method,
            path=request.url.path,
            headers=httpx.Headers(request.headers),
            body=None if isinstance(content, Refusal) else content,
        )
        key, charge, seconds = request_key(seen), Charge(), 0.0
        with self._lock:
            # Read in here, so that of two requests the one that is counted later is not the earlier one.
            now = self.clock.now()
            verdict = self._judge(request, content=content, route=route, now=now)
            number, nth = self._journal.add(seen), self._journal.times(key) + 1
            work = work_of(verdict, token=f"{key}:{nth}")
            refusal = None if work is None else self._gate.refuse(work, now=now)
            if refusal is None:
                self._journal.admit(key)
            faults: tuple[Fault, ...] = ()
            if refusal is None and not isinstance(route, Refusal):
                hosted = self._hosted.get(name_in(request.url))
                order = seen.body if hosted is None else hosted.order
                faults = self._queue.take(route) or find_faults(
                    self._script, order, on=route, key=key, nth=nth, seed=self._seed
                )
            if work is not None and refusal is None and all(fault.bills for fault in faults):
                charge = self._journal.charge(work.images, idempotency_key=seen.headers.get("idempotency-key"))
                seconds = self._gate.charge(work, now=now)
        return Call(
            request=request,
            seen=seen,
            number=number,
            id=f"emu-{number:06d}",
            token=f"{key}:{nth}",
            now=now,
            seconds=seconds,
            route=route,
            verdict=refusal or verdict,
            faults=faults,
            charge=charge,
        )

    def _judge(
        self, request: httpx.Request, *, content: dict[str, object] | Refusal, route: Route | Refusal, now: float
    ) -> Order | Refusal | None:
        if isinstance(route, Refusal):
            return route
        if route == "download":
            return refuse_link(request.url, now=now)
        refusal = refuse_key(request.headers.get("authorization"), api_key=self.api_key)
        if refusal is not None or route == "models":
            return refusal
        return content if isinstance(content, Refusal) else read_order(content, models=FLUX_MODELS)

    def _serve(self, call: Call) -> Reply:
        match call.verdict:
            case Refusal() as refusal:
                return (xml_error if call.route == "download" else envelope)(refusal, request_id=call.id)
            case Order() as order:
                return self._generate(order, call=call)
            case None:
                return self._download(call) if call.route == "download" else _list_models()

    def _generate(self, order: Order, *, call: Call) -> Reply:
        width, height = area_to_size(self._area(order), ratio=order.ratio)
        sketches = [
            Sketch(
                prompt=order.prompt,
                # Without a seed of its own, every call draws another picture.
                inspiration=order.inspiration + (call.token if order.seed < 0 else ""),
                seed=order.seed,
                index=index,
                width=width,
                height=height,
            )
            for index in range(order.n)
        ]
        data = [self._host(sketch, call=call) | (_inline(sketch) if order.inline else {}) for sketch in sketches]
        return json_reply({"created": int(call.now), "data": data, "usage": {"input_tokens_details": {}}})

    def _area(self, order: Order) -> int:
        if self._pixels is None:
            return order.area or _MEGAPIXEL
        return min(self._pixels, order.area or self._pixels)

    def _host(self, sketch: Sketch, *, call: Call) -> dict[str, str]:
        name = file_name(sketch, token=call.token)
        with self._lock:
            self._hosted[name] = Hosted(sketch=sketch, order=call.seen.body)
        return {"url": link_to(name, expires=int(call.now) + LIFETIME, origin=call.request.url)}

    def _download(self, call: Call) -> Reply:
        with self._lock:
            hosted = self._hosted.get(name_in(call.request.url))
        if hosted is None:
            missing = Refusal(status=404, code="NoSuchKey", message="There is no such picture here.")
            return xml_error(missing, request_id=call.id)
        return Reply(status=200, headers={"content-type": "image/png"}, body=draw(hosted.sketch))


def _list_models() -> Reply:
    models = [
        {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": name.partition("/")[0]}
        for name in FLUX_MODELS
    ]
    return json_reply({"object": "list", "data": models})


def _inline(sketch: Sketch) -> dict[str, str]:
    return {"b64_json": f"data:image/png;base64,{base64.b64encode(draw(sketch)).decode('ascii')}"}
