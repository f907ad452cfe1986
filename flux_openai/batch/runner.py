"""The runner: sends the rows of a ledger, and saves their images.

    _pump()                                     whenever something ended, or the limiter says so: starts what may start
      _request(item)                            one task for each row in flight
        ledger.send(item)                       the intent and the reservation are on disk before anything is sent
        client.images.generate(…)               one attempt; `verdicts.py` decides about another one
        ledger.answer(item, links)              the links are on disk before an image is downloaded
        _save(item, images)                     at most 16 at a time; the place for a request is free again
          image.aread(), image.save(place)
          ledger.done(item, files)

A row has a task only while something is under way for it, and rows are taken from the ledger a few at a time, so memory
does not grow with their number. A task that has an answer in its hands is not cancelled before the ledger has it too.
"""

import asyncio
import heapq
import inspect
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

from flux_openai._http.context import Bound
from flux_openai._http.interception import network_of
from flux_openai._http.redaction import scrub
from flux_openai.batch.ledger import (
    BatchItem,
    Caps,
    Ledger,
    OnUnknown,
    RowError,
    SavedFile,
    State,
    price_of_units,
    units_of,
)
from flux_openai.batch.limiter import (
    LimiterState,
    asked_to_wait,
    next_start,
    on_cancelled,
    on_failure,
    on_rejected,
    on_start,
    on_success,
)
from flux_openai.batch.results.reports import ANSWERS, IMAGES
from flux_openai.batch.verdicts import Verdict, verdict_on
from flux_openai.client.clients import AsyncFluxOpenAI
from flux_openai.client.connections import Connections
from flux_openai.errors import (
    BadResponseError,
    DownloadError,
    FluxAPIError,
    FluxError,
    FluxStatusError,
    InvalidParamsError,
    SaveError,
    UnsafeURLError,
)
from flux_openai.formats import image_size, sniff
from flux_openai.models import FLUX_MODELS, FluxModel, Price
from flux_openai.request.arguments import GenerateParams
from flux_openai.response.download import LINK_LIFE, DownloadSettings
from flux_openai.response.file_names import EXTENSIONS, safe_stem
from flux_openai.response.files import replacing, writing_together
from flux_openai.response.response import CallInfo, FluxImage, FluxImagesResponse
from flux_openai.retry import RetryEvent
from flux_openai.sending.call import build_calls
from flux_openai.sending.sender import QUIET

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

__all__ = [
    "BatchProgress",
    "BatchReport",
    "OnProgress",
    "OnResult",
    "RunSettings",
    "Runner",
    "Stopped",
    "call_users",
    "cap_message",
    "hold_saved",
]

Stopped = Literal["max_images", "budget", "refused", "unreachable", "unknown", "disk", "interrupted"]
"""Why a run ended before its last row."""

OnResult: TypeAlias = Callable[[BatchItem], object]
"""A function, or a coroutine function, that is called with each row that ends."""

_Work: TypeAlias = Callable[[], Coroutine[object, object, None]]

_T = TypeVar("_T")

_PREFETCH = 64
"""How many rows are taken from the ledger at a time."""

_DOWNLOADS = 16
"""How many rows are downloaded and written at a time."""

_MOST_UNSAVED = 64
"""How many rows may be answered and not saved before no request starts: links expire, and images fill the memory."""

_WRITERS = 8
"""How many threads write files: most of the time is spent in fsync."""

_MOST_TOGETHER, _MOMENT = 8, 0.05
"""How many rows are written together, and for how many seconds the first waits for others: each hand-over to a thread,
and each sync of a folder, costs as much CPU time as the file itself."""

_DOWNLOAD_ROUNDS = 3
"""How often the images of a row are asked for in one run; each download tries five times by itself."""

_ROUND_WAIT = 10.0
"""Seconds before the second round; the third comes after twice as long."""

_IN_A_ROW = 5
"""How many rows may be lost in the same way one after another before the run stops."""

_MOST_WAITING = 1000
"""How many rows may wait for their next attempt before no other row is taken."""

_MOST_NOTICES = 100
"""How many different notices a report has."""

_TICK = 0.25
"""Seconds between two calls of `on_progress`."""

