"""The framework-neutral tool, which every adapter wraps. Async mirrors sync.

    call(arguments)
      check_arguments(…)               arguments.py: invalid ones become a result that asks the model for another call
      session.begin(request_key)       session.py: a repeated call gets the first result, and costs nothing
      session.check_folder()         session.py: no image is paid for that cannot be saved
      session.reserve(images)          session.py: the developer's limits
      client.images.generate(…)
      image.save(folder)
    ToolResult                         results.py

Errors of the model and of the service are not raised: they are results, whose text tells the model what to do.
"""

import os
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from anyio import to_thread
from openai.types.chat import ChatCompletionToolParam
from openai.types.responses import FunctionToolParam

from flux_openai.client.clients import AsyncFluxOpenAI, FluxOpenAI
from flux_openai.errors import ConfigurationError, FluxError, InvalidParam, listed
from flux_openai.tools.arguments import (
    CheckedArguments,
    InvalidArgumentsError,
    Verb,
    check_arguments,
    families_for,
    json_schema,
)
from flux_openai.tools.results import (
    ToolResult,
    error_result,
    invalid_arguments_result,
    limit_result,
    repeated_result,
    success_result,
    unknown_outcome_result,
    unwritable_result,
)
from flux_openai.tools.session import LimitReachedError, Session, UnwritableFolderError

if TYPE_CHECKING:
    from openai.types.shared_params import FunctionDefinition

