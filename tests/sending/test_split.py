"""More than four images: several requests side by side, one answer, and no image that is paid for is lost."""

import _thread
import asyncio
import base64
import gc
import io
import json
import pickle
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from anyio import to_thread

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI, RetryPolicy, adapt
from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, FluxAPIError, FluxError, FluxWarning, InvalidParamsError

KEY = "sk-CANARY-7f3a/q+9="
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC")
Fault = dict[str, Any]
"""The arguments of `Emulator.fail` for one request."""

BAD, BUSY, DOWN = Fault(status=400), Fault(status=429), Fault(status=503)
LATE = Fault(error="timeout", billed=False)
CUT = Fault(error="connect")
EMPTY = Fault(status=200, body={"data": []}, billed=False)
JUNK = Fault(status=200, body={"data": [{"b64_json": "!"}]})
MODERATED = Fault(status=200, body={"error": {"code": "content_policy", "message": "no"}}, billed=False)
SHORT = Fault(status=200, body={"data": [{"url": "https://cdn.test/0.png"}, {}, {"url": "https://cdn.test/2.png"}]})


class Service:
    """The emulator; the requests of a part, by its number, meet the faults that are listed for it, one each.

    `before` is called with each request, outside of all locks. No part's first request is answered before
    `side_by_side` parts have begun.
    """

    def __init__(self, faults: Mapping[int, Sequence[Fault]] | None = None, *, side_by_side: int = 1) -> None:
        # A clock that no two answers read alike, and that is ahead of this one's.
        self.emulator = Emulator(pixels=64, clock=partial(next, count(2**32)))
        self.faults = {part: list(row) for part, row in (faults or {}).items()}
        self.before: list[Callable[[httpx.Request], object]] = []
        self.posts: list[httpx.Request] = []
        self.barrier = threading.Barrier(side_by_side)
        self._lock = threading.Lock()

    def handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.posts.append(request)
        if request.headers["x-stainless-retry-count"] == "0":
            self.barrier.wait(60)
        for before in self.before:
            before(request)
        with self._lock:
            faults = self.faults.get(part_of(request), [])
            if faults:
                self.emulator.fail(**faults.pop(0))
            return self.emulator.handle(request)

    async def ahandle(self, request: httpx.Request) -> httpx.Response:
        return await to_thread.run_sync(self.handle, request)

    def client(self, **options: Any) -> FluxOpenAI:  # noqa: ANN401
        http_client = httpx.Client(transport=httpx.MockTransport(self.handle))
        return FluxOpenAI(**{**OPTIONS, "http_client": http_client, **options})

    def async_client(self, **options: Any) -> AsyncFluxOpenAI:  # noqa: ANN401
        http_client = httpx.AsyncClient(transport=httpx.MockTransport(self.ahandle))
        return AsyncFluxOpenAI(**{**OPTIONS, "http_client": http_client, **options})

    def fields(self, *names: str) -> list[tuple[object, ...]]:
        """The values of these fields in the bodies that came, in the order of the parts."""
        requests = sorted(self.posts, key=part_of)
        return [tuple(map(json.loads(request.content).get, names)) for request in requests]

    @property
    def keys(self) -> list[str]:
        """The Idempotency-Keys that came, sorted."""
        return sorted(request.headers["idempotency-key"] for request in self.posts)


OPTIONS: dict[str, Any] = {"api_key": KEY, "split": True, "retry": RetryPolicy(waiting=False)}


def part_of(request: httpx.Request) -> int:
    return int(request.headers["idempotency-key"].rpartition("-")[2])


Side = Literal["sync", "async"]
both_sides = pytest.mark.parametrize("side", ["sync", "async"])
"""For what threads and tasks do differently."""


@pytest.fixture
def side() -> Side:
    """The kind of client; `@both_sides` overrides it."""
    return "sync"


