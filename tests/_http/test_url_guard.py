"""The guard against SSRF: what it refuses, tried with downloads that must not reach a canary."""

import ipaddress
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai._http.library import httpx
from flux_openai._http.url_guard import (
    PeerGuard,
    RefusedURLError,
    check_url,
    environment_proxy,
    is_public,
    is_public_host,
)
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.response.download import DownloadSettings, afetch, fetch

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82"
PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1::1"
GOOD = "https://good.example/image.png?sig=x"

Address: TypeAlias = tuple[object, ...]
Get: TypeAlias = Callable[[str, DownloadSettings | None], bytes]
Connect: TypeAlias = Callable[[socket.socket, Address], None]
CONNECT: Connect = socket.socket.connect

BAD_URLS = {
    "1 loopback": "http://127.0.0.1:{port}/",
    "1 loopback https": "https://127.0.0.1/",
    "2 localhost": "https://localhost/",
    "2 localhost with a dot": "https://localhost./",
    "2 below localhost": "https://a.localhost/",
    "2 local": "https://printer.local/",
    "2 internal": "https://metadata.google.internal/",
    "2 one word": "https://intranet/",
    "3 decimal": "https://2130706433/",
    "4 hexadecimal": "https://0x7f000001/",
    "4 octal": "https://0177.0.0.1/",
    "4 hexadecimal parts": "https://0x7f.0.0.0x1/",
    "5 short": "https://127.1/",
    "6 zero": "https://0/",
    "7 zeros": "https://0.0.0.0/",
    "7 with a dot": "https://127.0.0.1./",
    "8 v6 loopback": "https://[::1]/",
    "8 v6 unspecified": "https://[::]/",
    "9 mapped": "https://[::ffff:127.0.0.1]/",
    "9 mapped, public": "https://[::ffff:93.184.216.34]/",
    "10 fullwidth dots": "https://127\u30020\u30020\u30021/",
    "10 fullwidth digits": "https://\uff11\uff12\uff17.0.0.1/",
    "10 circled": "https://\u2460\u2461\u2466.0.0.1/",
    "11 metadata": "https://169.254.169.254/latest/meta-data/",
    "12 metadata": "https://100.100.100.200/",
    "12 metadata, public in form": "https://168.63.129.16/",
    "13 private 10": "https://10.0.0.1/",
    "13 private 172": "https://172.31.255.255/",
    "13 private 192": "https://192.168.1.1/",
    "14 shared": "https://100.64.0.1/",
    "15 v6 metadata": "https://[fd00:ec2::254]/",
    "16 link-local": "https://[fe80::1%25lo]/",
    "16 link-local, no zone": "https://[fe80::1]/",
    "17 NAT64": "https://[64:ff9b::7f00:1]/",
    "17 NAT64, local": "https://[64:ff9b:1::7f00:1]/",
    "18 6to4": "https://[2002:7f00:1::]/",
    "18 Teredo": "https://[2001:0:7f00:1::]/",
    "19 compatible": "https://[::127.0.0.1]/",
    "19 multicast": "https://224.0.0.1/",
    "19 broadcast": "https://255.255.255.255/",
    "19 v6 multicast": "https://[ff02::1]/",
    "20 user name": "https://good.example@127.0.0.1/",
    "20 user name, good host": "https://user:password@good.example/",
    "21 http": "http://good.example/",
    "24 file": "file:///etc/passwd",
    "25 ftp": "ftp://good.example/",
    "26 data": "data:image/png;base64,iVBORw0KGgo=",
    "27 javascript": "javascript:alert(1)",
    "30 port 22": "https://good.example:22/",
    "30 port 0": "https://good.example:0/",
    "30 port 80": "https://good.example:80/",
    "30 port too high": "https://good.example:99999/",
    "30 port that wraps": "https://good.example:65979/",
    "30 port of letters": "https://good.example:abc/",
    "31 line break": "https://good.example/\r\nHost: evil",
    "31 line break in the host": "https://good.example\r\n.evil.example/",
    "31 tab": "https://good.example/\t",
    "31 space": "https://good.example /",
    "32 too long": "https://good.example/" + "a" * 65536,
    "32 longer than any signed link": "https://good.example/" + "a" * 8192,
    "32 long host": f"https://{'a' * 64}.example/",
    "34 fragment": "http://a#@127.0.0.1:{port}/",
    "34 fragment https": "https://a#@127.0.0.1/",
    "34 backslash": "https://good.example\\@127.0.0.1/",
    "34 backslash path": "https:\\\\127.0.0.1\\",
    "34 backslash deep in the path": "https://good.example/a\\b",
    "34 escaped host": "https://127%2e0.0.1/",
    "34 empty label": "https://good..example/",
    "34 three slashes": "https:///127.0.0.1/",
    "34 bad brackets": "https://[127.0.0.1]/",
    "34 right to left": "https://good.example/\u202egnp",
}
# As a redirect the last ones are relative, and lead back to where they came from.
BAD_ALONE = {
    **BAD_URLS,
    "28 empty": "",
    "28 blank": " ",
    "29 no scheme": "//good.example/image.png",
    "29 relative": "/image.png",
    "29 no slashes": "https:good.example/image.png",
    "29 host only": "good.example/image.png",
}


