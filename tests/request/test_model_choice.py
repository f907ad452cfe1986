"""Names of models: whose call it is, and the nearest name for a slip."""

from enum import StrEnum
from typing import Any, get_args

import openai
import pytest
from openai.types import ImageModel

from flux_openai import Emulator, FluxOpenAI, InvalidParamsError
from flux_openai._http.library import httpx
from flux_openai.models import DEFAULT_MODEL, FAMILIES

SLIPS = {
    "kontext": "kontext-max",
    "Kontext Max": "kontext-max",
    "kontext_max": "kontext-max",
    "KONTEXT-MAX": "kontext-max",
    " kontext-max": "kontext-max",
    "kontext-max\n": "kontext-max",
    "kontext-\u200bmax": "kontext-max",
    "kontext-mx": "kontext-max",
    "kontxt-max": "kontext-max",
    "contextmax": "kontext-max",
    "knotext-pro": "kontext-pro",
    "kontex": "kontext-max",
    "max-kontext": "kontext-max",
    "bfl/kontext-pro": "kontext-pro",
    "flux-kontext-max": "kontext-max",
    "FLUX.1-Kontext-Pro": "flux-kontext-pro",
    "Flux-Kontext-Pro": "flux-kontext-pro",
    "Black-Forest-Labs/FLUX-Kontext-Pro": "kontext-pro",
    "bfl/flux-2-pro": "flux-2-pro",
    "FLUX.2 [pro]": "flux-2-pro",
    "black-forest-labs/flux-pro-1.1": "flux-pro-1.1",
    "flux": "flux-dev",
    "fulx-dev": "flux-dev",
    "flx-dev": "flux-dev",
    "Flux_Dev": "flux-dev",
    "fl\u200bux-dev": "flux-dev",
    "\uff26\uff2c\uff35\uff38-dev": "flux-dev",
    "FLUX.1-dev": "black-forest-labs/flux.1-dev",
    " black-forest-labs/flux ": "flux-dev",
    "black-forest-labs/kontext": "kontext-max",
    "Black-Forest-Labs/flux-kontext-max/text-to-image": DEFAULT_MODEL,
    "black-forest-labs/flux-kontext-max/text-to-img": DEFAULT_MODEL,
    "black_forest_labs/flux_kontext_max/text_to_image": DEFAULT_MODEL,
    "flux-kontext-pro/text-to-image": "black-forest-labs/flux-kontext-pro/text-to-image",
    # Other models of the vendor, and names that name nothing: no other model is what was meant.
    "flux-schnell": None,
    "bfl/something": None,
    "fulx-schnell": None,
    "": None,
    " ": None,
    "\t\n": None,
    "\u200b\ufeff": None,
    "\0": None,
}


@pytest.mark.parametrize("place", ["keyword", "extra_body"])
@pytest.mark.parametrize("model", SLIPS)
def test_a_slip_in_the_name_of_a_model_is_not_passed_on(model: str, place: str) -> None:
    """A FLUX name in another spelling, and a blank one, is refused with the nearest name that makes the call valid."""
    emulator = Emulator(pixels=64)
    images = emulator.client().images
    call: dict[str, Any] = {"model": model} if place == "keyword" else {"extra_body": {"model": model}}
    with pytest.raises(InvalidParamsError) as caught:
        images.generate(prompt="a fox", **call)
    (fault,) = caught.value.faults
    assert (fault.param, fault.nearest) == ("model", SLIPS[model])
    assert "kontext-max" in fault.rule
    assert emulator.requests == []
    if fault.nearest is not None:
        images.generate(prompt="a fox", model=str(fault.nearest))
        assert len(emulator.requests) == 1


def test_the_nearest_name_takes_the_images_of_the_call() -> None:
    """With an image, the nearest name is one that takes an image."""
    for call in ({"image": "https://img.example/a.png"}, {"images": ["https://img.example/a.png"]}):
        with Emulator(pixels=64).client() as client:
            with pytest.raises(InvalidParamsError) as caught:
                client.images.generate(prompt="x", model="black-forest-labs/flux-kontext-max/txt-to-image", **call)
            client.images.generate(prompt="x", model=str(caught.value.faults[0].nearest), **call)


OTHERS = [
    *get_args(ImageModel),
    *("gpt-image-1", "gpt-image-1-mini", "gpt-image-2.5", "dall-e-2", "dall-e-3", "chatgpt-image-latest", "sora-2"),
    *("ft:gpt-image-1:acme:flux-style:abc123", "ft:gpt-image-1:acme::kontext1"),
    *("stable-diffusion-xl", "stabilityai/stable-diffusion-3.5-large", "sdxl-turbo", "qwen-image", "qwen-image-edit"),
    *("imagen-4.0-generate-001", "gemini-2.5-flash-image", "doubao-seedream-4.0", "hunyuan-image", "wan2.2-image"),
    *("midjourney", "ideogram-v3", "recraft-v3", "hidream-i1-dev", "kandinsky-3", "playground-v2.5", "janus-pro"),
    *("z-image-turbo", "nano-banana", "grok-2-image", "flex.1-alpha", "lumina-2", "auraflow", "pixart-sigma", "kling"),
    *("my-images", "dalle3", "prod", "dev", "max", "pro", "image-pro", "text-max", "next-pro", "contoso-max", "a"),
    *("long-context-images", "content-max", "flow-dev", "half-lux", "lux", "flu", "\u901a\u4e49\u4e07\u76f8", "5"),
]


@pytest.mark.parametrize("model", OTHERS)
def test_a_name_of_another_model_goes_to_the_sdk(model: str) -> None:
    """OpenAI's names, fine-tunes, deployments and other vendors' models are sent as the SDK sends them."""
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.read())
        return httpx.Response(200, json={"created": 1, "data": []})

    for kind in (openai.OpenAI, FluxOpenAI):
        http = httpx.Client(transport=httpx.MockTransport(answer))
        with kind(api_key="k", base_url="https://any.example/v1", http_client=http) as client:
            assert type(client.images.generate(prompt=" ", model=model, size="1x1")) is openai.types.ImagesResponse
    assert seen[0] == seen[1]


class Family(StrEnum):
    """A name as an application keeps it."""

    MAX = "kontext-max"


@pytest.mark.parametrize("model", [*FAMILIES, Family.MAX])
def test_a_short_name_is_sent_as_the_full_one(model: str) -> None:
    """Each short name stands for a model of its family, also as a member of an enum."""
    emulator = Emulator(pixels=64)
    emulator.client().images.generate(prompt="a fox", model=model)
    [seen] = emulator.requests
    sent = (seen.body or {}).get("model", seen.path.rpartition("/")[2])
    assert sent in {one.id for one in FAMILIES[model]}
