"""The results of tool calls: a text for the language model, and values for the program.

The text is short, contains no base64, no link and no path, and says what the model may do next. Error messages of the
service are quoted, shortened and without links, against prompt injection: they are data, not instructions.
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

__all__ = [
    "ToolImage",
    "ToolResult",
    "error_result",
    "invalid_arguments_result",
    "limit_result",
    "quoted",
    "repeated_result",
    "success_result",
    "unknown_outcome_result",
    "unwritable_result",
]


@dataclass(frozen=True, kw_only=True)
class ToolImage:
    """One saved image.

    Attributes:
        name: The name by which the model refers to it.
        path: The path of the file.
        mime_type: The MIME type; None if it is unknown.
        length: The size of the file in bytes.
        width: Pixels; None if the header of the file does not contain it.
        height: The same.
        seed: The seed of the request.
    """

    name: str
    path: str
    mime_type: str | None
    length: int
    width: int | None
    height: int | None
    seed: int | None

    def read(self) -> bytes:
        """The bytes of the file. Raises OSError, also if the file is no longer an image."""
        return read_image(self.path)

    def data_uri(self) -> str:
        """The whole image as a data URI. Raises OSError."""
        return data_uri(self.read(), mime=self.mime_type or "application/octet-stream")


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """The result of one tool call.

    Attributes:
        text: The text for the model. Everything else is for the program.
        images: The saved images.
        request_id: The service's id of the request, if there is one.
        is_error: Whether fewer images than requested were made and saved.
        correctable: Whether the arguments were invalid, so that the model may call again with other ones.
        billing: What the call cost: "none", "unknown" or "paid".
        response: The service's answer, if one came.
        unsaved: The links of images that could not be saved, with their signatures: anybody who has a link can open it.
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
        """The images that can be sent to a model: of a known type, and with a file that still exists."""
        return [image for image in self.images if image.mime_type is not None and Path(image.path).is_file()]

    @property
    def artifact(self) -> dict[str, object]:
        """The result as JSON values, without the signed links: frameworks may log it."""
        return {
            "images": [asdict(image) for image in self.images],
            "request_id": self.request_id,
            "is_error": self.is_error,
            "billing": self.billing,
        }


def invalid_arguments_result(problems: Iterable[str]) -> ToolResult:
    """The result if arguments are invalid and nothing was sent: it lists the problems and asks for another call."""
    lines = [f"- {quoted(problem, limit=300)}" for problem in problems]
    text = "\n".join(["The arguments are wrong; nothing was made and nothing was paid:", *lines[:20]])
    return ToolResult(text=f"{text}\nCorrect them and call again.", is_error=True, correctable=True)


def limit_result(limit: str) -> ToolResult:
    """The result if the call would exceed a limit of the developer, and nothing was sent."""
    text = f"Nothing was made: the limit is {limit}. Do not call again for more than that; tell the user."
    return ToolResult(text=text, is_error=True)


def unwritable_result(reason: str) -> ToolResult:
    """The result if the images could not be saved, and nothing was sent."""
    text = "Nothing was made and nothing was paid: the folder for the images cannot be written to. Do not call again; "
    return ToolResult(text=f'{text}tell the user. The error: "{quoted(reason)}"', is_error=True)


def unknown_outcome_result() -> ToolResult:
    """The result if it is unknown whether the request was carried out."""
    text = (
        "The outcome is unknown: the images may have been made and paid for, but did not arrive. "
        "Do not call again, or they may be paid for twice; tell the user."
    )
    return ToolResult(text=text, is_error=True, billing="unknown")


def error_result(error: FluxError) -> ToolResult:
    """The result for an error of the service or the client: cost, what the model may do next, the quoted error."""
    if isinstance(error, InvalidParamsError):
        return invalid_arguments_result(map(str, error.faults))
    if error.billing == "unknown":
        return replace(unknown_outcome_result(), request_id=error.request_id)
    status = error.status_code if isinstance(error, FluxStatusError) else None
    if error.billing == "paid":
        text = "The images were paid for, but cannot be used. Do not call again; tell the user."
    elif status in (400, 422):
        text = "The service refuses this call; nothing was paid. Change the prompt, or tell the user."
    elif status == 429 and error.retry_after is not None:
        text = f"The service is busy for {error.retry_after:.0f} s; nothing was paid. Tell the user."
    else:
        text = "Nothing was made and nothing was paid. Do not call again now; tell the user."
    text += f' The error: "{quoted(str(error))}"'
    return ToolResult(text=text, is_error=True, request_id=error.request_id, billing=error.billing)


def success_result(
    response: FluxImagesResponse, images: Sequence[ToolImage], unsaved: Sequence[tuple[FluxError, str | None]]
) -> ToolResult:
    """The result for an answer: the saved images, and the error and the link of each image that was not saved."""
    lines = [f"Made {len(images)} image{'' if len(images) == 1 else 's'}:"] if images else []
    for image in images:
        size = "" if image.width is None else f", {image.width}x{image.height}"
        seed = "" if image.seed is None else f", seed {image.seed}"
        lines.append(f"- {image.name} ({image.mime_type or 'unknown type'}{size}{seed})")
    for error, _ in unsaved:
        # Not the text of a SaveError, which contains the path of the file.
        reason = error.strerror or "the file cannot be written" if isinstance(error, SaveError) else str(error)
        lines.append(f'Paid for, but not saved; do not call again for it: "{quoted(reason)}"')
    if response.missing:
        lines.append(f"{response.missing} did not come back usable.")
    return ToolResult(
        text="\n".join(lines),
        images=tuple(images),
        request_id=response.request_id,
        is_error=bool(unsaved or response.missing or not images),
        billing="paid",
        response=response,
        unsaved=tuple(link for _, link in unsaved if link is not None),
    )


def repeated_result(result: ToolResult) -> ToolResult:
    """The result of an earlier call, for another call with the same request_key."""
    text = f"The result of the first call with this request_key; nothing new was made:\n{result.text}"
    return replace(result, text=text)


_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|\bdata:\S+|(\b[a-z][a-z0-9+.-]*:)?//\S+", re.IGNORECASE)


def quoted(text: str, *, limit: int = 200) -> str:
    """Text from the service or the model, made safe for a message: on one line, shortened, and without links."""
    # JSON can contain a lone surrogate, which is not valid in UTF-8: the message could not be sent.
    sendable = text.encode("utf-8", "replace").decode()
    plain = _LINK.sub(lambda match: match[1] or "[link]", printable(sendable, limit=4 * limit))
    return printable(" ".join(plain.replace('"', "'").split()), limit=limit)
