"""The types: what mypy --strict finds in programs that change one import, that use FLUX, and that are wrong.

The programs are in `typing/` and are read by type checkers only. mypy runs once for all of them, and as a user would
run it: from another folder, without the settings of this project, and with the package as an installed one.
"""

import inspect
import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import openai
import pytest

pytest.importorskip("mypy")

PROGRAMS = Path(__file__).parent / "typing"
ELSEWHERE = "admin audio beta containers conversations evals fine_tuning live realtime skills vector_stores webhooks"
"""Subpackages of openai that no program here needs: reading them would take as long as reading all others."""

Found = dict[str, dict[int, list[str]]]
"""The errors: by the program, and then by the line."""


def changed(text: str, *, everywhere: bool) -> str:
    """The program with our package in its imports: in `from openai import`, or also in `import openai`."""
    text = re.sub(r"^from openai import", "from flux_openai import", text, flags=re.MULTILINE)
    return re.sub(r"^import openai$", "import flux_openai as openai", text, flags=re.MULTILINE) if everywhere else text


def public_names() -> list[str]:
    """The public names of openai: those that it lists, its further classes and functions, and its version."""
    values = {name: getattr(openai, name) for name in dir(openai)}
    made_there = (name for name, value in values.items() if getattr(value, "__module__", "").startswith("openai"))
    further = (name for name in made_there if inspect.isclass(values[name]) or inspect.isfunction(values[name]))
    return sorted(name for name in {*openai.__all__, *further, "VERSION"} if not name.startswith("_"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Found:
    """What mypy finds in each program. Its cache is kept with pytest's: only the first run has to read openai."""
    folder = tmp_path_factory.mktemp("programs")
    program = (PROGRAMS / "program.py").read_text(encoding="utf-8")
    texts = {
        "before": program,
        "after_from": changed(program, everywhere=False),
        "after_all": changed(program, everywhere=True),
        "names": "".join(f"from flux_openai import {name} as _{name}\n" for name in public_names()),
        "flux": (PROGRAMS / "flux.py").read_text(encoding="utf-8"),
        "mistakes": (PROGRAMS / "mistakes.py").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    sections = (f"[mypy-openai.*.{name}.*]\nfollow_imports = skip\n" for name in ELSEWHERE.split())
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\n" + "".join(sections), encoding="utf-8")
    kept = getattr(pytestconfig, "cache", None)  # absent with `-p no:cacheprovider`
    cache = folder / ".mypy_cache" if kept is None else kept.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--output=json", f"--cache-dir={cache}", "."]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode in (0, 1), run.stderr
    errors: Found = {name: defaultdict(list) for name in texts}
    for line in run.stdout.splitlines():
        error = json.loads(line)
        if error["severity"] == "error":
            errors[Path(error["file"]).stem][error["line"]].append(error["message"])
    return {name: dict(lines) for name, lines in errors.items()}


def test_an_openai_program_is_clean(found: Found) -> None:
    """The program has no error against openai itself, so that an error of the changed ones is ours."""
    assert found["before"] == {}


@pytest.mark.parametrize("after", ["after_from", "after_all"])
def test_changing_the_import_brings_no_error(found: Found, after: str) -> None:
    """An OpenAI program stays clean when `from openai import`, or every import of openai, names flux_openai instead."""
    assert found[after] == {}


def test_every_public_name_of_openai_is_there(found: Found) -> None:
    """What can be imported from openai can be imported from flux_openai, for a type checker too."""
    assert found["names"] == {}


def test_what_is_right_is_clean(found: Found) -> None:
    """Every FLUX parameter, every kind of image and every way to call has the type that is promised."""
    assert found["flux"] == {}


def test_what_is_wrong_is_found(found: Found) -> None:
    """Each marked line of the mistakes has an error, sync and async, and no other line has one."""
    lines = (PROGRAMS / "mistakes.py").read_text(encoding="utf-8").splitlines()
    marks = {number: re.search(r"# mistake: (\d+)$", line) for number, line in enumerate(lines, 1)}
    marked = {number: int(mark[1]) for number, mark in marks.items() if mark}
    assert sorted(marked.values()) == sorted([*range(1, 12)] * 2)
    assert found["mistakes"].keys() == marked.keys()
