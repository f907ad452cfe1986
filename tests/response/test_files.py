"""Saving image bytes: names, types, and writes that leave no torn file behind."""

import errno
import os
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai import Emulator
from flux_openai.errors import DownloadError, FluxError, SaveError
from flux_openai.formats import ImageType, sniff
from flux_openai.response.file_names import safe_stem, stem, target
from flux_openai.response.files import read_image, write, writing_together

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 24
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 24
WEBP = b"RIFF\n\x00\x00\x00WEBPVP8 " + b"w" * 24
GIF = b"GIF89a" + b"g" * 24

RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}

BAD_NAMES = [
    "../../x",
    "/etc/x",
    "..\\..\\x",
    "C:\\x",
    "\\\\srv\\s",
    "a/../../b",
    "a\0b",
    "a\nb",
    ".",
    "..",
    "",
    "-rf",
    "--help",
    "CON",
    "nul.png",
    "nul",
    "COM1",
    "lpt9",
    "COM\N{SUPERSCRIPT ONE}",
    "a:b.png",
    "a.",
    "a ",
    " ",
    "x" * 300,
    "\u202egnp.exe",
    "%2e%2e%2f",
    "~root",
    "$(id)",
    "`id`",
    "a;b|c&d",
    "*?<>",
    "画一只狐狸",
    "\ud800",
    "_",
    ".hidden",
    "evil.php",
]


def refused(path: str | Path, *, stem: str = "s", overwrite: bool = False) -> SaveError:
    """The error of an image that cannot be written there."""
    with pytest.raises(SaveError) as caught:
        write(PNG, path, stem=stem, overwrite=overwrite)
    return caught.value


def files_in(folder: Path) -> set[str]:
    """The names in a folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, ("image/png", ".png")),
        (JPEG, ("image/jpeg", ".jpg")),
        (WEBP, ("image/webp", ".webp")),
        (GIF, ("image/gif", ".gif")),
        (b"GIF87a", ("image/gif", ".gif")),
        (b"RIFF\n\n\n\nWEBP", ("image/webp", ".webp")),
    ],
)
def test_the_type_comes_from_the_first_bytes(data: bytes, kind: tuple[str, str]) -> None:
    """Each image type is known by its magic bytes, a new line among them or not."""
    assert sniff(data) == ImageType(mime=kind[0], extension=kind[1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG",
        b"<svg xmlns='x'/>",
        b"<!doctype html>",
        b"%PDF-1.7",
        b"RIFF....WAVE",
        b" " + PNG,
        b"\xff\xd8",
        b"BM",
    ],
)
def test_what_is_no_image_has_no_type(data: bytes) -> None:
    """SVG, HTML, PDF, cut off magic and everything else are not images here."""
    assert sniff(data) is None


@pytest.mark.parametrize(
    ("prompt", "seed", "index", "expected"),
    [
        ("A red fox", 7, 0, "a-red-fox_seed7_0"),
        ("A red fox", None, 3, "a-red-fox_3"),
        ("A red fox", -1, 3, "a-red-fox_3"),
        ("一只红狐狸", 7, 0, "一只红狐狸_seed7_0"),
        ("Café crème!", None, 0, "café-crème_0"),
        ("Cafe\u0301", None, 0, "café_0"),
        ("Рыжая лиса", None, 0, "рыжая-лиса_0"),
        ("赤いキツネ、雪の中", None, 0, "赤いキツネ-雪の中_0"),
        ("붉은 여우", None, 0, "붉은-여우_0"),
        ("लाल लोमड़ी", None, 0, "लाल-लोमड़ी_0"),
        ("สุนัขจิ้งจอกแดง", None, 0, "สุนัขจิ้งจอกแดง_0"),
        ("ثعلب أحمر", None, 0, "ثعلب-أحمر_0"),
        ("\uff26\uff2f\uff38 \uff03\uff11", None, 0, "fox-1_0"),
        ("½ fox²", None, 0, "1-2-fox2_0"),
        ("🦊 fox ❤\ufe0f", None, 0, "fox_0"),
        ("🦊👩\u200d🎨", 1, 0, "image_seed1_0"),
        ("क्\u200dष", None, 0, "क्ष_0"),
        ("f\u202eox\ufeff", None, 0, "fox_0"),
        ("\u3164\u115f\u2800", None, 0, "image_0"),
        ("!\u0301狐", None, 0, "狐_0"),
        ("con\uff0epng\uff0f狐", None, 0, "con-png-狐_0"),
        (None, None, 0, "image_0"),
        ("x" * 300, 0, 0, "x" * 60 + "_seed0_0"),
    ],
)
def test_a_name_says_what_is_drawn(prompt: str | None, seed: int | None, index: int, expected: str) -> None:
    """Prompt, seed and index make the name, in this order; a seed nobody chose is left out."""
    assert stem(prompt, seed=seed, index=index) == expected


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("狐" * 70, "狐" * 50),
        ("é" * 70, "é" * 60),
        ("𞤀" * 70, "𞤀" * 37),
        ("x" + "狐" * 70, "x" + "狐" * 49),
        ("x" * 59 + "ก\u0e49", "x" * 59),
        ("x" * 58 + "ก\u0e49", "x" * 58 + "ก\u0e49"),
        ("a" + "\u0e49" * 100, "image"),
        (" " * 10000 + "狐", "狐"),
        ("COM\N{SUPERSCRIPT ONE}", "image-COM1"),
        ("\uff4e\uff55\uff4c", "image-nul"),
    ],
)
def test_a_long_name_is_cut_between_two_letters(text: str, name: str) -> None:
    """60 characters and 150 bytes of a prompt are kept; a letter is kept with its marks or not at all."""
    assert safe_stem(text) == name


def test_a_file_name_has_at_most_200_bytes(tmp_path: Path) -> None:
    """However wide the letters are, the whole name of a numbered file stays within the limit."""
    long = stem("𞤀" * 300, seed=2**31 - 1, index=999)
    names = [write(PNG, tmp_path, stem=long).name for _ in range(2)]
    assert names == [f"{long}.png", f"{long}-2.png"]
    assert max(len(name.encode()) for name in names) <= 200
    assert len(write(PNG, tmp_path, stem="𞤀" * 300).name.encode()) <= 200


def test_letters_that_the_system_cannot_write_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under an old locale an image is saved under the rest of its name, and not refused by the file system."""
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "latin-1")
    assert stem("café 狐", seed=7, index=0) == "café_seed7_0"


