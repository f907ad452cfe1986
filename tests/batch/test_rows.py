"""The rows of a batch: what each format gives, what each option makes of it, and every fault with its line."""

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from flux_openai import Emulator, FluxWarning, InvalidParamsError
from flux_openai.batch.input import records as records_module
from flux_openai.batch.input.rows import CheckedRow, Row, RowMaker, check, open_input, read_set, read_sweep
from flux_openai.errors import ConfigurationError, InvalidRowsError
from flux_openai.models import DEFAULT_MODEL
from flux_openai.sending.settings import Settings

FOX = '{"prompt": "a red fox", "steps": 28}'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
BATCH_LINE = '{{"custom_id": "fox", "method": "POST", "url": "{url}", "body": {body}}}'


def file_of(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    """A file of rows."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def checked(rows: object, settings: Settings | None = None, **options: Any) -> list[CheckedRow]:  # noqa: ANN401  # some are wrong on purpose
    """The checked rows of an input."""
    with open_input(rows, **options) as source:  # type: ignore[arg-type]  # likewise
        return list(source.checked(settings or Settings()))


def as_sent(rows: list[CheckedRow]) -> list[dict[str, object]]:
    """The parameters of the rows, without the model that all have by default."""
    return [{k: v for k, v in row.params.items() if (k, v) != ("model", DEFAULT_MODEL)} for row in rows]


def faults_in(rows: object, **options: Any) -> list[str]:  # noqa: ANN401  # some are wrong on purpose
    """What is said of each bad row, one line for each fault."""
    with pytest.raises(InvalidRowsError) as caught:
        checked(rows, **options)
    return [line for row in caught.value.rows for line in str(row).splitlines()]


def refusal(rows: object, **options: Any) -> str:  # noqa: ANN401  # some are wrong on purpose
    """Why an input, or an option, is refused as a whole."""
    with pytest.raises(ConfigurationError) as caught:
        checked(rows, **options)
    assert not isinstance(caught.value, InvalidRowsError), caught.value
    return str(caught.value)


CSV = 'custom_id,prompt,steps,guidance_scale,seed\n,"a red fox, ""sly""",28,2.5,\nhare,"two\nlines",,3,7\n'
BOTH = [
    {"prompt": 'a red fox, "sly"', "steps": 28, "guidance_scale": 2.5},
    {"prompt": "two\nlines", "guidance_scale": 3, "seed": 7},
]
JSONL = "\n".join(json.dumps(row) for row in ({**BOTH[0], "seed": None}, {**BOTH[1], "custom_id": "hare"}))


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("rows.jsonl", JSONL, {}),
        ("rows.ndjson", f"\ufeff{JSONL}", {}),
        ("ROWS.JSONL", JSONL.replace("\n", "\r\n\r\n \r\n"), {}),
        ("rows.json", f"{JSONL}\n", {}),
        ("rows.jsonl.gz", gzip.compress(JSONL.encode()), {}),
        ("rows.jsonl", gzip.compress(JSONL.encode()), {}),
        ("rows.data", JSONL, {"format": "jsonl"}),
        ("rows.csv", CSV, {}),
        ("rows.CSV", f"\ufeff{CSV}", {}),
        ("rows.csv", CSV.replace("\n", "\r\n").replace("two\r\n", "two\n"), {}),
        ("rows.csv", f"{CSV}\n,,,,\n\n", {}),
        ("rows.csv", CSV.replace(",seed\n", ",seed,\n").replace("2.5,\n", "2.5,,\n").replace("3,7\n", "3,7,\n"), {}),
        ("rows.csv", CSV.replace("custom_id,prompt", " custom_id , prompt").replace(",28,2.5", ", 28 , 2.5 "), {}),
        ("rows.csv.gz", gzip.compress(CSV.encode()), {}),
        ("rows.tsv", CSV.replace(",", "\t").replace("fox\t ", "fox, "), {}),
        ("my.rows.v2.csv", CSV.replace(",28,", ",28.0,"), {}),
    ],
)
def test_each_format_gives_the_same_rows(
    tmp_path: Path, name: str, content: str | bytes, options: Mapping[str, Any]
) -> None:
    """A row is the same in every format; a BOM, CRLF, blank lines and empty columns do not count."""
    rows = checked(file_of(tmp_path, content, name), **options)
    assert as_sent(rows) == BOTH
    assert [type(value) for value in rows[0].params.values()] == [str, str, int, float]
    assert [(row.custom_id, row.images, row.model.id) for row in rows] == [
        ("1", 1, DEFAULT_MODEL),
        ("hare", 1, DEFAULT_MODEL),
    ]


