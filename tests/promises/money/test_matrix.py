"""Every fault of the emulator's catalogue, for one call: its error, its `billing`, the requests and the true bill.

By default each row is played in this process under the setting that tells most of it, and each kind of row also by
an async client and over a port. `pytest -m full` plays all of them under all settings, both ways and over both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from threading import Semaphore
from typing import TYPE_CHECKING, Literal

import openai
import pytest

from flux_openai import Emulator, errors
from flux_openai._http.library import httpx
from flux_openai.emulator import Bill, Reply, fault_table
from tests.promises.money.faults import ATTEMPTS, LINKS, ROWS, SDK, UNANSWERED, LinkRow, Row, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _pytest.mark import ParameterSet

    from tests.promises.money.conftest import Caller, OpenClient, Side

Face = Literal["in process", "on a port"]
FACES: tuple[Face, ...] = ("in process", "on a port")
SIDES: tuple[Side, ...] = ("sync", "async")
N = 2


class CountingEmulator(Emulator):
    """An emulator that can be waited for: a request that the client gave up may still be on its way."""

    def __init__(self) -> None:
        self._answered = Semaphore(0)
        super().__init__(pixels=64)

    def answer(self, request: httpx.Request) -> Reply:
        reply = super().answer(request)
        self._answered.release()
        return reply

    def methods(self, count: int) -> Counter[str]:
        """The methods of all requests, once there are so many."""
        assert all(self._answered.acquire(timeout=30) for _ in range(count))
        return Counter(request.method for request in self.requests)


@dataclass(frozen=True, kw_only=True)
class Service:
    """The emulator by one of its faces, and how to open a client of this test's side."""

    emulator: CountingEmulator
    base_url: str
    http: dict[str, object]
    open_client: OpenClient

    def caller(self, duplicates: str = "unlikely", *, read: float = 60) -> Caller:
        """A client of the policy that the rows are for."""
        retry = {"max_attempts": ATTEMPTS, "duplicates": duplicates}
        return self.open_client(self.base_url, http=self.http, retry=retry, timeout=openai.Timeout(60, read=read))


@pytest.fixture
def service(face: Face, side: Side, open_client: OpenClient) -> Iterator[Service]:
    """An emulator of this test's own."""
    emulator = CountingEmulator()
    if face == "in process":
        handle = emulator.handle if side == "sync" else emulator.ahandle
        http: dict[str, object] = {"transport": httpx.MockTransport(handle)}
        yield Service(emulator=emulator, base_url=emulator.base_url, http=http, open_client=open_client)
    else:
        with emulator.serve() as server:
            yield Service(
                emulator=emulator, base_url=server.base_url, http={"trust_env": False}, open_client=open_client
            )


def first_of_each_kind(rows: Iterable[Row]) -> set[str]:
    """The fault of the first row of each cause, error and billing."""
    return set({(row.cause, row.raises, row.billing): row.fault for row in reversed(list(rows))}.values())


KINDS = first_of_each_kind(ROWS)
# What breaks on its way is what differs between the faces, and between the two HTTP libraries.
OVER_A_PORT = first_of_each_kind(row for row in ROWS if row.on_a_port) | {row.fault for row in UNANSWERED}


def is_default(row: Row, setting: Setting, face: Face, side: Side) -> bool:
    """Whether a case is played without `-m full` too."""
    if row.slow or (setting != row.settings[0] and (row.fault not in KINDS or side == "async" or face == "on a port")):
        return False
    return (side == "sync" or row.fault in KINDS) and (face == "in process" or row.fault in OVER_A_PORT)


def cases() -> Iterator[ParameterSet]:
    """Every row by both faces and sides, under the settings that it is worth playing under."""
    for row, face, side in product(ROWS, FACES, SIDES):
        for setting in row.settings if row.on_a_port or face == "in process" else ():
            duplicates, faulty = setting
            name = f"{row.fault} {face} {side} {duplicates}{' once' if faulty else ''}"
            marks = () if is_default(row, setting, face, side) else (pytest.mark.full,)
            yield pytest.param(row, setting, face, side, id=name, marks=marks)


@pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize(("row", "setting", "face", "side"), list(cases()))
def test_a_fault_ends_as_declared(service: Service, request: pytest.FixtureRequest, row: Row, setting: Setting) -> None:
    """Error, requests, bill and `billing` are those of the table; a retry after the fault ends well."""
    if row.short_body:
        request.getfixturevalue("short_bodies")
    duplicates, faulty = setting
    failing = row.failing(setting)
    service.emulator.script(f"* {'#1' if faulty else '#1..3'} -> {row.fault}")
    ends_well = faulty is not None or row.raises is None
    # Silence need not last, but an answer must have time to come.
    caller = service.caller(duplicates, read=max(row.read, 1) if ends_well else row.read)
    posts = failing + (ends_well and row.raises is not None)
    if ends_well:
        assert caller.generate(n=N, response_format="b64_json").attempts == posts
    else:
        error = caller.fails(n=N, response_format="b64_json")
        assert row.raises is not None
        assert type(error) is getattr(errors, row.raises)
        assert isinstance(error, getattr(openai, SDK.get(row.raises) or row.raises.removeprefix("Flux")))
        assert error.billing == row.billing
        assert error.attempts == posts
    assert [event.reason for event in caller.events] == [row.cause] * (posts - 1)
    assert service.emulator.methods(posts) == {"POST": posts}
    billed = row.billed * failing + posts - failing
    assert service.emulator.bill == Bill(images=N * billed, calls=billed, duplicates=N * max(0, billed - 1))


def link_cases() -> Iterator[ParameterSet]:
    """Every fault of a link, always; and once, where that makes a difference."""
    kinds = set({(row.raises, row.gets): row.fault for row in reversed(LINKS)}.values())
    for row, face, side in product(LINKS, FACES, SIDES):
        for once in (False, True)[: 2 if row.gets > 1 else 1]:
            common = side == "sync" and face == "in process"
            marks = () if common or (row.fault in kinds and not once) else (pytest.mark.full,)
            yield pytest.param(row, once, face, side, id=f"{row.fault} {face} {side}{' once' * once}", marks=marks)


@pytest.mark.parametrize(("row", "once", "face", "side"), list(link_cases()))
def test_a_link_that_fails_buys_nothing_again(
    service: Service, row: LinkRow, side: Side, face: Face, *, once: bool
) -> None:
    """The order is paid for once; a link is read up to five times, and again only where that may help."""
    silent = row.fault in ("timeout", "slow(3600s)")
    read = 60 if not silent else 0.05 if face == "in process" else 1
    service.emulator.script(f"img {'#1 ' if once else ''}-> {row.fault}")
    caller = service.caller(read=read)
    image = caller.generate(n=N).data[0]
    gets = min(2, row.gets) if once else row.gets
    read_image = image.read if side == "sync" else image.aread
    if row.raises is None or once:
        assert caller.run(read_image()).startswith(b"\x89PNG")
    else:
        with pytest.raises(errors.DownloadError) as caught:
            caller.run(read_image())
        assert type(caught.value).__name__ == row.raises
        assert caught.value.billing == "paid"
        assert caught.value.attempts == row.tries
    assert service.emulator.methods(1 + gets) == {"POST": 1, "GET": gets}
    assert service.emulator.bill == Bill(images=N, calls=1)


def test_no_kind_of_fault_is_left_out() -> None:
    """Each fault that the emulator can play has a row here, and each download fault one for links."""
    names = {
        "generate": {row.fault.partition("(")[0] for row in ROWS},
        "download": {row.fault.partition("(")[0] for row in LINKS},
    }
    names["generate"] |= {part.partition("(")[0] for row in ROWS for part in row.fault.split(", ")}
    missing = {(on, fault) for fault, on, *_ in fault_table() if fault.partition("(")[0] not in names[on]}
    assert missing == set()
