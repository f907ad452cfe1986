"""The ledger of a batch: what each row asks for, what became of it, and what it cost; no crash loses an answer.

One SQLite file, `ledger.db`, in the folder of the batch:

    item      what a row asks for; written once
    progress  what became of it; rewritten on every transition, so it holds nothing large that stays
    totals    one line: the rows by state, and the images and money that are spent, reserved and unknown
    meta      the name of the batch, the fingerprint of its input

    PENDING  -> SENT       send, and SENT -> PENDING: put_back
    SENT     -> ANSWERED   answer, for links; images inside the answer are saved first: SENT -> DONE
    ANSWERED -> DONE       done, or FAILED if a link is dead
    SENT     -> FAILED     fail
    SENT     -> HELD       hold, and `recover` after a crash

Each transition is durable before its `await` ends: the intent is on the disk before the request is sent, and the links
of an answer before they are downloaded. After a crash, a row that was SENT may have been carried out and billed: it is
HELD, or asked for again with the same Idempotency-Key, and counted as unknown either way.

The statements of a transition run on the event loop, since they only change pages in memory; the COMMIT, which waits
for the disk, runs in a thread. What is queued meanwhile is committed together.
"""

import asyncio
import contextlib
import errno
import json
import os
import random
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum
from functools import lru_cache, partial
from itertools import islice, takewhile
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypedDict, Unpack, cast
from weakref import WeakSet

from flux_openai._http.redaction import redacted_repr
from flux_openai.batch.folder import drop_ballast, lock, make_ballast, open_folder, refused, remove_files
from flux_openai.errors import (
    Billing,
    ChangedRowsError,
    ConfigurationError,
    InvalidParam,
    InvalidRow,
    InvalidRowsError,
    SaveError,
)
from flux_openai.models import Price

if TYPE_CHECKING:
    from types import TracebackType

    from flux_openai.batch.input.rows import CheckedRow

__all__ = [
    "BatchItem",
    "Caps",
    "Decision",
    "Ledger",
    "OnUnknown",
    "RowError",
    "SavedFile",
    "State",
    "Totals",
    "price_of_units",
    "units_of",
]

OnUnknown = Literal["hold", "retry"]
"""What becomes of a row whose outcome is unknown: it waits for a decision, or it is asked for once more."""

Decision = Literal["retry", "unbilled", "failed", "billed"]
"""The decision on a held row.

- "retry": ask for it again, with the same Idempotency-Key; what may have been billed stays counted as unknown
- "unbilled": ask for it again, since the bill of the service does not have it
- "failed": give it up; what may have been billed stays counted as unknown
- "billed": give it up, since the bill of the service has it
"""


class State(StrEnum):
    """What became of a row so far.

    Attributes:
        PENDING: To be sent.
        SENT: On its way; the outcome is not known yet.
        ANSWERED: Paid for; the images are to be downloaded.
        HELD: It may have been carried out and billed; it waits for a decision.
        FAILED: It is given up.
        DONE: Its images are saved.
    """

    PENDING = "pending"
    SENT = "sent"
    ANSWERED = "answered"
    HELD = "held"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFile:
    """One saved image.

    Attributes:
        path: The path from the folder of the batch, with slashes.
        sha256: The digest of the file, in hexadecimal.
        bytes: Its size.
        mime_type: Its type, such as "image/png".
        width: Its width in pixels, if known.
        height: Its height in pixels, if known.
    """

    path: str
    sha256: str
    bytes: int
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowError:
    """Why a row failed, is held or was put back.

    Attributes:
        type: The name of the error's class.
        message: Its text, without keys and signatures of links.
        code: The service's code, such as "param_error".
        status: The HTTP status.
        billing: What the failed call cost: "none", "unknown" or "paid".
    """

    type: str
    message: str
    code: str | None = None
    status: int | None = None
    billing: Billing = "none"


@dataclass(frozen=True, kw_only=True)
class BatchItem:
    """One row of a batch, and what became of it.

    Attributes:
        seq: Its number in the ledger, from 1.
        custom_id: Its id.
        params: The arguments of its call, with the seed that was drawn for it.
        model: The full name of the model.
        images: How many images it asks for.
        where: Where it stands in the input, such as "line 17".
        state: What became of it.
        attempts: How many requests were sent for it; refusals for the rate limit are not counted.
        unknown: How many images of earlier attempts may have been billed.
        key: The Idempotency-Key: the same on every attempt and after every crash, another one after `retry-failed`.
        cost: The cost of its images; None if their price is not known.
        request_id: The service's id of the request that made the images.
        created: When the answer came, in UTC, as ISO 8601.
        expires: When the links stop working.
        links: The links of the images while they are to be downloaded.
        files: The saved images.
        missing: How many of the requested images did not come.
        error: Why it failed or is held, or what its last attempt failed with.
    """

    seq: int
    custom_id: str
    params: Mapping[str, object]
    model: str
    images: int
    where: str
    state: State
    attempts: int = 0
    unknown: int = 0
    key: str
    cost: Price | None = None
    request_id: str | None = None
    created: str | None = None
    expires: datetime | None = None
    links: tuple[str | None, ...] = field(default=(), repr=False)
    files: tuple[SavedFile, ...] = ()
    missing: int = 0
    error: RowError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Totals:
    """The rows by state, and the images and money of all runs of a batch. Money is in 1e-9 of the currency.

    Attributes:
        pending: Rows to be sent.
        sent: Rows on their way.
        answered: Rows to be downloaded.
        held: Rows that wait for a decision.
        failed: Rows that are given up.
        done: Rows whose images are saved.
        images_spent: Images that were paid for.
        images_reserved: Images on their way.
        images_unknown: Images that may have been billed.
        cost_spent: Their cost.
        cost_reserved: Their cost.
        cost_unknown: Their cost.
        currency: The currency by its three letters; None if no price was known.
        unpriced: Whether the price of some of these images was not known, so that the sums are too low.
    """

    pending: int = 0
    sent: int = 0
    answered: int = 0
    held: int = 0
    failed: int = 0
    done: int = 0
    images_spent: int = 0
    images_reserved: int = 0
    images_unknown: int = 0
    cost_spent: int = 0
    cost_reserved: int = 0
    cost_unknown: int = 0
    currency: str | None = None
    unpriced: bool = False

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.pending + self.sent + self.answered + self.held + self.failed + self.done

    def numbers(self) -> dict[str, Any]:
        """The numbers of a run's report that count earlier runs too. What is on its way may be billed."""
        return {
            "rows": self.rows,
            "done": self.done,
            "failed": self.failed,
            "held": self.held,
            "sent": self.sent,
            "answered": self.answered,
            "pending": self.pending,
            "images": self.images_spent,
            "cost": self.price(self.cost_spent),
            "unknown_cost": self.price(self.cost_unknown + self.cost_reserved),
        }

    def price(self, cost: int) -> Price | None:
        """A cost as a price; None if a price was not known."""
        return None if self.currency is None or self.unpriced else price_of_units(cost, self.currency)


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    """What all runs of a batch may spend together; None: no cap.

    Attributes:
        max_images: How many images.
        budget: How much money.
    """

    max_images: int | None = None
    budget: Price | None = None


