"""The commands of the program, for click.

What a command needs is imported when it runs: the SDK alone takes 60 times as long to load as Python itself, and
`--help`, `--version` and the shell's completion do without it.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import click

from flux_openai.cli.exit_codes import BATCH_EXIT_CODES, EXIT_CODES, ExitCode
from flux_openai.cli.help_text import completing, field_help, model_document, model_lines, param_options
from flux_openai.cli.options import BatchRunOptions, EmulateOptions, OutputOptions, ServiceOptions, as_group
from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS

if TYPE_CHECKING:
    from flux_openai.cli.console import Console

__all__ = ["run"]

_Command = Callable[..., int]
_FAMILIES = ", ".join(FAMILIES)
_DEFAULT_FAMILY = next(iter(FAMILIES))
_GENERATE = f"""Make images from PROMPT and save them.

PROMPT: {field_help(FLUX_MODELS[DEFAULT_MODEL].fields["prompt"])}

PROMPT is read from a file if it is @FILE, and from stdin if it is -.

The paths go to stdout, all else to stderr. The key is read from MODELVERSE_API_KEY; --emulator needs none. A seed is
drawn if you give none; the names of the files have it.
"""
_EDIT = f"""Change an image, or combine several, as PROMPT says.

PROMPT: {field_help(FLUX_MODELS["black-forest-labs/flux-kontext-max"].fields["prompt"])}

One image goes to the image model of its family, several to its /multi model. All else is as in generate.
"""
_BATCH_RUN = """Make the images of the rows in PROMPTS and save them.

PROMPTS is a file, or - for stdin: JSON Lines, CSV, TSV or text with a prompt a line, also as .gz. Its columns are the
parameters of generate, image or images, and an optional custom_id. Lines of OpenAI's Batch API are read as they are.

Every row is checked before anything is sent. Run the same command again after a crash, a pause or Ctrl-C: a row that
was answered is not asked for again. Ctrl-C, SIGTERM or SIGHUP waits for the requests under way; once more, and it
stops at once.

The path of the manifest goes to stdout, all else to stderr.
"""


class _Formatter(click.HelpFormatter):
    """The layout of a help text: in a narrow window the names get less of it, or the texts would be torn."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        margin = " " * self.current_indent
        folded = [
            (name if len(name) < self.width - 2 else name.replace(" / ", f" /\n{margin}"), text) for name, text in rows
        ]
        super().write_dl(folded, min(col_max, max(12, self.width - 50)), col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter  # type: ignore[mutable-override]  # as click documents it


class _Plain(click.Command):
    """A command whose help fits a narrow window."""

    context_class = _Context  # type: ignore[mutable-override]  # as click documents it


class _WithExitCodes(_Plain):
    """A command whose help ends with the exit codes."""

    exit_codes: ClassVar[Mapping[int, str]] = EXIT_CODES

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # as click calls it
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in self.exit_codes.items()])


class _Group(_WithExitCodes, click.Group):
    """The program."""


class _BatchRun(_WithExitCodes):
    """The run of a batch, which has exit codes of its own."""

    exit_codes = BATCH_EXIT_CODES


class _BatchGroup(_BatchRun, click.Group):
    """The commands about a batch."""

    command_class = _Plain  # type: ignore[mutable-override]  # as click documents it


def run(args: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    try:
        width = min(shutil.get_terminal_size().columns, 80)  # click itself never goes below 50
        code = _program.main(list(args), prog_name="flux-openai", standalone_mode=False, terminal_width=width)
    except click.UsageError as error:
        error.show()
        if "--json" in args:
            from flux_openai.cli.console import Console
            from flux_openai.cli.report import Report
            from flux_openai.errors import ConfigurationError

            Console(as_json=True).finished(Report(error=ConfigurationError(error.format_message())))
        return ExitCode.BAD_INPUT
    except click.Abort:
        return ExitCode.INTERRUPTED
    return int(code or ExitCode.DONE)


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001  # as click calls it
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"flux-openai {version('flux-openai')}")
        except PackageNotFoundError:
            click.echo("flux-openai, run from its source")
        context.exit()


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}, no_args_is_help=True
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_show_version,
    is_eager=True,
    help="Show the version and exit.",
)
def _program() -> None:
    """FLUX images through the official OpenAI client: checked, retried without paying twice, saved safely."""


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout, all else on stderr.")


