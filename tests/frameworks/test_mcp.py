"""The MCP server and its thumbnails, with the SDK's own clients: in memory, over pipes, in both protocols."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import zlib
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError, StdioServerParameters, types
from PIL import Image

import flux_openai.tools.mcp as adapter
from flux_openai import AsyncFluxOpenAI, Emulator
from flux_openai._http.library import httpx
from flux_openai.cli import main
from flux_openai.tools import FluxTool
from flux_openai.tools.mcp import mcp_server

ROOT = Path(__file__).parents[2]
Message = dict[str, Any]
jsonschema: Any = import_module("jsonschema")  # a dependency of mcp, which has no types

GENERATE, EDIT = "flux_generate_image", "flux_edit_image"
STRICT = ["-W", "error", "-m", "flux_openai", "mcp"]

each_protocol = pytest.mark.parametrize("mode", ["auto", "legacy"])
pytestmark = pytest.mark.anyio


@pytest.fixture
def emulator() -> Emulator:
    """A service of our own, for those tests that make it fail."""
    return Emulator(pixels=64)


@pytest.fixture
async def tool(emulator: Emulator, tmp_path: Path) -> AsyncIterator[FluxTool]:
    """The neutral tool behind the server."""
    async with emulator.async_client() as client:
        yield FluxTool(client, folder=tmp_path / "out", max_images=4, images={"a b/c.png": tmp_path / "start.png"})


@pytest.fixture
def parameters(tmp_path: Path) -> StdioServerParameters:
    """The real program on the emulator, to whom every warning is an error."""
    arguments = [*STRICT, "--emulator", "-o", str(tmp_path / "out")]
    return StdioServerParameters(command=sys.executable, args=arguments, env={"PYTHONPATH": str(ROOT)})


def text_of(result: types.CallToolResult) -> str:
    """The words for the model, which come first."""
    assert isinstance(result.content[0], types.TextContent)
    text: str = result.content[0].text
    return text


def parts_of(result: types.CallToolResult) -> tuple[list[types.ImageContent], list[types.ResourceLink]]:
    """The thumbnails and the links of a result."""
    return (
        [part for part in result.content if isinstance(part, types.ImageContent)],
        [part for part in result.content if isinstance(part, types.ResourceLink)],
    )


def check_progress(seen: list[tuple[float, float | None]]) -> None:
    """The numbers only grow, and the last one, and no other, says that it is the end."""
    numbers = [number for number, _ in seen]
    assert numbers == sorted(set(numbers))
    assert len(seen) > 1
    assert [total for _, total in seen] == [*[None] * (len(seen) - 1), numbers[-1]]


async def whole(client: Client, uri: str) -> bytes:
    """What a resource holds."""
    [contents] = (await client.read_resource(uri)).contents
    assert isinstance(contents, types.BlobResourceContents)
    assert contents.uri == uri
    return b64decode(contents.blob)


@each_protocol
async def test_a_session_with_the_real_program(
    parameters: StdioServerParameters, tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: str
) -> None:
    """Over pipes: a mistake, its correction, the image small and whole, an edit by name, and an end without a word."""
    seen: list[tuple[float, float | None]] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    async with Client(parameters, mode=mode) as client:
        wrong = await client.call_tool(GENERATE, {"prompt": "a fox", "steps": 99})
        assert wrong.is_error
        assert "nothing was paid:\n- steps=99: must be an integer from 1 to 50 (nearest: 50)" in text_of(wrong)

        drawn = await client.call_tool(GENERATE, {"prompt": "a fox", "n": 2}, progress_callback=tell)
        assert not drawn.is_error
        assert [part.type for part in drawn.content] == ["text", *["image", "resource_link"] * 2]
        small, links = parts_of(drawn)
        for thumbnail, link in zip(small, links, strict=True):
            assert thumbnail.mime_type == "image/jpeg"
            with Image.open(BytesIO(b64decode(thumbnail.data))) as image:
                assert image.size == (512, 512)
            file = tmp_path / "out" / link.name
            assert await whole(client, link.uri) == file.read_bytes()
            assert (link.mime_type, link.size) == ("image/png", file.stat().st_size)
        assert "out" not in json.dumps(drawn.structured_content)

        changed = await client.call_tool(EDIT, {"prompt": "snow", "images": [link.name for link in links]})
        assert not changed.is_error
        listed = (await client.list_resources()).resources
        assert sorted(one.name for one in listed) == sorted(path.name for path in (tmp_path / "out").iterdir())
        assert len(listed) == 3

    check_progress(seen)
    assert capfd.readouterr().err == ""


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """The real program, with our hands on its pipes."""
    return subprocess.Popen(
        [sys.executable, *STRICT, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), **environment},
        text=True,
    )


def say(process: subprocess.Popen[str], *messages: Message) -> None:
    """Send messages of the protocol."""
    assert process.stdin
    process.stdin.writelines(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> Message:
    """The next line, which is a message of the protocol."""
    assert process.stdout
    message: Message = json.loads(process.stdout.readline())
    return message


INITIALIZE: Message = {
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}},
}
CALL: Message = {"id": 2, "method": "tools/call", "params": {"name": GENERATE, "arguments": {"prompt": "a fox"}}}


def test_the_oldest_protocol_and_a_clean_end(tmp_path: Path) -> None:
    """Stdout holds the protocol alone, an old client gets nothing it cannot know, and with stdin the program ends."""
    with start("--emulator", "-o", str(tmp_path / "out")) as process:
        say(process, INITIALIZE)
        assert heard(process)["result"]["serverInfo"]["name"] == "flux-openai"
        say(process, {"method": "notifications/initialized"}, CALL)
        answer = heard(process)
        rest, errors = process.communicate(timeout=60)
    assert (rest, errors, process.returncode) == ("", "", 0)
    assert [part["type"] for part in answer["result"]["content"]] == ["text", "image"]


@each_protocol
async def test_the_tools_are_the_neutral_ones(tool: FluxTool, mode: str) -> None:
    """A client reads the name, the description and the schema of the neutral tool, and what a call may do."""
    async with Client(mcp_server(tool), mode=mode) as client:
        listed = (await client.list_tools()).tools
    for one, neutral in zip(listed, (tool, tool.editing()), strict=True):
        assert (one.name, one.description) == (neutral.name, neutral.description)
        assert one.input_schema == neutral.input_schema
        assert one.title == {"generate": "Generate images", "edit": "Edit images"}[neutral.verb]
        assert one.annotations == types.ToolAnnotations(
            title=one.title, read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
        )


async def test_only_what_a_call_needs_is_required(tool: FluxTool, emulator: Emulator) -> None:
    """The schema requires the prompt, and the images of an edit; null for an optional argument is still accepted."""
    async with Client(mcp_server(tool)) as client:
        listed = (await client.list_tools()).tools
        assert [one.input_schema["required"] for one in listed] == [["prompt"], ["images", "prompt"]]
        assert "null" not in json.dumps([one.input_schema for one in listed])
        everything = dict.fromkeys(listed[0].input_schema["properties"])
        assert not (await client.call_tool(GENERATE, {"prompt": "a fox"})).is_error
        assert not (await client.call_tool(GENERATE, {**everything, "prompt": "a fox"})).is_error
    assert emulator.bill.images == 2


@each_protocol
async def test_the_structured_content_matches_its_schema(tool: FluxTool, emulator: Emulator, mode: str) -> None:
    """Whatever a call ends in, its structured content has the fields that the schema promises, and no others."""
    async with Client(mcp_server(tool), mode=mode) as client:
        [schema, _] = [one.output_schema for one in (await client.list_tools()).tools]
        assert schema["type"] == "object"
        results = [await client.call_tool(GENERATE, {"prompt": "x", "steps": 99})]
        results.append(await client.call_tool(GENERATE, {"prompt": "x", "n": 2, "seed": 7}))
        emulator.fail(status=200, body={"created": 1, "data": [{"b64_json": "aGVsbG8gd29ybGQ="}]})
        results.append(await client.call_tool(GENERATE, {"prompt": "no image"}))
        emulator.fail(error="reset")
        results.append(await client.call_tool(GENERATE, {"prompt": "unknown"}))
        results.append(await client.call_tool(GENERATE, {"prompt": "too many"}))
    assert [result.is_error for result in results] == [True, False, False, True, True]
    closed = {**schema, "additionalProperties": False}
    closed["properties"]["images"]["items"]["additionalProperties"] = False
    for result in results:
        jsonschema.validate(result.structured_content, closed)
        assert result.structured_content["text"] == text_of(result)
        assert result.structured_content["is_error"] == result.is_error
    assert [image["seed"] for image in results[1].structured_content["images"]] == [7, 7]


@each_protocol
async def test_the_server_says_how_its_tools_belong_together(tool: FluxTool, mode: str) -> None:
    """The instructions name the tools that there are, the limits and the seed, and no path."""
    async with Client(mcp_server(tool), mode=mode) as client:
        told = client.instructions
    assert told
    assert all(part in told for part in (GENERATE, EDIT, "at most 4 images in 16 calls", "its seed"))
    assert str(tool.session.folder) not in told
    async with Client(mcp_server(tool.editing(name="change")), mode=mode) as client:
        assert client.instructions
        assert client.instructions.startswith("change changes or combines images")


async def test_a_tool_that_edits_comes_alone(tool: FluxTool) -> None:
    """Whoever serves the editing tool serves that one only."""
    async with Client(mcp_server(tool.editing(name="change"))) as client:
        assert [one.name for one in (await client.list_tools()).tools] == ["change"]


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "/etc/passwd", "..", "file:///etc/passwd", "<|system|>\n\0"])
async def test_a_hostile_prompt_stays_in_the_folder(tool: FluxTool, tmp_path: Path, prompt: str) -> None:
    """Whatever the prompt says, the image is a file in the folder, and its address is one that is listed."""
    async with Client(mcp_server(tool)) as client:
        _, [link] = parts_of(await client.call_tool(GENERATE, {"prompt": prompt}))
        assert await whole(client, link.uri) == (tmp_path / "out" / link.name).read_bytes()
    assert [path.name async for path in anyio.Path(tmp_path).rglob("*") if await path.is_file()] == [link.name]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "https://example.com/x.png", "flux://images/x", "data:image/png,x", 7]
)
async def test_a_stranger_is_no_image(tool: FluxTool, emulator: Emulator, name: object) -> None:
    """An edit takes names that were given out, and no path and no link; nothing is sent."""
    async with Client(mcp_server(tool)) as client:
        result = await client.call_tool(EDIT, {"prompt": "snow", "images": [name]})
    assert result.is_error
    assert "is no image here" in text_of(result)
    assert emulator.requests == []


@each_protocol
@pytest.mark.parametrize(
    "uri",
    [
        "",
        "flux://images/",
        "flux://images/a b/c.png",
        "flux://images/a%20b%2fc.png",
        "flux://images/../../../../etc/passwd",
        "flux://images/..%2f..%2fetc%2fpasswd",
        "file:///etc/passwd",
        "/etc/passwd",
        "https://example.com/x.png",
    ],
)
async def test_a_foreign_address_is_refused(tool: FluxTool, tmp_path: Path, uri: str, mode: str) -> None:
    """Only an address that was given out, letter by letter, is read."""
    (tmp_path / "start.png").write_bytes(b"GIF89a")
    async with Client(mcp_server(tool), mode=mode) as client:
        [start] = (await client.list_resources()).resources
        assert (start.uri, start.mime_type, start.size) == ("flux://images/a%20b%2Fc.png", "image/gif", 6)
        assert await whole(client, start.uri) == b"GIF89a"
        with pytest.raises(MCPError, match="no image of that address") as caught:
            await client.read_resource(uri)
    assert caught.value.code == types.INVALID_PARAMS


async def test_a_file_that_has_gone(tool: FluxTool) -> None:
    """An image whose file has gone is not listed, and reading it says so without its path."""
    async with Client(mcp_server(tool)) as client:
        assert (await client.list_resources()).resources == []
        with pytest.raises(MCPError, match=r"^the image cannot be read: No such file or directory$"):
            await client.read_resource("flux://images/a%20b%2Fc.png")


async def test_an_unknown_tool(tool: FluxTool) -> None:
    """A tool that is not there is an error of the protocol, which names those that are."""
    async with Client(mcp_server(tool)) as client:
        with pytest.raises(MCPError, match=f"the tools are {GENERATE}, {EDIT}"):
            await client.call_tool("flux_delete_image", {})


@pytest.mark.parametrize("arguments", [None, {}, {"prompt": "x", "n": 10_000}, {"prompt": "x", "api_key": "k"}])
async def test_wrong_arguments_are_answered(
    tool: FluxTool, emulator: Emulator, arguments: dict[str, Any] | None
) -> None:
    """The neutral tool's own check answers, and nothing is sent."""
    async with Client(mcp_server(tool)) as client:
        result = await client.call_tool(GENERATE, arguments)
    assert result.is_error
    assert "Correct them and call again." in text_of(result)
    assert result.structured_content["text"] == text_of(result)
    assert emulator.requests == []


