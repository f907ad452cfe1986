"""The options, as typer reads them; the words and the numbers in the help come from the tables."""

import json
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from flux_openai.cli.console import Screen
from flux_openai.cli.emulate import Emulation
from flux_openai.cli.emulate import emulate as run_emulator
from flux_openai.cli.exit_codes import ExitCode, exit_code_of, exit_code_table
from flux_openai.cli.help_text import IMAGE_MODEL, field_help, model_document, model_lines, short_names
from flux_openai.cli.report import Report
from flux_openai.cli.run import Order, carry_out
from flux_openai.cli.service import Service
from flux_openai.client.setup import BASE_URL, TIMEOUT
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS
from flux_openai.request.validation import given
from flux_openai.retry import Duplicates, RetryPolicy

__all__ = ["run"]

_POLICY = RetryPolicy()
_PATIENCE = cast(float, TIMEOUT.read)
_USUAL_FAMILY = next(iter(FAMILIES))
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

_MODEL = f"One of {short_names()}, or a full name: see flux-openai models. Left out, it is {_USUAL_FAMILY}."
_N = f"{field_help('n')} More than {FLUX_MODELS[DEFAULT_MODEL].fields['n'].maximum} are made in several calls."
_SIZE = f"In place of an aspect ratio. For flux-dev: {field_help('size')}"
_IMAGE = "Image to start from: a path, a link or a data URI. May be given several times."
_BASE_URL = f"Or MODELVERSE_BASE_URL, or {BASE_URL}."
_KEY_FILE = "File that holds the key, - for stdin; or MODELVERSE_API_KEY."
_MAX_WAIT = "Longest wait before a retry, if the service asks for none."
_MAX_ELAPSED = "No attempt of a call starts later than this."
_TIMEOUT = "Longest wait for an answer; what is not waited for may be billed."
_FAMILY = f"One of {short_names()}."
_SCRIPT = "What goes wrong, or a file that says it, such as 'prompt~/cat/ #1 -> status(429)'; see --help-faults."
_LIMIT = "Such as 10/s, window:60/min, concurrency=8 or credits=100. May be given several times."
_LATENCY = "Such as 6s, lognormal:6s,p99=20s or steps:1s+0.2s*steps."
_MAX_IMAGES = "Images that all calls together may ask for."
_MAX_CALLS = "Calls that may be sent to the service."
_ACCEPTED_KEY = "File that holds the only key accepted, - for stdin; left out, any key is."
_HOST = "Address to listen on; it must be one that only this machine can reach."
_PORT = "Port to listen on; 0 picks a free one."
_PIXELS = "Approximate area of a picture; left out, a megapixel."
_JOURNAL = "File that gets a line of JSON for each request."
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


_Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help=field_help("prompt"), show_default=False)]
_Change = Annotated[
    str, typer.Argument(metavar="PROMPT", help=field_help("prompt", model=IMAGE_MODEL), show_default=False)
]
_Image = Annotated[list[str], typer.Option("-i", "--image", metavar="FILE", help=_IMAGE, show_default=False)]
_Model = Annotated[str | None, typer.Option(metavar="NAME", help=_MODEL)]
_AspectRatio = Annotated[str | None, typer.Option(metavar="W:H", help=field_help("aspect_ratio"))]
_Size = Annotated[str | None, typer.Option(metavar="WxH", help=_SIZE)]
_Strength = Annotated[float | None, typer.Option(metavar="NUMBER", help=field_help("strength"))]
_Seed = Annotated[int | None, typer.Option(metavar="INTEGER", help=field_help("seed"))]
_Steps = Annotated[int | None, typer.Option(metavar="INTEGER", help=field_help("steps"))]
_GuidanceScale = Annotated[float | None, typer.Option(metavar="NUMBER", help=field_help("guidance_scale"))]
_NegativePrompt = Annotated[str | None, typer.Option(metavar="TEXT", help=field_help("negative_prompt"))]
_ResponseFormat = Annotated[str | None, typer.Option(metavar="NAME", help=field_help("response_format"))]
_Number = Annotated[int | None, typer.Option("-n", "--n", metavar="INTEGER", help=_N)]
_Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the images.")]
_AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
_Emulate = Annotated[bool, typer.Option("--emulator", help="Ask the emulator: no key, network or bill.")]
_BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help=_BASE_URL)]
_KeyFile = Annotated[str | None, typer.Option(metavar="FILE", help=_KEY_FILE)]
_MaxAttempts = Annotated[int, typer.Option(metavar="INTEGER", help="Requests for one call.")]
_DuplicatesName = Annotated[str, typer.Option(metavar="NAME", help=_DUPLICATES)]
_MaxWait = Annotated[float, typer.Option(metavar="SECONDS", help=_MAX_WAIT)]
_MaxElapsed = Annotated[float, typer.Option(metavar="SECONDS", help=_MAX_ELAPSED)]
_Family = Annotated[str, typer.Option("--model", metavar="NAME", help=_FAMILY)]
_MaxImages = Annotated[int, typer.Option(metavar="INTEGER", help=_MAX_IMAGES)]
_MaxCalls = Annotated[int, typer.Option(metavar="INTEGER", help=_MAX_CALLS)]
_Host = Annotated[str, typer.Option(metavar="ADDRESS", help=_HOST)]
_Port = Annotated[int, typer.Option(metavar="INTEGER", help=_PORT)]
_AcceptedKey = Annotated[str | None, typer.Option("--api-key-file", metavar="FILE", help=_ACCEPTED_KEY)]
_Pixels = Annotated[int | None, typer.Option(metavar="INTEGER", help=_PIXELS)]
_JournalFile = Annotated[Path | None, typer.Option("--journal", metavar="FILE", help=_JOURNAL)]
_ScriptText = Annotated[str | None, typer.Option(metavar="TEXT", help=_SCRIPT)]
_ScriptSeed = Annotated[int, typer.Option(metavar="INTEGER", help="Decides what the script leaves to chance.")]
_Limits = Annotated[list[str] | None, typer.Option(metavar="TEXT", help=_LIMIT)]
_Latency = Annotated[str, typer.Option(metavar="TEXT", help=_LATENCY)]
_HelpFaults = Annotated[bool, typer.Option("--help-faults", help="List what a script can make go wrong, and leave.")]
_Timeout = Annotated[float, typer.Option(metavar="SECONDS", help=_TIMEOUT)]


@_app.command(epilog=_EPILOG)
def generate(
    *,
    prompt: _Prompt,
    model: _Model = None,
    aspect_ratio: _AspectRatio = None,
    size: _Size = None,
    seed: _Seed = None,
    steps: _Steps = None,
    guidance_scale: _GuidanceScale = None,
    negative_prompt: _NegativePrompt = None,
    response_format: _ResponseFormat = None,
    n: _Number = None,
    out: _Out = Path(),
    as_json: _AsJson = False,
    emulator: _Emulate = False,
    base_url: _BaseUrl = None,
    api_key_file: _KeyFile = None,
    max_attempts: _MaxAttempts = _POLICY.max_attempts,
    duplicates: _DuplicatesName = _POLICY.duplicates,
    max_wait: _MaxWait = _POLICY.max_wait,
    max_elapsed: _MaxElapsed = _POLICY.max_elapsed,
    timeout: _Timeout = _PATIENCE,
) -> int:
    """Make images from PROMPT and save them.

    The paths go to stdout, all else to stderr. The key is read from MODELVERSE_API_KEY; --emulator needs none.
    """
    return _ordered(locals(), editing=False)


