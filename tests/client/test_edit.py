"""Which model a call goes to, what a client's defaults do there, and what is said when model and options do not fit."""

import asyncio
import inspect
import pickle
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from openai.resources.images import Images

from flux_openai import AsyncFluxOpenAI, Emulator, FluxImagesResponse, FluxOpenAI, InvalidParamsError
from flux_openai.errors import FluxWarning, InvalidParam
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS
from flux_openai.request.modes import Unsupported

PREFIX = "black-forest-labs/flux"
MODES: tuple[Unsupported, ...] = get_args(Unsupported)
LINKS = ["https://img.example/fox.png", "https://img.example/hat.png"]
GIVEN: dict[str, dict[str, object]] = {
    "": {},
    "1": {"image": LINKS[0]},
    "[1]": {"image": LINKS[:1]},
    "[2]": {"image": LINKS},
    "images": {"images": LINKS},
    "images 1": {"images": LINKS[:1]},
    "both": {"image": LINKS[0], "images": LINKS[1:]},
}
WORDS = {
    "max": "kontext-max",
    "pro": "kontext-pro",
    "dev": "flux-dev",
    "MAX/text": f"{PREFIX}-kontext-max/text-to-image",
    "MAX": f"{PREFIX}-kontext-max",
    "MAX/multi": f"{PREFIX}-kontext-max/multi",
    "PRO/text": f"{PREFIX}-kontext-pro/text-to-image",
    "PRO": f"{PREFIX}-kontext-pro",
    "PRO/multi": f"{PREFIX}-kontext-pro/multi",
    "DEV": f"{PREFIX}.1-dev",
}

each_way = pytest.mark.parametrize("way", ["sync", "async"])


def ask(
    emulator: Emulator,
    way: str,
    verb: str,
    client: Mapping[str, Any],
    **call: Any,  # noqa: ANN401  # passed on
) -> FluxImagesResponse:
    """One call through a client of the emulator, made with the given options."""
    if way == "sync":
        with emulator.client(**client) as sync:
            response: FluxImagesResponse = getattr(sync.images, verb)(**call)
        return response

    async def run() -> FluxImagesResponse:
        async with emulator.async_client(**client) as aclient:
            answer: FluxImagesResponse = await getattr(aclient.images, verb)(**call)
        return answer

    return asyncio.run(run())


