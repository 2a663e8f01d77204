"""Several encodings at once: each part's hooks in turn."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape, Wrapper


def uses(encoding: PositionEncoding, hook: str) -> bool:
    """Whether an encoding, or one inside it, has a `hook` of its own."""
    own = getattr(type(encoding), hook)
    if isinstance(encoding, Combined):
        return any(uses(part, hook) for part in encoding.parts.values())
    if isinstance(encoding, Wrapper) and own is getattr(Wrapper, hook):
        return uses(encoding.inner, hook)
    return own is not getattr(PositionEncoding, hook)


@torch.no_grad()
def last_row_of_nothing(encoding: PositionEncoding, length: int, score: float = 0.0) -> Tensor | None:
    """What score_mod of layer 0 makes of the last row of equal scores where all content is zeros: (1, H, 1, T), or None
    without one."""
    H, K = encoding.shape.num_heads, encoding.shape.head_dim
    was_training = encoding.training
    positions = encoding.eval().positions(torch.zeros(1, length, dtype=torch.long))  # eval: training may count draws
    encoding.train(was_training)
    x_BTD = encoding.embed(torch.zeros(1, length, encoding.shape.dim), positions)
    q, k, _ = encoding.rotate(*(torch.zeros(1, H, length, K) for _ in range(3)), positions, x_BTD, 0)
    mod = encoding.score_mod(q, k, positions, x_BTD, 0)
    b, h, rows = torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.arange(H)[:, None, None], torch.arange(length)
    return mod and mod(torch.full((1, H, 1, length), score), b, h, rows[-1:, None], rows)


class Combined(PositionEncoding):
    """embed, rotate and score_mod of each part, one after the other in their order; positions and rescore of the one
    part that has them.

    parts: two or more encodings by name. A rotation is given what the one before returned, and score_mods are given q
    and k as the last rotation returned them, so that one which reads q and k (Shaw's, DeBERTa's) sees them turned.
    Test-time wrappers (log-n, SSMax, randomized) take a combination as their `inner`.

    Raises ValueError for parts that can't be right together: two that set the positions, or one that does and one with
    a table of them; two that rescore whole rows; one class twice; a rotation after one that widens q and k
    (Transformer-XL: put it last); and parts whose shapes don't fit, such as a bias on positions with several axes.
    """

    def __init__(self, shape: Shape, parts: Mapping[str, PositionEncoding]):
        super().__init__(shape)
        for name, part in parts.items():
            if not isinstance(part, PositionEncoding):
                raise ValueError(
                    f"encoding.parts.{name}={part!r}: must be an encoding; `~encoding@encoding.parts.{name}` omits it"
                )
        if len(parts) < 2:
            raise ValueError(f"encoding.parts={list(parts)}: a combination has at least two parts")
        self.parts = nn.ModuleDict(parts)
        every = list(self.parts.values())
        self.max_length = min((part.max_length for part in every if part.max_length is not None), default=None)
        self.prefix_consistent = all(part.prefix_consistent for part in every)
        self.order_blind = all(part.order_blind for part in every)
        self.rescores = any(part.rescores for part in every)
        biases, turns = self.with_hook("score_mod"), self.with_hook("rotate")
        tabulated = all(part.distance_bias for part in biases)
        self.distance_bias = bool(biases) and tabulated and not self.rescores and not self.with_hook("positions")
        if narrowest := min((part.sees for part in every if part.sees is not None), default=None):
            self.narrow(narrowest)
        # Two rotations, or one and a bias that may read the turned q, can each be relative and not so together.
        alone = len(turns) < 2 and (not turns or (tabulated and not self.rescores))
        self.relative = alone and all(part.relative for part in every)
        self.refuse_misfits()

    def with_hook(self, hook: str) -> list[PositionEncoding]:
        return [part for part in self.parts.values() if uses(part, hook)]

    def refuse_misfits(self) -> None:
        names = [type(part).__name__ for part in self.parts.values()]
        shown = f"encoding.parts={', '.join(f'{key}: {name}' for key, name in zip(self.parts, names, strict=True))}"
        if len(set(names)) < len(names):
            raise ValueError(f"{shown}: the same encoding twice; keep one")
        placing = self.with_hook("positions")
        if len(placing) > 1:
            raise ValueError(f"{shown}: only one part can set the positions")
        if sum(part.rescores for part in self.parts.values()) > 1:
            raise ValueError(f"{shown}: only one part can turn whole rows of scores into weights")
        if placing and any(part.max_length is not None for part in self.parts.values() if part not in placing):
            raise ValueError(f"{shown}: a table ends where the positions of {type(placing[0]).__name__} may not")
        length = self.shape.num_heads + 7  # unlike any other size, so that nothing broadcasts by chance
        length = min(length, self.max_length or length)
        try:
            out = last_row_of_nothing(self, length)
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"{shown}: shapes don't fit together ({error})") from None
        if out is not None and out.shape != (1, self.shape.num_heads, 1, length):
            raise ValueError(f"{shown}: a bias doesn't fit the positions, which have several axes")

    def positions(self, tokens_BT):
        return next(iter(self.with_hook("positions")), super()).positions(tokens_BT)

    def embed(self, x_BTD, positions):
        return reduce(lambda x, part: part.embed(x, positions), self.parts.values(), x_BTD)

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        for part in self.with_hook("rotate"):
            if q_BHTK.shape[-1] != self.shape.head_dim:
                raise ValueError(
                    f"encoding.parts: {type(part).__name__} can't rotate q and k that the part before has widened; "
                    "put it before that one"
                )
            q_BHTK, k_BHTK, v_BHTK = part.rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)
        return q_BHTK, k_BHTK, v_BHTK

    def unrotate(self, out_BHTK, positions, x_BTD, layer):
        undo = reversed(self.parts.values())
        return reduce(lambda out, part: part.unrotate(out, positions, x_BTD, layer), undo, out_BHTK)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        mods = [part.score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer) for part in self.parts.values()]
        mods = [mod for mod in mods if mod is not None]

        def chain(score, b, h, i, j):
            for mod in mods:
                score = mod(score, b, h, i, j)
            return score

        return chain if mods else None

    def rescore(self, *args):
        return next((part for part in self.parts.values() if part.rescores), super()).rescore(*args)

    def narrow(self, keys):
        super().narrow(keys)
        for part in self.parts.values():
            part.narrow(keys)

    def check_length(self, length):
        for part in self.parts.values():
            part.check_length(length)
