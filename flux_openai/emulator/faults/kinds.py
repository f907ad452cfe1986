"""What a row of the table of acts is made of, and the outcomes that many share."""

from collections.abc import Mapping

from flux_openai.emulator.faults.arguments import Param
from flux_openai.emulator.faults.effects import Spoil
from flux_openai.emulator.faults.fault import Kind, Outcome

__all__ = ["LINK_DEAD", "SERVED", "UNUSABLE", "choice", "count", "kind", "refuses"]

_NAMES = {
    400: "FluxBadRequestError",
    401: "FluxAuthenticationError",
    403: "FluxPermissionDeniedError",
    404: "FluxNotFoundError",
    409: "FluxConflictError",
    422: "FluxUnprocessableEntityError",
    429: "FluxRateLimitError",
}
SERVED = Outcome(billed=True, raises=None)
UNUSABLE = Outcome(billed=True, raises="BadResponseError")
LINK_DEAD = Outcome(billed=True, raises="DownloadError")

_Outcomes = Outcome | Mapping[str, Outcome]


def refuses(status: int) -> Outcome:
    """What an error status comes to."""
    usual = "FluxInternalServerError" if status >= 500 else "FluxStatusError"
    return Outcome(billed=False, raises=_NAMES.get(status, usual))


def kind(
    name: str,
    doc: str,
    effect: Spoil,
    outcomes: _Outcomes | None,
    *params: Param,
    links: _Outcomes | None = None,
) -> Kind:
    """A row; one outcome stands for whatever the first parameter is."""
    return Kind(name=name, doc=doc, spoil=effect, outcomes=_keyed(outcomes), links=_keyed(links), params=params)


def _keyed(outcomes: _Outcomes | None) -> Mapping[str, Outcome]:
    return {"": outcomes} if isinstance(outcomes, Outcome) else outcomes or {}


def choice(name: str, *choices: str, default: str | int | None = None) -> Param:
    """A parameter that is one of some words."""
    return Param(name=name, sort="choice", choices=choices, default=default)


def count(name: str, default: int, *, most: int = 1_000_000) -> Param:
    """A parameter that counts something."""
    return Param(name=name, sort="whole", default=default, least=1, most=most)
