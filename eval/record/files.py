"""Files that are written whole or not at all, and read back with a word where they are damaged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from eval.record.bounds import check_depth
from model.devices import rank

PARTIAL = ".partial"
GUARD = "'"  # before a text in a CSV; spreadsheets take what comes after it for text
FORMULA = ("=", "+", "-", "@", "\t", "\r", GUARD)  # how a formula begins, to one spreadsheet or another


def write_atomic(path: Path, content: bytes) -> None:
    """Writes beside the target, flushes to the disk, then renames: a reader sees a whole file or none. Of a run on
    several devices the first process alone writes. Raises OSError, naming the file, where it can't be written."""
    if rank():
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.unlink(missing_ok=True)
        with open(partial, "xb") as file:  # never through a link that lies there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written: {error.strerror}; what stood there before is unchanged: make room or give "
            "rights there, or set runs to another folder"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON, indented, atomic. It has no NaN and no infinity: they are null, as any value that there is not."""
    write_atomic(path, (json.dumps(_finite(content), indent=1, allow_nan=False) + "\n").encode())


def _finite(content: Any) -> Any:
    """The content with None for every float that is not finite."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError, naming the file, where it is cut, not JSON, or nested beyond reason."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        check_depth(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the command again that wrote it") from None
    return content


def write_table(path: Path, rows: pd.DataFrame | list[Mapping[str, Any]]) -> None:
    """A CSV, atomic, empty cells where a value is missing. Of a list of rows it has the union of their keys as its
    header, in order of appearance.

    A text that a spreadsheet would take for a formula, and one that begins as a guarded one does, gets GUARD before it.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    write_atomic(path, _each(_guarded, frame).to_csv(index=False, lineterminator="\n").encode())


def _guarded(cell: Any) -> Any:
    return GUARD + cell if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def read_table(path: Path) -> pd.DataFrame:
    """A CSV of `write_table`, its texts as they were."""
    return _each(_unguarded, pd.read_csv(path, float_precision="round_trip")).infer_objects()


def _unguarded(cell: Any) -> Any:
    return cell.removeprefix(GUARD) if isinstance(cell, str) else cell


def _each(change: Callable[[Any], Any], frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of changed names and cells, whole numbers whole beside missing ones."""
    cells = {change(name): pd.Series(map(change, column), dtype=object) for name, column in frame.items()}
    return pd.DataFrame(cells)
