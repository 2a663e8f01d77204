"""Layers that differ: a pattern of encodings, each with a window of its own, repeated over the layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape, evaluated
from model.encodings.combined import uses
from model.encodings.window import Window


class Local(Window):
    """A window whose executors leave out what it hides; where it goes around a bias of the distance, or around no bias,
    it is one."""

    def __init__(self, shape: Shape, inner: PositionEncoding, window: int):
        super().__init__(shape, inner, window)
        self.band = min(self.window, inner.band or self.window)
        self.order_blind = False
        only_distance = inner.distance_bias or not uses(inner, "score_mod")
        self.distance_bias = only_distance and not uses(inner, "positions")


class Layers(PositionEncoding):
    """Layer l is parts[pattern[l mod n]]: local layers with a window and a rotation, say, and global ones without.

    The layout of many models in use: local layers are cheap and see the order of words, global ones carry over any
    distance. Presets stand in conf/encoding: swan, rnope_swa, irope, gemma3, gemma4, gpt_oss, smollm3 (docs/layers.md).

    parts: encodings by name, any that there are. Each is built for as many layers as it has, and counts those alone, so
        that all its parameters are used. What acts on the embeddings acts once. One that has coordinates of its own has
        them for itself; to the others positions are the tokens' own.
    pattern: names of parts, repeated over the layers from the first on, the last time perhaps not to its end.
    windows: by the name of a part, what a row sees in its layers: so many tokens, itself included, or "L/8", an eighth
        of the training context. A part without one sees everything, and is called global.
    Raises ValueError for a pattern that is empty, names what is no part, leaves one out or is longer than the model has
    layers; and for a window outside of 1 .. context, or around a part that computes its weights from whole rows.

    >>> shape = Shape(dim=8, num_heads=1, num_layers=6, context=16)
    >>> wide, narrow = (PositionEncoding(replace(shape, num_layers=n)) for n in (2, 4))
    >>> layers = Layers(shape, {"wide": wide, "narrow": narrow}, ["narrow", "narrow", "wide"], {"narrow": "L/4"})
    >>> [layers.at(layer).sees for layer in range(6)]
    [4, 4, None, 4, 4, None]
    """

    outermost = True

    def __init__(
        self,
        shape: Shape,
        parts: Mapping[str, PositionEncoding],
        pattern: Sequence[str],
        windows: Mapping[str, int | str] | None = None,
    ):
        super().__init__(shape)
        counts = counted(pattern, parts, shape.num_layers)
        for name, part in parts.items():
            if not isinstance(part, PositionEncoding):
                raise ValueError(
                    f"encoding.parts.{name}={part!r}: must be an encoding; `~encoding@encoding.parts.{name}` omits it"
                )
            if part.shape != (wanted := replace(shape, num_layers=counts[name])):
                raise ValueError(f"encoding.parts.{name}: is built for {part.shape}, and not for {wanted}")
        self.pattern = tuple(pattern)
        self.places = []  # of each layer: its part, and which of that part's layers it is
        seen: Counter[str] = Counter()
        for layer in range(shape.num_layers):
            name = pattern[layer % len(pattern)]
            self.places.append((name, seen[name]))
            seen[name] += 1
        self.parts = nn.ModuleDict(parts)
        for name, window in (windows or {}).items():
            self.parts[name] = self._windowed(name, window)
        self.claim()

    @classmethod
    def shape_within(cls, shape, settings, place):
        if place[0] != "parts":
            return shape
        counts = counted(settings["pattern"], settings["parts"], shape.num_layers)
        return replace(shape, num_layers=counts[place[1]])

    def _windowed(self, name: str, window: int | str) -> Local:
        if name not in self.parts:
            raise ValueError(f"encoding.windows.{name}={window}: the parts are {_listed(self.parts)}; name one of them")
        part, context = self.parts[name], self.shape.context
        tokens = window_tokens(window, context)
        if tokens is None or not 1 <= tokens <= context:
            what = "" if tokens is None or tokens == window else f" is {tokens} tokens, and"
            raise ValueError(
                f"encoding.windows.{name}={window}:{what} must lie in 1 .. {context}, the training context, or be a "
                "share of it such as L/4"
            )
        if part.rescores:
            raise ValueError(
                f"encoding.windows.{name}={window}: {type(part).__name__} computes its weights from whole rows of "
                "scores; choose a part that changes scores point by point, like rope or alibi, or leave the window out"
            )
        return Local(part.shape, part, tokens)

    def claim(self) -> None:
        """Sets what holds in all layers, from the claims of the parts."""
        every = list(self.parts.values())
        self.max_length = min((part.max_length for part in every if part.max_length is not None), default=None)
        self.relative = all(part.relative for part in every)
        self.rescores = any(part.rescores for part in every)
        self.prefix_consistent = all(part.prefix_consistent for part in every)
        self.order_blind = all(part.order_blind for part in every)
        self.sees = None if any(part.sees is None for part in every) else max(part.sees for part in every)
        self.band = None if any(part.band is None for part in every) else max(part.band for part in every)
        # Of parts with coordinates of their own: the first, how many, and how many axes their tensor has.
        self.axes: dict[str, tuple[int, int, int]] = {}
        with evaluated(self):
            for name, part in self.parts.items():
                if uses(part, "positions"):
                    tokens_BT = torch.zeros((1, 2), dtype=torch.long, device=self._device())
                    positions, first = part.positions(tokens_BT), 1 + sum(count for _, count, _ in self.axes.values())
                    self.axes[name] = first, positions.shape[-1] if positions.ndim == 3 else 1, positions.ndim

    def _device(self) -> torch.device:
        return next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    def at(self, layer: int) -> PositionEncoding:
        changed = type(self) is not Layers  # a view whose hooks are not the parts': what holds in all layers does
        return self if changed else self.parts[self.places[layer][0]]

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """(T,), or where parts have coordinates of their own (B, T, A): the tokens' own, then each of those in turn."""
        plain_T = super().positions(tokens_BT)
        if not self.axes:
            return plain_T
        B, T = tokens_BT.shape
        own = [self.parts[name].positions(tokens_BT) for name in self.axes]
        columns = [plain_T, *own]
        return torch.cat([x.expand(B, T, -1) if x.ndim == 3 else x.expand(B, T)[..., None] for x in columns], dim=-1)

    def _own(self, name: str, positions: Tensor) -> Tensor:
        """The part's own of what `positions` returned."""
        if not self.axes:
            return positions
        if name not in self.axes:
            return positions[0, :, 0].long()  # another part's may be fractions
        first, count, ndim = self.axes[name]
        if ndim == 3:
            return positions[..., first : first + count]
        return positions[0, :, first] if ndim == 1 else positions[..., first]

    def embed(self, x_BTD, positions):
        for name, part in self.parts.items():
            x_BTD = part.embed(x_BTD, self._own(name, positions))
        return x_BTD

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        name, own = self.places[layer]
        return self.parts[name].rotate(q_BHTK, k_BHTK, v_BHTK, self._own(name, positions), x_BTD, own)

    def unrotate(self, out_BHTK, positions, x_BTD, layer):
        name, own = self.places[layer]
        return self.parts[name].unrotate(out_BHTK, self._own(name, positions), x_BTD, own)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        name, own = self.places[layer]
        return self.parts[name].score_mod(q_BHTK, k_BHTK, self._own(name, positions), x_BTD, own)

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        name, own = self.places[layer]
        given = (self._own(name, positions), x_BTD, own)
        return self.parts[name].rescore(scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, *given)

    def weigh(self, scores_BHQT, visible_QT, rows_Q, layer):
        name, own = self.places[layer]
        return self.parts[name].weigh(scores_BHQT, visible_QT, rows_Q, own)

    def check_length(self, length):
        for part in self.parts.values():
            part.check_length(length)


