"""Says what keeps a tag from being released; the release workflow runs it before anything is built.

python .ci/check_release.py v0.1.0 https://github.com/owner/name
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def obstacles(tag: str, repository: str, pyproject: str, changelog: str) -> list[str]:
    """What the project's own files say against releasing a tag of the repository at an address."""
    project = tomllib.loads(pyproject)["project"]
    found = []
    if tag != f"v{project['version']}":
        found.append(f"the tag is {tag}, but pyproject.toml has version {project['version']}, so v{project['version']}")
    if not re.search(rf"^## \[{re.escape(project['version'])}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(
            f"CHANGELOG.md needs the heading '## [{project['version']}] - YYYY-MM-DD', with the day of release"
        )
    asked = {
        "Repository": repository,
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }
    urls = project.get("urls", {})
    lines = [f'{name} = "{url}"' for name, url in asked.items() if urls.get(name) != url]
    if lines:
        found.append("[project.urls] in pyproject.toml needs:\n" + "\n".join(lines))
    return found


if __name__ == "__main__":
    tag, repository = sys.argv[1:]
    files = (ROOT / name for name in ("pyproject.toml", "CHANGELOG.md"))
    sys.exit("\n".join(obstacles(tag, repository, *(file.read_text(encoding="utf-8") for file in files))) or None)
