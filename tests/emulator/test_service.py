"""The service through its API: routes, keys, what it records of requests, and the bill."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import openai
import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Bill, Emulator
from flux_openai.emulator.api.responses import TransportFault
from flux_openai.models import DEFAULT_MODEL, FLUX_MODELS

Post = Callable[..., httpx.Response]


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
    """The list names each model of the table, in the order of the table."""
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
    """A route called by the wrong method is a 405 whose Allow header names the right one."""
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
        "type": "invalid_request_error",
        "param": "emu-000001",
        "code": "auth_error",
    }
    assert emulator.bill.images == 0


@pytest.mark.parametrize(("key", "status"), [("right", 200), ("wrong", 401), ("righter", 401)])
def test_a_given_key_is_the_only_one(key: str, status: int) -> None:
    """With `api_key`, any other key is refused, and the error repeats neither of them."""
    emulator = Emulator(api_key="right")
    with emulator.http_client(headers={"authorization": f"Bearer {key}"}) as client:
        response = client.get("https://api.example/v1/models")
    assert response.status_code == status
    assert status == 200 or (error_of(response)["code"] == "auth_error" and "right" not in response.text)


def test_every_answer_has_its_own_request_id(http: httpx.Client, post: Post) -> None:
    """The ids count the requests of an emulator, refused ones too, so that recordings can be reproduced."""
    image = post().json()["data"][0]["url"]
    answers = [http.get(image), http.get(image + "x"), http.get("/models"), http.get("/nowhere"), post(n=9)]
    assert [answer.headers["x-request-id"] for answer in answers] == [f"emu-{number:06d}" for number in range(2, 7)]


def test_requests_are_recorded(http: httpx.Client, post: Post, emulator: Emulator) -> None:
    """Each request is recorded with method, path, headers and JSON body; the path is without a link's signature."""
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


def test_the_same_orders_get_the_same_answers() -> None:
    """Two emulators whose clocks agree answer alike to the byte, so that recordings can be reproduced."""

    def answer() -> bytes:
        emulator = Emulator(pixels=256, clock=lambda: 1e9)
        with emulator.http_client(headers={"authorization": "Bearer k"}) as client:
            body = {"model": DEFAULT_MODEL, "prompt": "a fox", "n": 4, "response_format": "b64_json"}
            return client.post("https://api.example/v1/images/generations", json=body).content

    assert answer() == answer()


def test_the_bill_counts_images_and_calls(post: Post, emulator: Emulator) -> None:
    """Three orders of six pictures cost six pictures in three calls."""
    for n in (1, 2, 3):
        post(n=n)
    assert emulator.bill == Bill(images=6, calls=3, duplicates=0)


def test_only_orders_cost_anything(post: Post, http: httpx.Client, emulator: Emulator) -> None:
    """Refused requests, lists and downloads are free."""
    url = post().json()["data"][0]["url"]
    http.get(url)
    http.get("/models")
    post(n=0)
    post(headers={"authorization": "x"})
    assert emulator.bill == Bill(images=1, calls=1, duplicates=0)


def test_a_bill_does_not_change_afterwards(post: Post, emulator: Emulator) -> None:
    """A bill is a value, so that one from before a call can be compared with one from after it."""
    before = emulator.bill
    post()
    assert (before.images, emulator.bill.images) == (0, 1)


@pytest.mark.parametrize(
    ("orders", "duplicates"),
    [
        (["a", "a"], 1),
        (["a", "b"], 0),  # meant: each has a key of its own
        ([None, None, None], 2),  # a retry of a client without keys, or two equal calls: nobody can tell
        (["", None], 1),
        (["a", None], 1),
        ([None, "a"], 0),
        ([None, "a", "a"], 1),
    ],
)
def test_paying_twice_is_counted(post: Post, emulator: Emulator, orders: list[str | None], duplicates: int) -> None:
    """Pictures that were billed before are duplicates: by Idempotency-Key or, without one, by caller and body."""
    for key in orders:
        post(n=2, headers=None if key is None else {"Idempotency-Key": key})
    assert emulator.bill == Bill(images=2 * len(orders), calls=len(orders), duplicates=2 * duplicates)