@_app.command(epilog=_EPILOG)
def edit(
    *,
    prompt: _Change,
    image: _Image,
    model: _Model = None,
    strength: _Strength = None,
    aspect_ratio: _AspectRatio = None,
    size: _Size = None,
    seed: _Seed = None,
    steps: _Steps = None,
    guidance_scale: _GuidanceScale = None,
    negative_prompt: _NegativePrompt = None,
    response_format: _ResponseFormat = None,
    n: _Number = None,
    out: _Out = Path(),
    as_json: _AsJson = False,
    emulator: _Emulate = False,
    base_url: _BaseUrl = None,
    api_key_file: _KeyFile = None,
    max_attempts: _MaxAttempts = _POLICY.max_attempts,
    duplicates: _DuplicatesName = _POLICY.duplicates,
    max_wait: _MaxWait = _POLICY.max_wait,
    max_elapsed: _MaxElapsed = _POLICY.max_elapsed,
    timeout: _Timeout = _PATIENCE,
) -> int:
    """Change an image as PROMPT says, or combine several, and save what comes.

    One image goes to the image model of its family, several to its /multi model. All else is as in generate.
    """
    return _ordered(locals(), editing=True)


def _ordered(options: dict[str, Any], *, editing: bool) -> int:
    """Carry out what the options of a command ask for: some are about the service, the others are parameters."""
    screen, folder = Screen(as_json=options.pop("as_json")), options.pop("out")
    service = _service(options)
    order = Order(params=given(options), editing=editing, service=service, folder=folder)
    return carry_out(order, screen).exit_code


def _service(options: dict[str, Any]) -> Service:
    """The options about the service, taken from the others."""
    return Service(**{field.name: options.pop(field.name) for field in fields(Service)})


@_app.command()
def mcp(
    *,
    out: _Out = Path("out"),
    model: _Family = _USUAL_FAMILY,
    max_images: _MaxImages = 16,
    max_calls: _MaxCalls = 16,
    emulator: _Emulate = False,
    base_url: _BaseUrl = None,
    api_key_file: _KeyFile = None,
    max_attempts: _MaxAttempts = _POLICY.max_attempts,
    duplicates: _DuplicatesName = _POLICY.duplicates,
    max_wait: _MaxWait = _POLICY.max_wait,
    max_elapsed: _MaxElapsed = _POLICY.max_elapsed,
    timeout: _Timeout = _PATIENCE,
) -> int:
    """Serve an agent: two tools, to make and to change images, over stdin and stdout (Model Context Protocol).

    The agent decides what is drawn; the options decide what it may spend and where images go. Ends when stdin does.
    """
    return _served(locals())


def _served(options: dict[str, Any]) -> int:
    screen, folder = Screen(as_json=False), options.pop("out")
    service = _service(options)
    try:
        # Half a second to import, and an extra of its own: no other command waits for it or needs it.
        serve = import_module("flux_openai.cli.serving").serve
    except ImportError as error:
        screen.say(f"error: the server needs more than the command line: pip install 'flux-openai[cli,mcp]' ({error})")
        return ExitCode.BAD_INPUT
    try:
        serve(service, folder=folder, on_retry=screen.retrying, **options)
    except ConfigurationError as error:
        screen.failed(error)
        return exit_code_of(error)
    return ExitCode.DONE


@_app.command()
def emulate(
    *,
    host: _Host = "127.0.0.1",
    port: _Port = 8399,
    api_key_file: _AcceptedKey = None,
    pixels: _Pixels = None,
    journal: _JournalFile = None,
    script: _ScriptText = None,
    seed: _ScriptSeed = 0,
    limit: _Limits = None,
    latency: _Latency = "0s",
    help_faults: _HelpFaults = False,
) -> int:
    """Serve the emulator over HTTP, for programs in any language: no key, network or bill.

    Its address is the first line on stdout. It ends with Ctrl-C or SIGTERM, and says what all would have cost.
    """
    return _emulated(locals())


def _emulated(options: dict[str, Any]) -> int:
    screen = Screen(as_json=False)
    try:
        return run_emulator(Emulation(**options), listed=screen.listed)
    except ConfigurationError as error:
        screen.failed(error)
        return exit_code_of(error)


@_app.command()
def models(*, as_json: _AsJson = False) -> int:
    """List the models with their short names and with what each takes beside the parameters of all.

    A short name stands for whichever model of its family takes the images that are given.
    """
    Screen(as_json=as_json).listed([json.dumps(model_document())] if as_json else model_lines())
    return ExitCode.DONE