def outcome(way: str, verb: str, client: Mapping[str, Any], **call: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401
    """The model and the fields that the service saw, or "fault" and what was found by parameter."""
    emulator, faults = Emulator(pixels=64), tuple[InvalidParam, ...]()
    try:
        ask(emulator, way, verb, client, **call)
    except InvalidParamsError as error:
        faults = error.faults
    if faults:
        by_name = {fault.param: fault for fault in faults}
        assert (len(by_name), emulator.requests) == (len(faults), [])
        return "fault", by_name
    (request,) = emulator.requests
    body = dict(request.body or {})
    return str(body.pop("model")), body


# Verb, model of the call, model among the defaults, images given -> the model that is sent, or the parameter at fault
# with the model that its message points to.
ROUTES = """
    generate -         -         -         -> MAX/text
    generate -         -         1         -> MAX
    generate -         -         images    -> MAX/multi
    generate -         -         images_1  -> MAX/multi
    generate -         -         both      -> images
    generate max       -         -         -> MAX/text
    generate max       -         1         -> MAX
    generate max       -         images    -> MAX/multi
    generate pro       -         -         -> PRO/text
    generate pro       -         1         -> PRO
    generate pro       -         images    -> PRO/multi
    generate pro       -         both      -> images
    generate dev       -         -         -> DEV
    generate dev       -         1         -> DEV
    generate dev       -         images    -> images MAX/multi
    generate MAX/text  -         -         -> MAX/text
    generate MAX/text  -         1         -> image MAX
    generate MAX/text  -         images    -> images MAX/multi
    generate PRO/text  -         1         -> image PRO
    generate PRO/text  -         images    -> images PRO/multi
    generate MAX       -         -         -> image
    generate MAX       -         1         -> MAX
    generate MAX       -         images    -> images MAX/multi
    generate PRO       -         images    -> images PRO/multi
    generate MAX/multi -         -         -> images
    generate MAX/multi -         1         -> image MAX
    generate PRO/multi -         1         -> image PRO
    generate PRO/multi -         images_1  -> PRO/multi
    generate DEV       -         -         -> DEV
    generate DEV       -         1         -> DEV
    generate DEV       -         images    -> images MAX/multi
    generate -         pro       -         -> PRO/text
    generate -         pro       1         -> PRO
    generate -         PRO/text  -         -> PRO/text
    generate -         PRO/text  1         -> PRO
    generate -         PRO       -         -> PRO/text
    generate -         PRO/multi 1         -> PRO
    generate -         PRO       images    -> PRO/multi
    generate -         DEV       images    -> images MAX/multi
    generate max       pro       1         -> MAX
    generate MAX       pro       1         -> MAX
    generate MAX       PRO/text  -         -> image
    edit     -         -         -         -> image
    edit     -         -         1         -> MAX
    edit     -         -         [1]       -> MAX
    edit     -         -         [2]       -> MAX/multi
    edit     -         -         images    -> MAX/multi
    edit     -         -         both      -> images
    edit     pro       -         1         -> PRO
    edit     pro       -         [1]       -> PRO
    edit     pro       -         [2]       -> PRO/multi
    edit     dev       -         -         -> image
    edit     dev       -         1         -> DEV
    edit     dev       -         [1]       -> DEV
    edit     dev       -         [2]       -> images MAX/multi
    edit     MAX       -         1         -> MAX
    edit     MAX       -         [2]       -> MAX/multi
    edit     PRO       -         [2]       -> PRO/multi
    edit     PRO/multi -         1         -> PRO/multi
    edit     PRO/multi -         [1]       -> PRO/multi
    edit     PRO/multi -         [2]       -> PRO/multi
    edit     MAX/multi -         -         -> image
    edit     MAX/text  -         1         -> image MAX
    edit     PRO/text  -         [2]       -> images PRO/multi
    edit     DEV       -         1         -> DEV
    edit     DEV       -         [2]       -> images MAX/multi
    edit     -         pro       [2]       -> PRO/multi
    edit     -         PRO/text  1         -> PRO
    edit     -         PRO/text  [2]       -> PRO/multi
    edit     -         PRO/multi 1         -> PRO/multi
    edit     -         PRO       [2]       -> PRO/multi
    edit     -         dev       1         -> DEV
    edit     max       dev       1         -> MAX
"""


@each_way
@pytest.mark.parametrize("route", [" ".join(line.split()) for line in ROUTES.strip().splitlines()])
def test_a_call_goes_where_it_should(way: str, route: str) -> None:
    """Names, defaults and images together decide the model, and a pairing that fits nowhere names one that does."""
    left, _, right = route.partition(" -> ")
    verb, model, default, images = ("" if word == "-" else word.replace("_", " ") for word in left.split())
    client = {"defaults": {"model": WORDS[default]}} if default else {}
    call = {**GIVEN[images], **({"model": WORDS[model]} if model else {})}
    sent, found = outcome(way, verb, client, prompt="x", **call)
    if right in WORDS:
        several = right.endswith("multi")
        given = [image for images in call.values() for image in (images if isinstance(images, list) else [images])]
        links = [link for link in given if link in LINKS]
        expected = {"images": links} if several else {"image": links[0]} if links else {}
        assert (sent, found) == (WORDS[right], {"prompt": "x", **expected})
        return
    param, _, taker = right.partition(" ")
    assert (sent, {*found}) == ("fault", {param})
    if taker:
        assert [f.nearest for f in found.values() if f.nearest is not None] == [f"model={WORDS[taker]!r}"]
        assert any(repr(WORDS[taker]) in fault.rule for fault in found.values())


@pytest.mark.parametrize("name", ["Kontext-Max", " kontext-max", "KONTEXT-MAX\n"])
def test_a_short_name_with_a_slip_is_refused(name: str) -> None:
    """A short name in other letters or spaces is ours all the same, and the fault shows how it is spelt."""
    sent, found = outcome("sync", "generate", {}, prompt="x", model=name)
    assert (sent, {param: fault.nearest for param, fault in found.items()}) == ("fault", {"model": "kontext-max"})


@each_way
@pytest.mark.parametrize(
    ("defaults", "call", "fields"),
    [
        ({"strength": 0.5}, {}, {}),
        ({"strength": 0.5}, {"image": LINKS[0]}, {"image": LINKS[0], "strength": 0.5}),
        ({"strength": 0.5}, {"images": LINKS}, {"images": LINKS}),
        ({"aspect_ratio": "16:9"}, {}, {"aspect_ratio": "16:9"}),
        ({"aspect_ratio": "16:9"}, {"image": LINKS[0]}, {"image": LINKS[0]}),
        ({"aspect_ratio": "16:9"}, {"images": LINKS}, {"images": LINKS, "aspect_ratio": "16:9"}),
        ({"aspect_ratio": "16:9"}, {"model": "flux-dev"}, {}),
        ({"aspect_ratio": "16:9"}, {"model": "flux-dev", "size": "512x256"}, {"size": "512x256"}),
        ({"size": "1024x1024"}, {}, {"aspect_ratio": "1:1"}),
        ({"size": "1024x1024"}, {"image": LINKS[0]}, {"image": LINKS[0]}),
        ({"size": "1024x1024"}, {"model": "flux-dev"}, {"size": "1024x1024"}),
        ({"model": "flux-dev", "size": "1000x800"}, {}, {"size": "1000x800"}),
        ({"strength": 0.5, "steps": 7, "n": 2}, {"strength": None}, {"steps": 7, "n": 2}),
        ({"strength": 0.5}, {"image": LINKS[0], "strength": 1}, {"image": LINKS[0], "strength": 1}),
    ],
)
def test_a_default_is_for_the_models_that_take_it(
    way: str, defaults: dict[str, object], call: dict[str, object], fields: dict[str, object]
) -> None:
    """A default that the model of a call does not take is left out of it without a word, in every mode."""
    for mode in MODES:
        sent, found = outcome(way, "generate", {"defaults": defaults, "unsupported": mode}, prompt="x", **call)
        assert sent != "fault", found
        assert found == {"prompt": "x", **fields}


@pytest.mark.parametrize(
    ("defaults", "params"),
    [
        ({"strenght": 0.5}, {"strenght"}),
        ({"strength": 2}, {"strength"}),
        ({"size": "1000x800"}, {"size"}),
        ({"model": "flux-dev", "size": "2000x100"}, {"size"}),
        ({"model": "flux-dev", "strength": -1, "aspect_ratio": "16x9"}, {"strength", "aspect_ratio"}),
        ({"mask": b"x"}, {"mask"}),
        ({"quality": "hd", "n": 9}, {"quality", "n"}),
        ({"model": "gpt-image-1"}, {"model"}),
        ({"image": LINKS[0], "images": LINKS}, {"image", "images"}),
        ({"image": LINKS[0], "strength": 7}, {"image", "strength"}),
    ],
)
def test_a_wrong_default_is_refused_with_the_client(defaults: dict[str, object], params: set[str]) -> None:
    """Each wrong name and value among the defaults is one fault where the client is made, whichever model takes it."""
    for make in (FluxOpenAI, AsyncFluxOpenAI):
        with pytest.raises(InvalidParamsError) as caught:
            make(api_key="k", defaults=defaults)
        assert sorted(fault.param for fault in caught.value.faults) == sorted(params)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("model", "call", "params"),
    [
        ("MAX/text", {"image": LINKS[0]}, {"image"}),
        ("PRO/text", {"images": LINKS}, {"images"}),
        ("DEV", {"images": LINKS}, {"images"}),
        ("MAX", {"image": LINKS[0], "images": LINKS}, {"images"}),
        ("MAX/multi", {"image": LINKS[0], "images": LINKS}, {"image"}),
        ("MAX/multi", {"image": LINKS[0]}, {"image"}),
    ],
)
def test_an_image_is_never_left_out(mode: Unsupported, model: str, call: dict[str, object], params: set[str]) -> None:
    """Whatever `unsupported=` says, an image that the model does not take is a fault, in either place."""
    for body in (call, {"extra_body": call}):
        sent, found = outcome("sync", "generate", {"unsupported": mode}, prompt="x", model=WORDS[model], **body)
        assert (sent, {*found}) == ("fault", params)


