"""The pytest plugin, in projects of users: each test here is a test run of its own, or more than one."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Thread

import pytest
import yaml  # type: ignore[import-untyped]  # comes with vcrpy, without its stubs

pytest_plugins = "pytester"
pytestmark = pytest.mark.usefixtures("all_is_imported")

GUIDE = (Path(__file__).parents[2] / "examples" / "testing_your_code.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```py\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)

PLUGIN = ("-p", "flux_openai.testing", "-p", "no:cacheprovider", "-W", "error")

FOX = """
    from flux_openai import OpenAI

    def test_fox(flux_cassette, tmp_path):
        response = OpenAI().images.generate(prompt="a red fox", n=2)
        response.save(tmp_path)
        assert response.attempts == 1
"""

NO_NETWORK = """
    import socket
    import pytest

    @pytest.fixture(autouse=True)
    def no_network(monkeypatch):
        def refuse(*_, **__):
            pytest.fail("the network was used")

        for place, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
            monkeypatch.setattr(place, name, refuse)
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is installed here is no part of the user's project."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the project's tests, every warning an error."""
    return pytester.runpytest_inprocess(*PLUGIN, *arguments)


def run_apart(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """The same in a process that has imported nothing yet."""
    return pytester.runpytest_subprocess(*PLUGIN, *arguments)


def cassette_of(pytester: pytest.Pytester, name: str = "test_fox.test_fox") -> Path:
    """Where a cassette of the project lies."""
    return pytester.path / "cassettes" / f"{name}.yaml"


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")], ids=["alone", "xdist"])
def test_each_test_has_an_emulator_and_clients_of_its_own(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """Calls end in a fresh emulator, sync and async, and no warning is left, here and in a worker of xdist."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("time", [1, 2])
        def test_sync(flux_client, flux_emulator, time):
            flux_emulator.fail(status=429)
            response = flux_client.images.generate(prompt="a red fox")
            assert (response.attempts, flux_emulator.bill.images) == (2, 1)
            assert len(response.data[0].read()) < 1024

        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        @pytest.mark.anyio
        async def test_async(async_flux_client, flux_emulator, anyio_backend):
            response = await async_flux_client.images.generate(prompt="a red fox")
            assert await response.data[0].aread()
            assert flux_emulator.bill.images == 1

        def test_async_by_hand(async_flux_client):
            import asyncio
            assert asyncio.run(async_flux_client.images.generate(prompt="a red fox")).data
    """)
    run(pytester, "-p", "anyio", *workers).assert_outcomes(passed=4)


def test_the_async_client_works_with_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """The loop is that plugin's, and closing the client afterwards does not disturb it."""
    pytest.importorskip("pytest_asyncio")
    pytester.makepyfile("""
        async def test_one(async_flux_client):
            assert (await async_flux_client.images.generate(prompt="a red fox")).data

        async def test_another(async_flux_client):
            assert (await async_flux_client.images.generate(prompt="a red fox")).data
    """)
    settings = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    run_apart(pytester, "-p", "asyncio", *settings).assert_outcomes(passed=2)


def test_a_recording_replays_without_key_and_network(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was recorded from the emulator is small, the same each time, holds no secret, and needs nothing to play."""
    pytester.makepyfile(test_fox=FOX)
    monkeypatch.setenv("MODELVERSE_API_KEY", "sk-CANARY-of-the-user")
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=1)
    text = cassette_of(pytester).read_text(encoding="utf-8")
    assert text.startswith("provenance: emulator\nmodel: black-forest-labs/flux-kontext-max/text-to-image\n")
    assert not re.search(r"(?i)canary|authorization|bearer|flux-tests|signature=(?!redacted)", text)
    assert len(text) < 8 * 1024
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=1)
    assert cassette_of(pytester).read_text(encoding="utf-8") == text
    monkeypatch.delenv("MODELVERSE_API_KEY")
    pytester.makeconftest(NO_NETWORK)
    run(pytester).assert_outcomes(passed=1)


def test_the_clients_of_the_plugin_play_the_cassette_too(pytester: pytest.Pytester) -> None:
    """Beside `flux_cassette` they are on the cassette, which a marker can name, and the emulator is not asked."""
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.flux_cassette("fox")

        def test_sync(flux_client, flux_cassette, flux_emulator, request):
            assert flux_client.images.generate(prompt="a red fox").data[0].read()
            recording = request.config.getoption("flux_record") == "emulator"
            assert len(flux_emulator.requests) == (2 if recording else 0)

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        async def test_async(flux_cassette, async_flux_client, anyio_backend):
            assert await (await async_flux_client.images.generate(prompt="a red fox")).data[0].aread()
    """)
    run(pytester, "-p", "anyio", "--flux-record=emulator").assert_outcomes(passed=2)
    assert cassette_of(pytester, "fox").exists()
    run(pytester, "-p", "anyio").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a red fox", "a blue fox"), "raw_body differs"),
        (("response.save(tmp_path)", "pass"), "was not played to its end: 2 left"),
    ],
)
def test_a_call_that_has_changed_fails(pytester: pytest.Pytester, change: tuple[str, str], message: str) -> None:
    """Another prompt is not on the cassette, what is not asked for any more is told, and both say what to do."""
    pytester.makepyfile(test_fox=FOX)
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=1)
    pytester.makepyfile(test_fox=FOX.replace(*change))
    output = run(pytester).stdout.str()
    assert message in output
    assert "To record: pytest test_fox.py::test_fox --flux-record=emulator" in output


