"""A data set of the Hugging Face hub, through `datasets`. No code from the hub is ever run: its scripts are refused.

The prepared tokens are cached under the settings, not the content, so that a prepared data set opens without a
network; pin `revision` to be sure of the content. The content's hash is recorded in the results all the same. A folder
on this machine may stand in for the hub: its content counts.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from conf.mistakes import one_sentence
from data.corpus import SPLITS, Corpus, Document
from data.reading import files_below, local, normalised

ARTICLE = re.compile(r" = (?!=).*[^= ] = \n?")  # a row like " = Title = "; sections have more equals signs


class Source(Corpus):
    """The rows of a hub data set as documents.

    - `path`: the data set's name on the hub, such as "Salesforce/wikitext", or a folder; `config` and `revision` narrow
      it down.
    - `splits`: where train, validation and test come from, such as {test: "validation[50%:]"}.
    - `column`: which column holds the text.
    - `join_articles`: rows are lines, as in WikiText: a row " = Title = " opens a document.
    - `streaming`: read rows from the network as they are needed (no slices in `splits` then), instead of
      downloading the data set first; for a large one with a cap on documents or tokens.

    Raises ValueError if the hub does not answer, or there is no such data set, config, split or column.
    """

    def __init__(
        self,
        path: str,
        config: str | None = None,
        revision: str | None = None,
        splits: Mapping[str, str] | None = None,
        column: str = "text",
        join_articles: bool = False,
        streaming: bool = False,
    ):
        splits = splits or {split: split for split in SPLITS}
        if sorted(splits) != sorted(SPLITS):
            raise ValueError(f"data.splits={dict(splits)} must name a split of {path} for each of {list(SPLITS)}")
        self._local = folder if (folder := local(path, "data.path")).exists() else None
        place = str(self._local.resolve()) if self._local else ""
        if self._local and (self._local.is_file() or set("[]?*") & set(place) or "::" in place):
            raise ValueError(
                f"data.path={path} lies on this machine, and `datasets` would take it for a pattern or a script: give "
                "a folder whose path is free of [ ] ? * and ::, or use data=text, which reads files by their own names"
            )
        self.settings = {
            "path": path,
            "config": config,
            "revision": revision,
            "splits": dict(splits),
            "column": column,
            "join_articles": join_articles,
            "streaming": streaming,
        }

    def files(self) -> dict[str, Path]:
        """Those of a folder on this machine, which `datasets` reads as a data set of the hub."""
        return {name: file for name, file in files_below(self._local).items() if file.is_file()} if self._local else {}

    def documents(self, split: str) -> Iterator[Document]:
        rows = self._rows(split)
        return join_articles(rows) if self.settings["join_articles"] else rows

    def _rows(self, split: str) -> Iterator[Document]:
        from datasets import load_dataset

        settings, column = self.settings, self.settings["column"]
        try:
            rows = load_dataset(
                str(self._local or settings["path"]),
                settings["config"],
                split=settings["splits"][split],
                revision=settings["revision"],
                streaming=settings["streaming"],
            )
            for number, row in enumerate(rows):
                if not isinstance(row.get(column), str):
                    raise ValueError(f"row {number} has no text in column {column!r} (its columns: {', '.join(row)})")
                yield Document(f"{settings['splits'][split]}:{number}", normalised(row[column], f"row {number}"))
        except Exception as error:  # ConnectionError, DatasetNotFoundError, ValueError, ... by what failed
            remedy = (
                "data=text reads local files itself"
                if self._local
                else "Without a network set HF_HUB_OFFLINE=1 to use what is downloaded already, or choose "
                "data=shakespeare or data=text"
            )
            raise ValueError(
                f"the hub's data set {settings['path']} (config {settings['config']}, split "
                f"{settings['splits'][split]}) cannot be read: {type(error).__name__}: {one_sentence(error)}. {remedy}"
            ) from error


def join_articles(rows: Iterator[Document]) -> Iterator[Document]:
    """Join WikiText's rows, a line each, to a document an article, named by its title."""
    name, lines = None, []
    for row in rows:
        if ARTICLE.fullmatch(row.text):
            if lines:
                yield Document(name, "".join(lines))
            name, lines = row.text.strip(" =\n"), []
        name = name or row.name
        lines.append(row.text if row.text.endswith("\n") else row.text + "\n")
    if lines:
        yield Document(name, "".join(lines))
