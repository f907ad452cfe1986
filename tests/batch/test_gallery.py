"""The gallery of a batch: its files, and in headless Chromium what it shows."""

import json
import re
import shlex
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from flux_openai import cli
from flux_openai.batch.input.rows import CheckedRow, RowMaker
from flux_openai.batch.ledger import BatchItem, Ledger, RowError, SavedFile, State, Totals
from flux_openai.batch.results import gallery
from flux_openai.batch.results.gallery import write_gallery
from flux_openai.batch.results.reports import verify, write_reports
from flux_openai.errors import Billing, SaveError
from flux_openai.models import FLUX_MODELS, Price

DEV = "black-forest-labs/flux.1-dev"
KONTEXT = "black-forest-labs/flux-kontext-max/text-to-image"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
MALICE = "</script><script>document.title='1'</script><img src=x onerror=\"document.title='2'\">\u2028\u2029&amp;'"
REFUSED = RowError(type="FluxBadRequestError", message="the content check refused it", code="sensitive", status=400)
LOST = RowError(type="FluxTimeoutError", message="no answer came", billing="unknown")


def row(seq: int, state: State = State.DONE, **changes: object) -> BatchItem:
    """A row of a ledger, with a file if it is done."""
    files = (SavedFile(path=f"images/{seq} #1?.png", sha256="0", bytes=1, width=1, height=1),)
    made = BatchItem(
        seq=seq,
        custom_id=f"id-{seq}",
        params={"model": DEV, "prompt": f"fox number {seq}", "seed": seq},
        model=DEV,
        images=1,
        where=f"line {seq}",
        state=state,
        key="k",
        attempts=1,
        cost=Price.of("0.10 CNY") if state is State.DONE else None,
        files=files if state is State.DONE else (),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the fields of a row


@dataclass(frozen=True)
class RowList:
    """Rows from memory, in place of a ledger."""

    rows: list[BatchItem]

    def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
        return iter(self.rows)


def swept(first: int, base: str, **axes: tuple[object, ...]) -> list[BatchItem]:
    """The rows of a sweep."""
    rows = list[BatchItem]()
    for values in product(*axes.values()):
        params = dict(zip(axes, values, strict=True))
        name = base + "".join(f"/{axis}={value}" for axis, value in params.items())
        rows.append(row(first + len(rows), custom_id=name, params={"prompt": f"a swept {base}", **params}))
    return rows


def data_of(page: Path) -> dict[str, Any]:
    """The arguments of the scripts beside a page, by their names."""
    meta = json.loads(page.read_text(encoding="utf-8").partition('id="meta">')[2].partition("</script>")[0])
    found = {"meta": meta}
    for path in (page.parent / meta["data"]).iterdir():
        arguments = path.read_text(encoding="utf-8").partition("(")[2].removesuffix(")")
        found[path.stem] = json.loads(f"[{arguments}]")
    return found


def test_the_data_are_those_of_the_rows(tmp_path: Path) -> None:
    """Pages of rows, text for the search, a letter for each filter, and sweeps: each has every row in its place."""
    rows = [row(1), row(2, State.FAILED, error=REFUSED), *swept(3, "owl", seed=(1, 2), steps=(20, 28)), row(7)]
    data = data_of(write_gallery([RowList(rows)], tmp_path))
    assert data["rows-00000"][1][0] == {
        "i": "id-1",
        "s": "d",
        "m": 0,
        "p": {"prompt": "fox number 1", "seed": 1},
        "f": [["images/1 #1?.png", 1, 1]],
        "c": "0.10 CNY",
        "a": 1,
        "w": "line 1",
    }
    assert len(data["rows-00000"][1]) == 7
    assert data["search-00000"][1].split("\n")[1] == (
        "id-2 fox number 2 seed=2 black-forest-labs/flux.1-dev the content check refused it"
        " fluxbadrequesterror sensitive 400"
    )
    assert data["facets"] == ["d0-f00" + "d0-" * 5]
    assert data["sweeps"] == [[["owl", ["seed", "steps"], 2, 4]]]
    assert data["meta"]["states"] == {"d": 6, "f": 1}
    assert data["meta"]["cost"] == ["0.60 CNY"]


@dataclass(frozen=True)
class Many:
    """So many rows, which are made when they are asked for."""

    count: int

    def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
        return (row(seq) for seq in range(1, self.count + 1))


@pytest.mark.parametrize(
    ("state", "billing", "cost"),
    [
        (State.DONE, "none", ["0.10 CNY"]),
        (State.ANSWERED, "none", ["0.10 CNY"]),
        (State.FAILED, "paid", ["0.10 CNY"]),
        (State.FAILED, "unknown", []),
        (State.FAILED, "none", []),
        (State.HELD, "unknown", []),
        (State.SENT, "none", []),
        (State.PENDING, "none", []),
    ],
)
def test_the_cost_is_what_was_surely_paid(state: State, billing: Billing, cost: list[str], tmp_path: Path) -> None:
    """A row that was not billed, or may not have been, adds nothing; a row that is done has no reason of a failure."""
    rows = [row(1, state, cost=Price.of("0.10 CNY"), error=replace(REFUSED, billing=billing))]
    data = data_of(write_gallery([RowList(rows)], tmp_path))
    assert data["meta"]["cost"] == cost
    assert ("e" in data["rows-00000"][1][0]) == bool(data["meta"]["reasons"]) == (state is not State.DONE)


def test_many_rows_are_split_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond a page are in further files, and the memory does not grow with their number."""
    monkeypatch.setattr(gallery, "_PAGE", 10)
    monkeypatch.setattr(gallery, "_CHUNK", 40)

    def peak(count: int) -> int:
        tracemalloc.start()
        write_gallery([Many(count)], tmp_path)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    assert peak(2000) < 1.2 * peak(200)
    for rows in (205, 200):
        data = data_of(write_gallery([Many(rows)], tmp_path))
        pages, chunks = -(-rows // 10), -(-rows // 40)
        assert len([name for name in data if name.startswith("rows")]) == pages
        assert len([name for name in data if name.startswith("search")]) == chunks
        assert [data[f"rows-{pages - 1:05}"][0], data[f"rows-{pages - 1:05}"][1][-1]["i"]] == [pages - 1, f"id-{rows}"]
        assert data["search-00001"][1].split("\n")[0].startswith("id-41 fox")
        assert data[f"search-{chunks - 1:05}"][1].split("\n")[-1].startswith(f"id-{rows} fox")
        assert len(data["facets"][0]) == 3 * rows


def test_a_new_gallery_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """One folder of data is left; after an error that is the old one, and the old page."""

    class Broken:
        def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
            yield row(1)
            raise RuntimeError("the ledger broke")

    write_gallery([RowList([row(1)])], tmp_path)
    page = write_gallery([RowList([row(1), row(2)])], tmp_path)
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == [data_of(page)["meta"]["data"], "index.html"]
    with pytest.raises(RuntimeError, match="the ledger broke"):
        write_gallery([Broken()], tmp_path)
    assert sorted(path.name for path in page.parent.iterdir()) == names
    assert data_of(page)["meta"]["rows"] == 2


def test_a_gallery_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The error is a SaveError with the reason."""
    (tmp_path / "gallery").write_text("")
    with pytest.raises(SaveError, match=r"cannot write .*: "):
        write_gallery([RowList([row(1)])], tmp_path)


def test_several_ledgers_make_one_gallery(tmp_path: Path) -> None:
    """The rows of shards come in the order of one process."""
    shards = [RowList([row(1), row(4)]), RowList([row(2), row(3)])]
    data = data_of(write_gallery(shards, tmp_path))
    assert [each["i"] for each in data["rows-00000"][1]] == ["id-1", "id-2", "id-3", "id-4"]


def test_nothing_in_the_files_ends_a_script_or_has_a_secret(tmp_path: Path) -> None:
    """Text is escaped in the page and in the scripts; links come without queries, images without their bytes."""
    params = {
        "prompt": MALICE,
        "images": ["https://a.example/x?sig=s3cret", "data:image/png;base64,s3cret"],
        "api_key": "s3cret",
    }
    rows = [row(1, custom_id=MALICE, params=params), row(2, State.FAILED, error=replace(REFUSED, code=MALICE))]
    page = write_gallery([RowList(rows)], tmp_path / MALICE.replace("/", ""))
    texts = [path.read_text(encoding="utf-8") for path in page.parent.rglob("*.*")]
    assert len(texts) == 5
    assert not [text for text in texts if "s3cret" in text]
    assert not [text for text in texts if MALICE in text or "<img" in text]
    assert page.read_text(encoding="utf-8").count("<script") == 2
    scripts = [path.read_text(encoding="utf-8") for path in page.parent.rglob("*.js")]
    assert not [text for text in scripts if re.search("[<>&\x85\u2028\u2029]", text)]
    assert data_of(page)["rows-00000"][1][0]["p"] == {"prompt": MALICE, "images": [None, None]}


@pytest.mark.parametrize(
    ("custom_id", "base", "axes"),
    [
        ("a/seed=1", "a", [("seed", "1")]),
        ("a/b/seed=1/model=flux-1~ab12", "a/b", [("seed", "1"), ("model", "flux-1~ab12")]),
        ("a/animal=red fox/seed=-1", "a", [("animal", "red fox"), ("seed", "-1")]),
        ("a/x=1/x=2", "a/x=1", [("x", "2")]),
        ("a/seed=1/b", None, None),
        ("seed=1", None, None),
        ("a=b", None, None),
        ("17", None, None),
    ],
)
def test_axes_are_read_from_the_end_of_an_id(
    custom_id: str, base: str | None, axes: list[tuple[str, str]] | None, tmp_path: Path
) -> None:
    """An id that ends in names and values is one of a sweep; one row alone is no sweep."""
    rows = [row(1, custom_id=custom_id), row(2, custom_id=custom_id)]
    data = data_of(write_gallery([RowList(rows)], tmp_path))
    assert data["rows-00000"][1][0].get("x") == (None if axes is None else [value for _, value in axes])
    assert data["sweeps"] == [[] if axes is None else [[base, [name for name, _ in axes], 0, 2]]]
    assert data_of(write_gallery([RowList(rows[:1])], tmp_path))["sweeps"] == [[]]


def test_the_ids_that_a_sweep_makes_are_read_as_its_axes(tmp_path: Path) -> None:
    """Whatever the values are, the rows of one record are one sweep; also out of a ledger, which drew their seeds."""
    sweep: dict[str, Sequence[object]] = {
        "model": ["flux-dev", KONTEXT],
        "guidance_scale": [2.0, 2.5],
        "prompt": ["a / b", "x=1, y", "/seed=1"],
    }
    made = RowMaker.of(sweep=sweep).rows_of({"custom_id": "a/b"}, number=1, where="line 1")
    model = FLUX_MODELS[DEV]
    rows = [CheckedRow(custom_id=r.custom_id, params=r.params, model=model, images=1, where=r.where) for r in made]
    with Ledger.open(tmp_path, create=True) as ledger:
        ledger.add(rows)
        data = data_of(write_gallery([ledger], tmp_path))
        write_reports([ledger], tmp_path, Totals())
        assert verify([ledger], tmp_path).ok
    assert data["sweeps"] == [[["a/b", ["model", "guidance_scale", "prompt"], 0, 12]]]
    shown = data["rows-00000"][1]
    assert [each["x"][1] for each in shown[::3]] == ["2", "2.5"] * 2
    assert len({tuple(each["x"]) for each in shown}) == 12
    assert all("seed" in each["p"] and each["s"] == "p" for each in shown)


class Browser:
    """Chromium without a window, by the WebDriver protocol."""

    _FLAGS = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    )

    def __init__(self, port: int, chromium: str, profile: Path) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._session = ""
        options = {"binary": chromium, "args": [*self._FLAGS, f"--user-data-dir={profile}", "--window-size=1200,900"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        started = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{started['sessionId']}"

    def quit(self) -> None:
        """End the browser."""
        self._ask("DELETE", "", None)
        self._connection.close()

    def _post(self, path: str, body: object) -> Any:  # noqa: ANN401  # JSON
        return self._ask("POST", path, json.dumps(body))

    def _ask(self, method: str, path: str, body: str | None) -> Any:  # noqa: ANN401  # JSON
        self._connection.request(method, self._session + path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        value = json.loads(answer.read())["value"]
        assert answer.status == 200, value
        return value

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401  # JSON
        """What a script returns, or what it hands to `done`."""
        return self._post("/execute/sync", {"script": script, "args": arguments})

    def show(self, page: Path, fragment: str) -> None:
        """Go to a fragment of a page that is open, or else open it, and wait until it has drawn."""
        if self.run("return location.href").partition("#")[0] != page.as_uri():
            self.open(page)
        # No event comes if it is the same fragment.
        self.run(
            "const { dataset } = document.documentElement, { ready } = dataset, { href } = location;"
            "delete dataset.ready; location.hash = arguments[0]; if (location.href === href) dataset.ready = ready;",
            fragment,
        )
        self.wait("document.documentElement.dataset.ready")

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a page anew, and wait until it has drawn."""
        self._post("/url", {"url": "about:blank"})
        self._post("/url", {"url": page.as_uri() + fragment})
        self.wait("document.documentElement.dataset.ready")

    def wait(self, condition: str) -> None:
        """Wait until a condition is true."""
        poll = f"const done = arguments[0]; (function look() {{ {condition} ? done(1) : setTimeout(look, 5); }})();"
        self._post("/execute/async", {"script": poll, "args": []})

    def press(self, keys: str) -> None:
        """Press and release keys, one after another."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def texts(self, selector: str) -> list[str]:
        """The texts of elements, as they are displayed."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector
        )
        return found

    def problems(self) -> list[str]:
        """What the console of the browser has said since it was asked last."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests of this file; without one they are skipped."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    command = [driver, "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ports = (re.search(r"started successfully on port (\d+)", line) for line in process.stdout)
        port = next(int(found[1]) for found in ports if found)
        started = Browser(port, chromium, tmp_path_factory.mktemp("profile"))
        yield started
        started.quit()
        process.terminate()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of a batch with a bit of everything."""
    folder = tmp_path_factory.mktemp("gallery") / "<b>out & about"
    rows = [
        row(1, params={"prompt": "a red fox", "seed": 2**53 + 1}),
        row(2, State.FAILED, error=REFUSED, params={"prompt": "a forbidden hare"}),
        row(3, State.HELD, error=LOST),
        row(4, State.PENDING),
        row(5, State.FAILED, custom_id=MALICE, params={"prompt": MALICE}, error=replace(REFUSED, message=MALICE)),
        row(6, model=KONTEXT, params={"prompt": "CAFÉ\u0301 Ünïcode 港口"}, request_id="req-6"),
        *swept(7, "owl", seed=(1, 2, 3), guidance_scale=(2, 4)),
        *swept(13, "elk", seed=(1, 2), steps=(20, 28), size=("256x256", "512x512")),
        row(21, files=tuple(replace(row(21).files[0], path=f"images/21_{index}.png") for index in range(4))),
    ]
    (folder / "images").mkdir(parents=True)
    for file in (file for each in rows for file in each.files):
        (folder / file.path).write_bytes(PIXEL)
    (folder / rows[-1].files[3].path).unlink()
    return write_gallery([RowList(rows)], folder)


def test_the_page_shows_every_row(browser: Browser, page: Path) -> None:
    """Opened from disk it shows the rows with their images, asks for nothing outside, and the console stays empty."""
    browser.open(page)
    assert browser.texts("h1") == [page.parents[1].name]
    assert browser.texts("#summary")[0].startswith("20 images · 17 of 21 rows done · 1.70 CNY")
    assert browser.texts("#found") == ["21 rows"]
    assert browser.texts("#states a") == ["All21", "Done17", "Failed2", "Held1", "Open1"]
    assert browser.texts(".card")[1].split("\n")[:3] == ["Failed", "the content check refused it", "a forbidden hare"]
    browser.wait("document.querySelector('.card img').complete")
    assert browser.run("return document.querySelector('.card img').naturalWidth") == 1
    schemes = browser.run(
        "return [...new Set(performance.getEntriesByType('resource').map((e) => e.name.split(':')[0]))]"
    )
    assert schemes in ([], ["file"])
    assert browser.problems() == []


@pytest.mark.parametrize(
    ("fragment", "found", "ids"),
    [
        ("#q=forbidden", "1 row", ["id-2"]),
        ("#q=FOX+number+3", "1 row", ["id-3"]),
        ("#q=%22number+fox%22", "", []),
        ("#q=cafÉ%CC%81", "1 row", ["id-6"]),
        ("#q=港口", "1 row", ["id-6"]),
        ("#q=req-6", "1 row", ["id-6"]),
        ("#q=seed%3D9007199254740993", "1 row", ["id-1"]),
        ("#q=steps%3D28+size%3D512x512+seed%3D2", "1 row", ["elk/seed=2/steps=28/size=512x512"]),
        ("#q=refused", "1 row", ["id-2"]),
        ("#state=failed", "2 rows", ["id-2", MALICE]),
        ("#state=held", "1 row", ["id-3"]),
        ("#state=open", "1 row", ["id-4"]),
        ("#state=failed&q=hare", "1 row", ["id-2"]),
        ("#state=held&q=hare", "", []),
        (f"#model={KONTEXT}", "1 row", ["id-6"]),
        ("#model=other", "", []),
        ("#reason=FluxTimeoutError", "1 row", ["id-3"]),
        ("#page=99&q=forbidden", "1 row", ["id-2"]),
        ("#page=x&q=forbidden&row=y", "1 row", ["id-2"]),
    ],
)
def test_rows_are_searched_and_filtered_by_the_address(
    fragment: str, found: str, ids: list[str], browser: Browser, page: Path
) -> None:
    """Each view has an address; a search is without regard to case, for all of its words, and in quotes for a text."""
    browser.show(page, fragment)
    assert browser.texts("#found") == [found]
    assert browser.run("return [...document.querySelectorAll('.facts > span:first-child')].map((e) => e.title)") == ids
    assert browser.run("return document.querySelectorAll('.empty').length") == (not ids)
    assert browser.problems() == []


def test_text_of_rows_is_never_markup(browser: Browser, page: Path) -> None:
    """What stands in a prompt, an id or an error is displayed as it is, and no script in it runs."""
    for fragment in ("", "#row=5", "#state=failed&row=5"):
        browser.open(page, fragment)
        assert browser.run("return document.title") == f"{page.parents[1].name} \N{EN DASH} gallery"
        assert browser.run("return document.querySelectorAll('script, h1 b, .card script').length") == 2
    shown = browser.run(
        "return ['.about .prompt', '#row-id', '.reason'].map((e) => document.querySelector(e).textContent)"
    )
    assert shown[:2] == [MALICE, MALICE]
    assert MALICE in shown[2]
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
    assert browser.run(f"{injected} return window.ran === undefined")
    assert "Content Security Policy" in browser.problems()[0]


def test_a_sweep_is_a_grid_of_its_axes(browser: Browser, page: Path) -> None:
    """Two axes are the columns and the lines of a table, in the order of the values; they can be swapped."""
    browser.open(page, "#view=sweeps")
    assert browser.texts("#found") == ["2 sweeps"]
    heads = "return [...document.querySelectorAll('.sweep:first-child th')].map((e) => e.textContent)"
    cells = "return [...document.querySelectorAll('.sweep:first-child td a')].map((e) => e.getAttribute('aria-label'))"
    corner = "guidance_scale and seed"
    assert browser.run(heads) == [corner, "seed 1", "seed 2", "seed 3", "guidance_scale 2", "guidance_scale 4"]
    assert browser.run(cells) == [f"owl/seed={seed}/guidance_scale={scale}" for scale in (2, 4) for seed in (1, 2, 3)]
    browser.run("document.querySelector('.axes a').click()")
    browser.wait("document.querySelector('.sweep tbody th').textContent === 'seed 1'")
    assert browser.run("return location.hash") == "#view=sweeps&cols=guidance_scale&rows=seed"
    assert browser.run(cells) == [f"owl/seed={seed}/guidance_scale={scale}" for seed in (1, 2, 3) for scale in (2, 4)]


def test_a_batch_that_is_one_sweep_opens_on_its_grid(browser: Browser, tmp_path: Path) -> None:
    """Its cards are a click away, and show what was swept; a row beside the sweep lets it open on the images."""
    rows = swept(1, "a very long name of an owl", seed=(1, 2), guidance_scale=(2, 4))
    browser.open(write_gallery([RowList(rows)], tmp_path))
    assert (browser.texts("#found"), len(browser.texts("td a"))) == (["1 sweep"], 4)
    assert browser.texts("#views [aria-current=true]") == ["Sweeps"]
    browser.open(tmp_path / "gallery" / "index.html", "#view=images")
    assert browser.texts("#found") == ["4 rows"]
    assert browser.texts(".card .swept") == [
        f"seed {seed}, guidance_scale {scale}" for seed in (1, 2) for scale in (2, 4)
    ]
    assert browser.texts(".facts [title]") == ["a very long name of an owl"] * 4
    browser.open(write_gallery([RowList([*rows, row(5)])], tmp_path))
    assert browser.texts("#found") == ["5 rows"]


def test_the_names_of_axes_are_not_torn_in_a_narrow_window(browser: Browser, tmp_path: Path) -> None:
    """A name is broken after its words and nowhere else: each of its words is on one line."""
    rows = swept(1, "owl", seed=(1, 2, 3), guidance_scale=(2, 4))
    browser.open(write_gallery([RowList(rows)], tmp_path), "#cols=seed&rows=guidance_scale")
    lines = """
        const frame = document.createElement("div");
        frame.style.width = "390px";
        document.querySelector("main").before(frame);
        frame.append(document.querySelector("main"));
        return [...document.querySelectorAll("th[scope=row]")].flatMap((cell) => [...cell.childNodes])
            .filter((node) => node.textContent.trim()).map((node) => {
                const range = document.createRange();
                range.selectNodeContents(node);
                return new Set([...range.getClientRects()].map((box) => box.top)).size;
            });
    """
    assert set(browser.run(lines)) == {1}


def test_a_sweep_of_three_axes_has_one_value_of_the_third(browser: Browser, page: Path) -> None:
    """Which axes are shown, and which value of the others, is chosen, and part of the address."""
    browser.open(page, "#view=sweeps&q=elk&cols=steps&rows=size&at.seed=2")
    cells = "return [...document.querySelectorAll('td a')].map((e) => e.getAttribute('aria-label'))"
    sizes = ("256x256", "512x512")
    assert browser.run(cells) == [f"elk/seed=2/steps={steps}/size={size}" for size in sizes for steps in (20, 28)]
    change = "const s = document.querySelector('.axes label:last-child select'); s.focus(); s.value = '1';"
    browser.run(f"{change} s.dispatchEvent(new Event('change'))")
    browser.wait("document.querySelector('td a').getAttribute('aria-label').includes('seed=1')")
    browser.wait("document.activeElement.value === '1'")  # the focus stays, although the table is another one
    assert browser.texts("#found") == ["1 sweep, 8 rows match"]


def test_rows_of_a_sweep_that_do_not_match_step_back(browser: Browser, page: Path) -> None:
    """A sweep with a row that matches is shown whole; the other rows are faint."""
    browser.open(page, "#view=sweeps&q=owl+seed%3D2+guidance_scale%3D4")
    assert browser.run(
        "return [document.querySelectorAll('td a').length, document.querySelectorAll('.aside').length]"
    ) == [6, 5]


def test_a_row_is_shown_with_all_that_is_known(browser: Browser, page: Path) -> None:
    """The dialog has the parameters, the reason of a failure with its bill, and one image of several by its number."""
    browser.open(page, "#row=1")
    values = browser.texts(".values")[0].split("\n")
    assert [values[values.index("seed") + 1], values[values.index("cost") + 1]] == ["9007199254740993", "0.10 CNY"]
    browser.open(page, "#row=3")
    assert browser.texts(".reason") == ["Held no answer came\n\nFluxTimeoutError — It may be billed."]
    browser.open(page, "#row=21&image=2")
    assert browser.run("return document.querySelector('.pictures > a img').getAttribute('src')") == "../images/21_1.png"
    browser.open(page, "#row=21&image=4")
    browser.wait("document.querySelector('.pictures > a .no')")
    assert browser.texts(".pictures > a") == ["No image\nThe file is not there: images/21_3.png"]
    browser.problems()


def test_the_page_is_used_by_keyboard(browser: Browser, page: Path) -> None:
    """The search, the dialog, its neighbours and the way back need no pointer, and the focus is never lost."""
    enter, left, right, escape = "\ue007", "\ue012", "\ue014", "\ue00c"
    focus = "return document.activeElement.id || document.activeElement.className"
    browser.open(page)
    browser.press("/owl")
    browser.wait("document.getElementById('found').textContent === '6 rows'")
    assert browser.run("return location.hash") == "#q=owl"
    browser.run("document.querySelector('.card').focus()")
    browser.press(enter)
    browser.wait("document.activeElement.id === 'row-id'")
    browser.press(right)
    browser.wait("document.getElementById('row-id').textContent === 'owl/seed=1/guidance_scale=4'")
    browser.press(left)
    browser.wait("document.getElementById('row-id').textContent === 'owl/seed=1/guidance_scale=2'")
    browser.press(escape)
    browser.wait("location.hash === '#q=owl'")
    assert browser.run(focus) == "card"
    browser.run("[...document.querySelectorAll('#states a')][1].focus()")
    browser.press(enter)
    browser.wait("location.hash === '#q=owl&state=done'")
    browser.wait("document.activeElement.dataset.key === 'states Done'")


CALLS: list[dict[str, object]] = [
    {"prompt": "a red fox", "seed": 7, "steps": 28, "guidance_scale": 2.5, "size": "768x512"},
    {"prompt": 'it\'s $(touch pwned) `x` "y" \\ !! 港口 \U0001f98a', "negative_prompt": "--steps=3 'and'"},
    {"prompt": "two\nlines\tand \x1b[201~ an escape, \u202e a mark \x9b and \\n no line"},
    {"prompt": "@file", "n": 3},
    {"prompt": "--help", "seed": -5},
    {"model": KONTEXT, "prompt": "a fox", "aspect_ratio": "16:9", "response_format": "b64_json"},
    {"model": "flux-pro-1.1", "prompt": "a fox", "prompt_upsampling": True, "output_format": "jpeg", "width": 512},
    {"model": "flux-2-pro", "prompt": "a fox", "safety_tolerance": 0},
    {"model": DEV, "prompt": "a fox", "image": "https://a.example/a'b.png", "strength": 0.5},
    {
        "model": "black-forest-labs/flux-kontext-max/multi",
        "prompt": "a",
        "images": ["https://a.example/1", "https://b.example/2"],
    },
]


def test_the_command_makes_the_same_request_again(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell splits the command into words from which the command line makes the request of the row."""
    rows = [
        row(seq, model=str(params.get("model", DEV)), params={"seed": seq, **params})
        for seq, params in enumerate(CALLS, start=1)
    ]
    page = write_gallery([RowList(rows)], tmp_path)
    for number, each in enumerate(rows, start=1):
        browser.show(page, f"#row={number}")
        command = browser.run("return document.getElementById('command').textContent")
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", command)  # pasted into a terminal, they would act at once
        words = words_of(command)
        assert words[0] == "flux-openai"
        assert cli.main([words[1], "--dry-run", "--json", *words[2:]]) == 0
        [request] = json.loads(capsys.readouterr().out)["requests"]
        fields = FLUX_MODELS[each.model].fields
        plain = {name: value for name, value in each.params.items() if name in fields and fields[name].sent_as is None}
        images = {name for name in plain if fields[name].format == "image"}
        assert request | {"model": each.model} == request | {"model": each.model} | {
            name: value for name, value in plain.items() if name not in images
        }
        links = [value for name in images for value in ([plain[name]] if name == "image" else plain[name])]  # type: ignore[attr-defined]  # lists
        assert [word.partition("=")[2] for word in words if word.startswith("--image=")] == links
    assert not (Path.cwd() / "pwned").exists()


def words_of(command: str) -> list[str]:
    """The words into which bash splits a command."""
    bash = shutil.which("bash")
    if bash is None:
        return shlex.split(command)
    script = f"flux-openai() {{ printf '%s\\0' flux-openai \"$@\"; }}; {command}"
    done = subprocess.run([bash, "-c", script], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("params", "command"),
    [
        ({"prompt": "-"}, f"printf %s - | flux-openai generate --model={DEV} -- -"),
        ({"prompt": "a", "image": "data:image/png;base64,aaaa"}, f"flux-openai edit --model={DEV} --image=FILE -- a"),
        ({"prompt": "a", "image": "https://a.example/?sig=1"}, f"flux-openai edit --model={DEV} --image=FILE -- a"),
        ({"prompt": "a", "strength": 0.5}, f"flux-openai generate --model={DEV} -- a"),
        ({"prompt": "a", "prompt_upsampling": False}, f"flux-openai generate --model={DEV} -- a"),
        ({}, None),
    ],
)
def test_the_command_in_special_cases(
    params: dict[str, object], command: str | None, browser: Browser, tmp_path: Path
) -> None:
    """A prompt that would mean stdin is piped, and an image that is not kept has a placeholder that is explained."""
    browser.open(write_gallery([RowList([row(1, params=params)])], tmp_path), "#row=1")
    assert browser.texts("#command") == ([command] if command else [])
    assert ("FILE stands for" in browser.texts(".again")[0]) == ("FILE" in str(command))


def test_the_command_is_copied(browser: Browser, page: Path) -> None:
    """A button copies the command, and says so."""
    browser.open(page, "#row=2")
    kept = "window.copied = []; navigator.clipboard.writeText = async (text) => { window.copied.push(text); };"
    browser.run(f"{kept} document.querySelector('.again button').click()")
    browser.wait("document.querySelector('.again button').textContent === 'Copied'")
    assert browser.run("return window.copied") == browser.texts("#command")


def test_the_page_opens_at_once_with_very_many_rows(browser: Browser, tmp_path: Path) -> None:
    """Of 10,100 rows a few are in the page; the first one and the last one are found, also by a search."""
    page = write_gallery([Many(10_100)], tmp_path)
    browser.open(page)
    size = "return document.querySelectorAll('*').length"
    loaded = "return performance.getEntriesByType('resource').length"
    assert browser.texts("#found") == ["10,100 rows, 1 to 60 shown"]
    assert browser.run(size) < 900
    assert browser.run(loaded) <= 1
    browser.open(page, "#page=169")
    assert browser.texts(".facts span:first-child")[-1] == "id-10100"
    browser.open(page, "#q=%22fox+number+10099%22")
    assert browser.texts(".facts span:first-child") == ["id-10099"]
    assert browser.run(size) < 900


def test_an_empty_batch_has_a_gallery(browser: Browser, tmp_path: Path) -> None:
    """It says that there is nothing yet."""
    browser.open(write_gallery([RowList([])], tmp_path))
    assert browser.texts("#content") == ["There are no rows yet."]
    browser.open(write_gallery([RowList([])], tmp_path), "#view=sweeps&q=a")
    assert browser.texts("#content") == ["There are no rows yet."]
