"""The imports are those that docs/architecture.md allows, and none of them run in a circle.

python -m pytest tests/test_architecture.py
"""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
TOP = ("conf", "data", "eval", "hydra_plugins", "model", "scripts", "train.py")
FILES = sorted(
    path.relative_to(ROOT)
    for top in TOP
    for path in ([ROOT / top] if top[-3:] == ".py" else (ROOT / top).rglob("*.py"))
)


def rooms() -> dict[Path, list[Path] | None]:
    """What each room may import, by the room; None: everything."""
    lines = re.findall(r"^\| `([\w/.]+)` \| .* \| (.*)\|$", PAGE.partition("## ")[0], re.MULTILINE)
    return {
        Path(room): None if "all" in allowed else [Path(name) for name in re.findall(r"`([\w/.]+)`", allowed)]
        for room, allowed in lines
    }


ROOMS = rooms()


def room_of(file: Path) -> Path:
    return max((room for room in ROOMS if room == file or room in file.parents), key=lambda room: len(room.parts))


def module_file(name: str) -> Path | None:
    """The file of a module of this project, None for another's."""
    path = Path(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / p).exists()), None)


def imports(file: Path) -> set[Path]:
    """The files of this project that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in below if module_file(name)}
            names |= modules if modules == below else modules | {node.module}
    return {found for name in names if (found := module_file(name)) and found.parts[0] in (*TOP, "train.py")} - {file}


def test_every_file_has_a_room():
    assert {room_of(file) for file in FILES} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_room_imports_what_its_line_allows(file):
    own, allowed = room_of(file), ROOMS[room_of(file)]
    for imported in imports(file):
        room = room_of(imported)
        assert allowed is None or room == own or room in allowed or imported in allowed, f"{file} imports {imported}"


def test_no_imports_run_in_a_circle():
    try:
        TopologicalSorter({file: imports(file) for file in FILES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(map(str, error.args[1])))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py|[\w/]+/)`", PAGE))))
def test_every_place_that_the_page_names_is_there(name):
    folders = ("", "eval/compare", "eval/measure", "conf")
    assert any((ROOT / folder / name).exists() for folder in folders)


def test_a_report_is_written_without_what_trains():
    """They take seconds to import, many times what reading the runs takes."""
    code = "import sys, eval.compare.report; print({'torch', 'lightning', 'matplotlib'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_a_job_imports_nothing_that_it_has_no_use_for():
    """Each of them takes a second or so; whoever wants them afterwards, has them."""
    code = (
        "import sys\n"
        "from conf.quick import quick_imports\n"
        "with quick_imports():\n"
        "    import model.training.trainer\n"
        "import gc, lightning_utilities.core.imports as imports\n"
        "unused = {'scipy.signal', 'transformers', 'matplotlib'}\n"
        "print(unused & {*sys.modules}, gc.isenabled(), imports.package_available('scipy'), "
        "bool(imports.RequirementCache('scipy')))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set() True True True\n"
