"""Your own text: a file or a folder of texts (a document a file) and of rows (a document a row).

Which files are read is chosen by the ends of their names, `suffixes`: .jsonl, .csv and .parquet hold rows (see
`data/rows.py`), all others are text; .gz after any of them is a compressed file. Files are read in the order of their
paths, folders with all below them, links followed, hidden files left out. Files of other names, links to nothing and
files of rows without a row are named in a warning. Text is UTF-8; line ends become line feeds, a byte order mark is
dropped, nothing else is changed. Without a validation and test path, `data.splits.split_by_content` makes the splits.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data.corpus import Corpus, Document
from data.reading import files_below, local, read_text
from data.rows import reader, rows
from data.splits import split_by_content

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
        suffixes: list[str] = SUFFIXES,
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
        named = {"validation": "data.validation_path", "test": "data.test_path"}
        self._roots = {split: local(root, named.get(split, "data.path")) for split, root in paths.items()}
        self._remarks: list[str] = []
        self.settings = {"column": column, "suffixes": [suffix.lower() for suffix in words]}

    def files(self) -> dict[str, Path]:
        known = {split: self._known(root) for split, root in self._roots.items()}
        return {f"{split}/{name}": file for split, files in known.items() for name, file in files.items()}

    def documents(self, split: str) -> Iterator[Document]:
        yield from self._splits[split]

    def remarks(self) -> list[str]:
        return self._remarks

    @cached_property
    def _splits(self) -> dict[str, list[Document]]:
        read = {split: list(self._read(root)) for split, root in self._roots.items()}
        return split_by_content(read["all"]) if "all" in read else read

    def _read(self, root: Path) -> Iterator[Document]:
        """All documents under a path; their names are relative to it. What is left out is remarked on."""
        known, empty = self._known(root), []
        others = {name: file for name, file in _below(root).items() if name not in known}
        stray = [name for name, file in others.items() if file.is_file()]
        self._remark(root, f"ending in none of {self._suffixes}, not read (see data.suffixes)", stray)
        self._remark(root, "not read, being a link to nothing", [name for name in others if name not in stray])
        for name, file in known.items():
            shown = name.encode(errors="surrogateescape").decode(errors="replace")
            if reader(name) is None:
                yield Document(shown, read_text(file))
                continue
            found = -1
            for found, text in enumerate(rows(file, self.settings["column"])):
                yield Document(f"{shown}:{found}", text)
            if found < 0:
                empty.append(name)
        self._remark(root, "without a row, left out", empty)

    def _remark(self, root: Path, problem: str, names: list[str]) -> None:
        if names:
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            self._remarks.append(f"{root}: {len(names)} {'file' if len(names) == 1 else 'files'} {problem}: {shown}")

    def _known(self, root: Path) -> dict[str, Path]:
        """The files under a path that are read, by name. Raises ValueError for none."""
        if not root.exists():
            raise ValueError(f"data path {root} does not exist")
        ends = tuple(self.settings["suffixes"])
        known = {name: file for name, file in _below(root).items() if name.lower().endswith(ends) and file.is_file()}
        if not known:
            raise ValueError(f"{root} holds no {self._suffixes} file: set data.suffixes to how the names of yours end")
        return known

    @property
    def _suffixes(self) -> str:
        *others, last = self.settings["suffixes"]
        return f"{', '.join(others)} or {last}" if others else last


def _below(root: Path) -> dict[str, Path]:
    return files_below(root) if root.is_dir() else {root.name: root}
