"""The picture of the README shows what its first command does today."""

import base64
import re
from html import unescape

import pytest

from tests.promises.docs.pages import README

pytest.importorskip("pty", reason="the picture is made where there are pseudo-terminals")
pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

from tests.promises.docs import picture


def test_the_picture_is_a_run_of_the_command() -> None:
    """Made again, it has the same lines, within 80 columns, and an image of the same size; it is small."""
    run, kept = picture.run(), picture.PICTURE.read_text(encoding="utf-8")
    assert [unescape(line) for line in re.findall(r"<text .*?>(.*)</text>", kept)] == run.lines
    assert max(map(len, run.lines)) <= picture.COLUMNS
    [data] = re.findall(r"data:image/png;base64,([^\"]+)", kept)
    # Another release of zlib may pack the same pixels otherwise.
    assert base64.b64decode(data)[:24] == run.image[:24]
    assert len(kept) < 60_000


def test_the_readme_shows_it() -> None:
    """The README has this one picture beside its badges, with words for those who do not see it."""
    shown = re.findall(r"^!\[(.*)\]\((?!https:)(.*)\)$", README, re.MULTILINE)
    assert [(len(words) > 20, path) for words, path in shown] == [(True, "examples/first_run.svg")]
