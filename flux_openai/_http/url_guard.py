"""Which links may be opened: the API's own origin, and https at hosts that anybody on the internet can reach.

A host is judged three times, each time by less trusting means: by its name, by the addresses DNS gives for it, and by
the address of the connected peer, before the first byte is sent. Everything here but the two peer checks is a pure
function; a refusal is the text that says why.
"""

import ipaddress
import re
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flux_openai._http.library import httpx

__all__ = [
    "PrivatePeerError",
    "Route",
    "acheck_peer",
    "check_peer",
    "environment_proxy",
    "is_public",
    "is_public_host",
    "judge",
    "refusal",
]

_MAX_HOPS = 3
_MAX_LENGTH = 8192


@dataclass(frozen=True, kw_only=True)
class Route:
    """A link that was judged and may be opened: at the API's own origin, or at a public host."""

    url: httpx.URL
    own: bool
    hops: int = 0

    @property
    def host(self) -> str:
        """The host as it goes over the wire; international names in their ASCII form."""
        return self.url.raw_host.decode("ascii")


def judge(link: str, *, own_origin: str | None, before: Route | None = None) -> Route | str:
    """Whether a link may be opened and in which way, or why not; `before` is the route that redirected to it."""
    url = _parsed(link) if before is None else _joined(before.url, link)
    if url is None:
        return "it is not a usable URL"
    own = None if own_origin is None else _parsed(own_origin)
    is_own = own is not None and _origin(url) == _origin(own)
    hops = 0 if before is None else before.hops + 1
    secure = before is not None and before.url.scheme == "https"
    rules = (
        (bool(url.userinfo), "it holds a user name"),
        (hops > _MAX_HOPS, f"it redirects more than {_MAX_HOPS} times"),
        (secure and url.scheme != "https", "it redirects from https to another protocol"),
        (not is_own and url.scheme != "https", "it is not https"),
        (not is_own and url.port is not None, "it names a port"),
        (not is_own and not is_public_host(url.raw_host.decode("ascii")), "its host is not a public one"),
    )
    reason = next((reason for broken, reason in rules if broken), None)
    return Route(url=url, own=is_own, hops=hops) if reason is None else reason


def _parsed(link: str) -> httpx.URL | None:
    # Where two parsers may disagree about the host, the link is refused before the one parser used here sees it.
    if len(link) > _MAX_LENGTH or "\\" in link or any(char.isspace() or not char.isprintable() for char in link):
        return None
    try:
        return httpx.URL(link)
    except httpx.InvalidURL:
        return None


def _joined(base: httpx.URL, link: str) -> httpx.URL | None:
    if _parsed(link) is None:
        return None
    try:
        return base.join(link)
    except (httpx.InvalidURL, ValueError):
        return None


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return url.scheme, url.raw_host.removesuffix(b"."), url.port


# `ipaddress.is_global` is not enough: on Python 3.11 it lets NAT64, 6to4 and IPv4-compatible addresses pass, which lead
# to any IPv4 address. 168.63.129.16 is public in form only: it is the metadata host of one cloud.
_DENIED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_DENIED_V6 = tuple(
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)


def is_public(address: str) -> bool:
    """Whether an IP address, in its usual form, is one that anybody on the internet may have."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _DENIED_V4)
    return ip.scope_id is None and ip in _GLOBAL_V6 and not any(ip in network for network in _DENIED_V6)


_HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9_][a-z0-9_-]{0,62}\.)+[a-z0-9-]{2,63}")
_INTERNAL_NAME = re.compile(r"(.*\.)?(localhost|localdomain|local|internal|intranet|private|corp|home|lan|arpa)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public_host(host: str) -> bool:
    """Whether a host may be asked, by its name alone: a public address, or a full name that is not an internal one."""
    name = host.removesuffix(".")
    # What ends in a number is an IPv4 address to the system's resolver, in whatever disguise.
    if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return is_public(name)
    return bool(_HOST_NAME.fullmatch(name)) and not _INTERNAL_NAME.fullmatch(name)


def refusal(found: Iterable[tuple[object, object, object, object, tuple[object, ...]]]) -> str | None:
    """Why a host may not be asked, by what `getaddrinfo` says of it: one address that is not public spoils all."""
    safe = all(is_public(str(entry[4][0])) for entry in found)
    return None if safe else "its host has an address that is not public"


def environment_proxy(host: str) -> str | None:
    """The proxy that the environment names for https to this host; a ValueError if it is no URL."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    full = proxy if "://" in proxy else f"http://{proxy}"
    if _parsed(full) is None:
        raise ValueError("the address of the proxy is not a usable URL")
    return full


class PrivatePeerError(Exception):
    """The connected peer is not public, whatever DNS said before."""


class _Stream(Protocol):
    def get_extra_info(self, info: str, /) -> tuple[object, ...] | None: ...
    def close(self) -> None: ...


class _AsyncStream(Protocol):
    def get_extra_info(self, info: str, /) -> tuple[object, ...] | None: ...
    async def aclose(self) -> None: ...


def check_peer(event: str, info: Mapping[str, _Stream]) -> None:
    """The `trace` extension of a request: hang up on a peer that is not public before anything is sent to it."""
    if _is_private_peer(event, info):
        info["return_value"].close()
        raise PrivatePeerError


async def acheck_peer(event: str, info: Mapping[str, _AsyncStream]) -> None:
    """The `trace` extension of a request: hang up on a peer that is not public before anything is sent to it."""
    if _is_private_peer(event, info):
        await info["return_value"].aclose()
        raise PrivatePeerError


def _is_private_peer(event: str, info: Mapping[str, _Stream] | Mapping[str, _AsyncStream]) -> bool:
    # The event lies between connecting and TLS, so that not even the name in a TLS greeting gets out.
    if event != "connection.connect_tcp.complete":
        return False
    peer = info["return_value"].get_extra_info("server_addr")
    return peer is None or not is_public(str(peer[0]))
