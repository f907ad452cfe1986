"""The common options of the commands about the service, and the client that is made from them."""

import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import openai
import typer

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.client.setup import BASE_URL, TIMEOUT
from flux_openai.emulator.emulator import Emulator
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.retry import Duplicates, RetryEvent, RetryPolicy

__all__ = ["ServiceOptions", "prove_writable", "read_key"]

_POLICY = RetryPolicy()

_MAX_TIMEOUT = 86_400.0
"""The longest time-out in seconds. A much longer one overflows in the system call."""


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The options about the service, the key, retries and time-outs; their values are not checked yet."""

    emulator: Annotated[bool, typer.Option("--emulator", help="Ask the emulator: no key, network or bill.")] = False
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"Address of the service. Left out, it is MODELVERSE_BASE_URL or {BASE_URL}."),
    ] = None
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Allow a plain http URL beyond this machine: the key is sent in the clear."),
    ] = False
    api_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File that holds the key, - for stdin. Left out, the key is MODELVERSE_API_KEY."
        ),
    ] = None
    max_attempts: Annotated[int, typer.Option(metavar="INTEGER", help="Most requests for one call.")] = (
        _POLICY.max_attempts
    )
    duplicates: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"How much risk of paying twice a retry may take: {', '.join(get_args(Duplicates))}.",
        ),
    ] = _POLICY.duplicates
    max_wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest wait before a retry, if the service asks for none.")
    ] = _POLICY.max_wait
    max_elapsed: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time after which no further attempt of a call starts.")
    ] = _POLICY.max_elapsed
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Longest wait for an answer; an answer that comes later may be billed all the same."
        ),
    ] = cast(float, TIMEOUT.read)

    def client(self, *, on_retry: Callable[[RetryEvent], object]) -> FluxOpenAI:
        """The client. Raises ConfigurationError."""
        options = self._client_options(on_retry)
        return Emulator().client(**options) if self.emulator else FluxOpenAI(**options)

    def async_client(self, *, on_retry: Callable[[RetryEvent], object]) -> AsyncFluxOpenAI:
        """The async client. Raises ConfigurationError."""
        options = self._client_options(on_retry)
        return Emulator().async_client(**options) if self.emulator else AsyncFluxOpenAI(**options)

    def _client_options(self, on_retry: Callable[[RetryEvent], object]) -> dict[str, Any]:
        retry = RetryPolicy(
            duplicates=cast(Duplicates, self.duplicates),
            max_attempts=self.max_attempts,
            max_wait=self.max_wait,
            max_elapsed=self.max_elapsed,
            on_retry=on_retry,
        )
        if not (math.isfinite(self.timeout) and 0 < self.timeout <= _MAX_TIMEOUT):
            rule = f"must be seconds above 0, {_MAX_TIMEOUT:.0f} at most"
            raise ConfigurationError.of(
                InvalidParam(param="timeout", value=self.timeout, rule=rule, nearest=TIMEOUT.read)
            )
        timeout = openai.Timeout(self.timeout, connect=TIMEOUT.connect, write=TIMEOUT.write, pool=TIMEOUT.pool)
        options: dict[str, Any] = {"retry": retry, "timeout": timeout}
        if self.base_url is not None:
            options["base_url"] = self.base_url
        if self.allow_http:
            options["allow_http"] = True
        if not self.emulator:
            options["api_key"] = self._key()
        return options

    def _key(self) -> str:
        file = self.api_key_file
        key = os.environ.get("MODELVERSE_API_KEY") if file is None else read_key(file)
        if not key:
            where = "MODELVERSE_API_KEY is not set" if file is None else f"{file!r} is empty"
            raise ConfigurationError(
                f"no API key ({where}): set MODELVERSE_API_KEY, or try it without a key: --emulator"
            )
        return key


def read_key(file: str) -> str:
    """The key in a file, or "-" for stdin; empty if the file is. Raises ConfigurationError."""
    try:
        if file == "-":
            text = "" if sys.stdin is None else sys.stdin.read()
        else:
            text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read the key from {file!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        # `from None`: UnicodeDecodeError contains the bytes of the file, which may be the key.
        raise ConfigurationError(f"cannot read the key from {file!r}: it is not text") from None
    return text.strip()


def prove_writable(folder: Path) -> None:
    """Create the folder and write a test file: an error must come before images are paid for.

    Raises ConfigurationError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".flux-") as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"cannot write to the folder {str(folder)!r}: {reason}") from error
