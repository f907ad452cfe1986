"""LangChain's own tests of a tool hold for ours. They need pytest-asyncio in its mode `auto`."""

from pathlib import Path
from typing import Any

import pytest
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from flux_openai import Emulator
from flux_openai.tools import FluxTool
from flux_openai.tools.langchain import FluxImageTool


class Ours:
    """What LangChain's tests ask about a tool."""

    folder: str

    @pytest.fixture(autouse=True)
    def in_a_folder(self, tmp_path: Path) -> None:
        """The tool draws where pytest cleans up."""
        self.folder = str(tmp_path)

    @property
    def tool_constructor(self) -> type[FluxImageTool]:
        return FluxImageTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"flux": FluxTool(Emulator(pixels=64).client(), folder=self.folder)}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"prompt": "a red fox", "aspect_ratio": "16:9", "seed": 7}


class TestUnits(Ours, ToolsUnitTests):
    """The tool by itself."""


class TestIntegration(Ours, ToolsIntegrationTests):
    """The tool, run."""
