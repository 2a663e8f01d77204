"""DAPE: a small network across the heads adjusts a static bias to the scores it meets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape, Wrapper, evaluated

PAIRS = 1 << 13  # scores of one head that the network is given at once on the CPU: its hidden units stay in the cache


class DAPE(Wrapper):
    """score = S + B + MLP([S, B]), where S = q·k/√d of all heads at (i, j) and B is the inner encoding's bias there.

    Zheng et al. 2024, "DAPE: Data-Adaptive Positional Encoding for Length Extrapolation",
    https://arxiv.org/abs/2405.14722. The MLP goes from 2H numbers (S and B of each head) through `width` LeakyReLU
    units to H, point by point; each layer has its own, initialised as the authors do (PyTorch's default). Departs from
    them in the last layer's bias, which is left out: it adds a constant to a row of scores, which softmax ignores.

    inner: the encoding whose score_mod adds B: ALiBi, KERPLE or FIRE in the paper. Refused with ValueError where it
    adds none, or rescores whole rows itself. width: hidden units; the paper's 32.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, width: int = 32):
        super().__init__(shape, inner)
        length = min(2 * shape.context, inner.max_length or 2 * shape.context)
        at_0, at_1 = (None if inner.rescores else last_row_of_nothing(inner, length, score) for score in (0.0, 1.0))
        if at_0 is None or not torch.isfinite(at_0).all() or not torch.allclose(at_1, at_0 + 1):
            raise ValueError(
                f"encoding.inner={type(inner).__name__}: DAPE adapts a bias that is added to the scores (not one that "
                "hides or scales them), and this adds none; choose one that does, like alibi, kerple_log or fire"
            )
        if width < 1:
            raise ValueError(f"encoding.width={width}: must be at least 1")
        self.rescores, self.distance_bias, self.separable_bias = True, False, False
        self.up = nn.ModuleList(nn.Linear(2 * shape.num_heads, width) for _ in range(shape.num_layers))
        self.down = nn.ModuleList(nn.Linear(width, shape.num_heads, bias=False) for _ in range(shape.num_layers))

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        return None  # the network reads scores without the bias

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        scores_BHQT = scores_BHQT.to(torch.promote_types(scores_BHQT.dtype, torch.float32))
        bias = self.bias(scores_BHQT, rows_Q, self.inner.score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer))
        return scores_BHQT + bias + self.network(scores_BHQT, bias, rows_Q, layer)

    def bias(self, scores_BHQT: Tensor, rows_Q: Tensor, mod) -> Tensor:
        """B, (1, H, Q, T) where the sequences of the batch share it, else (B, H, Q, T)."""
        B, H, _, T = scores_BHQT.shape
        b, h, columns_T = (torch.arange(n, device=scores_BHQT.device) for n in (B, H, T))
        bias = mod(scores_BHQT.new_zeros(()), b[:, None, None, None], h[:, None, None], rows_Q[:, None], columns_T)
        return bias.expand(len(bias) if bias.ndim == 4 else 1, *scores_BHQT.shape[1:])

    def network(self, scores_BHQT: Tensor, bias: Tensor, rows_Q: Tensor, layer: int) -> Tensor:
        """The MLP; on the CPU by sequence and PAIRS of (i, j), without the keys after their last row: its hidden units
        are `width`/H times the scores, and writing and reading all of them at once is slow (measured at width 32 and 4
        heads: a third of the speed in training)."""
        parameters = (self.up[layer].weight, self.up[layer].bias, self.down[layer].weight)
        up, up_bias, down = (parameter.to(scores_BHQT.dtype) for parameter in parameters)
        of_scores, of_bias = up.chunk(2, dim=1)  # (width, H) each
        if scores_BHQT.is_cuda:
            at_rest = of_bias @ bias.flatten(2) + up_bias[:, None]
            return (down @ F.leaky_relu(of_scores @ scores_BHQT.flatten(2) + at_rest)).view_as(scores_BHQT)
        B, _, Q, T = scores_BHQT.shape
        first = 0 if Q == T else int(rows_Q[0])  # rows are consecutive
        rows = max(1, PAIRS // T)
        changes = []
        for start in range(0, Q, rows):
            end = min(start + rows, Q)
            seen = first + end  # keys
            scores_BHP, bias_BHP = (t[:, :, start:end, :seen].flatten(2) for t in (scores_BHQT, bias))
            at_rest = (of_bias @ bias_BHP + up_bias[:, None]).unbind()  # what B alone makes of each hidden unit
            at_rest = at_rest * (B // len(at_rest))
            hidden = (torch.addmm(rest, of_scores, scores) for rest, scores in zip(at_rest, scores_BHP, strict=True))
            change_BHP = torch.stack([down @ F.leaky_relu_(units) for units in hidden])
            changes.append(F.pad(change_BHP.unflatten(-1, (end - start, seen)), (0, T - seen)))
        return torch.cat(changes, dim=2)


@torch.no_grad()
def last_row_of_nothing(encoding: PositionEncoding, length: int, score: float = 0.0) -> Tensor | None:
    """What score_mod of layer 0 makes of the last row of equal scores where all content is zeros: (1, H, 1, T), or None
    without one."""
    H, K = encoding.shape.num_heads, encoding.shape.head_dim
    with evaluated(encoding):
        positions = encoding.positions(torch.zeros(1, length, dtype=torch.long))
    x_BTD = encoding.embed(torch.zeros(1, length, encoding.shape.dim), positions)
    q, k, _ = encoding.rotate(*(torch.zeros(1, H, length, K) for _ in range(3)), positions, x_BTD, 0)
    mod = encoding.score_mod(q, k, positions, x_BTD, 0)
    b, h, rows = torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.arange(H)[:, None, None], torch.arange(length)
    return mod and mod(torch.full((1, H, 1, length), score), b, h, rows[-1:, None], rows)
