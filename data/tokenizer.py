"""Tokenizers: each one a `tokenizers.Tokenizer` with one separator token and the bytes of every token known.

`bpe`, `byte` and `char` are made from the corpus (of its training split, where they learn anything) and know their
tokens' sizes; `pretrained` reads a tokenizer.json. The separator opens each document. Text that happens to spell
`<|endoftext|>` is tokenized as the characters it is: only the stream writes the separator.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from data.corpus import Document, construct, utf8

SEPARATOR = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
PIECE_CHARACTERS = 1_000_000  # a longer document is encoded piece by piece, in bounded memory

# What BPE never merges across: words, contractions, line feeds, punctuation, numbers, blanks; a space goes with what it
# precedes. Every repetition is bounded, so one endless line or word costs time and memory in proportion to its length.
WORDS = (
    r" ?\p{L}{1,32}|'\p{L}{1,2}(?!\p{L})|\n{1,32}| ?[^\s\p{L}\p{N}]{1,32}| ?\p{N}{1,32}"
    r"|[^\S\n]{1,32}(?!\S)|[^\S\n]{1,32}"
)


class TextTokenizer:
    """A tokenizer with its separator; `token_sizes` holds the bytes of every token where they are fixed.

    Attributes: `vocab_size` (one more than the largest id), `separator` (its id), `hash` (SHA-256 of the JSON).
    """

    def __init__(self, tokenizer: Tokenizer, separator: str = SEPARATOR):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # text that spells a special token is text
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # BPE dropout would tokenize at random
        if tokenizer.token_to_id(separator) is None:
            tokenizer.add_special_tokens([AddedToken(separator, special=True, normalized=False)])
        self.tokenizer = tokenizer
        self.separator: int = tokenizer.token_to_id(separator)
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1
        self.hash = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        self.token_sizes = _byte_level_sizes(tokenizer, self.vocab_size)

    @classmethod
    def load(cls, path: Path, separator: str = SEPARATOR) -> "TextTokenizer":
        """Read a tokenizer.json. Raises ValueError naming the file if it is none."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer.json that `tokenizers` reads: {error}") from error
        return cls(tokenizer, separator)

    def save(self, path: Path) -> None:
        path.write_text(self.tokenizer.to_str(), encoding="utf-8")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens, without separators."""
        return self.tokenizer.decode([int(i) for i in ids if i != self.separator], skip_special_tokens=False)

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each document's ids and bytes, int64 (L,) both, the separator (0 bytes) first.

        The bytes of a document sum to the length of its text in UTF-8, whatever the tokenizer normalises or drops:
        where tokens have no fixed size, a token's is how far it moves the end of what has been read.
        Raises ValueError naming the document if its text has no UTF-8 form.
        """
        documents = list(documents)
        pieces = [list(_pieces(document.text)) for document in documents]
        encode = self.tokenizer.encode_batch if self.token_sizes is None else self.tokenizer.encode_batch_fast
        lengths = [len(utf8(document.text, document.name)) for document in documents]
        encodings = iter(encode([piece for group in pieces for piece in group], add_special_tokens=False))
        for document, group, length in zip(documents, pieces, lengths, strict=True):
            ids, sizes = [np.array([self.separator])], [np.array([0])]
            for piece in group:
                encoding = next(encodings)
                ids.append(np.array(encoding.ids, dtype=np.int64))
                if self.token_sizes is None:
                    sizes.append(_sizes_from_offsets(encoding.offsets, piece))
                else:
                    sizes.append(self.token_sizes[ids[-1]])
            ids, sizes = np.concatenate(ids), np.concatenate(sizes)
            if sizes.sum() != length or sizes.max() > np.iinfo(np.uint16).max:
                raise ValueError(
                    f"{document.name}: the tokens' bytes sum to {sizes.sum()} (largest token {sizes.max()}), its text "
                    f"has {length}: this tokenizer does not cover the text, choose another"
                )
            yield ids, sizes


@dataclass(frozen=True)
class Bpe:
    """Byte-level BPE with `vocab_size` tokens, trained on the first `train_megabytes` of the training split."""

    vocab_size: int
    train_megabytes: float = 100

    def fingerprint(self) -> str:
        return f"bpe {WORDS} {self.vocab_size} {self.train_megabytes}"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        """Raises ValueError for a vocabulary without room for the 256 bytes and the separator."""
        if self.vocab_size < 257:
            raise ValueError(f"tokenizer.vocab_size={self.vocab_size} is below 257: 256 bytes and the separator")
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
        return TextTokenizer(tokenizer)


