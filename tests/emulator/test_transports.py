"""One table of requests, sent in this process and over a port: answers, errors and bill are the same."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Semaphore
from typing import Any

import pytest

from flux_openai import Emulator, FluxOpenAI
from flux_openai._http.library import httpx
from flux_openai.emulator import Bill, Reply
from flux_openai.models import DEFAULT_MODEL

WEEK = 7 * 24 * 60 * 60
ORDER = {"model": DEFAULT_MODEL, "prompt": "a fox"}
DEV = "black-forest-labs/flux.1-dev"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
KEY = "the-key"
TRANSPORT = {"connection", "content-length"}


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request, after a fault was queued; with a `link`, a download of an order made before, that much `later`."""

    method: str = "POST"
    path: str = "/v1/images/generations"
    json: object = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = KEY
    fault: Mapping[str, Any] | None = None
    link: str | None = None
    later: int = 0
    raised: str | None = None
    wire_raised: str | None = None


def order(**fields: object) -> Ask:
    return Ask(json=ORDER | fields)


def fails(raised: str | None = None, wire: str | None = None, **fault: object) -> Ask:
    return Ask(json=ORDER, fault=fault, raised=raised, wire_raised=wire)


TABLE: Mapping[str, Ask] = {
    "an order": order(),
    "four, inline": order(n=4, seed=7, response_format="b64_json"),
    "every field": order(
        n=2, seed=7, aspect_ratio="16:9", steps=28, guidance_scale=3.0, negative_prompt="colour", response_format="url"
    ),
    "an edit": order(model="black-forest-labs/flux-kontext-max", image=PICTURE, strength=0.5),
    "of many images": order(model="black-forest-labs/flux-kontext-max/multi", images=[PICTURE, PICTURE]),
    "a size": order(model=DEV, size="512x256"),
    "beyond ASCII": order(prompt="狐狸 🦊 é"),
    "an idempotency key": Ask(json=ORDER, headers={"idempotency-key": "once"}),
    "no key": Ask(json=ORDER, key=None),
    "another key": Ask(json=ORDER, key="other"),
    "no JSON": Ask(content=b"{"),
    "no body": Ask(),
    "no object": Ask(json=[1]),
    "no model": Ask(json={"prompt": "a fox"}),
    "an unknown model": order(model="nope"),
    "everything wrong": order(n=9, steps="x", aspect_ratio="1:2", colour=1, prompt=None),
    "no image": order(model="black-forest-labs/flux-kontext-max"),
    "a bad image": order(model="black-forest-labs/flux-kontext-max", image="fox.png"),
    "a bad size": order(model=DEV, size="1x1"),
    "the models": Ask(method="GET", path="/v1/models"),
    "the models, without a key": Ask(method="GET", path="/v1/models", key=None),
    "an unknown path": Ask(path="/v1/chat/completions", json={}),
    "an unknown path, quoted": Ask(method="GET", path="/v1/f%C3%BC%20x?y=1"),
    "a wrong method": Ask(method="DELETE", path="/v1/models"),
    "a wrong method for orders": Ask(method="GET"),
    "a picture": Ask(method="GET", link=""),
    "a picture, too late": Ask(method="GET", link="", later=WEEK),
    "a picture, just in time": Ask(method="GET", link="", later=WEEK - 1),
    "a changed link": Ask(method="GET", link="0"),
    "no such picture": Ask(method="GET", path="/files/x.png?expires=1&signature=x"),
    "a picture that fails": Ask(method="GET", link="", fault={"status": 503, "on": "download"}),
    "a picture that breaks": Ask(
        method="GET", link="", fault={"error": "truncate", "on": "download"}, raised="RemoteProtocolError"
    ),
    "429": fails(status=429, headers={"Retry-After": "7", "X-Request-ID": "mine"}),
    "500, billed": fails(status=500, billed=True),
    "an error in a 200": fails(status=200, billed=False),
    "HTML": fails(status=502, body="<html>"),
    "nothing": fails(status=503, body=b""),
    "its own words": fails(status=418, body={"data": None}),
    "reset": fails("ReadError", error="reset"),
    "truncate": fails("RemoteProtocolError", error="truncate"),
    "timeout": fails("ReadTimeout", error="timeout"),
    "timeout, not billed": fails("ReadTimeout", error="timeout", billed=False),
    # A connection that was made cannot be refused any more.
    "connect": fails("ConnectError", "ReadError", error="connect"),
}


