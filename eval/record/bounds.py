"""How much a file that is read back may hold: one that was made to exhaust its reader is refused, by a ValueError."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

DEEPEST = 50  # lists and mappings within one another in JSON; what a run writes has ten
LARGE, BOMB = 2**30, 100  # bytes; times its size in the file: losses are never compressed so far


def check_depth(content: Any) -> None:
    """Raises ValueError for what is nested deeper than what reads it can follow."""
    inside = [content]
    for _ in range(DEEPEST + 1):
        inside = [each for each in inside if isinstance(each, dict | list)]
        inside = [value for each in inside for value in (each.values() if isinstance(each, dict) else each)]
    if inside:
        raise ValueError(f"it is nested more than {DEEPEST} deep")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, by name. Nothing is unpickled, and no more is unpacked than it can honestly hold.

    Raises ValueError for other content, and what `zipfile` raises for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        unpacked = sum(member.file_size for member in members.values())
        if unpacked > max(LARGE, BOMB * path.stat().st_size):
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return {name: _array(archive, member) for name, member in members.items()}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Raises ValueError where the header asks for other bytes than there are."""
    with archive.open(member) as file:
        np.lib.format.read_magic(file)
        length = file.read(2)
        shape, by_column, dtype = _header(length + file.read(int.from_bytes(length, "little")))
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} is no array of numbers")
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if by_column else "C")


@functools.lru_cache(maxsize=1024)  # a run has hundreds of arrays, of a few shapes
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of an array, whether it lies by column, and its dtype, by the header in its file."""
    return np.lib.format.read_array_header_1_0(io.BytesIO(content))
