"""What the service sends where it refuses or fails, as it stands on tape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from flux_openai.errors import FluxAuthenticationError, FluxBadRequestError, FluxInternalServerError

if TYPE_CHECKING:
    from flux_openai import Emulator
    from tests.promises.replay.conftest import Play


def test_an_error_in_a_200_is_raised(play: Play) -> None:
    """A 200 that carries an error is the SDK's error for its code; it may be billed, so it is not asked for again."""

    def hide_an_error(emulator: Emulator) -> None:
        emulator.fail(status=200)

    with (
        play("error_in_200", plan=hide_an_error) as flux,
        pytest.raises(openai.InternalServerError, match="in a 200: Internal Server Error") as caught,
    ):
        flux.generate(prompt="a red fox in the snow")
    error = caught.value
    assert isinstance(error, FluxInternalServerError)
    assert (error.code, error.type) == ("internal_server_error", "server_error")
    assert (error.status_code, error.billing, error.attempts, error.request_id) == (500, "unknown", 1, "emu-000001")


def test_a_refused_parameter_is_a_bad_request(play: Play) -> None:
    """What only the service objects to comes back as the SDK's BadRequestError, after one request and unbilled."""
    with play("bad_request", unsupported="send") as flux:
        with pytest.raises(openai.BadRequestError, match="quality is not a field of this model") as caught:
            flux.generate(prompt="a red fox in the snow", quality="hd")
        assert flux.asked(0)["quality"] == "hd"
    error = caught.value
    assert isinstance(error, FluxBadRequestError)
    assert (error.code, error.billing, error.attempts) == ("invalid_parameter", "none", 1)
    assert error.request_id == "emu-000001"


def test_a_wrong_key_is_an_authentication_error(play: Play) -> None:
    """A key that the service does not know is the SDK's AuthenticationError, after one request and unbilled."""
    key = "sk-CANARY-the-wrong-one"
    with play("unauthorized", live=True, api_key=key) as flux:
        with pytest.raises(openai.AuthenticationError) as caught:
            flux.generate(prompt="a red fox in the snow")
        assert caught.value.code == flux.answer(0)["error"]["code"]
    error = caught.value
    assert isinstance(error, FluxAuthenticationError)
    assert (error.status_code, error.billing, error.attempts) == (401, "none", 1)
    assert error.request_id
    assert key not in f"{error!r}{vars(error)}"