def test_a_line_of_a_txt_file_is_a_prompt(tmp_path: Path) -> None:
    """Each line is a prompt as it stands, also with quotes, commas, braces and a BOM; blank lines are no rows."""
    path = file_of(tmp_path, '\ufeff{a} "red", fox\r\n\r\n  \n# hare\u2028here\n[oil] owl', "rows.txt")
    rows = checked(path)
    assert [row.params["prompt"] for row in rows] == ['{a} "red", fox', "# hare\u2028here", "[oil] owl"]
    assert [(row.custom_id, row.where) for row in rows] == [("1", "line 1"), ("2", "line 4"), ("3", "line 5")]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"n": "2", "seed": "-1"}, {"n": 2, "seed": -1}),
        ({"seed": "007"}, {"seed": 7}),
        ({"size": " 1024x1024 "}, {"aspect_ratio": "1:1"}),
        ({"aspect_ratio": "16:9 ", "response_format": "url"}, {"aspect_ratio": "16:9", "response_format": "url"}),
        ({"negative_prompt": " 12 "}, {"negative_prompt": " 12 "}),
        ({"guidance_scale": "1e1"}, {"guidance_scale": 10.0}),
        (
            {"model": "flux-kontext-pro", "prompt_upsampling": "TRUE"},
            {"model": "flux-kontext-pro", "prompt_upsampling": True},
        ),
    ],
)
def test_a_cell_becomes_what_its_parameter_is(
    tmp_path: Path, cells: dict[str, str], expected: dict[str, object]
) -> None:
    """A cell is read by the type of its parameter, and text is left as it is."""
    text = f"prompt,{','.join(cells)}\na fox,{','.join(cells.values())}\n"
    [row] = as_sent(checked(file_of(tmp_path, text, "rows.csv")))
    assert row == {"prompt": "a fox", **expected}
    assert [*map(type, row.values())] == [str, *map(type, expected.values())]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("steps=20.5", "steps='20.5': must be an integer from 1 to 50 (nearest: 20)"),
        ("steps=abc", "steps='abc': must be an integer from 1 to 50"),
        ("steps=51", "steps=51: must be an integer from 1 to 50 (nearest: 50)"),
        ("guidance_scale=NaN", "guidance_scale='NaN': must be a number from 1 to 10"),
        ("guidance_scale=\N{ARABIC-INDIC DIGIT TWO}", "guidance_scale='٢': must be a number from 1 to 10 (nearest: 2)"),
        ("prompt_upsampling=yes", "prompt_upsampling='yes': is not taken by"),
        ("aspect_ratio=16:09:00", "aspect_ratio='16:09:00': must be one of"),
        ("n=5", "n=5: must be an integer from 1 to 4; for more images, add rows, or sweep the seed (nearest: 4)"),
        ("image=missing.png", "missing.png': cannot be read as a file: No such file or directory"),
        ("model=dall-e-3", "model='dall-e-3': must be one of"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    """The line of a fault is that on which the row starts, also behind cells of several lines."""
    name, _, cell = line.partition("=")
    text = f'prompt,{name}\n"a\nfox",\n\n"a\nhare",{cell}\n'
    [fault] = faults_in(file_of(tmp_path, text, "rows.csv"))
    assert fault.startswith("line 5: ")
    assert said in fault


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", "{'prompt': 1}", "is no JSON: Expecting property name enclosed in double quotes at column 2"),
        ("r.jsonl", '{"prompt": "a", }', "is no JSON"),
        ("r.jsonl", '{"prompt": "a"} {"prompt": "b"}', "is no JSON: Extra data at column 17"),
        ("r.jsonl", '{"prompt": "a", "guidance_scale": NaN}', "has NaN in it, which is no JSON"),
        ("r.jsonl", '{"prompt": "a", "guidance_scale": -Infinity}', "has -Infinity in it, which is no JSON"),
        ("r.jsonl", '{"prompt": "a", "guidance_scale": 1e999}', "guidance_scale=inf: must be a number from 1 to 10"),
        ("r.jsonl", '{"prompt": "a", "steps": 2, "steps": 3}', "has the key 'steps' twice"),
        ("r.jsonl", f'{{"steps": {"1" * 5000}}}', "Exceeds the limit"),
        ("r.jsonl", "[" * 100_000, "nested too deeply"),
        ("r.jsonl", '"a red fox"', "row='a red fox': must be an object with the parameters of a call"),
        ("r.jsonl", '["a red fox"]', "row='list': must be an object"),
        ("r.jsonl", "null", "row=None: must be an object"),
        ("r.jsonl", "{}", "prompt=None: is required and must be text"),
        ("r.jsonl", '{"prompt": "a\0b"}', "has a NUL character in it"),
        ("r.jsonl", '{"prompt": "caf\xe9"}'.encode("latin-1"), "is not UTF-8 (byte 0xe9 at column 16)"),
        ("r.jsonl", '{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ("r.jsonl", '{"prompt": "a", "steps": "28"}', "steps='28': must be an integer"),
        ("r.jsonl", '{"prompt": "a", "step": 28}', "did you mean steps?"),
        ("r.jsonl", '{"prompt": "a", "step\\n": 28}', "row='step\\n': has a parameter whose name has line breaks"),
        ("r.jsonl", '{"prompt": "a", "stream": true}', "stream=True: FLUX answers are not streamed"),
        ("r.jsonl", '{"prompt": "a", "extra_body": {"steps": 2}}', "is no column: its parameters are columns"),
        ("r.jsonl", '{"prompt": "a", "split": true}', "split=True: is no column: each row is one request"),
        ("r.jsonl", '{"prompt": "a", "image": 3}', "must be a path, an http(s) link or a data URI in a batch"),
        ("r.jsonl", '{"prompt": "a", "custom_id": 17}', "custom_id=17: must be text (nearest: '17')"),
        ("r.jsonl", '{"prompt": "a", "custom_id": true}', "custom_id=True: must be text"),
        ("r.jsonl", '{"prompt": "a", "custom_id": " "}', "custom_id=' ': must not be blank"),
        ("r.jsonl", '{"prompt": "a", "custom_id": "a\\tb"}', "must have no line breaks"),
        ("r.jsonl", '{"prompt": "a", "custom_id": "\\udc80"}', "must have no line breaks"),
        ("r.jsonl", f'{{"prompt": "a", "custom_id": "{"x" * 257}"}}', "must have 256 characters at most, and has 257"),
        ("r.txt", b"caf\xe9", "is not UTF-8 (byte 0xe9 at column 4); save the file as UTF-8"),
        ("r.txt", "a\0b", "has a NUL character in it"),
        ("r.csv", b"prompt\ncaf\xe9", "line 2 is not UTF-8"),
        ("r.csv", "prompt\na\0b", "line 2 has a NUL character"),
        ("r.csv", "prompt,steps\na,b,28", "has 3 cells, and the first line names 2 columns"),
        ("r.csv", "prompt,steps\na", "has 1 cells, and the first line names 2 columns"),
        ("r.csv", "prompt,\na,b", "has a value in a column without a name"),
        ("r.csv", 'prompt\n"a fox\na hare', "row='\"a fox': has a quote that is opened and never closed"),
        ("r.csv", 'prompt\n"a" fox', "is no CSV"),
        ("r.csv", "prompt\na\rb", "has a bare carriage return"),
        ("r.csv", f"prompt\n{'x' * 140_000}", "has a cell of more than 131,072 characters"),
        ("r.csv", "steps\n28", "prompt=None: is required"),
    ],
)
def test_a_bad_row_is_a_fault_of_its_own(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    """A row that cannot be read or sent is listed with its line; the rows around it are read all the same."""
    content = content.encode() if isinstance(content, str) else content
    good = {"r.jsonl": FOX.encode(), "r.txt": b"a fox", "r.csv": b""}[name]
    content = b"\n".join([good, content, good]) if good else content
    [fault] = faults_in(file_of(tmp_path, content, name))
    assert fault.startswith("line 2: ")
    assert said in fault
    assert len(fault) < 1000


def test_all_bad_rows_are_listed_with_all_their_faults(tmp_path: Path) -> None:
    """One error lists every fault of every row with its line and its id, and says that nothing was sent."""
    bad = '{"custom_id": "owl", "prompt": " ", "steps": 99, "step": 1}'
    path = file_of(tmp_path, f'{FOX}\n{bad}\n\nnot JSON\n{FOX}\n{FOX[:-1]}, "n": 9}}')
    with pytest.raises(InvalidRowsError) as caught:
        checked(path)
    error = caught.value
    assert [(row.where, row.custom_id, len(row.faults)) for row in error.rows] == [
        ("line 2", "owl", 3),
        ("line 4", "", 1),
        ("line 6", "5", 1),
    ]
    assert str(error).splitlines()[0] == f"3 invalid rows in {path}, nothing was sent:"
    assert len(str(error).splitlines()) == 6
    assert len(error.faults) == 5
    assert error.billing == "none"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here
    assert (str(again), again.rows, again.count) == (str(error), error.rows, 3)


def test_after_a_bad_row_only_faults_are_looked_for() -> None:
    """No row is handed on behind a bad one, and a fault that a sweep repeats for one row is said once."""
    rows: list[dict[str, object]] = [
        {"prompt": "a"},
        {"prompt": "b", "steps": 99},
        {"prompt": "c"},
        {"prompt": "d", "steps": 99},
    ]
    with open_input(rows, sweep={"seed": [1, 2, 3]}) as source, pytest.raises(InvalidRowsError) as caught:
        list(source.checked(Settings()))
    assert [row.where for row in caught.value.rows] == ["row 2", "row 4"]
    with open_input(rows) as source:
        made = source.checked(Settings())
        assert next(made).custom_id == "1"
        with pytest.raises(InvalidRowsError):
            next(made)


def test_of_very_many_bad_rows_the_first_are_listed() -> None:
    """An error lists 10,000 rows, and counts the others."""
    with pytest.raises(InvalidRowsError, match=r"10,007 invalid rows, nothing was sent") as caught:
        checked({"prompt": ""} for _ in range(10_007))
    assert (caught.value.count, len(caught.value.rows)) == (10_007, 10_000)
    assert str(caught.value).endswith("… and 7 more")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (
            ["fox", "hare", "fox"],
            "row 3 (custom_id 'fox'): custom_id='fox': is the id of row 1 too; every row needs its own",
        ),
        ([None, "hare", "1"], "row 3: custom_id='1': is the id of row 1 too; every row needs its own"),
        (["2", None], "row 2: custom_id='2': is the id of row 1 too; every row needs its own"),
    ],
)
def test_two_rows_do_not_share_an_id(ids: list[str | None], said: str) -> None:
    """An id that comes twice is a fault of the second row, which names the first; the number of a row is its id too."""
    assert faults_in([{"prompt": "a fox", "custom_id": one} for one in ids]) == [said]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.jsonl", "", "has no rows"),
        ("r.jsonl", "\n \n", "has no rows"),
        ("r.csv", "prompt,steps\n", "has no rows"),
        ("r.jsonl.gz", "", "has no rows"),
        ("r.json", f"[{FOX},\n{FOX}]", "is one JSON array; write one object on each line, as `jq -c '.[]'` does"),
        ("r.jsonl", '\ufeff\n [\n{"prompt": "a"}]', "is one JSON array"),
        ("r.json", '{\n  "prompt": "a"\n}\n', "has objects of several lines"),
        ("r.csv", "prompt;steps\na fox;28", "has ';' between its columns; save it with commas"),
        (
            "r.csv",
            "a red fox\na hare",
            "prompt=None: no row has one, and a red fox is no parameter; did you forget the prompt template",
        ),
        ("r.csv", "prompt\tsteps\na fox\t28", r"has '\t' between its columns"),
        ("r.csv", "prompt,steps,steps\na,1,2", "has two columns of one name: 'steps'"),
        ("r.csv", '"prompt\n', "has no line with the names of the columns"),
        ("r.csv", b"caf\xe9\na fox", "is not UTF-8"),
        ("r.csv", "prompt\na fox".encode("utf-16"), "is UTF-16; save it as UTF-8"),
        ("r.csv", b"PK\x03\x04rest", "is a spreadsheet or a zip archive; save it as CSV"),
        ("r.jsonl", b"\x28\xb5\x2f\xfd....", "is packed with zstd"),
        ("r.jsonl.gz", gzip.compress(gzip.compress(FOX.encode())), "is packed with gzip twice"),
        ("r.jsonl.gz", FOX, "ends in .gz, and is not packed with gzip"),
        ("r.jsonl.gz", gzip.compress(FOX.encode())[:-9], "cannot be read"),
        ("r.jsonl.gz", gzip.compress(os.urandom(40_000).hex().encode())[:-20_000], "it is cut off or damaged"),
        ("r.jsonl.gz", gzip.compress(FOX.encode()) + b"more", "it is cut off or damaged"),
        ("r.parquet", FOX, "is no Parquet file, and its format is 'parquet'"),
        ("r.csv", b"PAR1....", "is a Parquet file, and its format is 'csv'"),
        ("r.xml", "<rows/>", "must end in one of '.jsonl'"),
        ("rows", "a fox", "must end in one of '.jsonl'"),
    ],
)
def test_a_file_that_is_no_file_of_rows_is_refused_as_a_whole(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    """What is wrong with all of a file is said once, with what to do."""
    assert said in refusal(file_of(tmp_path, content, name))


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a prompt in place of a path are named with the reason."""
    assert "No such file or directory" in refusal(tmp_path / "missing.csv")
    assert "Is a directory" in refusal(tmp_path)
    assert "cannot be read at its start: [Errno 5] Input/output error" in refusal("/proc/self/mem")
    assert "cannot be opened as a file of rows" in refusal("a red fox in the snow")
    assert "must be one of 'jsonl', 'csv', 'tsv', 'txt', 'parquet'" in refusal(tmp_path / "r.csv", format="xlsx")
    for rows in ({"prompt": "a fox"}, b"rows.csv", 3, None):
        assert "must be a path, '-' for stdin, or an iterable of mappings" in refusal(rows)
    assert "is for files and streams only" in refusal([], format="csv")


def test_a_line_that_is_too_long_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line beyond the limit is not held in memory: it is a fault, and the next line is read."""
    monkeypatch.setattr(records_module, "_LINE_LIMIT", 1000)
    long = json.dumps({"prompt": "x" * 5000})
    faults = faults_in(file_of(tmp_path, f"{FOX}\n{long}\n{FOX}\n{long}"))
    assert [fault.partition(":")[0] for fault in faults] == ["line 2", "line 4"]
    assert all("is longer than" in fault for fault in faults)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """What was read of a file that somebody writes to is half of one file and half of another."""
    path = file_of(tmp_path, f"{FOX}\n{FOX}")
    with open_input(path) as source:
        rows = source.checked(Settings())
        next(rows)
        path.write_text(f"{FOX}\n")
        with pytest.raises(ConfigurationError, match="changed while it was read"):
            list(rows)


# Streams


def through_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let stdin have this content."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (JSONL.encode(), {}),
        (f"\ufeff\r\n{JSONL}".encode(), {}),
        (gzip.compress(JSONL.encode()), {}),
        (CSV.encode(), {"format": "csv"}),
        (CSV.encode(), {}),
        (f"\ufeff\r\n{CSV}".encode(), {}),
    ],
)
def test_stdin_is_read_as_a_file(monkeypatch: pytest.MonkeyPatch, content: bytes, options: dict[str, Any]) -> None:
    """Rows from stdin are JSONL or CSV if they begin so, or what the format says, and may be packed."""
    through_stdin(monkeypatch, content)
    assert as_sent(checked("-", **options)) == BOTH


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"seed\tprompt\n1\ta fox, red\n", ["a fox, red"]),
        (b"prompt\na fox\n", ["a fox"]),
        (b'"prompt","seed"\na fox,1\n', ["a fox"]),
        (b"a prompt, and more\na fox\n", ["a prompt, and more", "a fox"]),
        (b"prompt, in red letters\n", ["prompt, in red letters"]),
    ],
)
def test_stdin_is_a_table_if_its_first_line_names_columns(
    monkeypatch: pytest.MonkeyPatch, content: bytes, prompts: list[str]
) -> None:
    """The names of the columns are not paid for as a prompt, and a prompt with a comma in it is none of them."""
    through_stdin(monkeypatch, content)
    assert [row["prompt"] for row in as_sent(checked("-"))] == prompts


