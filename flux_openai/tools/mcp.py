"""The neutral tool as a server of the Model Context Protocol. Needs the extra `mcp`.

Checks, limits and words are the tool's; here they are put into the protocol's shapes. No path of this machine leaves
the server: a client knows an image by its name, and reads it by an address that holds the name alone.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from urllib.parse import quote

import anyio
from anyio import to_thread

from flux_openai.formats import sniff
from flux_openai.response.files import read_image
from flux_openai.tools._extras import missing
from flux_openai.tools.results import ToolImage, ToolResult
from flux_openai.tools.tool import FluxTool

try:
    from mcp import MCPError, types
    from mcp.server import Server, ServerRequestContext
    from mcp.server.session import ServerSession
    from mcp.server.stdio import stdio_server
    from mcp.types.version import is_version_at_least

    from flux_openai.tools.thumbnails import thumbnail
except ImportError as error:
    raise missing("mcp", error) from error

__all__ = ["mcp_server", "serve_stdio"]

_TICK = 5.0
"""Seconds from one sign of life to the next."""

_FIRST_WITH_LINKS = "2025-06-18"
"""The first version of the protocol whose results may hold links to resources."""

_ANNOTATIONS = types.ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)


def mcp_server(tool: FluxTool) -> Server:
    """A server with this tool and, unless it is one that edits, the tool that edits what it has made.

    The images that they know are its resources. What a client has asked for is carried out to its end, also when the
    client calls it off or leaves: it is paid for, and the images are in the folder.
    """
    desk = _Desk((tool,) if tool.verb == "edit" else (tool, tool.editing()))
    return Server(
        "flux-openai",
        version=_version(),
        title="FLUX images",
        on_list_tools=desk.list_tools,
        on_call_tool=desk.call_tool,
        on_list_resources=desk.list_resources,
        on_read_resource=desk.read_resource,
    )


async def serve_stdio(tool: FluxTool) -> None:
    """Serve over stdin and stdout until stdin ends; meanwhile what anything else writes to stdout goes to stderr."""
    server = mcp_server(tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _version() -> str:
    try:
        return version("flux-openai")
    except PackageNotFoundError:  # run from its source
        return ""


class _Desk:
    """What is done with each kind of request; nothing is kept here but the tools, which share one album."""

    def __init__(self, tools: tuple[FluxTool, ...]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._album = tools[0].album

    async def list_tools(
        self, _context: ServerRequestContext, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_listed(tool) for tool in self._tools.values()])

    async def call_tool(
        self, context: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"no tool of that name; the tools are {', '.join(self._tools)}")
        result = await _called(tool, params.arguments or {}, context.session)
        links = is_version_at_least(context.protocol_version, _FIRST_WITH_LINKS)
        return await to_thread.run_sync(partial(_told, result, links=links))

    async def list_resources(
        self, _context: ServerRequestContext, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=await to_thread.run_sync(self._resources))

    async def read_resource(
        self, _context: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        # An address is never taken apart: it is one of those given out, letter by letter, or it is refused.
        names = {_uri(name): name for name in self._album.names}
        path = self._album.path_of(names.get(params.uri, ""))
        if path is None:
            raise MCPError(types.INVALID_PARAMS, "no image of that address; those that are there are listed")
        try:
            data = await to_thread.run_sync(read_image, path)
        except OSError as error:
            raise MCPError(types.INTERNAL_ERROR, f"the image cannot be read: {error.strerror}") from error
        return types.ReadResourceResult(contents=[_contents(params.uri, data)])

    def _resources(self) -> list[types.Resource]:
        paths = ((name, self._album.path_of(name)) for name in self._album.names)
        listed = (_resource(name, path) for name, path in paths if path is not None)
        return [resource for resource in listed if resource is not None]


def _listed(tool: FluxTool) -> types.Tool:
    return types.Tool(
        name=tool.name, description=tool.description, input_schema=tool.parameters, annotations=_ANNOTATIONS
    )


async def _called(tool: FluxTool, arguments: Mapping[str, object], session: ServerSession) -> ToolResult:
    """The result of a call; a client that asked for it is shown that the call is under way, and that it has ended."""
    ticks = count(1)
    async with anyio.create_task_group() as group:
        group.start_soon(_tick, session, ticks)
        # A client may leave at any moment; what it asked for is paid for all the same, and gets as far as the folder.
        with anyio.CancelScope(shield=True):
            result = await tool.acall(arguments)
        group.cancel_scope.cancel()
    last = next(ticks)
    await session.report_progress(last, total=last)
    return result


async def _tick(session: ServerSession, ticks: Iterator[int]) -> None:
    for tick in ticks:
        await session.report_progress(tick, message="waiting for the images")
        await anyio.sleep(_TICK)


def _told(result: ToolResult, *, links: bool) -> types.CallToolResult:
    """The words first; then each image, small, with the link to all of it after it, so that none is taken for another.

    A client may show its model the structured content and nothing else, so the words stand there too.
    """
    content: list[types.ContentBlock] = [types.TextContent(text=result.text)]
    for image in result.images:
        content += [*_shown(image), *([_link(image)] if links else [])]
    images = [_facts(image) for image in result.images]
    structured = {"text": result.text, **result.artifact, "images": images}
    return types.CallToolResult(content=content, structured_content=structured, is_error=result.is_error)


def _facts(image: ToolImage) -> dict[str, object]:
    """What is known of an image; its path would tell a stranger about this machine, so its address stands for it."""
    facts = {name: value for name, value in asdict(image).items() if name != "path"}
    return {**facts, "uri": _uri(image.name)}


def _shown(image: ToolImage) -> list[types.ImageContent]:
    try:
        small = thumbnail(image.read())
    except OSError:
        return []
    return [] if small is None else [types.ImageContent(data=b64encode(small).decode(), mime_type="image/jpeg")]


def _link(image: ToolImage) -> types.ResourceLink:
    return types.ResourceLink(name=image.name, uri=_uri(image.name), mime_type=image.mime_type, size=image.length)


def _uri(name: str) -> str:
    return f"flux://images/{quote(name, safe='')}"


def _resource(name: str, path: Path) -> types.Resource | None:
    """An image as it is listed; None when its file has gone, or is no image any more."""
    try:
        data = read_image(path)
    except OSError:
        return None
    kind = sniff(data)
    return types.Resource(name=name, uri=_uri(name), mime_type=None if kind is None else kind.mime, size=len(data))


def _contents(uri: str, data: bytes) -> types.BlobResourceContents:
    kind = sniff(data)
    return types.BlobResourceContents(
        uri=uri, mime_type=None if kind is None else kind.mime, blob=b64encode(data).decode()
    )
