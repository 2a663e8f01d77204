"""The logit scale: one factor on all queries, by the stretch, which makes attention over more keys sharper."""

import math
from functools import partial

from model.extensions import Extension
from model.extensions.rotary import searched
from model.extensions.scales import scaled, softmax_reason


def constant(n_T, value: float) -> float:
    return value


class LogitScale(Extension):
    """q × β, β = 1 + a · ln s, s = N / L: the content part of every score grows with the stretch, at every row alike.

    DroPE (Gelberg et al. 2025, https://arxiv.org/abs/2512.12167), whose models without positions need it at length: a
    fitted to the perplexity at the longer text, 0.412 for their model trained from scratch and 0.103 for SmolLM. SWAN
    (Puvvada et al. 2025, https://arxiv.org/abs/2504.08719) scales the queries of its layers without positions in the
    same way. It fits every encoding whose weights are a softmax, whatever the model was trained with, so that no arm of
    a comparison has it alone. On scores with a bias (ALiBi, T5) it acts on q·k and not on the bias.

    a: null is fitted by `tune`, from 0 to 1 in at most 11 losses; 0 changes nothing and is always among them.
    Raises ValueError where it is negative, and for `apply` before it is fitted.
    """

    coarse = (0.0, 0.1, 0.2, 0.4, 0.8)  # first these
    fine = (0.1, 0.05, 0.025)  # then `beside` the best so far, by each of these

    def __init__(self, a: float | None = None):
        if a is not None and a < 0:
            raise ValueError(f"extension.a={a}: must not be negative, or longer text would be attended to less sharply")
        self.a = a

    @property
    def needs_tuning(self):
        return self.a is None

    def fits(self, encoding):
        return softmax_reason(encoding)

    def extend(self, encoding, train_length, eval_length):
        if self.a is None:
            raise ValueError("extension.a=null: fit it on a calibration split first (`tune`), or give it")
        return scaled(encoding, partial(constant, value=1 + self.a * math.log(eval_length / train_length)))

    def tune(self, loss, encoding, train_length, eval_length):
        if not self.needs_tuning or eval_length <= train_length:
            return self
        losses: dict[float, float] = {}
        unit = self.unit(train_length)

        def measure(*values: float) -> None:
            for value in values:
                if value >= 0 and value not in losses:
                    chosen = self._chosen("", a=value * unit)
                    losses[value] = loss(chosen.apply(encoding, train_length, eval_length))

        measure(*self.coarse)
        for step in self.fine:
            measure(*self.beside(min(losses, key=losses.get), step))
        return self._chosen(searched(losses, losses[0.0]), a=min(losses, key=losses.get) * unit)

    @staticmethod
    def beside(best: float, step: float) -> tuple[float, float]:
        """What is tried around the best so far."""
        return round(best - step, 3), round(best + step, 3)

    @staticmethod
    def unit(train_length: int) -> float:
        """What `coarse` counts a in."""
        return 1
