"""Images as people have them: what the service gets of each, and what is refused before anything is sent."""

import asyncio
import io
import logging
import os
import pickle
import socket
import struct
import threading
import traceback
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Image as SDKImage
from PIL import Image

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImage, FluxImagesResponse, FluxOpenAI, InvalidParamsError
from flux_openai._http.library import httpx
from flux_openai.errors import FluxError, InvalidParam
from flux_openai.models import DEFAULT_MODEL
from flux_openai.request import image_inputs
from flux_openai.request.image_inputs import IMAGE_LIMIT
from flux_openai.request.validation import validate

Way = Literal["sync", "async"]
both_ways = pytest.mark.parametrize("way", ["sync", "async"])


def ask(emulator: Emulator, way: Way, verb: str = "edit", **call: Any) -> FluxImagesResponse:  # noqa: ANN401  # passed on
    """One call through a client of the emulator."""
    call = {"prompt": "a hat", **call}
    if way == "sync":
        with emulator.client() as client:
            response: FluxImagesResponse = getattr(client.images, verb)(**call)
        return response

    async def run() -> FluxImagesResponse:
        async with emulator.async_client() as client:
            answer: FluxImagesResponse = await getattr(client.images, verb)(**call)
        return answer

    return asyncio.run(run())


def seen(way: Way, image: object) -> str:
    """The image as the service saw it."""
    emulator = Emulator(pixels=64)
    ask(emulator, way, image=image)
    (request,) = emulator.requests
    assert request.body is not None
    assert set(request.body) == {"model", "prompt", "image"}
    return str(request.body["image"])


def unpacked(uri: str, kind: str = "png") -> bytes:
    """What a data URI of this type holds."""
    assert uri.startswith(f"data:image/{kind};base64,")
    return b64decode(uri.partition(",")[2], validate=True)