_SPEED_WINDOW = 60.0
"""Seconds over which the speed is measured."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    rows: int
    done: int
    failed: int
    held: int
    sent: int
    answered: int
    pending: int
    images: int
    cost: Price | None
    unknown_cost: Price | None
    requests: int
    rejected: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BatchProgress(_Counts):
    """The numbers of a run while it goes on: those of BatchReport, and those below.

    Attributes:
        in_flight: How many requests are under way.
        images_per_second: The images of the last minute by the second.
        eta: The seconds that the other rows will take at this speed; None if there is no speed yet.
    """

    in_flight: int
    images_per_second: float
    eta: float | None


@dataclass(frozen=True, kw_only=True)
class BatchReport(_Counts):
    """The numbers of a run at its end. Rows, images and costs count earlier runs with the same folder too.

    Attributes:
        rows: The number of rows.
        done: How many are done: their images are saved.
        failed: How many have failed.
        held: How many are held, because their request may have been carried out.
        sent: How many were cut off while their request was on its way; the next run decides about them.
        answered: How many are paid for, while their images are still to be downloaded by the next run.
        pending: How many were not sent, or may be sent again.
        images: How many images are paid for.
        cost: What they probably cost; None if a price is not known.
        unknown_cost: What the requests of unknown outcome cost at most, also of those that are on their way.
        requests: How many requests this run has sent.
        rejected: How many of them were refused with a 429.
        seconds: How long this run took.
        stopped: Why the run ended before its last row; None if it did not.
        message: The same in a sentence, for people, and what to do to go on.
        missing: How many images were paid for and did not come, of rows that are done or answered.
        notices: The texts of the warnings about the calls of this run.
    """

    stopped: Stopped | None
    message: str
    missing: int
    notices: tuple[str, ...]


OnProgress: TypeAlias = Callable[[BatchProgress], object]
"""A function, or a coroutine function, that is called with the numbers of the run."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        client: The client; its retry policy decides about rows whose request failed.
        out: The folder.
        price_of: The price of one image of a model.
        caps: What may be spent.
        on_unknown: What happens to a row whose request may have been carried out.
        max_inflight: How many requests may be under way.
        rpm: How many requests may start in a minute.
        metadata: Whether each image gets a file beside it that says how to make it again.
        on_result: Is called with each row that ends.
        on_progress: Is called with the numbers, at most four times a second and at the end.
        notices: The texts of the warnings about the rows, which the report has too.
    """

    client: AsyncFluxOpenAI
    out: Path
    price_of: Callable[[FluxModel], Price | None]
    caps: Caps = field(default_factory=Caps)
    on_unknown: OnUnknown = "hold"
    max_inflight: int = 500
    rpm: float | None = None
    metadata: bool = False
    on_result: OnResult | None = None
    on_progress: OnProgress | None = None
    notices: tuple[str, ...] = ()


class Runner:
    """One run over a ledger. `run` does it all; `stop` ends it early.

    Args:
        ledger: The ledger, open for writing.
        settings: The settings.
    """

    def __init__(self, ledger: Ledger, settings: RunSettings) -> None:
        """Made on the event loop that it runs on; nothing is sent before `run`."""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._ledger, self._settings = ledger, settings
        self._policy = settings.client._settings.retry  # noqa: SLF001  # a client of this package
        # One layer of retries: here. A split call would be several requests with one place in the limiter.
        alone = replace(self._policy, max_attempts=1, on_retry=None)
        self._connections = Connections(settings.client.with_options(retry=alone, split=False))
        self._limits = LimiterState(max_inflight=settings.max_inflight)
        self._rate = None if settings.rpm is None else _rate_limiter(settings.rpm)
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="flux-openai-batch")
        self._downloads = asyncio.Semaphore(_DOWNLOADS)
        # Rows that were taken from the ledger: those that can be sent, and those that wait for a time.
        self._ready, self._waiting = deque[BatchItem](), list[tuple[float, int, BatchItem]]()
        self._not_before = dict[int, float]()
        # Images that count as unknown because the service failed in this run: it has answered, with an error.
        self._server_failed = dict[int, int]()
        self._all_taken = False
        # Rows whose images are to be downloaded: of an earlier run, and those that wait for another round.
        self._earlier, self._later = deque[BatchItem](), list[tuple[float, int, _Work]]()
        self._all_earlier_taken = False
        self._unwritten = list[tuple[BatchItem, Sequence[FluxImage], "asyncio.Future[list[SavedFile]]"]]()
        self._tasks, self._keeping = set[asyncio.Task[None]](), set[asyncio.Task[None]]()
        self._pacer: asyncio.Task[None] | None = None
        self._paced = False
        self._timer: asyncio.Handle | None = None
        self._skipped = 0.0
        self._reserved = self._busy = 0
        self._full = False
        self._unsent_since: float | None = None
        self._unknown_in_a_row = self._undownloaded_in_a_row = 0
        self._stopped: Stopped | None = None
        self._message = ""
        self._error: BaseException | None = None
        self._requests = self._rejected = 0
        self._notices = dict.fromkeys(settings.notices)
        self._speed = deque[tuple[int, int, int]]()

    async def run(self) -> BatchReport:
        """Send every row that is to be sent, and save the images. If it is cancelled, rows on their way stay so.

        Raises:
            Exception: What a callback raised, once everything under way has ended.
        """
        self._began = self._loop.time()
        ticker = None if self._settings.on_progress is None else self._loop.create_task(self._tick())
        try:
            self._pump()
            await self._finished
        finally:
            await self._end(ticker)
        if self._settings.on_progress is not None:
            await self._call(self._settings.on_progress, self.progress())
        if self._error is not None:
            raise self._error
        return self.report()

    def stop(self, reason: Stopped = "interrupted", message: str = "") -> None:
        """Start no further request; what is under way ends, and is saved. The first reason counts."""
        if self._stopped is not None:
            return
        self._stopped, self._message = reason, message
        if self._pacer is not None:
            self._pacer.cancel()
        self._wake_after(0)

    async def _end(self, ticker: "asyncio.Task[None] | None") -> None:
        """Cancel what is still under way, but for images that came as base64: nobody could ask for them again."""
        self._finished.cancel()
        if self._timer is not None:
            self._timer.cancel()
        tasks = {*self._tasks, *([ticker] if ticker else []), *([self._pacer] if self._pacer else [])}
        for task in tasks - self._keeping:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            self._writers.shutdown(wait=False)
            await self._connections.aclose()

    # What starts, and when.

    def _now(self) -> float:
        """The time of the event loop, and what was not waited for."""
        return self._loop.time() + self._skipped

    def _wake_after(self, seconds: float) -> None:
        """Look again for what may start, after so many seconds."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._policy.waiting:
            self._skipped, seconds = self._skipped + seconds, 0
        self._timer = self._loop.call_later(seconds, self._pump)

    def _pump(self) -> None:
        """Start what may start now, and see to it that the rest is not forgotten."""
        if self._finished.done():
            return
        wait: float | None = None
        if self._stopped is None:
            try:
                wait = min(
                    (wait for wait in (self._start_saves(), self._start_requests()) if wait is not None), default=None
                )
            except Exception as error:  # noqa: BLE001  # of the ledger; what is under way still ends
                self._abort(error)
                return
        if wait is not None:
            self._wake_after(wait)
        elif not self._tasks and self._pacer is None:
            self._finished.set_result(None)

    def _start_requests(self) -> float | None:
        """Start requests; returns the seconds until the next, None if something has to end before, or none is left."""
        while self._stopped is None:
            now = self._now()
            if not self._take(now):
                return max(0.0, self._waiting[0][0] - now) if self._waiting else None
            if self._full or self._busy >= _MOST_UNSAVED:
                return None
            wait = next_start(self._limits, now)
            if wait != 0:
                return wait
            if self._rate is not None and not self._paced:
                self._pacer = self._pacer or self._spawn_pacer(self._rate)
                return None
            self._paced = False
            self._limits = on_start(self._limits, now)
            self._spawn(self._request(self._ready.popleft()))
        return None

    def _take(self, now: float) -> bool:
        """Whether a row can be sent now; takes more from the ledger if there is none at hand."""
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.appendleft(heapq.heappop(self._waiting)[2])
        while not self._ready and not self._all_taken and len(self._waiting) < _MOST_WAITING:
            taken = self._ledger.take(_PREFETCH)
            self._all_taken = len(taken) < _PREFETCH
            for item in taken:
                moment = self._not_before.pop(item.seq, now)
                if moment > now:
                    heapq.heappush(self._waiting, (moment, item.seq, item))
                else:
                    self._ready.append(item)
        return bool(self._ready)

    def _spawn_pacer(self, rate: "AsyncLimiter") -> "asyncio.Task[None]":
        async def pace() -> None:
            await rate.acquire()
            self._paced = True

        def paced(_: "asyncio.Task[None]") -> None:
            self._pacer = None
            self._pump()

        task = self._loop.create_task(pace())
        task.add_done_callback(paced)
        return task

    def _start_saves(self) -> float | None:
        """Start downloads of images that are paid for; returns the seconds until the next round of one."""
        now = self._now()
        while self._later and self._later[0][0] <= now:
            self._spawn(heapq.heappop(self._later)[2]())
        while self._busy < _MOST_UNSAVED:
            if not self._earlier and not self._all_earlier_taken:
                self._earlier.extend(self._ledger.answered(_PREFETCH))
                self._all_earlier_taken = len(self._earlier) < _PREFETCH
            if not self._earlier:
                break
            item = self._earlier.popleft()
            self._busy += 1
            self._spawn(self._save(item, _restored(self._settings.client, item)))
        return max(0.0, self._later[0][0] - now) if self._later else None

    def _spawn(self, work: "Coroutine[object, object, None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._abort(error)
        self._pump()

    def _abort(self, error: BaseException) -> None:
        """End the run because of an error that is not about a row."""
        if isinstance(error, SaveError):
            self.stop("disk", str(error))
            return
        self._error = self._error or error
        self.stop("interrupted", f"{type(error).__name__}: {error}")

    # One row.

    async def _request(self, item: BatchItem) -> None:
        began, sent = self._now(), None
        with ExitStack() as stack:
            try:
                # Before the intent: if no client could be made after it, the row would seem to be on its way.
                client = stack.enter_context(self._connections.client())
                sent = await self._ledger.send(item, self._settings.price_of(FLUX_MODELS[item.model]))
            finally:
                if sent is None:
                    self._limits = on_cancelled(self._limits, self._now())
            if sent is None:
                self._does_not_fit(item)
                return
            self._reserved += 1
            try:
                stopped = self._stopped not in (None, "max_images", "budget")  # what was reserved is below the cap
                if stopped or (self._limits.outage and began <= self._limits.cut_at):
                    await self._unsend(sent)
                else:
                    await self._send(sent, client, began)
            finally:
                self._reserved -= 1
                self._full = False

    async def _unsend(self, sent: BatchItem) -> None:
        """Do not send a request: the run was stopped, or one was refused with a 429, while the intent was written."""
        self._limits = on_cancelled(self._limits, self._now())
        await self._ledger.put_back(sent, counted=False)
        self._all_taken = False

    async def _send(self, sent: BatchItem, client: AsyncFluxOpenAI, began: float) -> None:
        self._requests += 1
        try:
            with Bound((QUIET, True)):
                headers = {"Idempotency-Key": sent.key}
                arguments = cast(GenerateParams, {**sent.params, "extra_headers": headers})
                response = await client.images.generate(**arguments)
        except FluxError as error:
            if not isinstance(error.partial, FluxImagesResponse):
                await self._failed(sent, error, began)
                return
            response = error.partial  # code of the user's raised after the images had come
        except Exception as error:  # noqa: BLE001  # a subclass of the client can raise anything
            await self._failed(sent, _unexpected(error), began)
            return
        except BaseException:
            self._limits = on_cancelled(self._limits, self._now())
            raise
        self._limits = on_success(self._limits, self._now(), latency=self._now() - began)
        self._unsent_since, self._unknown_in_a_row = None, 0
        self._notices.update(dict.fromkeys(response.notices[: max(0, _MOST_NOTICES - len(self._notices))]))
        self._busy += 1
        self._pump()  # there is a place for another request
        await self._answered(sent, response)

    def _does_not_fit(self, item: BatchItem) -> None:
        """A cap would be exceeded. A request under way may still be refused, and release what it reserved."""
        self._ready.appendleft(item)
        self._full = True
        if self._reserved == 0:
            totals, most = self._ledger.totals(), self._settings.caps.max_images
            asked = totals.images_spent + totals.images_reserved + totals.images_unknown + item.images
            if most is not None and asked > most:
                self.stop("max_images", cap_message("max_images", item, self._ledger, self._settings))
            else:
                self.stop("budget", cap_message("budget", item, self._ledger, self._settings))

    async def _answered(self, item: BatchItem, response: FluxImagesResponse) -> None:
        """Note down an answer, and save its images."""
        images, missing = response.data, response.missing
        created, request_id = (response.expires_at - LINK_LIFE).isoformat(timespec="seconds"), response.request_id
        if all(image.url is not None and image.b64_json is None for image in images):
            links, expires = [image.url for image in images], response.expires_at
            noted = await self._ledger.answer(
                item, links, created=created, expires=expires, request_id=request_id, missing=missing
            )
            del response
            await self._save(noted, images)
            return
        del response
        with self._kept():
            try:
                files = await self._loop.run_in_executor(self._writers, self._write, item, images)
            except SaveError as error:
                self.stop("disk", str(error))
                ended = await self._ledger.fail(item, _row_error(error, remark=_kept_elsewhere(images)))
            else:
                ended = await self._ledger.done(item, files, created=created, request_id=request_id, missing=missing)
        await self._row_ended(ended)
        self._busy -= 1

    async def _save(self, item: BatchItem, images: Sequence[FluxImage], rounds: int = 1) -> None:
        """Download the images of an answered row, and write their files. The row never leads to another request."""
        try:
            async with self._downloads:
                for image in images:
                    await image.aread()
                files = await self._written(item, images)
            ended = await self._ledger.done(item, files)
        except DownloadError as error:
            if not _is_gone(error, item):
                self._save_later(item, images, error, rounds)
                return
            remark = "the image was paid for, and is not made again"
            ended = await self._ledger.fail(item, _row_error(error, remark=remark))
        self._undownloaded_in_a_row = 0
        await self._row_ended(ended)
        self._busy -= 1

    def _save_later(self, item: BatchItem, images: Sequence[FluxImage], error: DownloadError, rounds: int) -> None:
        """Try the download again in a while, or leave it to the next run."""
        if rounds < _DOWNLOAD_ROUNDS:
            moment = self._now() + _ROUND_WAIT * rounds * (1 + random.random())  # noqa: S311  # jitter
            work: _Work = partial(self._save, item, images, rounds + 1)
            heapq.heappush(self._later, (moment, item.seq, work))
            return
        self._busy -= 1
        self._undownloaded_in_a_row += 1
        if self._undownloaded_in_a_row >= _IN_A_ROW:
            self.stop("unreachable", f"{_IN_A_ROW} downloads in a row failed, the last one with: {error}")

    async def _written(self, item: BatchItem, images: Sequence[FluxImage]) -> list[SavedFile]:
        """Write the files of a row in a thread, with those of the rows that come in the same moment."""
        written: asyncio.Future[list[SavedFile]] = self._loop.create_future()
        self._unwritten.append((item, images, written))
        if len(self._unwritten) == _MOST_TOGETHER or not self._limits.in_flight:
            self._write_all()
        elif len(self._unwritten) == 1:
            self._loop.call_later(_MOMENT, self._write_all)
        return await written

    def _write_all(self) -> None:
        rows = [row for row in self._unwritten if not row[2].cancelled()]
        self._unwritten.clear()
        if not rows:
            return

        def write() -> list[list[SavedFile] | Exception]:
            results = list[list[SavedFile] | Exception]()
            with writing_together():
                for item, images, _ in rows:
                    try:
                        results.append(self._write(item, images))
                    except Exception as error:  # noqa: BLE001  # the task of this row raises it; the others are written
                        results.append(error)
            return results

        def tell(work: "asyncio.Future[list[list[SavedFile] | Exception]]") -> None:
            for (_, _, written), result in zip(rows, work.result(), strict=True):
                if written.cancelled():
                    continue
                if isinstance(result, Exception):
                    written.set_exception(result)
                else:
                    written.set_result(result)

        self._loop.run_in_executor(self._writers, write).add_done_callback(tell)

    def _write(self, item: BatchItem, images: Sequence[FluxImage]) -> list[SavedFile]:
        """Write the files of a row. They have the same names every time, so a crash leaves no second copy."""
        files, out = [], self._settings.out
        for index, image in enumerate(images):
            place = out / f"{_beginning(item, index)}.png"  # the ending follows the bytes
            path = image.save(place, overwrite=True, metadata=self._settings.metadata)
            files.append(_saved(out, path, image.read()))
        return files

    def _keep_answer(self, item: BatchItem, body: bytes) -> str:
        """Save an answer that cannot be used, and may be all that leads to an image; returns where it is."""
        path = f"{ANSWERS}/{item.seq:06}-{safe_stem(item.custom_id)}.bin"
        try:
            with replacing(self._settings.out / path) as file:
                if hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), 0o600)  # it may hold signed links
                file.write(body)
        except SaveError as error:
            return f"no file, since {error}"
        return path

    async def _failed(self, item: BatchItem, error: FluxError, began: float) -> None:
        """Decide what becomes of a row whose request failed, and of the run."""
        server_failed = self._server_failed.pop(item.seq, 0)
        verdict = verdict_on(
            error,
            policy=self._policy,
            on_unknown=self._settings.on_unknown,
            attempts=item.attempts,
            asked_before=item.unknown > server_failed,
            random=random.random,
        )
        self._learn(verdict, error, began)
        note = _row_error(error)
        if isinstance(error, BadResponseError) and error.billing != "none" and (body := error.read_body()).strip():
            kept = await self._loop.run_in_executor(self._writers, self._keep_answer, item, body)
            note = replace(note, message=note.message.replace("error.read_body()", kept))
        if verdict.row == "again":
            if verdict.wait:
                self._not_before[item.seq] = self._now() + verdict.wait
            counted = verdict.cause in ("server_failed", "unknown")
            if verdict.cause == "server_failed" and note.billing == "unknown":
                server_failed += item.images
            if server_failed:
                self._server_failed[item.seq] = server_failed
            await self._ledger.put_back(item, note, counted=counted)
            self._all_taken = False
            if counted and self._policy.on_retry is not None:
                status = error.status_code if isinstance(error, FluxStatusError) else None
                event = RetryEvent(attempt=item.attempts, wait=verdict.wait, reason=verdict.cause, status_code=status)
                await self._call(self._policy.on_retry, event)
        elif verdict.row == "held":
            await self._row_ended(await self._ledger.hold(item, note))
        else:
            await self._row_ended(await self._ledger.fail(item, note))

    def _learn(self, verdict: Verdict, error: FluxError, began: float) -> None:
        """Tell the limiter about a failure, and stop the run if others would only follow."""
        now, cause = self._now(), verdict.cause
        if cause in ("rate_limited", "not_sent") or (cause == "server_failed" and error.retry_after):
            # Where no connection can be made, one probe at a time is enough, as after a 429.
            self._limits = on_rejected(self._limits, now, retry_after=error.retry_after, latency=now - began)
        elif cause in ("server_failed", "unknown"):
            self._limits = on_failure(self._limits, now)
        else:
            self._limits = on_success(self._limits, now, latency=now - began)
        self._rejected += cause == "rate_limited"
        if verdict.stops:
            self.stop("refused", str(error))
        if (left := asked_to_wait(self._limits, now)) is not None:
            self.stop("refused", f"the service asks to wait for {left:.0f} s: {error}")
        if cause != "not_sent":
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        elif now - self._unsent_since > self._policy.max_elapsed:
            self.stop("unreachable", f"no request could be sent for {now - self._unsent_since:.0f} s: {error}")
        if cause == "unknown" or verdict.row == "held":
            self._unknown_in_a_row += 1
            if self._unknown_in_a_row >= _IN_A_ROW:
                text = f"{_IN_A_ROW} requests in a row may have been billed and brought no image, the last one: {error}"
                self.stop("unknown", text)

    async def _row_ended(self, item: BatchItem) -> None:
        """Count a row that ended, and call the user's function."""
        second, images = int(self._now()), len(item.files)
        if self._speed and self._speed[-1][0] == second:
            _, rows, before = self._speed.pop()
            self._speed.append((second, rows + 1, before + images))
        else:
            self._speed.append((second, 1, images))
        while self._speed[0][0] < second - _SPEED_WINDOW:
            self._speed.popleft()
        if self._settings.on_result is not None:
            self._busy += 1  # a slow function slows the run down
            await self._call(self._settings.on_result, item)
            self._busy -= 1

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """While this lasts, the task is not cancelled with the run."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a row has a task")
        self._keeping.add(task)
        try:
            yield
        finally:
            self._keeping.discard(task)

    async def _call(self, function: Callable[[_T], object], value: _T) -> None:
        await call_users(function, value, failed=self._abort)

    # The numbers.

    async def _tick(self) -> None:
        while self._settings.on_progress is not None:
            await asyncio.sleep(_TICK)
            await self._call(self._settings.on_progress, self.progress())

    def progress(self) -> BatchProgress:
        """The numbers as they are now."""
        rows = images = 0
        now = self._now()
        first = max(self._began, now - _SPEED_WINDOW)
        for second, some_rows, some_images in self._speed:
            if second >= first - 1:
                rows, images = rows + some_rows, images + some_images
        seconds = max(now - first, 0.001)
        counts = self._counts()
        left = counts["pending"] + counts["answered"] + self._limits.in_flight
        return BatchProgress(
            **counts,
            in_flight=self._limits.in_flight,
            images_per_second=images / seconds,
            eta=left * seconds / rows if rows else None,
        )

    def report(self) -> BatchReport:
        """The numbers at the end."""
        return BatchReport(
            **self._counts(),
            stopped=self._stopped,
            message=self._message,
            missing=self._ledger.missing(),
            notices=tuple(self._notices),
        )

    def _counts(self) -> dict[str, Any]:
        return {
            **self._ledger.totals().numbers(),
            "requests": self._requests,
            "rejected": self._rejected,
            "seconds": self._loop.time() - self._began,
        }


def cap_message(cap: Literal["max_images", "budget"], item: BatchItem, ledger: Ledger, settings: RunSettings) -> str:
    """Why a run cannot go on with this row, and which cap is enough for all that are left."""
    totals, needed = ledger.totals(), ledger.needed(0, 2**62)
    left = "1 row is left" if totals.pending == 1 else f"{totals.pending} rows are left"
    if cap == "max_images":
        used = totals.images_spent + totals.images_reserved + totals.images_unknown
        facts = f"{used} of {settings.caps.max_images} images are paid for, or may be, and the next row asks for"
        return f"{facts} {item.images}: {left}; go on with max_images={used + sum(needed.values())} or more"

    def cost_of(images: Mapping[str, int]) -> int:
        prices = {model: settings.price_of(FLUX_MODELS[model]) for model in images}
        return sum(units_of(price) * images[model] for model, price in prices.items() if price is not None)

    spent = totals.cost_spent + totals.cost_reserved + totals.cost_unknown
    currency = settings.caps.budget.currency if settings.caps.budget else ""
    used_up, next_row, enough = (
        price_of_units(cost, currency) for cost in (spent, cost_of({item.model: item.images}), spent + cost_of(needed))
    )
    facts = f"{used_up} of {settings.caps.budget} are spent, or may be, and the next row costs {next_row}"
    return f"{facts}: {left}; go on with a budget of {enough} or more"


async def call_users(function: Callable[[_T], object], value: _T, *, failed: Callable[[BaseException], None]) -> None:
    """Call a function or coroutine function of the user's. What it raises goes to `failed`, which ends the run."""
    try:
        result = function(value)
        if inspect.isawaitable(result):
            await result
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        failed(error)  # the function raised it: nobody has cancelled the run
    except Exception as error:  # noqa: BLE001  # `run` raises it, once what is under way has ended
        failed(error)


