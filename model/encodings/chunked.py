"""Attention within chunks of the text around another encoding, as in the local layers of Llama 4."""

import torch

from model.encodings import PositionEncoding, Shape, Wrapper


class Chunked(Wrapper):
    """score = the inner encoding's where ⌊i / c⌋ = ⌊j / c⌋, else −∞: row i sees its own chunk of c tokens up to itself.

    Llama 4 (Meta 2025, https://ai.meta.com/blog/llama-4-multimodal-intelligence/), `attention_chunk_size` in the
    transformers library: 8,192 tokens, in the three of four layers that have RoPE. Unlike a window it forgets all at
    once, where a chunk begins, and several such layers reach no further than one: what joins the chunks is layers that
    see everything.

    inner: the encoding it goes around. chunk: c, tokens; null is a quarter of the training context. Raises ValueError
    for a chunk outside of 1 .. context, and for an inner encoding that computes its weights from whole rows.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, chunk: int | None = None):
        super().__init__(shape, inner)
        self.chunk = max(1, shape.context // 4) if chunk is None else chunk
        if not 1 <= self.chunk <= shape.context:
            raise ValueError(
                f"encoding.chunk={chunk}: must lie in 1 .. {shape.context}, the training context; a longer one hides "
                "nothing in training"
            )
        if inner.rescores:
            raise ValueError(
                f"encoding.inner={type(inner).__name__}: computes its weights from whole rows of scores; choose one "
                "that changes scores point by point, like rope or alibi"
            )
        self.relative = self.distance_bias = self.separable_bias = self.order_blind = False
        self.narrow(self.chunk)
        self.band = min(self.chunk, inner.band or self.chunk)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        inner = super().score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)

        def mod(score, b, h, i, j):
            if inner is not None:
                score = inner(score, b, h, i, j)
            return torch.where(i // self.chunk == j // self.chunk, score, float("-inf"))

        return mod
