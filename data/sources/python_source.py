"""The source code of the running Python's standard library (PSF licence); a document a module, about 11 MB.

The content depends on the Python version (and on what the distributor leaves out), so results on it are compared
between runs of one installation only. Tests, bundled packages, generated tables of IDLE's and empty files are left
out, as are files that are not UTF-8.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data.corpus import Corpus, Document, read_text, split_by_name

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "__pycache__", "ensurepip"}


class Source(Corpus):
    """The modules by split, chosen by the hash of their path (90, 5 and 5 %), so that it is the same everywhere.

    `folder` is where to read modules from; null is the running Python's library.
    Raises ValueError if there is no source in it.
    """

    def __init__(self, folder: str | None = None):
        root = Path(folder or sysconfig.get_paths()["stdlib"])
        self._splits: dict[str, list[Document]] = {}
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root)
            if LEFT_OUT.isdisjoint(name.parts):
                try:
                    text = read_text(path)
                except ValueError:  # a few modules are, on purpose, not UTF-8
                    continue
                if text.strip():
                    self._splits.setdefault(split_by_name(name.as_posix()), []).append(Document(name.as_posix(), text))
        if not self._splits:
            raise ValueError(f"{root} holds no Python source: choose another corpus")

    def documents(self, split: str) -> Iterator[Document]:
        yield from self._splits.get(split, [])
