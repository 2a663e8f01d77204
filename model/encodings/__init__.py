"""The slot: `PositionEncoding`, the only contract between a position encoding and the model.

Every hook does nothing by default, so the base class *is* NoPE ("no position encoding", Kazemnejad et al. 2023,
https://arxiv.org/abs/2305.19466), and "none" is no special case. One paper is one file in this folder; the folder
is the registry. The transformer owns the encoding and passes it through `forward`; `model/attention.py` is the only
caller of `rotate`, `rescore`, `score_mod`, `weigh` and `unrotate`, which it calls in that order.

Shapes in names: B batch, T tokens (query and key rows), H heads, K head width, D model width; i query row, j key row.
Positions are (T,) when the batch shares them, (B, T) when it does not, (B, T, A) when a token has A coordinates.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conf.own import importable
from conf.signature import check_types, parameters, whole

# score_mod(score, b, h, i, j) -> score: pointwise; b, h, i, j are integer tensors that broadcast against score.
# The dense executors pass index tensors of shape (B,1,1,1), (H,1,1), (Tq,1), (Tk,); FlexAttention passes scalars.
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """What an encoding may know of the model and its text: sizes, the context it will be trained on, separators.

    dim: model width; num_heads: heads a layer; num_layers: blocks; context: training length in tokens (L).
    separators: ids of the tokens that end a "line" or a "sentence", for encodings with coordinates of that kind.
    """

    dim: int
    num_heads: int
    num_layers: int
    context: int
    separators: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("dim", "num_heads", "num_layers", "context"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{'context' if name == 'context' else f'model.{name}'}={value}: must be at least 1")
        if self.dim % self.num_heads:
            raise ValueError(
                f"model.dim={self.dim} is not divisible by model.num_heads={self.num_heads}: choose a multiple of it"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head (d)."""
        return self.dim // self.num_heads


