"""Sinusoidal position embeddings whose size is learned."""

import torch
from torch import nn

from model.encodings import Shape
from model.encodings.sinusoidal import Sinusoidal


class ScaledSinusoidal(Sinusoidal):
    """x_i + scale · PE(i), the scale a learned scalar.

    As in FLASH, Hua et al. 2022, https://arxiv.org/abs/2202.10447, and x-transformers. It starts at
    width^(−1/2), where `sinusoidal` stands fixed.

    scale: where it starts. base: see Sinusoidal. Raises ValueError as Sinusoidal does.
    """

    def __init__(self, shape: Shape, base: float = 10_000.0, scale: float | None = None):
        super().__init__(shape, base, scale)
        self.scale = nn.Parameter(torch.full((1,), float(self.scale)))  # FSDP shards no scalar
