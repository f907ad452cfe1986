"""The matrix of faults: what each comes to for one call, in this process and over a port, sync and async."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from threading import Semaphore
from typing import TYPE_CHECKING, Literal

import openai
import pytest

from flux_openai import Emulator, errors, images
from flux_openai.emulator import Bill, Reply
from flux_openai.sdk import httpx
from tests.faults.conftest import done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.conftest import Caller, OpenClient, Side

Face = Literal["here", "served"]
N = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault of every attempt of at most three: what is raised (None: nothing) and with which `billing`.

    `posts` are the requests under the default policy and under "never", and `billed` says whether each of them is.
    """

    act: str
    raises: str | None = None
    billing: errors.Billing | None = None
    posts: tuple[int, int] = (1, 1)
    billed: bool = False
    timeout: bool = False
    served: Row | None = None


def refused(act: str, raises: str = "FluxStatusError") -> Row:
    return Row(act=act, raises=raises, billing="none")


def limited(act: str) -> Row:
    return Row(act=act, raises="FluxRateLimitError", billing="none", posts=(3, 3))


def failed(act: str, raises: str = "FluxInternalServerError", *, billed: bool = False) -> Row:
    return Row(act=act, raises=raises, billing="unknown", posts=(3, 1), billed=billed)


def unknown(act: str, raises: str = "FluxConnectionError", *, billed: bool = True, timeout: bool = False) -> Row:
    return Row(act=act, raises=raises, billing="unknown", billed=billed, timeout=timeout)


def useless(act: str, billing: errors.Billing = "unknown") -> Row:
    return Row(act=act, raises="BadResponseError", billing=billing, billed=True)


def odd(act: str) -> Row:
    return Row(act=act, billed=True)


REFUSALS = {
    **dict.fromkeys(("rate_limit_exceeded", "insufficient_quota", "429"), "FluxRateLimitError"),
    **dict.fromkeys(("content_policy_violation", "invalid_value"), "FluxBadRequestError"),
    "invalid_api_key": "FluxAuthenticationError",
    "permission_denied": "FluxPermissionDeniedError",
    "model_not_found": "FluxNotFoundError",
}
FAILURES = ("internal_server_error", "upstream_timeout", "503", "strange")
ROWS = (
    # Before the order counts. A connection that was made cannot be refused any more: over a port, it is reset.
    replace(limited("connect"), raises="FluxConnectionError", served=unknown("connect", billed=False)),
    unknown("reset(before_bill)", billed=False),
    # Sent, and no usable answer.
    unknown("reset(after_bill)"),
    unknown("timeout", "FluxTimeoutError", timeout=True),
    unknown("timeout(billed=false)", "FluxTimeoutError", billed=False, timeout=True),
    unknown("slow(3600s)", "FluxTimeoutError", timeout=True),
    *map(unknown, ("truncate", "truncate(1%)", "truncate(99%)")),
    *(refused(f"redirect({status})") for status in (301, 302, 307, 308)),
    # Error statuses.
    refused("status(400)", "FluxBadRequestError"),
    refused("moderation", "FluxBadRequestError"),
    refused("status(401)", "FluxAuthenticationError"),
    refused("status(402)"),
    refused("status(403)", "FluxPermissionDeniedError"),
    refused("status(404)", "FluxNotFoundError"),
    unknown("status(408)", "FluxStatusError", billed=False),
    failed("status(409)", "FluxConflictError"),
    failed("status(409, retry_after=1s)", "FluxConflictError"),
    refused("status(413)"),
    refused("status(422)", "FluxUnprocessableEntityError"),
    *map(limited, ("status(429)", "status(429, retry_after=0)", "status(429, retry_after=60s)")),
    refused("status(429, retry_after=61s)", "FluxRateLimitError"),
    refused("quota", "FluxRateLimitError"),
    refused("status(429, code=InsufficientBalance)", "FluxRateLimitError"),
    failed("status(500, billed=true)", billed=True),
    unknown("status(503, retry_after=61s)", "FluxInternalServerError", billed=False),
    unknown("status(504)", "FluxInternalServerError", billed=False),
    unknown("status(504, billed=true)", "FluxInternalServerError"),
    *map(failed, ("status(500)", "status(502)", "status(503)", "status(503, retry_after=1s)", "html(502)")),
    *map(failed, ("long_message(100000)", "status(500), empty_body", "status(500), bad_json")),
    # A whole 200 that nobody can use.
    *map(useless, ("html", "empty_body", "bad_json", "json_list", "null", "no_data", "empty_data")),
    *map(useless, ("deep_json", "utf16", "nan", "bad_gzip", "content_encoding", "gzip, bom")),
    *(useless(act, "paid") for act in ("missing(both)", "null_items", "bad_base64")),
    *(refused(f"error_in_200({code}, billed=false)", raises) for code, raises in REFUSALS.items()),
    *(unknown(f"error_in_200({code})", "FluxInternalServerError") for code in FAILURES),
    # An odd 200 that holds images.
    *map(odd, ("error_beside_images", "partial(1)", "extra_pictures", "missing(url)", "missing(b64_json)")),
    *map(odd, ("base64(plain)", "base64(url_safe)", "base64(unpadded)", "base64(wrapped)", "wrong_type", "not_png")),
    *map(odd, ("extra_field", "usage_null", "string_created", "bom", "gzip", "content_type", "long_header", "slow(0)")),
)
LINKS = {
    **dict.fromkeys(("403", "404", "410", "html", "empty", "wrong_type"), ("DownloadError", 1)),
    **dict.fromkeys(("500", "503", "truncate", "timeout", "reset", "connect"), ("DownloadError", 5)),
    "redirect": ("UnsafeURLError", 1),
}


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
        """A client of three attempts."""
        retry = {"max_attempts": 3, "duplicates": duplicates}
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
def line(request: pytest.FixtureRequest, served: tuple[Service, str], side: Side, open_client: OpenClient) -> Line:
    """Every test runs on both faces."""
    service, address = served
    http: dict[str, object] = {"trust_env": False}
    if request.param == "here":
        address = service.base_url
        http = {"transport": httpx.MockTransport(service.handle if side == "sync" else service.ahandle)}
    opened = partial(open_client, address, http=http)
    before, bill = len(service.requests), service.bill
    return Line(service=service, face=request.param, side=side, open=opened, before=before, bill=bill)