def counted(pattern: Sequence[str], parts: Mapping[str, Any], num_layers: int) -> Counter[str]:
    """How many of so many layers each part has. Raises ValueError where the pattern can't be laid over them."""
    shown = f"encoding.pattern=[{','.join(map(str, pattern))}]"
    if not pattern:
        raise ValueError(f"{shown}: names no layer; name parts, of which there are {_listed(parts)}")
    for name in pattern:
        if name not in parts:
            raise ValueError(
                f"{shown}: {name} is none of its parts, which are {_listed(parts)}; add it with "
                f"+encoding@encoding.parts.{name}=NAME"
            )
    for name in parts:
        if name not in pattern:
            raise ValueError(
                f"{shown}: no layer is {name}, one of its parts; name it there, or omit it with "
                f"~encoding@encoding.parts.{name}"
            )
    if len(pattern) > num_layers:
        raise ValueError(
            f"model.num_layers={num_layers}: has not as many layers as {shown}, {len(pattern)}; give "
            f"model.num_layers={len(pattern)} or more, or a shorter pattern"
        )
    return Counter(pattern[layer % len(pattern)] for layer in range(num_layers))


def window_tokens(window: int | str, context: int) -> int | None:
    """Tokens of a window, given as such or as "L/8" of a training context; None where it is neither.

    >>> [window_tokens(window, context=128) for window in (20, "L/8", "L/3", "8/L")]
    [20, 16, 42, None]
    """
    if not isinstance(window, str):
        return window
    name, _, divisor = window.partition("/")
    return context // int(divisor) if name == "L" and divisor.isdecimal() and int(divisor) else None


def _listed(parts: Mapping[str, Any]) -> str:
    return ", ".join(parts) or "none"
