"""Prints which versions run here; with the name of a tox environment, also checks that they are the ones it asks for.

A resolver that quietly took a newer release would turn every result of that environment into one about another.
"""

import platform
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

SHOWN = ("openai", "httpx", "httpx2", "pydantic", "tenacity", "vcrpy")


def installed(name: str) -> str:
    """The version of a distribution, or a dash."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def strays(environment: str) -> list[str]:
    """What the environment asks for and this Python does not have."""
    from packaging.requirements import Requirement  # noqa: PLC0415  # it comes with pytest, which only some have

    table = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["tox"]
    asked = [Requirement(text) for text in table["env"][environment]["deps"]]
    return [f"{one}, not {installed(one.name)}" for one in asked if installed(one.name) not in one.specifier]


def main(environments: list[str]) -> str | None:
    """Print one line; the strays of the given environments, if any, end the process with an error."""
    print(" | ".join([f"python {platform.python_version()}", *(f"{name} {installed(name)}" for name in SHOWN)]))
    found = [stray for environment in environments for stray in strays(environment)]
    return f"{' '.join(environments)} asks for: {'; '.join(found)}" if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
