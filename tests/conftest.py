import gc
import ipaddress
import os
import socket
from collections.abc import Callable
from functools import partial

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:
    pass  # LangChain's own tests of a tool run without
else:
    # A machine that is busy with something else fails no test.
    untimed = settings(settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("untimed", untimed, max_examples=50)
    settings.register_profile("full", untimed, max_examples=2000)  # with `--hypothesis-profile=full`
    settings.load_profile("untimed")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A parameter's name, for bytes that are no text: gzip puts the time into them, and two workers would differ."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


@pytest.fixture
def anyio_backend() -> str:
    """The async tests run on asyncio: it is what the SDK runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set on the developer's machine must not decide a test, and no key may get into one."""
    records = "flux_cassette" in request.fixturenames and request.config.getoption("flux_record") == "live"
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "MODELVERSE_")) and not (records and name == "MODELVERSE_API_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture
def blocked_network(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    """No name is looked up and only this machine is connected to, whatever library wants to; a live recording may."""
    if pytestconfig.getoption("flux_record") == "live":
        return

    def is_loopback(host: object) -> bool:
        try:
            return host is None or ipaddress.ip_address(str(host)).is_loopback
        except ValueError:
            return False

    def connect(real: Callable[..., object], sock: socket.socket, address: object, *rest: object) -> object:
        if isinstance(address, tuple) and not is_loopback(address[0]):
            pytest.fail(f"a replay must not use the network, but something connects to {address[0]!r}")
        return real(sock, address, *rest)

    def look_up(real: Callable[..., object], host: object, *rest: object, **options: object) -> object:
        name = host.decode() if isinstance(host, bytes) else host
        if not is_loopback(name):
            pytest.fail(f"a replay must not use the network, but something looks up {name!r}")
        return real(host, *rest, **options)

    monkeypatch.setenv("no_proxy", "*")  # a proxy on this machine would be a way around the block
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)
        # A lambda and no partial, which would not become a method.
        monkeypatch.setattr(socket.socket, name, lambda sock, *args, real=real: connect(real, sock, *args))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        monkeypatch.setattr(socket, name, partial(look_up, getattr(socket, name)))


@pytest.fixture(scope="session")
def all_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For a pytest run inside of this process: it forgets the modules that it was the first to import.

    Imported again, they would define every class a second time, and `except` and `isinstance` would miss the first.
    """
    import vcr  # noqa: PLC0415  # not every environment has it

    import flux_openai.testing.cassettes  # noqa: PLC0415  # it needs vcrpy
    from flux_openai._http.library import httpx  # noqa: PLC0415

    with httpx.Client(), vcr.use_cassette(str(tmp_path_factory.mktemp("vcr") / "none.yaml")):
        flux_openai.Emulator(pixels=1).client().images.generate(prompt="a red fox").data[0].read()


def pytest_collection_finish() -> None:
    """Thousands of tests are known by now: no garbage collection needs to look at them again and again."""
    gc.collect()
    gc.freeze()
