"""Files that are written whole or not at all, and read back with a word where they are damaged."""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.devices import rank

PARTIAL = ".partial"
DEEPEST = 50  # lists and mappings within one another in a JSON file; those of a run have ten
BOMB = 100  # times: what no losses can be compressed by
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
        if (depth := _depth(content)) > DEEPEST:
            raise ValueError(f"nested {depth} deep")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the command again that wrote it") from None
    return content


def _depth(content: Any) -> int:
    """How many lists and mappings lie within one another."""
    depth, inside = 0, [content]
    while inside := [each for each in inside if isinstance(each, dict | list)]:
        inside = [value for each in inside for value in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, by name; nothing is unpickled. Raises ValueError, naming the file, where it is damaged, or
    would fill the memory: it unpacks to more than 1 GiB and BOMB times its size, or says that an array is larger than
    what it holds of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            unpacked = sum(member.file_size for member in members.values())
            if unpacked > max(2**30, BOMB * path.stat().st_size):
                raise ValueError(f"it would unpack to {unpacked / 2**30:.0f} GiB")
            return {name: _read_array(archive, member) for name, member in members.items()}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged ({error}): run the command again that wrote it") from None


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Raises ValueError where the array's header and its bytes do not go together."""
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} is no array of numbers")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if by_column else "C")


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