def assert_legal(name: str) -> None:
    """The name is legal in a folder of any system."""
    kinds = [unicodedata.category(char)[0] for char in name]
    assert kinds[0] in "LN"
    assert all(kind in "LNM" or char in "-_" for char, kind in zip(name, kinds, strict=True))
    assert name.lower() not in RESERVED
    assert len(name.encode()) <= 180


@pytest.mark.parametrize("text", BAD_NAMES)
def test_no_bad_name_gets_through(text: str, tmp_path: Path) -> None:
    """A bad name becomes a legal one, and the file lies in the folder, whichever way the name comes in."""
    for name in (safe_stem(text), stem(text, seed=1, index=0)):
        assert_legal(name)
    path = write(PNG, tmp_path, stem=text)
    assert path.parent == tmp_path
    assert_legal(path.stem)
    assert path.suffix == ".png"


def test_a_name_is_not_cut_behind_a_dash() -> None:
    """Where the limit falls between two words, no dash is left over."""
    assert safe_stem("ab cd", limit=3) == "ab"


@given(text=st.text(), limit=st.integers(1, 200))
def test_any_text_becomes_a_legal_name(text: str, limit: int) -> None:
    """Property: never a separator, never empty, never reserved, never longer than asked (or than the stand-in)."""
    name = safe_stem(text, limit=limit)
    assert_legal(name)
    assert len(name) <= max(limit, len("image-conout"))
    assert safe_stem(name, limit=max(limit, 12)) == name


@given(prompt=st.none() | st.text(), seed=st.none() | st.integers(-1, 2**31 - 1), index=st.integers(0, 9))
def test_any_prompt_stays_in_its_folder(prompt: str | None, seed: int | None, index: int) -> None:
    """Property: the path is directly in the folder, and the name survives the sanitizer unchanged."""
    name = stem(prompt, seed=seed, index=index)
    assert_legal(name)
    assert target("out", stem=name, extension=".png") == Path("out") / f"{name}.png"


