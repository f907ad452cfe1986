"""One call, one Idempotency-Key: all attempts have the same, no two calls do, and nobody can take it away."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import openai
import pytest

from flux_openai._http.library import httpx
from flux_openai.errors import FluxStatusError
from tests.promises.money.fakes import BUSY, JSON, OK, Answers, through

if TYPE_CHECKING:
    from tests.promises.money.conftest import OpenClient


def keys_of(answers: Answers) -> list[str]:
    """The key of each request."""
    return [request.headers["idempotency-key"] for request in answers.requests]


def test_a_call_has_one_key_of_its_own(open_client: OpenClient) -> None:
    """All attempts of a call share a random key and a body, also over copies of the client; no two calls do."""
    answers = Answers(BUSY, BUSY, OK, BUSY, OK, OK)
    caller = open_client(http=through(answers))
    callers = (caller, caller, caller.with_options(timeout=20))
    assert [each.generate().attempts for each in callers] == [3, 2, 1]
    first, second, third = (set(keys) for keys in (keys_of(answers)[:3], keys_of(answers)[3:5], keys_of(answers)[5:]))
    assert [len(keys) for keys in (first, second, third)] == [1, 1, 1]
    assert len(first | second | third) == 3
    assert {UUID(key).version for key in keys_of(answers)} == {4}
    assert len({request.content for request in answers.requests}) == 1


@pytest.mark.parametrize(
    ("fault", "duplicates"),
    [
        ((503, JSON, {}), "unlikely"),
        ((504, JSON, {}), "allowed"),
        (httpx.ConnectError("no"), "never"),
        (httpx.ReadTimeout("late"), "allowed"),
    ],
)
def test_the_key_stays_whatever_went_wrong(open_client: OpenClient, fault: Exception, duplicates: str) -> None:
    """A service that knows the key can tell the second attempt from a second order, after any kind of failure."""
    answers = Answers(fault)
    open_client(http=through(answers), retry={"duplicates": duplicates}).fails()
    assert len(answers.requests) == 4
    assert len(set(keys_of(answers))) == 1


@pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-key", "IDEMPOTENCY-KEY"])
def test_a_key_of_the_callers_is_kept(open_client: OpenClient, name: str) -> None:
    """Who keeps a journal names the call; the name goes out once, on every attempt."""
    answers = Answers(BUSY, OK)
    open_client(http=through(answers)).generate(extra_headers={name: "order-7"})
    assert [request.headers.get_list("idempotency-key") for request in answers.requests] == [["order-7"]] * 2


@pytest.mark.parametrize("value", [openai.omit, ""])
def test_a_call_cannot_be_without_a_key(open_client: OpenClient, value: object) -> None:
    """Whoever takes the key away gets ours: without one, nobody can tell two attempts from two orders."""
    answers = Answers(BUSY, OK)
    assert open_client(http=through(answers)).generate(extra_headers={"Idempotency-Key": value}).attempts == 2
    [key] = set(keys_of(answers))
    assert UUID(key).version == 4


@pytest.mark.parametrize("name", ["idempotency-key", "Idempotency-Key", "IDEMPOTENCY-KEY"])
def test_a_key_for_the_whole_client_does_not_join_its_calls(open_client: OpenClient, name: str) -> None:
    """A default header of that name would make every call the same order; each call has its own key all the same."""
    answers = Answers(OK)
    caller = open_client(http=through(answers), default_headers={name: "always"})
    caller.generate()
    caller.generate()
    keys = [request.headers.get_list("idempotency-key") for request in answers.requests]
    assert [len(each) for each in keys] == [1, 1]
    assert keys[0] != keys[1]
    assert "always" not in keys_of(answers)


@pytest.mark.parametrize("name", ["accept-encoding", "Accept-Encoding", "ACCEPT-ENCODING"])
def test_no_default_header_asks_for_what_cannot_be_unpacked(open_client: OpenClient, name: str) -> None:
    """One Accept-Encoding goes out, ours: an answer in another encoding would be paid for and lost."""
    answers = Answers(OK)
    open_client(http=through(answers), default_headers={name: "br"}).generate()
    assert answers.requests[0].headers.get_list("accept-encoding") == ["gzip"]


def test_a_key_that_the_service_repeats_can_be_read(open_client: OpenClient) -> None:
    """The Idempotency-Key is no credential: whoever asks the provider what became of a call needs it."""
    answers = Answers((409, JSON, {"error": {"message": "order-7 is under way"}}))
    error = open_client(http=through(answers)).fails(extra_headers={"Idempotency-Key": "order-7"})
    assert isinstance(error, FluxStatusError)
    assert "order-7 is under way" in str(error)
    assert b"order-7" in error.raw
    assert error.request.headers["Idempotency-Key"] == "order-7"
