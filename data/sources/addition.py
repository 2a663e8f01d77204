"""Addition of two numbers of n decimal digits, by default written from the least significant digit on.

In that order each digit of the sum needs two digits and a carry, which Lee et al. 2023
(https://arxiv.org/abs/2307.03381) found to be learned far sooner than the usual order.
"""

import numpy as np

from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, after_answer, draw

PLUS = SYMBOLS
DIGITS = SYMBOLS + 1  # the id of 0


class Source(Task):
    """An example of length n: 0 a1 .. an + b1 .. bn 1 s1 .. s(n + 1) 0, leading zeros kept.

    `least_first`: digits from the least significant on; false: as usual.
    """

    vocab_size = DIGITS + 10

    def __init__(self, least_first: bool = True):
        self.least_first = least_first

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        a, b = draw(bits, length, 10), draw(bits, length, 10)  # least significant first
        total, carry = np.zeros(length + 1, dtype=np.int64), 0
        for i in range(length):
            carry, total[i] = divmod(int(a[i] + b[i]) + carry, 10)
        total[length] = carry
        a, b, total = (DIGITS + (digits if self.least_first else digits[::-1]) for digits in (a, b, total))
        return np.concatenate([[SEPARATOR], a, [PLUS], b, [ANSWER], total, [SEPARATOR]])

    def scored(self, length: int) -> np.ndarray:
        return after_answer(2 * length + 1, length + 1)
