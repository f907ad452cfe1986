"""The server commands: `emulate` serves the emulator over HTTP, `mcp` the tools over stdin and stdout."""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

import anyio

from flux_openai.cli.console import Console
from flux_openai.cli.exit_codes import ExitCode
from flux_openai.cli.options import EmulateOptions, ServiceOptions
from flux_openai.cli.service import async_client_of, prove_writable, read_key
from flux_openai.emulator import Emulator, fault_help
from flux_openai.errors import ConfigurationError

__all__ = ["serve_emulator", "serve_mcp"]

_EXIT_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.DONE}


def _emulator(options: EmulateOptions) -> Emulator:
    key = None if options.api_key_file is None else read_key(options.api_key_file)
    if key == "":
        raise ConfigurationError(f"no key in {options.api_key_file!r}: leave out --api-key-file to accept any")
    return Emulator(
        api_key=key,
        pixels=options.pixels,
        journal=options.journal,
        script=None if options.script is None else _script_text(options.script),
        seed=options.seed,
        limits=options.limit or (),
        latency=options.latency,
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
    emulator = _emulator(options)
    with _signals() as exit_codes, _requests_told(console), emulator.serve(options.host, options.port) as server:
        console.output([f"listening on {server.base_url}"])
        console.message("it draws patterns, not the service's pictures, and bills nothing; for other programs:")
        key = " MODELVERSE_API_KEY=any-key" if options.api_key_file is None else ""
        console.message(f"export MODELVERSE_BASE_URL={server.base_url}{key}")
        code = exit_codes.get()
    bill = emulator.bill
    console.output(
        [f"requests: {len(emulator.requests)}, images billed: {bill.images}, of them duplicates: {bill.duplicates}"]
    )
    return code


@contextmanager
def _requests_told(console: Console) -> Iterator[None]:
    """Print a line for each request, on stderr."""
    log, lines = logging.getLogger("flux_openai.emulator"), _Lines(console)
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(lines)


class _Lines(logging.Handler):
    """Prints log records on stderr."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.message(record.getMessage())


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
        async with async_client_of(service, on_retry=console.retrying) as client:
            prove_writable(folder)
            tool = adapter.FluxTool(client, model=model, folder=folder, max_images=max_images, max_calls=max_calls)
            if sys.stdin is not None and sys.stdin.isatty():
                for line in _terminal_help(folder):
                    console.message(line)
            # The thread that reads stdin cannot be interrupted, so Ctrl-C must end the process.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            await adapter.serve_stdio(tool)

    anyio.run(serve)
    return ExitCode.DONE


def _terminal_help(folder: Path) -> list[str]:
    """What a person reads who starts the MCP server at a terminal; the JSON is one that works on this machine."""
    arguments = ["-m", "flux_openai", "mcp", "-o", str(folder.absolute())]
    server = {"command": sys.executable, "args": arguments, "env": {"MODELVERSE_API_KEY": "..."}}
    return [
        "This is an MCP server. It waits for the messages of an AI application on stdin; Ctrl-C or Ctrl-D ends it.",
        "The application starts it by itself, if its configuration has this JSON (with the options that you want):",
        json.dumps({"mcpServers": {"flux": server}}),
        "The JSON belongs in:",
        "- Claude Desktop: claude_desktop_config.json (Settings, Developer, Edit Config)",
        "- Claude Code: .mcp.json in the project's folder",
        "- Cursor: ~/.cursor/mcp.json, or .cursor/mcp.json in the project's folder",
        '- VS Code: .vscode/mcp.json, with "servers" for "mcpServers", and "type": "stdio" in the server',
    ]
