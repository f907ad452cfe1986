"""`flux-openai mcp` where its extra is missing: said in one line, and nothing else waits for what it needs."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from flux_openai.tools import extras

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


def test_the_error_of_a_missing_extra() -> None:
    """It keeps what was missing, and names the command."""
    error = extras.missing("mcp", ModuleNotFoundError("No module named 'mcp'", name="mcp"))
    assert (str(error), error.name) == ("No module named 'mcp': pip install 'flux-openai[mcp]'", "mcp")


def test_nobody_else_waits_for_it(program: Callable[..., "Done"]) -> None:
    """Neither the tools nor the program load mcp or Pillow before a server is asked for."""
    code = "import sys, flux_openai.tools, flux_openai.cli.app; sys.exit(bool({'mcp', 'PIL'} & sys.modules.keys()))"
    assert program(python=("-c", code)).code == 0


def test_the_extra_is_asked_for_at_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports the adapter without its extra is told what to install."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "flux_openai.tools.mcp", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'flux-openai\[mcp\]'"):
        __import__("flux_openai.tools.mcp")
