"""What a batch leaves beside its images: `manifest.jsonl`, `errors.jsonl`, `report.json`; and the check of its files.

All are written anew from the ledger, in the order of its rows, each in one step.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import file_digest
from heapq import merge
from os import PathLike, walk
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flux_openai._http.redaction import redact_value, scrub
from flux_openai.batch.ledger import BatchItem, State
from flux_openai.models import FLUX_MODELS, Price
from flux_openai.request.model_choice import IMAGE_NAMES
from flux_openai.response.file_names import SIDECAR
from flux_openai.response.files import replacing
from flux_openai.response.metadata import library

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "ANSWERS",
    "IMAGES",
    "ItemSource",
    "Verification",
    "as_json",
    "in_order",
    "shown_params",
    "verify",
    "write_reports",
]

IMAGES = "images"
"""The folder of the images, in the folder of the batch."""

ANSWERS = "answers"
"""The folder of answers that were, or may have been, paid for, and that cannot be used."""

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_NUMBERED = re.compile(r"0*([0-9]+)[-_]")


class ItemSource(Protocol):
    """Where the rows of a batch come from: a `Ledger`."""

    def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
        """The rows in these states, or all rows, by `seq`."""


def in_order(ledgers: Iterable[ItemSource], *states: State) -> Iterator[BatchItem]:
    """The rows of all ledgers by `seq`, which are numbers of one count if there are several; none is kept in memory."""
    return merge(*(ledger.items(*states) for ledger in ledgers), key=lambda item: item.seq)


def as_json(value: object) -> str:
    """JSON on one line; also for readers that take U+2028 for the end of one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return _LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", text)


def _plain(value: object) -> object:
    if isinstance(value, Price | Decimal | PathLike):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]  # or a TypeError


def shown_params(item: BatchItem) -> dict[str, object]:
    """The parameters of a row by name, the prompt first: without signatures of links and without the bytes of images.

    Options that the model is not known to take may hold anything, and are left out.
    """
    known = FLUX_MODELS[item.model].fields if item.model in FLUX_MODELS else {}
    shown = {"prompt": item.params["prompt"]} if "prompt" in item.params else {}
    for name, value in item.params.items():
        if name in IMAGE_NAMES:
            shown[name] = _shown_images(value)
        elif name in known:
            shown[name] = value
    return shown


def _shown_images(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_shown_images(image) for image in value]
    return str(redact_value(value)) if isinstance(value, str) and value.startswith("data:") else scrub(str(value))


def write_reports(ledgers: Iterable[ItemSource], folder: str | PathLike[str], report: "DataclassInstance") -> None:
    """Write the three files into the folder of a batch.

    Args:
        ledgers: The ledger, or those of all shards.
        folder: The folder of the batch.
        report: What the run did; its fields become those of `report.json`.

    Raises:
        SaveError: A file cannot be written; the old one stays.
    """
    ledgers, folder = tuple(ledgers), Path(folder)
    for name, states, record in (
        ("manifest.jsonl", (State.DONE,), _made),
        ("errors.jsonl", (State.FAILED, State.HELD, State.SENT), _failed),
    ):
        with replacing(folder / name) as file:
            for item in in_order(ledgers, *states):
                file.write(_encoded(as_json(record(item)) + "\n"))
    summary = {"library": library(), "written": datetime.now(UTC), **_named(report)}
    with replacing(folder / "report.json") as file:
        file.write(_encoded(json.dumps(summary, ensure_ascii=False, indent=2, default=_plain) + "\n"))


def _named(report: "DataclassInstance") -> dict[str, object]:
    return {field.name: getattr(report, field.name) for field in fields(report)}


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # half of a surrogate pair becomes the escape that JSON has for it


def _row(item: BatchItem) -> dict[str, object]:
    return {"row": item.seq, "custom_id": item.custom_id, "model": item.model, "params": shown_params(item)}


def _made(item: BatchItem) -> Mapping[str, object]:
    return {
        **_row(item),
        "seed": item.params.get("seed"),
        "files": item.files,
        "missing": item.missing,
        "request_id": item.request_id,
        "created": item.created,
        "cost": item.cost,
        "attempts": item.attempts,
    }


def _failed(item: BatchItem) -> Mapping[str, object]:
    return {
        **_row(item),
        "where": item.where,
        "state": item.state,
        "error": item.error,
        "request_id": item.request_id,
        "attempts": item.attempts,
    }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the check of a batch's files found; paths are from the folder of the batch, with slashes.

    Attributes:
        files: How many files there must be.
        missing: Those that are not there or cannot be read.
        changed: Those whose SHA-256 is another one.
        strays: Files in the folder of the images that belong to no row.
    """

    files: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    strays: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as the ledger says."""
        return not (self.missing or self.changed or self.strays)


def verify(ledgers: Iterable[ItemSource], folder: str | PathLike[str]) -> Verification:
    """Compare the files of a batch with its ledger: each image is read.

    Args:
        ledgers: The ledger, or those of all shards.
        folder: The folder of the batch.
    """
    ledgers, folder = tuple(ledgers), Path(folder)
    count, missing, changed = 0, [], []
    with closing(sqlite3.connect("")) as known:  # on disk if it gets large, and removed at the end
        known.execute("CREATE TABLE file (path TEXT PRIMARY KEY) WITHOUT ROWID")
        for item in in_order(ledgers):
            for saved in item.files:
                count += 1
                known.execute("INSERT OR IGNORE INTO file VALUES (?)", (saved.path,))
                digest = _digest(folder / saved.path)
                if digest is None:
                    missing.append(saved.path)
                elif digest != saved.sha256:
                    changed.append(saved.path)
        # Of a row that was answered, some images may be saved already; the next run saves them all.
        unfinished = {item.seq for item in in_order(ledgers, State.SENT, State.ANSWERED)}
        strays = [path for path in _image_files(folder) if not _belongs(path, known, unfinished)]
    return Verification(files=count, missing=tuple(missing), changed=tuple(changed), strays=tuple(sorted(strays)))


def _digest(place: Path) -> str | None:
    try:
        with place.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _image_files(folder: Path) -> Iterator[str]:
    for place, _, names in walk(folder / IMAGES):
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in names)


def _belongs(path: str, known: sqlite3.Connection, unfinished: set[int]) -> bool:
    beginning, end = (path[: -len(SIDECAR)] + ".", SIDECAR) if path.endswith(SIDECAR) else (path, "")
    query = "SELECT 1 FROM file WHERE path >= ? AND path < ?" if end else "SELECT 1 FROM file WHERE path = ?"
    values = (beginning, beginning[:-1] + "/") if end else (path,)
    if known.execute(query, values).fetchone() is not None:
        return True
    number = _NUMBERED.match(path.rpartition("/")[2])
    return number is not None and int(number[1]) in unfinished
