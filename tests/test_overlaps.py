"""Splits that share documents: said with how much, each time; refused where one holds the other.

python -m pytest tests/test_overlaps.py
"""

import pytest

from data.corpus import SPLITS, Document
from data.overlaps import HELD_OUT, TRAIN, Overlaps
from tests.texts import BYTE, data_of, prepared


def remarks(**texts):
    overlaps = Overlaps()
    for split in (*HELD_OUT, TRAIN):
        documents = [Document(str(i), text) for i, text in enumerate(texts[split])]
        assert list(overlaps.watched(split, iter(documents))) == documents
    return overlaps.remarks()


def test_splits_of_their_own_documents_are_passed_in_silence():
    assert remarks(train=["one", "two", " "], validation=["three", " "], test=["four", " "]) == []


@pytest.mark.parametrize("shared", ["a shared text", "a\tshared \n text\n", "ashared text"])
def test_a_share_that_is_trained_on_too_is_said_whatever_its_blanks(shared):
    held = [shared, "x" * 33]
    (said,) = remarks(train=["a shared text", "another", "more"], validation=["its own"], test=held)
    assert said.startswith("25 % of the test split's text is in the train split too (1 document, blanks aside)")


def test_held_out_splits_that_share_documents_are_said_too():
    (said,) = remarks(train=["t"], validation=["a", "b"], test=["b", "c", "d", "e"])
    assert said.startswith("25 % of the test split's text is in the validation split too")


@pytest.mark.parametrize("inner", SPLITS)
@pytest.mark.parametrize("outer", SPLITS)
def test_a_split_that_lies_in_another_is_refused(inner, outer):
    texts = {split: [split] for split in SPLITS} | {outer: ["a", "b"], inner: ["b ", "b"]}
    if inner == outer:
        assert remarks(**texts) == []
    else:
        with pytest.raises(ValueError, match=f"all documents of the {inner} split are in the {outer} split"):
            remarks(**texts)


def test_what_is_kept_of_the_training_split_is_what_others_hold_too():
    overlaps = Overlaps()
    for split, count in (("validation", 2), ("test", 3), (TRAIN, 1000)):
        assert sum(1 for _ in overlaps.watched(split, (Document("", f"text {i}") for i in range(count)))) == count
    assert len(overlaps.sizes[TRAIN]) == 3


def test_an_overlap_is_said_each_time_a_corpus_is_opened(tmp_path, caplog):
    texts = {"path": ["one", "two"], "validation_path": ["one ", "three"], "test_path": ["four"]}
    for key, own in texts.items():
        (tmp_path / key).mkdir()
        for number, text in enumerate(own):
            (tmp_path / key / f"{number}.txt").write_text(text)
    data = data_of(**{key: str(tmp_path / key) for key in texts})
    for _ in range(2):
        prepared(data, BYTE, context=1, batch_size=1, cache_dir=tmp_path / "cache")
        assert caplog.text.count("38 % of the validation split's text is in the train split too") == 1
        caplog.clear()


def test_the_same_path_for_two_splits_is_refused_and_leaves_nothing(texts, tmp_path):
    (tmp_path / "other.txt").write_text("a text of its own")
    data = data_of(texts, validation_path=str(texts), test_path=str(tmp_path / "other.txt"))
    with pytest.raises(ValueError, match=r"data\.validation_path and data\.test_path"):
        prepared(data, BYTE, context=1, batch_size=1, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))
