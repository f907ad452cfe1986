"""Many calls against a service in which most things go wrong, by a seeded script: what is paid twice, lost or foreign.

Three clients make the same calls: ours with its default policy, ours that never pays twice, and the plain SDK with its
defaults. Waits are virtual. Every call has a fresh client: the retry quota of one that meets so much trouble would soon
be used up. What the README calls unbilled is unbilled here; all else comes billed and unbilled.

`python -m tests.benchmarks.chaos` is the same with 20,000 faults and more, and prints the figures side by side.
"""

import base64
import binascii
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openai
import pytest

from flux_openai import Emulator, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply, VirtualClock, fault_table
from flux_openai.errors import DownloadError, FluxError
from flux_openai.models import DEFAULT_MODEL

SEED, CALLS = 20_000, 400
FAULTS = [(on, fault) for fault, on, *_ in fault_table() if not fault.startswith("oversize")]  # 65 MiB each
ORDER_FAULTS = (
    *(fault for on, fault in FAULTS if on == "generate"),
    *(f"status({code}, billed=true)" for code in (408, 409, 500, 502, 503, 504, 520, 524)),
    *("status(429, retry_after=3s)", "status(503, retry_after=2s)", "status(503, retry_after=90s)"),
    *('status(429), header(retry-after, "soon")', 'status(429), header(retry-after-ms, "1500")'),
    *("timeout(billed=false)", "truncate(10%)", "truncate(95%)", "gzip, truncate", "empty_body(billed=false)"),
    *("error_in_200(rate_limit_exceeded, billed=false)", "gzip, gzip", "success(206), usage_null", "drip(90s)"),
)
LINK_FAULTS = tuple(fault for on, fault in FAULTS if on == "download")

SAID_TO_HAVE_FAILED = frozenset({409, 500, 502, 503})


def _rules(selector: str, faults: tuple[str, ...], chance: float) -> list[str]:
    # The first rule that matches wins, so a later one has less left to take its share from.
    share = chance / len(faults)
    return [f"{selector} p={share / (1 - at * share):.6f} -> {fault}" for at, fault in enumerate(faults)]


# All faults with the same share: 85 % of the orders and 60 % of the downloads go wrong.
SCRIPT = "\n".join([*_rules("*", ORDER_FAULTS, 0.85), *_rules("img", LINK_FAULTS, 0.6)])


@dataclass(frozen=True, kw_only=True)
class Order:
    """One POST as it went: its reply, the images billed, and those in a whole answer."""

    reply: Reply
    billed: int
    usable: int

    @property
    def not_done(self) -> bool:
        """Whether its client can know that it was not carried out: it was turned away, or never sent whole."""
        broken_off = self.reply.error is not None and self.reply.error not in (
            "timeout",
            "reset",
            "garbage",
            "truncate",
        )
        return broken_off or (self.reply.error is None and self.reply.status == 429)

    @property
    def said_to_have_failed(self) -> bool:
        """Whether the service itself said so."""
        return self.reply.error is None and self.reply.status in SAID_TO_HAVE_FAILED


class Service(Emulator):
    """The emulator with a list of its orders; its journal counts the faults."""

    def __init__(self, journal: Path) -> None:
        super().__init__(clock=VirtualClock(), script=SCRIPT, seed=SEED, pixels=1, journal=journal)
        self.orders: list[Order] = []

    def answer(self, request: httpx.Request) -> Reply:
        before = self.bill.images
        reply = super().answer(request)
        if request.method == "POST":
            self.orders.append(Order(reply=reply, billed=self.bill.images - before, usable=usable(reply)))
        return reply


def usable(reply: Reply) -> int:
    """How many images a whole answer holds, if it is JSON in UTF-8, plain or in the one encoding that is asked for."""
    if (
        reply.error is not None
        or reply.status not in (200, 201, 206)
        or reply.headers.get("content-encoding", "gzip") != "gzip"
    ):
        return 0
    try:
        body = zlib.decompress(reply.body, 31) if reply.headers.get("content-encoding") == "gzip" else reply.body
        answer = json.loads(body.decode("utf-8-sig"), parse_constant=int)  # NaN is no JSON
    except (zlib.error, ValueError, RecursionError):
        return 0
    items = (answer.get("data") if isinstance(answer, dict) else None) or []
    return sum(isinstance(item, dict) and ("url" in item or _is_data(item.get("b64_json"))) for item in items)


def _is_data(text: object) -> bool:
    plain = "".join(str(text or "").rpartition(",")[2].split()).translate({45: 43, 95: 47}).rstrip("=")
    return _is_plain(plain + "=" * (-len(plain) % 4))


def _is_plain(text: str | None) -> bool:
    try:
        return bool(base64.b64decode(text or "", validate=True))
    except binascii.Error:
        return False


