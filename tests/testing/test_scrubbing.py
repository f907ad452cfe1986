"""What stays of a text or a body on a cassette."""

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai.testing.scrubbing import scrub_body, scrub_text, strip_query_values

KEY = "sk-CANARY+of/the=user"
LINKS = [
    "https://h.example/a.png?Expires=1&Signature=CANARY",
    "HTTPS://h.example/a.png?sig=CANARY",
    "https://h.example/a.png?CANARY",
    "https://me:CANARY@h.example/a.png",
    "https://me:CANARY@h.example/a.png?a=1&b=CANARY#CANARY",
    "//h.example/a.png?sig=CANARY",
    "/files/a.png?expires=1&signature=CANARY",
    "https://h.example/a.png?a='b'&sig=CANARY",
    "https://[h.example/a.png?sig=CANARY",
    "https://[h].example/a.png?sig=CANARY",
]
FORMS = {
    "text": lambda link: f"see {link} there",
    "page": lambda link: f'<img src="{link}">',
    "json": lambda link: json.dumps({"data": [{"url": link}]}),
    "name": lambda link: json.dumps({link: 1}),
    "slashes": lambda link: json.dumps({"url": link}).replace("/", r"\/"),
    "escapes": lambda link: json.dumps({"url": link}).replace("&", r"\u0026"),
    "json in json": lambda link: json.dumps({"text": json.dumps({"url": link}).replace("&", r"\u0026")}),
    "cut off": lambda link: json.dumps({"url": link}).replace("&", r"\u0026").replace("/", r"\/")[:-2],
    "events": lambda link: f"data: {json.dumps({'url': link})}\n\ndata: {json.dumps({'url': link})}\n\n".replace(
        "&", r"\u0026"
    ),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le", "latin-1")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("link", LINKS)
def test_no_link_that_opens_is_kept(link: str, form: str, encoding: str) -> None:
    """However it is written, and in whatever its text is encoded."""
    text = FORMS[form](link) + ("" if encoding == "utf-8" else "   \n")
    if encoding == "latin-1":
        text = f"\xe9 {text}"
    kept = scrub_body(text.encode(encoding))
    assert b"CANARY" not in kept.replace(b"\0", b"")
    assert b"example" in kept.replace(b"\0", b"") or link.startswith("/files")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_key_is_kept(encoding: str) -> None:
    """Nor what is left of one when a shorter one is taken out first."""
    known = ("sk-CAN", KEY)
    for text in (f"\xe9 wrong key: {KEY}", json.dumps({"message": KEY, KEY: 1})):
        kept = scrub_body(text.encode(encoding), known).replace(b"\0", b"")
        assert b"redacted" in kept
        assert b"user" not in kept


@given(text=st.text())
def test_text_without_a_link_stays_as_it_is(text: str) -> None:
    """Not a byte of a body changes where nothing has to."""
    plain = re.sub("[?&@]|//", "", text)
    assert scrub_text(plain) == plain
    assert scrub_body(plain.encode()) == plain.encode()


def test_text_may_begin_with_anything() -> None:
    """Also with what looks like another encoding."""
    text = f"\0{'a' * 40}".encode()
    assert scrub_body(text) == text


@given(link=st.text())
def test_anything_can_stand_where_a_link_should(link: str) -> None:
    """No text is too odd to be a link, and none keeps what signs it."""
    for odd in (f"https://{link}?sig=CANARY", f"https://me:CANARY@{link}", f"https:{link}?CANARY#CANARY"):
        assert "CANARY" not in strip_query_values(odd)
        assert isinstance(scrub_text(odd), str)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "CANARY-KEY", "a": "x"}',
        b'{"url": "https://h.example/p?sig=CANARY", "url": "x"}',
        b"{\0key CANARY-KEY https://h.example/p?sig=CANARY",
        b"{\0key CANARY-KEY https://h.example/p?sig=CANARY ",
        "\u4e2d https://h.example/p?sig=CANARY CANARY-KEY".encode("utf-16-le"),
        b"[" * 600 + b'"https://h.example/?a=CANARY"' + b"]" * 600,
        b"[" * 100_000 + b'"https://h.example/?a=CANARY"',
    ],
)
def test_no_odd_body_hides_anything(body: bytes) -> None:
    """A name that stands twice, text that looks like UTF-16, and nests as deep as one likes."""
    assert b"CANARY" not in scrub_body(body, ("CANARY-KEY",)).replace(b"\0", b"")


@pytest.mark.parametrize(
    "body",
    [
        rb'data: {"url":"https:\/\/h\/p.png"}',
        rb'{"text":"{\"url\":\"https:\\/\\/h\\/p.png\"}"}',
        b"http:/x and http:x and https:// and what? me & you",
        b"A fox&author=me, 80 tokens &monkey=blue &keyboard=1",
    ],
)
def test_what_hides_nothing_stays_as_it_is(body: bytes) -> None:
    """Not a byte of it changes."""
    assert scrub_body(body) == body


def test_what_is_asked_is_told_apart() -> None:
    """Only a link has its query taken out of it: two prompts would be one otherwise."""
    for text in ("is it?a=red fox", "a fox &token=red", "/files/x?sig=red"):
        assert scrub_text(text, request=True) == text
        assert "red" not in scrub_text(text).replace("redacted", "")
    assert scrub_text("https://h.example/a?sig=red", request=True) == "https://h.example/a?sig=redacted"


def test_what_is_packed_in_an_unknown_way_is_not_kept() -> None:
    """Of what is neither text nor picture only so much stays as tells its type; of a picture the first KiB."""
    secret = gzip.compress(b"https://h.example/a.png?sig=CANARY" * 9)
    assert scrub_body(secret) == secret[:16]
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
    assert scrub_body(picture) == picture[:1024]


def test_a_text_of_any_length_is_read_in_one_go() -> None:
    """Also one with thousands of beginnings of links, or of what looks like a signature."""
    for begun in ("http://", r"http:\\", r"http:\/", "?", "?a=", "&a", "&sig", "&sig=", "\\\\"):
        text = begun * 100_000
        assert scrub_text(text)
