"""The catalog of faults: what a row declares is what happens, in this process and over a port."""

import pickle
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from threading import Barrier
from warnings import catch_warnings, simplefilter

import pytest

from flux_openai import Emulator, RetryPolicy, errors
from flux_openai._http.library import httpx
from flux_openai.emulator import Script, Server, VirtualClock, fault_table
from flux_openai.emulator.faults.catalog import CATALOG
from flux_openai.emulator.faults.effects import apply_faults
from flux_openai.emulator.faults.fault import Fault, FaultType, Target
from flux_openai.emulator.faults.script import parse
from flux_openai.models import DEFAULT_MODEL, ResponseFormat

ONCE = RetryPolicy(max_attempts=1, waiting=False)
Row = tuple[str, str, str, str, str]


def selector(row: Row) -> str:
    """What selects the calls that the row is about."""
    return "img" if row[1] == "download" else "*"


each_row = pytest.mark.parametrize("row", fault_table(), ids=lambda row: f"{selector(row)} -> {row[0]}")


def response_format(row: Row) -> ResponseFormat:
    """Orders bring the picture itself, so that reading it needs no second call; links are only for downloads."""
    return "url" if row[1] == "download" else "b64_json"


@contextmanager
def expecting(row: Row) -> Iterator[None]:
    """Expects the error of the row, of that very class and without what signs a link, or none; warnings may come."""
    with catch_warnings():
        simplefilter("ignore", errors.FluxWarning)
        if not row[4]:
            yield
            return
        with pytest.raises(errors.FluxError) as caught:
            yield
    assert type(caught.value) is getattr(errors, row[4])
    assert b"signature=" not in pickle.dumps(caught.value).replace(b"\0", b"")


def check_bill(emulator: Emulator, row: Row) -> None:
    """One order was sent, and billed as the row says."""
    assert [seen.method for seen in emulator.requests].count("POST") == 1
    assert emulator.bill.images == (2 if row[3] == "yes" else 0)


