"""What the service sends where all goes well, as it stands on tape."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.pagination import AsyncPage, SyncPage

from flux_openai.errors import FluxWarning
from flux_openai.retry import RetryEvent, RetryPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from flux_openai import Emulator
    from tests.promises.replay.conftest import Play

MODEL = "black-forest-labs/flux-kontext-max/text-to-image"
FOX: dict[str, Any] = {"prompt": "a red fox in the snow", "aspect_ratio": "16:9", "seed": 7}


def test_a_link_is_downloaded(play: Play, tmp_path: Path) -> None:
    """The answer holds a link, and the saved file holds the bytes behind it."""
    with play("url", live=True) as flux:
        response = flux.generate(**FOX, steps=28, guidance_scale=3.0, negative_prompt="text")
        [path] = flux.save(response, tmp_path)
        body, recorded = flux.answer(0), flux.body(1)
        assert response.sent == flux.asked(0)
        assert (response.request_id, response.attempts) == (flux.request_id(0), 1)
        assert flux.kept(response.data[0].url or "") == body["data"][0]["url"]
        assert flux.kept(path.read_bytes()) == recorded
    assert response.sent == FOX | {"model": MODEL, "steps": 28, "guidance_scale": 3.0, "negative_prompt": "text"}
    assert (response.data[0].b64_json, response.usage, response.missing, response.notices) == (None, None, 0, ())
    assert response.created == body["created"]
    assert (path.parent, path.stem) == (tmp_path, "a-red-fox-in-the-snow_seed7_0")


PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
WIRE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
SNOW: dict[str, Any] = {"prompt": "make it snow", "seed": 7}
FAMILY = "black-forest-labs/flux"
TAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "pro": ({"model": "kontext-pro", **FOX}, {"model": f"{FAMILY}-kontext-pro/text-to-image", **FOX}),
    "max_image": ({"image": PNG, "strength": 0.5}, {"model": f"{FAMILY}-kontext-max", "image": WIRE, "strength": 0.5}),
    "pro_image": ({"model": "kontext-pro", "image": PNG}, {"model": f"{FAMILY}-kontext-pro", "image": WIRE}),
    "max_multi": ({"image": [PNG, PNG]}, {"model": f"{FAMILY}-kontext-max/multi", "images": [WIRE, WIRE]}),
    "pro_multi": (
        {"model": "kontext-pro", "image": [PNG, PNG], "aspect_ratio": "16:9"},
        {"model": f"{FAMILY}-kontext-pro/multi", "images": [WIRE, WIRE], "aspect_ratio": "16:9"},
    ),
    "dev": ({"model": "flux-dev", "size": "1024x768"}, {"model": f"{FAMILY}.1-dev", "size": "1024x768"}),
}
"""For each cassette, what is asked for and what goes out."""


@pytest.mark.parametrize("name", TAPES)
def test_each_model_is_asked_in_its_own_terms(play: Play, name: str) -> None:
    """An order goes out under the full name of the model that takes it, with images as data URIs."""
    asked, sent = TAPES[name]
    with play(name, live=True) as flux:
        response = (flux.edit if "image" in asked else flux.generate)(**{**SNOW, **asked})
        assert flux.asked(0) == response.sent == {**SNOW, **sent}
    assert (response.attempts, response.missing, response.notices) == (1, 0, ())


def test_base64_is_decoded(play: Play, tmp_path: Path) -> None:
    """The data URI becomes plain base64, and the saved file holds what it encodes; nothing is downloaded."""
    with play("b64", live=True) as flux:
        response = flux.generate(**FOX, response_format="b64_json")
        [path] = flux.save(response, tmp_path)
        recorded = flux.answer(0)["data"][0]["b64_json"]
        assert recorded == flux.kept(f"data:{response.data[0].mime_type};base64,{response.data[0].b64_json}")
        assert (response.request_id, response.attempts) == (flux.request_id(0), 1)
    assert response.sent == FOX | {"model": MODEL, "response_format": "b64_json"}
    assert path.read_bytes() == response.data[0].read()
    assert response.notices == ()


def test_four_images_come_in_one_answer(play: Play, tmp_path: Path) -> None:
    """One request brings four links, and each leads to a file of its own."""
    with play("four_images", live=True) as flux:
        response = flux.generate(**FOX, n=4)
        paths = flux.save(response, tmp_path)
        assert [flux.kept(path.read_bytes()) for path in paths] == [flux.body(index) for index in range(1, 5)]
    assert (len(response.data), response.missing, response.attempts, response.sent["n"]) == (4, 0, 1, 4)
    assert [path.stem for path in paths] == [f"a-red-fox-in-the-snow_seed7_{index}" for index in range(4)]
    assert len({path.read_bytes() for path in paths}) == 4


def test_a_refusal_for_now_is_asked_again(play: Play) -> None:
    """After a 429 the same body goes out once more, as late as the service asked, and the second answer counts."""
    events: list[RetryEvent] = []
    policy = RetryPolicy(waiting=False, on_retry=events.append)

    def busy(emulator: Emulator) -> None:
        emulator.fail(status=429, headers={"retry-after": "2"})

    with play("rate_limited_then_success", plan=busy, retry=policy) as flux:
        response = flux.generate(**FOX, response_format="b64_json")
        assert flux.asked(0) == flux.asked(1) == response.sent
    assert (response.attempts, response.request_id) == (2, "emu-000002")
    assert [(event.attempt, event.reason, event.status_code) for event in events] == [(1, "rate_limited", 429)]
    assert 2.0 <= events[0].wait <= 2.2
    assert response.data[0].read().startswith(b"\x89PNG")


def test_images_count_more_than_an_error_beside_them(play: Play) -> None:
    """A 200 with an image and an error gives the image, and a warning with the error."""
    image = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    error = {"message": "one image was withheld", "type": "server_error", "param": "emu-000001", "code": "partial"}

    def halve(emulator: Emulator) -> None:
        emulator.fail(status=200, body={"created": 1750667997, "data": [{"b64_json": image}], "error": error})

    with (
        play("error_beside_images", plan=halve) as flux,
        pytest.warns(FluxWarning, match="1 of 2 images did not come back usable"),
        pytest.warns(FluxWarning, match="also carries an error: one image was withheld"),
    ):
        response = flux.generate(**FOX, n=2)
    assert (len(response.data), response.missing, response.attempts) == (1, 1, 1)
    assert (response.data[0].mime_type, response.data[0].read()[:6]) == ("image/gif", b"GIF89a")
    assert len(response.notices) == 2


def test_other_resources_are_the_sdks_own(play: Play) -> None:
    """The list of models comes through as the SDK reads it, with nothing of ours in between."""
    with play("models", live=True) as flux:
        page = flux.models()
        assert [model.to_dict() for model in page.data] == flux.answer(0)["data"]
    assert type(page) in (SyncPage[openai.types.Model], AsyncPage[openai.types.Model])
    assert MODEL in {model.id for model in page.data}


def test_the_links_of_an_answer_expire(play: Play) -> None:
    """The seven days that links live are counted from the time in the answer."""
    with play("expiry") as flux:
        response = flux.generate(**FOX)
    assert response.created == 1_750_667_997
    assert response.expires_at == datetime(2025, 6, 30, 8, 39, 57, tzinfo=UTC)
