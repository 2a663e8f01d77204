"""The tokenizers: every byte of a text belongs to a token, and nothing is learned from held-out text.

python -m pytest tests/test_tokenizer.py
"""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from conf.schema import CONF
from data.corpus import Document
from data.recipe import SEPARATOR, build_recipe
from data.tokenizer import TextTokenizer
from tests.texts import BPE, VERSES, data_of, prepared


def documents_for(tokenizer_settings):
    recipe = build_recipe(tokenizer_settings)
    return recipe.build([Document(str(i), verse * 3) for i, verse in enumerate(VERSES)])


@settings(deadline=None, max_examples=40)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200))
@pytest.mark.parametrize("name", ["bpe", "byte", "char"])
def test_bytes_of_tokens_sum_to_the_texts_length_and_text_survives(name, text):
    tokenizer = TOKENIZERS[name]
    text = text + SEPARATOR
    ((ids, sizes),) = tokenizer.encode([Document("d", text)])
    assert ids[0] == tokenizer.separator and sizes[0] == 0 and tokenizer.separator not in ids[1:]
    assert sizes.sum() == len(text.encode()) and len(ids) == len(sizes)
    if name != "char":
        assert tokenizer.decode(ids) == text and sizes[1:].min() >= 1


TOKENIZERS = {name: documents_for(BPE if name == "bpe" else {"name": name}) for name in ("bpe", "byte", "char")}


def test_byte_tokens_are_the_bytes_themselves():
    ((ids, _),) = TOKENIZERS["byte"].encode([Document("d", "aé\n")])
    assert ids.tolist() == [256, *"aé\n".encode()]


def test_bytes_sum_for_a_foreign_tokenizer_that_lowercases_and_drops(tmp_path):
    words = {word: i for i, word in enumerate(["[UNK]", "the", "crow", "ō"])}
    foreign = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    foreign.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.enable_truncation(2)
    foreign.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build_recipe({"name": "pretrained", "path": str(tmp_path / "tokenizer.json")}).build([])
    text = "  The Crow, ŌŌ 🦜 the  \n\n"
    ((ids, sizes),) = tokenizer.encode([Document("d", text)])
    assert sizes.sum() == len(text.encode()) and len(ids) == 1 + 6 and ids[1] == words["the"]
    assert tokenizer.separator == 4 and tokenizer.vocab_size == 5


def test_a_tokenizer_learns_from_the_training_split_alone(tmp_path):
    hashes = []
    for word in ("zzzz", "qqqq"):
        train = tmp_path / f"train-{word}"
        train.mkdir()
        (train / "a.txt").write_text(VERSES[0] * 20)
        held_out = {f"{split}_path": tmp_path / f"{split}-{word}.txt" for split in ("validation", "test")}
        for path in held_out.values():
            path.write_text(f"{path.stem} {word} " * 400)
        data = data_of(train, **{key: str(path) for key, path in held_out.items()})
        for settings_ in (BPE, {"name": "char"}):
            module = prepared(data, settings_, context=4, batch_size=2, cache_dir=tmp_path / "cache")
            hashes.append((module.tokenizer_hash, module.corpus_hash))
    assert hashes[0][0] == hashes[2][0] and hashes[1][0] == hashes[3][0]
    assert hashes[0][1] != hashes[2][1]


def test_one_endless_line_is_tokenized_piece_by_piece():
    text = "ab" * 520_000 + "\n\nend"
    ((ids, sizes),) = TOKENIZERS["bpe"].encode([Document("d", text)])
    assert sizes.sum() == len(text) and TOKENIZERS["bpe"].decode(ids) == text


def test_pieces_are_cut_where_it_changes_nothing(monkeypatch):
    text = VERSES[0] * 50 + VERSES[1] * 50
    ((whole, _),) = TOKENIZERS["bpe"].encode([Document("d", text)])
    monkeypatch.setattr("data.tokenizer.PIECE_CHARACTERS", 200)
    ((pieces, _),) = TOKENIZERS["bpe"].encode([Document("d", text)])
    assert np.array_equal(whole, pieces)


