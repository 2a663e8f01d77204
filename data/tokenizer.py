"""Tokenizers: each one a `tokenizers.Tokenizer` with one separator token and the bytes of every token known.

`bpe`, `byte` and `char` are made from the corpus (of its training split, where they learn anything) and know their
tokens' sizes; `pretrained` reads a tokenizer.json. The separator opens each document. Text that happens to spell
`<|endoftext|>` is tokenized as the characters it is: only the stream writes the separator.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models

from conf.mistakes import one_sentence
from data.corpus import Document
from data.reading import utf8

PIECE_CHARACTERS = 1_000_000  # a longer document is encoded piece by piece, in bounded memory


class TextTokenizer:
    """A tokenizer with its separator; `token_sizes` holds the bytes of every token where they are fixed.

    The separator is the token of that name where no text is encoded as it; where there is none, or where its id is
    another token's too or stands for text that spells it, the separator is an id of its own above all others.

    Attributes: `vocab_size` (one more than the largest id), `separator` (its id), `separator_token` (its name), `hash`
    (SHA-256 of the JSON).
    """

    def __init__(self, tokenizer: Tokenizer, separator: str):
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # text that spells a special token is text
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None  # BPE dropout would tokenize at random
        self.tokenizer, self.separator_token = tokenizer, separator
        ids = list(tokenizer.get_vocab().values())
        self.separator = tokenizer.token_to_id(separator)
        if ids.count(self.separator) != 1 or self._spells(self.separator, separator):
            self.separator = max(ids) + 1
        self.vocab_size = max(*ids, self.separator) + 1
        self.hash = hashlib.sha256(self.to_json().encode()).hexdigest()
        self.token_sizes = _byte_level_sizes(tokenizer, self.vocab_size)

    def _spells(self, token: int, name: str) -> bool:
        """Whether text that holds the token's name is encoded as the token."""
        try:
            return token in self.tokenizer.encode(f"{name} {name}{name}", add_special_tokens=False).ids
        except Exception:  # the library's, for what the vocabulary doesn't know
            return False

    @classmethod
    def load(cls, path: Path, separator: str) -> "TextTokenizer":
        """Read a tokenizer.json. Raises ValueError naming the file if it is none."""
        try:
            tokenizer = Tokenizer.from_str(_with_unknown(path.read_text(encoding="utf-8")))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(
                f"{path} is not a tokenizer.json that `tokenizers` reads: {one_sentence(error)}"
            ) from error
        return cls(tokenizer, separator)

    @classmethod
    def of_the_hub(cls, name: str, revision: str, separator: str) -> "TextTokenizer":
        """The tokenizer of a hub repository. Raises ValueError if there is none, or the hub does not answer."""
        try:
            tokenizer = Tokenizer.from_str(_with_unknown(Tokenizer.from_pretrained(name, revision=revision).to_str()))
        except Exception as error:  # the library raises bare Exception for what its client raises
            raise ValueError(
                f"tokenizer.path={name} is no file, and the hub gives no tokenizer of that name: "
                f"{one_sentence(error)}. Without a network set HF_HUB_OFFLINE=1 to use what is downloaded already, or "
                "choose tokenizer=bpe"
            ) from error
        return cls(tokenizer, separator)

    def to_json(self) -> str:
        """What stands in its tokenizer.json."""
        return self.tokenizer.to_str()

    def save(self, path: Path) -> None:
        path.write_text(self.to_json(), encoding="utf-8")

    @property
    def text_ids(self) -> list[int]:
        """The ids that stand for text, ascending: without the separator, special tokens, and the token for what the
        vocabulary doesn't know."""
        special = {id for id, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        unknown = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        return sorted({*self.tokenizer.get_vocab().values()} - special - {self.separator, unknown})

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens, without separators."""
        return self.tokenizer.decode([int(i) for i in ids if i != self.separator], skip_special_tokens=False)

    def encode(self, documents: Iterable[Document]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each document's ids and bytes, int64 (L,) both, the separator (0 bytes) first.

        The bytes of a document sum to the length of its text in UTF-8, whatever the tokenizer normalises or drops:
        where tokens have no fixed size, a token's is how far it moves the end of what has been read.
        Raises ValueError for a text without a UTF-8 form, one that the tokenizer can't encode or takes for a separator.
        """
        documents = list(documents)
        groups = [list(pieces(document.text)) for document in documents]
        encode = self.tokenizer.encode_batch if self.token_sizes is None else self.tokenizer.encode_batch_fast
        lengths = [len(utf8(document.text, document.name)) for document in documents]
        try:
            encodings = iter(encode([piece for group in groups for piece in group], add_special_tokens=False))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"this tokenizer can't encode the text ({one_sentence(error)}): choose another") from error
        for document, group, length in zip(documents, groups, lengths, strict=True):
            ids, sizes = [np.array([self.separator])], [np.array([0])]
            for piece in group:
                encoding = next(encodings)
                ids.append(np.array(encoding.ids, dtype=np.int64))
                if self.token_sizes is None:
                    sizes.append(_sizes_from_offsets(encoding.offsets, piece))
                else:
                    sizes.append(self.token_sizes[ids[-1]])
            ids, sizes = np.concatenate(ids), np.concatenate(sizes)
            if (ids[1:] == self.separator).any():
                raise ValueError(
                    f"{document.name}: its text holds the token {self.separator_token!r}, which is to open documents: "
                    "set tokenizer.separator to one that no text holds"
                )
            if sizes.sum() != length or sizes.max() > np.iinfo(np.uint16).max:
                raise ValueError(
                    f"{document.name}: the tokens' bytes sum to {sizes.sum()} (largest token {sizes.max()}), its text "
                    f"has {length}: this tokenizer does not cover the text, choose another"
                )
            yield ids, sizes


def _with_unknown(tokenizer_json: str) -> str:
    """A tokenizer's JSON whose vocabulary holds the token that it names for what it doesn't know, where it lacked it:
    the library can't encode an unknown word then."""
    tokenizer = json.loads(tokenizer_json)
    vocab, unknown = tokenizer["model"]["vocab"], tokenizer["model"].get("unk_token")
    if unknown is None or unknown in vocab:
        return tokenizer_json
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocab[unknown] = added.get(unknown, 1 + max([*vocab.values(), *added.values()]))
    return json.dumps(tokenizer, ensure_ascii=False)


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
    added = tokenizer.get_added_tokens_decoder()
    takes_spaces = any(token.lstrip or token.rstrip for token in added.values())
    if not byte_level or tokenizer.normalizer is not None or adds_spaces or takes_spaces:
        return None
    alphabet, sizes = set(byte_characters()), np.zeros(vocab_size, dtype=np.int64)
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


def pieces(text: str) -> Iterator[str]:
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