class Images:
    """The images resource of a client of either kind in front of a service, called from sync code."""

    def __init__(self, side: Side) -> None:
        self._side = side

    def __call__(
        self,
        service: Service,
        *,
        options: Mapping[str, Any] | None = None,
        method: str = "generate",
        **call: Any,  # noqa: ANN401
    ) -> FluxImagesResponse:
        """One call; `options` are those of the client."""
        call = {"prompt": "a fox", **call}
        if self._side == "sync":
            with service.client(**(options or {})) as client:
                return getattr(client.images, method)(**call)  # type: ignore[no-any-return]

        async def run() -> FluxImagesResponse:
            async with service.async_client(**(options or {})) as client:
                return await getattr(client.images, method)(**call)  # type: ignore[no-any-return]

        return asyncio.run(run())

    def fails(self, service: Service, **call: Any) -> Any:  # noqa: ANN401  # the error, with what it carries
        """One call that must raise."""
        with pytest.raises(BaseException) as caught:  # noqa: PT011  # whatever comes is looked at
            self(service, **call)
        return caught.value


@pytest.fixture
def generate(side: Side) -> Images:
    """`generate(service, n=9)` is one call by a client of this test's side."""
    return Images(side)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a call follow one another, so that it is known which have begun.

    The one inner name that is patched: from outside, eight parts begin at once and in no order.
    """
    monkeypatch.setattr("flux_openai.sending.concurrency.MAX_CONCURRENCY", 1)


def own(key: str) -> dict[str, Any]:
    return {"extra_headers": {"Idempotency-Key": key}}


def urls(response: FluxImagesResponse) -> list[str | None]:
    return [image.url for image in response.data]


# What goes out, and what comes of it.


@both_sides
@pytest.mark.parametrize(
    ("call", "seeds"),
    [
        ({"n": 9, "seed": 7}, [7, 8, 9]),
        ({"n": 9, "seed": 0}, [0, 1, 2]),
        ({"n": 9, "seed": -1}, [-1, -1, -1]),
        ({"n": 9}, [None, None, None]),
        ({"extra_body": {"n": 9, "seed": 7}}, [7, 8, 9]),
        ({"options": {"defaults": {"n": 9, "seed": 7}}}, [7, 8, 9]),
        ({"n": 9, "options": {"split": False}, "split": True}, [None, None, None]),
    ],
)
def test_nine_images_are_three_requests(generate: Images, call: dict[str, Any], seeds: list[object]) -> None:
    """4 + 4 + 1 images are asked for, with counted-up seeds and keys, all else alike, and come back as one answer."""
    service = Service(side_by_side=3)
    response = generate(service, **own("k"), **call)
    assert service.keys == ["k-0", "k-1", "k-2"]
    assert service.fields("n", "seed") == list(zip([4, 4, 1], seeds, strict=True))
    assert set(service.fields("prompt", "model")) == {("a fox", "black-forest-labs/flux-kontext-max/text-to-image")}
    assert len(response.data) == service.emulator.bill.images == 9
    assert response.missing == 0
    assert response.attempts == 3
    assert response.sent["n"] == 9
    assert response.sent.get("seed") == seeds[0]
    assert [part.sent["n"] for part in response.parts] == [4, 4, 1]
    assert [image for part in response.parts for image in part.data] == response.data
    assert response.expires_at == min(part.expires_at for part in response.parts)
    assert len({part.created for part in response.parts}) == 3


def test_split_is_inherited_and_overruled() -> None:
    """A copy and an adapted client keep `split=`, and a call has the last word."""
    emulator = Emulator(pixels=64)
    clients = [
        emulator.client(split=True).copy(timeout=9),
        emulator.client().with_options(split=True),
        adapt(openai.OpenAI(api_key="k", base_url=Emulator.base_url, http_client=emulator.http_client()), split=True),
    ]
    for client in clients:
        assert len(client.images.generate(prompt="a fox", n=5).data) == 5
        with pytest.raises(InvalidParamsError, match="split=True"):
            client.images.generate(prompt="a fox", n=5, split=False)
    assert emulator.bill.images == 15


@pytest.mark.parametrize("n", [1, 4])
def test_up_to_four_images_are_one_request(generate: Images, n: int) -> None:
    """What one request can make goes out as without split: under the key as it was given."""
    service = Service()
    service.before.append(lambda request: request.headers.setdefault("idempotency-key", "0"))
    response = generate(service, n=n, seed=5, **own("own-0"))
    assert service.keys == ["own-0"]
    assert len(response.data) == n
    assert response.parts == (response,)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ({"n": 5, "split": False}, "split=True"),
        ({"n": 5, "options": {"split": False}}, "split=True"),
        ({"n": 5, "split": "yes"}, "must be True or False"),
        ({"n": 5, "split": 1}, "must be True or False"),
        ({"n": 1001}, "nearest: 1000"),
        ({"n": 10**30}, "nearest: 1000"),
        (
            {"n": 5, "extra_headers": {"X-Stainless-Raw-Response": "true"}},
            "a raw response is the answer to one request",
        ),
        (
            {"n": 5, "extra_headers": {"X-Stainless-Raw-Response": "stream"}},
            "a raw response is the answer to one request",
        ),
        ({"n": 9, "seed": 2**63 - 1}, f"seed={2**63 - 1}: .*nearest: {2**63 - 3}"),
        ({"n": 9, "seed": 2**63 - 2}, f"seed={2**63 - 2}: .*nearest: {2**63 - 3}"),
    ],
)
def test_what_cannot_be_split_is_refused(generate: Images, call: dict[str, Any], rule: str) -> None:
    """The error names what was given and what would do, and nothing is sent."""
    service = Service()
    with pytest.raises(InvalidParamsError, match=rule):
        generate(service, **call)
    assert service.posts == []


def test_the_raw_wrappers_refuse_more_than_one_request() -> None:
    """A raw response is the answer to one request, so five images have none, also with split=True."""
    service = Service()
    client = service.client()
    with pytest.raises(InvalidParamsError):
        client.images.with_raw_response.generate(prompt="a fox", n=5)
    with pytest.raises(InvalidParamsError), client.images.with_streaming_response.generate(prompt="a fox", n=5):
        pass
    with pytest.raises(ConfigurationError, match="split"):
        client.copy(split="yes")  # type: ignore[arg-type]  # what a user may write
    assert service.posts == []


def test_the_last_seed_may_be_the_last_there_is(generate: Images) -> None:
    """A seed that no part counts beyond 64 bits is sent, and the one warning about it names the largest."""
    service = Service()
    with pytest.warns(FluxWarning, match=str(2**63 - 1)) as caught:
        generate(service, n=9, seed=2**63 - 3)
    assert len(caught) == 1
    assert [seed for (seed,) in service.fields("seed")] == [2**63 - 3, 2**63 - 2, 2**63 - 1]


@both_sides
def test_the_order_is_that_of_the_parts(generate: Images, tmp_path: Path) -> None:
    """When the first request is answered last, its images still come first, under the names of their places."""
    service, others = Service(), threading.Semaphore(0)

    def hold(request: httpx.Request) -> None:
        if part_of(request) == 0:
            assert others.acquire(timeout=60)
            assert others.acquire(timeout=60)

    service.before.append(hold)
    handle = service.emulator.handle

    def answered(request: httpx.Request) -> httpx.Response:
        reply = handle(request)
        others.release()
        return reply

    service.emulator.handle = answered  # type: ignore[method-assign]
    response = generate(service, n=9, seed=7, response_format="b64_json")
    assert part_of(service.posts[-1]) in (0, 1, 2)
    assert [part.sent["seed"] for part in response.parts] == [7, 8, 9]
    names = [path.name for path in response.save(tmp_path)]
    assert names == [f"a-fox_seed{7 + index // 4}_{index}.png" for index in range(9)]
    assert len({image.b64_json for image in response.data}) == 9


@both_sides
def test_many_images_are_eight_requests_at_a_time(generate: Images) -> None:
    """25 requests go out, each once, never more than 8 of them under way, and 8 as soon as there is work."""
    service, under_way, counts = Service(), set[int](), list[int]()
    eight = threading.Barrier(8)

    def count(request: httpx.Request) -> None:
        under_way.add(part_of(request))
        counts.append(len(under_way))
        if part_of(request) < 24:
            eight.wait(60)
        under_way.discard(part_of(request))

    service.before.append(count)
    response = generate(service, n=100, seed=0)
    assert max(counts) == 8
    assert len(counts) == len(set(service.keys)) == response.attempts == 25
    assert len(response.data) == service.emulator.bill.images == 100
    assert [part.sent["seed"] for part in response.parts] == list(range(25))


def test_a_thousand_images_are_the_most(generate: Images) -> None:
    """They are 250 requests."""
    service = Service()
    assert len(generate(service, n=1000).data) == service.emulator.bill.images == 1000
    assert len(set(service.keys)) == 250


class Once(io.BytesIO):
    """A file that counts how often it is read from its start."""

    def __init__(self) -> None:
        super().__init__(PNG)
        self.starts = 0

    def seek(self, *args: int) -> int:
        self.starts += 1
        return super().seek(*args)


@both_sides
@pytest.mark.parametrize("verb", ["generate", "edit"])
@pytest.mark.parametrize("several", [False, True])
def test_images_are_read_once_and_go_into_every_part(generate: Images, verb: str, several: bool) -> None:  # noqa: FBT001
    """Each request carries the same images, and a file is read once for all of them."""
    service, file = Service(), Once()
    images = {"images": [file, PNG]} if several else {"image": file}
    if several and verb == "edit":
        images = {"image": [file, PNG]}
    response = generate(service, method=verb, n=9, **images)
    assert file.starts == 1
    assert len(response.data) == 9
    assert len(service.posts) == 3
    field = "images" if several else "image"
    assert len({repr(value) for (value,) in service.fields(field)}) == 1
    assert service.fields(field)[0][0]


# A part that fails.


@both_sides
@pytest.mark.parametrize("fault", [BUSY, DOWN, CUT])
def test_a_part_is_tried_again_alone(generate: Images, fault: Fault) -> None:
    """What is tried again is the part that failed, under its own key; the others are sent once."""
    service = Service({1: [fault, fault]}, side_by_side=3)
    response = generate(service, n=9, **own("k"))
    assert service.keys == ["k-0", "k-1", "k-1", "k-1", "k-2"]
    assert response.attempts == 5
    assert [part.attempts for part in response.parts] == [1, 3, 1]
    assert len(response.data) == service.emulator.bill.images == 9
    assert service.emulator.bill.duplicates == 0


FAILURES: dict[str, tuple[dict[int, list[Fault]], type[Exception], str, list[int], int]] = {
    "one refused": ({1: [BAD]}, openai.BadRequestError, "paid", [1], 3),
    "first refused": ({0: [BAD]}, openai.BadRequestError, "paid", [0], 3),
    "one unknown": ({1: [LATE]}, openai.APITimeoutError, "unknown", [1], 3),
    "unknown goes before refused": ({0: [BAD], 2: [LATE]}, openai.APITimeoutError, "unknown", [0, 2], 3),
    "all refused": ({part: [BAD] for part in range(3)}, openai.BadRequestError, "none", [0, 1, 2], 3),
    "no connection": ({part: [CUT] * 4 for part in range(3)}, openai.APIConnectionError, "none", [0, 1, 2], 12),
    "doubt before": ({1: [DOWN, BAD]}, openai.BadRequestError, "unknown", [1], 4),
    "doubt that came to good": ({0: [DOWN], 1: [BAD]}, openai.BadRequestError, "paid", [1], 4),
    "busy for ever": ({2: [BUSY] * 4}, openai.RateLimitError, "paid", [2], 6),
    "nothing in a 200": ({1: [EMPTY]}, openai.APIResponseValidationError, "unknown", [1], 3),
    "an error in a 200": ({1: [MODERATED]}, openai.BadRequestError, "paid", [1], 3),
    "all errors in a 200": ({part: [MODERATED] for part in range(3)}, openai.BadRequestError, "none", [0, 1, 2], 3),
    "paid junk only": ({part: [JUNK] for part in range(3)}, openai.APIResponseValidationError, "paid", [0, 1, 2], 3),
}


SOME = ("one refused", "unknown goes before refused", "no connection", "doubt before")


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *((name, "sync") for name in FAILURES),
        *(pytest.param(name, "async", marks=() if name in SOME else pytest.mark.full) for name in FAILURES),
    ],
)
def test_a_failed_call_keeps_what_came_and_says_what_did_not(generate: Images, name: str) -> None:
    """The worst error is raised with the images of the other parts; `.rest` brings the others under the same keys."""
    faults, kind, billing, failed, attempts = FAILURES[name]
    service = Service(faults, side_by_side=3)
    error = generate.fails(service, n=9, seed=7, **own("k"))
    assert isinstance(error, kind)
    assert isinstance(error, FluxAPIError)
    assert error.billing == billing
    assert error.attempts == len(service.posts) == attempts
    came = [] if error.partial is None else error.partial.data
    sizes = [4, 4, 1]
    assert len(came) == 9 - sum(sizes[part] for part in failed)
    assert (error.partial is None) == (len(failed) == 3)
    assert (".partial" in str(error)) == (error.partial is not None)
    if error.partial is not None:
        assert error.partial.missing == 9 - len(came)
        assert error.partial.sent["n"] == 9
    before = {request.headers["idempotency-key"]: request.content for request in service.posts}
    again = Service()
    if name == "paid junk only":
        # It is paid for: to ask for it once more would be to pay for it once more.
        assert error.rest == ()
        return
    more = [generate(again, **call) for call in error.rest]
    assert [request.headers["idempotency-key"] for request in again.posts] == [f"k-{part}" for part in failed]
    assert len(came) + sum(len(response.data) for response in more) == 9
    keys = {seen.headers["idempotency-key"] for seen in again.emulator.requests}
    assert service.emulator.bill.images + again.emulator.bill.images == 9
    assert len(keys) == len(failed)
    assert {key: before[key] for key in again.keys} == {
        request.headers["idempotency-key"]: request.content for request in again.posts
    }


def test_the_rest_asks_for_nothing_twice(generate: Images) -> None:
    """Asked of the same service, the rest brings together exactly what was ordered, and no key is billed twice."""
    service = Service({0: [LATE], 2: [BAD]}, side_by_side=3)
    error = generate.fails(service, n=10)
    service.barrier = threading.Barrier(1)
    more = [generate(service, **call) for call in error.rest]
    assert len(error.partial.data) + sum(len(response.data) for response in more) == 10
    assert service.emulator.bill.images == 10
    assert service.emulator.bill.duplicates == 0


def test_the_rest_keeps_the_shape_that_was_asked_for(generate: Images) -> None:
    """A call without a shape has none in its rest either, although the client has one for calls that give none."""
    options = {"defaults": {"aspect_ratio": "16:9"}}
    service = Service({1: [BAD]}, side_by_side=2)
    error = generate.fails(service, options=options, n=5, size="auto")
    assert service.fields("aspect_ratio") == [(None,), (None,)]
    again = Service()
    generate(again, options=options, **error.rest[0])
    assert again.fields("aspect_ratio") == [(None,)]


@both_sides
def test_a_part_with_fewer_images_is_an_answer(generate: Images) -> None:
    """What is missing is counted over all the parts, places stay, and each remark is made once."""
    service = Service({0: [SHORT], 1: [SHORT]}, side_by_side=3)
    with pytest.warns(FluxWarning) as caught:
        response = generate(service, n=9)
    assert len(response.data) == 5
    assert response.missing == 4
    assert response.expires_at == min(part.expires_at for part in response.parts)
    said = [str(warning.message) for warning in caught]
    assert said == list(response.notices)
    assert len(set(said)) == len(said) > 0
    assert {warning.filename for warning in caught} == {__file__}


@both_sides
def test_a_remark_is_made_once_for_the_call(generate: Images) -> None:
    """What was changed about the call is said once, and not once for each request."""
    with pytest.warns(FluxWarning) as caught:
        response = generate(Service(), n=40, size="1360x768", options={"unsupported": "warn"}, quality="hd", seed=2**40)
    assert [str(warning.message) for warning in caught] == list(response.notices)
    assert len(caught) == 3


def test_a_warning_that_is_an_error_loses_no_image(generate: Images) -> None:
    """Remarks about what came back are not raised; one about what goes out is, before anything is sent."""
    service = Service({0: [SHORT], 1: [SHORT]}, side_by_side=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(generate(service, n=9).data) == 5
        before = len(service.posts)
        with pytest.raises(FluxWarning):
            generate(service, n=9, seed=2**40)
    assert len(service.posts) == before


@both_sides
def test_after_a_failure_nothing_more_is_begun(generate: Images, one_by_one: None) -> None:
    """A part that has not begun when another fails for good is not sent, and stands in the rest."""
    service = Service({1: [BAD]})
    error = generate.fails(service, n=40, **own("k"))
    assert service.keys == ["k-0", "k-1"]
    assert len(error.partial.data) == 4
    assert error.attempts == 2
    assert error.billing == "paid"
    assert [call["extra_headers"]["Idempotency-Key"] for call in error.rest] == [f"k-{part}" for part in range(1, 10)]


@both_sides
def test_the_parts_share_the_quota_of_retries(generate: Images) -> None:
    """However many parts fail at once, a client tries again only as often as its quota allows: 20 times after 429."""
    service = Service({part: [BUSY] * 9 for part in range(8)}, side_by_side=8)
    error = generate.fails(service, n=32, options={"retry": RetryPolicy(waiting=False, max_attempts=9)})
    assert len(service.posts) == error.attempts == 28
    assert error.billing == "none"


# Exceptions of others: hooks, interruptions, cancellations.

HOOKED = ContextVar("HOOKED", default="nobody")


class Stop(Exception):  # noqa: N818  # as a user's hook may end a call
    """Raised by a hook; it has no fields for the images that came, and carries them all the same."""

    partial: FluxImagesResponse
    rest: tuple[dict[str, Any], ...]


def stop(_: object) -> None:
    raise Stop


@both_sides
def test_a_hook_that_raises_ends_the_call(generate: Images) -> None:
    """What a hook raises goes before the errors of the service, and carries the images of the other parts."""
    service = Service({1: [BUSY], 2: [BAD]}, side_by_side=3)
    error = generate.fails(service, n=9, options={"retry": RetryPolicy(waiting=False, on_retry=stop)}, **own("k"))
    assert isinstance(error, Stop)
    assert "the images of the other parts are in .partial" in error.__notes__[0]
    assert len(error.partial.data) == 4
    assert error.partial.missing == 5
    assert [call["extra_headers"]["Idempotency-Key"] for call in error.rest] == ["k-1", "k-2"]


@both_sides
def test_a_hook_that_raises_ends_the_whole_call(generate: Images, one_by_one: None) -> None:
    """After a hook has ended one part, no other is begun: what a hook raises ends the call."""
    service = Service({1: [BUSY]})
    error = generate.fails(service, n=40, options={"retry": RetryPolicy(waiting=False, on_retry=stop)}, **own("k"))
    assert service.keys == ["k-0", "k-1"]
    assert len(error.partial.data) == 4
    assert len(error.rest) == 9


def test_an_error_of_ours_from_elsewhere_says_the_bill(one_by_one: None) -> None:
    """When the key runs out between two parts, the error says that the images of the first are paid for."""
    keys = iter(["good", "bad key"])
    service = Service()
    with pytest.raises(ConfigurationError) as caught:
        service.client(api_key=lambda: next(keys)).images.generate(prompt="a fox", n=9)
    error = caught.value
    assert error.partial is not None
    assert len(error.partial.data) == 4
    assert error.billing == "paid"
    assert len(error.rest) == 2
    assert len(service.posts) == 1


@both_sides
def test_hooks_see_the_context_of_the_caller(generate: Images) -> None:
    """A context variable that the caller has set is there in a hook, on whichever thread or task it runs."""
    seen: list[str] = []
    token = HOOKED.set("the caller")
    policy = RetryPolicy(waiting=False, on_retry=lambda _: seen.append(HOOKED.get()))
    generate(Service({part: [DOWN] for part in range(3)}), n=9, options={"retry": policy})
    HOOKED.reset(token)
    assert seen == ["the caller"] * 3


@pytest.mark.parametrize("faults", [{}, {1: [BAD]}, {1: [BUSY]}])
def test_no_thread_is_left(faults: dict[int, list[Fault]]) -> None:
    """When a call has returned or raised an error, its threads have ended."""
    before = set(threading.enumerate())
    service = Service(faults)
    try:
        service.client().images.generate(prompt="a fox", n=40)
    except FluxError:
        assert faults
    assert set(threading.enumerate()) <= before  # a thread of an earlier test may end meanwhile


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where a shell has switched it off for what it runs behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c", "one_by_one")
@pytest.mark.parametrize("place", ["answering", "before a retry"])
def test_ctrl_c_ends_the_call_at_once(place: str) -> None:
    """It carries what has come; nothing is sent after it, neither by a part under way nor by one before a retry."""
    service, raised, before = Service({1: [DOWN]}), threading.Event(), set(threading.enumerate())

    def interrupt(_: object) -> None:
        # As Ctrl-C on Windows, and now and then everywhere: noted, but it wakes nobody up.
        _thread.interrupt_main()
        assert raised.wait(60)

    retry = OPTIONS["retry"]
    if place == "answering":
        service.before.append(lambda request: interrupt(request) if part_of(request) == 1 else None)
    else:
        retry = RetryPolicy(waiting=False, on_retry=interrupt)
    with pytest.raises(KeyboardInterrupt) as caught:
        service.client(retry=retry).images.generate(prompt="a fox", n=9, **own("k"))
    under_way = set(threading.enumerate()) - before
    raised.set()
    for thread in under_way:
        thread.join(60)
    carried = vars(caught.value)
    assert len(under_way) == 1
    assert len(carried["partial"].data) == 4
    assert len(carried["rest"]) == 2
    assert service.keys == ["k-0", "k-1"]
    assert set(threading.enumerate()) <= before
    assert sum(len(Service().client().images.generate(**call).data) for call in carried["rest"]) == 5


EXIT = """
import _thread, threading
from flux_openai import FluxOpenAI
from flux_openai._http.library import httpx

