"""RoPE with learned frequencies."""

import torch
from torch import nn

from model.encodings import Shape
from model.encodings.rope import RoPE


class RoPELearned(RoPE):
    """θ_lhk = base^(−2k/d) · exp(δ_lhk): each head of each layer learns the frequencies of its own pairs.

    One set a layer and head, as in RoPE-Mixed (Heo et al. 2024, "Rotary Position Embedding for Vision Transformer",
    https://arxiv.org/abs/2403.13298). Departures: text has one axis; and the logarithm of θ is learned, since the
    frequencies span four decades and have to stay positive. What is stored is its distance δ from RoPE's, 0 at the
    start: the model starts as exactly RoPE, and weight decay, if any, pulls towards RoPE and not towards θ = 1.
    """

    def __init__(self, shape: Shape, base: float = 10_000.0, interleaved: bool = False):
        super().__init__(shape, base, interleaved)
        self.log_ratio_LHP = nn.Parameter(torch.zeros(shape.num_layers, shape.num_heads, shape.head_dim // 2))

    def frequencies(self, layer):
        return super().frequencies(layer) * self.log_ratio_LHP[layer].double().exp()[:, None]
