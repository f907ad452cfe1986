"""What is wrong with a batch, in the words of its command: PROMPTS, `--set name=value` and `--sweep name=value`.

The library names arguments of Python, such as `rows` and `set`.
"""

import re
from dataclasses import fields

from flux_openai._http.redaction import redact_value
from flux_openai.cli.options import BatchRunOptions, ServiceOptions
from flux_openai.cli.report import as_printable
from flux_openai.errors import ConfigurationError, FluxError, InvalidParam, InvalidRowsError

__all__ = ["error_in_options", "in_options"]

_OPTIONS = {option.name for group in (BatchRunOptions, ServiceOptions) for option in fields(group)} - {"settings"}
_PYTHON: tuple[tuple[str, str], ...] = (
    (r",? or set unsupported=(?: of the client)? to '\w+'(?:, '\w+')*(?: or '\w+')?(?: of the client)?", ""),
    (r"set (timeout)= on the client", r"give --\1"),
    (r"set default_\w+= on the client", "the command line has no option for it"),
    (r"name it with price, or in the client's prices", "give --price"),
    (r"max_images=(\d+)", r"--max-images \1"),
    (r"go on with a budget of ([0-9.]+) (\w+) or more", r"go on with --budget \1\2 or more"),
    (r"the argument api_key=", "--api-key-file"),
    (r"the prompt template", "--prompt"),
    (r"is in set too", "is in --set too"),
    (r"for changed rows, start a new folder", "for changed rows or another batch, give another -o"),
)
"""What a rule of the library says to a program, and what it says to a reader of the command line."""


def in_options(text: str) -> str:
    """A text of the library without what only a program can do."""
    for pattern, words in _PYTHON:
        text = re.sub(pattern, words, text)
    return text


def error_in_options(error: FluxError) -> FluxError:
    """The same error in the words of `batch run`; an error about rows names their columns, and stays."""
    if not isinstance(error, ConfigurationError) or isinstance(error, InvalidRowsError) or not error.faults:
        return error
    lines = [as_printable(_line(fault)) for fault in error.faults]
    return ConfigurationError("\n  ".join(["nothing was sent:", *lines]) if len(lines) > 1 else lines[0])


def _line(fault: InvalidParam) -> str:
    name, rule = fault.param, in_options(fault.rule)
    value = "" if fault.value is None else f"{redact_value(fault.value, name=name)}"
    nearest = "" if fault.nearest is None else f" (nearest: {fault.nearest})"
    if name in ("set", "sweep"):
        return f"--{name} {value}: {rule.replace('such as ', f'such as --{name} ')}{nearest}"
    if name == "rows":
        return f"PROMPTS {value}: {rule}{nearest}"
    if name == "columns":
        return f"PROMPTS: its columns are {value}: {rule}"
    option = f"--{name.replace('_', '-')}" if name in _OPTIONS else name
    return f"{option} {value}: {rule}{nearest}"
