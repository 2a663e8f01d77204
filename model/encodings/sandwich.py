"""Sandwich: the inner product of two sinusoidal embeddings as a bias, at another strength for each head."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, ScoreMod, Shape
from model.encodings.relative import all_distances, distance


def sandwich(distances_N: Tensor, width: int, base: float) -> Tensor:
    """Σ_k (cos(D / base^(2k/width)) − 1), k = 1 .. width/2: (N,), float64, 0 at D = 0.

    At width 2 and base 1 there is one wave of one radian a token:

    >>> sandwich(torch.tensor([0, 3]), width=2, base=1.0).round(decimals=2).tolist()
    [0.0, -1.99]
    """
    exponents = torch.arange(2, width + 1, 2, dtype=torch.float64, device=distances_N.device) / width
    return ((distances_N[:, None] * base**-exponents).cos() - 1).sum(-1)


class Sandwich(PositionEncoding):
    """score = q·k/√d + (H / 8h) · Σ_k cos((i − j) / base^(2k/width)), k = 1 .. width/2, heads h = 1 .. H.

    Chi, Fan, Rudnicky, Ramadge 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field
    Analysis", https://arxiv.org/abs/2212.10356. No parameters. Here the sum is taken relative to its value at distance
    0, a constant that softmax ignores and that bf16 would pay for in digits.

    width: twice the number of waves, 128 in the paper whatever the model's own. base: the slowest wave's length is
    2π·base tokens. Raises ValueError for an odd width or a base that is not above 1.
    """

    relative = True
    distance_bias = True

    def __init__(self, shape: Shape, width: int = 128, base: float = 10_000.0):
        super().__init__(shape)
        if width < 2 or width % 2:
            raise ValueError(f"encoding.width={width}: waves come in pairs, so it must be even and at least 2")
        if base <= 1:
            raise ValueError(f"encoding.base={base}: must be above 1")
        self.width, self.base = width, base
        ratios = torch.arange(1, shape.num_heads + 1, dtype=torch.float64) * 8 / shape.num_heads
        self.register_buffer("ratios_H", ratios, persistent=False)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        table_HN = sandwich(all_distances(positions, self.reach), self.width, self.base) / self.ratios_H[:, None]
        table_HN = table_HN.to(torch.promote_types(q_BHTK.dtype, torch.float32))

        def mod(score, b, h, i, j):
            return score + table_HN[h, distance(positions, b, i, j)]

        return mod