def hang(request):
    if request.headers["idempotency-key"].endswith("-0"):
        _thread.interrupt_main()
    threading.Event().wait()

client = FluxOpenAI(api_key="any", split=True, http_client=httpx.Client(transport=httpx.MockTransport(hang)))
try:
    client.images.generate(prompt="a fox", n=9)
except KeyboardInterrupt as error:
    print(error.partial, len(error.rest))
"""


def test_after_ctrl_c_the_process_can_end() -> None:
    """A program that ends after an interruption does not wait for answers that nobody will read."""
    done = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout == "None 3\n"
    assert done.returncode == 0


class HeldService:
    """An async service: the first part is served, the second is held for ever once it has come."""

    def __init__(self) -> None:
        self.emulator, self.held = Emulator(pixels=64), asyncio.Event()
        transport = httpx.MockTransport(self.handle)
        self.client = AsyncFluxOpenAI(**OPTIONS, http_client=httpx.AsyncClient(transport=transport))

    async def handle(self, request: httpx.Request) -> httpx.Response:
        if part_of(request) == 1:
            self.held.set()
            await asyncio.Event().wait()
        return self.emulator.handle(request)

    async def call(self) -> FluxImagesResponse:
        return await self.client.images.generate(prompt="a fox", n=9)


def assert_carries(error: BaseException | None, service: HeldService) -> None:
    """The exception carries the first part, which is paid for, and the calls for the other two."""
    carried = vars(error)
    assert len(carried["partial"].data) == service.emulator.bill.images == 4
    assert len(carried["rest"]) == 2


@pytest.mark.anyio
async def test_a_cancelled_call_carries_what_has_come(one_by_one: None) -> None:
    """The cancellation goes on, with the images that are paid for, and leaves no task behind."""
    service, before = HeldService(), asyncio.all_tasks()
    task = asyncio.create_task(service.call())
    await service.held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert_carries(caught.value, service)
    assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_a_timeout_around_a_call_leads_to_what_has_come(one_by_one: None) -> None:
    """`asyncio.timeout` raises its own error, whose cause carries the images."""
    service = HeldService()

    async def expire(limit: asyncio.Timeout) -> None:
        await service.held.wait()
        limit.reschedule(0)

    with pytest.raises(TimeoutError) as caught:  # noqa: PT012  # the limit is part of the call
        async with asyncio.timeout(None) as limit:
            expiry = asyncio.create_task(expire(limit))
            await service.call()
    await expiry
    assert_carries(caught.value.__cause__, service)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_async_code_leads_to_what_has_come(one_by_one: None) -> None:
    """`asyncio.run` cancels the call and raises KeyboardInterrupt; behind it stands the error with the images."""
    services: list[HeldService] = []

    async def run() -> None:
        services.append(HeldService())
        interruption = asyncio.create_task(services[0].held.wait())
        interruption.add_done_callback(lambda _: signal.raise_signal(signal.SIGINT))
        await services[0].call()

    with pytest.raises(KeyboardInterrupt) as caught:
        asyncio.run(run())
    assert_carries(caught.value.__context__, services[0])


# The errors travel, show nothing, and go.


def ordered(faults: Mapping[int, Sequence[Fault]]) -> None:
    Service(faults, side_by_side=3).client().images.generate(prompt="a fox", n=9, response_format="b64_json")


def test_the_error_comes_out_of_another_process() -> None:
    """The images and the rest come along when an error is raised in a process pool."""
    with pytest.raises(openai.BadRequestError) as caught:
        ordered({1: [BAD]})
    error = caught.value
    assert isinstance(error, FluxAPIError)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301  # what is loaded was dumped here
    assert back.rest == error.rest
    assert back.billing == "paid"
    assert back.attempts == 3
    assert str(back) == str(error)
    assert error.partial is not None
    assert [image.read() for image in back.partial.data] == [image.read() for image in error.partial.data]
    assert [len(part.data) for part in back.partial.parts] == [4, 1]


@pytest.mark.parametrize("name", FAILURES)
def test_a_split_call_shows_no_secret(generate: Images, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor the signature of a link is in text, traceback with locals or log."""
    caplog.set_level(0)
    service = Service(FAILURES[name][0], side_by_side=3)
    with pytest.raises(FluxError) as caught:
        generate(service, n=9)
    error = caught.value
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    said = f"{error} {error!r} {''.join(frames.format())} {caplog.text} {[*map(repr, error.rest)]} {error.partial!r}"
    assert KEY not in said + repr(vars(error)) + pickle.dumps(error).decode("latin-1")
    assert "CANARY" not in said
    assert "signature=" not in said.lower()


