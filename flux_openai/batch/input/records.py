"""Records: what stands on each line of a file of rows, whatever its format.

    open_source(path or "-", format)    a regular file, or the copy of a stream in a temporary file; .gz is unpacked
      for record in source.records():   first the names of the columns, where the format has such; then one by one
        record.values                   the JSON of the line, or the cells by column, each of its parameter's type
        record.faults                   in place of values that cannot be read: the lines after it are still read

A file is read as a stream: memory does not grow with its length.
"""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast, get_args

from flux_openai.errors import ConfigurationError, InvalidParam, listed
from flux_openai.models import FLUX_MODELS, FluxField
from flux_openai.request.model_choice import IMAGE_NAMES

__all__ = ["Format", "Record", "Source", "open_source", "range_of_text", "value_of_text"]

Format = Literal["jsonl", "csv", "tsv", "txt", "parquet"]
"""The formats of a file of rows. In a TXT file each line is a prompt."""

_ENDINGS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_LINE_LIMIT = 64 * 1024 * 1024
"""The longest line in bytes: it is held in memory, and 32 MiB of images as base64 fit."""
_GZIP = b"\x1f\x8b"
_OTHER_FILES: Mapping[bytes, str] = {
    b"PK\x03\x04": "is a spreadsheet or a zip archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "is an old spreadsheet; save it as CSV",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; unpack it, or pack it with gzip",
    _GZIP: "is packed with gzip twice; unpack it once",
    b"BZh": "is packed with bzip2; unpack it, or pack it with gzip",
    b"\xfd7zXZ": "is packed with xz; unpack it, or pack it with gzip",
    b"SQLite format 3": "is a database; a batch reads JSONL, CSV, TSV, TXT or Parquet",
}
"""How files begin that are no rows, and what to do with them."""
_BOM = b"\xef\xbb\xbf"
_JSON = re.compile(rb'\s*(\{|\[\s*([{"\[]|$))')
"""How JSON begins, and not a prompt such as "[oil] a fox"."""


class Record(NamedTuple):
    """One record of a file; a tuple, because a million of them are made.

    Attributes:
        number: Its number, from 1; 0 for the names of the columns.
        where: Where it stands, such as "line 17".
        values: What it contains: a mapping of columns to values, unless the line is other JSON.
        faults: Why it cannot be read; empty if it can.
    """

    number: int
    where: str
    values: object = None
    faults: tuple[InvalidParam, ...] = ()


