"""A local window with sinks: each token sees the last few tokens, and the first few of all."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding
from model.extensions import Extension, view, with_plain_positions
from model.extensions.distances import DistanceExtension, distance_reason


class Windowed:
    """Mixin of a view on NoPE or on a bias of the distance: −inf for what is hidden, the sinks no further than near."""

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        inner = super().score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)

        def mod(score, b, h, i, j):
            near = i - j < self.near
            if inner is not None:
                score = inner(score, b, h, torch.where(near, i, self.last_place(i)), j)
            return torch.where(near | (j < self.sinks), score, float("-inf"))

        return mod

    def last_place(self, i: Tensor) -> Tensor:
        """Where row i stands in the cache, seen from the sinks: it never comes further than the cache is long. (A key
        that is hidden may lie behind it, at a negative distance, which a table can't look up: not further than i.)"""
        return i.clamp_max(self.near + self.sinks - 1)


class Window(Extension):
    """Row i sees the keys j with i − j < w and the first `sinks` keys; positions are those in that cache.

    StreamingLLM (Xiao et al. 2023, https://arxiv.org/abs/2309.17453) and LM-Infinite (Han et al. 2023,
    https://arxiv.org/abs/2308.16137), whose distance limit the cache positions imply: a sink j stands
    min(i, w + sinks − 1) − j before row i, so that no distance exceeds the cache. Computed in one pass over the text,
    not token by token, which is the same: a row's cache is a function of the row.

    It fits what has a meaning in a cache: NoPE, RoPE and its variants by rotation, and biases of the distance. Position
    embeddings are absolute, and other methods look at content between i and j or at i itself.

    sinks: first tokens that stay visible; the authors' 4. window: w, tokens, the row itself included; null is
    L − sinks, so that the cache is as long as the training text, and within L nothing would change.
    Raises ValueError for negative sinks or a window below 1, or a cache longer than L.
    """

    def __init__(self, window: int | None = None, sinks: int = 4):
        if sinks < 0:
            raise ValueError(f"extension.sinks={sinks}: must not be negative")
        if window is not None and window < 1:
            raise ValueError(f"extension.window={window}: must be at least 1 token")
        self.window, self.sinks = window, sinks

    def fits(self, encoding):
        if distance_reason(encoding) is None:
            return None
        if not (_only_bias_of_distance(encoding) and with_plain_positions(encoding)):
            return (
                f"{type(encoding).__name__} is neither a rotation nor a bias of the distance, so a cache can't shift it"
            )
        return None

    def extend(self, encoding, train_length, eval_length):
        if self.sinks >= train_length:
            raise ValueError(f"extension.sinks={self.sinks}: must be below the training length {train_length}")
        near = train_length - self.sinks if self.window is None else self.window
        if not 1 <= near <= train_length - self.sinks:
            raise ValueError(
                f"extension.window={near}: with {self.sinks} sinks it must lie in 1 .. {train_length - self.sinks}, so "
                f"that the cache is no longer than the training length {train_length}"
            )
        if _only_bias_of_distance(encoding):
            claims = dict.fromkeys(("distance_bias", "separable_bias", "relative"), False) | {"sees": near + self.sinks}
            return view(encoding, Windowed, near=near, sinks=self.sinks, **claims)
        return _RotatedWindow(near, self.sinks).extend(encoding, train_length, eval_length)


class _RotatedWindow(DistanceExtension):
    """The same for a rotation: the sinks are scored from the row's place in the cache, the rest as trained."""

    def __init__(self, window: int, sinks: int):
        super().__init__(window)
        self.sinks = sinks

    def near(self, train_length):
        return self.window

    def far(self, near, train_length, eval_length):
        return {
            "far_q": lambda i: i.clamp_max(near + self.sinks - 1),
            "far_k": lambda j: j,
            "seen_far": lambda j: j < self.sinks,
            "sees": near + self.sinks,
        }


def _only_bias_of_distance(encoding: PositionEncoding) -> bool:
    cls, hooks = type(encoding), ["rotate", "unrotate", "embed", "rescore", "weigh"]
    if not encoding.distance_bias:
        hooks.append("score_mod")
    return not encoding.rescores and all(getattr(cls, hook) is getattr(PositionEncoding, hook) for hook in hooks)
