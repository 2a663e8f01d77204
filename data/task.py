"""A task: sequences with an answer, generated from a seed and a length alone; trained short, tested long.

A task is a class named `Source` in `data/sources/<name>.py`, derived from `Task`. It has a vocabulary of its own, so
no tokenizer: id 0 opens an example (and closes its answer), 1 opens the answer, the task's symbols follow from 2 on.

    0 x1 x2 x3 1 y1 y2 y3 0

Only the answer is trained on and scored: what is asked is random, and can't be predicted.
"""

import numpy as np

from conf.typed import digest

SEPARATOR, ANSWER, SYMBOLS = 0, 1, 2  # ids; SYMBOLS is the first one that a task gives a meaning to


class Task:
    """What a task defines, for a length n >= 1 counted in its own units (symbols, pairs, digits)."""

    vocab_size: int

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        """An example, int64 (T,), all of its randomness drawn from `bits` by `draw`; T depends on the length alone."""
        raise NotImplementedError

    def scored(self, length: int) -> np.ndarray:
        """Which of an example's tokens are answers, bool (T,); the same for all examples of a length."""
        raise NotImplementedError

    def example(self, seed: list[int], length: int) -> np.ndarray:
        """The example of a seed and a length: int64 (T,). Raises ValueError for a length that the task can't have."""
        return self.tokens(np.random.PCG64(np.random.SeedSequence([*seed, length])), length)

    def longest(self, context: int) -> int:
        """The greatest length whose examples fit a window of context + 1 tokens. Raises ValueError if there is none."""
        length = 0
        while len(self.scored(length + 1)) <= context + 1:
            length += 1
        if not length:
            raise ValueError(f"context={context}: the shortest example takes {len(self.scored(1)) - 1} tokens")
        return length

    @property
    def hash(self) -> str:
        """SHA-256 of the task and its settings."""
        return digest([type(self).__module__, vars(self)])


def draw(bits: np.random.PCG64, count: int, below: int) -> np.ndarray:
    """`count` numbers in 0..below - 1, int64; from the raw output of PCG64, which numpy keeps stable."""
    return (bits.random_raw(count) % below).astype(np.int64)


def uniform(bits: np.random.PCG64, count: int) -> np.ndarray:
    """`count` numbers in (0, 1), float64, likewise."""
    return ((bits.random_raw(count) >> np.uint64(11)) + 0.5) / 2**53


def shuffled(bits: np.random.PCG64, count: int) -> np.ndarray:
    """The numbers 0..count - 1 in random order, int64 (count,)."""
    return np.argsort(bits.random_raw(count), kind="stable")


def after_answer(question: int, answer: int) -> np.ndarray:
    """Scored tokens of an example that asks `question` tokens, then answers `answer` and closes: bool (T,)."""
    scored = np.zeros(question + answer + 3, dtype=bool)
    scored[question + 2 :] = True
    return scored