@given(text=st.text())
def test_any_stem_stays_in_its_folder(text: str) -> None:
    """Property: a stem that is no work of ours cannot leave the folder either."""
    path = target("out", stem=text, extension=".png")
    assert path.parent == Path("out")
    assert_legal(path.stem)


@pytest.mark.parametrize(
    ("path", "extension", "expected"),
    [
        ("out", ".png", "out/s.png"),
        ("out/", ".png", "out/s.png"),
        ("", ".png", "s.png"),
        (".", ".png", "s.png"),
        ("out.v1", ".png", "out.v1/s.png"),
        ("evil.php", ".png", "evil.php/s.png"),
        (".png", ".png", ".png/s.png"),
        ("a.png/", ".png", "a.png/s.png"),
        ("a.png", ".png", "a.png"),
        ("a.PNG", ".png", "a.PNG"),
        ("a.png", ".jpg", "a.jpg"),
        ("a.jpeg", ".jpg", "a.jpeg"),
        ("a.JPG", ".jpg", "a.JPG"),
        ("a.jpeg", ".webp", "a.webp"),
        ("a.b.gif", ".png", "a.b.png"),
        ("a.png", ".bin", "a.bin"),
    ],
)
def test_a_path_is_a_file_or_a_folder(path: str, extension: str, expected: str) -> None:
    """Only an image extension makes a path a file, and the bytes correct it."""
    assert target(path, stem="s", extension=extension) == Path(expected)


@pytest.mark.parametrize(("data", "name"), [(PNG, "s.png"), (JPEG, "s.jpg"), (WEBP, "s.webp"), (GIF, "s.gif")])
def test_the_file_holds_the_bytes(data: bytes, name: str, tmp_path: Path) -> None:
    """The whole of the bytes, the extension that goes with them, the folder made, and no temporary file left."""
    path = write(data, tmp_path / "new" / "er", stem="s")
    assert path == tmp_path / "new" / "er" / name
    assert path.read_bytes() == data
    assert files_in(path.parent) == {name}


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x00" * 10])
def test_paid_bytes_are_kept_even_if_they_are_no_image(data: bytes, tmp_path: Path) -> None:
    """What is no known image is kept as .bin."""
    path = write(data, tmp_path / "a.png", stem="s")
    assert (path.name, path.read_bytes()) == ("a.bin", data)


def test_the_current_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the file lies here."""
    monkeypatch.chdir(tmp_path)
    assert write(PNG, stem="s") == Path("s.png")


def test_a_taken_name_in_a_folder_is_numbered(tmp_path: Path) -> None:
    """In a folder nothing is overwritten; the next free name is taken."""
    names = [write(PNG + bytes([n]), tmp_path, stem="s").name for n in range(3)]
    assert names == ["s.png", "s-2.png", "s-3.png"]
    assert [(tmp_path / name).read_bytes()[-1] for name in names] == [0, 1, 2]


def test_a_file_asked_for_by_name_is_not_overwritten(tmp_path: Path) -> None:
    """The error names the file and the way out; the file stays as it was, and nothing else is left."""
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    error = refused(path)
    assert error.errno == errno.EEXIST
    assert "overwrite=True" in str(error)
    assert str(path) in str(error)
    assert path.read_bytes() == b"mine"
    assert files_in(tmp_path) == {"a.png"}


@pytest.mark.parametrize("name", ["a.png", ""])
def test_overwriting_replaces_the_file(name: str, tmp_path: Path) -> None:
    """With overwrite=True the file is replaced, in a folder as well."""
    (tmp_path / "a.png").write_bytes(b"old")
    assert write(PNG, tmp_path / name, stem="a", overwrite=True) == tmp_path / "a.png"
    assert (tmp_path / "a.png").read_bytes() == PNG
    assert files_in(tmp_path) == {"a.png"}


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the hard links away, as FAT does."""

    def link(source: object, place: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_many_writers_of_one_name_lose_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    links: bool,  # noqa: FBT001
) -> None:
    """Sixteen threads write under one name: sixteen files, each with its own bytes, links or not."""
    if not links:
        no_links(monkeypatch)
    with ThreadPoolExecutor(16) as pool:
        paths = list(pool.map(lambda n: write(PNG + bytes([n]), tmp_path, stem="s"), range(16)))
    assert [path.read_bytes()[-1] for path in paths] == list(range(16))
    assert files_in(tmp_path) == {path.name for path in paths}
    assert len(set(paths)) == 16


