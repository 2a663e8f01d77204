"""Copying: n random symbols, then the same again. The distance to the source is fixed, but differs by length."""

import numpy as np

from data.recipe import LARGEST
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, after_answer, draw


class Source(Task):
    """`symbols`: how many different ones there are. An example of length n: 0 x1 .. xn 1 x1 .. xn 0."""

    def __init__(self, symbols: int = 64):
        if not 2 <= symbols <= LARGEST:
            raise ValueError(
                f"data.symbols={symbols}: 2 at least, or there is nothing to tell apart; {LARGEST:,} at most"
            )
        self.vocab_size = SYMBOLS + symbols

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        question = SYMBOLS + draw(bits, length, self.vocab_size - SYMBOLS)
        return np.concatenate([[SEPARATOR], question, [ANSWER], self.answer(question), [SEPARATOR]])

    def answer(self, question: np.ndarray) -> np.ndarray:
        return question

    def scored(self, length: int) -> np.ndarray:
        return after_answer(length, length)
