"""The language of fault scripts: what it understands, what it refuses, and that Python says the same."""

import pickle
import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai.emulator import Script
from flux_openai.emulator.faults import builder as build
from flux_openai.emulator.faults.arguments import Param, Value
from flux_openai.emulator.faults.builder import after, every, script, when
from flux_openai.emulator.faults.catalog import KINDS
from flux_openai.emulator.faults.fault import Act, Kind, make_act
from flux_openai.emulator.faults.queue import Target
from flux_openai.emulator.faults.rules import Occurrence, Rule, find_acts
from flux_openai.emulator.faults.script import parse
from flux_openai.errors import ConfigurationError, ScriptError
from flux_openai.models import DEFAULT_MODEL

status, reset, url, slow, truncate, connect, drip = (
    getattr(build, name) for name in ("status", "reset", "url", "slow", "truncate", "connect", "drip")
)


@pytest.mark.parametrize(
    ("text", "built"),
    [
        (
            "prompt~/cat/ #1..2 -> status(429, retry_after=1s)",
            when(prompt="cat", nth=range(1, 3)).then(status(429, retry_after=1)),
        ),
        ("* p=0.01 -> reset(after_bill)", when(p=0.01).then(reset("after_bill"))),
        ("* -> reset", when().then(reset("after_bill"))),
        ("img -> url(410)", when(img=True).then(url(410))),
        ("img & prompt~/cat/ & n>1 #1 -> drip(9s)", when(img=True, prompt="cat", n=">1", nth=1).then(drip(9))),
        ("img->url( 410 )//why", when(img=True).then(url(how="410"))),
        ("n>=3&seed=-1 & steps<9 -> connect()", when(n=">=3", seed=-1, steps="<9").then(connect())),
        ("n = 3 -> connect", when(n="3").then(connect())),
        ("* #1 -> slow(250ms), truncate(50%)", when(nth=1).then(slow(0.25), truncate(0.5))),
        ("* #every 5 -> slow(2m)", when(nth=every(5)).then(slow(120))),
        ("seed=1000000000000000 -> slow(2min)", when(seed=10**15).then(slow(120))),
        ("*#after 10 p = .5->slow(1)", when(nth=after(10), p=0.5).then(slow(1.0))),
        (r"prompt~/a\/b; c\\/ -> connect", when(prompt=r"a/b; c\\").then(connect())),
        ("prompt~/a\\nb/ -> connect", when(prompt="a\nb").then(connect())),
        (
            'model=kontext-max->status(500, message="a \\"b\\"; //c", billed=true)',
            when(model="kontext-max").then(status(500, message='a "b"; //c', billed=True)),
        ),
        ("aspect_ratio=16:9 -> connect", when(aspect_ratio="16:9").then(connect())),
        ("size=512x512 & response_format=url -> connect", when(size="512x512", response_format="url").then(connect())),
    ],
)
def test_text_and_python_say_the_same(text: str, built: Rule) -> None:
    """A rule in text is the rule from functions, and its own text leads back to it."""
    assert parse(text) == script(built)
    assert parse(str(built)) == script(built)


