"""How a tokenizer is made, by the settings of `conf/tokenizer`: of the corpus' training split, or read from a file.

A recipe is light: `tokenizers` is imported once it is carried out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus import Document, construct
from data.reading import content_hash, local, utf8

if TYPE_CHECKING:
    from data.tokenizer import TextTokenizer

SEPARATOR = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
LARGEST = 1_000_000  # tokens of a vocabulary: BPE takes room for so many at once

# What BPE never merges across: words, contractions, line feeds, punctuation, numbers, blanks; a space goes with what it
# precedes. Every repetition is bounded, so one endless line or word costs time and memory in proportion to its length.
WORDS = (
    r" ?\p{L}{1,32}|'\p{L}{1,2}(?!\p{L})|\n{1,32}| ?[^\s\p{L}\p{N}]{1,32}| ?\p{N}{1,32}"
    r"|[^\S\n]{1,32}(?!\S)|[^\S\n]{1,32}"
)


class Recipe:
    """How one kind of tokenizer is made; its fields are the settings of the kind.

    separator: the token that opens a document (see `TextTokenizer`).
    """

    separator = SEPARATOR

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        """The tokenizer, made of the training split where it learns anything. Raises ValueError for wrong settings."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """What names the tokenizer in the cache, beside the corpus; it changes with the `files`."""
        raise NotImplementedError

    def files(self) -> dict[str, Path]:
        """The local files that it reads, by name."""
        return {}


@dataclass(frozen=True)
class Bpe(Recipe):
    """Byte-level BPE with `vocab_size` tokens, trained on the first `train_megabytes` of the training split."""

    vocab_size: int
    train_megabytes: float = 100

    def __post_init__(self):
        if not 257 <= self.vocab_size <= LARGEST:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size}: must lie in 257 .. {LARGEST:,}: 256 bytes, the "
                "separator, and merges"
            )
        if self.train_megabytes <= 0:
            raise ValueError(f"tokenizer.train_megabytes={self.train_megabytes}: must be positive")

    def fingerprint(self) -> str:
        return f"bpe {WORDS} {self.vocab_size} {self.train_megabytes}"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

        from data.tokenizer import TextTokenizer

        tokenizer = Tokenizer(models.BPE())
        words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[SEPARATOR],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_first_megabytes(train, self.train_megabytes), trainer)
        return TextTokenizer(tokenizer, SEPARATOR)


@dataclass(frozen=True)
class Byte(Recipe):
    """The 256 bytes, id = byte, and the separator (256); learns nothing."""

    def fingerprint(self) -> str:
        return "byte"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

        from data.tokenizer import TextTokenizer, byte_characters

        vocab = {character: byte for byte, character in enumerate(byte_characters())}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        words = pre_tokenizers.Split(Regex(r"[\s\S]{1,64}"), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(SEPARATOR, special=True, normalized=False)])
        return TextTokenizer(tokenizer, SEPARATOR)


@dataclass(frozen=True)
class Char(Recipe):
    """The characters of the training split, in code point order; any other one becomes the unknown token.

    An unknown token keeps its character's bytes, so bits a byte flatter a model where unknowns are frequent.
    """

    def fingerprint(self) -> str:
        return "char"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

        from data.tokenizer import TextTokenizer

        characters = sorted(set().union(*(set(document.text) for document in train)))
        vocab = {token: i for i, token in enumerate([SEPARATOR, UNKNOWN, *characters])}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        return TextTokenizer(tokenizer, SEPARATOR)


@dataclass(frozen=True)
class Pretrained(Recipe):
    """A tokenizer.json at `path`, or the tokenizer of a hub repository of that name at `revision`."""

    path: str
    revision: str = "main"
    separator: str = SEPARATOR

    def __post_init__(self):
        local(self.path, "tokenizer.path")

    def files(self) -> dict[str, Path]:
        return {"tokenizer.json": file} if (file := local(self.path, "tokenizer.path")).is_file() else {}

    def fingerprint(self) -> str:
        content = content_hash(files) if (files := self.files()) else f"{self.path}@{self.revision}"
        return f"pretrained {content} {self.separator}"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        """Raises ValueError if there is neither such a file nor, reachable, such a repository."""
        from data.tokenizer import TextTokenizer

        for file in self.files().values():
            return TextTokenizer.load(file, self.separator)
        if Path(self.path).suffix == ".json":
            raise ValueError(f"tokenizer.path={self.path} does not exist")
        return TextTokenizer.of_the_hub(self.path, self.revision, self.separator)


TOKENIZERS = {"bpe": Bpe, "byte": Byte, "char": Char, "pretrained": Pretrained}


def build_recipe(config: Mapping[str, object]) -> Recipe:
    """How to make the tokenizer of a config: its `name` and settings. Raises ValueError for an unknown one."""
    name = config.get("name")
    if name not in [*TOKENIZERS]:
        raise ValueError(f"tokenizer.name={name!r} is unknown; the tokenizers are {', '.join(TOKENIZERS)}")
    settings = {key: value for key, value in config.items() if key != "name"}
    return construct(TOKENIZERS[name], settings, "tokenizer", f"tokenizer={name}")


def _first_megabytes(documents: Iterable[Document], megabytes: float) -> Iterator[str]:
    from data.tokenizer import pieces

    left = int(megabytes * 1_000_000)
    for document in documents:
        for piece in pieces(document.text):
            utf8(piece, document.name)
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return
