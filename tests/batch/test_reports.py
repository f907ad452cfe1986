"""The reports of a batch, and the check of its files."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from flux_openai.batch.ledger import BatchItem, RowError, SavedFile, State
from flux_openai.batch.results.reports import Verification, verify, write_reports
from flux_openai.errors import SaveError
from flux_openai.models import Price

MODEL = "black-forest-labs/flux.1-dev"
REFUSED = RowError(type="FluxBadRequestError", message="refused", code="param_error", status=400)


def row(seq: int, state: State = State.DONE, **changes: object) -> BatchItem:
    """A row of a ledger."""
    params = {"model": MODEL, "seed": 7, "prompt": f"fox {seq}"}
    made = BatchItem(
        seq=seq, custom_id=f"id-{seq}", params=params, model=MODEL, images=1, where=f"line {seq}", state=state, key="k"
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the fields of a row


@dataclass(frozen=True)
class RowList:
    """Rows from memory, in place of a ledger."""

    rows: list[BatchItem]

    def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
        return (each for each in self.rows if not states or each.state in states)


@dataclass(frozen=True)
class Done:
    """The report of a run."""

    done: int = 1
    cost: Price | None = None
    stopped: str | None = None
    notices: tuple[str, ...] = ()


def lines(path: Path) -> list[dict[str, object]]:
    """The records of a JSONL file, by the ends of lines that every reader knows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_finished_row_is_a_line_of_the_manifest(tmp_path: Path) -> None:
    """The manifest has all that is known about each finished row; a row that is on its way is one of the errors."""
    file = SavedFile(path="images/0000/000001_0.png", sha256="ab", bytes=9, mime_type="image/png", width=8, height=4)
    done = row(1, files=(file,), cost=Price.of("0.10 CNY"), request_id="req-1", created="2026-11-26T13:00:00+00:00")
    rows = [done, *(row(seq, state) for seq, state in enumerate((State.PENDING, State.SENT, State.ANSWERED), start=2))]
    write_reports([RowList(rows)], tmp_path, Done())
    assert [(line["row"], line["state"]) for line in lines(tmp_path / "errors.jsonl")] == [(3, "sent")]
    assert lines(tmp_path / "manifest.jsonl") == [
        {
            "row": 1,
            "custom_id": "id-1",
            "model": MODEL,
            "params": {"prompt": "fox 1", "seed": 7},
            "seed": 7,
            "files": [
                {
                    "path": "images/0000/000001_0.png",
                    "sha256": "ab",
                    "bytes": 9,
                    "mime_type": "image/png",
                    "width": 8,
                    "height": 4,
                }
            ],
            "missing": 0,
            "request_id": "req-1",
            "created": "2026-11-26T13:00:00+00:00",
            "cost": "0.10 CNY",
            "attempts": 0,
        }
    ]


def test_a_failed_and_a_held_row_are_lines_of_the_errors(tmp_path: Path) -> None:
    """The errors have each row that failed or is held, with its reason, its place in the input and its bill."""
    lost = RowError(type="FluxTimeoutError", message="no answer", billing="unknown")
    rows = [row(1, State.FAILED, error=REFUSED), row(2), row(3, State.HELD, error=lost, attempts=1)]
    write_reports([RowList(rows)], tmp_path, Done())
    found = lines(tmp_path / "errors.jsonl")
    assert [(each["row"], each["where"], each["state"], each["attempts"]) for each in found] == [
        (1, "line 1", "failed", 0),
        (3, "line 3", "held", 1),
    ]
    assert found[0]["error"] == {
        "type": "FluxBadRequestError",
        "message": "refused",
        "code": "param_error",
        "status": 400,
        "billing": "none",
    }


def test_the_report_has_the_numbers_of_the_run(tmp_path: Path) -> None:
    """`report.json` has the fields of the report, and says by what and when it was written."""
    write_reports([RowList([])], tmp_path, Done(cost=Price(amount=Decimal("1.50"), currency="CNY"), notices=("a",)))
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report.pop("library").startswith("flux-openai")
    assert report.pop("written").endswith("+00:00")
    assert report == {"done": 1, "cost": "1.50 CNY", "stopped": None, "notices": ["a"]}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"image": "/home/me/fox.png"}, {"image": "/home/me/fox.png"}),
        ({"image": "https://a.example/fox.png"}, {"image": "https://a.example/fox.png"}),
        ({"image": "https://a.example/fox.png?sig=s3cret"}, {"image": "https://a.example/fox.png?[redacted]"}),
        ({"image": "https://me:s3cret@a.example/fox.png"}, {"image": "https://[redacted]@a.example/fox.png"}),
        ({"image": "data:image/png;base64,s3cret"}, {"image": "<image/png, 28 characters>"}),
        (
            {"images": ["/a.png", "https://a.example/?k=s3cret"]},
            {"images": ["/a.png", "https://a.example/?[redacted]"]},
        ),
        ({"webhook": "https://a.example/s3cret", "api_key": "s3cret"}, {}),
    ],
)
def test_no_signature_and_no_key_is_written(given: dict[str, object], shown: dict[str, object], tmp_path: Path) -> None:
    """Links come without their queries, images without their bytes, and options that no model has do not come."""
    params = {"prompt": "fox", **given}
    rows = [row(1, params=params, links=("https://a.example/1?sig=s3cret",)), row(2, State.FAILED, params=params)]
    write_reports([RowList(rows)], tmp_path, Done())
    written = [*lines(tmp_path / "manifest.jsonl"), *lines(tmp_path / "errors.jsonl")]
    assert [each["params"] for each in written] == [{"prompt": "fox", **shown}] * 2
    assert not [path for path in tmp_path.iterdir() if "s3cret" in path.read_text()]


