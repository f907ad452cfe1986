"""Verdicts: what becomes of a row after each kind of failure."""

from dataclasses import dataclass

import pytest

from flux_openai import Emulator, RetryPolicy
from flux_openai.batch.verdicts import verdict_on
from flux_openai.errors import ConfigurationError, FluxError, InvalidParam, InvalidParamsError

DEFAULT = RetryPolicy()


def error_of(**fault: object) -> FluxError:
    """The error of a call whose one attempt meets this fault."""
    emulator = Emulator(pixels=256)
    emulator.fail(**fault)  # type: ignore[arg-type]  # as the table has it
    client = emulator.client(max_retries=0)
    with pytest.raises(FluxError) as caught:
        client.images.generate(prompt="a red fox")
    return caught.value


@dataclass(frozen=True, kw_only=True)
class Case:
    fault: dict[str, object]
    row: str
    stops: bool = False
    policy: RetryPolicy = DEFAULT
    on_unknown: str = "hold"
    attempts: int = 1
    asked_before: bool = False


def status(number: int, code: str | None = None, kind: str | None = None, **more: object) -> dict[str, object]:
    return {"status": number, "body": {"error": {"code": code, "type": kind, "message": "no"}}, **more}


NEVER, ALLOWED = RetryPolicy(duplicates="never"), RetryPolicy(duplicates="allowed")
IN_200 = {"status": 200}

CASES = {
    # nothing was sent, or a limit refused it: however often
    "dns": Case(fault={"error": "dns"}, row="again", attempts=50),
    "connect": Case(fault={"error": "connect"}, row="again"),
    "429": Case(fault=status(429), row="again", attempts=50),
    "429 with a long Retry-After": Case(fault=status(429, headers={"retry-after": "600"}), row="again"),
    "429 inside a 200": Case(fault=status(200, "rate_limit"), row="again"),
    # every row would be refused
    "401": Case(fault=status(401), row="again", stops=True),
    "402": Case(fault=status(402), row="again", stops=True),
    "403": Case(fault=status(403, "forbidden", "permission_error"), row="again", stops=True),
    "403 that calls itself a bad request": Case(
        fault=status(403, None, "invalid_request_error"), row="again", stops=True
    ),
    "429 without credit": Case(fault=status(429, "insufficient_quota"), row="again", stops=True),
    "400 without credit": Case(fault=status(400, "billing_hard_limit_reached"), row="again", stops=True),
    "500 without credit": Case(fault=status(500, "insufficient_balance"), row="again", stops=True),
    "no credit by the type": Case(fault=status(429, None, "insufficient_quota"), row="again", stops=True),
    "400 about the key": Case(fault=status(400, "invalid_api_key"), row="again", stops=True),
    "no credit inside a 200": Case(fault=status(200, "insufficient_quota"), row="again", stops=True),
    "401 inside a 200": Case(fault=status(200, "auth_error"), row="again", stops=True),
    # this row alone
    "400": Case(fault=status(400, "param_error"), row="failed"),
    "content refused": Case(fault=status(400, "sensitive_check_error"), row="failed"),
    "content refused with a 403": Case(fault=status(403, "content_policy_violation"), row="failed"),
    "content refused inside a 200": Case(fault=status(200, "sensitive_check_error"), row="failed"),
    "404": Case(fault=status(404), row="failed"),
    "302": Case(fault={"status": 302, "headers": {"location": "https://elsewhere.example/"}}, row="failed"),
    # the service failed: the policy decides
    "500": Case(fault=status(500), row="again"),
    "503": Case(fault=status(503), row="again", attempts=3),
    "500 for the last time": Case(fault=status(500), row="held", attempts=4),
    "500, never twice": Case(fault=status(500), row="held", policy=NEVER),
    "500 inside a 200": Case(fault=status(200, "internal_error"), row="held"),
    # unknown
    "time-out": Case(fault={"error": "timeout"}, row="held"),
    "reset": Case(fault={"error": "reset"}, row="held"),
    "truncated": Case(fault={"error": "truncate"}, row="held"),
    "504": Case(fault=status(504), row="held"),
    "504, retried once": Case(fault=status(504), row="again", on_unknown="retry"),
    "504, retried already": Case(fault=status(504), row="held", on_unknown="retry", asked_before=True),
    "504, twice is allowed": Case(fault=status(504), row="again", policy=ALLOWED, asked_before=True),
    "504, for the last time": Case(fault=status(504), row="held", policy=ALLOWED, attempts=4),
    # a 200 that cannot be used
    "nothing in it": Case(fault={"status": 200, "body": {"data": []}}, row="held"),
    "no JSON": Case(fault={"status": 200, "body": b"<html>"}, row="held"),
    "images that cannot be used": Case(fault={"status": 200, "body": {"data": [{"b64_json": "!"}]}}, row="failed"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failure_decides_about_the_row_and_the_run(name: str) -> None:
    """Each kind of failure has its verdict, whether it comes as a status, inside a 200 or as a broken connection."""
    case = CASES[name]
    verdict = verdict_on(
        error_of(**case.fault),
        policy=case.policy,
        on_unknown=case.on_unknown,  # type: ignore[arg-type]  # as the table has it
        attempts=case.attempts,
        asked_before=case.asked_before,
        random=lambda: 0.5,
    )
    assert (verdict.row, verdict.stops) == (case.row, case.stops)


@pytest.mark.parametrize(
    ("error", "row", "stops"),
    [
        (ConfigurationError("no API key"), "again", True),
        (FluxError("the request could not be made"), "again", True),
        (InvalidParamsError.of([InvalidParam(param="image", value="a.png", rule="must exist")]), "failed", False),
    ],
)
def test_a_request_that_cannot_be_made(error: FluxError, row: str, *, stops: bool) -> None:
    """A fault of the client stops the run; one of the row's own parameters, such as a file that is gone, does not."""
    verdict = verdict_on(error, policy=DEFAULT, on_unknown="hold", attempts=1, asked_before=False, random=lambda: 0.5)
    assert (verdict.row, verdict.stops) == (row, stops)


def test_the_wait_is_that_of_the_policy() -> None:
    """A row is sent again after the policy's backoff, or after the Retry-After of the service."""
    waits = [
        verdict_on(
            error_of(**status(503, headers=headers)),
            policy=RetryPolicy(initial_wait=8),
            on_unknown="hold",
            attempts=1,
            asked_before=False,
            random=lambda: 0.5,
        ).wait
        for headers in ({}, {"retry-after": "7"})
    ]
    assert waits == [4.0, pytest.approx(7.35)]
