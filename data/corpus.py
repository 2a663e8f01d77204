"""The corpus: named documents in three splits. One source, one file in `data/sources/`; the folder is the registry.

A source is a class named `Source` in `data/sources/<name>.py`, derived from `Corpus`; its constructor's arguments are
the keys of the yaml file that chooses it (`source: <name>`). Those derived from `data.task.Task` instead are generated
on the spot.
"""

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conf.schema import modules
from conf.signature import check_types, parameters

SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}  # where a source has no split of its own


@dataclass(frozen=True)
class Document:
    """A text that is read as a whole: windows do not cross its ends unless asked to."""

    name: str
    text: str


class Corpus:
    """What a source gives: documents by split, and a fingerprint that changes with them."""

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of one of SPLITS, always in the same order."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """A hash that names the prepared tokens in the cache; by default, of every document's name and text.

        A source that is costly to read overrides it with a hash of what it would read.
        """
        digest = hashlib.sha256()
        for split in SPLITS:
            for document in self.documents(split):
                for part in (split, document.name, document.text):
                    digest.update(hashlib.sha256(utf8(part, document.name)).digest())
        return digest.hexdigest()


def source_class(source: str) -> type:
    """The class of a named source, a module of data/sources. Raises ValueError for an unknown one."""
    if source not in (known := modules("data/sources")):
        raise ValueError(f"data.source={source!r} is unknown; the sources are {', '.join(known)}")
    return importlib.import_module(f"data.sources.{source}").Source


def build_corpus(source: str, settings: Mapping[str, object]) -> Corpus:
    """The corpus (or task) of a named source. Raises ValueError for an unknown source or an unknown setting."""
    return construct(source_class(source), settings, "data", f"data.source={source}")


def construct(cls: type, settings: Mapping[str, object], group: str, what: str) -> object:
    """`cls(**settings)`; a ValueError naming the keys that `cls` does not take, or lacks, or the value that is of the
    wrong kind, as group.key."""
    known = parameters(cls)
    unknown = sorted(set(settings) - set(known))
    required = [key for key, parameter in known.items() if parameter.default is parameter.empty]
    missing = sorted(key for key in required if settings.get(key, "???") in (None, "???"))
    if unknown or missing:
        problem = f"does not take {unknown}" if unknown else f"needs a value for {missing}"
        raise ValueError(f"{what} {problem}; its settings are {sorted(known)}")
    check_types(cls, settings, group)
    return cls(**settings)


def utf8(text: str, name: str) -> bytes:
    """The text's UTF-8 bytes. Raises ValueError naming the document where there are none (a lone surrogate)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: the text holds a lone surrogate ({error}); repair its encoding") from error


def read_text(path: Path) -> str:
    r"""A file's text: UTF-8, a byte order mark dropped, "\r\n" and "\r" turned into "\n"; nothing else is changed.

    Raises ValueError naming the file if it is binary (holds a NUL byte), not UTF-8, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise ValueError(f"{path} is a binary file (it holds a NUL byte), not text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 at byte {error.start} ({content[error.start : error.start + 4]!r}): convert it first"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_by_content(documents: list[Document]) -> dict[str, list[Document]]:
    """Give every document a split by the hash of its text: 90 % train, 5 % validation, 5 % test, none of them empty.

    Documents are ranked by hash, so neither their order nor their names matter, and equal documents share a split:
    a text read in training is never held out. With fewer than 3 different documents, each is cut instead into
    contiguous parts of 90, 5 and 5 % (at a line's end where one is near).
    """
    hashes = [hashlib.sha256(utf8(document.text, document.name)).hexdigest() for document in documents]
    ranked = sorted(set(hashes))
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    if len(ranked) < 3:
        for document in documents:
            for split, part in _contiguous_parts(document.text).items():
                splits[split].append(Document(f"{document.name} [{split} part]", part))
        return splits
    held_out = {split: max(1, round(SHARES[split] * len(ranked))) for split in ("validation", "test")}
    assigned = dict.fromkeys(ranked, "train")
    assigned |= dict.fromkeys(ranked[: held_out["validation"]], "validation")
    assigned |= dict.fromkeys(ranked[-held_out["test"] :], "test")
    for document, digest in zip(documents, hashes, strict=True):
        splits[assigned[digest]].append(document)
    return splits


def split_by_name(name: str) -> str:
    """The split that a document's name falls into by hash, in the proportions of SHARES."""
    point = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    if point < SHARES["train"]:
        return "train"
    return "validation" if point < SHARES["train"] + SHARES["validation"] else "test"


def _contiguous_parts(text: str) -> dict[str, str]:
    cuts = [0]
    for split in SPLITS[:-1]:
        cut = cuts[-1] + int(SHARES[split] * len(text))
        cuts.append(text.find("\n", cut, cut + 1000) + 1 or cut)  # a line that ends within 1,000 characters
    cuts.append(len(text))
    return {split: text[cuts[i] : cuts[i + 1]] for i, split in enumerate(SPLITS)}
