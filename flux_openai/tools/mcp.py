"""The server for the Model Context Protocol (MCP). Needs the extra `mcp`.

It converts between `FluxTool` and the types of the protocol. No path of this machine leaves the server: clients know an
image by its name, and read it by a URI that contains only the name.

Example:
    asyncio.run(serve_stdio(FluxTool(folder="out", max_images=8)))
"""

import struct
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from itertools import count
from urllib.parse import quote

import anyio
from anyio import to_thread

from flux_openai.formats import image_size, sniff
from flux_openai.response.files import read_image
from flux_openai.tools._extras import missing_extra
from flux_openai.tools.arguments import Verb, families_for
from flux_openai.tools.results import ToolResult
from flux_openai.tools.tool import FluxTool

try:
    from mcp import MCPError, types
    from mcp.server import Server, ServerRequestContext
    from mcp.server.session import ServerSession
    from mcp.server.stdio import stdio_server
    from mcp.types.version import is_version_at_least
    from PIL import Image
except ImportError as error:
    raise missing_extra("mcp", error) from error

__all__ = ["mcp_server", "serve_stdio"]

_TITLES: Mapping[Verb, str] = {"generate": "Generate images", "edit": "Edit images"}

_OUTPUT_SCHEMA: Mapping[str, object] = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "description": "What was made or what went wrong, and what may be done next."},
        "images": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The name by which an edit takes the image."},
                    "uri": {"type": "string", "description": "The resource that is the whole image."},
                    "mime_type": {"type": ["string", "null"]},
                    "length": {"type": "integer", "description": "Bytes."},
                    "width": {"type": ["integer", "null"], "description": "Pixels."},
                    "height": {"type": ["integer", "null"], "description": "Pixels."},
                    "seed": {"type": ["integer", "null"], "description": "The seed that was sent."},
                },
                "required": ["name", "uri", "mime_type", "length", "width", "height", "seed"],
            },
        },
        "request_id": {"type": ["string", "null"]},
        "is_error": {"type": "boolean", "description": "Whether fewer images than asked for were made and saved."},
        "billing": {"type": "string", "enum": ["none", "unknown", "paid"], "description": "What the call cost."},
    },
    "required": ["text", "images", "request_id", "is_error", "billing"],
}
"""The JSON schema of the structured content; `_to_call_result` makes it, also for errors."""

_PROGRESS_INTERVAL = 5.0
"""Seconds from one progress notification to the next."""

_FIRST_WITH_LINKS = "2025-06-18"
"""The first version of the protocol whose results may hold links to resources."""

_THUMBNAIL_SIDE = 512
"""Pixels on the longer side of a thumbnail, at most."""

_MAX_PIXELS = 2**25
"""The largest image that is decoded, about 100 MB in memory; the models make much smaller ones."""

_UNREADABLE = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where the program turns warnings into errors
    EOFError,
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
)
"""The exceptions of Pillow for a broken file."""


def mcp_server(tool: FluxTool) -> Server:
    """Make a server with this tool, and with `tool.editing()` unless the tool itself edits or its models cannot.

    The images of the tools are the server's resources. A call is completed even if the client cancels it or
    disconnects, because it is paid for: its images are saved in the folder.
    """
    edits_too = tool.verb == "generate" and tool.model in families_for("edit")
    handlers = _Handlers((tool, tool.editing()) if edits_too else (tool,))
    try:
        own_version = version("flux-openai")
    except PackageNotFoundError:  # run from its source
        own_version = ""
    return Server(
        "flux-openai",
        version=own_version,
        title="FLUX images",
        instructions=_instructions(handlers.tools),
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_read_resource=handlers.read_resource,
    )