def test_without_hard_links_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links a taken name is taken all the same."""
    no_links(monkeypatch)
    (tmp_path / "a.png").write_bytes(b"mine")
    assert refused(tmp_path / "a.png").errno == errno.EEXIST
    assert write(PNG, tmp_path, stem="a").name == "a-2.png"
    assert (tmp_path / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
    """Who looks into the folder during a save sees the whole image under the final name, or no such name."""
    if not links:
        no_links(monkeypatch)
    place = tmp_path / "a.png"
    seen: list[bytes | None] = []

    def watched(call: Callable[..., object]) -> Callable[..., object]:
        def look(*arguments: object) -> object:
            seen.append(place.read_bytes() if place.exists() else None)
            return call(*arguments)

        return look

    for name in ("open", "write", "fsync", "link", "rename", "replace", "unlink", "close"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    write(PNG, place, stem="s")
    assert set(seen) == {None, PNG}


def test_without_hard_links_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last step fails, neither the final nor the temporary file is left."""
    no_links(monkeypatch)

    def rename(source: object, place: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", rename)
    assert refused(tmp_path).errno == errno.EIO
    assert files_in(tmp_path) == set()


KILLED = """
import os, sys
from flux_openai.response.files import write

def stop(*_):
    print("in the middle", flush=True)
    sys.stdin.read()

setattr(os, sys.argv[2], stop)
write(b"\\x89PNG\\r\\n\\x1a\\n" + b"p" * 99, sys.argv[1], stem="killed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there, only files older than a minute are removed")
@pytest.mark.parametrize("step", ["fsync", "link"])
def test_the_next_save_removes_what_a_killed_process_left(tmp_path: Path, step: str) -> None:
    """The temporary file of a process that lives is left alone, however old it is, and goes once that is killed."""
    mine = [".flux-mine.part", "a.part", ".flux-00000000-0123456789abcdef.part"]
    for name in mine:
        (tmp_path / name).write_bytes(b"mine")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), step], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the middle\n"
        [part] = files_in(tmp_path) - set(mine)
        os.utime(tmp_path / part, (0, 0))
        write(PNG, tmp_path, stem="first")
        assert files_in(tmp_path) == {part, "first.png", *mine}
        process.kill()
    write(PNG, tmp_path, stem="second")
    assert files_in(tmp_path) == {"first.png", "second.png", *mine}


@pytest.mark.skipif(sys.platform == "win32", reason="there, every young file is left alone")
def test_an_empty_temporary_file_is_removed_once_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A young one may belong to a process that has not locked it yet; a folder of that name is no such file."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "f" * size)
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(files_in(tmp_path)))
    write(PNG, tmp_path, stem="a")
    [name] = {name for name in seen if name.endswith(".part")}
    monkeypatch.undo()
    young, old, folder = (tmp_path / name.replace("f" * 8, letter * 8) for letter in "123")
    young.touch()
    old.touch()
    os.utime(old, (0, 0))
    folder.mkdir()
    write(PNG, tmp_path, stem="b")
    assert files_in(tmp_path) == {"a.png", "b.png", young.name, folder.name}


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks nobody can tell whose file it is: images are saved, and nothing is removed."""
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    write(PNG, tmp_path, stem="a")
    [part] = files_in(tmp_path) - {"a.png"}
    monkeypatch.undo()
    monkeypatch.setattr(fcntl, "flock", flock)
    write(PNG, tmp_path, stem="b")
    assert files_in(tmp_path) == {"a.png", "b.png", part}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_symlink_is_never_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, overwrite: bool, links: bool, dangling: bool
) -> None:
    """The victim behind a link stays untouched; only the link itself can be replaced."""
    if not links:
        no_links(monkeypatch)
    victim = tmp_path / "victim"
    if not dangling:
        victim.write_bytes(b"precious")
    (tmp_path / "a.png").symlink_to(victim)
    if overwrite:
        write(PNG, tmp_path / "a.png", stem="s", overwrite=True)
    else:
        refused(tmp_path / "a.png")
    assert (tmp_path / "a.png").is_symlink() != overwrite
    assert dangling != victim.exists()
    assert dangling or victim.read_bytes() == b"precious"


