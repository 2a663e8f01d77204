"""What docs/files.md says of every file, and what in a file is not as it says."""

from __future__ import annotations

import csv
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
LISTS = ("rows", "retrieval", "tasks")  # of results.json, each with a table of its own, as `probes` has
OPEN = {"probe_settings", "others", "extension", "tuning.val_loss"}  # objects whose keys are anything

TEXT: dict[str, Callable[[str], Any]] = {"integer": int, "float": float, "text": str}
JSON = {"integer": int, "float": (int, float), "text": str, "true or false": bool, "list": list, "object": dict}


def section(title: str) -> str:
    return re.split(r"\n##+ ", PAGE.partition(f"## {title}\n")[2])[0]


def table(title: str) -> dict[str, tuple[str, str]]:
    """Type and unit of each field, or column, of a file."""
    found = {}
    for names, kind, unit in re.findall(r"^\| (`[^|]*`) \| ([^|]*?) \| ([^|]*?) ?\|", section(title), re.MULTILINE):
        found |= dict.fromkeys(re.findall("`([^`]*)`", names), (kind, unit))
    return found


def files(title: str) -> list[str]:
    """The patterns of the files of a folder."""
    named = re.findall(r"^\| (`[^|]*`) \|", section(title), re.MULTILINE)
    return [re.sub("N+", "*", name) for names in named for name in re.findall("`([^`]*)`", names)]


def stray_files(path: Path, patterns: Iterable[str]) -> list[str]:
    """The files below a folder that no pattern names."""
    found = [each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()]
    return [name for name in found if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def wrong_cells(path: Path, title: str) -> list[str]:
    """Columns of a CSV that are not documented, and cells of another type than is."""
    said = table(title)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows, path
    wrong = [name for name in rows[0] if name not in said]
    return wrong + [f"{name}={row[name]}" for row in rows for name in said if not _fits(row.get(name), said[name][0])]


def _fits(cell: str | None, kind: str) -> bool:
    if not cell or kind == "true or false":
        return cell in (None, "", "True", "False")
    try:
        TEXT[kind](cell)
    except ValueError:
        return False
    return True


def fields(content: Mapping[str, Any], title: str, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """The table, the name and the value of every field of a JSON file."""
    for key, value in content.items():
        name = place + key
        if title == "results.json" and name in LISTS:
            yield title, name, value
            yield from (field for row in value for field in fields(row, f"{title}: {name}"))
        elif title == "results.json" and name == "probes":
            yield title, name, value
            yield from (field for rows in value.values() for row in rows for field in fields(row, f"{title}: {name}"))
        elif isinstance(value, Mapping) and name not in OPEN:
            yield from fields(value, title, f"{name}.")
        else:
            yield title, name, value


def wrong_fields(content: Mapping[str, Any], title: str) -> list[str]:
    """Fields of a JSON file that are not documented, or of another type than is."""
    tables = {each: table(each) for each in {each for each, *_ in fields(content, title)}}
    return [
        f"{each}: {name}={value}"
        for each, name, value in fields(content, title)
        if name not in tables[each] or not (value is None or isinstance(value, JSON[tables[each][name][0]]))
    ]
