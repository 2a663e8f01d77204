"""How sure a perplexity is, and whether two encodings differ: intervals and tests over seeds *and* held-out windows.

Two things vary at random in a comparison: the seed of the training run and the windows it happened to be scored on.
They are crossed (every seed is scored on the same windows), so the loss of seed s on block b of windows is modelled as

    loss[s, b] = mean + seed[s] + block[b] + rest[s, b]        (nats a token)

and the variance of the mean over S seeds and B blocks has three parts, each estimated from its own mean square:

    V = V_seed + V_block - V_rest        V_seed  = s²(mean of each seed) / S     holds seed[s] and rest[s, b]
                                         V_block = s²(mean of each block) / B    holds block[b] and rest[s, b]
                                         V_rest  = s²(rest) / (S B)              was counted twice

Why no percentile bootstrap: resampling 3 seeds understates their variance by a third and then takes it for known: its
"95 %" interval covers 85 % of the time, and 73 % where seeds dominate (tests measure it). The parts above with
Student's t keep the promise: tests hold the coverage between 93 % and 97 % for 3 to 5 seeds, and for a single seed
given that seed. Where seeds matter little, or blocks are few, it errs on the careful side, up to 98 %.

* Degrees of freedom. Satterthwaite's 1/df = Σ w²/df_i, w the share of each part in V, trusts estimated shares; with
  3 seeds it covers 92 % where seeds dominate. We weight by w, not w², which never gives more degrees of freedom.
* Windows of unequal size. The mean is a ratio (all losses over all tokens), linearised: a block's squared residual is
  divided by 1 - its share of the tokens (CR2), and B blocks count as B_eff = (Σ tokens)² / Σ tokens² of equal size.
* Neighbouring windows are alike, so the unit is a *block*: a document, or a stretch of neighbouring windows.

The best is a set, not a name. Which encoding is best is not known, and to take the lowest for it would count its luck
as merit. So each is asked in its turn whether any other is better, with Holm's correction over all comparisons with it,
and those that no other beats are among the best (`among_best`). Of the one that is truly best, whichever that is, the
answer is false with probability ≤ 1 - level: the set holds it in at least the share `level` of sweeps. That is subset
selection (Gupta), or multiple comparisons with the best (Hsu), by paired tests of unequal variance. The p-values are
the two-sided ones that verdicts go by: in the set is who has no better beside it when it is itself the reference.

Assumed: blocks are independent of each other, and seed effects are near normal. No method can tell from 3 seeds that
one in twenty diverges; two seeds give very wide intervals that may still cover as little as 90 %.

Sources: Searle, Casella & McCulloch, "Variance Components" (1992), ch. 4; Satterthwaite, Biometrics Bulletin 2 (1946);
Bell & McCaffrey, Survey Methodology 28 (2002), for CR2; Owen & Eckles, https://arxiv.org/abs/1106.2125, for the crossed
bootstrap; Holm, Scandinavian Journal of Statistics 6 (1979); Gupta, Technometrics 7 (1965); Hsu, Annals of Statistics 9
(1981).

Shapes in names: S seeds, W windows, B blocks of windows.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import special

MIN_BLOCKS = 10  # below this a spread between blocks says little, and a t interval leans on normality alone
Key = TypeVar("Key")
T = TypeVar("T", float, np.ndarray)
POWER = 0.8  # of `smallest_detectable`: the chance to find a difference of that size
FAR = 100  # standard errors


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean in nats a token and how far it can be trusted.

    `low` and `high` bound it at `level`. Where no honest interval exists, `low`, `high`, `standard_error` and
    `degrees_of_freedom` are None and `reason` says what is missing.
    `covers`: what the interval is about: "seeds and windows", or with a single seed "windows" (that one run only).
    """

    nats: float
    level: float
    covers: str
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    degrees_of_freedom: float | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Interval(Estimate):
    """The loss of one encoding in nats a token, and as perplexity: exp of the mean and of its bounds."""

    perplexity = property(lambda self: _exp(self.nats))
    perplexity_low = property(lambda self: _exp(self.low))
    perplexity_high = property(lambda self: _exp(self.high))


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """Loss of a minus loss of b in nats a token, so below zero a is better; `percent` is the change of perplexity.

    `p` is two-sided, for no difference at all; `adjusted_p` and `verdict` are filled in by `judged`.
    `smallest_detectable` (nats): a true difference of this size would have been found with 80 % power. It is estimated
    from the same few seeds as the standard error and as rough. "not separable" says no more than that the difference
    is probably smaller than that; it does not say that there is none.
    """

    p: float | None = None
    smallest_detectable: float | None = None
    adjusted_p: float | None = None
    verdict: str | None = None

    percent = property(lambda self: _percent(self.nats))
    percent_low = property(lambda self: _percent(self.low))
    percent_high = property(lambda self: _percent(self.high))


