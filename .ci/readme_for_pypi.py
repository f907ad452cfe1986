"""The description that PyPI shows: the README with its relative links made absolute, for PyPI has none of the files.

hatchling runs this when it builds. The address is `Repository` in [project.urls] of pyproject.toml; without one the
links stay as they are. They lead to the tag of the version, so that the page of an old release keeps its guides.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def absolute(text: str, repository: str | None, version: str) -> str:
    """The text with its links to files of the repository at an address; a picture needs that of its bytes."""
    if repository is None:
        return text
    return re.sub(
        r"(!?)\[([^\[\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)",
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/v{version}/{link[3]})",
        text,
    )


class ReadmeHook(MetadataHookInterface):
    """Fills in `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the description."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata.get("urls", {}).get("Repository"), metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
