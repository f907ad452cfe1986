"""The exit codes of the program; `--help` prints the same table."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

__all__ = ["EXIT_CODES", "ExitCode"]


class ExitCode(IntEnum):
    """The exit codes; `EXIT_CODES` has their meanings."""

    DONE = 0
    NOT_WRITTEN = 1
    BAD_INPUT = 2
    REFUSED = 3
    GAVE_UP = 4
    UNKNOWN = 5
    UNUSABLE = 6
    INTERRUPTED = 130


EXIT_CODES: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.DONE: "done",
        ExitCode.NOT_WRITTEN: "done, but the output could not be written",
        ExitCode.BAD_INPUT: "bad input and nothing sent",
        ExitCode.REFUSED: "refused by the service",
        ExitCode.GAVE_UP: "gave up and nothing was billed",
        ExitCode.UNKNOWN: "outcome unknown and may be billed",
        ExitCode.UNUSABLE: "paid, at least in part, and not all of it saved",
        ExitCode.INTERRUPTED: "interrupted",
    }
)
"""The meaning of every exit code."""
