"""The emulator as a program of its own: it serves until it is told to stop, and then says what it would have cost."""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from flux_openai.cli.exit_codes import ExitCode
from flux_openai.cli.service import read_key
from flux_openai.emulator import Bill, Emulator, fault_help
from flux_openai.errors import ConfigurationError

__all__ = ["Emulation", "emulate"]

_ENDS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.DONE}


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """What the options say about the emulator, unchecked; with `help_faults` nothing is served, only told."""

    host: str
    port: int
    api_key_file: str | None
    pixels: int | None
    journal: Path | None
    script: str | None
    seed: int
    limit: Sequence[str] | None
    latency: str
    help_faults: bool

    def emulator(self) -> Emulator:
        """The emulator. Raises ConfigurationError."""
        key = None if self.api_key_file is None else read_key(self.api_key_file)
        if key == "":
            raise ConfigurationError(f"no key in {self.api_key_file!r}: leave out --api-key-file to accept any")
        return Emulator(
            api_key=key,
            pixels=self.pixels,
            journal=self.journal,
            script=self.script if self.script is None else _text_of(self.script),
            seed=self.seed,
            limits=self.limit or (),
            latency=self.latency,
        )


def _text_of(script: str) -> str:
    """The script itself, or what stands in the file that is named in its place."""
    if "->" in script or script.startswith("*"):
        return script
    try:
        return Path(script).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"{script!r} is neither a script, which has '->' in it, nor a file: {reason}"
        ) from error


def emulate(emulation: Emulation, *, listed: Callable[[Iterable[str]], object]) -> ExitCode:
    """Serve until a signal ends it. Raises ConfigurationError, before anything is served."""
    if emulation.help_faults:
        listed(fault_help())
        return ExitCode.DONE
    emulator = emulation.emulator()
    with _signals() as ends, emulator.serve(emulation.host, emulation.port) as server:
        listed([f"listening on {server.base_url}"])
        code = ends.get()
    listed([_cost(len(emulator.requests), emulator.bill)])
    return code


@contextmanager
def _signals() -> Iterator[SimpleQueue[ExitCode]]:
    """The ends that are asked for; a signal handler may put into this kind of queue at any moment."""
    ends: SimpleQueue[ExitCode] = SimpleQueue()

    def end(number: int, _frame: FrameType | None) -> None:
        ends.put(_ENDS[signal.Signals(number)])

    before = {number: signal.signal(number, end) for number in _ENDS}
    try:
        yield ends
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cost(requests: int, bill: Bill) -> str:
    return f"requests: {requests}, images billed: {bill.images}, of them duplicates: {bill.duplicates}"
