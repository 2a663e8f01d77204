"""What a run reads from disk, as one hash: with the settings, it names the run. Light to import, and quick."""

import hashlib
from collections.abc import Mapping

from conf.schema import CorpusSettings, corpus_of
from data.corpus import build_corpus
from data.recipe import build_recipe

UNREADABLE = "unreadable"


def input_hash(data: Mapping[str, object], tokenizer: Mapping[str, object]) -> str:
    """SHA-256 of the names and contents of the local files that a run with these settings reads, hexadecimal.

    data, tokenizer: the keys of a file of conf/data and of conf/tokenizer, resolved. Empty where the settings say all:
    for a task, and for what lies on the hub. UNREADABLE for what can't be read: building the data says why.
    """
    if (corpus := corpus_of(data)) is None:
        return ""
    try:
        of_source = {key: value for key, value in corpus.items() if key not in CorpusSettings.__dataclass_fields__}
        readers = build_corpus(corpus.get("source"), of_source), build_recipe(tokenizer)
        parts = [reader.fingerprint() if reader.files() else "" for reader in readers]
    except (ValueError, OSError):
        return UNREADABLE
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if any(parts) else ""
