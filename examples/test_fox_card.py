"""Tests of your own code, on the emulator: what was sent, what it cost, and what happens on a bad day."""

from pathlib import Path

import openai
import pytest

from flux_openai import Emulator, OpenAI


def fox_card(client: OpenAI, name: str, folder: Path) -> Path | None:
    """The code under test: a card with a fox and a name; None if the service refuses the name."""
    try:
        response = client.images.generate(prompt=f"a card with a red fox, for {name}", size="1536x1024")
    except openai.BadRequestError:
        return None
    return response.data[0].save(folder)


def test_a_card_is_one_wide_picture(flux_client: OpenAI, flux_emulator: Emulator, tmp_path: Path) -> None:
    """The name is in the prompt, the size became an aspect ratio, and one image is paid for."""
    assert fox_card(flux_client, "Ada", tmp_path)
    post, _download = flux_emulator.requests
    assert post.body == {
        "model": "black-forest-labs/flux-kontext-max/text-to-image",
        "prompt": "a card with a red fox, for Ada",
        "aspect_ratio": "3:2",
    }
    assert flux_emulator.bill.images == 1


def test_a_refused_name_costs_nothing(flux_client: OpenAI, flux_emulator: Emulator, tmp_path: Path) -> None:
    """No file is left, and the request was not sent again."""
    flux_emulator.fail(status=400)
    assert fox_card(flux_client, "X", tmp_path) is None
    assert (len(flux_emulator.requests), flux_emulator.bill.images) == (1, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.flux_script("* #1 -> timeout")
def test_a_lost_answer_is_not_ordered_again(flux_client: OpenAI, flux_emulator: Emulator, tmp_path: Path) -> None:
    """The image may have been billed, so the error goes up and one request was sent."""
    with pytest.raises(openai.APITimeoutError):
        fox_card(flux_client, "Ada", tmp_path)
    assert len(flux_emulator.requests) == 1
