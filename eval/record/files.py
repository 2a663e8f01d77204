"""Files that are written whole or not at all, and checked when they are read back."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from conf.mistakes import one_sentence
from conf.typed import digest
from eval.record.bounds import check_depth
from model.devices import rank

PARTIAL, DAMAGED = ".partial", ".damaged"
DIGEST = "sha256"  # in a JSON file: of all the rest of it
GUARD = "'"  # before a text in a CSV; spreadsheets take what comes after it for text
FORMULA = ("=", "+", "-", "@", "\t", "\r", GUARD)  # how a formula begins, to one spreadsheet or another


class DamagedError(ValueError):
    """A file of a run's folder is not as it was written, not this run's, or gone."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} {reason}: give the run's own command again, which makes it anew")
        self.path, self.reason = path, reason


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
        with suppress(OSError):  # on a disk that takes no change, this one neither
            partial.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written: {error.strerror}; what stood there before is unchanged: make room or give "
            "rights there, or set runs to another folder"
        ) from error


def remove(path: Path) -> None:
    """Whatever stands there, if anything does."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> None:
    """Renames what stands there to *.damaged, in the place of what was set aside before."""
    aside = path.with_name(path.name + DAMAGED)
    remove(aside)
    os.replace(path, aside)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON, indented, atomic, its digest at the end. It has no NaN and no infinity: they are null, as any value
    that there is not."""
    content = _finite(content)
    whole = {**content, DIGEST: digest(content)}
    write_atomic(path, (json.dumps(whole, indent=1, allow_nan=False) + "\n").encode())


def _finite(content: Any) -> Any:
    """The content with None for every float that is not finite, and keys as JSON has them."""
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote there. A file without a digest is taken as it is: whoever edits one removes that line.

    Raises DamagedError where it is cut, not JSON, nested beyond reason, or other than its digest says.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        check_depth(content)
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise DamagedError(path, f"is damaged ({one_sentence(error)})") from None
    if not isinstance(content, dict):
        raise DamagedError(path, "is damaged (it is no JSON object)")
    written = content.pop(DIGEST, None)
    if written is not None and written != digest(content):
        raise DamagedError(path, f"is damaged (its {DIGEST} is another; of a file edited by hand, remove that line)")
    return content


def write_table(path: Path, rows: pd.DataFrame | list[Mapping[str, Any]]) -> None:
    """A CSV, atomic, empty cells where a value is missing. Of a list of rows it has the union of their keys as its
    header, in order of appearance.

    A text that a spreadsheet would take for a formula, and one that begins as a guarded one does, gets GUARD before it.
    """
    write_atomic(path, as_csv(rows))


def as_csv(rows: pd.DataFrame | list[Mapping[str, Any]]) -> bytes:
    """What `write_table` writes."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows, dtype=object)
    return _each(_guarded, frame).to_csv(index=False, lineterminator="\n").encode()


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
