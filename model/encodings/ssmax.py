"""Scalable-Softmax: a learned multiple of ln n on the scores, around any encoding."""

import math

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape
from model.encodings.logn import QueryScale


class SSMax(QueryScale):
    """q_i × s·ln(n), n the keys that row i sees, s learned by layer and head: softmax with base n^s in the place of e.

    Nakanishi 2025, "Scalable-Softmax Is Superior for Attention", https://arxiv.org/abs/2501.19399, the form without a
    bias. Row 0 sees one key and has the score 0, which changes nothing under softmax.

    inner: the encoding it goes around.
    scale: where s starts; null is 1 / the mean of ln n over the training context, so that scores keep their mean size.
    At the paper's context of 1,024 that is its 0.168:

    >>> round(initial_scale(context=1024), 3)
    0.168

    Raises ValueError for a scale that is not positive.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, scale: float | None = None):
        super().__init__(shape, inner)
        scale = initial_scale(shape.context) if scale is None else scale
        if scale <= 0:
            raise ValueError(f"encoding.scale={scale}: must be positive")
        self.scale_LH1 = nn.Parameter(torch.full((shape.num_layers, shape.num_heads, 1), float(scale)))

    def scales(self, n_T: Tensor, layer: int) -> Tensor:
        return self.scale_LH1[layer].double() * n_T.log()


def initial_scale(context: int) -> float:
    """1 / mean of ln n over n = 1..context; 1 for a context of one token, where ln n is 0."""
    return context / math.lgamma(context + 1) if context > 1 else 1.0