def test_a_template_for_columns_needs_a_format_that_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Text has prompts only: the option that helps is named, once and not for every row."""
    through_stdin(monkeypatch, b"animal,place\nfox,wood\n")
    told = "a line of text is a prompt, and the prompt template uses {animal}; say which format has it (nearest: 'csv')"
    assert told in refusal("-", prompt="a {animal} in the {place}")
    text = file_of(tmp_path, "a fox", name="prompts.txt")
    assert told in refusal(text, prompt="a {animal}")
    assert [row["prompt"] for row in as_sent(checked(text, prompt="oil, {prompt}"))] == ["oil, a fox"]


def test_stdin_is_a_prompt_a_line_if_it_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is a prompt a line, also where the first begins with a bracket, and its rows can be read twice."""
    through_stdin(monkeypatch, b"[oil] a fox\na hare\n")
    with open_input("-") as source:
        assert source.name == "-"
        assert source.fingerprint(Settings())
        for _ in range(2):
            assert [row.params["prompt"] for row in source.rows()] == ["[oil] a fox", "a hare"]


def test_a_stdin_without_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty stdin, a closed one and a terminal say what is wrong, and a terminal is not waited for."""
    through_stdin(monkeypatch, b"")
    assert refusal("-") == "the input '-' has no rows"
    through_stdin(monkeypatch, b'[{"prompt": "a"}]')
    assert "is one JSON array" in refusal("-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "stdin is closed" in refusal("-")
    outer, inner = os.openpty()
    with os.fdopen(outer, "rb"), os.fdopen(inner) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert "read from a terminal: name a file, or pipe the rows in" in refusal("-")


def test_a_fifo_is_read_as_stdin_is(tmp_path: Path) -> None:
    """What a shell makes of `<(…)` is read once into a temporary file."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([sys.executable, "-c", f"open({str(fifo)!r}, 'w').write({JSONL!r})"]):
        assert as_sent(checked(fifo)) == BOTH


