"""The command line program `flux-openai`. Needs the extra `cli`."""

import sys
from collections.abc import Sequence

__all__ = ["main"]

MISSING: str | None = None
"""The package of the extra `cli` that is not installed; None when all are."""

try:
    from flux_openai.cli import app
except ModuleNotFoundError as error:
    MISSING = (error.name or "").partition(".")[0]
    if MISSING not in ("rich", "typer"):
        raise


def main(args: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, by default those of the command line, and return its exit code."""
    if MISSING is not None:
        print(f"the command line needs {MISSING}: pip install 'flux-openai[cli]'", file=sys.stderr)
        return 2
    return app.run(sys.argv[1:] if args is None else args)
