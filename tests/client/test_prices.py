"""Prices and costs: what the table states, what a client replaces, and what an answer is estimated to cost."""

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from flux_openai import Emulator, FluxImagesResponse
from flux_openai.errors import ConfigurationError, FluxWarning
from flux_openai.models import FLUX_MODELS, Price


def test_the_listed_prices_are_those_of_the_page() -> None:
    """Each price of the table has its currency, date and page, and models without a stated price have none."""
    listed = {"kontext-max": "0.70 CNY", "kontext-pro": "0.35 CNY", "flux-dev": "0.10 CNY"}
    for model in FLUX_MODELS.values():
        assert (None if model.price is None else str(model.price)) == listed.get(model.family)
        if model.price is not None:
            assert (model.price.date, model.price.source) == ("2026-03-24", "the provider's price page")


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        (None, "4.20 CNY"),
        ({"kontext-max": "0.65 CNY"}, "3.90 CNY"),
        ({"black-forest-labs/flux-kontext-max/text-to-image": Price.of("1USD")}, "6 USD"),
        ({"kontext-pro": "1 CNY"}, "4.20 CNY"),
    ],
)
def test_the_cost_is_the_price_of_the_images_that_came(prices: Mapping[str, str | Price] | None, cost: str) -> None:
    """Also for a split call, a copy of the client, and a pickled answer."""
    client = Emulator().client(split=True, prices=prices).with_options(timeout=60)
    response = client.images.generate(prompt="a fox", n=6)
    assert str(response.cost) == str(pickle.loads(pickle.dumps(response)).cost) == cost  # noqa: S301  # our own pickle


def test_images_that_did_not_come_are_not_counted() -> None:
    """An incomplete answer is estimated by the images that it has, and an unknown price has no cost."""
    emulator = Emulator(script="* -> partial(1)")
    with pytest.warns(FluxWarning):
        response = emulator.client().images.generate(prompt="a fox", n=3)
    assert response.missing == 2
    assert str(response.cost) == "0.70 CNY"
    assert FluxImagesResponse.construct(created=1, data=[]).cost is None


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"kontext-max": 0.65}, r"prices=0.65: must be an amount .* \(nearest: '0.65 CNY'\)"),
        ({"kontext-max": "¥0.65"}, r"nearest: '0.65 CNY'"),
        ({"kontext-max": "0.65 cny"}, r"nearest: '0.65 CNY'"),
        ({"kontext-max": "-1 CNY"}, r"prices='-1 CNY': must be an amount"),
        ({"kontext-max": "nan CNY"}, "must be an amount"),
        ({"kontext-max": True}, "must be an amount"),
        ({"kontext-max": None}, "must be an amount"),
        ({"kontxt-max": "1 CNY"}, r"prices='kontxt-max': must have names of models: .*\(nearest: 'kontext-max'\)"),
        ({3: "1 CNY"}, "prices=3: must have names of models"),
        ("0.65 CNY", "must be a mapping of model names to prices"),
    ],
)
def test_a_wrong_price_is_refused_when_the_client_is_made(prices: Any, message: str) -> None:  # noqa: ANN401  # wrong on purpose
    """The error names the value, the rule and the nearest right value."""
    with pytest.raises(ConfigurationError, match=message):
        Emulator().client(prices=prices)


def test_all_wrong_prices_are_named_at_once() -> None:
    """Two faults are one error with two lines."""
    with pytest.raises(ConfigurationError, match=r"(?s)prices=1.*prices=2"):
        Emulator().client(prices={"kontext-max": 1, "kontext-pro": 2})


@pytest.mark.parametrize("text", ["0.70 CNY", "0.0000001 CNY", "123456789 USD", "0 EUR"])
def test_a_price_prints_as_it_is_read(text: str) -> None:
    """Also where Python would write an exponent."""
    assert str(Price.of(text)) == text
