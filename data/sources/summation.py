"""The sum of n numbers modulo m; modulo 2 it is parity.

As in Kazemnejad et al. 2023 (https://arxiv.org/abs/2305.19466) and Anil et al. 2022 (https://arxiv.org/abs/2207.04901),
without a scratchpad: every number counts, and a single one changes the answer. That self-attention alone does not come
to parity is Hahn's (2020, https://arxiv.org/abs/1906.06755): what one token changes fades with the length. It departs
from the first in that zeros are drawn too.
"""

import numpy as np

from data.recipe import LARGEST
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, after_answer, draw


class Source(Task):
    """An example of length n: 0 x1 .. xn 1 s 0. `modulus`: numbers, and their sum, are those below it."""

    def __init__(self, modulus: int = 10):
        if not 2 <= modulus <= LARGEST:
            raise ValueError(f"data.modulus={modulus}: 2 at least, and {LARGEST:,} at most")
        self.modulus = modulus
        self.vocab_size = SYMBOLS + modulus

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        numbers = draw(bits, length, self.modulus)
        total = numbers.sum() % self.modulus
        return np.concatenate([[SEPARATOR], SYMBOLS + numbers, [ANSWER, SYMBOLS + total, SEPARATOR]])

    def scored(self, length: int) -> np.ndarray:
        return after_answer(length, 1)
