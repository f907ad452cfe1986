"""The SDK's own arguments, and the path of a file: what is wrong with one is refused by name, and nothing is sent."""

import math
from pathlib import Path
from typing import Any, cast

import openai
import pytest

from flux_openai import Emulator, FluxOpenAI
from flux_openai.errors import ConfigurationError, InvalidParamsError, SaveError

TIMEOUTS = [
    *("5", -1, 0, math.nan, math.inf, -math.inf, True, [], (5,), object),
    *(openai.Timeout(-1), openai.Timeout(5, read=math.nan), openai.Timeout(None, connect=cast("Any", "5"))),
]
HEADERS = [
    *("sk-secret", [("sk-secret", "b")], 5),
    *({"X-A": "sk-secrét"}, {"X-A": "sk-secret\n"}, {"X-A": "sk-secret\r\nX-B: c"}, {"X-A": " sk-secret"}),
    *({"X-A": 5}, {"X-A": None}, {"X-A": b"sk-secret\xff"}, {"X-A": "sk-secret\ud800"}, {"X-A": "sk-secret\0"}),
    *({5: "sk-secret"}, {"": "sk-secret"}, {"X A": "sk-secret"}, {"X-Ä": "sk-secret"}, {"X-A:": "sk-secret"}),
]
QUERIES = [
    *("sk-secret", [("sk-secret", "b")], 5, {5: "sk-secret"}),
    *({"a": "sk-secret\ud800"}, {"\udc00": "sk-secret"}, {"a": ["sk-secret\ud800"]}, {"a": {"b": "sk-secret\ud800"}}),
]
BODIES = ["x", [("a", "b")], 5]
WRONG = [
    *(("timeout", value) for value in TIMEOUTS),
    *(("extra_headers", value) for value in HEADERS),
    *(("extra_query", value) for value in QUERIES),
    *(("extra_body", value) for value in BODIES),
]


@pytest.mark.parametrize(("param", "value"), WRONG, ids=repr)
@pytest.mark.parametrize("split", [False, True])
def test_a_wrong_argument_of_the_sdk_is_refused(param: str, value: object, *, split: bool) -> None:
    """The error names the argument and no credential in it, beside all other faults of the call; nothing is sent."""
    emulator = Emulator(pixels=64)
    arguments: dict[str, Any] = {"prompt": "a fox", "steps": 99, param: value}
    with pytest.raises(InvalidParamsError) as caught:
        emulator.client(split=split).images.generate(**arguments)
    names = [fault.param.partition("[")[0] for fault in caught.value.faults]
    assert param in names
    assert set(names) <= {"steps", param}
    assert len(names) == 2 or param == "extra_body"
    assert "secret" not in f"{caught.value} {[vars(fault) for fault in caught.value.faults]}"
    assert (caught.value.billing, emulator.requests) == ("none", [])


@pytest.mark.parametrize(
    ("param", "value"),
    [
        *(("timeout", value) for value in (5, 0.5, None, openai.NOT_GIVEN, openai.Timeout(5), openai.Timeout(None))),
        *(("extra_headers", value) for value in (None, {}, {"X-A": "a b"}, {"X-A": ""}, {"X-A": openai.omit})),
        *(("extra_query", value) for value in (None, {}, {"a": 1}, {"a": ["b", None]})),
    ],
)
def test_a_right_argument_of_the_sdk_is_passed_on(param: str, value: object) -> None:
    """Whatever the SDK documents is taken."""
    arguments: dict[str, Any] = {"prompt": "a fox", param: value}
    assert Emulator(pixels=64).client().images.generate(**arguments).data


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout", value) for value in TIMEOUTS),
        *(("default_headers", value) for value in HEADERS),
        *(("default_query", value) for value in QUERIES),
        *((option, value) for option in ("organization", "project") for value in ("é", "a\nb", " a", 5)),
    ],
    ids=repr,
)
def test_a_client_is_not_made_with_them(option: str, value: object) -> None:
    """The same rules hold for the client, when it is made and when it is copied."""
    options: dict[str, Any] = {option: value}
    for make in (FluxOpenAI, Emulator().client().with_options):
        with pytest.raises(ConfigurationError) as caught:
            make(**{"api_key": "k", **options})
        assert option in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("path", [None, 5, b"out", [], "a\ud800", Path("a\ud800"), "a\0b", Path("a\0b.png")], ids=repr)
@pytest.mark.parametrize("count", [1, 2])
def test_a_path_that_is_none_is_a_save_error(path: object, count: int) -> None:
    """The images are paid for: the error is one of saving, and they can be saved elsewhere."""
    response = Emulator(pixels=64).client().images.generate(prompt="a fox", n=count, response_format="b64_json")
    for save in (response.save, response.data[0].save):
        with pytest.raises(SaveError) as caught:
            save(cast("Any", path))
        assert caught.value.billing == "paid"
