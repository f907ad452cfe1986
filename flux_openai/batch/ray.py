"""A batch on Ray: the rows are dealt out in shards to workers, each an async actor with a client of its own.

    run_batch_on_ray                       the folder, the ledger, the reports: as without Ray
      run_shards                           which shard runs where, and with what part of the caps
        _RayWorker.run(shard)              the driver's side of a worker
          _Actor.run(shard)                a process on some machine: a ledger, a client, a Runner

A worker on the driver's machine works in the folder itself. A worker on another machine gets the ledger of its shard
over Ray, works on a disk of its own, at the same path, and its images and its ledger are carried back when the shard
ends: SQLite cannot be shared over a network.

Ray repeats nothing by itself here: no actor is restarted and no method is called again, because each may have paid for
images. A shard whose worker is lost is treated as a run that was killed.

No key travels: a worker makes its client itself, and reads the key from the environment of its machine or as the
function says that makes the client. Ray keeps the arguments of an actor in memory and shows environments that it is
given (`runtime_env`) in its logs, so that neither may hold one.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Unpack

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ImportError(
        f"batches on Ray need the extra 'ray': pip install 'flux-openai[ray]' ({error})",
        name=error.name,
        path=error.path,
    ) from None

from flux_openai.batch.batch import BatchOptions, BatchRows, opened
from flux_openai.batch.ledger import Caps, Ledger, OnUnknown
from flux_openai.batch.runner import BatchProgress, BatchReport, Runner, RunSettings
from flux_openai.batch.shards import SHARDS, NoWorkerError, ShardRunner, WorkerLostError, split
from flux_openai.client.clients import AsyncFluxOpenAI
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.models import Price

__all__ = ["run_batch_on_ray"]

_LEDGER = "ledger.db"

_START = 120.0
"""Seconds for a worker to start, without which the others go on: Ray waits without end for a free processor."""

_OBJECTS = 100 * 2**20
"""Bytes of shared memory for Ray's objects on this machine: ledgers and images pass one at a time, if at all."""


async def run_batch_on_ray(
    rows: BatchRows,
    out: str | PathLike[str],
    *,
    address: str = "local",
    workers: int | None = None,
    make_client: Callable[[], AsyncFluxOpenAI] = AsyncFluxOpenAI,
    worker_folder: str | None = None,
    **options: Unpack[BatchOptions],
) -> BatchReport:
    """Make the images of many rows with several processes, on this machine or on a Ray cluster; see `run_batch`.

    The folder, the caps and a crash are as with `run_batch`, and either goes on where the other one ended. The limits
    `rpm` and `max_inflight` are split over the workers; the caps are granted to shards in the order of the rows.
    `on_result` is called when a shard ends, which is up to 10,000 rows later.

    Args:
        rows: The rows; see `run_batch`.
        out: The folder, on a disk of this machine.
        address: "local" starts Ray on this machine; "auto" and "HOST:PORT" connect to a cluster. A connection that the
            program has already is used instead.
        workers: How many workers, each of which takes one processor. By default, as many as there are processors.
        make_client: Makes the client, here and in each worker. It should not contain a key: the default reads
            MODELVERSE_API_KEY from the environment of each machine.
        worker_folder: The folder in which workers on other machines keep what they have not handed over; by default
            the same path as `out`.
        options: Those of `run_batch`, except `client`.

    Raises:
        ConfigurationError: There is no Ray at the address; and as `run_batch`.
        Exception: What a worker or a callback raised, once everything under way has ended.

    Example:
        report = await run_batch_on_ray("prompts.jsonl", "out", address="local", workers=4, budget="50 CNY")
    """
    if options.get("client") is not None:
        rule = "cannot travel to a worker: give make_client, a function that makes one"
        raise ConfigurationError.of(InvalidParam(param="client", value="AsyncFluxOpenAI", rule=rule))
    folder = Path(out).absolute()  # noqa: ASYNC240  # once, before anything runs
    with _connected(address, workers) as count:

        def make_runner(ledger: Ledger, settings: RunSettings) -> ShardRunner:
            team = list[_RayWorker]()
            parts, price = min(count, settings.max_inflight), options.get("price")
            for in_flight in split(settings.max_inflight, parts):
                own = _WorkerSettings(
                    on_unknown=settings.on_unknown,
                    price=Price.of(price) if isinstance(price, str) else price,
                    rpm=None if settings.rpm is None else settings.rpm / parts,
                    max_inflight=in_flight,
                    metadata=settings.metadata,
                )
                team.append(_RayWorker(folder, Path(worker_folder or folder), _maker(make_client, own)))
            return ShardRunner(ledger, settings, team)

        async with make_client() as client, opened(rows, folder, {**options, "client": client}, make_runner) as runner:
            return await runner.run()


