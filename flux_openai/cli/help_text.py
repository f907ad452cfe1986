"""The table of models as command line options with their help, as lines of text, and as a JSON document."""

from collections.abc import Callable, Iterable, Mapping

import click

from flux_openai.models import DEFAULT_MODEL, FAMILIES, FLUX_MODELS, FluxField

__all__ = ["completing", "field_help", "model_document", "model_lines", "param_options"]

_DOCUMENTED = [
    *("name", "type", "format", "links", "required", "minimum", "maximum", "multiple_of"),
    *("choices", "between", "default", "enforced", "source"),
]
_Command = Callable[..., int]
_METAVARS: Mapping[type, str] = {str: "TEXT", int: "INTEGER", float: "NUMBER"}


def param_options(*, editing: bool) -> list[Callable[[_Command], _Command]]:
    """The decorators that give a command an option for each parameter, without the prompt and the images.

    The default of each option is None, and None is not sent: the default in the help is the one of the service.
    """
    # `strength` has no meaning without an image.
    apart = {"prompt"} if editing else {"prompt", "strength"}
    found: dict[str, FluxField] = {}
    for model in FLUX_MODELS.values():
        images = [field for field in model.fields.values() if field.format == "image"]
        if images if editing else not any(image.required for image in images):
            left_out = {*found, *apart, *(image.name for image in images)}
            found |= {name: field for name, field in model.fields.items() if name not in left_out}
    common = _common_fields()
    # The help lists the fields that not all models have first, and the number of images last.
    return [
        _option(field) for field in sorted(found.values(), key=lambda field: (field.name == "n", field.name in common))
    ]


def _option(field: FluxField) -> Callable[[_Command], _Command]:
    text, name = _option_help(field), field.name.replace("_", "-")
    if field.type is bool:
        return click.option(f"--{name}", is_flag=True, default=None, help=text)  # left out, it is not sent
    names = [f"--{name}"]
    if field.name == "n":
        text, names = f"{text} More than {field.maximum} are made in several calls.", ["-n", "--n"]
    elif field.name == "size":
        text = f"In place of an aspect ratio, or of width and height. {text}"
    if field.format is not None:
        metavar = {"ratio": "W:H", "size": "WxH", "image": "FILE"}[field.format]
    else:
        metavar = "NAME" if field.choices else _METAVARS[field.type]
    return click.option(*names, type=field.type, metavar=metavar, help=text, shell_complete=completing(field.choices))


def completing(values: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What offers these values to the shell."""
    return lambda _context, _option, start: [value for value in dict.fromkeys(values) if value.startswith(start)]


def _option_help(field: FluxField) -> str:
    """The help of an option; with the short names of its models if the default family does not take it."""
    if any(field.name in model.fields for model in FAMILIES[FLUX_MODELS[DEFAULT_MODEL].family]):
        return field_help(field)
    texts: dict[str, list[str]] = {}
    for model in FLUX_MODELS.values():
        if field.name in model.fields:
            texts.setdefault(field_help(model.fields[field.name]), []).append(model.family)
    return " ".join(f"For {', '.join(families)}: {text}" for text, families in texts.items())


def field_help(field: FluxField) -> str:
    """The help text of a parameter: description, allowed values, and the service's default."""
    facts = []
    if field.choices:
        facts.append(f"one of {', '.join(field.choices)}{', or any ratio between' if field.between else ''}")
    # The maximum of `n` applies to one call only: a run makes several.
    elif field.minimum is not None and field.name != "n":
        limits = f"{field.minimum} or more" if field.maximum is None else f"from {field.minimum} to {field.maximum}"
        facts.append(f"{'each side ' if field.format == 'size' else ''}{limits}")
    if field.multiple_of is not None:
        facts.append(f"a multiple of {field.multiple_of}")
    if field.default is not None and field.type is not bool:
        facts.append(f"the service's default is {field.default}")
    text = "; ".join(facts)
    return f"{field.doc} {text[0].upper()}{text[1:]}." if text else field.doc


def model_lines() -> list[str]:
    """The models, one per line: short name, full name, and the parameters that not all models have."""
    common = _common_fields()
    rows = [
        (model.family, model.id, " ".join(name for name in model.fields if name not in common))
        for model in FLUX_MODELS.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{family:{widths[0]}}  {id:{widths[1]}}  {own}" for family, id, own in rows]


def _common_fields() -> set[str]:
    return set.intersection(*(set(model.fields) for model in FLUX_MODELS.values()))


def model_document() -> list[Mapping[str, object]]:
    """The table of models as JSON values."""
    return [
        {
            "id": model.id,
            "short_name": model.family,
            "source": model.source,
            "fields": [
                {name: getattr(field, name) for name in _DOCUMENTED} | {"type": field.type.__name__}
                for field in model.fields.values()
            ],
        }
        for model in FLUX_MODELS.values()
    ]
