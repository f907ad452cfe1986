"""File names of images: from the prompt, safe on every system; and which path means a file, and which a folder."""

import os
import re
import sys
import unicodedata
from pathlib import Path

from flux_openai.errors import SaveError

__all__ = [
    "EXTENSIONS",
    "SIDECAR",
    "UNKNOWN_EXTENSION",
    "names_a_file",
    "numbered",
    "place_of",
    "safe_stem",
    "stem",
    "target",
]

UNKNOWN_EXTENSION = ".bin"
"""The extension of bytes of no known image type."""

_EXTENSIONS = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp", ".gif": ".gif"}
"""Extensions that make a path the name of a file, and how `ImageType.extension` spells each."""

EXTENSIONS = frozenset({*_EXTENSIONS.values(), UNKNOWN_EXTENSION})
"""The extensions that a saved image can have."""

SIDECAR = ".json"
"""The extension of the file beside an image that says how to make it again."""

# Characters and bytes of UTF-8. With seed, index, number and extension a name has at most 200 bytes: file systems allow
# 255, some encrypted ones fewer.
_PROMPT_LENGTH, _PROMPT_SIZE = 60, 150
_STEM_LENGTH, _STEM_SIZE = 120, 180
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|conin|conout|(com|lpt)[0-9])")

# Letters and marks that Unicode calls default-ignorable: they are drawn as nothing.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def safe_stem(text: str, *, limit: int = _PROMPT_LENGTH, size: int = _PROMPT_SIZE) -> str:
    """A file name without extension, made from any text: letters, digits and marks of every script, "-" and "_".

    It is legal on every system, and has at most `limit` characters and `size` bytes of UTF-8.
    """
    text = text.strip()[: 20 * limit]  # a prompt may be much longer than any name
    name = re.sub(r"[^A-Za-z0-9_]+", "-", text) if text.isascii() else _words(text)
    name = _beginning(name.lstrip("-_"), limit, size).rstrip("-_")
    # Windows opens a device for these names, whatever the extension.
    return f"image-{name}" if _RESERVED.fullmatch(name) else name or "image"


def _words(text: str) -> str:
    """The words of a text, in the compatible form of their letters (NFKC), joined by dashes."""
    # Marks of direction and joiners (Cf) stand inside of words.
    visible = [char for char in _INVISIBLE.sub("", text) if unicodedata.category(char) != "Cf"]
    kept: list[str] = []
    for char in unicodedata.normalize("NFKC", "".join(visible)):
        kind = unicodedata.category(char)[0]
        if kind in "LN" or char == "_" or (kind == "M" and kept and kept[-1] not in "-_"):
            kept.append(char)
        elif kept and kept[-1] != "-":
            kept.append("-")
    encoding = sys.getfilesystemencoding()  # not UTF-8 in some old locales
    return "".join(kept).encode(encoding, "ignore").decode(encoding)


def _beginning(name: str, limit: int, size: int) -> str:
    """The beginning of a name, cut between two letters: a letter without its marks would be another one."""
    end = len(name[:limit].encode()[:size].decode(errors="ignore"))
    while 0 < end < len(name) and unicodedata.category(name[end])[0] == "M":
        end -= 1
    return name[:end]


def stem(prompt: str | None, *, seed: int | None, index: int) -> str:
    """The file name of an image without extension, such as "a-red-fox_seed7_0"; a seed below 0 means a random one."""
    seeded = [] if seed is None or seed < 0 else [f"seed{seed}"]
    return "_".join([safe_stem((prompt or "").lower()), *seeded, str(index)])


def target(path: str | os.PathLike[str], *, stem: str, extension: str) -> Path:
    """The file for a path: the path with the right extension if it names an image, else a file in that folder."""
    wanted = place_of(path)
    if not names_a_file(path):
        return wanted / f"{safe_stem(stem, limit=_STEM_LENGTH, size=_STEM_SIZE)}{extension}"
    known = _EXTENSIONS[wanted.suffix.lower()]
    return wanted if known == extension else wanted.with_suffix(extension)


def place_of(path: str | os.PathLike[str]) -> Path:
    """The path with "~" replaced by the home folder. Raises SaveError."""
    if not isinstance(path, str | os.PathLike):
        raise SaveError(f"cannot write the image to {path!r}: {type(path).__name__} is not a path")
    try:
        # `Path.expanduser` would raise RuntimeError for a user who does not exist; here the name stays as it is.
        return Path(os.path.expanduser(path))  # noqa: PTH111
    except (TypeError, ValueError) as cause:
        raise SaveError(f"cannot write the image: this {type(path).__name__} is not a path") from cause


def names_a_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the name of a file: it ends in an image extension, and not in a separator."""
    return place_of(path).suffix.lower() in _EXTENSIONS and not os.fspath(path).endswith(("/", os.sep))


def numbered(path: str | os.PathLike[str], index: int) -> str | os.PathLike[str]:
    """The path for one of several images: a file name gets the index ("fox_0.png"), a folder stays as it is."""
    place = place_of(path)
    return place.with_stem(f"{place.stem}_{index}") if names_a_file(path) else path