async def test_the_limit_holds(tool: FluxTool, emulator: Emulator) -> None:
    """Both tools share what may be spent."""
    async with Client(mcp_server(tool)) as client:
        _, [first, *_] = parts_of(await client.call_tool(GENERATE, {"prompt": "x", "n": 3}))
        result = await client.call_tool(EDIT, {"prompt": "x", "images": [first.name], "n": 2})
        assert result.is_error
        assert "the limit is 4 images, of which 1 are left" in text_of(result)
    assert emulator.bill.images == 3


async def test_an_unknown_outcome(tool: FluxTool, emulator: Emulator) -> None:
    """Where nobody knows whether it was paid for, the model is told not to call again."""
    emulator.fail(error="reset")
    async with Client(mcp_server(tool)) as client:
        result = await client.call_tool(GENERATE, {"prompt": "x"})
    assert result.is_error
    assert "Do not call again" in text_of(result)
    assert result.structured_content["billing"] == "unknown"


async def test_an_image_without_a_thumbnail(tool: FluxTool, emulator: Emulator) -> None:
    """An image that cannot be made small is still told, linked and readable."""
    size = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    broken = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + size + b"\x08\x02\0\0\0\0\0\0\0" + b"\0\0\0\0IEND\xaeB`\x82"
    emulator.fail(status=200, body=broken, on="download")
    async with Client(mcp_server(tool)) as client:
        result = await client.call_tool(GENERATE, {"prompt": "x"})
        small, [link] = parts_of(result)
        assert (result.is_error, small) == (False, [])
        assert await whole(client, link.uri) == broken


