"""The README and the guides in `examples/`, and the code blocks in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "examples").glob("*.md"))
}
"""Every page by its path in the repository."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block.

    Attributes:
        page: The path of its page.
        marker: The comment on the line above, such as "ci: try", or empty.
        language: The word after the fence.
        code: What stands in it.
    """

    page: str
    marker: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page} {self.code.strip().splitlines()[-1]}"[:70]


BLOCKS = [
    Block(page=page, marker=marker, language=language, code=code)
    for page, text in PAGES.items()
    for marker, language, code in re.findall(
        r"^(?:<!-- (.*?) -->\n)?```(\S*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
]


def blocks(language: str, word: str = "") -> list[Block]:
    """The blocks in a language that contain a word."""
    return [block for block in BLOCKS if block.language == language and word in block.code]


def section(page: str, title: str) -> str:
    """What stands below a heading of a page."""
    [text] = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGES[page], re.DOTALL | re.MULTILINE)
    return str(text)


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the only table of a page whose first column has this heading, row by row."""
    [rows] = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", PAGES[page], re.MULTILINE)
    return [
        [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]
        for row in rows.splitlines()
    ]
