"""Models with a path of their own: what they are asked, what is refused, and what is made of their answers."""

import asyncio
import json
import logging
import pickle
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI, InvalidParamsError, RetryPolicy
from flux_openai._http.library import httpx
from flux_openai.cli import main
from flux_openai.emulator.journal import SeenRequest
from flux_openai.errors import FluxWarning, InvalidParam
from flux_openai.formats import image_size
from flux_openai.models import FLUX_MODELS, GENERATIONS
from flux_openai.request.validation import body_of, validate
from flux_openai.sending.call import build_calls
from flux_openai.sending.settings import Settings

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (1500).to_bytes(4) + (1000).to_bytes(4) + bytes(range(256))
TEXT = b64encode(PNG).decode()
URI = f"data:image/png;base64,{TEXT}"
NAMES = [model.id for model in FLUX_MODELS.values() if model.path != GENERATIONS]
HOOK, SECRET = "https://hooks.example/T0/CANARY-path?x=CANARY-query", "CANARY-secret"

Generate = Callable[..., FluxImagesResponse]


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(pixels=64)


@pytest.fixture(params=["in process", "served", "async", "async, served"])
def client(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[tuple[Generate, Generate]]:
    """The methods of a client, `generate` and `edit`."""
    with emulator.serve() as server, asyncio.Runner() as runner:
        options: dict[str, Any] = {"base_url": server.base_url, "api_key": "k"} if "served" in request.param else {}
        if "async" not in request.param:
            with FluxOpenAI(**options) if options else emulator.client() as sync:
                yield sync.images.generate, sync.images.edit
            return
        made = AsyncFluxOpenAI(**options) if options else emulator.async_client()

        def run(method: Callable[..., Any]) -> Generate:
            async def call(**arguments: object) -> FluxImagesResponse:
                response: FluxImagesResponse = await method(**arguments)
                return response

            return lambda **arguments: runner.run(call(**arguments))

        yield run(made.images.generate), run(made.images.edit)
        runner.run(made.close())


def sent_by(seen: SeenRequest) -> dict[str, Any]:
    return seen.body or {}


def numbered(count: int) -> dict[str, str]:
    return {"input_image": TEXT} | {f"input_image_{number}": TEXT for number in range(2, count + 1)}


BODIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("flux-2-pro", {"width": 1024, "height": 768, "output_format": "png"}, {}),
    ("flux-2-pro", {"size": "1024x768"}, {"width": 1024, "height": 768}),
    ("flux-2-pro", {"size": "1024x768", "width": 1024}, {"width": 1024, "height": 768}),
    ("flux-2-pro", {"size": "auto"}, {}),
    ("flux-2-pro", {"width": 64}, {}),
    ("flux-2-pro", {"height": 99_968}, {}),
    ("flux-2-pro", {"n": 1, "response_format": "b64_json", "safety_tolerance": 0, "seed": 7}, {}),
    ("flux-2-pro", {"output_format": "jpeg"}, {}),
    ("flux-2-pro", {"image": PNG}, numbered(1)),
    ("flux-2-pro", {"images": [PNG, URI] * 4}, numbered(8)),
    ("flux-2-pro", numbered(3), numbered(3)),
    ("flux-2-pro", {"extra_body": numbered(8)}, numbered(8)),
    ("flux-2-pro", {"extra_body": {"input_image": PNG, "width": 64}, "height": 96}, {**numbered(1), "width": 64}),
    ("flux-kontext-pro", {"images": [PNG] * 4, "prompt_upsampling": True}, numbered(4)),
    ("flux-kontext-pro", {"aspect_ratio": "5:4"}, {}),
    ("flux-kontext-pro", {"size": "1280x1024"}, {"aspect_ratio": "5:4"}),
    ("flux-kontext-pro", {"size": "1792x1024"}, {"aspect_ratio": "7:4"}),
    ("flux-kontext-pro", {"size": "2100x900"}, {"aspect_ratio": "21:9"}),
    ("flux-pro-1.1", {"width": 1440, "height": 256, "safety_tolerance": 6, "prompt_upsampling": False}, {}),
    ("flux-pro-1.1", {"image": PNG}, {"image_prompt": TEXT}),
    ("flux-pro-1.1", {"images": [PNG]}, {"image_prompt": TEXT}),
    ("flux-pro-1.1", {"image_prompt": TEXT}, {"image_prompt": TEXT}),
]
"""For each call what it gives, and what is sent in place of that; all else is sent as it is given."""
NOT_SENT = {"n", "response_format", "size", "image", "images", "extra_body"}


