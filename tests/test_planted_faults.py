"""Every law seen to fail: encodings that are broken on purpose, most of them after a bug in well-known code.

python -m pytest tests/test_planted_faults.py
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from model.encodings import PositionEncoding
from model.encodings.alibi import ALiBi
from model.encodings.combined import Combined
from model.encodings.kerple import KerpleLog
from model.encodings.learned import Learned
from model.encodings.none import NoPE
from model.encodings.rope import RoPE, rope_frequencies, turn
from model.encodings.sinusoidal import Sinusoidal, sinusoids
from model.encodings.t5 import T5
from tests import laws
from tests.references import all_references


def against(name):
    """The law of equality with the reference of an encoding."""

    def check_reference(build):
        laws.check_reference(build, all_references()[name])

    return check_reference


def changing(**settings):
    """The law that each of these settings acts."""

    def check_two_settings(build):
        laws.check_two_settings(build, settings)

    return check_two_settings


# ------------------------------------------------------------------------------------------------- the future, lengths


class ValuesSeeTheMeanOfAllTokens(NoPE):
    def rotate(self, q, k, v, positions, x, layer):
        return q, k, v + v.mean(2, keepdim=True)


class EmbeddingsSeeTheNextToken(NoPE):
    def embed(self, x, positions):
        return x + 0.1 * x.roll(-1, dims=1)


class ForgetGatesSummedFromTheWrongEnd(NoPE):
    """A bias Σ_{t > i} x_t: the cumulative sum runs over the future."""

    def score_mod(self, q, k, positions, x, layer):
        sums_BT = x[..., 0].flip(-1).cumsum(-1).flip(-1)
        return lambda score, b, h, i, j: score + sums_BT[b, i] * sums_BT[b, j]


class WeightsNormalisedOverTheFuture(NoPE):
    rescores = True

    def weigh(self, scores, visible, *rest):
        return scores.softmax(-1) * visible


class BaseGrowsWithTheLength(RoPE):
    def rotate(self, q, k, v, positions, x, layer):
        self.theta = rope_frequencies(self.shape.head_dim, 10_000.0 * positions.numel())
        return super().rotate(q, k, v, positions, x, layer)


class ClaimsToLookAtTheLengthForNothing(RoPE):
    prefix_consistent = False


class RemembersTheLongestLength(RoPE):
    longest = 0

    def rotate(self, q, k, v, positions, x, layer):
        self.longest = max(self.longest, len(positions))
        self.theta = rope_frequencies(self.shape.head_dim, 10_000.0 * max(1.0, self.longest / 32))
        return super().rotate(q, k, v, positions, x, layer)


class ClampsPastItsTable(Learned):
    def __init__(self, shape):
        super().__init__(shape)
        self.max_length = None

    def embed(self, x, positions):
        return super().embed(x, positions.clamp_max(31))


class WrapsPastItsTable(ClampsPastItsTable):
    def embed(self, x, positions):
        return Learned.embed(self, x, positions % 32)


class AcceptsMoreThanItsMaxLength(ClampsPastItsTable):
    def __init__(self, shape):
        super().__init__(shape)
        self.max_length = 32

    def check_length(self, length):
        pass


class TakesTheNewRowsForAllRows(PositionEncoding):
    """Prefix consistent, but its hooks take the rows that they are given for all there is."""

    def unrotate(self, out, positions, x, layer):
        return out * (1 + torch.arange(out.shape[2], dtype=out.dtype))[:, None]


# -------------------------------------------------------------------------------------------------- formulas and claims


class ALiBiWithTheWrongSign(ALiBi):
    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score + self.slopes_H[h] * (i - j)


class ALiBiWithPowersAtAnyNumberOfHeads(ALiBi):
    """2^(−8h/H) where H is no power of two."""

    def __init__(self, shape):
        super().__init__(shape)
        self.constant("slopes_H", 2.0 ** (-8 * torch.arange(1, shape.num_heads + 1) / shape.num_heads))


class ALiBiThatKeepsTheLearnedEmbedding(ALiBi):
    def __init__(self, shape):
        super().__init__(shape)
        self.table = nn.Parameter(torch.randn(64, shape.dim))

    def embed(self, x, positions):
        return x + self.table[positions]


class RoPEWithReversedFrequencies(RoPE):
    def frequencies(self, layer):
        return super().frequencies(layer).flip(-1)


class RoPEInTheOtherLayout(RoPE):
    def rotate(self, q, k, v, positions, x, layer):
        cos, sin = self.cos_sin(positions, layer, q.dtype)
        return turn(q, cos, sin, not self.interleaved), turn(k, cos, sin, not self.interleaved), v


class T5WithTheLastBucketsCut(T5):
    def score_mod(self, q, k, positions, x, layer):
        mod = super().score_mod(q, k, positions, x, layer)
        return lambda score, b, h, i, j: mod(score, b, h, torch.minimum(i, j + 9), j)


class TurnsQueriesAlone(RoPE):
    def rotate(self, q, k, v, positions, x, layer):
        return super().rotate(q, k, v, positions, x, layer)[0], k, v


class SinusoidClaimedRelative(Sinusoidal):
    """Not relative, as q sees it: the position is added to the queries."""

    relative = True

    def rotate(self, q, k, v, positions, x, layer):
        return q + sinusoids(positions, q.shape[-1]), k, v


class DistanceBiasThatSeesTheQuery(ALiBi):
    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - q[b, h, i, 0] * (i - j)


class DistanceBiasThatSeesTheRow(ALiBi):
    relative = False

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - self.slopes_H[h] * (i - j) / (i + 1)


class SeparableBiasOfTheRoot(ALiBi):
    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - self.slopes_H[h] * (i - j).clamp_min(0).double().sqrt()


class DistanceBiasThatScales(ALiBi):
    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score * (1 + self.slopes_H[h] * (i - j))


class BiasThatIsZero(NoPE):
    """KERPLE with its parameters left at zero: silently no position at all."""

    order_blind = False

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - 0.0 * torch.log1p((i - j).clamp_min(0).double())


class PositionsAllZero(RoPE):
    def positions(self, tokens):
        return torch.zeros_like(tokens[0])


class NoPEThatSeesTheOrder(RoPE):
    order_blind = True


# -------------------------------------------------------------------------------- parameters, tables and random states


class SeesBeyondItsBand(PositionEncoding):
    """Claims a window that its scores know nothing of."""

    def __init__(self, shape):
        super().__init__(shape)
        self.band = 4


class ParameterThatNothingUses(RoPE):
    def __init__(self, shape):
        super().__init__(shape)
        self.scale = nn.Parameter(torch.ones(()))


class ParameterThatSoftmaxCancels(RoPE):
    """A bias for each query row: the same for all keys."""

    def __init__(self, shape):
        super().__init__(shape)
        self.bias_H = nn.Parameter(torch.zeros(shape.num_heads))

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score + self.bias_H[h]


class ParameterOfTheFirstLayerAlone(RoPE):
    def __init__(self, shape):
        super().__init__(shape)
        self.temperature = nn.Parameter(torch.ones(shape.num_layers))

    def rotate(self, q, k, v, positions, x, layer):
        return super().rotate(q * self.temperature[0], k, v, positions, x, layer)


class GradientThatIsNaNBehindTheMask(NoPE):
    """log of a negative distance in what the mask hides: the output is fine, the gradient is not."""

    def __init__(self, shape):
        super().__init__(shape)
        self.slope = nn.Parameter(torch.ones(()))

    def score_mod(self, q, k, positions, x, layer):
        def mod(score, b, h, i, j):
            biased = score - (1 + self.slope * (i - j)).log()
            return torch.where(i >= j, biased, score)

        return mod


class ParameterInAPlainTensor(NoPE):
    def __init__(self, shape):
        super().__init__(shape)
        self.table = torch.randn(shape.num_heads, 64)

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score + self.table[h, (i - j).clamp(0, 63)]


TABLES = {}


class TableSharedByAllInstances(RoPE):
    """A module-level cache whose key lacks the base."""

    def frequencies(self, layer):
        key = (self.shape.head_dim, "float64")
        if key not in TABLES:
            TABLES[key] = rope_frequencies(self.shape.head_dim, self.base)
        return TABLES[key]


class IgnoresASetting(RoPE):
    def __init__(self, shape, base=10_000.0, fraction=0.5):
        super().__init__(shape, base)


class DrawsWhenEvaluated(RoPE):
    def positions(self, tokens):
        return torch.arange(tokens.shape[1]) + torch.randint(5, ())


class DrawsInTraining(RoPE):
    """A dropout mask drawn next would be another one than under the other encodings."""

    def positions(self, tokens):
        offset = int(torch.randint(1000, ())) if self.training else 0
        return super().positions(tokens) + offset


class RemembersADrawOutsideTheStateDict(RoPE):
    """A random choice made in the constructor that a loaded copy does not have; it acts in training alone."""

    def __init__(self, shape):
        super().__init__(shape)
        self.stretch = 1 + int(torch.randint(2**40, ()))

    def positions(self, tokens):
        return super().positions(tokens) * (self.stretch if self.training else 1)


class WritesToABuffer(ALiBi):
    def score_mod(self, q, k, positions, x, layer):
        self.slopes_H *= 1 - 1e-3
        return super().score_mod(q, k, positions, x, layer)


class NormalisesOverTheBatch(NoPE):
    def embed(self, x, positions):
        return x / x.std(dim=(0, 2), keepdim=True)


def built_without_its_own_generator(shape, seed=0):
    return Learned(shape)


class DrawsFromPythonsGenerator(RoPE):
    def __init__(self, shape):
        super().__init__(shape, base=10_000 + random.random())


# ---------------------------------------------------------------------------------------------------------- constants


class FrequenciesMadeInEveryPass(RoPE):
    def frequencies(self, layer):
        return rope_frequencies(self.shape.head_dim, self.base)

    def angles(self, positions, layer):
        return positions[..., None].double() * self.frequencies(layer).to(positions.device, non_blocking=True)


class SlopesFetchedInEveryPass(ALiBi):
    def __init__(self, shape):
        super().__init__(shape)
        self.kept = [self.slopes_H]  # no buffer: it stays on the CPU

    def slopes(self):
        return self.kept[0]

    def score_mod(self, q, k, positions, x, layer):
        slopes_H = self.slopes().to(positions.device, q.dtype, non_blocking=True)
        return lambda score, b, h, i, j: score - slopes_H[h] * (i - j)


class NumberFetchedInEveryPass(NoPE):
    def embed(self, x, positions):
        return x * torch.tensor(0.5).to(x.device)


class NumbersFetchedInEveryPass(NoPE):
    def embed(self, x, positions):
        return x + torch.tensor([0.5] * x.shape[-1], device=x.device)


class SlopesRoundedWithTheParameters(NoPE):
    def __init__(self, shape):
        super().__init__(shape)
        self.register_buffer("slopes_H", torch.rand(shape.num_heads, dtype=torch.float64), persistent=False)


class ConstantAmongTheWeights(RoPE):
    def __init__(self, shape):
        super().__init__(shape)
        self._non_persistent_buffers_set.clear()


# ---------------------------------------------------------------------------------------- precision, dtype, executors


class AnglesInTheDtypeOfQ(RoPE):
    def cos_sin(self, positions, layer, dtype):
        angles = positions.to(dtype)[:, None] * self.frequencies(layer).to(dtype)
        return angles.cos(), angles.sin()


class SumsInHalfPrecision(NoPE):
    def score_mod(self, q, k, positions, x, layer):
        sums_BT = nn.functional.logsigmoid(x[..., 0] - 1).half().cumsum(-1).to(x.dtype)
        return lambda score, b, h, i, j: score + sums_BT[b, i] - sums_BT[b, j]


class DistancesInTheDtypeOfTheParameters(KerpleLog):
    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - self.p_H[h] * (self.a_H[h] * (i - j)).log1p()


class ComesBackAsFloat32(Sinusoidal):
    def embed(self, x, positions):
        return x + self.scale * sinusoids(positions, self.shape.dim, self.base).float()


class ValuesGoMissing(NoPE):
    def rotate(self, q, k, v, positions, x, layer):
        return q, k, v[..., :-1]


class ScoreModThatNeedsTheRow(NoPE):
    """A maximum over the row: no pointwise function, so FlexAttention would compute something else."""

    def score_mod(self, q, k, positions, x, layer):
        return lambda score, b, h, i, j: score - 2 * score.amax() * (i - j)


class BiasCountedFromTheBlocksFirstRow(NoPE):
    """The first row of scores taken for row 0: right in `dense`, wrong in every block but the first."""

    def score_mod(self, q, k, positions, x, layer):
        def mod(score, b, h, i, j):
            rows = torch.arange(score.shape[-2])[:, None] if score.ndim else i
            return score - 0.1 * (rows - j).clamp_min(0)

        return mod


class RescoreThatIgnoresItsRows(NoPE):
    rescores = True

    def rescore(self, scores, *rest):
        return scores * torch.arange(1.0, scores.shape[-2] + 1, dtype=scores.dtype)[:, None].log()


class DetachesWhenItIsGivenFewRows(NoPE):
    """The right output from every executor, and no gradient for blocks."""

    rescores = True

    def rescore(self, scores, *rest):
        return scores if scores.shape[-2] == scores.shape[-1] else scores.detach()


# ------------------------------------------------------------------------------------------------------- combinations


class WeighsContentAlone(NoPE):
    """Whatever biases made of the scores of q and k."""

    rescores = True

    def rescore(self, scores, *rest):
        self.content = scores
        return scores

    def weigh(self, scores, *rest):
        return super().weigh(self.content, *rest)


class BiasBesideWeightsOfContentAlone(Combined):
    def __init__(self, shape):
        super().__init__(shape, {"bias": ALiBi(shape), "weights": WeighsContentAlone(shape)})


class TurnsNothing(Combined):
    def __init__(self, shape):
        super().__init__(shape, {"turn": RoPE(shape), "bias": ALiBi(shape)})

    def with_hook(self, hook):
        return [] if hook == "rotate" else super().with_hook(hook)


@dataclass(frozen=True)
class Fault:
    """law: which one; build: the broken encoding; says: what the law has to complain of (a regular expression)."""

    law: Callable
    build: Callable
    says: str


def of(cls, law, says) -> Fault:
    return Fault(law, laws.of_class(cls), says)


FAULTS = [
    of(ValuesSeeTheMeanOfAllTokens, laws.check_causality, "see what comes after"),
    of(EmbeddingsSeeTheNextToken, laws.check_causality, "see the tokens after"),
    of(ForgetGatesSummedFromTheWrongEnd, laws.check_causality, "see what comes after"),
    of(WeightsNormalisedOverTheFuture, laws.check_causality, "see what comes after"),
    of(BaseGrowsWithTheLength, laws.check_prefix_consistency, "change with the length"),
    of(ClaimsToLookAtTheLengthForNothing, laws.check_prefix_consistency, "for nothing"),
    of(BaseGrowsWithTheLength, laws.check_decoding, "decoding 1 tokens"),
    of(TakesTheNewRowsForAllRows, laws.check_decoding, "decoding"),
    of(TakesTheNewRowsForAllRows, laws.check_last_rows, "the last 1 rows alone"),
    of(RemembersTheLongestLength, laws.check_history, "depends on what came before"),
    of(DrawsWhenEvaluated, laws.check_history, "draws random numbers"),
    of(WritesToABuffer, laws.check_history, "depends on what came before"),
    of(ClampsPastItsTable, laws.check_distinct_embeddings, "share an embedding"),
    of(WrapsPastItsTable, laws.check_distinct_embeddings, "share an embedding"),
    of(AcceptsMoreThanItsMaxLength, laws.check_length_limit, "accepts 33 tokens"),
    of(ALiBiWithTheWrongSign, against("alibi"), "reference"),
    of(ALiBiWithPowersAtAnyNumberOfHeads, against("alibi"), "reference"),
    of(ALiBiThatKeepsTheLearnedEmbedding, against("alibi"), "embed and its reference"),
    of(RoPEWithReversedFrequencies, against("rope"), "reference"),
    of(RoPEInTheOtherLayout, against("rope"), "reference"),
    of(T5WithTheLastBucketsCut, against("t5"), "reference"),
    of(TurnsQueriesAlone, laws.check_shift_invariance, "notices a shift"),
    of(SinusoidClaimedRelative, laws.check_shift_invariance, "notices a shift"),
    of(DistanceBiasThatSeesTheRow, laws.check_distance_bias, r"not one of \(h, i − j\)"),
    of(DistanceBiasThatSeesTheQuery, laws.check_distance_bias, r"not one of \(h, i − j\)"),
    of(DistanceBiasThatScales, laws.check_distance_bias, "depends on the score"),
    of(SeparableBiasOfTheRoot, laws.check_separable_bias, r"not one of u\(i\) − u\(j\)"),
    of(DistanceBiasThatScales, laws.check_separable_bias, "depends on the score"),
    of(BiasThatIsZero, laws.check_position_reaches_the_output, "order of the past does not matter"),
    of(PositionsAllZero, laws.check_position_reaches_the_output, "order of the past does not matter"),
    of(NoPEThatSeesTheOrder, laws.check_position_reaches_the_output, "sees the order"),
    of(SeesBeyondItsBand, laws.check_band, "a key outside of `band` has weight"),
    of(ParameterThatNothingUses, laws.check_gradients, "nothing uses it"),
    of(ParameterThatSoftmaxCancels, laws.check_gradients, "stay zero: encoding.bias_H"),
    of(ParameterOfTheFirstLayerAlone, laws.check_gradients, r"stay zero: encoding.temperature\[1\]"),
    of(GradientThatIsNaNBehindTheMask, laws.check_gradients, "not finite"),
    of(BiasBesideWeightsOfContentAlone, laws.check_parts, "the part bias does not reach"),
    of(TurnsNothing, laws.check_parts, "the part turn does not reach"),
    of(ParameterInAPlainTensor, laws.check_saved_equals_loaded, "loaded differs from saved"),
    of(RemembersADrawOutsideTheStateDict, laws.check_saved_equals_loaded, "loaded differs from saved"),
    of(TableSharedByAllInstances, changing(base=10_000.0), "give the same output"),
    of(IgnoresASetting, changing(fraction=0.5), "give the same output"),
    of(NormalisesOverTheBatch, laws.check_batch_independence, "other sequences"),
    Fault(laws.check_pairing, built_without_its_own_generator, "torch's global generator"),
    of(DrawsInTraining, laws.check_pairing, "training draws"),
    of(DrawsFromPythonsGenerator, laws.check_pairing, "Python's global generator"),
    of(FrequenciesMadeInEveryPass, laws.check_one_device, "arange.* on cpu"),
    of(SlopesFetchedInEveryPass, laws.check_one_device, "_to_copy.* on cpu"),
    of(NumberFetchedInEveryPass, laws.check_one_device, "_to_copy.* on cpu"),
    of(NumbersFetchedInEveryPass, laws.check_one_device, "tensor of shape"),
    of(SlopesRoundedWithTheParameters, laws.check_constants, "slopes_H .* bfloat16"),
    of(ConstantAmongTheWeights, laws.check_constants, "theta is in the state_dict"),
    of(AnglesInTheDtypeOfQ, laws.check_dtype_and_shape, "from float64"),
    of(SumsInHalfPrecision, laws.check_dtype_and_shape, "from float64"),
    of(DistancesInTheDtypeOfTheParameters, laws.check_parameters_in_bf16, "what is added to the scores beside"),
    of(ComesBackAsFloat32, laws.check_dtype_and_shape, "became"),
    of(ValuesGoMissing, laws.check_dtype_and_shape, "shape"),
    of(ScoreModThatNeedsTheRow, laws.check_executors, "blocked and dense"),
    of(BiasCountedFromTheBlocksFirstRow, laws.check_executors, "blocked and dense"),
    of(RescoreThatIgnoresItsRows, laws.check_executors, "blocked and dense"),
    of(DetachesWhenItIsGivenFewRows, laws.check_executors, "the gradients of"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.law.__name__}-{fault.says}")
def test_the_law_fails_on_the_broken_encoding(fault):
    with pytest.raises(AssertionError, match=fault.says):
        fault.law(fault.build)


def test_every_law_has_been_seen_to_fail():
    every_law = {name for name in vars(laws) if name.startswith("check_")}
    assert every_law == {fault.law.__name__ for fault in FAULTS}
