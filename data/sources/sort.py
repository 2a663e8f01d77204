"""Sorting: n random symbols, then the same in ascending order, repeated ones as often as they came.

As in Kazemnejad et al. 2023 (https://arxiv.org/abs/2305.19466), their form of single tokens: what comes next is told by
what is there, wherever it stands.
"""

import numpy as np

from data.sources import copy


class Source(copy.Source):
    """Settings as those of copying. An example of length n: 0 x1 .. xn 1 y1 .. yn 0, where y1 <= .. <= yn."""

    def answer(self, question: np.ndarray) -> np.ndarray:
        return np.sort(question)
