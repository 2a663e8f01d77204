"""Recall at a distance: a fixed number of keys, each written with its value, then n fillers, then keys to be answered.

What has to be kept in mind (the load) is settled by the settings; the length is the distance alone. In
`associative_recall` both grow together. Forms: the multi-query recall of Arora et al. 2023
(https://arxiv.org/abs/2312.04927) at a fixed number of pairs, with gaps by the power law of its code (Zoology); the
multi-key, multi-value and multi-query needles of RULER (Hsieh et al. 2024, https://arxiv.org/abs/2404.06654).
It departs from Zoology in that the questions stand together at the end, and the pairs lie at drawn gaps before them;
there the pairs lead, and the questions are drawn. And from RULER in that several values are given in their order.
"""

import numpy as np

from data.recipe import LARGEST
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, draw, shuffled, uniform


class Source(Task):
    """An example of length n, here of 2 pairs and scattered: 0 f k1 v1 f k2 v2 .. fn 1 k2 v2 k1 v1.

    - `pairs`: keys in an example. `times`: how often each is written, every time with a value of its own.
    - `questions`: how many of the keys are asked; null: all.
    - `last`: true: of a key's values the last one counts; false: all are to be given, in the order of writing.
    - `power`: null: all writing comes first and all fillers after it; else what is written lies scattered among the
      fillers, at gaps before the questions that have the weight gap^(power - 1): 1 is uniform, 0.01 mostly near.
    - `keys`, `values`, `fillers`: how many different ones there are.
    """

    def __init__(
        self,
        pairs: int = 4,
        times: int = 1,
        questions: int | None = None,
        last: bool = False,
        power: float | None = None,
        keys: int = 64,
        values: int = 16,
        fillers: int = 16,
    ):
        questions = pairs if questions is None else questions
        for name, value in {"pairs": pairs, "times": times, "questions": questions, "fillers": fillers}.items():
            if not 1 <= value <= LARGEST:
                raise ValueError(f"data.{name}={value}: at least 1, and {LARGEST:,} at most")
        if not 2 <= min(keys, values) <= max(keys, values) <= LARGEST:
            raise ValueError(f"data.keys={keys}, data.values={values}: at least 2 each, and {LARGEST:,} at most")
        if pairs > keys:
            raise ValueError(f"data.pairs={pairs}: the keys of an example differ: at most data.keys={keys}")
        if questions > pairs:
            raise ValueError(f"data.questions={questions}: no key is asked twice: at most data.pairs={pairs}")
        check_power(power)
        self.pairs, self.times, self.questions, self.last = pairs, times, questions, last
        self.keys, self.values, self.fillers, self.power = keys, values, fillers, power
        self.vocab_size = SYMBOLS + keys + values + fillers

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        keys = SYMBOLS + shuffled(bits, self.keys)[: self.pairs]
        whose = shuffled(bits, self.pairs * self.times) // self.times
        values = SYMBOLS + self.keys + draw(bits, len(whose), self.values)
        filler = SYMBOLS + self.keys + self.values + draw(bits, length, self.fillers)
        writings = np.stack([keys[whose], values], axis=1)
        asked = shuffled(bits, self.pairs)[: self.questions]
        answers = [part for key in asked for part in (keys[[key]], values[whose == key][-self.given :])]
        return np.concatenate([[SEPARATOR], scattered(bits, writings, filler, self.power), [ANSWER], *answers])

    @property
    def given(self) -> int:
        """Values that answer a question."""
        return 1 if self.last else self.times

    def scored(self, length: int) -> np.ndarray:
        before = 2 * self.pairs * self.times + length + 2
        answer = np.arange(1 + self.given) > 0
        return np.concatenate([np.zeros(before, dtype=bool), np.tile(answer, self.questions)])


def check_power(power: float | None) -> None:
    """Raises ValueError for a power of gaps that is none."""
    if power is not None and not 0 <= power <= 10:
        raise ValueError(f"data.power={power}: must lie in 0 .. 10, or be null: everything before the fillers")


def scattered(bits: np.random.PCG64, parts: np.ndarray, filler: np.ndarray, power: float | None) -> np.ndarray:
    """The rows of `parts` (P, W), in their order and each in one piece, among the fillers (F,): int64 (P · W + F,).

    Their gaps, counted back from the end in rows and fillers, are `drawn_gaps`; power None: all stand at the front.
    """
    count, width = parts.shape
    units = count + len(filler)
    gaps = np.arange(units, units - count, -1) if power is None else drawn_gaps(bits, count, units, power)
    is_part = np.zeros(units, dtype=bool)
    is_part[units - gaps] = True
    widths = np.where(is_part, width, 1)
    starts = np.cumsum(widths) - widths
    tokens = np.zeros(widths.sum(), dtype=np.int64)
    tokens[starts[~is_part]] = filler
    tokens[starts[is_part][:, None] + np.arange(width)] = parts
    return tokens


def drawn_gaps(bits: np.random.PCG64, count: int, longest: int, power: float) -> np.ndarray:
    """`count` of the gaps 1..longest, drawn one after the other without replacement, gap g with the weight
    g^(power - 1), as in Zoology's `power_a`: int64 (count,). Each gap waits an exponential time of that rate: the first
    ones are those drawn."""
    gaps = np.arange(1, longest + 1)
    return gaps[np.argsort(-np.log(uniform(bits, longest)) * gaps ** (1.0 - power), kind="stable")[:count]]