@each_row
def test_a_fault_does_what_its_row_declares(row: Row) -> None:
    """One order is sent; its error and its bill are those of the table."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), script=f"{selector(row)} -> {row[0]}")
    client = emulator.client(retry=ONCE)
    with expecting(row):
        for image in client.images.generate(prompt="a fox", n=2, response_format=response_format(row)).data:
            assert image.read()
    check_bill(emulator, row)


def test_the_table_names_every_fault() -> None:
    """There are thirty faults or more, each has a row, and each row has a line on what it does."""
    named = {fault.partition("(")[0] for fault, *_ in fault_table()}
    assert named == set(CATALOG)
    assert len(named) >= 30
    assert all(on and doc and billed in ("yes", "no") for _, on, doc, billed, _ in fault_table())


@pytest.mark.parametrize("billed", [True, False])
@pytest.mark.parametrize("fault", ["status(500", "reset(after_bill", "truncate(10%", "bad_json(", "slow(0"])
def test_a_script_may_bill_otherwise(fault: str, *, billed: bool) -> None:
    """`billed=` wins over what the row of a fault declares."""
    separator = "" if fault.endswith("(") else ", "
    emulator = Emulator(pixels=64, script=f"* -> {fault}{separator}billed={str(billed).lower()})")
    with suppress(errors.FluxError):
        emulator.client(retry=ONCE).images.generate(prompt="a fox", n=2, response_format="b64_json")
    assert emulator.bill.images == (2 if billed else 0)


@pytest.mark.parametrize(
    ("faults", "images"), [("slow, status(500)", 0), ("status(500), slow(2s)", 0), ("slow(0), extra_field", 2)]
)
def test_an_order_is_billed_if_nothing_kept_it_from_being_done(faults: str, images: int) -> None:
    """Of several faults, one that is not billed is enough."""
    emulator = Emulator(pixels=64, clock=VirtualClock(), script=f"* -> {faults}")
    with emulator.http_client(headers={"authorization": "Bearer k"}) as client:
        client.post("https://api.example/v1/images/generations", json=BODY | {"n": 2})
    assert emulator.bill.images == images


BODY: dict[str, object] = {"model": DEFAULT_MODEL, "prompt": "a fox"}
HEADERS = {"authorization": "Bearer k"}


def order(emulator: Emulator, **fields: object) -> httpx.Response:
    """The answer to an order over plain httpx."""
    with emulator.http_client(base_url=emulator.base_url, headers=HEADERS) as client:
        return client.post("/images/generations", json=BODY | fields)


def test_arguments_reach_the_answer() -> None:
    """Status, code, message and Retry-After are what the script says."""
    answer = order(
        Emulator(script='* -> status(429, retry_after=1500ms, code=slow_down, message="Not \\u00e9ven; now")')
    )
    error = answer.json()["error"]
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1.5")
    assert (error["code"], error["message"]) == ("slow_down", "Not éven; now")
    assert error["param"] == answer.headers["x-request-id"]


def test_faults_work_one_after_the_other() -> None:
    """Each fault gets what the one before it made; delays add up."""
    emulator = Emulator(pixels=64, script="* -> partial(1), string_created, slow(1s), slow(500ms)")
    request = httpx.Request("POST", "https://api.example/v1/images/generations", json=BODY | {"n": 3}, headers=HEADERS)
    reply = emulator.answer(request)
    answer = httpx.Response(200, content=reply.body).json()
    assert (len(answer["data"]), type(answer["created"]), reply.delay) == (1, str, 1.5)


@pytest.mark.parametrize(
    ("faults", "seconds", "status", "error"),
    [
        ("slow(2s), status(500)", 2, 500, None),
        ("slow(2s), timeout", 2, 0, "timeout"),
        ("connect, slow(2s), truncate, success", 0, 0, "connect"),
        ("truncate, status(500)", 0, 500, None),
        ("status(500), success", 0, 500, None),
        ("success(202), truncate", 0, 202, "truncate"),
    ],
)
def test_what_is_late_stays_late_and_what_is_broken_stays_broken(
    faults: str, seconds: float, status: int, error: str | None
) -> None:
    """Another answer comes as late as the one it is for; nothing mends an exchange, and nothing makes an error good."""
    emulator = Emulator(pixels=64, script=f"* -> {faults}")
    reply = emulator.answer(
        httpx.Request("POST", "https://api.example/v1/images/generations", json=BODY, headers=HEADERS)
    )
    assert (reply.delay, reply.status, reply.error) == (seconds, status, error)


@pytest.mark.parametrize("on", ["generate", "download"])
def test_any_fault_can_follow_any_other(on: Target) -> None:
    """Whatever one makes of an answer, the next can work on: the emulator itself never breaks."""
    fitting = [kind for kind in CATALOG.values() if kind.expected(on) and kind.name != "oversize"]
    faults = [fault for kind in fitting for fault in some(kind)]
    good = Emulator(pixels=64).answer(
        httpx.Request(
            "POST",
            "https://api.example/v1/images/generations",
            json=BODY | {"response_format": "b64_json"},
            headers=HEADERS,
        )
    )
    for pair in product(faults, repeat=2):
        reply = apply_faults(good, pair, request_id="emu-1", on=on, path="/files/x.png")
        assert isinstance(reply.body, bytes)


def some(kind: FaultType) -> Iterator[Fault]:
    """Faults of this type, one for each choice of its first argument."""
    if not kind.params:
        yield Fault(type=kind)
        return
    first = kind.params[0]
    for value in first.choices or [first.default or first.least]:
        converted = first.convert(value)
        assert converted is not None
        yield Fault(type=kind, arguments={first.name: converted})


def test_a_failed_hand_shake_says_why() -> None:
    """The error behind it is that of the standard library, and each is one of its own."""
    emulator, causes = Emulator(script="* -> connect(certificate)"), []
    for _ in range(2):
        with pytest.raises(httpx.ConnectError) as caught:
            order(emulator)
        causes.append(caught.value.__cause__)
    first, second = causes
    assert isinstance(first, ssl.SSLCertVerificationError)
    assert (first.reason, first.verify_code) == ("CERTIFICATE_VERIFY_FAILED", 18)
    assert first is not second


def test_a_truncated_answer_keeps_the_share_that_is_asked_for() -> None:
    """A tenth of the bytes arrives before the break."""
    emulator = Emulator(pixels=64, script="* -> truncate(10%)")
    with (
        emulator.http_client(base_url=emulator.base_url, headers=HEADERS) as client,
        client.stream("POST", "/images/generations", json=BODY) as response,
    ):
        parts = response.iter_raw()
        received = next(parts)
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
    assert len(received) == int(response.headers["content-length"]) // 10


@pytest.mark.parametrize(
    "fault", ["bad_json", "no_data", "partial(1)", "base64(plain)", "extra_field", "missing(both)"]
)
def test_a_refusal_is_changed_too_and_never_billed(fault: str) -> None:
    """Where the service refuses an order there is nothing to bill, whatever the script does to the answer."""
    emulator = Emulator(script=f"* -> {fault}")
    assert order(emulator, n=99).status_code == 400
    assert emulator.bill.calls == 0


def test_a_script_can_be_replaced() -> None:
    """The new script holds from the next request on, and None ends it; a wrong one changes nothing."""
    emulator = Emulator(pixels=64, script="* -> status(429)")
    emulator.script(parse("* -> status(502)"))
    with pytest.raises(errors.ScriptError):
        emulator.script("* -> nonsense")
    assert order(emulator).status_code == 502
    emulator.script(Script())
    assert order(emulator).status_code == 200
    emulator.script(parse("* -> status(404)").rules[0])
    assert order(emulator).status_code == 404
    emulator.script(None)
    assert order(emulator).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"script": 7}, "script=7: must be a text"),
        ({"script": "* -> x"}, "line 1, column 6"),
        ({"seed": "a"}, "seed='a': must be an int"),
        ({"seed": True}, "seed=True: must be an int"),
    ],
)
def test_an_emulator_refuses_what_is_no_script(wrong: dict[str, object], says: str) -> None:
    """Wrong arguments are a ConfigurationError from the start, not at the first request."""
    with pytest.raises(errors.ConfigurationError, match=says):
        Emulator(**wrong)  # type: ignore[arg-type]


def test_only_orders_and_downloads_go_wrong() -> None:
    """The list of models, and what is not there, are out of a script's reach."""
    emulator = Emulator(script="* -> status(500) ; img -> url(410)")
    with emulator.http_client(base_url=emulator.base_url, headers=HEADERS) as client:
        assert [client.get(path).status_code for path in ("/models", "/nowhere", "/files/x.png")] == [200, 404, 410]


