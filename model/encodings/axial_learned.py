"""Learned position embeddings on three axes of a text: token in the stream, line, token in its line."""

import torch
from torch import nn

from model.encodings import PositionEncoding, Shape, at_least_float32
from model.encodings.coordinates import AXES, line_coordinates, separator_ids


class AxialLearned(PositionEncoding):
    """x_i + Σ_a P_a[coordinate a of token i], a table for each of the axes AXES.

    The learned absolute embedding of GPT-2, for each coordinate by itself and summed, as the axial embeddings of images
    (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929, appendix D.4, "2-D positional embedding", which
    concatenates; the sum is BERT's way with its segments, https://arxiv.org/abs/1810.04805).

    unit: what separators end, "line" or "sentence". length: rows of each table, tokens; null is the training context.
    No coordinate exceeds the token's place in the stream, so that all tables end together: a longer sequence is refused
    (ValueError), and within `length` no line is too long and no text has too many. Rows that few tokens of the training
    text reach (long lines) stay near where they started, N(0, 1/width).
    Raises ValueError for a text without separators of the unit, or a length below the training context.
    """

    def __init__(self, shape: Shape, unit: str = "line", length: int | None = None):
        super().__init__(shape)
        self.constant("separators", torch.tensor(separator_ids(shape, unit)))
        self.max_length = shape.context if length is None else length
        if self.max_length < shape.context:
            raise ValueError(f"encoding.length={length}: shorter than the training context {shape.context}")
        self.tables_ATD = nn.Parameter(torch.empty(len(AXES), self.max_length, shape.dim).normal_(std=shape.dim**-0.5))

    def positions(self, tokens_BT):
        return line_coordinates(tokens_BT, self.separators)

    def embed(self, x_BTD, positions):
        axes = torch.arange(len(AXES), device=positions.device)
        rows_BTAD = at_least_float32(self.tables_ATD[axes, positions])
        return x_BTD + rows_BTAD.sum(dim=-2).to(x_BTD.dtype)
