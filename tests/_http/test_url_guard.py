import ipaddress
import queue
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_openai._http.library import httpx
from flux_openai._http.url_guard import (
    PrivatePeerError,
    Route,
    acheck_peer,
    check_peer,
    is_public,
    is_public_host,
    judge,
)
from flux_openai.errors import DownloadError, UnsafeURLError
from flux_openai.response.download import afetch, fetch

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 40
PUBLIC = "93.184.216.34"
PUBLIC_V6 = "2606:2800:220:1::1"
GOOD = "https://good.example/image.png?sig=x"

Address: TypeAlias = tuple[object, ...]
Get: TypeAlias = Callable[[str], bytes | DownloadError]
Connect: TypeAlias = Callable[[socket.socket, Address], None]
CONNECT: Connect = socket.socket.connect

BAD_LINKS = {
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
    **BAD_LINKS,
    "28 empty": "",
    "28 blank": " ",
    "29 no scheme": "//good.example/image.png",
    "29 relative": "/image.png",
    "29 no slashes": "https:good.example/image.png",
    "29 host only": "good.example/image.png",
}


class Canary:
    """A server that no byte may reach: it counts connections and keeps what they said."""

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
    """The proxies of the machine that runs the tests have no say."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """All roads lead to the canary: every name resolves to it, and every connection ends there."""
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
    """DNS gives these answers in turn, the last one for ever; the names that were asked for are listed."""
    asked: list[str] = []

    def getaddrinfo(host: str | bytes, port: object, *rest: object, **more: object) -> list[tuple[object, ...]]:
        asked.append(host if isinstance(host, str) else host.decode())
        answer = answers[min(len(asked), len(answers)) - 1]
        return [(family(ip), socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answer]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def family(address: str) -> socket.AddressFamily:
    """IPv4 or IPv6, by the look of it."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def get_sync(link: str) -> bytes | DownloadError:
    """`fetch`, without an origin of our own."""
    return fetch(link, own_origin=None, own_client=None, waiting=False)


def get_async(link: str) -> bytes | DownloadError:
    """`afetch`, without an origin of our own."""

    async def get() -> bytes | DownloadError:
        return await afetch(link, own_origin=None, own_client=None, waiting=False)

    return anyio.run(get)


both_ways = pytest.mark.parametrize("get", [get_sync, get_async], ids=["sync", "async"])


def assert_refused(outcome: bytes | DownloadError) -> UnsafeURLError:
    """The link was refused, and its query is not repeated."""
    assert isinstance(outcome, UnsafeURLError), outcome
    assert outcome.billing == "paid"
    assert "password" not in str(outcome)
    return outcome


@both_ways
@pytest.mark.parametrize("link", BAD_ALONE.values(), ids=BAD_ALONE)
def test_no_bad_link_is_opened(canary: Canary, get: Get, link: str) -> None:
    """No name is asked for, no connection made: the link alone is enough to refuse it."""
    error = assert_refused(get(link.replace("{port}", str(canary.address[1]))))
    assert error.attempts == 0
    assert (canary.attempts, canary.accepted) == ([], 0)


def redirecting(to: str) -> tuple[httpx.MockTransport, list[str]]:
    """An API of our own that redirects, and the paths it was asked for."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers=[(b"location", to.encode())])

    return httpx.MockTransport(answer), asked


@pytest.mark.parametrize("link", BAD_LINKS.values(), ids=BAD_LINKS)
def test_no_redirect_leads_to_a_bad_link(canary: Canary, link: str) -> None:
    """Every class of bad links is refused as well when the API's own origin redirects to it."""
    transport, asked = redirecting(link.replace("{port}", str(canary.address[1])))
    with httpx.Client(transport=transport) as client:
        outcome = fetch("http://api.test/a", own_origin="http://api.test", own_client=client, waiting=False)
    assert_refused(outcome)
    assert asked == ["http://api.test/a"]
    assert (canary.attempts, canary.accepted) == ([], 0)


@pytest.mark.parametrize("link", BAD_LINKS.values(), ids=BAD_LINKS)
def test_no_redirect_leads_to_a_bad_link_async(canary: Canary, link: str) -> None:
    """The same over the async client."""
    transport, asked = redirecting(link.replace("{port}", str(canary.address[1])))

    async def get() -> bytes | DownloadError:
        async with httpx.AsyncClient(transport=transport) as client:
            return await afetch("http://api.test/a", own_origin="http://api.test", own_client=client, waiting=False)

    outcome = anyio.run(get)
    assert_refused(outcome)
    assert asked == ["http://api.test/a"]
    assert canary.accepted == 0


