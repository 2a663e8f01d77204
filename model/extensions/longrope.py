"""LongRoPE: each pair has a factor of its own, found by search on a calibration split."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model.extensions import parts
from model.extensions.rotary import (
    FrequencyExtension,
    blend,
    kept_by_turns,
    pair_index,
    rotation_reason,
    searched,
    stretched,
)


class LongRoPE(FrequencyExtension):
    """θ'_k = θ_k / λ_k, cos and sin × √(1 + ln s / ln L).

    Ding et al. 2024, https://arxiv.org/abs/2402.13753; the temperature as in the released models, so on what turns and
    on nothing else. `tune` searches the λ: from PI, NTK and a ramp by turns, then mutations and crossovers of the three
    best so far, with the paper's constraint that λ never falls from one pair to the next, and its range of 1 to 1.25·s.
    One λ a pair for all layers and heads, as in the paper; its other finding, that the first few tokens are best left
    as they are, is left out, as in the released models.

    factors: the λ_k, one a pair; null is to be searched. trials: losses computed in the search, at most. seed: its own.
    Raises ValueError for fewer than 3 trials, factors that are not positive or not one a pair, and for `apply` before
    the search.
    """

    def __init__(self, factors: Sequence[float] | None = None, trials: int = 32, seed: int = 0):
        if trials < 3:
            raise ValueError(f"extension.trials={trials}: must be at least 3, for the three starting points")
        if factors is not None and not (factors and min(factors) > 0):
            raise ValueError(f"extension.factors={factors}: must be positive, one a pair")
        self.factors, self.trials, self.seed = factors and tuple(factors), trials, seed

    @property
    def needs_tuning(self):
        return self.factors is None

    def extend_part(self, part, train_length, eval_length):
        if self.factors is None:
            raise ValueError("extension.factors=null: search them on a calibration split first (`tune`), or give them")
        frequencies = part.frequencies(0)
        if len(self.factors) != (pairs := frequencies.shape[-1]):
            raise ValueError(f"extension.factors={self.factors}: {pairs} pairs need as many")
        before = [stretch for stretch in getattr(part, "stretches", ()) if isinstance(stretch, str)]
        name = "factors_P" + "_again" * len(before)
        extended = stretched(part, name, self.attention_factor(train_length, eval_length))
        extended.constant(name, torch.tensor(self.factors, dtype=torch.float64, device=frequencies.device))
        return extended

    def attention_factor(self, train_length, eval_length):
        return math.sqrt(1 + math.log(eval_length / train_length) / math.log(train_length))

    def tune(self, loss, encoding, train_length, eval_length):
        if not self.needs_tuning or eval_length <= train_length:
            return self
        s = eval_length / train_length
        part = next(part for part in parts(encoding) if rotation_reason(part) is None)
        frequencies_P = torch.atleast_2d(part.frequencies(0).detach().cpu()).flatten(0, -2)[0]  # the first head's
        generator = torch.Generator().manual_seed(self.seed)
        losses: dict[tuple[float, ...], float] = {}

        def measure(factors_P: Tensor) -> None:
            setting = tuple(round(value, 4) for value in factors_P.clamp(1, 1.25 * s).cummax(0).values.tolist())
            if setting not in losses:
                chosen = self._chosen("", factors=setting)
                losses[setting] = loss(chosen.apply(encoding, train_length, eval_length))

        ramp_P = 1 / blend(torch.ones_like(frequencies_P), kept_by_turns(frequencies_P, train_length, 1, 4), s)
        for start_P in (torch.full_like(frequencies_P, s), s ** pair_index(frequencies_P), ramp_P):
            measure(start_P)
        start = min(losses.values())
        for _ in range(self.trials - 3):
            best = [torch.tensor(setting, dtype=torch.float64) for setting in sorted(losses, key=losses.get)[:3]]
            parent_P, other_P = (best[i] for i in torch.randint(len(best), (2,), generator=generator))
            if torch.rand((), generator=generator) < 0.5:  # a mutation, else a crossover
                noise_P = torch.randn(len(parent_P), dtype=torch.float64, generator=generator)
                other_P = parent_P * (0.3 * noise_P).exp()
            measure(torch.where(torch.rand(len(parent_P), generator=generator) < 0.3, other_P, parent_P))
        return self._chosen(searched(losses, start), factors=min(losses, key=losses.get))
