"""Thumbnails: small, for every kind of image there is, and none rather than harm from a file that lies."""

import zlib
from io import BytesIO

import pytest

Image = pytest.importorskip("PIL.Image", reason="comes with the dev extra")
thumbnails = pytest.importorskip("flux_openai.tools.thumbnails")


def picture(kind: str, size: tuple[int, int] = (900, 300), mode: str = "RGB") -> bytes:
    """An image that Pillow has made."""
    buffer = BytesIO()
    Image.new(mode, size, "red").save(buffer, kind)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says to be this large."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunk = b"\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + picture("PNG")[33:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_kind_becomes_a_small_jpeg(kind: str) -> None:
    """The longer side is 512 pixels, the other in proportion."""
    with Image.open(BytesIO(thumbnails.thumbnail(picture(kind)))) as small:
        assert (small.format, small.size) == ("JPEG", (512, 171))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_a_small_jpeg(mode: str) -> None:
    """Masks, greys, palettes and transparency are no obstacle."""
    image = Image.new("RGB", (600, 600)).convert("I").convert(mode) if mode == "I;16" else Image.new(mode, (600, 600))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    with Image.open(BytesIO(thumbnails.thumbnail(buffer.getvalue()))) as small:
        assert (small.format, small.size) == ("JPEG", (512, 512))


def test_a_small_image_is_not_blown_up() -> None:
    """What is small stays as it is."""
    with Image.open(BytesIO(thumbnails.thumbnail(picture("PNG", (30, 20))))) as small:
        assert small.size == (30, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg/>",
        b"\x89PNG\r\n\x1a\n",
        picture("PNG")[:60],
        picture("JPEG")[:300],
        picture("PNG").replace(b"IDAT", b"IDOT"),
        picture("BMP"),
        picture("TIFF"),
        claiming(0, 0),
    ],
)
def test_what_is_broken_or_no_image_has_none(data: bytes) -> None:
    """A broken file, and a kind that no image model draws, has no thumbnail."""
    assert thumbnails.thumbnail(data) is None


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (65535, 65535), (12_000, 12_000), (8192, 8192)])
def test_what_says_that_it_is_huge_has_none(size: tuple[int, int]) -> None:
    """A header that claims more than any model draws is believed, and nothing is decoded."""
    assert thumbnails.thumbnail(claiming(*size)) is None


@pytest.mark.parametrize("size", [(65535, 65535), (12_000, 12_000), (8192, 8192)])
def test_a_size_that_is_said_twice(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where our reading of a header and Pillow's differ, the larger one counts."""
    monkeypatch.setattr(thumbnails, "measured", lambda data: (10, 10))
    assert thumbnails.thumbnail(claiming(*size)) is None