def _rate_limiter(rpm: float) -> "AsyncLimiter":
    try:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415  # of an extra
    except ImportError as error:
        text = f"rpm needs the extra 'batch': pip install 'flux-openai[batch]' ({error})"
        raise ImportError(text, name=error.name, path=error.path) from None
    return AsyncLimiter(1, 60 / rpm)  # one at a time: a burst is what a limit by the minute refuses


async def hold_saved(ledger: Ledger, out: Path) -> None:
    """Hold rows that were on their way when the run was killed, and that have files: nothing proves whose those are.

    Only images that come as base64 are saved before the ledger knows of the answer. Call it before `Ledger.recover`.
    """
    for item in list(ledger.items(State.SENT)):
        found = [path for index in range(item.images) for path in _images_at(out, _beginning(item, index))]
        if found:
            names = ", ".join(path.relative_to(out).as_posix() for path in found)
            message = f"the run ended before it noted the answer down; its images may be {names}"
            await ledger.hold(item, RowError(type="Interrupted", message=message, billing="unknown"))


def _images_at(out: Path, beginning: str) -> list[Path]:
    return [path for path in out.glob(f"{beginning}.*") if path.suffix in EXTENSIONS]


def _beginning(item: BatchItem, index: int) -> str:
    """The path of an image in the folder of the batch, without its ending."""
    return f"{IMAGES}/{item.seq // 100:04}/{item.seq:06}-{safe_stem(item.custom_id)}_{index}"


