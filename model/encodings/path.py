"""PaTH: between key and query stands a product of Householder-like reflections that the tokens between them choose."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, Shape

CHUNK = 32  # tokens whose product is taken in closed form; of 32, 64 and 128 the fastest in training on CPU
TAPS = 3  # width of the causal convolution, tokens


class PaTH(PositionEncoding):
    """score = q_iᵀ H_i H_{i−1} ⋯ H_{j+1} k_j / √d with H_t = I − β_t w_t w_tᵀ; for j = i it is q·k.

    Yang et al. 2025, "PaTH Attention: Position Encoding via Accumulating Householder Transformations",
    https://arxiv.org/abs/2505.16381. Of the layer's input x: w_t is SiLU(conv(x·down·up)) by head, of length 1, with a
    causal convolution of 3 tokens for each channel by itself; β_t = 2σ(x_t·u + b), by head, in (0, 2). |H_t v| ≤ |v|,
    so that nothing grows with distance.

    rank: width between down and up (the paper's 32).
    Computed by chunks as in the paper (see `path_scores`): O(T) memory beside the scores, no T × T × d. Scores, weights
    and solves are float32 or better. It goes by content alone: `positions` plays no part, and no claim of `relative`
    is made. Departs from the paper: no normalisation of q and k. Its PaTH-FoX is path and fox `combined`.
    Raises ValueError for a rank below 1.
    """

    rescores = True

    def __init__(self, shape: Shape, rank: int = 32):
        super().__init__(shape)
        if rank < 1:
            raise ValueError(f"encoding.rank={rank}: must be at least 1")
        L, D, H = shape.num_layers, shape.dim, shape.num_heads
        self.down_LDR = nn.Parameter(torch.empty(L, D, rank).normal_(std=0.02))
        self.up_LRD = nn.Parameter(torch.empty(L, rank, D).normal_(std=0.02))
        self.taps_LWD = nn.Parameter(torch.empty(L, TAPS, D).uniform_(-(TAPS**-0.5), TAPS**-0.5))
        self.beta_LDH = nn.Parameter(torch.empty(L, D, H).normal_(std=0.02))
        self.beta_bias_LH = nn.Parameter(torch.zeros(L, H))

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        dtype = torch.promote_types(q_BHTK.dtype, torch.float32)
        w_BHTK, beta_BHT = self.reflections(x_BTD.to(dtype), layer)
        q_BHTK = q_BHTK.to(dtype) * self.shape.head_dim**-0.5
        first = 0 if len(rows_Q) == k_BHTK.shape[2] else int(rows_Q[0])  # rows are consecutive
        return path_scores(q_BHTK, k_BHTK.to(dtype), w_BHTK, beta_BHT, first, first + len(rows_Q))

    def reflections(self, x_BTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """w (B, H, T, K), each of length 1, and β (B, H, T), in x's dtype."""
        dtype, T = x_BTD.dtype, x_BTD.shape[1]
        low_BTD = F.pad(x_BTD @ self.down_LDR[layer].to(dtype) @ self.up_LRD[layer].to(dtype), (0, 0, TAPS - 1, 0))
        taps_WD = self.taps_LWD[layer].to(dtype)
        w_BTD = F.silu(sum(low_BTD[:, tap : tap + T] * taps_WD[tap] for tap in range(TAPS)))
        w_BHTK = F.normalize(w_BTD.unflatten(-1, (self.shape.num_heads, -1)).transpose(1, 2), dim=-1)
        beta_BTH = 2 * torch.sigmoid(x_BTD @ self.beta_LDH[layer].to(dtype) + self.beta_bias_LH[layer].to(dtype))
        return w_BHTK, beta_BTH.transpose(1, 2)


def path_scores(q: Tensor, k: Tensor, w: Tensor, beta: Tensor, first: int, last: int, chunk: int = CHUNK) -> Tensor:
    """q_iᵀ H_i ⋯ H_{j+1} k_j for rows i = first..last−1 and all j: (..., last − first, T); for j > i any number.

    q, k, w: (..., T, K); beta: (..., T). With the rows of Q, K, W those of one chunk, and lower(·), strict(·) the
    triangles with and without the diagonal, M = (I + β strict(W Wᵀ))⁻¹ β gives every product of H within the chunk:
        H_last ⋯ H_first = I − Wᵀ M W
        scores within       lower(Q Kᵀ) − lower(Q Wᵀ) M strict(W Kᵀ)
        q before its chunk  Q − lower(Q Wᵀ) M W           (H_i ⋯ H_first, from the left)
        k after its chunk   K − (M strict(W Kᵀ))ᵀ W        (H_last ⋯ H_{j+1})
    From the last chunk to the first, queries take up the product of each chunk that they leave behind.
    """
    T, K = q.shape[-2:]
    chunk = min(chunk, T)
    pad = -T % chunk  # H = I there
    q, k, w = (F.pad(t, (0, 0, 0, pad)).unflatten(-2, (-1, chunk)) for t in (q, k, w))  # (..., N, C, K)
    beta = F.pad(beta, (0, pad)).unflatten(-1, (-1, chunk))[..., None]
    strict_wk = (w @ k.mT).tril(-1)
    strict_ww = (w @ w.mT).tril(-1)
    solved = torch.linalg.solve_triangular(
        beta * strict_ww, beta * torch.cat([w, strict_wk], dim=-1), upper=False, unitriangular=True
    )
    m_w, m_wk = solved.split([K, chunk], dim=-1)
    lower_qw = (q @ w.mT).tril()
    within = (q @ k.mT).tril() - lower_qw @ m_wk
    q_before, k_after = q - lower_qw @ m_w, k - m_wk.mT @ w
    product = torch.eye(K, dtype=q.dtype, device=q.device) - w.mT @ m_w
    onto = torch.cat([k_after.mT, product], dim=-1)  # (..., N, K, C + K): scores with a chunk's keys, then beyond it

    low, high = first // chunk, (last - 1) // chunk + 1  # chunks that hold the rows
    columns, carried = [], q[..., 0, :0, :]  # carried: the rows beyond chunk n, taken back to its end
    for n in reversed(range(high)):
        column, carried = (carried @ onto[..., n, :, :]).split([chunk, K], dim=-1)
        if n >= low:
            column = F.pad(torch.cat([within[..., n, :, :], column], dim=-2), (0, 0, (n - low) * chunk, 0))
            carried = torch.cat([q_before[..., n, :, :], carried], dim=-2)
        columns.append(column)
    scores = torch.cat(columns[::-1], dim=-1)[..., first - low * chunk : last - low * chunk, :T]
    return F.pad(scores, (0, T - scores.shape[-1]))
