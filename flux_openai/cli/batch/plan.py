"""What a run would send: `batch run --dry-run`. Of a folder that exists it only reads the ledger."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from flux_openai._http.redaction import redacted_repr
from flux_openai.batch.batch import check_price
from flux_openai.batch.input.rows import CheckedRow
from flux_openai.batch.ledger import BatchItem, Ledger, OnUnknown, State, Totals
from flux_openai.batch.results.reports import as_json
from flux_openai.errors import ChangedRowsError
from flux_openai.models import FLUX_MODELS, Price
from flux_openai.request.validation import body_of, validate

__all__ = ["DryRun"]

_SHOWN = 3
"""How many bodies are shown."""

_LISTED = 20
"""How many changed rows an error lists."""


class DryRun:
    """What a run would do.

    Attributes:
        rows: How many rows the input has.
        states: How many rows the folder has in each state.
        totals: What the folder has spent so far.
        images: The images to be sent, by model.
        sent: How many rows are to be sent.
        first: The bodies of the first of them.
        notices: The warnings about them, and how many rows each is about.
    """

    def __init__(self, *, on_unknown: OnUnknown = "hold", price: Price | None, budget: Price | None) -> None:
        """Nothing is read yet. `price` is that of one image, if the table's does not count."""
        self._on_unknown, self._price, self._budget = on_unknown, price, budget
        self.rows = self.sent = 0
        self.totals = Totals()
        self.states, self.images, self.notices = Counter[State](), Counter[str](), Counter[str]()
        self.first = list[Mapping[str, object]]()

    def read(self, rows: Iterator[CheckedRow], folder: str) -> None:
        """Count the rows, each by what the folder knows of it.

        Raises:
            ChangedRowsError: A row is another one than in the folder, or is not in the input any more.
            ConfigurationError: A row cannot be sent, has no price in the currency of the budget, or the ledger cannot
                be read.
        """
        if not Path(folder, "ledger.db").exists():
            for row in rows:
                self._count(row)
            return
        with Ledger.open(folder, create=False, write=False) as ledger:
            self.totals = ledger.totals()
            with closing(ledger.items()) as items:  # type: ignore[type-var]  # a generator
                self._compare(rows, items, folder)

    def _compare(self, rows: Iterator[CheckedRow], items: Iterator[BatchItem], folder: str) -> None:
        """Count rows that mostly come in the order of the ledger: only those in between are kept."""
        passed, changed, count = dict[str, BatchItem](), list[str](), 0
        for row in rows:
            item = passed.pop(row.custom_id, None)
            while item is None and (following := next(items, None)) is not None:
                if following.custom_id == row.custom_id:
                    item = following
                else:
                    passed[following.custom_id] = following
            if item is not None and (differences := _differences(item, row)):
                if _is_repairable(item):
                    self._count(row)
                    continue
                count += 1
                changed += [f"{row.where} (custom_id {row.custom_id!r}): {differences}"][: _LISTED - len(changed)]
            again = item is not None and item.state is State.SENT and self._on_unknown == "retry" and not item.unknown
            self._count(row, State.PENDING if item is None else item.state, sent=again)
        removed = [*passed, *(item.custom_id for item in items)]
        if count or removed:
            raise ChangedRowsError.of_rows(changed, removed[:_LISTED], count=count + len(removed), folder=folder)

    def _count(self, row: CheckedRow, state: State = State.PENDING, *, sent: bool = False) -> None:
        check_price(self._price or row.model.price, row, budget=self._budget)
        self.rows += 1
        self.states[state] += 1
        if state is not State.PENDING and not sent:
            return
        self.sent += 1
        self.images[row.model.id] += row.images
        self.notices.update(row.notices)
        if len(self.first) < _SHOWN:
            checked = validate(row.params)
            self.first.append(body_of(checked.values, checked.model))

    def cost(self) -> Price | None:
        """What the images to be sent cost; None if the price of one is not known."""
        costs = list[Price]()
        for model, count in self.images.items():
            price = self._price or FLUX_MODELS[model].price
            if price is None:
                return None
            costs.append(price.for_images(count))
        if not costs:
            return None
        return Price(amount=sum((cost.amount for cost in costs), Decimal()), currency=costs[0].currency)


def _is_repairable(item: BatchItem) -> bool:
    """Whether a row may change: it failed, and has surely cost nothing."""
    return item.state is State.FAILED and item.error is not None and item.error.billing == "none" and not item.unknown


def _differences(item: BatchItem, row: CheckedRow) -> str:
    """What is different between a row of the ledger and one of the input, such as "steps: 20 -> 28"."""
    before = dict(item.params)
    after = json.loads(as_json({**row.params, "model": row.model.id}))
    if after.get("seed", -1) in (-1, None):  # the one of the ledger was drawn
        before.pop("seed", None)
        after.pop("seed", None)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    shown = [
        f"{name}: {redacted_repr(before.get(name), name=name)} -> {redacted_repr(after.get(name), name=name)}"
        for name in names
    ]
    return ", ".join(shown)
