"""The guard against SSRF: which URLs, addresses and peers may be fetched.

Allowed are the API's own origin, and https on the default port of public hosts. A host is checked three times: by its
name (`check_url`), by the addresses that DNS returns for it, and by the address of the connected peer before a byte is
sent to it (`PeerGuard`), since DNS may answer differently when the connection is made.
"""

import ipaddress
import re
import socket
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import anyio

from flux_openai._http.library import httpx
from flux_openai._http.streams import watch_new_stream

__all__ = [
    "AllowedURL",
    "PeerGuard",
    "RefusedURLError",
    "check_addresses",
    "check_url",
    "environment_proxy",
    "is_public",
    "is_public_host",
]

_MAX_REDIRECTS = 3
_MAX_LENGTH = 8192


class RefusedURLError(Exception):
    """A URL, address or peer that must not be fetched. The message does not quote the URL, which may be signed."""


@dataclass(frozen=True, kw_only=True)
class AllowedURL:
    """A URL that may be fetched: on the API's own origin (`own`), or on a host with a public name."""

    url: httpx.URL
    own: bool
    redirects: int = 0

    @property
    def host(self) -> str:
        """The host as it goes over the wire: international names in their ASCII form."""
        return self.url.raw_host.decode("ascii")


def check_url(
    url: str, *, own_origin: str | None, base: str | None = None, redirected_from: AllowedURL | None = None
) -> AllowedURL:
    """Check a URL by itself, without asking DNS.

    Args:
        url: The URL. It may be relative to `base`, or after a redirect to the URL that redirects.
        own_origin: A URL on the API's origin, where http, ports and private hosts are allowed; None if there is none.
        base: The URL of the API that gave this one.
        redirected_from: The URL whose answer redirects to this one.

    Raises:
        RefusedURLError: The URL must not be fetched.
    """
    api = None if base is None else _parsed_once(base)
    parsed = _parsed(url, api if redirected_from is None else redirected_from.url) if url else None
    if parsed is None:
        raise RefusedURLError("it is not a usable URL")
    own = None if own_origin is None else _parsed_once(own_origin)
    is_own = own is not None and _origin(parsed) == _origin(own)
    is_https = parsed.scheme == "https"
    redirects = 0 if redirected_from is None else redirected_from.redirects + 1
    was_https = redirected_from is not None and redirected_from.url.scheme == "https"
    allowed = AllowedURL(url=parsed, own=is_own, redirects=redirects)
    rules = (
        (bool(parsed.userinfo), "it contains a user name"),
        (redirects > _MAX_REDIRECTS, f"it redirects more than {_MAX_REDIRECTS} times"),
        (was_https and not is_https, "it redirects from https to another protocol"),
        (not is_own and not is_https, "it is not https"),
        (not is_own and parsed.port is not None, "it names a port"),
        (not is_own and not is_public_host(allowed.host), "its host is not a public one"),
    )
    for broken, reason in rules:
        if broken:
            raise RefusedURLError(reason)
    return allowed


def _parsed(url: str, base: httpx.URL | None = None) -> httpx.URL | None:
    # URL parsers disagree about the host of a URL with backslashes or spaces, so it is refused before it is parsed.
    if len(url) > _MAX_LENGTH or "\\" in url or " " in url or not url.isprintable():  # no other space is printable
        return None
    try:
        parsed = httpx.URL(url)
        # To join takes two more parses. After "HTTPS:" they would also drop a port that is the default.
        is_whole = parsed.is_absolute_url and url.startswith(parsed.scheme)
        return parsed if base is None or is_whole else base.join(parsed)
    except (httpx.InvalidURL, ValueError):
        return None


@lru_cache(maxsize=16)
def _parsed_once(base: str) -> httpx.URL | None:
    """The address of an API, which is needed for each of its images; it is not signed, so it may be kept."""
    return _parsed(base)


# A server on this machine often calls itself by another of these names than its client does.
_LOOPBACK = (b"localhost", b"127.0.0.1", b"::1")


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    host = url.raw_host.removesuffix(b".")
    return url.scheme, b"localhost" if host in _LOOPBACK else host, url.port


# `ipaddress.is_global` is not enough: on Python 3.11 it accepts NAT64, 6to4 and IPv4-compatible addresses, which lead
# to any IPv4 address. 168.63.129.16 is public in form only: it is the metadata host of Azure.
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
    """Whether an IP address, written in its usual form, is publicly routable."""
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
    """Whether a host is public by its name alone: a public address, or a full name that is not an internal one."""
    name = host.removesuffix(".")
    # The system's resolver reads any name whose last label is a number as an IPv4 address, also in hexadecimal.
    if ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        return is_public(name)
    return bool(_HOST_NAME.fullmatch(name)) and not _INTERNAL_NAME.fullmatch(name)


def check_addresses(found: Iterable[tuple[object, object, object, object, tuple[object, ...]]]) -> None:
    """Check what `getaddrinfo` returns for a host.

    Raises:
        RefusedURLError: One of the addresses is not public; the connection could be made to any of them.
    """
    if not all(is_public(str(entry[4][0])) for entry in found):
        raise RefusedURLError("its host has an address that is not public")


def environment_proxy(host: str) -> str | None:
    """The proxy that the environment names for https to this host; raises ValueError if it is not a URL."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    full = proxy if "://" in proxy else f"http://{proxy}"
    if _parsed(full) is None:
        raise ValueError("the address of the proxy is not a usable URL")
    return full


_CONNECTING = "connection.connect_tcp.started"
_CONNECTED = "connection.connect_tcp.complete"  # between TCP and TLS: not even the name in the TLS hello is sent yet
_PRIVATE_PEER = "its host led to an address that is not public"


class PeerGuard:
    """The checks of one request to a foreign host, made by its `trace` extension before anything is sent.

    A connection to a proxy is not checked: the proxy is the user's choice, and it resolves the host.
    """

    def __init__(self, host: str) -> None:
        """For a request to this host."""
        self._host = host
        self._direct = False

    def check_peer(self, event: str, info: Mapping[str, Any]) -> None:
        """The trace of a sync request.

        Raises:
            RefusedURLError: One of the host's addresses is not public, or the address of the connected peer.
        """
        watch_new_stream(event, info)
        if self._is_direct(event, info):
            check_addresses(socket.getaddrinfo(self._host, 443, type=socket.SOCK_STREAM))
        if self._is_private_peer(event, info):
            info["return_value"].close()
            raise RefusedURLError(_PRIVATE_PEER)

    async def acheck_peer(self, event: str, info: Mapping[str, Any]) -> None:
        """The same as `check_peer`, for an async request."""
        watch_new_stream(event, info)
        if self._is_direct(event, info):
            check_addresses(await anyio.getaddrinfo(self._host, 443, type=socket.SOCK_STREAM))
        if self._is_private_peer(event, info):
            await info["return_value"].aclose()
            raise RefusedURLError(_PRIVATE_PEER)

    def _is_direct(self, event: str, info: Mapping[str, Any]) -> bool:
        if event == _CONNECTING:
            self._direct = info["host"] == self._host
            return self._direct
        return False

    def _is_private_peer(self, event: str, info: Mapping[str, Any]) -> bool:
        if event != _CONNECTED or not self._direct:
            return False
        peer = info["return_value"].get_extra_info("server_addr")
        return peer is None or not is_public(str(peer[0]))
