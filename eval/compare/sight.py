"""What windows hide: how far tokens reach through the layers, and what of the scores of attention is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.compare.comparison import Comparison

Sees = Sequence[int | None]  # of each layer: how many keys a row sees, itself included; None: all before it


def receptive_field(sees: Sees, shifts: int = 0) -> int:
    """Tokens that a row can know of through the layers with a window: n · (W − 1) and itself; where keys and values are
    those of tokens before, too, so many more a layer.

    >>> receptive_field([16, 16, 16, None]), receptive_field([16, 16, 16, None], shifts=1)
    (46, 49)
    """
    return 1 + sum(keys - 1 + shifts for keys in sees if keys is not None)


def left_out(sees: Sees, length: int) -> float:
    """The share of a text's scores, of causal attention in all layers, that windows leave out.

    >>> round(left_out([2, None], length=3), 3)  # one of six pairs, in one of two layers
    0.083
    """
    pairs = length * (length + 1) // 2
    near = [min(keys or length, length) for keys in sees]
    return 1 - sum(length * keys - keys * (keys - 1) // 2 for keys in near) / (pairs * len(sees))


def described(comparison: Comparison) -> Mapping[str, Mapping[str, str]]:
    """By label, where a layer has a window: its receptive field beside the training context, and what is left out there
    and at the longest text that was scored, in words."""
    found = {}
    for run in comparison.compared:
        sees = run.results.get("sees") or []
        if all(keys is None for keys in sees):
            continue
        context = run.settings.context
        longest = max([context, *comparison.scored["context_length"].astype(int)])
        field = f"{receptive_field(sees, run.results.get('shifts', 0)):,} of {context:,}"
        if None in sees:
            field += f" through {sum(keys is not None for keys in sees)} of {len(sees)} layers, all through the others"
        shares = [f"{left_out(sees, length):.0%} at {length:,}" for length in dict.fromkeys((context, longest))]
        found[run.label] = {"receptive field": field, "scores left out": ", ".join(shares)}
    return found
