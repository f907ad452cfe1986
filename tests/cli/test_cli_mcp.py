"""`flux-openai mcp` where its extra is missing: said in one line, and nothing else waits for what it needs."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("flux_openai.cli.app", reason="needs the extra")

if TYPE_CHECKING:
    from tests.cli.conftest import Done


@pytest.mark.parametrize("absent", ["mcp", "PIL"])
def test_a_missing_extra_names_the_command_that_installs_it(
    cli: Callable[..., "Done"], absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without mcp or Pillow the command ends with 2, and one line on stderr can be pasted."""
    monkeypatch.setitem(sys.modules, absent, None)  # so that an import of it fails
    monkeypatch.delitem(sys.modules, "flux_openai.tools.mcp", raising=False)
    done = cli("mcp")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "pip install 'flux-openai[cli,mcp]'" in done.err


def test_nobody_else_waits_for_it(program: Callable[..., "Done"]) -> None:
    """Neither the tools nor the program load mcp or Pillow before a server is asked for."""
    code = "import sys, flux_openai.tools, flux_openai.cli.app; sys.exit(bool({'mcp', 'PIL'} & sys.modules.keys()))"
    assert program(python=("-c", code)).code == 0
