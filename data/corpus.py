"""The corpus: named documents in three splits. One source, one file in `data/sources/`; the folder is the registry.

A source is a class named `Source` in `data/sources/<name>.py`, derived from `Corpus`; its constructor's arguments are
the keys of the yaml file that chooses it (`source: <name>`). Those derived from `data.task.Task` instead are generated
on the spot.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from conf.schema import member, modules
from conf.signature import check_types, parameters, whole
from conf.typed import digest
from data.reading import content_hash, utf8

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Document:
    """A text that is read as a whole: windows do not cross its ends unless asked to."""

    name: str
    text: str


class Corpus:
    """What a source gives: documents by split, and a fingerprint that changes with them.

    Made without reading anything. `settings`: those that its documents depend on beside its files.
    """

    settings: Mapping[str, object] = MappingProxyType({})

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of one of SPLITS, always in the same order, their texts `normalised`."""
        raise NotImplementedError

    def files(self) -> dict[str, Path]:
        """The local files that it reads, by name; none where it reads something else."""
        return {}

    def remarks(self) -> list[str]:
        """What the user should know of what was left out, a sentence each; complete once all documents are read."""
        return []

    def fingerprint(self) -> str:
        """A hash that names the prepared tokens in the cache: of its settings and its files; of every document's name
        and text where it names neither."""
        if (files := self.files()) or self.settings:
            parts = [type(self).__module__, dict(self.settings), content_hash(files)]
        else:
            parts = [
                [split, document.name, hashlib.sha256(utf8(document.text, document.name)).hexdigest()]
                for split in SPLITS
                for document in self.documents(split)
            ]
        return digest(parts)


def source_class(source: str) -> type:
    """The class of a named source, a module of data/sources. Raises ValueError for an unknown one."""
    if source not in (known := modules("data/sources")):
        raise ValueError(f"data.source={source!r} is unknown; the sources are {', '.join(known)}")
    return member("data/sources", source, "Source")


def build_corpus(source: str, settings: Mapping[str, object]) -> Corpus:
    """The corpus (or task) of a named source. Raises ValueError for an unknown source or an unknown setting."""
    return construct(source_class(source), settings, "data", f"data.source={source}")


def construct(cls: type, settings: Mapping[str, object], group: str, what: str) -> object:
    """`cls(**settings)`, whole numbers as such; a ValueError naming the keys that `cls` does not take, or lacks, or the
    value that is of the wrong kind, as group.key."""
    known = parameters(cls)
    required = [key for key, parameter in known.items() if parameter.default is parameter.empty]
    for problem, keys in {
        "there is no such setting": sorted(settings.keys() - known.keys()),
        "needs a value": sorted(key for key in required if settings.get(key, "???") in (None, "???")),
    }.items():
        if keys:
            named = ", ".join(f"{group}.{key}" for key in keys)
            raise ValueError(f"{named}: {problem}; the settings of {what} are {', '.join(sorted(known)) or 'none'}")
    settings = whole(cls, settings)
    check_types(cls, settings, group)
    return cls(**settings)
