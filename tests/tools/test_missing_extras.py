"""Adapters of frameworks that are not installed."""

import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize(("extra", "framework"), [("agents", "agents"), ("pydantic-ai", "pydantic_ai")])
def test_a_missing_framework_names_its_extra(monkeypatch: pytest.MonkeyPatch, extra: str, framework: str) -> None:
    """Where a framework is not installed, its adapter says which command installs it; the tool itself needs none."""
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"flux_openai.tools.{framework}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'flux-openai\[{extra}\]'") as caught:
        import_module(f"flux_openai.tools.{framework}")
    assert (caught.value.name, framework in str(caught.value)) == (framework, True)