# OpenAI's Batch API


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("/v1/images/generations", {"prompt": "a fox", "n": 2}, {"prompt": "a fox", "n": 2}),
        ("/v1/images/generations", {"model": "kontext-max", "prompt": "a fox", "seed": None}, {"prompt": "a fox"}),
        ("/images/generations", {"prompt": "a fox", "size": "1024x1024"}, {"prompt": "a fox", "aspect_ratio": "1:1"}),
        (
            "/v1/images/edits",
            {"prompt": "bluer", "images": [{"image_url": "https://example.com/a.png"}]},
            {
                "model": "black-forest-labs/flux-kontext-max",
                "prompt": "bluer",
                "image": "https://example.com/a.png",
            },
        ),
        ("/v1/flux-2-pro", {"prompt": "a fox", "width": 512}, {"model": "flux-2-pro", "prompt": "a fox", "width": 512}),
    ],
)
def test_the_lines_of_openais_batch_api_are_read_as_they_are(
    tmp_path: Path, url: str, body: dict[str, object], expected: dict[str, object]
) -> None:
    """The id and the body of such a line are the row."""
    path = file_of(tmp_path, BATCH_LINE.format(url=url, body=json.dumps(body)))
    [row] = checked(path)
    assert (row.custom_id, as_sent([row])) == ("fox", [expected])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (BATCH_LINE.format(url="/v1/chat/completions", body="{}"), "url='/v1/chat/completions': must be"),
        (BATCH_LINE.format(url="/v1/images/generations", body='"a fox"'), "body='a fox': must be an object"),
        (BATCH_LINE.format(url="/v1/images/generations", body="{}").replace("POST", "GET"), "method='GET': must be"),
        ('{"method": "POST", "url": "/v1/images/generations"}', "body=None: must be an object"),
        ('{"body": {"prompt": "a fox"}}', "url=None: must be"),
        ('{"url": "/v1/images/generations", "body": {"prompt": "a"}, "n": 2}', "n=2: stands beside the body"),
        (
            BATCH_LINE.format(url="/v1/images/edits", body='{"prompt": "a", "images": [{"file_id": "f"}]}'),
            "must be a path, an http(s) link or a data URI in a batch",
        ),
    ],
)
def test_a_wrong_line_for_openais_batch_api_is_a_fault(tmp_path: Path, line: str, said: str) -> None:
    """A line for another endpoint, or without a body, is not read as something else."""
    assert said in faults_in(file_of(tmp_path, line))[0]


# Options


def test_set_and_sweep_multiply_rows() -> None:
    """`set` replaces a value in each row, None leaves it out; a sweep makes one row for each combination, in order."""
    rows = [{"prompt": "a fox", "steps": 20, "seed": 9}, {"prompt": "a hare", "custom_id": "hare"}]
    made = checked(
        rows, set={"steps": 28, "seed": None}, sweep={"aspect_ratio": ["1:1", "16:9"], "guidance_scale": [2.5, 4]}
    )
    assert [row.custom_id for row in made] == [
        f"{id}/aspect_ratio={ratio}/guidance_scale={scale}"
        for id in ("1", "hare")
        for ratio in ("1:1", "16:9")
        for scale in ("2.5", "4")
    ]
    assert as_sent(made)[1] == {"prompt": "a fox", "aspect_ratio": "1:1", "steps": 28, "guidance_scale": 4}
    assert len(made) == 8