@pytest.mark.parametrize(
    ("tokenizer", "problem"),
    [
        ({"name": "words"}, "words.*bpe"),
        ({"name": "bpe", "vocab_size": 256}, "vocab_size=256"),
        ({"name": "bpe"}, "vocab_size"),
        ({"name": "pretrained", "path": "???"}, "path"),
        ({"name": "pretrained", "path": "/no/tokenizer.json"}, "does not exist"),
    ],
)
def test_a_wrong_tokenizer_is_refused_by_name(texts, tmp_path, tokenizer, problem):
    with pytest.raises(ValueError, match=problem):
        prepared(data_of(texts), tokenizer, context=8, batch_size=2, cache_dir=tmp_path / "cache")


def test_every_tokenizer_file_bears_its_name_and_only_known_keys():
    for path in (CONF / "tokenizer").glob("*.yaml"):
        tokenizer = yaml.safe_load(path.read_text())
        assert tokenizer["name"] == path.stem
        if "???" not in tokenizer.values() and path.stem != "none":
            build_recipe(tokenizer)


# ------------------------------------------------------------------------------------------- tokenizers made elsewhere


def of_file(tokenizer, folder, **settings):
    tokenizer.save(str(folder / "tokenizer.json"))
    return build_recipe({"name": "pretrained", "path": str(folder / "tokenizer.json"), **settings}).build([])


def word_level(ids, unknown="<unk>"):
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -2.0) for letter in "▁abcdefghinoprst<>/")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def byte_level(**added):
    tokenizer = Tokenizer.from_str(TOKENIZERS["bpe"].tokenizer.to_str())
    if added:
        tokenizer.add_tokens([AddedToken("crow", normalized=False, **added)])
    return tokenizer


OTHERS = {
    "ids with a gap": lambda: word_level({"<unk>": 0, "the": 1, "crow": 4}),
    "an id beyond a gap": lambda: word_level({"<unk>": 0, "the": 1, "crow": 2, "sang": 4}),
    "no unknown token": lambda: word_level({"the": 0, "crow": 1}),
    "unigram": unigram,
    "byte level": byte_level,
    "a token that takes the space before it": lambda: byte_level(lstrip=True),
    "a token that takes the space after it": lambda: byte_level(rstrip=True),
}


@pytest.mark.parametrize("separator", [SEPARATOR, "</s>", "crow"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_document_has_one_separator_and_every_text_its_tokens(tmp_path, name, separator):
    tokenizer = of_file(OTHERS[name](), tmp_path, separator=separator)
    texts = ["the crow sang", "a crow\n\n crow", f"{separator} said the {separator} a{separator}b", "</s>", "crow"]
    for text, (ids, sizes) in zip(texts, tokenizer.encode([Document("d", text) for text in texts]), strict=True):
        assert (ids == tokenizer.separator).tolist() == [True] + [False] * (len(ids) - 1)
        assert sizes.sum() == len(text.encode()) and len(ids) > 1 and ids.max() < tokenizer.vocab_size
    tokenizer.save(tmp_path / "again.json")
    again = TextTokenizer.load(tmp_path / "again.json", tokenizer.separator_token)
    assert (again.separator, again.vocab_size, again.hash) == (
        tokenizer.separator,
        tokenizer.vocab_size,
        tokenizer.hash,
    )


def test_a_separator_of_the_vocabulary_is_kept_where_no_text_spells_it(tmp_path):
    tokenizer = byte_level()
    assert of_file(tokenizer, tmp_path).separator == tokenizer.token_to_id(SEPARATOR)
    assert of_file(tokenizer, tmp_path).vocab_size == tokenizer.get_vocab_size()


def test_the_token_for_what_is_unknown_may_not_open_documents(tmp_path):
    letters = word_level({token: i for i, token in enumerate(["<unk>", *"<unk> a"])})
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = of_file(letters, tmp_path, separator="<unk>")
    with pytest.raises(ValueError, match=r"d: its text holds the token '<unk>'.*set tokenizer\.separator"):
        list(tokenizer.encode([Document("d", "a crow")]))


def test_a_text_that_a_tokenizer_cannot_encode_is_one_sentence(tmp_path):
    model = models.Unigram([("the", -1.0), ("▁", -1.0)], unk_id=None)
    tokenizer = of_file(Tokenizer(model), tmp_path)
    with pytest.raises(ValueError, match=r"can't encode the text.*choose another"):
        list(tokenizer.encode([Document("d", "crow")]))


def test_the_home_is_expanded_in_a_tokenizers_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert build_recipe({"name": "pretrained", "path": "~/tokenizer.json"}).build([]).vocab_size == 300
