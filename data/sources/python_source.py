"""The source code of the running Python's standard library (PSF licence); a document a module, about 11 MB.

The content depends on the Python version (and on what the distributor leaves out), so results on it are compared
between runs of one installation only. Tests, bundled packages, generated tables of IDLE's and empty files are left
out, as are files that are not UTF-8.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data.corpus import Corpus, Document
from data.reading import files_below, local, read_text
from data.splits import split_by_name

LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__", "ensurepip")
)


class Source(Corpus):
    """The modules by split, chosen by the hash of their path (90, 5 and 5 %), so that it is the same everywhere.

    `folder` is where to read modules from; null is the running Python's library.
    Raises ValueError, once it is read, if there is no source in it.
    """

    def __init__(self, folder: str | None = None):
        self._root = local(folder or sysconfig.get_paths()["stdlib"], "data.folder")

    def files(self) -> dict[str, Path]:
        if not self._root.is_dir():
            raise ValueError(f"data.folder={self._root} is no folder")
        modules = {
            name: file
            for name, file in files_below(self._root, LEFT_OUT).items()
            if name.endswith(".py") and file.is_file()
        }
        if not modules:
            raise ValueError(f"{self._root} holds no Python source: choose another corpus")
        return modules

    def documents(self, split: str) -> Iterator[Document]:
        for name, file in self.files().items():
            if split_by_name(name) == split:
                try:
                    text = read_text(file)
                except ValueError:  # a few modules are, on purpose, not UTF-8
                    continue
                if text.strip():
                    yield Document(name, text)
