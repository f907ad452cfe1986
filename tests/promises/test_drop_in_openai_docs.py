"""What OpenAI's documentation does with images, as programs: with one changed import they do the same."""

import base64
import gc
import json
import os
import re
import runpy
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flux_openai import Emulator
from flux_openai._http.library import httpx
from flux_openai.emulator import Reply, Server
from flux_openai.models import FAMILIES

START = """
import base64
from openai import OpenAI

client = OpenAI()
"""
SAVE = """
with open("result.png", "wb") as f:
    f.write(base64.b64decode(result.data[0].b64_json))
"""
ASYNC = """
import asyncio, base64
from openai import AsyncOpenAI

async def main():
    async with AsyncOpenAI() as client:
        {body}

asyncio.run(main())
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program as a reader would have copied it, and whether it also runs, with another model's name, for FLUX."""

    text: str
    flux: bool = False


# Our own words, with the calls of the pages named, and with their way of using the answer.
PROGRAMS: Mapping[str, Program] = {
    "guide, generate: b64_json to a file": Program(
        text=f"{START}result = client.images.generate(model='gpt-image-2', prompt='A vet with a baby otter'){SAVE}",
        flux=True,
    ),
    "guide, generate: several images": Program(
        text=f"""{START}
result = client.images.generate(model="gpt-image-1.5", prompt="Postcards from the sea", n=3)
for number, image in enumerate(result.data):
    open(f"postcard{{number}}.png", "wb").write(base64.b64decode(image.b64_json))
""",
        flux=True,
    ),
    "guide, customize: size, quality, format, compression": Program(
        text=f"""{START}
look = dict(size="1024x1536", quality="low", output_format="jpeg", output_compression=50)
result = client.images.generate(model="gpt-image-1.5", prompt="A lighthouse in the fog", **look)
{SAVE}""",
        flux=True,
    ),
    "guide, transparency and moderation": Program(
        text=f"""{START}
look = dict(size="1024x1024", background="transparent", quality="high", moderation="low")
result = client.images.generate(model="gpt-image-1.5", prompt="A sprite sheet of a tabby cat", **look)
{SAVE}""",
        flux=True,
    ),
    "guide, stream: partial images": Program(
        text=f"""{START}
stream = client.images.generate(model="gpt-image-2", prompt="A river of feathers", stream=True, partial_images=2)
for event in stream:
    if event.type == "image_generation.partial_image":
        with open(f"river{{event.partial_image_index}}.png", "wb") as f:
            f.write(base64.b64decode(event.b64_json))
""",
    ),
    "SDK examples, stream: partial and final images": Program(
        text=f"""{START}
options = dict(n=1, size="1024x1024", stream=True, partial_images=3)
for event in client.images.generate(model="gpt-image-1", prompt="A sea otter", **options):
    last = event.type == "image_generation.completed"
    with open("final.png" if last else f"partial_{{event.partial_image_index + 1}}.png", "wb") as f:
        f.write(base64.b64decode(event.b64_json))
    print(event.type, len(event.b64_json), event.usage.total_tokens if last else "")
""",
    ),
    "guide, edit: several input images, input fidelity": Program(
        text=f"""{START}
pictures = [open("lotion.png", "rb"), open("soap.png", "rb")]
result = client.images.edit(model="gpt-image-1.5", image=pictures, prompt="A gift basket", input_fidelity="high")
{SAVE}""",
        flux=True,
    ),
    "guide, edit: mask": Program(
        text=f"""{START}
image, mask = open("lounge.png", "rb"), open("mask.png", "rb")
result = client.images.edit(model="gpt-image-1.5", image=image, mask=mask, prompt="A flamingo in the pool")
{SAVE}""",
        flux=True,
    ),
    "API reference, edit: streamed": Program(
        text=f"""{START}
with open("lounge.png", "rb") as image:
    stream = client.images.edit(model="gpt-image-2", image=image, prompt="At night", stream=True, partial_images=1)
    for event in stream:
        print(event.type, event.size, event.b64_json)
""",
    ),
    "API reference, generate: usage": Program(
        text=f"""{START}
img = client.images.generate(model="gpt-image-1.5", prompt="A cute baby sea otter", n=1, size="1024x1024")
print(img.created, img.usage.total_tokens, img.usage.input_tokens_details.text_tokens, img.output_format, img)
""",
    ),
    "API reference, DALL-E: response_format url": Program(
        text=f"""{START}
from urllib.request import urlretrieve
options = dict(size="1024x1024", quality="standard", style="vivid", response_format="url", n=1)
response = client.images.generate(model="dall-e-3", prompt="A white siamese cat", **options)
print(response.data[0].revised_prompt)
urlretrieve(response.data[0].url, "cat.png")
""",
        flux=True,
    ),
    "cookbook, DALL-E: generate, download, vary, edit": Program(
        text="""
import os
from urllib.request import urlopen, urlretrieve
from openai import OpenAI

client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY"))
common = dict(size="1024x1024", response_format="url")
made = client.images.generate(model="dall-e-3", prompt="A monkey dreaming of bananas", n=1, **common)
first = urlopen(made.data[0].url).read()
varied = client.images.create_variation(image=first, model="dall-e-2", n=2, **common)
for number, image in enumerate([made.data[0], *varied.data]):
    urlretrieve(image.url, f"{number}.png")
files = dict(image=open("0.png", "rb"), mask=open("mask.png", "rb"))
print(client.images.edit(prompt="More bananas", model="dall-e-2", **files, **common))
""",
    ),
    "cookbook, GPT Image: resize and save": Program(
        text=f"""{START}
import os
from io import BytesIO
from PIL import Image
os.makedirs("imgs", exist_ok=True)
look = dict(quality="low", output_format="jpeg", size="1024x1024")
result = client.images.generate(model="gpt-image-1", prompt="A friendly blob from space", **look)
image = Image.open(BytesIO(base64.b64decode(result.data[0].b64_json)))
image.resize((30, 30), Image.LANCZOS).save("imgs/blob.png", optimize=True)
""",
        flux=True,
    ),
    "SDK README, async: generate, and edit what came": Program(
        text=ASYNC.format(
            body="""
        made = await client.images.generate(model="gpt-image-2", prompt="A red fox", size="1536x1024")
        picture = ("fox.png", base64.b64decode(made.data[0].b64_json), "image/png")
        async for event in await client.images.edit(model="gpt-image-2", image=picture, prompt="Snow", stream=True):
            print(event.type, event.b64_json)"""
        ),
    ),
    "SDK README, async: generate several at once": Program(
        text=ASYNC.format(
            body="""
        calls = (client.images.generate(model="gpt-image-2", prompt=what, user="u") for what in ("A fox", "A hare"))
        for number, result in enumerate(await asyncio.gather(*calls)):
            open(f"{number}.png", "wb").write(base64.b64decode(result.data[0].b64_json))"""
        ),
        flux=True,
    ),
    "guide, Responses API: image generation tool": Program(
        text=f"""{START}
response = client.responses.create(model="gpt-5.5", input="A cat and an otter", tools=[{{"type": "image_generation"}}])
for number, call in enumerate(call for call in response.output if call.type == "image_generation_call"):
    open(f"friends{{number}}.png", "wb").write(base64.b64decode(call.result))
print(response.output_text)
""",
    ),
}


