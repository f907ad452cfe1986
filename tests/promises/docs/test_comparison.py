"""The first row of the comparison in the guides, run: what the plain SDK makes of the service's documented answers."""

from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress

import openai
import pytest

from flux_openai import Emulator


@pytest.fixture
def plain() -> Callable[[Emulator], openai.OpenAI]:
    """The SDK's own client in front of an emulator."""

    def make(emulator: Emulator) -> openai.OpenAI:
        return openai.OpenAI(api_key="any", base_url=emulator.base_url, http_client=emulator.http_client())

    return make


MODEL = "black-forest-labs/flux-kontext-max/text-to-image"


def test_the_sdk_does_not_know_aspect_ratio(plain: Callable[[Emulator], openai.OpenAI]) -> None:
    """`aspect_ratio=` is a TypeError in the SDK."""
    with pytest.raises(TypeError):
        plain(Emulator()).images.generate(model=MODEL, prompt="a fox", aspect_ratio="1:1")  # type: ignore[call-overload]


def test_the_sdk_hands_on_a_data_uri_as_base64(plain: Callable[[Emulator], openai.OpenAI]) -> None:
    """What the SDK returns as `b64_json` does not decode to the picture."""
    response = plain(Emulator(pixels=64)).images.generate(model=MODEL, prompt="a fox", response_format="b64_json")
    assert response.data is not None
    packed = response.data[0].b64_json or ""
    assert packed.startswith("data:")
    with suppress(ValueError):
        assert not b64decode(packed).startswith(b"\x89PNG")


def test_the_sdk_makes_nothing_of_an_error_in_a_200(plain: Callable[[Emulator], openai.OpenAI]) -> None:
    """An error inside a 200 is `data=None` and no exception."""
    emulator = Emulator()
    emulator.fail(status=200, body={"error": {"message": "error_message", "code": "error_code"}})
    assert plain(emulator).images.generate(model=MODEL, prompt="a fox").data is None


def test_the_sdk_can_pay_three_times_where_we_pay_once(
    plain: Callable[[Emulator], openai.OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that get lost cost the SDK three images and us one."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # the SDK has no switch that removes its waits
    theirs, ours = Emulator(), Emulator()
    for emulator in (theirs, ours):
        emulator.fail(3, error="timeout")
    with pytest.raises(openai.APITimeoutError):
        plain(theirs).with_options(timeout=1).images.generate(model=MODEL, prompt="a fox")
    with pytest.raises(openai.APITimeoutError):
        ours.client().images.generate(prompt="a fox")
    assert (theirs.bill.images, ours.bill.images) == (3, 1)