@dataclass(kw_only=True)
class Figures:
    calls: int
    orders: int = 0
    order_faults: int = 0
    link_faults: int = 0
    images_paid: int = 0
    images_received: int = 0
    paid_twice: int = 0  # images, billed for a call that had been billed before
    paid_twice_blindly: int = 0  # those of them after an attempt of which nobody could know whether it was billed
    lost: int = 0  # images in a whole answer that are not in what the caller got
    garbled: int = 0  # images whose `b64_json` is not the base64 it is documented to be
    foreign: int = 0  # exceptions that are no openai.OpenAIError, on the way to `data` and to its items
    hasty: int = 0  # orders after one that, as far as its client could know, may have been billed
    misbilled: int = 0  # outcomes whose `billing` is missing or contradicts the bill
    unread: int = 0  # downloads that failed for good


class PlainSDK(openai.OpenAI):
    """The SDK with its defaults; each wait that it works out passes on the service's clock, and it sleeps 0 seconds."""

    def __init__(self, service: Service) -> None:
        super().__init__(api_key="emulator", base_url=service.base_url, http_client=service.http_client())
        self._service = service

    def _calculate_retry_timeout(self, *args: Any, **kwargs: Any) -> float:  # noqa: ANN401  # the SDK's own
        self._service.clock.sleep(super()._calculate_retry_timeout(*args, **kwargs))
        return 0.0


CLIENTS: Mapping[str, Callable[[Service], openai.OpenAI]] = {
    "default": lambda service: service.client(retry=RetryPolicy()),
    "never": lambda service: service.client(retry=RetryPolicy(duplicates="never")),
    "plain": PlainSDK,
}


def run(name: str, calls: int) -> Figures:
    with TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.jsonl"
        service, figures = Service(journal), Figures(calls=calls)
        for number in range(calls):
            first = len(service.orders)
            outcome = _call(CLIENTS[name](service), number, figures)
            _judge(service.orders[first:], *outcome, figures=figures)
        entries = map(json.loads, journal.read_text(encoding="utf-8").splitlines())
        faults = Counter(entry["method"] for entry in entries if entry["fault"])
    figures.orders, figures.images_paid = len(service.orders), service.bill.images
    figures.order_faults, figures.link_faults = faults["POST"], faults["GET"]
    # Also those of the plain SDK, which sends no Idempotency-Key: each call has a body of its own.
    assert service.bill.duplicates == figures.paid_twice
    return figures


def _call(client: openai.OpenAI, number: int, figures: Figures) -> tuple[int, Exception | None]:
    arguments: dict[str, Any] = {"n": 1 + number % 3, "response_format": ("url", "b64_json")[number % 2]}
    try:
        data = client.images.generate(model=DEFAULT_MODEL, prompt=f"chaos {number}", **arguments).data or []
        received = sum(bool(image.url or image.b64_json) for image in data)
        figures.garbled += sum(_is_data(image.b64_json) and not _is_plain(image.b64_json) for image in data)
    except Exception as error:  # noqa: BLE001  # what comes that nobody announced is what is counted
        figures.foreign += not isinstance(error, openai.OpenAIError)
        return 0, error
    for image in data if not isinstance(client, PlainSDK) else []:
        try:
            image.read()
        except DownloadError as error:
            figures.unread += 1
            figures.misbilled += error.billing != "paid"
    return received, None


def _judge(orders: list[Order], received: int, error: Exception | None, *, figures: Figures) -> None:
    billed = [order.billed for order in orders if order.billed]
    figures.images_received += received
    figures.paid_twice += sum(billed[1:])
    figures.lost += max(0, sum(order.usable for order in orders) - received)
    billing = error.billing if isinstance(error, FluxError) else None if error else "paid"
    contradicted = (billing == "none" and bool(billed)) or (billing == "paid" and not billed)
    figures.misbilled += billing is None or contradicted
    for at, order in enumerate(orders[1:], start=1):
        figures.hasty += any(not earlier.not_done for earlier in orders[:at])
        if any(earlier.billed and not earlier.said_to_have_failed for earlier in orders[:at]):
            figures.paid_twice_blindly += order.billed


@pytest.mark.parametrize("name", ["never", "default"])
def test_nothing_that_was_paid_is_lost_and_the_bill_is_told(name: str) -> None:
    """Every image that came is handed over whole, every error is ours, and `billing` never contradicts the bill."""
    figures = run(name, CALLS)
    assert figures.orders > figures.calls
    assert figures.lost == 0
    assert figures.garbled == 0
    assert figures.foreign == 0
    assert figures.misbilled == 0
    if name == "never":
        assert figures.paid_twice == 0
        assert figures.hasty == 0
    else:
        assert figures.paid_twice > 0
        assert figures.paid_twice_blindly == 0


def test_the_plain_sdk_pays_twice_after_the_unknown_and_raises_what_nobody_announced() -> None:
    """Under the same script the plain SDK pays for unknown outcomes again, and lets foreign errors through."""
    figures = run("plain", 100)
    assert figures.paid_twice_blindly > 0
    assert figures.foreign > 0


@pytest.mark.parametrize(
    "name", ["default", *(pytest.param(name, marks=pytest.mark.full) for name in ("never", "plain"))]
)
def test_the_same_seed_gives_the_same_figures(name: str) -> None:
    """A run can be repeated: chance hangs on the seed alone."""
    assert run(name, 60) == run(name, 60)