def _required(context: click.Context, option: click.Parameter, prompt: str | None) -> str | None:
    """Refuse a missing prompt, unless `--from` brings one."""
    if prompt is None and context.params.get("source") is None:
        raise click.MissingParameter(ctx=context, param=option)
    return prompt


_prompt = click.argument("prompt", metavar="PROMPT", required=False, callback=_required)


def _image_options(*, editing: bool) -> Callable[[_Command], _Command]:
    """The options that `generate` and `edit` share."""
    model = click.option(
        "--model",
        metavar="NAME",
        help=f"One of {_FAMILIES}, or a full name: see flux-openai models. Left out, it is {_DEFAULT_FAMILY}.",
        shell_complete=completing([*FAMILIES, *FLUX_MODELS]),
    )
    options: list[Callable[[_Command], _Command]] = [
        model,
        *param_options(editing=editing),
        as_group("output", OutputOptions),
        _json,
        as_group("service", ServiceOptions),
    ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@_program.command(cls=_WithExitCodes, help=_GENERATE, short_help="Make images and save them.")
@_prompt
@_image_options(editing=False)
def generate(
    *, prompt: str | None, output: OutputOptions, as_json: bool, service: ServiceOptions, **params: object
) -> int:
    from flux_openai.cli.run import make_images

    return make_images(prompt, params, editing=False, service=service, output=output, as_json=as_json)


@_program.command(cls=_WithExitCodes, help=_EDIT, short_help="Change an image, or combine several.")
@_prompt
@click.option(
    "-i",
    "--image",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Image to start from: a path, a link or a data URI. May be given several times.",
)
@_image_options(editing=True)
def edit(
    *,
    prompt: str | None,
    image: tuple[str, ...],
    output: OutputOptions,
    as_json: bool,
    service: ServiceOptions,
    **params: object,
) -> int:
    from flux_openai.cli.run import make_images

    params = {"image": list(image), **params}
    return make_images(prompt, params, editing=True, service=service, output=output, as_json=as_json)


@_program.group(cls=_BatchGroup, short_help="Make the images of a file of prompts.", no_args_is_help=True)
def batch() -> None:
    """Make the images of a file of prompts, whatever happens in between."""


_folder = click.argument("folder", metavar="OUT")


@batch.command("run", cls=_BatchRun, help=_BATCH_RUN, short_help="Make the images, or go on making them.")
@click.argument("prompts", metavar="PROMPTS")
@as_group("options", BatchRunOptions)
@_json
@as_group("service", ServiceOptions)
def run_(*, prompts: str, options: BatchRunOptions, as_json: bool, service: ServiceOptions) -> int:
    from flux_openai.cli.batch import make_batch

    return make_batch(prompts, options, service, as_json=as_json)


@batch.command(short_help="Count what is done and what is not.")
@_folder
@_json
def status(*, folder: str, as_json: bool) -> int:
    """Count the rows of OUT that are done, failed, held and left, and their cost.

    It only reads, and may be asked while a run works.
    """
    from flux_openai.cli.batch import show_status

    return show_status(folder, as_json=as_json)


@batch.command(short_help="Let failed rows be tried again.")
@_folder
@click.option("--only", metavar="ID", multiple=True, help="A row to try again. May be given several times.")
def retry_failed(*, folder: str, only: tuple[str, ...]) -> int:
    """Let failed rows of OUT be tried again by the next run, by default all of them."""
    from flux_openai.cli.batch import put_back_failed

    return put_back_failed(folder, only)


_VERDICTS = {
    "retry": "Ask for them again; they may be paid for twice.",
    "unbilled": "Ask for them again, since your bill does not have them; clears unknown costs of other rows too.",
    "fail": "Give them up; they may be billed.",
    "billed": "Give them up, since your bill has them.",
}


def _verdict_options(command: _Command) -> _Command:
    for name, text in reversed(_VERDICTS.items()):
        command = click.option(f"--{name}", is_flag=True, help=text)(command)
    return command


@batch.command(short_help="Decide about rows that are held.")
@_folder
@click.argument("ids", metavar="[IDS]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Decide about all rows that are held.")
@_verdict_options
def resolve(*, folder: str, ids: tuple[str, ...], everything: bool, **verdicts: bool) -> int:
    """Decide about rows of OUT that are held.

    Their requests were sent, and no answer came: they may have been carried out and billed. Look at your account first.
    """
    from flux_openai.cli.batch import resolve_held

    chosen = [name for name in _VERDICTS if verdicts[name]]
    if len(chosen) != 1:
        count = ", not several" if chosen else ""
        raise click.UsageError(f"give one of {', '.join(f'--{name}' for name in _VERDICTS)}{count}")
    if bool(ids) == everything:
        raise click.UsageError("name the rows by their ids, or take --all")
    return resolve_held(folder, ids, verdict="failed" if chosen == ["fail"] else chosen[0])


@batch.command(short_help="Write the gallery.")
@_folder
def gallery(*, folder: str) -> int:
    """Write OUT/gallery/index.html, a page of all images that a browser opens without a network."""
    from flux_openai.cli.batch import write_gallery

    return write_gallery(folder)


@batch.command(short_help="Compare the files with the ledger.")
@_folder
@_json
def verify(*, folder: str, as_json: bool) -> int:
    """Compare every image of OUT with its checksum in the ledger."""
    from flux_openai.cli.batch import verify_files

    return verify_files(folder, as_json=as_json)


@_program.command(short_help="Serve image tools to an agent (MCP).")
@click.option("-o", "--out", metavar="DIR", default="out", help="Folder for the images.")
@click.option("--model", metavar="NAME", default=_DEFAULT_FAMILY, help=f"One of {_FAMILIES}.")
@click.option("--max-images", default=16, help="Most images that all calls together may ask for.")
@click.option("--max-calls", default=16, help="Most calls that are sent to the service.")
@as_group("service", ServiceOptions)
def mcp(*, out: str, model: str, max_images: int, max_calls: int, service: ServiceOptions) -> int:
    """Serve image tools to an agent (Model Context Protocol).

    One tool makes images and one edits them, over stdin and stdout. The agent decides what is drawn; the options decide
    what it may spend and where images go. Ends when stdin does.
    """
    from flux_openai.cli.emulate import serve_mcp
    from flux_openai.response.file_names import place_of

    limits = {"max_images": max_images, "max_calls": max_calls}
    return _serve(lambda console: serve_mcp(service, console, folder=place_of(out), model=model, **limits))


@_program.command(short_help="Serve the emulator over HTTP.")
@as_group("options", EmulateOptions)
def emulate(*, options: EmulateOptions) -> int:
    """Serve the emulator over HTTP: no key, network or bill.

    It serves programs in any language. Its address is the first line on stdout. It ends with Ctrl-C or SIGTERM, and
    then prints what would have been billed.
    """
    from flux_openai.cli.emulate import serve_emulator

    return _serve(lambda console: serve_emulator(options, console))


def _serve(server: "Callable[[Console], ExitCode]") -> int:
    """Run a server, or print the error about its options."""
    from flux_openai.cli.console import Console
    from flux_openai.cli.report import exit_code_of
    from flux_openai.errors import ConfigurationError

    console = Console(as_json=False)
    try:
        return console.exit_code(server(console))
    except ConfigurationError as error:
        console.failed(error)
        return exit_code_of(error)


@_program.command(short_help="List the models.")
@_json
def models(*, as_json: bool) -> int:
    """List the models, their short names and own parameters.

    A short name selects the model of its family that takes the images of the call.
    """
    from flux_openai.cli.console import Console

    console = Console(as_json=as_json)
    console.output([json.dumps(model_document())] if as_json else model_lines())
    return console.exit_code(ExitCode.DONE)