class PositionEncoding(nn.Module):
    """No position encoding, and the base of all others: override the hooks that the paper's method needs.

    Class attributes are claims that the laws in tests/ hold an encoding to:
    max_length: longest sequence it is defined on, in tokens; None is unlimited. Longer input raises ValueError.
    relative: attention scores depend on i − j alone (given the same content at i and j).
    distance_bias: score_mod adds a bias that depends on (head, i − j) and nothing else, so that executors may
        tabulate it once per distance instead of once per pair (only used where positions are the default 0..T−1).
    separable_bias: score_mod adds u(b, h, i) − u(b, h, j) and nothing else (ALiBi's slope times the position, FoX's sum
        of gates), which executors may fold into q and k.
    rescores: `rescore` or `weigh` is in use, so attention needs whole rows of scores and weights.
    prefix_consistent: the first t rows of a longer sequence are those of the shorter; False only where a method
        looks at the sequence's length, and such a method can't decode token by token.
    order_blind: with one layer, the order of the past makes no difference to the output.
    lr_scale: learning rate of the encoding's own parameters as a multiple of the backbone's.
    reach: all positions lie within so many tokens of one another; None: within the sequence's length.
    sees: a row sees no more than so many keys, itself included; None: all up to itself.
    band: the keys that a row sees are among so many, itself the last of them, so that executors leave out the rest;
        None: they may lie anywhere before it.
    outermost: it can't stand inside another encoding.
    capturable: a pass is kernels alone, which a CUDA graph can replay: nothing waits for the device or copies to it,
        and Python keeps nothing that changes from pass to pass.
    """

    max_length: int | None = None
    relative: bool = False
    distance_bias: bool = False
    separable_bias: bool = False
    rescores: bool = False
    prefix_consistent: bool = True
    order_blind: bool = False
    lr_scale: float = 1.0
    reach: int | None = None
    sees: int | None = None
    band: int | None = None
    outermost: bool = False
    capturable: bool = True

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self._constants: dict[str, Tensor] = {}

    def constant(self, name: str, value: Tensor) -> None:
        """Makes the attribute `name` a tensor that follows from the settings: computed once, it lies on the parameters'
        device, keeps its dtype and its values whatever the module is cast to, and is no part of the state_dict. A
        forward pass that made it anew would copy it to the device at every call. Given again, it takes the old one's
        place."""
        self.register_buffer(name, value, persistent=False)
        self._constants[name] = value

    def _apply(self, fn, recurse=True):  # nn.Module's way to another device or dtype, for all that it holds
        super()._apply(fn, recurse)
        for name, value in self._constants.items():
            if not value.is_meta:
                self._buffers[name] = value.to(self._buffers[name].device)
        return self

    def at(self, layer: int) -> PositionEncoding:
        """The encoding whose claims hold in this layer: itself, unless layers differ."""
        return self

    @classmethod
    def shape_within(cls, shape: Shape, settings: Mapping[str, Any], place: tuple[str, ...]) -> Shape:
        """What an encoding inside this one is built with, where `place` leads to it in the settings: the same."""
        return shape

    def positions(self, tokens_BT: Tensor) -> Tensor:
        """The coordinates of each token: (T,), (B, T) or (B, T, A), on the tokens' device. Default 0..T−1."""
        return torch.arange(tokens_BT.shape[-1], device=tokens_BT.device)

    def embed(self, x_BTD: Tensor, positions: Tensor) -> Tensor:
        """Change the embeddings, once, before the first block."""
        return x_BTD

    def rotate(
        self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, positions: Tensor, x_BTD: Tensor, layer: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turn, scale or extend q and k (and, for placement variants, v), before the scores q·k/√d.

        x_BTD is the block's normalised input. q and k may come back wider than K (both alike): the scores keep the
        scale 1/√d of the head width, so that a term that expands into a dot product needs no T × T tensor.
        """
        return q_BHTK, k_BHTK, v_BHTK

    def unrotate(self, out_BHTK: Tensor, positions: Tensor, x_BTD: Tensor, layer: int) -> Tensor:
        """Change each head's output (placement variants turn it back), before the output projection."""
        return out_BHTK

    def score_mod(
        self, q_BHTK: Tensor, k_BHTK: Tensor, positions: Tensor, x_BTD: Tensor, layer: int
    ) -> ScoreMod | None:
        """A pointwise function of (score, b, h, i, j), applied to q·k/√d or what `rescore` made of it, or None.

        q and k are those that `rotate` returned. i and j are rows of q and k, not coordinates: look those up with
        `take(positions, b, i)`. Written once with broadcasting index tensors, it serves every executor.
        """
        return None

    def rescore(
        self,
        scores_BHQT: Tensor,
        visible_QT: Tensor,
        rows_Q: Tensor,
        q_BHTK: Tensor,
        k_BHTK: Tensor,
        positions: Tensor,
        x_BTD: Tensor,
        layer: int,
    ) -> Tensor:
        """Whole rows of scores q·k/√d to others, where `rescores` is set: before score_mod, so that content is all that
        they hold, and not masked.

        rows_Q are the rows i of q that these Q rows of scores belong to; visible_QT[r, j] is j ≤ rows_Q[r]. What comes
        back where not visible plays no part.
        """
        return scores_BHQT

    def weigh(self, scores_BHQT: Tensor, visible_QT: Tensor, rows_Q: Tensor, layer: int) -> Tensor:
        """Whole rows of scores (after score_mod, not masked) to attention weights, zero where not visible, where
        `rescores` is set. The default is the softmax over what is visible."""
        return torch.softmax(scores_BHQT.masked_fill(~visible_QT, float("-inf")), dim=-1)

    def narrow(self, keys: int) -> None:
        """Lets the encoding, and those that it holds, know that a row sees no more than so many keys."""
        self.sees = min(keys, self.sees or keys)

    def check_length(self, length: int) -> None:
        """Raises ValueError where the encoding is not defined on `length` tokens."""
        if self.max_length is not None and length > self.max_length:
            raise ValueError(
                f"{type(self).__name__} is not defined beyond {self.max_length} tokens (asked for {length}): "
                "evaluate at shorter lengths or choose an encoding without a table"
            )

    def parameters_by_lr_scale(self) -> dict[float, list[nn.Parameter]]:
        """All trainable parameters by the `lr_scale` of the encoding that owns them: a wrapper's own are not those of
        what it wraps."""
        scales = {}
        for module in self.modules():  # outer ones first, so that the owner has the last word
            if isinstance(module, PositionEncoding):
                scales.update(dict.fromkeys(module.parameters(), module.lr_scale))
        found: dict[float, list[nn.Parameter]] = {}
        for parameter, scale in scales.items():
            if parameter.requires_grad:
                found.setdefault(scale, []).append(parameter)
        return found

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}, relative={self.relative}"


