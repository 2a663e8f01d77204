"""What perplexity doesn't show of a trained model, from held-out text: results["probes"][name], a list of flat rows.

- repeat: a span of text comes a second time, `distance` tokens after the first: how much lower is its loss for it?
- attention: how far back each layer looks on average, and how evenly it spreads its attention.
- bias: what the encoding adds to a score by the distance alone, where it adds such a thing.

A row at a length on which the encoding isn't defined, or of an encoding that the probe can't look into, has the status
"undefined" and says why. Memory is linear in the length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from data.stream import TokenStream
from data.windows import Windows, document_bounds, fixed_target_windows, gather_windows
from eval.measure.protocols import blocks, check_lengths, context_lengths
from eval.measure.scoring import Scorer
from eval.measure.statistics import difference
from eval.record.folder import RunFolder
from model.encodings import PositionEncoding
from model.extensions import device_and_dtype, view
from model.transformer import Transformer

DIVERGED = {"status": "diverged", "reason": "the model's numbers are not finite at this length"}
CURVE_POINTS = 48  # distances at which a bias curve is recorded, evenly spread over their logarithm


def check_probes(settings: Mapping[str, Any], stream: TokenStream, context: int) -> None:
    """Raises ValueError, before anything is trained, for probes that can't be run on this stream."""
    for name in settings["probes"]:
        if name not in PROBES:
            raise ValueError(f"eval.probes={name!r}: must be among {', '.join(PROBES)}")
    if settings["probes"]:
        if settings["probe"]["windows"] < 2:
            raise ValueError(f"eval.probe.windows={settings['probe']['windows']}: must be at least 2")
        check_lengths(stream, context_lengths(settings, context), settings["cross_documents"])
        span_length(settings, context)


def probe_lengths(settings: Mapping[str, Any], context: int) -> list[int]:
    """Those of the scored lengths (tokens) at which probes run. Raises ValueError where none is left."""
    longest, lengths = settings["probe"]["longest"], context_lengths(settings, context)
    chosen = [length for length in lengths if longest is None or length <= longest * context]
    if not chosen:
        raise ValueError(
            f"eval.probe.longest={longest}: the context lengths of eval.lengths, {lengths} tokens, are all longer; "
            "raise it, or set eval.probes=[]"
        )
    return chosen