def test_the_id_of_a_swept_row_is_short_and_its_own() -> None:
    """Long texts, and texts with a slash or a line break, have a short name in the id, which does not change."""
    prompts = ["a fox", "a/b", "x" * 100, "x" * 101, "two\nlines"]
    ids = [row.custom_id for row in checked([{}], sweep={"prompt": prompts})]
    assert ids[0] == "1/prompt=a fox"
    assert len({*ids}) == len(prompts)
    assert all(len(id) < 50 and id.count("/") == 1 and id.isprintable() for id in ids)
    assert ids == [row.custom_id for row in checked([{}], sweep={"prompt": prompts})]


@pytest.mark.parametrize(
    ("template", "row", "options", "prompt"),
    [
        ("a {style} {animal}", {"style": "red", "animal": "fox"}, {}, "a red fox"),
        ("{prompt}, {{oil}}", {"prompt": "a {fox}"}, {}, "a {fox}, {oil}"),
        ("fox number {seed}, {steps} steps", {"seed": 7}, {"set": {"steps": 28}}, "fox number 7, 28 steps"),
        ("{style} fox", {}, {"sweep": {"style": ["red"]}}, "red fox"),
        ("{style} fox", {}, {"set": {"style": 2.5}}, "2.5 fox"),
        ("a fox", {"prompt": "a hare"}, {}, "a fox"),
        ("{my column}", {"my column": "a fox"}, {}, "a fox"),
    ],
)
def test_a_prompt_template_takes_the_columns(
    template: str, row: dict[str, object], options: dict[str, Any], prompt: str
) -> None:
    """A column in braces is replaced by its value; columns that are no parameters are not sent."""
    [made] = checked([row], prompt=template, **options)
    assert made.params["prompt"] == prompt
    assert not {"style", "animal", "my column"} & made.params.keys()


def test_a_column_that_the_row_does_not_have_is_a_fault_of_the_row(tmp_path: Path) -> None:
    """An empty cell, or a key that the row lacks, leaves no hole in a prompt; the nearest name is suggested."""
    path = file_of(tmp_path, "stile,prompt\nred,a fox\n,a hare\n", "rows.csv")
    [fault] = faults_in(path, prompt="{stile} {prompt}")
    assert fault.startswith("line 3: prompt='{stile} {prompt}'")
    [fault] = faults_in([{"stile": "red"}], prompt="a {style} fox", sweep={"seed": [1, 2, 3]})
    assert fault.endswith("(nearest: 'stile')")


def test_a_column_that_is_no_parameter_is_said_once(tmp_path: Path) -> None:
    """The fault of a column stands at the first line, not at every row; `unsupported` decides whether it is one."""
    path = file_of(tmp_path, "id,step,quality,prompt\n" + "1,2,hd,a fox\n" * 5, "rows.csv")
    faults = faults_in(path)
    assert [fault.partition(": ")[0] for fault in faults] == ["line 1"] * 3
    assert "did you mean custom_id?" in faults[0]
    assert (
        "line 1: column='step': is no parameter; did you mean steps? (or use {step} in the prompt template" in faults[1]
    )
    rows = checked(path, Settings(unsupported="drop"), unsupported="drop")
    assert as_sent(rows) == [{"prompt": "a fox"}] * 5
    rows = checked(path, Settings(unsupported="send"), unsupported="send")
    assert as_sent(rows)[0] == {"prompt": "a fox", "id": "1", "step": "2", "quality": "hd"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
@pytest.mark.parametrize(
    ("columns", "options", "said"),
    [
        ("animal", {"prompt": "a {anmal}"}, "{anmal} is no column of {path}; did you mean {animal}?"),
        ("animal,stesp", {"prompt": "a {Animal }"}, "{Animal } is no column of {path}; did you mean {animal}?"),
        ("animal,sku", {"prompt": "a {qqq}"}, "{qqq} is no column of {path}; its columns are animal, sku"),
        (
            "animal",
            {"prompt": "a {colur}", "set": {"colour": "red"}},
            "set='colour': is no parameter; did you mean colur?",
        ),
        ("product,colour", {}, "no row has one, and product, colour are no parameters; did you forget"),
        ("steps,notes", {}, "no row has one, and notes is no parameter; did you forget the prompt"),
        ("caption", {"set": {"steps": 9}}, "the prompt template, such as 'a photo of {caption}'?"),
    ],
)
def test_a_template_and_a_file_that_do_not_fit_are_told_once(
    tmp_path: Path, name: str, columns: str, options: dict[str, Any], said: str
) -> None:
    """A column that the template alone has, or a template that is missing, hides no reason behind other faults."""
    text = "\n".join([columns, *[",".join("9" for _ in columns.split(","))] * 50])
    path = file_of(tmp_path, text.replace(",", "\t") if name.endswith("tsv") else text, name)
    refused = refusal(path, **options)
    assert said.replace("{path}", str(path)) in refused
    assert refused.startswith(("prompt=", "set="))
    assert "\n" not in refused


PRODUCTS = ("sku", "notes", "style", "colour", "price", "Product Name", "title", "description", "brand", "stock")


@pytest.mark.parametrize("form", ["csv", "jsonl", "mappings"])
def test_a_template_ignores_the_other_columns_with_one_notice(tmp_path: Path, form: str) -> None:
    """A file of products can be used as it is: one notice names the columns that are not sent."""
    records = [{"animal": one, "steps": 9, **dict.fromkeys(PRODUCTS, "x")} for one in ("fox", "hare")]
    cells = [[str(cell) for cell in record.values()] for record in records]
    rows: object = records
    if form == "csv":
        rows = file_of(tmp_path, "\n".join(map(",".join, [list(records[0]), *cells])), "rows.csv")
    elif form == "jsonl":
        rows = file_of(tmp_path, "\n".join(map(json.dumps, records)))
    with pytest.warns(FluxWarning) as caught:
        made = checked(rows, prompt="a {animal}")
    assert as_sent(made) == [{"steps": 9, "prompt": "a fox"}, {"steps": 9, "prompt": "a hare"}]
    names = ", ".join(PRODUCTS)
    assert [str(one.message) for one in caught] == [
        f"ignored columns, which are neither parameters nor in the prompt template: {names}"
    ]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("sede", "seed"),
        ("Seed", "seed"),
        ("stesp", "steps"),
        ("promt", "prompt"),
        ("img", "image"),
        ("image_path", "image"),
        ("image url", "image"),
        ("weight", "height"),
        ("ratio", "aspect_ratio"),
        ("guidance", "guidance_scale"),
        ("id", "custom_id"),
    ],
)
def test_a_column_close_to_a_parameter_is_not_ignored(tmp_path: Path, column: str, meant: str) -> None:
    """A typo would cost money: such a column is a fault, unless the template uses it or `set` leaves it out."""
    path = file_of(tmp_path, f"animal,{column}\nfox,9\nhare,9\n", "rows.csv")
    said = f"column={column!r}: is no parameter; did you mean {meant}? (or use {{{column}}} in the prompt template"
    [fault] = faults_in(path, prompt="a {animal}")
    assert fault.startswith(f"line 1: {said}")
    both = [{"animal": "fox", column: 9}, {"animal": "hare", column: 9}]
    with pytest.raises(InvalidRowsError) as caught:
        checked(both, prompt="a {animal}")
    assert str(caught.value).splitlines()[1].startswith(f"  rows 1 and 2: {said}")
    for rows in (path, both):
        prompts = [row.params["prompt"] for row in checked(rows, prompt=f"a {{animal}} {{{column}}}")]
        assert prompts == ["a fox 9", "a hare 9"]
        assert as_sent(checked(rows, prompt="a {animal}", set={column: None})) == [
            {"prompt": "a fox"},
            {"prompt": "a hare"},
        ]