MIXED = """
prompt~/[02468]$/ #1..2 -> status(429)
prompt~/fox/ p=0.3 -> status(503)
* #every 3 -> status(500, billed=true)
* p=0.2 -> html(200)
"""


@pytest.mark.parametrize("threads", [1, 16])
def test_what_goes_wrong_does_not_depend_on_who_else_asks(threads: int) -> None:
    """The same script and seed bring every request the same, however many are under way."""
    assert outcomes(threads, seed=1) == outcomes(1, seed=1)


def test_another_seed_draws_otherwise() -> None:
    """The seed decides where the script leaves something to chance."""
    assert outcomes(1, seed=1) != outcomes(1, seed=2)


def outcomes(threads: int, *, seed: int) -> tuple[list[list[tuple[int, str]]], object]:
    """What 32 prompts, four times each, come to: statuses and types of content, and the bill."""
    emulator = Emulator(pixels=64, script=MIXED, seed=seed)
    start = Barrier(threads)

    def work(first: int) -> dict[int, list[tuple[int, str]]]:
        start.wait()
        mine = range(first, 32, threads)
        answers = {n: [order(emulator, prompt=f"fox {n}") for _ in range(4)] for n in mine}
        return {n: [(a.status_code, a.headers["content-type"]) for a in those] for n, those in answers.items()}

    with ThreadPoolExecutor(threads) as pool:
        merged = {n: those for part in pool.map(work, range(threads)) for n, those in part.items()}
    return [merged[n] for n in range(32)], emulator.bill