class Canary:
    """A server that no byte may reach: it counts connections and records what they send."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.heard: queue.Queue[bytes] = queue.Queue()
        self.accepted = 0
        self.attempts: list[Address] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self) -> None:
        """Take one connection after the other; each is read to its end, or for a first piece, and then closed."""
        while True:
            connection, _ = self.listener.accept()
            with connection:
                if self.stop.is_set():
                    return
                self.accepted += 1
                connection.settimeout(5)
                self.heard.put(connection.recv(65536))

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self.stop.set()
        with socket.socket() as last:
            CONNECT(last, self.address)
        self.thread.join(5)
        self.listener.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of the machine that runs the tests do not count."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """A canary to which every name resolves, and at which every connection ends."""
    bird = Canary()

    def connect(self: socket.socket, address: Address) -> None:
        bird.attempts.append(address)
        CONNECT(self, bird.address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    resolve(monkeypatch, ["127.0.0.1"])
    yield bird
    monkeypatch.undo()
    bird.close()


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make DNS give these answers in turn, the last one for ever; returns the list of the names it is asked for."""
    resolved: list[str] = []

    def getaddrinfo(host: str | bytes, port: object, *rest: object, **more: object) -> list[tuple[object, ...]]:
        resolved.append(host if isinstance(host, str) else host.decode())
        answer = answers[min(len(resolved), len(answers)) - 1]
        return [(family(ip), socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return resolved


def family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6, by the look of it."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


BARE = DownloadSettings(waiting=False)


def get_sync(url: str, settings: DownloadSettings | None = None) -> bytes:
    """`fetch`, by default without an origin of our own."""
    return fetch(url, settings or BARE)


def get_async(url: str, settings: DownloadSettings | None = None) -> bytes:
    """`afetch` likewise."""
    return anyio.run(afetch, url, settings or BARE)


# For what goes through another half of the HTTP library or of anyio; tests/contracts/test_parity.py proves the rest.
both_ways = pytest.mark.parametrize("get", [get_sync, get_async], ids=["sync", "async"])


def refused(get: Get, url: str, settings: DownloadSettings | None = BARE) -> UnsafeURLError:
    """The error of a URL that must be refused, which does not repeat its query."""
    with pytest.raises(UnsafeURLError) as caught:
        get(url, settings)
    assert caught.value.billing == "paid"
    assert "password" not in str(caught.value)
    assert "sig=" not in str(caught.value)
    return caught.value


def failed(get: Get, url: str) -> DownloadError:
    """The error of a download that must fail without being refused."""
    with pytest.raises(DownloadError) as caught:
        get(url, BARE)
    assert not isinstance(caught.value, UnsafeURLError)
    return caught.value


@pytest.mark.parametrize("url", BAD_ALONE.values(), ids=BAD_ALONE)
def test_no_bad_url_is_fetched(canary: Canary, url: str) -> None:
    """The URL alone is enough to refuse it: DNS is not asked, and no connection is made."""
    error = refused(get_sync, url.replace("{port}", str(canary.address[1])))
    assert error.attempts == 0
    assert (canary.attempts, canary.accepted) == ([], 0)


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
def test_no_redirect_leads_to_a_bad_url(canary: Canary, url: str) -> None:
    """Every class of bad URLs is refused as well when the API's own origin redirects to it."""
    target = url.replace("{port}", str(canary.address[1])).encode()
    requested: list[str] = []

    def redirect(request: httpx.Request) -> httpx.Response:
        requested.append(str(request.url))
        return httpx.Response(302, headers=[(b"location", target)])

    with httpx.Client(transport=httpx.MockTransport(redirect)) as client:
        settings = DownloadSettings(origin="http://api.test", client=client, waiting=False)
        assert refused(get_sync, "http://api.test/a", settings).attempts == 1
    assert requested == ["http://api.test/a"]
    assert (canary.attempts, canary.accepted) == ([], 0)


@pytest.fixture
def public_server(monkeypatch: pytest.MonkeyPatch) -> dict[str, httpx.Response]:
    """Public hosts without a network: the answer for each URL."""
    answers: dict[str, httpx.Response] = {}

    class PublicNetwork(httpx.MockTransport):
        def __init__(self, **options: object) -> None:
            super().__init__(lambda request: answers[str(request.url)])

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["trace"]("connection.connect_tcp.started", {"host": request.url.host})
            return super().handle_request(request)

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await request.extensions["trace"]("connection.connect_tcp.started", {"host": request.url.host})
            return await super().handle_async_request(request)

    monkeypatch.setattr(httpx, "HTTPTransport", PublicNetwork)
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", PublicNetwork)
    return answers


@both_ways
@pytest.mark.parametrize("answer", [[PUBLIC], [PUBLIC_V6], [PUBLIC, PUBLIC_V6]])
def test_a_public_url_is_fetched(
    canary: Canary,
    get: Get,
    public_server: dict[str, httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
    answer: list[str],
) -> None:
    """Hosts with public addresses are allowed, over redirects as well, and DNS is asked for each."""
    resolved = resolve(monkeypatch, answer)
    public_server[GOOD] = httpx.Response(302, headers={"location": "https://cdn.good.example/b.png"})
    public_server["https://cdn.good.example/b.png"] = httpx.Response(200, content=PNG)
    assert get(GOOD, BARE) == PNG
    assert resolved == ["good.example", "cdn.good.example"]
    assert canary.attempts == []


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "https://10.0.0.1/", "http://127.0.0.1/", "http://good.example/", "//localhost/", "ftp:x"],
)
def test_a_public_host_cannot_redirect_inwards(
    canary: Canary, public_server: dict[str, httpx.Response], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """It leads neither to a private address nor down to http."""
    resolve(monkeypatch, [PUBLIC])
    public_server[GOOD] = httpx.Response(302, headers={"location": url})
    assert refused(get_sync, GOOD).attempts == 1
    assert canary.attempts == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_redirect_to_the_own_origin_stays_on_https(
    canary: Canary, public_server: dict[str, httpx.Response], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A public https host may redirect to the API's own origin by https, and not by http."""
    resolve(monkeypatch, [PUBLIC])
    public_server[GOOD] = httpx.Response(302, headers={"location": f"{scheme}://api.test/a"})
    own = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
    with httpx.Client(transport=own) as client:
        settings = DownloadSettings(origin=f"{scheme}://api.test", client=client, waiting=False)
        if scheme == "https":
            assert fetch(GOOD, settings) == PNG
        else:
            refused(get_sync, GOOD, settings)
    assert canary.attempts == []


def with_client(*, is_async: bool) -> DownloadSettings:
    """The settings of a call through a client with a transport of the HTTP library."""
    if is_async:
        return DownloadSettings(origin="https://api.test", aclient=httpx.AsyncClient(), waiting=False)
    return DownloadSettings(origin="https://api.test", client=httpx.Client(), waiting=False)


def get_sync_by_client(url: str, settings: DownloadSettings | None = None) -> bytes:
    """`fetch` with the certificates and the proxy of a client."""
    return fetch(url, settings or with_client(is_async=False))


def get_async_by_client(url: str, settings: DownloadSettings | None = None) -> bytes:
    """`afetch` likewise."""
    return anyio.run(afetch, url, settings or with_client(is_async=True))


all_ways = pytest.mark.parametrize("get", [get_sync, get_async, get_sync_by_client, get_async_by_client])


@all_ways
@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        [PUBLIC, "127.0.0.1"],
        ["10.0.0.1", PUBLIC],
        [PUBLIC_V6, "::1"],
        ["fe80::1%lo"],
        ["64:ff9b::a00:1"],
    ],
)
def test_one_private_address_refuses_the_host(
    canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    """No connection is made to a host with any address that is not public."""
    resolve(monkeypatch, answer)
    assert refused(get, GOOD, None).attempts == 1
    assert (canary.attempts, canary.accepted) == ([], 0)


@all_ways
def test_a_rebound_name_gets_no_byte(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS answers with a public address first and with 127.0.0.1 then: nothing is sent to the connected peer."""
    resolved = resolve(monkeypatch, [PUBLIC], ["127.0.0.1"])
    error = refused(get, GOOD, None)
    assert (error.attempts, canary.heard.get(timeout=5)) == (1, b"")
    assert (canary.accepted, len(resolved)) == (1, 2)


@both_ways
def test_a_name_that_does_not_resolve_is_tried_again(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of DNS may pass."""
    resolved: list[object] = []

    def getaddrinfo(host: object, *rest: object, **more: object) -> list[object]:
        resolved.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert failed(get, GOOD).attempts == len(resolved) == 5
    assert canary.attempts == []


@both_ways
def test_a_proxy_sees_the_host_and_nothing_more(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment may be at a private address; it is asked for a tunnel and does not see the URL."""
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{canary.address[1]}")
    assert failed(get, GOOD).attempts == canary.accepted == 5
    request = canary.heard.get(timeout=5)
    assert request.startswith(b"CONNECT good.example:443 HTTP/1.1\r\n")
    assert b"sig=" not in request


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "10.0.0.1:3128"}, "http://10.0.0.1:3128"),
        ({"https_proxy": "http://10.0.0.1:3128"}, "http://10.0.0.1:3128"),
        ({"ALL_PROXY": "socks5://10.0.0.1"}, "socks5://10.0.0.1"),
        ({"HTTP_PROXY": "10.0.0.1:3128"}, None),
        ({"HTTPS_PROXY": "10.0.0.1:3128", "NO_PROXY": "good.example"}, None),
    ],
)
def test_the_proxy_is_that_of_the_environment_for_https(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None
) -> None:
    """The usual variables count, in either case, without a scheme too, and NO_PROXY takes a host out."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy("good.example") == proxy


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "https://2130706433/", "https://localhost/", "http://a.example/"]
)
def test_a_proxy_is_not_asked_for_bad_urls(canary: Canary, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What is refused by name is refused with a proxy as well."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.address[1]}")
    refused(get_sync, url)
    assert canary.accepted == 0


def test_a_host_that_bypasses_the_proxy_is_checked_in_full(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY brings the checks of addresses and peer back."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.address[1]}")
    monkeypatch.setenv("NO_PROXY", "good.example")
    resolve(monkeypatch, [PUBLIC], ["127.0.0.1"])
    refused(get_sync, GOOD)
    assert canary.heard.get(timeout=5) == b""


@pytest.mark.parametrize("proxy", ["gopher://proxy.test", "http://proxy:port", "socks5://127.0.0.1:1"])
def test_a_broken_proxy_setting_is_a_download_error(
    canary: Canary, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """A setting that cannot be used is reported as such, and not as an error of the HTTP library with the URL in it."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert "settings" in str(failed(get_sync, GOOD))
    assert canary.attempts == []


@pytest.mark.parametrize(
    ("url", "own_origin", "own"),
    [
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/v1/", True),
        ("http://localhost/a", "http://LOCALHOST:80", True),
        ("https://api.test:443/a", "https://api.test/v1", True),
        ("https://API.test./a", "https://api.test", True),
        ("https://good.example/a", "https://api.test", False),
        ("https://good.example/a", None, False),
        ("https://good.example/a", "not a URL", False),
    ],
)
def test_the_own_origin_is_scheme_host_and_port(url: str, own_origin: str | None, *, own: bool) -> None:
    """Paths and spelling do not count; any other origin is treated as foreign."""
    assert check_url(url, own_origin=own_origin).own is own


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8001/",
        "https://127.0.0.1:8000/",
        "http://127.0.0.2:8000/",
        "http://127.0.0.1:8000@evil.example/",
        "http://user@127.0.0.1:8000/",
    ],
)
def test_what_is_not_the_own_origin_is_refused(url: str) -> None:
    """Another port, scheme or host is another origin, and a user name is refused on the own one too."""
    with pytest.raises(RefusedURLError):
        check_url(url, own_origin="http://127.0.0.1:8000")


def test_without_its_client_the_own_origin_is_foreign(canary: Canary) -> None:
    """An origin without an HTTP client, as in an unpickled image, has no privilege."""
    refused(get_sync, "http://127.0.0.1:8000/", DownloadSettings(origin="http://127.0.0.1:8000"))
    assert canary.attempts == []


@pytest.mark.parametrize("address", [PUBLIC, PUBLIC_V6, "8.8.8.8", "2001:4860:4860::8888", "172.32.0.1", "100.128.0.1"])
def test_public_addresses(address: str) -> None:
    """Neighbours of the private ranges are public."""
    assert is_public(address)


@given(ip=st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_what_python_calls_private_is_never_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Property: the list here is nowhere more lenient than the one of the standard library."""
    assert ip.is_global or not is_public(str(ip))


@pytest.mark.parametrize("host", [PUBLIC, PUBLIC_V6, "good.example", "a.b-c.good.example.", "xn--bcher-kva.example"])
def test_a_public_host_is_allowed(host: str) -> None:
    """A full name and a public address pass by themselves; the addresses of the name are checked later."""
    assert is_public_host(host)
    assert not check_url(f"https://{f'[{host}]' if ':' in host else host}/image.png", own_origin=None).own


@given(ip=st.ip_addresses(v=4))
def test_no_disguise_of_an_ipv4_address_is_public(ip: ipaddress.IPv4Address) -> None:
    """Property: an address inside another, or in another base, is refused, whatever it is."""
    number = int(ip)
    for host in (
        f"::ffff:{ip}",
        f"64:ff9b::{ip}",
        f"::{ip}",
        f"{number}",
        f"{number:#x}",
        f"{number >> 24}.{number % 2**24}",
    ):
        assert not is_public_host(host)


@given(host=st.text())
def test_any_text_can_be_checked(host: str) -> None:
    """Property: a text is refused, or it is https on the default port; no other error comes out."""
    with suppress(RefusedURLError):
        allowed = check_url(f"https://{host}/", own_origin=None)
        assert (allowed.url.scheme, allowed.url.port, allowed.own) == ("https", None, False)


class Stream:
    """The network stream of the HTTP library, as far as the guard uses it."""

    def __init__(self, peer: Address | None) -> None:
        self.peer = peer
        self.closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What the peer says."""
        raise AssertionError

    def get_extra_info(self, info: str, /) -> Address | None:
        """The address of the peer."""
        assert info in ("server_addr", "socket")
        return self.peer if info == "server_addr" else None

    def close(self) -> None:
        """Close the connection."""
        self.closed = True

    async def aclose(self) -> None:
        """Close the connection."""
        self.closed = True


def connect_sync(host: str, peer: Address | None) -> Stream:
    """A connection of the HTTP library to a host, under the guard of a request to good.example."""
    guard, stream = PeerGuard("good.example"), Stream(peer)
    try:
        guard.check_peer("connection.connect_tcp.started", {"host": host, "port": 443})
        guard.check_peer("connection.connect_tcp.complete", {"return_value": stream})
        guard.check_peer("http11.send_request_headers.started", {})
    except RefusedURLError:
        assert stream.closed
        raise
    return stream


def connect_async(host: str, peer: Address | None) -> Stream:
    """The same under the guard of an async request."""
    guard, stream = PeerGuard("good.example"), Stream(peer)

    async def connect() -> None:
        await guard.acheck_peer("connection.connect_tcp.started", {"host": host, "port": 443})
        await guard.acheck_peer("connection.connect_tcp.complete", {"return_value": stream})
        await guard.acheck_peer("http11.send_request_headers.started", {})

    try:
        anyio.run(connect)
    except RefusedURLError:
        assert stream.closed
        raise
    return stream


both_connections = pytest.mark.parametrize("connect", [connect_sync, connect_async], ids=["sync", "async"])


@both_connections
@pytest.mark.parametrize("peer", [None, ("127.0.0.1", 443), ("::1", 443, 0, 0), ("::ffff:10.0.0.1", 443, 0, 0), ("x",)])
def test_the_connection_to_a_private_peer_is_closed(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[str, Address | None], Stream], peer: Address | None
) -> None:
    """A peer that is private, or whose address is unknown, is refused; as a proxy it is the user's choice."""
    resolve(monkeypatch, [PUBLIC])
    with pytest.raises(RefusedURLError):
        connect("good.example", peer)
    assert not connect("proxy.local", peer).closed


@both_connections
def test_a_public_peer_stays_connected(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[[str, Address | None], Stream]
) -> None:
    """A public peer is allowed, and no other event is looked at."""
    resolve(monkeypatch, [PUBLIC])
    assert not connect("good.example", (PUBLIC, 443)).closed


@pytest.mark.parametrize("own", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST."])
@pytest.mark.parametrize("other", ["localhost", "127.0.0.1", "[::1]"])
def test_the_names_of_this_machine_are_one_origin(own: str, other: str) -> None:
    """A local server may call itself by another name than its client does; another port or scheme is another server."""
    base = f"http://{own}:8000/v1/"
    assert check_url(f"http://{other}:8000/a", own_origin=base).own
    for url in (f"http://{other}:8001/a", f"https://{other}:8000/a", f"http://{other}/a", "http://127.0.0.2:8000/a"):
        with pytest.raises(RefusedURLError):
            check_url(url, own_origin=base)
    with pytest.raises(RefusedURLError):
        check_url(f"http://{other}:8000/a", own_origin="https://api.test/v1/")


@pytest.mark.parametrize(
    ("url", "full", "own"),
    [
        ("/image/x.png?sig=a", "https://api.test/image/x.png?sig=a", True),
        ("image/x.png", "https://api.test/v1/image/x.png", True),
        ("../x.png", "https://api.test/x.png", True),
        ("//api.test/x.png", "https://api.test/x.png", True),
        ("//good.example/x.png", "https://good.example/x.png", False),
        ("https://good.example/x.png", "https://good.example/x.png", False),
        ("https://good.example/a/../x.png", "https://good.example/x.png", False),
        ("HTTPS://good.example:443/x.png", "https://good.example/x.png", False),
        ("https:x.png", "https://api.test/v1/x.png", True),
    ],
)
def test_a_relative_url_is_on_the_api(url: str, full: str, *, own: bool) -> None:
    """An answer may leave out the origin, or the scheme, and these are then those of the API that gave it."""
    allowed = check_url(url, own_origin="https://api.test/v1/", base="https://api.test/v1/")
    assert (str(allowed.url), allowed.own) == (full, own)
    assert not check_url(url, own_origin=None, base="https://api.example/v1/").own


@pytest.mark.parametrize(
    "url",
    ["", " ", "//127.0.0.1/x", "//localhost/x", "//good.example:22/x", "/a\\b", "javascript:x", "data:image/png,x"],
)
def test_a_relative_url_is_checked_like_others(url: str) -> None:
    """What is refused with an origin is refused without one."""
    with pytest.raises(RefusedURLError):
        check_url(url, own_origin="https://api.test/v1/", base="https://api.test/v1/")


CERTIFICATES = Path(__file__).parents[1] / "promises" / "money" / "certificates"
FOREIGN = "https://other.example/a.png?sig=x"
KEY = "sk-KEY-77aa"


class SecureServer:
    """The server of other.example, whose certificate only a private authority knows, with an HTTP proxy before it."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(CERTIFICATES / "other-host.pem")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.proxy = f"http://user:password@127.0.0.1:{self.address[1]}"
        self.tunnels: list[bytes] = []
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        """Take one connection after the other."""
        while True:
            connection, _ = self.listener.accept()
            with suppress(OSError), connection:
                connection.settimeout(5)
                first = connection.recv(7, socket.MSG_PEEK)
                if first == b"stopped":
                    return
                if first == b"CONNECT":
                    self.tunnels.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                with self.context.wrap_socket(connection, server_side=True) as secure:
                    self.requests.append(secure.recv(65536))
                    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nSet-Cookie: a=b\r\nContent-Length: %d\r\n\r\n"
                    secure.sendall(head % len(PNG) + PNG)

    def close(self) -> None:
        """Stop, and wait for the thread."""
        with socket.socket() as last:
            CONNECT(last, self.address)
            last.sendall(b"stopped")
            self.thread.join(5)
        self.listener.close()


@pytest.fixture
def secure_server() -> Iterator[SecureServer]:
    """A server with a certificate of a private authority."""
    running = SecureServer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def trust() -> ssl.SSLContext:
    """The private authority is trusted."""
    return ssl.create_default_context(cafile=str(CERTIFICATES / "ca.pem"))


class KeyTransport(httpx.HTTPTransport):
    """A transport that adds the key to every request, as some gateways want it."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send with the key."""
        request.headers["Authorization"] = KEY
        return super().handle_request(request)


class AsyncKeyTransport(httpx.AsyncHTTPTransport):
    """The same for async clients."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send with the key."""
        request.headers["Authorization"] = KEY
        return await super().handle_async_request(request)


Options: TypeAlias = Callable[[ssl.SSLContext, str, bool], dict[str, object]]


def hooks(*, is_async: bool) -> dict[str, list[Callable[..., object]]]:
    """A hook that adds the key to every request."""

    def add(request: httpx.Request) -> None:
        request.headers["X-Api-Key"] = KEY

    async def aadd(request: httpx.Request) -> None:
        add(request)

    return {"request": [aadd if is_async else add]}


def transport(*, is_async: bool, **options: Any) -> httpx.BaseTransport | httpx.AsyncBaseTransport:  # noqa: ANN401
    """A transport of the HTTP library."""
    return httpx.AsyncHTTPTransport(**options) if is_async else httpx.HTTPTransport(**options)


CLIENTS: dict[str, Options] = {
    "verify": lambda trust, _, is_async: {"verify": trust, "event_hooks": hooks(is_async=is_async)},
    "transport": lambda trust, _, is_async: {"transport": transport(is_async=is_async, verify=trust, retries=1)},
    "transport with a key": lambda trust, _, is_async: {
        "transport": AsyncKeyTransport(verify=trust) if is_async else KeyTransport(verify=trust)
    },
    "proxy": lambda trust, proxy, _: {"verify": trust, "proxy": proxy},
    "mount": lambda trust, proxy, is_async: {
        "mounts": {"all://other.example": transport(is_async=is_async, verify=trust, proxy=proxy)}
    },
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", CLIENTS)
def test_the_certificates_and_the_proxy_are_those_of_the_client(
    secure_server: SecureServer, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, name: str, *, is_async: bool
) -> None:
    """Behind a company's proxy and authority, images of other hosts are read; the request is as bare as any."""
    if name not in ("proxy", "mount"):
        resolve(monkeypatch, [PUBLIC])
        monkeypatch.setattr(socket.socket, "connect", lambda self, _: CONNECT(self, secure_server.address))
        # The server stands in for a public one; what is refused without this is tested above.
        monkeypatch.setattr("flux_openai._http.url_guard.is_public", lambda _: True)
    options: Any = {
        **CLIENTS[name](trust, secure_server.proxy, is_async),
        "headers": {"Authorization": KEY},
        "cookies": {"a": KEY},
        "auth": ("user", KEY),
        "params": {"key": KEY},
    }
    client = httpx.AsyncClient(**options) if is_async else httpx.Client(**options)
    which: Any = {"aclient" if is_async else "client": client}
    settings = DownloadSettings(origin="https://api.test/v1", waiting=False, **which)
    assert (get_async if is_async else get_sync)(FOREIGN, settings) == PNG
    assert not client.is_closed
    anyio.run(client.aclose) if isinstance(client, httpx.AsyncClient) else client.close()
    assert dict(client.cookies) == {"a": KEY}
    [request] = secure_server.requests
    assert request.startswith(b"GET /a.png?sig=x HTTP/1.1\r\n")
    assert KEY.encode() not in request
    names = {line.split(b":")[0].lower() for line in request.split(b"\r\n")[1:] if line}
    assert names == {b"host", b"accept", b"accept-encoding", b"user-agent"}
    assert len(secure_server.tunnels) == (name in ("proxy", "mount"))
    assert all(tunnel.startswith(b"CONNECT other.example:443 ") for tunnel in secure_server.tunnels)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_unknown_authority_is_refused(
    secure_server: SecureServer, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    """The client trusts the usual authorities only, and so does the download."""
    monkeypatch.setenv("HTTPS_PROXY", secure_server.proxy)
    error = failed(get_async if is_async else get_sync, FOREIGN)
    assert ("certificate" in str(error), error.attempts) == (True, 1)
    assert secure_server.requests == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("how", ["mock", "closed"])
def test_other_clients_fetch_from_other_hosts_as_none_would(
    canary: Canary, monkeypatch: pytest.MonkeyPatch, how: str, *, is_async: bool
) -> None:
    """A transport of another kind may leave out the check of the peer: the host is fetched without it, and checked."""
    resolve(monkeypatch, [PUBLIC], ["127.0.0.1"])
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(200, content=PNG)

    options: Any = {"transport": httpx.MockTransport(handler)} if how == "mock" else {}
    client: Any = httpx.AsyncClient(**options) if is_async else httpx.Client(**options)
    if how == "closed":
        anyio.run(client.aclose) if is_async else client.close()
    which: Any = {"aclient" if is_async else "client": client}
    refused(
        get_async if is_async else get_sync, GOOD, DownloadSettings(origin="https://api.test", waiting=False, **which)
    )
    assert (asked, canary.heard.get(timeout=5)) == ([], b"")
