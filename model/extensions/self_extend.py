"""Self-Extend: distances exact near by, counted in groups of tokens far away."""

import math

from model.extensions.distances import DistanceExtension


class SelfExtend(DistanceExtension):
    """Distance D where D < W, and ⌊i/G⌋ + W − ⌊W/G⌋ − ⌊j/G⌋ beyond.

    Jin et al. 2024, "LLM Maybe LongLM: Self-Extend LLM Context Window Without Tuning",
    https://arxiv.org/abs/2401.01325. The shift W − ⌊W/G⌋ is that of the authors' code for whole numbers; another of
    their files has W − W/G, which differs where G does not divide W.

    window: W, tokens; null is half the training length (the authors: a quarter to a half, 1024 of 4096). group: G; null
    is the smallest that keeps every distance within the longest of training, L − 1. Raises ValueError below 1, or for a
    window outside of 1 .. L − 1. Warns where a group given is smaller than that.
    """

    def __init__(self, window: int | None = None, group: int | None = None):
        super().__init__(window)
        if group is not None and group < 1:
            raise ValueError(f"extension.group={group}: must be at least 1 token")
        self.group = group

    def far(self, near, train_length, eval_length):
        G = self.group or self.smallest_group(near, train_length, eval_length)
        self.warn_beyond(longest(near, G, eval_length), train_length, f"extension.group={G}", "raise it")
        shift = near - near // G
        return {"far_q": lambda i: (i / G).floor() + shift, "far_k": lambda j: (j / G).floor()}

    def smallest_group(self, near: int, train_length: int, eval_length: int) -> int:
        """
        >>> SelfExtend().smallest_group(near=64, train_length=128, eval_length=512)
        8
        """
        G = max(1, math.ceil((eval_length - near) / (train_length - near)))
        while longest(near, G, eval_length) > train_length - 1:
            G += 1
        return G


def longest(near: int, group: int, length: int) -> int:
    """The longest distance that occurs in a text of so many tokens: that of the last row and the first key."""
    return max(near - 1, (length - 1) // group + near - near // group)