def perplexity_interval(
    loss_SW: np.ndarray, tokens_W: np.ndarray, blocks_W: np.ndarray | None = None, *, level: float = 0.95
) -> Interval:
    """The mean loss (all nats over all tokens, no mean of means) with its interval.

    Args:
        loss_SW: summed token losses in nats of each seed on each window. One seed gives an interval over windows only.
        tokens_W: how many tokens each window scored; the same for every seed.
        blocks_W: the block of each window (document name, number ...). None takes every window as a block of its own,
            which is right for windows that are far apart and too narrow for neighbours.
        level: the share of such intervals that hold the true mean.

    Raises:
        ValueError: losses that are not finite, windows that do not match, token counts below one, level outside (0, 1).
    """
    return Interval(**_estimate(*_checked("loss_SW", loss_SW, tokens_W), blocks_W, level))


def difference(
    loss_SW_a: np.ndarray,
    loss_SW_b: np.ndarray,
    tokens_W: np.ndarray,
    blocks_W: np.ndarray | None = None,
    *,
    level: float = 0.95,
    comparisons: int | None = 1,
    names: tuple[str, str] = ("loss_SW_a", "loss_SW_b"),
) -> Difference:
    """Loss of a minus loss of b, paired: row s of both is the same seed, column w the same window.

    What seeds and windows do to both alike cancels, so that a fraction of the windows is enough.

    Args:
        loss_SW_a, loss_SW_b, tokens_W, blocks_W, level: as in `perplexity_interval`.
        comparisons: in how many comparisons this is one; `smallest_detectable` must then hold at the strictest
            level that Holm's correction can ask for, (1 - level) / comparisons. Nothing else depends on it. None
            leaves `smallest_detectable` out, which takes longer to find than all else.
        names: what error messages call a and b.

    Raises:
        ValueError: as `perplexity_interval`, or a and b differ in seeds or windows, or comparisons is below one.
    """
    if comparisons is not None and comparisons < 1:
        raise ValueError(f"comparisons is {comparisons}; it counts this comparison too, so give at least 1")
    a_SW, tokens_W = _checked(names[0], loss_SW_a, tokens_W)
    b_SW, _ = _checked(names[1], loss_SW_b, tokens_W)
    if len(a_SW) != len(b_SW):
        raise ValueError(
            f"{names[0]} has {len(a_SW)} seeds and {names[1]} has {len(b_SW)}, but they are compared seed by seed: "
            "keep the seeds that both have"
        )
    a_SB, tokens_B = _by_block(a_SW, tokens_W, blocks_W)
    b_SB, _ = _by_block(b_SW, tokens_W, blocks_W)
    (found,) = _differences([a_SB - b_SB], tokens_B, level)
    return found if comparisons is None else _detected(found, comparisons)


