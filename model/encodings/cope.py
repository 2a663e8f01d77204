"""CoPE: distance is the number of keys in between that the query counts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape


class ReverseCumsum(torch.autograd.Function):
    """Σ_{t ≥ j} x_t along the last axis: the small sums at its end stay exact, and the gradient is a cumulative sum."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(-1).cumsum(-1).flip(-1)

    @staticmethod
    def backward(ctx, grad):
        return grad.cumsum(-1)


def reverse_cumsum(x: Tensor) -> Tensor:
    """Sums from each entry of the last axis to its end.

    >>> reverse_cumsum(torch.tensor([1.0, 2.0, 4.0])).tolist()
    [7.0, 6.0, 4.0]
    """
    return ReverseCumsum.apply(x)


def interpolate(whole: Tensor, counts: Tensor) -> Tensor:
    """`whole` (..., P), given at 0, 1, .. P − 1, read at fractional `counts` (..., T); the last from P − 1 on.

    >>> interpolate(torch.tensor([0.0, 10.0, 30.0]), torch.tensor([0.5, 1.25, 2.0, 7.5])).tolist()
    [5.0, 15.0, 30.0, 30.0]
    """
    lower = counts.long().clamp_max_(whole.shape[-1] - 1)
    steps = F.pad(whole.diff(dim=-1), (0, 1))
    return torch.addcmul(whole.gather(-1, lower), counts.frac(), steps.gather(-1, lower))


class CoPE(PositionEncoding):
    """score = q_i·k_j/√d + q_i·e[p_ij]: gates g_ij = σ(q_i·k_j/√d), counts p_ij = min(Σ_{t=j..i} g_it, p_max − 1).

    Golovneva et al. 2024, "Contextual Position Encoding: Learning to Count What's Important",
    https://arxiv.org/abs/2405.18719, with the scaled gates and the unscaled q·e of its listing. A count is a fraction:
    between ⌊p⌋ and ⌈p⌉ the scores are interpolated, so that q·e is computed for whole counts alone (p_max a row).
    e is zero at the start, and each layer has its own, shared by the heads.

    p_max: rows of e; null is the paper's 64, or half the context where that is less: gates start at 1/2, so half the
    context is about as far as training counts, and later rows would stay untrained. More rows than the context are
    refused (ValueError), and fewer than 2.
    """

    rescores = True

    def __init__(self, shape: Shape, p_max: int | None = None):
        super().__init__(shape)
        p_max = max(2, min(64, shape.context // 2)) if p_max is None else p_max
        if not 2 <= p_max <= max(2, shape.context):
            raise ValueError(
                f"encoding.p_max={p_max}: must be at least 2 and at most the training context {shape.context}, beyond "
                "which no count reaches"
            )
        self.p_max = p_max
        self.table_LPK = nn.Parameter(torch.zeros(shape.num_layers, p_max, shape.head_dim))

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        dtype = torch.promote_types(scores_BHQT.dtype, torch.float32)
        scores_BHQT = scores_BHQT.to(dtype)
        counts_BHQT = reverse_cumsum(scores_BHQT.sigmoid().masked_fill(~visible_QT, 0))  # hidden gates don't count
        whole_BHQP = (q_BHTK[:, :, rows_Q] @ self.table_LPK[layer].to(q_BHTK.dtype).T).to(dtype)
        return scores_BHQT + interpolate(whole_BHQP, counts_BHQT)