class _WorkerSettings(NamedTuple):
    """What a worker has to know of the settings of the run."""

    on_unknown: OnUnknown
    price: Price | None
    rpm: float | None
    max_inflight: int
    metadata: bool


def _maker(make_client: Callable[[], AsyncFluxOpenAI], settings: _WorkerSettings) -> Callable[..., Any]:
    """Makes an actor, with Ray's options for it."""
    actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")(_Actor)
    return lambda **options: actor.options(**options).remote(make_client, settings)


class _Place(NamedTuple):
    """Where a worker is: the node of Ray, and whether it works in the driver's own folder."""

    node: str
    here: bool


class _Actor:
    """The process of a worker. Ray makes it, and runs its methods side by side on one event loop."""

    def __init__(self, make_client: Callable[[], AsyncFluxOpenAI], settings: _WorkerSettings) -> None:
        self._make_client, self._settings = make_client, settings
        self._runner: Runner | None = None
        self._drained = False

    async def start(self, out: str, machine: str, lock: str) -> _Place:
        """Make the client, which proves that there is a key, and find out where this is."""
        self._client = self._make_client()
        # A folder with the same path on another machine has another lock; one that is mounted is another machine's.
        here = machine == _machine() and _read(Path(out, ".lock")) == lock
        return _Place(ray.get_runtime_context().get_node_id(), here)

    async def run(self, folder: str, out: str, caps: Caps, ledger: bytes | None) -> BatchReport:
        """Run the ledger in a folder to its end."""
        if ledger is not None:
            _receive(Path(folder), ledger)
        client, price = self._client, self._settings.price
        settings = RunSettings(
            client=client,
            out=Path(out),
            price_of=lambda model: price or client._settings.price_of(model),  # noqa: SLF001  # of this package
            caps=caps,
            on_unknown=self._settings.on_unknown,
            max_inflight=self._settings.max_inflight,
            rpm=self._settings.rpm,
            metadata=self._settings.metadata,
        )
        with Ledger.open(folder, create=False, caps=caps) as opened_ledger:
            self._runner = Runner(opened_ledger, settings)
            if self._drained:
                self._runner.stop()
            try:
                return await self._runner.run()
            finally:
                self._runner = None

    async def progress(self) -> BatchProgress | None:
        """The numbers of the shard that runs."""
        return None if self._runner is None else self._runner.progress()

    async def drain(self) -> None:
        """Start no request any more, and let those under way end."""
        self._drained = True
        if self._runner is not None:
            self._runner.stop()

    async def files(self, folder: str) -> list[str]:
        """The files of a shard, the ledger last."""
        return _files(Path(folder))

    async def read(self, folder: str, name: str) -> bytes:
        """A file of a shard."""
        return await asyncio.to_thread(Path(folder, name).read_bytes)

    async def forget(self, folder: str) -> None:
        """Remove a shard that was handed over."""
        shutil.rmtree(folder)


