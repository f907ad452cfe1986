"""From options to calls: what goes out, in how many requests, and with which seeds."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pytest

from flux_openai import FluxOpenAI, RetryPolicy
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS
from flux_openai.retry import Duplicates

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]


def test_every_option_reaches_the_wire(ask: Ask, service: "Service") -> None:
    """Each parameter goes out as it was given, and nothing else does."""
    given = {"aspect_ratio": "16:9", "seed": 7, "steps": 28, "guidance_scale": 3.5, "negative_prompt": "fog", "n": 2}
    fixed = {"model": DEFAULT_MODEL, "response_format": "b64_json"}
    service.draws(2)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**given, **fixed}.items()]
    assert ask(*options).code == 0
    assert service.bodies == [{"prompt": "a red fox", **given, **fixed}]
    assert set(service.bodies[0]) == {"model", *FLUX_MODELS[DEFAULT_MODEL].fields}


def test_what_is_not_given_is_not_sent(ask: Ask, service: "Service") -> None:
    """A bare prompt goes out with the model and a seed alone: without a seed, nobody could make the image again."""
    service.draws()
    done = ask()
    [body] = service.bodies
    assert body == {"prompt": "a red fox", "model": DEFAULT_MODEL, "seed": body["seed"]}
    assert 0 <= int(str(body["seed"])) < 2**31 - 1000
    assert f"_seed{body['seed']}_0.png" in done.out


def test_a_seed_that_no_file_name_has_is_told(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """With `-o fox.png` the drawn seed is on stderr; a seed that was given is not repeated."""
    service.draws()
    done = ask("-o", str(tmp_path / "fox.png"))
    assert done.err == f"seed: {service.bodies[0]['seed']}\n"
    service.draws()
    assert ask("-o", str(tmp_path / "fox2.png"), "--seed", "7").err == ""


def test_a_size_becomes_an_aspect_ratio(ask: Ask, service: "Service") -> None:
    """A size that is close enough is sent as a ratio, and stderr says so once."""
    service.draws()
    service.draws()
    done = ask("--size", "1800x1000", "-n", "5", "--json")
    assert [body["aspect_ratio"] for body in service.bodies] == ["16:9", "16:9"]
    assert done.err.count("notice:") == 1
    assert len(done.document["notices"]) == 1  # type: ignore[arg-type]  # it is a list


@pytest.mark.parametrize("options", [["--seed", "7"], ["--seed", "-1"], []])
def test_many_images_are_split(ask: Ask, service: "Service", tmp_path: Path, options: list[str]) -> None:
    """Nine images are three requests, whose seeds count up from the one given or drawn; the names count the images."""
    for _ in range(3):
        service.draws()
    done = ask("-n", "9", *options)
    asked = sorted((int(str(body["seed"])), body["n"]) for body in service.bodies)
    first = asked[0][0]
    assert [n for _, n in asked] == [4, 4, 1]
    assert [seed for seed, _ in asked] == [first, first + 1, first + 2]
    assert first >= 0
    assert first == 7 or "7" not in options
    assert done.code == 0
    assert [Path(line).stem.rpartition("_")[2] for line in done.out.splitlines()] == [str(index) for index in range(9)]
    assert len(list((tmp_path / "out").iterdir())) == 9


@pytest.mark.parametrize("n", [0, -2, 1001, 10**12])
def test_a_number_of_images_that_is_rather_a_slip_is_refused(ask: Ask, service: "Service", n: int) -> None:
    """Fewer than one image and more than a thousand are bad input, and nothing is sent."""
    done = ask("-n", str(n))
    assert (done.code, service.posts) == (2, 0)
    assert "from 1 to 1000" in done.err


@pytest.mark.parametrize(
    ("out", "count", "names"),
    [
        ("fox.png", 1, ["fox.png"]),
        ("new/fox.jpg", 1, ["new/fox.png"]),
        ("fox.png", 2, ["fox_0.png", "fox_1.png"]),
        ("fox.png", 5, [f"fox_{index}.png" for index in range(5)]),
        ("fox.png/", 1, ["fox.png/a-red-fox_seed7_0.png"]),
        ("folder.png", 1, ["folder.png/a-red-fox_seed7_0.png"]),
        ("v1.2", 2, ["v1.2/a-red-fox_seed7_0.png", "v1.2/a-red-fox_seed7_1.png"]),
        ("~/fox.png", 1, ["home/fox.png"]),
        ("~", 1, ["home/a-red-fox_seed7_0.png"]),
    ],
)
def test_an_image_extension_makes_out_a_file(
    ask: Ask,
    service: "Service",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    out: str,
    count: int,
    names: list[str],
) -> None:
    """`-o fox.png` is a file as in the library: with numbers if there are several, unless a folder has that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "folder.png").mkdir()
    service.draws()
    service.draws()
    done = ask("-n", str(count), "--seed", "7", "-o", out)
    assert done.code == 0, done.err
    assert [str((tmp_path / line).relative_to(tmp_path)) for line in done.out.splitlines()] == names
    assert all((tmp_path / name).is_file() for name in names)


