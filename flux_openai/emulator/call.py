"""A request on its way through the emulator, and the line about it in the log."""

from dataclasses import dataclass

from flux_openai._http.library import httpx
from flux_openai.emulator.api.requests import Order
from flux_openai.emulator.api.responses import Refusal
from flux_openai.emulator.api.routes import Route
from flux_openai.emulator.faults.fault import Fault
from flux_openai.emulator.journal import Charge, SeenRequest
from flux_openai.emulator.logbook import Entry

__all__ = ["Call", "entry_of"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request on its way through; `verdict` is what to draw, why not, or None where nothing is drawn.

    `id` is by arrival; `token` tells what is asked and how many times before, so it does not depend on what else is
    under way. `seconds` is how long it takes.
    """

    request: httpx.Request
    seen: SeenRequest
    number: int
    id: str
    token: str
    now: float
    seconds: float
    route: Route | Refusal
    verdict: Order | Refusal | None
    faults: tuple[Fault, ...]
    charge: Charge


def entry_of(call: Call, *, status: int) -> Entry:
    """What the log says of a call that was answered with this status."""
    return Entry(
        time=call.now,
        number=call.number,
        method=call.seen.method,
        path=call.seen.path,
        status=status,
        body=call.seen.body,
        idempotency_key=call.seen.headers.get("idempotency-key"),
        request_id=call.id,
        images_billed=call.charge.images,
        duplicate=call.charge.duplicate,
        fault=", ".join(map(str, call.faults)) or None,
    )
