"""The server commands: `emulate` serves the emulator over HTTP, `mcp` the tools over stdin and stdout."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Annotated

import anyio
import typer

from flux_openai.cli.console import Console
from flux_openai.cli.exit_codes import ExitCode
from flux_openai.cli.service import ServiceOptions, prove_writable, read_key
from flux_openai.emulator import Emulator, fault_help
from flux_openai.errors import ConfigurationError

__all__ = ["EmulateOptions", "serve_emulator", "serve_mcp"]

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.DONE}


@dataclass(frozen=True, kw_only=True)
class EmulateOptions:
    """The options of `emulate`; their values are not checked yet."""

    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address to listen on; it must be one that only this machine can reach."),
    ] = "127.0.0.1"
    port: Annotated[int, typer.Option(metavar="INTEGER", help="Port to listen on; 0 picks a free one.")] = 8399
    api_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File that holds the only key to accept, - for stdin. Left out, every key is accepted.",
        ),
    ] = None
    pixels: Annotated[
        int | None,
        typer.Option(metavar="INTEGER", help="Approximate area of a picture. Left out, it is a megapixel."),
    ] = None
    journal: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that gets a line of JSON for each request.")
    ] = None
    script: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Faults to cause, or a file of them, such as 'prompt~/cat/ #1 -> status(429)'; see --help-faults.",
        ),
    ] = None
    seed: Annotated[int, typer.Option(metavar="INTEGER", help="Seed of the random choices of the script.")] = 0
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A limit, such as 10/s, window:60/min, concurrency=8 or credits=100. May be given several times.",
        ),
    ] = None
    latency: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Time that a request takes, such as 6s, lognormal:6s,p99=20s or steps:1s+0.2s*steps."
        ),
    ] = "0s"
    help_faults: Annotated[
        bool, typer.Option("--help-faults", help="List the faults that a script can cause, and exit.")
    ] = False

    def emulator(self) -> Emulator:
        """The emulator. Raises ConfigurationError."""
        key = None if self.api_key_file is None else read_key(self.api_key_file)
        if key == "":
            raise ConfigurationError(f"no key in {self.api_key_file!r}: leave out --api-key-file to accept any")
        return Emulator(
            api_key=key,
            pixels=self.pixels,
            journal=self.journal,
            script=None if self.script is None else _script_text(self.script),
            seed=self.seed,
            limits=self.limit or (),
            latency=self.latency,
        )


def _script_text(script: str) -> str:
    """The script itself, or the text of the file that the option names."""
    if "->" in script or script.startswith("*"):
        return script
    try:
        return Path(script).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"{script!r} is neither a script, which has '->' in it, nor a file: {reason}"
        ) from error


def serve_emulator(options: EmulateOptions, console: Console) -> ExitCode:
    """Serve the emulator over HTTP until a signal ends it. Raises ConfigurationError."""
    if options.help_faults:
        console.output(fault_help())
        return ExitCode.DONE
    emulator = options.emulator()
    with _signals() as exit_codes, emulator.serve(options.host, options.port) as server:
        console.output([f"listening on {server.base_url}"])
        code = exit_codes.get()
    bill = emulator.bill
    console.output(
        [f"requests: {len(emulator.requests)}, images billed: {bill.images}, of them duplicates: {bill.duplicates}"]
    )
    return code


@contextmanager
def _signals() -> Iterator[SimpleQueue[ExitCode]]:
    """Catch SIGINT and SIGTERM, and put the exit code of each into the queue."""
    exit_codes: SimpleQueue[ExitCode] = SimpleQueue()  # its `put` is reentrant, as a signal handler requires

    def handle(number: int, _frame: FrameType | None) -> None:
        exit_codes.put(_EXIT_CODES[signal.Signals(number)])

    before = {number: signal.signal(number, handle) for number in _EXIT_CODES}
    try:
        yield exit_codes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve_mcp(
    service: ServiceOptions, console: Console, *, folder: Path, model: str, max_images: int, max_calls: int
) -> ExitCode:
    """Serve the tools over stdin and stdout until stdin ends. Raises ConfigurationError."""
    try:
        # Imported here, because it needs another extra and takes half a second.
        adapter = import_module("flux_openai.tools.mcp")
    except ImportError as error:
        console.message(
            f"error: the server needs more than the command line: pip install 'flux-openai[cli,mcp]' ({error})"
        )
        return ExitCode.BAD_INPUT
    if service.api_key_file == "-":
        raise ConfigurationError("stdin belongs to the protocol: put the key into a file, or set MODELVERSE_API_KEY")

    async def serve() -> None:
        async with service.async_client(on_retry=console.retrying) as client:
            tool = adapter.FluxTool(client, model=model, folder=folder, max_images=max_images, max_calls=max_calls)
            prove_writable(folder)
            # The thread that reads stdin cannot be interrupted, so Ctrl-C must end the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            await adapter.serve_stdio(tool)

    anyio.run(serve)
    return ExitCode.DONE