class Wrapper(PositionEncoding):
    """An encoding around another: every hook and claim is the inner one's until a subclass changes it."""

    def __init__(self, shape: Shape, inner: PositionEncoding):
        super().__init__(shape)
        if not isinstance(inner, PositionEncoding):
            raise ValueError(f"encoding.inner={inner!r}: {type(self).__name__} wraps another encoding; name one")
        self.inner = inner
        for claim in (
            "max_length",
            "relative",
            "distance_bias",
            "separable_bias",
            "rescores",
            "prefix_consistent",
            "order_blind",
            "sees",
            "band",
        ):
            setattr(self, claim, getattr(inner, claim))

    def positions(self, tokens_BT):
        return self.inner.positions(tokens_BT)

    def embed(self, x_BTD, positions):
        return self.inner.embed(x_BTD, positions)

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        return self.inner.rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)

    def unrotate(self, out_BHTK, positions, x_BTD, layer):
        return self.inner.unrotate(out_BHTK, positions, x_BTD, layer)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        return self.inner.score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)

    def rescore(self, *args):
        return self.inner.rescore(*args)

    def weigh(self, *args):
        return self.inner.weigh(*args)

    def narrow(self, keys):
        super().narrow(keys)
        self.inner.narrow(keys)

    def check_length(self, length):
        self.inner.check_length(length)


@contextmanager
def evaluated(encoding: PositionEncoding) -> Iterator[None]:
    """Inside the block it is in evaluation mode, each of its parts; in training, randomized positions count draws."""
    modes = {part: part.training for part in encoding.modules()}
    encoding.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def take(positions: Tensor, b: Tensor, i: Tensor) -> Tensor:
    """The coordinate of row i of sequence b, for positions of shape (T,) or (B, T); broadcasts over b and i."""
    return positions[i] if positions.ndim == 1 else positions[b, i]


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or as it is where that is better: what meets a distance, an angle or a sum may not be bf16, which
    can't tell 257 from 256."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def build_encoding(config: Mapping[str, Any], shape: Shape, seed: int = 0) -> PositionEncoding:
    """The encoding of a config (`_target_`: a class under model.encodings; other keys: its settings), built with a
    random generator of its own, so that an encoding's parameters never move the backbone's initial weights.

    A setting that is itself such a config (a wrapped encoding) is built first, a list of them likewise.
    Raises ValueError, naming the value, for an unknown class or setting.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 2 + 1)  # odd; the backbone draws from even seeds
        return _build(config, shape)


def _build(config: Mapping[str, Any], shape: Shape, group: str = "encoding") -> PositionEncoding:
    with named(group, "encoding"):
        cls, settings = configured_class(config, "encoding", PositionEncoding)
    within = {key: _build_inner(value, shape, group, (key,), cls, settings) for key, value in settings.items()}
    with named(group, "encoding"):
        return cls(shape, **within)


def _build_inner(
    value: Any, shape: Shape, group: str, place: tuple[str, ...], cls: type[PositionEncoding], settings: Mapping
) -> Any:
    """A setting, where the configs of encodings that it is or holds (in a mapping or a list) are built."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            name = ".".join((group, *place))
            with named(group, "encoding"):
                shape = cls.shape_within(shape, settings, place)
            inner = _build(value, shape, name)
            if inner.outermost:
                raise ValueError(
                    f"{name}={type(inner).__name__}: differs by layer, so it must stand outermost; put what goes "
                    "around or beside it into its parts"
                )
            return inner
        return {key: _build_inner(item, shape, group, (*place, key), cls, settings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_build_inner(item, shape, group, place, cls, settings) for item in value]
    return value


@contextmanager
def named(group: str, slot: str) -> Iterator[None]:
    """A class names its settings by its slot ("encoding.base"): in a ValueError they get the name of the group that
    they really stand in ("encoding.inner.base")."""
    try:
        yield
    except ValueError as error:
        if group == slot or not str(error).startswith(f"{slot}."):
            raise
        raise ValueError(str(error).replace(f"{slot}.", f"{group}.")) from error


def configured_class(config: Mapping[str, Any], slot: str, base: type) -> tuple[type, dict[str, Any]]:
    """The class that a config names and its settings; the class must lie under model.<slot>s, or in the folder of one's
    own encodings that is in use, and derive from `base`.

    Raises ValueError, naming the value, for another class or a setting that the class doesn't have.
    """
    settings = {key: value for key, value in config.items() if key not in ("_target_", "name")}
    target = str(config.get("_target_", ""))
    module_name, _, class_name = target.rpartition(".")
    if not (f"{module_name}.".startswith(f"model.{slot}s.") or (slot == "encoding" and importable(module_name))):
        elsewhere = ", or in a folder of your own that the command names, encoding_path=FOLDER" * (slot == "encoding")
        raise ValueError(f"{slot}._target_={target!r}: must name a class under model.{slot}s{elsewhere}")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{slot}._target_={target!r}: no such class ({error})") from None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{slot}._target_={target!r}: not a {base.__name__}")
    known = [name for name in parameters(cls) if name != "shape"]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(
            f"{slot}.{', '.join(unknown)}: {class_name} has no such setting; it has: {', '.join(known) or 'none'}"
        )
    settings = whole(cls, settings)
    check_types(cls, settings, slot)
    return cls, settings
