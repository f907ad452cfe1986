"""Every way a run can end, against a service on a loopback socket; each test counts the requests that it saw."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from flux_openai import BadResponseError, FluxImage, InvalidParamsError
from flux_openai._http.library import httpx
from flux_openai.errors import (
    Billing,
    ConfigurationError,
    DownloadError,
    FluxConnectionError,
    FluxError,
    FluxRateLimitError,
    SaveError,
)

report = pytest.importorskip("flux_openai.cli.report")

if TYPE_CHECKING:
    from tests.cli.conftest import Done, Service

Ask = Callable[..., "Done"]


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "sigterm", "sighup"])
def interrupt(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Press Ctrl-C, send SIGTERM, or close the terminal, from any thread."""
    main = threading.main_thread().ident or 0
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    # Under nohup SIGHUP is ignored, and the program then leaves it so.
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield lambda: signal.pthread_kill(main, request.param)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests of a split call follow each other, so that a test knows which of them were answered."""
    monkeypatch.setattr("flux_openai.sending.concurrency.MAX_CONCURRENCY", 1)


def test_0_done(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """A good answer ends with 0, and stdout names the files and nothing else."""
    service.draws(2)
    done = ask("-n", "2")
    assert (done.code, service.posts, done.err) == (0, 1, "")
    assert done.out.splitlines() == [str(path) for path in sorted((tmp_path / "out").iterdir())]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--steps", "99"],
        ["-n", "0"],
        ["-n", "-3"],
        ["--model", "gpt-image-1"],
        ["--aspect-ratio", "16x9"],
        ["--size", "1x9"],
        ["--guidance-scale", "nan"],
        ["--seed", str(2**63 - 2), "-n", "12"],
        ["--duplicates", "often"],
        ["--max-attempts", "0"],
        ["--max-wait", "inf"],
        ["--max-elapsed", "-1"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "1e300"],
        ["--base-url", "http://example.com/v1"],
        ["--api-key-file", "/nonexistent/key"],
        ["--steps", "many"],
        ["--no-such-option"],
    ],
)
def test_2_bad_input(ask: Ask, service: "Service", wrong: list[str]) -> None:
    """Whatever is wrong with the input ends with 2, says so on stderr, and nothing is sent."""
    done = ask(*wrong)
    assert (done.code, done.out, service.posts) == (2, "", 0)
    assert "rror: " in done.err


def test_2_all_faults_at_once(ask: Ask, service: "Service") -> None:
    """Every wrong parameter is named with its nearest value, also where the calls are split."""
    done = ask("--steps", "99", "--aspect-ratio", "16x9", "-n", "9")
    assert done.code == 2
    assert "--steps 99: must be an integer from 1 to 50 (nearest: --steps 50)" in done.err
    assert "(nearest: --aspect-ratio 16:9)" in done.err


def test_2_folder_that_cannot_be_written(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """A folder that cannot take files is found out before anything is sent."""
    (tmp_path / "file").write_text("in the way")
    done = ask("-o", str(tmp_path / "file" / "folder"))
    assert (done.code, service.posts) == (2, 0)
    assert "cannot write to the folder" in done.err


def test_2_without_key(ask: Ask, service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key, one line names both ways on."""
    monkeypatch.delenv("MODELVERSE_API_KEY")
    done = ask()
    assert (done.code, done.out, service.posts) == (2, "", 0)
    assert len(done.err.splitlines()) == 1
    assert "MODELVERSE_API_KEY" in done.err
    assert "--emulator" in done.err


@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 404, 405, 413, 422])
def test_3_refused(ask: Ask, service: "Service", status: int) -> None:
    """What the service refuses ends with 3 after one request."""
    service.refuses(status)
    done = ask()
    assert (done.code, done.out, service.posts) == (3, "", 1)
    assert "req-1" in done.err


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit"])
def test_3_no_credit(ask: Ask, service: "Service", code: str) -> None:
    """A 429 that says the credit is gone is a refusal."""
    service.refuses(429, code=code)
    assert (ask().code, service.posts) == (3, 1)