@pytest.mark.parametrize(("n", "taken"), [(1, "fox.png"), (3, "fox_2.png")])
def test_a_file_that_exists_is_found_out_before_anything_is_sent(
    ask: Ask, service: "Service", tmp_path: Path, n: int, taken: str
) -> None:
    """An image that could not be saved under its name is not paid for."""
    (tmp_path / taken).write_bytes(b"mine")
    done = ask("-n", str(n), "-o", str(tmp_path / "fox.png"))
    assert (done.code, service.posts) == (2, 0)
    assert f"{taken}' already exists" in done.err
    assert (tmp_path / taken).read_bytes() == b"mine"


def test_nothing_is_left_behind_by_the_check_of_the_folder(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """A refused call leaves the folder empty."""
    service.refuses(400)
    assert ask().code == 3
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", [b"sk-from-file", b"sk-from-file\n", b"\xef\xbb\xbfsk-from-file\r\n"])
def test_the_key_from_a_file(ask: Ask, service: "Service", tmp_path: Path, content: bytes) -> None:
    """A key file goes before the environment, and what an editor adds to it is no part of the key."""
    (tmp_path / "key").write_bytes(content)
    service.draws()
    assert ask("--api-key-file", str(tmp_path / "key")).code == 0
    assert service.keys == ["Bearer sk-from-file"]


def test_the_key_from_stdin(ask: Ask, service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    """`--api-key-file -` reads the key from stdin."""
    monkeypatch.setattr("sys.stdin", io.StringIO("sk-from-stdin\n"))
    service.draws()
    assert ask("--api-key-file", "-").code == 0
    assert service.keys == ["Bearer sk-from-stdin"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfes\x00k", b"two words"])
def test_a_bad_key_file(ask: Ask, service: "Service", tmp_path: Path, content: bytes) -> None:
    """A file that holds no key is bad input, and its content is not shown."""
    (tmp_path / "key").write_bytes(content)
    done = ask("--api-key-file", str(tmp_path / "key"))
    assert (done.code, service.posts) == (2, 0)
    assert "two words" not in done.err


def test_the_defaults_are_those_of_the_library(cli: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without options, a run has the retries, the time-outs and the address of `FluxOpenAI()`, as its help says."""
    monkeypatch.setenv("MODELVERSE_API_KEY", "k")
    options, policy = pytest.importorskip("flux_openai.cli.options").ServiceOptions(), RetryPolicy()
    for name in ("max_attempts", "duplicates", "max_wait", "max_elapsed"):
        assert getattr(options, name) == getattr(policy, name)
    client = pytest.importorskip("flux_openai.cli.service").client_of(options, on_retry=print)
    assert client.timeout == FluxOpenAI().timeout
    words = " ".join(cli("generate", "--help").out.split())
    assert f"{str(client.base_url).rstrip('/')}." in words
    assert ", ".join(get_args(Duplicates)) in words


def test_the_timeout_is_for_reading() -> None:
    """--timeout leaves the limits for connecting and writing as they are."""
    options = pytest.importorskip("flux_openai.cli.options").ServiceOptions(emulator=True, timeout=7.0)
    client = pytest.importorskip("flux_openai.cli.service").client_of(options, on_retry=print)
    assert (client.timeout.read, client.timeout.connect, client.timeout.write) == (7.0, 5.0, 30.0)


def test_the_emulator_needs_neither_key_nor_network(cli: Ask, tmp_path: Path) -> None:
    """With --emulator, links are made and downloaded without a key."""
    done = cli("generate", "a fox", "--emulator", "-n", "5", "-o", str(tmp_path))
    assert done.code == 0
    assert len(done.out.splitlines()) == len(list(tmp_path.iterdir())) == 5
