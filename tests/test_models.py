"""The table of models: what type checkers are told of a parameter is what its rows say."""

import inspect
from typing import get_args

import pytest

from flux_openai import Emulator
from flux_openai.models import FLUX_MODELS, AspectRatio, FluxParams, OutputFormat, ResponseFormat
from flux_openai.request.arguments import EditParams, GenerateParams

FIELDS = {name: field for model in FLUX_MODELS.values() for name, field in model.fields.items()}
LITERALS = {"AspectRatio": AspectRatio, "OutputFormat": OutputFormat, "ResponseFormat": ResponseFormat}


def test_every_field_of_a_model_has_a_type() -> None:
    """A parameter in a row is a keyword of `generate` for type checkers, and none is typed that no row has."""
    assert FluxParams.__annotations__.keys() == FIELDS.keys() - {"prompt", "image", "images"}
    assert FIELDS.keys() <= GenerateParams.__annotations__.keys()
    assert FIELDS.keys() - {"images"} <= EditParams.__annotations__.keys()


@pytest.mark.parametrize("name", FluxParams.__annotations__)
def test_the_type_of_a_parameter_is_that_of_its_row(name: str) -> None:
    """A plain type is that of the rows, a Literal has their choices, a `str` beside it all others that a row allows."""
    kind, *rest = FluxParams.__annotations__[name].__forward_arg__.split(" | ")
    fields = [model.fields[name] for model in FLUX_MODELS.values() if name in model.fields]
    assert rest == [*(["str"] if any(field.between for field in fields) else []), "None", "Omit"]
    for field in fields:
        if field.choices:
            assert {*field.choices} <= {*get_args(LITERALS[kind])}
        else:
            assert kind == field.type.__name__


@pytest.mark.parametrize("make", ["client", "async_client"])
@pytest.mark.parametrize("method", ["generate", "edit"])
def test_the_signature_shows_every_parameter(make: str, method: str) -> None:
    """`help()` and notebooks show each keyword by name, sync and async; only what a call must have has no default."""
    signature = inspect.signature(getattr(getattr(Emulator(), make)().images, method))
    shown = signature.parameters
    keys = (GenerateParams if method == "generate" else EditParams).__annotations__.keys()
    assert shown.keys() == {*keys, "stream"}
    required = {name for name, parameter in shown.items() if parameter.default is parameter.empty}
    assert required == ({"prompt"} if method == "generate" else {"prompt", "image"})
    assert "'float | None | Omit'" in str(shown["strength"])


@pytest.mark.parametrize("make", ["client", "async_client"])
def test_the_signatures_of_a_client_show_its_options(make: str) -> None:
    """The constructor, `copy` and `with_options` name our options and the SDK's."""
    client = getattr(Emulator(), make)()
    for function in (type(client), client.copy, client.with_options):
        names = inspect.signature(function).parameters.keys()
        assert {"retry", "unsupported", "split", "defaults", "api_key", "base_url", "timeout", "max_retries"} <= names
        assert not any(name.startswith("_") for name in names)


def test_only_a_path_of_its_own_gives_a_model_names_of_its_own() -> None:
    """The usual path sends each parameter by its own name: `body_of` relies on it."""
    renamed = {m.path for m in FLUX_MODELS.values() for field in m.fields.values() if field.sent_as is not None}
    assert renamed == {model.path for model in FLUX_MODELS.values()} - {"/images/generations"}
    assert len({model.path for model in FLUX_MODELS.values() if model.path != "/images/generations"}) == len(renamed)
