"""Intervals and tests keep their promises on synthetic losses of known truth, and equal closed forms where these exist.

    python -m pytest tests/test_statistics.py

The synthetic sizes are those of a small study: a seed moves perplexity by 0.7 % (sd), a held-out block by 30 %, but
alike for both encodings of a pair, whose difference it moves by 3 %; as much again is noise. Difficulty is skewed.
"""

import doctest
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from eval.measure import statistics
from eval.measure.statistics import compare, difference, holm, perplexity_interval, t_critical, t_tail, verdict

TRUE_DIFFERENCE = -0.004  # nats a token
SEED_SD = 0.007
BLOCK_SD = 0.03  # of a paired difference
REST_SD = 0.03


def synthetic_differences(
    rng, runs, seeds, blocks, *, nats=TRUE_DIFFERENCE, seed_sd=SEED_SD, block_sd=BLOCK_SD, rest_sd=REST_SD
):
    """loss_RSW (runs, seeds, windows) and tokens_W, one window a block; block effects are a gamma of skewness 1."""
    tokens_W = np.random.default_rng(0).integers(200, 257, blocks)
    seed_RS1 = seed_sd * rng.standard_normal((runs, seeds, 1))
    block_R1W = block_sd * (rng.gamma(4, size=(runs, 1, blocks)) - 4) / 2
    rest_RSW = rest_sd * rng.standard_normal((runs, seeds, blocks))
    return (nats + seed_RS1 + block_R1W + rest_RSW) * tokens_W, tokens_W


def coverage(loss_RSW, tokens_W, truth=TRUE_DIFFERENCE, blocks_W=None):
    found = [perplexity_interval(loss_SW, tokens_W, blocks_W) for loss_SW in loss_RSW]
    return np.mean([each.low <= truth <= each.high for each in found])


# ---- the promise: 95 % means 95 %


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
        found = compare(dict(zip("rabcdefgh", loss_ESW, strict=True)), tokens_W, reference="r").values()
        called += any(each.verdict != "not separable" for each in found)
        uncorrected += any(each.p < 0.05 for each in found)
    assert called / runs <= 0.065
    assert uncorrected / runs > 0.15


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


# ---- agreement with closed forms and with loops


def test_with_one_seed_and_equal_windows_it_is_the_t_test_over_windows():
    nats_W = np.random.default_rng(10).normal(0.01, 0.1, 37)
    expected = stats.ttest_1samp(nats_W, 0)
    low, high = expected.confidence_interval(0.9)
    found = difference(128 * nats_W[None], np.zeros((1, 37)), np.full(37, 128), level=0.9)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.degrees_of_freedom == pytest.approx(36)


def test_where_only_seeds_differ_it_is_the_t_test_over_seeds():
    nats_S = np.array([0.011, 0.002, 0.006, 0.009])
    tokens_W = np.arange(100, 130)
    found = difference(np.outer(nats_S, tokens_W), np.zeros((4, 30)), tokens_W)
    assert found.p == pytest.approx(stats.ttest_1samp(nats_S, 0).pvalue)
    assert found.degrees_of_freedom == pytest.approx(3)


def test_the_standard_error_is_that_of_a_two_way_analysis_of_variance():
    S, B = 4, 13
    y = np.random.default_rng(11).normal(3, 1, (S, B)) + np.linspace(0, 3, S)[:, None] + np.linspace(0, 2, B) ** 2
    grand = y.mean()
    ms_seed = B * sum((y[s].mean() - grand) ** 2 for s in range(S)) / (S - 1)
    ms_block = S * sum((y[:, b].mean() - grand) ** 2 for b in range(B)) / (B - 1)
    cells = itertools.product(range(S), range(B))
    ms_rest = sum((y[s, b] - y[s].mean() - y[:, b].mean() + grand) ** 2 for s, b in cells) / ((S - 1) * (B - 1))
    found = perplexity_interval(50 * y, np.full(B, 50))
    assert found.standard_error**2 == pytest.approx((ms_seed + ms_block - ms_rest) / (S * B))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_squared_standard_error_is_the_variance_of_the_mean(seeds):
    seed_sd = 0 if seeds == 1 else SEED_SD
    rng = np.random.default_rng([12, seeds])
    loss_RSW, tokens_W = synthetic_differences(rng, 3000, seeds, 60, seed_sd=seed_sd)
    found = [perplexity_interval(loss_SW, tokens_W) for loss_SW in loss_RSW]
    true_variance = np.var([each.nats for each in found])
    assert np.mean([each.standard_error**2 for each in found]) == pytest.approx(true_variance, rel=0.08)