Says = tuple[str, object]
PAIRINGS: dict[str, tuple[str, dict[str, object], str, Says]] = {
    "strength of text": (
        "MAX/text",
        {"strength": 0.5},
        "strength",
        ("but by 'black-forest-labs/flux-kontext-max';", None),
    ),
    "strength of pro": (
        "PRO/text",
        {"strength": 0.5},
        "strength",
        ("but by 'black-forest-labs/flux-kontext-pro';", None),
    ),
    "strength of several": (
        "PRO/multi",
        {"strength": 0.5, "images": LINKS},
        "strength",
        (f"but by {WORDS['PRO']!r};", None),
    ),
    "ratio of one": (
        "MAX",
        {"aspect_ratio": "16:9", "image": LINKS[0]},
        "aspect_ratio",
        (f"but by {WORDS['MAX/multi']!r};", None),
    ),
    "size of one": ("PRO", {"size": "1024x1024", "image": LINKS[0]}, "size", (f"but by {WORDS['DEV']!r};", None)),
    "ratio of dev": ("DEV", {"aspect_ratio": "16:9"}, "aspect_ratio", ("takes a size", "size='1536x864'")),
    "tall ratio of dev": ("DEV", {"aspect_ratio": "9:21"}, "aspect_ratio", ("takes a size", "size='658x1536'")),
    "odd ratio of dev": ("DEV", {"aspect_ratio": "99:1"}, "aspect_ratio", ("takes a size", "size='1536x256'")),
    "no ratio of dev": ("DEV", {"aspect_ratio": "wide"}, "aspect_ratio", ("takes a size", None)),
}