SLOW = ("slow", "drip", "timeout", "oversize")
ALONE = [fault for fault, on, *_ in fault_table() if on == "generate" and not fault.startswith(SLOW)]
TOGETHER = [
    *(
        "success(204)",
        'success(204), body("x")',
        "success(204), truncate",
        'redirect(304), body("x")',
        "status(500), gzip",
    ),
    *(
        "empty_body, truncate",
        "redirect, truncate",
        "gzip, truncate",
        "truncate, drip(10ms)",
        "success(204), drip(10ms)",
    ),
    *("connect, truncate", "reset, truncate", "connect, slow(60s)", "reset, success(204)", "status(500), success(204)"),
    *("garbage(chunk)", "hints, garbage", "hints, status(503)", "oversize(1), truncate(1%)", "drip(10ms), oversize(1)"),
    *('header(connection, "Close")', 'header(connection, "keep-alive, close")', 'header(x-a, "  a\\r\\nb: c\\u0000 ")'),
    *('header(x-a, "\\ud800 é")', 'redirect(302, to="/\\ud800\\nx: y")', 'status(500, message="\\ud800")'),
]


def twin() -> Emulator:
    return Emulator(pixels=64, clock=lambda: 1_750_667_997.5)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Emulator, Server, Emulator]]:
    """An emulator, its port, and another that is asked the same in this process."""
    emulator = twin()
    with emulator.serve() as server:
        yield emulator, server, twin()


@dataclass(frozen=True, kw_only=True)
class Came:
    """What came of one request: `begun` is what raised before an answer began, and `ended` before it was whole."""

    begun: str | None = None
    status: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    ended: str | None = None


def ask(client: httpx.Client, url: str, *, prompt: str) -> Came:
    body, ended = b"", None
    try:
        with client.stream("POST", url, json={"model": DEFAULT_MODEL, "prompt": prompt, "seed": 7}) as response:
            try:
                for piece in response.iter_raw():
                    body += piece
            except httpx.TransportError as error:
                ended = type(error).__name__
    except httpx.TransportError as error:
        return Came(begun=type(error).__name__)
    headers = tuple((name, value) for name, value in response.headers.raw if name != b"connection")
    return Came(status=response.status_code, headers=headers, body=body, ended=ended)


@pytest.mark.parametrize("faults", [*ALONE, *TOGETHER])
def test_a_fault_is_the_same_over_a_port(served: tuple[Emulator, Server, Emulator], faults: str) -> None:
    """Status, headers, body and the point of the break are the same, and so is the next answer on the connection."""
    emulator, server, other = served
    headers = {"authorization": "Bearer any"}
    url = f"{server.base_url}/images/generations"
    for service in (emulator, other):
        service.script(f"prompt~/wrong/ -> {faults}")
    with other.http_client(headers=headers) as near, httpx.Client(headers=headers, trust_env=False) as far:
        for prompt in (f"wrong {faults!a}", f"right {faults!a}"):
            here, there = ask(near, url, prompt=prompt), ask(far, url, prompt=prompt)
            if faults.startswith(("connect", "upload")) and here.begun:
                here = Came(begun="ReadError")  # over a port it has arrived, so it cannot fail to be sent any more
            assert there == here
            assert emulator.bill == other.bill