def test_rules_are_told_apart() -> None:
    """Lines, semicolons, comments and blanks in any number."""
    text = "// first\n\n * -> connect ;; img #1 -> url(404) // a ; b -> c\r\n\t* -> slow //\n//"
    assert str(parse(text)) == "* -> connect(refused)\nimg #1 -> url(404)\n* -> slow(1)"
    assert parse("") == parse(" ;\n// nothing") == Script()


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("prompt~/cat/ #1..2 status(429)", 20, "-> should stand here"),
        ("*", 2, "-> should stand here"),
        ("* - > connect", 3, "-> should stand here"),
        ("* p=0.1 #1 -> connect", 9, "-> should stand here"),
        ("* ->", 5, r"an act should stand here, as in status\(429\)"),
        ("* -> connect,", 14, "an act should stand here"),
        ("* -> statsu(429)", 6, "no act statsu; the nearest is status"),
        ("* -> status", 6, r"status needs a whole number from 400 to 599, as in status\(400\)"),
        ("* -> status(600)", 13, "must be a whole number from 400 to 599, as in 400"),
        ("* -> status(true)", 13, "must be a whole number from 400"),
        ("* -> status(429, retry_after=abc)", 18, "retry_after of status must be a time .* as in 1.5s"),
        ("* -> slow(50%)", 11, "must be a time"),
        ("* -> slow(1e999s)", 11, "must be a time"),
        ("* -> truncate(1s)", 15, "a share between 0% and 100%, as in 50%"),
        ("* -> truncate(0.5s)", 15, "a share"),
        ("* -> truncate(150%)", 15, "a share"),
        ("* -> truncate(0%)", 15, "a share"),
        ("* -> partial(1.5)", 14, "a whole number from 1"),
        ('* -> error_in_200(code="a b")', 19, "must be a word, as in quota_exceeded"),
        ("* -> status(429, message=5)", 18, "a text in double quotes"),
        ('* -> status(429, message="a)', 26, "an argument should stand here"),
        ('* -> status(429, message="a\\q")', 26, "not written as in JSON"),
        ("* -> status(429, foo=1)", 18, "no foo; it takes status, retry_after, code, message, billed"),
        ("* -> status(429, status=500)", 18, "status is given twice"),
        ("* -> status(code=x, 429)", 21, "an argument without a name comes before"),
        ("* -> connect(1)", 14, "how of connect must be one of refused, dns"),
        ("* -> null(1)", 11, "null takes billed"),
        ('* -> header("a b")', 13, "name of header must be the name of a header"),
        ('* -> header("Content-Length")', 13, "other than content-length"),
        ("* -> connect(billed=true)", 6, r"connect\(refused\) cannot be billed"),
        ("* -> reset(before_bill, billed=true)", 6, r"reset\(before_bill\) cannot be billed"),
        ("* -> reset(billed=yes)", 12, "billed must be true or false"),
        ("img -> url(404, billed=true)", 17, "downloads are never billed"),
        ("img -> slow, status(404, billed=true)", 14, "downloads are never billed"),
        ("img -> url", 8, "url needs one of 403"),
        ("* -> status(429", 16, r"go on with , or end with \)"),
        ("* -> status(429,)", 17, "an argument should stand here"),
        ("* -> status(429 500)", 17, r"go on with , or end with \)"),
        ("* -> connect connect", 14, "the rule should end here"),
        ("* -> connect)", 13, "the rule should end here"),
        ("p=0.5 -> connect", 1, r"after a selector, as in \* p=0.01"),
        ("* p=2 -> connect", 5, "a number from 0 to 1, as in p=0.01"),
        ("* p=-1 -> connect", 5, "a number from 0 to 1"),
        ("* p=nan -> connect", 5, "a number from 0 to 1"),
        ("* p=1e999 -> connect", 5, "a number from 0 to 1"),
        ("* p= -> connect", 6, "a number from 0 to 1"),
        ("* #0 -> connect", 4, "a whole number from 1"),
        ("* #2..1 -> connect", 4, "#1..2 would do"),
        ("* #every -> connect", 10, "a whole number from 1"),
        ("* #1..2..3 -> connect", 8, "-> should stand here"),
        ("prompt~/(/ -> connect", 8, "no regular expression: missing"),
        ("prompt~/cat -> connect", 8, "between slashes"),
        ("prompt~// -> connect", 8, r"write \*"),
        ("prompt=cat -> connect", 7, "prompt is compared by ~, as in prompt~/cat/"),
        ("n~/3/ -> connect", 2, "n is compared by = < > <= >="),
        ("n>=x -> connect", 4, "a whole number, as in n>=3"),
        ("n>= -> connect", 5, "compared with something"),
        ("n -> connect", 3, "n should be compared"),
        ("size=a,b -> connect", 6, "size=512x512"),
        ("promt~/x/ -> connect", 1, "no field promt .* nearest is prompt"),
        ("model=kontext-mux -> connect", 7, "no model kontext-mux; the nearest is kontext-max"),
        ("* & n=1 -> connect", 5, r"\* stands alone"),
        ("img & -> url(404)", 7, "a selector should stand here"),
        ("* -> url(404)", 6, "url does not apply to .* it is for img"),
        ("img -> slow, bad_json", 14, "bad_json does not apply to img; it is for orders"),
        ("# comment", 1, "a comment starts with //"),
        ("n=1 & -> connect", 7, "a selector should stand here"),
    ],
)
def test_a_wrong_script_is_shown_where_it_is_wrong(text: str, column: int, says: str) -> None:
    """The error has line, column, the line itself and a caret, and says what would do; lines before it count."""
    with pytest.raises(ScriptError, match=rf"^line 3, column {column + 1}: .*{says}") as caught:
        parse(f"// one\n* -> connect\n\t{text}\n* -> also wrong")
    error = caught.value
    assert isinstance(error, ConfigurationError)
    assert (error.line, error.column) == (3, column + 1)
    assert str(error).splitlines()[1:] == [f"   {text}", f"  {' ' * column}^"]
    assert pickle.loads(pickle.dumps(error)).column == error.column  # noqa: S301  # our own


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: status(600),
        lambda: status(code="x"),
        lambda: status(429, retry_after=float("nan")),
        lambda: connect(billed=True),
        lambda: when(prompt="("),
        lambda: when(prompt=cast("str", re.compile("cat"))),
        lambda: when(p=cast("float", "0.5")),
        lambda: when().then(cast("Act", "quota")),
        lambda: when().then(cast("Act", status)),
        lambda: script(cast("Rule", when(prompt="x"))),
        lambda: script(cast("Rule", "* -> connect")),
        lambda: when(n=">=x"),
        lambda: when(n="=>3"),
        lambda: when(model="nope"),
        lambda: when(p=1.1),
        lambda: when(p=float("nan")),
        lambda: when(p=True),
        lambda: when(nth=0),
        lambda: when(nth=True),
        lambda: when(nth=range(1, 9, 2)),
        lambda: when(nth=range(3, 3)),
        lambda: every(0),
        lambda: after(0),
        lambda: when().then(),
        lambda: when().then(url(404)),
    ],
)
def test_python_refuses_what_the_text_refuses(wrong: object) -> None:
    """Each function checks what it is given."""
    assert callable(wrong)
    with pytest.raises(ConfigurationError):
        wrong()


