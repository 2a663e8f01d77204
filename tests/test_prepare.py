"""The prepared corpus: its streams, and the cache that is whole, checked or built again.

python -m pytest tests/test_prepare.py
"""

import json
import multiprocessing

import numpy as np
import pytest

from data.corpus import SPLITS, build_corpus
from tests.texts import BPE, BYTE, data_of, prepared, three_splits


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
    data = three_splits(tmp_path, ["aaaa", "", "bbbb", "cccc"])
    assert len(prepared(data, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c").streams["train"]) == 15
    assert "1 empty" in caplog.text
    capped = prepared(data | {"max_tokens": 7}, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c")
    assert capped.streams["test"].offsets.tolist() == [0, 5, 7]
    capped = prepared(data | {"max_documents": 3}, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "c")
    assert len(capped.streams["test"]) == 10


def test_the_announcement_says_what_share_of_the_training_text_can_be_read(tmp_path):
    data = three_splits(tmp_path, ["a" * 30, "b" * 30, "c" * 20])

    def announced(context, **more):
        module = prepared(data | more, BYTE, context=context, batch_size=1, cache_dir=tmp_path / "cache")
        return module.describe().splitlines()

    assert "33.3/33.3/33.3 % of the text" in announced(16)[0]
    assert announced(20)[1] == "100 % of the training text can be read at a context of 20 tokens"
    assert announced(21)[1] == "75 % of the training text can be read at a context of 21 tokens"
    with open(data["path"], "a") as file:
        file.write(json.dumps({"text": "d" * 31}) + "\n")
    (line,) = announced(31)[1:]
    assert line.startswith("warning: only 27.9 %") and "(1 of 4 documents are longer)" in line
    assert "shorten the context, or set data.cross_documents=true" in line
    assert announced(31, cross_documents=True)[1].startswith("100 %")


def test_a_changed_file_of_a_folder_that_stands_in_for_the_hub_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "datasets.load_dataset",
        lambda path, config, *, split, **_: [{"text": (tmp_path / "set" / f"{split}.txt").read_text()}],
    )
    (tmp_path / "set").mkdir()
    for split in SPLITS:
        (tmp_path / "set" / f"{split}.txt").write_text(f"a text for {split}\r\n")
    data = {"source": "hub", "path": str(tmp_path / "set")}

    def train():
        module = prepared(data, BYTE, context=2, batch_size=1, cache_dir=tmp_path / "cache")
        return module.tokenizer.decode(module.streams["train"].tokens)

    assert train() == "a text for train\n"
    (tmp_path / "set" / "train.txt").write_text("another")
    assert train() == "another"


def test_what_was_left_out_is_said_each_time_a_corpus_is_opened(texts, tmp_path, caplog):
    (texts / "picture.png").write_bytes(b"\x89PNG")
    (texts / "empty.txt").write_text("\n")
    for _ in range(2):
        prepared(data_of(texts), BYTE, context=8, batch_size=2, cache_dir=tmp_path / "cache")
        assert caplog.text.count("picture.png") == 1 and caplog.text.count("1 empty documents left out") == 1
        caplog.clear()
