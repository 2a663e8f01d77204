"""Several encodings at once: each part's hooks in turn."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape, Wrapper, evaluated

AT_MOST_ONE = {  # hooks of which a combination can have one
    "positions": "set the positions",
    "rescore": "change whole rows of scores",
    "weigh": "turn whole rows of scores into weights",
}


def uses(encoding: PositionEncoding, hook: str) -> bool:
    """Whether an encoding, or one inside it, has a `hook` of its own."""
    own = getattr(type(encoding), hook)
    if isinstance(encoding, Combined):
        return any(uses(part, hook) for part in encoding.parts.values())
    if isinstance(encoding, Wrapper) and own is getattr(Wrapper, hook):
        return uses(encoding.inner, hook)
    return own is not getattr(PositionEncoding, hook)


@torch.no_grad()
def attend_to_noise(encoding: PositionEncoding) -> Tensor:
    """What comes out of the last layer when every hook is called in turn, as attention calls them, on random content:
    (B, H, T, K), at a batch and a length unlike any size of the model, so that nothing broadcasts by chance.

    Raises what a hook raises (RuntimeError, IndexError) where it can't take what another returned.
    """
    shape = encoding.shape
    own = {1, shape.num_layers, shape.num_heads, shape.head_dim, shape.head_dim // 2, shape.dim}
    B, T = [n for n in range(2, 13) if n not in own][-2:]
    T = min(T, encoding.max_length or T)
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(B, T, shape.dim, generator=generator)
    heads_3BHTK = torch.randn(3, B, shape.num_heads, T, shape.head_dim, generator=generator)
    b, h, rows_T = torch.arange(B)[:, None, None, None], torch.arange(shape.num_heads)[:, None, None], torch.arange(T)
    visible_TT = rows_T <= rows_T[:, None]
    with evaluated(encoding):
        positions = encoding.positions(torch.zeros(B, T, dtype=torch.long))
        x_BTD = encoding.embed(x_BTD, positions)
        for layer in range(shape.num_layers):
            q, k, v = encoding.rotate(*heads_3BHTK, positions, x_BTD, layer)
            scores_BHTT = q @ k.mT * shape.head_dim**-0.5
            if encoding.rescores:
                scores_BHTT = encoding.rescore(scores_BHTT, visible_TT, rows_T, q, k, positions, x_BTD, layer)
            if (mod := encoding.score_mod(q, k, positions, x_BTD, layer)) is not None:
                scores_BHTT = mod(scores_BHTT, b, h, rows_T[:, None], rows_T)
            out_BHTK = encoding.weigh(scores_BHTT, visible_TT, rows_T, layer) @ v
            out_BHTK = encoding.unrotate(out_BHTK, positions, x_BTD, layer)
    return out_BHTK


class Combined(PositionEncoding):
    """embed, rotate and score_mod of each part, one after the other in their order; positions, rescore and weigh of the
    one part that has them.

    parts: two or more encodings by name. A rotation is given what the one before returned, and all that reads q and k
    afterwards (Shaw's, CoPE's) sees them as the last rotation returned them. `rescore` is given the scores of content
    alone, so that CoPE's gates and DAPE's network see no neighbour's bias, and the biases come on top of what it
    returns: path and fox are PaTH-FoX.
    Test-time wrappers (log-n, SSMax, randomized) take a combination as their `inner`.

    Raises ValueError for parts that can't be right together: two that set the positions, or one that does and one with
    a table of them; two that change whole rows of scores, or turn them into weights; one class twice; a rotation after
    one that widens q and k (Transformer-XL: put it last); and parts of which one can't take what another returns: a
    bias and positions with several axes, one that reads q and k at the width of a head and one that widens them. Every
    hook is tried once when it is built.
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
        self.separable_bias = bool(biases) and all(part.separable_bias for part in biases) and not self.rescores
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
        for hook, does in AT_MOST_ONE.items():
            if len(self.with_hook(hook)) > 1:
                raise ValueError(f"{shown}: only one part can {does}; leave one out")
        placing = self.with_hook("positions")
        if placing and any(part.max_length is not None for part in self.parts.values() if part not in placing):
            raise ValueError(f"{shown}: a table ends where the positions of {type(placing[0]).__name__} may not")
        try:
            out_BHTK = attend_to_noise(self)
        except (RuntimeError, IndexError) as error:
            raise ValueError(
                f"{shown}: one can't take what another gives it, such as several coordinates a token, or q and k wider "
                f"than a head ({str(error).splitlines()[0]}); leave one out"
            ) from None
        if not torch.isfinite(out_BHTK).all():
            raise ValueError(f"{shown}: the scores of the two are not finite together; leave one out")

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
        return next(iter(self.with_hook("rescore")), super()).rescore(*args)

    def weigh(self, *args):
        return next(iter(self.with_hook("weigh")), super()).weigh(*args)

    def narrow(self, keys):
        super().narrow(keys)
        for part in self.parts.values():
            part.narrow(keys)

    def check_length(self, length):
        for part in self.parts.values():
            part.check_length(length)
