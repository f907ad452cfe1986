"""The examples of the service's own document, word for word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import openai
import pytest

from flux_openai._http.library import httpx
from flux_openai.errors import FluxWarning, UnsafeURLError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.replay.conftest import Play

REQUEST = {
    "model": "black-forest-labs/flux-kontext-max/text-to-image",
    "prompt": "Convert to quick pencil sketch",
    "aspect_ratio": "16:9",
}
SUCCESS = """{
"created": 1750667997,
"data": [
{
"url": "https://xxxxx/xxxx.png",
"b64_json": "data:image/png;base64,{image_base64_string}"
}
],
"usage": {
"input_tokens_details": {}
}
}"""
ERROR = """{
"error": {
"message": "error_message",
"type": "error_type",
"param": "request_id",
"code": "error_code"
}
}"""


def answering(text: str, *, status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    """A service that knows this one answer; the document says nothing of headers, so there is only the type."""
    return lambda _: httpx.Response(status, content=text.encode(), headers={"content-type": "application/json"})


def test_the_documented_success_is_understood(play: Play) -> None:
    """The link is kept; what stands for base64 is none, which is said; counts that are not there are None."""
    with play("documented_success", documented=answering(SUCCESS)) as flux:
        with pytest.warns(FluxWarning, match="image 0: its b64_json is not base64"):
            response = flux.generate(**REQUEST)
        with pytest.raises(UnsafeURLError, match="its host is not a public one"):
            flux.read(response)
        assert flux.body(0) == SUCCESS.encode()
        assert flux.asked(0) == REQUEST
    assert isinstance(response, openai.types.ImagesResponse)
    assert (response.data[0].url, response.data[0].b64_json) == ("https://xxxxx/xxxx.png", None)
    assert (response.usage, response.created) == (None, 1_750_667_997)
    assert response.expires_at == datetime(2025, 6, 30, 8, 39, 57, tzinfo=UTC)
    assert response.notices == ("image 0: its b64_json is not base64",)
    assert (response.sent, response.attempts, response.missing) == (REQUEST, 1, 0)


def test_the_documented_error_is_understood(play: Play) -> None:
    """Under an error status it is the SDK's own class, with every field in its place and nothing billed."""
    with play("documented_error_400", documented=answering(ERROR, status=400)) as flux:
        with pytest.raises(openai.BadRequestError, match=r"^Error code: 400 - error_message$") as caught:
            flux.generate(**REQUEST)
        assert flux.body(0) == ERROR.encode()
    error = caught.value
    assert (error.code, error.type, error.param, error.status_code) == ("error_code", "error_type", "request_id", 400)
    assert (error.request_id, error.attempts, error.billing) == ("request_id", 1, "none")  # type: ignore[attr-defined]


def test_the_documented_error_in_a_200_is_an_error(play: Play) -> None:
    """The document does not say under which status it comes; under a 200 it is raised too, and may be billed."""
    with play("documented_error_200", documented=answering(ERROR)) as flux:
        with pytest.raises(openai.APIStatusError, match="an error in a 200: error_message") as caught:
            flux.generate(**REQUEST)
        assert flux.body(0) == ERROR.encode()
    error = caught.value
    assert (error.code, error.type, error.param, error.status_code) == ("error_code", "error_type", "request_id", 200)
    assert (error.request_id, error.attempts, error.billing) == ("request_id", 1, "unknown")  # type: ignore[attr-defined]
