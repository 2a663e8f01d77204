"""Reversing: n random symbols, then the same backwards. The distance to the source grows by two with every symbol."""

import numpy as np

from data.sources import copy


class Source(copy.Source):
    """Settings as those of copying. An example of length n: 0 x1 .. xn 1 xn .. x1 0."""

    def answer(self, question: np.ndarray) -> np.ndarray:
        return question[::-1]
