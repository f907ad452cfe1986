"""The arguments of a tool call, as a model wrote them -> an order to send, or what is wrong with them, in its words."""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_openai._http.redaction import redacted_repr
from flux_openai.errors import InvalidParam, InvalidParamsError, listed
from flux_openai.request.model_choice import IMAGE_FIELDS
from flux_openai.request.validation import CheckedParams, given, validate
from flux_openai.tools.schema import REQUEST_KEY, Verb, arguments_of
from flux_openai.tools.session import Album

__all__ = ["Order", "read_order"]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A checked call: the body to send, how many images it asks for, the seed, and the name that the model gave it."""

    body: Mapping[str, object]
    images: int
    seed: int | None
    key: str | None


def read_order(arguments: Mapping[str, object] | str, *, family: str, verb: Verb, album: Album) -> Order | list[str]:
    """The order that the arguments stand for, or every problem with them. Images are read here."""
    values = _parsed(arguments)
    if values is None:
        return ["the arguments must be a JSON object"]
    known = {REQUEST_KEY, *arguments_of(family, verb), *(["images"] if verb == "edit" else [])}
    problems = [_unknown(name, known) for name in values if name not in known]
    key = values.get(REQUEST_KEY)
    if key is not None and not (isinstance(key, str) and key.strip()):
        problems.append(f"{REQUEST_KEY}: must be text that is not blank, or null")
    fields = {name: value for name, value in values.items() if name in known - {REQUEST_KEY, "images"}}
    if verb == "edit":
        paths, strangers = _found(values.get("images"), album)
        fields["image"], problems = paths, problems + strangers
    # The service does not tell which seed it drew from; chosen here, it can be told and used again.
    if fields.get("seed", -1) == -1:
        fields["seed"] = random.randrange(2**31)  # noqa: S311  # a picture, and no secret, hangs on it
    try:
        params = validate({**fields, "model": family}, editing=verb == "edit")
    except InvalidParamsError as error:
        named = {problem.partition(":")[0] for problem in problems}
        return problems + [_told(fault) for fault in error.faults if _argument(fault) not in named]
    problems += [_told(fault) for fault in _beyond(params)]
    return problems or _order(params, key)


def _beyond(params: CheckedParams) -> list[InvalidParam]:
    """The numbers that a call only remarks on; a model was told their limits, and nobody reads remarks to it."""
    return [
        InvalidParam(
            param=name, value=value, rule=f"must be from {low} to {high}", nearest=low if value < low else high
        )
        for name, value in params.values.items()
        for low, high in [(params.model.fields[name].minimum, params.model.fields[name].maximum)]
        if isinstance(value, int | float) and low is not None and high is not None and not low <= value <= high
    ]


def _order(params: CheckedParams, key: object) -> Order:
    values = params.values
    n, seed = values.get("n", 1), values.get("seed")
    images = n if isinstance(n, int) else 1
    return Order(
        # The number is always said: a default of the client's would not be counted.
        body={"model": params.model.id, **values, "n": images},
        images=images,
        seed=seed if isinstance(seed, int) else None,
        key=key if isinstance(key, str) else None,
    )


def _parsed(arguments: Mapping[str, object] | str) -> dict[str, object] | None:
    """The arguments by name, without those that are null; None when they are no object."""
    try:
        values = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return None
    return given(values) if isinstance(values, Mapping) and all(isinstance(name, str) for name in values) else None


def _unknown(name: str, known: Iterable[str]) -> str:
    return f"{name}: is no argument of this tool; the arguments are {', '.join(sorted(known))}"


def _found(names: object, album: Album) -> tuple[list[Path], list[str]]:
    """The files of the images that were named, and what is wrong with the names."""
    if not isinstance(names, list | tuple) or not names:
        return [], ["images: must be a list of one name or more"]
    paths = [album.path_of(name) if isinstance(name, str) else None for name in names]
    # The newest first: a long list is cut off.
    there = f"; there are {listed(album.names[:-21:-1])}" if album.names else "; there is none yet"
    strangers = [
        f"images: {redacted_repr(name)} is no image here{there}"
        for name, path in zip(names, paths, strict=True)
        if path is None
    ]
    return [path for path in paths if path is not None], strangers


def _argument(fault: InvalidParam) -> str:
    return "images" if fault.param in IMAGE_FIELDS else fault.param


def _told(fault: InvalidParam) -> str:
    """A fault in the words of the arguments: files have names, and what only a developer can do is left out."""
    rule = fault.rule.partition("; ")[0]
    if fault.param in IMAGE_FIELDS:
        return f"images: {rule}"
    nearest = "" if fault.nearest is None else f" (nearest: {fault.nearest!r})"
    return f"{fault.param}={redacted_repr(fault.value)}: {rule}{nearest}"