@pytest.mark.parametrize("case", PAIRINGS)
def test_an_option_of_another_model_names_its_model(case: str) -> None:
    """The fault says which model takes the option, or what this one takes in its place."""
    model, call, param, (rule, nearest) = PAIRINGS[case]
    sent, found = outcome("sync", "generate", {}, prompt="x", model=WORDS[model], **call)
    assert (sent, {*found}) == ("fault", {param})
    assert rule in found[param].rule
    assert found[param].nearest == nearest
    assert model == "DEV" or WORDS[model] in found[param].rule


@each_way
@pytest.mark.parametrize("case", PAIRINGS)
def test_an_option_of_another_model_follows_the_mode(way: str, case: str) -> None:
    """`warn` leaves it out and says so in the warning and the answer, `drop` leaves it out, `send` passes it on."""
    model, call, param, _ = PAIRINGS[case]
    rest = {"prompt": "x", **{name: value for name, value in call.items() if name != param}}
    emulator = Emulator(pixels=64)
    with pytest.warns(FluxWarning) as caught:
        said = ask(emulator, way, "generate", {"unsupported": "warn"}, prompt="x", model=WORDS[model], **call).notices
    assert [str(warning.message) for warning in caught] == list(said)
    assert (len(said), f"{param}={call[param]!r}" in said[0], WORDS[model] in said[0]) == (1, True, True)
    assert emulator.requests[0].body == {"model": WORDS[model], **rest}
    assert ask(emulator, way, "generate", {"unsupported": "drop"}, model=WORDS[model], prompt="x", **call).notices == ()
    assert emulator.requests[1].body == emulator.requests[0].body
    emulator.fail(status=400)
    with pytest.raises(Exception, match="400"):
        ask(emulator, way, "generate", {"unsupported": "send"}, model=WORDS[model], prompt="x", **call)
    assert emulator.requests[2].body == {"model": WORDS[model], **rest, param: call[param]}


OPENAI_ONLY = {
    "mask": b"x",
    "background": "opaque",
    "complexity": "low",
    "frame_count": 2,
    "frame_duration_ms": 40,
    "input_fidelity": "high",
    "markup": "x",
    "moderation": "low",
    "output_compression": 50,
    "output_format": "webp",
    "quality": "hd",
    "safety_identifier": "x",
    "style": "vivid",
    "svg": True,
    "user": "x",
}


@each_way
@pytest.mark.parametrize("name", OPENAI_ONLY)
def test_an_option_of_openai_s_edit_follows_the_mode(way: str, name: str) -> None:
    """Each option that the SDK's own edit has beyond FLUX is refused as OpenAI's, or left out as the mode says."""
    call = {"prompt": "x", "image": LINKS[0], name: OPENAI_ONLY[name]}
    sent, found = outcome(way, "edit", {}, **call)
    assert (sent, {*found}) == ("fault", {name})
    assert "option of OpenAI's own models" in found[name].rule
    assert outcome(way, "edit", {"unsupported": "drop"}, **call) == (WORDS["MAX"], {"prompt": "x", "image": LINKS[0]})
    with pytest.warns(FluxWarning, match=f"^{name}="):
        outcome(way, "edit", {"unsupported": "warn"}, **call)


def test_every_option_of_the_installed_sdk_is_known() -> None:
    """No option of the SDK's edit, of this release, is taken for a slip of the pen."""
    taken = {name for model in FLUX_MODELS.values() for name in model.fields} | {"model", "size"}
    escapes = {"self", "extra_headers", "extra_query", "extra_body", "timeout", "stream", "partial_images"}
    assert {*inspect.signature(Images.edit).parameters} - taken - escapes <= {*OPENAI_ONLY}


@pytest.mark.parametrize(
    ("link", "secret"),
    [
        ("https://someone:hunter2@img.example/a.png", "hunter2"),
        ("https://img.example/a.png?sig=AAA BBBSECRET", "BBBSECRET"),
        ("https://img.example/a.png?sig=CCCSECRET", "CCCSECRET"),
    ],
)
def test_what_opens_a_link_is_not_shown(link: str, secret: str) -> None:
    """A password in a link, and its signature even where a slip tears it, are in no word or pickle of an error."""
    with pytest.raises(InvalidParamsError) as caught:
        Emulator().client().images.generate(prompt="a fox", model=DEFAULT_MODEL, image=link, n=9)
    said = f"{caught.value} {caught.value!r} {caught.value.faults!r} {pickle.dumps(caught.value)!r}"
    assert "img.example" in said
    assert secret not in said


def test_a_default_number_of_images_may_be_one_for_splitting() -> None:
    """With `split`, a default n beyond one request is as good as one given with the call."""
    emulator = Emulator(pixels=64)
    assert len(emulator.client(split=True, defaults={"n": 6}).images.generate(prompt="a fox").data) == 6
    with pytest.raises(InvalidParamsError, match="split=True"):
        emulator.client(defaults={"n": 6})
    assert len(emulator.requests) == 2
