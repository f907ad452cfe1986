"""What a client is set up with: key, base_url and the settings that its copies inherit. Nothing is sent here."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import openai

from flux_openai._http.library import httpx
from flux_openai.errors import ConfigurationError, InvalidParam

__all__ = [
    "ambient_headers",
    "check",
    "checked_base_url",
    "checked_key",
    "default_timeout",
    "shield",
    "without_locals",
]

BASE_URL = "https://api.umodelverse.ai/v1"
TIMEOUT = openai.Timeout(300.0, connect=5.0, write=30.0, pool=10.0)
"""Long on purpose where it reads: a client that stops waiting after the request is sent has paid for nothing."""


_P = ParamSpec("_P")
_R = TypeVar("_R")


def without_locals(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let errors leave a function that is given the key from a frame that does not hold it: tracebacks show locals."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except (openai.OpenAIError, TypeError, ValueError) as error:
            kwargs.clear()
            raise error.with_traceback(None) from None

    return wrapper


_KEY = re.compile(r"[\x21-\x7e]+")

_Provider = TypeVar("_Provider", bound=Callable[..., object])


def checked_key(api_key: str | _Provider | None, environ: Mapping[str, str] = os.environ) -> str | _Provider:
    """The key, or the one in MODELVERSE_API_KEY. Raises ConfigurationError, which never contains the key."""
    key = api_key if api_key is not None else environ.get("MODELVERSE_API_KEY")
    if not key:
        raise ConfigurationError(
            "no API key: pass api_key=… or set MODELVERSE_API_KEY (OPENAI_API_KEY belongs to another service "
            "and is not used)"
        )
    if isinstance(key, str) and not _KEY.fullmatch(key):
        raise ConfigurationError(
            "the API key must be plain ASCII without spaces or line breaks; what was given is not "
            "(a key read from a file often ends in a line break: use .strip())"
        )
    return key


def checked_base_url(base_url: object, environ: Mapping[str, str] = os.environ) -> str:
    """The base URL, or the one in MODELVERSE_BASE_URL, or the documented one. Raises ConfigurationError.

    Plain http is for loopback only: it would send the key in the clear.
    """
    return _checked(str(base_url) if base_url is not None else environ.get("MODELVERSE_BASE_URL") or BASE_URL)


@without_locals
def check(client: openai.OpenAI | openai.AsyncOpenAI) -> None:
    """Check before a call what can be assigned to a client at any time. Raises ConfigurationError."""
    checked_base_url(client.base_url)
    if client.api_key:
        checked_key(client.api_key)


_HOST = re.compile(rb"[A-Za-z0-9._:-]+")


@lru_cache(maxsize=16)
def _checked(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not _HOST.fullmatch(url.raw_host) or url.userinfo:
        rule = "must be an https:// address without a user name in it"
        raise ConfigurationError.of(InvalidParam(param="base_url", value=_bare(text), rule=rule, nearest=BASE_URL))
    if url.scheme == "http" and not _is_loopback(url.host):
        rule = "plain http would send the key in the clear, and is taken for loopback addresses only"
        nearest = _bare(str(url.copy_with(scheme="https")))
        raise ConfigurationError.of(InvalidParam(param="base_url", value=_bare(text), rule=rule, nearest=nearest))
    return text


def _bare(url: str) -> str:
    """The URL as it may stand in a message: without user name and query."""
    return re.sub(r"//.*@", "//", url).partition("?")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_timeout(http_client: object) -> openai.Timeout | openai.NotGiven:
    """Our time-outs, unless the given HTTP client was made with time-outs of its own."""
    own = getattr(http_client, "timeout", None)
    return TIMEOUT if own is None or own == type(own)(5.0) else openai.NOT_GIVEN


def ambient_headers(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The headers that the SDK takes from OPENAI_CUSTOM_HEADERS, read as the SDK reads them."""
    lines = (line.partition(":") for line in environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"))
    return {name.strip(): value.strip() for name, colon, value in lines if colon}


def shield(
    client: openai.OpenAI | openai.AsyncOpenAI,
    *,
    organization: str | None,
    project: str | None,
    admin_api_key: str | None,
    webhook_secret: str | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Take back what the SDK's constructor read from OPENAI_* variables: it belongs to another service."""
    client.organization = organization
    client.project = project
    client.admin_api_key = admin_api_key
    client.webhook_secret = webhook_secret
    client._custom_headers = dict(headers or {})  # noqa: SLF001  # where the SDK merged OPENAI_CUSTOM_HEADERS in