def png(shade: int) -> bytes:
    """A picture of one grey dot."""
    head, dot = b"\0\0\0\1\0\0\0\1\x08\0\0\0\0", zlib.compress(bytes([0, shade]))
    parts = [(b"IHDR", head), (b"IDAT", dot), (b"IEND", b"")]
    chunks = (len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4) for kind, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


INPUTS = {name: png(shade) for shade, name in enumerate(("lotion.png", "soap.png", "lounge.png", "mask.png"))}
TOKENS = {"text_tokens": 13, "image_tokens": 0}
USAGE = {"input_tokens": 13, "input_tokens_details": TOKENS, "output_tokens": 196, "total_tokens": 209}
LOOK = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}


class OpenAIService:
    """The other side as OpenAI answers: pictures as text or as links, streams, and the Responses API."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []

    def reply(self, request: httpx.Request) -> Reply:
        """What it answers, as our server sends it."""
        response = self.handle(request)
        return Reply(status=response.status_code, headers=dict(response.headers), body=response.content)

    def handle(self, request: httpx.Request) -> httpx.Response:
        mark = request.headers.get("content-type", "").partition("boundary=")[2]
        # The boundary between the parts of a form is drawn anew each time.
        body = request.read().replace(mark.encode(), b"~") if mark else request.read()
        self.seen.append((request.method, request.url.path, body))
        if request.method == "GET":
            return httpx.Response(200, content=png(200), headers={"content-type": "image/png"})
        fields = (
            dict(re.findall(r'name="(\w+)"\r\n\r\n(.*?)\r\n', body.decode("latin-1"))) if mark else json.loads(body)
        )
        return self.answer(request.url, fields)

    def answer(self, url: httpx.URL, fields: Mapping[str, Any]) -> httpx.Response:
        picture = base64.b64encode(png(100)).decode()
        if url.path == "/v1/responses":
            text = {"type": "output_text", "text": "There you are.", "annotations": []}
            message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [text]}
            call = {"type": "image_generation_call", "id": "i", "status": "completed", "result": picture}
            return httpx.Response(200, json={"id": "r", "object": "response", "output": [call, message]})
        if fields.get("stream") in (True, "true"):
            name = "image_edit" if url.path.endswith("edits") else "image_generation"
            common = {"b64_json": picture, "created_at": 1, **LOOK}
            drafts = ({"partial_image_index": index} for index in range(int(fields.get("partial_images", 0))))
            events = [{"type": f"{name}.partial_image", **draft, **common} for draft in drafts]
            events.append({"type": f"{name}.completed", "usage": USAGE, **common})
            lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
            return httpx.Response(200, text="".join(lines), headers={"content-type": "text/event-stream"})
        count = range(int(fields.get("n", 1)))
        if fields["model"].startswith("dall-e"):
            links = [{"url": str(url.copy_with(path=f"/{number}.png")), "revised_prompt": "So"} for number in count]
            return httpx.Response(200, json={"created": 1, "data": links})
        images = [{"b64_json": picture} for _ in count]
        answer = {"created": 1, "data": images, "usage": USAGE, **LOOK}
        return httpx.Response(200, json=answer, headers={"x-request-id": "req-1"})


Run = Callable[[str, str, str], dict[str, bytes]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a program in a folder of its own, with an address in the variables that start with a name."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

    def run(text: str, variables: str, address: str) -> dict[str, bytes]:
        folder = tmp_path / variables
        folder.mkdir()
        for name, content in INPUTS.items():
            folder.joinpath(name).write_bytes(content)
        program = tmp_path / "program.py"
        program.write_text(text, encoding="utf-8")
        with monkeypatch.context() as here, warnings.catch_warnings():
            here.chdir(folder)
            here.setenv(f"{variables}_API_KEY", "sk-example")
            here.setenv(f"{variables}_BASE_URL", address)
            # Documents leave files and clients open, and use what newer SDKs have deprecated.
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.filterwarnings("ignore", "deprecated", DeprecationWarning)
            runpy.run_path(str(program), run_name="__main__")
            gc.collect()  # while what was left open may still be closed without a word
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return {name: content for name, content in files.items() if name not in INPUTS}

    return run


def changed(text: str, *changes: tuple[str, str]) -> str:
    """The program with each change made; one that changes nothing would prove nothing."""
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    return text


IMPORT = (r"from openai import", "from flux_openai import")
"""The one line to change."""


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_documented_program_needs_only_another_import(
    program: Program, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same requests to the byte, the same output and the same files, for the models it was written for."""
    service, results = OpenAIService(), []
    with Server(service.reply) as server:
        for text, variables in ((program.text, "OPENAI"), (changed(program.text, IMPORT), "MODELVERSE")):
            files = run(text, variables, server.base_url)
            # Calls that are made at once arrive in any order.
            results.append((files, capsys.readouterr().out, sorted(service.seen)))
            service.seen.clear()
    theirs, ours = results
    assert ours == theirs
    assert theirs[2]
    assert any(theirs[:2])


