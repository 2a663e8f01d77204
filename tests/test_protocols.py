"""The four protocols against brute force, token by token, on a corpus of a few dozen tokens.

python -m pytest tests/test_protocols.py
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from data.windows import Windows, document_bounds
from eval.measure.protocols import plan
from eval.measure.statistics import MIN_BLOCKS
from eval.measure.targets import blocks, targets_of
from eval.record.folder import RunFolder
from tests.small import PROTOCOLS, SETTINGS, evaluate, small_model, small_stream, token_loss

STREAM = small_stream(41, 2, 26, 60)
LENGTHS = [4, 8, 16]


def documents():
    return list(zip(STREAM.offsets[:-1].tolist(), STREAM.offsets[1:].tolist(), strict=True))


def fixed_targets(length: int):
    """(start of the context, target), written from the definition: every S-th place that the longest context fits."""
    for first, last in documents():
        for end in range(first + max(LENGTHS), last, SETTINGS.targets):
            for target in range(end - SETTINGS.targets + 1, end + 1):
                yield end - length, target


def non_overlapping(length: int):
    for first, last in documents():
        for target in range(first + 1, last):
            yield first + (target - first - 1) // length * length, target


def sliding(length: int):
    stride = min(SETTINGS.stride, length)
    for first, last in documents():
        for target in range(first + 1, last):
            steps = max(0, math.ceil((target - first - length) / stride))
            end = min(first + length + steps * stride, last - 1)
            yield max(first, end - length), target


def positions(length: int):
    for first, last in documents():
        for start in range(first, last - length, length):
            for target in range(start + 1, start + length + 1):
                yield start, target


BRUTE = {
    "fixed_targets": fixed_targets,
    "non_overlapping": non_overlapping,
    "sliding": sliding,
    "positions": positions,
}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """All rows of a model, and the model."""
    model = small_model()
    return model, evaluate(model, STREAM, RunFolder(tmp_path_factory.mktemp("run")), SETTINGS)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("protocol", [p for p in PROTOCOLS if p != "positions"])
def test_the_figure_is_that_of_brute_force(scored, protocol, length):
    model, rows = scored
    (row,) = [row for row in rows if (row["protocol"], row["context_length"]) == (protocol, length)]
    pairs = list(BRUTE[protocol](length))
    losses = [token_loss(model, STREAM.tokens, start, target) for start, target in pairs]
    byte_count = sum(int(STREAM.token_bytes[target]) for _, target in pairs)
    assert row["tokens"] == len(pairs)
    assert row["bytes"] == byte_count
    assert row["nats"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-9)
    assert row["perplexity"] == pytest.approx(math.exp(math.fsum(losses) / len(losses)), rel=1e-9)
    assert row["bits_per_byte"] == pytest.approx(math.fsum(losses) / math.log(2) / byte_count, rel=1e-9)


def test_the_loss_by_position_is_that_of_brute_force(scored):
    model, rows = scored
    rows = [row for row in rows if row["protocol"] == "positions"]
    losses: dict[int, list[float]] = {}
    for start, target in positions(max(LENGTHS)):
        losses.setdefault(target - start, []).append(token_loss(model, STREAM.tokens, start, target))
    assert {row["context_length"] for row in rows} == {max(LENGTHS)}
    assert [row["position_from"] for row in rows] == [1, *(row["position"] + 1 for row in rows[:-1])]
    assert rows[-1]["position"] == max(LENGTHS)
    for row in rows:
        stretch = [loss for k in range(row["position_from"], row["position"] + 1) for loss in losses[k]]
        assert row["tokens"] == len(stretch)
        assert row["nats"] == pytest.approx(math.fsum(stretch) / len(stretch), rel=1e-9)


@pytest.mark.parametrize("protocol", ["non_overlapping", "sliding"])
def test_no_token_is_dropped_or_scored_twice(protocol):
    for length in LENGTHS:
        targets = targets_of(plan(protocol, STREAM, length, LENGTHS, SETTINGS))
        assert sorted(targets) == [t for first, last in documents() for t in range(first + 1, last)]


def test_fixed_targets_are_the_same_at_every_length_and_never_twice():
    found = [targets_of(plan("fixed_targets", STREAM, length, LENGTHS, SETTINGS)) for length in LENGTHS]
    assert all((targets == found[0]).all() for targets in found)
    assert len(set(found[0])) == len(found[0])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_window_crosses_a_document(protocol):
    for length in LENGTHS:
        windows = plan(protocol, STREAM, length, LENGTHS, SETTINGS)
        for start, stop in zip(windows.starts, windows.stops, strict=True):
            assert np.searchsorted(STREAM.offsets, start, "right") == np.searchsorted(STREAM.offsets, stop, "right")
            assert stop - start <= (max(LENGTHS) if protocol == "positions" else length)


@pytest.mark.parametrize("protocol", ["non_overlapping", "sliding"])
def test_a_cap_leaves_the_same_tokens_at_every_length(protocol):
    lengths, settings = [3, 7, 8], replace(SETTINGS, tokens=50)
    kept = [sorted(targets_of(plan(protocol, STREAM, length, lengths, settings))) for length in lengths]
    assert kept[0] == kept[1] == kept[2]
    assert 20 < len(kept[0]) <= 50


def test_a_cap_holds_where_documents_are_many_and_short():
    stream = small_stream(*[9] * 400, 20)
    capped = plan("non_overlapping", stream, 4, [4, 16], replace(SETTINGS, tokens=320))
    assert 280 <= capped.scored.sum() <= 320
    assert capped.stops.max() > 0.9 * len(stream)  # from all over the stream, not from its start


def test_lengths_beyond_every_document_are_refused_and_the_possible_ones_named():
    for protocol in PROTOCOLS:
        with pytest.raises(ValueError, match=r"longer than 59 tokens.*\[16, 64\] only \[16\] are possible"):
            plan(protocol, STREAM, 64, [16, 64], SETTINGS)
    across = plan("fixed_targets", STREAM, 64, [16, 64], replace(SETTINGS, cross_documents=True))
    assert len(across.starts) > 0


def test_lengths_are_multiples_of_the_training_context():
    assert replace(SETTINGS, lengths=[0.125, 512, 1, 1.0]).context_lengths(128) == [16, 128, 65536]
    with pytest.raises(ValueError, match=r"eval.lengths=\[0.01\]"):
        replace(SETTINGS, lengths=[0.01]).context_lengths(128)


@pytest.mark.parametrize("wrong", [{"targets": 0}, {"windows": 0}, {"tokens": 0}, {"stride": 0}])
def test_a_setting_that_scores_nothing_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"eval.{name}=0"):
        replace(SETTINGS, **wrong)


# --------------------------------------------------------------------------------------------------------------- blocks


def windows_every(step: int, length: int, stop: int) -> Windows:
    stops = np.arange(length, stop, step)
    return Windows(stops - length, stops, np.ones_like(stops))


def test_a_block_is_several_times_the_longest_context():
    bounds = np.array([[0, 1_000_000]])
    block, size = blocks(windows_every(1000, 8192, 1_000_000), bounds, longest=8192)
    assert size >= 4 * 8192
    assert len(np.unique(block)) >= MIN_BLOCKS


def test_blocks_shrink_to_the_longest_context_but_no_further():
    bounds = np.array([[0, 100_000]])
    block, size = blocks(windows_every(500, 4096, 100_000), bounds, longest=4096)
    assert 4096 <= size < 4 * 4096 and len(np.unique(block)) >= MIN_BLOCKS
    block, size = blocks(windows_every(500, 4096, 20_000), bounds, longest=4096)
    assert 4096 <= size < 2 * 4096 and len(np.unique(block)) < MIN_BLOCKS


def test_no_block_holds_windows_of_two_documents():
    bounds = document_bounds(small_stream(*[50] * 30))
    windows = plan("non_overlapping", small_stream(*[50] * 30), 8, [8], SETTINGS)
    block, _ = blocks(windows, bounds, longest=8)
    for each in np.unique(block):
        assert len(np.unique(windows.starts[block == each] // 50)) == 1