def test_a_missing_cassette_is_told_with_the_command_that_makes_it(pytester: pytest.Pytester) -> None:
    """Nothing is asked of anybody, and the command can be pasted; a test that fails leaves no cassette behind."""
    pytester.makepyfile(test_fox=FOX.replace("attempts == 1", "attempts == 9"))
    done = run(pytester)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*To record: pytest test_fox.py::test_fox --flux-record=emulator"])
    run(pytester, "--flux-record=emulator").assert_outcomes(failed=1)
    assert not cassette_of(pytester).exists()


@pytest.mark.parametrize("provenance", ["live", "documented example"])
def test_what_the_emulator_cannot_repeat_is_not_lost(pytester: pytest.Pytester, provenance: str) -> None:
    """It does not replace what the service once said, nor what its documents say."""
    pytester.makepyfile(test_fox=FOX)
    cassette_of(pytester).parent.mkdir()
    text = f"provenance: {provenance}\ninteractions: []\n"
    cassette_of(pytester).write_text(text, encoding="utf-8")
    run(pytester, "--flux-record=emulator").assert_outcomes(skipped=1)
    assert cassette_of(pytester).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("source", "reason"), [("live", "set MODELVERSE_API_KEY"), ("hearsay", "invalid choice: 'hearsay'")]
)
def test_recording_from_nowhere_is_refused(pytester: pytest.Pytester, source: str, reason: str) -> None:
    """Without a key the service is not asked, and pytest says what is missing before it runs any test."""
    pytester.makepyfile(test_fox=FOX)
    done = run(pytester, f"--flux-record={source}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert reason in done.stderr.str()


def test_the_folder_of_cassettes_can_be_chosen(pytester: pytest.Pytester) -> None:
    """A fixture of the project says where they lie, for recording and for replay."""
    pytester.makepyfile(test_fox=FOX)
    pytester.makeconftest("""
        import pathlib, pytest

        @pytest.fixture(scope="session")
        def flux_cassette_dir():
            return pathlib.Path(__file__).parent / "tapes" / "flux"
    """)
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=1)
    assert [path.name for path in (pytester.path / "tapes" / "flux").iterdir()] == ["test_fox.test_fox.yaml"]
    assert not cassette_of(pytester).exists()
    run(pytester).assert_outcomes(passed=1)