def test_a_perplexity_is_of_all_losses_over_all_tokens_and_not_a_mean_of_means():
    tokens_W = np.array([1000, *[10] * 11])
    loss_SW = np.array([[1000.0, *[30.0] * 11], [1200.0, *[30.0] * 11]])
    found = perplexity_interval(loss_SW, tokens_W)
    assert found.perplexity == pytest.approx(np.exp((1000 + 1200 + 22 * 30) / (2 * 1110)))
    assert found.perplexity_low == pytest.approx(np.exp(found.low))


def test_a_difference_in_percent_is_the_ratio_of_perplexities():
    rng, tokens_W = np.random.default_rng(13), np.full(50, 100)
    a_SW, b_SW = rng.normal(300, 30, (2, 3, 50))
    found = difference(a_SW, b_SW, tokens_W)
    ratio = perplexity_interval(a_SW, tokens_W).perplexity / perplexity_interval(b_SW, tokens_W).perplexity
    assert found.percent == pytest.approx(100 * (ratio - 1))
    assert found.percent_low < found.percent < found.percent_high


@pytest.mark.parametrize("df", [1, 1.3, 2, 7.7, 40, 499, 1e5])
def test_students_t_is_scipys(df):
    for t in (0, 1e-6, 0.3, 1, 2.5, 9, 40):
        assert t_tail(t, df) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-8, abs=1e-300)
    for p in (0.999, 0.4, 0.05, 0.05 / 39, 1e-9):
        assert t_critical(p, df) == pytest.approx(stats.t.isf(p / 2, df), rel=1e-8)


@pytest.mark.parametrize(("df", "alpha"), [(1, 0.001), (2, 0.05), (2, 0.01), (5, 0.05), (60, 0.05), (400, 0.002)])
def test_the_detectable_size_is_that_of_the_noncentral_t(df, alpha):
    delta = statistics._detectable(alpha, df)
    assert stats.nct.sf(t_critical(alpha, df), df, delta) == pytest.approx(statistics.POWER, abs=3e-3)


# ---- laws


def test_the_p_value_and_the_interval_agree_on_zero():
    loss_RSW, tokens_W = synthetic_differences(np.random.default_rng(14), 300, 3, 50, nats=0.01)
    found = [difference(loss_SW, 0 * loss_SW, tokens_W) for loss_SW in loss_RSW]
    assert {each.p < 0.05 for each in found} == {True, False}
    assert all((each.p < 0.05) == (each.low > 0 or each.high < 0) for each in found)


def test_pairing_shrinks_the_interval():
    rng, tokens_W = np.random.default_rng(15), np.full(100, 256)
    shared_SW = 256 * (3.4 + 0.3 * rng.standard_normal(100) + SEED_SD * rng.standard_normal((3, 1)))
    a_SW, b_SW = shared_SW + 256 * 0.02 * rng.standard_normal((2, 3, 100))
    alone = [perplexity_interval(each, tokens_W).standard_error for each in (a_SW, b_SW)]
    assert difference(a_SW, b_SW, tokens_W).standard_error < 0.2 * np.hypot(*alone)


def test_the_same_losses_give_the_same_numbers_whatever_the_order_of_windows_and_the_names_of_blocks():
    rng = np.random.default_rng(16)
    (loss_SW,), tokens_W = synthetic_differences(rng, 1, 3, 120)
    block_W = np.arange(120) // 6
    found = perplexity_interval(loss_SW, tokens_W, block_W)
    assert perplexity_interval(loss_SW, tokens_W, block_W) == found
    shuffle_W = rng.permutation(120)
    again = perplexity_interval(loss_SW[::-1, shuffle_W], tokens_W[shuffle_W], [f"doc {b}" for b in block_W[shuffle_W]])
    for field in ("nats", "low", "high", "standard_error", "degrees_of_freedom"):
        assert getattr(again, field) == pytest.approx(getattr(found, field), rel=1e-9)


def test_swapping_a_and_b_flips_the_sign_and_nothing_else():
    (a_SW, b_SW), tokens_W = synthetic_differences(np.random.default_rng(17), 2, 3, 50)
    forth, back = difference(a_SW, b_SW, tokens_W), difference(b_SW, a_SW, tokens_W)
    assert (back.nats, back.low, back.high) == (-forth.nats, -forth.high, -forth.low)
    assert (back.p, back.standard_error) == pytest.approx((forth.p, forth.standard_error))


def test_an_encoding_does_not_differ_from_itself():
    (loss_SW,), tokens_W = synthetic_differences(np.random.default_rng(18), 1, 3, 50)
    found = compare({"rope": loss_SW, "same": loss_SW.copy()}, tokens_W, reference="rope")["same"]
    assert (found.nats, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, "not separable")


