"""The setup of a client: its options, the checks of key and base_url, and the removal of OPENAI_* variables."""

import ipaddress
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, TypedDict

import openai
from openai import NotGiven

from flux_openai._http.library import httpx
from flux_openai.client.tracebacks import hide_locals
from flux_openai.errors import ConfigurationError, InvalidParam
from flux_openai.request.sdk_arguments import header_faults, query_faults, timeout_faults
from flux_openai.sending.settings import FluxOptions

__all__ = [
    "BASE_URL",
    "TIMEOUT",
    "AsyncClientOptions",
    "AsyncCopyOptions",
    "ClientOptions",
    "CopyOptions",
    "check_client",
    "copy_options",
    "drop_openai_env",
    "env_headers",
    "key_source",
    "sdk_options",
]

BASE_URL = "https://api.umodelverse.ai/v1"
TIMEOUT = openai.Timeout(300.0, connect=5.0, write=30.0, pool=10.0)
"""The default time-outs in seconds. The read time-out is long, because a request that was sent is billed: a client that
stops waiting for the answer pays for nothing."""


class _CommonOptions(FluxOptions, total=False):
    base_url: str | httpx.URL | None | NotGiven
    websocket_base_url: str | httpx.URL | None
    timeout: float | openai.Timeout | None | NotGiven
    max_retries: int | NotGiven
    default_headers: Mapping[str, str] | None
    default_query: Mapping[str, object] | None
    organization: str | None
    project: str | None
    webhook_secret: str | None
    admin_api_key: str | None
    workload_identity: object
    provider: object
    data_residency: str | None
    _enforce_credentials: bool | None


class _CopyHeaders(TypedDict, total=False):
    set_default_headers: Mapping[str, str] | None
    set_default_query: Mapping[str, object] | None
    _extra_kwargs: Mapping[str, Any]


class CopyOptions(_CommonOptions, _CopyHeaders, total=False):
    """The options of `FluxOpenAI.copy` and `with_options`: ours, and those of the SDK."""

    api_key: str | Callable[[], str] | None
    http_client: openai.DefaultHttpxClient | None


class AsyncCopyOptions(_CommonOptions, _CopyHeaders, total=False):
    """The options of `AsyncFluxOpenAI.copy` and `with_options`: ours, and those of the SDK."""

    api_key: str | Callable[[], Awaitable[str]] | None
    http_client: openai.DefaultAsyncHttpxClient | None


class ClientOptions(_CommonOptions, total=False):
    """The options of a FluxOpenAI: ours, and those of the SDK."""

    api_key: str | Callable[[], str] | None
    http_client: openai.DefaultHttpxClient | None
    _strict_response_validation: bool


class AsyncClientOptions(_CommonOptions, total=False):
    """The options of an AsyncFluxOpenAI: ours, and those of the SDK."""

    api_key: str | Callable[[], Awaitable[str]] | None
    http_client: openai.DefaultAsyncHttpxClient | None
    _strict_response_validation: bool


_SIGN_IN: Mapping[str, str] = {
    "workload_identity": "gets a token that OpenAI's own service accepts",
    "provider": "sets the address and the credentials of another service",
    "data_residency": "selects an address of OpenAI's own service",
}
"""The SDK's options that lead the client to another service, and what each does."""


def sdk_options(options: Mapping[str, Any], *, allow_http: bool) -> dict[str, Any]:
    """The SDK's options for a new client, with a checked key and base_url, and our default time-outs.

    Raises:
        ConfigurationError: The key or the base_url is missing or invalid, or an option leads to another service.
    """
    sdk = _checked_options(options)
    base_url, timeout = sdk.get("base_url"), sdk.get("timeout", openai.NOT_GIVEN)
    if base_url is None or isinstance(base_url, NotGiven):
        base_url = os.environ.get("MODELVERSE_BASE_URL") or BASE_URL
    if isinstance(timeout, NotGiven):
        timeout = _default_timeout(sdk.get("http_client"))
    if isinstance(sdk.get("max_retries", openai.NOT_GIVEN), NotGiven):
        sdk["max_retries"] = openai.DEFAULT_MAX_RETRIES
    return {
        **sdk,
        "api_key": _checked_key(sdk.get("api_key")),
        "base_url": _checked_url(str(base_url), allow_http=allow_http),
        "timeout": timeout,
    }


