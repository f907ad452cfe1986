"""The exit codes of the program, and the exit code for each error. `--help` prints the same table."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType

from flux_openai.errors import Billing, ConfigurationError, FluxError, FluxStatusError, InvalidParamsError
from flux_openai.retry import cause_of_status

__all__ = ["EXIT_CODES", "ExitCode", "InterruptedRunError", "MissingImagesError", "exit_code_of", "exit_code_table"]


class ExitCode(IntEnum):
    """The exit codes; `EXIT_CODES` has their meanings."""

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
    """Fewer usable images came back than were requested; the usable ones are saved."""

    billing: Billing = "paid"


class InterruptedRunError(FluxError):
    """Ctrl-C ended the run; `billing` is what the run may have cost."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for the error that ended a run. Raises TypeError for an error that is a bug in this program."""
    match error:
        case KeyboardInterrupt() | InterruptedRunError():
            return ExitCode.INTERRUPTED
        case InvalidParamsError() | ConfigurationError():
            return ExitCode.BAD_INPUT
        case FluxError(billing="unknown"):
            return ExitCode.UNKNOWN
        case FluxStatusError() if _is_refusal(error):
            return ExitCode.REFUSED  # even if earlier calls were paid for: a second run would be refused too
        case FluxError(billing="paid"):
            return ExitCode.UNUSABLE
        case FluxError():
            return ExitCode.GAVE_UP
        case _:
            raise TypeError(f"no exit code for {type(error).__name__}") from error


def _is_refusal(error: FluxStatusError) -> bool:
    # openai 2 does not convert the code to text; it may be a number.
    code = None if error.code is None else str(error.code)
    return cause_of_status(error.status_code, code, error.type) == "refused"


def exit_code_table() -> str:
    """The exit codes with their meanings, one per line."""
    return "\n".join(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items())
