"""Planted faults in the length extensions: each must fail against its reference.

python -m pytest tests/test_extension_faults.py
"""

import math

import pytest
import torch

from model.encodings.logn import LogN
from model.extensions import view
from model.extensions.abf import ABF
from model.extensions.alibi_interpolation import ALiBiInterpolation
from model.extensions.drop import Drop
from model.extensions.layers import ExtensionOfLayers
from model.extensions.llama3 import Llama3
from model.extensions.logit_scale import LogitScale
from model.extensions.logn import LogNExtension
from model.extensions.longrope import LongRoPE
from model.extensions.ntk import NTK, DynamicNTK, MixedNTK
from model.extensions.pi import PI
from model.extensions.pose import PoSE
from model.extensions.random_positions import RandomPositions
from model.extensions.rerope import LeakyReRoPE, ReRoPE
from model.extensions.rotary import pair_index, stretched
from model.extensions.row_scale import Llama4Scale, SWANScale, in_steps
from model.extensions.self_extend import SelfExtend
from model.extensions.table_interpolation import TableInterpolation
from model.extensions.window import Window
from model.extensions.yarn import YaRN, YaRNPaper
from tests.extended import check_reference, extension_of
from tests.references.extensions import EXTENSION_REFERENCES

# At L = 16 the fastest pair makes 2.5 turns: llama3's 4 are not reached, and it says so.
pytestmark = pytest.mark.filterwarnings(r"ignore:extension\.high=4")


class PIBackwards(PI):
    def stretch(self, frequencies, train_length, eval_length):
        return frequencies * eval_length / train_length


class NTKWithoutTheCorrection(NTK):
    """base · s, not base · s^(d/(d−2)): the slowest pair is slowed too little."""

    def stretch(self, frequencies, train_length, eval_length):
        pairs = frequencies.shape[-1]
        return frequencies * (eval_length / train_length) ** (-pair_index(frequencies) * (pairs - 1) / pairs)


class DynamicNTKWithoutTheOffset(DynamicNTK):
    def factor(self, train_length, eval_length):
        return self.alpha * eval_length / train_length


class MixedNTKFromPairZero(MixedNTK):
    def stretch(self, frequencies, train_length, eval_length):
        a = math.log(eval_length / train_length)
        return frequencies * torch.exp(-a * (torch.arange(8) / 8) ** self.power)


class YaRNWithTheRampReversed(YaRN):
    def kept(self, frequencies, train_length, fast):
        return 1 - super().kept(frequencies, train_length, fast)


class YaRNPaperWithTheRampReversed(YaRNPaper):
    def kept(self, frequencies, train_length, fast):
        return 1 - super().kept(frequencies, train_length, fast)


class YaRNWithoutTemperature(YaRN):
    def attention_factor(self, train_length, eval_length):
        return 1.0


class YaRNWithTheScoresScaledOnce(YaRN):
    """The factor is on cos and sin, so on q and on k: the scores get its square."""

    def attention_factor(self, train_length, eval_length):
        return super().attention_factor(train_length, eval_length) ** 0.5


class YaRNWithItsRangeOneOff(YaRN):
    def kept(self, frequencies, train_length, fast):
        return super().kept(frequencies * frequencies[0] / frequencies[1], train_length, fast)


class Llama3WithTheWavesSwapped(Llama3):
    def stretch(self, frequencies, train_length, eval_length):
        return frequencies**2 / super().stretch(frequencies, train_length, eval_length) / self.factor


class LongRoPEMultiplies(LongRoPE):
    def extend_part(self, part, train_length, eval_length):
        extended = super().extend_part(part, train_length, eval_length)
        extended.constant("factors_P", 1 / extended.factors_P)
        return extended


class LongRoPEWithoutTemperature(LongRoPE):
    def attention_factor(self, train_length, eval_length):
        return 1.0


class ABFAsNTK(ABF):
    """base · s^(d/(d−2)), which is for use without training."""

    def extend_part(self, part, train_length, eval_length):
        return NTK().extend_part(part, train_length, eval_length)


class DropOfSlowPairsAlone(Drop):
    def extend(self, encoding, train_length, eval_length):
        kept = lambda frequencies: torch.where(frequencies < 0.1, 0.0, frequencies)  # noqa: E731
        return stretched(encoding, kept)


class LogitScaleOfTheBiasToo(LogitScale):
    def extend(self, encoding, train_length, eval_length):
        extended = super().extend(encoding, train_length, eval_length)
        beta = 1 + self.a * math.log(eval_length / train_length)
        return ALiBiInterpolation().extend(extended, 1000, 1000 / beta)


class LogitScaleByTheLength(LogitScale):
    def extend(self, encoding, train_length, eval_length):
        return super().extend(encoding, 1, eval_length)


class PoSEWithoutItsInner(PoSE):
    def extend(self, encoding, train_length, eval_length):
        return PoSE(length=eval_length).extend(encoding, train_length, eval_length)


