"""RoPE's turn in other places than q and k: a family of controls."""

from model.encodings import Shape
from model.encodings.rope import RoPE, check_even, cos_sin, rope_frequencies, turn


class RoPEPlacement(RoPE):
    """The same turn R_i (by the angles i·θ) at another place, to see what its place contributes.

    - qk: RoPE itself (Su et al. 2021, https://arxiv.org/abs/2104.09864).
    - qkv: v_j turns too, and the output turns back: out_i = Σ_j a_ij · R_(j−i) v_j, relative like the scores. As in the
      transformers for views and poses (GTA, Miyato et al. 2024, https://arxiv.org/abs/2310.10375).
    - embeddings: x_i turns once, over the whole width D (θ_k = base^(−2k/D)), and nothing else does: an absolute code.
    - output: each head's output turns, and nothing else does. A sum over the past does not know its order, so with one
      layer this is as blind to it as NoPE; the layers above see at which row something was computed.

    placement: one of these. Raises ValueError for another, and for an odd width of what turns.
    """

    turns_whole_heads = False  # not all placements do

    PLACEMENTS = ("qk", "qkv", "embeddings", "output")

    def __init__(self, shape: Shape, placement: str = "qkv", base: float = 10_000.0):
        super().__init__(shape, base)
        if placement not in self.PLACEMENTS:
            raise ValueError(f"encoding.placement={placement!r}: must be one of {', '.join(self.PLACEMENTS)}")
        check_even(shape, "dim" if placement == "embeddings" else "head_dim", type(self).__name__)
        if placement == "embeddings":
            self.constant("theta", rope_frequencies(shape.dim, self.base))
        self.placement = placement
        self.relative = placement in ("qk", "qkv")
        self.order_blind = placement == "output"  # in one layer alone, as NoPE is

    def embed(self, x_BTD, positions):
        if self.placement != "embeddings":
            return x_BTD
        return turn(x_BTD, *cos_sin(positions[..., None].double() * self.theta, x_BTD.dtype), self.interleaved)

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        if not self.relative:
            return q_BHTK, k_BHTK, v_BHTK
        if self.placement == "qkv":
            v_BHTK = turn(v_BHTK, *self.cos_sin(positions, layer, v_BHTK.dtype), self.interleaved)
        return super().rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)

    def unrotate(self, out_BHTK, positions, x_BTD, layer):
        if self.placement in ("qk", "embeddings"):
            return out_BHTK
        cos, sin = self.cos_sin(positions, layer, out_BHTK.dtype)
        return turn(out_BHTK, cos, -sin if self.placement == "qkv" else sin, self.interleaved)