def copy_options(options: Mapping[str, Any], *, allow_http: bool) -> dict[str, Any]:
    """The SDK's options for a copy, checked as those of a new client. Raises ConfigurationError."""
    sdk = _checked_options(options)
    if allow_http:
        # The constructor that the SDK's `copy` calls checks the base_url, so it has to know that http is allowed.
        sdk["_extra_kwargs"] = {**sdk.get("_extra_kwargs", {}), "allow_http": True}
    return sdk


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The SDK's options among those of a client or of a copy, checked as far as the SDK would not say what is wrong.

    Raises:
        ConfigurationError: The time-out, the headers or the query are invalid, or an option leads to another service.
    """
    for name, reason in _SIGN_IN.items():
        if options.get(name) is not None and not isinstance(options[name], NotGiven):
            rule = (
                f"{reason}, which serves no FLUX model; use api_key= and base_url=, or openai.OpenAI beside this client"
            )
            raise ConfigurationError.of(InvalidParam(param=name, value=options[name], rule=rule))
    faults = timeout_faults(options.get("timeout"))
    for name in ("default_headers", "set_default_headers"):
        faults += header_faults(options.get(name), param=name)
    for name in ("default_query", "set_default_query"):
        faults += query_faults(options.get(name), param=name)
    for name in ("organization", "project"):  # the SDK sends them as headers
        value = options.get(name)
        if value is not None and header_faults({name: value}):
            rule = "must be ASCII text on one line, without spaces around it"
            faults.append(InvalidParam(param=name, value=value, rule=rule))
    if faults:
        raise ConfigurationError.of(*faults)
    return {name: value for name, value in options.items() if name not in FluxOptions.__annotations__}


@hide_locals
def check_client(client: openai.OpenAI | openai.AsyncOpenAI, *, allow_http: bool) -> None:
    """Check key and base_url again, because both attributes can be assigned. Raises ConfigurationError."""
    _checked_url(str(client.base_url), allow_http=allow_http)
    if client.api_key:
        _checked_key(client.api_key)


_KEY = re.compile(r"[\x21-\x7e]+")


def _checked_key(api_key: object) -> object:
    """The key, or the one in MODELVERSE_API_KEY. Raises ConfigurationError, which never contains the key."""
    key = api_key if api_key is not None else os.environ.get("MODELVERSE_API_KEY")
    if not key:
        raise ConfigurationError(
            "no API key: pass api_key=… or set MODELVERSE_API_KEY (OPENAI_API_KEY belongs to another service "
            "and is not used)"
        )
    if isinstance(key, str) and not _KEY.fullmatch(key):
        raise ConfigurationError(
            "the API key must be plain ASCII without spaces or line breaks; this one is not "
            "(a key read from a file often ends in a line break: use .strip())"
        )
    return key


def key_source(client: openai.OpenAI | openai.AsyncOpenAI, request: httpx.Request, *, given: str) -> str:
    """Where the key of a request came from, in words; `given` is where the client's own key came from."""
    if request.headers.get("authorization") != f"Bearer {client.api_key}":
        return "a header of the call or the client, not from api_key="
    variable = "MODELVERSE_API_KEY"
    if given == variable and client.api_key != os.environ.get(variable):
        return "the client's attribute api_key"
    if client.api_key == os.environ.get("OPENAI_API_KEY"):
        return f"{given}, and is the one in OPENAI_API_KEY, which belongs to another service"
    return given


_HOST = re.compile(rb"[A-Za-z0-9._:-]+")
# The paths of the models are written out: their table is loaded with the first request.
_ENDPOINT = re.compile(
    r"/+(?:images(?:/+\w+)?|flux-2-pro|flux-kontext-pro|flux-pro-1\.1|chat/+completions|completions|responses)/*$",
    re.IGNORECASE,
)


@lru_cache(maxsize=16)
def _checked_url(text: str, *, allow_http: bool) -> str:
    """The base_url, if the key may be sent there and the paths of requests fit behind it. Raises ConfigurationError."""
    url = _parsed(text)
    if url is None:
        rule = "must be an https:// address without a user name in it"
    elif url.query or url.fragment or {"?", "#"} & {*text}:
        rule = "must end before the query and the fragment; what every request needs goes into default_query="
    elif re.search(r"\s|%20", text):
        rule = "must have no blanks: they would be a part of the path of each request"
    elif _ENDPOINT.search(url.path):
        rule = "is the address of the service: the client adds the path of each request, such as /images/generations"
    elif url.scheme == "http" and not (allow_http or _is_loopback(url.host)):
        rule = (
            "plain http would send the key in the clear, and is allowed for loopback addresses only; "
            "allow_http=True allows it in a network that you trust"
        )
    else:
        return text
    # User name and query may be secrets.
    redacted = re.sub(r"(^|//).*@", r"\1", re.split(r"[?#]", text, maxsplit=1)[0])
    nearest = _nearest_url(text, allow_http=allow_http)
    raise ConfigurationError.of(InvalidParam(param="base_url", value=redacted, rule=rule, nearest=nearest))


def _parsed(text: str) -> httpx.URL | None:
    """The URL, if it is one over http that names a host and no user."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return None
    usable = url.scheme in ("http", "https") and _HOST.fullmatch(url.raw_host) and not url.userinfo
    return url if usable else None


def _nearest_url(text: str, *, allow_http: bool) -> str | None:
    """The base_url that was probably meant, over https; None if no host can be told from the text."""
    bare = re.sub(r"^(?:[a-z][a-z0-9+.-]*:)?/+(?:[^/]*@)?", "", text.strip(" \t\r\n\"'<>"), flags=re.IGNORECASE)
    bare = _ENDPOINT.sub("", re.split(r"[?#\s]|%20", bare, maxsplit=1)[0])
    url = _parsed(f"https://{bare}")
    if url is None or not ("." in url.host or ":" in url.host or url.host == "localhost"):
        return None
    plain = text.strip().lower().startswith("http:") and (allow_http or _is_loopback(url.host))
    return f"{'http' if plain else 'https'}://{bare}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _default_timeout(http_client: object) -> openai.Timeout | NotGiven:
    """Our time-outs, unless the HTTP client has time-outs other than the library's default."""
    own = getattr(http_client, "timeout", None)
    return TIMEOUT if own is None or own == type(own)(5.0) else openai.NOT_GIVEN


def env_headers() -> dict[str, str]:
    """The headers that the SDK takes from OPENAI_CUSTOM_HEADERS, read as the SDK reads them."""
    lines = (line.partition(":") for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"))
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def drop_openai_env(client: openai.OpenAI | openai.AsyncOpenAI, options: Mapping[str, Any]) -> None:
    """Undo what the SDK's constructor read from OPENAI_* variables, which belong to another service.

    `options` are the arguments of the constructor.
    """
    client.organization = options.get("organization")
    client.project = options.get("project")
    client.admin_api_key = options.get("admin_api_key")
    client.webhook_secret = options.get("webhook_secret")
    client._custom_headers = dict(options.get("default_headers") or {})  # noqa: SLF001  # where the SDK merged them in
