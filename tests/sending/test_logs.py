"""The log lines of the library: one INFO line at the end of each request, one for each retry, and no prompt."""

import logging
import re

import openai
import pytest

from flux_openai import Emulator

PROMPT = "a secret plan"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of the library's own logger, with the seconds and the waits as N."""
    messages = [record.getMessage() for record in caplog.records if record.name == "flux_openai"]
    return [re.sub(r"(\d+\.\d+)", "N", message) for message in messages if message]


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    """INFO of all libraries, as an application sets it."""
    caplog.set_level(logging.INFO)


def test_the_end_of_a_request_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """It has model, images, attempts, seconds and request id; a retry before it has a line of its own."""
    emulator = Emulator()
    emulator.fail(status=503)
    response = emulator.client().images.generate(prompt=PROMPT, n=2)
    assert lines(caplog) == [
        "attempt 1 failed (server_failed), the next starts in N s",
        f"{response.sent['model']}: images: 2, attempts: 2, seconds: N, request id: {response.request_id}",
    ]
    assert PROMPT not in caplog.text


def test_the_end_of_a_failure_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """It has the class of the error and what was billed."""
    emulator = Emulator()
    emulator.fail(status=400)
    with pytest.raises(openai.BadRequestError) as caught:
        emulator.client().images.generate(prompt=PROMPT, model="kontext-pro")
    [line] = lines(caplog)
    assert line.endswith(
        f": FluxBadRequestError, billing: none, attempts: 1, seconds: N, request id: {caught.value.request_id}"
    )
    assert PROMPT not in caplog.text


@pytest.mark.anyio
async def test_each_request_of_a_split_call_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Nine images are three requests, for async clients too; the records have the number of images."""
    await Emulator().async_client(split=True).images.generate(prompt=PROMPT, n=9)
    images = [vars(record)["images"] for record in caplog.records if record.name == "flux_openai"]
    assert sorted(images) == [1, 4, 4]
    assert PROMPT not in caplog.text


def test_without_info_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At WARNING, which is the default of logging, a good call is silent."""
    caplog.set_level(logging.WARNING)
    Emulator().client().images.generate(prompt=PROMPT)
    assert lines(caplog) == []


def test_a_filter_that_raises_costs_no_image(caplog: pytest.LogCaptureFixture) -> None:
    """The images of a call are returned whatever the logging of the application does."""

    def broken(record: logging.LogRecord) -> bool:
        raise ValueError(record.name)

    log = logging.getLogger("flux_openai")
    log.addFilter(broken)
    try:
        assert len(Emulator().client(split=True).images.generate(prompt=PROMPT, n=6).data) == 6
    finally:
        log.removeFilter(broken)
    assert PROMPT not in caplog.text
