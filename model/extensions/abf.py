"""ABF: the base raised, so that slow pairs turn more slowly still."""

import math
from functools import partial

import torch
from torch import Tensor

from model.extensions.rotary import FrequencyExtension, stretched

EXPONENT = math.log(500_000 / 10_000) / math.log(32_768 / 4_096)  # of the stretch: 1.88


def rebased(frequencies: Tensor, factor: float) -> Tensor:
    """θ_k · factor^(−k/P): what base · factor instead of base makes of base^(−k/P); P counts pairs that stay too.

    >>> rebased(torch.tensor([1.0, 0.1, 0.01, 0.001]), factor=16.0).tolist()
    [1.0, 0.05000000074505806, 0.0024999999441206455, 0.0001250000059371814]
    """
    pairs = frequencies.shape[-1]
    k = torch.arange(pairs, dtype=torch.float64, device=frequencies.device)
    return (frequencies.double() * factor ** (-k / pairs)).to(frequencies.dtype)


class ABF(FrequencyExtension):
    """base' instead of base, so θ'_k = base'^(−2k/d): "adjusted base frequency", which is then trained with.

    Xiong et al. 2023, "Effective Long-Context Scaling of Foundation Models", https://arxiv.org/abs/2309.16039, section
    2: from 10 000 to 500 000 for a stage from 4,096 to 32,768 tokens. As θ_k · (base'/base)^(−k/P), P = d/2 pairs,
    which also holds for learned frequencies, for bases by head or layer, and for frequencies stretched before.

    base: base'; null is base · s^1.88, s = N / L, the power that makes Xiong's 50 of their s = 8 (NTK, for use without
    training, has s^(d/(d−2))). Where it is given it acts at s ≤ 1 as well, and the encoding needs to have a single
    base. Raises ValueError where it is below the encoding's.
    """

    def __init__(self, base: float | None = None):
        if base is not None and base < 1:
            raise ValueError(f"extension.base={base}: must be at least 1, and above the encoding's")
        self.base = base

    @property
    def at_any_length(self):
        return self.base is not None

    def fits_part(self, part):
        if reason := super().fits_part(part):
            return reason
        if self.base is not None and len({base for base in getattr(part, "bases", ()) if base}) > 1:
            return f"{type(part).__name__} has several bases, which extension.base=null raises alike"
        return None

    def extend_part(self, part, train_length, eval_length):
        factor = self.base / part.base if self.base is not None else (eval_length / train_length) ** EXPONENT
        if factor < 1:
            raise ValueError(f"extension.base={self.base}: must be at least the encoding's base, {part.base:g}")
        extended = stretched(part, partial(rebased, factor=factor))
        extended.base = part.base * factor
        return extended
