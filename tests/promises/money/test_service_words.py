"""What the service says reaches the reader: its message in whatever form, flags of moderation, and why nothing came."""

from __future__ import annotations

import errno
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
import pytest

from flux_openai import Emulator, FluxOpenAI, FluxWarning, adapt
from flux_openai._http.library import httpx
from flux_openai.errors import (
    BadResponseError,
    FluxAuthenticationError,
    FluxBadRequestError,
    FluxConnectionError,
    FluxStatusError,
)
from tests.promises.money.fakes import BODY, IMAGE, JSON, OK, Answers, read_and_reset, through

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.promises.money.conftest import MakeServer, OpenClient
    from tests.promises.money.fakes import Connection

both_sides = pytest.mark.parametrize("side", ["sync", "async"])
KEY = "sk-flux-test-KEY-0f3a"
LINK = "https://h.example/p?sig=CANARY"
JOB = "job-12"


@dataclass(frozen=True, kw_only=True)
class Said:
    """The body of an error, and what the error made from it says."""

    body: object
    message: str
    code: str | None = None
    type: str | None = None
    request_id: str = "req-header"


FORMS = {
    "documented": Said(
        body={"error": {"message": "No.", "type": "t_x", "param": JOB, "code": "c_x"}},
        message="No",
        code="c_x",
        type="t_x",
        request_id=JOB,
    ),
    "error is text": Said(body={"error": "It is so."}, message="It is so"),
    "error is a word": Said(
        body={"error": "c_x", "error_description": "It is so."}, message="c_x: It is so", code="c_x"
    ),
    "message beside error": Said(body={"error": "Oh no", "message": "too long"}, message="Oh no: too long"),
    "the same twice": Said(body={"error": "It is so", "message": "It is so, yes."}, message="It is so, yes"),
    "message beside an object": Said(
        body={"message": "Oh no", "error": {"code": "c_x", "detail": "why"}}, message="why: Oh no", code="c_x"
    ),
    "list of messages": Said(
        body={"statusCode": 400, "message": ["one", "two"], "error": "Oh no"}, message="Oh no: one; two", code="400"
    ),
    "detail": Said(body={"detail": "It is so."}, message="It is so"),
    "detail of FastAPI": Said(
        body={"detail": [{"loc": ["body", "prompt"], "msg": "too long", "type": "t"}, {"loc": ["n"], "msg": "is 9"}]},
        message="prompt: too long; n: is 9",
    ),
    "detail object": Said(
        body={"detail": {"error": {"message": "It is so.", "code": "c_x", "type": "t_x"}}},
        message="It is so",
        code="c_x",
        type="t_x",
    ),
    "problem details": Said(
        body={"type": "about:blank", "title": "Oh no", "detail": "It is so."}, message="It is so", type="about:blank"
    ),
    "title": Said(body={"title": "Oh no"}, message="Oh no"),
    "msg": Said(body={"code": 17, "msg": "It is so."}, message="It is so", code="17"),
    "error_msg": Said(body={"error_code": 17, "error_msg": "It is so."}, message="It is so", code="17"),
    "errorMessage": Said(body={"errorCode": "c_x", "errorMessage": "It is so."}, message="It is so", code="c_x"),
    "errors, texts": Said(body={"errors": ["one", "two", "one"]}, message="one; two"),
    "errors, objects": Said(
        body={"errors": [{"message": "one", "code": "c_x"}, {"message": "two", "code": "c_x"}]},
        message="one; two",
        code="c_x",
    ),
    "errors, codes that differ": Said(
        body={"errors": [{"message": "one", "code": "c_x"}, {"message": "two", "code": "c_y"}]}, message="one; two"
    ),
    "errors by name": Said(
        body={"title": "Oh no", "errors": {"prompt": ["too long"]}}, message="Oh no: prompt: too long"
    ),
    "base_resp": Said(
        body={"base_resp": {"status_code": 1026, "status_msg": "It is so."}}, message="It is so", code="1026"
    ),
    "envelope": Said(
        body={"code": 4011, "message": "It is so.", "data": None, "request_id": "r-body"},
        message="It is so",
        code="4011",
    ),
    "message object": Said(body={"error": {"message": {"en": "It is so."}}}, message="en: It is so"),
    "error in error": Said(body={"error": {"error": {"message": "It is so."}}}, message="It is so"),
    "only a code": Said(body={"error": {"code": "c_x", "message": ""}}, message="code: c_x", code="c_x"),
    "no known name": Said(body={"reason_text": "It is so."}, message="reason_text: It is so"),
    "Chinese": Said(body={"error": {"message": "内容违规", "code": "c_x"}}, message="内容违规", code="c_x"),
    "half a surrogate": Said(body=b'{"error": {"message": "so \\ud83d", "code": "c_x"}}', message="so ?", code="c_x"),
    "byte order mark": Said(body=b'\xef\xbb\xbf{"detail": "It is so."}', message="It is so"),
    "NaN beside it": Said(body=b'{"detail": "It is so.", "x": NaN}', message="It is so"),
    "plain text": Said(body=b"It is so.", message="It is so"),
    "an item of data": Said(
        body={"data": [{"error": {"message": "It is so.", "code": "c_x"}}]}, message="It is so", code="c_x"
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_message_is_found_in_every_form(open_client: OpenClient, name: str) -> None:
    """Message, code, type and request id of an error status, also where a gateway writes it in its own way."""
    row = FORMS[name]
    error = open_client(http=through(Answers((400, JSON, row.body)))).fails()
    assert isinstance(error, FluxBadRequestError)
    assert str(error) == f"Error code: 400 - {row.message}"
    assert (str(error.code) if error.code else None, error.type) == (row.code, row.type)
    assert (error.request_id, error.billing) == (row.request_id, "none")


NOTHING = (b"", b"{}", b"[]", b"null", b'{"error": {}}', b'{"error": {"message": "", "code": null}}')


@pytest.mark.parametrize("body", NOTHING)
def test_an_error_that_says_nothing_has_the_reason_of_its_status(open_client: OpenClient, body: bytes) -> None:
    """An empty body leaves only the status and its phrase."""
    error = open_client(http=through(Answers((400, JSON, body)))).fails()
    assert str(error) in ("Error code: 400 - Bad Request", f"Error code: 400 - {body.decode()}")


@pytest.mark.parametrize(
    "name", [name for name, row in FORMS.items() if isinstance(row.body, dict) and name != "no known name"]
)
def test_an_error_in_a_200_says_the_same(open_client: OpenClient, name: str) -> None:
    """One POST, and the words of the service, whether there is a code that makes it an error or not."""
    row = FORMS[name]
    answers = Answers((200, JSON, row.body))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert row.message in str(error)
    assert (error.billing, len(answers.requests)) == ("none" if row.code == "400" else "unknown", 1)
    assert isinstance(error, BadResponseError if "detail" in name else FluxStatusError) or row.code is None


@pytest.mark.parametrize(
    "body", [{"detail": "It is so."}, {"message": "It is so."}, {"created": 1, "msg": "It is so."}]
)
def test_words_without_a_code_are_quoted(open_client: OpenClient, body: Mapping[str, object]) -> None:
    """A 200 without an image and without an error still has words in it."""
    error = open_client(http=through(Answers((200, JSON, body)))).fails()
    assert isinstance(error, BadResponseError)
    assert "it holds no image; the service says: It is so." in str(error)


@pytest.mark.parametrize("status", [400, 200])
def test_secrets_and_hidden_letters_stay_out_in_every_form(open_client: OpenClient, status: int) -> None:
    """What is found is printed through the redactor: no key, no signed query, no invisible letter, not endless."""
    text = f"{KEY} {LINK} \u200b\U000e0041 {'x' * 5000}"
    bodies: list[Any] = [
        {"detail": text, "code": KEY},
        {"errors": [text, {"msg": text, "code": f"{KEY}"}], "code": "x"},
        {"base_resp": {"status_code": 7, "status_msg": text}},
        {"error": text, "message": [text]},
        {"data": [{"error": {"message": text, "code": LINK, "type": KEY}}]},
        {KEY: text, "code": LINK},
    ]
    for body in bodies:
        escaped = json.dumps(body).replace("sk-flux", "\\u0073k-flux")
        error = open_client(http=through(Answers((status, JSON, escaped.encode()))), api_key=KEY).fails()
        assert not any(secret in f"{error!r}{error}{vars(error)}" for secret in (KEY, "CANARY")), body
        assert len(str(error)) < 600
        assert str(error).isprintable()


@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize("size", ["deep", "deep errors", "long", "huge"])
def test_an_error_object_of_any_size_is_read_in_one_go(open_client: OpenClient, status: int, size: str) -> None:
    """Neither a deep nor a long error object stops the client or ends in an error of Python's own."""
    inner = {
        "deep": '{"error":' * 150 + "1" + "}" * 150,
        "deep errors": '{"errors":[' * 60 + "null" + "]}" * 60,  # twice the time for each level would never end
        "long": json.dumps([f"{number} is wrong" for number in range(200_000)]),
        "huge": f'{{"code": {"9" * 4000}, "message": {"9" * 4000}}}',
    }[size]
    error = open_client(http=through(Answers((status, JSON, f'{{"error": {inner}}}'.encode())))).fails()
    assert isinstance(error, FluxStatusError)
    assert len(str(error)) < 600


# Beside images: an error is a notice, and what is empty is not.

REFUSED_ITEM: dict[str, object] = {"error": {"code": "sensitive_check_error", "message": "It was refused."}}


@pytest.mark.parametrize(
    "error",
    [
        *(None, {}, [], "", 0, False, "none", "null", "success", "OK", "0", 200, [{}], {"code": 0, "message": ""}),
        *({"code": "0"}, {"code": None, "message": None}, {"code": 200, "message": "Success."}, {"message": ""}),
        *({"message": "", "type": "", "param": JOB, "code": ""}, {"error": {}}, {"code": "success", "message": "ok"}),
    ],
    ids=repr,
)
def test_an_empty_error_beside_an_image_is_no_notice(open_client: OpenClient, error: object) -> None:
    """Services that always send an error object fill it with nothing; alone, it is an answer without an image."""
    for body in ({**BODY, "error": error}, {**BODY, "data": [{**IMAGE, "error": error}]}):
        answer = open_client(http=through(Answers((200, JSON, body)))).generate()
        assert answer.notices == ()
    alone = open_client(http=through(Answers((200, JSON, {"error": error})))).fails()
    assert isinstance(alone, BadResponseError)
    assert "it holds no image" in str(alone)


@pytest.mark.parametrize(
    ("fields", "notice"),
    [
        ({"error": {"message": "One worker failed."}}, "also carries an error: One worker failed."),
        ({"error": "One worker failed."}, "also carries an error: One worker failed."),
        ({"error": {"code": 7}}, "also carries an error: code: 7"),
        ({"error": True}, "also carries an error: it does not say which"),
        ({"errors": ["one"]}, "also carries an error: one"),
        ({"base_resp": {"status_code": 9, "status_msg": "one"}}, "also carries an error: one"),
        ({"base_resp": {"status_code": 0, "status_msg": "success, all"}}, None),
        ({"code": 500, "message": "one"}, "also carries an error: one"),
        ({"code": 200, "message": "success"}, None),
        ({"code": 0, "msg": "all is well"}, None),
        ({"message": "made by us"}, None),
    ],
)
def test_an_error_beside_an_image_is_one_notice(
    open_client: OpenClient, fields: dict[str, object], notice: str | None
) -> None:
    """The image is kept, and the words of the service are in the notices."""
    caller = open_client(http=through(Answers((200, JSON, {**BODY, **fields}))))
    if notice is None:
        assert caller.generate().notices == ()
        return
    with pytest.warns(FluxWarning):
        answer = caller.generate()
    assert len(answer.data) == len(answer.notices) == 1
    assert notice in answer.notices[0]


def test_the_error_of_one_item_is_a_notice(open_client: OpenClient) -> None:
    """One image of two was refused: the other is kept, and why it is alone is said."""
    caller = open_client(http=through(Answers((200, JSON, {"created": 1, "data": [REFUSED_ITEM, IMAGE]}))))
    with pytest.warns(FluxWarning):
        answer = caller.generate(n=2)
    assert (len(answer.data), answer.missing) == (1, 1)
    assert "image 0: the service says It was refused." in answer.notices


@pytest.mark.parametrize(
    ("items", "status", "billing"),
    [
        ([REFUSED_ITEM], 400, "none"),
        ([REFUSED_ITEM] * 2, 400, "none"),
        ([{"code": "sensitive_check_error", "message": "It was refused.", "url": None}], 400, "none"),
        ([{"error": "It was refused."}], 200, "unknown"),
        ([REFUSED_ITEM, {"error": {"code": "internal_error", "message": "It broke."}}], 200, "unknown"),
    ],
)
def test_the_errors_of_all_items_are_the_error(
    open_client: OpenClient, items: list[object], status: int, billing: str
) -> None:
    """Without any image they are raised as an error of the answer is; codes that differ leave the bill open."""
    answers = Answers((200, JSON, {"created": 1, "data": items}))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, FluxStatusError)
    assert (error.status_code, error.billing, len(answers.requests)) == (status, billing, 1)
    assert "It was refused" in str(error)


@pytest.mark.parametrize(
    "item", [{"url": "", "message": "It was refused."}, {"status": "x", "failure_reason": "It was refused."}]
)
def test_what_a_lost_image_says_is_quoted(open_client: OpenClient, item: dict[str, object]) -> None:
    """An item without an image and without a code is paid; its words are in the message."""
    error = open_client(http=through(Answers((200, JSON, {"data": [item]})))).fails()
    assert isinstance(error, BadResponseError)
    assert error.billing == "paid"
    assert "image 0: the service says It was refused." in str(error)


FLAGS: list[tuple[dict[str, object], str | None]] = [
    ({"nsfw": True}, "nsfw: true"),
    ({"NSFW": 1}, "NSFW: 1"),
    ({"nsfw": "true"}, "nsfw: true"),
    ({"is_nsfw": True}, "is_nsfw: true"),
    ({"nsfw_content_detected": [False, True]}, "nsfw_content_detected: image 1"),
    ({"finish_reason": "content_filter"}, "finish_reason: content_filter"),
    ({"finishReason": "CONTENT_FILTERED"}, "finishReason: CONTENT_FILTERED"),
    ({"finish_reason": "NSFW"}, "finish_reason: NSFW"),
    ({"flagged": True}, "flagged: true"),
    ({"raiFilteredReason": "violence"}, "raiFilteredReason: violence"),
    ({"content_filter_results": {"hate": {"filtered": True}}}, "content_filter_results.hate.filtered: true"),
    ({"moderation": {"flagged": True}}, "moderation.flagged: true"),
    ({"nsfw": {"detected": True, "score": 0.9}}, "nsfw.detected: true"),
    ({"status": "Content Moderated"}, "status: Content Moderated"),
    ({"moderation": {"status": "blocked"}}, "moderation.status: blocked"),
    ({"moderation": {"status": "passed"}}, None),
    ({"status": "completed"}, None),
    ({"faces_detected": 1}, None),
    ({"nsfw": False}, None),
    ({"nsfw": None}, None),
    ({"nsfw": 0}, None),
    ({"nsfw": "false"}, None),
    ({"nsfw_score": 0.02}, None),
    ({"has_nsfw_concepts": [False]}, None),
    ({"finish_reason": None}, None),
    ({"finish_reason": "stop"}, None),
    ({"finish_reason": "SUCCESS"}, None),
    ({"finish_reason": ""}, None),
    ({"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}, None),
    ({"moderation": {"flagged": False, "categories": {}}}, None),
]


@pytest.mark.parametrize(("flags", "notice"), FLAGS, ids=repr)
def test_a_flag_of_moderation_is_a_notice(
    open_client: OpenClient, flags: dict[str, object], notice: str | None
) -> None:
    """On an image or on the answer, and only if it is set; the field itself is kept."""
    on_image, on_answer = {**BODY, "data": [{**IMAGE, **flags}]}, {**BODY, **flags}
    for body, prefix in ((on_image, "image 0: the service says"), (on_answer, "the service says")):
        caller = open_client(http=through(Answers((200, JSON, body))))
        if notice is None:
            assert caller.generate().notices == ()
            continue
        with pytest.warns(FluxWarning):
            answer = caller.generate()
        assert answer.notices == (f"{prefix} {notice}",)
        kept = answer.data[0].to_dict() if body is on_image else answer.to_dict()
        assert kept.items() >= flags.items()


def test_the_flag_of_a_withheld_image_is_in_the_error(open_client: OpenClient) -> None:
    """A filtered image comes as an item without data; why is said."""
    body = {"data": [{"url": "", "finish_reason": "content_filter"}]}
    error = open_client(http=through(Answers((200, JSON, body)))).fails()
    assert isinstance(error, BadResponseError)
    assert "the service says finish_reason: content_filter" in str(error)


# The request id.


@pytest.mark.parametrize(
    ("param", "header", "request_id"),
    [
        ("req-param", "req-header", "req-param"),
        ("c2ad1049-77aa", "req-header", "c2ad1049-77aa"),
        ("c2ad1049-77aa", None, "c2ad1049-77aa"),
        ("prompt", "req-header", "req-header"),
        ("n", "req-header", "req-header"),
        ("images[0]", "req-header", "req-header"),
        ("body.aspect_ratio", "req-header", "req-header"),
        ("some_new_field", "req-header", "req-header"),
        ("some_new_field", None, "some_new_field"),
        ("prompt", None, None),
        ("guidance_scale", None, None),
        ("mine", None, None),
        (None, "req-header", "req-header"),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("status", [400, 200])
def test_a_param_that_names_a_parameter_is_no_request_id(
    open_client: OpenClient, param: str | None, header: str | None, request_id: str | None, status: int
) -> None:
    """The service puts the request id into `param`, OpenAI the name of a parameter: that one is not an id."""
    headers = {"Content-Type": "application/json", **({"X-Request-Id": header} if header else {})}
    body = {"error": {"message": "no", "code": "param_error", "param": param}}
    caller = open_client(http=through(Answers((status, headers, body))), unsupported="send")
    error = caller.fails(extra_body={"mine": 1})
    assert (error.request_id, getattr(error, "param", None)) == (request_id, param)


def test_a_request_id_of_the_body_is_the_last_choice(open_client: OpenClient) -> None:
    """Without `param` and header, the field `request_id` of the body is used."""
    body = {"code": "param_error", "message": "no", "request_id": "r-body"}
    for headers, request_id in ((JSON, "req-header"), ({}, "r-body")):
        assert open_client(http=through(Answers((400, headers, body)))).fails().request_id == request_id


# Why nothing came.


def no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> Any:  # noqa: ANN401
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def plain_answer(connection: Connection) -> None:
    connection.socket.recv(1 << 16)
    connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def of_server(*step: Any, https: bool = False, **options: Any) -> Any:  # noqa: ANN401
    def set_up(serve: MakeServer, _: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
        base_url = serve(*step, **options).base_url
        return (base_url.replace("http:", "https:") if https else base_url), {}

    return set_up


def closed_port(serve: MakeServer, _: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    return serve(OK).stop().base_url, {}


def dns(_: MakeServer, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    no_such_host(monkeypatch)
    return "https://flux.invalid/v1", {}


def through_proxy(serve: MakeServer, _: pytest.MonkeyPatch) -> tuple[str, dict[str, Any]]:
    return "https://flux.invalid/v1", {"http": {"proxy": serve(OK).stop().origin}}


REASONS: dict[str, tuple[Any, str]] = {
    "refused": (closed_port, ": Connection refused (ConnectError, before"),
    "IPv6": (lambda *_: ("http://[::1]:1/v1", {}), "Connection error: [::1]:1: "),
    "DNS": (dns, "flux.invalid: DNS: Name or service not known (ConnectError, before"),
    "certificate": (of_server(OK, certificate="self-signed.pem"), ": TLS certificate: self-signed certificate ("),
    "no TLS": (of_server(plain_answer, https=True), ": TLS: wrong version number ("),
    "reset": (of_server(read_and_reset), " (ReadError, after the request was sent)"),
    "proxy": (through_proxy, "flux.invalid, through the proxy 127.0.0.1: Connection refused ("),
}


@both_sides
@pytest.mark.parametrize("name", REASONS)
def test_a_connection_error_names_host_and_reason(
    serve: MakeServer, open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The SDK says "Connection error." for all of them; neither path, query nor key is shown."""
    set_up, reason = REASONS[name]
    base_url, options = set_up(serve, monkeypatch)
    error = open_client(base_url, **options, default_query={"token": "CANARY"}, retry={"max_attempts": 1}).fails()
    assert type(error) is FluxConnectionError
    assert str(error).startswith(f"Connection error: {httpx.URL(base_url).netloc.decode()}")
    assert reason in str(error)
    assert not any(secret in str(error) for secret in ("CANARY", "sk-flux", "/images"))


def caused(cause: Exception) -> Exception:
    """A ReadError of the HTTP library, raised from this error of the operating system."""
    error = httpx.ReadError("")
    error.__cause__ = cause
    return error


def grouped() -> Exception:
    """What anyio raises if the host has several addresses and none of them answers."""
    refusals = [ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ('{ip}', 1)") for ip in ("::1", "::2")]
    error, attempts = httpx.ConnectError("All connection attempts failed"), OSError("All connection attempts failed")
    error.__cause__, attempts.__cause__ = attempts, ExceptionGroup("multiple connection attempts failed", refusals)
    return error


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (httpx.ConnectTimeout("x"), "Request timed out: 127.0.0.1:1: no connection within the connect time-out ("),
        (httpx.ReadTimeout("x"), "Request timed out: 127.0.0.1:1: nothing came within the read time-out ("),
        (httpx.PoolTimeout("x"), "no connection of the pool was free within the pool time-out ("),
        (httpx.ConnectError(f"boom {LINK}"), "Connection error: 127.0.0.1:1: boom https://h.example/p?[redacted] ("),
        (httpx.ReadError(""), "Connection error: 127.0.0.1:1: the connection was lost (ReadError, "),
        (caused(ConnectionResetError(errno.ECONNRESET, "x")), "127.0.0.1:1: Connection reset by peer (ReadError, "),
        (grouped(), "127.0.0.1:1: Connection refused (ConnectError, "),
        (httpx.LocalProtocolError("Illegal header value b'CANARY'"), "127.0.0.1:1 (LocalProtocolError, "),
    ],
)
def test_what_the_http_library_says_is_in_the_message(open_client: OpenClient, raised: Exception, says: str) -> None:
    """Time-outs say which one it was; texts are scrubbed, and those that quote a header are left out."""
    error = open_client(http=through(Answers(raised)), retry={"max_attempts": 1}).fails()
    assert says in str(error)
    assert "CANARY" not in str(error)


@both_sides
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_asked_once(serve: MakeServer, open_client: OpenClient, scheme: str) -> None:
    """A 407 does not go away by itself: one attempt even where duplicates are allowed, and nothing is billed."""
    proxy = serve((407, {}, "no"))
    http = {"proxy": proxy.origin, "trust_env": False}
    options: dict[str, Any] = {"http": http, "retry": {"duplicates": "allowed"}}
    error = open_client(f"{scheme}://127.0.0.1:9/v1", **options).fails()
    assert (error.billing, error.attempts) == ("none", 1)
    assert "407" in str(error)
    assert len(proxy.stop().requests) == 1


@both_sides
def test_a_bare_407_is_asked_once(open_client: OpenClient) -> None:
    """The status itself is refused like every other 4xx."""
    answers = Answers((407, JSON, {}))
    error = open_client(http=through(answers), retry={"duplicates": "allowed"}).fails()
    assert isinstance(error, FluxStatusError)
    assert (error.billing, error.attempts, len(answers.requests)) == ("none", 1, 1)


# Where the key came from.

ENV = "sk-CANARY-env"


def by_function(emulator: Emulator) -> FluxOpenAI:
    return emulator.client(api_key=lambda: "sk-CANARY-function")


def by_attribute(emulator: Emulator) -> FluxOpenAI:
    client = of_environment(emulator)
    client.api_key = "sk-CANARY-assigned"
    return client


def of_environment(emulator: Emulator) -> FluxOpenAI:
    return FluxOpenAI(base_url=emulator.base_url, http_client=emulator.http_client())


def adapted(emulator: Emulator) -> FluxOpenAI:
    return adapt(openai.OpenAI(api_key="sk-CANARY-x", base_url=emulator.base_url, http_client=emulator.http_client()))


def adapted_openai_key(emulator: Emulator) -> FluxOpenAI:
    return adapt(openai.OpenAI(base_url=emulator.base_url, http_client=emulator.http_client()))


KEYS: dict[str, tuple[Any, str]] = {
    "argument": (lambda emulator: emulator.client(api_key="sk-CANARY-argument"), "the argument api_key="),
    "environment": (of_environment, "MODELVERSE_API_KEY"),
    "function": (by_function, "the function given as api_key="),
    "copy": (lambda emulator: of_environment(emulator).with_options(timeout=9), "MODELVERSE_API_KEY"),
    "copy with a key": (
        lambda emulator: of_environment(emulator).with_options(api_key="sk-CANARY-copy"),
        "the argument api_key=",
    ),
    "assigned": (by_attribute, "the client's attribute api_key"),
    "adapted": (adapted, "the adapted client"),
    "adapted OPENAI_API_KEY": (
        adapted_openai_key,
        "the adapted client, and is the one in OPENAI_API_KEY, which belongs to another service",
    ),
    "header": (
        lambda emulator: emulator.client(default_headers={"Authorization": "Bearer sk-CANARY-header"}),
        "a header of the call or the client, not from api_key=",
    ),
}


@pytest.mark.parametrize("status", [401, 200])
@pytest.mark.parametrize("name", KEYS)
def test_a_401_says_where_the_key_came_from(monkeypatch: pytest.MonkeyPatch, name: str, status: int) -> None:
    """Several places can hold a key; the message names the one that was used, and never the key."""
    monkeypatch.setenv("MODELVERSE_API_KEY", ENV)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-openai")
    make, source = KEYS[name]
    emulator = Emulator()
    emulator.fail(status=status, body={"error": {"message": "no", "code": "auth_error"}})
    client = make(emulator)
    with pytest.raises(FluxAuthenticationError) as caught:
        client.images.generate(prompt="a fox")
    assert str(caught.value).endswith(f"no; the key came from {source}")
    assert "CANARY" not in f"{caught.value!r}{caught.value}{vars(caught.value)}"


@both_sides
@pytest.mark.parametrize("status", [400, 401, 403])
def test_only_a_401_is_about_the_key(open_client: OpenClient, status: int) -> None:
    """Both kinds of client say it, and say nothing of the key in other errors."""
    error = open_client(http=through(Answers((status, JSON, {})))).fails()
    assert str(error).endswith("; the key came from the argument api_key=") is (status == 401)
