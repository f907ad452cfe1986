"""The client of a run, made from the options about the service, and the key, price and folder that a run needs."""

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import openai

from flux_openai.cli.options import ServiceOptions
from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.client.setup import TIMEOUT
from flux_openai.emulator.emulator import Emulator
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.models import Price
from flux_openai.response.files import check_writable
from flux_openai.retry import Duplicates, RetryEvent, RetryPolicy

__all__ = ["PATTERNS", "async_client_of", "client_of", "price_of", "prove_writable", "read_key"]

PATTERNS = "the emulator draws patterns, not the service's pictures; nothing is billed"
"""What a run with `--emulator` says first."""

_MAX_TIMEOUT = 86_400.0
"""The longest time-out in seconds. A much longer one overflows in the system call."""


def client_of(service: ServiceOptions, *, on_retry: Callable[[RetryEvent], object] | None) -> FluxOpenAI:
    """The client. Raises ConfigurationError."""
    options = _client_options(service, on_retry)
    return Emulator().client(**options) if service.emulator else FluxOpenAI(**options)


def async_client_of(service: ServiceOptions, *, on_retry: Callable[[RetryEvent], object] | None) -> AsyncFluxOpenAI:
    """The async client. Raises ConfigurationError."""
    options = _client_options(service, on_retry)
    return Emulator().async_client(**options) if service.emulator else AsyncFluxOpenAI(**options)


def _client_options(service: ServiceOptions, on_retry: Callable[[RetryEvent], object] | None) -> dict[str, Any]:
    retry = RetryPolicy(
        duplicates=cast(Duplicates, service.duplicates),
        max_attempts=service.max_attempts,
        max_wait=service.max_wait,
        max_elapsed=service.max_elapsed,
        on_retry=on_retry,
    )
    if not (math.isfinite(service.timeout) and 0 < service.timeout <= _MAX_TIMEOUT):
        rule = f"must be seconds above 0, {_MAX_TIMEOUT:.0f} at most"
        raise ConfigurationError.of(
            InvalidParam(param="timeout", value=service.timeout, rule=rule, nearest=TIMEOUT.read)
        )
    timeout = openai.Timeout(service.timeout, connect=TIMEOUT.connect, write=TIMEOUT.write, pool=TIMEOUT.pool)
    options: dict[str, Any] = {"retry": retry, "timeout": timeout}
    if service.base_url is not None:
        options["base_url"] = service.base_url
    if service.allow_http:
        options["allow_http"] = True
    if not service.emulator:
        key = _key(service.api_key_file)
        if service.api_key_file is not None:  # else the client reads it itself, and an error says where from
            options["api_key"] = key
    return options


def _key(file: str | None) -> str:
    key = os.environ.get("MODELVERSE_API_KEY") if file is None else read_key(file)
    if not key:
        where = "MODELVERSE_API_KEY is not set" if file is None else f"{file!r} is empty"
        raise ConfigurationError(f"no API key ({where}): set MODELVERSE_API_KEY, or try it without a key: --emulator")
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


def price_of(text: str) -> Price:
    """The price that `--price` names. Raises ConfigurationError."""
    try:
        return Price.of(text)
    except ValueError as problem:
        raise ConfigurationError.of(InvalidParam(param="price", value=text, rule=str(problem))) from None


def prove_writable(folder: Path) -> None:
    """Create the folder and write a test file: an error must come before images are paid for.

    Raises ConfigurationError.
    """
    try:
        check_writable(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"cannot write to the folder {str(folder)!r}: {reason}") from error
