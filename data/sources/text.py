"""Your own text: a file or a folder of .txt and .md (a document a file), .jsonl and .parquet (a document a row).

Files are read in the order of their paths, folders with all below them (hidden files left out). Files of any other
type are named in a warning and not read. Text is UTF-8; line ends become line feeds, nothing else is changed.
Without a validation and test path, `data.corpus.split_by_content` makes the splits.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from datasets import load_dataset

from data.corpus import SPLITS, Corpus, Document, read_text, split_by_content

log = logging.getLogger(__name__)

TABLES = {".jsonl": "json", ".parquet": "parquet"}
TEXTS = {".txt", ".md"}


class Source(Corpus):
    """The documents under `path` (and, given together, `validation_path` and `test_path`).

    `column` is the column of a .jsonl or .parquet row that holds its text.
    Raises ValueError naming the file for a missing path, a binary file, invalid UTF-8 or a missing column.
    """

    def __init__(
        self, path: str, column: str = "text", validation_path: str | None = None, test_path: str | None = None
    ):
        if (validation_path is None) != (test_path is None):
            raise ValueError(
                f"data.validation_path={validation_path} and data.test_path={test_path}: give both, or neither"
            )
        if validation_path is None:
            self._splits = split_by_content(list(read_documents(Path(path), column)))
        else:
            paths = zip(SPLITS, (path, validation_path, test_path), strict=True)
            self._splits = {split: list(read_documents(Path(p), column)) for split, p in paths}

    def documents(self, split: str) -> Iterator[Document]:
        yield from self._splits[split]


def read_documents(path: Path, column: str) -> Iterator[Document]:
    """All documents of a file, or of a folder's files; their names are relative to it."""
    if not path.exists():
        raise ValueError(f"data path {path} does not exist")
    files, root = ([path], path.parent) if path.is_file() else (_visible_files(path), path)
    known = [file for file in files if file.suffix.lower() in TABLES.keys() | TEXTS]
    stray = [str(file.relative_to(root)) for file in files if file not in set(known)]
    if not known:
        raise ValueError(f"{path} holds no .txt, .md, .jsonl or .parquet file")
    if stray:
        shown = ", ".join(stray[:10]) + (f" and {len(stray) - 10} more" if len(stray) > 10 else "")
        log.warning("%s: not read, being neither .txt, .md, .jsonl nor .parquet: %s", path, shown)
    for file in known:
        name = file.relative_to(root).as_posix()
        if file.suffix.lower() in TEXTS:
            yield Document(name, read_text(file))
        else:
            yield from _rows(file, name, column)


def _visible_files(folder: Path) -> list[Path]:
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(folder).parts)  # noqa: E731
    return sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path))


def _rows(file: Path, name: str, column: str) -> Iterator[Document]:
    try:
        rows = load_dataset(TABLES[file.suffix.lower()], data_files=str(file), split="train", streaming=True)
        for number, row in enumerate(rows):
            if not isinstance(row.get(column), str):
                raise ValueError(f"row {number} has no text in column {column!r} (its columns: {', '.join(row)})")
            yield Document(f"{name}:{number}", row[column])
    except Exception as error:  # the readers raise a dozen types; all of them mean that this file is bad
        raise ValueError(f"{file} cannot be read as {file.suffix}: {error}") from error
