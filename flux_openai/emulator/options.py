"""What an emulator is told when it is made: checked at once, so that no call fails over it later."""

import os
from pathlib import Path

from flux_openai.emulator.api.requests import is_whole
from flux_openai.emulator.load.clock import Clock
from flux_openai.emulator.logbook import Logbook
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = ["as_logbook", "check_options"]


def check_options(*, api_key: object, pixels: object, clock: object, seed: object) -> None:
    """Raise ConfigurationError for what is not as the emulator's docstring has it."""
    if api_key is not None and not (isinstance(api_key, str) and api_key.strip()):
        raise _wrong("api_key", api_key, rule="must be a string that is not blank; None takes any")
    if pixels is not None and (not is_whole(pixels) or pixels < 1):
        raise _wrong("pixels", pixels, rule="must be an int from 1", nearest=1)
    if isinstance(clock, type) or not (isinstance(clock, Clock) or callable(clock)):
        rule = "must be a clock, as in VirtualClock(), or a function that gives the Unix time in seconds"
        raise _wrong("clock", clock, rule=rule)
    if not is_whole(seed):
        raise _wrong("seed", seed, rule="must be an int", nearest=0)


def as_logbook(journal: str | Path | None) -> Logbook | None:
    """The log in that file, if there is to be one. Raises ConfigurationError if it cannot be written."""
    if journal is None:
        return None
    if not isinstance(journal, str | os.PathLike):
        raise _wrong("journal", journal, rule="must be the path of a file", nearest="emulator.jsonl")
    return Logbook(journal)


def _wrong(param: str, value: object, *, rule: str, nearest: object = None) -> ConfigurationError:
    return ConfigurationError.of(InvalidParam(param=param, value=value, rule=rule, nearest=nearest))
