"""The emulator as users hold it: its options, its clients, and how they wait on its clock."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import openai
import pytest

import flux_openai
from flux_openai import FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator, Reply, VirtualClock
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL
from flux_openai.retry import RetryEvent

pytestmark = pytest.mark.anyio

START = VirtualClock().now()
CALLERS = (1, 8, 64)
PATIENT = RetryPolicy(max_attempts=100)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The real sleeps, which are only noted, and of which there must be none; one of 0 s lets other tasks run."""
    real, waits = asyncio.sleep, list[float]()

    async def asleep(seconds: float) -> None:
        waits.extend([seconds] if seconds else [])
        await real(0)

    monkeypatch.setattr("time.sleep", lambda seconds: waits.extend([seconds] if seconds else []))
    monkeypatch.setattr("asyncio.sleep", asleep)
    yield waits
    assert waits == []


def passed(emulator: Emulator) -> float:
    """The seconds since the emulator's clock was made."""
    return round(emulator.clock.now() - START, 6)


def test_there_is_one_class_of_that_name() -> None:
    """`flux_openai.Emulator` is `flux_openai.emulator.Emulator`, the one with clients."""
    assert flux_openai.Emulator is Emulator


@pytest.mark.parametrize(
    "options",
    [
        *({"pixels": value} for value in (0, -5, True, 1.5, "9")),
        *({"api_key": value} for value in (" ", 5)),
        *({"clock": value} for value in (5, VirtualClock)),
        *({"journal": value} for value in (5, b"x")),
        *({"limits": value} for value in (None, 10)),
        *({"seed": value} for value in ("1", 1.5)),
    ],
)
def test_wrong_options_are_refused_at_once(options: dict[str, object]) -> None:
    """The error names the option, before any call."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Emulator(**options)  # type: ignore[arg-type]


def test_all_wrong_options_are_named_in_one_error() -> None:
    """Nobody has to correct one to hear of the next."""
    with pytest.raises(ConfigurationError, match=r"(?s)pixels=0.*seed='1'.*journal=5"):
        Emulator(pixels=0, seed="1", journal=5)  # type: ignore[arg-type]


def test_an_answer_in_plain_values(emulator: Emulator) -> None:
    """`answer` returns status, headers and bytes, for transports that are not httpx."""
    reply = emulator.answer(httpx.Request("GET", "https://api.example/v1/nowhere"))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.error, reply.headers["x-request-id"]) == (404, None, "emu-000001")


async def test_async_clients_reach_the_same_emulator(emulator: Emulator) -> None:
    """Order and download work over an async client."""
    async with emulator.async_http_client(headers={"authorization": "Bearer k"}) as client:
        body = {"model": DEFAULT_MODEL, "prompt": "a fox"}
        answer = await client.post("https://api.example/v1/images/generations", json=body)
        image = await client.get(answer.json()["data"][0]["url"])
    assert image.content.startswith(b"\x89PNG")
    assert len(emulator.requests) == 2


@pytest.mark.parametrize(("read", "late"), [(5.9, True), (6.0, False), (None, False)])
async def test_an_answer_after_the_read_time_out_never_comes(read: float | None, *, late: bool) -> None:
    """The client waits until its time-out and no longer, and the order is billed: it was carried out."""
    timeout = httpx.Timeout(1, read=read)
    for asynchronous in (False, True):
        emulator = Emulator(pixels=64, clock=VirtualClock(), latency="6s")
        client, aclient = emulator.client(timeout=timeout), emulator.async_client(timeout=timeout)
        try:
            order = client.images.generate(prompt="a fox") if not asynchronous else None
            assert (order or await aclient.images.generate(prompt="a fox")).attempts == 1
            assert not late
        except openai.APITimeoutError:
            assert late
        assert (emulator.bill.images, passed(emulator)) == (1, read if late else 6)


async def test_a_real_clock_really_waits(slept: list[float]) -> None:
    """With a function for a clock, waits are real sleeps."""
    emulator = Emulator(pixels=64, clock=lambda: 5.0, latency="2s")
    assert emulator.client().images.generate(prompt="a fox").created == 5
    assert (await emulator.async_client().images.generate(prompt="a fox")).created == 5
    assert emulator.client().models.list().data
    assert slept == [2.0, 2.0]
    slept.clear()


def test_retries_wait_on_the_virtual_clock() -> None:
    """A client that a limit turned away is admitted after its Retry-After, and the user's own hook is called."""
    events: list[RetryEvent] = []
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["window:1/min"])
    client = emulator.client(retry=RetryPolicy(on_retry=events.append))
    attempts = [client.images.generate(prompt="a fox").attempts for _ in range(5)]
    assert attempts == [1, 2, 2, 2, 2]
    assert passed(emulator) >= sum(event.wait for event in events) - 1e-3 > 180
    assert emulator.bill.images == 5


async def test_the_retries_of_tasks_wait_side_by_side() -> None:
    """Eight async calls at three a minute are served once the third minute has begun."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["window:3/min"])
    client = emulator.async_client(retry=PATIENT)
    await asyncio.gather(*(client.images.generate(prompt=f"fox {k}") for k in range(8)))
    assert emulator.bill.images == 8
    assert 60 < passed(emulator) < 300


async def test_a_place_under_a_concurrency_limit_is_free_when_its_order_is_done() -> None:
    """Of twelve orders at once, eight are admitted, and four after the six seconds that the first eight take."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["concurrency=8"], latency="6s")
    client = emulator.async_client(retry=PATIENT)
    await client.images.generate(prompt="a fox")  # the first call of a client waits for a thread
    await asyncio.gather(*(client.images.generate(prompt=f"fox {k}") for k in range(12)))
    assert (emulator.bill.images, len(emulator.requests)) == (1 + 12, 1 + 8 + 2 * 4)
    assert 6 + 12 <= passed(emulator) < 6 + 13


