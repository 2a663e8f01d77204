"""The protocols: which tokens are scored, and with which context. Each is a set of windows over one held-out stream.

- fixed_targets: the same targets at every context length: windows that end at the same token, the last S scored.
- non_overlapping: all tokens of windows of length N side by side (the early tokens of a window see little).
- sliding: windows of length N, `stride` apart, each scoring what no earlier one has.
- positions: whole windows of the longest length; the loss is reported by position in the window.

One forward pass serves every protocol that asks for the same window (see eval/scoring.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.stream import TokenStream
from data.windows import (
    Windows,
    document_bounds,
    fixed_target_windows,
    non_overlapping_windows,
    sliding_windows,
)

PROTOCOLS = ("fixed_targets", "non_overlapping", "sliding", "positions")


def plan(
    protocol: str, stream: TokenStream, length: int, lengths: Sequence[int], settings: Mapping[str, Any]
) -> Windows:
    """The windows of one protocol at one context length (tokens), where `lengths` are all that will be compared.

    Raises ValueError for an unknown protocol, or where no document is long enough (it says which lengths are possible).
    """
    cross = settings["cross_documents"]
    if protocol == "fixed_targets":
        targets = min(settings["targets"], min(lengths))
        ends = fixed_target_windows(stream, lengths, targets, settings["windows"], cross)
        return Windows(ends - length, ends, np.full_like(ends, targets))
    if protocol == "non_overlapping":
        return _capped(non_overlapping_windows(stream, length, cross), stream, max(lengths), settings)
    if protocol == "sliding":
        stride = min(settings["stride"], length)
        return _capped(sliding_windows(stream, length, stride, cross), stream, max(lengths), settings)
    if protocol == "positions":
        windows = non_overlapping_windows(stream, max(lengths), cross)
        whole = windows.stops - windows.starts == max(lengths)
        if not whole.any():
            raise ValueError(
                f"protocol positions: no document holds a window of {max(lengths)} tokens; shorten lengths"
            )
        return _capped(Windows(*(part[whole] for part in windows)), stream, max(lengths), settings)
    raise ValueError(f"eval.protocols={protocol!r}: must be among {', '.join(PROTOCOLS)}")


def _capped(windows: Windows, stream: TokenStream, longest: int, settings: Mapping[str, Any]) -> Windows:
    """Those windows that lie in the first part of each document, `tokens` in all: a whole number of the longest
    windows a document, so that every context length scores the same tokens."""
    if settings["tokens"] is None:
        return windows
    bounds = document_bounds(stream, settings["cross_documents"])
    part = max(1, settings["tokens"] // len(bounds) // longest) * longest
    kept = windows.stops - bounds[documents(windows.starts, bounds), 0] <= part
    return Windows(*(array[kept] for array in windows))


def documents(starts: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The document that each window starts in: int64 (W,)."""
    return np.searchsorted(bounds[:, 1], starts, side="right")
