"""The command line program `flux-openai`. Needs the extra `cli`."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, by default those of the command line, and return its exit code."""
    for package in ("click", "rich"):
        if find_spec(package) is None:
            print(f"the command line needs {package}: pip install 'flux-openai[cli]'", file=sys.stderr)
            return 2
    from flux_openai.cli import app

    return app.run(sys.argv[1:] if args is None else args)
