"""Associative recall: n pairs of key and value, then every key once more, in another order, to be given its value.

The multi-query form of Arora et al. 2023 (https://arxiv.org/abs/2312.04927): the content says where to look, and
the distance may be any, so that a bias towards the near past hurts.
"""

import numpy as np

from data.recipe import LARGEST
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, draw, shuffled


class Source(Task):
    """An example of length n: 0 k1 v1 .. kn vn 1 kσ1 vσ1 .. kσn vσn; the values after the 1 are the answers.

    `keys`: how many different ones there are, at least the length, for those of an example differ. `values`: likewise.
    """

    def __init__(self, keys: int = 512, values: int = 16):
        if not 2 <= min(keys, values) <= max(keys, values) <= LARGEST:
            raise ValueError(f"data.keys={keys}, data.values={values}: at least 2 each, and {LARGEST:,} at most")
        self.keys, self.values = keys, values
        self.vocab_size = SYMBOLS + keys + values

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        if length > self.keys:
            raise ValueError(f"{length} pairs need as many different keys: raise data.keys={self.keys}")
        keys = SYMBOLS + shuffled(bits, self.keys)[:length]
        pairs = np.stack([keys, SYMBOLS + self.keys + draw(bits, length, self.values)], axis=1)
        asked = pairs[shuffled(bits, length)]
        return np.concatenate([[SEPARATOR], pairs.ravel(), [ANSWER], asked.ravel()])

    def scored(self, length: int) -> np.ndarray:
        scored = np.zeros(4 * length + 2, dtype=bool)
        scored[2 * length + 3 :: 2] = True
        return scored
