"""How long orders take: the distributions, and their text forms."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from flux_openai.emulator import BySteps, Constant, Emulator, Latency, Lognormal, VirtualClock
from flux_openai.emulator.load.latency import Workload, parse_latency
from flux_openai.errors import ConfigurationError

WORKLOAD = Workload(occurrence_id="a fox")  # no password


def workload_of(number: int) -> Workload:
    return replace(WORKLOAD, occurrence_id=f"fox {number}")


@pytest.mark.parametrize(("median", "p99"), [(6.0, 20.0), (0.5, 0.6), (6.0, 6.0)])
def test_drawn_latencies_have_the_promised_distribution(median: float, p99: float) -> None:
    """Over ten thousand orders the median is within 3 % and the 99th percentile within 6 %."""
    latency = Lognormal(median=median, p99=p99)
    drawn = [latency.of(workload_of(k)) for k in range(10_000)]
    assert statistics.median(drawn) == pytest.approx(median, rel=0.03)
    assert statistics.quantiles(drawn, n=100)[-1] == pytest.approx(p99, rel=0.06)


def test_a_draw_depends_on_the_seed_and_the_order_alone() -> None:
    """The same order takes the same time again; another order or another seed takes another."""
    latency = Lognormal(median=6, p99=20)
    drawn = {latency.of(WORKLOAD), latency.of(workload_of(1)), replace(latency, seed=1).of(WORKLOAD)}
    assert len(drawn) == 3
    assert Lognormal(median=6, p99=20).of(WORKLOAD) in drawn


def test_steps_and_images_take_time() -> None:
    """Where an order leaves the steps out, the model's default counts; a model without steps has none."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), latency="steps:1s+0.2s*steps")
    start = emulator.clock.now()
    client = emulator.client()
    client.images.generate(model="flux-dev", prompt="a fox")
    assert emulator.clock.now() == start + 5
    client.images.generate(model="flux-dev", prompt="a fox", steps=50, n=2)
    assert emulator.clock.now() == start + 5 + 11
    assert BySteps(base=1, per_step=0.2, per_image=0.5).of(WORKLOAD) == 1.5


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("6s", Constant(seconds=6)),
        ("250ms", Constant(seconds=0.25)),
        ("2.5min", Constant(seconds=150)),
        ("lognormal:6s,p99=20s", Lognormal(median=6, p99=20)),
        ("lognormal:6s, p99=1min", Lognormal(median=6, p99=60)),
        ("steps:1s + 0.2s*steps", BySteps(base=1, per_step=0.2)),
    ],
)
def test_latencies_are_read_from_text(text: str, latency: Latency) -> None:
    """Spaces do not count."""
    assert parse_latency(text) == latency


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("", "6s"),
        ("6", "6s"),
        ("-1s", "6s"),
        ("1h", "6s"),
        ("lognormal:4s", "lognormal:6s,p99=20s"),
        ("steps:4s", "steps:1s+0.2s*steps"),
    ],
)
def test_unreadable_latencies_are_refused_with_what_would_do(text: str, nearest: str) -> None:
    """The error names the forms there are, and an example of the nearest one, which is itself a latency."""
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
def test_impossible_latencies_are_refused(make: Callable[[], object]) -> None:
    """No clock can wait for them, or no distribution has these numbers."""
    with pytest.raises(ConfigurationError, match="must"):
        make()
