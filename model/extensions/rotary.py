"""What the methods for RoPE share: other frequencies and a temperature for a trained rotation, and which rotations
they fit.

A "turn" is a full one: in the training length L pair k makes L·θ_k / 2π turns, θ_k its frequency in radians a token.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from model.encodings import PositionEncoding
from model.encodings.rope import RoPE
from model.extensions import Extension, device_and_dtype, stretch_reason, view
from model.extensions.scales import unscaled


class Stretched:
    """Mixin of a view on a RoPE: frequencies passed through each of `stretches`, first to last, and the cosines and
    sines that turn q and k × `attention_factor`, so that layers, pairs and parts of a head that don't turn stay as
    trained. A stretch is a function of the frequencies, or the name of a constant that divides them."""

    stretches: tuple[Callable[[Tensor], Tensor] | str, ...] = ()
    attention_factor = 1.0

    def frequencies(self, layer):
        frequencies = super().frequencies(layer)
        for stretch in self.stretches:
            if isinstance(stretch, str):
                frequencies = frequencies / getattr(self, stretch)
            else:
                frequencies = stretch(frequencies)
        return frequencies

    def tables(self, positions, layer, dtype):
        cos, sin = super().tables(positions, layer, dtype)
        turns = self.frequencies(layer) > 0  # (P,) or (H, 1, P)
        factor = self.attention_factor ** turns.to(cos.dtype)  # 1 for a pair that doesn't
        return cos * factor, sin * factor


def stretched(part: RoPE, stretch: Callable[[Tensor], Tensor] | str, factor: float = 1.0) -> RoPE:
    """A view whose frequencies pass through one more stretch, after those of earlier views, and whose attention factor
    is × `factor`."""
    before = getattr(part, "stretches", ()), getattr(part, "attention_factor", 1.0)
    return view(part, Stretched, stretches=(*before[0], stretch), attention_factor=before[1] * factor)


class FrequencyExtension(Extension):
    """A method that replaces the frequencies of a trained RoPE, and perhaps scales q and k: override `stretch`.

    It fits RoPE and those of its variants whose angles are a token's index times a frequency: other bases, by head or
    layer, learned frequencies, a part of the pairs turned. A variant whose position enters by other ways as well
    (a decay, the content, several axes) is refused, since the method would stretch a part of it; so is a window, in
    which no distance is longer than in training.
    """

    def stretch(self, frequencies: Tensor, train_length: int, eval_length: int) -> Tensor:
        """The frequencies for the longer text, of the same shape (..., P), float64, radians a token."""
        raise NotImplementedError

    def attention_factor(self, train_length: int, eval_length: int) -> float:
        """What the turning pairs of q and k are each multiplied by: their scores get its square."""
        return 1.0

    def fits(self, encoding):
        return stretch_reason(encoding) or super().fits(encoding)  # first: parts are tried at the tokens' own places

    def fits_part(self, part):
        return rotation_reason(part)

    def extend_part(self, part, train_length, eval_length):
        stretch = partial(self.stretch, train_length=train_length, eval_length=eval_length)
        return stretched(part, stretch, self.attention_factor(train_length, eval_length))


@torch.no_grad()
def rotation_reason(part: PositionEncoding) -> str | None:
    """None where positions enter as a token's index times `frequencies`, and in no other way; else why not.

    Tried out rather than asked by class. With all frequencies zero, equal tokens must stay equal wherever they stand;
    and frequencies twice as high must do what positions twice as far apart do.
    """
    name = type(part).__name__
    if not isinstance(part, RoPE):
        return f"{name} has no rotation frequencies"
    if part.rescores:
        return f"{name} scores its pairs in two ranges of distances, of which other frequencies would stretch both"
    part = unscaled(part)

    def moved(factor: float, spread: int, tokens: int) -> Tensor:
        """All that it does to so many different tokens in turn, its frequencies × factor: (..., T, all widths)."""
        faster = stretched(part, lambda frequencies: frequencies * factor)
        q, k, v, x, positions = sample(part, tokens)
        positions = positions * spread
        out = [faster.embed(x, positions)[:, None].expand(-1, part.shape.num_heads, -1, -1)]
        for layer in range(part.shape.num_layers):
            out += [*faster.rotate(q, k, v, positions, x, layer), faster.unrotate(v, positions, x, layer)]
        return torch.cat(out, dim=-1)

    def rows_differ(rows: Tensor) -> bool:
        return not torch.equal(rows, rows[..., :1, :].expand_as(rows))

    if rows_differ(moved(factor=0, spread=1, tokens=1)):
        return f"the position of {name} enters by more than its rotation frequencies"
    if not (
        rows_differ(moved(factor=1, spread=1, tokens=1))
        and torch.allclose(moved(factor=2, spread=1, tokens=4), moved(factor=1, spread=2, tokens=4))
    ):
        return f"the angles of {name} are not a token's index times a frequency"
    return None


def sample(encoding: PositionEncoding, tokens: int, length: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random q, k, v (1, H, T, K), x (1, T, D) and positions 0..T−1 to try an encoding on: always the same, and with
    only so many different tokens, which recur in turn."""
    device, dtype = device_and_dtype(encoding)
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.arange(length) % tokens
    H, K, D = encoding.shape.num_heads, encoding.shape.head_dim, encoding.shape.dim
    q, k, v = torch.randn(3, 1, H, length, K, generator=generator)[..., tokens_T, :].to(device, dtype)
    x = torch.randn(1, length, D, generator=generator)[:, tokens_T].to(device, dtype)
    return q, k, v, x, torch.arange(length, device=device)


