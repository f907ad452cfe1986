"""The options, as typer reads them; the words and the numbers in the help come from the tables."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from flux_openai.cli.codes import ExitCode, exit_code_table
from flux_openai.cli.plan import field_help, images_per_call
from flux_openai.cli.report import Report
from flux_openai.cli.screen import Screen
from flux_openai.cli.service import Service
from flux_openai.cli.work import Order, carry_out
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS
from flux_openai.params import given
from flux_openai.retries import Duplicates, RetryPolicy
from flux_openai.settings import BASE_URL, TIMEOUT

__all__ = ["run"]

_POLICY = RetryPolicy()
_PATIENCE = cast(float, TIMEOUT.read)
_EPILOG = f"\b\nExit codes:\n{exit_code_table()}"

# No markup: square brackets are only text. No pretty tracebacks: they show the values of locals, and one is the key.
_app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# typer carries a click of its own since 0.26 and used the real one before: this finds the UsageError of either.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])

_MODEL = f"One of: {', '.join(FLUX_MODELS)}. Left out, it is {DEFAULT_MODEL}."
_N = f"{field_help('n')} More than {images_per_call({})} are made in several calls, each with the next seed."
_BASE_URL = f"Or MODELVERSE_BASE_URL, or {BASE_URL}."
_KEY_FILE = "File that holds the key, - for stdin; or MODELVERSE_API_KEY."
_MAX_WAIT = "Longest wait before a retry, if the service asks for none."
_MAX_ELAPSED = "No attempt of a call starts later than this."
_TIMEOUT = "Longest wait for an answer; what is not waited for may be billed."
_DUPLICATES = f"Risk of paying twice that a retry may take: {', '.join(get_args(Duplicates))}."


def run(args: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    try:
        code = typer.main.get_command(_app).main(list(args), prog_name="flux-openai", standalone_mode=False)
    except _UsageError as error:
        error.show()
        if "--json" in args:
            Screen(as_json=True).ended(Report(error=ConfigurationError(error.format_message())))
        return ExitCode.BAD_INPUT
    except typer.Abort:
        return ExitCode.INTERRUPTED
    return int(code or ExitCode.DONE)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # as typer calls it
    if wanted:
        try:
            typer.echo(f"flux-openai {version('flux-openai')}")
        except PackageNotFoundError:
            typer.echo("flux-openai, run from its source")
        raise typer.Exit


@_app.callback()
def _program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """FLUX images through the official OpenAI client: checked, retried without paying twice, saved safely."""


@_app.command(epilog=_EPILOG)
def generate(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help=field_help("prompt"), show_default=False)],
    model: Annotated[str | None, typer.Option(metavar="NAME", help=_MODEL)] = None,
    aspect_ratio: Annotated[str | None, typer.Option(metavar="W:H", help=field_help("aspect_ratio"))] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="In place of an aspect ratio.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="INTEGER", help=field_help("seed"))] = None,
    steps: Annotated[int | None, typer.Option(metavar="INTEGER", help=field_help("steps"))] = None,
    guidance_scale: Annotated[float | None, typer.Option(metavar="NUMBER", help=field_help("guidance_scale"))] = None,
    negative_prompt: Annotated[str | None, typer.Option(metavar="TEXT", help=field_help("negative_prompt"))] = None,
    response_format: Annotated[str | None, typer.Option(metavar="NAME", help=field_help("response_format"))] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", metavar="INTEGER", help=_N)] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the images.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")] = False,
    emulator: Annotated[bool, typer.Option("--emulator", help="Ask the emulator: no key, network or bill.")] = False,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help=_BASE_URL)] = None,
    api_key_file: Annotated[str | None, typer.Option(metavar="FILE", help=_KEY_FILE)] = None,
    max_attempts: Annotated[int, typer.Option(metavar="INTEGER", help="Requests for one call.")] = _POLICY.max_attempts,
    duplicates: Annotated[str, typer.Option(metavar="NAME", help=_DUPLICATES)] = _POLICY.duplicates,
    max_wait: Annotated[float, typer.Option(metavar="SECONDS", help=_MAX_WAIT)] = _POLICY.max_wait,
    max_elapsed: Annotated[float, typer.Option(metavar="SECONDS", help=_MAX_ELAPSED)] = _POLICY.max_elapsed,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help=_TIMEOUT)] = _PATIENCE,
) -> int:
    """Make images from PROMPT and save them.

    The paths go to stdout, all else to stderr. The key is read from MODELVERSE_API_KEY; --emulator needs none.
    """
    fields = {
        "prompt": prompt,
        "model": model,
        "aspect_ratio": aspect_ratio,
        "size": size,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "response_format": response_format,
        "n": n,
    }
    service = Service(
        emulator=emulator,
        base_url=base_url,
        api_key_file=api_key_file,
        timeout=timeout,
        duplicates=duplicates,
        max_attempts=max_attempts,
        max_wait=max_wait,
        max_elapsed=max_elapsed,
    )
    return carry_out(Order(params=given(fields), service=service, folder=out), Screen(as_json=as_json)).exit_code
