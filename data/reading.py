"""Local files: found, named, told apart by their content, and read as text. Light to import."""

import errno
import functools
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from conf.mistakes import one_sentence


def local(path: str, setting: str) -> Path:
    """A path as the user gave it in a setting, "~" expanded where there is such a home. Raises ValueError, naming the
    setting, for what no system takes as a path."""
    try:
        place = Path(path).expanduser()
    except RuntimeError:  # no such user
        place = Path(path)
    try:
        os.lstat(place)
    except (OSError, ValueError) as error:  # ValueError: of a NUL
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            shown = path if len(path) < 64 else f"{path[:32]}..."
            raise ValueError(f"{setting}={shown!r}: can't be the path of a file or folder; choose another") from None
    return place


def files_below(folder: Path, left_out: frozenset[str] = frozenset()) -> dict[str, Path]:
    """All that is not hidden in a folder and the folders below it, by its path relative to it, in their order.

    Links to folders are followed, each folder read once, so that links never run in a circle; a link to nothing is
    among what is found. left_out: names of folders that are not entered. Raises ValueError for a folder that can't be
    read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read: {one_sentence(error)}") from error

    seen, found = set(), []
    for below, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(below)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name not in left_out and not name.startswith("."))
        found += [Path(below, name) for name in names if not name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def content_hash(files: dict[str, Path]) -> str:
    """SHA-256 of files' names and contents, hexadecimal. Raises OSError for one that can't be read."""
    parts = "".join(f"{name}\0{_file_hash(file)}\0" for name, file in files.items())
    return hashlib.sha256(parts.encode(errors="surrogateescape")).hexdigest()


def _file_hash(file: Path) -> str:
    state = file.stat()
    return _hash_in_state(file.absolute(), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 16)  # a run asks for its name several times
def _hash_in_state(file: Path, *state: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def opened(file: Path) -> BinaryIO:
    """A file's bytes, decompressed where its name ends in .gz. Raises ValueError naming one that can't be read."""
    import gzip

    try:
        return gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb")
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {one_sentence(error)}") from error


def read_text(file: Path) -> str:
    """A file's text, `normalised`. Raises ValueError naming the file if it is no text in UTF-8, or cannot be read."""
    with opened(file) as stream:
        try:
            content = stream.read()
        except (OSError, EOFError) as error:
            raise ValueError(f"{file} cannot be read: {one_sentence(error)}") from error
    return normalised(decoded(content, str(file)), str(file))


def decoded(content: bytes, place: str, start: int = 0) -> str:
    """UTF-8 as text. Raises ValueError naming the place and the byte, counted from `start`, where it is none."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place} is not UTF-8 at byte {start + error.start} ({content[error.start : error.start + 4]!r}): "
            "convert it first"
        ) from error


def normalised(text: str, place: str) -> str:
    r"""A document's text as every source gives it: a byte order mark before it is dropped, "\r\n" and "\r" turn into
    "\n"; nothing else is changed.

    Raises ValueError naming the place of a text that holds a NUL (which no text does) or has no UTF-8 form.
    """
    if (nul := text.find("\0")) >= 0:
        raise ValueError(f"{place}: the text holds a NUL at character {nul}, as a binary file does: remove it first")
    utf8(text, place)
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def utf8(text: str, place: str) -> bytes:
    """The text's UTF-8 bytes. Raises ValueError naming the place of a text that has none (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: the text holds a lone surrogate at character {error.start} "
            f"({text[error.start]!a}), which has no UTF-8 form: repair its encoding first"
        ) from error
