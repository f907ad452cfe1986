"""What a message and the emulator's journal may show of a text, a JSON value and a body."""

import gzip

import pytest

from flux_openai._http.redaction import redact_body, redact_json, scrub, without

KEY = "CANARY-KEY"
PACKED = gzip.compress(KEY.encode(), mtime=0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY}, Bearer CANARY", "key [redacted], Bearer [redacted]"),
        ("see https://me:CANARY@h.example/a?sig=CANARY#b", "see https://[redacted]@h.example/a?[redacted]"),
        (r"https:\/\/me:CANARY@h.example\/a?x=1\u0026sig=CANARY", r"https:\/\/[redacted]@h.example\/a?[redacted]"),
        ("https://h.example/a? what? you & me", "https://h.example/a? what? you & me"),
    ],
)
def test_a_message_shows_no_secret(text: str, shown: str) -> None:
    """Keys, tokens, user names and queries go, also where JSON escapes what is around them."""
    assert scrub(text, (KEY,)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("data:image/png;base64,AAAA", "<image/png, 26 characters>"),
        ("data:;base64,AAAA", "<data, 17 characters>"),
        ("x" * 1001, f"{'x' * 1000}… <1001 characters>"),
        ("https://me:CANARY@h.example/a?sig=CANARY", "https://h.example/a?[redacted]"),
        ("/a.png?expires=1&signature=CANARY", "/a.png?expires=[redacted]&signature=[redacted]"),
        ("what? you & me", "what? you & me"),
    ],
)
def test_a_journal_shows_no_secret_and_nothing_long(text: str, shown: str) -> None:
    """In a value or in a name; below the fiftieth level there is nothing."""
    assert redact_json({text: [text, 1, None]}) == {shown: [shown, 1, None]}
    deep: object = text
    for _ in range(60):
        deep = [deep]
    assert str(redact_json(deep)).count("[") == 50


def test_a_known_secret_is_taken_out_of_a_json_value() -> None:
    """Wherever it stands, also where one secret is the beginning of another."""
    value = {"a": [f"my {KEY}", 7], KEY: None}
    assert without(value, ("CANARY", KEY)) == {"a": ["my [redacted]", 7], "[redacted]": None}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"key": "\\u0043ANARY-KEY"}', b'{"key": "[redacted]"}'),
        (f'{{"key": "{KEY}", "key": 1}}'.encode(), b'{"key": "[redacted]", "key": 1}'),
        (f"caf\xe9 {KEY}".encode("latin-1"), b"caf\xe9 [redacted]"),
        (f"\u4e2d {KEY}".encode("utf-16"), "\u4e2d [redacted]".encode()),
        (PACKED, PACKED[:16].decode("utf-8", "backslashreplace").encode()),
    ],
)
def test_a_body_is_read_before_it_is_searched(body: bytes, shown: bytes) -> None:
    """As JSON, in its own encoding; of what cannot be read, little more than its type is shown."""
    assert redact_body(body, (KEY,)) == shown


def test_a_key_of_digits_is_no_number() -> None:
    """JSON has no quotes around it where a server repeats it as one."""
    assert redact_body(b'{"you": 12345678}', ("12345678",)) == b'{"you": [redacted]}'
