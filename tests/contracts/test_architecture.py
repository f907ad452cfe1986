"""The numbers this code base holds itself to; each is read from the source, so none can drift unseen."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeVar

import openai
import pytest

import flux_openai
from flux_openai import errors

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "flux_openai"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
TOP_LEVEL = {"CHANGELOG.md", "LICENSE", "README.md", "cassettes", "examples", "flux_openai", "pyproject.toml", "tests"}
PUBLIC_NAMES = [
    "AsyncClient",
    "AsyncFluxOpenAI",
    "AsyncOpenAI",
    "BadResponseError",
    "Client",
    "Emulator",
    "FluxError",
    "FluxImage",
    "FluxImagesResponse",
    "FluxOpenAI",
    "FluxWarning",
    "InvalidParamsError",
    "OpenAI",
    "RetryEvent",
    "RetryPolicy",
    "adapt",
]

RECORDERS = {"AnswerReader", "Exchange", "Part", "RetryState", "Traffic"}
"""What one call fills in as it goes: made inside the call, seen by nobody else, so it need not be frozen."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def broken(rule: Callable[[Path], T], paths: list[Path] = SOURCES) -> dict[str, T]:
    """The files that break a rule, and what it says of them; what it says of the rest is false or empty."""
    return {str(path.relative_to(ROOT)): found for path in paths if (found := rule(path))}


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(node: ast.AST) -> Iterator[Function]:
    """Every function, method and nested function, but no `@overload`: those are types, not code."""
    for child in ast.walk(node):
        if isinstance(child, FUNCTIONS) and "overload" not in map(name_of, child.decorator_list):
            yield child


