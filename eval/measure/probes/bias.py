"""bias: what the encoding adds to a score by the distance alone, where it adds such a thing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from eval.measure.probes import Probed
from model.encodings import PositionEncoding
from model.extensions import device_and_dtype

CURVE_POINTS = 48  # distances at which a curve is recorded, evenly spread over their logarithm


def probe(probed: Probed) -> list[dict[str, Any]]:
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
