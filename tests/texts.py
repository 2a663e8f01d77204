"""Texts of a few kilobytes, and streams of made-up documents: to test with how data is read."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.module import TextDataModule
from data.stream import TokenStream

BPE = {"name": "bpe", "vocab_size": 300}
BYTE = {"name": "byte"}
VERSES = [
    "The sun rose — late, and the naïve crow\nsang 'Ōm' to ħ.\n\n",
    "def f(x):\n    return x + 1  # 🦜\n",
    "1 2 3, 1 2 3.\n",
]


def write_texts(folder: Path) -> Path:
    """40 texts, each of its own words."""
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(f"text {i}\n" + VERSES[i % 3] * (5 + i), encoding="utf-8")
    return folder


def prepared(data, tokenizer, **more) -> TextDataModule:
    return TextDataModule(data, tokenizer, **more).prepare()


def data_of(path, **more):
    return {"name": "text", "source": "text", "path": str(path), **more}


def three_splits(folder: Path, texts: Sequence[str]) -> dict[str, object]:
    """`data_of` a file of rows for each split: these texts, in letters of its own."""
    paths = {}
    for number, key in enumerate(("path", "validation_path", "test_path")):
        file = paths[key] = folder / f"{key}.jsonl"
        own = ["".join(chr(ord(letter) + 8 * number) for letter in text) for text in texts]
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in own))
    return data_of(**{key: str(file) for key, file in paths.items()})


def make_stream(lengths) -> TokenStream:
    """Documents of the given lengths; each token is its own position, so that windows can be read off."""
    total = int(sum(lengths))
    return TokenStream(
        tokens=np.arange(total, dtype=np.uint16),
        token_bytes=np.ones(total, dtype=np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        names=tuple(f"d{i}" for i in range(len(lengths))),
        separator=0,
    )
