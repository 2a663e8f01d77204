"""Intervals and tests equal closed forms where these exist, obey laws, and refuse what they can't judge.

    python -m pytest tests/test_statistics.py

How often intervals hold the truth: test_coverage.py.
"""

import doctest
import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from eval.measure import statistics
from eval.measure.statistics import among_best, compare, difference, holm, perplexity_interval, tiers, verdict
from tests.losses import SEED_SD, synthetic_differences

# ---- agreement with closed forms and with loops


@pytest.mark.parametrize("windows", [10, 37, 500])
@pytest.mark.parametrize(("mean", "level"), [(0.01, 0.9), (0.3, 0.001), (0.01, 1 - 0.05 / 39), (0.3, 1 - 1e-9)])
def test_with_one_seed_and_equal_windows_it_is_the_t_test_over_windows(windows, mean, level):
    nats_W = np.random.default_rng(10).normal(mean, 0.1, windows)
    expected = stats.ttest_1samp(nats_W, 0)
    found = difference(128 * nats_W[None], np.zeros((1, windows)), np.full(windows, 128), level=level)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-8, abs=0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(level)), rel=1e-8)
    assert found.degrees_of_freedom == pytest.approx(windows - 1)


@pytest.mark.parametrize("nats_S", [(0.011, 0.002), (0.011, 0.002, 0.006), (0.011, 0.002, 0.006, 0.009)])
def test_where_only_seeds_differ_it_is_the_t_test_over_seeds(nats_S):
    tokens_W = np.arange(100, 130)
    expected = stats.ttest_1samp(nats_S, 0)
    found = difference(np.outer(nats_S, tokens_W), np.zeros((len(nats_S), 30)), tokens_W)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-8)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-8)
    assert found.degrees_of_freedom == pytest.approx(len(nats_S) - 1)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_and_interval_are_of_students_t_with_a_fraction_of_degrees_of_freedom(seeds):
    (loss_SW,), tokens_W = synthetic_differences(np.random.default_rng(23), 1, seeds, 80)
    found = difference(loss_SW, 0 * loss_SW, tokens_W, level=0.9)
    student = stats.t(found.degrees_of_freedom, scale=found.standard_error)
    assert found.degrees_of_freedom % 1 > 0.01
    assert found.p == pytest.approx(2 * student.sf(abs(found.nats)))
    assert (found.low, found.high) == pytest.approx(tuple(np.add(student.interval(0.9), found.nats)))


def test_a_mean_of_zero_has_p_one():
    loss_SW = np.array([[2.0, -2.0] * 10])
    found = difference(loss_SW, 0 * loss_SW, np.full(20, 8))
    assert (found.nats, found.p) == (0, 1) and found.low == -found.high < 0


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


def test_the_standard_error_is_that_of_the_mean_squares_of_seeds_blocks_and_rest():
    """Of blocks of equal size those of the textbook's crossed design: (MS_seed + MS_block - MS_rest) / (S B)."""
    rng, (S, B) = np.random.default_rng(5), (4, 12)
    loss_SB = rng.normal(0, 3, (S, 1)) + rng.normal(0, 3, (1, B)) + rng.normal(0, 2, (S, B))
    rest_SB = loss_SB - loss_SB.mean(1, keepdims=True) - loss_SB.mean(0) + loss_SB.mean()
    seed, block = B * loss_SB.mean(1).var(ddof=1), S * loss_SB.mean(0).var(ddof=1)
    rest = (rest_SB**2).sum() / ((S - 1) * (B - 1))
    found = perplexity_interval(loss_SB, np.ones(B))
    assert found.standard_error == pytest.approx(((seed + block - rest) / (S * B)) ** 0.5)


@pytest.mark.parametrize(("apart", "p"), [(0.0, 1.0), (0.5, 0.0), (-0.5, 0.0)])
def test_a_difference_that_is_the_same_everywhere_is_beyond_doubt(apart, p):
    loss_SW = np.random.default_rng(6).integers(50, 60, (3, 20)).astype(float)  # exact in float64
    found = difference(loss_SW + apart, loss_SW, np.ones(20))
    assert (found.p, found.standard_error, found.low) == (p, 0.0, apart)


@pytest.mark.parametrize("df", [1, 1.3, 2, 2.7, 5, 60, 400, 1e5])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 0.05 / 200, 1e-8])
def test_the_t_test_finds_the_detectable_size_with_80_percent_power(df, alpha):
    critical, delta = stats.t.isf(alpha / 2, df), statistics._detectable(alpha, df)
    spread = stats.chi(df, scale=df**-0.5)  # of the estimated standard error over the true one
    power, _ = integrate.quad(
        lambda z: stats.norm.pdf(z) * spread.cdf((delta + z) / critical), -9, 9, points=[critical - delta]
    )
    assert power == pytest.approx(statistics.POWER, abs=1e-4 if alpha == 1e-8 and df < 2 else 1e-9)


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
    found = compare({"same": (loss_SW.copy(), loss_SW)}, tokens_W, reference="rope")["same"]
    assert (found.nats, found.low, found.high, found.p, found.verdict) == (0, 0, 0, 1, "not separable")


