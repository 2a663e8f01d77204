"""Learned absolute position embeddings: a table with a row for each position of the training context."""

import torch
from torch import nn

from model.encodings import PositionEncoding, Shape


class Learned(PositionEncoding):
    """x_i + P[i], P starting as the token embeddings do, N(0, 1/width), as in GPT-2 (Radford et al. 2019) and BERT (https://arxiv.org/abs/1810.04805).

    length: rows of the table, in tokens; null is the training context. Undefined past the table: it refuses
    (ValueError) rather than wrap or clamp.
    """

    def __init__(self, shape: Shape, length: int | None = None):
        super().__init__(shape)
        self.max_length = shape.context if length is None else length
        if self.max_length < shape.context:
            raise ValueError(f"encoding.length={length}: shorter than the training context {shape.context}")
        self.table = nn.Parameter(torch.empty(self.max_length, shape.dim).normal_(std=shape.dim**-0.5))

    def embed(self, x_BTD, positions):
        return x_BTD + self.table[positions].to(x_BTD.dtype)
