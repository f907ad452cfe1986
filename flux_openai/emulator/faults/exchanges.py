"""Acts on the exchange: error statuses, connections that fail, answers that come late or not at all, dead links."""

from flux_openai.emulator.api.responses import ServiceError
from flux_openai.emulator.faults import effects as spoil
from flux_openai.emulator.faults.arguments import Param
from flux_openai.emulator.faults.fault import Outcome
from flux_openai.emulator.faults.kinds import LINK_DEAD, SERVED, UNUSABLE, choice, count, kind, refuses

__all__ = ["EXCHANGES"]

_STATUSES = (
    *(400, 401, 402, 403, 404, 405, 408, 409, 413, 421, 422, 425, 429, 431),
    *(500, 501, 502, 503, 504, 505, 520, 524, 529),
)
_LOST = Outcome(billed=True, raises="FluxConnectionError")
_LATE = Outcome(billed=True, raises="FluxTimeoutError")
_NOT_SENT = Outcome(billed=False, raises="FluxConnectionError", billable=False)
_NOT_SENT_IN_TIME = Outcome(billed=False, raises="FluxTimeoutError", billable=False)
_UNSAFE = Outcome(billed=True, raises="UnsafeURLError")
_QUOTA = ServiceError(status=429, code="insufficient_quota", message="The balance is used up.")
_MODERATION = ServiceError(status=400, code="content_policy_violation", message="The prompt was refused.")
_DEAD_LINKS = (
    *("403", "404", "410", "429", "500", "503"),
    *("html", "empty", "truncate", "wrong_type", "timeout", "reset", "connect"),
)
_UNSAFE_LINKS = ("redirect", "loop")

EXCHANGES = (
    kind(
        "status",
        "any status from 400 to 599 with the documented error",
        spoil.status,
        {str(status): refuses(status) for status in _STATUSES},
        Param(name="status", sort="whole", least=400, most=599),
        Param(name="retry_after", sort="seconds"),
        Param(name="code", sort="code"),
        Param(name="message", sort="text"),
        links=LINK_DEAD,
    ),
    kind(
        "success",
        "the answer under another status of success, and without a body under 204",
        spoil.success,
        {"": SERVED, "204": UNUSABLE},
        Param(name="status", sort="whole", default=201, least=200, most=299),
    ),
    kind("quota", "429: the balance is used up", spoil.refused(_QUOTA), refuses(429)),
    kind("moderation", "400: the prompt is refused", spoil.refused(_MODERATION), refuses(400)),
    kind(
        "long_message",
        "500 with a message of that many characters",
        spoil.long_message,
        refuses(500),
        count("characters", 100_000),
    ),
    kind(
        "redirect",
        "a way to another host, or to where is said",
        spoil.redirected,
        refuses(302),
        choice("status", "300", "301", "302", "303", "304", "307", "308", default=302),
        Param(name="to", sort="text"),
        links={**dict.fromkeys(("301", "302", "303", "307", "308"), _UNSAFE), "300": LINK_DEAD, "304": LINK_DEAD},
    ),
    kind(
        "connect",
        "no connection",
        spoil.connected,
        {
            **dict.fromkeys(("refused", "dns", "tls", "certificate", "proxy"), _NOT_SENT),
            **dict.fromkeys(("timeout", "pool"), _NOT_SENT_IN_TIME),
        },
        choice("how", "refused", "dns", "tls", "certificate", "proxy", "timeout", "pool", default="refused"),
        links=LINK_DEAD,
    ),
    kind(
        "upload",
        "the connection breaks while the order is being sent",
        spoil.uploaded,
        {"reset": _NOT_SENT, "timeout": _NOT_SENT_IN_TIME},
        choice("how", "reset", "timeout", default="reset"),
    ),
    kind(
        "reset",
        "the connection breaks, before the order counts or after",
        spoil.breaks("reset"),
        {"after_bill": _LOST, "before_bill": _NOT_SENT},
        choice("when", "before_bill", "after_bill", default="after_bill"),
        links=LINK_DEAD,
    ),
    kind("timeout", "no answer comes in time", spoil.breaks("timeout"), _LATE, links=LINK_DEAD),
    kind(
        "garbage",
        "what comes is no HTTP",
        spoil.garbled,
        _LOST,
        choice("where", "all", "status", "header", "chunk", default="all"),
        links=LINK_DEAD,
    ),
    kind(
        "truncate",
        "the answer breaks off after that share of its bytes",
        spoil.truncated,
        _LOST,
        Param(name="kept", sort="share", default=0.5),
        links=LINK_DEAD,
    ),
    kind(
        "slow",
        "the answer comes that much later",
        spoil.slow,
        SERVED,
        Param(name="seconds", sort="seconds", default=1.0),
        links=SERVED,
    ),
    kind(
        "drip",
        "the body takes that long to arrive",
        spoil.drip,
        SERVED,
        Param(name="seconds", sort="seconds", default=1.0),
        links=SERVED,
    ),
    kind(
        "hints",
        "that many interim answers before the answer; in this process they are passed over",
        spoil.hints,
        SERVED,
        count("count", 3, most=10_000),
        links=SERVED,
    ),
    kind(
        "url",
        "a link that does not lead to the picture",
        spoil.url,
        None,
        choice("how", *_DEAD_LINKS, *_UNSAFE_LINKS),
        links={
            **dict.fromkeys(_DEAD_LINKS, LINK_DEAD),
            **dict.fromkeys(_UNSAFE_LINKS, _UNSAFE),
        },
    ),
)