@pytest.mark.parametrize(("model", "given", "replaced"), BODIES)
def test_a_model_is_asked_as_its_page_says(
    emulator: Emulator, client: tuple[Generate, Generate], model: str, given: dict[str, Any], replaced: dict[str, Any]
) -> None:
    """The path names the model, images are plain base64 under numbered names, the answer is one image, billed once."""
    response = client[0](model=model, prompt="a fox", **given)
    [seen] = emulator.requests
    kept = {name: value for name, value in given.items() if name not in NOT_SENT}
    assert (seen.method, seen.path) == ("POST", f"/v1/{model}")
    assert seen.body == {"prompt": "a fox", **kept, **replaced} == response.sent
    assert seen.headers["idempotency-key"]
    assert (len(response.data), response.missing, response.notices, emulator.bill.images) == (1, 0, (), 1)
    assert response.data[0].url is None
    assert response.data[0].read().startswith(b"\x89PNG")
    assert response.created == (response.model_extra or {})["createed"]
    assert TEXT[:40] not in f"{response.sent}{response!r}"


@pytest.mark.parametrize(
    ("model", "image", "sent"),
    [
        ("flux-2-pro", PNG, numbered(1)),
        ("flux-2-pro", [PNG, PNG], numbered(2)),
        ("flux-kontext-pro", [PNG], numbered(1)),
        ("flux-pro-1.1", PNG, {"image_prompt": TEXT}),
        ("flux-pro-1.1", [PNG], {"image_prompt": TEXT}),
    ],
)
def test_an_edit_is_the_same_request(
    emulator: Emulator, client: tuple[Generate, Generate], model: str, image: object, sent: dict[str, Any]
) -> None:
    """`images.edit` sends its images as `generate` does."""
    client[1](model=model, image=image, prompt="snow")
    assert [(seen.path, seen.body) for seen in emulator.requests] == [(f"/v1/{model}", {"prompt": "snow", **sent})]