def test_an_image_mask_is_never_ignored() -> None:
    """An image that is left out would make one that is paid for and useless."""
    assert "column='mask': is no parameter" in faults_in([{"mask": "a.png"}], prompt="a fox")[0]


def test_a_forgotten_template_is_suggested_for_rows_without_a_first_line(tmp_path: Path) -> None:
    """If no row has a prompt, and keys are no parameters, the error ends with the way out; not if one row has one."""
    rows: list[dict[str, object]] = [{"product": n, "colour": n} for n in range(50)]
    for given in (rows, file_of(tmp_path, "\n".join(map(json.dumps, rows)))):
        with pytest.raises(InvalidRowsError) as caught:
            checked(given)
        lines = str(caught.value).splitlines()
        assert len(lines) == 5
        assert lines[-1].startswith(
            "prompt=None: no row has one, and product, colour are no parameters; did you forget"
        )
        assert len(caught.value.rows) == 50
    with pytest.raises(InvalidRowsError) as caught:
        checked([*rows, {"prompt": "a fox", "colour": 3}])
    assert "forget" not in str(caught.value)


def test_an_empty_value_in_set_leaves_a_column_out(tmp_path: Path) -> None:
    """Without a template a foreign column is a fault, unless `set` leaves it out; another name there is a typo."""
    path = file_of(tmp_path, "prompt,sku\na fox,9\n", "rows.csv")
    assert faults_in(path)[0].startswith("line 1: column='sku': is no parameter; use {sku} in the prompt template")
    assert as_sent(checked(path, set=read_set(["sku="]))) == [{"prompt": "a fox"}]
    assert "set='skus': is no parameter" in refusal(path, set={"skus": None, "sku": None})
    [fault] = faults_in([{"prompt": "a fox", "strength": 1}])
    assert "leave it out, or set unsupported= of the client to 'warn', 'drop' or 'send'" in fault


def test_faults_with_one_cause_are_told_once(tmp_path: Path) -> None:
    """The message names the first lines of a fault and counts the others; the error has every row."""
    cells = ["red", "", "red", *[""] * 9]
    path = file_of(tmp_path, "product,colour\n" + "".join(f"shoe,{cell}\n" for cell in cells), "rows.csv")
    with pytest.raises(InvalidRowsError) as caught:
        checked(path, prompt="{product}, {colour}")
    [heading, line] = str(caught.value).splitlines()
    assert heading.startswith("10 invalid rows in ")
    assert line.startswith("  lines 3, 5, 6 and 7 more: prompt='{product}, {colour}': uses {colour}, which")
    assert [row.where for row in caught.value.rows] == [f"line {n}" for n in (3, *range(5, 14))]
    rows = [{"prompt": "a", "steps": steps, "custom_id": f"r{n}"} for n, steps in enumerate([99, 1, 99, 99, 98, 99])]
    with pytest.raises(InvalidRowsError) as caught:
        checked(rows)
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  rows 1, 3, 4 and 6",
        "  row 5 (custom_id 'r4')",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sweep": {"seed": []}}, "sweep='seed': must have at least one value"),
        ({"sweep": {"seed": [1, 2, 1]}}, "sweep='seed=1': comes twice: the same row would be made and paid for again"),
        ({"sweep": {"guidance_scale": [2, 2.0]}}, "comes twice"),
        ({"sweep": {"seed": "123"}}, "sweep='seed=123': must be a list of values"),
        ({"sweep": {"seeds": [1, 2]}}, "sweep='seeds': is no parameter; did you mean seed?"),
        ({"sweep": {"steps": [20, 99]}}, "sweep='steps=99': must be an integer from 1 to 50 (nearest: 50)"),
        ({"sweep": {"seed": [1]}, "set": {"seed": 2}}, "sweep='seed': is in set too; give it once"),
        ({"sweep": {"custom_id": ["a"]}}, "sweep='custom_id': is the id of one row"),
        ({"sweep": {"steps": ["lots"]}}, "sweep='steps=lots': must be an integer from 1 to 50"),
        ({"set": {"steps": "lots"}}, "set='steps=lots': must be an integer from 1 to 50"),
        ({"set": {"sku": "7"}}, "set='sku': is no parameter; leave it out, or use {sku} in the prompt template"),
        ({"sweep": [1, 2]}, "must be a mapping of parameter names to values"),
        ({"set": {"step": 28}}, "set='step': is no parameter; did you mean steps?"),
        ({"set": {"steps": "28"}}, "set='steps=28': must be an integer from 1 to 50, not text (nearest: 28)"),
        ({"set": {"n": 8}}, "set='n=8': must be an integer from 1 to 4; for more images, add rows, or sweep the seed"),
        ({"set": {"model": "kontext-mx"}}, "(nearest: 'kontext-max')"),
        ({"set": {"image": "missing.png"}}, "missing.png': cannot be read as a file: No such file"),
        ({"sweep": {"input_image": [b"bytes"]}}, "sweep='input_image=<bytes>': is no PNG, JPEG, WebP or GIF"),
        ({"set": {"prompt": " "}}, "is required and must be text that is not blank"),
        ({"set": {"extra_headers": {"a": "b"}}}, "set default_headers= on the client"),
        ({"prompt": " "}, "prompt=' ': must be text that is not blank"),
        ({"prompt": 5}, "prompt=5: must be text that is not blank"),
        ({"prompt": "a {style"}, "is no template: expected '}' before end of string"),
        ({"prompt": "a fox}"}, "is no template: Single '}' encountered"),
        ({"prompt": "a {} fox"}, "in braces stands the name of a column"),
        ({"prompt": "a {0} fox"}, "in braces stands the name of a column"),
        ({"prompt": "{a.__class__}"}, "in braces stands the name of a column"),
        ({"prompt": "{a[0]}"}, "in braces stands the name of a column"),
        ({"prompt": "{a!r:>10}"}, "in braces stands the name of a column"),
    ],
)
def test_a_wrong_option_is_refused_before_a_row_is_read(options: dict[str, Any], said: str) -> None:
    """What would be a fault of every row is said once, with the nearest name or value."""
    rows = iter([{"prompt": "a fox"}])
    assert said in refusal(rows, **options)
    assert next(rows)


