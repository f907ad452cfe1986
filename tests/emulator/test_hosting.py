"""Links to hosted pictures: who may open them, for how long, and what else they answer."""

from base64 import b64decode
from collections.abc import Callable
from typing import cast

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.emulator.api.hosting import link_to

Post = Callable[..., httpx.Response]
WEEK = 7 * 24 * 60 * 60


def test_a_link_opens_for_anyone(post: Post, emulator: Emulator) -> None:
    """A signed link opens without a key."""
    url = post().json()["data"][0]["url"]
    with emulator.http_client() as client:
        response = client.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG")


def test_a_link_leads_to_the_picture_that_came_inline(post: Post, http: httpx.Client) -> None:
    """Both formats hold the same bytes."""
    data = post(response_format="b64_json", n=2).json()["data"]
    inline = [b64decode(image["b64_json"].partition(",")[2], validate=True) for image in data]
    assert [http.get(image["url"]).content for image in data] == inline


@pytest.mark.parametrize(
    ("age", "status"), [(0, 200), (WEEK - 1, 200), (WEEK - 0.5, 410), (WEEK, 410), (WEEK * 9, 410)]
)
def test_links_live_seven_days(post: Post, http: httpx.Client, now: list[float], age: float, status: int) -> None:
    """A link opens for seven days on the emulator's clock, and is a 410 after them."""
    url = post().json()["data"][0]["url"]
    now[0] += age
    assert http.get(url).status_code == status


@pytest.mark.parametrize(
    "spoil",
    [
        lambda url: url.partition("?")[0],
        lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
        lambda url: url.replace("expires=", "expires=9"),
        lambda url: url.replace(".png", "0.png"),
        lambda url: url.replace("expires=", "expires=x"),
    ],
    ids=["no query", "signature", "expiry", "name", "no number"],
)
def test_a_link_that_was_changed_does_not_open(post: Post, http: httpx.Client, spoil: Callable[[str], str]) -> None:
    """Name and expiry are signed; the error is in XML, as object stores write it."""
    response = http.get(spoil(post().json()["data"][0]["url"]))
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/xml"
    assert "<Code>SignatureDoesNotMatch</Code>" in response.text
    assert f"<RequestId>{response.headers['x-request-id']}</RequestId>" in response.text


def test_a_signed_expiry_that_is_no_number_does_not_open(http: httpx.Client) -> None:
    """The signing key is no secret, so anything may be signed with it."""
    link = link_to("a.png", expires=cast("int", "soon"), origin=httpx.URL("https://api.example"))
    assert http.get(link).status_code == 403


def test_another_emulators_picture_is_not_here(post: Post) -> None:
    """A valid link to a picture that this emulator never made is a 404."""
    url = post().json()["data"][0]["url"]
    with Emulator(clock=lambda: 0).http_client() as client:
        response = client.get(url)
    assert response.status_code == 404
    assert "<Code>NoSuchKey</Code>" in response.text


def test_two_orders_never_share_a_link(post: Post) -> None:
    """The same order twice gives the same picture under two links."""
    first, second = (post().json()["data"][0]["url"] for _ in range(2))
    assert first != second
