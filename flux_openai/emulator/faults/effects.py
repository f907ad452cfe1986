"""The effects of faults: functions of a call's context and a fault's arguments that return the changed response.

The catalog refers to them, as in `effects.slow`. Those that return an Effect are factories, for several rows each.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from flux_openai.emulator.api.responses import (
    Reply,
    ServiceError,
    TransportFault,
    broken,
    error_response,
    status_error,
    xml_error,
)
from flux_openai.emulator.faults.fault import Fault, FaultContext, Target

Effect = Callable[[FaultContext], Reply]
"""The effect of a fault without parameters, or of one whose first parameter changes nothing."""


def apply_faults(reply: Reply, faults: Iterable[Fault], *, request_id: str, on: Target, path: str) -> Reply:
    """The response after these faults, one after the other; `path` is the path and query of the request's URL."""
    for fault in faults:
        # Further faults are ignored after a transport fault, since nothing is sent; except after "truncate".
        if reply.error in (None, "truncate"):
            context = FaultContext(reply=reply, request_id=request_id, on=on, path=path)
            made = fault.type.effect(context, **fault.arguments)
            # A fault that replaces the response must not remove the delay of an earlier fault.
            reply = replace(
                made,
                delay=max(made.delay, reply.delay),
                drip=max(made.drip, reply.drip),
                hints=max(made.hints, reply.hints),
            )
    return reply


def body(content: bytes) -> Effect:
    """Replace the body; the headers stay."""
    return lambda context: replace(context.reply, body=content)


def rewritten(change: Callable[[bytes], bytes]) -> Effect:
    """Change the bytes of the body."""
    return lambda context: replace(context.reply, body=change(context.reply.body))


def edited(change: Callable[[dict[str, object], list[object]], Mapping[str, object]]) -> Effect:
    """Change the JSON object of the body, given the object and its `data`; a body without `data` stays as it is."""

    def effect(context: FaultContext) -> Reply:
        try:
            answer = json.loads(context.reply.body)
        except (ValueError, RecursionError):
            return context.reply
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list):
            return context.reply
        return replace(context.reply, body=json.dumps(change(answer, data)).encode())

    return effect


def with_fields(**fields: object) -> Effect:
    """Set fields of the JSON object of the body."""
    return edited(lambda answer, _: {**answer, **fields})


def items(change: Callable[[dict[str, object]], Mapping[str, object]]) -> Effect:
    """Change each image in the JSON object of the body."""
    return edited(lambda answer, data: {**answer, "data": [change(item) for item in data if isinstance(item, dict)]})


def header(name: str, value: str) -> Effect:
    """Set one header."""
    return lambda context: replace(context.reply, headers={**context.reply.headers, name: value})


def error(status: int, code: str, message: str) -> Effect:
    """The documented error with this status, code and message."""
    refusal = ServiceError(status=status, code=code, message=message)
    return lambda context: error_response(refusal, request_id=context.request_id)


def breaks(how: TransportFault) -> Callable[..., Reply]:
    """Break the exchange before a response begins; the arguments only decide about the bill."""
    return lambda _context, **_arguments: broken(how)


def status(
    context: FaultContext, *, status: int, retry_after: float | None = None, code: str = "", message: str = ""
) -> Reply:
    """The documented error of a status, with another code, message or Retry-After if they are given."""
    plain = status_error(status)
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    refusal = replace(plain, code=code or plain.code, message=message or plain.message, headers=headers)
    return (xml_error if context.on == "download" else error_response)(refusal, request_id=context.request_id)


def success(context: FaultContext, *, status: int) -> Reply:
    """The same response under another status, unless it is an error."""
    return replace(context.reply, status=status) if 200 <= context.reply.status < 300 else context.reply


def long_message(context: FaultContext, *, characters: int) -> Reply:
    """An error with a long message."""
    return error(500, "internal_error", "x" * characters)(context)


def redirect(context: FaultContext, *, status: int = 302, to: str = "") -> Reply:
    """A redirect: to the URL `to`, by default to one that clients must not follow."""
    orders = context.on == "generate"
    elsewhere = "https://elsewhere.example/images" if orders else "http://127.0.0.1/files/other.png"
    return Reply(status=status, headers={"location": to or elsewhere})


_NO_CONNECTION: Mapping[str, TransportFault] = {
    "refused": "connect",
    "dns": "dns",
    "timeout": "connect_timeout",
    "tls": "tls",
    "certificate": "certificate",
    "proxy": "proxy",
    "pool": "pool",
}


