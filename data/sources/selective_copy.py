"""Selective copying: a fixed number of symbols at random places in n tokens of noise, then the symbols alone.

As of Jing et al. 2019 (https://arxiv.org/abs/1706.02761, denoising) and Gu & Dao 2023
(https://arxiv.org/abs/2312.00752): what is to be kept is told by its content, and no distance is the right one. The
length is the noise alone. It departs from them in that each symbol of the answer is read before the next is asked for,
as everywhere in these tasks.
"""

import numpy as np

from data.recipe import LARGEST
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, after_answer, draw, shuffled

NOISE = SYMBOLS
FIRST = SYMBOLS + 1  # the first symbol's id


class Source(Task):
    """An example of length n, here with 2 symbols: 0 . . x1 . x2 . 1 x1 x2 0, where n are noise.

    `count`: symbols in an example. `symbols`: how many different ones there are.
    """

    def __init__(self, count: int = 4, symbols: int = 16):
        if not 1 <= count <= LARGEST:
            raise ValueError(f"data.count={count}: at least 1, and {LARGEST:,} at most")
        if not 2 <= symbols <= LARGEST:
            raise ValueError(f"data.symbols={symbols}: 2 at least, and {LARGEST:,} at most")
        self.count, self.symbols = count, symbols
        self.vocab_size = FIRST + symbols

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        symbols = FIRST + draw(bits, self.count, self.symbols)
        question = np.full(self.count + length, NOISE)
        question[np.sort(shuffled(bits, len(question))[: self.count])] = symbols
        return np.concatenate([[SEPARATOR], question, [ANSWER], symbols, [SEPARATOR]])

    def scored(self, length: int) -> np.ndarray:
        return after_answer(self.count + length, self.count)
