"""Which service is asked, with which key and how patiently; and where the images go. Nothing is sent here."""

import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import openai

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.client.setup import TIMEOUT
from flux_openai.emulator.emulator import Emulator
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.retry import Duplicates, RetryEvent, RetryPolicy

__all__ = ["Service", "prove_writable", "read_key"]

_LONGEST = 86_400.0
"""Seconds; the clock of a socket ends somewhere above."""

_PROBE = b"\0" * 4096


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the options say about the service, unchecked."""

    emulator: bool
    base_url: str | None
    api_key_file: str | None
    timeout: float
    duplicates: str
    max_attempts: int
    max_wait: float
    max_elapsed: float

    def client(self, *, on_retry: Callable[[RetryEvent], object]) -> FluxOpenAI:
        """The client. Raises ConfigurationError."""
        options = self._options(on_retry)
        return Emulator().client(**options) if self.emulator else FluxOpenAI(**options)

    def async_client(self, *, on_retry: Callable[[RetryEvent], object]) -> AsyncFluxOpenAI:
        """The same for async code."""
        options = self._options(on_retry)
        return Emulator().async_client(**options) if self.emulator else AsyncFluxOpenAI(**options)

    def _options(self, on_retry: Callable[[RetryEvent], object]) -> dict[str, Any]:
        retry = RetryPolicy(
            duplicates=cast(Duplicates, self.duplicates),
            max_attempts=self.max_attempts,
            max_wait=self.max_wait,
            max_elapsed=self.max_elapsed,
            on_retry=on_retry,
        )
        address = {} if self.base_url is None else {"base_url": self.base_url}
        key = {} if self.emulator else {"api_key": _key(self.api_key_file)}
        return {"retry": retry, "timeout": _timeout(self.timeout), **address, **key}


def _timeout(seconds: float) -> openai.Timeout:
    if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST):
        rule = f"must be seconds above 0, {_LONGEST:.0f} at most"
        raise ConfigurationError.of(InvalidParam(param="timeout", value=seconds, rule=rule, nearest=TIMEOUT.read))
    return openai.Timeout(seconds, connect=TIMEOUT.connect, write=TIMEOUT.write, pool=TIMEOUT.pool)


def _key(file: str | None) -> str:
    key = os.environ.get("MODELVERSE_API_KEY") if file is None else read_key(file)
    if not key:
        where = "MODELVERSE_API_KEY is not set" if file is None else f"{file!r} is empty"
        raise ConfigurationError(f"no API key ({where}): set MODELVERSE_API_KEY, or try it without a key: --emulator")
    return key


def read_key(file: str) -> str:
    """The key in a file, - for stdin; empty if nothing is in it. Raises ConfigurationError."""
    try:
        text = _stdin() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read the key from {file!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        # The cause would show the bytes around the fault, and they may be the key.
        raise ConfigurationError(f"cannot read the key from {file!r}: it is not text") from None
    return text.strip()


def _stdin() -> str:
    return "" if sys.stdin is None else sys.stdin.read()


def prove_writable(folder: Path) -> None:
    """Make the folder and write in it once: better to fail before images are paid for. Raises ConfigurationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".flux-") as probe:
            probe.write(_PROBE)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"cannot write to the folder {str(folder)!r}: {reason}") from error
