"""What the service answers is understood: each test replays a cassette, sync and async, with the network blocked.

`pytest tests/promises/test_replay.py --flux-record=emulator` records the cassettes anew, and `live` asks the service.
The documented examples are copied from the service's pages by hand, and stay.
"""

import asyncio
import base64
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import openai
import pytest
from openai.pagination import AsyncPage, SyncPage
from openai.types import Model
from vcr.cassette import Cassette

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI
from flux_openai.errors import (
    FluxAuthenticationError,
    FluxBadRequestError,
    FluxInternalServerError,
    FluxStatusError,
    FluxWarning,
    UnsafeURLError,
)
from flux_openai.retry import RetryEvent, RetryPolicy
from flux_openai.testing import KEY, NOW, PIXELS
from flux_openai.testing.scrubbing import scrub_body, scrub_text

pytestmark = pytest.mark.usefixtures("blocked_network")

_T = TypeVar("_T")


@pytest.fixture
def flux_cassette_dir() -> Path:
    """The cassettes of the repository."""
    return Path(__file__).parents[2] / "cassettes"


@pytest.fixture
def flux_emulator() -> Emulator:
    """The plugin's, except that it knows one key only."""
    return Emulator(api_key=KEY, pixels=PIXELS, clock=lambda: float(NOW))


@pytest.fixture
def not_live(pytestconfig: pytest.Config) -> None:
    """For a test of an answer that the service gives by chance."""
    if pytestconfig.getoption("flux_record") == "live":
        pytest.skip("the service does not answer like this when it is asked to")


@dataclass(frozen=True, kw_only=True)
class Flux:
    """One client under test, sync or async, behind one face; `tape` is what it records or replays."""

    client: FluxOpenAI | AsyncFluxOpenAI
    tape: Cassette
    runner: asyncio.Runner

    def with_options(self, **options: object) -> "Flux":
        with_options: Callable[..., Any] = self.client.with_options
        return replace(self, client=with_options(**options))

    def settle(self, value: Awaitable[_T] | _T) -> _T:
        """The value, or what it comes to."""

        async def awaited(value: Awaitable[_T]) -> _T:
            return await value

        return self.runner.run(awaited(value)) if inspect.isawaitable(value) else value

    def generate(self, **arguments: object) -> FluxImagesResponse:
        generate: Callable[..., Any] = self.client.images.generate
        return cast(FluxImagesResponse, self.settle(generate(**arguments)))

    def edit(self, **arguments: object) -> FluxImagesResponse:
        edit: Callable[..., Any] = self.client.images.edit
        return cast(FluxImagesResponse, self.settle(edit(**arguments)))

    def models(self) -> SyncPage[Model] | AsyncPage[Model]:
        pages: Any = self.client.models.list()
        return cast(SyncPage[Model] | AsyncPage[Model], self.settle(pages))

    def save(self, response: FluxImagesResponse, folder: Path) -> list[Path]:
        return self.settle(response.save(folder) if isinstance(self.client, FluxOpenAI) else response.asave(folder))

    def read(self, response: FluxImagesResponse) -> bytes:
        image = response.data[0]
        return self.settle(image.read() if isinstance(self.client, FluxOpenAI) else image.aread())

    def asked(self, index: int) -> dict[str, Any]:
        """The JSON of a request on the tape."""
        return cast(dict[str, Any], json.loads(self.tape.requests[index].body))

    def answer(self, index: int) -> dict[str, Any]:
        """The JSON of an answer on the tape."""
        return cast(dict[str, Any], json.loads(self.body(index)))

    def body(self, index: int) -> bytes:
        """The body of an answer on the tape."""
        return cast(bytes, self.tape.responses[index]["body"]["string"])

    def request_id(self, index: int) -> str | None:
        """The request id in the headers of an answer on the tape."""
        return cast(str | None, next(iter(self.tape.responses[index]["headers"].get("x-request-id", ())), None))


