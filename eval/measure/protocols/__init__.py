"""The protocols: which tokens are scored, and with which context. Each is a set of windows over one held-out stream.

- fixed_targets: the same targets at every context length: windows that end at the same token, the last S scored.
- non_overlapping: all tokens of windows of length N side by side (the early tokens of a window see little).
- sliding: windows of length N, `stride` apart, each scoring what no earlier one has.
- positions: whole windows of the longest length; the loss is reported by position in the window.

One forward pass serves every protocol that asks for the same window (see eval/measure/scoring.py).
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
from eval.measure.statistics import MIN_BLOCKS

PROTOCOLS = ("fixed_targets", "non_overlapping", "sliding", "positions")
BLOCK_TOKENS = 1024  # least length of a block to begin with: text is alike over about so many tokens
BLOCK_CONTEXTS = 4  # and so many of the longest contexts, so that few windows of two blocks have text in common


def context_lengths(settings: Mapping[str, Any], context: int) -> list[int]:
    """The lengths to score, in tokens, ascending. Raises ValueError where there is none, or one below 2 tokens."""
    lengths = sorted({round(multiple * context) for multiple in settings["lengths"]})
    if not lengths or lengths[0] < 2:
        raise ValueError(
            f"eval.lengths={list(settings['lengths'])}: give multiples of the training context {context} that come to "
            "at least 2 tokens"
        )
    return lengths


def plan(
    protocol: str, stream: TokenStream, length: int, lengths: Sequence[int], settings: Mapping[str, Any]
) -> Windows:
    """The windows of one protocol at one context length (tokens), where `lengths` are all that will be compared.

    Raises ValueError for an unknown protocol, settings that score nothing, or where no document holds the longest of
    the lengths (it says which are possible).
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"eval.protocols={protocol!r}: must be among {', '.join(PROTOCOLS)}")
    for name in ("targets", "windows", "tokens", "stride"):
        if settings[name] is not None and settings[name] < 1:
            raise ValueError(f"eval.{name}={settings[name]}: must be at least 1")
    check_lengths(stream, lengths, settings["cross_documents"])
    cross = settings["cross_documents"]
    if protocol == "fixed_targets":
        targets = min(settings["targets"], min(lengths))
        ends = fixed_target_windows(stream, lengths, targets, settings["windows"], cross)
        return Windows(ends - length, ends, np.full_like(ends, targets))
    if protocol == "sliding":
        windows = sliding_windows(stream, length, min(settings["stride"], length), cross)
    elif protocol == "non_overlapping":
        windows = non_overlapping_windows(stream, length, cross)
    else:
        windows = non_overlapping_windows(stream, max(lengths), cross)
        windows = _chosen(windows, windows.stops - windows.starts == max(lengths))
    return _capped(windows, document_bounds(stream, cross), max(lengths), settings["tokens"])


def check_lengths(stream: TokenStream, lengths: Sequence[int], cross_documents: bool) -> None:
    """Raises ValueError, naming the lengths that are possible, where no document holds the longest and its target."""
    bounds = document_bounds(stream, cross_documents)
    possible = int((bounds[:, 1] - bounds[:, 0]).max()) - 1
    if max(lengths) > possible:
        rest = "" if cross_documents else ", or set eval.cross_documents=true"
        raise ValueError(
            f"no held-out document is longer than {possible} tokens: of the context lengths {sorted(lengths)} only "
            f"{[n for n in sorted(lengths) if n <= possible]} are possible; lower eval.lengths{rest}"
        )


def _chosen(windows: Windows, which: np.ndarray) -> Windows:
    return Windows(*(part[which] for part in windows))


def _capped(windows: Windows, bounds: np.ndarray, longest: int, tokens: int | None) -> Windows:
    """Those windows that lie in the first part of each document: whole multiples of the longest context, `tokens` in
    all. Where even one such part a document is too much, every k-th document. A window that reaches beyond the part is
    cut, so that every context length scores the same tokens."""
    if tokens is None:
        return windows
    document = documents(windows.starts, bounds)
    present = np.unique(document)
    part = max(1, tokens // len(present) // longest) * longest
    held = np.minimum(part, bounds[present, 1] - bounds[present, 0] - 1).sum()
    kept = np.isin(document, present[:: -(-held // max(tokens, longest))])
    stops = np.minimum(windows.stops, bounds[document, 0] + part)
    scored = windows.scored - (windows.stops - stops)
    return _chosen(Windows(windows.starts, stops, scored), kept & (scored > 0))


def documents(starts: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The document that each window starts in: int64 (W,)."""
    return np.searchsorted(bounds[:, 1], starts, side="right")


def targets_of(windows: Windows) -> np.ndarray:
    """Where the scored targets stand in the stream, window after window: int64 (targets,)."""
    before = np.cumsum(windows.scored) - windows.scored
    return np.arange(windows.scored.sum()) + np.repeat(windows.stops + 1 - windows.scored - before, windows.scored)


def blocks(windows: Windows, bounds: np.ndarray, longest: int) -> tuple[np.ndarray, int]:
    """The block of each window for the statistics, int64 (W,), and the length of a block in tokens.

    A block is a stretch of a document, several times the longest context, so that hardly any two blocks share text;
    where that gives too few blocks for an interval it is halved, down to the longest context.
    """
    document = documents(windows.starts, bounds)
    place = windows.stops - 1 - bounds[document, 0]
    size = max(BLOCK_TOKENS, BLOCK_CONTEXTS * longest)
    while True:
        block = np.unique(np.stack([document, place // size]), axis=1, return_inverse=True)[1].reshape(-1)
        if block.max(initial=-1) + 1 >= MIN_BLOCKS or size // 2 < longest:
            return block, size
        size //= 2
