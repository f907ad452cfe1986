# needs: pip install 'flux-openai[mcp,cli]'
"""Be the client of the MCP server, as an agent's host is: start it, see its tools, draw, and fetch the whole image."""

import os
import sys
from base64 import b64decode

import anyio
from anyio import Path
from mcp import Client, StdioServerParameters
from mcp.types import BlobResourceContents, ResourceLink, TextContent

free = [] if "MODELVERSE_API_KEY" in os.environ else ["--emulator"]
arguments = ["-m", "flux_openai", "mcp", "-o", "out", "--max-images", "4", *free]
# A client hands its server next to nothing of its own environment, and the key may be there.
server = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))


async def main() -> None:
    """Ask for one image, and save a copy of it under another name."""
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            print(tool.name, *tool.input_schema["properties"])

        result = await client.call_tool("flux_generate_image", {"prompt": "a red fox", "seed": 7})
        for part in result.content:
            if isinstance(part, TextContent):
                print(part.text)
            if isinstance(part, ResourceLink):
                for whole in (await client.read_resource(part.uri)).contents:
                    if isinstance(whole, BlobResourceContents):
                        copy = Path("out", f"copy-of-{part.name}")
                        await copy.write_bytes(b64decode(whole.blob))
                        print(copy)


anyio.run(main)
