"""Which part of the service a request is for."""

import re
from typing import Literal

from flux_openai.emulator.api.responses import Refusal

__all__ = ["ROUTES", "Route", "find_route"]

Route = Literal["generate", "models", "download"]

ROUTES: tuple[tuple[re.Pattern[str], str, Route], ...] = (
    (re.compile(r"/images/generations\Z"), "POST", "generate"),
    (re.compile(r"/models\Z"), "GET", "models"),
    (re.compile(r"/files/[^/]+\Z"), "GET", "download"),
)


def find_route(method: str, *, path: str) -> Route | Refusal:
    """The route of a request, or why there is none."""
    for pattern, allowed, route in ROUTES:
        if pattern.search(path):
            return route if method == allowed else _wrong_method(method, allowed=allowed)
    return Refusal(status=404, code="not_found", message=f"There is nothing at {path:.200}.")


def _wrong_method(method: str, *, allowed: str) -> Refusal:
    message = f"{method} is not possible here; {allowed} is."
    return Refusal(status=405, code="method_not_allowed", message=message, headers={"allow": allowed})