def connect(_: FaultContext, *, how: str) -> Reply:
    """A connection that cannot be made."""
    return broken(_NO_CONNECTION[how])


def upload(_: FaultContext, *, how: str) -> Reply:
    """A connection that breaks while the request is being sent."""
    return broken("upload_timeout" if how == "timeout" else "upload_reset")


_GARBAGE: Mapping[str, bytes] = {
    "all": broken("garbage").body,
    "status": b"HTTP/1.1 two hundred\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "chunk": b"zz\r\n{}\r\n",
}


def garbage(context: FaultContext, *, where: str) -> Reply:
    """Bytes that are not HTTP, from the first line of the response or further on."""
    return replace(context.reply, status=200 if where == "chunk" else 0, error="garbage", body=_GARBAGE[where])


def truncate(context: FaultContext, *, kept: float) -> Reply:
    """A response that breaks off after a share of its body."""
    return replace(context.reply, error="truncate", kept=kept)


def slow(context: FaultContext, *, seconds: float) -> Reply:
    """The same response, later."""
    return replace(context.reply, delay=context.reply.delay + seconds)


def drip(context: FaultContext, *, seconds: float) -> Reply:
    """The same body, in small pieces over this time."""
    return replace(context.reply, drip=context.reply.drip + seconds)


def hints(context: FaultContext, *, count: int) -> Reply:
    """Interim responses before the response."""
    return replace(context.reply, hints=context.reply.hints + count)


_LINKS: Mapping[str, Effect] = {
    "redirect": redirect,
    "loop": lambda context: redirect(context, to=context.path),
    "html": lambda context: html(context, status=200),
    "empty": body(b""),
    "truncate": lambda context: replace(context.reply, error="truncate"),
    "wrong_type": body(b"these bytes are no image"),
    "timeout": breaks("timeout"),
    "reset": breaks("reset"),
    "connect": breaks("connect"),
}


def url(context: FaultContext, *, how: str | int) -> Reply:
    """A link that does not lead to its image."""
    return status(context, status=how) if isinstance(how, int) else _LINKS[how](context)


def other_body(context: FaultContext, *, text: str) -> Reply:
    """Any text as the body, lone surrogates included."""
    return replace(context.reply, body=text.encode("utf-8", "surrogatepass"))


def oversize(context: FaultContext, *, mebibytes: int) -> Reply:
    """The body, padded with blanks."""
    return replace(context.reply, body=context.reply.body.ljust(mebibytes * 2**20))


def html(_: FaultContext, *, status: int) -> Reply:
    """The error page of a gateway."""
    page = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    return Reply(status=status, headers={"content-type": "text/html"}, body=page)


def error_in_200(context: FaultContext, *, code: str) -> Reply:
    """The documented error under a 200."""
    return error(200, code, "The order could not be carried out.")(context)


def missing(context: FaultContext, *, field: str) -> Reply:
    """Images without one of their fields, or without both."""
    gone = ("url", "b64_json") if field == "both" else (field,)
    return items(lambda item: {name: value for name, value in item.items() if name not in gone})(context)


def partial(context: FaultContext, *, n: int) -> Reply:
    """Only the first images."""
    return edited(lambda answer, data: {**answer, "data": [item for item in data if isinstance(item, dict)][:n]})(
        context
    )


def base64_style(context: FaultContext, *, style: str) -> Reply:
    """Base64 that is not a data URI."""

    def restyled(item: Mapping[str, object]) -> Mapping[str, object]:
        if not isinstance(data_uri := item.get("b64_json"), str):
            return item
        plain = data_uri.rpartition(",")[2]
        styles = {
            "plain": plain,
            "url_safe": plain.translate(str.maketrans("+/", "-_")),
            "unpadded": plain.rstrip("="),
            "wrapped": "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76)),
        }
        return {**item, "b64_json": styles[style]}

    return items(restyled)(context)


def long_header(context: FaultContext, *, characters: int) -> Reply:
    """A long header."""
    return header("x-trace", "x" * characters)(context)


def set_header(context: FaultContext, *, name: str, value: str = "") -> Reply:
    """Any header, set to any text."""
    return header(name, value)(context)


def gzipped(context: FaultContext) -> Reply:
    """The body, compressed once more than it already is."""
    before = context.reply.headers.get("content-encoding")
    headers = {**context.reply.headers, "content-encoding": f"{before}, gzip" if before else "gzip"}
    return replace(context.reply, headers=headers, body=gzip.compress(context.reply.body, mtime=0))
