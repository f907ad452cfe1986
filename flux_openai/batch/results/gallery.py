"""The gallery of a batch: `gallery/index.html`, which opens from disk, without a network, and with any number of rows.

The page is `gallery.html`. Its data are scripts, since a page that was opened from disk may load those and may not
fetch anything; it loads the few that it shows:

    rows-00000.js    the rows, 250 in each
    search-00000.js  the text of 10,000 rows, for the search
    facets.js        three letters for each row: its state, its model and why it failed, for the filters
    sweeps.js        which rows are a sweep

The images are those of the batch, loaded when they come into view: thumbnails of 100,000 images would take an hour.
"""

import base64
import re
import secrets
import shutil
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO

from flux_openai.batch.ledger import BatchItem, RowError, State
from flux_openai.batch.results.reports import ItemSource, as_json, in_order, shown_params
from flux_openai.request.model_choice import IMAGE_NAMES
from flux_openai.response.files import replacing, saving
from flux_openai.response.metadata import library

__all__ = ["write_gallery"]

_PAGE = 250
"""Rows in a file of rows. What a search finds lies far apart: each row that is shown may be the reading of a file."""

_CHUNK = 40 * _PAGE
"""Rows in a file of text; that much text is in memory while the gallery is written."""

_LETTERS = string.digits + string.ascii_letters
_NO_REASON = "-"
_STATES: Mapping[State, str] = {state: state.value[0] for state in State}
_SAFE_INTEGER = 2**53 - 1
_DATA = re.compile(r"data-[0-9a-f]{8}")


@dataclass(kw_only=True)
class _Summary:
    """What the page knows of all rows; it does not grow with their number."""

    rows: int = 0
    images: int = 0
    sweeps: int = 0
    is_one_sweep: bool = False
    states: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    costs: Counter[str] = field(default_factory=Counter)

    def facet(self, item: BatchItem) -> str:
        """Count a row, and return its three letters."""
        self.rows += 1
        self.images += len(item.files)
        self.states[_STATES[item.state]] += 1
        if item.cost is not None and _is_paid(item):
            self.costs[item.cost.currency] += item.cost.amount  # type: ignore[assignment]  # a Counter adds Decimals too
        error = _error(item)
        reason = _NO_REASON if error is None else _letter(self.reasons, (error.code or error.type)[:60])
        return _STATES[item.state] + _letter(self.models, item.model) + reason


def _letter(seen: Counter[str], name: str) -> str:
    """The letter of a name, by the order in which the names came; the last letter is that of all further ones."""
    if name not in seen and len(seen) >= len(_LETTERS) - 1:
        name = "other"
    seen[name] += 1
    return _LETTERS[list(seen).index(name)]


def _is_paid(item: BatchItem) -> bool:
    """Whether the images of a row are surely paid for; the cost of others is what they may have cost."""
    if item.state is State.FAILED:
        return item.error is not None and item.error.billing == "paid"
    return item.state in (State.DONE, State.ANSWERED)


def _error(item: BatchItem) -> RowError | None:
    """Why a row is not done; that an earlier attempt failed is of no interest once it is."""
    return None if item.state is State.DONE else item.error


def write_gallery(ledgers: Iterable[ItemSource], folder: str | PathLike[str]) -> Path:
    """Write the gallery of a batch into its folder, and return the page to open.

    Args:
        ledgers: The ledger, or those of all shards.
        folder: The folder of the batch.

    Raises:
        SaveError: A file cannot be written; the old gallery stays.
    """
    folder = Path(folder)
    gallery = folder / "gallery"
    data = gallery / f"data-{secrets.token_hex(4)}"
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, data, ignore_errors=True)
        with saving(data):
            data.mkdir(parents=True)
            summary = _write_data(in_order(ledgers), data)
        with replacing(gallery / "index.html") as file:
            file.write(_page(summary, title=folder.resolve().name, data=data.name))
        undo.pop_all()
    for old in gallery.iterdir():
        if _DATA.fullmatch(old.name) and old != data:
            shutil.rmtree(old, ignore_errors=True)
    return gallery / "index.html"


def _write_data(items: Iterator[BatchItem], data: Path) -> _Summary:
    """Write the scripts that hold the data, and return what they sum up to."""
    summary, sweeps, texts = _Summary(), _Sweeps(), list[str]()
    with (data / "facets.js").open("wb") as facets, (data / "sweeps.js").open("wb") as sweep_file:
        facets.write(b'F("')
        sweep_file.write(b"S([")
        while rows := list(islice(items, _PAGE)):
            page, records = summary.rows // _PAGE, []
            for item in rows:
                facet = summary.facet(item)
                facets.write(facet.encode())
                records.append(_record(item, facet, sweeps.add(item, into=sweep_file)))
            (data / f"rows-{page:05}.js").write_bytes(_script("G", page, records))
            texts += map(_searched, rows)
            if len(texts) == _CHUNK:
                _write_texts(texts, summary.rows, data)
        if texts:
            _write_texts(texts, summary.rows, data)
        facets.write(b'")')
        sweeps.end(into=sweep_file)
        sweep_file.write(b"])")
    summary.sweeps = sweeps.count
    summary.is_one_sweep = sweeps.count == 1 and sweeps.rows == summary.rows
    return summary