FAULTS: list[tuple[str, dict[str, Any], str, str, object]] = [
    ("flux-2-pro", {"width": 1000}, "width", "of 64 or more and a multiple of 32", 992),
    ("flux-2-pro", {"height": 32}, "height", "of 64 or more and a multiple of 32", 64),
    ("flux-2-pro", {"width": "1024"}, "width", "must be an integer", 1024),
    ("flux-pro-1.1", {"width": 1472}, "width", "from 256 to 1440 and a multiple of 32", 1440),
    ("flux-2-pro", {"size": "1000x700"}, "size", "each of 64 or more and a multiple of 32", "992x704"),
    ("flux-pro-1.1", {"size": "2048x1024"}, "size", "each from 256 to 1440", "1440x704"),
    ("flux-2-pro", {"size": (1024, 768)}, "size", "must be WIDTHxHEIGHT", "1024x768"),
    ("flux-2-pro", {"size": "1024x768", "width": 512}, "size", "disagrees with width=512", None),
    ("flux-2-pro", {"aspect_ratio": "16:9"}, "aspect_ratio", "takes a size", "size='1024x576'"),
    ("flux-kontext-pro", {"aspect_ratio": "22:9"}, "aspect_ratio", "W:H from 21:9 to 9:21", "21:9"),
    ("flux-kontext-pro", {"aspect_ratio": "16x9"}, "aspect_ratio", "W:H from 21:9 to 9:21", "16:9"),
    ("flux-kontext-pro", {"size": "3000x1000"}, "size", "from 21:9 to 9:21", "aspect_ratio='21:9'"),
    ("flux-kontext-pro", {"width": 1024}, "width", "not taken by flux-kontext-pro, but by 'flux-2-pro'", None),
    ("flux-2-pro", {"n": 2}, "n", "must be 1; for more, split=True", 1),
    ("flux-2-pro", {"response_format": "url"}, "response_format", "is always the image itself", None),
    ("flux-2-pro", {"safety_tolerance": 7}, "safety_tolerance", "from 0 to 6", 6),
    ("flux-2-pro", {"output_format": "webp"}, "output_format", "one of 'jpeg', 'png'", None),
    ("flux-kontext-pro", {"prompt_upsampling": 1}, "prompt_upsampling", "True or False", True),
    ("flux-kontext-pro", {"prompt_upsampling": "false"}, "prompt_upsampling", "True or False", False),
    ("flux-2-pro", {"prompt_upsampling": True}, "prompt_upsampling", "but by 'flux-kontext-pro', 'flux-pro-1.1'", None),
    ("flux-2-pro", {"steps": 20}, "steps", "not taken by flux-2-pro", None),
    ("flux-2-pro", {"images": [PNG] * 9}, "images", "8 images at most, and these are 9", None),
    ("flux-kontext-pro", {"images": [PNG] * 5}, "images", "4 images at most, and these are 5", None),
    ("flux-pro-1.1", {"images": [PNG, PNG]}, "images", "must be one image; several are taken by", ...),
    ("flux-2-pro", {"image": PNG, "images": [PNG]}, "image", "beside images; give one", None),
    ("flux-2-pro", {"image": PNG, "input_image": TEXT}, "input_image", "beside image; give one", None),
    ("flux-2-pro", {"input_image_3": TEXT, "input_image": TEXT}, "input_image_3", "without input_image_2", None),
    ("flux-2-pro", {"input_image": "not base64"}, "images", "cannot be read as a file", None),
    ("flux-kontext-pro", {"input_image_5": TEXT}, "input_image_5", "is no parameter", None),
    ("flux-pro-1.1", {"input_image": TEXT}, "input_image", "is no parameter", None),
    ("kontext-max", {"input_image": TEXT}, "input_image", "is no parameter", None),
    ("flux-2-pro", {"image": "https://img.example/a.png?sig=CANARY"}, "image", "takes no links", None),
    ("flux-2-pro", {"images": [PNG, "https://img.example/a?CANARY"]}, "images", "no links.*image 2 of 2", None),
    ("flux-pro-1.1", {"image_prompt": "https://img.example/a.png"}, "image", "takes no links", None),
    ("flux-2-pro", {"webhook_url": HOOK}, "webhook_url", "the call itself waits", None),
    ("flux-2-pro", {"webhook_secret": SECRET}, "webhook_secret", "the call itself waits", None),
    ("kontext-max", {"webhook_url": HOOK}, "webhook_url", "the call itself waits", None),
    ("kontext-max", {"output_format": "png"}, "output_format", "not taken by .*but by 'flux-2-pro', 'flux-kont", None),
    ("flux-2-pro", {"quality": "hd"}, "quality", "OpenAI's own models", None),
]


@pytest.mark.parametrize(("model", "given", "param", "rule", "nearest"), FAULTS)
def test_what_the_page_does_not_allow_is_one_fault(
    model: str, given: dict[str, Any], param: str, rule: str, nearest: object
) -> None:
    """Each is named, with the rule and what was probably meant; nothing is sent, and no image or secret is shown."""
    emulator = Emulator()
    with pytest.raises(InvalidParamsError, match=rule) as caught:
        emulator.client().images.generate(model=model, prompt="a fox", **given)
    fault: InvalidParam
    [fault] = caught.value.faults
    assert fault.param == param
    assert nearest is ... or (fault.nearest, type(fault.nearest)) == (nearest, type(nearest))
    assert emulator.requests == []
    said = f"{caught.value} {caught.value!r} {caught.value.faults!r} {pickle.dumps(caught.value)!r}"
    assert "CANARY" not in said
    assert TEXT[:40] not in said


@pytest.mark.parametrize("mode", ["warn", "drop", "send"])
@pytest.mark.parametrize("model", NAMES)
def test_options_follow_the_mode(emulator: Emulator, model: str, mode: Any) -> None:  # noqa: ANN401  # a Literal
    """An option that the page does not show is left out or sent, but a webhook is refused under every mode."""
    images = emulator.client(unsupported=mode).images
    call: dict[str, Any] = {"model": model, "prompt": "a fox", "newer": 1}
    if mode == "send":
        with pytest.raises(openai.BadRequestError, match="newer is not a field"):
            images.generate(**call)
    elif mode == "warn":
        with pytest.warns(FluxWarning, match=f"newer=1 was left out: {model} does not take it"):
            images.generate(**call)
    else:
        images.generate(**call)
    assert ("newer" in (emulator.requests[0].body or {})) is (mode == "send")
    with pytest.raises(InvalidParamsError, match="webhook_url"):
        images.generate(**{**call, "webhook_url": HOOK})
    assert len(emulator.requests) == 1


