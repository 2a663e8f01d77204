"""KERPLE: biases that are kernels of the distance, with two learned numbers a head."""

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, ScoreMod, Shape, at_least_float32
from model.encodings.relative import distance

LEAST = 0.01  # of p and a, in the authors' code


def bounded(x: Tensor, low: float = LEAST, high: float | None = None) -> Tensor:
    """x clamped, with the gradient of x: a parameter that has left the bounds can come back. In float32 or better, as
    the distances that it meets."""
    x = at_least_float32(x)
    return x + (x.clamp(low, high) - x).detach()


class KerpleLog(PositionEncoding):
    """score = q·k/√d − p_h · ln(1 + a_h · (i − j)).

    Chi, Fan, Ramadge, Rudnicky 2022, "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation",
    https://arxiv.org/abs/2205.09921. As in the authors' code: p ~ U(0, 2), a ~ U(0, 1), both kept at 0.01 or above, one
    of each a head, shared by the layers. Their code writes the bound into the parameter at every call; here the bound
    is on its use, so that an evaluation changes nothing.
    """

    relative = True
    distance_bias = True

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.p_H = nn.Parameter(torch.rand(shape.num_heads) * 2)
        self.a_H = nn.Parameter(torch.rand(shape.num_heads))

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        p_H, a_H = bounded(self.p_H), bounded(self.a_H)

        def mod(score, b, h, i, j):
            return score - p_H[h] * (a_H[h] * distance(positions, b, i, j)).log1p()

        return mod


class KerplePower(KerpleLog):
    """score = q·k/√d − a_h · (i − j)^p_h, p in [0.01, 2], the rest as in the log form.

    At p = 1 it is ALiBi with learned slopes (of 0.01 a token or more).
    """

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        p_H, a_H = bounded(self.p_H, high=2.0), bounded(self.a_H)

        def mod(score, b, h, i, j):
            return score - a_H[h] * distance(positions, b, i, j) ** p_H[h]

        return mod
