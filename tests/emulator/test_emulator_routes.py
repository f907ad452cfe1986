from base64 import b64decode
from collections.abc import Callable
from typing import cast

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator, Reply, VirtualClock
from flux_openai.emulator.api.hosting import link_to
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS

Post = Callable[..., httpx.Response]
WEEK = 7 * 24 * 60 * 60


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error object of an answer, after a check that it has the documented form."""
    error: dict[str, str] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert all(error.values())
    assert error["param"] == response.headers["x-request-id"]
    return error


def test_an_order_is_answered_as_documented(post: Post) -> None:
    """The answer has the three documented keys, and a link for each picture."""
    answer = post(n=2).json()
    assert list(answer) == ["created", "data", "usage"]
    assert answer["created"] == 1_750_667_997
    assert answer["usage"] == {"input_tokens_details": {}}
    assert [list(image) for image in answer["data"]] == [["url"], ["url"]]


def test_one_picture_is_made_unless_more_are_asked_for(post: Post) -> None:
    """`n` is 1 when it is left out."""
    assert len(post().json()["data"]) == 1


def test_an_inline_picture_comes_as_a_data_uri_beside_its_link(post: Post) -> None:
    """b64_json is a data URI, as in the documented example, and url is there as well."""
    (image,) = post(response_format="b64_json").json()["data"]
    assert list(image) == ["url", "b64_json"]
    assert image["b64_json"].startswith("data:image/png;base64,iVBORw0KGgo")


def test_any_host_and_prefix_reaches_the_same_routes(emulator: Emulator) -> None:
    """Links point to the host and port that the order came to, at its root."""
    with emulator.http_client(headers={"authorization": "bearer k"}) as client:
        body = {"model": DEFAULT_MODEL, "prompt": "a fox"}
        answer = client.post("http://127.0.0.1:8123/a/b/images/generations", json=body)
        url = answer.json()["data"][0]["url"]
        assert url.startswith("http://127.0.0.1:8123/files/")
        assert client.get(url).status_code == 200


def test_models_are_listed_in_the_documented_form(http: httpx.Client) -> None:
    """The list names each model of the table, in its order."""
    answer = http.get("/models").json()
    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == list(FLUX_MODELS)
    assert all(list(model) == ["id", "object", "created", "owned_by"] for model in answer["data"])
    assert all(model["object"] == "model" and model["owned_by"] == "black-forest-labs" for model in answer["data"])


@pytest.mark.parametrize(
    "path", ["/", "/images/edits", "/images/generations/", "/models/x", "/xmodels", "/models%0a", "/files/"]
)
def test_other_paths_are_not_found(http: httpx.Client, path: str) -> None:
    """What the emulator does not have is a 404 with the documented error."""
    response = http.get(path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/images/generations", "POST"), ("POST", "/models", "GET"), ("DELETE", "/files/x.png", "GET")],
)
def test_wrong_methods_are_refused(http: httpx.Client, method: str, path: str, allowed: str) -> None:
    """A route called by the wrong method is a 405 that says which is right."""
    response = http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/images/generations", "/models"])
@pytest.mark.parametrize("key", ["", "Bearer", "Bearer   ", "Basic abc", "abc"])
def test_a_bearer_key_is_needed(emulator: Emulator, path: str, key: str) -> None:
    """Without a bearer token the API answers 401, and nothing is billed."""
    method = "GET" if path == "/models" else "POST"
    with emulator.http_client(base_url=emulator.base_url, headers={"authorization": key} if key else {}) as client:
        response = client.request(method, path, json={"model": DEFAULT_MODEL, "prompt": "a fox"})
    assert response.status_code == 401
    assert error_of(response) | {"message": ""} == {
        "message": "",
        "type": "authentication_error",
        "param": "emu-000001",
        "code": "missing_api_key",
    }
    assert emulator.bill.images == 0


@pytest.mark.parametrize(("key", "status"), [("right", 200), ("wrong", 401), ("righter", 401)])
def test_a_given_key_is_the_only_one(key: str, status: int) -> None:
    """With `api_key`, no other key opens, and the refusal tells neither of them."""
    emulator = Emulator(api_key="right")
    with emulator.http_client(headers={"authorization": f"Bearer {key}"}) as client:
        response = client.get("https://api.example/v1/models")
    assert response.status_code == status
    assert status == 200 or (error_of(response)["code"] == "invalid_api_key" and "right" not in response.text)


def test_every_answer_has_its_own_request_id(http: httpx.Client, post: Post) -> None:
    """Ids count the requests of one emulator, good and bad, so that recordings repeat."""
    image = post().json()["data"][0]["url"]
    answers = [http.get(image), http.get(image + "x"), http.get("/models"), http.get("/nowhere"), post(n=9)]
    assert [answer.headers["x-request-id"] for answer in answers] == [f"emu-{number:06d}" for number in range(2, 7)]


def test_requests_are_kept(http: httpx.Client, post: Post, emulator: Emulator) -> None:
    """Each request is kept with method, path, headers and JSON body; the path is without a link's signature."""
    url = post(seed=7, headers={"Idempotency-Key": "k1"}).json()["data"][0]["url"]
    http.get(url)
    order, download = emulator.requests
    assert (order.method, order.path) == ("POST", "/v1/images/generations")
    assert order.body == {"model": DEFAULT_MODEL, "prompt": "a fox", "seed": 7}
    assert order.headers["Idempotency-Key"] == "k1"
    assert (download.method, download.path) == ("GET", httpx.URL(url).path)
    assert download.body is None


