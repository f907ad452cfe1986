"""`flux-openai mcp` where its extra is missing: said in one line, and nothing else waits for what it needs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

if TYPE_CHECKING:
    from tests.cli.conftest import Done


@pytest.mark.parametrize("absent", ["mcp", "PIL"])
def test_a_missing_extra_names_the_command_that_installs_it(program: Callable[..., "Done"], absent: str) -> None:
    """Without mcp or Pillow the command ends with 2, and one line on stderr can be pasted."""
    code = "import sys; sys.modules[sys.argv.pop()] = None; from flux_openai.cli import main; sys.exit(main(['mcp']))"
    done = program(absent, python=("-c", code))
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "pip install 'flux-openai[cli,mcp]'" in done.err


def test_nobody_else_waits_for_it(program: Callable[..., "Done"]) -> None:
    """Neither the tools nor the program load mcp or Pillow before a server is asked for."""
    code = "import sys, flux_openai.tools, flux_openai.cli.app; sys.exit(bool({'mcp', 'PIL'} & sys.modules.keys()))"
    assert program(python=("-c", code)).code == 0
