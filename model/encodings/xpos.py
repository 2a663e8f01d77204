"""xPos: RoPE whose pairs also shrink with distance, the fast ones faster."""

import math

import torch
from torch import Tensor

from model.encodings import Shape
from model.encodings.rope import RoPE, turn

LARGEST_EXPONENT = 84.0  # float32 (and bf16) end at e^88.7; the rest is left to q·k itself


def xpos_bases(head_dim: int, gamma: float) -> Tensor:
    """ζ_k = (2k/d + γ) / (1 + γ) of each pair k = 0 .. d/2 − 1, below 1: shape (d/2,), float64.

    >>> xpos_bases(head_dim=8, gamma=0.4).round(decimals=4).tolist()
    [0.2857, 0.4643, 0.6429, 0.8214]
    """
    return (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim + gamma) / (1 + gamma)


class XPos(RoPE):
    """Pair k of q_i is turned by i·θ_k and scaled by ζ_k^((i − c)/B), that of k_j turned by j·θ_k and scaled by
    ζ_k^(−(j − c)/B): their product carries ζ_k^((i − j)/B), a decay with distance.

    Sun et al. 2023, "A Length-Extrapolatable Transformer", https://arxiv.org/abs/2212.10554, with the γ = 0.4 of the
    authors' code. The centre c cancels in every product. It is the middle of the sequence, so that the two factors, of
    which one explodes as the other vanishes, stay within float32 and bf16 for as long as possible: up to max_length
    = 84·B / −ln ζ_0 tokens (33 contexts with the defaults), and longer input is refused.

    scale_base: B, tokens; null is half the training context, the paper's 512 at 1,024. gamma: share of the decay's
    exponent that all pairs have in common, above 0. base, interleaved: see RoPE.
    Departs from the paper: its blockwise (windowed) attention at test time is no part of the encoding.
    Raises ValueError for a scale_base or gamma that is not positive, or a scale_base too small for the context.
    """

    def __init__(
        self,
        shape: Shape,
        base: float = 10_000.0,
        interleaved: bool = False,
        scale_base: float | None = None,
        gamma: float = 0.4,
    ):
        super().__init__(shape, base, interleaved)
        scale_base = shape.context / 2 if scale_base is None else scale_base
        if scale_base <= 0:
            raise ValueError(f"encoding.scale_base={scale_base}: must be positive, in tokens")
        if not 0 < gamma <= 1e15:
            raise ValueError(f"encoding.gamma={gamma}: must lie in (0, 1e15]; at 0 the fastest pair vanishes at once")
        self.scale_base, self.gamma = scale_base, gamma
        self.constant("zeta", xpos_bases(shape.head_dim, gamma))
        self.max_length = int(LARGEST_EXPONENT * scale_base / math.log((1 + gamma) / gamma))
        if self.max_length < shape.context:
            raise ValueError(
                f"encoding.scale_base={scale_base}: the scales leave float32 after {self.max_length} tokens, before "
                f"the training context {shape.context}; raise it (null: {shape.context / 2})"
            )

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        cos, sin = self.cos_sin(positions, layer, q_BHTK.dtype)
        scale = self.scales(positions).to(cos.dtype)
        q_BHTK = turn(q_BHTK, cos * scale, sin * scale, self.interleaved)
        return q_BHTK, turn(k_BHTK, cos / scale, sin / scale, self.interleaved), v_BHTK

    def scales(self, positions: Tensor) -> Tensor:
        """ζ_k^((i − c)/B) of every position i and pair k: (T, P) or (B, 1, T, P), float64."""
        if positions.ndim == 2:
            positions = positions[:, None]
        centre = (positions[..., :1] + positions[..., -1:]) / 2
        powers = (positions - centre)[..., None].double() / self.scale_base
        return self.zeta**powers