@pytest.mark.parametrize("faults", [{}, {1: [BAD]}, {1: [BUSY]}])
def test_images_do_not_wait_for_the_garbage_collector(faults: dict[int, list[Fault]]) -> None:
    """When the answer or the error is let go, images and bodies are gone: no cycle holds what may be a gigabyte."""
    client = Service(faults, side_by_side=3).client(retry=RetryPolicy(waiting=False, on_retry=stop))
    gc.collect()
    gc.disable()
    try:
        before = weakref.WeakSet(answers_there())
        image = weakref.ref(first_image(client))
        assert image() is None
        assert [answer for answer in answers_there() if answer not in before] == []
    finally:
        gc.enable()


def answers_there() -> list[httpx.Response]:
    """The answers in memory that were read under our cap; httpx 0.28 leaves what came from the network in a cycle."""
    answers = [thing for thing in gc.get_objects() if isinstance(thing, httpx.Response)]
    return [answer for answer in answers if isinstance(answer.stream, httpx.ByteStream)]


def first_image(client: FluxOpenAI) -> Any:  # noqa: ANN401  # gone as soon as it is looked at
    try:
        response: Any = client.images.generate(prompt="a fox", n=9)
    except (FluxError, Stop) as error:
        response = error.partial
    return response.data[0]