def _saved(out: Path, path: Path, data: bytes | None = None) -> SavedFile:
    data = path.read_bytes() if data is None else data
    kind, (width, height) = sniff(data), image_size(data) or (None, None)
    return SavedFile(
        path=path.relative_to(out).as_posix(),
        sha256=sha256(data).hexdigest(),
        bytes=len(data),
        mime_type=None if kind is None else kind.mime,
        width=width,
        height=height,
    )


def _restored(client: AsyncFluxOpenAI, item: BatchItem) -> list[FluxImage]:
    """The images of an answer that an earlier run received, from the links in the ledger."""
    params: Mapping[str, object] = item.params
    with suppress(InvalidParamsError):  # an image file that is gone since
        params = build_calls("generate", {**params, "split": False}, client._settings)[0].params  # noqa: SLF001
    made = datetime.now(UTC) if item.expires is None else item.expires - LINK_LIFE
    http, origin = network_of(client)
    waiting = client._settings.retry.waiting  # noqa: SLF001  # a client of this package
    downloads = DownloadSettings(origin=origin, aclient=http, waiting=waiting, received=made.timestamp())
    info = CallInfo(model=item.model, params=params, request_id=item.request_id, received=made)
    return [
        FluxImage.of({"url": link}, downloads=downloads, info=info, index=index)
        for index, link in enumerate(item.links)
    ]