def test_what_differs_without_a_key_is_no_duplicate(post: Post, emulator: Emulator) -> None:
    """Another body, another caller, and an order after one that was not billed."""
    emulator.fail(status=503)
    for fields in ({}, {}, {"seed": 1}, {"seed": True}, {"n": 2}, {"headers": {"authorization": "Bearer another"}}):
        post(**fields)
    assert emulator.bill == Bill(images=5, calls=4, duplicates=0)


def test_a_retry_of_the_plain_sdk_is_a_duplicate(emulator: Emulator) -> None:
    """It sends no Idempotency-Key, so the second picture of a billed time-out is seen by its body."""
    emulator.fail(error="timeout")
    with openai.OpenAI(api_key="k", base_url=emulator.base_url, http_client=emulator.http_client()) as client:
        client.images.generate(model=DEFAULT_MODEL, prompt="a fox")
    assert "idempotency-key" not in emulator.requests[1].headers
    assert emulator.bill == Bill(images=2, calls=2, duplicates=1)


def test_a_retry_after_a_free_failure_is_no_duplicate(post: Post, emulator: Emulator) -> None:
    """What was not billed the first time is billed once."""
    emulator.fail(status=503)
    for _ in range(2):
        post(headers={"Idempotency-Key": "a"})
    assert emulator.bill == Bill(images=1, calls=1, duplicates=0)


def test_a_retry_after_a_lost_answer_is_a_duplicate(post: Post, emulator: Emulator) -> None:
    """A time-out hides work that was done, so the second attempt pays again."""
    emulator.fail(error="timeout")
    with pytest.raises(httpx.ReadTimeout):
        post(n=3, headers={"Idempotency-Key": "a"})
    post(n=3, headers={"Idempotency-Key": "a"})
    assert emulator.bill == Bill(images=6, calls=2, duplicates=3)


@pytest.mark.parametrize(
    ("error", "billed", "images"),
    [
        ("connect", None, 0),
        ("connect", False, 0),
        ("timeout", None, 2),
        ("timeout", False, 0),
        ("reset", None, 2),
        ("reset", False, 0),
        ("truncate", None, 2),
        ("truncate", False, 0),
    ],
)
def test_a_broken_exchange_is_billed_if_it_was_sent(
    post: Post, emulator: Emulator, error: TransportFault, *, billed: bool | None, images: int
) -> None:
    """An exchange that breaks after sending is billed, unless the fault says otherwise."""
    emulator.fail(error=error, billed=billed)
    with pytest.raises(httpx.TransportError):
        post(n=2)
    assert emulator.bill.images == images


@pytest.mark.parametrize(
    ("status", "billed", "images"),
    [(200, None, 2), (200, False, 0), (201, None, 2), (500, None, 0), (500, True, 2), (429, None, 0), (504, True, 2)],
)
def test_a_status_is_billed_if_it_is_a_success(
    post: Post, emulator: Emulator, status: int, *, billed: bool | None, images: int
) -> None:
    """An error status is free and a wrong 200 is not, unless the fault says otherwise."""
    emulator.fail(status=status, billed=billed)
    post(n=2)
    assert emulator.bill.images == images


def test_threads_do_not_disturb_each_other(emulator: Emulator) -> None:
    """With eight at once, each request has its own number, each fault strikes once, and each picture is billed."""
    threads, calls, faults = 8, 25, 40
    emulator.fail(faults, status=503)
    start = Barrier(threads)

    def work(thread: int) -> list[tuple[int, str]]:
        start.wait()
        headers = {"authorization": "Bearer k", "idempotency-key": f"thread {thread}"}
        body = {"model": DEFAULT_MODEL, "prompt": f"fox {thread}", "n": 2}
        with emulator.http_client(base_url=emulator.base_url, headers=headers) as client:
            answers = [client.post("/images/generations", json=body) for _ in range(calls)]
            links = [image["url"] for answer in answers if answer.is_success for image in answer.json()["data"]]
            assert all(client.get(link).status_code == 200 for link in links)
        return [(answer.status_code, answer.headers["x-request-id"]) for answer in answers]

    with ThreadPoolExecutor(threads) as pool:
        seen = [answer for answers in pool.map(work, range(threads)) for answer in answers]
    good = threads * calls - faults
    assert [status for status, _ in seen].count(503) == faults
    assert len({number for _, number in seen}) == threads * calls
    assert emulator.bill.images == 2 * good
    assert emulator.bill.calls == good
    assert len(emulator.requests) == threads * calls + 2 * good