def _write_texts(texts: list[str], rows: int, data: Path) -> None:
    """Write the text of the last rows, and forget it."""
    number = (rows - 1) // _CHUNK
    (data / f"search-{number:05}.js").write_bytes(_script("X", number, "\n".join(texts)))
    texts.clear()


def _record(item: BatchItem, facet: str, axes: "_Axes | None") -> Mapping[str, object]:
    """One row as the page has it; what is left out is empty."""
    everything: dict[str, object] = {
        "i": item.custom_id,
        "s": facet[0],
        "m": _LETTERS.index(facet[1]),
        "p": {name: _for_script(name, value, item) for name, value in shown_params(item).items()},
        "f": [[file.path, file.width, file.height] for file in item.files],
        "x": None if axes is None else axes.values,
        "e": _error(item),
        "k": item.missing,
        "c": item.cost,
        "t": item.created,
        "r": item.request_id,
        "a": item.attempts,
        "w": item.where,
    }
    return {name: value for name, value in everything.items() if value or name in "fmp"}


def _for_script(name: str, value: object, item: BatchItem) -> object:
    """A parameter as the page has it: an image that is not shown as it was given is null, for a placeholder."""
    if name in IMAGE_NAMES:
        given = item.params[name]
        if isinstance(value, list) and isinstance(given, list | tuple):
            return [new if new == old else None for new, old in zip(value, given, strict=True)]
        return value if value == given else None
    # JavaScript would round it, and the seed would be another one.
    return str(value) if isinstance(value, int) and abs(value) > _SAFE_INTEGER else value


def _searched(item: BatchItem) -> str:
    """The text in which a row is found, on one line."""
    params = shown_params(item)
    error = _error(item)
    words = [item.custom_id, str(params.pop("prompt", "")), *(f"{name}={value}" for name, value in params.items())]
    words += [item.model, item.request_id or ""]
    words += [] if error is None else [error.message, error.type, error.code or "", str(error.status or "")]
    return " ".join(unicodedata.normalize("NFKC", " ".join(words)).lower().split())


# ---- Sweeps: rows whose ids have the same base, and end in `/seed=1/guidance_scale=2`


@dataclass(frozen=True, kw_only=True)
class _Axes:
    base: str
    names: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def of(cls, item: BatchItem) -> "_Axes | None":
        """The axes in the id of a row; None if it is of no sweep."""
        base, names, values = item.custom_id, list[str](), list[str]()
        while "=" in base:
            rest, _, end = base.rpartition("/")
            name, equals, value = end.partition("=")
            if not (rest and equals and name.isidentifier()) or name in names:
                break
            base, names, values = rest, [name, *names], [value, *values]
        return cls(base=base, names=tuple(names), values=tuple(values)) if names else None


@dataclass(kw_only=True)
class _Sweeps:
    """Finds sweeps among rows that come in order: the rows of one follow one another."""

    count: int = 0
    rows: int = 0
    _row: int = 0
    _first: int = 0
    _open: _Axes | None = None

    def add(self, item: BatchItem, *, into: IO[bytes]) -> _Axes | None:
        """Take the next row, and return its axes."""
        axes = _Axes.of(item)
        if self._open is None or axes is None or (axes.base, axes.names) != (self._open.base, self._open.names):
            self.end(into=into)
            self._open, self._first = axes, self._row
        self._row += 1
        return axes

    def end(self, *, into: IO[bytes]) -> None:
        """Write the sweep that ends here; a single row is none."""
        length = self._row - self._first
        if self._open is not None and length > 1:
            into.write(b",\n" if self.count else b"")
            into.write(_encoded([self._open.base, self._open.names, self._first, length]))
            self.count += 1
            self.rows += length
        self._open = None


# ---- The page


def _script(function: str, number: int, value: object) -> bytes:
    return b"%s(%d,%s)" % (function.encode(), number, _encoded(value))


def _encoded(value: object) -> bytes:
    """JSON that is safe in a script and in HTML: it cannot end either."""
    text = as_json(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text.encode("utf-8", "backslashreplace")


def _page(summary: _Summary, *, title: str, data: str) -> bytes:
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    meta = {
        "title": title,
        "data": data,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "library": library(),
        "rows": summary.rows,
        "total": summary.images,
        "sweeps": summary.sweeps,
        "one": summary.is_one_sweep,
        "states": summary.states,
        "models": [*summary.models],
        "reasons": [*summary.reasons.items()],
        "cost": [f"{amount:f} {currency}" for currency, amount in summary.costs.items()],
        "page": _PAGE,
        "chunk": _CHUNK,
        "letters": _LETTERS,
        "images": sorted(IMAGE_NAMES),
    }
    # The policy allows exactly the style and the script of this page, and scripts from the folder beside it.
    for name in ("style", "script"):
        content = template.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
        digest = base64.b64encode(sha256(content.encode()).digest()).decode()
        template = template.replace(f"{{{{{name}}}}}", f"sha256-{digest}")
    return template.replace("{{meta}}", _encoded(meta).decode()).encode()