def span_length(settings: Mapping[str, Any], context: int) -> int:
    """Tokens of the span that is repeated. Raises ValueError where it doesn't fit twice into the shortest length."""
    shortest = probe_lengths(settings, context)[0]
    span = settings["probe"]["span"]
    if span is None:
        span = max(2, min(context // 8, shortest // 2))
    if not 2 <= span <= shortest // 2:
        raise ValueError(
            f"eval.probe.span={span}: needs at least 2 tokens (the first isn't scored), and to fit twice into the "
            f"shortest context of {shortest} tokens"
        )
    return span


def run_probes(model: Transformer, stream: TokenStream, folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Runs the probes that folder's results lack, or have with other settings, and adds each when it is known."""
    named = ("split", "precision", "cross_documents", "lengths", "targets", "probe")
    asked = {name: settings[name] for name in named}
    for name in settings["probes"]:
        results = folder.results
        probes, done = results.get("probes", {}), results.get("probe_settings", {})
        if done.get(name) != asked:
            rows = PROBES[name](Probed(model, stream, settings))
            folder.update(probes={**probes, name: rows}, probe_settings={**done, name: asked})


class Probed:
    """The model, the held-out text and the settings that every probe is given.

    ends: where its windows end in the stream, the same at every length; block: each one's block for the statistics.
    """

    def __init__(self, model: Transformer, stream: TokenStream, settings: Mapping[str, Any]):
        self.model, self.stream, self.settings = model.eval(), stream, settings
        self.context = model.shape.context
        self.lengths = probe_lengths(settings, self.context)
        cross, longest = settings["cross_documents"], max(context_lengths(settings, self.context))
        targets = min(settings["targets"], self.lengths[0])
        self.ends = fixed_target_windows(stream, [*self.lengths, longest], targets, settings["probe"]["windows"], cross)
        windows = Windows(self.ends - longest, self.ends, np.full_like(self.ends, targets))
        self.block, _ = blocks(windows, document_bounds(stream, cross), longest)

    def at_each(self, lengths: Sequence[int], rows) -> list[dict[str, Any]]:
        """rows(length) at each length where the encoding is defined, with the fields that say which length it is."""
        found = []
        for length in lengths:
            base = {"context_length": length, "length_ratio": length / self.context}
            try:
                self.model.encoding.check_length(length)
            except ValueError as error:
                found.append({**base, "status": "undefined", "reason": str(error)})
                continue
            found += [{**base, "status": "ok", **row} for row in rows(length)]
        return found


# -------------------------------------------------------------------------------------------------------------- repeat


def repeat(probed: Probed) -> list[dict[str, Any]]:
    """By length and distance (tokens from the span's first start to its second; doubling): the mean loss (nats a token)
    of a span that ends the window and stood in it before, the same span's where the first one is exchanged for
    another window's text, and the gain, the second minus the first, with its interval, paired by window.

    Nothing else differs between the two, so that the gain is what the copy alone is worth. The span's first token, at
    which nothing says yet that the span has begun again, is not scored.
    """
    span = span_length(probed.settings, probed.context)
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
    scorer = Scorer(probed.model, rows, probed.settings["batch_tokens"], probed.settings["precision"])
    (losses,) = scorer.score([Windows(starts[:-1], starts[1:] - 1, np.full(count, span - 1))])
    return losses.reshape(count, -1).sum(axis=1)


# ----------------------------------------------------------------------------------------------------------- attention


class Watched:
    """Mixin of a view on any encoding: attention's weights pass through `rescore`, so `watch` sees them by blocks of
    rows: (layer, rows_Q, weights_BHQT)."""

    def rescore(self, scores_BHQT, visible_QT, rows_Q, *rest):
        weights_BHQT = super().rescore(scores_BHQT, visible_QT, rows_Q, *rest)
        self.watch(rest[-1], rows_Q, weights_BHQT)
        return weights_BHQT


def attention_spread(probed: Probed) -> list[dict[str, Any]]:
    """By length and layer: how many tokens back attention looks, and its entropy (nats; ln N where even over N keys).

    Means over windows, heads and the last rows of each window (`eval.targets` of them), whose context is nearly whole.
    Where weights don't add up to 1 (stick-breaking) they are divided by their sum.
    """
    return probed.at_each(probed.lengths, lambda length: _spread_at(probed, length))


@torch.no_grad()
def _spread_at(probed: Probed, length: int) -> list[dict[str, Any]]:
    model, rows = probed.model, min(probed.settings["targets"], length)
    distances, entropies, counts = np.zeros((3, model.shape.num_layers))

    def watch(layer: int, rows_Q: torch.Tensor, weights_BHQT: torch.Tensor) -> None:
        last = rows_Q >= length - rows
        if not last.any():
            return
        weights = weights_BHQT[:, :, last].double()
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        columns = torch.arange(length, device=weights.device, dtype=torch.float64)
        distances[layer] += (rows_Q[last] - weights @ columns).sum().item()
        entropies[layer] += torch.special.entr(weights).sum().item()
        counts[layer] += weights[..., 0].numel()

    watched = view(model.encoding, Watched, watch=watch, rescores=True)
    device = model.embedding.weight.device
    step = max(1, probed.settings["batch_tokens"] // length)
    for some in range(0, len(probed.ends), step):
        tokens_BT = gather_windows(probed.stream, probed.ends[some : some + step] - length, length).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=probed.settings["precision"] == "bf16"):
            model.hidden(tokens_BT, encoding=watched)
    if not np.isfinite([distances, entropies]).all():
        return [DIVERGED]
    return [
        {
            "layer": layer,
            "attention_distance": float(distances[layer] / counts[layer]),
            "attention_entropy": float(entropies[layer] / counts[layer]),
            "rows": rows,
            "windows": len(probed.ends),
        }
        for layer in range(model.shape.num_layers)
    ]


# ---------------------------------------------------------------------------------------------------------------- bias


def bias(probed: Probed) -> list[dict[str, Any]]:
    """By layer, head and distance (tokens): what the encoding adds to a score q·k/√d, seen from the last row.

    A curve that is the same at every length stands once, at the longest; one that is the same in every layer has
    layer 0 alone. Distances that are masked out are left out.
    """
    encoding = probed.model.encoding
    lengths = probed.lengths[-1:] if encoding.distance_bias else probed.lengths
    return probed.at_each(lengths, lambda length: _curves(encoding, length))


def _curves(encoding: PositionEncoding, length: int) -> list[dict[str, Any]]:
    curves_LHT = [last_row_bias(encoding, length, layer) for layer in range(encoding.shape.num_layers)]
    if any(isinstance(curves_HT, str) for curves_HT in curves_LHT):
        return [{"status": "undefined", "reason": next(c for c in curves_LHT if isinstance(c, str))}]
    if all(torch.equal(curves_HT, curves_LHT[0]) for curves_HT in curves_LHT):
        curves_LHT = curves_LHT[:1]
    distances = np.unique(np.geomspace(1, length, CURVE_POINTS).round().astype(int)) - 1
    return [
        {"layer": layer, "head": head, "distance": int(distance), "bias": curve_T[-1 - distance].item()}
        for layer, curves_HT in enumerate(curves_LHT)
        for head, curve_T in enumerate(curves_HT)
        for distance in distances
        if curve_T[-1 - distance].isfinite()
    ]


@torch.no_grad()
def last_row_bias(encoding: PositionEncoding, length: int, layer: int) -> torch.Tensor | str:
    """What score_mod adds in the last row of `length` tokens, by head and key: (H, T); or in a sentence, why there is
    no such curve."""
    name = type(encoding).__name__
    if encoding.rescores:
        return f"{name} computes its weights from whole rows of scores: what it adds is no curve of the distance"
    rows = [_last_row(encoding, length, layer, seed, score) for seed, score in ((0, 0.0), (1, 0.0), (0, 1.0))]
    if rows[0] is None:
        return f"{name} adds nothing to the scores"
    if not (torch.allclose(rows[0], rows[1], atol=1e-5) and torch.allclose(rows[2], rows[0] + 1, atol=1e-4)):
        return f"what {name} does to a score depends on the content: there is no curve of the distance alone"
    return rows[0]


def _last_row(encoding: PositionEncoding, length: int, layer: int, seed: int, score: float) -> torch.Tensor | None:
    """The last row that score_mod makes of equal scores on random content: (H, T), or None without a score_mod."""
    device, dtype = device_and_dtype(encoding)
    H, K = encoding.shape.num_heads, encoding.shape.head_dim
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, H, length, K, generator=generator).to(device, dtype) for _ in range(3))
    x_BTD = torch.randn(1, length, encoding.shape.dim, generator=generator).to(device, dtype)
    positions = encoding.positions(torch.zeros((1, length), dtype=torch.long, device=device))
    q, k, _ = encoding.rotate(q, k, v, positions, x_BTD, layer)
    mod = encoding.score_mod(q, k, positions, x_BTD, layer)
    if mod is None:
        return None
    b, h = (torch.arange(n, device=device) for n in (1, H))
    i, j = torch.tensor([[length - 1]], device=device), torch.arange(length, device=device)
    scores = torch.full((1, H, 1, length), score, dtype=dtype, device=device)
    return mod(scores, b[:, None, None, None], h[:, None, None], i, j)[0, :, 0]


PROBES = {"repeat": repeat, "attention": attention_spread, "bias": bias}