def waiting(tool: FluxTool, handle: Callable[[httpx.Request], Any]) -> FluxTool:
    """The tool with a service that answers when it likes."""
    http_client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    client = AsyncFluxOpenAI(api_key="k", http_client=http_client)
    return FluxTool(client, folder=tool.session.folder)


@each_protocol
async def test_progress_is_seen_while_the_service_works(
    tool: FluxTool, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A client that asks for it is told again and again that the call goes on, then that it has ended, then nothing."""
    monkeypatch.setattr(adapter, "_PROGRESS_INTERVAL", 0)
    seen: list[tuple[float, float | None]] = []
    enough = anyio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        await enough.wait()
        return emulator.handle(request)

    async def tell(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))
        if len(seen) == 3:
            enough.set()

    async with Client(mcp_server(waiting(tool, handle)), mode=mode) as client:
        assert not (await client.call_tool(GENERATE, {"prompt": "x"}, progress_callback=tell)).is_error
        ended = len(seen)
        await client.list_tools()
    assert len(seen) == ended
    check_progress(seen)


@each_protocol
async def test_a_call_that_is_called_off(tool: FluxTool, emulator: Emulator, mode: str) -> None:
    """It is paid for, so it gets as far as the folder, and whoever names the same order later is given what it made."""
    sent, go = anyio.Event(), anyio.Event()

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            sent.set()
            await go.wait()
        return emulator.handle(request)

    order = {"prompt": "x", "seed": 7, "request_key": "one"}
    async with Client(mcp_server(waiting(tool, handle)), mode=mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, GENERATE, order)
            await sent.wait()
            group.cancel_scope.cancel()
            go.set()
        again = await client.call_tool(GENERATE, order)
    assert "nothing new was made" in text_of(again)
    assert (tool.session.folder / "x_seed7_0.png").exists()
    assert emulator.bill.images == 1


def test_stdin_ends_while_a_call_is_under_way(tmp_path: Path) -> None:
    """A host that leaves loses no image that is paid for: the program ends when the answer has come and is saved."""
    picture = Emulator(pixels=64).client().images.generate(prompt="x", response_format="b64_json").data[0].b64_json
    body = json.dumps({"created": 1, "data": [{"b64_json": picture}]}).encode()
    with socket.create_server(("127.0.0.1", 0)) as service:
        url = f"http://127.0.0.1:{service.getsockname()[1]}/v1"
        with start("-o", str(tmp_path), "--base-url", url, MODELVERSE_API_KEY="k") as process:
            say(process, INITIALIZE)
            heard(process)
            say(process, {"method": "notifications/initialized"}, CALL)
            connection, _ = service.accept()
            with connection:
                assert connection.recv(65536)
                assert process.stdin
                process.stdin.close()
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                assert process.wait(timeout=60) == 0
    assert [path.suffix for path in tmp_path.iterdir()] == [".png"]


def test_a_terminal_is_told_what_the_server_waits_for(tmp_path: Path) -> None:
    """Who starts it by hand reads on stderr what it is, how it ends and where its JSON goes; that JSON starts it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, *STRICT, "--emulator", "-o", str(tmp_path / "out")]
    with (
        os.fdopen(ours, "wb", buffering=0) as keyboard,
        subprocess.Popen(
            command,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        os.close(theirs)
        keyboard.write(b"\x04")
        out, told = process.communicate(timeout=60)
    assert (out, process.returncode) == ("", 0)
    assert "It waits for the messages of an AI application on stdin; Ctrl-C or Ctrl-D ends it." in told
    for place in ("claude_desktop_config.json", ".mcp.json", "~/.cursor/mcp.json", ".vscode/mcp.json", '"servers"'):
        assert place in told
    [line] = [line for line in told.splitlines() if line.startswith("{")]
    server = json.loads(line)["mcpServers"]["flux"]
    assert server["args"][-1] == str(tmp_path / "out")
    command = [server["command"], *server["args"], "--emulator"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env={"PYTHONPATH": str(ROOT)}
    ) as process:
        say(process, INITIALIZE)
        assert heard(process)["result"]["serverInfo"]["name"] == "flux-openai"
        process.communicate(timeout=60)


def test_the_json_of_the_guide_starts_the_server(tmp_path: Path) -> None:
    """Both forms of configuration in the guide have arguments that the program takes, and a place for the key."""
    text = (ROOT / "examples" / "agents.md").read_text(encoding="utf-8")
    common, code = (json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    server = common["mcpServers"]["flux"]
    assert {**server, "type": "stdio", "env": code["servers"]["flux"]["env"]} == code["servers"]["flux"]
    assert server["env"].keys() == code["servers"]["flux"]["env"].keys() == {"MODELVERSE_API_KEY"}
    [asked] = code["inputs"]
    assert code["servers"]["flux"]["env"]["MODELVERSE_API_KEY"] == f"${{input:{asked['id']}}}"
    verb, out, _, *options = server["args"]
    assert verb == "mcp"
    with start(out, str(tmp_path), *options, MODELVERSE_API_KEY="k") as process:
        say(process, INITIALIZE)
        assert heard(process)["result"]["serverInfo"]["name"] == "flux-openai"
        process.communicate(timeout=60)


def test_ctrl_c_ends_the_program(tmp_path: Path) -> None:
    """Somebody who started it at a terminal can end it there."""
    with start("-o", str(tmp_path), "--emulator") as process:
        say(process, INITIALIZE)
        heard(process)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        process.communicate()
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--model", "flux"], "must be one of 'kontext-max'"),
        (["--max-images", "0"], "--max-images 0: "),
        (["--max-calls", "-1"], "--max-calls -1: "),
        (["--timeout", "0"], "--timeout 0"),
        (["--duplicates", "often"], "--duplicates often: "),
        (["--base-url", "http://example.com/v1"], "--base-url http://example.com/v1: "),
        (["--api-key-file", "-"], "stdin belongs to the protocol"),
        (["--api-key-file", "/nonexistent/key"], "cannot read the key"),
        (["-o", "/dev/null/out"], "cannot write to the folder"),
    ],
)
def test_wrong_options(
    wrong: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with the options ends with 2 and one line, before anything is served."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELVERSE_API_KEY", "k")
    assert main(["mcp", *wrong]) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key the program does not start, and names both ways on."""
    assert main(["mcp"]) == 2
    assert "--emulator" in capsys.readouterr().err


def test_the_example(tmp_path: Path) -> None:
    """examples/mcp_client.py runs without a key, and has a copy of the image that the server saved."""
    example = ROOT / "examples" / "mcp_client.py"
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    copy, image = sorted((tmp_path / "out").iterdir(), key=lambda path: not path.name.startswith("copy-of-"))
    assert copy.read_bytes() == image.read_bytes()
    assert image.name in done.stdout


def picture(kind: str, size: tuple[int, int] = (900, 300), mode: str = "RGB") -> bytes:
    """An image that Pillow has made."""
    buffer = BytesIO()
    Image.new(mode, size, "red").save(buffer, kind)
    return buffer.getvalue()


def opened(thumbnail: bytes | None) -> Image.Image:
    """A thumbnail, as Pillow reads it."""
    assert thumbnail is not None
    return Image.open(BytesIO(thumbnail))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says to be this large."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    chunk = b"\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk + picture("PNG")[33:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_kind_becomes_a_small_jpeg(kind: str) -> None:
    """The longer side is 512 pixels, the other in proportion."""
    with opened(adapter.thumbnail(picture(kind))) as small:
        assert (small.format, small.size) == ("JPEG", (512, 171))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_a_small_jpeg(mode: str) -> None:
    """Masks, greys, palettes and transparency are no obstacle."""
    image = Image.new("RGB", (600, 600)).convert("I").convert(mode) if mode == "I;16" else Image.new(mode, (600, 600))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    with opened(adapter.thumbnail(buffer.getvalue())) as small:
        assert (small.format, small.size) == ("JPEG", (512, 512))


def test_a_small_image_is_not_blown_up() -> None:
    """What is small stays as it is."""
    with opened(adapter.thumbnail(picture("PNG", (30, 20)))) as small:
        assert small.size == (30, 20)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg/>",
        b"\x89PNG\r\n\x1a\n",
        picture("PNG")[:60],
        picture("JPEG")[:300],
        picture("PNG").replace(b"IDAT", b"IDOT"),
        picture("BMP"),
        picture("TIFF"),
        claiming(0, 0),
    ],
)
def test_what_is_broken_or_no_image_has_none(data: bytes) -> None:
    """A broken file, and a kind that no image model draws, has no thumbnail."""
    assert adapter.thumbnail(data) is None


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (65535, 65535), (12_000, 12_000), (8192, 8192)])
def test_what_says_that_it_is_huge_has_none(size: tuple[int, int]) -> None:
    """A header that claims more than any model draws is believed, and nothing is decoded."""
    assert adapter.thumbnail(claiming(*size)) is None


@pytest.mark.parametrize("size", [(65535, 65535), (12_000, 12_000), (8192, 8192)])
def test_a_size_that_is_said_twice(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where our reading of a header and Pillow's differ, the larger one counts."""
    monkeypatch.setattr(adapter, "image_size", lambda data: (10, 10))
    assert adapter.thumbnail(claiming(*size)) is None
