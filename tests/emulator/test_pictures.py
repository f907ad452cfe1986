"""The pictures: valid PNGs of exactly the asked ratio, the same for the same request."""

import math
import struct
import zlib
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator.api.pictures import PictureSpec, area_to_size, draw
from flux_openai.models import AspectRatio

Post = Callable[..., httpx.Response]
FOX = PictureSpec(prompt="a fox", seed=-1, index=0, width=64, height=48)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file as a strict decoder sees it."""

    width: int
    height: int
    colours: tuple[bytes, ...]
    rows: tuple[bytes, ...]


def chunks_of(png: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG by name, each checked against its sum."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, rest = {}, png[8:]
    while rest:
        (size,), name = struct.unpack(">I", rest[:4]), rest[4:8]
        content, check = rest[8 : 8 + size], rest[8 + size : 12 + size]
        assert check == struct.pack(">I", zlib.crc32(name + content))
        chunks[name], rest = content, rest[12 + size :]
    return chunks


def decode(png: bytes) -> Picture:
    """The picture in an unfiltered 8-bit palette PNG, checked for everything a viewer relies on."""
    chunks = chunks_of(png)
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (width + 1)
    assert set(raw[:: width + 1]) == {0}
    rows = tuple(raw[start + 1 : start + 1 + width] for start in range(0, len(raw), width + 1))
    palette = chunks[b"PLTE"]
    colours = tuple(palette[start : start + 3] for start in range(0, len(palette), 3))
    assert max(map(max, rows)) < len(colours)
    return Picture(width=width, height=height, colours=colours, rows=rows)


@pytest.mark.parametrize("pixels", [256, 2**20])
@pytest.mark.parametrize("ratio", get_args(AspectRatio))
def test_every_ratio_is_exact(ratio: str, pixels: int) -> None:
    """The picture is the largest of exactly this ratio within the area, and a valid PNG."""
    across, down = map(int, ratio.split(":"))
    width, height = area_to_size(pixels, ratio=(across, down))
    picture = decode(draw(replace(FOX, width=width, height=height)))
    assert (picture.width, picture.height) == (width, height)
    assert width * down == height * across
    assert width * height <= pixels < (width + across) * (height + down)


@pytest.mark.parametrize("ratio", get_args(AspectRatio))
def test_an_order_is_drawn_in_its_ratio(post: Post, ratio: str) -> None:
    """The picture in the answer has the ratio of the request."""
    (image,) = post(aspect_ratio=ratio, response_format="b64_json").json()["data"]
    picture = decode(b64decode(image["b64_json"].partition(",")[2], validate=True))
    across, down = map(int, ratio.split(":"))
    assert picture.width * down == picture.height * across


def test_a_picture_is_never_smaller_than_its_ratio() -> None:
    """Even for an area of one pixel, the ratio itself is the size."""
    assert area_to_size(1, ratio=(21, 9)) == (21, 9)
    assert area_to_size(1, ratio=(1, 1)) == (1, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 5), (1, 500)])
def test_the_smallest_pictures_are_valid(size: tuple[int, int]) -> None:
    """No size is too small or too narrow to be drawn."""
    picture = decode(draw(replace(FOX, width=size[0], height=size[1])))
    assert (picture.width, picture.height) == size


@pytest.mark.parametrize("ratio", get_args(AspectRatio))
def test_tiny_pictures_have_tiny_files(ratio: str) -> None:
    """With 256 pixels no file has more than 400 bytes, so that a recording stays small."""
    across, down = map(int, ratio.split(":"))
    width, height = area_to_size(256, ratio=(across, down))
    sizes = [len(draw(replace(FOX, width=width, height=height, seed=seed))) for seed in range(50)]
    assert max(sizes) <= 400


def test_a_picture_is_drawn_the_same_each_time() -> None:
    """The same specification gives the same bytes."""
    assert draw(FOX) == draw(replace(FOX))


def test_prompt_seed_and_index_all_change_the_picture() -> None:
    """Two pictures that differ in any of the three differ in their bytes, down to 16 by 16 pixels."""
    pictures = {
        draw(PictureSpec(prompt=prompt, seed=seed, index=index, width=16, height=16))
        for prompt in ("a fox", "a fox ", "1:a fox")
        for seed in range(-1, 9)
        for index in range(4)
    }
    assert len(pictures) == 3 * 10 * 4


@pytest.mark.parametrize("size", [(64, 48), (63, 47), (21, 9)])
def test_pictures_are_symmetric(size: tuple[int, int]) -> None:
    """Left mirrors right and top mirrors bottom."""
    rows = decode(draw(replace(FOX, width=size[0], height=size[1]))).rows
    assert rows == rows[::-1]
    assert all(row == row[::-1] for row in rows)


def test_pictures_are_not_plain() -> None:
    """A picture uses at least three of its five colours, which all differ, and none on more than nine tenths."""
    for seed in range(20):
        picture = decode(draw(replace(FOX, seed=seed, width=300, height=300)))
        counts = [sum(row.count(colour) for row in picture.rows) for colour in range(5)]
        assert len(set(picture.colours)) == 5
        assert sum(count > 0 for count in counts) >= 3
        assert max(counts) < 0.9 * sum(counts)


def test_a_seed_repeats_a_picture_and_none_draws_a_new_one(post: Post) -> None:
    """Two calls with one seed give one picture; left out or -1, the seed is another in each call."""
    pictures = [
        post(seed=seed, response_format="b64_json").json()["data"][0]["b64_json"] for seed in (7, 7, None, None, -1, -1)
    ]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 5


def test_the_pictures_of_one_order_differ(post: Post) -> None:
    """Four pictures are four different pictures, and the first is the one that n=1 gives."""
    four = [image["b64_json"] for image in post(n=4, seed=7, response_format="b64_json").json()["data"]]
    assert len(set(four)) == 4
    assert four[0] == post(seed=7, response_format="b64_json").json()["data"][0]["b64_json"]


def test_the_area_is_close_to_what_was_asked() -> None:
    """In every ratio, the largest exact size has more than 95 % of a megapixel."""
    for ratio in get_args(AspectRatio):
        across, down = map(int, ratio.split(":"))
        assert math.prod(area_to_size(2**20, ratio=(across, down))) > 0.95 * 2**20
