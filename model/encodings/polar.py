"""PoPE, polar coordinates: content sets the magnitudes, position alone the angles."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import Shape
from model.encodings.rope import RoPE, rope_frequencies


class Polar(RoPE):
    """score = Σ_c softplus(q_ic) · softplus(k_jc) · cos((j − i)·θ_c + δ_c) / √d, with d frequencies θ_c = base^(−c/d).

    Gopalakrishnan et al. 2025, "Decoupling the 'What' and 'Where' With Polar Coordinate Positional Embeddings",
    https://arxiv.org/abs/2509.10534. RoPE turns a pair, whose own angle is content, and so mixes what with where; here
    each coordinate is a magnitude by itself, and its angle is position alone. q and k come back 2d wide, as the real
    and the imaginary parts of magnitude · exp(i·angle).

    base: the slowest coordinate turns once in about 2π·base tokens.
    phases: δ, learned by layer, head and coordinate, (num_layers, H, 1, K), radians, clamped to [−2π, 0] where it is
    used, as in the paper: one that has left the interval no longer learns. They start at 0, the paper's choice for
    length generalisation.
    Any head width will do, since no coordinate needs a partner. Raises ValueError for a base below 1.
    """

    turns_whole_heads = False

    def __init__(self, shape: Shape, base: float = 10_000.0):
        super().__init__(shape, base)
        self.constant("theta", rope_frequencies(2 * shape.head_dim, self.base))
        self.phases = nn.Parameter(torch.zeros(shape.num_layers, shape.num_heads, 1, shape.head_dim))

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        cos, sin = self.tables(positions, layer, q_BHTK.dtype)
        phase_H1K = self.phases[layer].to(cos.dtype).clamp(-2 * math.pi, 0.0)
        cos_k = cos * phase_H1K.cos() - sin * phase_H1K.sin()  # cosine of j·θ + δ
        sin_k = sin * phase_H1K.cos() + cos * phase_H1K.sin()
        return _cartesian(q_BHTK, cos, sin), _cartesian(k_BHTK, cos_k, sin_k), v_BHTK


def _cartesian(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """softplus(x) at the angles whose cosine and sine are given, as [real parts, imaginary parts]: (..., 2K)."""
    magnitude = F.softplus(x.to(cos.dtype))
    return torch.cat([magnitude * cos, magnitude * sin], dim=-1).to(x.dtype)