class _RayWorker:
    """The driver's side of a worker: an actor, and another one when that is lost."""

    def __init__(self, out: Path, elsewhere: Path, make_actor: Callable[..., Any]) -> None:
        """Args: the folder of the run, the one on other machines, and what makes an actor with options for Ray."""
        self._out, self._elsewhere, self._make_actor = out, elsewhere, make_actor
        self._actor: Any = None  # handles of Ray have no types
        self._place = _Place("", here=False)
        self._started = False
        self._drained = asyncio.Event()

    async def run(self, folder: Path, caps: Caps) -> BatchReport:
        """Run a shard; see `shards.Worker`."""
        try:
            if not self._started:
                await self._start()
            if not self._place.here:
                return await self._run_elsewhere(folder, caps)
            report: BatchReport = await self._actor.run.remote(str(folder), str(self._out), caps, None)
        except RayTaskError as error:  # what the actor raised
            raise error.cause from None
        except RayError as error:
            self.end()
            raise WorkerLostError(str(error)) from error
        return report

    async def _run_elsewhere(self, folder: Path, caps: Caps) -> BatchReport:
        """Run a shard on the disk of another machine."""
        there = str(self._elsewhere / SHARDS / f"{folder.name}-{secrets.token_hex(4)}")
        ledger = (folder / _LEDGER).read_bytes()
        shutil.rmtree(folder)  # until it is back, what became of its rows is not known
        try:
            report: BatchReport = await self._actor.run.remote(there, there, caps, ledger)
        except RayTaskError:
            await self._bring(there, folder)
            raise
        except (RayError, asyncio.CancelledError):
            # Only a process on the same machine can still hand over what the lost one has paid for.
            self._drained.clear()
            await self._start(scheduling_strategy=NodeAffinitySchedulingStrategy(self._place.node, soft=False))
            await self._bring(there, folder)
            raise
        await self._bring(there, folder)
        return report

    async def drain(self) -> None:
        """Start no request any more; see `shards.Worker`."""
        self._drained.set()
        if self._started:
            with suppress(RayError):
                await self._actor.drain.remote()

    async def progress(self) -> BatchProgress | None:
        """The numbers of the shard that runs."""
        if self._started:
            with suppress(RayError):
                progress: BatchProgress | None = await self._actor.progress.remote()
                return progress
        return None

    def end(self) -> None:
        """End the process. What is under way in it may have been carried out, as after a kill."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor, self._started = None, False

    async def _start(self, **options: object) -> None:
        """Start a process, unless none can be had or none is wanted any more. Raises NoWorkerError."""
        self.end()
        self._actor = self._make_actor(**options)
        lock = _read(self._out / ".lock")
        start = asyncio.ensure_future(self._actor.start.remote(str(self._out), _machine(), lock))
        drained = asyncio.create_task(self._drained.wait())
        await asyncio.wait({start, drained}, timeout=_START, return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        if not start.done():
            start.cancel()
            self.end()
            raise NoWorkerError
        self._place, self._started = start.result(), True
        if self._drained.is_set():
            await self.drain()

    async def _bring(self, there: str, folder: Path) -> None:
        """Bring the images and then the ledger of a shard from another machine; only then it is merged."""
        for name in await self._actor.files.remote(there):
            data = await self._actor.read.remote(there, name)
            place = folder.with_name(f".{folder.name}") / name if name.startswith(_LEDGER) else self._out / name
            place.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(place.write_bytes, data)
        folder.with_name(f".{folder.name}").rename(folder)
        await self._actor.forget.remote(there)


def _receive(folder: Path, ledger: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / _LEDGER).write_bytes(ledger)


def _files(folder: Path) -> list[str]:
    """The images and what lies beside them, and then the ledger with its log."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    wanted = [name for name in found if "/" in name or name in (_LEDGER, f"{_LEDGER}-wal")]
    return sorted(wanted, key=lambda name: (name.startswith(_LEDGER), name))


@contextmanager
def _connected(address: str, workers: int | None) -> Iterator[int]:
    """A connection to Ray, unless there is one, and the number of workers for it."""
    if ray.is_initialized():
        yield workers or _processors()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECTS}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="WARNING", **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"there is no Ray at {address!r}: {error}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_term)  # Ray's own would end this process at once
    try:
        yield workers or _processors()
    finally:
        ray.shutdown()


def _processors() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _machine() -> str:
    """What no two machines have in common, nor the same machine after a restart."""
    return f"{socket.gethostname()} {_read(Path('/proc/sys/kernel/random/boot_id'))}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