@pytest.fixture
def telltale() -> Iterator[str]:
    """A service on this machine that repeats the key it was sent, and counts its answers."""
    number = count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.dumps({"error": {"code": "invalid_api_key", "message": self.headers["authorization"]}}).encode()
            self.send_response(401)
            self.send_header("x-request-id", f"r-{next(number)}")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_a_live_recording_keeps_no_key(
    pytester: pytest.Pytester, telltale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service itself is asked, with the developer's key or the client's own, and neither is on the cassette."""
    pytester.makepyfile(
        test_keys="""
        import asyncio, openai, pytest
        from flux_openai import OpenAI

        def test_keys(flux_cassette, async_flux_client):
            for client in (OpenAI(), OpenAI(api_key="another-CANARY")):
                with client, pytest.raises(openai.AuthenticationError):
                    client.images.generate(prompt="a red fox")
            with pytest.raises(openai.AuthenticationError):
                asyncio.run(async_flux_client.images.generate(prompt="a red fox"))
    """
    )
    monkeypatch.setenv("MODELVERSE_BASE_URL", telltale)
    monkeypatch.setenv("MODELVERSE_API_KEY", "sk-CANARY-of-the-user")
    run(pytester, "--flux-record=live").assert_outcomes(passed=1)
    text = cassette_of(pytester, "test_keys.test_keys").read_text(encoding="utf-8")
    assert text.startswith("provenance: live\n")
    assert (text.count("redacted"), "CANARY" in text) == (3, False)
    monkeypatch.delenv("MODELVERSE_API_KEY")
    run(pytester).assert_outcomes(passed=1)


def test_a_live_cassette_can_be_shared(
    pytester: pytest.Pytester, telltale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two answers of a service are the same, and only what is asked has to be."""
    pytester.makepyfile("""
        import openai, pytest
        pytestmark = pytest.mark.flux_cassette("fox")

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(flux_cassette, flux_client, number):
            with pytest.raises(openai.AuthenticationError):
                flux_client.images.generate(prompt="a red fox")
    """)
    monkeypatch.setenv("MODELVERSE_BASE_URL", telltale)
    monkeypatch.setenv("MODELVERSE_API_KEY", "sk-CANARY-of-the-user")
    run(pytester, "--flux-record=live").assert_outcomes(passed=2)


def test_any_header_can_be_sent_to_a_cassette(pytester: pytest.Pytester) -> None:
    """Also one beyond ASCII, as text or as bytes; a key in one is a key."""
    pytester.makepyfile("""
        from flux_openai._http.library import httpx

        def test_it(flux_cassette):
            headers = {"x-name": "Zoë".encode("latin-1"), "x-other": "Zoë".encode(), "x-api-key": b"CANARY-0f3a"}
            with httpx.Client(headers={"authorization": "Bearer k"}) as client:
                order = {"model": "black-forest-labs/flux-kontext-max/text-to-image", "prompt": "a CANARY-0f3a"}
                address = "https://gateway.example/CANARY-0f3a/images/generations"
                assert client.post(address, json=order, headers=headers).status_code == 200
    """)
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=1)
    assert "CANARY" not in next((pytester.path / "cassettes").iterdir()).read_text(encoding="utf-8")
    run(pytester).assert_outcomes(passed=1)


def test_a_marker_says_what_goes_wrong(pytester: pytest.Pytester) -> None:
    """The script of the marker is that of the test's emulator; what is no text, or no script, is told at once."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.flux_script("prompt~/fox/ #1 -> status(429)")
        def test_script(flux_client):
            assert flux_client.images.generate(prompt="a red fox").attempts == 2
            assert flux_client.images.generate(prompt="a cat").attempts == 1

        @pytest.mark.flux_script("prompt~/fox/ -> explode")
        def test_no_script(flux_client): ...

        @pytest.mark.flux_script()
        def test_no_text(flux_client): ...
    """)
    done = run(pytester)
    done.assert_outcomes(passed=1, errors=2)
    done.stdout.fnmatch_lines(["*explode*", "the marker flux_script takes one text, and nothing else"])


@pytest.mark.parametrize("fault", ["timeout", "truncate", "connect"])
def test_an_exchange_that_breaks_is_not_recorded(pytester: pytest.Pytester, fault: str) -> None:
    """A cassette cannot repeat it, so there is none: the recording fails and says where the fault can be played."""
    pytester.makepyfile(f"""
        import asyncio, openai, pytest

        @pytest.mark.flux_script("prompt~/dog/ -> {fault}")
        def test_sync(flux_cassette, flux_client):
            flux_client.images.generate(prompt="a cat")
            with pytest.raises(openai.APIConnectionError):
                flux_client.images.generate(prompt="a dog")

        @pytest.mark.flux_script("* -> {fault}")
        def test_async(flux_cassette, async_flux_client):
            with pytest.raises(openai.APIConnectionError):
                asyncio.run(async_flux_client.images.generate(prompt="a dog"))
    """)
    done = run(pytester, "--flux-record=emulator")
    done.assert_outcomes(passed=2, errors=2)
    done.stdout.fnmatch_lines(["*which no cassette can repeat: POST /v1/images/generations: *"] * 2)
    assert not (pytester.path / "cassettes").exists()


