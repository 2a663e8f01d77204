"""Splits for corpora that have none of their own: 90 % of the text to train on, 5 % each for validation and test."""

import hashlib
import logging
from collections import Counter
from fractions import Fraction

from data.corpus import SPLITS, Document
from data.reading import utf8

log = logging.getLogger(__name__)

SHARES = {"train": Fraction(90, 100), "validation": Fraction(5, 100), "test": Fraction(5, 100)}


def split_by_content(documents: list[Document]) -> dict[str, list[Document]]:
    """Give every document a split by the hash of its text, validation and test about 5 % of all bytes each.

    Documents are ranked by hash, so neither their order nor their names matter, and equal documents share a split:
    a text read in training is never held out. The first of the ranking that come nearest to 5 % are the validation's,
    the last the test's; where documents are few they may hold up to 20 % each, with a warning. Where whole documents
    can't come to 2.5 to 20 % (a book beside a README), those of more than 5 % are cut into contiguous parts instead,
    90, 5 and 5 % of each, and all others are read in training; the held-out splits then hold at least 4 %.
    """
    hashes = [hashlib.sha256(utf8(document.text, document.name)).hexdigest() for document in documents]
    sizes = Counter()
    for document, digest in zip(documents, hashes, strict=True):
        sizes[digest] += len(document.text.encode())
    held_out = _held_out(sizes)
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document, digest in zip(documents, hashes, strict=True):
        if held_out or sizes[digest] <= SHARES["test"] * sizes.total():
            splits[held_out.get(digest, "train")].append(document)
        else:
            for split, part in _contiguous_parts(document.text).items():
                splits[split].append(Document(f"{document.name} [{split} part]", part))
    return splits


def _held_out(sizes: Counter) -> dict[str, str]:
    """The splits of the texts that are held out whole, by hash; none where they can't come near their shares."""
    ranked, share = sorted(sizes), SHARES["test"] * sizes.total()
    for most in (2 * share, 4 * share):
        validation = _about(share, most, ranked, sizes)
        test = _about(share, most, [digest for digest in reversed(ranked) if digest not in validation], sizes)
        if validation and test:
            if most > 2 * share:
                log.warning(
                    "the documents are few and large: validation and test hold %.3g and %.3g %% of the text instead of "
                    "5 each; give more documents, or held-out text of your own (data.validation_path, data.test_path)",
                    *(100 * sum(sizes[digest] for digest in part) / sizes.total() for part in (validation, test)),
                )
            return dict.fromkeys(validation, "validation") | dict.fromkeys(test, "test")
    return {}


def _about(share: Fraction, most: Fraction, ranked: list[str], sizes: Counter) -> set[str]:
    """The first texts, by hash, that come nearest to a share of bytes; none where they stay below half of it. One that
    would carry them beyond `most` is passed over."""
    chosen, held = set(), 0
    for digest in ranked:
        size = sizes[digest]
        if held + size > most:
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
