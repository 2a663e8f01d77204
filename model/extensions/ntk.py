"""The NTK-aware family: the faster a pair turns, the less it is slowed down."""

import math

import torch

from model.extensions.rotary import FrequencyExtension, pair_index, turning_pairs


class NTK(FrequencyExtension):
    """base' = base · s^(d/(d−2)): the fastest pair keeps its frequency, the slowest is divided by s = N / L.

    bloc97 2023 ("NTK-aware scaled RoPE"), as set down in YaRN (https://arxiv.org/abs/2309.00071), section 3.1. In
    terms of pair k of P = d/2 this is θ'_k = θ_k · s^(−k/(P−1)), the form used here, since it also holds for
    frequencies that come from no single base (learned, or by head) and where not all pairs turn (P are those that do).
    Refused where a head turns a single pair.
    """

    def stretch(self, frequencies, train_length, eval_length):
        return frequencies * self.factor(train_length, eval_length) ** -pair_index(frequencies)

    def factor(self, train_length: int, eval_length: int) -> float:
        """What the slowest pair is divided by."""
        return eval_length / train_length

    def fits_part(self, part):
        if reason := super().fits_part(part):
            return reason
        if any((turning_pairs(part.frequencies(layer)) == 1).any() for layer in range(part.shape.num_layers)):
            return f"{type(part).__name__} turns a single pair, which is the fastest and the slowest"
        return None


class DynamicNTK(NTK):
    """base' = base · ((α·N/L) − (α − 1))^(d/(d−2)), N the length of the text.

    emozilla 2023, as in transformers' "dynamic" (whose `factor` is α). Some code keeps the longest N it has seen, so
    that results depend on the order of evaluation; here N is the evaluation length and nothing is kept.

    alpha: how much faster than the length the base grows; 1 is NTK itself. Raises ValueError below 1.
    """

    def __init__(self, alpha: float = 2.0):
        if alpha < 1:
            raise ValueError(f"extension.alpha={alpha}: must be at least 1")
        self.alpha = alpha

    def factor(self, train_length, eval_length):
        return self.alpha * eval_length / train_length - (self.alpha - 1)


class MixedNTK(FrequencyExtension):
    """θ'_m = θ_m · exp(−a·m^b), m = 1 .. P, a = ln(s) / P^b: every pair is slowed, the last one by s = N / L.

    Su 2023, "NTK-RoPE-mixed", https://kexue.fm/archives/9706. P = d/2, or the pairs that turn where not all do. They
    count from 1, so the fastest is slowed a little too. The author's code fixes s = 12; here it is the stretch asked
    for. Its log-n factor is `logn`, apart.

    power: b; 1 is a change of the base. The author's code has 0.75. Raises ValueError where not positive.
    """

    def __init__(self, power: float = 0.75):
        if power <= 0:
            raise ValueError(f"extension.power={power}: must be positive")
        self.power = power

    def stretch(self, frequencies, train_length, eval_length):
        m = torch.arange(1, frequencies.shape[-1] + 1, dtype=torch.float64, device=frequencies.device)
        share = m / turning_pairs(frequencies).clamp_min(1)
        return frequencies * torch.exp(-math.log(eval_length / train_length) * share**self.power)