@dataclass(frozen=True)
class Byte:
    """The 256 bytes, id = byte, and the separator (256); learns nothing."""

    def fingerprint(self) -> str:
        return "byte"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        vocab = {character: byte for byte, character in enumerate(byte_characters())}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        words = pre_tokenizers.Split(Regex(r"[\s\S]{1,64}"), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return TextTokenizer(tokenizer)


@dataclass(frozen=True)
class Char:
    """The characters of the training split, in code point order; any other one becomes the unknown token.

    An unknown token keeps its character's bytes, so bits a byte flatter a model where unknowns are frequent.
    """

    def fingerprint(self) -> str:
        return "char"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        characters = sorted(set().union(*(set(document.text) for document in train)))
        vocab = {token: i for i, token in enumerate([SEPARATOR, UNKNOWN, *characters])}
        tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        return TextTokenizer(tokenizer)


@dataclass(frozen=True)
class Pretrained:
    """A tokenizer.json at `path`, or the tokenizer of a hub repository of that name at `revision`.

    `separator` is the token that opens a document; it is added to the vocabulary if it is not in it.
    """

    path: str
    revision: str = "main"
    separator: str = SEPARATOR

    def fingerprint(self) -> str:
        file = Path(self.path)
        content = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else f"{self.path}@{self.revision}"
        return f"pretrained {content} {self.separator}"

    def build(self, train: Iterable[Document]) -> TextTokenizer:
        """Raises ValueError if there is neither such a file nor, reachable, such a repository."""
        if Path(self.path).is_file():
            return TextTokenizer.load(Path(self.path), self.separator)
        if Path(self.path).suffix == ".json":
            raise ValueError(f"tokenizer.path={self.path} does not exist")
        try:
            tokenizer = Tokenizer.from_pretrained(self.path, revision=self.revision)
        except Exception as error:  # the library raises bare Exception for what its client raises
            raise ValueError(
                f"tokenizer.path={self.path} is no file, and the hub gives no tokenizer of that name: {error}. "
                "Without a network set HF_HUB_OFFLINE=1 to use what is downloaded already, or choose tokenizer=bpe"
            ) from error
        return TextTokenizer(tokenizer, self.separator)


TOKENIZERS = {"bpe": Bpe, "byte": Byte, "char": Char, "pretrained": Pretrained}


def build_recipe(config: Mapping[str, object]) -> Bpe | Byte | Char | Pretrained:
    """How to make the tokenizer of a config: its `name` and settings. Raises ValueError for an unknown one."""
    name = config.get("name")
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer.name={name!r} is unknown; the tokenizers are {', '.join(TOKENIZERS)}")
    settings = {key: value for key, value in config.items() if key != "name"}
    return construct(TOKENIZERS[name], settings, "tokenizer", f"tokenizer={name}")


def byte_characters() -> list[str]:
    """The printable character that stands for each byte 0..255 in byte-level vocabularies (a convention of GPT-2's).

    Bytes that print as themselves in Latin-1 do so; the others take the code points from 256 up, in order.

    >>> byte_characters()[ord("a")], byte_characters()[ord(" ")], len(set(byte_characters()))
    ('a', 'Ġ', 256)
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _byte_level_sizes(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray | None:
    """Bytes by id, int64 (vocab_size,), of a byte-level BPE that changes no text; None for any other tokenizer."""
    byte_level = type(tokenizer.decoder) is decoders.ByteLevel and type(tokenizer.model) is models.BPE
    adds_spaces = '"add_prefix_space": true' in json.dumps(json.loads(tokenizer.to_str())["pre_tokenizer"])
    if not byte_level or tokenizer.normalizer is not None or adds_spaces:
        return None
    alphabet, sizes = set(byte_characters()), np.zeros(vocab_size, dtype=np.int64)
    added = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items()}
    for token, i in tokenizer.get_vocab().items():
        sizes[i] = len(token) if i not in added and alphabet.issuperset(token) else len(token.encode())
    return sizes


def _sizes_from_offsets(offsets: list[tuple[int, int]], text: str) -> np.ndarray:
    """Bytes by token, int64 (L,), from the character spans (start, end): they sum to the bytes of `text`."""
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (code_points >= 0x80).astype(np.int64) + (code_points >= 0x800) + (code_points >= 0x10000)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    ends = np.maximum.accumulate(np.array(offsets)[:, 1])
    ends[-1] = len(text)  # what the tokenizer drops at the end belongs to the last token
    return np.diff(bytes_before[ends], prepend=0)


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of at most PIECE_CHARACTERS, cut before the last run of line feeds where there is one."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = start + PIECE_CHARACTERS
        cut = text.rfind("\n", start + 1, end)
        while cut > start and text[cut - 1] == "\n":
            cut -= 1
        end = cut if cut > start else end
        yield text[start:end]
        start = end
    yield text[start:]


def _first_megabytes(documents: Iterable[Document], megabytes: float) -> Iterator[str]:
    left = int(megabytes * 1_000_000)
    for document in documents:
        for piece in _pieces(document.text):
            utf8(piece, document.name)
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return
