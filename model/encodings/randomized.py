"""Randomized positions: in training an encoding sees an ordered random sample of a much longer range."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, Shape, Wrapper
from model.encodings.none import NoPE

STRIDE = 0x9E3779B97F4A7C15  # odd, and far from a simple fraction of 2^64: neighbouring draws get unrelated seeds

FURTHEST = 2**24  # so many positions are shuffled for each draw


class Randomized(Wrapper):
    """Positions 0..T−1 replaced by T of 0..M−1, drawn without replacement and sorted, M = multiple · L.

    Ruoss et al. 2023, "Randomized Positional Encodings Boost Length Generalization of Transformers",
    https://arxiv.org/abs/2305.16843. Every position that a test can meet was met in training, and the model learns from
    the order of positions. One draw serves a batch, as in the authors' code.

    inner: the encoding that gets these positions. Refused (ValueError) are one that sets its own positions, one whose
    table ends before M (set encoding.inner.length), and NoPE, which has no use for them. One that goes by content alone
    (FoX, PaTH, CoPE) is not changed by them either.
    multiple: M in training contexts; longer sequences than M are refused. The paper's is 51 (40 and 2,048 tokens); a
    smaller one trains faster.
    at_test: "random" draws at test too, as the authors do; "even" spaces positions evenly over the range.

    Draws come from a generator of their own. In training they are a function of the seed and of the number of draws
    before, both kept in the state_dict, so that a resumed run draws what an uninterrupted one does. At test they are a
    function of the seed and the length alone. Since they change with the length, it can't decode token by token.
    """

    capturable = False  # the generator is the CPU's, so that the draws are the same on every device

    def __init__(self, shape: Shape, inner: PositionEncoding, multiple: int = 16, at_test: str = "random"):
        super().__init__(shape, inner)
        if not shape.context <= multiple * shape.context <= FURTHEST:
            raise ValueError(f"encoding.multiple={multiple}: must be at least 1, and reach {FURTHEST:,} tokens at most")
        if at_test not in ("random", "even"):
            raise ValueError(f"encoding.at_test={at_test!r}: must be random or even")
        self.max_length = multiple * shape.context
        name = type(inner).__name__
        if isinstance(inner, NoPE):
            raise ValueError(f"encoding.inner={name}: has no use for positions; choose another")
        if not torch.equal(inner.positions(torch.zeros(1, 3, dtype=torch.long)), torch.arange(3)):
            raise ValueError(
                f"encoding.inner={name}: sets its own positions, which can't be randomized; choose another"
            )
        if inner.max_length is not None and inner.max_length < self.max_length:
            raise ValueError(
                f"encoding.multiple={multiple}: positions reach {self.max_length}, but {name} ends at "
                f"{inner.max_length}; lower it, or set encoding.inner.length={self.max_length}"
            )
        for part in inner.modules():
            if isinstance(part, PositionEncoding):
                part.reach = self.max_length
        self.relative = self.distance_bias = self.prefix_consistent = False
        self.at_test = at_test
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def check_length(self, length):
        PositionEncoding.check_length(self, length)

    def positions(self, tokens_BT):
        length = tokens_BT.shape[-1]
        if self.at_test == "even" and not self.training:
            return torch.arange(length, device=tokens_BT.device) * self.max_length // length
        if not self.training:
            return draw_positions(self.seed, torch.full_like(self.draws, -length), length, self.max_length)
        positions_T = draw_positions(self.seed, self.draws, length, self.max_length)  # of draws ≥ 0: the two never meet
        self.draws += 1
        return positions_T


# torch.compile can't see into a generator, and a draw on the CPU is no part of a CUDA graph
@torch.library.custom_op("trainshort::draw_positions", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def draw_positions(seed: Tensor, draw: Tensor, length: int, reach: int) -> Tensor:
    """`length` of 0..reach−1 in order, (length,), a function of the seed, and of the draw's number, alone."""
    generator = torch.Generator().manual_seed((int(seed) + STRIDE * int(draw)) % 2**63)
    sample_T = torch.randperm(reach, generator=generator)[:length]
    return sample_T.sort().values.to(seed.device, non_blocking=True)


draw_positions.register_fake(lambda seed, draw, length, reach: seed.new_empty(length))
