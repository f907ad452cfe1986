"""`Emulator.fail`: what goes wrong with the next calls, and what it refuses."""

from collections.abc import Callable

import pytest

from flux_openai._http.library import httpx
from flux_openai.emulator import Emulator
from flux_openai.emulator.api.responses import TRANSPORT_FAULTS, TransportFault
from flux_openai.errors import ConfigurationError
from flux_openai.models import DEFAULT_MODEL

Post = Callable[..., httpx.Response]

RAISED: dict[TransportFault, type[httpx.TransportError]] = {
    **dict.fromkeys(("connect", "dns", "tls", "certificate"), httpx.ConnectError),
    "connect_timeout": httpx.ConnectTimeout,
    "proxy": httpx.ProxyError,
    "pool": httpx.PoolTimeout,
    "upload_reset": httpx.WriteError,
    "upload_timeout": httpx.WriteTimeout,
    "timeout": httpx.ReadTimeout,
    "reset": httpx.ReadError,
    "garbage": httpx.RemoteProtocolError,
    "truncate": httpx.RemoteProtocolError,
}


def test_faults_come_first_and_in_order(post: Post, emulator: Emulator) -> None:
    """Faults line up; when they are used up, the service works again; each call is kept."""
    emulator.fail(2, status=503)
    emulator.fail(status=429)
    assert [post().status_code for _ in range(5)] == [503, 503, 429, 200, 200]
    assert len(emulator.requests) == 5


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", "param_error"),
        (401, "invalid_request_error", "auth_error"),
        (403, "permission_error", "forbidden"),
        (413, "invalid_request_error", "content_too_large"),
        (418, "invalid_request_error", "i_m_a_teapot"),
        (408, "timeout", "timeout"),
        (429, "rate_limit_error", "rate_limit"),
        (500, "internal_error", "internal_error"),
        (504, "timeout", "gateway_timeout_error"),
        (524, "internal_error", "unknown_error"),
        (200, "internal_error", "internal_error"),
    ],
)
def test_a_bare_status_answers_with_the_documented_error(
    post: Post, emulator: Emulator, status: int, kind: str, code: str
) -> None:
    """Message, type, param and code are there, also inside a 200."""
    emulator.fail(status=status)
    response = post()
    error = response.json()["error"]
    assert response.status_code == status
    assert (error["type"], error["code"], error["param"]) == (kind, code, response.headers["x-request-id"])


@pytest.mark.parametrize(
    ("body", "sent", "content_type"),
    [
        ({"data": None}, b'{"data": null}', "application/json"),
        ([1], b"[1]", "application/json"),
        (7, b"7", "text/plain"),
        ("<html>", b"<html>", "text/html"),
        (b" <html>", b" <html>", "text/html"),
        ('{"data": [', b'{"data": [', "application/json"),
        ("busy é", "busy é".encode(), "text/plain"),
        (b"", b"", "text/plain"),
        ("", b"", "text/plain"),
    ],
)
def test_a_body_is_sent_as_it_is(post: Post, emulator: Emulator, body: object, sent: bytes, content_type: str) -> None:
    """Objects become JSON; text and bytes stay what they are, and say what they look like."""
    emulator.fail(status=200, body=body)
    response = post()
    assert (response.content, response.headers["content-type"]) == (sent, content_type)


def test_headers_of_a_fault_win(post: Post, emulator: Emulator) -> None:
    """What the fault sets replaces what the emulator would send, in whatever case it is written."""
    emulator.fail(status=429, headers={"Retry-After": "7", "X-Request-ID": "mine", "Content-Type": "text/x"})
    headers = post().headers
    assert (headers["retry-after"], headers["x-request-id"], headers["content-type"]) == ("7", "mine", "text/x")
    assert len(headers.get_list("content-type")) == 1


def test_a_body_is_encoded_when_the_fault_is_lined_up(post: Post, emulator: Emulator) -> None:
    """Later changes to the object do not reach the answer."""
    body = {"data": [1]}
    emulator.fail(status=200, body=body)
    body["data"].append(2)
    assert post().json() == {"data": [1]}


@pytest.mark.parametrize("error", TRANSPORT_FAULTS)
def test_exchanges_break(post: Post, emulator: Emulator, error: TransportFault) -> None:
    """Each kind of breakage raises what httpx raises for it, with the request, once."""
    emulator.fail(error=error)
    with pytest.raises(RAISED[error]) as caught:
        post()
    assert type(caught.value) is RAISED[error]
    assert caught.value.request.url.path == "/v1/images/generations"
    assert post().status_code == 200
    assert len(emulator.requests) == 2


@pytest.mark.parametrize("error", ["connect", "upload_reset", "truncate"])
@pytest.mark.anyio
async def test_exchanges_break_async(emulator: Emulator, error: TransportFault) -> None:
    """An async client sees the same: before the order is sent, while it is, and while the body is read."""
    emulator.fail(error=error)
    async with emulator.async_http_client(headers={"authorization": "Bearer k"}) as client:
        body = {"model": DEFAULT_MODEL, "prompt": "a fox"}
        with pytest.raises(RAISED[error]) as caught:
            await client.post("https://api.example/v1/images/generations", json=body)
        assert type(caught.value) is RAISED[error]
        assert (await client.post("https://api.example/v1/images/generations", json=body)).status_code == 200


def test_a_truncated_answer_begins_well(http: httpx.Client, emulator: Emulator) -> None:
    """Status and headers are good, the length is that of the whole, and half of the bytes arrive."""
    emulator.fail(error="truncate")
    body = {"model": DEFAULT_MODEL, "prompt": "a fox"}
    with http.stream("POST", "/images/generations", json=body) as response:
        assert response.status_code == 200
        parts = response.iter_raw()
        received = next(parts)
        with pytest.raises(httpx.RemoteProtocolError):
            next(parts)
    assert received.startswith(b'{"created": ')
    assert len(received) == int(response.headers["content-length"]) // 2