@pytest.mark.parametrize("code", ["rate_limit_exceeded", None, 1429])
def test_4_rate_limited(ask: Ask, service: "Service", code: object) -> None:
    """A 429 that does not end within the attempts ends with 4, and each retry was told on stderr."""
    for _ in range(3):
        service.refuses(429, code=code)
    done = ask("--max-attempts", "3")
    assert (done.code, service.posts) == (4, 3)
    assert done.err.count("rate_limited, status 429") == 2


def test_4_too_long_to_wait(ask: Ask, service: "Service") -> None:
    """How long the service asks to wait is told when that is too long."""
    service.refuses(429, **{"retry-after": "600"})
    done = ask()
    assert (done.code, service.posts) == (4, 1)
    assert "wait 600 s" in done.err


def test_4_nobody_there(ask: Ask) -> None:
    """A connection that was never made costs nothing."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = ask("--base-url", f"http://127.0.0.1:{closed.getsockname()[1]}/v1", "--json")
    assert done.code == 4
    assert done.document["attempts"] == 4


@pytest.mark.parametrize(
    ("duplicates", "status", "posts"),
    [("never", 500, 1), ("unlikely", 500, 4), ("unlikely", 504, 1), ("allowed", 504, 4)],
)
def test_5_failed_after_sending(ask: Ask, service: "Service", duplicates: str, status: int, posts: int) -> None:
    """A failure that may be billed ends with 5, and --duplicates decides how often it is tried."""
    for _ in range(posts):
        service.refuses(status)
    assert (ask("--duplicates", duplicates).code, service.posts) == (5, posts)


def test_5_hung_up(ask: Ask, service: "Service") -> None:
    """A connection that is lost after sending is asked once, and may be billed."""
    service.hangs_up()
    assert (ask().code, service.posts) == (5, 1)


def test_5_a_200_without_images(ask: Ask, service: "Service") -> None:
    """A 200 that holds no image at all may be billed."""
    service.says(200, b"<html>")
    assert (ask().code, service.posts) == (5, 1)


def test_6_unusable(ask: Ask, service: "Service") -> None:
    """Images that cannot be read are paid for."""
    service.says(200, {"created": 1, "data": [{"b64_json": "%%%"}]})
    assert (ask().code, service.posts) == (6, 1)


def test_6_missing(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """When fewer images come back than were asked for, those are saved, and the code and the message say so."""
    service.draws(1)
    done = ask("-n", "2", "--json")
    assert (done.code, service.posts) == (6, 1)
    assert len(list((tmp_path / "out").iterdir())) == 1
    assert done.document["missing"] == 1
    assert "did not come back usable: 1" in done.err


def test_6_not_downloaded(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """A link that cannot be read costs its image only, and the link is not lost."""
    unsafe = {"url": "https://10.0.0.1/x.png?signature=abc"}
    service.says(200, {"created": 1, "data": [unsafe, *[{"b64_json": service.picture}] * 3]})
    done = ask("-n", "4")
    assert (done.code, service.posts) == (6, 1)
    assert len(done.out.splitlines()) == len(list((tmp_path / "out").iterdir())) == 3
    [told] = [line for line in done.err.splitlines() if "signature" in line]
    assert told == f"not saved; until it expires, the image is at {unsafe['url']}"


def test_6_not_saved(ask: Ask, service: "Service", lose_folder: Callable[[], None]) -> None:
    """A folder that is lost while the service works ends with 6; an image without a link is kept elsewhere."""
    service.draws(first=lose_folder)
    done = ask()
    assert (done.code, service.posts) == (6, 1)
    assert Path(done.out.strip()).read_bytes().startswith(b"\x89PNG")
    assert f"it is kept in {done.out.strip()}" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_130_interrupted(ask: Ask, service: "Service", interrupt: Callable[[], None], flags: list[str]) -> None:
    """Ctrl-C while the service works ends with 130, keeps what is made, and says that more may be billed."""
    service.draws()
    service.hangs_up(first=interrupt)
    done = ask("-n", "8", *flags)
    assert (done.code, service.posts) == (130, 2)
    assert "may have been carried out and billed" in done.err
    assert len(done.document["images"] if flags else done.out.splitlines()) == 4  # type: ignore[arg-type]  # it is a list


def test_130_before_anything_is_sent(
    cli: Ask, service: "Service", interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before the first request says that nothing was sent."""
    monkeypatch.setattr("flux_openai.cli.run.prove_writable", lambda _: interrupt())
    done = cli("generate", "x", "--emulator")
    assert done.code == 130
    assert "nothing was sent" in done.err