def turning_pairs(frequencies: Tensor) -> Tensor:
    """P, the pairs of each head that turn: they come first, those that stay have frequency 0. Shape (..., 1)."""
    return (frequencies > 0).sum(dim=-1, keepdim=True)


def pair_index(frequencies: Tensor) -> Tensor:
    """k / (P − 1) of each pair: 0 for the first (fastest), 1 for the last that turns; float64.

    >>> pair_index(torch.tensor([1.0, 0.1, 0.01, 0.0])).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    k = torch.arange(frequencies.shape[-1], dtype=torch.float64, device=frequencies.device)
    return k / (turning_pairs(frequencies) - 1).clamp_min(1)


def kept_by_turns(frequencies: Tensor, train_length: int, low: float, high: float) -> Tensor:
    """YaRN's γ: 0 for pairs with at most `low` turns in the training length, 1 from `high` turns on, linear between.

    With L = 4096 and YaRN's 1 and 32: pairs of 0.5, 1, 16.5, 32 and 100 turns:

    >>> turns = torch.tensor([0.5, 1.0, 16.5, 32.0, 100.0], dtype=torch.float64)
    >>> kept_by_turns(turns * 2 * math.pi / 4096, 4096, low=1, high=32).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    turns = frequencies * train_length / (2 * math.pi)
    return ((turns - low) / (high - low)).clamp(0, 1)


def blend(frequencies: Tensor, kept: Tensor, divisor: float) -> Tensor:
    """θ' = kept · θ + (1 − kept) · θ / divisor."""
    return frequencies * (kept + (1 - kept) / divisor)


def warn_unreached(part: PositionEncoding, train_length: int, setting: str, turns: float, remedy: str) -> None:
    """Warns where no pair of the encoding makes so many turns in the training length, so that none would be kept."""
    fastest = max(part.frequencies(layer).max().item() for layer in range(part.shape.num_layers))
    if (reached := fastest * train_length / (2 * math.pi)) < turns:
        warnings.warn(
            f"extension.{setting}={turns:g}: the fastest pair makes {reached:.1f} turns in {train_length} tokens, so "
            f"none is kept as it is; {remedy}",
            stacklevel=2,
        )


def searched(losses: Mapping[object, float], start: float) -> str:
    """The note of a search over settings: how many, and from which loss to which."""
    return (
        f"chosen on the calibration split from {len(losses)} settings: "
        f"{start:.4f} to {min(losses.values()):.4f} nats a token"
    )