def on_tape(value: bytes | str) -> bytes | str:
    """What a tape keeps of bytes or a link; in a replay, all of it."""
    return scrub_body(value) if isinstance(value, bytes) else scrub_text(value)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> str:
    """Which client replays. Only the sync one records: a live recording is paid for, and async downloads mix."""
    if request.param == "async" and pytestconfig.getoption("flux_record") != "none":
        pytest.skip("its cassette is recorded by the sync client")
    return str(request.param)


@pytest.fixture
def flux(request: pytest.FixtureRequest, kind: str, flux_cassette: Cassette) -> Iterator[Flux]:
    """The plugin's client on the cassette that the test's marker names."""
    client = request.getfixturevalue("flux_client" if kind == "sync" else "async_flux_client")
    with asyncio.Runner() as runner:
        yield Flux(client=client, tape=flux_cassette, runner=runner)


MODEL = "black-forest-labs/flux-kontext-max/text-to-image"
FOX: dict[str, Any] = {"prompt": "a red fox in the snow", "aspect_ratio": "16:9", "seed": 7}


@pytest.mark.flux_cassette("url")
def test_a_link_is_downloaded(flux: Flux, tmp_path: Path) -> None:
    """The answer holds a link, and the saved file holds the bytes behind it."""
    response = flux.generate(**FOX, steps=28, guidance_scale=3.0, negative_prompt="text")
    [path] = flux.save(response, tmp_path)
    assert response.sent == flux.asked(0)
    assert response.sent == FOX | {"model": MODEL, "steps": 28, "guidance_scale": 3.0, "negative_prompt": "text"}
    assert (response.request_id, response.attempts) == (flux.request_id(0), 1)
    assert on_tape(response.data[0].url or "") == flux.answer(0)["data"][0]["url"]
    assert on_tape(path.read_bytes()) == flux.body(1)
    assert (response.data[0].b64_json, response.usage, response.missing, response.notices) == (None, None, 0, ())
    assert response.created == flux.answer(0)["created"]
    assert (path.parent, path.stem) == (tmp_path, "a-red-fox-in-the-snow_seed7_0")


PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg==")
BASE64 = base64.b64encode(PNG).decode()
WIRE = f"data:image/png;base64,{BASE64}"
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
    "flux_2_pro": (
        {"model": "flux-2-pro", "image": [PNG, PNG], "size": "1024x768", "output_format": "png"},
        {"input_image": BASE64, "input_image_2": BASE64, "width": 1024, "height": 768, "output_format": "png"},
    ),
    "flux_kontext_pro": (
        {"model": "flux-kontext-pro", "image": PNG, "size": "1280x1024", "prompt_upsampling": True},
        {"input_image": BASE64, "aspect_ratio": "5:4", "prompt_upsampling": True},
    ),
    "flux_pro_1_1": (
        {"model": "flux-pro-1.1", "image": PNG, "width": 1024, "height": 768, "safety_tolerance": 2},
        {"image_prompt": BASE64, "width": 1024, "height": 768, "safety_tolerance": 2},
    ),
}
"""For each cassette, the arguments of the call and the fields of the body."""


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [pytest.param(*case, id=name, marks=pytest.mark.flux_cassette(name)) for name, case in TAPES.items()],
)
def test_each_model_is_asked_in_its_own_terms(flux: Flux, arguments: dict[str, Any], sent: dict[str, Any]) -> None:
    """A call goes out under the name, or to the path, of the model that takes it, with images as it takes them."""
    response = (flux.edit if "image" in arguments else flux.generate)(**{**SNOW, **arguments})
    assert flux.asked(0) == response.sent == {**SNOW, **sent}
    assert (response.attempts, response.missing, response.notices) == (1, 0, ())
    body = flux.answer(0)
    assert response.created == body.get("created", body.get("createed"))
    assert {**(response.model_extra or {}), **body} == body  # such as `createed` and `total_pixels`