def _is_gone(error: DownloadError, item: BatchItem) -> bool:
    """Whether another try cannot help: the link has expired, or must not be opened."""
    if isinstance(error, UnsafeURLError) or error.status_code == 410:
        return True
    # While the link lives, the storage may be late or set up wrongly for an hour, and the image is paid for.
    return error.status_code in (403, 404) and item.expires is not None and datetime.now(UTC) > item.expires


def _row_error(error: FluxError, *, remark: str = "") -> RowError:
    status = getattr(error, "status_code", None)
    message = scrub(str(error)) + (f"; {remark}" if remark else "")
    return RowError(
        type=type(error).__name__,
        message=message,
        code=error.code if isinstance(error, FluxAPIError) else None,
        status=status,
        billing=error.billing,
    )


def _unexpected(error: Exception) -> FluxError:
    """The error of a call that raised what no call should: whether it was carried out is not known."""
    found = FluxError(f"{type(error).__name__}: {scrub(str(error))}")
    found.billing = "unknown"
    return found


def _kept_elsewhere(images: Sequence[FluxImage]) -> str:
    """Save images, to which there is no link, in the folder for temporary files; returns where they are."""
    try:
        folder = mkdtemp(prefix="flux-openai-")
        for image in images:
            image.save(folder)
    except (FluxError, OSError) as error:
        return f"it cannot be kept elsewhere either: {error}"
    return f"it is kept in {folder}"
