"""attention: how far back each layer looks on average, and how evenly it spreads its attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from data.windows import gather_windows
from eval.measure.probes import DIVERGED, Probed
from model.extensions import view


class Watched:
    """Mixin of a view on any encoding: attention's weights come from `weigh`, so `watch` sees them by blocks of
    rows: (layer, rows_Q, weights_BHQT)."""

    def weigh(self, scores_BHQT, visible_QT, rows_Q, layer):
        weights_BHQT = super().weigh(scores_BHQT, visible_QT, rows_Q, layer)
        self.watch(layer, rows_Q, weights_BHQT)
        return weights_BHQT


def probe(probed: Probed) -> list[dict[str, Any]]:
    """By length and layer: how many tokens back attention looks, and its entropy (nats; ln N where even over N keys).

    Means over windows, heads and the last rows of each window (`eval.targets` of them), whose context is nearly whole.
    Where weights don't add up to 1 (stick-breaking) they are divided by their sum.
    """
    return probed.at_each(probed.lengths, lambda length: _spread_at(probed, length))


@torch.no_grad()
def _spread_at(probed: Probed, length: int) -> list[dict[str, Any]]:
    model, rows = probed.model, min(probed.evaluation.targets, length)
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
    step = max(1, probed.evaluation.batch_tokens // length)
    for some in range(0, len(probed.ends), step):
        tokens_BT = gather_windows(probed.stream, probed.ends[some : some + step] - length, length).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=probed.evaluation.precision == "bf16"):
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
