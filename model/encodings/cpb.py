"""Continuous position bias: a small network gives every head's bias from the distance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, ScoreMod, Shape, at_least_float32
from model.encodings.relative import all_distances, distance
from model.encodings.rope import rope_frequencies
from model.encodings.sinusoidal import waves


class CPB(PositionEncoding):
    """score = q·k/√d + G_h(f(i − j)), G = Linear, ReLU, Linear, one network a layer.

    Liu et al. 2022, "Swin Transformer V2", https://arxiv.org/abs/2111.09883, equation 4, whose features are the "log"
    ones; their code bounds the bias by 16 · sigmoid, the paper does not, and neither does this. The same network is the
    "dynamic position bias" of CrossFormer (Wang et al. 2021, https://arxiv.org/abs/2108.00154), with "linear" features.
    The last layer has no bias (softmax ignores a constant) and starts at zero: then it is NoPE.

    features: what the network sees of the distance D in tokens: "linear" D / context; "log" ln(1 + D); "fourier" 32
    sines and cosines of D, whose slowest wave is about two training contexts long, so that its phase is seen in
    training. hidden: the network's width. Raises ValueError for other features or a hidden width below 1.
    """

    relative = True
    distance_bias = True

    FEATURES = ("linear", "log", "fourier")
    WAVES = 32

    def __init__(self, shape: Shape, features: str = "log", hidden: int = 64):
        super().__init__(shape)
        if features not in self.FEATURES:
            raise ValueError(f"encoding.features={features!r}: must be one of {', '.join(self.FEATURES)}")
        if hidden < 1:
            raise ValueError(f"encoding.hidden={hidden}: must be at least 1")
        self.features = features
        if features == "fourier":
            self.constant("theta", rope_frequencies(self.WAVES, base=max(1.0, shape.context / math.pi)))
        width = self.WAVES if features == "fourier" else 1
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, shape.num_heads, bias=False))
            for _ in range(shape.num_layers)
        )
        for network in self.networks:
            nn.init.zeros_(network[-1].weight)

    def featurise(self, distances_N: Tensor) -> Tensor:
        """f(D): (N, width), float64."""
        if self.features == "linear":
            return distances_N[:, None].double() / self.shape.context
        if self.features == "log":
            return distances_N[:, None].double().log1p()
        return waves(distances_N, self.theta)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        first, _, last = self.networks[layer]
        with torch.autocast(positions.device.type, enabled=False):  # bf16 can't tell distances above 256 apart
            weight, bias, out = (at_least_float32(p) for p in (first.weight, first.bias, last.weight))
            features_NF = self.featurise(all_distances(positions, self.reach)).to(weight.dtype)
            table_NH = F.linear(F.relu(F.linear(features_NF, weight, bias)), out)

        def mod(score, b, h, i, j):
            return score + table_NH[distance(positions, b, i, j), h]

        return mod