@dataclass(frozen=True, kw_only=True)
class Got:
    """The outcome of one request, without what differs between transports."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    raised: str | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """That outcome, and what the emulator recorded of it."""

    got: Got
    posts: int
    bill: Bill
    bodies: list[object]


class Service(Emulator):
    """An emulator whose clock is set by hand, and that signals each request it has answered."""

    def __init__(self) -> None:
        self.time = 1_750_667_997.5
        self.taken = Semaphore(0)
        super().__init__(api_key=KEY, pixels=256, clock=lambda: self.time)

    def answer(self, request: httpx.Request) -> Reply:
        reply = super().answer(request)
        self.taken.release()
        return reply

    def prepare(self, ask: Ask, *, link: str) -> None:
        """Queue the fault, and let the time pass, before a request."""
        self.time += ask.later
        if ask.fault is not None:
            self.fail(**ask.fault)
        assert ask.link is None or link

    def seen(self, got: Got) -> Seen:
        """The outcome with the emulator's records, once it has the request: the client may have given it up before."""
        assert self.taken.acquire(timeout=30)
        requests = self.requests
        return Seen(
            got=got,
            posts=sum(request.method == "POST" for request in requests),
            bill=self.bill,
            bodies=[request.body for request in requests],
        )


def options(ask: Ask) -> dict[str, Any]:
    signed = {} if ask.key is None else {"authorization": f"Bearer {ask.key}"}
    body = {"json": ask.json} if ask.json is not None else {"content": ask.content}
    return {"headers": {**signed, **ask.headers}, **body}


def timeout_for(ask: Ask) -> httpx.Timeout:
    """A short read time-out where the fault is that no answer comes."""
    return httpx.Timeout(60, read=0.1 if ask.raised == "ReadTimeout" else 60)


def got(response: httpx.Response) -> Got:
    assert response.headers.get("content-length", "0") == str(len(response.content))
    headers = {name: value for name, value in response.headers.items() if name not in TRANSPORT}
    origin = f"{response.url.scheme}://{response.url.netloc.decode()}/"
    return Got(status=response.status_code, headers=headers, body=response.content.replace(origin.encode(), b"~/"))


def first_link(response: httpx.Response, *, change: str) -> str:
    return str(response.json()["data"][0]["url"]) + change


def ask_sync(service: Service, ask: Ask, client: httpx.Client, *, origin: str) -> Seen:
    url = f"{origin}{ask.path}"
    if ask.link is not None:
        url = first_link(client.post(f"{origin}/v1/images/generations", **options(order(seed=7))), change=ask.link)
        service.taken.acquire()
    service.prepare(ask, link=url)
    try:
        answer = got(client.request(ask.method, url, timeout=timeout_for(ask), **options(ask)))
    except httpx.TransportError as error:
        answer = Got(raised=type(error).__name__)
    return service.seen(answer)


async def ask_async(service: Service, ask: Ask, client: httpx.AsyncClient, *, origin: str) -> Seen:
    url = f"{origin}{ask.path}"
    if ask.link is not None:
        made = await client.post(f"{origin}/v1/images/generations", **options(order(seed=7)))
        url = first_link(made, change=ask.link)
        service.taken.acquire()
    service.prepare(ask, link=url)
    try:
        answer = got(await client.request(ask.method, url, timeout=timeout_for(ask), **options(ask)))
    except httpx.TransportError as error:
        answer = Got(raised=type(error).__name__)
    return service.seen(answer)


def in_process(ask: Ask) -> Seen:
    service = Service()
    with service.http_client() as client:
        return ask_sync(service, ask, client, origin="http://127.0.0.1:1")


@pytest.mark.parametrize("ask", TABLE.values(), ids=TABLE)
def test_a_port_answers_like_this_process(ask: Ask) -> None:
    """Status, headers, body, requests and bill are the same over a port, and so is the error, where it can be."""
    service = Service()
    with service.serve() as server, httpx.Client(trust_env=False) as client:
        served = ask_sync(service, ask, client, origin=server.base_url.removesuffix("/v1"))
    expected = in_process(ask)
    assert expected.got.raised == ask.raised
    assert served.got.raised == (ask.wire_raised or ask.raised)
    assert replace(served, got=replace(served.got, raised=ask.raised)) == expected


BROKEN = ("reset", "truncate", "timeout", "connect", "a picture that breaks")


@pytest.mark.parametrize("name", ["four, inline", "no key", "a picture", "429", *BROKEN])
def test_async_clients_get_the_same(name: str) -> None:
    """An async client in this process gets what a sync client gets, also where the exchange breaks."""
    ask = TABLE[name]

    async def run() -> Seen:
        service = Service()
        async with service.async_http_client() as client:
            return await ask_async(service, ask, client, origin="http://127.0.0.1:1")

    assert asyncio.run(run()) == in_process(ask)


def test_our_client_sees_the_same_pictures() -> None:
    """The bytes of a picture are the same over both, inline and by its link."""
    service = Service()
    with (
        service.serve() as server,
        service.client() as near,
        FluxOpenAI(api_key=KEY, base_url=server.base_url) as far,
    ):
        for form in ("url", "b64_json"):
            here, there = (
                client.images.generate(prompt="a fox", seed=7, response_format=form) for client in (near, far)
            )
            assert here.data[0].read() == there.data[0].read()
