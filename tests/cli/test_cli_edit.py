"""`edit` and `models`: images from files to the wire, and the table as a list."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flux_openai.models import FLUX_MODELS

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]


@pytest.fixture
def fox(tmp_path: Path, picture: str) -> Path:
    path = tmp_path / "fox.png"
    path.write_bytes(base64.b64decode(picture))
    return path


@pytest.fixture
def edit(ask: Ask) -> Ask:
    """Run `edit` in place of `generate`, in the same way."""
    return lambda *args: ask(*args, command="edit", prompt="make it snow")


def test_one_image_goes_to_the_image_model(edit: Ask, service: "Service", fox: Path, picture: str) -> None:
    """A file goes out as a data URI of its bytes, with every option that was given and nothing else."""
    service.draws()
    done = edit("-i", str(fox), "--strength", "0.5", "--seed", "7", "--model", "kontext-pro")
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert service.bodies == [
        {
            "model": "black-forest-labs/flux-kontext-pro",
            "prompt": "make it snow",
            "image": f"data:image/png;base64,{picture}",
            "strength": 0.5,
            "seed": 7,
        }
    ]


def test_several_images_go_to_the_multi_model(edit: Ask, service: "Service", fox: Path) -> None:
    """`-i` twice makes a list of files and links, and the document names the images instead of repeating them."""
    service.draws()
    done = edit("-i", str(fox), "-i", "https://img.example/a.png?sig=1", "--aspect-ratio", "16:9", "--json")
    assert done.code == 0
    assert service.bodies[0]["model"] == "black-forest-labs/flux-kontext-max/multi"
    images = json.loads(json.dumps(service.bodies[0]["images"]))
    assert images[1] == "https://img.example/a.png?sig=1"
    [sent] = json.loads(done.out)["sent"]
    assert sent["images"] == [f"<image/png, {len(images[0])} characters>", "'https://img.example/a.png?[redacted]'"]


def test_a_file_is_read_once_for_many_calls(edit: Ask, service: "Service", fox: Path) -> None:
    """The calls of one run send what the file held at its start, whatever happens to it on the way."""
    service.draws(first=fox.unlink)
    service.draws()
    assert edit("-i", str(fox), "-n", "5").code == 0
    assert service.bodies[0]["image"] == service.bodies[1]["image"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-i", "nowhere.png"], "No such file"),
        (["-i", __file__], "no PNG, JPEG, WebP or GIF"),
        ([], "--image"),
        (["-i", "https://x.example/a.png", "--aspect-ratio", "1:1"], "flux-kontext-max/multi"),
        (["-i", "https://x.example/a.png", "--model", "flux"], "nearest: --model flux-dev"),
    ],
)
def test_bad_input_is_named_and_nothing_is_sent(edit: Ask, service: "Service", options: list[str], says: str) -> None:
    """A file that is none, an option that the model does not take and a wrong name end with 2."""
    done = edit(*options)
    assert (done.code, service.posts, done.out) == (2, 0, "")
    assert says in done.err


def test_the_models_are_listed_for_people_and_for_scripts(cli: Ask) -> None:
    """Every model stands there once, with its short name; the document has the limits of every field."""
    lines = cli("models").out.splitlines()
    assert [line.split()[:2] for line in lines] == [[model.family, model.id] for model in FLUX_MODELS.values()]
    document = json.loads(cli("models", "--json").out)
    assert {model["id"]: [field["name"] for field in model["fields"]] for model in document} == {
        model.id: list(model.fields) for model in FLUX_MODELS.values()
    }