_SCHEMA_VERSION = 1
_APPLICATION_ID = 0x464C5558
"""It stands in the header of the file, so that the database of another program is not taken for a ledger."""

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE item (
        seq INTEGER PRIMARY KEY, custom_id TEXT NOT NULL UNIQUE, place TEXT NOT NULL, images INTEGER NOT NULL,
        seed INTEGER, params TEXT NOT NULL)""",
    """CREATE TABLE progress (
        seq INTEGER PRIMARY KEY, state INTEGER NOT NULL, round INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, cost INTEGER, spent_images INTEGER NOT NULL DEFAULT 0,
        spent_cost INTEGER NOT NULL DEFAULT 0, unknown_images INTEGER NOT NULL DEFAULT 0,
        unknown_cost INTEGER NOT NULL DEFAULT 0, missing INTEGER NOT NULL DEFAULT 0, expires REAL, created TEXT,
        request_id TEXT, links TEXT, files TEXT, error TEXT)""",
    # Finished rows leave the index: what is left to do is found at once among a million rows.
    "CREATE INDEX unfinished ON progress (state, expires) WHERE state <> 5",
    """CREATE TABLE totals (
        pending INTEGER, sent INTEGER, answered INTEGER, held INTEGER, failed INTEGER, done INTEGER,
        images_spent INTEGER, images_reserved INTEGER, images_unknown INTEGER,
        cost_spent INTEGER, cost_reserved INTEGER, cost_unknown INTEGER, currency TEXT)""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
    "INSERT INTO totals VALUES (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL)",
)

_STATES = (State.PENDING, State.SENT, State.ANSWERED, State.HELD, State.FAILED, State.DONE)
_CODES = {state: code for code, state in enumerate(_STATES)}
"""The states as the file has them."""

_COUNTERS = (
    *_STATES,
    *(f"{what}_{how}" for what in ("images", "cost") for how in ("spent", "reserved", "unknown")),
)
_SET_TOTALS = f"UPDATE totals SET {', '.join(f'{name} = :{name}' for name in _COUNTERS)}, currency = :currency"  # noqa: S608  # names from above
_INSERT = "INSERT INTO item (custom_id, place, images, seed, params) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_UPDATE = """UPDATE progress SET state = ?, attempts = ?, cost = ?, spent_images = spent_images + ?,
    spent_cost = spent_cost + ?, unknown_images = unknown_images + ?, unknown_cost = unknown_cost + ?, missing = ?,
    expires = ?, created = ?, request_id = ?, links = ?, files = ?, error = ? WHERE seq = ? AND state = ?"""
_SELECT = """SELECT seq, custom_id, params, seed, images, place, state, attempts, unknown_images, round, cost,
    request_id, created, expires, links, files, missing, error FROM progress JOIN item USING (seq)"""
_DEAL = (
    """INSERT INTO shard.progress SELECT * FROM main.progress
        WHERE seq BETWEEN :first AND :last AND state IN (0, 2)""",
    "INSERT INTO shard.item SELECT * FROM main.item WHERE seq IN (SELECT seq FROM shard.progress)",
    """UPDATE shard.totals SET pending = (SELECT count(*) FROM shard.progress WHERE state = 0),
        answered = (SELECT count(*) FROM shard.progress WHERE state = 2),
        currency = (SELECT currency FROM main.totals)""",
    "INSERT OR REPLACE INTO shard.meta SELECT name, value FROM main.meta WHERE name = 'id'",  # of the Idempotency-Keys
    "INSERT INTO shard.meta VALUES ('shard', '')",
)
_SELECT_ONE = f"{_SELECT} WHERE seq = ?"

_NEXT_PENDING = "SELECT seq FROM progress WHERE state = 0 AND state <> 5 AND expires IS NULL ORDER BY seq LIMIT ?"
_NEXT_ANSWERED = "SELECT seq FROM progress WHERE state = 2 AND state <> 5 ORDER BY expires, seq LIMIT ?"
_REPAIRABLE = """SELECT 1 FROM progress WHERE seq = ? AND state = 4 AND spent_images = 0 AND unknown_images = 0
    AND json_extract(error, '$.billing') = 'none'"""
_REPLACE = "UPDATE item SET place = ?, images = ?, seed = ?, params = ? WHERE seq = ?"
_AFRESH = "UPDATE progress SET state = 0, round = round + 1, attempts = 0, cost = NULL, error = NULL WHERE seq = ?"
_ALL_SENT = "SELECT seq FROM progress WHERE state = 1 AND state <> 5"
_UNKNOWN = "SELECT unknown_images, unknown_cost FROM progress WHERE seq = ?"

_NAME = "ledger.db"


class _Changes(TypedDict, total=False):
    """What a transition changes of a row."""

    state: State
    attempts: int
    unknown: int
    cost: Price | None
    request_id: str | None
    created: str | None
    expires: datetime | None
    links: tuple[str | None, ...]
    files: tuple[SavedFile, ...]
    missing: int
    error: RowError | None


_Account: TypeAlias = tuple[int, int]
"""A number of images, and their cost."""
_NOTHING: _Account = (0, 0)
_KILLED = RowError(
    type="Interrupted",
    message="the run ended while the request was on its way; it may have been carried out and billed",
    billing="unknown",
)

_UNITS = 10**9
_LISTED = 10_000
_PAGE = 500
_SEEDS = 2**31 - 1000
"""Seeds are drawn below this number: the service documents 2^31 - 1 as the largest, and a split call counts them up."""

_to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_random = random.SystemRandom()


@lru_cache(maxsize=256)
def price_of_units(cost: int, currency: str) -> Price:
    """An amount in 1e-9 of a currency as a price."""
    amount = Decimal(cost).scaleb(-9).normalize()
    cents = amount.quantize(Decimal("0.01"))
    return Price(amount=cents if cents == amount else amount, currency=currency)


@lru_cache(maxsize=256)
def units_of(price: Price, rounding: str = ROUND_CEILING) -> int:
    """An amount in 1e-9 of its currency. A price is rounded up, and a budget, with ROUND_FLOOR, down."""
    return int((price.amount * _UNITS).to_integral_value(rounding))


def _draw_seed() -> int:
    return _random.randrange(_SEEDS)


def _is_seedless(params: Mapping[str, object]) -> bool:
    """Whether the service would draw the seed, and not say which: nobody could make the image again."""
    extra = params.get("extra_body")
    seed = params.get("seed") if "seed" in params or not isinstance(extra, Mapping) else extra.get("seed")
    return seed is None or seed == -1


def _account(item: BatchItem) -> _Account:
    """The images and the money of one attempt."""
    return item.images, 0 if item.cost is None else units_of(item.cost)


def _changed(item: BatchItem, **changes: Unpack[_Changes]) -> BatchItem:
    """The item with other values: `dataclasses.replace` at a tenth of the time, since every transition makes one."""
    new = object.__new__(BatchItem)
    new.__dict__.update(item.__dict__, **changes)
    return new


def _prove(item: BatchItem, *states: State) -> None:
    if item.state not in states:
        raise ValueError(f"row {item.custom_id!r} is {item.state}, not {' or '.join(states)}")


def _values_of(value: SavedFile | RowError) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}


def _primary(error: sqlite3.Error) -> int:
    """The primary code of SQLite, such as SQLITE_FULL; 0 if the error did not come from it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < 2**16
    except OSError:
        return False


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and `close` ends the group
        loop.call_soon_threadsafe(function, *arguments)


