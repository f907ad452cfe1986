"""The matrix of faults: what each comes to for one call, in this process and over a port, sync and async."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from threading import Semaphore
from typing import TYPE_CHECKING, Any, Literal, cast

import openai
import pytest

from flux_openai import Emulator, errors
from flux_openai._http import capture as wire
from flux_openai._http.library import httpx
from flux_openai.emulator import Bill, Reply
from flux_openai.sending import sender as sending
from tests.promises.money.conftest import done
from tests.promises.money.matrix import ATTEMPTS, LINKS, ROWS, SDK, Link, Row, Setting
from tests.promises.money.network import FULL_BACKLOG, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _pytest.mark import ParameterSet

    from flux_openai.retry import RetryEvent
    from tests.promises.money.conftest import Caller, MakeServer, OpenClient, Side

Face = Literal["here", "served"]
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse instead of keeping silent")
N = 2


class Service(Emulator):
    """An emulator that tells when it has taken a request: one that the client gave up may still be on its way."""

    def __init__(self) -> None:
        self.taken = Semaphore(0)
        super().__init__(pixels=64)

    def answer(self, request: httpx.Request) -> Reply:
        reply = super().answer(request)
        self.taken.release()
        return reply


@dataclass(frozen=True, kw_only=True)
class Line:
    """A way to the one service, and what that had counted before."""

    service: Service
    face: Face
    side: Side
    open: Callable[..., Caller]
    before: int
    bill: Bill

    def caller(self, duplicates: str = "unlikely", *, read: float = 60) -> Caller:
        """A client of the policy that the matrix is for."""
        retry = {"max_attempts": ATTEMPTS, "duplicates": duplicates}
        return self.open(retry=retry, timeout=openai.Timeout(60, read=read))

    def counted(self, count: int) -> Counter[str]:
        """The methods of the requests since then, once there are so many."""
        assert all(self.service.taken.acquire(timeout=30) for _ in range(count))
        return Counter(request.method for request in self.service.requests[self.before :])

    def billed(self, calls: int) -> Bill:
        """What the bill should be after so many calls under one key."""
        again = max(0, calls - 1)
        was = self.bill
        return Bill(images=was.images + N * calls, calls=was.calls + calls, duplicates=was.duplicates + N * again)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Service, str]]:
    """The one service and its address on this machine; each test has a prompt of its own."""
    service = Service()
    with service.serve() as server:
        yield service, server.base_url


@pytest.fixture(params=["here", "served"])
def face(request: pytest.FixtureRequest) -> Face:
    """In this process, or over a port."""
    return cast("Face", request.param)


@pytest.fixture
def line(face: Face, served: tuple[Service, str], side: Side, open_client: OpenClient) -> Line:
    """A way to the service by this face, for a client of this side."""
    service, address = served
    http: dict[str, object] = {"trust_env": False}
    if face == "here":
        address = service.base_url
        http = {"transport": httpx.MockTransport(service.handle if side == "sync" else service.ahandle)}
    opened = partial(open_client, address, http=http)
    before, bill = len(service.requests), service.bill
    return Line(service=service, face=face, side=side, open=opened, before=before, bill=bill)


def cases() -> Iterator[ParameterSet]:
    """Every row on both faces, under the settings that it is worth playing under."""
    here = {row.act: row for row in ROWS}.values()
    served = [row.served or row for row in ROWS if row.scene is None]
    for face, rows in (("here", here), ("served", served)):
        for row in rows:
            for duplicates, once in row.settings:
                name = f"{row.act} {face} {duplicates}{' once' if once else ''}"
                yield pytest.param(face, row, (duplicates, once), id=name)


def check(error: errors.FluxError, row: Row, *, attempts: int, events: list[RetryEvent]) -> None:
    """The error is the row's: our class and the SDK's, billing, attempts, and what the retries were for."""
    assert row.raises is not None
    assert type(error) is getattr(errors, row.raises)
    assert isinstance(error, getattr(openai, SDK.get(row.raises) or row.raises.removeprefix("Flux")))
    assert (error.billing, error.attempts) == (row.billing, attempts)
    assert [event.reason for event in events] == [row.cause] * (attempts - 1)


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize(("face", "row", "setting"), list(cases()))
async def test_a_fault_ends_the_same_on_every_face(
    line: Line, monkeypatch: pytest.MonkeyPatch, row: Row, setting: Setting
) -> None:
    """Error, requests, bill and `billing` are those of the table; a retry after the fault ends well."""
    monkeypatch.setattr(wire, "BODY_TIME", row.body_time)
    duplicates, once = setting
    failing = row.failing(setting)
    line.service.script(f"* {'#1' if once else '#1..3'} -> {row.act}")
    well = once or row.raises is None
    # Silence need not last, but an answer must have time to come.
    caller = line.caller(duplicates, read=max(row.read, 1) if well else row.read)
    prompt = f"{row.act} {line.face} {line.side} {setting}"
    posts = failing + (well and row.raises is not None)
    if well:
        assert (await caller.generate(prompt, n=N, response_format="b64_json")).attempts == posts
    else:
        error = await caller.fails(prompt, n=N, response_format="b64_json")
        check(error, row, attempts=failing, events=caller.events)
    assert line.counted(posts) == {"POST": posts}
    assert line.service.bill == line.billed(row.billed * failing + posts - failing)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=only_linux if row.scene is FULL_BACKLOG else ()) for row in ROWS if row.scene],
    ids=str,
)
async def test_what_the_network_keeps_back_is_free(
    row: Row, serve: MakeServer, monkeypatch: pytest.MonkeyPatch, open_client: OpenClient
) -> None:
    """The same rows on real sockets: no server gets a whole POST."""
    assert row.scene is not None
    with contextlib.ExitStack() as stack:
        stage = Stage(serve=serve, monkeypatch=monkeypatch, stack=stack)
        options: dict[str, Any] = row.scene.set_up(stage)
        prompt = options.pop("prompt", "a red fox")
        setting = row.settings[0]
        caller = open_client(**options, retry={"max_attempts": ATTEMPTS, "duplicates": setting[0]})
        error = await caller.fails(prompt)
        check(error, row, attempts=row.failing(setting), events=caller.events)
        assert (error.retry_after, error.request_id, stage.posts()) == (None, None, 0)


def link_cases() -> Iterator[ParameterSet]:
    """Every fault of a link, always; and once, where that makes a difference."""
    for link in LINKS:
        for once in (False, True)[: 2 if link.gets > 1 else 1]:
            yield pytest.param(link, once, id=f"{link.act}{' once' if once else ''}")


@pytest.mark.anyio
@pytest.mark.parametrize(("link", "once"), list(link_cases()))
async def test_a_link_that_fails_buys_nothing_again(
    line: Line, monkeypatch: pytest.MonkeyPatch, link: Link, *, once: bool
) -> None:
    """The order is paid for once; a link is read up to five times, and again only where that may help."""
    if link.act in ("timeout", "slow(3600s)"):
        monkeypatch.setattr(sending, "TIMEOUT", 1 if once else 0.05)
    line.service.script(f"img {'#1 ' if once else ''}-> {link.act}")
    image = (await line.caller().generate(f"{link.act} {line.face} {line.side} {once}", n=N)).data[0]
    read = image.read if line.side == "sync" else image.aread
    gets = min(2, link.gets) if once else link.gets
    if link.raises is None or once:
        assert (await done(read())).startswith(b"\x89PNG")
    else:
        with pytest.raises(errors.DownloadError) as caught:
            await done(read())
        error = caught.value
        assert (type(error).__name__, error.billing, error.attempts) == (link.raises, "paid", link.tries)
    assert line.counted(1 + gets) == {"POST": 1, "GET": gets}
    assert line.service.bill == line.billed(1)
