"""Partial RoPE: only some of the pairs turn; the others carry content and no position. Two forms."""

import torch

from model.encodings import Shape
from model.encodings.rope import RoPE, rope_frequencies, turn


class RoPEPartial(RoPE):
    """p-RoPE: θ_k = base^(−2k/d) for the first ⌊p·d/2⌋ pairs, the fastest, and 0 for the others.

    Barbero et al. 2024, "Round and Round We Go! What makes Rotary Positional Encodings useful?",
    https://arxiv.org/abs/2410.06205: the slowest pairs serve as carriers of content, and turning them hurts at length;
    p = 0.75 was best.

    p: share of the pairs that turn, at least one of them; 1 is RoPE, 0 is NoPE. Raises ValueError outside of [0, 1].

    >>> RoPEPartial(Shape(dim=8, num_heads=1, num_layers=1, context=16), p=0.75).frequencies(0).tolist()
    [1.0, 0.1, 0.01, 0.0]
    """

    def __init__(self, shape: Shape, p: float = 0.75, base: float = 10_000.0, interleaved: bool = False):
        super().__init__(shape, base, interleaved)
        if not 0 <= p <= 1:
            raise ValueError(f"encoding.p={p}: must lie in [0, 1]")
        self.p = p
        self.turning = max(1, int(p * shape.head_dim / 2)) if p else 0
        self.constant("theta", torch.where(torch.arange(len(self.theta)) < self.turning, self.theta, 0.0))


class RoPEPartialHead(RoPE):
    """The first r coordinates of the head turn as a head of width r would (θ_k = base^(−2k/r)); the rest stay.

    In use since GPT-J (Wang & Komatsuzaki 2021, 64 of 256, interleaved) and GPT-NeoX (Black et al. 2022,
    https://arxiv.org/abs/2204.06745: a quarter, half split); others turn half. Unlike p-RoPE it keeps the slow pairs,
    at a coarser step. Half is the default here: a quarter of a narrow head is a pair or two.

    share: r/d, rounded to an even r of at least 2; 1 is RoPE. Raises ValueError outside (0, 1], and for a head without
    a pair. `frequencies` are those of the pairs that turn:

    >>> RoPEPartialHead(Shape(dim=16, num_heads=1, num_layers=1, context=16), share=0.25).frequencies(0).tolist()
    [1.0, 0.01]
    """

    turns_whole_heads = False

    def __init__(self, shape: Shape, share: float = 0.5, base: float = 10_000.0, interleaved: bool = False):
        super().__init__(shape, base, interleaved)
        if not 0 < share <= 1:
            raise ValueError(f"encoding.share={share}: must lie in (0, 1]; for no turning at all use encoding=none")
        if (pairs := shape.head_dim // 2) < 1:
            raise ValueError(
                f"head_dim={shape.head_dim}: RoPEPartialHead turns pairs, so it must be at least 2; raise model.dim or "
                "lower model.num_heads"
            )
        self.share = share
        self.width = 2 * min(max(1, round(share * shape.head_dim / 2)), pairs)
        self.constant("theta", rope_frequencies(self.width, self.base))

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        cos, sin = self.tables(positions, layer, q_BHTK.dtype)
        q, k = (
            torch.cat([turn(t[..., : self.width], cos, sin, self.interleaved), t[..., self.width :]], dim=-1)
            for t in (q_BHTK, k_BHTK)
        )
        return q, k, v_BHTK