class Source:
    """A file of records."""

    def __init__(self, file: IO[bytes], *, name: str, folder: str, format: Format | None, ending: str | None) -> None:
        """Made by `open_source`."""
        self.name, self.folder, self._file = name, folder, file
        self._stream = cast("IO[bytes]", io.BufferedReader(gzip.GzipFile(fileobj=file))) if self._packed else file
        self._before = os.fstat(file.fileno())
        self.format = self._checked_format(format, ending)

    @property
    def _packed(self) -> bool:
        self._file.seek(0)
        start = self._read(lambda: self._file.read(2), "at its start")
        self._file.seek(0)
        if self.name.lower().endswith(".gz") and start and start != _GZIP:
            raise self._error("ends in .gz, and is not packed with gzip")
        return start == _GZIP

    def _error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"the input {self.name!r} {text}")

    def _checked_format(self, format: Format | None, ending: str | None) -> Format:
        start = self._read(lambda: self._stream.read(4096), "at its start")
        self._stream.seek(0)
        problem = next((text for magic, text in _OTHER_FILES.items() if start.startswith(magic)), None)
        if problem is not None:
            raise self._error(problem)
        parquet = start.startswith(b"PAR1")
        if parquet and self._stream is not self._file:
            raise self._error("is a Parquet file inside of gzip, which has its own compression; unpack it")
        if format is None:
            format = _ENDINGS.get(ending or "") or ("parquet" if parquet else None)
        if format is None and ending is None:
            format = _format_of(start.removeprefix(_BOM))
        if format is None:
            rule = f"must end in one of {listed(_ENDINGS)}, also with .gz behind it, or say its format"
            raise ConfigurationError.of(InvalidParam(param="rows", value=self.name, rule=rule))
        if parquet != (format == "parquet") and start:
            raise self._error(f"is {'a' if parquet else 'no'} Parquet file, and its format is {format!r}")
        if format == "jsonl":
            self._check_lines(start.removeprefix(_BOM).lstrip())
        return format

    def _check_lines(self, start: bytes) -> None:
        """Refuse a JSON document of several lines: each line of it would be a fault of its own."""
        if start.startswith(b"["):
            raise self._error("is one JSON array; write one object on each line, as `jq -c '.[]'` does")
        if start.split(b"\n", 1)[0].strip() == b"{":
            raise self._error("has objects of several lines; write one object on each line, as `jq -c .` does")

    def _read(self, read: Callable[[], bytes], where: str) -> bytes:
        try:
            return read()
        except (EOFError, zlib.error, OSError) as error:
            broken = not isinstance(error, OSError) or isinstance(error, gzip.BadGzipFile)
            reason = f"it is cut off or damaged ({error})" if broken else error
            raise self._error(f"cannot be read {where}: {reason}") from None

    def digest(self) -> str:
        """The SHA-256 of the file."""
        self._file.seek(0)
        digest = hashlib.sha256()
        while some := self._read(lambda: self._file.read(1024 * 1024), "to its end"):
            digest.update(some)
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._file.close()

    def records(self) -> Iterator[Record]:
        """The records, from the start of the file.

        Raises:
            ConfigurationError: The file cannot be read to its end, has no record, or changed while it was read.
        """
        self._file.seek(0)
        self._stream.seek(0)
        number = 0
        for record in self._records():
            number = record.number
            yield record
        if number == 0:
            raise self._error("has no rows")
        after = os.fstat(self._file.fileno())
        if (after.st_size, after.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
            raise self._error("changed while it was read")

    def _records(self) -> Iterator[Record]:
        match self.format:
            case "jsonl":
                return self._from_lines(_json_of)
            case "txt":
                return self._from_lines(lambda line: {"prompt": line})
            case "parquet":
                return self._from_parquet()
            case "csv" | "tsv":
                return self._from_table("," if self.format == "csv" else "\t")

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """The lines with their numbers; None for one that is too long."""
        number = 0
        while line := self._read(lambda: self._stream.readline(_LINE_LIMIT), f"after line {number}"):
            number += 1
            if len(line) < _LINE_LIMIT or line.endswith(b"\n"):
                yield number, line.removeprefix(_BOM) if number == 1 else line
                continue
            while line and not line.endswith(b"\n"):
                line = self._read(lambda: self._stream.readline(_LINE_LIMIT), f"in line {number}")
            yield number, None

    def _from_lines(self, values_of: Callable[[str], object]) -> Iterator[Record]:
        count = 0
        for number, line in self._lines():
            if line is not None and not line.strip():
                continue
            count, where = count + 1, f"line {number}"
            try:
                yield Record(number=count, where=where, values=values_of(_text_of(line).rstrip("\r\n")))
            except ValueError as problem:
                yield Record(number=count, where=where, faults=(_row_fault(line, str(problem)),))

    def _from_table(self, delimiter: str) -> Iterator[Record]:
        problems = list[str]()
        start, beginning = 1, b""

        def lines() -> Iterator[str]:
            nonlocal beginning
            for number, line in self._lines():
                beginning = line or b"" if number == start else beginning
                try:
                    yield _text_of(line)
                except ValueError as problem:
                    problems.append(f"line {number} {problem}" if line is not None else str(problem))
                    yield (line or b"\n").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")

        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        columns: list[str] | None = None
        types = list[Callable[[str], object]]()
        count = 0
        while True:
            start = reader.line_num + 1
            where = f"line {start}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if columns is None:
                    raise self._error(f"has no line with the names of the columns: {_csv_problem(error)}") from None
                count += 1
                yield Record(number=count, where=where, faults=(_row_fault(beginning, _csv_problem(error)),))
                problems.clear()
                continue
            if not any(map(str.strip, cells)):
                continue
            if columns is None:
                columns = self._columns([cell.strip() for cell in cells], problems)
                types = [_READERS.get(name, _as_it_is) for name in columns]
                yield Record(number=0, where=where, values=columns)
                continue
            count += 1
            if not problems and len(cells) != len(columns):
                quoted = ": a cell with a comma in it needs quotes" if delimiter == "," else ""
                problems.append(f"has {len(cells)} cells, and the first line names {len(columns)} columns{quoted}")
            elif not problems and any(cell and not name for name, cell in zip(columns, cells, strict=True)):
                problems.append("has a value in a column without a name")
            if problems:
                yield Record(number=count, where=where, faults=(_row_fault(beginning, problems[0]),))
                problems.clear()
                continue
            values = {
                name: type_of(cell)
                for name, cell, type_of in zip(columns, cells, types, strict=True)
                if cell and not cell.isspace()
            }
            yield Record(number=count, where=where, values=values)

    def _columns(self, columns: list[str], problems: list[str]) -> list[str]:
        """The names of the columns. Raises ConfigurationError, since without them no row can be read."""
        named = [name for name in columns if name]
        if problems:
            raise self._error(problems[0])
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise self._error(f"has two columns of one name: {listed(twice)}")
        other = next((mark for mark in ";\t|" if mark in columns[0]), None)
        if len(columns) == 1 and other is not None:
            raise self._error(f"has {other!r} between its columns; save it with commas, or as TSV with tabs")
        return columns

    def _from_parquet(self) -> Iterator[Record]:
        try:
            from pyarrow import ArrowException  # noqa: PLC0415  # an extra, which other formats do without
            from pyarrow.parquet import ParquetFile  # noqa: PLC0415  # likewise
        except ImportError as error:
            install = "pip install 'flux-openai[parquet]'"
            raise ConfigurationError(f"a Parquet file needs the extra 'parquet': {install} ({error})") from error
        number = 0
        try:
            file = ParquetFile(self._file)
            columns = self._columns(list(file.schema_arrow.names), [])
            yield Record(number=0, where="its schema", values=columns)
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    # A column of whole numbers, one of which is missing, is a column of floats in many programs.
                    yield Record(
                        number=number,
                        where=f"row {number}",
                        values={
                            name: int(value) if isinstance(value, float) and _is_whole(name, value) else value
                            for name, value in values.items()
                        },
                    )
        except (ArrowException, OSError, ValueError) as error:
            if isinstance(error, ConfigurationError):
                raise
            raise self._error(f"cannot be read after row {number}: {error}") from None


def open_source(path: str | os.PathLike[str], format: str | None) -> Source:
    """Open a file of rows; "-" is stdin.

    Raises:
        ConfigurationError: There is no such file, or it is none that a batch can read.
    """
    if format is not None and format not in get_args(Format):
        raise ConfigurationError.of(
            InvalidParam(param="format", value=format, rule=f"must be one of {listed(get_args(Format))}")
        )
    checked_format = cast("Format | None", format)
    if path == "-":
        return _from_stream(_stdin(), name="-", format=checked_format)
    place = Path(path)
    try:
        file = place.open("rb")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigurationError.of(
            InvalidParam(param="rows", value=str(path), rule=f"cannot be opened as a file of rows: {reason}")
        ) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        with file:
            return _from_stream(file, name=str(path), format=checked_format)
    endings = [ending.lower() for ending in place.suffixes]
    unpacked = endings[:-1] if endings[-1:] == [".gz"] else endings
    folder = os.path.abspath(place.parent)  # noqa: PTH100  # `resolve` would follow links
    return _made(file, name=str(path), folder=folder, format=checked_format, ending=unpacked[-1] if unpacked else "")


def _made(file: IO[bytes], *, name: str, folder: str, format: Format | None, ending: str | None) -> Source:
    """The source of a file, which is closed if it is refused."""
    with ExitStack() as stack:
        stack.callback(file.close)
        source = Source(file, name=name, folder=folder, format=format, ending=ending)
        stack.pop_all()
    return source


def _stdin() -> IO[bytes]:
    stream = sys.stdin
    if stream is None or stream.closed:
        raise ConfigurationError("stdin is closed, and the rows were to be read from it")
    buffer = getattr(stream, "buffer", None)
    return io.BytesIO(stream.read().encode()) if buffer is None else cast("IO[bytes]", buffer)


def _from_stream(stream: IO[bytes], *, name: str, format: Format | None) -> Source:
    """The source of a stream that can be read once: its bytes are copied to a temporary file."""
    if stream.isatty():
        raise ConfigurationError("the rows were to be read from a terminal: name a file, or pipe the rows in")
    with ExitStack() as stack:
        try:
            copy = cast("IO[bytes]", stack.enter_context(tempfile.TemporaryFile()))
            shutil.copyfileobj(stream, copy, 1024 * 1024)
            copy.flush()
        except OSError as error:
            raise ConfigurationError(f"the rows cannot be copied to a temporary file: {error}") from None
        stack.pop_all()
    return _made(copy, name=name, folder=os.getcwd(), format=format, ending=None)  # noqa: PTH109  # as text


def _format_of(start: bytes) -> Format:
    """The format of a stream by its beginning: a table begins with the names of its columns, "prompt" among them."""
    if _JSON.match(start):
        return "jsonl"
    header = start.lstrip().split(b"\n", 1)[0].decode("utf-8", "replace")
    tables: Mapping[Format, str] = {"csv": ",", "tsv": "\t"}
    for format, delimiter in tables.items():
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        if "prompt" in names and all(name.isidentifier() for name in names if name):
            return format
    return "txt"


def _text_of(line: bytes | None) -> str:
    """The text of a line. Raises ValueError."""
    if line is None:
        raise ValueError(f"is longer than {_LINE_LIMIT >> 20} MiB; name files instead of base64")
    if b"\0" in line:
        raise ValueError("has a NUL character in it: it is no text")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
        raise ValueError(f"is not UTF-8 ({byte}); save the file as UTF-8") from None


def _row_fault(line: bytes | None, rule: str) -> InvalidParam:
    """The fault of a line that cannot be read, with its beginning."""
    return InvalidParam(param="row", value=(line or b"")[:60].decode(errors="replace").rstrip(), rule=rule)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {twice!r} twice")
    return values


def _refuse_constant(name: str) -> object:
    raise ValueError(f"has {name} in it, which is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _json_of(line: str) -> object:
    """The JSON value of a line. Raises ValueError."""
    try:
        return _DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "has a quote that is opened and never closed"
    if "field larger" in text:
        return f"has a cell of more than {csv.field_size_limit():,} characters, or a quote that is never closed"
    if "new-line character" in text:
        return "has a bare carriage return; end lines with a line feed, or put the cell in quotes"
    return f"is no CSV: {text}; a quote inside of a quoted cell is written twice"


_INTEGER = re.compile(r"-?[0-9]{1,30}(?:\.0+)?")
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")


def _as_it_is(text: str) -> object:
    return text


def _integer(text: str) -> object:
    return int(text.partition(".")[0]) if _INTEGER.fullmatch(text := text.strip()) else text


def _number(text: str) -> object:
    if not _NUMBER.fullmatch(text := text.strip()):
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _bool(text: str) -> object:
    return {"true": True, "false": False}.get(text.strip().lower(), text)


def _images(text: str) -> object:
    """A JSON list, or names with ";" between them; a data URI has one of its own, and is one image."""
    text = text.strip()
    if text.startswith("["):
        with suppress(ValueError):
            return _json_of(text)
    return [text] if text.startswith("data:") else [name.strip() for name in text.split(";") if name.strip()]


def _reader_of(field: FluxField) -> Callable[[str], object]:
    if field.type is str:
        return str.strip if field.choices or field.format else _as_it_is
    return {int: _integer, float: _number, bool: _bool, list: _images}[cast("type", field.type)]


_READERS: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("custom_id", "model", "size", *sorted(IMAGE_NAMES)), str.strip),
    **{name: _reader_of(field) for model in FLUX_MODELS.values() for name, field in model.fields.items()},
}
"""What makes a parameter's value of the text in a cell. The text of a prompt stays as it is."""


def value_of_text(name: str, text: str) -> object:
    """The value of a parameter that is written as text; text that is none of its values stays text, and is refused."""
    return _READERS.get(name, _as_it_is)(text)


_RANGE = re.compile(r"\s*(-?[0-9]{1,9})\s*(?:\.\.+|-|:|to)\s*(-?[0-9]{1,9})\s*")


def range_of_text(name: str, text: str) -> str | None:
    """The values of a range such as "1..5", written out with commas; None if the text is none."""
    match = _RANGE.fullmatch(text) if _READERS.get(name) in {_integer, _number} else None
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    values = range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return ",".join(map(str, values)) if len(values) <= 10 else f"{values[0]},{values[1]},…,{values[-1]}"


def _is_whole(name: str, value: float) -> bool:
    return _READERS.get(name) is _integer and value.is_integer()
