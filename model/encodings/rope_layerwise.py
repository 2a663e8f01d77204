"""RoPE with a base for each layer, some layers without positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.encodings import Shape
from model.encodings.rope import RoPE, check_base, rope_frequencies


class RoPELayerwise(RoPE):
    """Layer l turns with the base bases[l mod n]; where that is null, the layer has no positions (NoPE).

    - [10000, 1000000]: local and global bases, as in Gemma 3 (2025, https://arxiv.org/abs/2503.19786), which has five
      layers of the one to one of the other, and windows in the local layers. Windows are no business of an encoding:
      here all layers see everything.
    - [10000, null]: RNoPE (Yang et al. 2025, "Rope to Nope and Back Again", https://arxiv.org/abs/2501.18795), whose
      hybrid has three layers of RoPE to one of NoPE; so has SmolLM3: [5000000, 5000000, 5000000, null].

    bases: the pattern, repeated over the layers from the first on; a model shallower than it uses its beginning. One
    base is RoPE. Raises ValueError where it is empty, has nulls alone, or a base below 1.
    """

    def __init__(self, shape: Shape, bases: Sequence[float | None] = (10_000.0, 1e6)):
        if not any(bases):
            raise ValueError(f"encoding.bases={list(bases)}: no layer would turn; for that use encoding=none")
        bases = [base if base is None else check_base(base, "bases") for base in bases]
        super().__init__(shape, next(base for base in bases if base))
        self.bases = bases
        self.constant("theta", torch.stack([self._of(base) for base in bases]))

    def _of(self, base: float | None) -> Tensor:
        P = self.shape.head_dim // 2
        return rope_frequencies(2 * P, base) if base else torch.zeros(P, dtype=torch.float64)

    def base_of(self, layer: int) -> float | None:
        """The layer's base, or None where it has no positions."""
        return self.bases[layer % len(self.bases)]

    def frequencies(self, layer):
        """
        >>> encoding = RoPELayerwise(Shape(dim=4, num_heads=1, num_layers=3, context=16), bases=[100, 10_000, None])
        >>> [encoding.frequencies(layer).tolist() for layer in range(4)]
        [[1.0, 0.1], [1.0, 0.01], [0.0, 0.0], [1.0, 0.1]]
        """
        return self.theta[layer % len(self.bases)]

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        if self.base_of(layer) is None:
            return q_BHTK, k_BHTK, v_BHTK
        return super().rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)