def test_several_images_are_several_requests(emulator: Emulator, client: tuple[Generate, Generate]) -> None:
    """`split=True` makes one request for each image, with the seed counted up, and one answer of them all."""
    response = client[0](model="flux-2-pro", prompt="a fox", n=3, seed=5, split=True, image=PNG)
    assert sorted(sent_by(seen)["seed"] for seen in emulator.requests) == [5, 6, 7]
    assert all(sent_by(seen).keys() == {"prompt", "seed", "input_image"} for seen in emulator.requests)
    assert (len(response.data), response.missing, response.sent["n"], emulator.bill.images) == (3, 0, 3, 3)


def test_the_rest_of_a_split_call_goes_to_the_same_model(emulator: Emulator) -> None:
    """After a failure `.rest` asks the same path for what is missing, under the same keys."""
    emulator.fail(status=400)
    client = emulator.client(defaults={"width": 96})
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model="flux-2-pro", prompt="a fox", n=2, seed=5, split=True, image=PNG, size="auto")
    before = len(emulator.requests)
    rest = getattr(caught.value, "rest", ())
    assert rest
    for arguments in rest:
        client.images.generate(prompt="a fox", **arguments)
    keys = {seen.headers["idempotency-key"]: (seen.path, seen.body) for seen in emulator.requests[:before]}
    again = emulator.requests[before:]
    assert all(keys.get(one.headers["idempotency-key"], (one.path, one.body)) == (one.path, one.body) for one in again)
    assert {seen.path for seen in emulator.requests} == {"/v1/flux-2-pro"}
    assert max(sent_by(seen)["seed"] for seen in emulator.requests) == 6


def test_an_attempt_is_repeated_at_the_same_path(emulator: Emulator) -> None:
    """A retry sends the same body and key to the same path; the bill knows a duplicate by its key."""
    emulator.fail(error="reset", billed=True)
    client = emulator.client(retry=RetryPolicy(duplicates="allowed", waiting=False))
    assert client.images.generate(model="flux-2-pro", prompt="a fox").attempts == 2
    one, two = emulator.requests
    assert (one.path, one.body, one.headers["idempotency-key"]) == (two.path, two.body, two.headers["idempotency-key"])
    assert (emulator.bill.images, emulator.bill.duplicates) == (2, 1)


@pytest.mark.parametrize("model", NAMES)
def test_raw_and_streamed_responses(emulator: Emulator, model: str) -> None:
    """The SDK's raw responses hold the body as it came, and parse to ours."""
    images = emulator.client().images
    raw = images.with_raw_response.generate(model=model, prompt="a fox")
    parsed = raw.parse()
    assert isinstance(parsed, FluxImagesResponse)
    assert json.loads(raw.content)["data"][0]["b64_json"] == parsed.data[0].b64_json
    with images.with_streaming_response.generate(model=model, prompt="a fox") as streamed:
        assert "createed" in json.loads(streamed.read())
    with pytest.raises(InvalidParamsError, match="raw response"):
        images.with_raw_response.generate(model=model, prompt="a fox", n=2, split=True)


@pytest.mark.parametrize(
    ("fields", "created"),
    [
        ({"createed": 5}, 5),
        ({"createed": "1750667997"}, 1_750_667_997),
        ({"createed": 5, "created": 6}, 6),
        ({"createed": 5, "created": None}, 5),
        ({}, None),
    ],
)
@pytest.mark.parametrize("packed", [TEXT, URI])
def test_the_time_of_an_answer_in_either_spelling(fields: dict[str, Any], created: int | None, packed: str) -> None:
    """`createed` is the time where there is no `created`, and stays; so do the counts of megapixels."""
    counts = {"input_mp": 2, "output_mp": 1, "total_pixels": 3}
    answer = {**fields, **counts, "data": [{"b64_json": packed}]}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    with FluxOpenAI(api_key="k", http_client=httpx.Client(transport=transport)) as client:
        response = client.images.generate(model="flux-2-pro", prompt="a fox")
    assert (response.created, response.data[0].b64_json) == (created, TEXT)
    kept = {name: value for name, value in fields.items() if name == "createed"}
    assert response.model_extra == {**counts, **kept}


