"""RoPE with a base for each head."""

import torch

from model.encodings import Shape
from model.encodings.rope import RoPE, check_base, rope_frequencies


class RoPEMultiscale(RoPE):
    """θ_hk = base_h^(−2k/d), base_h spaced evenly in the logarithm from lowest_base to highest_base over the heads.

    This project's form of an idea in circulation (no one paper): the first heads resolve what is near, the last turn so
    slowly that they stay unambiguous far away, like ALiBi's slopes (https://arxiv.org/abs/2108.12409). One head alone
    gets the geometric mean, which is RoPE's 10 000 by default.

    >>> shape = Shape(dim=32, num_heads=4, num_layers=1, context=16)
    >>> [round(base) for base in RoPEMultiscale(shape, lowest_base=10, highest_base=10_000).bases]
    [10, 100, 1000, 10000]

    lowest_base, highest_base: both RoPE's base make it RoPE. Raises ValueError below 1 or in the wrong order.
    """

    def __init__(self, shape: Shape, lowest_base: float = 100.0, highest_base: float = 1e6):
        super().__init__(shape, check_base(lowest_base, "lowest_base"))
        if not highest_base >= lowest_base:
            raise ValueError(
                f"encoding.highest_base={highest_base}: must be at least encoding.lowest_base={lowest_base}"
            )
        H = shape.num_heads
        exponents = [h / (H - 1) for h in range(H)] if H > 1 else [0.5]
        self.bases = [lowest_base * (highest_base / lowest_base) ** e for e in exponents]
        self.lowest_base, self.highest_base = lowest_base, highest_base
        bases_H11 = torch.tensor(self.bases, dtype=torch.float64)[:, None, None]
        self.constant("theta", rope_frequencies(shape.head_dim, bases_H11))
