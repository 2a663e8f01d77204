"""HoPE: RoPE without its slow pairs, which carry content alone."""

import math

import torch

from model.encodings import Shape
from model.encodings.rope import RoPE


class HoPE(RoPE):
    """RoPE in which pairs with a wavelength 2π/θ_k beyond the training context do not turn.

    Chen et al. 2025, "HoPE: A Novel Positional Encoding Without Long-Term Decay for Enhanced Context Awareness and
    Extrapolation", https://arxiv.org/abs/2410.21216 (one of several methods of that name: the High-frequency rotary
    one). A slow pair never completes a turn in training, so that beyond the context it shows angles never seen; here it
    is position-independent instead, and q·k no longer decays with distance.

    longest: the longest wavelength that still turns, in training contexts. base, interleaved: see RoPE.
    Departs from the paper: no code of the authors is public, and the exact cut is our reading, a whole turn within the
    context. At base 10,000, L = 128 and head width 32, 6 of 16 pairs turn:

    >>> hope = HoPE(Shape(dim=32, num_heads=1, num_layers=1, context=128))
    >>> int((hope.frequencies(layer=0) > 0).sum())
    6

    Raises ValueError where not a single pair would turn.
    """

    def __init__(self, shape: Shape, base: float = 10_000.0, interleaved: bool = False, longest: float = 1.0):
        super().__init__(shape, base, interleaved)
        if longest * shape.context < 2 * math.pi:
            raise ValueError(
                f"encoding.longest={longest}: no pair has a wavelength below {longest * shape.context} tokens "
                f"(the shortest is 2π); raise it, or the context {shape.context}"
            )
        self.longest = longest
        turns = 2 * math.pi / self.theta <= longest * shape.context
        self.constant("theta", torch.where(turns, self.theta, 0.0))