_REASONS = {
    sqlite3.SQLITE_NOTADB: "its ledger.db is no ledger, or is damaged",
    sqlite3.SQLITE_CORRUPT: "its ledger.db is damaged",
    sqlite3.SQLITE_BUSY: "another program has its ledger.db locked",
    sqlite3.SQLITE_FULL: "the disk is full",
}


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Raise errors of SQLite as a ConfigurationError."""
    try:
        yield
    except sqlite3.Error as error:
        raise refused(folder, _REASONS.get(_primary(error), f"its ledger.db cannot be used: {error}")) from error


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    uri = f"{(folder / _NAME).absolute().as_uri()}?mode={mode}"
    with contextlib.ExitStack() as stack:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        stack.callback(connection.close)
        if mode == "rw":
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # on macOS, fsync alone does not reach the disk
            connection.execute("PRAGMA secure_delete = ON")  # a link that is no longer needed does not stay in the file
            connection.execute("PRAGMA cache_size = -8192")
            connection.execute(f"PRAGMA journal_size_limit = {8 * 2**20}")
        stack.pop_all()
    return connection


def _prove_there(folder: Path) -> None:
    """Raise ConfigurationError if a folder has no ledger, or cannot be looked into."""
    try:
        os.lstat(folder / _NAME)
    except FileNotFoundError:
        raise refused(folder, "there is no batch in it") from None
    except OSError as error:
        raise refused(folder, error.strerror or type(error).__name__) from error


def _open(folder: Path, *, create: bool) -> sqlite3.Connection:
    """Connect to the ledger, and with `create` make it."""
    try:
        # SQLite gives the files beside it the same mode. They hold signed links.
        os.close(os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise refused(folder, error.strerror or type(error).__name__) from error
    with contextlib.ExitStack() as stack:
        connection = _connect(folder, "rw")
        stack.callback(connection.close)
        is_new = _is_new(folder, connection)
        if is_new and not create:
            raise refused(folder, "there is no batch in it")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise refused(folder, "its file system has no shared memory for SQLite")
        if is_new:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('id', ?)", (f"flux-{secrets.token_hex(8)}",))
            connection.execute("COMMIT")
        _prove_whole(folder, connection)
        stack.pop_all()
    return connection


def _open_to_read(folder: Path) -> sqlite3.Connection:
    """Connect to a ledger that is not changed here."""
    with contextlib.ExitStack() as stack:
        connection = _connect(folder, "ro")
        stack.callback(connection.close)
        try:
            is_new = _is_new(folder, connection)
        except sqlite3.OperationalError as error:
            # In a folder that cannot be written to, SQLite cannot share memory, and after a clean end need not.
            log = folder / f"{_NAME}-wal"
            if _primary(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or log.exists():
                raise
            connection = _connect(folder, "ro&immutable=1")
            stack.callback(connection.close)
            is_new = _is_new(folder, connection)
        if is_new:
            raise refused(folder, "there is no batch in it")
        _prove_whole(folder, connection)
        stack.pop_all()
    return connection


def _is_new(folder: Path, connection: sqlite3.Connection) -> bool:
    """Whether the file is empty. Raises ConfigurationError if it is no ledger of ours."""
    (application,), (version,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and tables == 0:
        return True
    if application != _APPLICATION_ID:
        raise refused(folder, "its ledger.db belongs to another program")
    if version > _SCHEMA_VERSION:
        raise refused(folder, "its ledger.db was written by a newer release of flux_openai")
    return False


def _prove_whole(folder: Path, connection: sqlite3.Connection) -> None:
    """Raise ConfigurationError if rows are missing; to read them all would take too long."""
    query = """SELECT pending + sent + answered + held + failed + done,
        (SELECT ifnull(max(seq), 0) FROM item), (SELECT ifnull(max(seq), 0) FROM progress) FROM totals"""
    if connection.execute("SELECT 1 FROM meta WHERE name = 'shard'").fetchone():  # some rows only, but not many
        query = query.replace("ifnull(max(seq), 0)", "count(*)")
    found = connection.execute(query).fetchall()
    if len(found) != 1 or len(set(found[0])) != 1:
        raise refused(folder, "its ledger.db is damaged")


class _Comparison:
    """The rows of an input compared with those of the ledger: which are changed, which are missing."""

    def __init__(self, connection: sqlite3.Connection, known: int) -> None:
        self._connection = connection
        self._known = known
        self._seen = bytearray(known // 8 + 1)
        self._count_seen = 0
        self._changed: list[str] = []
        self._count_changed = 0
        self._invalid: list[InvalidRow] = []
        self._count_invalid = 0

    def compare(self, row: "CheckedRow", params: str) -> int | None:
        """Compare a row with the one of the same id; returns its `seq` if it is changed, and may be."""
        query = "SELECT seq, place, images, params FROM item WHERE custom_id = ?"
        seq, place, images, old = self._connection.execute(query, (row.custom_id,)).fetchone()
        byte, bit = divmod(seq, 8)
        if seq > self._known or self._seen[byte] & (1 << bit):
            self.refuse(row, f"must be unique, and {place} has it too")
            return None
        self._seen[byte] |= 1 << bit
        self._count_seen += 1
        if (old, images) != (params, row.images):
            if self._connection.execute(_REPAIRABLE, (seq,)).fetchone():
                return int(seq)
            self._count_changed += 1
            if len(self._changed) < _LISTED:
                self._changed.append(f"{row.where} (custom_id {row.custom_id!r}): {_differences(old, params)}")
        return None

    def refuse(self, row: "CheckedRow", rule: str) -> None:
        """Note that the id of a row is invalid."""
        self._count_invalid += 1
        if len(self._invalid) < _LISTED:
            fault = InvalidParam(param="custom_id", value=row.custom_id, rule=rule)
            self._invalid.append(InvalidRow(where=row.where, custom_id=row.custom_id, faults=(fault,)))

    def raise_for_differences(self, folder: Path) -> None:
        """Raise the error that lists what is wrong, if anything is."""
        if self._invalid:
            raise InvalidRowsError.of_rows(self._invalid, count=self._count_invalid)
        removed = self._known - self._count_seen
        if removed or self._changed:
            unseen = (seq for seq in range(1, self._known + 1) if not self._seen[seq // 8] & (1 << seq % 8))
            query = "SELECT custom_id FROM item WHERE seq = ?"
            ids = [self._connection.execute(query, (seq,)).fetchone()[0] for seq in islice(unseen, _LISTED)]
            raise ChangedRowsError.of_rows(self._changed, ids, count=self._count_changed + removed, folder=str(folder))


def _differences(old: str, new: str) -> str:
    """What is different between the parameters of two rows, such as "steps: 20 -> 28"."""
    before, after = json.loads(old), json.loads(new)
    names = [name for name in {**before, **after} if before.get(name, _ABSENT) != after.get(name, _ABSENT)]
    return ", ".join(f"{name}: {_shown(before, after, name)} -> {_shown(after, before, name)}" for name in names)


_ABSENT = object()


def _shown(params: Mapping[str, object], other: Mapping[str, object], name: str) -> str:
    """The value of a parameter for a message; of a long text, the part that differs."""
    if name not in params:
        return "left out"
    value, against = params[name], other.get(name)
    if isinstance(value, list):
        return f"[{', '.join(redacted_repr(each, name=name) for each in value)}]"
    if isinstance(value, str) and isinstance(against, str):
        same = next((at for at, (one, two) in enumerate(zip(value, against, strict=False)) if one != two), 0)
        if same > 40:
            return f"…{redacted_repr(value[same - 20 :], name=name)}"
    return redacted_repr(value, name=name)


@dataclass(kw_only=True, slots=True)
class _Operation:
    """A transition that waits for its commit.

    Attributes:
        item: The row.
        carry_out: Executes its statements.
        future: Whoever awaits it; None if nobody does.
        intent: Whether it is the intent to send.
    """

    item: BatchItem
    carry_out: "Callable[[BatchItem], BatchItem | None]"
    future: "asyncio.Future[BatchItem | None] | None"
    intent: bool = False


@dataclass(kw_only=True, slots=True)
class _Group:
    """Transitions that are committed together.

    Attributes:
        operations: The transitions.
        results: What each returns, or raises.
        commit: The COMMIT; None if its statements failed before.
        error: With what they failed.
    """

    operations: list[_Operation]
    results: "list[BatchItem | Exception | None]" = field(default_factory=list)
    commit: "Future[None] | None" = None
    error: sqlite3.Error | None = None


class Ledger:
    """The ledger of one folder. A context manager; use it from one thread, and from one event loop.

    Example:
        with Ledger.open("out", create=True, caps=Caps(max_images=500)) as ledger:
            ledger.add(checked_rows)
            ledger.recover("hold")
            for item in ledger.take(8):
                if await ledger.send(item, Price.of("0.70 CNY")):
                    ...
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection, *, lock: int | None, caps: Caps) -> None:
        self._folder = folder
        self._caps = caps
        self._lock = lock
        self._reader = connection
        self._state: Literal["open", "closed", "forked"] = "open"
        self._failure: SaveError | None = None
        """Why nothing more may be sent: the disk was full, say."""
        self._queue: list[_Operation] = []
        self._group: _Group | None = None
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="flux-ledger")
        self._out: dict[int, BatchItem] = {}
        """The rows that were taken, as the last commit left them."""
        self._fresh: dict[int, BatchItem] = {}
        """The rows that the open transaction changes."""
        row = self._reader.execute("SELECT * FROM totals").fetchone()
        self._counts: dict[str, int] = dict(zip(_COUNTERS, row, strict=False))
        self._currency: str | None = row[-1]
        self._unpriced = bool(self._meta("unpriced"))
        self._before = (self._counts, self._currency, self._unpriced)
        self._id = self._meta("id")
        if caps.budget is not None:
            self._check_currency(caps.budget)
            if self._unpriced:
                text = "it has images whose price was not known, so no budget can be kept: limit the images instead"
                raise refused(folder, text)
        self._writer = connection if lock is None else _connect(folder, "rw")
        _LEDGERS.add(self)

    @classmethod
    def open(cls, folder: str | PathLike[str], *, create: bool, write: bool = True, caps: Caps | None = None) -> Self:
        """Open the ledger of a folder, and with `write` lock the folder.

        Args:
            folder: The folder of the batch.
            create: Whether the folder and the ledger are made if they do not exist.
            write: Whether it is changed; without, it can be read while another process works on it.
            caps: What may be spent, by all runs together.

        Raises:
            FolderInUseError: Another run uses the folder.
            ConfigurationError: There is no ledger, or it is damaged, foreign or newer; the folder cannot be written to,
                is on a network file system, or counts in another currency.
        """
        place, create = Path(folder), create and write
        with contextlib.ExitStack() as stack:
            open_folder(place, create=create, write=write)
            if not create:
                _prove_there(place)
            descriptor = None
            if write:
                descriptor = lock(place)
                stack.callback(os.close, descriptor)
                make_ballast(place)
            with _explained(place):
                connection = _open(place, create=create) if write else _open_to_read(place)
                stack.callback(connection.close)
                ledger = cls(place, connection, lock=descriptor, caps=caps or Caps())
            stack.pop_all()
        return ledger

    def close(self, *, remove: bool = False) -> None:
        """Commit what is queued, close the file and unlock the folder; with `remove`, leave nothing of the ledger."""
        if self._state != "open":
            return
        try:
            self._settle()
            if self._queue:
                self._commit_now()
        finally:
            self._state = "closed"
            self._committer.shutdown()
            with contextlib.suppress(sqlite3.Error):  # a full disk: the write-ahead log stays, and is read next time
                self._reader.close()
                self._writer.close()
            if remove:
                remove_files(self._folder)
            if self._lock is not None:
                os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self.close()

    # What is done at the start and between runs; each is one transaction.

    @property
    def origin(self) -> str:
        """Scheme, host and port of the service that the rows are sent to; empty as long as none was."""
        return self._meta("origin")

    @origin.setter
    def origin(self, origin: str) -> None:
        """Note it down."""
        with self._transaction():
            self._note("origin", origin)

    @property
    def is_unused(self) -> bool:
        """Whether nothing has come of any row: as far as the ledger knows, nothing was ever sent."""
        return all(count == 0 for name, count in self._counts.items() if name != State.PENDING)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the input that was added last; None if it had none."""
        return self._meta("fingerprint") or None

    def _meta(self, name: str) -> str:
        row = self._read("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def _note(self, name: str, value: str) -> None:
        self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def add(self, rows: "Iterable[CheckedRow]", *, fingerprint: str | None = None) -> int:
        """Add the rows that are new, all or none, draw their seeds, and return how many they were.

        A row that has failed and has surely cost nothing, such as a refused prompt, may be another one than before: it
        is PENDING again, with the new parameters and a new Idempotency-Key.

        Args:
            rows: All rows of the input.
            fingerprint: What `fingerprint` returns from now on.

        Raises:
            ChangedRowsError: A row has other parameters than in the ledger, or the input lacks rows of the ledger.
            InvalidRowsError: An id comes twice.
        """
        known = sum(self._counts[state] for state in _STATES)
        comparison = _Comparison(self._writer, known)
        with self._transaction():
            insert = self._writer.execute
            for row in rows:
                params = _to_json({**row.params, "model": row.model.id})
                seed = _draw_seed() if _is_seedless(row.params) else None
                try:
                    added = insert(_INSERT, (row.custom_id, row.where, row.images, seed, params)).rowcount
                except UnicodeEncodeError:
                    comparison.refuse(row, "must be Unicode text, without lone surrogates")
                else:
                    if not added and (seq := comparison.compare(row, params)) is not None:
                        insert(_REPLACE, (row.where, row.images, seed, params, seq))
                        insert(_AFRESH, (seq,))
                        self._counts[State.FAILED] -= 1
                        self._counts[State.PENDING] += 1
            comparison.raise_for_differences(self._folder)
            insert("INSERT INTO progress (seq, state) SELECT seq, 0 FROM item WHERE seq > ?", (known,))
            count: int = insert("SELECT count(*) FROM progress WHERE seq > ?", (known,)).fetchone()[0]
            self._counts[State.PENDING] += count
            self._note("fingerprint", fingerprint or "")
        # Otherwise a file as large as the ledger would lie beside it until the end of the run.
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def recover(self, on_unknown: OnUnknown) -> dict[State, int]:
        """Decide on the rows that were on their way when the last run ended; call it before anything is sent.

        Each may have been carried out and billed, and is counted as unknown. With "retry" it is PENDING again, once;
        else HELD.

        Returns:
            How many rows are HELD and PENDING now because of it.
        """
        counts = {State.HELD: 0, State.PENDING: 0}
        with self._transaction():
            for (seq,) in self._read(_ALL_SENT).fetchall():  # as many as there were in flight
                item = self._item(self._read(_SELECT_ONE, (seq,)).fetchone())
                state = State.PENDING if on_unknown == "retry" and not item.unknown else State.HELD
                self._end_attempt(item, state, _KILLED)
                counts[state] += 1
        return counts

    def resolve(self, decision: Decision, custom_ids: Sequence[str] | None = None) -> int:
        """Decide on held rows, on all of them without ids; returns how many.

        With "unbilled" also rows that are not held: what may have been billed of their earlier attempts is cleared.

        Raises:
            ConfigurationError: A row is not held, or with "unbilled" has nothing that may have been billed.
        """
        chosen = self._chosen(State.HELD, custom_ids) if decision != "unbilled" else self._uncertain(custom_ids)
        count = 0
        with self._transaction():
            for count, item in enumerate(chosen, start=1):  # noqa: B007  # the last is returned
                images, cost = self._writer.execute(_UNKNOWN, (item.seq,)).fetchone()
                match decision:
                    case "retry":
                        self._change(item, _changed(item, state=State.PENDING, cost=None))
                    case "unbilled":
                        new = _changed(item, unknown=0)
                        if item.state is State.HELD:
                            new = _changed(new, state=State.PENDING, cost=None)
                        elif item.state is State.FAILED and item.error and item.error.billing == "unknown":
                            new = _changed(new, cost=None, error=replace(item.error, billing="none"))
                        self._change(item, new, unknown=(-images, -cost))
                    case "failed":
                        self._change(item, _changed(item, state=State.FAILED))
                    case "billed":
                        error = item.error and replace(item.error, billing="paid")
                        new = _changed(item, state=State.FAILED, unknown=0, error=error)
                        self._change(item, new, spent=(images, cost), unknown=(-images, -cost))
        return count

    def retry_failed(self, custom_ids: Sequence[str] | None = None) -> tuple[int, int]:
        """Let failed rows be asked for again, each with a new Idempotency-Key.

        Args:
            custom_ids: The rows; without, all that have surely cost nothing.

        Returns:
            How many rows are PENDING now, and how many were left out because they are, or may have been, paid for.
        """
        count = left_out = 0
        with self._transaction():
            for item in self._chosen(State.FAILED, custom_ids):
                if custom_ids is None and item.error is not None and item.error.billing != "none":
                    left_out += 1
                    continue
                count += 1
                self._change(item, _changed(item, state=State.PENDING, attempts=0, cost=None, error=None))
                self._writer.execute("UPDATE progress SET round = round + 1 WHERE seq = ?", (item.seq,))
        return count, left_out

    def _chosen(self, state: State, custom_ids: Sequence[str] | None) -> Iterator[BatchItem]:
        if custom_ids is None:
            yield from self.items(state)
            return
        for item in self._named(custom_ids):
            if item.state is not state:
                raise ConfigurationError(f"row {item.custom_id!r} is {item.state}, not {state}")
            yield item

    def _uncertain(self, custom_ids: Sequence[str] | None) -> Iterator[BatchItem]:
        """The rows of which something may have been billed."""
        if custom_ids is None:
            yield from (item for item in self.items() if item.unknown)
            return
        for item in self._named(custom_ids):
            if not item.unknown and item.state is not State.HELD:
                rule = f"is {item.state}, and nothing of it is of unknown outcome"
                raise ConfigurationError(f"row {item.custom_id!r} {rule}")
            yield item

    def _named(self, custom_ids: Sequence[str]) -> Iterator[BatchItem]:
        for custom_id in dict.fromkeys(custom_ids):
            row = self._read(f"{_SELECT} WHERE custom_id = ?", (custom_id,)).fetchone()
            if row is None:
                raise ConfigurationError(f"there is no row {custom_id!r} in this batch")
            yield self._item(row)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction for everything in the block; an error leaves the ledger as it was."""
        self._prove_open(writing=True)
        self._settle()
        try:
            self._start()
            yield
            self._finish()
            self._commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise self._save_error(error) from error
        except BaseException:
            self._roll_back()
            raise
        self._keep()

    # Shards: some of the rows, with a ledger of their own for as long as they are worked on elsewhere.

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """Ranges of `seq`, first and last, that have so many PENDING and ANSWERED rows each."""
        numbered = "SELECT seq, (row_number() OVER (ORDER BY seq) - 1) / ? AS part FROM progress WHERE state IN (0, 2)"
        query = f"SELECT min(seq), max(seq) FROM ({numbered}) GROUP BY part ORDER BY part"  # noqa: S608  # from above
        return [(first, last) for first, last in self._read(query, (rows,))]

    def needed(self, first: int, last: int) -> dict[str, int]:
        """How many images of each model the PENDING rows of a range ask for."""
        query = """SELECT json_extract(params, '$.model'), sum(images) FROM progress JOIN item USING (seq)
            WHERE seq BETWEEN ? AND ? AND state = 0 GROUP BY 1"""
        return dict(self._read(query, (first, last)).fetchall())

    def deal(self, folder: Path, first: int, last: int) -> None:
        """Copy the PENDING and ANSWERED rows of a range into a new ledger, which has spent nothing yet.

        Until it is merged, this ledger has the rows as they were.
        """
        Ledger.open(folder, create=True).close()
        try:
            with self._attached(folder):
                self._writer.execute("BEGIN IMMEDIATE")
                for statement in _DEAL:
                    self._writer.execute(statement, {"first": first, "last": last})
                self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise self._save_error(error) from error
        with self._transaction():  # the rows are there before anybody could ask for them
            self._note(f"shard {folder.name}", f"{first}-{last}")

    def merge(self, folder: Path) -> None:
        """Take over what became of the rows of a shard, and what they have cost; a second time it does nothing."""
        if folder.name not in self.shards():
            return
        with self._attached(folder), self._transaction():
            counts, (*_, currency) = self._counts, self._writer.execute("SELECT currency FROM shard.totals").fetchone()
            for sign, rows in ((-1, "progress WHERE seq IN (SELECT seq FROM shard.progress)"), (1, "shard.progress")):
                query = f"SELECT state, count(*) FROM {rows} GROUP BY state"  # noqa: S608  # from the line above
                for state, count in self._writer.execute(query.replace("FROM progress", "FROM main.progress")):
                    counts[_STATES[state]] += sign * count
            for name in _COUNTERS[len(_STATES) :]:
                counts[name] += self._writer.execute(f"SELECT {name} FROM shard.totals").fetchone()[0]  # noqa: S608  # likewise
            self._currency = self._currency or currency
            query = "INSERT OR IGNORE INTO main.meta SELECT * FROM shard.meta WHERE name = 'unpriced'"
            self._unpriced = self._writer.execute(query).rowcount > 0 or self._unpriced
            self._writer.execute("INSERT OR REPLACE INTO main.progress SELECT * FROM shard.progress")
            self._forget_shard(folder.name)

    def shards(self) -> dict[str, tuple[int, int]]:
        """The ranges of the shards that were dealt out and not merged yet, by the names of their folders."""
        rows = self._read("SELECT substr(name, 7), value FROM meta WHERE name LIKE 'shard %'").fetchall()
        return {name: (int(first), int(last)) for name, (first, _, last) in ((n, v.partition("-")) for n, v in rows)}

    def lose(self, name: str, price_of: Callable[[str], Price | None]) -> None:
        """Give up a shard that cannot be merged: any of its PENDING rows may have been sent, so they are SENT now."""
        first, last = self.shards()[name]
        with self._transaction():
            for item in takewhile(lambda item: item.seq <= last, self.items(State.PENDING, after=first - 1)):
                price = price_of(item.model)
                cost = None if price is None else price_of_units(units_of(price) * item.images, price.currency)
                if cost is not None:
                    self._currency = cost.currency
                self._change(item, _changed(item, state=State.SENT, attempts=item.attempts + 1, cost=cost))
            self._forget_shard(name)

    def _forget_shard(self, name: str) -> None:
        self._writer.execute("DELETE FROM meta WHERE name = ?", (f"shard {name}",))

    @contextlib.contextmanager
    def _attached(self, folder: Path) -> Iterator[None]:
        """The ledger in another folder as the schema `shard`."""
        self._prove_open(writing=True)
        self._settle()
        self._writer.execute("ATTACH ? AS shard", (str(folder / _NAME),))
        try:
            yield
        finally:
            self._writer.execute("DETACH shard")

    # Reading.

    def totals(self) -> Totals:
        """The counters."""
        if self._lock is not None:
            return Totals(**self._counts, currency=self._currency, unpriced=self._unpriced)
        row = self._read("SELECT * FROM totals").fetchone()
        counts = dict(zip(_COUNTERS, row, strict=False))
        return Totals(**counts, currency=row[-1], unpriced=bool(self._meta("unpriced")))

    def missing(self) -> int:
        """How many images were paid for and did not come, in rows that are done or answered."""
        query = "SELECT ifnull(sum(missing), 0) FROM progress WHERE state IN (2, 5)"
        count: int = self._read(query).fetchone()[0]
        return count

    def items(self, *states: State, after: int = 0) -> Iterator[BatchItem]:
        """The rows in these states, or all rows, by `seq`; memory does not grow with their number."""
        codes = [_CODES[state] for state in states or _STATES]
        # The plus keeps SQLite from the index, after which it would sort all rows anew for each page.
        query = f"{_SELECT} WHERE seq > ? AND +state IN ({', '.join('?' * len(codes))}) ORDER BY seq LIMIT {_PAGE}"
        while page := self._read(query, (after, *codes)).fetchall():
            yield from map(self._item, page)
            after = page[-1][0]

    def take(self, limit: int) -> list[BatchItem]:
        """The next PENDING rows by `seq`; a row is not taken twice before it is put back."""
        return self._next(_NEXT_PENDING, limit)

    def answered(self, limit: int) -> list[BatchItem]:
        """The next ANSWERED rows, those whose links expire first; likewise none twice."""
        return self._next(_NEXT_ANSWERED, limit)

    def _next(self, query: str, limit: int) -> list[BatchItem]:
        found = (seq for (seq,) in self._read(query, (limit + len(self._out),)) if seq not in self._out)
        items = [self._item(self._read(_SELECT_ONE, (seq,)).fetchone()) for seq in islice(found, limit)]
        self._out.update((item.seq, item) for item in items)
        return items

    def _read(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        self._prove_open()
        with _explained(self._folder):
            return self._reader.execute(query, values)

    def _item(self, row: tuple[Any, ...]) -> BatchItem:
        """The row of `_SELECT` as an item."""
        seq, custom_id, text, seed, images, place, state, attempts, unknown, round_number, cost = row[:11]
        request_id, created, expires, links, files, missing, error = row[11:]
        if cost is not None and self._currency is None:  # the run that is read has learnt a price since
            self._currency = self._read("SELECT currency FROM totals").fetchone()[0]
        params = json.loads(text)
        if seed is not None:
            params["seed"] = seed
        return BatchItem(
            seq=seq,
            custom_id=custom_id,
            params=params,
            model=params["model"],
            images=images,
            where=place,
            state=_STATES[state],
            attempts=attempts,
            unknown=unknown,
            key=f"{self._id}-{seq}-{round_number}",
            cost=None if cost is None or self._currency is None else price_of_units(cost, self._currency),
            request_id=request_id,
            created=created,
            expires=expires if expires is None else datetime.fromtimestamp(expires, UTC),
            links=() if links is None else tuple(json.loads(links)),
            files=() if files is None else tuple(SavedFile(**file) for file in json.loads(files)),
            missing=missing,
            error=None if error is None else RowError(**json.loads(error)),
        )

    # Transitions. Each returns the row as it is now, is durable when its `await` ends, and is carried out even if the
    # task that awaits it is cancelled. `send` is not: a row that nobody waits for is put back.

    async def send(self, item: BatchItem, price: Price | None = None) -> BatchItem | None:
        """PENDING -> SENT: note the intent and reserve its cost. Nothing may be sent before it returned.

        Args:
            item: The row.
            price: The price of one image.

        Returns:
            The row; None if a cap would be exceeded, and then the row stays PENDING.

        Raises:
            ConfigurationError: The price is not known but there is a budget, or it is in another currency.
            SaveError: It cannot be written; also once the disk was full.
        """
        if self._failure is not None:
            raise self._failure
        if price is not None:
            self._check_currency(price)
        elif self._caps.budget is not None:
            raise ConfigurationError(
                f"the price of {item.model!r} is not known, so no budget can be kept: give a price"
            )
        cost = None if price is None else price_of_units(units_of(price) * item.images, price.currency)

        def carry_out(current: BatchItem) -> BatchItem | None:
            _prove(current, State.PENDING)
            if not self._fits(current.images, 0 if cost is None else units_of(cost)):
                return None
            if cost is not None:
                self._currency = cost.currency
            new = _changed(current, state=State.SENT, attempts=current.attempts + 1, cost=cost)
            return self._change(current, new)

        return await self._enqueue(item, carry_out, intent=True)

    def _fits(self, images: int, cost: int) -> bool:
        counts, caps = self._counts, self._caps
        used_images = counts["images_spent"] + counts["images_reserved"] + counts["images_unknown"]
        used = counts["cost_spent"] + counts["cost_reserved"] + counts["cost_unknown"]
        return (caps.max_images is None or used_images + images <= caps.max_images) and (
            caps.budget is None or used + cost <= units_of(caps.budget, ROUND_FLOOR)
        )

    def _check_currency(self, price: Price) -> None:
        expected = self._currency or (self._caps.budget and self._caps.budget.currency)
        if expected is not None and price.currency != expected:
            raise ConfigurationError(f"this batch is counted in {expected}, so {str(price)!r} cannot be added to it")

    async def answer(
        self,
        item: BatchItem,
        links: Sequence[str | None],
        *,
        created: str | None = None,
        expires: datetime | None = None,
        request_id: str | None = None,
        missing: int = 0,
    ) -> BatchItem:
        """SENT -> ANSWERED: what was reserved is spent, and the links are kept until the images are saved."""

        def carry_out(current: BatchItem) -> BatchItem:
            _prove(current, State.SENT)
            new = _changed(
                current,
                state=State.ANSWERED,
                links=tuple(links),
                created=created,
                expires=expires,
                request_id=request_id,
                missing=missing,
                error=None,
            )
            return self._change(current, new, spent=_account(current))

        return await self._transition(item, carry_out)

    async def done(
        self,
        item: BatchItem,
        files: Sequence[SavedFile],
        *,
        created: str | None = None,
        request_id: str | None = None,
        missing: int | None = None,
    ) -> BatchItem:
        """ANSWERED -> DONE; or SENT -> DONE, for an answer with the images themselves once they are saved."""

        def carry_out(current: BatchItem) -> BatchItem:
            _prove(current, State.SENT, State.ANSWERED)
            new = _changed(
                current,
                state=State.DONE,
                links=(),
                expires=None,
                files=tuple(files),
                created=created or current.created,
                request_id=request_id or current.request_id,
                missing=current.missing if missing is None else missing,
                error=None,
            )
            return self._change(current, new, spent=_account(current) if current.state is State.SENT else _NOTHING)

        return await self._transition(item, carry_out)

    async def fail(self, item: BatchItem, error: RowError) -> BatchItem:
        """PENDING, SENT or ANSWERED -> FAILED; `error.billing` says what becomes of the reservation."""

        def carry_out(current: BatchItem) -> BatchItem:
            _prove(current, State.PENDING, State.SENT, State.ANSWERED)
            return self._end_attempt(current, State.FAILED, error)

        return await self._transition(item, carry_out)

    async def hold(self, item: BatchItem, error: RowError) -> BatchItem:
        """SENT -> HELD: what was reserved is unknown, so `error.billing` must be "unknown"."""

        def carry_out(current: BatchItem) -> BatchItem:
            _prove(current, State.SENT)
            return self._end_attempt(current, State.HELD, replace(error, billing="unknown"))

        return await self._transition(item, carry_out)

    async def put_back(self, item: BatchItem, error: RowError | None = None, *, counted: bool = True) -> BatchItem:
        """SENT -> PENDING: what was reserved is released, or unknown if `error.billing` is.

        Args:
            item: The row.
            error: Why.
            counted: Whether the attempt counts; not if the rate limit refused it.
        """

        def carry_out(current: BatchItem) -> BatchItem:
            _prove(current, State.SENT)
            return self._end_attempt(current, State.PENDING, error, attempts=current.attempts - (not counted))

        return await self._transition(item, carry_out)

    def _end_attempt(
        self, item: BatchItem, state: State, error: RowError | None, *, attempts: int | None = None
    ) -> BatchItem:
        """End an attempt without images: what was reserved for it is released, unknown or spent."""
        billing = "none" if error is None or item.state is not State.SENT else error.billing
        spent = _account(item) if billing == "paid" else _NOTHING
        unknown = _account(item) if billing == "unknown" else _NOTHING
        new = _changed(
            item,
            state=state,
            attempts=item.attempts if attempts is None else attempts,
            unknown=item.unknown + unknown[0],
            cost=None if state is State.PENDING or (billing == "none" and item.state is State.SENT) else item.cost,
            links=(),
            expires=None,
            error=error,
        )
        return self._change(item, new, spent=spent, unknown=unknown)

    def _change(
        self, item: BatchItem, new: BatchItem, *, spent: _Account = _NOTHING, unknown: _Account = _NOTHING
    ) -> BatchItem:
        """Write the row and the counters. Raises ValueError if the row is in another state in the ledger."""
        values = (
            _CODES[new.state],
            new.attempts,
            None if new.cost is None else units_of(new.cost),
            *spent,
            *unknown,
            new.missing,
            None if new.expires is None else new.expires.timestamp(),
            new.created,
            new.request_id,
            _to_json(new.links) if new.links else None,
            _to_json([_values_of(file) for file in new.files]) if new.files else None,
            None if new.error is None else _to_json(_values_of(new.error)),
            item.seq,
            _CODES[item.state],
        )
        if self._writer.execute(_UPDATE, values).rowcount != 1:
            raise ValueError(f"row {item.custom_id!r} is not {item.state} any more")
        counts = self._counts
        counts[item.state] -= 1
        counts[new.state] += 1
        counts["images_spent"] += spent[0]
        counts["cost_spent"] += spent[1]
        counts["images_unknown"] += unknown[0]
        counts["cost_unknown"] += unknown[1]
        if not self._unpriced and item.cost is None and max(spent[0], unknown[0]) > 0:
            self._unpriced = True
            self._note("unpriced", "yes")
        for sign, row in ((-1, item), (1, new)):
            if row.state is State.SENT:
                images, cost = _account(row)
                counts["images_reserved"] += sign * images
                counts["cost_reserved"] += sign * cost
        self._fresh[item.seq] = new
        return new

    # The group commit.

    async def _transition(self, item: BatchItem, carry_out: Callable[[BatchItem], BatchItem]) -> BatchItem:
        return cast(BatchItem, await self._enqueue(item, carry_out))

    def _enqueue(
        self, item: BatchItem, carry_out: Callable[[BatchItem], BatchItem | None], *, intent: bool = False
    ) -> "asyncio.Future[BatchItem | None]":
        self._prove_open(writing=True)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[BatchItem | None] = loop.create_future()
        self._queue.append(_Operation(item=item, carry_out=carry_out, future=future, intent=intent))
        if self._group is None and len(self._queue) == 1:
            loop.call_soon(self._begin, loop)  # soon: other tasks may add theirs
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Carry out what is queued, and commit it in the thread."""
        if self._group is not None or not self._queue:
            return
        group = self._group = _Group(operations=self._queue)
        self._queue = []
        try:
            self._carry_out(group)
        except sqlite3.Error as error:
            group.error = error
            loop.call_soon(self._end_group, group, loop)
            return
        group.commit = self._committer.submit(self._commit)
        group.commit.add_done_callback(lambda _: _call(loop, self._end_group, group, loop))

    def _carry_out(self, group: _Group) -> None:
        """Execute the statements of a group. Raises sqlite3.Error."""
        self._start()
        for operation in group.operations:
            try:
                if operation.intent and operation.future is not None and operation.future.cancelled():
                    group.results.append(None)
                else:
                    group.results.append(operation.carry_out(self._current(operation.item)))
            except ValueError as error:  # this one is wrong, and the others are not
                group.results.append(error)
        self._finish()

    def _end_group(self, group: _Group, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Tell the tasks what came of the commit."""
        if self._group is not group:
            return  # it was ended by `_settle`
        self._group = None
        error = group.error or (group.commit and group.commit.exception())
        group.commit = None  # its callback holds the group: the two would live until a garbage collection
        if isinstance(error, sqlite3.Error):
            self._roll_back()
            self._save_answers(group, error)
        else:
            self._keep()
        for operation, result in zip(group.operations, group.results, strict=True):
            self._tell(operation, result)
        if self._queue and loop is not None:
            loop.call_soon(self._begin, loop)

    def _tell(self, operation: _Operation, result: "BatchItem | Exception | None") -> None:
        if operation.future is None:
            return
        if operation.future.cancelled():
            if operation.intent and isinstance(result, BatchItem):  # nobody will send it
                back = partial(self._end_attempt, state=State.PENDING, error=None, attempts=result.attempts - 1)
                self._queue.append(_Operation(item=result, carry_out=back, future=None))
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if isinstance(result, Exception):
                operation.future.set_exception(result)
            else:
                operation.future.set_result(result)

    def _save_answers(self, group: _Group, error: sqlite3.Error) -> None:
        """After a failed commit: free the ballast and commit all but the intents, since images are paid for."""
        self._failure = failure = self._save_error(error)
        kept = _Group(operations=[operation for operation in group.operations if not operation.intent])
        if kept.operations:
            drop_ballast(self._folder)
            try:
                self._carry_out(kept)
                self._commit()
            except sqlite3.Error as still:
                self._roll_back()
                self._failure = failure = self._save_error(still)
                kept.results = [failure] * len(kept.operations)
            else:
                self._keep()
        results = iter(kept.results)
        group.results = [failure if operation.intent else next(results) for operation in group.operations]

    def _settle(self) -> None:
        """Wait for the commit that runs, and end its group."""
        if (group := self._group) is not None:
            if group.commit is not None:
                wait([group.commit])
            elif group.error is None:
                group.error = sqlite3.OperationalError("interrupted")
            self._end_group(group)

    def _commit_now(self) -> None:
        """Commit what is queued, without the event loop."""
        while self._queue:
            group = self._group = _Group(operations=self._queue)
            self._queue = []
            try:
                self._carry_out(group)
                self._commit()
            except sqlite3.Error as error:
                group.error = error
            self._end_group(group)

    def _start(self) -> None:
        self._before = (dict(self._counts), self._currency, self._unpriced)
        self._fresh = {}
        self._writer.execute("BEGIN IMMEDIATE")

    def _finish(self) -> None:
        self._writer.execute(_SET_TOTALS, {**self._counts, "currency": self._currency})

    def _commit(self) -> None:
        self._writer.execute("COMMIT")

    def _keep(self) -> None:
        """After a commit."""
        for seq, item in self._fresh.items():
            if item.state in (State.SENT, State.ANSWERED):
                self._out[seq] = item
            else:
                self._out.pop(seq, None)
        self._fresh = {}

    def _roll_back(self) -> None:
        self._counts, self._currency, self._unpriced = self._before
        self._fresh = {}
        with contextlib.suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _current(self, item: BatchItem) -> BatchItem:
        """The row as the open transaction has it."""
        return self._fresh.get(item.seq) or self._out.get(item.seq) or item

    def _save_error(self, error: sqlite3.Error) -> SaveError:
        full = _primary(error) == sqlite3.SQLITE_FULL or _is_full(self._folder)
        reason = "the disk is full" if full else str(error)
        failure = SaveError(f"cannot write the ledger of {str(self._folder)!r}: {reason}")
        failure.errno, failure.strerror = errno.ENOSPC if full else errno.EIO, reason
        failure.filename = str(self._folder / _NAME)
        failure.billing = "none"
        return failure

    def _prove_open(self, *, writing: bool = False) -> None:
        if self._state != "open":
            raise ValueError(
                f"the ledger is {self._state}" + (": open it in this process" if self._state == "forked" else "")
            )
        if writing and self._lock is None:
            raise ValueError("the ledger was opened for reading")

    def _forget(self) -> None:
        """In the child of a fork: the file and the lock are the parent's."""
        if self._state == "open":
            self._state = "forked"
            _OF_THE_PARENT.append((self._reader, self._writer))
            if self._lock is not None:
                os.close(self._lock)  # the parent keeps the lock, and the child does not keep it beyond the parent


_LEDGERS: "WeakSet[Ledger]" = WeakSet()
_OF_THE_PARENT: list[object] = []
"""Connections of the parent, in the child of a fork. They are kept, because to close them would write to the file."""


def _forget_ledgers() -> None:
    for ledger in [*_LEDGERS]:
        ledger._forget()  # noqa: SLF001  # a part of it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_ledgers)