def test_compare_says_which_encodings_are_better_and_which_worse():
    rng = np.random.default_rng(19)
    (rope_SW, same_SW, good_SW, bad_SW), tokens_W = synthetic_differences(rng, 4, 5, 200, nats=3.4)
    losses = {"good": good_SW - 0.1 * tokens_W, "same": same_SW, "bad": bad_SW + 0.1 * tokens_W}
    found = compare({name: (loss_SW, rope_SW) for name, loss_SW in losses.items()}, tokens_W, reference="rope")
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


def test_each_against_each_is_the_paired_difference_over_the_seeds_that_both_have():
    rng = np.random.default_rng(0)
    tokens_W, blocks_W = rng.integers(20, 90, 60), np.repeat(np.arange(20), 3)
    seeds = {"a": (2, 0, 1), "b": (0, 1, 2), "c": (1, 3, 0)}
    hard = {name: np.repeat(rng.normal(0, 30, 20), 3) for name in seeds}  # by block: windows alone would say more
    losses = {
        name: {seed: 5 * tokens_W + hard[name] + rng.normal(0, 1, 60) for seed in own} for name, own in seeds.items()
    }
    found = statistics.p_values(losses, tokens_W, blocks_W)
    for name, others in {"a": "bc", "b": "ac", "c": "ab"}.items():
        pairs = [statistics.shared_seeds(losses[name], losses[other]) for other in others]
        assert found[name] == pytest.approx([difference(*pair, tokens_W, blocks_W).p for pair in pairs])
        assert found[name] != pytest.approx([difference(*pair, tokens_W).p for pair in pairs])


def test_tiers_are_the_best_of_all_then_of_those_that_are_left():
    random, tokens_W = np.random.default_rng(3), np.full(40, 100)
    means = {"a": 4.0, "b": 4.0, "c": 4.5, "d": 5.0, "e": 5.0}
    shared = random.normal(size=40)
    losses = {
        name: {seed: 100 * (mean + 0.3 * shared + random.normal(0, 0.02, 40)) for seed in range(3)}
        for name, mean in means.items()
    }
    assert tiers(losses, tokens_W) == [{"a", "b"}, {"c"}, {"d", "e"}]
    left, found = dict(losses), []
    while left:
        found.append(among_best(left, tokens_W, level=0.5))
        left = {name: own for name, own in left.items() if name not in found[-1]}
    assert tiers(losses, tokens_W, level=0.5) == found
    assert tiers({}, tokens_W) == []


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(statistics) == doctest.TestResults(failed=0, attempted=3)


# ---- refusals


@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_too_few_blocks_give_no_interval_but_the_reason(blocks):
    tokens_W, block_W = np.full(90, 64), np.arange(90) * blocks // 90
    rope_SW, alibi_SW = np.random.default_rng(22).normal(200, 10, (2, 3, 90))
    found = perplexity_interval(rope_SW, tokens_W, block_W)
    assert found.perplexity == pytest.approx(np.exp(rope_SW.sum() / (3 * 90 * 64)))
    assert (found.low, found.perplexity_low, found.perplexity_high, found.standard_error) == (None,) * 4
    assert f"at least 10 blocks of held-out windows, there are {blocks}" in found.reason
    pair = compare({"alibi": (alibi_SW, rope_SW)}, tokens_W, block_W, reference="rope")["alibi"]
    assert (pair.percent_low, pair.p, pair.smallest_detectable, pair.adjusted_p) == (None,) * 4
    assert (pair.verdict, pair.reason) == ("not separable", found.reason)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_refused_with_its_encoding_seed_and_window(value):
    rope_SW, alibi_SW = np.ones((3, 20)), np.ones((3, 20))
    alibi_SW[2, 7] = value
    with pytest.raises(ValueError, match=rf"alibi has 1 losses .* {value} at seed row 2, window 7"):
        compare({"alibi": (alibi_SW, rope_SW)}, np.ones(20), reference="rope")


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
        compare({"alibi": (alibi_SW, np.ones((3, 20)))}, np.ones(20), reference="rope")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda loss, tokens: perplexity_interval(loss, tokens, level=95), "level is 95"),
        (lambda loss, tokens: perplexity_interval(loss, 0 * tokens), "count of at least 1"),
        (lambda loss, tokens: perplexity_interval(loss, tokens, np.arange(19)), r"shape \(19,\) for 20 windows"),
        (lambda loss, tokens: difference(loss, loss, tokens, comparisons=0), "comparisons is 0"),
        (
            lambda loss, tokens: compare({"rope": (loss, loss[:1])}, tokens, reference="nope"),
            "nope has 1, but they are compared",
        ),
        (lambda loss, tokens: holm({"rope": 1.5}), "'rope' is 1.5"),
        (lambda loss, tokens: holm({"rope": float("nan")}), "'rope' is nan"),
    ],
)
def test_a_users_mistake_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((3, 20)), np.full(20, 8))
