"""What each act makes of an answer: pure functions on plain values, from the good reply to the spoiled one."""

import gzip
import json
from collections.abc import Callable, Mapping
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
from flux_openai.emulator.faults.fault import Job
from flux_openai.emulator.faults.queue import Target

__all__ = [
    "Spoil",
    "body",
    "breaks",
    "coded",
    "connected",
    "drip",
    "edited",
    "error_in_200",
    "garbled",
    "gzipped",
    "header",
    "hints",
    "items",
    "long_header",
    "long_message",
    "markup",
    "named_header",
    "other_body",
    "oversize",
    "partial",
    "redirected",
    "refused",
    "rewritten",
    "slow",
    "status",
    "success",
    "truncated",
    "uploaded",
    "url",
]

Spoil = Callable[[Job], Reply]

_PAGE = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def body(content: bytes) -> Spoil:
    """Something else in place of the body, under the same headers."""
    return lambda job: replace(job.reply, body=content)


def rewritten(change: Callable[[bytes], bytes]) -> Spoil:
    """The bytes of the body, changed."""
    return lambda job: replace(job.reply, body=change(job.reply.body))


def edited(change: Callable[[dict[str, object]], Mapping[str, object]]) -> Spoil:
    """The JSON object of the body, changed; an answer without `data` stays what it is."""

    def spoil(job: Job) -> Reply:
        answer = _order_in(job.reply)
        return job.reply if answer is None else replace(job.reply, body=json.dumps(change(answer)).encode())

    return spoil


def items(change: Callable[[Mapping[str, object], Job], Mapping[str, object]]) -> Spoil:
    """Each picture of the answer, changed."""

    def spoil(job: Job) -> Reply:
        answer = _order_in(job.reply)
        if answer is None:
            return job.reply
        data = [change(item, job) for item in _data_of(answer)]
        return replace(job.reply, body=json.dumps({**answer, "data": data}).encode())

    return spoil


def _order_in(reply: Reply) -> dict[str, object] | None:
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("data"), list) else None


