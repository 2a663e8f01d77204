"""Selective RoPE: the angle advances by a step that depends on each token's content."""

import torch
import torch.nn.functional as F
from torch import nn

from model.encodings import Shape
from model.encodings.rope import RoPE, cos_sin, turn


class RoPESelective(RoPE):
    """q_i and k_i turn by φ_i = θ_k · (exp(b_hk) · i + Σ_{t ≤ i} w_hk · x_t / |x_t|): a sum over the text so far.

    x_t is the block's normalised input at token t, θ_k = base^(−2k/d); b (H, P) and w (H, P, D) are learned in every
    layer and start at 0, so that the model starts as exactly RoPE. The score of i and j depends on what lies between
    them: φ_i − φ_j = θ_k · (exp(b_hk) · (i − j) + Σ_{j < t ≤ i} w_hk · x_t / |x_t|). So it is not `relative`.

    After Movahedi et al. 2025, "Selective Rotary Position Embedding", https://arxiv.org/abs/2511.17388: the running sum
    of projections of the L2-normalised input, times RoPE's frequencies. Departures from the authors' code: w has full
    rank and starts at 0 (theirs: rank 16, random); the step of RoPE, exp(b), is always there and counts positions
    (theirs: an option, off); no width-4 convolution over the projections, no gate on them; the norm is of all of x, not
    of each head's part. The sum is float64 (the projection float32 or better): it grows with the length.

    base: as in RoPE (the authors: 500 000). Raises ValueError for an odd head width or a base below 1.
    """

    relative = False

    def __init__(self, shape: Shape, base: float = 10_000.0, interleaved: bool = False):
        super().__init__(shape, base, interleaved)
        heads = (shape.num_layers, shape.num_heads, shape.head_dim // 2)
        self.log_rate_LHP = nn.Parameter(torch.zeros(heads))
        self.step_LHPD = nn.Parameter(torch.zeros(*heads, shape.dim))

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        dtype = torch.promote_types(x_BTD.dtype, torch.float32)
        if positions.ndim == 2:
            positions = positions[:, None]
        with torch.autocast(x_BTD.device.type, enabled=False):
            direction_BTD = F.normalize(x_BTD.to(dtype), dim=-1)
            steps_BHTP = torch.einsum("btd,hpd->bhtp", direction_BTD, self.step_LHPD[layer].to(dtype))
            rate_HP = self.log_rate_LHP[layer].double().exp()
            clock_BHTP = rate_HP[:, None] * positions[..., None] + steps_BHTP.double().cumsum(dim=2)
            cos, sin = cos_sin(clock_BHTP * self.frequencies(layer), q_BHTK.dtype)
        return turn(q_BHTK, cos, sin, self.interleaved), turn(k_BHTK, cos, sin, self.interleaved), v_BHTK
