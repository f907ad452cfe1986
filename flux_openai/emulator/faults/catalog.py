"""The table of acts: everything that a script can make go wrong, one row each."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from textwrap import fill
from types import MappingProxyType

from flux_openai.emulator.api.responses import Reply
from flux_openai.emulator.faults.answers import ANSWERS
from flux_openai.emulator.faults.arguments import example
from flux_openai.emulator.faults.exchanges import EXCHANGES
from flux_openai.emulator.faults.fault import Act, Job, Kind, Outcome
from flux_openai.emulator.faults.queue import Target

__all__ = ["KINDS", "fault_help", "fault_table", "is_billed", "spoiled"]

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in (*EXCHANGES, *ANSWERS)})
"""All acts by name."""


def is_billed(acts: Iterable[Act]) -> bool:
    """Whether an order that these acts befall is billed: not if one of them keeps it from being carried out."""
    return all(KINDS[act.name].bills(act) for act in acts)


def spoiled(reply: Reply, *, acts: Iterable[Act], request_id: str, on: Target, target: str) -> Reply:
    """The good reply after all these acts, one after the other; `target` is the path and query that was asked for.

    What is broken stays as it is; an answer in place of another is as late as that was.
    """
    for act in acts:
        if reply.error in (None, "truncate"):
            kind = KINDS[act.name]
            job = Job(reply=reply, request_id=request_id, on=on, target=target, arguments=kind.values(act))
            made = kind.spoil(job)
            reply = replace(
                made,
                delay=max(made.delay, reply.delay),
                drip=max(made.drip, reply.drip),
                hints=max(made.hints, reply.hints),
            )
    return reply


def fault_table() -> list[tuple[str, str, str, str, str]]:
    """The table of acts, a row for each outcome: the act, where, what it does, billed or not, what is raised.

    Where nothing is raised, the last cell is blank. A link that fails was paid for with its order: "yes" there.
    """
    return [row for kind in KINDS.values() for row in _rows_of(kind)]


def _rows_of(kind: Kind) -> Iterator[tuple[str, str, str, str, str]]:
    for on, outcomes in (("generate", kind.outcomes), ("download", kind.links)):
        for first, outcome in outcomes.items():
            act = f"{kind.name}({first or _needed(kind)})".removesuffix("()")
            yield act, on, kind.doc, "yes" if outcome.billed else "no", outcome.raises or ""


def _needed(kind: Kind) -> str:
    """An argument for an act that cannot do without."""
    return example(kind.params[0]) if kind.params and kind.params[0].default is None else ""


def fault_help() -> list[str]:
    """The same table for people, as lines: each act with its arguments, and under it what it comes to.

    Those are for an order or a download ("img"): whether it is billed, what is raised, and for which first argument.
    """
    return [line for kind in KINDS.values() for line in (f"{kind}  {kind.doc}", *_outcome_lines(kind))]


def _outcome_lines(kind: Kind) -> Iterator[str]:
    for where, outcomes in (("order", kind.outcomes), ("img", kind.links)):
        same: dict[Outcome, list[str]] = {}
        for first, outcome in outcomes.items():
            same.setdefault(outcome, []).append(first)
        for outcome, firsts in same.items():
            billed = "billed" if outcome.billed else "not billed"
            words = f"    {where:5}  {billed:10}  {outcome.raises or 'served':28}  "
            yield (
                fill(", ".join(firsts), 100, initial_indent=words, subsequent_indent=" " * len(words)) or words.rstrip()
            )