FLUX_PROGRAMS = {name: program.text for name, program in PROGRAMS.items() if program.flux}


@pytest.mark.parametrize("model", ["kontext-max", pytest.param("kontext-pro", marks=pytest.mark.full)])
@pytest.mark.parametrize("text", FLUX_PROGRAMS.values(), ids=FLUX_PROGRAMS)
def test_a_documented_program_draws_with_flux(text: str, model: str, run: Run) -> None:
    """With a FLUX model's name and what FLUX does not take left out, it makes its pictures all the same."""
    emulator = Emulator(pixels=256)
    # GPT Image answers with the picture itself and has no option for it; FLUX has to be asked for more than a link.
    settings = """OpenAI(unsupported="drop", defaults={"response_format": "b64_json"})"""
    with emulator.serve() as server:
        changes = (IMPORT, (r"OpenAI\(\)", settings), (r"model=(['\"])[^'\"]+", rf"model=\g<1>{model}"))
        files = run(changed(text, *changes), "MODELVERSE", server.base_url)
    assert files
    assert all(content.startswith((b"\x89PNG", b"\xff\xd8")) for content in files.values())
    asked = {(seen.body or {})["model"] for seen in emulator.requests if seen.method == "POST"}
    assert asked <= {sibling.id for sibling in FAMILIES[model]}
    assert emulator.bill.images >= len(files)
