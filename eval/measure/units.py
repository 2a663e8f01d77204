"""What losses.npz keeps behind a row of retrieval, or of a task: what each window, or example, came to; and the figures
that follow. Light to import, for whoever reads a run back."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.measure.rows import Row
from eval.measure.statistics import difference, share_interval

# Of a window: its block of the statistics, the tokens that are scored in it, the sums of their losses (nats) without
# the needle and with it, and whether the answer with it matches exactly.
RETRIEVED = ("block", "tokens", "without", "found", "exact")
ANSWERED = ("right", "tokens")  # of an example: tokens of its answer that are right, and all of them


def columns_of(row: Row) -> tuple[str, ...]:
    """The columns of what is kept behind a row."""
    return RETRIEVED if "needle" in row else ANSWERED


def figures_of(row: Row, units: np.ndarray) -> dict[str, Any]:
    """The figures of a row that follow from what is kept behind it (units, columns)."""
    return retrieved(units) if "needle" in row else answered(units)


def means_of(row: Row, units: np.ndarray) -> dict[str, float | int]:
    """Those of the figures that are means or counts, quickly."""
    return _means_retrieved(units) if "needle" in row else _means_answered(units)


def retrieved(units: np.ndarray) -> dict[str, Any]:
    """Of windows (W, 5): the gain (nats a token) with its interval, both losses, and the share of exact matches."""
    block_W, tokens_W, without_W, found_W, _ = units.T
    gain = difference(without_W[None], found_W[None], tokens_W, block_W, comparisons=None)
    interval = {
        "gain_low": gain.low,
        "gain_high": gain.high,
        "interval_level": gain.level,
        "interval_covers": gain.covers,
    }
    return _means_retrieved(units) | interval | ({"interval_reason": gain.reason} if gain.reason else {})


def _means_retrieved(units: np.ndarray) -> dict[str, float | int]:
    _, tokens_W, without_W, found_W, exact_W = units.T
    tokens = tokens_W.sum()
    return {
        "gain": float((without_W - found_W).sum() / tokens),
        "nats_without": float(without_W.sum() / tokens),
        "nats_found": float(found_W.sum() / tokens),
        "exact_match": float(exact_W.mean()),
        "tokens": int(tokens),
        "windows": len(units),
    }


def answered(units: np.ndarray) -> dict[str, Any]:
    """Of examples (N, 2): the share of those that are right in every token with its interval, and of the tokens."""
    right_N, tokens_N = units.T
    exact = share_interval((right_N == tokens_N)[None])
    return _means_answered(units) | {"low": exact.low, "high": exact.high, "level": exact.level}


def _means_answered(units: np.ndarray) -> dict[str, float | int]:
    right_N, tokens_N = units.T
    return {
        "exact_match": float((right_N == tokens_N).mean()),
        "examples": len(units),
        "token_accuracy": float(right_N.sum() / tokens_N.sum()),
        "tokens": int(tokens_N.sum()),
    }
