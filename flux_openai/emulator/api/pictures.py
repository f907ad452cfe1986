"""The pictures of the emulator: a four-fold symmetric pattern of quarter discs and triangles, derived from a hash.

They are palette PNGs. Only one quarter is composed, row by row from runs of bytes, and then mirrored: a megapixel takes
milliseconds.
"""

import colorsys
import math
import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["PictureSpec", "area_to_size", "draw"]


@dataclass(frozen=True, kw_only=True)
class PictureSpec:
    """The input of a picture: equal specs give equal pictures.

    `index` is its position in the answer. `source_digest` is a hash of the images that the request starts from, or
    empty. `width` and `height` are in pixels.
    """

    prompt: str
    source_digest: str = ""
    seed: int
    index: int
    width: int
    height: int


def area_to_size(pixels: int, *, ratio: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) of exactly this ratio within an area, but at least the ratio itself."""
    width, height = ratio
    scale = max(1, math.isqrt(pixels // (width * height)))
    return scale * width, scale * height


def draw(spec: PictureSpec) -> bytes:
    """The picture as a PNG file."""
    text = f"{spec.seed}:{spec.index}:{spec.source_digest}{spec.prompt}"
    # A JSON string can hold a lone surrogate, which strict UTF-8 cannot encode.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    rows = _quilt(digest, width=spec.width, height=spec.height)
    return _png(rows, width=spec.width, height=spec.height, palette=_palette(digest))


def _palette(digest: bytes) -> bytes:
    """Five RGB colours: paper, ink, two neighbouring hues and their opposite."""
    hue = int.from_bytes(digest[:2]) / 2**16
    lift = digest[2] / 2**12
    shades = ((0, 0.90, 0.55), (0.02, 0.22, 0.45), (0.07, 0.56, 0.62), (-0.07, 0.40, 0.50), (0.48, 0.60, 0.75))
    colours = (colorsys.hls_to_rgb((hue + turn) % 1, light + lift, depth) for turn, light, depth in shades)
    return bytes(round(255 * part) for colour in colours for part in colour)


def _quilt(digest: bytes, *, width: int, height: int) -> list[bytes]:
    half_width, half_height = -(-width // 2), -(-height // 2)
    side = max(1, -(-min(half_width, half_height) // 3))
    top = [
        row[-half_width:]
        for line in range(-(-half_height // side))
        for row in _strip(digest, line=line, side=side, count=-(-half_width // side))
    ][-half_height:]
    mirrored = [row + row[::-1][width % 2 :] for row in top]
    return mirrored + mirrored[::-1][height % 2 :]


def _strip(digest: bytes, *, line: int, side: int, count: int) -> list[bytes]:
    tiles = [
        _tile(blake2b(b"%d:%d" % (line, column), key=digest, digest_size=8).digest(), side) for column in range(count)
    ]
    return [b"".join(parts) for parts in zip(*tiles, strict=True)]


def _tile(dice: bytes, side: int) -> list[bytes]:
    """A square tile as rows of palette indices: a shape in one corner, with a smaller one inside it."""
    paper, shape, core = dice[0] % 5, (dice[0] + 1 + dice[1] % 4) % 5, dice[2] % 5
    reach = _disc if dice[3] % 4 else _wedge
    rows = []
    for y in range(side):
        outer, inner = reach(side, y), reach(side // 2, y)
        rows.append(bytes((core,)) * inner + bytes((shape,)) * (outer - inner) + bytes((paper,)) * (side - outer))
    rows = [row[::-1] for row in rows] if dice[4] % 2 else rows
    return rows[::-1] if dice[5] % 2 else rows


def _disc(radius: int, y: int) -> int:
    return math.isqrt(radius * radius - y * y) if y < radius else 0


def _wedge(radius: int, y: int) -> int:
    return max(0, radius - y)


def _png(rows: list[bytes], *, width: int, height: int, palette: bytes) -> bytes:
    unfiltered = b"\0" + b"\0".join(rows)
    # The rows are mostly runs of one byte: with run-length encoding alone, zlib is five times as fast.
    packer = zlib.compressobj(strategy=zlib.Z_RLE)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"IDAT", packer.compress(unfiltered) + packer.flush()),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
