"""Transformer-XL: the query reads a projected sinusoid of the distance, with a bias of its own for each term."""

import torch
from torch import nn

from model.encodings import PositionEncoding, Shape
from model.encodings.rope import rope_frequencies, turn
from model.encodings.sinusoidal import waves


class TransformerXL(PositionEncoding):
    """score = ((q_i + u) · k_j + (q_i + v) · W_R R[i − j]) / √d, R[D] = (cos D·θ, sin D·θ), θ_k = base^(−2k/width).

    Dai et al. 2019, "Transformer-XL", https://arxiv.org/abs/1901.02860, section 3.3; its recurrence over segments is
    another matter and not here. u and v a head, shared by the layers as in the authors' code; W_R a layer and head.

    R[i − j] is built for no pair: with g = W_Rᵀ (q_i + v) = (g_cos, g_sin), the second term is (g_cos, −g_sin) turned
    by i·θ, as RoPE turns, times (1, 0) turned by j·θ: (cos j·θ, sin j·θ). So q and k come back wider by `width`, and
    there is no score_mod.

    base: the slowest wave's length is 2π·base tokens. width: of R; null is the model's width, as in the paper. untied:
    u and v of each layer's own. Raises ValueError for an odd width or a base below 1.
    """

    relative = True

    def __init__(self, shape: Shape, base: float = 10_000.0, width: int | None = None, untied: bool = False):
        super().__init__(shape)
        width = shape.dim if width is None else width
        if width < 2 or width % 2:
            raise ValueError(f"encoding.width={width}: waves come in pairs, so it must be even and at least 2")
        if base < 1:
            raise ValueError(f"encoding.base={base}: must be at least 1")
        self.base, self.width, self.untied = base, width, untied
        self.constant("theta", rope_frequencies(width, base))
        N, H, K = shape.num_layers if untied else 1, shape.num_heads, shape.head_dim
        self.u_NHK = nn.Parameter(torch.empty(N, H, K).normal_(std=0.02))
        self.v_NHK = nn.Parameter(torch.empty(N, H, K).normal_(std=0.02))
        self.project_LHKR = nn.Parameter(torch.empty(shape.num_layers, H, K, width).normal_(std=width**-0.5))

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        dtype = q_BHTK.dtype
        u_HK, v_HK = (bias[layer if self.untied else 0].to(dtype) for bias in (self.u_NHK, self.v_NHK))
        g_cos, g_sin = ((q_BHTK + v_HK[:, None]) @ self.project_LHKR[layer].to(dtype)).chunk(2, dim=-1)
        cos, sin = self.cos_sin(positions, torch.promote_types(dtype, torch.float32))
        turned_BHTR = turn(torch.cat([g_cos, -g_sin], dim=-1), cos, sin, interleaved=False).to(dtype)
        waves_BHTR = torch.cat([cos, sin], dim=-1).to(dtype).expand(turned_BHTR.shape)
        q_BHTK, k_BHTK = torch.cat([q_BHTK + u_HK[:, None], turned_BHTR], -1), torch.cat([k_BHTK, waves_BHTR], -1)
        return q_BHTK, k_BHTK, v_BHTK

    def cos_sin(self, positions, dtype):
        """Cosines and sines of every position's angles, (T, R/2) or (B, 1, T, R/2)."""
        in_turn = waves(positions if positions.ndim == 1 else positions[:, None], self.theta).to(dtype)
        return in_turn[..., 1::2], in_turn[..., 0::2]