def _data_of(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    data = answer.get("data")
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def header(name: str, value: str) -> Spoil:
    """One header, set."""
    return lambda job: replace(job.reply, headers={**job.reply.headers, name: value})


def named_header(job: Job) -> Reply:
    """Any header, set to any text."""
    return header(job.text("name"), job.text("value"))(job)


def other_body(job: Job) -> Reply:
    """Any text in place of the body; what cannot be written in UTF-8 is written all the same."""
    return body(job.text("text").encode("utf-8", "surrogatepass"))(job)


def oversize(job: Job) -> Reply:
    """So many MiB: the body, and blanks."""
    return replace(job.reply, body=job.reply.body.ljust(int(job.number("mebibytes")) * 2**20))


def success(job: Job) -> Reply:
    """The same answer under another status, unless it is a refusal."""
    return replace(job.reply, status=int(job.number("status"))) if 200 <= job.reply.status < 300 else job.reply


def status(job: Job) -> Reply:
    """The documented error with a status, and with the code, message and Retry-After that are given."""
    plain = status_error(int(job.number("status")))
    seconds = job.arguments.get("retry_after")
    headers = {} if seconds is None else {"retry-after": f"{seconds:g}" if isinstance(seconds, float) else str(seconds)}
    refusal = replace(
        plain, code=job.text("code") or plain.code, message=job.text("message") or plain.message, headers=headers
    )
    return (xml_error if job.on == "download" else error_response)(refusal, request_id=job.request_id)


def refused(refusal: ServiceError) -> Spoil:
    """The documented error, always the same."""
    return lambda job: error_response(refusal, request_id=job.request_id)


def error_in_200(job: Job) -> Reply:
    """The documented error under a 200."""
    refusal = ServiceError(status=200, code=job.text("code"), message="The order could not be carried out.")
    return error_response(refusal, request_id=job.request_id)


def long_message(job: Job) -> Reply:
    """An error whose message is as long as asked."""
    refusal = ServiceError(status=500, code="internal_server_error", message="x" * int(job.number("characters")))
    return error_response(refusal, request_id=job.request_id)


def long_header(job: Job) -> Reply:
    """A header as long as asked."""
    return header("x-trace", "x" * int(job.number("characters")))(job)


def breaks(how: TransportFault) -> Spoil:
    """An exchange that breaks: nothing arrives."""
    return lambda _: broken(how)


_UNCONNECTED: Mapping[str, TransportFault] = {
    "refused": "connect",
    "dns": "dns",
    "timeout": "connect_timeout",
    "tls": "tls",
    "certificate": "certificate",
    "proxy": "proxy",
    "pool": "pool",
}


def connected(job: Job) -> Reply:
    """No connection, for one reason or another."""
    return broken(_UNCONNECTED[job.text("how")])


def uploaded(job: Job) -> Reply:
    """A connection that breaks while the order is being sent."""
    return broken("upload_timeout" if job.text("how") == "timeout" else "upload_reset")


_GARBLED: Mapping[str, bytes] = {
    "all": broken("garbage").body,
    "status": b"HTTP/1.1 two hundred\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    "chunk": b"zz\r\n{}\r\n",
}


def garbled(job: Job) -> Reply:
    """What is no HTTP, from its first line or further on."""
    where = job.text("where")
    return replace(job.reply, status=200 if where == "chunk" else 0, error="garbage", body=_GARBLED[where])


def truncated(job: Job) -> Reply:
    """A good answer that breaks off."""
    return replace(job.reply, error="truncate", kept=job.number("kept"))


def drip(job: Job) -> Reply:
    """A body that comes little by little."""
    return replace(job.reply, drip=job.reply.drip + job.number("seconds"))


def hints(job: Job) -> Reply:
    """Interim answers before the answer."""
    return replace(job.reply, hints=job.reply.hints + int(job.number("count")))


def markup(job: Job) -> Reply:
    """A gateway's page."""
    return _page(int(job.number("status")))


def _page(status: int) -> Reply:
    return Reply(status=status, headers={"content-type": "text/html"}, body=_PAGE)


def redirected(job: Job) -> Reply:
    """A way to somewhere else."""
    return _led(job.text("to") or _ELSEWHERE[job.on], status=int(job.number("status")))


_ELSEWHERE: Mapping[Target, str] = {
    "generate": "https://elsewhere.example/images",
    "download": "http://127.0.0.1/files/other.png",
}


def _led(to: str, *, status: int = 302) -> Reply:
    return Reply(status=status, headers={"location": to})


def gzipped(job: Job) -> Reply:
    """The same answer, compressed, once more if it is already."""
    before = job.reply.headers.get("content-encoding")
    headers = {**job.reply.headers, "content-encoding": f"{before}, gzip" if before else "gzip"}
    return replace(job.reply, headers=headers, body=gzip.compress(job.reply.body, mtime=0))


def partial(job: Job) -> Reply:
    """Only the first pictures."""
    count = int(job.number("n"))
    return edited(lambda answer: {**answer, "data": _data_of(answer)[:count]})(job)


def coded(job: Job) -> Reply:
    """The pictures' base64 in another dress than the documented data URI."""
    return items(lambda item, _: {**item, **_dressed(item.get("b64_json"), style=job.text("style"))})(job)


def _dressed(packed: object, *, style: str) -> Mapping[str, object]:
    if not isinstance(packed, str):
        return {}
    plain = packed.rpartition(",")[2]
    match style:
        case "url_safe":
            plain = plain.translate(str.maketrans("+/", "-_"))
        case "unpadded":
            plain = plain.rstrip("=")
        case "wrapped":
            plain = "\n".join(plain[at : at + 76] for at in range(0, len(plain), 76))
        case _:
            pass
    return {"b64_json": plain}


def slow(job: Job) -> Reply:
    """The same answer, later."""
    return replace(job.reply, delay=job.reply.delay + job.number("seconds"))


def url(job: Job) -> Reply:
    """What goes wrong with a link."""
    how = job.text("how")
    if how.isdigit():
        return xml_error(status_error(int(how)), request_id=job.request_id)
    return _LINKS[how](job)


_LINKS: Mapping[str, Spoil] = {
    "redirect": lambda job: _led(_ELSEWHERE[job.on]),
    "loop": lambda job: _led(job.target),
    "html": lambda _: _page(200),
    "empty": body(b""),
    "truncate": lambda job: replace(job.reply, error="truncate"),
    "wrong_type": body(b"these bytes are no image"),
    "timeout": breaks("timeout"),
    "reset": breaks("reset"),
    "connect": breaks("connect"),
}
