"""What PoSE and random positions share: a stage that trains at a short length on positions drawn from a longer one."""

import torch
from torch import Tensor

from model.encodings import PositionEncoding, evaluated
from model.encodings.none import NoPE
from model.encodings.randomized import FURTHEST, STRIDE
from model.extensions import Around, Extension, not_relative, stretch_reason, view, view_of_all
from model.extensions.none import NoExtension
from model.extensions.rotary import sample

SEEDS = 0xBF58476D1CE4E5B9  # odd: neighbouring seeds start far apart


class Drawn:
    """Mixin of a view, and of the encodings that it holds: positions that are drawn, in training (`drawing`), and where
    `at_test` is random in evaluation too.

    The number of draws, which makes a draw together with the seed, is a buffer of the outermost view. Claims that
    drawing takes away hold again where positions are the tokens' own.
    """

    drawing, at_test, draw_how, draw_seed, draw_from = False, "plain", "", 0, 0

    @property
    def drawn(self) -> bool:
        return self.drawing if self.training else self.at_test == "random"

    @property
    def reach(self) -> int | None:
        return self.draw_from if self.drawn else super().reach

    @property
    def distance_bias(self) -> bool:
        own = self.__dict__.get("distance_bias")
        return (super().distance_bias if own is None else own) and not self.drawn

    @distance_bias.setter
    def distance_bias(self, claim: bool) -> None:
        self.__dict__["distance_bias"] = claim

    def positions(self, tokens_BT):
        if not self.drawn:
            return super().positions(tokens_BT)
        length = tokens_BT.shape[-1]
        if not self.training:  # of draws below 0, the length's own: the two kinds never meet
            draw = torch.full_like(self.position_draws, -length)
            return drawn_positions(draw, self.draw_seed, length, self.draw_from, self.draw_how)
        positions_T = drawn_positions(self.position_draws, self.draw_seed, length, self.draw_from, self.draw_how)
        self.position_draws += 1
        return positions_T

    def check_length(self, length):
        if self.drawn and length > self.draw_from:
            raise ValueError(
                f"{type(self).__name__} is not defined beyond {self.draw_from} tokens (asked for {length}), from which "
                "its positions are drawn: raise extension.length"
            )
        super().check_length(length)


# torch.compile can't see into a generator, and a draw on the CPU is no part of a CUDA graph
@torch.library.custom_op("trainshort::drawn_positions", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def drawn_positions(draw: Tensor, seed: int, length: int, reach: int, how: str) -> Tensor:
    """`length` positions in order below `reach`, (length,), a function of the seed and the draw's number alone. how:
    "skip", two runs of neighbours, the first from 0; "whole", any whole numbers; "real", any numbers (float64)."""
    generator = torch.Generator().manual_seed((SEEDS * seed + STRIDE * int(draw)) % 2**63)
    if how == "real":
        positions_T = (torch.rand(length, dtype=torch.float64, generator=generator) * reach).sort().values
    elif how == "whole":
        positions_T = torch.randperm(reach, generator=generator)[:length].sort().values
    else:
        cut = torch.randint(1, max(2, (length + 1) // 2 + 1), (), generator=generator)
        skipped = torch.randint(reach - length + 1, (), generator=generator)
        positions_T = torch.arange(length)
        positions_T += skipped * (positions_T >= cut)
    return positions_T.to(draw.device, non_blocking=True)


@drawn_positions.register_fake
def _(draw, seed, length, reach, how):
    return draw.new_empty(length, dtype=torch.float64 if how == "real" else torch.long)


class DrawnPositions(Around):
    """A stage on windows of the short length whose positions are drawn from 0 .. N − 1, on top of an inner extension.

    `how` and `at_test` are those of `drawn_positions` and `Drawn`. It fits what has the tokens' own positions, sees all
    keys and uses positions: not NoPE. One that goes by content alone (FoX, PaTH, CoPE) is not changed.
    """

    at_any_length = True
    how: str
    at_test = "plain"

    def __init__(self, inner: Extension | None = None, length: int | None = None, seed: int = 0):
        super().__init__(NoExtension() if inner is None else inner)
        if length is not None and not 2 <= length <= FURTHEST:
            raise ValueError(f"extension.length={length}: must lie in 2 .. {FURTHEST:,} tokens")
        self.length, self.seed = length, seed

    def final_length(self, context):
        if self.length is None:
            raise ValueError("extension.length=null: give the length, in tokens, whose positions are drawn in training")
        if self.length <= context:
            raise ValueError(f"extension.length={self.length}: must be above the context {context}; raise it")
        return self.length

    def fits(self, encoding):
        if isinstance(encoding, NoPE):
            return f"{type(encoding).__name__} has no use for positions"
        return stretch_reason(encoding) or self.inner.fits(encoding)

    def extend(self, encoding, train_length, eval_length):
        extended = self.inner.apply(encoding, train_length, eval_length)
        extended.check_length(eval_length)
        if reason := (isinstance(extended, NoPE) or stretch_reason(extended)):
            raise ValueError(f"extension.inner: leaves no positions to draw ({reason}); choose another")
        return drawn_view(extended, self.how, self.at_test, max(train_length, eval_length), self.seed)


def drawn_view(encoding: PositionEncoding, how: str, at_test: str, reach: int, seed: int) -> PositionEncoding:
    """A view whose positions are drawn; the number of draws goes on from an earlier view's."""
    claims = not_relative(encoding) | {"prefix_consistent": encoding.prefix_consistent and at_test == "plain"}
    draw = {"drawing": True, "at_test": at_test, "draw_how": how, "draw_from": reach, "draw_seed": seed}
    outer = view(view_of_all(encoding, Drawn, **draw), capturable=False, **claims)  # the generator is the CPU's
    if not hasattr(outer, "position_draws"):
        device = next((t.device for t in [*outer.parameters(), *outer.buffers()]), torch.device("cpu"))
        outer.register_buffer("position_draws", torch.zeros((), dtype=torch.long, device=device))
    return outer


@torch.no_grad()
def whole_reason(encoding: PositionEncoding) -> str | None:
    """None where positions between whole numbers can be used, else why not. Tried out, on each encoding inside too."""
    for part in encoding.modules():
        if not isinstance(part, PositionEncoding):
            continue
        with evaluated(part):
            q, k, v, x, positions = sample(part, tokens=4)
            positions = positions + torch.tensor(0.25, dtype=torch.float64)
            i, j, zero = torch.arange(4)[:, None], torch.arange(4), torch.zeros((), dtype=torch.long)
            heads_H11 = torch.arange(part.shape.num_heads)[:, None, None]
            try:
                part.embed(x, positions)
                for layer in range(part.shape.num_layers):
                    turned_q, turned_k, _ = part.rotate(q, k, v, positions, x, layer)
                    if (mod := part.score_mod(turned_q, turned_k, positions, x, layer)) is not None:
                        mod(q.new_zeros(1, part.shape.num_heads, 4, 4), zero, heads_H11, i, j)
            except (IndexError, TypeError, RuntimeError, ValueError):
                return f"{type(part).__name__} looks its positions up, and has nothing between whole numbers"
    return None
