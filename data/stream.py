"""The token stream: one split's documents as memory-mapped integers, beside the number of bytes of every token.

A stream lies in its cache folder as flat little-endian files:

    <split>.tokens    uint16, or uint32 where the vocabulary exceeds 65,536; (T,)
    <split>.bytes     uint16; UTF-8 bytes of each token, summing exactly to the document's; (T,)
    <split>.offsets   int64; document d is tokens[offsets[d] : offsets[d + 1]]; (D + 1,)
    <split>.names     UTF-8, a document's name a line

Every document opens with the separator token: it is the context of the document's first real token, counts zero
bytes, and is never a target of a window that stays within its document.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.corpus import Document
from data.tokenizer import TextTokenizer

BATCH_CHARACTERS = 4_000_000  # text encoded at once: bounds memory, and keeps the tokenizer's threads busy
CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class TokenStream:
    """One split of a tokenized corpus; the arrays are as in the module's docstring.

    `bytes_per_token` is the mean over all tokens but the separators.
    """

    tokens: np.ndarray
    token_bytes: np.ndarray
    offsets: np.ndarray
    names: tuple[str, ...]
    separator: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    @property
    def bytes_per_token(self) -> float:
        return float(self.token_bytes.sum(dtype=np.int64)) / max(1, len(self) - self.num_documents)

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document, separator first."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def open_stream(folder: Path, split: str, meta: dict) -> TokenStream:
    """Map a split's files, holding each against the size and CRC-32 recorded in `meta["files"]`.

    Raises ValueError naming the first file that is missing, cut short or changed.
    """
    paths = {part: folder / f"{split}.{part}" for part in ("tokens", "bytes", "offsets", "names")}
    for path in paths.values():
        recorded = meta["files"][path.name]
        if not path.is_file() or path.stat().st_size != recorded["size"] or crc32(path) != recorded["crc32"]:
            raise ValueError(f"{path} is missing or differs from what was written ({recorded['size']} bytes)")
    return TokenStream(
        tokens=np.memmap(paths["tokens"], dtype=token_dtype(meta["vocab_size"]), mode="r"),
        token_bytes=np.memmap(paths["bytes"], dtype="<u2", mode="r"),
        offsets=np.fromfile(paths["offsets"], dtype="<i8"),
        names=tuple(paths["names"].read_text(encoding="utf-8").split("\n")),
        separator=meta["separator"],
    )


def write_stream(
    folder: Path, split: str, documents: Iterable[Document], tokenizer: TextTokenizer, max_tokens: int | None = None
) -> dict:
    """Tokenize `documents` into a split's files in `folder`, in bounded memory.

    Empty documents are left out and counted; at `max_tokens` (separators included) the document being written is cut.
    Returns {"documents", "tokens", "bytes", "empty", "sha256"}, the hash taken over the documents' text.
    Raises ValueError if no document remains, or none holds a token to predict.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    content, offsets, names, num_bytes, empty = hashlib.sha256(), [0], [], 0, 0
    with (folder / f"{split}.tokens").open("wb") as token_file, (folder / f"{split}.bytes").open("wb") as bytes_file:
        for batch in _batches(documents):
            full = [document for document in batch if document.text.strip()]
            empty += len(batch) - len(full)
            for document, (ids, sizes) in zip(full, tokenizer.encode(full), strict=True):
                if max_tokens is not None:
                    left = max_tokens - offsets[-1]
                    ids, sizes = ids[:left], sizes[:left]
                token_file.write(ids.astype(dtype).tobytes())
                bytes_file.write(sizes.astype("<u2").tobytes())
                content.update(document.text.encode() + b"\0")
                offsets.append(offsets[-1] + len(ids))
                names.append(" ".join(document.name.split()))
                num_bytes += int(sizes.sum())
                if offsets[-1] == max_tokens:
                    break
            if offsets[-1] == max_tokens:
                break
    if not names:
        raise ValueError(f"the {split} split holds no text ({empty} empty documents): give it at least one document")
    if np.diff(offsets).max() <= 2:
        raise ValueError(
            f"every document of the {split} split is a single token long ({len(names)} documents): "
            "there is nothing to predict; join the rows into longer documents"
        )
    np.array(offsets, dtype="<i8").tofile(folder / f"{split}.offsets")
    (folder / f"{split}.names").write_bytes("\n".join(names).encode())
    return {
        "documents": len(names),
        "tokens": offsets[-1],
        "bytes": num_bytes,
        "empty": empty,
        "sha256": content.hexdigest(),
    }


def token_dtype(vocab_size: int) -> str:
    """The smallest of the two stored integer types that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def crc32(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return value


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
