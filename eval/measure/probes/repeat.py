"""repeat: a span of text comes a second time, `distance` tokens after the first: how much lower is its loss for it?"""

from __future__ import annotations

from typing import Any

import numpy as np

from data.stream import TokenStream
from data.windows import Windows, gather_windows
from eval.measure.probes import DIVERGED, Probed
from eval.measure.scoring import Scorer
from eval.measure.statistics import difference


def probe(probed: Probed) -> list[dict[str, Any]]:
    """By length and distance (tokens from the span's first start to its second; doubling): the mean loss (nats a token)
    of a span that ends the window and stood in it before, the same span's where the first one is exchanged for
    another window's text, and the gain, the second minus the first, with its interval, paired by window.

    Nothing else differs between the two, so that the gain is what the copy alone is worth. The span's first token, at
    which nothing says yet that the span has begun again, is not scored.
    """
    span = probed.evaluation.span(probed.context)
    if len(probed.ends) < 2:
        reason = "the held-out text has one window alone, and so no other text to exchange the span for"
        return probed.at_each(probed.lengths, lambda length: [{"status": "undefined", "reason": reason}])
    return probed.at_each(
        probed.lengths,
        lambda length: [_repeat_at(probed, length, span, distance) for distance in _doubling(span, length - span)],
    )


def _doubling(first: int, last: int) -> list[int]:
    distances = [first]
    while distances[-1] * 2 <= last:
        distances.append(distances[-1] * 2)
    return distances


def _repeat_at(probed: Probed, length: int, span: int, distance: int) -> dict[str, Any]:
    tokens_WN = gather_windows(probed.stream, probed.ends - length, length + 1).numpy()
    first = slice(length + 1 - span - distance, length + 1 - distance)
    repeated_WN = tokens_WN.copy()
    repeated_WN[:, -span:] = tokens_WN[:, first]
    unseen_WN = repeated_WN.copy()
    unseen_WN[:, first] = np.roll(tokens_WN[:, first], 1, axis=0)
    count = len(tokens_WN)
    repeated_W, unseen_W = _span_losses(probed, np.concatenate([repeated_WN, unseen_WN]), span).reshape(2, count)
    if not np.isfinite([repeated_W, unseen_W]).all():
        return {"distance": distance, "span": span, **DIVERGED}
    gain = difference(unseen_W[None], repeated_W[None], np.full(count, span - 1), probed.block)
    tokens = count * (span - 1)
    return {
        "distance": distance,
        "span": span,
        "nats_unseen": float(unseen_W.sum() / tokens),
        "nats_repeated": float(repeated_W.sum() / tokens),
        "gain": gain.nats,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "interval_level": gain.level,
        "interval_covers": gain.covers,
        "interval_reason": gain.reason,
        "tokens": tokens,
        "windows": count,
    }


def _span_losses(probed: Probed, tokens_WN: np.ndarray, span: int) -> np.ndarray:
    """Of each row of tokens, the sum of the losses of its last span − 1 tokens."""
    count, width = tokens_WN.shape
    starts = np.arange(count + 1) * width
    rows = TokenStream(
        tokens_WN.ravel(), np.zeros(tokens_WN.size, np.uint16), starts, ("",) * count, probed.stream.separator
    )
    scorer = Scorer(probed.model, rows, probed.evaluation.batch_tokens, probed.evaluation.precision)
    (losses,) = scorer.score([Windows(starts[:-1], starts[1:] - 1, np.full(count, span - 1))])
    return losses.reshape(count, -1).sum(axis=1)
