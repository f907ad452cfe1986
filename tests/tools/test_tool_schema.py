"""What a language model is told: OpenAI's rules for strict schemas, read here anew, and the table of models."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
from openai.lib._pydantic import _ensure_strict_json_schema

from flux_openai import Emulator
from flux_openai.models import FLUX_MODELS, FluxField
from flux_openai.tools import FluxTool
from flux_openai.tools.arguments import Verb, families_for

Schema = dict[str, Any]

ALLOWED = {"type", "properties", "required", "additionalProperties", "description", "enum", "items", "anyOf"}
ALLOWED |= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
ALLOWED |= {"pattern", "format"}
TOOLS = [(family, verb) for verb in get_args(Verb) for family in families_for(verb)]


def schema_of(family: str, verb: Verb, **options: Any) -> Schema:  # noqa: ANN401  # whatever FluxTool takes
    with Emulator().client() as client:
        return FluxTool(client, model=family, verb=verb, **options).parameters


def flaws(schema: Schema) -> list[str]:
    """What in a schema breaks the rules of strict mode."""
    found = list(_flaws(schema, "$", level=1))
    found += [] if schema.get("type") == "object" else ["the root is no object"]
    return found + ([] if _count(schema) <= 100 else ["more than 100 properties"])


def _flaws(schema: Schema, place: str, *, level: int) -> Iterator[str]:
    yield from (f"{place}: {word} is not allowed" for word in sorted(schema.keys() - ALLOWED))
    kinds = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    if "object" in kinds:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False:
            yield f"{place}: additionalProperties is not false"
        if sorted(schema.get("required", [])) != sorted(properties):
            yield f"{place}: not every property is required"
        if level > 5:
            yield f"{place}: more than 5 levels"
        for name, inner in properties.items():
            yield from _flaws(inner, f"{place}.{name}", level=level + 1)
    elif not {"type", "anyOf"} & schema.keys():
        yield f"{place}: has no type"
    if "array" in kinds:
        yield from _flaws(schema.get("items", {}), f"{place}[]", level=level)
    if "enum" in schema and ("null" in kinds) != (None in schema["enum"]):
        yield f"{place}: type and enum disagree about null"
    for inner in schema.get("anyOf", []):
        yield from _flaws(inner, f"{place}|", level=level)


def _count(schema: Schema) -> int:
    below = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return len(schema.get("properties", {})) + sum(map(_count, below))


def _deep(levels: int) -> Schema:
    if not levels:
        return {"type": "string"}
    inner = {"a": _deep(levels - 1)}
    return {"type": "object", "properties": inner, "required": ["a"], "additionalProperties": False}


def _with(name: str, **words: object) -> Callable[[Schema], object]:
    return lambda schema: schema["properties"][name].update(words)


BROKEN: dict[str, Callable[[Schema], object]] = {
    "root": lambda schema: schema.update(type="array", items={"type": "string"}),
    "additionalProperties": lambda schema: schema.pop("additionalProperties"),
    "required": lambda schema: schema["required"].remove("seed"),
    "default": _with("seed", default=-1),
    "title": _with("seed", title="Seed"),
    "minLength": _with("prompt", minLength=1),
    "maxLength": _with("prompt", maxLength=9),
    "enum without null": lambda schema: schema["properties"]["aspect_ratio"]["enum"].remove(None),
    "null without type": _with("aspect_ratio", type="string"),
    "no type": lambda schema: schema["properties"]["prompt"].pop("type"),
    "an object in a list": _with("request_key", type="array", items={"type": "object"}),
    "too many": lambda schema: (
        schema["properties"].update({f"p{number}": {"type": "string"} for number in range(100)}),
        schema.update(required=[*schema["properties"]]),
    ),
    "too deep": lambda schema: schema["properties"].update(seed=_deep(5)),
}


@pytest.mark.parametrize(("family", "verb"), TOOLS)
def test_the_schema_is_strict(family: str, verb: Verb) -> None:
    """Every tool of every family keeps the rules of strict mode, and the SDK's own strictness changes nothing in it."""
    schema = schema_of(family, verb)
    assert flaws(schema) == []
    assert _ensure_strict_json_schema(copy.deepcopy(schema), path=(), root=schema) == schema


