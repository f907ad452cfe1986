import asyncio
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import cast

import openai
import pytest

from flux_openai import FluxOpenAI, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.emulator import BySteps, Constant, Latency, Lognormal, VirtualClock
from flux_openai.emulator.emulator import Emulator
from flux_openai.emulator.load.latency import Work, parse_latency
from flux_openai.errors import ConfigurationError
from flux_openai.retry import RetryEvent

pytestmark = pytest.mark.anyio

START = VirtualClock().now()
CALLERS = (1, 8, 64)
WORK = Work(token="a fox")  # noqa: S106  # no password
PATIENT = RetryPolicy(max_attempts=100)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The real waits, which are not carried out and must be none; one of 0 s only lets others go first."""
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


def work_of(number: int) -> Work:
    return replace(WORK, token=f"fox {number}")


async def test_tasks_wait_together_and_wake_in_order() -> None:
    """Sixty waits on one event loop take as long as the longest, and each ends at its own time."""
    clock = VirtualClock()

    async def wait(seconds: int) -> tuple[int, float]:
        await clock.asleep(seconds)
        woken = clock.now() - START
        await clock.asleep(seconds)
        return seconds, woken

    woken = await asyncio.gather(*(wait(seconds) for seconds in range(60, 0, -1)))
    assert all(seconds == at for seconds, at in woken)
    assert clock.now() == START + 120


async def test_a_cancelled_wait_holds_nobody_up() -> None:
    """Time does not stop for who has gone, nor move to where they wanted to be."""
    clock = VirtualClock()
    gone = asyncio.ensure_future(clock.asleep(1))
    other = asyncio.ensure_future(clock.asleep(2))
    await asyncio.sleep(0)
    gone.cancel()
    await other
    assert (gone.cancelled(), clock.now()) == (True, START + 2)


async def test_time_never_goes_back() -> None:
    """A wait that somebody has moved the clock past ends where the clock is."""
    clock = VirtualClock()
    waiting = asyncio.ensure_future(clock.asleep(1))
    await asyncio.sleep(0)
    clock.advance(10)
    await waiting
    assert clock.now() == START + 10


def test_one_clock_serves_many_event_loops() -> None:
    """Loops in threads of their own do not wait for each other's tasks."""
    clock = VirtualClock()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seconds: asyncio.run(clock.asleep(seconds)), (1, 2, 3, 4)))
    assert START + 4 <= clock.now() <= START + 10


def test_waits_of_threads_add_up() -> None:
    """However eight threads take turns, the time that passes is the sum of their waits."""
    clock = VirtualClock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(clock.sleep, [0.25] * 400))
    assert clock.now() == START + 100


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_no_clock_runs_backwards(seconds: float) -> None:
    """Only finite times from 0 can pass."""
    with pytest.raises(ConfigurationError, match="finite"):
        VirtualClock().advance(seconds)


@pytest.mark.parametrize(("read", "late"), [(5.9, True), (6.0, False), (None, False)])
async def test_an_answer_after_the_read_time_out_never_comes(read: float | None, *, late: bool) -> None:
    """The caller waits for the time-out and no longer, and the order is billed: it was carried out."""
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
    """A callable gives the time, as before, and waits are then left to the system's own sleep."""
    emulator = Emulator(pixels=64, clock=lambda: 5.0, latency="2s")
    assert emulator.client().images.generate(prompt="a fox").created == 5
    assert (await emulator.async_client().images.generate(prompt="a fox")).created == 5
    assert emulator.client().models.list().data
    assert slept == [2.0, 2.0]
    slept.clear()


def test_retries_wait_on_the_virtual_clock() -> None:
    """A client turned away by a limit is admitted after its Retry-After, and the user's own hook is told."""
    told: list[RetryEvent] = []
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["window:1/min"])
    client = emulator.client(retry=RetryPolicy(on_retry=told.append))
    attempts = [client.images.generate(prompt="a fox").attempts for _ in range(5)]
    assert attempts == [1, 2, 2, 2, 2]
    assert passed(emulator) >= sum(event.wait for event in told) - 1e-3 > 180
    assert emulator.bill.images == 5