each_time = pytest.mark.parametrize("once", [False, True], ids=["always", "once"])


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::flux_openai.errors.FluxWarning")
@pytest.mark.parametrize("duplicates", ["unlikely", "never"])
@each_time
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.act)
async def test_a_fault_ends_the_same_on_every_face(line: Line, row: Row, duplicates: str, *, once: bool) -> None:
    """Error, requests, bill and `billing` are those of the table; a retry after the fault ends well."""
    expected = (row.served or row) if line.face == "served" else row
    most = expected.posts[duplicates == "never"]
    faulty = 1 if once else most
    healed = int(faulty < most)
    line.service.script(f"* {'#1' if once else '#1..3'} -> {row.act}")
    caller = line.caller(duplicates, read=0.1 if row.timeout else 60)
    prompt = f"{row.act} {line.face} {line.side} {duplicates} {once}"
    if healed or expected.raises is None:
        assert (await caller.generate(prompt, n=N, response_format="b64_json")).attempts == faulty + healed
    else:
        error = await caller.fails(prompt, n=N, response_format="b64_json")
        assert (type(error).__name__, error.billing, error.attempts) == (expected.raises, expected.billing, faulty)
    assert line.counted(faulty + healed) == {"POST": faulty + healed}
    assert line.service.bill == line.billed(expected.billed * faulty + healed)


@pytest.mark.anyio
@each_time
@pytest.mark.parametrize("how", LINKS)
async def test_a_link_that_fails_buys_nothing_again(
    line: Line, monkeypatch: pytest.MonkeyPatch, how: str, *, once: bool
) -> None:
    """The order is paid for once; a link is read up to five times, and again only where that may help."""
    raises, most = LINKS[how]
    gets = min(2, most) if once else most
    if how == "timeout":
        for name in ("fetch", "afetch"):
            monkeypatch.setattr(images, name, partial(getattr(images, name), timeout=0.5 if once else 0.05))
    line.service.script(f"img {'#1 ' if once else ''}-> url({how})")
    image = (await line.caller().generate(f"{how} {line.face} {line.side} {once}", n=N)).data[0]
    read = image.read if line.side == "sync" else image.aread
    if gets < most:
        assert (await done(read())).startswith(b"\x89PNG")
    else:
        with pytest.raises(errors.DownloadError) as caught:
            await done(read())
        error = caught.value
        assert (type(error).__name__, error.billing, error.attempts) == (raises, "paid", gets)
    assert line.counted(1 + gets) == {"POST": 1, "GET": gets}
    assert line.service.bill == line.billed(1)
