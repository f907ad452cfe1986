"""Rows: records of a file or of a program in, checked rows out, or one error that lists every bad row.

open_input(rows, set=, sweep=, prompt=)
  RowMaker.of(…)                  the options are checked, before a row is read
input.checked(settings)
  for record in source.records()  records.py: what stands on each line
    maker.rows_of(record)         the line form of OpenAI's Batch API, `set`, `sweep`, the prompt template
      check(row, settings)        as the call of the row is checked, before the first is sent
CheckedRow by CheckedRow; InvalidRowsError after the last, if there is a bad one
"""

import hashlib
import itertools
import json
import os
import re
import sqlite3
import stat
import string
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from flux_openai._http.redaction import redacted_repr
from flux_openai.batch.input.records import Format, Source, open_source, range_of_text, value_of_text
from flux_openai.errors import (
    ConfigurationError,
    FluxWarning,
    InvalidParam,
    InvalidParamsError,
    InvalidRow,
    InvalidRowsError,
)
from flux_openai.formats import plain_base64, sniff, sniff_base64
from flux_openai.models import FLUX_MODELS, GENERATIONS, FluxModel
from flux_openai.request.image_inputs import IMAGE_LIMIT, WireImage, read_images
from flux_openai.request.model_choice import IMAGE_FIELDS, IMAGE_NAMES
from flux_openai.request.modes import Unsupported
from flux_openai.request.plain import half_surrogate, is_blank, plain
from flux_openai.request.validation import validate
from flux_openai.sending.settings import Settings

__all__ = ["CheckedRow", "Format", "Input", "Row", "RowMaker", "Rows", "check", "open_input", "read_set", "read_sweep"]

Rows: TypeAlias = str | os.PathLike[str] | Iterable[Mapping[str, object]]
"""A path, "-" for stdin, or the rows themselves."""