def test_an_unknown_act_cannot_be_imported() -> None:
    """The error names the nearest."""
    with pytest.raises(AttributeError, match="no act statsu; the nearest is status"):
        _ = build.statsu


@pytest.mark.parametrize(
    ("selector", "fields", "matches"),
    [
        ("prompt~/c.t/", {"prompt": "a cat"}, True),
        ("prompt~/^c.t/", {"prompt": "a cat"}, False),
        ("prompt~/c/", {"prompt": 7}, False),
        ("model=kontext-max", {}, True),
        ("model=flux-kontext-max/text-to-image", {}, True),
        (f"model={DEFAULT_MODEL}", {}, True),
        ("model=flux-dev", {}, False),
        ("n=1", {}, True),
        ("n>1", {"n": 2}, True),
        ("n>=3", {"n": 2}, False),
        ("n<=2", {"n": 2}, True),
        ("n=1", {"n": True}, False),
        ("n>0", {"n": "2"}, False),
        ("seed<0", {}, True),
        ("steps=20", {}, True),
        ("size=512x512", {}, False),
        ("size=512x512", {"model": "black-forest-labs/flux.1-dev", "size": "512x512"}, True),
        ("aspect_ratio=1:1", {}, True),
        ("n=1 & prompt~/fox/", {}, True),
        ("n=1 & prompt~/cat/", {}, False),
        ("seed<0", {"model": "unknown"}, False),
    ],
)
def test_selectors_look_at_the_order(selector: str, fields: dict[str, object], *, matches: bool) -> None:
    """Fields that are left out count as what the model documents for them."""
    body = {"model": DEFAULT_MODEL, "prompt": "a fox"} | fields
    assert bool(find(f"{selector} -> connect", body=body)) is matches


def find(
    text: str, *, body: dict[str, object] | None = None, nth: int = 1, key: str = "k", on: Target = "generate"
) -> tuple[Act, ...]:
    """The acts for the nth request with this body and key."""
    return find_acts(parse(text), body, on=on, key=key, nth=nth, seed=0)


@pytest.mark.parametrize(
    ("occurrence", "struck"),
    [("", [1, 2, 3, 4, 5, 6]), ("#2", [2]), ("#2..4", [2, 3, 4]), ("#every 3", [3, 6]), ("#after 4", [5, 6])],
)
def test_occurrences_count_from_one(occurrence: str, struck: list[int]) -> None:
    """Which of six equal requests a rule strikes."""
    assert [nth for nth in range(1, 7) if find(f"* {occurrence} -> connect", nth=nth)] == struck


def test_the_first_rule_that_matches_wins() -> None:
    """Later rules are for what the earlier ones leave."""
    text = "prompt~/cat/ -> status(404); img -> url(404); * #1 -> status(500); * -> connect"
    assert [str(*find(text, nth=nth)) for nth in (1, 2)] == ["status(500)", "connect(refused)"]
    assert str(*find(text, body={"prompt": "cat"})) == "status(404)"


def test_a_download_is_selected_by_its_order() -> None:
    """`img` with fields is for the pictures of such orders; `img` alone is for all, and orders are not meant by it."""
    text = "img & prompt~/cat/ -> url(410); img -> url(404); * -> connect"
    assert str(*find(text, body={"prompt": "a cat"}, on="download")) == "url(410)"
    assert str(*find(text, body={"prompt": "a dog"}, on="download")) == "url(404)"
    assert str(*find(text, body={"prompt": "a cat"})) == "connect(refused)"


