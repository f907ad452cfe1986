"""What a tool call came to, in words for a language model and in values for the program around it.

The words are short, hold no base64, no link and no path, and say what the model may do next; what the service said in
an error is quoted, cut and stripped of links, for it is data and no instruction.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from flux_openai._http.redaction import printable
from flux_openai.errors import Billing, FluxError, FluxStatusError, InvalidParamsError, SaveError
from flux_openai.formats import data_uri
from flux_openai.response.files import read_image
from flux_openai.response.response import FluxImagesResponse

__all__ = ["ToolImage", "ToolResult", "failed", "limited", "made", "misused", "quoted", "repeated", "unknown"]


@dataclass(frozen=True, kw_only=True)
class ToolImage:
    """One saved image.

    `name` is what the model knows it by; `length` is in bytes, `width` and `height` in pixels, None when its header
    does not say; `seed` is what it was drawn from.
    """

    name: str
    path: str
    mime_type: str | None
    length: int
    width: int | None
    height: int | None
    seed: int | None

    def read(self) -> bytes:
        """The bytes of the file. Raises OSError, also for what has been put in its place and is no image."""
        return read_image(self.path)

    def data_uri(self) -> str:
        """The whole image as a data URI. Raises OSError."""
        return data_uri(self.read(), mime=self.mime_type or "application/octet-stream")


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """The result of one tool call: `text` is for the model, all else for the program.

    `is_error`: nothing, or not everything, was made; `correctable`: because the arguments were wrong. `billing`: what
    the call cost: "none", "unknown" or "paid". `response` is the answer itself, if one came. `unsaved`: the links, in
    full, of images that came and could not be saved.
    """

    text: str
    images: tuple[ToolImage, ...] = ()
    request_id: str | None = None
    is_error: bool = False
    correctable: bool = False
    billing: Billing = "none"
    response: FluxImagesResponse | None = None
    unsaved: tuple[str, ...] = field(default=(), repr=False)

    @property
    def shown(self) -> list[ToolImage]:
        """The images that a model can be shown: those of a type that it knows, whose files are still there."""
        return [image for image in self.images if image.mime_type is not None and Path(image.path).is_file()]

    @property
    def artifact(self) -> dict[str, object]:
        """What was made, as plain values that JSON can hold; links are left out, for it may end in a log."""
        return {
            "images": [asdict(image) for image in self.images],
            "request_id": self.request_id,
            "is_error": self.is_error,
            "billing": self.billing,
        }


def misused(problems: Iterable[str]) -> ToolResult:
    """The arguments are wrong: each problem, and that a corrected call may follow."""
    lines = [f"- {quoted(problem, limit=300)}" for problem in problems]
    text = "\n".join(["The arguments are wrong; nothing was made and nothing was paid:", *lines[:20]])
    return ToolResult(text=f"{text}\nCorrect them and call again.", is_error=True, correctable=True)


def limited(limit: str) -> ToolResult:
    """A limit that the developer set is reached."""
    text = f"Nothing was made: the limit is {limit}. Do not call again for more than that; tell the user."
    return ToolResult(text=text, is_error=True)


def unknown() -> ToolResult:
    """Nobody can know whether the call was carried out."""
    text = (
        "The outcome is unknown: the images may have been made and paid for, but did not arrive. "
        "Do not call again, or they may be paid for twice; tell the user."
    )
    return ToolResult(text=text, is_error=True, billing="unknown")


def failed(error: FluxError) -> ToolResult:
    """An error of the call, and what it leaves the model to do."""
    if isinstance(error, InvalidParamsError):
        return misused(map(str, error.faults))
    if error.billing == "unknown":
        return replace(unknown(), request_id=error.request_id)
    said = f'The error: "{quoted(str(error))}"'
    if error.billing == "paid":
        text = f"The images were paid for, but cannot be used. Do not call again; tell the user. {said}"
    elif isinstance(error, FluxStatusError) and error.status_code in (400, 422):
        text = f"The service refuses this order; nothing was paid. Change the prompt, or tell the user. {said}"
    elif isinstance(error, FluxStatusError) and error.status_code == 429 and error.retry_after is not None:
        text = f"The service is busy for {error.retry_after:.0f} s; nothing was paid. Tell the user. {said}"
    else:
        text = f"Nothing was made and nothing was paid. Do not call again now; tell the user. {said}"
    return ToolResult(text=text, is_error=True, request_id=error.request_id, billing=error.billing)


def made(
    response: FluxImagesResponse, images: Sequence[ToolImage], lost: Sequence[tuple[FluxError, str | None]]
) -> ToolResult:
    """The images that were made and saved, and those that were made and could not be, with their links."""
    lines = [f"Made {len(images)} image{'' if len(images) == 1 else 's'}:", *map(_line, images)] if images else []
    lines += [f'Paid for, but not saved; do not call again for it: "{quoted(_reason(error))}"' for error, _ in lost]
    if response.missing:
        lines.append(f"{response.missing} did not come back usable.")
    return ToolResult(
        text="\n".join(lines),
        images=tuple(images),
        request_id=response.request_id,
        is_error=bool(lost or response.missing or not images),
        billing="paid",
        response=response,
        unsaved=tuple(link for _, link in lost if link is not None),
    )


def _reason(error: FluxError) -> str:
    """What an error says, without the path of the file that could not be written."""
    return error.strerror or "the file cannot be written" if isinstance(error, SaveError) else str(error)


def _line(image: ToolImage) -> str:
    size = "" if image.width is None else f", {image.width}x{image.height}"
    seed = "" if image.seed is None else f", seed {image.seed}"
    return f"- {image.name} ({image.mime_type or 'unknown type'}{size}{seed})"


def repeated(result: ToolResult) -> ToolResult:
    """The result of an earlier call, for a call of the same name."""
    return replace(
        result, text=f"The result of the first call with this request_key; nothing new was made:\n{result.text}"
    )


_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|\bdata:\S+|(\b[a-z][a-z0-9+.-]*:)?//\S+", re.IGNORECASE)


def quoted(text: str, *, limit: int = 200) -> str:
    """Text that may hold words of the service's or of the model's: on one line, short, and without links."""
    # Half a surrogate pair, which JSON can spell, would make the whole answer one that nobody can send.
    sendable = text.encode("utf-8", "replace").decode()
    plain = _LINK.sub(lambda match: match[1] or "[link]", printable(sendable, limit=4 * limit))
    return printable(" ".join(plain.replace('"', "'").split()), limit=limit)
