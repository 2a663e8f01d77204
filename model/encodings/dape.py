"""DAPE: a small network across the heads adjusts a static bias to the scores it meets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape, Wrapper
from model.encodings.combined import uses


class DAPE(Wrapper):
    """score = S + B + MLP([S, B]), where S = q·k/√d of all heads at (i, j) and B is the inner encoding's bias there.

    Zheng et al. 2024, "DAPE: Data-Adaptive Positional Encoding for Length Extrapolation",
    https://arxiv.org/abs/2405.14722. The MLP goes from 2H numbers (S and B of each head) through `width` LeakyReLU
    units to H, point by point; each layer has its own, initialised as the authors do (PyTorch's default).

    inner: the encoding whose score_mod is B: ALiBi, KERPLE or FIRE in the paper. Refused with ValueError where it has
    none, or rescores whole rows itself. width: hidden units, 32 in the paper.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, width: int = 32):
        super().__init__(shape, inner)
        if inner.rescores or not uses(inner, "score_mod"):
            raise ValueError(
                f"encoding.inner={type(inner).__name__}: DAPE adapts a bias on the scores, and this has none; "
                "choose one like alibi, kerple_log or fire"
            )
        if width < 1:
            raise ValueError(f"encoding.width={width}: must be at least 1")
        self.rescores, self.distance_bias = True, False
        self.up = nn.ModuleList(nn.Linear(2 * shape.num_heads, width) for _ in range(shape.num_layers))
        self.down = nn.ModuleList(nn.Linear(width, shape.num_heads) for _ in range(shape.num_layers))

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer):
        return None

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        B, H, _, T = scores_BHQT.shape
        device, dtype = scores_BHQT.device, torch.promote_types(scores_BHQT.dtype, torch.float32)
        b, h = torch.arange(B, device=device)[:, None, None, None], torch.arange(H, device=device)[:, None, None]
        mod = self.inner.score_mod(q_BHTK, k_BHTK, positions, x_BTD, layer)
        zero = torch.zeros((), dtype=dtype, device=device)
        bias = mod(zero, b, h, rows_Q[:, None], torch.arange(T, device=device))
        bias = bias.expand(bias.shape[0] if bias.ndim == 4 else 1, *scores_BHQT.shape[1:])
        scores_BHQT = scores_BHQT.to(dtype)
        scores_BHQT = scores_BHQT + bias + self.network(scores_BHQT, bias, layer)
        return PositionEncoding.rescore(
            self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer
        )

    def network(self, scores_BHQT: Tensor, bias: Tensor, layer: int) -> Tensor:
        """The MLP over the heads' scores and biases, a sequence at a time: the hidden units of a batch are large."""
        up, down = self.up[layer], self.down[layer]
        of_scores, of_bias = up.weight.to(scores_BHQT.dtype).chunk(2, dim=1)  # (width, H) each
        at_rest = of_bias @ bias.flatten(2) + up.bias[:, None]  # shared by the sequences where the bias is
        changes = [
            torch.addmm(down.bias[:, None], down.weight, F.leaky_relu_(torch.addmm(rest, of_scores, scores.flatten(1))))
            for scores, rest in zip(scores_BHQT, at_rest.unbind() * (len(scores_BHQT) // len(at_rest)), strict=True)
        ]
        return torch.stack(changes).view_as(scores_BHQT)
