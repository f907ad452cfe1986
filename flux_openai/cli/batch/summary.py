"""What the folder of a batch says, in lines for people and as JSON values."""

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flux_openai.batch.ledger import Totals

__all__ = ["document", "hints", "last_report", "summary"]

_CAPS = ("max_images", "budget")


def summary(totals: Totals, *, working: bool = False) -> list[str]:
    """The counts in lines for people.

    Args:
        totals: The counts.
        working: Whether a run works on the folder now; without one, rows that were sent are cut off.
    """
    rows = {
        "rows": totals.rows,
        "done": totals.done,
        "failed": totals.failed,
        "held (may be billed; you decide)": totals.held,
        "under way" if working else "cut off": totals.sent,
        "paid and to be downloaded": totals.answered,
        "left": totals.pending,
    }
    lines = [", ".join(f"{name}: {count}" for name, count in rows.items() if count or name in ("rows", "done"))]
    cost = f", cost: {totals.price(totals.cost_spent) or 'unknown'}" if totals.images_spent else ""
    lines.append(f"images paid for: {totals.images_spent}{cost}")
    unknown, unknown_cost = totals.images_unknown, totals.cost_unknown
    if not working:
        unknown, unknown_cost = unknown + totals.images_reserved, unknown_cost + totals.cost_reserved
    if unknown:
        cost = f", which may have cost {totals.price(unknown_cost) or 'something'}"
        lines.append(f"images of unknown outcome: {unknown}{cost}")
    return lines


def document(totals: Totals) -> dict[str, object]:
    """The counts as JSON values."""
    cost, unknown_cost = totals.price(totals.cost_spent), totals.price(totals.cost_unknown + totals.cost_reserved)
    return {
        "rows": totals.rows,
        "done": totals.done,
        "failed": totals.failed,
        "held": totals.held,
        "in_flight": totals.sent,
        "answered": totals.answered,
        "pending": totals.pending,
        "images": totals.images_spent,
        "cost": None if cost is None else str(cost),
        "unknown_images": totals.images_unknown + totals.images_reserved,
        "unknown_cost": None if unknown_cost is None else str(unknown_cost),
    }


def hints(totals: Totals, folder: str, *, stopped: object = None) -> list[str]:
    """What can be done about rows that are not done, while no run works on the folder.

    Args:
        totals: The counts.
        folder: The folder.
        stopped: Why the last run ended early. At a cap the same command gets no further; its message says what does.
    """
    command, shown = "flux-openai batch", shlex.quote(folder)
    lines = []
    if totals.sent:
        cost = totals.price(totals.cost_reserved) or "unknown"
        images = f"{totals.images_reserved} image{'' if totals.images_reserved == 1 else 's'}"
        lines += [
            f"rows that were cut off, and may have been carried out and billed: {totals.sent} ({images}, cost: {cost})",
            f"run the same command again: it holds them until you decide with {command} resolve",
        ]
    if totals.failed or totals.held:
        lines.append(f"the reasons are in {Path(folder, 'errors.jsonl')}")
    if totals.failed:
        lines.append(f"failed rows that cost nothing are tried again after: {command} retry-failed {shown}")
    if totals.held:
        lines.append(f"held rows are for you to decide, by your bill: {command} resolve {shown} --help")
    if totals.answered or (totals.pending and stopped not in _CAPS):
        lines.append("the same batch run again goes on with what is left")
    return lines


def last_report(folder: str) -> Mapping[str, object]:
    """What the last run that came to an end reported; empty if there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
