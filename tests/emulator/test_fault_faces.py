"""Every act, alone and in odd company, to the byte: an answer over a port is the answer in this process."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from flux_openai import Emulator
from flux_openai._http.library import httpx
from flux_openai.emulator import Server, fault_table
from flux_openai.models import DEFAULT_MODEL

SLOW = ("slow", "drip", "timeout", "oversize")
ALONE = [act for act, on, *_ in fault_table() if on == "generate" and not act.startswith(SLOW)]
COMPANY = [
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


@pytest.mark.parametrize("act", [*ALONE, *COMPANY])
def test_an_act_is_the_same_over_a_port(served: tuple[Emulator, Server, Emulator], act: str) -> None:
    """Status, headers, body and the point of the break are the same, and so is the next answer on the connection."""
    emulator, server, other = served
    headers = {"authorization": "Bearer any"}
    url = f"{server.base_url}/images/generations"
    for service in (emulator, other):
        service.script(f"prompt~/wrong/ -> {act}")
    with other.http_client(headers=headers) as near, httpx.Client(headers=headers, trust_env=False) as far:
        for prompt in (f"wrong {act!a}", f"right {act!a}"):
            here, there = ask(near, url, prompt=prompt), ask(far, url, prompt=prompt)
            if act.startswith(("connect", "upload")) and here.begun:
                here = Came(begun="ReadError")  # over a port it has arrived, so it cannot fail to be sent any more
            assert there == here
            assert emulator.bill == other.bill