def test_compare_says_which_encodings_are_better_and_which_worse():
    rng = np.random.default_rng(19)
    (rope_SW, same_SW, good_SW, bad_SW), tokens_W = synthetic_differences(rng, 4, 5, 200, nats=3.4)
    losses = {"good": good_SW - 0.1 * tokens_W, "rope": rope_SW, "same": same_SW, "bad": bad_SW + 0.1 * tokens_W}
    found = compare(losses, tokens_W, reference="rope")
    verdicts = {name: each.verdict for name, each in found.items()}
    assert verdicts == {"good": "better", "same": "not separable", "bad": "worse"}
    assert {name: each.adjusted_p for name, each in found.items()} == holm({n: each.p for n, each in found.items()})


def test_a_verdict_goes_by_the_adjusted_p():
    (loss_SW,), tokens_W = synthetic_differences(np.random.default_rng(20), 1, 3, 50, nats=-0.1)
    found = difference(loss_SW, 0 * loss_SW, tokens_W)
    assert verdict(found, 0.04) == "better"
    assert verdict(found, 0.06) == verdict(found, 0.04, level=0.99) == "not separable"
    assert verdict(replace(found, nats=0.1), 0.04) == "worse"


def test_holm_equals_its_definition_as_a_step_down_procedure():
    rng = np.random.default_rng(21)
    for _ in range(50):
        p_values = dict(zip("abcdefg", rng.uniform(0, 0.1, 7), strict=True))
        rejected = set()
        for step, name in enumerate(sorted(p_values, key=p_values.get)):
            if p_values[name] > 0.05 / (7 - step):
                break
            rejected.add(name)
        assert {name for name, p in holm(p_values).items() if p <= 0.05} == rejected


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(statistics) == doctest.TestResults(failed=0, attempted=1)


# ---- refusals


@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_too_few_blocks_give_no_interval_but_the_reason(blocks):
    tokens_W, block_W = np.full(90, 64), np.arange(90) * blocks // 90
    rope_SW, alibi_SW = np.random.default_rng(22).normal(200, 10, (2, 3, 90))
    found = perplexity_interval(rope_SW, tokens_W, block_W)
    assert found.perplexity == pytest.approx(np.exp(rope_SW.sum() / (3 * 90 * 64)))
    assert (found.low, found.perplexity_low, found.perplexity_high, found.standard_error) == (None,) * 4
    assert f"at least 10 blocks of held-out windows, there are {blocks}" in found.reason
    pair = compare({"rope": rope_SW, "alibi": alibi_SW}, tokens_W, block_W, reference="rope")["alibi"]
    assert (pair.percent_low, pair.p, pair.smallest_detectable, pair.adjusted_p) == (None,) * 4
    assert (pair.verdict, pair.reason) == ("not separable", found.reason)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_encoding_seed_and_window(value):
    losses = {"rope": np.ones((3, 20)), "alibi": np.ones((3, 20))}
    losses["alibi"][2, 7] = value
    with pytest.raises(ValueError, match=rf"alibi has 1 losses .* {value} at seed row 2, window 7"):
        compare(losses, np.ones(20), reference="rope")


@pytest.mark.parametrize(
    ("alibi_SW", "message"),
    [
        (np.ones((3, 19)), "alibi has 19 windows and tokens_W has 20"),
        (np.ones((2, 20)), "alibi has 2 seeds and rope has 3"),
        (np.ones(20), r"alibi has shape \(20,\)"),
        (np.ones((0, 20)), r"alibi has shape \(0, 20\)"),
    ],
)
def test_runs_that_do_not_match_are_refused_by_name(alibi_SW, message):
    with pytest.raises(ValueError, match=message):
        compare({"rope": np.ones((3, 20)), "alibi": alibi_SW}, np.ones(20), reference="rope")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, tokens: perplexity_interval(loss, tokens, level=95), "level is 95"),
        (lambda loss, tokens: perplexity_interval(loss, 0 * tokens), "count of at least 1"),
        (lambda loss, tokens: perplexity_interval(loss, tokens, np.arange(19)), r"shape \(19,\) for 20 windows"),
        (lambda loss, tokens: difference(loss, loss, tokens, comparisons=0), "comparisons is 0"),
        (lambda loss, tokens: compare({"rope": loss}, tokens, reference="nope"), "'nope' has no losses"),
        (lambda loss, tokens: compare({"rope": loss}, tokens, reference="rope"), "only encoding"),
        (lambda loss, tokens: holm({"rope": 1.5}), "'rope' is 1.5"),
        (lambda loss, tokens: holm({"rope": float("nan")}), "'rope' is nan"),
    ],
)
def test_a_users_mistake_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((3, 20)), np.full(20, 8))
