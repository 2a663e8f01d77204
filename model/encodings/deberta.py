"""DeBERTa: disentangled attention, in which content reads position and position reads content."""

import math

import torch
from torch import nn

from model.encodings import PositionEncoding, ScoreMod, Shape
from model.encodings.relative import distance, look_up


class DeBERTa(PositionEncoding):
    """score = (q_i · k_j + q_i · Kr[δ(i, j)] + k_j · Qr[δ(j, i)]) / √(3d), δ(i, j) = clip(i − j + span, 0, 2·span − 1).

    He et al. 2021, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", https://arxiv.org/abs/2006.03654,
    equations 2 to 4. Kr = P·W_Kr and Qr = P·W_Qr: P (2·span, dim) shared by the layers, the projections a layer's own,
    here without bias.

    span: k in the paper, in tokens; null is the longest distance in training, context − 1, so that no row that a longer
    text reads is left untrained (the paper has 512 and 512). key_first: the third term's row is δ(j, i), as the paper
    has it; false takes δ(i, j), as the authors' code and transformers do. Under a causal mask the paper's rows of P for
    the two terms are apart (i − j from span on, j − i up to span), the code's are the same. Raises ValueError where
    span is not in 1 .. context − 1.
    """

    relative = True

    def __init__(self, shape: Shape, span: int | None = None, key_first: bool = True):
        super().__init__(shape)
        span = shape.context - 1 if span is None else span
        if not 1 <= span < shape.context:
            raise ValueError(f"encoding.span={span}: must lie in 1 .. {shape.context - 1}, or rows are never trained")
        self.span, self.key_first = span, key_first
        self.table_ND = nn.Parameter(torch.empty(2 * span, shape.dim).normal_(std=shape.dim**-0.5))
        size = (shape.num_layers, shape.num_heads, shape.dim, shape.head_dim)
        self.key_LHDK = nn.Parameter(torch.empty(size).normal_(std=shape.dim**-0.5))
        self.query_LHDK = nn.Parameter(torch.empty(size).normal_(std=shape.dim**-0.5))

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        return q_BHTK / math.sqrt(3), k_BHTK, v_BHTK

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        near_to_far_ND = self.table_ND[self.span :]  # row D is δ(i, j) of distance D, up to span − 1
        far_ND = self.table_ND[: self.span + 1].flip(0) if self.key_first else near_to_far_ND  # of δ(j, i), up to span
        scale = self.shape.head_dim**-0.5
        key_HNK = (near_to_far_ND @ self.key_LHDK[layer]).to(q_BHTK.dtype)
        query_HNK = (far_ND @ self.query_LHDK[layer]).to(q_BHTK.dtype)
        content_BHTN = q_BHTK @ key_HNK.mT * scale
        position_BHTN = k_BHTK @ query_HNK.mT * (scale / math.sqrt(3))
        last, last_far = len(near_to_far_ND) - 1, len(far_ND) - 1

        def mod(score, b, h, i, j):
            row = distance(positions, b, i, j).long()
            by_query = look_up(content_BHTN, b, h, i, row.clamp_max(last))
            return score + by_query + look_up(position_BHTN, b, h, j, row.clamp_max(last_far))

        return mod