def test_defaults_are_for_the_models_that_take_them(emulator: Emulator) -> None:
    """A default applies where the model has the parameter, and a shape in the call replaces a default shape."""
    client = emulator.client(defaults={"width": 96, "height": 64, "steps": 20, "output_format": "png"})
    for call in (
        {"model": "flux-2-pro"},
        {"model": "flux-2-pro", "width": 128},
        {"model": "flux-2-pro", "size": "64x64"},
    ):
        client.images.generate(prompt="a fox", **call)
    client.images.generate(prompt="a fox")
    shapes = [(sent_by(seen).get("width"), sent_by(seen).get("height")) for seen in emulator.requests]
    assert shapes == [(96, 64), (128, 64), (64, 64), (None, None)]
    assert [sent_by(seen).get("output_format") for seen in emulator.requests] == ["png", "png", "png", None]
    assert sent_by(emulator.requests[3])["steps"] == 20
    with pytest.raises(InvalidParamsError, match="multiple of 32"):
        emulator.client(defaults={"width": 100})
    named = emulator.client(defaults={"model": "flux-pro-1.1"})
    named.images.edit(image=PNG, prompt="snow")
    assert emulator.requests[-1].path == "/v1/flux-pro-1.1"


def test_images_are_short_in_logs_and_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither log lines nor the emulator's journal hold the base64 of an input image."""
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    journal = tmp_path / "journal.jsonl"
    emulator = Emulator(pixels=64, journal=journal)
    emulator.client().images.generate(model="flux-2-pro", prompt="a fox", images=[PNG, PNG])
    line = json.loads(journal.read_text())
    assert (line["path"], line["images_billed"]) == ("/v1/flux-2-pro", 1)
    assert line["body"]["input_image_2"] == f"<image/png, {len(TEXT)} characters>"
    assert TEXT[:60] not in caplog.text