def name_of(node: ast.AST | None) -> str:
    """The last name in an expression: `dataclass` for `dataclasses.dataclass(frozen=True)`."""
    match node:
        case ast.Call(func=inner):
            return name_of(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def all_of(tree: ast.Module) -> list[str] | None:
    """What a module writes in `__all__`, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in map(name_of, node.targets):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def names_bound_in(tree: ast.Module) -> set[str]:
    """Every name a module binds at its top level, also inside an `if` or a `try`."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name.partition(".")[0] for alias in aliases)
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case _:
                pass
    return names


def sort_key(name: str) -> tuple[bool, bool, str]:
    """CONSTANTS, then Classes, then functions: the order in which ruff sorts `__all__`."""
    return (not name.isupper(), not name[:1].isupper(), name)


def test_the_package_root_is_short() -> None:
    """At most 16 entries stand at the root of the package, so that the list of stages is read at a glance."""
    entries = [path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(entries) <= 16, sorted(entries)


def test_imports_point_down() -> None:
    """The import contracts in pyproject.toml hold: floors, no cycles, the emulator apart, extras apart."""
    pytest.importorskip("importlinter", reason="comes with the dev extra")
    # A process of its own: it switches off every logger that exists, and later tests listen to some.
    check = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_import_of_ours_is_hidden_in_a_function() -> None:
    """Our own modules are imported at the top of a file, where the contracts and the reader see them."""
    # The plugin is loaded in test runs that have no use for it, the commands for help texts, and the client, as the
    # SDK's, by programs that wait for it before they do anything.
    late = {
        "flux_openai/cli/__init__.py",
        "flux_openai/cli/app.py",
        "flux_openai/client/clients.py",
        "flux_openai/sending/settings.py",
        "flux_openai/testing/__init__.py",
    }
    assert set(broken(hidden_imports)) == late


def hidden_imports(path: Path) -> list[str]:
    """The imports of ours inside of functions."""
    inside = [node for function in functions_of(tree_of(path)) for node in ast.walk(function)]
    imports = [ast.unparse(node) for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]
    return [text for text in imports if re.search(r"\bflux_openai\b|from \.", text)]


def test_public_names_are_documented() -> None:
    """Every class and function in `__all__` has a docstring, and so has every public method of such a class."""
    assert broken(undocumented) == {}


def undocumented(path: Path) -> list[str]:
    """The public names without a docstring."""
    tree = tree_of(path)
    missing = []
    for node in public_definitions(tree):
        missing += [] if ast.get_docstring(node) else [node.name]
        if isinstance(node, ast.ClassDef):
            methods = [f for f in functions_of(node) if f in node.body and not f.name.startswith("_")]
            missing += [f"{node.name}.{f.name}" for f in methods if not ast.get_docstring(f)]
    return missing


def public_definitions(tree: ast.Module) -> list[Function | ast.ClassDef]:
    """The classes and functions that a module names in `__all__`."""
    found = [node for node in tree.body if isinstance(node, ast.ClassDef)], list(functions_of(tree))
    return [node for nodes in found for node in nodes if node in tree.body and node.name in (all_of(tree) or ())]


def test_every_test_says_what_must_hold() -> None:
    """Every test has a docstring, and its first line is a sentence."""
    assert broken(speechless, TESTS) == {}


def speechless(path: Path) -> list[str]:
    """The tests that do not say what must hold."""
    tests = [f for f in functions_of(tree_of(path)) if f.name.startswith("test_")]
    return [f.name for f in tests if not (ast.get_docstring(f) or "").partition("\n")[0].endswith(".")]


def test_all_is_sorted() -> None:
    """`__all__` is sorted, and says nothing twice."""
    names = {path: all_of(tree_of(path)) or [] for path in SOURCES}
    assert broken(lambda path: names[path] != sorted(set(names[path]), key=sort_key)) == {}


def test_all_is_true() -> None:
    """`__all__` names only what the module has."""
    assert broken(lambda path: set(all_of(tree_of(path)) or ()) - names_bound_in(tree_of(path))) == {}


def test_the_package_offers_exactly_the_promised_names() -> None:
    """`flux_openai` has the promised names, sorted; the list for type checkers is the list of run time."""
    assert getattr(flux_openai, "__all__", None) == PUBLIC_NAMES
    assert all(hasattr(flux_openai, name) for name in PUBLIC_NAMES)
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree_of(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flux_openai.")
        for alias in node.names
    }
    clients = all_of(tree_of(PACKAGE / "client" / "clients.py")) or []
    assert sorted({*typed, *clients} - {"*"}) == PUBLIC_NAMES


@pytest.mark.parametrize("name", sorted(set(openai.__all__) - set(PUBLIC_NAMES) - {"__title__", "__version__"}))
def test_every_other_public_name_of_openai_is_the_sdk_s_own(name: str) -> None:
    """Changing the one import line is enough: what stands beside `OpenAI` in it is found here too."""
    assert getattr(flux_openai, name) is getattr(openai, name)


def test_the_clients_are_ours_under_each_of_their_names() -> None:
    """`OpenAI` and `Client` are `FluxOpenAI`, the async names likewise; a name that nobody has is an AttributeError."""
    assert flux_openai.OpenAI is flux_openai.Client is flux_openai.FluxOpenAI
    assert flux_openai.AsyncOpenAI is flux_openai.AsyncClient is flux_openai.AsyncFluxOpenAI
    assert flux_openai.AzureOpenAI is openai.AzureOpenAI
    assert flux_openai.__version__ == importlib.metadata.version("flux-openai")
    with pytest.raises(AttributeError, match="no attribute 'OpenA1'"):
        getattr(flux_openai, "OpenA1")  # noqa: B009  # as an import would ask for it


def test_a_folder_has_about_eight_files() -> None:
    """No folder of the package has more than ten entries beside its `__init__`: its list is read at a glance."""
    sizes = {
        str(folder.relative_to(ROOT)): len([entry for entry in folder.iterdir() if entry.name[:2] != "__"])
        for folder in {path.parent for path in SOURCES} - {PACKAGE}
    }
    assert {name: size for name, size in sizes.items() if size > 10} == {}


def test_no_two_public_classes_share_a_name() -> None:
    """One name is one thing: no two public classes of the package are called alike."""
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_dataclasses_are_frozen_and_keyword_only() -> None:
    """A dataclass is a value: it cannot change under its holder, and a new field breaks no call."""
    assert broken(loose_dataclasses) == {}


def loose_dataclasses(path: Path) -> dict[str, set[str]]:
    """The dataclasses that lack something, and what they lack."""
    loose = {
        node.name: {"frozen", "kw_only"} - switched_on(decorator)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for decorator in node.decorator_list
        if name_of(decorator) == "dataclass"
    }
    return {name: off for name, off in loose.items() if off - ({"frozen"} if name in RECORDERS else set())}


def switched_on(decorator: ast.expr) -> set[str | None]:
    """The options that a decorator sets to True."""
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    return {keyword.arg for keyword in keywords if isinstance(keyword.value, ast.Constant) and keyword.value.value}


def test_the_error_tree_is_drawn_as_it_is() -> None:
    """The tree in the docstring of `errors` shows every error, under its parent, with the class it also is."""
    assert drawn_tree() == {
        name: [base.__name__ for base in cls.__bases__]
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, openai.OpenAIError) and cls.__module__ == errors.__name__
    }


def drawn_tree() -> dict[str, list[str]]:
    """Each class in the drawing with its bases: the class above it, and the one after "also a"."""
    branch: list[str] = []
    bases: dict[str, list[str]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if drawn := re.match(r"\s{4}([│ ]*)[├└]── (\w+)", line):
            depth = len(drawn[1]) // 4
            branch[depth:] = [drawn[2]]
            also = re.search(r"also an? (?:\w+\.)?(\w+)", line)
            bases[drawn[2]] = [branch[depth - 1] if depth else "OpenAIError", *([also[1]] if also else [])]
    return bases


HANDED_ON = {
    # The thread of the sync face hands on what its batch raised.
    "flux_openai/batch/batch.py": 2,
    # A callback's exception and a broken ledger end the run, once what is under way is saved; what else a call raises
    # leaves its row held.
    "flux_openai/batch/runner.py": 4,
    # What a worker raises ends the run likewise, and is raised then.
    "flux_openai/batch/shards.py": 1,
    # An error of a connection is raised again, unless the whole answer came before it; of both clients.
    "flux_openai/_http/capture.py": 2,
    # Transports and hooks raise anything; it is raised as a DownloadError.
    "flux_openai/response/download.py": 1,
    # What a job raises in a thread is raised by the thread that ordered the job.
    "flux_openai/sending/concurrency.py": 1,
    # A value whose own code fails when it is asked for its number is refused by name.
    "flux_openai/request/plain.py": 1,
    # Whatever ends an attempt, of the sync and of the async client, becomes the error of its outcome, with a bill.
    "flux_openai/sending/sender.py": 2,
}
"""Where everything may be caught without raising it again, how often, and why."""


def test_no_error_is_swallowed_blindly() -> None:
    """An `except` names what it expects; only one that raises again, or hands on, may catch everything."""
    assert {name: len(lines) for name, lines in broken(blind_handlers).items()} == HANDED_ON


def blind_handlers(path: Path) -> list[int]:
    """The lines of handlers that catch everything and keep it."""
    return [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node) and not raises_again(node)
    ]


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """Whether an `except` is bare, or is for the base of everything."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return handler.type is None or bool({"BaseException", "Exception"} & set(map(name_of, caught)))


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether an `except BaseException` only cleans up and then lets the error go on."""
    last = handler.body[-1]
    return name_of(handler.type) == "BaseException" and isinstance(last, ast.Raise) and last.exc is None


def test_the_top_level_stays_clear() -> None:
    """Beside the agreed names only dot-files stand at the top of the repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {name.partition("/")[0] for name in listed}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
    assert {"LICENSE", "flux_openai", "pyproject.toml"} <= top