@pytest.mark.flux_cassette("b64")
def test_base64_is_decoded(flux: Flux, tmp_path: Path) -> None:
    """The data URI becomes plain base64, and the saved file holds what it encodes; nothing is downloaded."""
    response = flux.generate(**FOX, response_format="b64_json")
    [path] = flux.save(response, tmp_path)
    image = response.data[0]
    assert flux.answer(0)["data"][0]["b64_json"] == on_tape(f"data:{image.mime_type};base64,{image.b64_json}")
    assert (response.request_id, response.attempts) == (flux.request_id(0), 1)
    assert response.sent == FOX | {"model": MODEL, "response_format": "b64_json"}
    assert path.read_bytes() == image.read()
    assert response.notices == ()


@pytest.mark.flux_cassette("four_images")
def test_four_images_come_in_one_answer(flux: Flux, tmp_path: Path) -> None:
    """One request brings four links, and each leads to a file of its own."""
    response = flux.generate(**FOX, n=4)
    paths = flux.save(response, tmp_path)
    assert [on_tape(path.read_bytes()) for path in paths] == [flux.body(index) for index in range(1, 5)]
    assert (len(response.data), response.missing, response.attempts, response.sent["n"]) == (4, 0, 1, 4)
    assert [path.stem for path in paths] == [f"a-red-fox-in-the-snow_seed7_{index}" for index in range(4)]
    assert len({path.read_bytes() for path in paths}) == 4


@pytest.mark.flux_cassette("rate_limited_then_success")
@pytest.mark.usefixtures("not_live")
def test_a_refusal_for_now_is_asked_again(flux: Flux, flux_emulator: Emulator) -> None:
    """After a 429 the same body goes out once more, as late as the service asked, and the second answer counts."""
    events: list[RetryEvent] = []
    flux_emulator.fail(status=429, headers={"retry-after": "2"})
    patient = flux.with_options(retry=RetryPolicy(waiting=False, on_retry=events.append))
    response = patient.generate(**FOX, response_format="b64_json")
    assert flux.asked(0) == flux.asked(1) == response.sent
    assert (response.attempts, response.request_id) == (2, "emu-000002")
    assert [(event.attempt, event.reason, event.status_code) for event in events] == [(1, "rate_limited", 429)]
    assert 2.0 <= events[0].wait <= 2.2
    assert response.data[0].read().startswith(b"\x89PNG")


@pytest.mark.flux_cassette("error_beside_images")
@pytest.mark.usefixtures("not_live")
def test_images_count_more_than_an_error_beside_them(flux: Flux, flux_emulator: Emulator) -> None:
    """A 200 with an image and an error gives the image, and a warning with the error."""
    image = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    error = {"message": "one image was withheld", "type": "internal_error", "param": "emu-000001", "code": "partial"}
    flux_emulator.fail(status=200, body={"created": 1750667997, "data": [{"b64_json": image}], "error": error})
    with (
        pytest.warns(FluxWarning, match="1 of 2 images did not come back usable"),
        pytest.warns(FluxWarning, match="also carries an error: one image was withheld"),
    ):
        response = flux.generate(**FOX, n=2)
    assert (len(response.data), response.missing, response.attempts) == (1, 1, 1)
    assert (response.data[0].mime_type, response.data[0].read()[:6]) == ("image/gif", b"GIF89a")
    assert len(response.notices) == 2


@pytest.mark.flux_cassette("models")
def test_other_resources_are_the_sdks_own(flux: Flux) -> None:
    """The list of models comes through as the SDK reads it, with nothing of ours in between."""
    page = flux.models()
    assert [model.to_dict() for model in page.data] == flux.answer(0)["data"]
    assert type(page) in (SyncPage[Model], AsyncPage[Model])
    assert MODEL in {model.id for model in page.data}


@pytest.mark.flux_cassette("expiry")
@pytest.mark.usefixtures("not_live")
def test_the_links_of_an_answer_expire(flux: Flux) -> None:
    """The seven days that links live are counted from the time in the answer."""
    response = flux.generate(**FOX)
    assert response.created == 1_750_667_997
    assert response.expires_at == datetime(2025, 6, 30, 8, 39, 57, tzinfo=UTC)