def test_each_row_is_one_line_whatever_its_prompt_holds(tmp_path: Path) -> None:
    """No character of a prompt ends a line or breaks the file, and the prompt is read back as it was."""
    prompts = ["a\nb", "a\u2028b\u2029c\x85d", "\0\x1b[0m", "港口", "half \ud83d", '"}\\']
    rows = [row(seq, params={"prompt": prompt}) for seq, prompt in enumerate(prompts, start=1)]
    write_reports([RowList(rows)], tmp_path, Done())
    assert [each["params"] for each in lines(tmp_path / "manifest.jsonl")] == [{"prompt": each} for each in prompts]


def test_several_ledgers_make_one_manifest(tmp_path: Path) -> None:
    """The rows of shards come in the order in which one process would have written them."""
    shards = [RowList([row(1), row(2), row(5)]), RowList([]), RowList([row(3), row(4)])]
    write_reports(iter(shards), tmp_path / "shards", Done())
    write_reports([RowList([row(seq) for seq in range(1, 6)])], tmp_path / "one", Done())
    written = [(tmp_path / name / "manifest.jsonl").read_bytes() for name in ("shards", "one")]
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 5


def test_a_report_is_replaced_in_one_step(tmp_path: Path) -> None:
    """After an error half way the old file is as it was, and nothing else is left behind."""

    class Broken:
        def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
            yield row(1)
            raise RuntimeError("the ledger broke")

    write_reports([RowList([row(1), row(2)])], tmp_path, Done())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="the ledger broke"):
        write_reports([Broken()], tmp_path, Done(done=0))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(SaveError, match=r"cannot write '.*manifest\.jsonl': Is a directory"):
        write_reports([RowList([])], tmp_path, Done())


def test_the_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """A manifest of ten times the rows takes no more memory."""

    class Many:
        def __init__(self, count: int) -> None:
            self.count = count

        def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
            return (row(seq) for seq in range(1, self.count + 1))

    def peak(count: int) -> int:
        tracemalloc.start()
        write_reports([Many(count)], tmp_path, Done())
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(3000) < 1.5 * peak(300)


def saved(folder: Path, name: str, data: bytes = b"png") -> SavedFile:
    """A file in the folder of a batch, as its ledger has it."""
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return SavedFile(path=name, sha256=sha256(data).hexdigest(), bytes=len(data))


def test_the_files_of_a_batch_are_verified(tmp_path: Path) -> None:
    """A file that is not there, one that changed, and one that belongs to no row are each named."""
    files = [saved(tmp_path, f"images/0000/00000{number}_0.png") for number in range(1, 5)]
    rows = RowList([row(seq, files=(file,)) for seq, file in enumerate(files, start=1)])
    assert verify([rows], tmp_path) == Verification(files=4, missing=(), changed=(), strays=())
    assert verify([rows], tmp_path).ok

    (tmp_path / files[1].path).unlink()
    (tmp_path / files[2].path).write_bytes(b"other")
    saved(tmp_path, "images/0001/extra.png")
    assert verify([rows], tmp_path) == Verification(
        files=4, missing=(files[1].path,), changed=(files[2].path,), strays=("images/0001/extra.png",)
    )
    assert not verify([rows], tmp_path).ok


@pytest.mark.parametrize(
    ("name", "state", "stray"),
    [
        ("000001-a_0.json", State.DONE, False),
        ("000001-b_0.json", State.DONE, True),
        ("000002-a_0.png", State.ANSWERED, False),
        ("000002_0.png", State.ANSWERED, False),
        ("000002-a_0.png", State.SENT, False),
        ("000002-a_0.png", State.PENDING, True),
        ("000020-a_0.png", State.ANSWERED, True),
        ("000002.txt", State.ANSWERED, True),
    ],
)
def test_a_file_that_a_row_may_have_is_no_stray(name: str, state: State, stray: bool, tmp_path: Path) -> None:  # noqa: FBT001  # a column
    """The metadata beside an image belongs to it, and an image of a row that is not finished yet to that row."""
    rows = RowList([row(1, files=(saved(tmp_path, "images/0000/000001-a_0.png"),)), row(2, state)])
    saved(tmp_path, f"images/0000/{name}")
    assert verify([rows], tmp_path).strays == ((f"images/0000/{name}",) if stray else ())


def test_a_batch_without_images_verifies(tmp_path: Path) -> None:
    """A batch whose rows all failed has no folder of images, and nothing is wrong with that."""
    assert verify([RowList([row(1, State.FAILED)])], tmp_path).ok
