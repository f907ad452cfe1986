"""The file beside a saved image: what it says, that the image can be made again from it, and what it never contains."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from flux_openai import Emulator, FluxImage
from flux_openai.errors import ConfigurationError, SaveError
from flux_openai.models import DEFAULT_MODEL
from flux_openai.response.download import DownloadSettings
from flux_openai.response.metadata import read_metadata
from flux_openai.response.response import CallInfo


def test_an_image_can_be_made_again_from_its_metadata(tmp_path: Path) -> None:
    """The arguments in the file make the same image, also of a call that was split."""
    emulator = Emulator()
    client = emulator.client(split=True)
    paths = client.images.generate(prompt="一只 fox", n=6, seed=7, aspect_ratio="16:9").save(tmp_path, metadata=True)
    for path in paths:
        metadata = read_metadata(path.with_suffix(".json"))
        again = client.images.generate(**metadata.arguments).data[metadata.index].read()
        assert again == path.read_bytes()
        assert metadata.sha256 == hashlib.sha256(again).hexdigest()
    asked = [request.body for request in emulator.requests if request.method == "POST"]
    assert sorted(str(body["n"]) for body in asked if body) == ["2", "2", "2", "4", "4", "4", "4", "4"]


def test_the_file_says_what_made_the_image(tmp_path: Path) -> None:
    """It holds model, parameters, request id, time, hash and version."""
    response = Emulator().client().images.generate(prompt="a fox", seed=7, steps=28)
    response.save(tmp_path / "fox.png", metadata=True)
    document = json.loads((tmp_path / "fox.json").read_bytes())
    assert document.pop("created").endswith("+00:00")
    assert document.pop("library").startswith("flux-openai")
    assert document == {
        "model": "black-forest-labs/flux-kontext-max/text-to-image",
        "parameters": {"prompt": "a fox", "seed": 7, "steps": 28},
        "index": 0,
        "images": [],
        "request_id": response.request_id,
        "sha256": hashlib.sha256((tmp_path / "fox.png").read_bytes()).hexdigest(),
    }


@pytest.mark.anyio
async def test_async_code_writes_the_same_file(tmp_path: Path) -> None:
    """`asave` of an image and of a response write metadata too."""
    response = await Emulator().async_client().images.generate(prompt="a fox", seed=7)
    await response.asave(tmp_path / "all", metadata=True)
    path = await response.data[0].asave(tmp_path / "one", metadata=True)
    assert read_metadata(tmp_path / "all" / path.with_suffix(".json").name).parameters == {"prompt": "a fox", "seed": 7}
    assert read_metadata(path.with_suffix(".json")).arguments["seed"] == 7


def test_no_key_and_no_signature_is_in_the_file(tmp_path: Path) -> None:
    """Images that were sent are named by their hash, or by their link without its query; secrets are left out."""
    client = Emulator().client(unsupported="send", api_key="secret-key-1234")
    source = client.images.generate(prompt="a fox").data[0].save(tmp_path)
    image = client.images.edit(
        image=[source, "https://u:p@images.example/fox.png?sig=SIGNATURE"],
        prompt="snow",
        extra_headers={"X-Key": "SIGNATURE"},
    ).data[0]
    image.save(tmp_path / "snow.png", metadata=True)
    text = (tmp_path / "snow.json").read_text()
    assert not any(secret in text for secret in ("SIGNATURE", "secret-key", "u:p", "base64"))
    assert json.loads(text)["images"] == [
        {"sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "mime_type": "image/png"},
        {"link": "https://[redacted]@images.example/fox.png"},
    ]


def test_options_that_the_model_is_not_known_to_take_are_left_out(tmp_path: Path) -> None:
    """They may hold a key or a signed link under any name."""
    answer = Emulator().client().images.generate(prompt="a fox", response_format="b64_json")
    made = FluxImage.of(
        {"b64_json": answer.data[0].b64_json},
        downloads=DownloadSettings(),
        info=CallInfo(model=DEFAULT_MODEL, params={"prompt": "a fox", "hook": "sk-SECRET", "image": "data:,AAAA"}),
    )
    made.save(tmp_path / "fox.png", metadata=True)
    assert read_metadata(tmp_path / "fox.json").parameters == {"prompt": "a fox"}


@pytest.mark.parametrize("name", ["image", "images", "input_image_2", "image_prompt"])
def test_a_file_whose_parameters_name_an_image_is_refused(tmp_path: Path, name: str) -> None:
    """Otherwise a file of somebody else's could have any file of this machine sent."""
    document = {"model": "flux-dev", "parameters": {"prompt": "p", name: "/etc/passwd"}, "index": 0, "images": []}
    rest = {"request_id": None, "created": "2026-01-01", "sha256": "", "library": "x"}
    (tmp_path / "x.json").write_text(json.dumps({**document, **rest}))
    with pytest.raises(ConfigurationError, match=rf"its parameters name an image \({name}\)"):
        read_metadata(tmp_path / "x.json")