_LISTED = 10_000
"""How many bad rows an error lists; of more it says the number."""
_NAMED = 100
"""How many ignored columns a notice names."""
_LONGEST_ID = 256
_CALL_OPTIONS: Mapping[str, str] = {
    "extra_body": "is no column: its parameters are columns of their own",
    "extra_headers": "is no column: set default_headers= on the client",
    "extra_query": "is no column: set default_query= on the client",
    "split": "is no column: each row is one request",
    "timeout": "is no column: set timeout= on the client",
}
_APART = IMAGE_NAMES | _CALL_OPTIONS.keys()
_NAMES = frozenset({"model", "size", *IMAGE_NAMES, *(name for model in FLUX_MODELS.values() for name in model.fields)})
"""The parameters that some model takes."""
_BATCH_LINE = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row before its check.

    Attributes:
        custom_id: The id of the row; its number, such as "17", if it has none of its own.
        params: The parameters of the call.
        where: Where the row stands, such as "line 17".
        editing: Whether the parameters are those of an edit.
        faults: What is wrong with the row itself, such as a line that is no JSON.
    """

    custom_id: str
    params: Mapping[str, object]
    where: str
    editing: bool = False
    faults: tuple[InvalidParam, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckedRow:
    """One row that can be sent: `client.images.generate(**row.params)`.

    Attributes:
        custom_id: The id of the row.
        params: The checked parameters, with the full name of the model and the defaults of the client. JSON can hold
            them: an image is a link, a data URI or an absolute path.
        model: The model.
        images: How many images the row asks for.
        where: Where the row stands, such as "line 17".
        notices: The texts of the warnings about the call.
    """

    custom_id: str
    params: Mapping[str, object]
    model: FluxModel
    images: int
    where: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """What makes the rows of a record: the values that all rows have, the sweep and the prompt template.

    Attributes:
        set: The values by name; they replace those of the record. None leaves the parameter or column out.
        sweep: The values by name, each by its text in the id: a row is made for every combination of them.
        prompt: The prompt template: `{column}` stands for the value of a column, `{{` and `}}` for braces.
        columns: The columns that the template uses.
        folder: Where the images of relative paths are.
        unsupported: What happens to columns that are no parameters.
    """

    set: Mapping[str, object]
    sweep: Mapping[str, Mapping[str, object]]
    prompt: str | None
    columns: frozenset[str]
    folder: str
    unsupported: Unsupported = "error"

    @classmethod
    def of(
        cls,
        *,
        set: Mapping[str, object] | None = None,
        sweep: Mapping[str, Sequence[object]] | None = None,
        prompt: str | None = None,
        unsupported: Unsupported = "error",
        folder: str | None = None,
    ) -> Self:
        """The maker with checked options. Relative paths among them are those of the working directory.

        Raises:
            ConfigurationError: With everything that is wrong with the options.
        """
        faults = list[InvalidParam]()
        columns = frozenset[str]()
        if prompt is not None and (not isinstance(cast("object", prompt), str) or is_blank(prompt)):
            faults.append(InvalidParam(param="prompt", value=prompt, rule="must be text that is not blank"))
        elif prompt is not None:
            try:
                columns = frozenset(column for _, column in _template(prompt) if column is not None)
            except ValueError as problem:
                faults.append(InvalidParam(param="prompt", value=prompt, rule=str(problem)))
        here = os.getcwd()  # noqa: PTH109  # as text
        fixed, swept = dict[str, object](), dict[str, dict[str, object]]()
        for name, value in _named(set, "set", faults).items():
            fixed[name] = _resolved(value, here) if name in IMAGE_NAMES else plain(value)
            faults += _option_faults("set", name, [fixed[name]], columns, unsupported)
        for name, values in _named(sweep, "sweep", faults).items():
            found = _sweep_fault(name, values, fixed)
            if found is not None or not isinstance(values, Sequence):
                faults += [found] if found else []
                continue
            swept[name] = {
                _label(value): _resolved(value, here) if name in IMAGE_NAMES else plain(value) for value in values
            }
            faults += _option_faults("sweep", name, swept[name].values(), columns, unsupported)
        if faults:
            raise ConfigurationError.of(*faults)
        return cls(
            set=fixed,
            sweep=swept,
            prompt=prompt,
            columns=columns,
            folder=here if folder is None else folder,
            unsupported=unsupported,
        )

    @property
    def left_out(self) -> frozenset[str]:
        """The columns that are no parameters, and that `set` leaves out of the rows."""
        return frozenset(name for name, value in self.set.items() if value is None and name not in _NAMES)

    def ignores(self, column: str) -> bool:
        """Whether a column is left out, since the prompt template makes the call of the others.

        A column whose name is close to that of a parameter is not: it would be a typo that costs money.
        """
        return (
            self.prompt is not None
            and self.unsupported == "error"
            and column not in self.columns
            and _is_foreign(column)
        )

    def rows_of(self, record: object, *, number: int, where: str) -> Iterator[Row]:
        """The rows of one record: one, or one for each combination of the sweep; a faulty record makes one.

        Args:
            record: A mapping of parameters, or a line of OpenAI's Batch API.
            number: The number of the record, from 1: the id of a row that has none of its own.
            where: Where the record stands, such as "line 17".
        """
        row = _row_of(record, number, where)
        if not row.faults and not IMAGE_NAMES.isdisjoint(row.params):
            row = replace(
                row,
                params={
                    name: _resolved(value, self.folder) if name in IMAGE_NAMES else value
                    for name, value in row.params.items()
                },
            )
        if self.columns and not row.faults:
            row = replace(row, faults=self._missing(row.params))
        if row.faults or not (self.set or self.sweep or self.prompt is not None):
            yield row
            return
        unsent = {name for name in row.params if name not in _NAMES and (name in self.columns or self.ignores(name))}
        unsent |= self.left_out | self.columns - _NAMES
        for combination in itertools.product(*(values.items() for values in self.sweep.values())):
            params = {**row.params, **self.set}
            suffix = ""
            for name, (label, value) in zip(self.sweep, combination, strict=True):
                params[name] = value
                suffix += f"/{name}={label}"
            if self.prompt is not None:
                params["prompt"] = "".join(
                    literal + ("" if column is None else _shown(params.get(column)))
                    for literal, column in _template(self.prompt)
                )
            for column in unsent:
                params.pop(column, None)
            yield replace(row, custom_id=row.custom_id + suffix, params=params)

    def _missing(self, params: Mapping[str, object]) -> tuple[InvalidParam, ...]:
        """A fault for each column that the template uses and the record does not have, or not as text or a number."""
        there = {**params, **self.set, **dict.fromkeys(self.sweep, "")}
        return tuple(
            InvalidParam(
                param="prompt",
                value=self.prompt,
                rule=f"uses {{{column}}}, which the row does not have as text or a number",
                nearest=_nearest(column, there.keys() - {column}),
            )
            for column in sorted(self.columns)
            if not isinstance(there.get(column), str | int | float)
        )


class Input:
    """The rows of a file or of an iterable. A context manager, which closes the file.

    Attributes:
        name: The path, "-" for stdin, or "rows".
        maker: What makes the rows of each record.
        ignored: The columns so far that were left out, as the prompt template does not use them.
    """

    def __init__(
        self, records: Source | Iterable[Mapping[str, object]], maker: RowMaker, unsupported: Unsupported
    ) -> None:
        """Made by `open_input`."""
        self._records, self.maker, self._unsupported = records, maker, unsupported
        self.ignored = dict[str, None]()
        self._left_out = set(maker.left_out)
        self.name = records.name if isinstance(records, Source) else "rows"

    @property
    def notices(self) -> tuple[str, ...]:
        """The texts of the warnings about the input, after its last row."""
        names = ", ".join(self.ignored)
        return (f"ignored columns, which are neither parameters nor in the prompt template: {names}",) if names else ()

    def fingerprint(self, settings: Settings) -> str | None:
        """A digest of all that the checked rows depend on, except the files of images; None for an iterable."""
        if not isinstance(self._records, Source):
            return None
        maker = self.maker
        parts = [self._records.digest(), self._records.format, maker.folder, maker.set, maker.sweep, maker.prompt]
        parts += [dict(settings.defaults), settings.unsupported]
        return hashlib.sha256(json.dumps(parts, default=_plain_mapping).encode()).hexdigest()

    def rows(self) -> Iterator[Row]:
        """The rows, unchecked; one that cannot be read has faults in place of parameters.

        Raises:
            ConfigurationError: The file cannot be read to its end, has no row, or changed while it was read.
        """
        if isinstance(self._records, Source):
            yield from self._rows_of_file(self._records)
            return
        for number, record in enumerate(self._records, start=1):
            self._note_columns(record)
            yield from self.maker.rows_of(record, number=number, where=f"row {number}")

    def _rows_of_file(self, source: Source) -> Iterator[Row]:
        refused = frozenset[str]()
        for record in source.records():
            if record.faults:
                yield Row(custom_id="", params={}, where=record.where, faults=record.faults)
            elif record.number == 0:
                faults = self._column_faults(cast("list[str]", record.values))
                refused = frozenset(str(fault.value) for fault in faults)
                if faults:
                    yield Row(custom_id="", params={}, where=record.where, faults=faults)
            else:
                values = record.values
                self._note_columns(values)
                if refused and isinstance(values, Mapping):
                    values = {name: value for name, value in values.items() if name not in refused}
                yield from self.maker.rows_of(values, number=record.number, where=record.where)

    def _note_columns(self, columns: object) -> None:
        """Note which of the columns of a record, or of a file, are ignored or left out."""
        if not isinstance(columns, Mapping | list) or (self.maker.prompt is None and not self._left_out):
            return
        self._left_out.difference_update(columns)
        for name in columns:
            if isinstance(name, str) and name not in self.maker.set and self.maker.ignores(name):
                self.ignored[name] = None
                if len(self.ignored) > _NAMED:
                    self.ignored.popitem()

    def _column_faults(self, columns: list[str]) -> tuple[InvalidParam, ...]:
        """The columns that are no parameters, each once: its values would be a fault of every row.

        Raises:
            ConfigurationError: The template uses a column that the file does not have, or no row has a prompt.
        """
        maker = self.maker
        self._note_columns(columns)
        there = {*columns, *maker.set, *maker.sweep} - {""}
        if missing := sorted(maker.columns - there):
            raise ConfigurationError.of(*(self._missing_column(name, there) for name in missing))
        if self._unsupported != "error":
            return ()
        own = {"", "custom_id", *_BATCH_LINE, *_NAMES, *maker.columns, *maker.left_out}
        unknown = [name for name in columns if name not in own and not maker.ignores(name)]
        prompted = maker.prompt is not None or not there.isdisjoint({"prompt", "body"})
        if unknown and not prompted and "prompt" not in map(_meant, unknown):
            raise ConfigurationError.of(_no_prompt(unknown))
        return tuple(_unknown("column", name) for name in unknown)

    def _missing_column(self, column: str, there: set[str]) -> InvalidParam:
        near = _nearest(column, there)
        meant = f"; did you mean {{{near}}}?" if near else f"; its columns are {', '.join(sorted(there))[:200]}"
        rule = f"{{{column}}} is no column of {self.name}{meant}"
        return InvalidParam(param="prompt", value=self.maker.prompt, rule=rule)

    def checked(self, settings: Settings) -> Iterator[CheckedRow]:
        """The checked rows, up to the first bad one; the rest is read for the sake of its faults.

        Raises:
            InvalidRowsError: After the last row, if one cannot be sent or an id comes twice.
            ConfigurationError: As `rows`.
        """
        bad, count, latest = list[InvalidRow](), 0, None
        check_row = _remembering(settings)
        with closing(_Ids()) as ids:
            for row in self.rows():
                checked, faults = None, tuple[InvalidParam, ...]()
                try:
                    checked = check_row(row)
                except InvalidParamsError as error:
                    faults = error.faults
                if row.custom_id and (first := ids.first(row.custom_id, row.where)) is not None:
                    rule = f"is the id of {first} too; every row needs its own"
                    faults = (*faults, InvalidParam(param="custom_id", value=row.custom_id, rule=rule))
                if checked is not None and not faults:
                    if not count:
                        yield checked
                    continue
                invalid = InvalidRow(where=row.where, custom_id=row.custom_id, faults=faults)
                # A sweep makes many rows of one line, with the same fault in each.
                if latest is not None and (latest.where, latest.faults) == (invalid.where, invalid.faults):
                    continue
                latest, count = invalid, count + 1
                if count <= _LISTED:
                    bad.append(invalid)
        if self._left_out:
            raise ConfigurationError.of(*(_unknown("set", name) for name in sorted(self._left_out)))
        for notice in self.notices if not count else ():
            warnings.warn(notice, FluxWarning, stacklevel=2)
        if count:
            hint = "" if self.maker.prompt is not None else _hint(bad)
            raise InvalidRowsError.of_rows(bad, count=count, name="" if self.name == "rows" else self.name, hint=hint)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._records, Source):
            self._records.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_input(
    rows: Rows,
    *,
    format: Format | None = None,
    set: Mapping[str, object] | None = None,
    sweep: Mapping[str, Sequence[object]] | None = None,
    prompt: str | None = None,
    unsupported: Unsupported = "error",
) -> Input:
    """Open a file of rows, or take an iterable of rows.

    Args:
        rows: A path, "-" for stdin, or mappings of parameters.
        format: The format of a file; left out, it goes by the ending, and of a stream by its first line.
        set: Values for every row.
        sweep: Lists of values by name: each row is made once for every combination of them.
        prompt: A template of the prompt, in which `{column}` stands for the value of a column.
        unsupported: What happens to columns that are no parameters.

    Raises:
        ConfigurationError: With everything that is wrong with the options, or because there is no such file, or it is
            text and the template uses columns.
    """
    if isinstance(rows, str | os.PathLike):
        maker = RowMaker.of(set=set, sweep=sweep, prompt=prompt, unsupported=unsupported)
        source = open_source(rows, format)
        others = sorted(maker.columns - {"prompt", *maker.set, *maker.sweep})
        if source.format == "txt" and others:
            source.close()
            rule = f"a line of text is a prompt, and the prompt template uses {{{others[0]}}}; say which format has it"
            raise ConfigurationError.of(InvalidParam(param="format", value="txt", rule=rule, nearest="csv"))
        return Input(source, replace(maker, folder=source.folder), unsupported)
    if isinstance(rows, Mapping | bytes) or not isinstance(rows, Iterable):
        rule = "must be a path, '-' for stdin, or an iterable of mappings such as {'prompt': 'a red fox'}"
        raise ConfigurationError.of(InvalidParam(param="rows", value=rows, rule=rule))
    if format is not None:
        raise ConfigurationError.of(InvalidParam(param="format", value=format, rule="is for files and streams only"))
    return Input(rows, RowMaker.of(set=set, sweep=sweep, prompt=prompt, unsupported=unsupported), unsupported)


def check(row: Row, settings: Settings) -> CheckedRow:
    """Check a row as the call with its parameters would be checked; its image files must be there.

    Raises:
        InvalidParamsError: With everything that is wrong with the row.
    """
    if row.faults:
        raise InvalidParamsError.of(row.faults)
    try:
        checked = validate(
            _with_known_files(row.params),
            defaults=settings.defaults,
            unsupported=settings.unsupported,
            editing=row.editing,
        )
    except InvalidParamsError as error:
        raise InvalidParamsError.of(map(_for_batch, error.faults)) from None
    values = {
        name: _as_given(value) if name in IMAGE_FIELDS else value
        for name, value in itertools.chain(checked.values.items(), checked.extra.items())
    }
    n = values.get("n", 1)
    return CheckedRow(
        custom_id=row.custom_id,
        params={"model": checked.model.id, **values},
        model=checked.model,
        images=n if isinstance(n, int) else 1,
        where=row.where,
        notices=checked.notices,
    )


def read_set(options: Iterable[str]) -> dict[str, object]:
    """The values of options such as `--set steps=28`, by name, each of its parameter's type; an empty one is None.

    Raises:
        ConfigurationError: With each option that is not `name=value`, or whose name comes twice.
    """
    return {
        name: value_of_text(name, text) if text.strip() else None
        for name, text in _read_options("set", options, "steps=28").items()
    }


def read_sweep(options: Iterable[str]) -> dict[str, list[object]]:
    """The values of options such as `--sweep seed=1,2,3`, by name, each of its parameter's type.

    Texts with commas are given as a JSON list: `--sweep 'prompt=["a fox, red", "a hare"]'`.

    Raises:
        ConfigurationError: With each option that is not `name=value,value`, or whose name comes twice.
    """
    swept, faults = dict[str, list[object]](), list[InvalidParam]()
    for name, text in _read_options("sweep", options, "seed=1,2,3").items():
        if text.lstrip().startswith("["):
            try:
                swept[name] = json.loads(text)
            except (ValueError, RecursionError) as error:
                faults.append(InvalidParam(param="sweep", value=f"{name}={text}", rule=f"is no JSON list: {error}"))
            continue
        parts = text.split(",")
        if (written_out := range_of_text(name, text)) is not None:
            rule = f"must be values with commas between them; write {name}={written_out}"
            faults.append(InvalidParam(param="sweep", value=f"{name}={text}", rule=rule))
            continue
        if not all(map(str.strip, parts)):
            rule = "must be values with commas between them, such as seed=1,2,3"
            faults.append(InvalidParam(param="sweep", value=f"{name}={text}", rule=rule))
            continue
        swept[name] = [value_of_text(name, part) for part in parts]
    if faults:
        raise ConfigurationError.of(*faults)
    return swept


def _read_options(option: str, options: Iterable[str], example: str) -> dict[str, str]:
    texts, faults = dict[str, str](), list[InvalidParam]()
    for text in options:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            faults.append(InvalidParam(param=option, value=text, rule=f"must be name=value, such as {example}"))
        elif name in texts:
            faults.append(InvalidParam(param=option, value=text, rule=f"is the second one for {name}; give it once"))
        texts[name] = value
    if faults:
        raise ConfigurationError.of(*faults)
    return texts


def _named(options: object, option: str, faults: list[InvalidParam]) -> Mapping[str, object]:
    if options is None:
        return {}
    if isinstance(options, Mapping) and all(isinstance(name, str) for name in options):
        return options
    faults.append(InvalidParam(param=option, value=options, rule="must be a mapping of parameter names to values"))
    return {}


def _option_faults(
    option: str, name: str, values: Iterable[object], columns: frozenset[str], unsupported: Unsupported
) -> Iterator[InvalidParam]:
    """What is wrong with a name or its values, whatever the rows are: every row would have the fault."""
    if name == "custom_id" or name in _CALL_OPTIONS:
        rule = _CALL_OPTIONS.get(name, "is the id of one row").partition(": ")
        yield InvalidParam(param=option, value=name, rule=rule[2] or f"{rule[0]}, and cannot be the same for all")
    elif name not in _NAMES:
        # None leaves a column of this name out; whether there is one is known after the last row.
        if name not in columns and unsupported == "error" and (option, *values) != ("set", None):
            yield _unknown(option, name, columns)
    elif name in IMAGE_NAMES:
        for value in values:
            _, invalid = read_images({"images" if isinstance(value, list) else "image": value})
            yield from (_of_option(option, replace(_for_batch(fault), param=name)) for fault in invalid)
    else:
        faults = (_fault_of(name, value) for value in values)
        yield from (_of_option(option, fault) for fault in faults if fault is not None)


def _of_option(option: str, fault: InvalidParam) -> InvalidParam:
    """A fault of a parameter in `set` or `sweep`, as the option is written: set='steps=99'."""
    value, rule = fault.value, fault.rule
    if isinstance(value, str) and value == str(fault.nearest) and not isinstance(fault.nearest, str):
        rule += ", not text"
    text = value if isinstance(value, str) else redacted_repr(value, name=fault.param)
    return InvalidParam(param=option, value=f"{fault.param}={text}", rule=rule, nearest=fault.nearest)


def _unknown(option: str, name: str, columns: Iterable[str] = ()) -> InvalidParam:
    near = "custom_id" if name == "id" and option == "column" else _meant(name) or _nearest(name, columns)
    use = f"use {{{name}}} in the prompt template"
    if option != "column":
        rule = f"did you mean {near}?" if near else f"leave it out, or {use}"
    elif near:
        rule = f"did you mean {near}? (or {use}, or leave it out with an empty value in set)"
    else:
        rule = f"{use}, or leave it out with an empty value in set"
    return InvalidParam(param=option, value=name, rule=f"is no parameter; {rule}")


def _no_prompt(columns: list[str]) -> InvalidParam:
    are = "are no parameters" if len(columns) > 1 else "is no parameter"
    example = f"such as 'a photo of {{{columns[0][:40]}}}'"
    rule = f"no row has one, and {', '.join(columns)[:80]} {are}; did you forget the prompt template, {example}?"
    return InvalidParam(param="prompt", value=None, rule=rule)


def _hint(bad: list[InvalidRow]) -> str:
    """What to do if no row has a prompt, and columns are no parameters; else empty."""
    columns = dict.fromkeys(str(fault.value) for row in bad for fault in row.faults if fault.param == "column")
    if not columns or not all(any(_lacks_prompt(fault) for fault in row.faults) for row in bad):
        return ""
    return str(_no_prompt(list(columns)))


def _lacks_prompt(fault: InvalidParam) -> bool:
    return fault.param == "prompt" and fault.value is None


@lru_cache(maxsize=1024)
def _is_foreign(column: str) -> bool:
    """Whether the name of a column is far from that of every parameter."""
    known = _NAMES | _BATCH_LINE | _CALL_OPTIONS.keys() | {"", "custom_id", "id", "mask"}  # one for an image too
    return column not in known and _meant(column) is None


def _meant(name: str) -> str | None:
    """The parameter that is close to a name, or has a whole word in common with it, as "image" with "image_path"."""
    plain_name = _plain_name(name)
    words = {word for word in plain_name.split("_") if len(word) > 3}
    found = (
        get_close_matches(plain_name, _NAMES, n=1, cutoff=0.85)
        or sorted(words & _NAMES)
        or get_close_matches(plain_name, sorted(_NAMES), n=1, cutoff=0.7)
        or sorted(known for known in _NAMES if not words.isdisjoint(known.split("_")))
    )
    return found[0] if found else None


def _fault_of(name: str, value: object) -> InvalidParam | None:
    """Why no model takes this value; None if one does."""
    if value is None:
        return None
    first: InvalidParam | None = None
    for model in FLUX_MODELS.values():
        if name in {"model", "size"} or name in model.fields:
            try:
                validate({"prompt": "a prompt", "model": model.id, name: value})
            except InvalidParamsError as error:
                found = next((fault for fault in error.faults if fault.param == name), None)
                if found is None:
                    return None
                first = first or found
            else:
                return None
    return None if first is None else _for_batch(first)


def _sweep_fault(name: str, values: object, fixed: Mapping[str, object]) -> InvalidParam | None:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return _of_option("sweep", InvalidParam(param=name, value=values, rule="must be a list of values"))
    if not values:
        return InvalidParam(param="sweep", value=name, rule="must have at least one value")
    if name in fixed:
        return InvalidParam(param="sweep", value=name, rule="is in set too; give it once")
    labels = list(map(_label, values))
    twice = [value for value, label in zip(values, labels, strict=True) if labels.count(label) > 1]
    if not twice:
        return None
    rule = "comes twice: the same row would be made and paid for again"
    return _of_option("sweep", InvalidParam(param=name, value=twice[0], rule=rule))


def _label(value: object) -> str:
    """The text of a swept value in an id: short, on one line, and another one for every other value."""
    text = value if isinstance(value, str) else json.dumps(plain(value), default=str)
    if isinstance(value, float) and value.is_integer():
        text = str(int(value))
    if len(text) <= 40 and text.isprintable() and "/" not in text:
        return text
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{re.sub(r'[^0-9A-Za-z]+', '-', text)[:24].strip('-')}~{digest}"


def _plain_name(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def _nearest(name: str, names: Iterable[str]) -> str | None:
    close = get_close_matches(_plain_name(name), sorted(names), n=1)
    return close[0] if close else None


@lru_cache(maxsize=64)
def _template(prompt: str) -> tuple[tuple[str, str | None], ...]:
    """The pieces of a template, each with the column that follows it. Raises ValueError."""
    try:
        pieces = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(f"is no template: {error}; a brace that is meant is written twice") from None
    for _, column, spec, conversion in pieces:
        if column is not None and (
            not column or spec or conversion or not re.fullmatch(r"[^\s.\[\]{}!:0-9][^.\[\]{}!:]*", column)
        ):
            raise ValueError(
                "is no template: in braces stands the name of a column; a brace that is meant is written twice"
            )
    return tuple((literal, column) for literal, column, _, _ in pieces)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _row_of(record: object, number: int, where: str) -> Row:
    """The row of one record, before the options of the batch."""
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        rule = 'must be an object with the parameters of a call, such as {"prompt": "a red fox"}'
        shown = record if isinstance(record, str | int | float | None) else type(record).__name__
        return Row(custom_id="", params={}, where=where, faults=(InvalidParam(param="row", value=shown, rule=rule),))
    params = {name: value for name, value in record.items() if value is not None}
    faults, custom_id, editing = list[InvalidParam](), str(number), False
    if not "".join(params).isprintable():
        name = next(name for name in params if not name.isprintable())
        rule = "has a parameter whose name has line breaks or other invisible characters"
        faults.append(InvalidParam(param="row", value=name, rule=rule))
    if (given_id := plain(params.pop("custom_id", None))) is not None:
        fault = _id_fault(given_id)
        if fault is None:
            custom_id = str(given_id)
        else:
            faults.append(fault)
    if "body" in params or {"method", "url"} <= params.keys():
        params, editing = _from_batch_line(params, faults)
    if not _APART.isdisjoint(params):
        faults += [
            InvalidParam(param=name, value=params[name], rule=rule)
            for name, rule in _CALL_OPTIONS.items()
            if name in params
        ]
        rule = "must be a path, an http(s) link or a data URI in a batch"
        faults += [
            InvalidParam(param=name, value=type(value).__name__, rule=rule)
            for name, value in params.items()
            if name in IMAGE_NAMES and _unstorable(value)
        ]
    return Row(custom_id=custom_id, params=params, where=where, editing=editing, faults=tuple(faults))


def _id_fault(custom_id: object) -> InvalidParam | None:
    if not isinstance(custom_id, str):
        near = str(custom_id) if isinstance(custom_id, int) and not isinstance(custom_id, bool) else None
        return InvalidParam(param="custom_id", value=custom_id, rule="must be text", nearest=near)
    if not custom_id.strip():
        rule = "must not be blank; leave it out, and the id is the number of the row"
    elif len(custom_id) > _LONGEST_ID:
        rule = f"must have {_LONGEST_ID} characters at most, and has {len(custom_id)}"
    elif not custom_id.isprintable():
        rule = "must have no line breaks and no other invisible characters"
    else:
        return None
    return InvalidParam(param="custom_id", value=custom_id[:_LONGEST_ID], rule=rule)


_BATCH_URL = re.compile(r"(?:https?://[^/]+)?(?:/v[0-9]+)?(/.*)", re.IGNORECASE)


def _from_batch_line(line: dict[str, object], faults: list[InvalidParam]) -> tuple[dict[str, object], bool]:
    """The parameters in a line of OpenAI's Batch API, and whether it is an edit."""
    body, url, method = line.get("body"), line.get("url"), line.get("method", "POST")
    if method != "POST":
        faults.append(InvalidParam(param="method", value=method, rule="must be 'POST'"))
    match = _BATCH_URL.fullmatch(url) if isinstance(url, str) else None
    path = match[1] if match else None
    named = next((model for model in FLUX_MODELS.values() if path == model.path != GENERATIONS), None)
    if path not in {GENERATIONS, "/images/edits"} and named is None:
        rule = "must be '/v1/images/generations' or '/v1/images/edits'"
        faults.append(InvalidParam(param="url", value=url, rule=rule))
    if line.keys() - _BATCH_LINE:
        name = min(line.keys() - _BATCH_LINE)
        rule = "stands beside the body: parameters stand in it"
        faults.append(InvalidParam(param=name, value=line[name], rule=rule))
    if not isinstance(body, Mapping) or not all(isinstance(name, str) for name in body):
        rule = "must be an object with the parameters of the call"
        faults.append(InvalidParam(param="body", value=body, rule=rule))
        return {}, False
    params = {name: value for name, value in body.items() if value is not None}
    if path == "/images/edits" and "images" in params:
        params.setdefault("image", params.pop("images"))  # an edit takes a list of one as one image
    return ({"model": named.id} if named else {}) | params, path == "/images/edits"


