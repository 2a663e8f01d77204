"""Your own text: a file or a folder of texts (a document a file) and of rows (a document a row).

Which files are read is chosen by the ends of their names, `suffixes`: .jsonl, .csv and .parquet hold rows (see
`data/rows.py`), all others are text; .gz after any of them is a compressed file. Files are read in the order of their
paths, folders with all below them, links followed, hidden files left out. Files of other names, links to nothing and
files of rows without a row are named in a warning. Text is UTF-8; line ends become line feeds, a byte order mark is
dropped, nothing else is changed. Without a validation and test path, `data.splits.split_by_content` makes the splits.
"""

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data.corpus import Corpus, Document
from data.reading import files_below, local, read_text
from data.rows import reader, rows
from data.splits import split_by_content

log = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")


class Source(Corpus):
    """The documents under `path` (and, given together, `validation_path` and `test_path`).

    - `column`: of rows, the column that holds the text.
    - `suffixes`: how the names of the files end that are read.

    Raises ValueError, once it is read, naming the file for a missing path, a binary file, invalid UTF-8, a row without
    text.
    """

    def __init__(
        self,
        path: str,
        column: str = "text",
        suffixes: list = SUFFIXES,
        validation_path: str | None = None,
        test_path: str | None = None,
    ):
        if (validation_path is None) != (test_path is None):
            raise ValueError(
                f"data.validation_path={validation_path} and data.test_path={test_path}: give both, or neither"
            )
        words = [suffix for suffix in suffixes if isinstance(suffix, str) and suffix[:1] == "." and suffix != "."]
        if not words or len(words) < len(suffixes):
            raise ValueError(f"data.suffixes={list(suffixes)}: must be ends of file names, such as [.txt, .rst]")
        paths = {"train": path, "validation": validation_path, "test": test_path} if test_path else {"all": path}
        self._roots = {split: local(root) for split, root in paths.items()}
        self.settings = {"column": column, "suffixes": [suffix.lower() for suffix in words]}

    def files(self) -> dict[str, Path]:
        return {f"{split}/{name}": file for split in self._roots for name, file in self._found(split)[0].items()}

    def documents(self, split: str) -> Iterator[Document]:
        return self._read(split) if split in self._roots else iter(self._splits[split])

    @cached_property
    def _splits(self) -> dict[str, list[Document]]:
        return split_by_content(list(self._read("all")))

    def _read(self, split: str) -> Iterator[Document]:
        """All documents under a split's path; their names are relative to it."""
        known, others = self._found(split)
        _warn(self._roots[split], f"not read, ending in none of {self._suffixes} (see data.suffixes)", others)
        empty = []
        for name, file in known.items():
            shown = name.encode(errors="surrogateescape").decode(errors="replace")
            if reader(name) is None:
                yield Document(shown, read_text(file))
                continue
            number = -1
            for number, text in enumerate(rows(file, self.settings["column"])):
                yield Document(f"{shown}:{number}", text)
            if number < 0:
                empty.append(name)
        _warn(self._roots[split], "without a row, left out", empty)

    def _found(self, split: str) -> tuple[dict[str, Path], list[str]]:
        """The files under a split's path that are read, and the names of the others. Raises ValueError for none."""
        root = self._roots[split]
        if not root.exists():
            raise ValueError(f"data path {root} does not exist")
        files = files_below(root) if root.is_dir() else {root.name: root}
        known = {
            name: file
            for name, file in files.items()
            if name.lower().endswith(tuple(self.settings["suffixes"])) and file.is_file()
        }
        if not known:
            raise ValueError(f"{root} holds no {self._suffixes} file: set data.suffixes to how the names of yours end")
        return known, [name for name in files if name not in known]

    @property
    def _suffixes(self) -> str:
        *others, last = self.settings["suffixes"]
        return f"{', '.join(others)} or {last}" if others else last


def _warn(root: Path, problem: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        log.warning("%s: %d files %s: %s", root, len(names), problem, shown)