def test_a_planted_temporary_file_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A symbolic link under the temporary name, should anybody guess it, is not followed."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    taken: list[Path] = []
    whole = os.open

    def plant(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).suffix == ".part" and not taken:
            taken.append(Path(path))
            taken[0].symlink_to(victim)
        return whole(path, flags, mode)

    monkeypatch.setattr(os, "open", plant)
    assert refused(tmp_path).errno == errno.EEXIST
    assert victim.read_bytes() == b"precious"


def test_the_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    """The umask decides, as with open()."""
    (tmp_path / "reference").touch()
    path = write(PNG, tmp_path, stem="s")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "reference").stat().st_mode)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An os.write that takes three bytes at a time still leaves the whole image."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:3]))
    assert write(PNG, tmp_path, stem="s").read_bytes() == PNG


def failing(code: int, *, after: int = 0) -> Callable[[int, bytes], int]:
    """An os.write that takes some bytes and then fails."""
    left = [after]
    whole = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(code, os.strerror(code))
        left[0] -= 5
        return whole(descriptor, data[:5])

    return write_some


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A failure in mid-file: an error with errno, reason and path; no torn file, no leftover, the old one whole."""
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "write", failing(code, after=10))
    error = refused(path, overwrite=True)
    assert (error.errno, error.strerror, error.filename) == (code, os.strerror(code), str(path))
    assert os.strerror(code) in str(error)
    assert str(path) in str(error)
    assert files_in(tmp_path) == {"a.png"}
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["fsync", "link"])
def test_an_interrupt_passes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Ctrl-C goes through, and the temporary file goes with it."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(PNG, tmp_path, stem="s")
    assert files_in(tmp_path) == set()


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder cannot be opened the file is saved all the same."""
    whole = os.open

    def no_folders(path: str, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return whole(path, flags, mode)

    monkeypatch.setattr(os, "open", no_folders)
    assert write(PNG, tmp_path, stem="s").exists()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    """The error names the path and does not offer "overwrite", which would not help."""
    (tmp_path / "out").write_bytes(b"mine")
    for path in (tmp_path / "out", tmp_path / "out" / "deeper", tmp_path / "out" / "a.png"):
        error = refused(path)
        assert error.errno == errno.ENOTDIR
        assert str(path) in str(error)
        assert "overwrite" not in str(error)
    assert files_in(tmp_path) == {"out"}


def test_a_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    """A folder called a.png is neither replaced nor filled."""
    (tmp_path / "a.png").mkdir()
    assert refused(tmp_path / "a.png").errno == errno.EEXIST
    assert refused(tmp_path / "a.png", overwrite=True).errno == errno.EISDIR
    assert files_in(tmp_path) == {"a.png"}
    assert files_in(tmp_path / "a.png") == set()


@pytest.mark.parametrize("path", ["~/new/a.png", "~/new/", "~/new", Path("~/new")])
def test_a_tilde_is_the_home_folder(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program without a shell may pass "~"; a name of a user who does not exist stays as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert write(PNG, path, stem="a") == tmp_path / "home" / "new" / "a.png"
    assert write(PNG, "~nobody-of-this-name", stem="a") == Path("~nobody-of-this-name/a.png")
    response = Emulator(pixels=1).client().images.generate(prompt="a fox", n=2)
    assert response.save("~/fox.png") == [tmp_path / "home" / "fox_0.png", tmp_path / "home" / "fox_1.png"]


@pytest.mark.parametrize("path", [None, 1, b"out", ["out"]])
def test_what_is_no_path_is_a_clear_error(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong type is a SaveError that names it, for one image and for an answer, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    response = Emulator(pixels=1).client().images.generate(prompt="a fox", n=2)
    for save in (response.data[0].save, response.save):
        with pytest.raises(SaveError, match=type(path).__name__):
            save(path)
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("path", ["a\0b", "a\0b.png", "x" * 300 + ".png", "x" * 300, "a\ud800b", "a\ud800b.png"])
def test_an_impossible_path_is_a_clear_error(path: str, tmp_path: Path) -> None:
    """NUL, half surrogates and over-long names are a SaveError, and not the ValueError that Python raises."""
    error = refused(tmp_path / path)
    assert error.errno in (errno.EINVAL, errno.ENAMETOOLONG)
    assert error.strerror
    assert error.filename


def test_the_error_is_caught_as_ours_and_as_an_os_error(tmp_path: Path) -> None:
    """Existing `except OSError` works, the billing is "paid", and the cause is the system's own error."""
    (tmp_path / "a.png").touch()
    error = refused(tmp_path / "a.png")
    assert isinstance(error, OSError)
    assert isinstance(error, FluxError)
    assert error.billing == "paid"
    assert error.args[0].startswith("cannot write the image to")
    assert isinstance(error.__cause__, FileExistsError)


def test_what_has_been_put_in_place_of_an_image_is_not_read(tmp_path: Path) -> None:
    """A symbolic link, a file that is no image and one that is gone are refused; an image is read as it is."""
    image, text, link = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"
    image.write_bytes(b"\x89PNG\r\n\x1a\n")
    text.write_text("root:x:0:0")
    link.symlink_to(image)
    assert read_image(image) == image.read_bytes()
    for path in (text, link, tmp_path / "d.png"):
        with pytest.raises(OSError, match=r"not an image|symbolic|No such"):
            read_image(path)


def test_every_image_is_tried_before_an_error_is_raised(tmp_path: Path) -> None:
    """Of three images the first is gone: its error is raised after the other two are saved."""
    emulator = Emulator(pixels=1)
    response = emulator.client().images.generate(prompt="a fox", n=3)
    emulator.fail(status=410, on="download")
    with pytest.raises(DownloadError, match="410"):
        response.save(tmp_path)
    assert files_in(tmp_path) == {"a-fox_1.png", "a-fox_2.png"}


def test_several_images_under_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """Each image of an answer is kept when the path names a file, also with overwrite=True."""
    response = Emulator(pixels=64).client().images.generate(prompt="a fox", n=3)
    paths = response.save(tmp_path / "fox.png", overwrite=True)
    assert [path.name for path in paths] == ["fox_0.png", "fox_1.png", "fox_2.png"]
    assert len({path.read_bytes() for path in paths}) == 3


def test_one_image_keeps_the_name_it_is_given(tmp_path: Path) -> None:
    """A path that names a file is used as it is for a single image."""
    response = Emulator(pixels=64).client().images.generate(prompt="a fox")
    assert response.save(tmp_path / "fox.png") == [tmp_path / "fox.png"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists the open files of a process there")
def test_saving_leaves_no_file_open(tmp_path: Path) -> None:
    """A script that saves thousands of images does not run out of file descriptors."""
    response = Emulator(pixels=1).client().images.generate(prompt="a fox", response_format="b64_json")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        response.save(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot sync a folder")
def test_images_written_together_sync_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is synced before it gets its name, and its folder once, behind the last; also after a failed write."""
    synced, fsync = list[str](), os.fsync

    def seen_fsync(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    with writing_together():
        for place in ("a/1.png", "a/2.png", "b/1.png"):
            write(PNG, tmp_path / place, stem="fox")
        with pytest.raises(SaveError):
            write(PNG, tmp_path / "a/1.png", stem="fox")
    assert synced == ["file"] * 4 + ["folder"] * 2
    write(PNG, tmp_path / "c.png", stem="fox")
    assert synced[6:] == ["file", "folder"]

    def until_an_error() -> None:
        with writing_together():
            write(PNG, tmp_path / "d/1.png", stem="fox")
            write(PNG, tmp_path / "d/1.png", stem="fox")

    with pytest.raises(SaveError):
        until_an_error()
    assert synced[8:] == ["file", "file", "folder"]
