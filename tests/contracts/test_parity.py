"""Sync and async are one code: the async half, with the async words erased, is the sync half, tree for tree."""

import ast
import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import flux_openai

PACKAGE = Path(flux_openai.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}

Function = ast.FunctionDef | ast.AsyncFunctionDef

IRREGULAR: Mapping[str, str] = {
    "DefaultAsyncHttpxClient": "DefaultHttpxClient",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "_atrace": "_trace",
    "anyio": "socket",  # whose `getaddrinfo` does not block
    "arun_all": "run_all",
    "asynccontextmanager": "contextmanager",
    "handle_async_request": "handle_request",
}
"""Async words that no rule erases."""

APART: Mapping[str, str] = {
    "_http/capture.py:Exchange._atrace": "only calls the sync hook, which does not block",
    "_http/streams.py:awatch_new_stream": "only calls the sync hook, which does not block",
    "_http/interception.py:InProcessTransport.handle_async_request": "the sync half is the HTTP library's own",
    "response/download.py:_aclient_for": "sync code also reads the images of async clients",
    "response/response.py:FluxImage.aread": "decodes and uses sync HTTP clients in a thread, so as not to block",
    "response/response.py:FluxImage.asave": "writes the file in a thread, so as not to block",
    "sending/call.py:abuild_calls": "reads files in a thread, so as not to block",
    "tools/session.py:Session.acheck_folder": "writes the file in a thread, so as not to block",
    "tools/session.py:Session.aadd_image": "reads the file in a thread, so as not to block",
    "tools/session.py:EarlierCall.aresult": "waits in a thread, so as not to block",
    "tools/langchain.py:FluxImageTool._arun": "reads the images to show in a thread, so as not to block",
    "tools/tool.py:FluxTool.acall": "with a sync client, it is the sync call in a thread",
    "tools/tool.py:FluxTool._aread": "reads files in a thread, so as not to block",
    "sending/concurrency.py:arun_all": "tasks are not threads: how jobs run side by side is the difference itself",
    "emulator/load/clock.py:RealClock.asleep": "asyncio and time are the difference itself",
    "emulator/load/clock.py:VirtualClock.asleep": "tasks wait together; threads cannot know of each other",
    "emulator/load/clock.py:_Sleepers.sleep_until": "the waits of tasks; threads have none",
    "testing/__init__.py:async_flux_client": "a sync fixture, for every async plugin; it closes in a loop of its own",
}
"""Async code that is not a mirror of sync code, and why."""

ASYNC_ONLY: Mapping[str, str] = {
    "batch/batch.py": "the sync face runs the async one on a loop of its own",
    "batch/ledger.py": "the transitions of many rows share a commit",
    "batch/ray.py": "the actors of Ray run on an event loop",
    "batch/runner.py": "many rows are under way at once",
    "batch/shards.py": "the workers run side by side",
    "client/connections.py": "only a batch has so many requests under way",
    "cli/batch/commands.py": "a batch has many requests under way on one event loop, and signals reach it there",
    "emulator/transport/server.py": "one thread waits for many connections at once",
    "tools/mcp.py": "the library of the protocol calls async handlers only",
}
"""Files without a sync half, and why."""


def without_async(name: str) -> str:
    """A name without its async word: `AsyncX` is `X`; `aread`, `_aget`, `async_client`, `watch_async` likewise."""
    name = IRREGULAR.get(name, name)
    plain = re.sub(r"^(_?)Async(?=[A-Z])|^(_?)async_|_async$", r"\1\2", name)
    known = (
        "client|close|closing|iter_|check_|fetch|get|read|receive|s?ave|attempt|build_calls|call|add_image|result"
        "|draw|run_|handle|sleep|watch_new|send_trace|trace|iter"
    )
    return re.sub(rf"^(_?)a(?=({known}))", r"\1", plain) if plain == name else plain


class Eraser(ast.NodeTransformer):
    """Erases what makes code async, and the docstrings: the two halves have the same words but speak of themselves."""

    def visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "attr", "arg", "name"):
            if isinstance(word := getattr(node, field, None), str):
                setattr(node, field, without_async(word))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            node.value = without_async(node.value)  # an annotation as text
        visited: ast.AST = super().visit(node)
        return self.switched(visited)

    def switched(self, node: ast.AST) -> ast.AST:
        match node:
            case ast.Await(value=value):
                return value
            case ast.Subscript(value=ast.Name(id="Awaitable"), slice=inner):
                return inner
            case ast.AsyncFor() | ast.AsyncWith() | ast.AsyncFunctionDef():
                plain: type[ast.AST] = getattr(ast, type(node).__name__.removeprefix("Async"))
                return plain(**{field: getattr(node, field) for field in node._fields})
            case ast.comprehension():
                node.is_async = 0
            case _:
                pass
        return node