@pytest.mark.flux_cassette("error_in_200")
@pytest.mark.usefixtures("not_live")
def test_an_error_in_a_200_is_raised(flux: Flux, flux_emulator: Emulator) -> None:
    """A 200 that carries an error is the SDK's error for its code; it may be billed, so it is not asked for again."""
    flux_emulator.fail(status=200)
    with pytest.raises(openai.InternalServerError, match="in a 200: Internal Server Error") as caught:
        flux.generate(prompt="a red fox in the snow")
    error = caught.value
    assert isinstance(error, FluxInternalServerError)
    assert (error.code, error.type) == ("internal_error", "internal_error")
    assert (error.status_code, error.billing, error.attempts, error.request_id) == (500, "unknown", 1, "emu-000001")


@pytest.mark.flux_cassette("bad_request")
@pytest.mark.usefixtures("not_live")
def test_a_refused_parameter_is_a_bad_request(flux: Flux) -> None:
    """What only the service objects to comes back as the SDK's BadRequestError, after one request and unbilled."""
    with pytest.raises(openai.BadRequestError, match="quality is not a field of this model") as caught:
        flux.with_options(unsupported="send").generate(prompt="a red fox in the snow", quality="hd")
    assert flux.asked(0)["quality"] == "hd"
    error = caught.value
    assert isinstance(error, FluxBadRequestError)
    assert (error.code, error.billing, error.attempts) == ("param_error", "none", 1)
    assert error.request_id == "emu-000001"


@pytest.mark.flux_cassette("unauthorized")
def test_a_wrong_key_is_an_authentication_error(flux: Flux) -> None:
    """A key that the service does not know is the SDK's AuthenticationError, after one request and unbilled."""
    key = "sk-CANARY-the-wrong-one"
    with pytest.raises(openai.AuthenticationError) as caught:
        flux.with_options(api_key=key).generate(prompt="a red fox in the snow")
    error = caught.value
    assert isinstance(error, FluxAuthenticationError)
    assert error.code == flux.answer(0)["error"]["code"]
    assert (error.status_code, error.billing, error.attempts) == (401, "none", 1)
    assert error.request_id
    assert key not in f"{error!r}{vars(error)}"


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


@pytest.mark.flux_cassette("documented_success")
def test_the_documented_success_is_understood(flux: Flux) -> None:
    """The link is kept; what stands for base64 is none, which is said; counts that are not there are None."""
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


@pytest.mark.flux_cassette("documented_error_400")
def test_the_documented_error_is_understood(flux: Flux) -> None:
    """Under an error status it is the SDK's own class, with every field in its place and nothing billed."""
    with pytest.raises(openai.BadRequestError, match=r"^Error code: 400 - error_message$") as caught:
        flux.generate(**REQUEST)
    assert flux.body(0) == ERROR.encode()
    error = caught.value
    assert isinstance(error, FluxBadRequestError)
    assert (error.code, error.type, error.param, error.status_code) == ("error_code", "error_type", "request_id", 400)
    assert (error.request_id, error.attempts, error.billing) == ("request_id", 1, "none")


@pytest.mark.flux_cassette("documented_error_200")
def test_the_documented_error_in_a_200_is_an_error(flux: Flux) -> None:
    """The document does not say under which status it comes; under a 200 it is raised too, and may be billed."""
    with pytest.raises(openai.APIStatusError, match="an error in a 200: error_message") as caught:
        flux.generate(**REQUEST)
    assert flux.body(0) == ERROR.encode()
    error = caught.value
    assert isinstance(error, FluxStatusError)
    assert (error.code, error.type, error.param, error.status_code) == ("error_code", "error_type", "request_id", 200)
    assert (error.request_id, error.attempts, error.billing) == ("request_id", 1, "unknown")
