"""The journal on disk: a line of JSON for each request, to be read while the emulator runs."""

import json
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from flux_openai.errors import ConfigurationError

__all__ = ["Entry", "Logbook", "line_of"]

_log = logging.getLogger("flux_openai.emulator")

# Both read a letter once, however many links begin: whoever sends a request could stop the emulator otherwise.
_LINK = re.compile(r"""(https?:[\\/]+)([^\s"'<>]*)""", re.IGNORECASE)
_VALUE = re.compile(r"""([?&][\w.%~-]+=)[^&\s"'<>\[]+""")
_DATA = re.compile(r"data:([\w/+.-]*)[;,]")
_LONGEST = 1000
_DEEPEST = 50


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
    return json.dumps({**vars(entry), "time": moment, "body": _short(entry.body)}) + "\n"


def _short(value: object, depth: int = 0) -> object:
    if isinstance(value, dict | list) and depth == _DEEPEST:
        return "…"
    match value:
        case dict():
            return {_short_text(name): _short(inner, depth + 1) for name, inner in value.items()}
        case list():
            return [_short(inner, depth + 1) for inner in value]
        case str():
            return _short_text(value)
        case _:
            return value


def _short_text(text: str) -> str:
    if data := _DATA.match(text):
        return f"<{data[1] or 'data'}, {len(text)} characters>"
    told = _VALUE.sub(r"\1[redacted]", _LINK.sub(_bare, text))
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]}… <{len(text)} characters>"


def _bare(link: re.Match[str]) -> str:
    address, mark, _ = link[2].partition("?")
    host, slash, path = address.partition("/")
    return f"{link[1]}{host.rpartition('@')[2]}{slash}{path}{mark and '?[redacted]'}"


class Logbook:
    """A file that only grows. Raises ConfigurationError if it cannot be written; later that is an error in the log."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = Lock()
        try:
            self._append("")
        except OSError as error:
            raise ConfigurationError(f"cannot write the journal {str(path)!r}: {error.strerror}") from error

    def add(self, entry: Entry) -> None:
        """Write one line; whoever reads the file sees it whole."""
        try:
            self._append(line_of(entry))
        except OSError as error:
            # The order is on the bill already, and whoever sent it is owed the answer.
            _log.error("cannot write request %d to the journal %r: %s", entry.number, str(self._path), error.strerror)

    def _append(self, text: str) -> None:
        # Opened anew each time, so there is nothing to close, and the file may be moved away while the emulator runs.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(text)
