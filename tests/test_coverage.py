"""Intervals and tests keep their promises on synthetic losses of known truth: 95 % means 95 %.

python -m pytest tests/test_coverage.py
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.measure.statistics import (
    among_best,
    compare,
    difference,
    perplexity_interval,
    ratio_interval,
    share_interval,
)
from tests.losses import SEED_SD, TRUE_DIFFERENCE, synthetic_differences


def coverage(loss_RSW, tokens_W, truth=TRUE_DIFFERENCE, blocks_W=None):
    found = [perplexity_interval(loss_SW, tokens_W, blocks_W) for loss_SW in loss_RSW]
    return np.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.parametrize("seeds", [3, 4, 5])
@pytest.mark.parametrize("seed_sd", [0.003, SEED_SD, 0.03])
def test_the_95_percent_interval_covers_the_truth_in_93_to_97_percent(seeds, seed_sd):
    rng = np.random.default_rng([seeds, round(seed_sd * 1000)])
    loss_RSW, tokens_W = synthetic_differences(rng, 1500, seeds, 250, seed_sd=seed_sd)
    assert perplexity_interval(loss_RSW[0], tokens_W).covers == "seeds and windows"
    assert 0.93 <= coverage(loss_RSW, tokens_W) <= 0.97


@pytest.mark.parametrize("seeds", [3, 5])
def test_where_seeds_make_no_difference_it_covers_at_most_98_percent(seeds):
    loss_RSW, tokens_W = synthetic_differences(np.random.default_rng(seeds), 1500, seeds, 250, seed_sd=0)
    assert 0.93 <= coverage(loss_RSW, tokens_W) <= 0.98


@pytest.mark.parametrize("blocks", [10, 40, 250])
def test_with_one_seed_the_interval_covers_that_seeds_own_mean(blocks):
    loss_RSW, tokens_W = synthetic_differences(np.random.default_rng(blocks), 1500, 1, blocks, seed_sd=0)
    assert perplexity_interval(loss_RSW[0], tokens_W).covers == "windows"
    assert 0.93 <= coverage(loss_RSW, tokens_W) <= 0.97


def test_with_one_seed_the_interval_does_not_cover_other_seeds():
    loss_RSW, tokens_W = synthetic_differences(np.random.default_rng(1), 500, 1, 250)
    assert coverage(loss_RSW, tokens_W) < 0.75


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_other_levels_are_kept_too(level):
    loss_RSW, tokens_W = synthetic_differences(np.random.default_rng(2), 1500, 4, 100)
    found = [perplexity_interval(loss_SW, tokens_W, level=level) for loss_SW in loss_RSW]
    covered = np.mean([each.low <= TRUE_DIFFERENCE <= each.high for each in found])
    assert covered == pytest.approx(level, abs=0.4 * (1 - level))


@pytest.mark.parametrize(("seeds", "documents", "spread"), [(3, 40, 1.0), (1, 12, 1.5)])
def test_the_interval_of_a_perplexity_covers_it_over_documents_of_very_unequal_length(seeds, documents, spread):
    rng, runs, hits = np.random.default_rng(documents), 1000, 0
    for _ in range(runs):
        windows_D = np.ceil(4 * rng.lognormal(0, spread, documents)).astype(int)
        document_W = np.repeat(np.arange(documents), windows_D)
        seed_S1 = (0.02 if seeds > 1 else 0) * rng.standard_normal((seeds, 1))
        nats_SW = 3.4 + seed_S1 + 0.3 * rng.standard_normal(documents)[document_W]
        nats_SW = nats_SW + 0.1 * rng.standard_normal((seeds, len(document_W)))
        found = perplexity_interval(256 * nats_SW, np.full(len(document_W), 256), document_W)
        hits += found.perplexity_low <= np.exp(3.4) <= found.perplexity_high
    assert 0.93 <= hits / runs <= 0.97


def test_neighbouring_windows_need_blocks():
    rng = np.random.default_rng(4)
    loss_RSB, tokens_B = synthetic_differences(rng, 1000, 3, 60, seed_sd=0.001, rest_sd=0)
    block_W = np.repeat(np.arange(60), 5)  # five neighbours that lose alike
    loss_RSW, tokens_W = loss_RSB[..., block_W], tokens_B[block_W]
    assert 0.93 <= coverage(loss_RSW, tokens_W, blocks_W=block_W) <= 0.97
    assert coverage(loss_RSW, tokens_W) < 0.75


@pytest.mark.parametrize(("seed_sd", "covered"), [(SEED_SD, 0.85), (0.03, 0.73)])
def test_the_percentile_bootstrap_that_is_not_used_here_covers_far_less(seed_sd, covered):
    rng, resamples, seeds, blocks = np.random.default_rng(5), 1000, 3, 250
    loss_RSW, tokens_W = synthetic_differences(rng, 600, seeds, blocks, seed_sd=seed_sd)
    seed_NS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples)  # how often each is drawn
    block_NW = rng.multinomial(blocks, np.full(blocks, 1 / blocks), resamples)
    hits = 0
    for loss_SW in loss_RSW:
        mean_N = np.sum((seed_NS @ loss_SW) * block_NW, axis=1) / (seeds * block_NW @ tokens_W)
        low, high = np.quantile(mean_N, [0.025, 0.975])
        hits += low <= TRUE_DIFFERENCE <= high
    assert hits / len(loss_RSW) == pytest.approx(covered, abs=0.045)


def test_without_a_difference_a_false_one_is_found_in_5_percent():
    rng, seeds = np.random.default_rng(6), 3
    a_RSW, tokens_W = synthetic_differences(rng, 1500, seeds, 200, nats=0)
    b_SW = np.tile(tokens_W * rng.normal(3.4, 0.3, len(tokens_W)), (seeds, 1))  # cancels in the pairs
    p = np.array([difference(a_SW + b_SW, b_SW, tokens_W).p for a_SW in a_RSW])
    assert 0.03 <= np.mean(p < 0.05) <= 0.07
    assert 0.46 <= np.mean(p < 0.5) <= 0.56


def test_holm_keeps_false_calls_among_eight_encodings_below_5_percent_where_uncorrected_ones_are_many():
    rng, runs = np.random.default_rng(7), 300
    called, uncorrected = 0, 0
    for _ in range(runs):
        loss_ESW, tokens_W = synthetic_differences(rng, 9, 4, 100, nats=3.4)
        pairs = {name: (loss_SW, loss_ESW[0]) for name, loss_SW in zip("abcdefgh", loss_ESW[1:], strict=True)}
        found = compare(pairs, tokens_W, reference="r").values()
        called += any(each.verdict != "not separable" for each in found)
        uncorrected += any(each.p < 0.05 for each in found)
    assert called / runs <= 0.065
    assert uncorrected / runs > 0.15


def test_the_truly_best_is_among_the_best_in_95_percent_and_one_of_equals_is_not_called_the_best_by_luck():
    rng, runs, kept, alone = np.random.default_rng(10), 200, 0, 0
    for _ in range(runs):
        loss_ESW, tokens_W = synthetic_differences(rng, 5, 3, 100, nats=3.4)
        best = among_best({name: dict(enumerate(loss_SW)) for name, loss_SW in enumerate(loss_ESW)}, tokens_W)
        kept += 0 in best  # all are the same, so that any is truly best
        alone += len(best) == 1
    assert kept / runs >= 0.935 and alone / runs < 0.02


def test_what_is_clearly_worse_is_not_among_the_best_whichever_the_lowest_is():
    rng, runs, kept = np.random.default_rng(11), 100, []
    for _ in range(runs):
        loss_ESW, tokens_W = synthetic_differences(rng, 4, 3, 100, nats=3.4)
        loss_ESW[3] += 0.2 * tokens_W
        kept.append(among_best({name: dict(enumerate(each)) for name, each in enumerate(loss_ESW)}, tokens_W))
    assert np.mean([3 in best for best in kept]) < 0.05 and np.mean([len(best) == 3 for best in kept]) > 0.8


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_a_difference_of_the_smallest_detectable_size_is_found_in_80_percent(seeds):
    seed_sd = 0 if seeds == 1 else SEED_SD
    rng = np.random.default_rng([8, seeds])
    loss_RSW, tokens_W = synthetic_differences(rng, 700, seeds, 200, nats=0, seed_sd=seed_sd)
    found = [difference(loss_SW, 0 * loss_SW, tokens_W) for loss_SW in loss_RSW]
    size = np.sqrt(np.mean([each.smallest_detectable**2 for each in found]))  # as variances average without bias
    power = np.mean([not each.low <= -size <= each.high for each in found])  # a shift of the truth shifts the interval
    assert power == pytest.approx(0.8, abs=0.05)


def test_more_comparisons_raise_the_smallest_detectable_difference_and_nothing_else():
    (loss_SW,), tokens_W = synthetic_differences(np.random.default_rng(9), 1, 3, 200)
    one, many = (difference(loss_SW, 0 * loss_SW, tokens_W, comparisons=n) for n in (1, 20))
    assert many.smallest_detectable > 1.5 * one.smallest_detectable
    assert replace(many, smallest_detectable=one.smallest_detectable) == one


def answers(rng, seeds, share, seed_sd, examples=256, example_sd=1.0):
    """Whether seeds answer examples rightly, bool (S, N), whose skill and difficulty differ by so much in log odds."""
    skill_S, ease_N = seed_sd * rng.normal(size=(seeds, 1)), example_sd * rng.normal(size=examples)
    return rng.random((seeds, examples)) < 1 / (1 + np.exp(-(np.log(share / (1 - share)) + skill_S + ease_N)))


def true_share(share, seed_sd, example_sd=1.0):
    odds = np.log(share / (1 - share)) + np.hypot(seed_sd, example_sd) * np.random.default_rng(0).normal(size=200_000)
    return (1 / (1 + np.exp(-odds))).mean()


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.5), (3, 2.0), (5, 0.5), (5, 2.0)])
def test_the_interval_of_a_share_covers_it_in_92_to_98_percent_where_seeds_differ(seeds, seed_sd):
    rng, truth = np.random.default_rng([seeds, round(10 * seed_sd)]), true_share(0.5, seed_sd)
    found = [share_interval(answers(rng, seeds, 0.5, seed_sd)) for _ in range(600)]
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    assert {each.covers for each in found} == {"seeds and examples"}


def test_where_seeds_are_alike_the_interval_of_a_share_is_on_the_careful_side():
    rng, truth = np.random.default_rng(0), true_share(0.9, 0)
    found = [share_interval(answers(rng, 3, 0.9, 0)) for _ in range(600)]
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.95


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_with_one_seed_the_interval_of_a_share_is_wilsons_and_covers_that_seeds_own(share):
    rng, truth = np.random.default_rng(1), true_share(share, 0)
    found = [share_interval(answers(rng, 1, share, 0)) for _ in range(600)]
    assert 0.93 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.98
    wilson = binomtest(100, 256).proportion_ci(0.95, method="wilson")
    own = share_interval((np.arange(256) < 100)[None])
    assert (own.low, own.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)


def test_seeds_that_complement_each_other_count_as_so_many_examples_and_no_more():
    """Of two seeds each is right where the other is not, but for two examples: hardly anything varies."""
    even = np.arange(256) % 2 == 0
    other = ~even
    other[:2] = True, False
    found, wilson = share_interval([even, other]), binomtest(256, 512).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)


def test_the_lowest_and_highest_seed_that_are_not_the_interval_cover_far_less():
    rng, truth = np.random.default_rng(2), true_share(0.5, 2.0)
    shares = [answers(rng, 3, 0.5, 2.0).mean(axis=1) for _ in range(600)]
    assert np.mean([each.min() <= truth <= each.max() for each in shares]) < 0.82


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_of_a_ratio_covers_it(seeds):
    """Of gains that are kept to 60 %, over the same seeds and windows."""
    rng, hits, runs, tokens_W = np.random.default_rng(seeds), 0, 600, np.full(40, 3)
    for _ in range(runs):
        size_SW = 5 + rng.normal(size=40) + 0.3 * (seeds > 1) * rng.normal(size=(seeds, 1))
        b_SW = 3 * (size_SW + 0.5 * rng.normal(size=(seeds, 40)))
        a_SW = 3 * (
            0.6 * size_SW + 0.5 * rng.normal(size=(seeds, 40)) + 0.1 * (seeds > 1) * rng.normal(size=(seeds, 1))
        )
        _, low, high = ratio_interval(a_SW, b_SW, tokens_W)
        hits += low <= 0.6 <= high
    assert 0.93 <= hits / runs <= 0.98