def test_tests_that_share_a_cassette_ask_for_the_same(pytester: pytest.Pytester) -> None:
    """The second that records something else under the name of the first fails."""
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.flux_cassette("fox")

        @pytest.mark.parametrize("prompt", ["a fox", "a fox", "a dog"])
        def test_it(flux_cassette, flux_client, prompt):
            flux_client.images.generate(prompt=prompt)
    """)
    done = run(pytester, "--flux-record=emulator")
    done.assert_outcomes(passed=3, errors=1)
    done.stdout.fnmatch_lines(["*another test has recorded fox.yaml, and asked for something else"])


@pytest.mark.parametrize(("marker", "fixture"), [("flux_cassette", "flux_cassette"), ("flux_script", "flux_emulator")])
def test_a_marker_without_its_fixture_is_refused(pytester: pytest.Pytester, marker: str, fixture: str) -> None:
    """On the test itself, which would call the service; on a module or a class it may be meant for other tests."""
    pytester.makepyfile(f"""
        import pytest
        pytestmark = pytest.mark.{marker}("* -> status(429)")

        @pytest.mark.{marker}("* -> status(429)")
        def test_it():
            raise AssertionError("the service would have been asked")

        @pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.{marker}("* -> status(429)"))])
        def test_parameter(n): ...

        @pytest.mark.usefixtures("{fixture}")
        @pytest.mark.{marker}("* -> status(429)", "* -> status(429)")
        def test_arguments(): ...

        @pytest.mark.{marker}(script="* -> status(429)")
        def test_keyword(flux_client): ...

        @pytest.mark.{marker}(" ")
        def test_blank(flux_client): ...

        def test_another(): ...
    """)
    done = run(pytester)
    done.assert_outcomes(errors=5, passed=1)
    told = f"*the marker {marker}, but does not use the fixture {fixture}: add @pytest.mark.usefixtures('{fixture}')"
    done.stdout.fnmatch_lines([told] * 2, consecutive=False)
    done.stdout.fnmatch_lines([f"the marker {marker} takes one text, and nothing else"] * 2)
    done.stdout.fnmatch_lines([f"the text of the marker {marker} is empty"])


def test_the_code_under_test_is_caught_as_long_as_the_test_lasts(
    pytester: pytest.Pytester, telltale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key set, a client made at import sends nothing away in the tests with a fixture; in others it does."""
    pytester.makepyfile(
        product="""
        from flux_openai import OpenAI
        client = OpenAI()

        def draw():
            return client.images.generate(prompt="a red fox").data[0].read()
    """
    )
    pytester.makepyfile("""
        import os, openai, product, pytest

        def test_before():
            with pytest.raises(openai.AuthenticationError) as caught:
                product.draw()
            assert caught.value.request_id == "r-0"

        @pytest.mark.parametrize("fixture", ["flux_emulator", "flux_client", "async_flux_client"])
        def test_fixture(request, fixture):
            request.getfixturevalue(fixture)
            assert product.draw()
            assert len(request.getfixturevalue("flux_emulator").requests) == 2
            assert "CANARY" not in os.environ["MODELVERSE_API_KEY"]

        def test_after():
            assert "CANARY" in os.environ["MODELVERSE_API_KEY"]
            with pytest.raises(openai.AuthenticationError) as caught:
                product.draw()
            assert caught.value.request_id == "r-1"
    """)
    monkeypatch.setenv("MODELVERSE_BASE_URL", telltale)
    monkeypatch.setenv("MODELVERSE_API_KEY", "sk-CANARY-of-the-user")
    run(pytester).assert_outcomes(passed=5)


def test_a_cassette_answers_in_place_of_the_emulator(pytester: pytest.Pytester) -> None:
    """In whatever order, and however, a test asks for the fixtures; the hosts on it are those of the clients."""
    pytester.makepyfile("""
        import pytest
        from flux_openai import OpenAI

        @pytest.mark.usefixtures("flux_emulator", "flux_cassette")
        def test_order():
            assert OpenAI().images.generate(prompt="a red fox").data[0].read()

        def test_dynamic(request):
            request.getfixturevalue("flux_cassette")
            assert OpenAI().images.generate(prompt="a red fox").data[0].read()
    """)
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=2)
    for path in (pytester.path / "cassettes").iterdir():
        text = path.read_text(encoding="utf-8")
        assert "https://api.umodelverse.ai/files/" in text
        assert "flux-emulator" not in text
    pytester.makeconftest(NO_NETWORK)
    run(pytester).assert_outcomes(passed=2)