def test_the_command_s_options_are_read_by_the_type_of_their_parameter() -> None:
    """`--set` and `--sweep` take names with dashes too, and texts with commas as a JSON list."""
    assert read_set(["steps=28", "guidance-scale=2.5", "prompt=a=b, c", "negative_prompt="]) == {
        "steps": 28,
        "guidance_scale": 2.5,
        "prompt": "a=b, c",
        "negative_prompt": None,
    }
    assert read_sweep(["seed=1, 2,-1", 'prompt=["a, b", "c"]', "aspect_ratio=16:9,1:1"]) == {
        "seed": [1, 2, -1],
        "prompt": ["a, b", "c"],
        "aspect_ratio": ["16:9", "1:1"],
    }


@pytest.mark.parametrize(
    ("read", "options", "said"),
    [
        (read_set, ["steps"], "set='steps': must be name=value, such as steps=28"),
        (read_set, ["=28"], "must be name=value"),
        (read_set, ["steps=1", "steps=2"], "is the second one for steps; give it once"),
        (read_sweep, ["seed"], "sweep='seed': must be name=value, such as seed=1,2,3"),
        (read_sweep, ["seed="], "must be values with commas between them"),
        (read_sweep, ["steps=1..5"], "must be values with commas between them; write steps=1,2,3,4,5"),
        (read_sweep, ["seed=3 - 1"], "write seed=3,2,1"),
        (read_sweep, ["guidance_scale=2:4"], "write guidance_scale=2,3,4"),
        (read_sweep, ["seed=1...100000000"], "write seed=1,2,…,100000000"),
        (read_sweep, ["seed=1,,2"], "must be values with commas between them"),
        (read_sweep, ["seed=[1,"], "is no JSON list"),
        (read_sweep, ["seed=1", "seed=2"], "is the second one for seed"),
    ],
)
def test_a_wrong_option_of_the_command_is_named(
    read: Callable[[list[str]], object], options: list[str], said: str
) -> None:
    """An option that cannot be read is repeated with the form that it must have."""
    with pytest.raises(ConfigurationError) as caught:
        read(options)
    assert said in str(caught.value)


# Images


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a.png", ["a.png"]),
        ("a.png; ../b.png", ["a.png", "../b.png"]),
        ('["a;b.png", "a.png"]', ["a;b.png", "a.png"]),
        ("https://example.com/x.png;a.png", ["https://example.com/x.png", "a.png"]),
        ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA", ["data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"]),
    ],
)
def test_images_are_found_beside_the_file(tmp_path: Path, cell: str, expected: list[str]) -> None:
    """A relative path is one from the folder of the file; `images` takes several, with ";" between them or as JSON."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    for path in (folder / "a.png", tmp_path / "b.png", folder / "a;b.png"):
        path.write_bytes(PNG)
    quoted = cell.replace('"', '""')
    path = file_of(folder, f'model,prompt,images\nkontext-max,combine,"{quoted}"\n', "rows.csv")
    [row] = checked(path)
    assert row.params["images"] == [
        one if ":" in one else os.path.normpath(os.path.join(folder, one))  # noqa: PTH118  # keeps ".." apart
        for one in expected
    ]
    assert row.model.id == "black-forest-labs/flux-kontext-max/multi"
    json.dumps(row.params, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "cell", "said"),
    [
        ("image", "a.png;b.png", "image holds one file; for several files, name the column images and put ; between"),
        ("image", "a.png, b.png", "image holds one file; for several files, name the column images"),
        ("image", '["a.png", "b.png"]', "image holds one file; for several files, name the column images"),
        ("input_image", "a.png; b.png", "for several files, name the column images and put ; between them"),
        ("images", "a.png,b.png", "for several files, name the column images and put ; between them"),
    ],
)
def test_several_files_in_one_cell_are_explained(tmp_path: Path, name: str, cell: str, said: str) -> None:
    """A cell that names several files where one is expected says which column takes them."""
    file_of(tmp_path, PNG, "a.png")
    quoted = cell.replace('"', '""')
    model = "kontext-pro" if name == "image" else "flux-2-pro"
    path = file_of(tmp_path, f'model,prompt,{name}\n{model},combine,"{quoted}"\n', "rows.csv")
    [fault] = faults_in(path)
    assert f"No such file or directory; {said}" in fault
    assert said in refusal(path, set=read_set([f"{name}={cell}"]))


def test_the_parameters_of_a_checked_row_are_those_of_its_call(tmp_path: Path) -> None:
    """What was checked can be sent as it is: the service gets the image of the path, and the full name of the model."""
    file_of(tmp_path, PNG, "a.png")
    path = file_of(tmp_path, '{"prompt": "bluer", "image": "a.png", "size": "1024x1024", "model": "flux-dev"}')
    [row] = checked(path, Settings(defaults={"steps": 12, "aspect_ratio": "16:9"}))
    assert row.params == {
        "model": "black-forest-labs/flux.1-dev",
        "prompt": "bluer",
        "image": str(tmp_path / "a.png"),
        "size": "1024x1024",
        "steps": 12,
    }
    emulator = Emulator()
    emulator.client().images.generate(**cast("dict[str, Any]", row.params))
    [request] = emulator.requests
    sent = cast("dict[str, Any]", request.body)
    assert sent["image"].startswith("data:image/png;base64,iVBOR")
    assert {k: v for k, v in sent.items() if k != "image"} == {k: v for k, v in row.params.items() if k != "image"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; convert it first"),
        (b"GIF", "is no PNG, JPEG, WebP or GIF"),
        (None, "cannot be read as a file: No such file"),
        (PNG + bytes(32 * 1024 * 1024), "the images of a call may have 32 MiB together"),
    ],
)
def test_a_file_that_is_no_image_is_a_fault_of_its_row(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Before the first request it is known that every image is there, is an image and is not too large."""
    if content is not None:
        file_of(tmp_path, content, "bad.png")
    file_of(tmp_path, PNG, "good.png")
    lines = "".join(f'{{"prompt": "bluer", "image": "{name}.png"}}\n' for name in ("good", "bad", "good"))
    [fault] = faults_in(file_of(tmp_path, lines))
    assert fault.startswith("line 2: image='")
    assert f"/bad.png': {said}" in fault