def test_faults_come_before_the_services_own_checks(post: Post, emulator: Emulator) -> None:
    """A gateway fails before anyone looks at the key or the fields, and such a call costs nothing."""
    emulator.fail(3, status=503, billed=True)
    assert post(n=99).status_code == 503
    assert post(headers={"authorization": ""}).status_code == 503
    assert post(model="nope").status_code == 503
    assert emulator.bill.calls == 0
    assert post(n=99).status_code == 400


def test_a_truncated_refusal_is_still_a_refusal(post: Post, emulator: Emulator) -> None:
    """Breaking off a refusal bills nothing."""
    emulator.fail(error="truncate")
    with pytest.raises(httpx.RemoteProtocolError):
        post(n=99)
    assert emulator.bill.calls == 0


def test_each_kind_of_call_has_its_own_faults(post: Post, http: httpx.Client, emulator: Emulator) -> None:
    """A fault for downloads waits for a download, and other routes use up none."""
    emulator.fail(status=500, on="download")
    emulator.fail(status=502)
    assert http.get("/models").status_code == 200
    assert http.get("/images/generations").status_code == 405
    assert post().status_code == 502
    url = post().json()["data"][0]["url"]
    assert [http.get(url).status_code for _ in range(2)] == [500, 200]


def test_a_failed_download_speaks_xml(post: Post, http: httpx.Client, emulator: Emulator) -> None:
    """An object store does not know the API's errors."""
    emulator.fail(status=503, on="download")
    response = http.get(post().json()["data"][0]["url"])
    assert response.headers["content-type"] == "application/xml"
    assert "<Code>service_unavailable</Code>" in response.text


def test_a_download_may_bring_other_bytes(post: Post, http: httpx.Client, emulator: Emulator) -> None:
    """What is not markup is said to be a picture, as a careless store would."""
    emulator.fail(status=200, body=b"GIF89a", on="download")
    response = http.get(post().json()["data"][0]["url"])
    assert (response.content, response.headers["content-type"]) == (b"GIF89a", "image/png")


@pytest.mark.parametrize("error", ["connect", "upload_timeout", "reset", "truncate"])
def test_downloads_break(post: Post, http: httpx.Client, emulator: Emulator, error: TransportFault) -> None:
    """Downloads break in the same ways, and none of them is billed."""
    url = post().json()["data"][0]["url"]
    emulator.fail(error=error, on="download")
    with pytest.raises(RAISED[error]):
        http.get(url)
    assert http.get(url).status_code == 200
    assert emulator.bill.calls == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"times": 0, "status": 500}, r"times=0: .*nearest: 1"),
        ({"times": True, "status": 500}, r"times=True: .*nearest: 1"),
        ({"times": 1.5, "status": 500}, r"times=1.5: .*nearest: 1"),
        ({}, r"status=None: give a status or an error"),
        ({"status": 500, "error": "reset"}, r"error='reset': .*not both.*status=500"),
        ({"status": 99}, r"status=99: must be from 200 to 599 \(nearest: 200\)"),
        ({"status": 600}, r"status=600: .*nearest: 599"),
        ({"status": True}, r"status=True: must be from"),
        ({"status": "500"}, r"status='500': must be from .*nearest: 500"),
        ({"status": "soon"}, r"status='soon': must be from .*nearest: 599"),
        ({"status": 500, "headers": [("a", "b")]}, r"headers=<list>: must be names and values"),
        ({"error": "conect"}, r"error='conect': must be one of connect, .*nearest: 'connect'"),
        ({"error": "time-out"}, r"nearest: 'timeout'"),
        ({"error": 7}, r"error=7: must be one of"),
        ({"error": "reset", "on": "downloads"}, r"on='downloads': .*nearest: 'download'"),
        ({"error": "reset", "body": "x"}, r"body='x': needs a status"),
        ({"error": "reset", "headers": {}}, r"headers=<dict>: need a status"),
        ({"status": 429, "headers": {"retry-after": 5}}, r"headers\['retry-after'\]=5: must be a string.*'5'"),
        ({"status": 200, "body": {1, 2}}, r"body=<set>: cannot be written as JSON"),
        ({"status": 500, "billed": 1}, r"billed=1: must be True, False or None \(nearest: True\)"),
        ({"error": "connect", "billed": True}, r"billed=True: .*never sent.*nearest: False"),
        ({"status": 500, "billed": True, "on": "download"}, r"billed=True: downloads are never billed"),
    ],
)
def test_wrong_arguments_are_refused(post: Post, emulator: Emulator, wrong: dict[str, object], says: str) -> None:
    """Wrong arguments are refused with parameter, value, rule and nearest value, and leaves nothing behind."""
    with pytest.raises(ConfigurationError, match=says):
        emulator.fail(**wrong)  # type: ignore[arg-type]
    assert post().status_code == 200


def test_all_that_is_wrong_is_reported_at_once(emulator: Emulator) -> None:
    """One error names every wrong argument, and is a ValueError."""
    with pytest.raises(ValueError, match=r"(?s)times=0.*status=1000.*billed=2") as caught:
        emulator.fail(0, status=1000, billed=2)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 3


def test_what_was_lined_up_goes_before_the_script(post: Post, emulator: Emulator) -> None:
    """`fail` wins over the script, and the request counts as an occurrence all the same."""
    emulator.script("* #1..2 -> status(429)")
    emulator.fail(status=503)
    assert [post().status_code for _ in range(3)] == [503, 429, 200]
