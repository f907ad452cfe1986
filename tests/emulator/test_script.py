"""The language of fault scripts: what it understands, and what it refuses."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_openai.emulator import Script
from flux_openai.emulator.faults.catalog import CATALOG
from flux_openai.emulator.faults.fault import Fault, FaultType, Param, Target, Value
from flux_openai.emulator.faults.rules import Condition, Occurrence, Rule, find_faults
from flux_openai.emulator.faults.script import parse
from flux_openai.errors import ConfigurationError, ScriptError
from flux_openai.models import DEFAULT_MODEL

CAT = Condition(field="prompt", operator="~", value="cat")
FIRST = Occurrence(first=1, last=1)


def fault(name: str, *, billed: bool | None = None, **arguments: Value) -> Fault:
    return Fault(type=CATALOG[name], arguments=arguments, billed=billed)


def compare(field: str, operator: str, value: str | int) -> Condition:
    return Condition(field=field, operator=operator, value=value)


REFUSED, RESET, DEAD = fault("connect", how="refused"), fault("reset", when="after_bill"), fault("url", how=410)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "prompt~/cat/ #1..2 -> status(429, retry_after=1s)",
            Rule(conditions=(CAT,), nth=Occurrence(last=2), faults=(fault("status", status=429, retry_after=1.0),)),
        ),
        ("* p=0.01 -> reset(after_bill)", Rule(p=0.01, faults=(RESET,))),
        ("* -> reset", Rule(faults=(RESET,))),
        ("img -> url(410)", Rule(on="download", faults=(DEAD,))),
        (
            "img & prompt~/cat/ & n>1 #1 -> drip(9s)",
            Rule(
                on="download", conditions=(CAT, compare("n", ">", 1)), nth=FIRST, faults=(fault("drip", seconds=9.0),)
            ),
        ),
        ("img->url( 410 )//why", Rule(on="download", faults=(DEAD,))),
        ('img->url(how="410")', Rule(on="download", faults=(DEAD,))),
        (
            "n>=3&seed=-1 & steps<9 -> connect()",
            Rule(
                conditions=(compare("n", ">=", 3), compare("seed", "=", -1), compare("steps", "<", 9)),
                faults=(REFUSED,),
            ),
        ),
        ("n = 3 -> connect", Rule(conditions=(compare("n", "=", 3),), faults=(REFUSED,))),
        (
            "* #1 -> slow(250ms), truncate(50%)",
            Rule(nth=FIRST, faults=(fault("slow", seconds=0.25), fault("truncate", kept=0.5))),
        ),
        ("* #every 5 -> slow(2m)", Rule(nth=Occurrence(every=5), faults=(fault("slow", seconds=120.0),))),
        (
            "seed=1000000000000000 -> slow(2min)",
            Rule(conditions=(compare("seed", "=", 10**15),), faults=(fault("slow", seconds=120.0),)),
        ),
        (
            "*#after 10 p = .5->slow(1)",
            Rule(nth=Occurrence(first=11), p=0.5, faults=(fault("slow", seconds=1.0),)),
        ),
        (r"prompt~/a\/b; c\\/ -> connect", Rule(conditions=(compare("prompt", "~", r"a/b; c\\"),), faults=(REFUSED,))),
        (
            'model=kontext-max->status(500, message="a \\"b\\"; //c", billed=true)',
            Rule(
                conditions=(compare("model", "=", "kontext-max"),),
                faults=(fault("status", status=500, message='a "b"; //c', billed=True),),
            ),
        ),
        ("aspect_ratio=16:9 -> connect", Rule(conditions=(compare("aspect_ratio", "=", "16:9"),), faults=(REFUSED,))),
        (
            "size=512x512 & response_format=url -> connect",
            Rule(
                conditions=(compare("size", "=", "512x512"), compare("response_format", "=", "url")), faults=(REFUSED,)
            ),
        ),
    ],
)
def test_a_text_is_read_as_a_rule(text: str, rule: Rule) -> None:
    """Each part of the text is the part of a rule, and the rule's own text leads back to it."""
    assert parse(text) == Script(rules=(rule,))
    assert parse(str(rule)) == Script(rules=(rule,))