def test_image_files_are_not_read_by_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a row reads the beginning of an image: a thousand large ones take no time and no memory."""
    with (tmp_path / "large.png").open("wb") as file:
        file.write(PNG)
        file.truncate(30 * 1024 * 1024)
    tracemalloc.start()
    rows = checked(
        [{"prompt": f"fox {n}", "images": [str(tmp_path / "large.png")], "model": "flux-2-pro"} for n in "ab"]
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 2
    assert peak < 5 * 1024 * 1024


def test_images_that_no_file_can_hold_are_refused(tmp_path: Path) -> None:
    """Bytes and open files of a program cannot be kept until the row is sent; a pathlib.Path is a path."""
    file_of(tmp_path, PNG, "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        for image in (PNG, file, [PNG]):
            assert "must be a path, an http(s) link or a data URI in a batch" in faults_in([{"image": image}])[0]
    [row] = checked([{"prompt": "bluer", "image": tmp_path / "a.png"}])
    assert row.params["image"] == str(tmp_path / "a.png")
    plain = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    [row] = checked([{"prompt": "bluer", "model": "flux-2-pro", "input_image": plain}])
    assert row.params["images"] == [f"data:image/png;base64,{plain}"]


# Rows of a program


def test_rows_of_a_program_are_checked_as_those_of_a_file() -> None:
    """Mappings are rows, None counts as left out, and notices go along with the row."""
    rows = checked(iter([{"prompt": "a fox", "seed": None}, {"prompt": "a hare", "seed": 2**40}]))
    assert [(row.custom_id, row.where) for row in rows] == [("1", "row 1"), ("2", "row 2")]
    assert [len(row.notices) for row in rows] == [0, 1]
    assert checked([]) == []
    assert "row 2: row='str': must be an object" in faults_in([{"prompt": "a"}, "a fox"])[0].replace("'a fox'", "'str'")
    assert "must be an object" in faults_in([{1: "a fox"}])[0]


def test_rows_that_differ_in_the_prompt_only_are_checked_as_each_alone() -> None:
    """The short way for rows that are alike gives what the long one gives, and lets no wrong prompt through."""
    rows = [{"prompt": p, "steps": s} for p in ("a", " ", "é", "b\ud800", "") for s in (1, True, 1.0, 28)]
    maker = RowMaker.of()

    def alone(row: Row) -> object:
        try:
            return check(row, Settings())
        except InvalidParamsError as error:
            return tuple(map(str, error.faults))

    single = {
        row.where: alone(row)
        for number, record in enumerate(rows, start=1)
        for row in maker.rows_of(record, number=number, where=f"row {number}")
    }
    with pytest.raises(InvalidRowsError) as caught:
        checked(rows)
    assert {row.where: tuple(map(str, row.faults)) for row in caught.value.rows} == {
        where: found for where, found in single.items() if isinstance(found, tuple)
    }
    good = [record for record, found in zip(rows, single.values(), strict=True) if isinstance(found, CheckedRow)]
    assert [(row.params, row.model, row.images) for row in checked(good)] == [
        (found.params, found.model, found.images) for found in single.values() if isinstance(found, CheckedRow)
    ]


def test_a_fingerprint_changes_with_all_that_makes_the_rows(tmp_path: Path) -> None:
    """The same file with the same options has one fingerprint; another byte, option or default has another."""
    path, settings = file_of(tmp_path, FOX), Settings()

    def of(settings: Settings = settings, **options: Any) -> str | None:  # noqa: ANN401  # some are wrong on purpose
        with open_input(path, **options) as source:
            return source.fingerprint(settings)

    first = of()
    assert first is not None
    assert first == of()
    others = [
        of(set={"steps": 20}),
        of(sweep={"seed": [1]}),
        of(sweep={"seed": [2]}),
        of(prompt="{prompt}!"),
        of(Settings(defaults={"steps": 20})),
        of(Settings(unsupported="drop")),
    ]
    path.write_text(f"{FOX}\n")
    others.append(of())
    assert len({first, *others}) == 8
    with open_input([{}]) as source:
        assert source.fingerprint(settings) is None


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Ten times the rows take the same memory."""

    def peak(count: int) -> int:
        path = file_of(tmp_path, "".join(f'{{"prompt": "fox {n}", "custom_id": "fox-{n}"}}\n' for n in range(count)))
        tracemalloc.start()
        with open_input(path) as source:
            assert sum(1 for _ in source.checked(Settings())) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(10_000) < 1.2 * peak(1000) + 100_000


# Parquet


def test_a_parquet_file_without_its_extra_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lacks pyarrow is told what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = file_of(tmp_path, b"PAR1....", "rows.parquet")
    assert "a Parquet file needs the extra 'parquet': pip install 'flux-openai[parquet]' (" in refusal(path)


def test_a_parquet_file_gives_the_same_rows(tmp_path: Path) -> None:
    """Null is left out, and a whole number in a column of floats is a whole number."""
    pyarrow = pytest.importorskip("pyarrow", reason="comes with the extra")
    parquet = pytest.importorskip("pyarrow.parquet", reason="comes with the extra")
    columns = {
        "custom_id": [None, "hare"],
        "prompt": [row["prompt"] for row in BOTH],
        "steps": pyarrow.array([28.0, None], pyarrow.float64()),
        "guidance_scale": [2.5, 3.0],
        "seed": [None, 7],
    }
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    rows = checked(path)
    assert as_sent(rows) == BOTH
    assert [(row.custom_id, row.where) for row in rows] == [("1", "row 1"), ("hare", "row 2")]
    parquet.write_table(pyarrow.table({**columns, "steps": [28.5, 0], "step": [1, 2]}), path)
    assert [fault.partition("=")[0] for fault in faults_in(path)] == [
        "its schema: step",
        "row 1: steps",
        "row 2 (custom_id 'hare'): steps",
    ]
    content = path.read_bytes()
    assert "cannot be read" in refusal(file_of(tmp_path, content[: len(content) // 2], "cut.parquet"))
    assert "is a Parquet file inside of gzip" in refusal(file_of(tmp_path, gzip.compress(content), "rows.parquet.gz"))
