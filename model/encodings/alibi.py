"""ALiBi: a linear penalty on distance, with a fixed slope for each head."""

import math

import torch
from torch import Tensor

from model.encodings import PositionEncoding, ScoreMod, Shape, take


def alibi_slopes(num_heads: int, exponent: float = 8.0) -> Tensor:
    """Slopes m_h of each head, shape (H,), float64: 2^(−8h/H), h = 1..H, where H is a power of two.

    Otherwise, as in the authors' code, the slopes of the next lower power of two, then every other one of the next
    higher power of two:

    >>> alibi_slopes(8).tolist()[:3]
    [0.5, 0.25, 0.125]
    >>> alibi_slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-exponent * torch.arange(1, lower + 1, dtype=torch.float64) / lower)
    if lower == num_heads:
        return slopes
    return torch.cat([slopes, alibi_slopes(2 * lower, exponent)[0::2][: num_heads - lower]])


class ALiBi(PositionEncoding):
    """score = q·k/√d − m_h · (i − j).

    Press, Smith, Lewis 2022, "Train Short, Test Long", https://arxiv.org/abs/2108.12409. The authors' code adds
    m_h · j instead, which differs by a constant in each row and so is the same under softmax.

    exponent: the flattest head's slope is 2^(−exponent); 8 in the paper (MPT calls it alibi_bias_max). Raises
    ValueError where it is not positive.
    """

    relative = True
    distance_bias = True
    separable_bias = True

    def __init__(self, shape: Shape, exponent: float = 8.0):
        super().__init__(shape)
        if exponent <= 0:
            raise ValueError(f"encoding.exponent={exponent}: must be positive, or slopes would favour what is far")
        self.exponent = exponent
        self.constant("slopes_H", alibi_slopes(shape.num_heads, exponent))

    def slopes(self) -> Tensor:
        """Scores lost per token of distance, (H,), float64."""
        return self.slopes_H

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        dtype = torch.promote_types(q_BHTK.dtype, torch.float32)
        slopes_H = self.slopes().to(dtype)

        def mod(score, b, h, i, j):
            return score - slopes_H[h] * (take(positions, b, i) - take(positions, b, j))

        return mod
