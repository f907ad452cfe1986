"""A server for agents instead of a run: everything is checked first, then stdout belongs to the protocol."""

import signal
from collections.abc import Callable
from pathlib import Path

import anyio

from flux_openai.cli.service import Service, prove_writable
from flux_openai.errors import ConfigurationError
from flux_openai.retry import RetryEvent
from flux_openai.tools.mcp import serve_stdio
from flux_openai.tools.tool import FluxTool

__all__ = ["serve"]


def serve(
    service: Service,
    *,
    folder: Path,
    model: str,
    max_images: int,
    max_calls: int,
    on_retry: Callable[[RetryEvent], object],
) -> None:
    """Serve over stdin and stdout until stdin ends. Raises ConfigurationError, before anything is served."""
    if service.api_key_file == "-":
        raise ConfigurationError("stdin belongs to the protocol: put the key into a file, or set MODELVERSE_API_KEY")

    async def run() -> None:
        async with service.async_client(on_retry=on_retry) as client:
            tool = FluxTool(client, model=model, folder=folder, max_images=max_images, max_calls=max_calls)
            prove_writable(folder)
            # Nothing can interrupt the thread that waits for stdin, so Ctrl-C has to end the process itself.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            await serve_stdio(tool)

    anyio.run(run)
