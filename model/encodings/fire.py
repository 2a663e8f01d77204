"""FIRE: a learned function of the distance, as a share of the query's own position."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, ScoreMod, Shape, at_least_float32, take
from model.encodings.relative import distance


def pieces(network: nn.Sequential) -> tuple[Tensor, Tensor, Tensor]:
    """A network of Linear(1, P), ReLU, Linear(P, H) without last bias, as what it is on [0, 1]: a broken line a head.

    Its P knots in order (padded with ∞ to a power of two less one, for `piece_of`), (Q,); and the slope and the height
    at 0 of each head on each of the P + 1 pieces, both (H, P + 1). In float32 or better.
    """
    weights = (network[0].weight[:, 0], network[0].bias, network[2].weight)
    weight_P, bias_P, out_HP = (at_least_float32(weight) for weight in weights)
    with torch.no_grad():
        knots_P = (-bias_P / weight_P).nan_to_num(2.0).clamp(-1, 2).sort().values  # outside of [0, 1] they never matter
        ends = F.pad(F.pad(knots_P, (1, 0), value=-1.0), (0, 1), value=2.0)
        middles = (ends[1:] + ends[:-1]) / 2
        active_PN = (weight_P[:, None] * middles + bias_P[:, None] > 0).to(weight_P.dtype)
        padded = 2 ** math.ceil(math.log2(len(knots_P) + 1)) - 1
        knots_Q = torch.cat([knots_P, knots_P.new_full((padded - len(knots_P),), math.inf)])
    return knots_Q, (out_HP * weight_P) @ active_PN, (out_HP * bias_P) @ active_PN


def piece_of(x: Tensor, knots_Q: Tensor) -> Tensor:
    """How many knots lie below each x, by bisection: pointwise, as FlexAttention needs it."""
    count = torch.zeros_like(x, dtype=torch.long)
    step = (len(knots_Q) + 1) // 2
    while step:
        count = count + step * (x > knots_Q[count + step - 1])
        step //= 2
    return count


class FIRE(PositionEncoding):
    """score = q·k/√d + f_h(ψ(i − j) / ψ(max(L, i))), ψ(x) = ln(c·x + 1), f: Linear(1, hidden), ReLU, Linear(hidden, H).

    Li et al. 2023, "Functional Interpolation for Relative Positions Improves Long Context Transformers",
    https://arxiv.org/abs/2310.02180. As in the authors' code, c (0.1 at the start), the threshold L and f are learned
    in each layer, c and L are used without their sign, and 1e-6 keeps the denominator off zero; but f's last layer has
    no bias, which softmax would ignore. Distances are shares of the query's position i, so `relative` does not hold.

    f is evaluated as the broken line that it is (`pieces`): exact, and without hidden activations for every pair.

    threshold: L at the start, tokens; null is a quarter of the training context (512 of 2048 in the paper). hidden:
    width of f. Raises ValueError where either is not positive.
    """

    EPSILON = 1e-6

    def __init__(self, shape: Shape, hidden: int = 32, threshold: float | None = None):
        super().__init__(shape)
        if threshold is None:
            threshold = shape.context / 4
        if threshold <= 0:
            raise ValueError(f"encoding.threshold={threshold}: must be positive, or the first rows divide by zero")
        if hidden < 1:
            raise ValueError(f"encoding.hidden={hidden}: must be at least 1")
        self.threshold = threshold
        self.c = nn.Parameter(torch.full((shape.num_layers,), 0.1))
        self.multiplier = nn.Parameter(torch.ones(shape.num_layers))  # of the threshold
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, shape.num_heads, bias=False))
            for _ in range(shape.num_layers)
        )

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        with torch.autocast(positions.device.type, enabled=False):
            knots_Q, slopes_HP, heights_HP = pieces(self.networks[layer])
            c, multiplier = (at_least_float32(parameter[layer]).abs() for parameter in (self.c, self.multiplier))
            limit = multiplier * self.threshold
            denominators = (c * torch.maximum(positions.to(c.dtype), limit)).log1p() + self.EPSILON  # like positions
            c_T = c.expand(positions.shape[-1])  # FlexAttention has gradients for what is indexed

        def mod(score, b, h, i, j):
            share = (c_T[i] * distance(positions, b, i, j)).log1p() / take(denominators, b, i)
            piece = piece_of(share, knots_Q)
            return score + slopes_HP[h, piece] * share + heights_HP[h, piece]

        return mod