def test_rules_are_told_apart() -> None:
    """Lines, semicolons, comments and blanks in any number."""
    text = "// first\n\n * -> connect ;; img #1 -> url(404) // a ; b -> c\r\n\t* -> slow //\n//"
    assert str(parse(text)) == "* -> connect(refused)\nimg #1 -> url(404)\n* -> slow(1)"
    assert parse("") == parse(" ;\n// nothing") == Script()


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("prompt~/cat/ #1..2 status(429)", 20, "expected -> after the selector"),
        ("*", 2, "expected -> after the selector"),
        ("* - > connect", 3, "expected -> after the selector"),
        ("* p=0.1 #1 -> connect", 9, "expected -> after the selector"),
        ("* ->", 5, r"expected a fault, as in status\(429\)"),
        ("* -> connect,", 14, "expected a fault"),
        ("* -> statsu(429)", 6, "no fault statsu; the nearest is status"),
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
        ('* -> status(429, message="a)', 26, "expected an argument"),
        ('* -> status(429, message="a\\q")', 26, "not a JSON string"),
        ("* -> status(429, foo=1)", 18, "no foo; it takes status, retry_after, code, message, billed"),
        ("* -> status(429, status=500)", 18, "status is given twice"),
        ("* -> status(code=x, 429)", 21, "an argument without a name must come before"),
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
        ("* -> status(429", 16, r"expected , or \) after an argument of status"),
        ("* -> status(429,)", 17, "expected an argument"),
        ("* -> status(429 500)", 17, r"expected , or \) after an argument of status"),
        ("* -> connect connect", 14, "expected the end of the rule"),
        ("* -> connect)", 13, "expected the end of the rule"),
        ("p=0.5 -> connect", 1, r"a probability comes after a selector, as in \* p=0.01"),
        ("* p=2 -> connect", 5, "a number from 0 to 1, as in p=0.01"),
        ("* p=-1 -> connect", 5, "a number from 0 to 1"),
        ("* p=nan -> connect", 5, "a number from 0 to 1"),
        ("* p=1e999 -> connect", 5, "a number from 0 to 1"),
        ("* p= -> connect", 6, "a number from 0 to 1"),
        ("* #0 -> connect", 4, "a whole number from 1"),
        ("* #2..1 -> connect", 4, "write #1..2"),
        ("* #every -> connect", 10, "a whole number from 1"),
        ("* #1..2..3 -> connect", 8, "expected -> after the selector"),
        ("prompt~/(/ -> connect", 8, "not a regular expression: missing"),
        ("prompt~/cat -> connect", 8, "between slashes"),
        ("prompt~// -> connect", 8, r"write \*"),
        ("prompt=cat -> connect", 7, "prompt can only be compared with ~, as in prompt~/cat/"),
        ("n~/3/ -> connect", 2, "n can only be compared with = < > <= >="),
        ("n>=x -> connect", 4, "a whole number, as in n>=3"),
        ("n>= -> connect", 5, "expected a value to compare n with"),
        ("n -> connect", 3, "expected = < > <= >= after n, as in n>=3"),
        ("size=a,b -> connect", 6, "size=512x512"),
        ("promt~/x/ -> connect", 1, "no field promt; the nearest is prompt"),
        ("model=kontext-mux -> connect", 7, "no model kontext-mux; the nearest is kontext-max"),
        ("* & n=1 -> connect", 5, r"\* stands alone"),
        ("img & -> url(404)", 7, "expected a selector"),
        ("* -> url(404)", 6, "url does not apply to .* it is for img"),
        ("img -> slow, bad_json", 14, "bad_json does not apply to img; it is for orders"),
        ("# comment", 1, "a comment starts with //"),
        ("n=1 & -> connect", 7, "expected a selector"),
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
) -> tuple[Fault, ...]:
    """The faults of the nth request with this body and key."""
    return find_faults(parse(text), body, on=on, key=key, nth=nth, seed=0)


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


def arguments(param: Param) -> st.SearchStrategy[Value]:
    """Valid arguments for a parameter."""
    framing = ("content-length", "transfer-encoding")
    kinds: dict[str, st.SearchStrategy[Value]] = {
        "choice": st.sampled_from([int(choice) if choice.isdigit() else choice for choice in param.choices or ("",)]),
        "seconds": st.floats(0, 86_400),
        "share": st.floats(0, 1, exclude_min=True, exclude_max=True),
        "text": st.text(min_size=1) | st.sampled_from(["true", "5", "a b", "x"]),
        "code": st.from_regex(r"\A[A-Za-z0-9_.-]{1,20}\Z"),
        "whole": st.integers(param.least, param.most),
        "header": st.from_regex(r"\A[a-z0-9_-]{1,20}\Z").filter(lambda name: name not in framing),
    }
    return kinds[param.kind]


@st.composite
def faults(draw: st.DrawFn, kind: FaultType, on: Target) -> Fault:
    """A fault of this type, with its first argument and some of the others."""
    chosen = {
        param.name: draw(arguments(param))
        for number, param in enumerate(kind.params)
        if number == 0 or draw(st.booleans())
    }
    billable = on == "generate" and all(expected.billable for expected in kind.orders.values())
    billed = draw(st.sampled_from([None, True, False])) if billable else None
    return Fault(type=kind, arguments=chosen, billed=billed)


TIMES = st.integers(1, 10**6)
CONDITIONS = (
    st.builds(compare, st.just("prompt"), st.just("~"), st.sampled_from(["cat", "a/b", r"\\/", "é|;", "#1 -> x", '"'])),
    st.builds(compare, st.just("model"), st.just("="), st.sampled_from(["kontext-max", DEFAULT_MODEL, "flux.1-dev"])),
    st.builds(compare, st.just("n"), st.sampled_from(["=", "<", ">", "<=", ">="]), st.integers(-(10**9), 10**9)),
)
OCCURRENCES = (
    st.builds(lambda first, more: Occurrence(first=first, last=first + more), TIMES, TIMES)
    | st.builds(lambda number: Occurrence(first=number + 1), TIMES)
    | st.builds(lambda number: Occurrence(every=number), TIMES)
)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Any rule."""
    on: Target = draw(st.sampled_from(["generate", "download"]))
    fitting = st.sampled_from([kind for kind in CATALOG.values() if kind.expected(on)])
    return Rule(
        on=on,
        conditions=tuple(draw(condition) for condition in CONDITIONS if draw(st.booleans())),
        nth=draw(st.none() | OCCURRENCES),
        p=draw(st.none() | st.floats(0, 1)),
        faults=tuple(draw(st.lists(fitting.flatmap(lambda kind: faults(kind, on)), min_size=1, max_size=3))),
    )


@settings(max_examples=50)
@given(st.lists(rules(), max_size=3))
def test_a_script_is_its_own_text(some: list[Rule]) -> None:
    """Any script, written down and read again, is the same."""
    script = Script(rules=tuple(some))
    assert parse(str(script)) == script


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
    assert 25 <= sum(str(*struck) == "reset(after_bill)" for struck in drawn if struck) <= 75
    assert {bool(find("* p=0.5 -> connect", key=str(key))) for key in range(20)} == {True, False}