class PoSEThatDrawsAtTest(PoSE):
    def extend(self, encoding, train_length, eval_length):
        extended = super().extend(encoding, train_length, eval_length)
        return view(extended, at_test="random", draw_from=2 * eval_length)


class RandomPositionsAtTest(RandomPositions):
    def extend(self, encoding, train_length, eval_length):
        extended = super().extend(encoding, train_length, eval_length)
        return view(extended, at_test="random", draw_from=2 * eval_length)


class ReRoPEOneTokenOff(ReRoPE):
    def far(self, near, train_length, eval_length):
        return super().far(near + 1, train_length, eval_length)


class LeakyReRoPEOneTokenOff(LeakyReRoPE):
    def far(self, near, train_length, eval_length):
        return {**super().far(near, train_length, eval_length), "far_q": lambda i: near + i * near / eval_length}


class SelfExtendWithAFractionOfAGroup(SelfExtend):
    def far(self, near, train_length, eval_length):
        group = self.smallest_group(near, train_length, eval_length)
        return {
            **super().far(near, train_length, eval_length),
            "far_q": lambda i: (i / group).floor() + near - near / group,
        }


class SelfExtendOneTokenOff(SelfExtend):
    def near(self, train_length):
        return super().near(train_length) + 1


class WindowWithoutTheRowItself(Window):
    def extend(self, encoding, train_length, eval_length):
        return Window(train_length - self.sinks - 1, self.sinks).extend(encoding, train_length, eval_length)


class WindowWithOneSinkMore(Window):
    def extend(self, encoding, train_length, eval_length):
        return Window(self.window, self.sinks + 1).extend(encoding, train_length, eval_length)


class LogNOfTheRowsBefore(LogNExtension):
    def extend(self, encoding, train_length, eval_length):
        return LogN(encoding.shape, encoding, length=train_length - 1)


class Llama4StepsOneTokenLate(Llama4Scale):
    scale = staticmethod(lambda n_T, a, length: in_steps(n_T - 1, a, length))


class SWANScaleWithoutItsValueAtL(SWANScale):
    scale = staticmethod(lambda n_T, a, length: (a + n_T).log().clamp_min(1.0))


class ExtensionOfTheGlobalLayersAlone(ExtensionOfLayers):
    def __init__(self, inner):
        super().__init__(inner, layers="global")


class ALiBiBackwards(ALiBiInterpolation):
    def extend_part(self, part, train_length, eval_length):
        return super().extend_part(part, eval_length, train_length)


class TableOneRowOff(TableInterpolation):
    """i·L/N: the last tokens fall past the last row."""

    def extend_part(self, part, train_length, eval_length):
        return super().extend_part(part, train_length + 1, eval_length + 1)


FAULTS = {
    "layers": [ExtensionOfTheGlobalLayersAlone],
    "llama4_scale": [Llama4StepsOneTokenLate],
    "swan_scale": [SWANScaleWithoutItsValueAtL],
    "pi": [PIBackwards],
    "ntk": [NTKWithoutTheCorrection],
    "dynamic_ntk": [DynamicNTKWithoutTheOffset],
    "ntk_mixed": [MixedNTKFromPairZero],
    "yarn": [
        YaRNWithTheRampReversed,
        YaRNWithoutTemperature,
        YaRNWithTheScoresScaledOnce,
        YaRNWithItsRangeOneOff,
        YaRNPaper,
    ],
    "yarn_paper": [YaRNPaperWithTheRampReversed, YaRN],
    "llama3": [Llama3WithTheWavesSwapped],
    "longrope": [LongRoPEMultiplies, LongRoPEWithoutTemperature],
    "abf": [ABFAsNTK],
    "drop": [DropOfSlowPairsAlone],
    "logit_scale": [LogitScaleOfTheBiasToo, LogitScaleByTheLength],
    "pose": [PoSEWithoutItsInner, PoSEThatDrawsAtTest],
    "random_positions": [RandomPositionsAtTest],
    "rerope": [ReRoPEOneTokenOff],
    "leaky_rerope": [LeakyReRoPEOneTokenOff],
    "self_extend": [SelfExtendWithAFractionOfAGroup, SelfExtendOneTokenOff],
    "logn": [LogNOfTheRowsBefore],
    "window": [WindowWithoutTheRowItself, WindowWithOneSinkMore],
    "alibi_interpolation": [ALiBiBackwards],
    "table_interpolation": [TableOneRowOff],
}


@pytest.mark.parametrize(
    ("name", "fault"), [pytest.param(n, f, id=f"{n}-{f.__name__}") for n, faults in FAULTS.items() for f in faults]
)
def test_a_fault_fails_against_the_reference(name, fault):
    with pytest.raises(AssertionError):
        check_reference(name, fault(**vars_of(name)))


def vars_of(name):
    """The settings of the reference, an extension among them built."""
    built = vars(extension_of(name, **EXTENSION_REFERENCES[name].settings))
    return {key: built[key] for key in EXTENSION_REFERENCES[name].settings}


def test_every_reference_has_caught_a_fault():
    assert FAULTS.keys() == EXTENSION_REFERENCES.keys()
