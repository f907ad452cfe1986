"""The exit codes of the program; `--help` prints the same table."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

__all__ = ["BATCH_EXIT_CODES", "EXIT_CODES", "BatchExitCode", "ExitCode"]


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


EXIT_CODES: Mapping[int, str] = MappingProxyType(
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


class BatchExitCode(IntEnum):
    """The exit codes of `batch`; `BATCH_EXIT_CODES` has their meanings."""

    DONE = 0
    NOT_WRITTEN = 1
    BAD_INPUT = 2
    FAILED = 3
    CAP_REACHED = 4
    HELD = 5
    NOT_SAVED = 6
    PAUSED = 7
    IN_USE = 8
    INTERRUPTED = 130
    TERMINATED = 143


BATCH_EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        BatchExitCode.DONE: "every row is done",
        BatchExitCode.NOT_WRITTEN: "done, but the output could not be written",
        BatchExitCode.BAD_INPUT: "bad input and nothing sent",
        BatchExitCode.FAILED: "finished, and some rows failed",
        BatchExitCode.CAP_REACHED: "paused at --max-images or --budget",
        BatchExitCode.HELD: "rows are held: outcome unknown and may be billed",
        BatchExitCode.NOT_SAVED: "paid, at least in part, and not all of it saved",
        BatchExitCode.PAUSED: "paused: the service refuses, or is not reached",
        BatchExitCode.IN_USE: "another run uses the folder",
        BatchExitCode.INTERRUPTED: "interrupted with Ctrl-C",
        BatchExitCode.TERMINATED: "ended by SIGTERM, or by SIGHUP: its terminal was closed",
    }
)
"""The meaning of every exit code of `batch`."""
