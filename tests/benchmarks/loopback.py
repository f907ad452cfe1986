"""A loopback service for benchmarks, in a process of its own: canned answers, so that the client is what is measured.

The path of the base URL chooses the answer: `/url/v1`, or `/b64-2000000/v1` for images of so many bytes, each with
`-200ms` behind it to wait before answering. The number of images is the `n` of the request.
"""

import asyncio
import json
import re
import sys
from base64 import b64encode
from functools import cache

PNG = b"\x89PNG\r\n\x1a\n"
_HEAD = re.compile(
    rb"POST /(?P<kind>url|b64-(?P<size>[0-9]+))(?:-(?P<wait>[0-9]+)ms)?(?P<bare>-bare)?/\S* HTTP/1\.1\r\n"
)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)
_COUNT = re.compile(rb'"n": ?([0-9]+)')


@cache
def answer(size: int | None, count: int, *, bare: bool) -> bytes:
    """The whole answer, head included: links if there is no size, else images of this size as data URIs."""
    if size is None:
        items = [{"url": f"https://images.example/{number}.png"} for number in range(count)]
    else:
        picture = b64encode(PNG + b"\x5a" * (size - len(PNG))).decode()
        items = [{"b64_json": f"data:image/png;base64,{picture}"}] * count
    usage: dict[str, object] = {} if bare else {"usage": {"input_tokens_details": {}}}
    body = json.dumps({"created": 1_750_667_997, "data": items, **usage}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length, path = _LENGTH.search(head), _HEAD.match(head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if path is None:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                continue
            if path["wait"]:
                await asyncio.sleep(int(path["wait"]) / 1000)
            count = _COUNT.search(body)
            size = int(path["size"]) if path["size"] else None
            writer.write(answer(size, int(count[1]) if count else 1, bare=path["bare"] is not None))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until the process is ended; the first line on stdout is the port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
