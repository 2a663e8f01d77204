"""Splits for corpora that have none of their own: 90 % of the text to train on, 5 % each for validation and test."""

import hashlib
from collections import Counter

from data.corpus import SPLITS, Document
from data.reading import utf8

SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}


def split_by_content(documents: list[Document]) -> dict[str, list[Document]]:
    """Give every document a split by the hash of its text, so that validation and test hold 5 % of all bytes each.

    Documents are ranked by hash, so neither their order nor their names matter, and equal documents share a split:
    a text read in training is never held out. The first of the ranking that come nearest to 5 % are the validation's,
    the last the test's. Where whole documents leave one of them below 2.5 % or above 10 % (a book beside a README),
    those of more than 5 % are cut into contiguous parts instead, 90, 5 and 5 % of each, and all others are read in
    training; the held-out splits then hold at least 4 %.
    """
    hashes = [hashlib.sha256(utf8(document.text, document.name)).hexdigest() for document in documents]
    sizes = Counter()
    for document, digest in zip(documents, hashes, strict=True):
        sizes[digest] += len(document.text.encode())
    share, ranked = SHARES["test"] * sizes.total(), sorted(sizes)
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    validation = _about(share, ranked, sizes)
    test = _about(share, [digest for digest in reversed(ranked) if digest not in validation], sizes)
    assigned = dict.fromkeys(validation, "validation") | dict.fromkeys(test, "test")
    for document, digest in zip(documents, hashes, strict=True):
        if (validation and test) or sizes[digest] <= share:
            splits[assigned.get(digest, "train") if validation and test else "train"].append(document)
        else:
            for split, part in _contiguous_parts(document.text).items():
                splits[split].append(Document(f"{document.name} [{split} part]", part))
    return splits


def _about(share: float, ranked: list[str], sizes: Counter) -> set[str]:
    """The first texts, by hash, that come nearest to a share of bytes; none where they stay below half of it. One that
    would carry them beyond twice the share is passed over."""
    chosen, held = set(), 0
    for digest in ranked:
        size = sizes[digest]
        if held + size > 2 * share:
            continue
        if held >= share / 2 and held + size - share > share - held:
            break
        chosen.add(digest)
        held += size
    return chosen if held >= share / 2 else set()


def _contiguous_parts(text: str) -> dict[str, str]:
    """A text cut into parts of 90, 5 and 5 % of its characters, each at a line's end where one is near."""
    near, cuts = min(1000, len(text) // 80), [0]
    for split in SPLITS[:-1]:
        cut = cuts[-1] + round(SHARES[split] * len(text))
        cuts.append(text.find("\n", cut, cut + near) + 1 or cut)
    cuts.append(len(text))
    return {split: text[cuts[i] : cuts[i + 1]] for i, split in enumerate(SPLITS)}


def split_by_name(name: str) -> str:
    """The split that a document's name falls into by hash, in the proportions of SHARES."""
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if point < SHARES["train"]:
        return "train"
    return "validation" if point < SHARES["train"] + SHARES["validation"] else "test"