def test_the_command_line_takes_the_models(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every parameter is an option; the document of --json shows images by type and length, and names every call."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    picture = tmp_path / "fox.png"
    picture.write_bytes(PNG)
    monkeypatch.setenv("MODELVERSE_API_KEY", "k")
    shape = ("--width", "1024", "--height", "768", "--output-format", "png", "--safety-tolerance", "2")
    with emulator.serve() as server:
        common = ("-o", str(tmp_path / "out"), "--base-url", server.base_url, "--json", "--seed", "5")
        assert main(["generate", "a fox", "--model", "flux-2-pro", *shape, "-n", "2", *common]) == 0
        sent = json.loads(capsys.readouterr().out)["sent"]
        more = ("--prompt-upsampling", "--size", "1280x1024")
        assert main(["edit", "snow", "-i", str(picture), "--model", "flux-kontext-pro", *more, *common]) == 0
        assert main(["generate", "x", "--model", "flux-pro-1.1", "--prompt-upsampling", *common]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[0])
    checked = {"width": 1024, "height": 768, "safety_tolerance": 2, "output_format": "png"}
    assert sent == [{"prompt": "a fox", **checked, "seed": 5}, {"prompt": "a fox", **checked, "seed": 6}]
    assert document["sent"][0]["input_image"] == f"<image/png, {len(TEXT)} characters>"
    assert [(seen.path, seen.body) for seen in emulator.requests[2:]] == [
        (
            "/v1/flux-kontext-pro",
            {"prompt": "snow", **numbered(1), "aspect_ratio": "5:4", "prompt_upsampling": True, "seed": 5},
        ),
        ("/v1/flux-pro-1.1", {"prompt": "x", "prompt_upsampling": True, "seed": 5}),
    ]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_the_short_name_keeps_its_meaning(emulator: Emulator) -> None:
    """`kontext-pro` is the family at the usual path; `flux-kontext-pro` is the model with a path of its own."""
    images = emulator.client().images
    images.generate(prompt="a fox", model="kontext-pro")
    images.generate(prompt="a fox", model="black-forest-labs/flux-kontext-pro", image=URI)
    images.generate(prompt="a fox", model="flux-kontext-pro")
    named = [(seen.path, sent_by(seen).get("model")) for seen in emulator.requests]
    assert named == [
        ("/v1/images/generations", "black-forest-labs/flux-kontext-pro/text-to-image"),
        ("/v1/images/generations", "black-forest-labs/flux-kontext-pro"),
        ("/v1/flux-kontext-pro", None),
    ]


def test_patches_of_the_sdk_see_the_model(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's own method is called with the model's name and the number of images, although neither is sent."""
    seen: list[dict[str, Any]] = []
    own = openai.resources.Images.generate

    def watched(self: openai.resources.Images, **arguments: Any) -> object:  # noqa: ANN401  # as the SDK has it
        seen.append(arguments)
        return own(self, **arguments)

    monkeypatch.setattr(openai.resources.Images, "generate", watched)
    emulator.client().images.generate(model="flux-2-pro", prompt="a fox", n=3, split=True)
    assert (seen[0]["model"], seen[0]["n"]) == ("flux-2-pro", 3)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/flux-2-pro", {"prompt": "x", "model": "flux-2-pro"}, 400, "model is not a field"),
        ("/flux-2-pro", {"prompt": "x", "n": 1}, 400, "n is not a field"),
        ("/flux-2-pro", {}, 400, "prompt must be given"),
        ("/flux-2-pro", {"prompt": "x", "images": [TEXT]}, 400, "images is not a field"),
        ("/flux-2-pro", {"prompt": "x", "input_image_9": TEXT}, 400, "input_image_9 is not a field"),
        ("/flux-2-pro", {"prompt": "x", "input_image": URI}, 400, "input_image must be a PNG"),
        ("/flux-2-pro", {"prompt": "x", "width": 1000}, 400, "width must be at least 64 and a multiple of 32"),
        ("/images/generations", {"prompt": "x", "model": "flux-2-pro"}, 404, "does not exist"),
        ("/flux-9-pro", {"prompt": "x"}, 404, "There is nothing at /v1/flux-9-pro"),
    ],
)
def test_the_emulator_checks_by_the_page(
    emulator: Emulator, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    """It refuses what the page of the path does not have, whatever client has sent it."""
    with emulator.http_client() as http:
        response = http.post(f"https://api.umodelverse.ai/v1{path}", json=body, headers={"authorization": "Bearer k"})
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True)
    assert emulator.bill.calls == 0


def test_the_emulator_draws_what_is_asked_and_counts_megapixels() -> None:
    """The picture has the size of the request, and both areas are counted in whole megapixels, rounded up."""
    images = Emulator().client().images
    response = images.generate(model="flux-2-pro", prompt="a fox", width=1536, height=768, images=[PNG, PNG])
    assert image_size(response.data[0].read()) == (1536, 768)
    counts = {"input_mp": 4, "output_mp": 2, "total_pixels": 6}  # twice 1500 x 1000, and 1536 x 768
    assert counts.items() <= (response.model_extra or {}).items()


def test_a_fault_script_knows_the_model_of_a_path(emulator: Emulator) -> None:
    """A rule with `model=` matches the orders that name it by their path."""
    emulator.script("model=flux-2-pro -> status(400)")
    images = emulator.client().images
    images.generate(model="flux-kontext-pro", prompt="a fox")
    with pytest.raises(openai.BadRequestError):
        images.generate(model="flux-2-pro", prompt="a fox")


def test_one_checked_call_has_one_body() -> None:
    """What is checked is what goes out: the parameters by their own names, the body by those of the page."""
    checked = validate({"model": "flux-2-pro", "prompt": "a fox", "n": 1, "size": "64x96", "image": PNG})
    assert checked.values.keys() == {"prompt", "n", "width", "height", "images"}
    body = body_of(checked.values, checked.model)
    assert body == {"prompt": "a fox", "width": 64, "height": 96, **numbered(1)}
    assert "characters" in repr(body)


def test_the_requests_of_a_split_call_share_their_images() -> None:
    """A copy of the images for each of a hundred requests could be gigabytes."""
    calls = build_calls(
        "generate", {"model": "flux-2-pro", "prompt": "a fox", "images": [URI], "n": 3, "split": True}, Settings()
    )
    assert len(calls) == 3
    assert len({id(call.body["input_image"]) for call in calls}) == 1


def test_the_journal_holds_no_secret_of_a_webhook(tmp_path: Path) -> None:
    """A program in another language may send one."""
    emulator = Emulator(journal=tmp_path / "journal.jsonl")
    body = {"prompt": "a fox", "webhook_url": HOOK, "webhook_secret": SECRET}
    with emulator.http_client() as http:
        http.post(f"{emulator.base_url}/flux-2-pro", json=body, headers={"authorization": "Bearer k"})
    text = (tmp_path / "journal.jsonl").read_text()
    assert '"prompt": "a fox"' in text
    assert "CANARY" not in text
