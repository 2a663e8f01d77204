"""Flip-flop: a bit is written, read and written over, with bits between that are to be ignored: which one is held?

Liu et al. 2023, "Exposing Attention Glitches with Flip-Flop Language Modeling" (https://arxiv.org/abs/2306.00946): the
first instruction writes, each other one ignores with the chance `ignore` (theirs: 0.8; 0.98 and 0.1 to test with), else
writes or reads, as likely; a read gives the bit that was written last. It departs from it in that only a last read, at
the end, is asked for; those before stand there with their bits, and are not trained on.
"""

import numpy as np

from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, after_answer, draw, uniform

WRITE, READ, IGNORE = SYMBOLS, SYMBOLS + 1, SYMBOLS + 2
BITS = SYMBOLS + 3  # the id of 0


class Source(Task):
    """An example of length n, instructions: 0 w b1 i b2 r b1 .. 1 b 0. `ignore`: the chance of i, after the first."""

    vocab_size = BITS + 2

    def __init__(self, ignore: float = 0.8):
        if not 0 <= ignore <= 1:
            raise ValueError(f"data.ignore={ignore}: a chance, must lie in [0, 1]")
        self.ignore = ignore

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        chosen = np.where(uniform(bits, length) < self.ignore, IGNORE, WRITE + draw(bits, length, 2))
        chosen[0] = WRITE
        stored = draw(bits, length, 2)
        written = np.maximum.accumulate(np.where(chosen == WRITE, np.arange(length), 0))  # where the last write is
        stored = np.where(chosen == READ, stored[written], stored)
        question = np.stack([chosen, BITS + stored], axis=1).ravel()
        return np.concatenate([[SEPARATOR], question, [ANSWER, BITS + stored[written[-1]], SEPARATOR]])

    def scored(self, length: int) -> np.ndarray:
        return after_answer(2 * length, 1)
