"""Scrubbing for cassettes: removes keys and the query values of links, and cuts images to 1 KiB.

Replay compares requests, so in them only secrets and whole links change (`request=True`); in answers query values of
relative links are replaced too.
"""

import base64
import re
from functools import partial

from flux_openai._http.redaction import (
    LINK,
    USER_INFO,
    clean_body,
    query_without_values,
    replace_secrets,
    scrub_relative_links,
)
from flux_openai.formats import plain_base64, sniff

__all__ = ["PLACEHOLDER", "scrub_body", "scrub_text", "strip_query_values"]

PLACEHOLDER = "redacted"
"""The replacement for a secret; without characters that a URL would escape."""

_IMAGE_LIMIT = 1024


def scrub_text(text: str, secrets: tuple[str, ...] = (), *, request: bool = False) -> str:
    """The text with the secrets and the query values of its links replaced; an image in base64 is cut to 1 KiB."""
    text = replace_secrets(text, secrets, by=PLACEHOLDER)
    if len(text) > _IMAGE_LIMIT and (plain := plain_base64(text)) and sniff(data := base64.b64decode(plain)):
        text = text[: text.find(",") + 1] + base64.b64encode(data[:_IMAGE_LIMIT]).decode()
    text = LINK.sub(lambda link: strip_query_values(link[0]), USER_INFO.sub(r"\1", text))
    # In an answer `is it?a=fox` may be a relative link. In a prompt it is left: otherwise a request with the prompt
    # `is it?a=dog` would match the same cassette.
    return text if request else scrub_relative_links(text, by=PLACEHOLDER)


def strip_query_values(link: str) -> str:
    """The link with a placeholder for each value in its query, without user name and fragment."""
    address, mark, query = link.partition("#")[0].partition("?")
    return re.sub("//[^/]*@", "//", address) + mark + query_without_values(query, by=PLACEHOLDER)


def scrub_body(body: bytes, secrets: tuple[str, ...] = (), *, request: bool = False) -> bytes:
    """The scrubbed body. An image is cut to 1 KiB, other binary data to 16 bytes."""
    if sniff(body):
        return body[:_IMAGE_LIMIT]  # enough for its type and size
    return clean_body(body, partial(scrub_text, secrets=secrets, request=request))[0]