def saved(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401  # passed on
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


COLOURS = Image.frombytes("RGB", (4, 2), bytes(range(0, 240, 10)))
PICTURE = saved(COLOURS) + bytes(range(256))  # every letter of base64; what follows its end belongs to no picture
TEXT = b64encode(PICTURE).decode()
OTHERS = {name: saved(COLOURS, name) for name in ("PNG", "JPEG", "WEBP", "GIF")}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder with a picture in it; what is opened there is closed in the end."""

    folder: Path
    stack: ExitStack

    def file(self, content: bytes = PICTURE, name: str = "fox.png") -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def opened(self, mode: str = "rb", *, content: bytes = PICTURE, at: int = 0, **options: Any) -> Any:  # noqa: ANN401
        file = self.stack.enter_context(self.file(content).open(mode, **options))
        file.seek(at)
        return file

    def pipe(self) -> io.BufferedReader:
        """A stream that cannot be rewound, a few bytes of it read already."""
        out, into = os.pipe()
        with os.fdopen(into, "wb") as writer:
            writer.write(b"head" + PICTURE)
        reader = self.stack.enter_context(os.fdopen(out, "rb"))
        assert reader.read(4) == b"head"
        return reader


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(folder=tmp_path, stack=stack)


class Named:
    """A path that is no pathlib.Path."""

    def __init__(self, path: object) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path if isinstance(self.path, int) else str(self.path)  # type: ignore[return-value]  # one is wrong


class Counted(io.BytesIO):
    """A file that remembers how much was read of it, and by whom."""

    def __init__(self, content: bytes = PICTURE) -> None:
        super().__init__(content)
        self.taken, self.threads, self.readers = 0, set[int](), set[str]()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        self.threads.add(threading.get_ident())
        self.readers |= {Path(frame.filename).name for frame in traceback.extract_stack(limit=40)}
        return data


class Endless(Counted):
    """A picture without end."""

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0
        head = PICTURE if self.taken == 0 else b""
        self.taken += size
        return (head + bytes(size))[:size]


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(5, "the disk is gone")


Given = Callable[[Place], object]

FORMS: dict[str, Given] = {
    "path": lambda place: str(place.file()),
    "Path": lambda place: place.file(),
    "PathLike": lambda place: Named(place.file()),
    "bytes": lambda _: PICTURE,
    "bytearray": lambda _: bytearray(PICTURE),
    "memoryview": lambda _: memoryview(b"x" + PICTURE)[1:],
    "strided memoryview": lambda _: memoryview(bytes(b for byte in PICTURE for b in (byte, 0)))[::2],
    "BytesIO": lambda _: io.BytesIO(PICTURE),
    "file": lambda place: place.opened(),
    "file in the middle": lambda place: place.opened(at=9),
    "unbuffered file": lambda place: place.opened(buffering=0, at=9),
    "stream": lambda place: place.pipe(),
    "tuple of 2": lambda _: ("fox.gif", PICTURE),
    "tuple of 3": lambda place: ("fox.gif", place.file(), "image/gif"),
    "tuple of 4": lambda place: (None, place.opened(at=9), "text/plain", {"x": "y"}),
    "list of one": lambda place: [place.file()],
    "data URI": lambda _: f"data:image/png;base64,{TEXT}",
    "url-safe": lambda _: f"data:image/png;base64,{urlsafe_b64encode(PICTURE).decode()}",
    "unpadded": lambda _: f"data:image/png;base64,{TEXT.rstrip('=')}",
    "wrapped": lambda _: f" data:image/png;base64,\n{encodebytes(PICTURE).decode()}",
    "uppercase": lambda _: f"DATA:IMAGE/PNG;BASE64,{TEXT}",
    "wrong type": lambda _: f"data:text/html;charset=utf-8;base64,{TEXT}",
    "answer with data": lambda _: FluxImage(b64_json=TEXT, url="https://img.example/fox.png"),
    "answer with a data URI": lambda _: SDKImage(b64_json=f"data:image/webp;base64,{TEXT}"),
    "answer with a data link": lambda _: SDKImage(url=f"data:image/png;base64,{TEXT}"),
    "answer of the SDK": lambda _: SDKImage(b64_json=TEXT),
}


@both_ways
@pytest.mark.parametrize("form", FORMS)
def test_an_image_in_any_form_arrives_as_its_bytes(place: Place, way: Way, form: str) -> None:
    """The service gets a data URI of exactly the picture's bytes; a file from its start, a stream from where it is."""
    assert unpacked(seen(way, FORMS[form](place))) == PICTURE


@both_ways
def test_an_image_in_extra_body_is_an_image_too(place: Place, way: Way) -> None:
    """A parameter may stand in either place: the service never gets the path of a file in place of the file."""
    for body, name in (({"image": str(place.file())}, "image"), ({"image": [place.file(), PICTURE]}, "images")):
        emulator = Emulator(pixels=64)
        ask(emulator, way, extra_body=body)
        images = (emulator.requests[0].body or {})[name]
        assert {unpacked(str(image)) for image in (images if isinstance(images, list) else [images])} == {PICTURE}
    assert refused(way, model="kontext-max", extra_body={"image": b"<svg/>"}).param == "image"
    twice = refused(way, "edit", image=PICTURE, extra_body={"image": OTHERS["GIF"]})
    assert (twice.param, "given twice" in twice.rule) == ("image", True)


def test_no_image_of_an_edit_is_lost() -> None:
    """Several images in `image` and others in `images` is a fault: neither wins in silence."""
    faults = refusals("sync", "edit", image=[PICTURE, PICTURE], images=[PICTURE])
    assert {fault.param for fault in faults} <= {"image", "images"}


@both_ways
@pytest.mark.parametrize(
    "link", ["https://img.example/fox.png?X-Sig=a%2Fb&e=1#top", "http://127.0.0.1:80", "https://h/ü/狐.png"]
)
def test_a_link_goes_as_it_is(way: Way, link: str) -> None:
    """A link is not opened and not rewritten, whether as text or in an answer."""
    assert seen(way, link) == link
    assert seen(way, FluxImage(url=link)) == seen(way, SDKImage(url=link)) == link


@pytest.mark.parametrize("format", OTHERS)
def test_the_type_comes_from_the_bytes(place: Place, format: str) -> None:
    """Neither the name of a file nor a declared type decides what a picture is sent as."""
    data, kind = OTHERS[format], format.lower()
    wrong = f"data:image/bmp;base64,{b64encode(data).decode()}"
    for image in (place.file(data, "fox.bmp"), ("fox.tiff", data, "image/tiff"), wrong, data):
        assert unpacked(seen("sync", image), kind) == data


@settings(max_examples=100)
@given(
    start=st.sampled_from([(b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF89a", "gif")]),
    rest=st.binary(max_size=300),
    form=st.sampled_from(["bytes", "padded", "unpadded", "url-safe", "wrapped"]),
)
def test_any_bytes_behind_the_magic_arrive_whole(start: tuple[bytes, str], rest: bytes, form: str) -> None:
    """Whatever an image holds, what the service decodes is what was given, however it was written."""
    data = start[0] + rest
    text = {"padded": b64encode(data), "unpadded": b64encode(data).rstrip(b"="), "url-safe": urlsafe_b64encode(data)}
    packed = text.get(form, encodebytes(data)).decode()
    image = data if form == "bytes" else f"data:image/webp;base64,{packed}"
    assert (
        unpacked(str(validate({"model": "flux-dev", "prompt": "x", "image": image}).values["image"]), start[1]) == data
    )


PIXELS: dict[str, tuple[Image.Image, str]] = {
    mode: (COLOURS.convert(mode), mode if mode in ("1", "L", "LA", "P", "RGB", "RGBA") else "RGB")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV")
} | {
    "I;16": (GREY := Image.frombytes("I;16", (2, 1), struct.pack("<2H", 7, 60_000)), "I;16"),
    "I": (GREY.convert("I"), "I;16"),
    "I;16B": (Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 7, 60_000)), "I;16"),
    "La": (COLOURS.convert("LA").convert("La"), "LA"),
    "RGBa": (Image.new("RGBA", (2, 1), (200, 100, 0, 51)).convert("RGBa"), "RGBA"),
    "PA": (COLOURS.convert("P").convert("PA"), "RGBA"),
}


@pytest.mark.parametrize("mode", PIXELS)
def test_an_image_of_pillow_arrives_pixel_by_pixel(mode: str) -> None:
    """A mode that PNG has is kept, and any other becomes the nearest: no depth and no transparency is lost."""
    image, kept = PIXELS[mode]
    got = Image.open(io.BytesIO(unpacked(seen("sync", image))))
    assert (got.mode, got.size) == (kept, image.size)
    assert got.tobytes() == (GREY if kept == "I;16" else image.convert(kept)).tobytes()


@both_ways
def test_a_photograph_stands_upright(way: Way) -> None:
    """The orientation that a camera notes is applied, for a PNG that went on would not say it; the original stays."""
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.open(io.BytesIO(saved(COLOURS, "JPEG", exif=exif)))
    got = Image.open(io.BytesIO(unpacked(seen(way, photograph))))
    assert (photograph.size, got.size) == ((4, 2), (2, 4))
    assert got.tobytes() == photograph.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_a_photograph_with_broken_metadata_is_a_photograph() -> None:
    """What a camera or an editor got wrong in the metadata costs no picture."""
    for exif in (b"Exif\0\0rubbish!", b"Exif\0\0II"):
        image = COLOURS.copy()
        image.info["exif"] = exif
        assert Image.open(io.BytesIO(unpacked(seen("sync", image)))).tobytes() == COLOURS.tobytes()


def looped(place: Place) -> Path:
    """A file that nobody can read, not even root: a link to itself."""
    (place.folder / "loop.png").symlink_to(place.folder / "loop.png")
    return place.folder / "loop.png"


def closed(place: Place) -> object:
    file = place.opened()
    file.close()
    return file


def holed() -> bytes:
    """A PNG with rubbish where the second half of its data should begin."""
    data = saved(Image.effect_noise((300, 300), 50))
    return data[:65_600].replace(b"\0\1\0\0IDAT", b"\0\0\1\0IDAT") + data[65_600:]


class Array:
    """What numpy's arrays are like: comparing them gives no plain answer, and so does asking whether they are true."""

    shape = (2, 2)

    def __bool__(self) -> bool:
        raise ValueError("the truth of an array is ambiguous")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return (1, 2)[index]


NO_KIND = "is no PNG, JPEG, WebP or GIF, going by its bytes"
NO_LINK = "must be an http(s) link, a data URI or a path"
NO_FORM = "a path, bytes, an open binary file"
TOO_BIG = "32 MiB together"
BAD: dict[str, tuple[Given, str]] = {
    "missing": (lambda place: place.folder / "none.png", "cannot be read as a file: No such file"),
    "missing text": (lambda place: str(place.folder / "none.png"), "cannot be read as a file: No such file"),
    "no name": (lambda _: "", "cannot be read as a file"),
    "folder": (lambda place: place.folder, "cannot be read as a file: it is a folder"),
    "unreadable": (looped, "cannot be read as a file"),
    "empty file": (lambda place: place.file(b""), "is empty"),
    "no bytes": (lambda _: b"", "is empty"),
    "spent stream": (lambda place: [stream := place.pipe(), stream.read()][0], "is empty"),
    "text file": (lambda place: place.opened("r", content=b"<svg/>"), "open it with mode 'rb'"),
    "picture as text": (lambda place: place.opened("r", encoding="utf-8"), "open it with mode 'rb'"),
    "path to nothing": (lambda _: Named(5), "cannot be read as a file"),
    "closed file": (closed, "of closed file"),
    "broken file": (lambda _: Broken(PICTURE), "cannot be read: [Errno 5] the disk is gone"),
    "svg": (lambda place: place.file(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), NO_KIND),
    "html": (lambda _: b"<!doctype html><img src=fox.png>", NO_KIND),
    "pdf": (lambda _: io.BytesIO(b"%PDF-1.7"), NO_KIND),
    "half a webp": (lambda _: b"RIFF\x10\x00\x00\x00WAVE", NO_KIND),
    "svg as data": (lambda _: "data:image/svg+xml;base64,PHN2Zy8+", NO_KIND),
    "file URL": (lambda place: place.file().as_uri(), NO_LINK),
    "ftp": (lambda _: "ftp://img.example/fox.png", NO_LINK),
    "s3": (lambda _: "s3://bucket/fox.png", NO_LINK),
    "link with a space": (lambda _: "https://img.example/a fox.png", NO_LINK),
    "no host": (lambda _: "https:///fox.png", NO_LINK),
    "bare base64": (lambda _: TEXT, "it is base64, which needs data:image/png;base64, before it"),
    "data without base64": (lambda _: "data:image/svg+xml,%3Csvg/%3E", "must hold base64"),
    "data of nothing": (lambda _: "data:image/png;base64,", "must hold base64"),
    "data cut off": (lambda _: f"data:image/png;base64,{TEXT[:41]}", "must hold base64"),
    "NUL": (lambda _: "fox\0.png", "embedded null"),  # Python 3.13 says first what it tried
    "long text": (lambda _: "x" * 100_000, "cannot be read as a file: File name too long"),
    "array": (lambda _: Array(), NO_FORM),
    "list": (lambda place: [place.file(), place.file()], "several go into images="),
    "empty list": (lambda _: [], "several go into images="),
    "int": (lambda _: 5, NO_FORM),
    "bool": (lambda _: True, NO_FORM),
    "dict": (lambda _: {"url": "https://img.example/fox.png"}, NO_FORM),
    "half a letter": (lambda _: "https://img.example/\ud800.png", NO_LINK),
    "answer with a path": (lambda place: SDKImage(url=str(place.file())), NO_LINK),
    "answer with a file URL": (lambda place: FluxImage(url=place.file().as_uri()), NO_LINK),
    "answer without image": (lambda _: SDKImage(), NO_FORM),
    "broken picture": (
        lambda _: Image.open(io.BytesIO(saved(Image.effect_noise((99, 99), 50))[:300])),
        "cannot be written as PNG",
    ),
    "picture with a hole": (lambda _: Image.open(io.BytesIO(holed())), "cannot be written as PNG"),
    "picture of floats": (lambda _: Image.new("F", (2, 2), 0.5), "convert it first"),
    "empty picture": (lambda _: Image.new("RGB", (0, 5)), "cannot be written as PNG"),
    "big file": (lambda place: sparse(place, 2**30), TOO_BIG),
    "big bytes": (lambda _: PICTURE + bytes(IMAGE_LIMIT), TOO_BIG),
    "big data": (lambda _: f"data:image/png;base64,{TEXT[:40]}{'A' * (IMAGE_LIMIT // 3 * 4)}", TOO_BIG),
    "huge data": (lambda _: f"data:image/png;base64,{'!' * 70_000_000}", TOO_BIG),
}


def fifo(place: Place) -> Path:
    os.mkfifo(place.folder / "fox.png")
    return place.folder / "fox.png"


def bound_socket(place: Place) -> Path:
    # A relative path: that of a temporary folder may be too long for a socket.
    listener = place.stack.enter_context(socket.socket(socket.AF_UNIX))
    place.stack.enter_context(chdir(place.folder))
    listener.bind("fox.png")
    return place.folder / "fox.png"


def link_to_fifo(place: Place) -> Path:
    (place.folder / "link.png").symlink_to(fifo(place))
    return place.folder / "link.png"


SPECIAL: dict[str, tuple[Given, str]] = {
    "FIFO": (fifo, "it is a FIFO"),
    "FIFO as text": (lambda place: str(fifo(place)), "it is a FIFO"),
    "link to a FIFO": (link_to_fifo, "it is a FIFO"),
    "FIFO in a tuple": (lambda place: ("fox.png", fifo(place)), "it is a FIFO"),
    "socket": (bound_socket, "it is a socket"),
    "device": (lambda _: Path("/dev/zero"), "it is a device"),
    "terminal": (lambda _: "/dev/tty", "it is a device"),
    "folder": (lambda place: place.folder, "it is a folder"),
}


@both_ways
@pytest.mark.parametrize("case", SPECIAL)
def test_what_is_no_regular_file_is_not_opened(
    place: Place, way: Way, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a FIFO waits for a writer that may never come, and to open a device may do anything: neither is done."""
    make, rule = SPECIAL[case]
    value = make(place)
    monkeypatch.setattr(image_inputs, "open", lambda *_: pytest.fail("it was opened"), raising=False)
    assert rule in refused(way, model="kontext-max", image=value).rule


class Growing:
    """A file on disk that somebody else writes to whenever it is read."""

    def __init__(self, place: Place, change: Callable[[Path], object]) -> None:
        self.path = place.file(PICTURE + bytes(2**20))
        self.change, self.raw = change, place.stack.enter_context(self.path.open("rb", buffering=0))

    def read(self, size: int = -1, /) -> bytes | None:
        self.change(self.path)
        return self.raw.read(size)

    def seek(self, offset: int, /) -> int:
        return self.raw.seek(offset)


def append(path: Path) -> None:
    """A last piece arrives."""
    os.truncate(path, 2**21)


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 1))


@pytest.mark.parametrize("change", [append, lambda path: os.truncate(path, 2**19), touch], ids=["grows", "ends", "new"])
def test_a_file_that_is_still_being_written_is_refused(place: Place, change: Callable[[Path], object]) -> None:
    """Half a download would be sent and paid for: a file that changes while it is read is none to send."""
    file = Growing(place, change)
    assert "still being written" in refused("sync", model="kontext-max", image=file).rule


def test_a_file_that_grows_without_end_is_read_to_the_limit(place: Place) -> None:
    """A writer faster than the reader cannot make the call go on for ever."""
    file = Growing(place, lambda path: os.truncate(path, path.stat().st_size + 2**21))
    assert TOO_BIG in refused("sync", model="kontext-max", image=file).rule
    assert file.raw.tell() == IMAGE_LIMIT + 1


@both_ways
def test_a_terminal_is_no_image(place: Place, way: Way) -> None:
    """`sys.stdin.buffer` without a redirection would wait for somebody to type an image; text is refused unread."""
    parent, child = os.openpty()
    place.stack.callback(os.close, parent)
    terminal = place.stack.enter_context(os.fdopen(child, "rb"))
    assert "is a terminal" in refused(way, model="kontext-max", image=terminal).rule
    text = io.TextIOWrapper(terminal)
    assert "open it with mode 'rb'" in refused(way, model="kontext-max", image=text).rule
    text.detach()


def test_a_stream_without_data_yet_is_refused(place: Place) -> None:
    """A stream in non-blocking mode that has only a part of the image would end in the middle of it."""
    out, into = os.pipe()
    place.stack.callback(os.close, into)
    os.set_blocking(out, False)
    stream = place.stack.enter_context(os.fdopen(out, "rb", buffering=0))
    os.write(into, PICTURE)
    assert "non-blocking" in refused("sync", model="kontext-max", image=stream).rule


def sparse(place: Place, size: int) -> Path:
    """A large file that takes no room on the disk."""
    os.truncate(place.file(), size)
    return place.folder / "fox.png"


def refused(way: Way, verb: str = "generate", **call: object) -> InvalidParam:
    """The only fault of a call, of which nothing was sent."""
    (fault,) = refusals(way, verb, **call)
    return fault


def refusals(way: Way, verb: str, **call: object) -> tuple[InvalidParam, ...]:
    """The faults of a call, of which nothing was sent."""
    emulator = Emulator(pixels=64)
    with pytest.raises(InvalidParamsError) as caught:
        ask(emulator, way, verb, **call)
    assert emulator.requests == []
    assert len(str(caught.value)) < 500
    assert len(pickle.dumps(caught.value)) < 2000
    return caught.value.faults


@both_ways
@pytest.mark.parametrize("case", BAD)
def test_what_is_no_image_is_one_fault(place: Place, way: Way, case: str) -> None:
    """The fault names the parameter, the value and what is wrong with it, in a line, and nothing is sent."""
    make, rule = BAD[case]
    value = make(place)
    fault = refused(way, model="kontext-max", image=value)
    assert (fault.param, fault.value is value) == ("image", True)
    assert rule in fault.rule


@pytest.mark.parametrize("case", sorted({*BAD} - {"list", "empty list", "data of nothing"}))
def test_one_bad_image_among_several_is_told_by_its_place(place: Place, case: str) -> None:
    """Of several images the fault names the one that is wrong."""
    make, rule = BAD[case]
    value = make(place)
    fault = refused("sync", "edit", image=[PICTURE, value])
    assert (fault.param, fault.value is value) == ("images", True)
    assert rule in fault.rule
    assert fault.rule.endswith("(image 2 of 2)")


@pytest.mark.parametrize("value", [[None], [PICTURE, None], [[PICTURE]], [5]], ids=["None", "a None", "list", "int"])
def test_a_list_holds_images_only(value: list[object]) -> None:
    """None in a list is no way to leave an image out: it would shift the others."""
    assert NO_FORM in refused("sync", images=value).rule


@pytest.mark.parametrize("value", [[], ()])
def test_a_list_of_images_is_not_empty(value: object) -> None:
    """No image at all is a fault where the model needs one, and so is an edit of nothing."""
    assert "at least one" in refused("sync", images=value).rule
    fault = refused("sync", "edit", image=value)
    assert (fault.param, "an edit starts from" in fault.rule) == ("image", True)


def test_the_images_of_a_call_have_one_limit_together() -> None:
    """Images that are fine by themselves may be too much together; links weigh nothing, and the rest is not read."""
    third, last = PICTURE + bytes(IMAGE_LIMIT // 3), Counted(PICTURE + bytes(IMAGE_LIMIT // 2))
    fault = refused("sync", images=[third, "https://img.example/fox.png", third, last])
    assert TOO_BIG in fault.rule
    assert fault.rule.endswith("(image 4 of 4)")
    assert last.taken <= IMAGE_LIMIT // 3 + 1


def test_what_is_left_of_the_limit_is_counted_to_the_byte() -> None:
    """Two images of half the limit are just enough, and after them there is room for a link but for no byte more."""
    halves = [PICTURE + bytes(IMAGE_LIMIT // 2 - len(PICTURE) + extra) for extra in (1, -1)]
    link = "https://img.example/fox.png"
    sent = validate({"image": [*halves, link]}, editing=True).values["images"]
    assert isinstance(sent, list)
    assert [len(unpacked(image)) for image in sent[:2]] == [len(half) for half in halves]
    for more in (b"x", io.BytesIO(PICTURE), f"data:image/png;base64,{'A' * 4_000_000}"):
        fault = refused("sync", "edit", image=[*halves, link, more])
        assert TOO_BIG in fault.rule
        assert fault.value is more


@both_ways
def test_a_file_is_never_read_beyond_the_limit(way: Way) -> None:
    """A file of any length costs no more memory than the largest image that may be sent, and a byte to tell."""
    endless = Endless()
    assert TOO_BIG in refused(way, model="kontext-max", image=endless).rule
    assert endless.taken == IMAGE_LIMIT + 1


def test_an_image_of_just_the_limit_is_sent() -> None:
    """The limit is the last size that is taken."""
    largest = PICTURE + bytes(IMAGE_LIMIT - len(PICTURE))
    assert len(unpacked(str(validate({"image": largest}, editing=True).values["image"]))) == IMAGE_LIMIT


@both_ways
def test_a_file_is_read_once_whatever_happens_to_the_call(way: Way) -> None:
    """Two failed attempts send the same body a third time, without a second look at the file."""
    emulator, file = Emulator(pixels=64), Counted()
    emulator.fail(2, status=503)
    response = ask(emulator, way, image=file)
    assert response.attempts == 3
    bodies = [request.body for request in emulator.requests]
    assert bodies[0] == bodies[1] == bodies[2]
    assert unpacked(str(response.sent["image"])) == PICTURE
    assert (file.taken, file.tell()) == (len(PICTURE), len(PICTURE))


def test_a_split_call_reads_its_image_once() -> None:
    """Several requests for one order share what was read once."""
    emulator, file = Emulator(pixels=64), Counted()
    ask(emulator, "sync", image=file, n=9, split=True)
    assert {unpacked(str((request.body or {})["image"])) for request in emulator.requests} == {PICTURE}
    assert (len(emulator.requests), file.taken) == (3, len(PICTURE))


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_async_code_reads_files_in_a_thread(several: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """The event loop goes on while a disk is slow: no file is read in its thread."""
    file = Counted()
    ask(Emulator(pixels=64), "async", image=[file, PICTURE] if several else file)
    assert file.threads
    assert threading.get_ident() not in file.threads


def test_async_code_without_images_needs_no_thread() -> None:
    """A call that has nothing to read is checked where it is made; a change of threads would be for nothing."""
    threads = set()

    class Body(dict[str, object]):
        def items(self) -> Any:  # noqa: ANN401  # as dict has it
            threads.add(threading.get_ident())
            return super().items()

    ask(Emulator(pixels=64), "async", "generate", extra_body=Body(seed=1))
    assert threads == {threading.get_ident()}


@both_ways
def test_a_file_for_another_model_is_the_sdk_s(way: Way) -> None:
    """For a model that is not FLUX nothing of ours looks into the file, and the SDK sends it whole."""
    file, bodies = Counted(), list[bytes]()

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(200, json={"created": 1, "data": [{"b64_json": TEXT}]})

    async def run() -> None:
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        async with AsyncFluxOpenAI(api_key="k", http_client=http) as client:
            await client.images.edit(model="gpt-image-1", image=file, prompt="x")

    if way == "sync":
        with FluxOpenAI(api_key="k", http_client=httpx.Client(transport=httpx.MockTransport(answer))) as client:
            client.images.edit(model="gpt-image-1", image=file, prompt="x")
    else:
        asyncio.run(run())
    assert PICTURE in bodies[0]
    assert file.readers
    assert "inputs.py" not in file.readers


@pytest.mark.parametrize("name", ["image", "images"])
def test_an_image_is_no_default(name: str) -> None:
    """A client with an image for all calls is not made, and says so once; the image is not read."""
    file = Counted()
    with pytest.raises(InvalidParamsError) as caught:
        FluxOpenAI(api_key="k", defaults={name: file, "steps": 5})
    assert [(fault.param, fault.value is file) for fault in caught.value.faults] == [(name, True)]
    assert "cannot be a default" in caught.value.faults[0].rule
    assert file.taken == 0


SIGNATURE = "SIGNATURE-CANARY-77c1"
LINK = f"https://img.example/fox.png?X-Signature={SIGNATURE}"


@both_ways
@pytest.mark.parametrize(
    ("fault", "call"),
    [
        ({}, {"n": 9}),
        ({}, {"image": f"{LINK} "}),
        ({}, {"image": [LINK, LINK], "strength": 2}),
        ({}, {"model": DEFAULT_MODEL}),
        ({}, {"model": "flux-dev", "images": [LINK]}),
        ({"status": 400, "body": {"error": {"message": f"cannot open {LINK}"}}}, {}),
        ({"status": 503, "times": 9}, {"image": [LINK, PICTURE]}),
        ({"error": "timeout"}, {}),
    ],
    ids=["limit", "no link", "pairing", "no taker", "beside", "echo", "retries", "timeout"],
)
def test_a_signed_link_is_shown_nowhere(
    caplog: pytest.LogCaptureFixture, way: Way, fault: dict[str, Any], call: dict[str, Any]
) -> None:
    """The signature of an input link is in no error, no traceback, no pickle and no line of any log."""
    for name in ("openai", "httpx", "httpx2", "httpcore", "flux_openai", None):
        caplog.set_level(logging.DEBUG, logger=name)
    emulator = Emulator(pixels=64)
    if fault:
        emulator.fail(**fault)
    with pytest.raises(FluxError) as caught:
        ask(emulator, way, **{"image": LINK, **call})
    error = caught.value
    said = [str(error), repr(error), repr(vars(error)), str(pickle.dumps(error)), caplog.text]
    said += traceback.format_exception(error)
    assert [text for text in said if SIGNATURE in text] == []
    assert {record.name for record in caplog.records if "openai" in record.name} or not emulator.requests


@both_ways
def test_what_was_sent_shows_short(way: Way) -> None:
    """Megabytes of an image, and the signature of a link, stay out of the repr of an answer and of its receipt."""
    emulator = Emulator(pixels=64)
    response = ask(emulator, way, image=[PICTURE + bytes(2**21), LINK])
    shown = repr(response) + repr(response.sent) + repr(response.data[0])
    assert len(shown) < 2000
    assert SIGNATURE not in shown
    assert response.sent["images"] == (emulator.requests[0].body or {})["images"]


def test_megabytes_are_in_no_message() -> None:
    """A data URI that is wrong, and one in a call that is, is told by its type and length alone."""
    long = f"data:image/png;base64,{TEXT}{'A' * 3_000_000}"
    for call in ({"image": f"{long}!"}, {"image": f"DATA:image/png,{long}"}, {"image": long, "n": 9}):
        refused("sync", "edit", **call)


def drawn(**call: Any) -> bytes:  # noqa: ANN401  # passed on
    response = ask(Emulator(pixels=4096), "sync", seed=7, response_format="b64_json", **call)
    return b64decode(str(response.data[0].b64_json))


def test_the_emulator_draws_from_the_images() -> None:
    """The same images and strength give the same picture, others another."""
    calls: list[dict[str, object]] = [
        {"image": PICTURE},
        {"image": OTHERS["GIF"]},
        {"image": PICTURE, "strength": 0.1},
        {"image": [PICTURE, LINK]},
        {"image": [LINK, PICTURE]},
    ]
    assert [drawn(**call) for call in calls] == (pictures := [drawn(**call) for call in calls])
    assert len(set(pictures)) == len(pictures)
    assert drawn(image=PICTURE, strength=0.8) == pictures[0]


@pytest.mark.parametrize("size", ["256x256", "640x480", "1536x1536", "1536x256"])
def test_the_emulator_keeps_the_size_that_was_asked_for(size: str) -> None:
    """flux.1-dev answers with a picture of just these pixels."""
    with Emulator().client() as client:
        data = client.images.generate(model="flux-dev", prompt="x", size=size, response_format="b64_json").data[0]
    assert "{}x{}".format(*Image.open(io.BytesIO(b64decode(str(data.b64_json)))).size) == size