def test_the_repr_of_a_request_holds_no_key(post: Post, emulator: Emulator) -> None:
    """The headers, and with them the key, stay out of the repr."""
    post(headers={"x-key": "hush"})
    assert emulator.requests[0].headers["X-Key"] == "hush"
    assert "hush" not in repr(emulator.requests)


def test_requests_are_given_out_as_a_copy(post: Post, emulator: Emulator) -> None:
    """What a caller does to the list does not change the journal."""
    post()
    emulator.requests.clear()
    assert len(emulator.requests) == 1


def test_a_link_opens_for_anyone(post: Post, emulator: Emulator) -> None:
    """The signature is all a link needs: no key."""
    url = post().json()["data"][0]["url"]
    with emulator.http_client() as client:
        response = client.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert response.content.startswith(b"\x89PNG")


def test_a_link_gives_the_picture_that_came_inline(post: Post, http: httpx.Client) -> None:
    """Both formats hold the same bytes."""
    data = post(response_format="b64_json", n=2).json()["data"]
    inline = [b64decode(image["b64_json"].partition(",")[2], validate=True) for image in data]
    assert [http.get(image["url"]).content for image in data] == inline


@pytest.mark.parametrize(
    ("age", "status"), [(0, 200), (WEEK - 1, 200), (WEEK - 0.5, 410), (WEEK, 410), (WEEK * 9, 410)]
)
def test_links_live_seven_days(post: Post, http: httpx.Client, now: list[float], age: float, status: int) -> None:
    """A link opens for seven days on the emulator's clock, and is gone after them."""
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
    """Name and expiry are signed; the refusal is in XML, as object stores write it."""
    response = http.get(spoil(post().json()["data"][0]["url"]))
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/xml"
    assert "<Code>SignatureDoesNotMatch</Code>" in response.text
    assert f"<RequestId>{response.headers['x-request-id']}</RequestId>" in response.text


def test_a_signed_expiry_that_is_no_number_does_not_open(http: httpx.Client) -> None:
    """The key that signs is no secret, so anything may be signed."""
    link = link_to("a.png", expires=cast("int", "soon"), origin=httpx.URL("https://api.example"))
    assert http.get(link).status_code == 403


def test_another_emulators_picture_is_not_here(post: Post) -> None:
    """A good signature does not help where the picture was never made."""
    url = post().json()["data"][0]["url"]
    with Emulator(clock=lambda: 0).http_client() as client:
        response = client.get(url)
    assert response.status_code == 404
    assert "<Code>NoSuchKey</Code>" in response.text


def test_the_same_orders_get_the_same_answers() -> None:
    """Two emulators on one clock answer to the byte alike, so that a recording can be made again."""

    def answer() -> bytes:
        emulator = Emulator(pixels=256, clock=lambda: 1e9)
        with emulator.http_client(headers={"authorization": "Bearer k"}) as client:
            body = {"model": DEFAULT_MODEL, "prompt": "a fox", "n": 4, "response_format": "b64_json"}
            return client.post("https://api.example/v1/images/generations", json=body).content

    assert answer() == answer()


def test_two_orders_never_share_a_link(post: Post) -> None:
    """The same order twice gives the same picture under two links."""
    first, second = (post().json()["data"][0]["url"] for _ in range(2))
    assert first != second


def test_an_answer_in_plain_values(emulator: Emulator) -> None:
    """`answer` speaks of status, headers and bytes alone, for servers that are not httpx."""
    reply = emulator.answer(httpx.Request("GET", "https://api.example/v1/nowhere"))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.error, reply.headers["x-request-id"]) == (404, None, "emu-000001")


@pytest.mark.parametrize(
    "options",
    [
        *({"pixels": value} for value in (0, -5, True, 1.5, "9")),
        *({"api_key": value} for value in (" ", 5)),
        *({"clock": value} for value in (5, VirtualClock)),
        *({"journal": value} for value in (5, b"x")),
        *({"limits": value} for value in (None, 10)),
        *({"seed": value} for value in ("1", 1.5)),
    ],
)
def test_an_emulator_cannot_be_set_up_wrongly(options: dict[str, object]) -> None:
    """Options out of range are refused by name."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Emulator(**options)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_async_clients_reach_the_same_emulator(emulator: Emulator) -> None:
    """Order and download work over an async client."""
    async with emulator.async_http_client(headers={"authorization": "Bearer k"}) as client:
        body = {"model": DEFAULT_MODEL, "prompt": "a fox"}
        answer = await client.post("https://api.example/v1/images/generations", json=body)
        image = await client.get(answer.json()["data"][0]["url"])
    assert image.content.startswith(b"\x89PNG")
    assert len(emulator.requests) == 2
