"""The parameters under fire: thousands of generated calls, and the emulator as witness of what went over the wire."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flux_openai import Emulator, FluxImagesResponse, InvalidParamsError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS, FluxField

FIELDS = FLUX_MODELS[DEFAULT_MODEL].fields
THOROUGH = settings(max_examples=2000, deadline=None, database=None, phases=(Phase.generate, Phase.shrink))

Generate = Callable[..., FluxImagesResponse]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One emulator with both kinds of client in front of it."""

    emulator: Emulator
    ways: dict[str, Generate]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    emulator = Emulator(pixels=64)
    with emulator.client() as client, asyncio.Runner() as runner:
        aclient = emulator.async_client()

        def run(**call: Any) -> FluxImagesResponse:  # noqa: ANN401  # passed on
            return runner.run(aclient.images.generate(**call))

        yield Bench(emulator=emulator, ways={"sync": client.images.generate, "async": run})
        runner.run(aclient.close())


def good(field: FluxField) -> st.SearchStrategy[object]:
    """Values that the row of the table allows, and that cause no remark."""
    if field.name == "response_format":
        return st.just("url")
    if field.choices:
        return st.sampled_from(field.choices)
    if field.type is str:
        return st.text(max_size=30).filter(str.strip) if field.required else st.text(max_size=30)
    whole = st.integers(int(field.minimum or 0), int(field.maximum or 0))
    return whole if field.type is int else whole | st.floats(field.minimum, field.maximum)


def outside(field: FluxField) -> st.SearchStrategy[object]:
    """Numbers beyond the limits of a field; where those only warn, beyond what any JSON reader takes."""
    low, high = (field.minimum, field.maximum) if field.enforced == "error" else (-(2**63), 2**63 - 1)
    assert low is not None
    assert high is not None
    whole = st.integers(max_value=int(low) - 1) | st.integers(min_value=int(high) + 1)
    fractions = st.floats(max_value=low, exclude_max=True) | st.floats(min_value=high, exclude_min=True)
    return whole | (fractions if field.type is float else st.floats())


def bad(field: FluxField) -> st.SearchStrategy[object]:
    """Values that break the row of the table."""
    never: st.SearchStrategy[object] = (
        st.booleans() | st.lists(st.integers(), max_size=2) | st.binary(max_size=3) | st.just({})
    )
    if field.choices:
        return never | st.integers() | st.text(max_size=8).filter(lambda text: text not in field.choices)
    if field.type is str:
        return never | st.integers() | st.floats() | (st.text(" \t\n\u3000", max_size=4) if field.required else never)
    return never | st.text("0123456789.e-", max_size=6) | st.sampled_from([float("nan"), float("inf")]) | outside(field)


PLANTED: dict[str, st.SearchStrategy[object]] = {
    **{name: bad(field) for name, field in FIELDS.items()},
    "size": st.sampled_from(["1x9", "1000x800", "", "big", "1024", 1024, True, []]),
    "quality": st.sampled_from(["hd", "low", 1]),
    "colour": st.text(max_size=5) | st.integers(),
    "stream": st.just(value=True),
    "partial_images": st.integers(0, 3),
}


# Made once: hypothesis examines every strategy that it has not seen before, and that takes longer than a call.
NAMES = sorted(PLANTED)
GOOD = st.fixed_dictionaries(
    {name: good(field) for name, field in FIELDS.items() if field.required},
    optional={name: good(field) for name, field in FIELDS.items() if not field.required},
)
SOME_NAMES = st.sets(st.sampled_from(NAMES), min_size=1, max_size=4)
PLACES = st.integers(0, 4 ** (len(NAMES) + 1) - 1)
COIN = st.booleans()
WAYS = st.sampled_from(["sync", "async"])
SCALE = st.integers(1, 999)


def spread(values: dict[str, object], places: int) -> dict[str, Any]:
    """The values as a call: each digit of `places` says where a name stands, as a keyword, in extra_body, or in both.

    What has no value may be given as None, which stands for nothing.
    """
    keywords: dict[str, object] = {}
    extra: dict[str, object] = {}
    for name in ("model", *NAMES):
        places, place = divmod(places, 4)
        if place != 1 and (name in values or place == 0):
            keywords[name] = values.get(name)
        if place != 0 and name in values:
            extra[name] = values[name]
    return {**keywords, **({"extra_body": extra} if extra else {})}


@st.composite
def bad_calls(draw: st.DrawFn) -> tuple[dict[str, Any], set[str]]:
    names = draw(SOME_NAMES)
    values = {**draw(GOOD), **{name: draw(PLANTED[name]) for name in sorted(names)}}
    if "prompt" in names and draw(COIN):
        del values["prompt"]
    return spread(values, draw(PLACES)), names


@st.composite
def good_calls(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, object]]:
    values = draw(GOOD)
    expected = {"model": DEFAULT_MODEL, **values}
    if "aspect_ratio" in values and draw(COIN):
        width, height = map(int, str(values.pop("aspect_ratio")).split(":"))
        scale = draw(SCALE)
        values["size"] = f"{width * scale}x{height * scale}"
    if draw(COIN):
        values["model"] = DEFAULT_MODEL
    return spread(values, draw(PLACES)), expected


@THOROUGH
@given(case=bad_calls(), way=WAYS)
def test_no_bad_call_is_sent(bench: Bench, case: tuple[dict[str, Any], set[str]], way: str) -> None:
    """2,000 calls with one to four planted faults: each fault is named, no other is, and not one request is made."""
    call, planted = case
    with pytest.raises(InvalidParamsError) as caught:
        bench.ways[way](**call)
    assert {fault.param for fault in caught.value.faults} == planted
    assert len(str(caught.value).splitlines()) == 1 + len(caught.value.faults)
    assert len(bench.emulator.requests) == 0


@THOROUGH
@given(case=good_calls(), way=WAYS)
def test_a_good_call_is_sent_as_asked(bench: Bench, case: tuple[dict[str, Any], dict[str, object]], way: str) -> None:
    """2,000 calls: the body on the wire is what was asked and the model, to the last type, and nothing more."""
    call, expected = case
    before = len(bench.emulator.requests)
    response = bench.ways[way](**call)
    (seen,) = bench.emulator.requests[before:]
    assert json.dumps(seen.body, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert response.sent == expected
    assert len(response.data) == expected.get("n", 1)
    assert (response.attempts, response.missing, response.notices) == (1, 0, ())
