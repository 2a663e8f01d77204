"""Splits are shares of the text: near 90, 5 and 5 % whatever the documents' sizes, and no text lies in two of them.

python -m pytest tests/test_splits.py
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.corpus import SPLITS, Document
from data.splits import split_by_content


def documents_of(sizes, seed=0):
    """Documents of so many characters, in lines, all different."""
    words = random.Random(seed)
    return [
        Document(str(i), "".join(words.choice("abcdefgh   \n") for _ in range(size))) for i, size in enumerate(sizes)
    ]


def shares(splits):
    sizes = {split: sum(len(document.text.encode()) for document in splits[split]) for split in SPLITS}
    return {split: 100 * size / sum(sizes.values()) for split, size in sizes.items()}


def texts(splits):
    return {split: Counter(document.text for document in splits[split]) for split in SPLITS}


SIZES = st.lists(st.integers(200, 1000), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(SIZES | st.builds(lambda small, large: [*small, 30 * large], SIZES, st.integers(200, 1000)), st.randoms())
def test_each_split_is_near_its_share_and_depends_on_the_texts_alone(sizes, shuffle):
    documents = documents_of(sizes)
    splits = split_by_content(documents)
    assert 2.5 <= shares(splits)["validation"] <= 20 and 2.5 <= shares(splits)["test"] <= 20
    assert sum(len(d.text) for split in SPLITS for d in splits[split]) == sum(sizes)
    shuffle.shuffle(documents)
    assert texts(split_by_content([Document("x", document.text) for document in documents])) == texts(splits)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.lists(st.integers(100, 900), min_size=10, max_size=10))
def test_equal_texts_share_a_split(drawn, sizes):
    different = documents_of(sizes)
    found = texts(split_by_content([different[i] for i in drawn]))
    assert not found["train"].keys() & (found["validation"] + found["test"]).keys()
    assert not found["validation"].keys() & found["test"].keys()


@pytest.mark.parametrize("count", [20, 40, 100, 1000])
def test_many_documents_of_one_size_are_split_by_their_number(count):
    splits = split_by_content(documents_of([300] * count))
    assert [len(splits[split]) for split in SPLITS] == [count * 90 // 100, count * 5 // 100, count * 5 // 100]


def test_a_book_beside_a_readme_and_a_licence_is_cut_into_contiguous_parts():
    book, readme, licence = documents_of([200_000, 150, 160])
    splits = split_by_content([licence, book, readme])
    assert splits["train"][0] == licence and splits["train"][2] == readme
    assert "".join(splits[split][i].text for split, i in zip(SPLITS, (1, 0, 0), strict=True)) == book.text
    assert splits["train"][1].text.endswith("\n") and splits["validation"][0].text.endswith("\n")
    assert shares(splits) == pytest.approx({"train": 90, "validation": 5, "test": 5}, abs=0.1)


def test_a_large_document_is_trained_on_whole_where_others_can_be_held_out():
    large, *small = documents_of([80_000, *[200] * 100])
    splits = split_by_content([large, *small])
    assert large in splits["train"] and [len(splits[split]) for split in SPLITS] == [51, 25, 25]


def test_a_few_documents_stay_whole_and_their_shares_are_said(caplog):
    splits = split_by_content(documents_of([1000] * 5))
    assert [len(splits[split]) for split in SPLITS] == [3, 1, 1]
    assert "hold 20 and 20 % of the text instead of 5" in caplog.text


def test_many_documents_are_split_without_a_warning(caplog):
    split_by_content(documents_of([1000] * 10))
    assert not caplog.records
