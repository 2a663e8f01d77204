"""Stick-breaking attention: each row's unit of attention is given out from the nearest key to the farthest."""

import torch
import torch.nn.functional as F

from model.encodings import PositionEncoding, Shape
from model.encodings.cope import reverse_cumsum


class StickBreaking(PositionEncoding):
    """A_ij = β_ij ∏_{j<t<i} (1 − β_it) for j < i, with β = σ(q·k/√d) and no softmax.

    Tan et al. 2025, "Scaling Stick-Breaking Attention", https://arxiv.org/abs/2410.17980. Every key takes a share β of
    what the nearer keys have left over: order comes from the breaking and there is no other position. As in the
    paper a token does not attend to itself. A row sums to less than 1:

    >>> scores = torch.zeros(1, 1, 4, 4)  # β = 1/2
    >>> rows = torch.arange(4)
    >>> encoding = StickBreaking(Shape(dim=4, num_heads=1, num_layers=1, context=4))
    >>> encoding.weigh(scores, rows <= rows[:, None], rows, layer=0)[0, 0, 3].tolist()
    [0.125, 0.25, 0.5, 0.0]

    remainder: where the rest of the row goes: "dropped" (the paper's equation; row 0 attends to nothing) or "self"
    (to the token's own value, as the authors' library does where it adds the remainder it returns).
    Raises ValueError for another remainder.

    In logarithms, with s = softplus: ln β = z − s(z) and ln(1 − β) = −s(z), so ln A_ij = z_ij − Σ_{t=j..i−1} s(z_it),
    and the rest of the row is exp(−Σ_{t<i} s(z_it)): nothing is divided and nothing is subtracted from 1.
    """

    rescores = True
    REMAINDERS = ("dropped", "self")

    def __init__(self, shape: Shape, remainder: str = "dropped"):
        super().__init__(shape)
        if remainder not in self.REMAINDERS:
            raise ValueError(f"encoding.remainder={remainder!r}: must be one of {', '.join(self.REMAINDERS)}")
        self.remainder = remainder

    def weigh(self, scores_BHQT, visible_QT, rows_Q, layer):
        columns_T = torch.arange(scores_BHQT.shape[-1], device=scores_BHQT.device)
        dtype = torch.promote_types(scores_BHQT.dtype, torch.float32)
        z = scores_BHQT.to(dtype).masked_fill(columns_T >= rows_Q[:, None], float("-inf"))
        taken = reverse_cumsum(F.softplus(z, threshold=50))  # Σ_{t=j..i−1} s(z_it); exact in float64 too
        weights = (z - taken).exp()
        if self.remainder == "self":
            weights = torch.where(columns_T == rows_Q[:, None], (-taken[..., :1]).exp(), weights)
        return weights
