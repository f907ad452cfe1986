"""What the bytes of an image say: its size, compared with the one that Pillow reads."""

from functools import cache
from io import BytesIO
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_openai.formats import image_size

Size = tuple[int, int]

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("PNG", "RGB", {}),
    "png with alpha": ("PNG", "RGBA", {}),
    "png with a palette": ("PNG", "P", {}),
    "gif": ("GIF", "P", {}),
    "jpeg": ("JPEG", "RGB", {"progressive": False}),
    "progressive jpeg": ("JPEG", "RGB", {"progressive": True}),
    "gray jpeg": ("JPEG", "L", {}),
    "jpeg with metadata": ("JPEG", "RGB", {"exif": b"Exif\0\0" + b"\xff\xc0" * 900, "comment": b"\xff\xc0" * 9}),
    "webp": ("WEBP", "RGB", {"lossless": False}),
    "webp without loss": ("WEBP", "RGB", {"lossless": True}),
    "webp with alpha": ("WEBP", "RGBA", {"lossless": False}),
    "webp with metadata": ("WEBP", "RGB", {"exif": b"Exif\0\0" + bytes(9)}),
}


@cache
def image_of(kind: str, size: Size) -> bytes:
    """A picture, as Pillow writes it."""
    name, mode, options = KINDS[kind]
    buffer = BytesIO()
    noise = Image.effect_noise(size, 50)
    picture = noise.convert(mode)
    if mode == "RGBA":
        picture.putalpha(noise)  # an alpha that says nothing would not be written
    picture.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (9, 17), (300, 257), (1, 4000)])
def test_the_size_is_read(kind: str, size: Size) -> None:
    """Width and height are those that Pillow reads, in this order."""
    data = image_of(kind, size)
    with Image.open(BytesIO(data)) as image:
        assert image_size(data) == image.size == size


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_header_has_no_size(kind: str) -> None:
    """However much of a file is missing, the size is the right one or none; headers end within the first 4 KiB."""
    data = image_of(kind, (300, 257))
    sizes = [image_size(data[:length]) for length in range(4096)]
    assert sizes[0] is None
    assert set(sizes) == {None, (300, 257)}


MAGIC = [b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WEBPVP8L"]
MAGIC += [b"RIFF\0\0\0\0WEBPVP8X", b""]


@settings(max_examples=150, database=None)
@given(st.sampled_from(MAGIC), st.binary(max_size=60))
@example(b"\xff\xd8", b"\xff\xe0\0\0" * 9)
@example(b"\xff\xd8", b"\xff" * 60)
def test_garbage_is_read_without_harm(magic: bytes, rest: bytes) -> None:
    """Whatever follows the first bytes, nothing is raised, and what is read is a size or none."""
    size = image_size(magic + rest)
    assert size is None or all(0 < side < 2**32 for side in size)


def test_padding_before_a_marker_is_skipped() -> None:
    """A JPEG may fill the gap before a marker with any number of FF bytes."""
    data = image_of("jpeg", (17, 9))
    assert image_size(data[:2] + b"\xff\xff\xff" + data[2:]) == (17, 9)
