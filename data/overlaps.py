"""Documents that several splits hold: a text that is trained on says nothing of unseen text when it is scored."""

import hashlib
from collections import Counter
from collections.abc import Iterator

from data.corpus import SPLITS, Document

TRAIN, *HELD_OUT = SPLITS
PIECE = 1 << 20  # characters


class Overlaps:
    """What splits have in common, by the hashes of their documents' texts, blanks aside. Held-out splits are watched
    first: of the training split no more is kept than what they hold too."""

    def __init__(self):
        self.sizes = {split: Counter() for split in SPLITS}  # characters by hash
        self.totals = Counter()

    def watched(self, split: str, documents: Iterator[Document]) -> Iterator[Document]:
        """The documents of a split, noted as they pass."""
        for document in documents:
            digest, size = _text(document.text)
            self.totals[split] += size
            if size and (split != TRAIN or any(digest in self.sizes[other] for other in HELD_OUT)):
                self.sizes[split][digest] += size
            yield document

    def remarks(self) -> list[str]:
        """A sentence for each two splits that share documents. Raises ValueError where one of them holds the other."""
        found = []
        for one, other in (("validation", TRAIN), ("test", TRAIN), ("test", "validation")):
            common = self.sizes[one].keys() & self.sizes[other].keys()
            shares = [
                sum(self.sizes[split][digest] for digest in common) / self.totals[split] for split in (one, other)
            ]
            if 1 in shares:
                inner, outer = (one, other) if shares[0] == 1 else (other, one)
                raise ValueError(
                    f"data: all documents of the {inner} split are in the {outer} split too, so that what is held out "
                    "is no unseen text: give the splits documents of their own (data.validation_path and "
                    "data.test_path, or data.splits), or leave them out, where data=text makes its own"
                )
            if common:
                found.append(
                    f"{100 * shares[0]:.2g} % of the {one} split's text is in the {other} split too ({len(common)} "
                    f"document{'s' * (len(common) > 1)}, blanks aside): take them out of one of the two"
                )
        return found


def _text(text: str) -> tuple[bytes, int]:
    """The hash of a text without its blanks, and its length."""
    found, size = hashlib.blake2b(digest_size=16), 0
    for start in range(0, len(text), PIECE):
        piece = "".join(text[start : start + PIECE].split())
        found.update(piece.encode())
        size += len(piece)
    return found.digest(), size