async def test_retries_of_tasks_wait_side_by_side() -> None:
    """Eight async calls at three a minute are through after the third minute has begun."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["window:3/min"])
    client = emulator.async_client(retry=PATIENT)
    await asyncio.gather(*(client.images.generate(prompt=f"fox {k}") for k in range(8)))
    assert emulator.bill.images == 8
    assert 60 < passed(emulator) < 300


async def test_places_are_free_again_when_their_orders_are_done() -> None:
    """Of twelve orders at once eight are taken, and the others when the first of those six seconds are over."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["concurrency=8"], latency="6s")
    client = emulator.async_client(retry=PATIENT)
    await client.images.generate(prompt="a fox")  # the first call of a client asks a thread about the platform
    await asyncio.gather(*(client.images.generate(prompt=f"fox {k}") for k in range(12)))
    assert (emulator.bill.images, len(emulator.requests)) == (1 + 12, 1 + 8 + 2 * 4)
    assert 6 + 12 <= passed(emulator) < 6 + 13


@pytest.mark.parametrize("limit", ["concurrency=2", "window:4/min"])
@pytest.mark.parametrize("tasks", [1, 2, 6])
async def test_what_a_limit_turns_away_uses_up_no_fault(limit: str, tasks: int) -> None:
    """Which orders fail is the same whatever the limit, and however many come at once."""

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
    """Three orders of a minute each, one after another: nobody waits, and the place of the last is free again."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), latency="60s", limits=["concurrency=1"])
    with emulator.serve() as server, FluxOpenAI(api_key="k", base_url=server.base_url) as client:
        attempts = [client.images.generate(prompt=f"fox {number}").attempts for number in range(3)]
    assert (attempts, passed(emulator)) == ([1, 1, 1], 180)


def test_what_the_users_hook_raises_ends_the_call() -> None:
    """The clock's own hook comes after the user's, and takes nothing away from it."""

    def stop(event: RetryEvent) -> None:
        raise LookupError

    emulator = Emulator(pixels=64, clock=VirtualClock())
    emulator.fail(status=429, headers={"retry-after": "30"})
    client = emulator.client(retry=RetryPolicy(on_retry=stop))
    with pytest.raises(LookupError):
        client.images.generate(prompt="a fox")
    assert passed(emulator) == 0


def test_credit_that_is_gone_is_not_retried() -> None:
    """The client sees that waiting would not help."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), limits=["credits=1"])
    client = emulator.client()
    client.images.generate(prompt="a fox")
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt="a fox")
    assert len(emulator.requests) == 2
    assert caught.value.code == "insufficient_quota"


def scenario(*, limits: tuple[str, ...] = ()) -> Emulator:
    """An emulator whose orders take six seconds, half of them, and twenty at most as a rule."""
    return Emulator(pixels=64, clock=VirtualClock(), latency="lognormal:6s,p99=20s", limits=limits)


def seen_by(emulator: Emulator) -> list[tuple[object, ...]]:
    """The request log as far as it does not say who came first."""
    return sorted((seen.method, seen.path, str(sorted((seen.body or {}).items()))) for seen in emulator.requests)


def ordered_by_threads(emulator: Emulator, *, orders: int, callers: int) -> list[str]:
    """Make the orders with so many threads; returns the answers, by order."""

    def order(number: int) -> str:
        client = emulator.client(retry=PATIENT)
        response = client.images.generate(prompt=f"fox {number}", response_format="b64_json", timeout=600)
        return str([image.b64_json for image in response.data])

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(order, range(orders)))


async def ordered_by_tasks(emulator: Emulator, *, orders: int, callers: int) -> list[str]:
    """The same with so many tasks."""
    room = asyncio.Semaphore(callers)

    async def order(number: int) -> str:
        async with room:
            prompt, client = f"fox {number}", emulator.async_client(retry=PATIENT)
            response = await client.images.generate(prompt=prompt, response_format="b64_json", timeout=600)
            return str([image.b64_json for image in response.data])

    return await asyncio.gather(*map(order, range(orders)))


async def test_what_is_drawn_and_paid_does_not_depend_on_how_many_call() -> None:
    """Ten minutes and more: answers, bill and log are the same for 1, 8 and 64 callers, in threads and in tasks."""
    told, lengths = [], []
    for callers in CALLERS:
        for threads in (True, False):
            emulator = scenario()
            if threads:
                answers = await asyncio.to_thread(ordered_by_threads, emulator, orders=100, callers=callers)
            else:
                answers = await ordered_by_tasks(emulator, orders=100, callers=callers)
            told.append((answers, asdict(emulator.bill), seen_by(emulator)))
            lengths.append(passed(emulator))
    assert all(other == told[0] for other in told)
    assert told[0][1] == {"images": 100, "calls": 100, "duplicates": 0}
    one_after_another, *_ = lengths
    assert one_after_another > 600
    assert lengths[::2] == [one_after_another] * 3
    assert all(6 < length <= one_after_another for length in lengths[1::2])


