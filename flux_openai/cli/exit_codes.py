"""How a run ends: the exit codes, and which error has which. The same table is shown in `--help`."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from flux_openai.errors import Billing, ConfigurationError, FluxError, FluxStatusError, InvalidParamsError
from flux_openai.retry import cause_of_status

__all__ = ["EXIT_CODES", "EndedEarlyError", "ExitCode", "MissingImagesError", "exit_code_of", "exit_code_table"]


class ExitCode(IntEnum):
    """What the program returns; `EXIT_CODES` says what each means."""

    DONE = 0
    BAD_INPUT = 2
    REFUSED = 3
    GAVE_UP = 4
    UNKNOWN = 5
    UNUSABLE = 6
    INTERRUPTED = 130


EXIT_CODES: Mapping[ExitCode, str] = MappingProxyType(
    {
        ExitCode.DONE: "done",
        ExitCode.BAD_INPUT: "bad input and nothing sent",
        ExitCode.REFUSED: "refused by the service",
        ExitCode.GAVE_UP: "gave up and nothing was billed",
        ExitCode.UNKNOWN: "outcome unknown and may be billed",
        ExitCode.UNUSABLE: "paid, at least in part, and not all of it saved",
        ExitCode.INTERRUPTED: "interrupted",
    }
)
"""The meaning of every exit code."""


class MissingImagesError(FluxError):
    """Fewer images came back usable than were asked for; those that did are saved."""

    billing: Billing = "paid"


class EndedEarlyError(FluxError):
    """The run was interrupted; `billing` says what the request that was under way may have cost."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for what ended a run. Raises TypeError for what is a mistake in this program."""
    match error:
        case KeyboardInterrupt() | EndedEarlyError():
            return ExitCode.INTERRUPTED
        case InvalidParamsError() | ConfigurationError():
            return ExitCode.BAD_INPUT
        case FluxError(billing="unknown"):
            return ExitCode.UNKNOWN
        case FluxStatusError() if _refused(error):
            return ExitCode.REFUSED  # also after calls that were paid for: to ask once more is of no use
        case FluxError(billing="paid"):
            return ExitCode.UNUSABLE
        case FluxError():
            return ExitCode.GAVE_UP
        case _:
            raise TypeError(f"no exit code for {type(error).__name__}") from error


def _refused(error: FluxStatusError) -> bool:
    # openai 2 passes on what the service wrote, which may be a number.
    code = None if error.code is None else str(error.code)
    return cause_of_status(error.status_code, code) == "refused"


def exit_code_table() -> str:
    """The exit codes with their meanings, one per line."""
    return "\n".join(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items())
