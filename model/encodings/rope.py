"""RoPE: pairs of q's and k's coordinates turn by an angle proportional to the position."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, Shape


def rope_frequencies(head_dim: int, base: float) -> Tensor:
    """θ_k = base^(−2k/d) for k = 0 .. d/2 − 1, radians a token: shape (d/2,), float64."""
    return base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x (..., 2P) with each of its P pairs turned by the angle whose cosine and sine are given (..., P).

    Pairs are (2k, 2k+1) where interleaved (GPT-J, Llama's complex form), else (k, k + P) (GPT-NeoX): the same method
    up to a permutation of the coordinates. Computed in the tables' dtype (float32 or better), returned in x's.
    """
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class RoPE(PositionEncoding):
    """q_i and k_j turned by i·θ and j·θ, so that their product depends on i − j.

    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", https://arxiv.org/abs/2104.09864.

    base: the slowest pair turns once in about 2π·base tokens. interleaved: the layout of pairs, see `turn`.
    Raises ValueError for an odd head width or a base below 1.
    """

    relative = True

    def __init__(self, shape: Shape, base: float = 10_000.0, interleaved: bool = False):
        super().__init__(shape)
        if shape.head_dim % 2:
            raise ValueError(f"head_dim={shape.head_dim}: {type(self).__name__} turns pairs, so it must be even")
        if base < 1:
            raise ValueError(f"encoding.base={base}: must be at least 1")
        self.base, self.interleaved = base, interleaved

    def frequencies(self, layer: int) -> Tensor:
        """Radians a token of each pair, (P,) or (H, 1, P), float64."""
        return rope_frequencies(self.shape.head_dim, self.base)

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        cos, sin = self.cos_sin(positions, layer, q_BHTK.dtype)
        return turn(q_BHTK, cos, sin, self.interleaved), turn(k_BHTK, cos, sin, self.interleaved), v_BHTK

    def cos_sin(self, positions: Tensor, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every position's angles, (T, P) or (B, 1, T, P), float32 or q's dtype if better."""
        frequencies = self.frequencies(layer).to(positions.device)
        if positions.ndim == 2:
            positions = positions[:, None]
        angles = positions[..., None].double() * frequencies
        dtype = torch.promote_types(dtype, torch.float32)
        return angles.cos().to(dtype), angles.sin().to(dtype)
