"""Sandwich: the inner product of two sinusoidal embeddings as a bias, at another strength for each head."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, ScoreMod, Shape
from model.encodings.relative import all_distances, distance
from model.encodings.rope import rope_frequencies


def sandwich(distances_N: Tensor, frequencies_P: Tensor) -> Tensor:
    """Σ_k (cos(D · θ_k) − 1), θ_k = base^(−2k/width), k = 0 .. width/2 − 1: (N,), float64, 0 at D = 0.

    At width 4 and base 100 the waves are of 1 and of 0.1 radians a token: cos 3 + cos 0.3 − 2 three tokens back. With
    the paper's 128 and 10,000, 100 tokens back the sum is 33.46 below the 64 of the start.

    >>> sandwich(torch.tensor([0, 3]), rope_frequencies(4, base=100)).round(decimals=2).tolist()
    [0.0, -2.03]
    >>> sandwich(torch.tensor([100]), rope_frequencies(128, base=10_000)).round(decimals=2).tolist()
    [-33.46]
    """
    return ((distances_N[:, None] * frequencies_P).cos() - 1).sum(-1)


class Sandwich(PositionEncoding):
    """score = q·k/√d + (H / 8h) · Σ_k cos((i − j) / base^(2k/width)), k = 0 .. width/2 − 1, heads h = 1 .. H.

    Chi, Fan, Rudnicky, Ramadge 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field
    Analysis", https://arxiv.org/abs/2212.10356. No parameters. The k are those of the sinusoids that the authors'
    listing (appendix) multiplies. Their equation counts them from 1 to width/2, with a slower wave for the fastest: at
    12 heads the first one's bias would differ by up to 3 nats. Here the sum is taken relative to its value at distance
    0, a constant that softmax ignores and that bf16 would pay for in digits.

    width: twice the number of waves, 128 in the paper whatever the model's own. base: the slowest wave's length is
    2π·base^(1 − 2/width) tokens. Raises ValueError for an odd width, one above 65,536, or a base that is not above 1.
    """

    relative = True
    distance_bias = True

    def __init__(self, shape: Shape, width: int = 128, base: float = 10_000.0):
        super().__init__(shape)
        if not 2 <= width <= 65_536 or width % 2:
            raise ValueError(f"encoding.width={width}: waves come in pairs: must be even, and lie in 2 .. 65,536")
        if base <= 1:
            raise ValueError(f"encoding.base={base}: must be above 1")
        self.width, self.base = width, base
        H = shape.num_heads
        self.constant("theta", rope_frequencies(width, base))
        self.constant("ratios_H1", torch.arange(1, H + 1, dtype=torch.float64)[:, None] * 8 / H)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        table_HN = sandwich(all_distances(positions, self.reach), self.theta) / self.ratios_H1
        table_HN = table_HN.to(torch.promote_types(q_BHTK.dtype, torch.float32))

        def mod(score, b, h, i, j):
            return score + table_HN[h, distance(positions, b, i, j)]

        return mod
