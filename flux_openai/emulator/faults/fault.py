"""The words for what can go wrong: each act's name, its arguments, and what it means for the bill and the client."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flux_openai.emulator.api.responses import Reply
from flux_openai.emulator.faults.arguments import Param, Problem, Value, example, rule, value_of, value_text
from flux_openai.emulator.faults.queue import Target, closest

__all__ = ["Act", "Job", "Kind", "Outcome", "make_act"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an act comes to: whether the order is billed, and what FluxOpenAI raises; None for nothing at all.

    What is not `billable` cannot be billed, whatever a script says.
    """

    billed: bool
    raises: str | None
    billable: bool = True


@dataclass(frozen=True, kw_only=True)
class Act:
    """One act: its `first` argument, if it takes any, and those of the others that were given.

    `billed` overrides what the act declares.
    """

    name: str
    first: Value | None = None
    arguments: tuple[tuple[str, Value], ...] = ()
    billed: bool | None = None

    def __str__(self) -> str:
        parts = [] if self.first is None else [value_text(self.first)]
        parts += [f"{name}={value_text(value)}" for name, value in self.arguments]
        parts += [] if self.billed is None else [f"billed={value_text(self.billed)}"]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True, kw_only=True)
class Job:
    """An answer on its way to being spoiled, with the arguments of the act that does it; `target` is what was asked."""

    reply: Reply
    request_id: str
    on: Target
    target: str
    arguments: Mapping[str, Value] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An argument as text, blank if it was left out."""
        return str(self.arguments.get(name, ""))

    def number(self, name: str) -> float:
        """An argument as a number, 0 if it was left out."""
        value = self.arguments.get(name, 0)
        return 0 if isinstance(value, str) else value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of the table of acts.

    `outcomes` is what becomes of orders, and `links` of downloads; empty where the act does not apply. Either is keyed
    by the value of the first parameter, or has the one key "" if that changes nothing. What is not in a table that has
    no such key is not billed.
    """

    name: str
    doc: str
    spoil: Callable[[Job], Reply]
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    links: Mapping[str, Outcome] = field(default_factory=dict)
    params: tuple[Param, ...] = ()

    def __str__(self) -> str:
        texts = [param.name if param.default is None else self._with_default(param) for param in self.params]
        return f"{self.name}({', '.join(texts)})".removesuffix("()")

    def _with_default(self, param: Param) -> str:
        default = value_text(param.default or "")
        others = [choice for choice in param.choices if choice != default and choice not in self.outcomes]
        return f"{param.name}={'|'.join([default, *others])}"

    @property
    def on(self) -> tuple[Target, ...]:
        """The kinds of call that it applies to."""
        both: tuple[tuple[Target, object], ...] = (("generate", self.outcomes), ("download", self.links))
        return tuple(target for target, outcomes in both if outcomes)

    def bills(self, act: Act) -> bool:
        """Whether an order that this act befalls is billed."""
        if act.billed is not None:
            return act.billed
        outcome = self.outcome(act.first)
        return outcome is not None and outcome.billed

    def outcome(self, first: Value | None) -> Outcome | None:
        """What becomes of orders with this first argument, if the table says it."""
        return self.outcomes.get(str(first)) or self.outcomes.get("")

    def values(self, act: Act) -> Mapping[str, Value]:
        """The arguments of an act of this kind, its defaults filled in."""
        first = {} if act.first is None else {self.params[0].name: act.first}
        return {**first, **dict(act.arguments)}


def make_act(
    kinds: Mapping[str, Kind], name: str, given: Sequence[Value], named: Sequence[tuple[str, Value]] = ()
) -> Act | Problem:
    """The checked act; arguments go by place and then by name, as in a call."""
    kind = kinds.get(name)
    if kind is None:
        return Problem(text=f"there is no act {name:.40}; the nearest is {closest(name, kinds)}")
    if len(given) > len(kind.params):
        return Problem(at=len(kind.params), text=f"{name} takes {_takes(kind)}")
    pairs = [*zip((param.name for param in kind.params), given, strict=False), *named]
    found: dict[str, Value] = {}
    for at, (key, value) in enumerate(pairs):
        checked = _argument(kind, key, value) if key not in found else Problem(text=f"{key} is given twice")
        if isinstance(checked, Problem):
            return Problem(at=at, text=checked.text)
        found[key] = checked
    return _complete(kind, found)


def _complete(kind: Kind, found: Mapping[str, Value]) -> Act | Problem:
    first = None
    for param in kind.params[:1]:
        first = found.get(param.name, param.default)
        if first is None:
            return Problem(text=f"{kind.name} needs {rule(param)}, as in {kind.name}({example(param)})")
    kept = tuple((param.name, found[param.name]) for param in kind.params[1:] if param.name in found)
    billed, outcome = found.get("billed"), kind.outcome(first)
    if billed and outcome is not None and not outcome.billable:
        return Problem(text=f"{kind.name}({first}) cannot be billed: the order was not carried out")
    return Act(name=kind.name, first=first, arguments=kept, billed=billed if isinstance(billed, bool) else None)


def _argument(kind: Kind, name: str, value: Value) -> Value | Problem:
    if name == "billed":
        return _billed(kind, value)
    for param in kind.params:
        if param.name == name:
            checked = value_of(param, value)
            if checked is None:
                return Problem(text=f"{name} of {kind.name} must be {rule(param)}, as in {example(param)}")
            return checked
    return Problem(text=f"{kind.name} has no {name:.40}; it takes {_takes(kind)}")


def _billed(kind: Kind, value: Value) -> bool | Problem:
    if not isinstance(value, bool):
        return Problem(text="billed must be true or false")
    if "generate" not in kind.on:
        return Problem(text="downloads are never billed")
    return value


def _takes(kind: Kind) -> str:
    names = [param.name for param in kind.params] + (["billed"] if "generate" in kind.on else [])
    return ", ".join(names) or "nothing"
