"""Variable tracking: x1 = v, x2 = x1, x3 = x2: which value does x3 hold? Each step of a chain is a look-up of its own.

The form is RULER's (Hsieh et al. 2024, https://arxiv.org/abs/2404.06654): chains of a fixed number of hops, their
statements scattered over n fillers. It departs from it in what is asked: the value at the end of each chain, and not
all variables that hold a value.
"""

import numpy as np

from data.recipe import LARGEST
from data.sources.recall import check_power, scattered
from data.task import ANSWER, SEPARATOR, SYMBOLS, Task, draw, shuffled


class Source(Task):
    """An example of length n, here of one chain with one hop: 0 f x1 v f x2 x1 .. fn 1 x2 v.

    - `chains`: how many there are, their statements interleaved at random. All of their ends are asked.
    - `hops`: statements of a chain after the first, fixed: the length is the number of fillers.
    - `power`: as in `data/sources/recall.py`. `variables`, `values`, `fillers`: how many different ones there are.
    """

    def __init__(
        self,
        chains: int = 2,
        hops: int = 1,
        power: float | None = 1.0,
        variables: int = 64,
        values: int = 16,
        fillers: int = 16,
    ):
        for name, value in {"chains": chains, "hops": hops, "fillers": fillers}.items():
            if not 1 <= value <= LARGEST:
                raise ValueError(f"data.{name}={value}: at least 1, and {LARGEST:,} at most")
        if not 2 <= min(variables, values) <= max(variables, values) <= LARGEST:
            raise ValueError(
                f"data.variables={variables}, data.values={values}: at least 2 each, and {LARGEST:,} at most"
            )
        if chains * (hops + 1) > variables:
            raise ValueError(
                f"data.chains={chains}, data.hops={hops}: take {chains * (hops + 1)} different variables: raise "
                f"data.variables={variables}"
            )
        check_power(power)
        self.chains, self.hops, self.power = chains, hops, power
        self.variables, self.values, self.fillers = variables, values, fillers
        self.vocab_size = SYMBOLS + variables + values + fillers

    def tokens(self, bits: np.random.PCG64, length: int) -> np.ndarray:
        steps = self.hops + 1
        variables = SYMBOLS + shuffled(bits, self.variables)[: self.chains * steps].reshape(self.chains, steps)
        values = SYMBOLS + self.variables + draw(bits, self.chains, self.values)
        filler = SYMBOLS + self.variables + self.values + draw(bits, length, self.fillers)
        held = np.concatenate([values[:, None], variables[:, :-1]], axis=1)
        turns = shuffled(bits, self.chains * steps) // steps  # whose next statement comes
        order = np.argsort(np.argsort(turns, kind="stable"), kind="stable")
        statements = np.stack([variables, held], axis=2).reshape(-1, 2)[order]
        asked = shuffled(bits, self.chains)
        answers = np.stack([variables[asked, -1], values[asked]], axis=1).ravel()
        return np.concatenate([[SEPARATOR], scattered(bits, statements, filler, self.power), [ANSWER], answers])

    def scored(self, length: int) -> np.ndarray:
        scored = np.zeros(2 * self.chains * (self.hops + 2) + length + 2, dtype=bool)
        scored[-2 * self.chains + 1 :: 2] = True
        return scored
