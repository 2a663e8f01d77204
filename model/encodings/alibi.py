"""ALiBi: a linear penalty on distance, with a fixed slope for each head."""

import math

import torch
from torch import Tensor

from model.encodings import PositionEncoding, ScoreMod, Shape, take


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes m_h of each head, shape (H,), float64: 2^(−8h/H), h = 1..H, where H is a power of two.

    Otherwise, as in the authors' code, the slopes of the next lower power of two, then every other one of the next
    higher power of two:

    >>> alibi_slopes(8).tolist()[:3]
    [0.5, 0.25, 0.125]
    >>> alibi_slopes(6).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8 * torch.arange(1, lower + 1, dtype=torch.float64) / lower)
    if lower == num_heads:
        return slopes
    return torch.cat([slopes, alibi_slopes(2 * lower)[0::2][: num_heads - lower]])


class ALiBi(PositionEncoding):
    """score = q·k/√d − m_h · (i − j).

    Press, Smith, Lewis 2022, "Train Short, Test Long", https://arxiv.org/abs/2108.12409. The authors' code adds
    m_h · j instead, which differs by a constant in each row and so is the same under softmax.
    """

    relative = True
    distance_bias = True

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.register_buffer("slopes_H", alibi_slopes(shape.num_heads).float(), persistent=False)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        def mod(score, b, h, i, j):
            return score - self.slopes_H[h] * (take(positions, b, i) - take(positions, b, j))

        return mod