__all__ = ["FluxTool"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMES: Mapping[Verb, str] = {"generate": "flux_generate_image", "edit": "flux_edit_image"}
_DESCRIPTIONS: Mapping[Verb, str] = {
    "generate": "Makes images from a prompt and saves them. Returns their names. Every image costs money.",
    "edit": "Changes an image, or combines several, as the prompt says, and saves the result. Takes images by the "
    "names in earlier results. Returns the names of the new images. Every image costs money.",
}


class FluxTool:
    """A tool with which a language model makes images.

    Args:
        client: A FluxOpenAI, or an AsyncFluxOpenAI if only `acall` is used. By default a new FluxOpenAI.
        verb: "generate" for images from a prompt, or "edit" for changing images.
        model: The short name of a family of models: "kontext-max", "kontext-pro" or "flux-dev".
        folder: The folder for the images, which the first call creates; nothing is written elsewhere.
        max_images: The largest number of images of all calls together, 1 or more.
        max_calls: The largest number of calls that are sent to the service, 1 or more.
        images: Files that the model may edit from the start, by the name that the model uses.
        name: The name of the tool: 1 to 64 ASCII letters, digits, _ and -.
        description: The description of the tool for the model.

    Raises:
        ConfigurationError: An argument is invalid, or the folder cannot be written to.

    Example:
        tool = FluxTool(folder="out", max_images=8)
        result = tool.call('{"prompt": "a red fox"}')
        result.text    # for the model: "Made 1 image: …"
        result.images  # for the program: the paths, types and sizes
    """

    def __init__(
        self,
        client: FluxOpenAI | AsyncFluxOpenAI | None = None,
        *,
        verb: Verb = "generate",
        model: str = "kontext-max",
        folder: str | os.PathLike[str] = "out",
        max_images: int = 16,
        max_calls: int = 16,
        images: Mapping[str, str | os.PathLike[str]] | None = None,
        name: str | None = None,
        description: str | None = None,
    ) -> None:
        self.session = Session(
            folder,
            max_images=max_images,
            max_calls=max_calls,
            images={image: Path(path) for image, path in (images or {}).items()},
        )
        self.verb = cast(Verb, _checked_choice("verb", verb, _NAMES))
        self.model = _checked_choice("model", model, families_for(self.verb))
        self.name = _NAMES[self.verb] if name is None else name
        if not _NAME.fullmatch(self.name):
            rule = "must be 1 to 64 ASCII letters, digits, _ and -"
            nearest = re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)[:64] or None
            raise ConfigurationError.of(InvalidParam(param="name", value=name, rule=rule, nearest=nearest))
        self.description = _DESCRIPTIONS[self.verb] if description is None else description
        self._client = None if isinstance(client, AsyncFluxOpenAI) else client or FluxOpenAI()
        self._aclient = client if isinstance(client, AsyncFluxOpenAI) else None
        settings = (self._aclient or cast(FluxOpenAI, self._client))._settings  # noqa: SLF001  # a client of our own
        self._default_seed = settings.defaults.get("seed")

    def editing(self, *, name: str | None = None, description: str | None = None) -> Self:
        """Make the tool that edits images; it shares folder, limits and images with this one."""
        tool = type(self)(
            self._client or self._aclient,
            verb="edit",
            model=self.model,
            folder=self.session.folder,
            name=name,
            description=description,
        )
        tool.session = self.session
        return tool

    @property
    def parameters(self) -> dict[str, object]:
        """The JSON schema of the arguments, valid for OpenAI's `strict` functions; a new copy."""
        return json_schema(self.model, self.verb, max_images=self.session.max_images, strict=True)

    @property
    def input_schema(self) -> dict[str, object]:
        """The JSON schema of the arguments for MCP and other APIs: only what a call needs is required; a new copy."""
        return json_schema(self.model, self.verb, max_images=self.session.max_images, strict=False)

    def chat_definition(self) -> ChatCompletionToolParam:
        """The tool for `tools=` of Chat Completions."""
        function: FunctionDefinition = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": True,
        }
        return {"type": "function", "function": function}

    def responses_definition(self) -> FunctionToolParam:
        """The tool for `tools=` of the Responses API."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": True,
        }

    def call(self, arguments: Mapping[str, object] | str) -> ToolResult:
        """Carry out one tool call.

        Args:
            arguments: The arguments from the model, as a mapping or as JSON text.

        Returns:
            The result. Invalid arguments, limits and errors of the service are results with `is_error`.

        Raises:
            ConfigurationError: The tool was made with an async client.
        """
        if self._client is None:
            raise ConfigurationError("this tool was made with an async client: use `await tool.acall(…)`")
        return self._call(arguments, self._client)

    async def acall(self, arguments: Mapping[str, object] | str) -> ToolResult:
        """The same as `call`, for async code; a sync client runs in a thread."""
        if self._aclient is None:
            return await to_thread.run_sync(self.call, arguments)
        return await self._acall(arguments, self._aclient)

    def _call(self, arguments: Mapping[str, object] | str, client: FluxOpenAI) -> ToolResult:
        try:
            checked = self._read(arguments)
        except InvalidArgumentsError as error:
            return invalid_arguments_result(error.problems)
        if checked.request_key is None:
            return self._draw(checked, client)
        name = f"{self.name}:{checked.request_key}"
        earlier = self.session.begin(name)
        if earlier is not None:
            return repeated_result(earlier.result())
        result = unknown_outcome_result()  # of a call that is interrupted: it may have been carried out
        try:
            result = self._draw(checked, client)
        finally:
            self.session.finish(name, result)
        return result

    async def _acall(self, arguments: Mapping[str, object] | str, client: AsyncFluxOpenAI) -> ToolResult:
        try:
            checked = await self._aread(arguments)
        except InvalidArgumentsError as error:
            return invalid_arguments_result(error.problems)
        if checked.request_key is None:
            return await self._adraw(checked, client)
        name = f"{self.name}:{checked.request_key}"
        earlier = self.session.begin(name)
        if earlier is not None:
            return repeated_result(await earlier.aresult())
        result = unknown_outcome_result()  # of a call that is interrupted: it may have been carried out
        try:
            result = await self._adraw(checked, client)
        finally:
            self.session.finish(name, result)
        return result

    def _read(self, arguments: Mapping[str, object] | str) -> CheckedArguments:
        return check_arguments(
            arguments, family=self.model, verb=self.verb, session=self.session, default_seed=self._default_seed
        )

    async def _aread(self, arguments: Mapping[str, object] | str) -> CheckedArguments:
        # In a thread: the images of an edit are read from files.
        return await to_thread.run_sync(self._read, arguments)

    def _draw(self, checked: CheckedArguments, client: FluxOpenAI) -> ToolResult:
        try:
            self.session.check_folder()
            self.session.reserve(checked.images)
            response = client.images.generate(**_generate_arguments(checked))
        except UnwritableFolderError as error:
            return unwritable_result(str(error))
        except LimitReachedError as limit:
            return limit_result(str(limit))
        except FluxError as error:
            if error.billing == "none":
                self.session.release(checked.images)
            return error_result(error)
        saved, unsaved = [], []
        for image in response.data:
            try:
                path = image.save(self.session.save_path)
            except FluxError as error:
                unsaved.append((error, image.url))
            else:
                saved.append(self.session.add_image(path, seed=checked.seed))
        return success_result(response, saved, unsaved)

    async def _adraw(self, checked: CheckedArguments, client: AsyncFluxOpenAI) -> ToolResult:
        try:
            await self.session.acheck_folder()
            self.session.reserve(checked.images)
            response = await client.images.generate(**_generate_arguments(checked))
        except UnwritableFolderError as error:
            return unwritable_result(str(error))
        except LimitReachedError as limit:
            return limit_result(str(limit))
        except FluxError as error:
            if error.billing == "none":
                self.session.release(checked.images)
            return error_result(error)
        saved, unsaved = [], []
        for image in response.data:
            try:
                path = await image.asave(self.session.save_path)
            except FluxError as error:
                unsaved.append((error, image.url))
            else:
                saved.append(await self.session.aadd_image(path, seed=checked.seed))
        return success_result(response, saved, unsaved)


def _checked_choice(param: str, value: str, choices: Collection[str]) -> str:
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=1, cutoff=0.0)[0]
    raise ConfigurationError.of(
        InvalidParam(param=param, value=value, rule=f"must be one of {listed(choices)}", nearest=near)
    )


def _generate_arguments(checked: CheckedArguments) -> dict[str, Any]:
    # Through `extra_body`, whose type allows any parameters; as keywords the prompt would be required.
    return {"extra_body": checked.body}
