"""A local window around another encoding: the control for gains that come from not looking far."""

import torch

from model.encodings import PositionEncoding, Shape, Wrapper


class Window(Wrapper):
    """score = the inner encoding's where i − j < W, else −∞: row i sees itself and the W − 1 tokens before it.

    The sliding window of Longformer (Beltagy, Peters, Cohan 2020, https://arxiv.org/abs/2004.05150), here in training
    and evaluation alike. A method that is no better beyond its training length than this one with the same inner
    encoding has gained by forgetting alone. Information still travels: with n layers a token can reach n · (W − 1)
    tokens back.

    inner: the encoding it goes around. window: W, tokens; null is half the training context. Raises ValueError for a
    window outside of 1 .. context (a longer one hides nothing in training), and for an inner encoding that computes its
    weights from whole rows, where a score of −∞ may not mean "not seen".
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, window: int | None = None):
        super().__init__(shape, inner)
        self.window = max(1, shape.context // 2) if window is None else window
        if not 1 <= self.window <= shape.context:
            raise ValueError(
                f"encoding.window={window}: must lie in 1 .. {shape.context}, the training context; a longer one hides "
                "nothing in training"
            )
        if inner.rescores:
            raise ValueError(
                f"encoding.inner={type(inner).__name__}: computes its weights from whole rows of scores; choose one "
                "that changes scores point by point, like rope or alibi"
            )
        self.distance_bias = self.separable_bias = False  # −∞ is no number that an executor could add
        self.narrow(self.window)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        inner = super().score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)

        def mod(score, b, h, i, j):
            if inner is not None:
                score = inner(score, b, h, i, j)
            return torch.where(i - j < self.window, score, float("-inf"))

        return mod