def erased(node: ast.AST) -> str:
    """The code of a class or function without async words and docstrings, in one normal spelling."""
    tree = copy.deepcopy(node)
    for inner in ast.walk(tree):
        if (
            isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and ast.get_docstring(inner) is not None
        ):
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(ast.fix_missing_locations(Eraser().visit(tree)))


def definitions(source: str) -> dict[str, Function | ast.ClassDef]:
    """Every class and every function that is no detail of another function, by its dotted name."""
    found: dict[str, Function | ast.ClassDef] = {}

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[prefix + node.name] = node
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")

    collect(ast.parse(source).body, "")
    return found


def is_async(name: str, node: Function | ast.ClassDef) -> bool:
    last = name.rpartition(".")[2]
    return isinstance(node, ast.AsyncFunctionDef) or last.lstrip("_").startswith(("Async", "async_"))


def mirrors(source: str) -> dict[str, bool]:
    """Each async definition of a file, and whether its sync half is there and is the same."""
    known = definitions(source)
    halves = {
        name: ".".join(map(without_async, name.split("."))) for name, node in known.items() if is_async(name, node)
    }
    return {
        name: half != name and half in known and erased(known[name]) == erased(known[half])
        for name, half in halves.items()
    }


@pytest.mark.parametrize("file", sorted(SOURCES.keys() - ASYNC_ONLY.keys()))
def test_async_code_mirrors_sync_code(file: str) -> None:
    """Every async function and class has a sync half that is the same but for the async words, or says why not."""
    differing = {f"{file}:{name}" for name, same in mirrors(SOURCES[file]).items() if not same}
    assert differing == {name for name in APART if name.startswith(f"{file}:")}


def test_the_pairs_are_found() -> None:
    """The comparison is not empty: the pairs on which everything rests are among those it finds the same."""
    same = {name for source in SOURCES.values() for name, alike in mirrors(source).items() if alike}
    assert same >= {
        "AsyncFluxImages",
        "AsyncFluxImages.edit",
        "AsyncFluxImages.generate",
        "AsyncFluxOpenAI",
        "AsyncSender",
        "FluxImagesResponse.asave",
        "afetch",
        "aread_capped",
    }


def edits(node: ast.AST) -> Iterator[ast.AST]:
    """Copies of a tree, each with one expression or statement changed."""
    places = [
        index for index, inner in enumerate(ast.walk(node)) if isinstance(inner, ast.Name | ast.Constant | ast.keyword)
    ]
    for place in places:
        edited = copy.deepcopy(node)
        match list(ast.walk(edited))[place]:
            case ast.Name() as name:
                name.id += "_"
            case ast.Constant() as constant:
                constant.value = -1
            case ast.keyword(arg=str(word)) as keyword:
                keyword.arg = f"{word}_"
            case _:
                continue
        yield edited


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sending/sender.py", "AsyncSender._attempt"),
        ("_http/capture.py", "aread_capped"),
        ("response/download.py", "_aattempt"),
    ],
)
def test_an_edit_of_one_half_is_seen(file: str, name: str) -> None:
    """Whichever name, constant or argument of the async half is changed, the halves are no longer the same."""
    known = definitions(SOURCES[file])
    half = erased(known[".".join(map(without_async, name.split(".")))])
    assert erased(known[name]) == half
    outcomes = [erased(edited) == half for edited in edits(known[name])]
    assert len(outcomes) > 20
    assert not any(outcomes)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("body=request.body,", "body=request.call.body,"),
        ("return reader.outcome or reader.read()", "return reader.read()"),
        ("except Exception as failure", "except OSError as failure"),
        ("aclient=http", "aclient=None"),
        ("            parts.clear()\n            unexpected.clear()\n", "            parts.clear()\n"),
    ],
)
def test_a_slip_in_the_source_is_seen(before: str, after: str) -> None:
    """A changed expression, a lost line and a wrong clause in the async half all fail the comparison."""
    head, found, tail = SOURCES["sending/sender.py"].rpartition(before)
    assert found
    assert mirrors(head + found + tail)["AsyncSender"]
    assert not mirrors(head + after + tail)["AsyncSender"]