@pytest.mark.parametrize("callers", CALLERS)
async def test_limits_change_the_waits_and_not_the_bill(callers: int) -> None:
    """Who comes first may depend on the callers; that each order is paid once and each refusal is free does not."""
    for threads in (True, False):
        emulator = scenario(limits=("window:20/min", "credits=100"))
        if threads:
            await asyncio.to_thread(ordered_by_threads, emulator, orders=100, callers=callers)
        else:
            await ordered_by_tasks(emulator, orders=100, callers=callers)
        assert asdict(emulator.bill) == {"images": 100, "calls": 100, "duplicates": 0}
        assert passed(emulator) > 200


@pytest.mark.parametrize(("median", "p99"), [(6.0, 20.0), (0.5, 0.6), (6.0, 6.0)])
def test_drawn_latencies_have_the_promised_distribution(median: float, p99: float) -> None:
    """Over ten thousand orders the median is within 3 % and the 99th percentile within 6 %."""
    latency = Lognormal(median=median, p99=p99)
    drawn = [latency.of(work_of(k)) for k in range(10_000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.03)
    assert statistics.quantiles(drawn, n=100)[-1] == pytest.approx(p99, rel=0.06)


def test_a_draw_depends_on_the_seed_and_the_order_alone() -> None:
    """The same order takes the same time again; another order or another seed takes another."""
    latency = Lognormal(median=6, p99=20)
    drawn = {latency.of(WORK), latency.of(work_of(1)), replace(latency, seed=1).of(WORK)}
    assert len(drawn) == 3
    assert Lognormal(median=6, p99=20).of(WORK) in drawn


def test_steps_and_images_take_time() -> None:
    """The model's own default counts where an order says nothing, and without steps none count."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), latency="steps:1s+0.2s*steps+0.5s*images")
    client = emulator.client()
    client.images.generate(model="flux-dev", prompt="a fox")
    assert passed(emulator) == 5.5
    client.images.generate(model="flux-dev", prompt="a fox", steps=50, n=2)
    assert passed(emulator) == 5.5 + 12
    assert BySteps(base=1, per_step=0.2, per_image=0.5).of(WORK) == 1.5


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("6s", Constant(seconds=6)),
        ("250ms", Constant(seconds=0.25)),
        ("2m", Constant(seconds=120)),
        ("lognormal:6s,p99=20s", Lognormal(median=6, p99=20)),
        ("lognormal:6s, p99=1min, seed=7", Lognormal(median=6, p99=60, seed=7)),
        ("steps:1s", BySteps(base=1)),
        ("steps:1s + 0.2s*steps", BySteps(base=1, per_step=0.2)),
        ("steps:0s+2s*images", BySteps(per_image=2)),
    ],
)
def test_latencies_are_read_from_text(text: str, latency: Latency) -> None:
    """Each latency has a text form."""
    assert parse_latency(text) == latency


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("", "6s"),
        ("6", "6s"),
        ("-1s", "1s"),
        ("1h", "60min"),
        ("lognormal:4s", "lognormal:4s,p99=12s"),
        ("steps", "steps:6s+0.2s*steps"),
    ],
)
def test_unreadable_latencies_are_refused_with_what_would_do(text: str, nearest: str) -> None:
    """The error has the forms there are and the nearest one, which can be read itself."""
    with pytest.raises(ConfigurationError, match="must be like 6s") as caught:
        Emulator(latency=text)
    assert f"nearest: {nearest!r}" in str(caught.value)
    parse_latency(nearest)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(seconds=-1),
        lambda: Constant(seconds=cast("float", "5")),
        lambda: Lognormal(median=0, p99=1),
        lambda: Lognormal(median=2, p99=1),
        lambda: BySteps(base=float("nan")),
    ],
)
def test_latencies_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    """No clock could wait for them, or no distribution is like them."""
    with pytest.raises(ConfigurationError, match="must"):
        make()