@pytest.mark.parametrize("link", ["HTTPS://images.example/a.png?sig=1", "http://images.example/a.png"])
def test_a_link_in_any_spelling_is_a_link(tmp_path: Path, link: str) -> None:
    """The image that was made from it is saved."""
    image = Emulator().client().images.edit(image=link, prompt="snow").data[0]
    image.save(tmp_path / "snow.png", metadata=True)
    [source] = read_metadata(tmp_path / "snow.json").images
    assert source == {"link": link.partition("?")[0]}


def test_overwriting_never_replaces_a_file_that_is_no_metadata(tmp_path: Path) -> None:
    """A JSON file that is somebody's own stays, and the metadata of an image that is replaced does not stay behind."""
    image = Emulator().client().images.generate(prompt="a fox").data[0]
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(SaveError, match=r"'package\.json' is not metadata of an image, and stays"):
        image.save(tmp_path / "package.png", overwrite=True, metadata=True)
    assert image.save(tmp_path / "package.png", overwrite=True).exists()
    assert (tmp_path / "package.json").read_text() == "{}"
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(SaveError, match="is not metadata of an image"):
        image.save(tmp_path / "pipe.png", overwrite=True, metadata=True)
    image.save(tmp_path / "fox.png", metadata=True)
    image.save(tmp_path / "fox.png", overwrite=True)
    assert not (tmp_path / "fox.json").exists()


def test_a_file_system_without_hard_links_keeps_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that only the image has taken is not used, and nothing is lost by trying it."""

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    image = Emulator().client().images.generate(prompt="a fox", seed=7).data[0]
    image.save(tmp_path)
    monkeypatch.setattr("os.link", no_links)
    path = image.save(tmp_path, metadata=True)
    assert path.name == "a-fox_seed7_0-2.png"
    assert read_metadata(path.with_suffix(".json")).arguments["seed"] == 7
    assert len([*tmp_path.iterdir()]) == 3


def test_the_bytes_of_an_image_are_not_changed(tmp_path: Path) -> None:
    """A signature in an image (C2PA) survives: with or without metadata the file is what came."""
    image = Emulator().client().images.generate(prompt="a fox").data[0]
    assert image.save(tmp_path, metadata=True).read_bytes() == image.save(tmp_path).read_bytes() == image.read()


def test_image_and_metadata_have_one_name(tmp_path: Path) -> None:
    """A name is free only if neither file exists; nothing is replaced, and nothing is left of a name that is not."""
    image = Emulator().client().images.generate(prompt="a fox", seed=7).data[0]
    (tmp_path / "a-fox_seed7_0.json").write_text("mine")
    (tmp_path / "a-fox_seed7_0-2.png").write_text("mine")
    assert image.save(tmp_path, metadata=True).name == "a-fox_seed7_0-3.png"
    with pytest.raises(SaveError, match=r"its 'a-fox_seed7_0\.json' already exists"):
        image.save(tmp_path / "a-fox_seed7_0.png", metadata=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-fox_seed7_0-2.png",
        "a-fox_seed7_0-3.json",
        "a-fox_seed7_0-3.png",
        "a-fox_seed7_0.json",
    ]
    image.save(tmp_path / "a-fox_seed7_0-3.png", metadata=True, overwrite=True)
    assert read_metadata(tmp_path / "a-fox_seed7_0-3.json").arguments["seed"] == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid JSON"),
        (b"[]", "not metadata of an image"),
        (b'{"model": "kontext-max"}', "parameters: Field required"),
        (b"\xff\xfe", "Invalid JSON"),
    ],
)
def test_a_file_that_is_no_metadata_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """The error names the file and what is wrong with it."""
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_metadata(tmp_path / "x.json")
    assert "x.json" in str(caught.value)


def test_the_image_itself_is_no_metadata(tmp_path: Path) -> None:
    """Who names the image is told the name of the file beside it; a file that is missing is named."""
    with pytest.raises(ConfigurationError, match=r"is in 'fox\.json'"):
        read_metadata(tmp_path / "fox.png")
    with pytest.raises(ConfigurationError, match="No such file"):
        read_metadata(tmp_path / "fox.json")