@pytest.mark.parametrize(("family", "verb"), TOOLS)
def test_the_plain_schema_requires_only_what_a_call_needs(family: str, verb: Verb) -> None:
    """Outside of strict mode the optional arguments may be left out, and nothing is null; all else is the same."""
    with Emulator().client() as client:
        tool = FluxTool(client, model=family, verb=verb)
    plain: Any = tool.input_schema
    strict: Any = tool.parameters
    assert plain["required"] == (["images", "prompt"] if verb == "edit" else ["prompt"])
    assert plain["properties"].keys() == strict["properties"].keys() == set(strict["required"])
    for name, inner in plain["properties"].items():
        assert isinstance(inner["type"], str)
        assert None not in inner.get("enum", [])
        kinds = inner["type"] if name in plain["required"] else [inner["type"], "null"]
        choices = {"enum": [*inner["enum"], None]} if "enum" in inner else {}
        assert strict["properties"][name] == {**inner, "type": kinds, **choices}
    assert plain["additionalProperties"] is False


@pytest.mark.parametrize("flaw", BROKEN)
def test_the_checker_sees_flaws(flaw: str) -> None:
    """The checker of these tests refuses every kind of schema that strict mode refuses."""
    schema = copy.deepcopy(schema_of("kontext-max", "generate"))
    BROKEN[flaw](schema)
    assert flaws(schema) != []


def fields_of(family: str, verb: Verb) -> dict[str, FluxField]:
    """What the table has for an order with images, or without."""
    rows = [model for model in FLUX_MODELS.values() if model.family == family]
    if family != "flux-dev":  # its one row takes an image or none
        rows = [model for model in rows if bool({"image", "images"} & model.fields.keys()) == (verb == "edit")]
    hidden = {"image", "images", "response_format"}
    return {name: field for row in rows for name, field in row.fields.items() if name not in hidden}


@pytest.mark.parametrize(("family", "verb"), TOOLS)
def test_the_schema_is_the_table(family: str, verb: Verb) -> None:
    """The arguments, their types, choices and limits are those of the models, and only what is needed has no null."""
    properties = schema_of(family, verb)["properties"]
    fields = fields_of(family, verb)
    own = {"request_key", *(["images"] if verb == "edit" else [])}
    # With or without an image is what the two tools of a family differ in, so `strength` may be told to one only.
    assert properties.keys() - own <= fields.keys()
    assert fields.keys() - properties.keys() <= {"strength"}
    for name, field in fields.items():
        told = properties.get(name, {})
        kind = {str: "string", int: "integer", float: "number"}[field.type]
        assert told.get("type", [kind, "null"]) == (kind if name == "prompt" else [kind, "null"])
        assert told.get("enum", [*field.choices, None])[:-1] == list(field.choices)
        if field.type is not str and told:
            assert (told["minimum"], told["maximum"]) == (field.minimum, field.maximum)
    assert properties["request_key"]["type"] == ["string", "null"]
    assert "null" not in properties.get("images", {}).get("type", [])


@pytest.mark.parametrize(("most", "told"), [(1, 1), (3, 3), (4, 4), (99, 4)])
def test_the_schema_asks_for_no_more_than_the_limit(most: int, told: int) -> None:
    """The most images of a call are those of a request, or all that the developer allows."""
    assert schema_of("kontext-max", "generate", max_images=most)["properties"]["n"]["maximum"] == told


def test_both_definitions_hold_the_schema() -> None:
    """Chat Completions nest the function and Responses do not; both are strict, and say the same."""
    with Emulator().client() as client:
        tool = FluxTool(client, name="draw", description="Draws.")
        told = {"name": "draw", "description": "Draws.", "parameters": tool.parameters, "strict": True}
        assert tool.chat_definition() == {"type": "function", "function": told}
        assert tool.responses_definition() == {"type": "function", **told}


def test_a_schema_is_a_fresh_copy() -> None:
    """Frameworks rewrite the schema that they are given; the next one does not see it."""
    before = copy.deepcopy(schema_of("kontext-max", "edit"))
    for inner in schema_of("kontext-max", "edit")["properties"].values():
        inner.get("items", {}).clear()
        inner["type"] = inner["type"] if isinstance(inner["type"], str) else inner["type"].clear()
    assert schema_of("kontext-max", "edit") == before
