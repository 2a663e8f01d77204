"""Sinusoidal position embeddings: fixed sines and cosines added to the token embeddings."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, Shape
from model.encodings.rope import rope_frequencies


def sinusoids(positions: Tensor, width: int, base: float = 10_000.0) -> Tensor:
    """PE(i, 2k) = sin(i / base^(2k/width)), PE(i, 2k+1) = cos(same): (..., width), float64.

    The worked example in circulation, width 4 and base 100, tokens 0 to 3:

    >>> sinusoids(torch.arange(4), width=4, base=100).round(decimals=2).tolist()[1]
    [0.84, 0.54, 0.1, 1.0]
    """
    return waves(positions, rope_frequencies(width, base).to(positions.device))


def waves(positions: Tensor, frequencies_P: Tensor) -> Tensor:
    """Sine and cosine in turn of each position times each frequency: (..., 2P), float64."""
    angles = positions[..., None].double() * frequencies_P
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class Sinusoidal(PositionEncoding):
    """x_i + scale · PE(i).

    Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762, section 3.5.

    scale: size of the sinusoid (its root mean square is scale/√2). In the paper the embeddings have unit variance
    (initialised to width^(−1/2), multiplied by √width) and the scale is 1; here they are not multiplied, so null is
    width^(−1/2), which keeps the paper's ratio. It matters: a sinusoid of size 1 drowns the words.
    Raises ValueError for an odd width, a base below 1 or a scale that is not positive.
    """

    def __init__(self, shape: Shape, base: float = 10_000.0, scale: float | None = None):
        super().__init__(shape)
        scale = shape.dim**-0.5 if scale is None else scale
        if shape.dim % 2:
            raise ValueError(f"dim={shape.dim}: sinusoids come in pairs, so the width must be even")
        if not base >= 1:
            raise ValueError(f"encoding.base={base}: must be at least 1")
        if not scale > 0:
            raise ValueError(f"encoding.scale={scale}: must be positive")
        self.base, self.scale = base, scale
        self.constant("theta", rope_frequencies(shape.dim, base))

    def embed(self, x_BTD, positions):
        return x_BTD + (self.scale * waves(positions, self.theta)).to(x_BTD.dtype)
