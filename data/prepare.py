"""Prepare a corpus once: tokenizer and token streams in a cache folder that is whole, checked, or rebuilt.

The folder's name is a hash of the corpus, the tokenizer's settings and FORMAT, so a changed setting never meets stale
tokens. It is written beside its place and renamed into it: there is never half a folder. `meta.json` records every
file's size and CRC-32, which are held against the files each time they are opened. Nothing is ever unpickled.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from conf.progress import Progress, speak
from conf.typed import digest
from data.corpus import SPLITS, Corpus, Document
from data.overlaps import HELD_OUT, TRAIN, Overlaps
from data.recipe import Recipe
from data.stream import TokenStream, crc32, open_stream, write_stream
from data.tokenizer import TextTokenizer

log = logging.getLogger(__name__)

FORMAT = 3  # raised whenever the same settings would give other files
LOCK_SECONDS = 1800


@dataclass(frozen=True)
class Prepared:
    """A corpus ready to read: its tokenizer, a stream for each split, and what `meta.json` says of them."""

    tokenizer: TextTokenizer
    streams: dict[str, TokenStream]
    meta: dict


def prepare(
    corpus: Corpus,
    recipe: Recipe,
    cache_dir: str | Path,
    max_documents: int | None = None,
    max_tokens: int | None = None,
) -> Prepared:
    """Open the prepared corpus, building it first where it is missing, or (with a warning) damaged. What was left out
    of it is said each time.

    `max_documents` and `max_tokens` cap each split. Of several processes that start at once, one builds and the
    others wait. Raises ValueError if the cache folder cannot be written, or the corpus cannot be used.
    """
    prepared = _opened_or_built(corpus, recipe, cache_dir, max_documents, max_tokens)
    for remark in prepared.meta["remarks"]:
        log.warning(remark)
    return prepared


def _opened_or_built(
    corpus: Corpus, recipe: Recipe, cache_dir: str | Path, max_documents: int | None, max_tokens: int | None
) -> Prepared:
    parts = (FORMAT, corpus.fingerprint(), recipe.fingerprint(), max_documents, max_tokens)
    key = digest(parts)[:20]
    folder = Path(cache_dir).expanduser() / key
    if (prepared := _open_if_whole(folder)) is not None:
        return prepared
    with _errors_naming(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _errors_naming(folder.parent):
            lock = _acquired(FileLock(folder.with_suffix(".lock")))
    except Timeout as error:
        raise ValueError(
            f"another process has been preparing {folder} for {LOCK_SECONDS} s: wait for it, or set cache_dir "
            "to another folder"
        ) from error
    with lock:
        if (prepared := _open_if_whole(folder)) is not None:
            return prepared
        _discard(folder)
        speak(f"preparing the corpus, once: it then lies in {folder}")
        with Progress("the corpus:") as progress:
            _build(folder, corpus, recipe, max_documents, max_tokens, progress)
        return _open(folder)


def _acquired(lock: FileLock) -> FileLock:
    """Raises Timeout where another process holds it for LOCK_SECONDS."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        speak("another process is preparing the corpus: waiting for it")
        return lock.acquire(timeout=LOCK_SECONDS)


def _build(
    folder: Path,
    corpus: Corpus,
    recipe: Recipe,
    max_documents: int | None,
    max_tokens: int | None,
    progress: Progress,
) -> None:
    def documents(split: str, doing: str) -> Iterator[Document]:
        progress.step(f"{doing} {split}")
        size = 0
        for number, document in enumerate(islice(corpus.documents(split), max_documents), start=1):
            yield document
            size += len(document.text)
            progress.share(0, f"{number:,} documents, {size / 1e6:,.1f} million characters")

    tokenizer = recipe.build(documents("train", "making a tokenizer of"))
    with (
        _errors_naming(folder.parent),
        tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as name,
    ):
        temporary = Path(name) / folder.name
        temporary.mkdir()
        tokenizer.save(temporary / "tokenizer.json")
        splits, overlaps = {}, Overlaps()
        for split in (*HELD_OUT, TRAIN):
            passing = overlaps.watched(split, documents(split, "tokenizing"))
            splits[split] = write_stream(temporary, split, passing, tokenizer, max_tokens)
        empty = [
            f"{split}: {splits[split]['empty']} empty documents left out" for split in SPLITS if splits[split]["empty"]
        ]
        meta = {
            "format": FORMAT,
            "remarks": [*corpus.remarks(), *empty, *overlaps.remarks()],
            "vocab_size": tokenizer.vocab_size,
            "separator": tokenizer.separator,
            "separator_token": tokenizer.separator_token,
            "splits": {split: splits[split] for split in SPLITS},
            "corpus_hash": hashlib.sha256("".join(splits[s]["sha256"] for s in SPLITS).encode()).hexdigest(),
            "tokenizer_hash": tokenizer.hash,
            "files": {
                path.name: {"size": path.stat().st_size, "crc32": crc32(path)} for path in sorted(temporary.iterdir())
            },
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        temporary.rename(folder)


def _open(folder: Path) -> Prepared:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    tokenizer = TextTokenizer.load(folder / "tokenizer.json", meta["separator_token"])
    if (tokenizer.hash, tokenizer.separator) != (meta["tokenizer_hash"], meta["separator"]):
        raise ValueError(f"{folder / 'tokenizer.json'} is not the tokenizer that wrote the tokens beside it")
    return Prepared(tokenizer, {split: open_stream(folder, split, meta) for split in SPLITS}, meta)


def _open_if_whole(folder: Path) -> Prepared | None:
    if not folder.exists():
        return None
    try:
        return _open(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the prepared corpus in %s is damaged and is built again: %s", folder, error)
        return None


def _discard(folder: Path) -> None:
    """Remove what is left of the folder, and of builds of it that were killed (we hold its lock)."""
    with _errors_naming(folder.parent):
        for left in folder.parent.glob(f"{folder.name}*"):
            if left.is_dir():
                shutil.rmtree(left)


@contextmanager
def _errors_naming(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise ValueError(
            f"the cache folder {folder} cannot be written ({error.strerror or error}): make room or give rights there, "
            "or set cache_dir or TRAINSHORT_CACHE to another folder"
        ) from error