def test_130_while_saving(ask: Ask, service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while files are written loses no image that has no link, and says that all are paid for."""
    save, calls = FluxImage.save, []

    def save_one(image: FluxImage, path: str, *, metadata: bool) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save(image, path, metadata=metadata)

    monkeypatch.setattr(FluxImage, "save", save_one)
    service.draws(3)
    done = ask("-n", "3")
    assert (done.code, len(done.out.splitlines())) == (130, 3)
    assert all(Path(line).is_file() for line in done.out.splitlines())
    assert "paid for" in done.err


def test_130_while_downloading(ask: Ask, service: "Service", monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the downloads, and the links of the images that are not saved are on stderr."""

    def interrupted(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(FluxImage, "save", interrupted)
    service.says(200, {"created": 1, "data": [{"url": f"https://img.example/{name}.png"} for name in "ab"]})
    done = ask("-n", "2")
    assert (done.code, done.out) == (130, "")
    assert done.err.count("not saved; until it expires, the image is at https://img.example/") == 2


@pytest.mark.usefixtures("one_at_a_time")
def test_a_later_failure_keeps_what_was_made(ask: Ask, service: "Service", tmp_path: Path) -> None:
    """When the second call is refused, the images of the first are saved, and the code is the refusal's."""
    service.draws(4)
    service.refuses(401)
    done = ask("-n", "12")
    assert (done.code, service.posts) == (3, 2)
    assert len(done.out.splitlines()) == len(list((tmp_path / "out").iterdir())) == 4
    assert "images saved: 4" in done.err


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize(("status", "code"), [(429, 6), (401, 3)])
def test_nothing_billed_is_not_said_of_a_run_that_was(ask: Ask, service: "Service", status: int, code: int) -> None:
    """When the last call fails, the calls before it are paid for all the same, and the document says so."""
    service.draws(4)
    service.refuses(status)
    done = ask("-n", "8", "--json", "--max-attempts", "1")
    error: dict[str, object] = done.document["error"]  # type: ignore[assignment]  # it is an object
    assert (done.code, error["billing"], service.posts) == (code, "paid", 2)
    assert "the images that came are paid for" in done.err


def error_of(cls: type[FluxError], billing: Billing) -> FluxError:
    """An error as it reaches the program."""
    error = cls.__new__(cls)
    error.billing = billing
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (error_of(InvalidParamsError, "none"), 2),
        (error_of(ConfigurationError, "none"), 2),
        (error_of(FluxConnectionError, "none"), 4),
        (error_of(FluxConnectionError, "unknown"), 5),
        (error_of(BadResponseError, "unknown"), 5),
        (error_of(BadResponseError, "paid"), 6),
        (error_of(DownloadError, "paid"), 6),
        (error_of(SaveError, "paid"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_code_follows_from_class_and_billing(error: BaseException, code: int) -> None:
    """The exit code is a function of the error alone."""
    assert report.exit_code_of(error) == code


def test_a_numeric_error_code_is_read_too() -> None:
    """Some services number their errors; the number says nothing about credit."""
    response = httpx.Response(429, request=httpx.Request("POST", "https://example.com"))
    error = FluxRateLimitError("slow down", response=response, body={"code": 1429})
    assert report.exit_code_of(error) == 4


def test_a_mistake_in_the_program_has_no_code() -> None:
    """An error that is none of ours is not passed off as one of the documented endings."""
    with pytest.raises(TypeError, match="OpenAIError"):
        report.exit_code_of(openai.OpenAIError())
