"""Scrubbing: what of an exchange a cassette may keep. No key, no query value of a link, and 1 KiB of each image.

Requests are compared when a cassette is replayed, so of them only secrets and links change (`request=True`).
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
"""What stands in the place of a secret; a URL need not escape any letter of it."""

_IMAGE_LIMIT = 1024


def scrub_text(text: str, secrets: tuple[str, ...] = (), *, request: bool = False) -> str:
    """The text without the secrets and without the query values of its links; an image in base64 is cut to 1 KiB."""
    text = replace_secrets(text, secrets, by=PLACEHOLDER)
    if len(text) > _IMAGE_LIMIT and (plain := plain_base64(text)) and sniff(data := base64.b64decode(plain)):
        text = text[: text.find(",") + 1] + base64.b64encode(data[:_IMAGE_LIMIT]).decode()
    text = LINK.sub(lambda link: strip_query_values(link[0]), USER_INFO.sub(r"\1", text))
    # `is it?a=fox` in an answer may be a link that only its reader completes; in a prompt it must stay different from
    # `is it?a=dog`.
    return text if request else scrub_relative_links(text, by=PLACEHOLDER)


def strip_query_values(link: str) -> str:
    """The link with a placeholder for each value in its query, and without a user name and a fragment."""
    address, mark, query = link.partition("#")[0].partition("?")
    return re.sub("//[^/]*@", "//", address) + mark + query_without_values(query, by=PLACEHOLDER)


def scrub_body(body: bytes, secrets: tuple[str, ...] = (), *, request: bool = False) -> bytes:
    """The body with its text scrubbed. Of an image the first KiB stays, and 16 bytes of what is neither."""
    if sniff(body):
        return body[:_IMAGE_LIMIT]  # its type is all that a replay looks at
    return clean_body(body, partial(scrub_text, secrets=secrets, request=request))[0]