async def serve_stdio(tool: FluxTool) -> None:
    """Serve over stdin and stdout until stdin ends. Other output to stdout is redirected to stderr meanwhile."""
    server = mcp_server(tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _instructions(tools: Iterable[FluxTool]) -> str:
    """What a client may tell its model about the server: how the tools belong together, and what they cost."""
    names = {tool.verb: tool.name for tool in tools}
    session = next(iter(tools)).session
    sentences = [f"{names['generate']} makes images from a prompt."] if "generate" in names else []
    if "edit" in names:
        sentences.append(f"{names['edit']} changes or combines images; it takes them by the names in earlier results.")
    sentences += [
        f"Every image costs money; this server makes at most {session.max_images} images in {session.max_calls} calls.",
        "A result shows each image small, names it and its seed, and links to the whole image in the user's folder.",
        "To make an image again, call with the same arguments and its seed.",
        "A call takes up to a few minutes. If a result says not to call again, tell the user instead.",
    ]
    return " ".join(sentences)


class _Handlers:
    """The handlers for the requests of a client; the tools share one session."""

    def __init__(self, tools: tuple[FluxTool, ...]) -> None:
        self.tools = tools
        self._tools = {tool.name: tool for tool in tools}
        self._session = tools[0].session

    async def list_tools(
        self, _context: ServerRequestContext, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=tool.name,
                    title=_TITLES[tool.verb],
                    description=tool.description,
                    input_schema=tool.input_schema,
                    output_schema=dict(_OUTPUT_SCHEMA),
                    annotations=types.ToolAnnotations(
                        title=_TITLES[tool.verb],  # older clients know no other title
                        read_only_hint=False,
                        destructive_hint=False,
                        idempotent_hint=False,
                        open_world_hint=True,
                    ),
                )
                for tool in self.tools
            ]
        )

    async def call_tool(
        self, context: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"no tool of that name; the tools are {', '.join(self._tools)}")
        ticks = count(1)
        async with anyio.create_task_group() as group:
            group.start_soon(_report_progress, context.session, ticks)
            # Shielded from cancellation: the images are paid for, so they must be saved.
            with anyio.CancelScope(shield=True):
                result = await tool.acall(params.arguments or {})
            group.cancel_scope.cancel()
        last = next(ticks)
        await context.session.report_progress(last, total=last)
        links = is_version_at_least(context.protocol_version, _FIRST_WITH_LINKS)
        return await to_thread.run_sync(partial(_to_call_result, result, links=links))

    async def list_resources(
        self, _context: ServerRequestContext, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=await to_thread.run_sync(self._resources))

    async def read_resource(
        self, _context: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        # The URI is not parsed but compared with those of the known images, so that no other file can be read.
        path = {_uri(name): path for name, path in self._session.images.items()}.get(params.uri)
        if path is None:
            raise MCPError(types.INVALID_PARAMS, "no image of that address; resources/list has those that exist")
        try:
            data = await to_thread.run_sync(read_image, path)
        except OSError as error:
            raise MCPError(types.INTERNAL_ERROR, f"the image cannot be read: {error.strerror}") from error
        contents = types.BlobResourceContents(uri=params.uri, mime_type=_mime_type(data), blob=b64encode(data).decode())
        return types.ReadResourceResult(contents=[contents])

    def _resources(self) -> list[types.Resource]:
        """The images whose file still exists and is an image."""
        resources = []
        for name, path in self._session.images.items():
            try:
                data = read_image(path)
            except OSError:
                continue
            resources.append(types.Resource(name=name, uri=_uri(name), mime_type=_mime_type(data), size=len(data)))
        return resources


async def _report_progress(session: ServerSession, ticks: Iterator[int]) -> None:
    """Report progress until the task is cancelled; a client that did not ask for it gets none."""
    for tick in ticks:
        await session.report_progress(tick, message="waiting for the images")
        await anyio.sleep(_PROGRESS_INTERVAL)


def _to_call_result(result: ToolResult, *, links: bool) -> types.CallToolResult:
    """The result with the text first, then each image: its thumbnail, and after it the link to the full image.

    The structured content has the text too, because some clients pass only that to their model.
    """
    content: list[types.ContentBlock] = [types.TextContent(text=result.text)]
    images = []
    for image in result.images:
        try:
            small = thumbnail(image.read())
        except OSError:
            small = None
        if small is not None:
            content.append(types.ImageContent(data=b64encode(small).decode(), mime_type="image/jpeg"))
        uri = _uri(image.name)
        if links:
            content.append(types.ResourceLink(name=image.name, uri=uri, mime_type=image.mime_type, size=image.length))
        # Without the path, which a remote client must not see.
        images.append({name: value for name, value in asdict(image).items() if name != "path"} | {"uri": uri})
    structured = {"text": result.text, **result.artifact, "images": images}
    return types.CallToolResult(content=content, structured_content=structured, is_error=result.is_error)


def _uri(name: str) -> str:
    return f"flux://images/{quote(name, safe='')}"


def _mime_type(data: bytes) -> str | None:
    kind = sniff(data)
    return None if kind is None else kind.mime


def thumbnail(data: bytes) -> bytes | None:
    """A small JPEG of an image; None for a file that is broken, claims to be huge, or is no PNG, JPEG, WebP or GIF."""
    size = image_size(data)
    if size is None or size[0] * size[1] > _MAX_PIXELS:
        return None
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF")) as image:
            # Checked again: a file can contain two sizes, and Pillow may read another one than `image_size`.
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            buffer = BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
    except _UNREADABLE:
        return None
    return buffer.getvalue()
