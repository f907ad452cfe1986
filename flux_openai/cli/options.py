"""The options that commands share, each declared once: a dataclass whose fields are options of click.

Defaults are written out, because the modules that define them load the SDK, and `--help` would take a second. A test
compares them with `RetryPolicy` and with the client.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flux_openai.cli.help_text import completing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["BatchRunOptions", "EmulateOptions", "OutputOptions", "ServiceOptions", "as_group"]

_Command = Callable[..., int]


def _option(**attributes: Any) -> Any:  # noqa: ANN401  # as `dataclasses.field`: the value of a field of any type
    """A field of a dataclass that is an option; the arguments are those of `click.option`."""
    return field(default=attributes.get("default"), metadata=attributes)


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """The options about the service, the key, retries and time-outs; their values are not checked yet."""

    emulator: bool = _option(is_flag=True, default=False, help="Ask the emulator: no key, network or bill.")
    base_url: str | None = _option(
        metavar="URL",
        help="Address of the service. Left out, it is MODELVERSE_BASE_URL or https://api.umodelverse.ai/v1.",
    )
    allow_http: bool = _option(
        is_flag=True, default=False, help="Allow a plain http URL beyond this machine: the key is sent in the clear."
    )
    api_key_file: str | None = _option(
        metavar="FILE", help="File that holds the key, - for stdin. Left out, the key is MODELVERSE_API_KEY."
    )
    max_attempts: int = _option(default=4, help="Most requests for one call.")
    duplicates: str = _option(
        default="unlikely",
        metavar="NAME",
        shell_complete=completing(("never", "unlikely", "allowed")),
        help="How much risk of paying twice a retry may take: never, unlikely, allowed.",
    )
    max_wait: float = _option(
        default=20.0, metavar="SECONDS", help="Longest wait before a retry, if the service asks for none."
    )
    max_elapsed: float = _option(
        default=120.0, metavar="SECONDS", help="Time after which no further attempt of a call starts."
    )
    timeout: float = _option(
        default=300.0,
        metavar="SECONDS",
        help="Longest wait for an answer; an answer that comes later may be billed all the same.",
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The options about what a run writes, and what it repeats; their values are not checked yet."""

    out: str = _option(
        names=("-o", "--out"),
        metavar="PATH",
        default=".",
        help="Folder for the images, or a file such as fox.png; several get numbers.",
    )
    metadata: bool = _option(
        is_flag=True, default=False, help="Write NAME.json beside each image: how to make it again with --from."
    )
    source: str | None = _option(
        names=("--from",), metavar="FILE", help="Make the image of a NAME.json again; other options change it."
    )
    dry_run: bool = _option(
        is_flag=True, default=False, help="Show the requests and their estimated cost; nothing is sent."
    )
    price: str | None = _option(metavar="PRICE", help="Price of one image for the estimate, such as 0.65CNY.")


@dataclass(frozen=True, kw_only=True)
class BatchRunOptions:
    """The options of `batch run`; their values are not checked yet."""

    out: str = _option(
        names=("-o", "--out"),
        metavar="DIR",
        required=True,
        help="Folder of this batch: its images, its reports and its ledger, by which it goes on.",
    )
    settings: tuple[str, ...] = _option(
        names=("--set",),
        default=(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Set a parameter in every row, such as steps=28. May be given several times.",
    )
    sweep: tuple[str, ...] = _option(
        default=(),
        multiple=True,
        metavar="NAME=VALUES",
        help="Make every row once for each value, such as seed=1,2,3. Several sweeps multiply.",
    )
    prompt: str | None = _option(metavar="TEXT", help="Prompt of every row, with columns of PROMPTS: 'a {colour} fox'.")
    format: str | None = _option(
        metavar="NAME",
        shell_complete=completing(("jsonl", "csv", "tsv", "txt", "parquet")),
        help="Format of PROMPTS: jsonl, csv, tsv, txt or parquet. Left out, its name says it, and stdin its content.",
    )
    on_unknown: str = _option(
        default="hold",
        metavar="NAME",
        shell_complete=completing(("hold", "retry")),
        help="What becomes of a row that may have been made and billed without an answer: hold it until you decide "
        "(see resolve), or retry it once.",
    )
    max_images: int | None = _option(type=int, help="Most images to ask for in this folder, over all runs.")
    budget: str | None = _option(
        metavar="PRICE", help="Most that the images of this folder may cost, over all runs, such as 50CNY."
    )
    price: str | None = _option(metavar="PRICE", help="Price of one image, such as 0.65CNY, for costs and the budget.")
    rpm: float | None = _option(
        type=float, metavar="NUMBER", help="Most requests a minute. Left out, the pace follows what the service takes."
    )
    max_inflight: int | None = _option(type=int, help="Most requests under way at the same time.")
    metadata: bool = _option(is_flag=True, default=False, help="Write NAME.json beside each image: how it was made.")
    dry_run: bool = _option(
        is_flag=True, default=False, help="Show calls, images and cost, and the first requests; nothing is sent."
    )
    ray: str | None = _option(
        metavar="ADDRESS", help="Share the rows out on this Ray cluster, or with local on this machine alone."
    )


@dataclass(frozen=True, kw_only=True)
class EmulateOptions:
    """The options of `emulate`; their values are not checked yet."""

    host: str = _option(
        default="127.0.0.1",
        metavar="ADDRESS",
        help="Address to listen on; it must be one that only this machine can reach.",
    )
    port: int = _option(default=8399, help="Port to listen on; 0 picks a free one.")
    api_key_file: str | None = _option(
        metavar="FILE", help="File that holds the only key to accept, - for stdin. Left out, every key is accepted."
    )
    pixels: int | None = _option(type=int, help="Approximate area of a picture. Left out, it is a megapixel.")
    journal: Path | None = _option(  # noqa: RUF009  # `_option` is `dataclasses.field`
        type=click.Path(path_type=Path), metavar="FILE", help="File that gets a line of JSON for each request."
    )
    script: str | None = _option(
        help="Faults to cause, or a file of them, such as 'prompt~/cat/ #1 -> status(429)'; see --help-faults."
    )
    seed: int = _option(default=0, help="Seed of the random choices of the script.")
    limit: tuple[str, ...] = _option(
        default=(),
        multiple=True,
        help="A limit, such as 10/s, window:60/min, concurrency=8 or credits=100. May be given several times.",
    )
    latency: str = _option(
        default="0s", help="Time that a request takes, such as 6s, lognormal:6s,p99=20s or steps:1s+0.2s*steps."
    )
    help_faults: bool = _option(is_flag=True, default=False, help="List the faults that a script can cause, and exit.")


def as_group(argument: str, group: type["DataclassInstance"]) -> Callable[[_Command], _Command]:
    """Give a command the options of a dataclass, and their values as one argument of this name."""

    def decorate(command: _Command) -> _Command:
        @wraps(command)
        def grouped(**options: object) -> int:
            values = {each.name: options.pop(each.name) for each in fields(group)}
            return command(**{argument: group(**values)}, **options)

        decorated: _Command = grouped
        for each in reversed(fields(group)):
            attributes = {**each.metadata}
            names = attributes.pop("names", (f"--{each.name.replace('_', '-')}",))
            decorated = click.option(*names, each.name, **attributes)(decorated)
        return decorated

    return decorate