PATTERNS = st.sampled_from(["cat", "a/b", r"a\/b", r"\\/", "é|;", "//", "a\nb", "\\\n", "#1 -> x", r"\d+$", '"'])
MODELS = st.sampled_from(["kontext-max", "flux-dev", DEFAULT_MODEL, "flux.1-dev"])
NUMBERS = st.integers(-(10**9), 10**9) | st.sampled_from([">=3", "<1", "=7", ">-2"])
TIMES = st.integers(1, 10**6)
NTHS = TIMES | st.builds(lambda a, b: range(a, a + b), TIMES, TIMES) | st.builds(every, TIMES) | st.builds(after, TIMES)


LENGTHS = ("content-length", "transfer-encoding")


def values(param: Param) -> st.SearchStrategy[Value]:
    """Good arguments of one kind."""
    kinds: dict[str, st.SearchStrategy[Value]] = {
        "choice": st.sampled_from(param.choices or ("",)),
        "seconds": st.floats(0, 86_400) | st.integers(0, 86_400),
        "share": st.floats(0, 1, exclude_min=True, exclude_max=True),
        "text": st.text(min_size=1) | st.sampled_from(["true", "5", "a b", "x"]),
        "code": st.from_regex(r"\A[A-Za-z0-9_.-]{1,20}\Z"),
        "whole": st.integers(param.least, param.most),
        "header": st.from_regex(r"\A[a-z0-9_-]{1,20}\Z").filter(lambda name: name not in LENGTHS),
    }
    return kinds[param.sort]


@st.composite
def acts(draw: st.DrawFn, kind: Kind, on: Target) -> Act:
    """An act of a kind, with some of its arguments."""
    needed = kind.params[:1] if kind.params and kind.params[0].default is None else ()
    chosen = [param for param in kind.params if param in needed or draw(st.booleans())]
    named = [(param.name, draw(values(param))) for param in chosen]
    outcomes = kind.outcomes.values() if on == "generate" else ()
    free = bool(outcomes) and all(outcome.billable for outcome in outcomes)
    billed = draw(st.sampled_from([[], [("billed", True)], [("billed", False)]])) if free else []
    made = make_act(KINDS, kind.name, (), [*named, *billed])
    assert isinstance(made, Act)
    return made


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule."""
    img = draw(st.booleans())
    on: Target = "download" if img else "generate"
    fitting = st.sampled_from([kind for kind in KINDS.values() if on in kind.on])
    chosen = draw(st.lists(fitting.flatmap(lambda kind: acts(kind, on)), min_size=1, max_size=3))
    nth, p = draw(st.none() | NTHS), draw(st.none() | st.floats(0, 1))
    prompt, model, n = draw(st.none() | PATTERNS), draw(st.none() | MODELS), draw(st.none() | NUMBERS)
    return when(prompt=prompt, model=model, n=n, img=img, nth=nth, p=p).then(*chosen)


@given(st.lists(rules(), max_size=3).map(lambda some: script(*some)))
def test_a_script_is_its_own_text(some: Script) -> None:
    """Any script, written down and read again, is the same."""
    assert parse(str(some)) == some


@given(st.text(alphabet='*imgprot~/\\c#1.2 ev5=-> status(429,)";&<n\n%', max_size=40))
def test_any_text_is_a_script_or_a_script_error(text: str) -> None:
    """No text makes the reader stumble, and the caret stands inside its line."""
    try:
        read, error = parse(text), None
    except ScriptError as wrong:
        read, error = None, wrong
    if error is None:
        assert parse(str(read)) == read
    else:
        assert 1 <= error.column <= len(text.split("\n")[error.line - 1]) + 1


def test_occurrences_have_one_spelling() -> None:
    """The text of each is read back as it was."""
    spelled = [Occurrence(first=1, last=1), Occurrence(first=2, last=5), Occurrence(first=11), Occurrence(every=1)]
    assert list(map(str, spelled)) == ["#1", "#2..5", "#after 10", "#every 1"]
    assert [parse(f"* {nth} -> connect").rules[0].nth for nth in spelled] == spelled


def test_chances_are_kept() -> None:
    """Of a thousand requests about as many go wrong as the script says; with p=0 none, and with p=1 all."""
    struck = {p: sum(bool(find(f"* p={p} -> connect", nth=nth)) for nth in range(1000)) for p in ("0", "0.1", "1")}
    assert (struck["0"], struck["1"]) == (0, 1000)
    assert 70 <= struck["0.1"] <= 130


def test_chances_are_drawn_anew_for_each_rule_and_request() -> None:
    """Half of those that the first rule spares are struck by the second, and requests are not struck all alike."""
    drawn = [find("* p=0.5 -> connect; * p=0.5 -> reset", nth=nth) for nth in range(200)]
    assert 25 <= sum(str(*acts) == "reset(after_bill)" for acts in drawn if acts) <= 75
    assert {bool(find("* p=0.5 -> connect", key=str(key))) for key in range(20)} == {True, False}