@pytest.fixture
def public_server(monkeypatch: pytest.MonkeyPatch) -> dict[str, httpx.Response]:
    """Public hosts without a network: what each link answers."""
    answers: dict[str, httpx.Response] = {}
    transport = httpx.MockTransport(lambda request: answers[str(request.url)])
    monkeypatch.setattr(httpx, "HTTPTransport", lambda **options: transport)
    monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda **options: transport)
    return answers


@both_ways
@pytest.mark.parametrize("answer", [[PUBLIC], [PUBLIC_V6], [PUBLIC, PUBLIC_V6]])
def test_a_public_link_is_opened(
    canary: Canary,
    get: Get,
    public_server: dict[str, httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
    answer: list[str],
) -> None:
    """The guard lets pass what it should, over redirects as well."""
    asked = resolve(monkeypatch, answer)
    public_server[GOOD] = httpx.Response(302, headers={"location": "https://cdn.good.example/b.png"})
    public_server["https://cdn.good.example/b.png"] = httpx.Response(200, content=PNG)
    assert get(GOOD) == PNG
    assert asked == ["good.example", "cdn.good.example"]
    assert canary.attempts == []


@both_ways
@pytest.mark.parametrize(
    "link",
    ["https://127.0.0.1/", "https://10.0.0.1/", "http://127.0.0.1/", "http://good.example/", "//localhost/", "ftp:x"],
)
def test_a_public_host_cannot_redirect_inwards(
    canary: Canary,
    get: Get,
    public_server: dict[str, httpx.Response],
    monkeypatch: pytest.MonkeyPatch,
    link: str,
) -> None:
    """Neither to a private address nor down to http."""
    resolve(monkeypatch, [PUBLIC])
    public_server[GOOD] = httpx.Response(302, headers={"location": link})
    assert assert_refused(get(GOOD)).attempts == 1
    assert canary.attempts == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_way_to_the_own_origin_is_never_down(
    canary: Canary, public_server: dict[str, httpx.Response], monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """A public https host may redirect to the API's own origin by https, and not by http."""
    resolve(monkeypatch, [PUBLIC])
    public_server[GOOD] = httpx.Response(302, headers={"location": f"{scheme}://api.test/a"})
    own = httpx.MockTransport(lambda request: httpx.Response(200, content=PNG))
    with httpx.Client(transport=own) as client:
        outcome = fetch(GOOD, own_origin=f"{scheme}://api.test", own_client=client, waiting=False)
    assert (outcome == PNG) == (scheme == "https")
    assert canary.attempts == []


@both_ways
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
def test_one_private_address_spoils_the_host(
    canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    """A host with any address that is not public is not connected to."""
    resolve(monkeypatch, answer)
    assert assert_refused(get(GOOD)).attempts == 1
    assert (canary.attempts, canary.accepted) == ([], 0)


@both_ways
def test_a_rebound_name_gets_no_byte(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """First answer public, second 127.0.0.1: the connected peer gives it away before a single byte is sent to it."""
    asked = resolve(monkeypatch, [PUBLIC], ["127.0.0.1"])
    error = assert_refused(get(GOOD))
    assert (error.attempts, canary.heard.get(timeout=5)) == (1, b"")
    assert (canary.accepted, len(asked)) == (1, 2)
    assert "sig=" not in str(error)


@both_ways
def test_a_name_that_does_not_resolve_is_tried_again(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS that fails is a fault that may pass."""
    asked: list[object] = []

    def getaddrinfo(host: object, *rest: object, **more: object) -> list[object]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    outcome = get(GOOD)
    assert isinstance(outcome, DownloadError)
    assert not isinstance(outcome, UnsafeURLError)
    assert (outcome.attempts, len(asked)) == (5, 5)
    assert canary.attempts == []


@both_ways
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_sees_the_host_and_nothing_more(
    canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The proxy of the environment may be at a private address; it is asked for a tunnel and learns no link."""
    monkeypatch.setenv(name, f"127.0.0.1:{canary.address[1]}")
    outcome = get(GOOD)
    assert isinstance(outcome, DownloadError)
    assert not isinstance(outcome, UnsafeURLError)
    said = canary.heard.get(timeout=5)
    assert said.startswith(b"CONNECT good.example:443 HTTP/1.1\r\n")
    assert b"sig=" not in said
    assert outcome.attempts == canary.accepted == 5


@both_ways
@pytest.mark.parametrize(
    "link", ["https://127.0.0.1/", "https://2130706433/", "https://localhost/", "http://a.example/"]
)
def test_a_proxy_is_not_asked_for_bad_links(
    canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    """What is refused by name is refused with a proxy as well."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.address[1]}")
    assert_refused(get(link))
    assert canary.accepted == 0


@both_ways
def test_a_host_beside_the_proxy_is_checked_in_full(canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_PROXY brings the checks of addresses and peer back."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.address[1]}")
    monkeypatch.setenv("NO_PROXY", "good.example")
    resolve(monkeypatch, [PUBLIC], ["127.0.0.1"])
    assert_refused(get(GOOD))
    assert canary.heard.get(timeout=5) == b""


@both_ways
@pytest.mark.parametrize("proxy", ["gopher://proxy.test", "http://proxy:port", "socks5://127.0.0.1:1"])
def test_a_broken_proxy_setting_is_an_error_and_no_exception(
    canary: Canary, get: Get, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """Settings nobody can use do not put the link into a traceback."""
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    outcome = get(GOOD)
    assert isinstance(outcome, DownloadError)
    assert "settings" in str(outcome)
    assert canary.attempts == []


@pytest.mark.parametrize(
    ("link", "own_origin", "own"),
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
def test_the_own_origin_is_scheme_host_and_port(link: str, own_origin: str | None, *, own: bool) -> None:
    """Paths and spelling do not count; anything else goes the careful way."""
    route = judge(link, own_origin=own_origin)
    assert isinstance(route, Route)
    assert route.own is own


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:8001/",
        "https://127.0.0.1:8000/",
        "http://127.0.0.2:8000/",
        "http://127.0.0.1:8000@evil.example/",
        "http://user@127.0.0.1:8000/",
    ],
)
def test_beside_the_own_origin_all_is_refused(link: str) -> None:
    """Another port, scheme or host is another origin, and a user name is refused at the own one too."""
    assert isinstance(judge(link, own_origin="http://127.0.0.1:8000"), str)


def test_without_its_client_the_own_origin_is_a_stranger(canary: Canary) -> None:
    """An origin that nobody can reach for us has no privilege."""
    assert_refused(fetch("http://127.0.0.1:8000/", own_origin="http://127.0.0.1:8000", own_client=None))
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
def test_a_public_host_may_be_asked(host: str) -> None:
    """A full name, and an address that is public, are good enough by themselves; what a name leads to comes later."""
    assert is_public_host(host)
    route = judge(f"https://{f'[{host}]' if ':' in host else host}/image.png", own_origin=None)
    assert isinstance(route, Route)


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
def test_any_text_is_judged(host: str) -> None:
    """Property: no text makes the judge fail, and what it lets pass is https on the usual port."""
    route = judge(f"https://{host}/", own_origin=None)
    assert isinstance(route, str) or (route.url.scheme, route.url.port, route.own) == ("https", None, False)


class Stream:
    """The network stream of the HTTP library, as far as the guard sees it."""

    def __init__(self, peer: Address | None) -> None:
        self.peer = peer
        self.closed = False

    def get_extra_info(self, info: str, /) -> Address | None:
        """The address of the peer."""
        assert info == "server_addr"
        return self.peer

    def close(self) -> None:
        """Hang up."""
        self.closed = True

    async def aclose(self) -> None:
        """Hang up."""
        self.closed = True


@pytest.mark.parametrize("peer", [None, ("127.0.0.1", 443), ("::1", 443, 0, 0), ("::ffff:10.0.0.1", 443, 0, 0), ("x",)])
def test_a_private_peer_is_hung_up_on(peer: Address | None) -> None:
    """A peer that is private, or that nobody can name, is closed and reported, sync and async."""
    stream = Stream(peer)
    with pytest.raises(PrivatePeerError):
        check_peer("connection.connect_tcp.complete", {"return_value": stream})
    assert stream.closed
    stream = Stream(peer)
    with pytest.raises(PrivatePeerError):
        anyio.run(acheck_peer, "connection.connect_tcp.complete", {"return_value": stream})
    assert stream.closed


def test_a_public_peer_is_let_be() -> None:
    """A public peer stays connected, and no other event is looked at."""
    stream = Stream((PUBLIC, 443))
    check_peer("connection.connect_tcp.complete", {"return_value": stream})
    check_peer("http11.send_request_headers.started", {})
    anyio.run(acheck_peer, "connection.connect_tcp.complete", {"return_value": stream})
    assert not stream.closed