_ELSEWHERE = re.compile(r"\s*(?:data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)


def _unstorable(image: object) -> bool:
    """Whether an image is neither a path nor a link nor a data URI, which the ledger can hold."""
    if isinstance(image, list | tuple):
        return any(map(_unstorable, image))
    return not isinstance(_linked(image), str | os.PathLike)


def _linked(image: object) -> object:
    """The link in an image of the Batch API, `{"image_url": …}`; any other image as it is."""
    return image.get("image_url") if isinstance(image, Mapping) and len(image) == 1 else plain(image)


def _resolved(image: object, folder: str) -> object:
    """An image, or each of a list, with the absolute path if it is a path."""
    if isinstance(image, list | tuple):
        return [_resolved(one, folder) for one in image]
    image = _linked(image)
    if isinstance(image, os.PathLike):
        image = os.fsdecode(image)
    if not isinstance(image, str) or not image.strip() or _ELSEWHERE.match(image) or _is_base64(image):
        return image
    return os.path.normpath(os.path.join(folder, image))  # noqa: PTH118  # keeps "..", and is faster by far


def _is_base64(image: str) -> bool:
    """Whether a text is an image as base64, which the models with a path of their own take."""
    start = plain_base64(image[:80]) if len(image) >= 40 else None
    return start is not None and sniff_base64(start) is not None


class _ImageFile(WireImage):
    """What stands for an image file in the check of its row, which needs no more than its kind."""

    __slots__ = ("path",)
    path: str

    @classmethod
    def of(cls, path: str, mime: str) -> Self:
        image = cls(f"data:{mime};base64,")
        image.path = path
        return image


def _with_known_files(params: Mapping[str, object]) -> Mapping[str, object]:
    """The parameters without the content of image files: where each begins as an image does, a check reads no more.

    A file that does not is left to `validate`, which says why.
    """
    names = IMAGE_NAMES & params.keys()
    if not names:
        return params
    size, values = 0, dict(params)
    for name in names:
        given = params[name]
        items = []
        for item in given if isinstance(given, list) else [given]:
            known, length = _known(item)
            size += length
            items.append(known)
        values[name] = items if isinstance(given, list) else items[0]
    return values if size <= IMAGE_LIMIT else params


def _known(image: object) -> tuple[object, int]:
    """An image with its length in bytes; in place of a file that is an image, what stands for it."""
    if not isinstance(image, str) or _ELSEWHERE.match(image) or _is_base64(image):
        inline = isinstance(image, str) and not image.lstrip().lower().startswith("http")
        return image, len(str(image)) * 3 // 4 if inline else 0
    try:
        if not stat.S_ISREG(os.stat(image).st_mode):  # noqa: PTH116  # a million rows
            return image, 0
        with open(image, "rb") as file:  # noqa: PTH123  # likewise
            kind, length = sniff(file.read(4096)), os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return image, 0
    return (image if kind is None else _ImageFile.of(image, kind.mime)), length


def _as_given(image: object) -> object:
    """An image of a checked row as the ledger holds it."""
    if isinstance(image, list):
        return [_as_given(one) for one in image]
    return image.path if isinstance(image, _ImageFile) else str(image)


def _for_batch(fault: InvalidParam) -> InvalidParam:
    """A fault as it is told about a row: with the end of a long path, and with the way out that a batch has."""
    value, rule = fault.value, fault.rule
    if fault.param not in _NAMES and "unsupported=" in rule:
        return _unknown("column", fault.param)
    rule = rule.replace("set unsupported= to", "set unsupported= of the client to")
    if fault.param in IMAGE_NAMES and isinstance(value, str) and not _ELSEWHERE.match(value):
        if "cannot be read" in rule and any(mark in value for mark in ";,"):
            one = "" if fault.param == "images" else f"{fault.param} holds one file; "
            rule += f"; {one}for several files, name the column images and put ; between them"
        value = f"…{value[-60:]}" if len(value) > 60 else value  # a message would keep the beginning
    if fault.param == "n" and "; for more" in rule:
        rule = f"{rule.partition('; for more')[0]}; for more images, add rows, or sweep the seed"
    return replace(fault, value=value, rule=rule)


def _remembering(settings: Settings) -> Callable[[Row], CheckedRow]:
    """`check` for many rows: rows that differ in nothing but the prompt are checked once, and then their prompts."""
    known = dict[object, CheckedRow]()

    def check_row(row: Row) -> CheckedRow:
        prompt, key, rest = row.params.get("prompt"), None, list[tuple[str, type, Any]]()
        if type(prompt) is str and not row.faults:
            rest = [(name, type(value), value) for name, value in row.params.items() if name != "prompt"]
            key = (row.editing, *rest)
            alike: CheckedRow | None = None
            try:
                alike = known.get(key)
            except TypeError:  # a list has no hash
                key = None
            if alike is not None and not is_blank(prompt) and half_surrogate(prompt) is None:
                return CheckedRow(
                    custom_id=row.custom_id,
                    params={**alike.params, "prompt": prompt},
                    model=alike.model,
                    images=alike.images,
                    where=row.where,
                    notices=alike.notices,
                )
        checked = check(row, settings)
        if key is not None:
            if len(known) >= 1000:
                known.clear()
            # An image as base64 is not kept, and neither is a page of text.
            if all(len(value) < 1000 for _, kind, value in rest if kind is str):
                known[key] = checked
        return checked

    return check_row


class _Ids:
    """The ids so far, and where each stands: in a temporary database, so that memory does not grow with them."""

    def __init__(self) -> None:
        # The ledger may read the rows in a thread of its own, a part at a time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for line in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-16384", "BEGIN"):
            self._database.execute(line)
        self._database.execute("CREATE TABLE ids (hash INTEGER PRIMARY KEY, place TEXT)")

    def first(self, custom_id: str, where: str) -> str | None:
        """Where the same id stood before; None if it is new."""
        pair = (hash(custom_id), where)
        try:
            if self._database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", pair).rowcount:
                return None
            place: str = self._database.execute("SELECT place FROM ids WHERE hash = ?", pair[:1]).fetchone()[0]
        except sqlite3.Error as error:
            raise ConfigurationError(f"the ids of the rows cannot be kept in a temporary file: {error}") from None
        return place

    def close(self) -> None:
        self._database.close()


def _plain_mapping(value: object) -> object:
    """What JSON has for the values of options."""
    if isinstance(value, Mapping):
        return dict(value)
    return plain(value) if type(plain(value)) in (str, int, float) else repr(value)
