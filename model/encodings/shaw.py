"""Shaw's relative positions: a learned vector for each distance, read by the query."""

import torch
from torch import nn

from model.encodings import PositionEncoding, ScoreMod, Shape
from model.encodings.relative import clip_distance, distance, look_up


class Shaw(PositionEncoding):
    """score = q_i · (k_j + a[min(i − j, max_distance)]) / √d, a: one table a layer, shared by its heads.

    Shaw, Uszkoreit, Vaswani 2018, "Self-Attention with Relative Position Representations",
    https://arxiv.org/abs/1803.02155, equation 4, causal, so that only one side of the table exists. The values' table
    (equation 3) is left out: the paper's ablation finds no gain in it beside the keys' own.

    max_distance: the last row, in tokens; all that is further away shares it. null is an eighth of the training
    context (the paper's 16 for a context of 128). Raises ValueError where it is not in 1 .. context − 1.
    """

    relative = True

    def __init__(self, shape: Shape, max_distance: int | None = None):
        super().__init__(shape)
        self.max_distance = clip_distance(max_distance, shape.context // 8, shape)
        self.table_LNK = nn.Parameter(torch.empty(shape.num_layers, self.max_distance + 1, shape.head_dim))
        nn.init.normal_(self.table_LNK, std=shape.head_dim**-0.5)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        read_BHTN = self.read(q_BHTK, layer)

        def mod(score, b, h, i, j):
            row = distance(positions, b, i, j).long().clamp_max(self.max_distance)
            return score + look_up(read_BHTN, b, h, i, row)

        return mod

    def read(self, x_BHTK, layer: int):
        """x · a / √d of every token and row of the table: (B, H, T, N)."""
        return x_BHTK @ self.table_LNK[layer].to(x_BHTK.dtype).T * self.shape.head_dim**-0.5
