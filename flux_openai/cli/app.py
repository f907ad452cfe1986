"""The commands of the program and their options, for typer.

Options that belong together are the fields of a dataclass: `ServiceOptions`, `EmulateOptions`, and one made from the
table of models for the FLUX parameters. A command takes such a dataclass as one argument, see `_expand`.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flux_openai.cli.console import Console
from flux_openai.cli.emulate import EmulateOptions, serve_emulator, serve_mcp
from flux_openai.cli.exit_codes import ExitCode, exit_code_of, exit_code_table
from flux_openai.cli.help_text import field_help, model_document, model_lines, param_options
from flux_openai.cli.report import Report
from flux_openai.cli.run import make_images
from flux_openai.cli.service import ServiceOptions
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS
from flux_openai.response.file_names import place_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["run"]

_FAMILIES = ", ".join(FAMILIES)
_DEFAULT_FAMILY = next(iter(FAMILIES))
_PROMPT = field_help(FLUX_MODELS[DEFAULT_MODEL].fields["prompt"])
_EDIT_PROMPT = field_help(FLUX_MODELS["black-forest-labs/flux-kontext-max"].fields["prompt"])
_EPILOG = f"\b\nExit codes:\n{exit_code_table()}"

_app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, and one of them holds the key
    rich_markup_mode=None,  # otherwise square brackets in the help would be read as markup
)

# typer contains its own copy of click since 0.26, and used the installed one before: this finds the UsageError of both.
_UsageError = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])


def run(args: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    try:
        code = typer.main.get_command(_app).main(list(args), prog_name="flux-openai", standalone_mode=False)
    except _UsageError as error:
        error.show()
        if "--json" in args:
            Console(as_json=True).finished(Report(error=ConfigurationError(error.format_message())))
        return ExitCode.BAD_INPUT
    except typer.Abort:
        return ExitCode.INTERRUPTED
    return int(code or ExitCode.DONE)


def _expand(**groups: type["DataclassInstance"]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let a command take several options as one dataclass: typer sees the fields instead of the argument."""

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        @wraps(command)
        def expanded(**options: object) -> int:
            for argument, group in groups.items():
                options[argument] = group(**{field.name: options.pop(field.name) for field in fields(group)})
            return command(**options)

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            group = groups.get(parameter.name)
            parameters += [parameter] if group is None else inspect.signature(group).parameters.values()
        vars(expanded)["__signature__"] = inspect.Signature(parameters)
        return expanded

    return decorate


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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """FLUX images through the official OpenAI client: checked, retried without paying twice, saved safely."""


_Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"One of {_FAMILIES}, or a full name: see flux-openai models. Left out, it is {_DEFAULT_FAMILY}.",
    ),
]
_Out = Annotated[
    str,  # a Path would drop the separator that makes "fox.png/" a folder
    typer.Option(
        "-o", "--out", metavar="PATH", help="Folder for the images, or a file such as fox.png; several get numbers."
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, all else on stderr.")]


@_app.command(epilog=_EPILOG)
@_expand(params=param_options(editing=False), service=ServiceOptions)
def generate(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help=_PROMPT, show_default=False)],
    model: _Model = None,
    params: object,
    out: _Out = ".",
    as_json: _AsJson = False,
    service: ServiceOptions,
) -> int:
    """Make images from PROMPT and save them.

    The paths go to stdout, all else to stderr. The key is read from MODELVERSE_API_KEY; --emulator needs none.
    """
    given = {"prompt": prompt, "model": model, **vars(params)}
    return make_images(given, editing=False, service=service, out=out, console=Console(as_json=as_json)).exit_code


@_app.command(epilog=_EPILOG)
@_expand(params=param_options(editing=True), service=ServiceOptions)
def edit(
    *,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help=_EDIT_PROMPT, show_default=False)],
    image: Annotated[
        list[str],
        typer.Option(
            "-i",
            "--image",
            metavar="FILE",
            help="Image to start from: a path, a link or a data URI. May be given several times.",
            show_default=False,
        ),
    ],
    model: _Model = None,
    params: object,
    out: _Out = ".",
    as_json: _AsJson = False,
    service: ServiceOptions,
) -> int:
    """Change an image as PROMPT says, or combine several, and save the result.

    One image goes to the image model of its family, several to its /multi model. All else is as in generate.
    """
    given = {"prompt": prompt, "image": image, "model": model, **vars(params)}
    return make_images(given, editing=True, service=service, out=out, console=Console(as_json=as_json)).exit_code


@_app.command()
@_expand(service=ServiceOptions)
def mcp(
    *,
    out: Annotated[str, typer.Option("-o", "--out", metavar="DIR", help="Folder for the images.")] = "out",
    model: Annotated[str, typer.Option("--model", metavar="NAME", help=f"One of {_FAMILIES}.")] = _DEFAULT_FAMILY,
    max_images: Annotated[
        int, typer.Option(metavar="INTEGER", help="Most images that all calls together may ask for.")
    ] = 16,
    max_calls: Annotated[int, typer.Option(metavar="INTEGER", help="Most calls that are sent to the service.")] = 16,
    service: ServiceOptions,
) -> int:
    """Serve image tools to an agent (Model Context Protocol).

    One tool makes images and one edits them, over stdin and stdout. The agent decides what is drawn; the options decide
    what it may spend and where images go. Ends when stdin does.
    """
    limits = {"max_images": max_images, "max_calls": max_calls}
    return _serve(lambda console: serve_mcp(service, console, folder=place_of(out), model=model, **limits))


@_app.command()
@_expand(options=EmulateOptions)
def emulate(*, options: EmulateOptions) -> int:
    """Serve the emulator over HTTP, for programs in any language: no key, network or bill.

    Its address is the first line on stdout. It ends with Ctrl-C or SIGTERM, and then prints what would have been
    billed.
    """
    return _serve(lambda console: serve_emulator(options, console))


def _serve(server: Callable[[Console], ExitCode]) -> int:
    """Run a server, or print the error about its options."""
    console = Console(as_json=False)
    try:
        return server(console)
    except ConfigurationError as error:
        console.failed(error)
        return exit_code_of(error)


@_app.command()
def models(*, as_json: _AsJson = False) -> int:
    """List the models with their short names and with the parameters that not all of them have.

    A short name selects the model of its family that takes the images of the call.
    """
    Console(as_json=as_json).output([json.dumps(model_document())] if as_json else model_lines())
    return ExitCode.DONE
