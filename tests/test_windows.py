"""The windows that are trained on and scored, and the batches that the data module makes of them.

python -m pytest tests/test_windows.py
"""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.module import build_data
from data.windows import (
    EndlessSampler,
    TrainingWindows,
    difference_of,
    fixed_target_windows,
    non_overlapping_windows,
    read_at,
    sliding_windows,
)
from tests.texts import BYTE, data_of, make_stream, prepared

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


@settings(deadline=None, max_examples=60)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 40))
def test_documents_that_are_not_longer_than_the_least_are_not_read(lengths, context, least):
    stream = make_stream(lengths)
    kept = [length for length in lengths if length > least]
    if not kept or max(kept) <= context:
        with pytest.raises(ValueError, match="context=" if kept else "data.min_tokens="):
            TrainingWindows(stream, context, 0, min_tokens=least)
        return
    chosen, alone = (
        TrainingWindows(stream, context, 0, min_tokens=least),
        TrainingWindows(make_stream(kept), context, 0),
    )
    assert chosen.num_documents == alone.num_documents == sum(length > context for length in kept)
    assert chosen.windows_per_epoch == alone.windows_per_epoch
    # The document and the place in it of each window's start: those of a corpus without the short ones.
    long = np.flatnonzero(np.array(lengths) > least)
    starts = alone.epoch_starts(0)
    inside = np.searchsorted(np.cumsum(kept), starts, side="right")
    places = starts - np.concatenate([[0], np.cumsum(kept)])[inside]
    assert (chosen.epoch_starts(0) == stream.offsets[long[inside]] + places).all()
    read = sum(length - 1 for length in kept if length > context)
    assert chosen.readable == pytest.approx(read / (sum(lengths) - len(lengths)))
    held_out = non_overlapping_windows(stream, context, min_tokens=least)
    assert sum(held_out.scored) == sum(length - 1 for length in kept)


def test_what_a_longer_context_reads_less_is_known_before_training():
    stream = make_stream([10, 101, 31, 500])
    short, long = read_at(stream, [30, 120])
    assert (short.context, short.documents, short.tokens, short.an_epoch) == (30, 3, 629, 30 * (2 + 1 + 15))
    assert (long.documents, long.tokens, long.an_epoch) == (1, 499, 120 * 3)
    assert (short.share, long.share) == pytest.approx((629 / 638, 499 / 638))
    said = difference_of([short, long])
    assert "3 documents (98.6 %) at 30, 1 documents (78.2 %) at 120 tokens" in said and "data.min_tokens=120" in said
    alike = read_at(stream, [30, 120], min_tokens=120)
    assert [each.documents for each in alike] == [1, 1] and difference_of(alike) is None
    crossing = read_at(stream, [30, 120], cross_documents=True)
    assert difference_of(crossing) is None and {each.tokens for each in crossing} == {641}
    with pytest.raises(ValueError, match="context=500"):
        read_at(stream, [30, 500])


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


def test_a_resumed_run_goes_on_from_its_first_window(texts, tmp_path):
    module = prepared(data_of(texts), BYTE, context=16, batch_size=4, cache_dir=tmp_path / "c", start_sample=6)
    module.trainer = SimpleNamespace(global_rank=1, world_size=2, global_step=5, accumulate_grad_batches=3)
    batch = next(iter(module.train_dataloader()))
    begin = 6 + 5 * 3 * 4 * 2
    assert torch.equal(batch, module.train_windows().__getitems__(range(begin + 1, begin + 8, 2)))


def test_documents_below_the_least_train_and_validate_nothing(texts, tmp_path):
    data = data_of(texts, validation_windows=None)
    every, long = (
        prepared(data | {"min_tokens": least}, BYTE, context=16, batch_size=4, cache_dir=tmp_path / "c")
        for least in (None, 700)
    )
    for split, windows in (("train", lambda module: module.train_windows().epoch_starts(0)), ("validation", held_out)):
        stream = every.streams[split]
        sizes = np.diff(stream.offsets)
        assert 0 < (sizes > 700).sum() < len(sizes)
        documents = [set(np.searchsorted(stream.offsets, windows(m), side="right") - 1) for m in (every, long)]
        assert documents == [set(np.flatnonzero(sizes > 16)), set(np.flatnonzero(sizes > 700))]
    assert long.corpus_hash == every.corpus_hash
    assert "in documents of more than data.min_tokens=700" in long.describe()
    none = prepared(data | {"min_tokens": 10**6}, BYTE, context=16, batch_size=4, cache_dir=tmp_path / "c")
    for read in (none.describe, none.val_dataloader):
        with pytest.raises(ValueError, match=r"data\.min_tokens=1000000: no document is longer"):
            read()


def held_out(module) -> np.ndarray:
    """Where the validation windows start."""
    return module.val_dataloader().dataset.starts


def test_validation_windows_are_fixed_and_as_many_as_asked_for(texts, tmp_path):
    data = data_of(texts, validation_windows=5)
    module = prepared(data, BYTE, context=16, batch_size=4, cache_dir=tmp_path / "c")
    batches = list(module.val_dataloader())
    assert [len(batch) for batch in batches] == [4, 1]
    assert torch.equal(torch.cat(batches), torch.cat(list(module.val_dataloader())))
    module.context = 10**6
    with pytest.raises(ValueError, match="no validation document"):
        module.val_dataloader()


def test_a_runs_batch_is_shared_by_accumulation_and_devices(composed, texts):
    of_text = ["data=text", f"data.path={texts}", "tokenizer=byte", "context=8"]
    shared = [*of_text, "training.accumulate=3", "trainer.devices=2"]
    assert build_data(composed(*shared, "training.batch_size=12")).batch_size == 2
    with pytest.raises(ValueError, match=r"batch_size=15.* 6 "):
        composed(*shared, "training.batch_size=15")
    with pytest.raises(ValueError, match=r"batch_size=13.*accumulate=3"):
        composed(*shared, "training.batch_size=13")
