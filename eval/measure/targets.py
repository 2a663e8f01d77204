"""The scored tokens of one protocol at one context length, and how losses on them become a row's figures."""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np

from data.stream import TokenStream
from data.windows import Windows
from eval.measure.rows import interval_fields
from eval.measure.statistics import MIN_BLOCKS, perplexity_interval

BLOCK_TOKENS = 1024  # least length of a block to begin with: text is alike over about so many tokens
BLOCK_CONTEXTS = 4  # and so many of the longest contexts, so that few windows of two blocks have text in common


class Targets:
    """The targets of some windows.

    Separators, which stand among the targets where windows cross documents, are no text: they are left out.
    bounds: the documents, int64 (D, 2); longest: the longest context of the comparison, tokens.
    id: what tells one set of scored targets from another; figures are compared on the same targets only.
    """

    def __init__(self, windows: Windows, stream: TokenStream, bounds: np.ndarray, longest: int):
        self.windows, self.stream, self.bounds, self.longest = windows, stream, bounds, longest
        self.places = targets_of(windows)
        self.kept = stream.tokens[self.places] != stream.separator
        self.id = f"{zlib.crc32(np.concatenate([windows.stops, windows.scored]).astype('<i8').tobytes()):08x}"

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Start, stop, targets kept, document and block of each window that keeps any: int64 (W, 5)."""
        firsts = np.cumsum(self.windows.scored) - self.windows.scored
        counts = np.add.reduceat(self.kept.astype(np.int64), firsts)
        document = documents(self.windows.starts, self.bounds)
        table = np.stack([self.windows.starts, self.windows.stops, counts, document, self.blocks[0]], axis=1)
        return table[counts > 0]

    @functools.cached_property
    def blocks(self) -> tuple[np.ndarray, int]:
        return blocks(self.windows, self.bounds, self.longest)

    def stretch(self, low: int, high: int) -> Targets:
        """Of windows that are scored whole: the targets with more than `low` and up to `high` tokens of context."""
        starts = self.windows.starts
        part = Windows(starts, starts + high, np.full_like(starts, high - low))
        return Targets(part, self.stream, self.bounds, self.longest)

    def figures(self, losses: np.ndarray) -> dict[str, Any]:
        """Nats a token, perplexity, bits a byte, their counts, and the interval over the windows of this one run; or
        why there are none. losses: (targets,), nats, float64."""
        values = losses[self.kept]
        if wrong := int((~np.isfinite(values)).sum()):
            reason = f"{wrong} of {len(values)} token losses are not finite: the model breaks down at this length"
            return {"status": "diverged", "reason": reason}
        scored_W, block_W = self.table[:, 2], self.table[:, 4]
        per_window = np.add.reduceat(values, np.cumsum(scored_W) - scored_W)
        byte_count = int(self.stream.token_bytes[self.places].sum(dtype=np.int64))
        interval = perplexity_interval(per_window[None], scored_W, blocks_W=block_W)
        return {
            "status": "ok",
            "nats": float(values.sum() / len(values)),
            "perplexity": interval.perplexity,
            "bits_per_byte": float(values.sum()) / math.log(2) / byte_count if byte_count else None,
            "tokens": len(values),
            "bytes": byte_count,
            "windows": len(scored_W),
            "blocks": len(np.unique(block_W)),
            "block_tokens": self.blocks[1],
            **interval_fields(interval),
        }

    def stored(self, key: str, losses: np.ndarray) -> dict[str, np.ndarray]:
        """What losses.npz keeps under a row's key."""
        return {key: losses[self.kept].astype(np.float32), key + "/windows": self.table}


def chosen(windows: Windows, which: np.ndarray) -> Windows:
    """Those of the windows; which: bool (W,)."""
    return Windows(*(part[which] for part in windows))


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