@pytest.mark.parametrize("limit", ["concurrency=2", "window:4/min"])
@pytest.mark.parametrize("tasks", [1, 2, 6])
async def test_what_a_limit_turns_away_uses_up_no_fault(limit: str, tasks: int) -> None:
    """The same orders fail whatever the limit, and however many come at once."""

    async def failed(limits: list[str], numbers: list[int], tasks: int) -> set[int]:
        script = "prompt~/fox 1$/ #1 -> status(400) ; * p=0.3 -> status(400)"
        emulator = Emulator(pixels=64, clock=VirtualClock(), latency="6s", limits=limits, script=script, seed=1)
        client, left, bad = emulator.async_client(retry=PATIENT), iter(numbers), set[int]()

        async def work() -> None:
            for number in left:
                try:
                    await client.images.generate(prompt=f"fox {number}")
                except openai.BadRequestError:
                    bad.add(number)

        await asyncio.gather(*(work() for _ in range(tasks)))
        return bad

    numbers = [*range(12)]
    expected = await failed([], numbers, 1)
    assert 1 in expected
    assert len(expected) in range(3, 9)
    assert await failed([limit], numbers, tasks) == expected
    assert await failed([limit], numbers[::-1], tasks) == expected


def test_over_a_port_a_virtual_clock_goes_on_too() -> None:
    """Three orders of a minute each take no time, and each finds the place of the one before it free."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), latency="60s", limits=["concurrency=1"])
    with emulator.serve() as server, FluxOpenAI(api_key="k", base_url=server.base_url) as client:
        attempts = [client.images.generate(prompt=f"fox {number}").attempts for number in range(3)]
    assert (attempts, passed(emulator)) == ([1, 1, 1], 180)


def test_what_the_users_hook_raises_ends_the_call() -> None:
    """The hook that moves the clock runs after the user's own, and swallows nothing."""

    def stop(event: RetryEvent) -> None:
        raise LookupError

    emulator = Emulator(pixels=64, clock=VirtualClock())
    emulator.fail(status=429, headers={"retry-after": "30"})
    client = emulator.client(retry=RetryPolicy(on_retry=stop))
    with pytest.raises(LookupError):
        client.images.generate(prompt="a fox")
    assert passed(emulator) == 0


def test_credit_that_is_gone_is_not_retried() -> None:
    """The client reads from the code that waiting would not help."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["credits=1"])
    client = emulator.client()
    client.images.generate(prompt="a fox")
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt="a fox")
    assert len(emulator.requests) == 2
    assert caught.value.code == "insufficient_quota"


def scenario(*, limits: tuple[str, ...] = ()) -> Emulator:
    """An emulator whose orders take six seconds in the median, and twenty at the 99th percentile."""
    return Emulator(pixels=64, clock=VirtualClock(), latency="lognormal:6s,p99=20s", limits=limits)


def requests_of(emulator: Emulator) -> list[tuple[object, ...]]:
    """The requests in an order that does not depend on who came first."""
    return sorted((seen.method, seen.path, str(sorted((seen.body or {}).items()))) for seen in emulator.requests)


def ordered_by_threads(emulator: Emulator, *, orders: int, callers: int) -> list[str]:
    """The answers to these orders, made by so many threads."""

    def order(number: int) -> str:
        client = emulator.client(retry=PATIENT)
        response = client.images.generate(prompt=f"fox {number}", response_format="b64_json", timeout=600)
        return str([image.b64_json for image in response.data])

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(order, range(orders)))


async def ordered_by_tasks(emulator: Emulator, *, orders: int, callers: int) -> list[str]:
    """The same, made by so many tasks."""
    room = asyncio.Semaphore(callers)

    async def order(number: int) -> str:
        async with room:
            prompt, client = f"fox {number}", emulator.async_client(retry=PATIENT)
            response = await client.images.generate(prompt=prompt, response_format="b64_json", timeout=600)
            return str([image.b64_json for image in response.data])

    return await asyncio.gather(*map(order, range(orders)))


async def test_what_is_drawn_and_paid_does_not_depend_on_how_many_call() -> None:
    """Over five minutes, answers, bill and requests are the same for 1, 8 and 64 callers, in threads and in tasks."""
    outcomes, lengths = [], []
    for callers in CALLERS:
        for threads in (True, False):
            emulator = scenario()
            if threads:
                answers = await asyncio.to_thread(ordered_by_threads, emulator, orders=50, callers=callers)
            else:
                answers = await ordered_by_tasks(emulator, orders=50, callers=callers)
            outcomes.append((answers, asdict(emulator.bill), requests_of(emulator)))
            lengths.append(passed(emulator))
    assert all(other == outcomes[0] for other in outcomes)
    assert outcomes[0][1] == {"images": 50, "calls": 50, "duplicates": 0}
    one_after_another, *_ = lengths
    assert one_after_another > 300
    assert lengths[::2] == [one_after_another] * 3
    assert all(6 < length <= one_after_another for length in lengths[1::2])


@pytest.mark.parametrize("callers", CALLERS)
async def test_limits_change_the_waits_and_not_the_bill(callers: int) -> None:
    """Which order comes first depends on the callers; that each is paid once and no refusal is billed does not."""
    for threads in (True, False):
        emulator = scenario(limits=("window:20/min", "credits=50"))
        if threads:
            await asyncio.to_thread(ordered_by_threads, emulator, orders=50, callers=callers)
        else:
            await ordered_by_tasks(emulator, orders=50, callers=callers)
        assert asdict(emulator.bill) == {"images": 50, "calls": 50, "duplicates": 0}
        assert passed(emulator) > 60
