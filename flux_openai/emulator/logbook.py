"""The journal on disk: a line of JSON for each request, to be read while the emulator runs."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from flux_openai.errors import ConfigurationError

__all__ = ["Entry", "Logbook", "line_of"]

_SIGNED = re.compile(r"""(https?://[^\s"'<>?]+)\?[^\s"'<>]*""", re.IGNORECASE)
_USER_INFO = re.compile(r"""(https?://)[^\s"'<>/@]+@""", re.IGNORECASE)
_DATA = re.compile(r"data:([\w/+.-]*)[;,]")
_LONGEST = 1000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One request and what became of it.

    `time` is in Unix seconds; `status` is 0 where nothing was sent back; `images_billed` counts this request alone, and
    `duplicate` says whether they had been billed before; `fault` is what was made to go wrong.
    """

    time: float
    number: int
    method: str
    path: str
    status: int
    body: dict[str, object] | None
    idempotency_key: str | None
    request_id: str
    images_billed: int
    duplicate: bool
    fault: str | None


def line_of(entry: Entry) -> str:
    """The entry as a line, with images in short and without what would open a link."""
    moment = datetime.fromtimestamp(entry.time, tz=UTC).isoformat(timespec="milliseconds")
    return json.dumps({**asdict(entry), "time": moment, "body": _short(entry.body)}) + "\n"


def _short(value: object) -> object:
    match value:
        case dict():
            return {name: _short(inner) for name, inner in value.items()}
        case list():
            return [_short(inner) for inner in value]
        case str():
            return _short_text(value)
        case _:
            return value


def _short_text(text: str) -> str:
    if data := _DATA.match(text):
        return f"<{data[1] or 'data'}, {len(text)} characters>"
    told = _USER_INFO.sub(r"\1", _SIGNED.sub(r"\1?[redacted]", text))
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}… <{len(text)} characters>"


class Logbook:
    """A file that only grows. Raises ConfigurationError if it cannot be written."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        try:
            self._append("")
        except OSError as error:
            raise ConfigurationError(f"cannot write the journal {str(path)!r}: {error.strerror}") from error

    def add(self, entry: Entry) -> None:
        """Write one line; whoever reads the file sees it whole."""
        self._append(line_of(entry))

    def _append(self, text: str) -> None:
        # Opened anew each time, so there is nothing to close, and the file may be moved away while the emulator runs.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)
