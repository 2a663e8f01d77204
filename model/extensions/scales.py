"""What log-n and the logit scale share: queries × a factor, which may depend on the keys that a row sees."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.encodings import PositionEncoding
from model.encodings.stick_breaking import StickBreaking
from model.extensions import view

Scale = Callable[[Tensor], Tensor | float]


class ScaledQueries:
    """Mixin of a view on any encoding: q × each of `query_scales`, functions of n, the keys that a row sees ((T,),
    float64). After the encoding's own `rotate`; a bias that it adds to the scores is not scaled."""

    query_scales: tuple[Scale, ...] = ()

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        q_BHTK, k_BHTK, v_BHTK = super().rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)
        if not self.query_scales:
            return q_BHTK, k_BHTK, v_BHTK
        n_T = torch.arange(1, q_BHTK.shape[-2] + 1, dtype=torch.float64, device=q_BHTK.device).clamp_max(
            math.inf if self.sees is None else self.sees
        )
        scales_T = torch.ones_like(n_T)
        for scale in self.query_scales:
            scales_T = scales_T * scale(n_T)
        scales_T1 = scales_T[:, None].to(torch.promote_types(q_BHTK.dtype, torch.float32))
        return (q_BHTK * scales_T1).to(q_BHTK.dtype), k_BHTK, v_BHTK


def scaled(encoding: PositionEncoding, scale: Scale, **attributes: Any) -> PositionEncoding:
    """A view with one more scale of its queries, beside those of earlier views."""
    scales = (*getattr(encoding, "query_scales", ()), scale)
    return view(encoding, ScaledQueries, query_scales=scales, **attributes)


def unscaled(encoding: PositionEncoding) -> PositionEncoding:
    """It without the scales that views put on its queries: what is left is its own."""
    return view(encoding, query_scales=()) if isinstance(encoding, ScaledQueries) else encoding


def softmax_reason(encoding: PositionEncoding) -> str | None:
    """None where attention's weights are a softmax, which larger queries make sharper; else why not."""
    if any(isinstance(module, StickBreaking) for module in encoding.modules()):
        return f"{type(encoding).__name__} has no softmax that would need sharpening"
    return None
