"""The HTTP library under the installed OpenAI SDK: `httpx` for openai 2.x, `httpx2` for openai 3.x.

Every other module imports it from here, so that only this file knows the difference. Both libraries have the same
names; types are checked against httpx2.
"""

import importlib
from typing import TYPE_CHECKING

import openai

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    httpx = importlib.import_module("httpx" if openai.__version__.startswith("2.") else "httpx2")

__all__ = ["httpx"]
