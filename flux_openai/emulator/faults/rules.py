"""The rules of a fault script as values: which calls, which occurrence, with which probability, which faults."""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from operator import eq, ge, gt, le, lt

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.faults.fault import Fault, Target
from flux_openai.models import FAMILIES, FLUX_MODELS

__all__ = ["COMPARISONS", "Condition", "Occurrence", "Rule", "Script", "compiled", "find_faults", "models_named"]

COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {"=": eq, "<": lt, ">": gt, "<=": le, ">=": ge}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A comparison of one field of an order with a value; the operator "~" searches for a regular expression."""

    field: str
    operator: str
    value: str | int

    def __str__(self) -> str:
        if self.operator != "~":
            return f"{self.field}{self.operator}{self.value}"
        pattern = re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], str(self.value))
        return f"{self.field}~/{pattern}/"

    def holds(self, order: Mapping[str, object]) -> bool:
        """Whether the body of an order meets the condition; a missing field has the model's default."""
        model = FLUX_MODELS.get(str(order.get("model")))
        field = None if model is None else model.fields.get(self.field)
        value = order.get(self.field, None if field is None else field.default)
        if self.field == "model":
            return value in models_named(str(self.value))
        if isinstance(self.value, int):
            return is_whole(value) and COMPARISONS[self.operator](value, self.value)
        if self.operator == "~":
            return isinstance(value, str) and compiled(self.value).search(value) is not None
        return value == self.value


@dataclass(frozen=True, kw_only=True)
class Occurrence:
    """Which of several equal requests: from the `first` to the `last`, or each `every`-th."""

    first: int = 1
    last: int | None = None
    every: int | None = None

    def __str__(self) -> str:
        if self.every is not None:
            return f"#every {self.every}"
        if self.last is None:
            return f"#after {self.first - 1}"
        return f"#{self.first}" if self.first == self.last else f"#{self.first}..{self.last}"

    def holds(self, nth: int) -> bool:
        """Whether the nth request is one of them, counted from 1."""
        return self.first <= nth and (self.last is None or nth <= self.last) and nth % (self.every or 1) == 0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: which calls get which faults.

    Attributes:
        on: The kind of call.
        conditions: Conditions on the order, or for a download on the order that created the image; all must hold.
        nth: Which of several equal requests; None for all.
        p: The probability, 0 to 1; None for always.
        faults: The faults of a call that matches.
    """

    on: Target = "generate"
    conditions: tuple[Condition, ...] = ()
    nth: Occurrence | None = None
    p: float | None = None
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        img = ["img"] if self.on == "download" else []
        words = [" & ".join([*img, *map(str, self.conditions)]) or "*"]
        words += [] if self.nth is None else [str(self.nth)]
        words += [] if self.p is None else [f"p={self.p!r}"]
        return f"{' '.join(words)} -> {', '.join(map(str, self.faults))}"


@dataclass(frozen=True, kw_only=True)
class Script:
    """A parsed fault script: the first rule that matches a call decides. `str()` returns its text, one rule a line.

    Pass the text itself to `Emulator(script=…)`; `flux_openai.emulator.faults.script` documents the language.
    """

    rules: tuple[Rule, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.rules))


def find_faults(
    script: Script, order: Mapping[str, object] | None, *, on: object, key: str, nth: int, seed: int
) -> tuple[Fault, ...]:
    """The faults of the first rule that matches the `nth` request with this `key`; an empty tuple if no rule does.

    `order` is the body of the order; for a download, that of the order that created the image. The result depends on
    the arguments alone, so concurrent requests do not change it.
    """
    for number, rule in enumerate(script.rules, start=1):
        if (
            rule.on == on
            and (rule.nth is None or rule.nth.holds(nth))
            and all(condition.holds(order or {}) for condition in rule.conditions)
            and (rule.p is None or _draw(seed, number, key, nth) < rule.p)
        ):
            return rule.faults
    return ()


def _draw(seed: int, rule: int, key: str, nth: int) -> float:
    """A number from 0 to below 1: a float holds 53 bits, and with more it could be rounded up to 1."""
    digest = blake2b(f"{seed}:{rule}:{key}:{nth}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@lru_cache(maxsize=256)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression. Raises re.error, OverflowError or RecursionError if it is none."""
    with warnings.catch_warnings():
        # `re` caches patterns, so a FutureWarning is issued only sometimes; with -W error it would be an exception.
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(pattern)


def models_named(name: str) -> tuple[str, ...]:
    """The models with this short or full name; none if there is no such model."""
    family = tuple(model.id for model in FAMILIES.get(name, ()))
    return family or tuple(model for model in FLUX_MODELS if name in (model, model.partition("/")[2]))
