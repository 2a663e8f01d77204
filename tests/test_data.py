"""The data's claims: splits, tokens, cache, windows. `pytest tests/test_data.py`, under half a minute, no network.

Everything runs on texts of a few kilobytes written here, but for one test of the shipped plays.
"""

import json
import multiprocessing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from data.corpus import SPLITS, Document, build_corpus, read_text, source_names, split_by_content
from data.module import TextDataModule, build_data
from data.sources import hub
from data.sources.hub import join_articles
from data.stream import TokenStream
from data.tokenizer import SEPARATOR, build_recipe
from data.windows import (
    EndlessSampler,
    TrainingWindows,
    fixed_target_windows,
    non_overlapping_windows,
    sliding_windows,
)

CONF = Path(__file__).parent.parent / "conf"
BPE = {"name": "bpe", "vocab_size": 300}
BYTE = {"name": "byte"}
VERSES = [
    "The sun rose — late, and the naïve crow\nsang 'Ōm' to ħ.\n\n",
    "def f(x):\n    return x + 1  # 🦜\n",
    "1 2 3, 1 2 3.\n",
]


@pytest.fixture(autouse=True)
def no_cache_from_outside(monkeypatch):
    monkeypatch.delenv("TRAINSHORT_CACHE", raising=False)


@pytest.fixture
def texts(tmp_path):
    """A folder of 40 texts, each of its own words."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(f"text {i}\n" + VERSES[i % 3] * (5 + i), encoding="utf-8")
    return folder


def prepared(data, tokenizer, **more) -> TextDataModule:
    return TextDataModule(data, tokenizer, **more).prepare()


def data_of(path, **more):
    return {"name": "text", "source": "text", "path": str(path), **more}


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


# ------------------------------------------------------------------------------------------------ corpus


def test_the_plays_are_split_by_whole_plays_and_carry_no_markup():
    corpus = build_corpus("shakespeare", {})
    names = {split: {document.name for document in corpus.documents(split)} for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [30, 4, 4]
    assert len(set.union(*names.values())) == 38
    (tempest,) = (document.text for document in corpus.documents("test") if document.name == "the-tempest")
    assert not set(tempest) & set("*_#\\\r") and "PROSPERO:\n" in tempest and "[Enter TRINCULO]" in tempest
    assert corpus.fingerprint() == build_corpus("shakespeare", {}).fingerprint()


def test_python_source_leaves_out_tests_and_is_split_by_path(tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "hidden.py").write_text("y = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    corpus = build_corpus("python_source", {"folder": str(tmp_path)})
    before = {split: {d.name for d in corpus.documents(split)} for split in SPLITS}
    assert sum(map(len, before.values())) == 60
    (tmp_path / "another.py").write_text("z = 2\n")
    corpus = build_corpus("python_source", {"folder": str(tmp_path)})
    assert all(before[split] <= {d.name for d in corpus.documents(split)} for split in SPLITS)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=30, max_size=60), min_size=1, max_size=30))
def test_equal_texts_share_a_split_and_no_split_is_empty(texts):
    splits = split_by_content([Document(str(i), text) for i, text in enumerate(texts)])
    assert all(splits[split] for split in SPLITS)
    if len(set(texts)) >= 3:
        found = [{document.text for document in splits[split]} for split in SPLITS]
        assert sum(map(len, found)) == len(set(texts))
        assert sum(len(splits[split]) for split in SPLITS) == len(texts)
    else:
        assert "".join(splits[split][0].text for split in SPLITS) == texts[0]


def test_rows_of_jsonl_and_parquet_are_documents_and_stray_files_are_named(tmp_path, caplog):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(5)))
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"column {i}" for i in range(5)]}), tmp_path / "b.parquet")
    (tmp_path / "c.md").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    corpus = build_corpus("text", {"path": str(tmp_path)})
    texts = {document.text for split in SPLITS for document in corpus.documents(split)}
    assert texts == {f"row {i}" for i in range(5)} | {f"column {i}" for i in range(5)} | {"one\ntwo\n"}
    assert caplog.text.count("picture.png") == 1


def test_held_out_paths_of_ones_own_are_used_as_they_are(texts, tmp_path):
    for name in ("v.txt", "t.txt"):
        (tmp_path / name).write_text(name)
    paths = {"path": str(texts), "validation_path": str(tmp_path / "v.txt"), "test_path": str(tmp_path / "t.txt")}
    corpus = build_corpus("text", paths)
    assert [[d.text for d in corpus.documents(s)] for s in ("validation", "test")] == [["v.txt"], ["t.txt"]]
    assert len(list(corpus.documents("train"))) == 40


def test_rows_of_wikitext_are_joined_to_articles():
    lines = ["", " = Crow = \n", " A bird . \n", " = = Food = = \n", " = 3 = \n", " A number . \n"]
    articles = list(join_articles(Document(str(i), line) for i, line in enumerate(lines)))
    assert [article.name for article in articles] == ["0", "Crow", "3"]
    assert articles[1].text == "".join(lines[1:4])


@pytest.mark.parametrize("name", ["hub", "wikitext2", "wikitext103", "tinystories", "pg19"])
def test_every_hub_file_reads_its_splits_without_code_from_the_hub(name, monkeypatch):
    asked = []

    def load_dataset(path, config, **options):
        asked.append((path, config, options))
        return [{"text": " = A = \n"}, {"text": " word . \n"}, {"text": " = B = \n"}, {"text": " word . \n"}]

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    settings = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
    module = TextDataModule(
        settings.get("data", settings) | ({"path": "o/n"} if name == "hub" else {}),
        BYTE,
        context=8,
        batch_size=2,
    )
    corpus = build_corpus(module.source, module._corpus_settings)
    counts = [len(list(corpus.documents(split))) for split in SPLITS]
    assert counts == [2, 2, 2] if name.startswith("wikitext") else [4, 4, 4]
    assert len(asked) == 3 and all("trust_remote_code" not in options for _, _, options in asked)


def test_a_hub_that_does_not_answer_is_one_error_that_says_what_to_do(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"roneneldan/TinyStories.*no route.*HF_HUB_OFFLINE"):
        next(build_corpus("hub", {"path": "roneneldan/TinyStories"}).documents("train"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a\0b", "binary"), (b"ok \xff", "not UTF-8 at byte 3")],
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, problem):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt .*{problem}"):
        read_text(tmp_path / "bad.txt")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"source": "nowhere"}, "nowhere.*shakespeare"),
        ({"pth": 1}, "pth"),
        ({"path": None}, "path"),
        ({"path": "/no/such/path"}, "does not exist"),
        ({"test_path": "x"}, "give both"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(texts, tmp_path, change, problem):
    with pytest.raises(ValueError, match=problem):
        prepared(data_of(texts) | change, BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "holds no text"), ("   \n", "holds no text"), ("x", "single token")],
)
def test_a_corpus_without_anything_to_predict_is_refused(tmp_path, content, problem):
    path = str(tmp_path / "a.txt")
    Path(path).write_text(content)
    data = data_of(path, validation_path=path, test_path=path)
    with pytest.raises(ValueError, match=problem):
        prepared(data, BYTE, context=1, batch_size=1, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))


# ------------------------------------------------------------------------------------------------ tokenizer


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


def test_a_tokenizer_learns_from_the_training_split_alone(texts, tmp_path):
    corpus = build_corpus("text", {"path": str(texts)})
    held_out = next(iter(corpus.documents("test"))).name
    hashes = []
    for word in ("zzzz", "qqqq"):
        train = tmp_path / f"train-{word}"
        train.mkdir()
        (train / "a.txt").write_text(VERSES[0] * 20)
        (tmp_path / f"{word}.txt").write_text(f"{word} " * 400)
        other = str(tmp_path / f"{word}.txt")
        data = data_of(train, validation_path=other, test_path=other)
        for settings_ in (BPE, {"name": "char"}):
            module = prepared(data, settings_, context=4, batch_size=2, cache_dir=tmp_path / "cache")
            hashes.append((module.tokenizer_hash, module.corpus_hash))
    assert held_out and hashes[0][0] == hashes[2][0] and hashes[1][0] == hashes[3][0]
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


# ------------------------------------------------------------------------------------------------ stream and cache


def test_a_stream_holds_every_document_in_order_and_opens_again_unchanged(texts, tmp_path):
    first = prepared(data_of(texts), BPE, context=8, batch_size=2, cache_dir=tmp_path / "cache")
    again = prepared(data_of(texts), BPE, context=8, batch_size=2, cache_dir=tmp_path / "cache")
    corpus = build_corpus("text", {"path": str(texts)})
    for split in SPLITS:
        stream, documents = again.streams[split], list(corpus.documents(split))
        assert stream.names == tuple(d.name for d in documents) and isinstance(stream.tokens, np.memmap)
        assert [again.tokenizer.decode(stream.document(i)) for i in range(len(documents))] == [
            d.text for d in documents
        ]
        assert stream.token_bytes.sum() == sum(len(d.text.encode()) for d in documents)
        assert np.array_equal(stream.tokens, first.streams[split].tokens)
    assert (first.corpus_hash, first.tokenizer_hash) == (again.corpus_hash, again.tokenizer_hash)
    assert "text: 36/2/2 documents" in again.describe()


@pytest.mark.parametrize("file", ["train.tokens", "test.bytes", "validation.offsets", "tokenizer.json", "meta.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_cache_is_built_again_with_a_warning(texts, tmp_path, caplog, file, damage):
    def build():
        return prepared(data_of(texts), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")

    tokens = np.array(build().streams["train"].tokens)
    (path,) = (tmp_path / "cache").glob(f"*/{file}")
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x55
        path.write_bytes(content if damage == "flipped" else content[:-3])
    assert not caplog.records
    assert np.array_equal(build().streams["train"].tokens, tokens)
    assert "damaged" in caplog.text
    caplog.clear()
    build()
    assert not caplog.records


def _build_in_a_process(path, cache, results):
    module = prepared(data_of(path), BPE, context=8, batch_size=2, cache_dir=cache)
    results.put((module.corpus_hash, module.tokenizer_hash, len(module.streams["train"])))


def test_two_processes_that_start_at_once_agree_and_leave_one_folder(texts, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=_build_in_a_process, args=(texts, tmp_path / "cache", results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] and len(list((tmp_path / "cache").glob("*/"))) == 1


def test_other_settings_have_another_folder(texts, tmp_path):
    for tokenizer in (BPE, {"name": "bpe", "vocab_size": 301}, BYTE):
        prepared(data_of(texts), tokenizer, context=8, batch_size=2, cache_dir=tmp_path / "cache")
    (texts / "00.txt").write_text("changed " * 9)
    prepared(data_of(texts), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/"))) == 4


def test_a_cache_folder_that_cannot_be_written_is_named(texts, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache folder .*file.*TRAINSHORT_CACHE"):
        prepared(data_of(texts), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "file" / "cache")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.prepare.os.fsync", full_disk)
    with pytest.raises(ValueError, match=r"No space left.*make room"):
        prepared(data_of(texts), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))


def test_caps_bound_each_split_and_empty_documents_are_counted(tmp_path, caplog):
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["aaaa", "", "bbbb", "cccc"]))
    data = data_of(train, validation_path=str(train), test_path=str(train))
    assert len(prepared(data, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c").streams["train"]) == 15
    assert "1 empty" in caplog.text
    capped = prepared(data | {"max_tokens": 7}, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c")
    assert capped.streams["test"].offsets.tolist() == [0, 5, 7]
    capped = prepared(data | {"max_documents": 3}, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c")
    assert len(capped.streams["test"]) == 10


# ------------------------------------------------------------------------------------------------ windows

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(1, 12), st.integers(0, 3), st.booleans())
def test_training_windows_stay_in_a_document_and_never_repeat_a_target_in_an_epoch(lengths, context, seed, cross):
    stream = make_stream(lengths)
    spans = [(0, sum(lengths))] if cross else list(zip(stream.offsets[:-1], stream.offsets[1:], strict=True))
    if max(last - first for first, last in spans) <= context:
        with pytest.raises(ValueError, match="context"):
            TrainingWindows(stream, context, seed, cross)
        return
    windows = TrainingWindows(stream, context, seed, cross)
    assert windows.windows_per_epoch == sum(max(1, (b - a) // context - 1) for a, b in spans if b - a > context)
    for epoch in range(2):
        first = epoch * windows.windows_per_epoch
        batch = windows.__getitems__(range(first, first + windows.windows_per_epoch)).numpy()
        assert (np.diff(batch, axis=1) == 1).all()
        assert all(any(a <= row[0] and row[-1] < b for a, b in spans) for row in batch)
        targets = batch[:, 1:].ravel()
        assert len(set(targets.tolist())) == len(targets)


def test_every_token_is_read_within_a_few_epochs_and_at_every_place_in_a_window():
    windows = TrainingWindows(make_stream([100]), 4, 0)
    places = {(int(t), k) for n in range(80 * windows.windows_per_epoch) for k, t in enumerate(windows[n])}
    assert all((t, k) in places for t in range(8, 90) for k in range(5))


def test_a_window_is_a_function_of_seed_and_number_alone():
    stream = make_stream([300, 50, 200])
    windows = TrainingWindows(stream, 7, seed=3)
    numbers = [0, 5, 500, 41, 10_000, 0]
    alone = torch.stack([TrainingWindows(stream, 7, seed=3)[n] for n in numbers])
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(windows.__getitems__(numbers), alone)
    assert not torch.equal(TrainingWindows(stream, 7, seed=4).__getitems__(numbers), alone)
    assert alone[:, 0].tolist() == [128, 16, 310, 413, 252, 128]  # written down: a changed order changes every run


def test_the_global_batch_does_not_depend_on_how_many_ranks_share_it():
    def steps(world, batch, start=0):
        per_rank = [list(islice(EndlessSampler(start, rank, world), 4 * batch)) for rank in range(world)]
        return [sorted(n for ns in per_rank for n in ns[t * batch : (t + 1) * batch]) for t in range(4)]

    assert steps(1, 12) == steps(2, 6) == steps(4, 3) == [list(range(t * 12, t * 12 + 12)) for t in range(4)]
    assert steps(2, 6, start=24)[:2] == steps(1, 12)[2:]


@settings(deadline=None, max_examples=80)
@given(
    LENGTHS, st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 8), st.integers(1, 12), st.booleans()
)
def test_fixed_targets_are_the_same_tokens_at_every_length(lengths, contexts, targets, count, cross):
    stream = make_stream(lengths)
    spans = [(0, sum(lengths))] if cross else list(zip(stream.offsets[:-1], stream.offsets[1:], strict=True))
    possible = max(b - a for a, b in spans) - 1
    if targets > min(contexts) or max(contexts) > possible:
        with pytest.raises(
            ValueError, match="exceeds the shortest" if targets > min(contexts) else f"allows {possible}"
        ):
            fixed_target_windows(stream, contexts, targets, count, cross)
        return
    ends = fixed_target_windows(stream, contexts, targets, count, cross)
    everywhere = fixed_target_windows(stream, contexts, targets, 10**6, cross)
    assert len(ends) == min(count, len(everywhere)) and (np.diff(ends) >= targets).all()
    assert len(everywhere) == sum(-(-max(0, b - a - max(contexts)) // targets) for a, b in spans)
    for end in ends:
        for n in contexts:
            assert any(a <= end - n and end < b for a, b in spans)


@settings(deadline=None, max_examples=80)
@given(LENGTHS, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_every_token_but_the_separators_is_scored_once(lengths, length, stride, cross):
    stream = make_stream(lengths)
    spans = [(0, sum(lengths))] if cross else list(zip(stream.offsets[:-1], stream.offsets[1:], strict=True))
    expected = [t for a, b in spans for t in range(a + 1, b)]
    stride = min(stride, length)
    for windows, least in (
        (non_overlapping_windows(stream, length, cross), 0),
        (sliding_windows(stream, length, stride, cross), length - stride),
    ):
        scored = []
        for start, stop, count in zip(*windows, strict=True):
            assert 1 <= count <= stop - start <= length and any(a <= start and stop < b for a, b in spans)
            assert start in {a for a, _ in spans} or stop - start - count >= least
            scored += range(stop - count + 1, stop + 1)
        assert scored == expected


@pytest.mark.parametrize(
    "wrong",
    [
        lambda stream: sliding_windows(stream, 4, 5),
        lambda stream: non_overlapping_windows(stream, 0),
        lambda stream: fixed_target_windows(stream, [], 1, 1),
        lambda stream: TrainingWindows(stream, 0, 0),
        lambda stream: EndlessSampler(0, 2, 2),
    ],
)
def test_impossible_windows_are_refused(wrong):
    with pytest.raises(ValueError, match="="):
        wrong(make_stream([10]))


# ------------------------------------------------------------------------------------------------ module


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_windows_from_the_start_sample_on(texts, tmp_path, workers):
    module = prepared(
        data_of(texts),
        BYTE,
        context=16,
        batch_size=4,
        seed=1,
        cache_dir=tmp_path / "c",
        num_workers=workers,
        start_sample=8,
    )
    first, second = islice(module.train_dataloader(), 2)
    assert first.shape == (4, 17) and first.dtype == torch.int64
    assert torch.equal(torch.cat([first, second]), module.train_windows().__getitems__(range(8, 16)))


def test_validation_windows_are_fixed_and_as_many_as_asked_for(texts, tmp_path):
    data = data_of(texts, validation_windows=5)
    module = prepared(data, BYTE, context=16, batch_size=4, cache_dir=tmp_path / "c")
    batches = list(module.val_dataloader())
    assert [len(batch) for batch in batches] == [4, 1]
    assert torch.equal(torch.cat(batches), torch.cat(list(module.val_dataloader())))
    module.context = 10**6
    with pytest.raises(ValueError, match="no validation document"):
        module.val_dataloader()


def test_a_runs_batch_is_shared_by_accumulation_and_devices(texts, tmp_path):
    config = {
        "data": data_of(texts),
        "tokenizer": BYTE,
        "context": 8,
        "seed": 0,
        "num_workers": 0,
        "cache_dir": str(tmp_path / "c"),
        "training": {"batch_size": 12, "accumulate": 3},
        "trainer": {"devices": 2, "num_nodes": 1},
    }
    assert build_data(config).batch_size == 2
    config["training"]["batch_size"] = 13
    with pytest.raises(ValueError, match=r"batch_size=13 .* 6"):
        build_data(config)


def test_every_data_and_tokenizer_file_bears_its_name_and_only_known_keys():
    for path in (CONF / "data").glob("*.yaml"):
        settings = yaml.safe_load(path.read_text())
        data = settings.get("data", settings)  # a task's file also sets the tokenizer and what is scored
        assert data["name"] == path.stem and data["source"] in source_names()
    for path in (CONF / "tokenizer").glob("*.yaml"):
        tokenizer = yaml.safe_load(path.read_text())
        assert tokenizer.pop("name") == path.stem
        if "???" not in tokenizer.values() and path.stem != "none":
            build_recipe(path.stem, tokenizer)