def test_a_wrong_script_in_a_marker_is_shown_and_nothing_else(pytester: pytest.Pytester) -> None:
    """The line, the caret, and no frames of the library."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.flux_script("* -> statsu(429)")
        def test_it(flux_client):
            pass
    """)
    done = run(pytester)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["line 1, column 6: there is no fault statsu*", "  * -> statsu(429)", "       ^"])
    assert "script.py" not in done.stdout.str()


@pytest.mark.parametrize("fault", ["utf16", "gzip, gzip", "base64(url_safe)", "gzip"])
def test_however_an_answer_is_packed_no_signature_is_kept(pytester: pytest.Pytester, fault: str) -> None:
    """What is recorded ends as it did, and holds no link that opens, in no encoding."""
    pytester.makepyfile(f"""
        import openai, pytest

        @pytest.mark.flux_script("* -> {fault}")
        def test_fox(flux_cassette, flux_client):
            try:
                print("ended", len(flux_client.images.generate(prompt="a red fox").data))
            except openai.OpenAIError as error:
                print("ended", type(error).__name__)
    """)
    ends = []
    for option in ("--flux-record=emulator", "--flux-record=none"):
        done = run(pytester, "-s", option)
        done.assert_outcomes(passed=1)
        ends.append(re.findall(r"ended \w+", done.stdout.str()))
    assert ends[0] == ends[1]
    played = yaml.safe_load(next((pytester.path / "cassettes").iterdir()).read_bytes())
    body = played["interactions"][0]["response"]["body"]["string"]
    packed = body.encode() if isinstance(body, str) else body
    assert not re.search(rb"signature=(?!redacted)", packed.replace(b"\0", b""))
    assert not packed.startswith(b"\x1f\x8b")


def test_without_vcrpy_only_cassettes_are_missed(pytester: pytest.Pytester) -> None:
    """`flux_cassette` says what to install, and everything else works."""
    pytester.makeconftest("import sys; sys.modules['vcr'] = None; del sys.modules['flux_openai.testing.cassettes']")
    pytester.makepyfile("""
        def test_cassette(flux_cassette): ...

        def test_client(flux_client):
            assert flux_client.images.generate(prompt="a red fox").data
    """)
    done = run(pytester)
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["*flux_cassette needs vcrpy: pip install 'flux-openai[[]testing]'"])
    assert "During handling" not in done.stdout.str()


def test_the_plugin_explains_itself(pytester: pytest.Pytester) -> None:
    """Fixtures, markers and the option stand in pytest's own lists."""
    fixtures = run(pytester, "--fixtures").stdout.str()
    for name in ("flux_emulator", "flux_client", "async_flux_client", "flux_cassette", "flux_cassette_dir"):
        assert re.search(rf"^{name} -- .*testing/__init__\.py:\d+\n    \w+", fixtures, re.MULTILINE)
    markers = run(pytester, "--markers").stdout.str()
    assert all(f"@pytest.mark.{marker}" in markers for marker in ("flux_cassette(name)", "flux_script(script)"))
    assert "--flux-record={none,emulator,live}" in run(pytester, "--help").stdout.str()


def test_a_run_that_makes_no_image_does_not_load_the_sdk(pytester: pytest.Pytester) -> None:
    """At the start of pytest only the plugin's own file is read."""
    pytester.makepyfile("""
        import sys

        def test_nothing_is_loaded():
            ours = {name for name in sys.modules if name.partition(".")[0] in ("flux_openai", "openai", "vcr")}
            assert ours == {"flux_openai", "flux_openai.testing"}
    """)
    run_apart(pytester).assert_outcomes(passed=1)


def test_the_guide_runs_as_it_stands(pytester: pytest.Pytester) -> None:
    """Whoever copies the blocks on pytest has four tests that pass, once recorded."""
    fixtures, own_clients, cassette = BLOCKS
    pytester.makepyfile(test_fixtures=fixtures, test_own_clients=own_clients, test_cassette=cassette)
    run(pytester, "--flux-record=emulator").assert_outcomes(passed=4)
    assert cassette_of(pytester, "test_cassette.test_my_own_client").exists()
    run(pytester).assert_outcomes(passed=4)