def ratio_interval(
    a_SW: np.ndarray,
    b_SW: np.ndarray,
    tokens_W: np.ndarray,
    blocks_W: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> tuple[float, float | None, float | None]:
    """The mean of a over that of b, and its bounds: linearised at the ratio r, whose error is that of the mean of
    a - r b over the mean of b. Both are of the same seeds and windows; of good use where b is far from zero.

    Raises:
        ValueError: as `difference`.
    """
    a_SW, tokens_W = _checked("a_SW", a_SW, tokens_W)
    b_SW, _ = _checked("b_SW", b_SW, tokens_W)
    r, mean = float(a_SW.sum() / b_SW.sum()), float(b_SW.sum() / (len(b_SW) * tokens_W.sum()))
    rest = _estimate(a_SW - r * b_SW, tokens_W, blocks_W, level)
    if "reason" in rest:
        return r, None, None
    margin = (rest["high"] - rest["low"]) / 2 / abs(mean)
    return r, r - margin, r + margin


def compare(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    tokens_W: np.ndarray,
    blocks_W: np.ndarray | None = None,
    *,
    reference: str,
    level: float = 0.95,
) -> dict[str, Difference]:
    """Each encoding minus the reference, `judged` together. pairs: its loss_SW and the reference's, of the same seeds.

    Raises:
        ValueError: as `difference`, naming the encoding.
    """
    settings = {"level": level, "comparisons": len(pairs)}
    found = {
        name: difference(*pair, tokens_W, blocks_W, names=(name, reference), **settings) for name, pair in pairs.items()
    }
    return judged(found, level)


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of examples, and bounds of it at `level`, inside [0, 1]; `covers` as in `Estimate`, of examples."""

    share: float
    level: float
    covers: str
    low: float
    high: float


def share_interval(right_SN: np.ndarray, blocks_N: np.ndarray | None = None, *, level: float = 0.95) -> Share:
    """The share of right answers with its interval, over seeds *and* examples: Wilson's score interval (1927) with as
    many examples as would have the variance that the parts above come to, and Student's t for the normal's quantile.

    That is how shares of clustered surveys are bounded (Dean & Pagano, Journal of Survey Statistics and Methodology 3
    (2015)); it stays inside [0, 1] and has some width at 0 and 1, where nothing varies: there all seeds together count
    as one, for nothing says how far they are alike. One seed gives an interval over the examples alone.

    Args:
        right_SN: whether each seed answers each example rightly; all examples were asked of every seed.
        blocks_N: the block of each example, as in `perplexity_interval`.

    Raises:
        ValueError: no examples, or blocks that do not match; level outside (0, 1).

    >>> found = share_interval([[False] * 10])
    >>> found.low, round(found.high, 3)
    (0.0, 0.339)
    """
    _check_level(level)
    right_SN, count_N = _checked("right_SN", right_SN, np.ones(np.shape(right_SN)[-1]))
    right_SB, count_B = _by_block(right_SN, count_N, blocks_N)
    seeds, count = right_SN.shape
    share = float(right_SN.mean())
    error, df = (float(found[0]) for found in _standard_errors(right_SB[None], count_B))
    alike = float(count_B.sum() ** 2 / np.sum(count_B**2))  # blocks of equal size that count as much
    if error > 0:
        trials = min(share * (1 - share) / error**2, seeds * count)
    else:  # nothing varies: what is known is that so many examples are alike
        trials, df = alike, max(alike - 1, 1)
    t2 = float(_critical(1 - level, df)) ** 2
    middle = (share + t2 / (2 * trials)) / (1 + t2 / trials)
    margin = math.sqrt(t2 * (share * (1 - share) / trials + t2 / (4 * trials**2))) / (1 + t2 / trials)
    covers = "seeds and examples" if seeds > 1 else "examples"
    return Share(share=share, level=level, covers=covers, low=max(0.0, middle - margin), high=min(1.0, middle + margin))


def shared_seeds(
    loss_W_a: Mapping[int, np.ndarray], loss_W_b: Mapping[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both loss_SW, given by seed, over the seeds that both have; None where they have none in common."""
    seeds = sorted(loss_W_a.keys() & loss_W_b.keys())
    return (np.stack([loss_W_a[s] for s in seeds]), np.stack([loss_W_b[s] for s in seeds])) if seeds else None


def among_best(
    losses: Mapping[Key, Mapping[int, np.ndarray]],
    tokens_W: np.ndarray,
    blocks_W: np.ndarray | None = None,
    *,
    level: float = 0.95,
    beside: Mapping[Key, Sequence[float]] | None = None,
) -> set[Key]:
    """The encodings that can't be told from the best: those that no other is better than; see the head of this file.

    Two without a seed in common can't be told apart.

    Args:
        losses: of each encoding loss_W by seed. Others as in `difference`.
        beside: of each encoding the p-values of other comparisons with it, which Holm's correction counts too: where
            sets are found by several measures, and all of them are to hold together, those of the other measures.
    """
    return _unbeaten(_each_against_each(losses, tokens_W, blocks_W, level), level, beside)


def p_values(
    losses: Mapping[Key, Mapping[int, np.ndarray]], tokens_W: np.ndarray, blocks_W: np.ndarray | None = None
) -> dict[Key, list[float]]:
    """Of each encoding those of every other compared with it, uncorrected, where there are any; see `among_best`."""
    against = _each_against_each(losses, tokens_W, blocks_W, level=0.95)
    return {name: [each.p for each in found.values() if each.p is not None] for name, found in against.items()}


def tiers(
    losses: Mapping[Key, Mapping[int, np.ndarray]],
    tokens_W: np.ndarray,
    blocks_W: np.ndarray | None = None,
    *,
    level: float = 0.95,
) -> list[set[Key]]:
    """All encodings, in groups: `among_best` of all, then of those that are left, and so on. Each is in one group.

    The promise of `among_best` is that of the first group alone; the others put the rest in order, no more.
    """
    against, found = _each_against_each(losses, tokens_W, blocks_W, level), []
    while against:
        found.append(best := _unbeaten(against, level))
        against = {
            name: {other: each for other, each in others.items() if other not in best}
            for name, others in against.items()
            if name not in best
        }
    return found


def _each_against_each(
    losses: Mapping[Key, Mapping[int, np.ndarray]], tokens_W: np.ndarray, blocks_W: np.ndarray | None, level: float
) -> dict[Key, dict[Key, Difference]]:
    """Of each, by its name: every other minus it, over the seeds that both have; nothing where there are none."""
    against: dict[Key, dict[Key, Difference]] = {name: {} for name in losses}
    summed, tokens_B = {}, None  # by block, once for all pairs
    for name, loss_W in losses.items():
        loss_SB, tokens_B = _by_block(*_checked(str(name), np.stack([*loss_W.values()]), tokens_W), blocks_W)
        summed[name] = dict(zip(loss_W, loss_SB, strict=True))
    pairs = {(a, b): shared_seeds(summed[a], summed[b]) for a, b in itertools.combinations(summed, 2)}
    apart = {names: pair[0] - pair[1] for names, pair in pairs.items() if pair}
    for (a, b), found in zip(apart, _differences([*apart.values()], tokens_B, level), strict=True):
        against[b][a], against[a][b] = found, replace(found, nats=-found.nats)
    return against


def _unbeaten(
    against: Mapping[Key, Mapping[Key, Difference]], level: float, beside: Mapping[Key, Sequence[float]] | None = None
) -> set[Key]:
    """Those that no other is better than. beside: as in `among_best`."""
    more = beside or {}
    verdicts = {
        name: [each.verdict for each in judged(found, level, more.get(name, ())).values()]
        for name, found in against.items()
    }
    found = {name for name in against if "better" not in verdicts[name]}
    return found or set(
        against
    )  # none is left where, over different seeds, each is beaten by another: nothing is known


def judged(found: Mapping[Key, Difference], level: float = 0.95, beside: Sequence[float] = ()) -> dict[Key, Difference]:
    """Differences that were made together, with the p-values corrected for their number (Holm) and a verdict each.
    beside: p-values of others that were made with them.

    Each interval is that of a single comparison; the verdict goes by `adjusted_p`, so "not separable" may stand beside
    an interval without zero.
    """
    own = {(True, key): each.p for key, each in found.items() if each.p is not None}
    together = holm(own | {(False, number): p for number, p in enumerate(beside)})
    adjusted = {key: together[True, key] for _, key in own}
    return {
        key: replace(each, adjusted_p=adjusted.get(key), verdict=verdict(each, adjusted.get(key), level))
        for key, each in found.items()
    }


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Holm's step-down adjustment: calling all below α significant makes any false call at all with probability ≤ α.

    The i-th smallest of m (i from 0) becomes the largest so far of min(1, (m - i) p_i); the keys keep their order.

    >>> holm({"rope": 0.01, "alibi": 0.04, "fire": 0.03})
    {'rope': 0.03, 'alibi': 0.06, 'fire': 0.06}

    Raises:
        ValueError: a p-value outside [0, 1] or not a number.
    """
    for name, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"p-value of {name!r} is {p}; it must lie in [0, 1]")
    adjusted, floor = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.get)):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = floor
    return {name: adjusted[name] for name in p_values}


def verdict(difference: Difference, adjusted_p: float | None, level: float = 0.95) -> str:
    """ "better" (a loses fewer nats than b), "worse", or "not separable", which an `adjusted_p` of None always is."""
    if adjusted_p is None or adjusted_p >= 1 - level:
        return "not separable"
    return "better" if difference.nats < 0 else "worse"


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give the share of intervals that hold the truth, e.g. 0.95")


def _estimate(loss_SW: np.ndarray, tokens_W: np.ndarray, blocks_W: np.ndarray | None, level: float) -> dict:
    """The fields of an `Estimate`."""
    loss_SB, tokens_B = _by_block(loss_SW, tokens_W, blocks_W)
    (found,) = _estimates(loss_SB[None], tokens_B, level)
    return found


def _estimates(loss_NSB: np.ndarray, tokens_B: np.ndarray, level: float) -> list[dict]:
    """The fields of N estimates, of as many seeds each."""
    _check_level(level)
    seeds, blocks = loss_NSB.shape[1:]
    nats_N = loss_NSB.sum(axis=(1, 2)) / (seeds * tokens_B.sum())
    shared = {"level": level, "covers": "seeds and windows" if seeds > 1 else "windows"}
    if blocks < MIN_BLOCKS:
        shared["reason"] = (
            f"an interval needs at least {MIN_BLOCKS} blocks of held-out windows, there are {blocks}: "
            "score more windows or cut the held-out text into more blocks"
        )
        return [shared | {"nats": float(nats)} for nats in nats_N]
    error_N, df_N = _standard_errors(loss_NSB, tokens_B)
    margin_N = error_N * _critical(1 - level, df_N)
    names = ("nats", "low", "high", "standard_error", "degrees_of_freedom")
    values = zip(nats_N, nats_N - margin_N, nats_N + margin_N, error_N, df_N, strict=True)
    return [shared | dict(zip(names, map(float, each), strict=True)) for each in values]


def _standard_errors(loss_NSB: np.ndarray, tokens_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of all losses over all tokens, and their degrees of freedom; see the head of this file."""
    seeds, tokens = loss_NSB.shape[1], tokens_B.sum()
    share_B = tokens_B / tokens
    mean_NS = loss_NSB.sum(axis=2) / tokens  # nats a token
    block_NB = (loss_NSB.mean(axis=1) - mean_NS.mean(axis=1)[:, None] * tokens_B) / tokens
    V_block = np.sum(block_NB**2 / (1 - share_B), axis=1)
    df_block = max(1 / np.sum(share_B**2) - 1, 1)  # B_eff - 1
    if seeds == 1:
        return np.sqrt(V_block), np.full(len(V_block), df_block)

    V_seed = mean_NS.var(axis=1, ddof=1) / seeds
    rest_NSB = (loss_NSB - mean_NS[:, :, None] * tokens_B) / tokens - block_NB[:, None]
    V_rest = np.sum(rest_NSB**2 / (1 - share_B), axis=(1, 2)) / (seeds * (seeds - 1))
    # Neither the blocks' own variance nor the seeds' is below zero.
    V = np.maximum(V_seed + V_block - V_rest, np.maximum(V_seed, V_block))
    weight = np.divide(V_seed, V, out=np.zeros_like(V), where=V > 0)
    df = 1 / (weight / (seeds - 1) + (1 - weight) / df_block)
    return np.sqrt(V), np.where(V > 0, df, min(seeds - 1, df_block))


def _differences(losses_SB: Sequence[np.ndarray], tokens_B: np.ndarray, level: float) -> list[Difference]:
    """Of differences of losses by seed and block, in their order; those of as many seeds are computed at once."""
    found: list[Difference | None] = [None] * len(losses_SB)
    for seeds in {len(loss_SB) for loss_SB in losses_SB}:
        places = [place for place, loss_SB in enumerate(losses_SB) if len(loss_SB) == seeds]
        estimates = _estimates(np.stack([losses_SB[place] for place in places]), tokens_B, level)
        if "reason" not in estimates[0]:
            nats, error, df = (
                np.array([each[name] for each in estimates])
                for name in ("nats", "standard_error", "degrees_of_freedom")
            )
            # Where the difference is the same in every window of every seed, there is no doubt at all.
            t = np.divide(-np.abs(nats), error, out=np.where(nats == 0, 0.0, -np.inf), where=error > 0)
            estimates = [each | {"p": float(p)} for each, p in zip(estimates, 2 * special.stdtr(df, t), strict=True)]
        for place, estimate in zip(places, estimates, strict=True):
            found[place] = Difference(**estimate)
    return found


def _detected(found: Difference, comparisons: int) -> Difference:
    """With its `smallest_detectable`, as one of so many comparisons."""
    if found.reason is not None:
        return found
    seen = found.standard_error * _detectable((1 - found.level) / comparisons, found.degrees_of_freedom)
    return replace(found, smallest_detectable=seen)


def _detectable(alpha: float, df: float) -> float:
    """The difference, in standard errors, that a t-test at `alpha` finds with probability POWER.

    Solves E[Φ(δ - t s)] = POWER, t the critical value, s = sqrt(χ²/df) the estimated over the true standard error:
    with few seeds a chance-large s hides a difference, and the textbook sum of two t quantiles is up to a fifth short.
    The left side is the upper tail of the noncentral t, of which δ is the noncentrality. Two of Newton's steps give the
    digits that SciPy's inverse leaves out. From FAR on, where that gets slow and later never ends, they start from what
    δ is when only s counts, and stop where the tail itself can't be computed: there that is exact to 1e-4.
    """
    critical = _critical(alpha, df)
    if critical > FAR:
        delta = critical * math.sqrt(2 * special.gammaincinv(df / 2, POWER) / df)
    else:
        delta = special.nctdtrinc(df, 1 - POWER, critical)
    for _ in range(2):
        missed, ahead = special.nctdtr(df, np.array([delta, delta * (1 + 1e-4)]), critical) - (1 - POWER)
        step = 1e-4 * delta * missed / (ahead - missed)
        if not math.isfinite(step):
            break
        delta -= step
    return float(delta)


def _critical(alpha: float, df: T) -> T:
    """The standard errors that a two-sided t-test at `alpha` asks for: stats.t.isf, without its slow checks."""
    return -special.stdtrit(df, alpha / 2)


def _by_block(loss_SW: np.ndarray, tokens_W: np.ndarray, blocks_W: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both summed over the windows of each block."""
    if blocks_W is None:
        return loss_SW, tokens_W
    blocks_W = np.asarray(blocks_W)
    if blocks_W.shape != tokens_W.shape:
        raise ValueError(f"blocks_W has shape {blocks_W.shape} for {len(tokens_W)} windows; give one block id a window")
    _, block_W = np.unique(blocks_W, return_inverse=True)
    return np.array([np.bincount(block_W, loss_W) for loss_W in loss_SW]), np.bincount(block_W, tokens_W)


def _checked(name: str, loss_SW: np.ndarray, tokens_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, or a ValueError that names the losses, the value and what to do."""
    loss_SW, tokens_W = np.asarray(loss_SW, dtype=np.float64), np.asarray(tokens_W, dtype=np.float64)
    if tokens_W.ndim != 1 or not (np.isfinite(tokens_W) & (tokens_W >= 1)).all():
        raise ValueError(
            f"tokens_W must hold a count of at least 1 a window, got {tokens_W}; drop windows without targets"
        )
    if loss_SW.ndim != 2 or not loss_SW.size:
        raise ValueError(f"{name} has shape {loss_SW.shape}; give one row a seed and one column a window")
    if loss_SW.shape[1] != len(tokens_W):
        raise ValueError(
            f"{name} has {loss_SW.shape[1]} windows and tokens_W has {len(tokens_W)}: "
            "score every run on the same held-out windows"
        )
    if not np.isfinite(loss_SW).all():
        (seed, window), *others = np.argwhere(~np.isfinite(loss_SW))
        raise ValueError(
            f"{name} has {1 + len(others)} losses that are not finite, the first {loss_SW[seed, window]} "
            f"at seed row {seed}, window {window}: report the run as diverged and compare without it"
        )
    return loss_SW, tokens_W


def _exp(nats: float | None) -> float | None:
    if nats is None:
        return None
    return math.exp(nats) if nats < 709 else math.inf  # e^709 is the largest float64; a broken model may lie beyond


def _percent(nats: float | None) -> float | None:
    return None if nats is None else 100 * (_exp(nats) - 1)
