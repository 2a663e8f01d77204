"""FoX: a forget gate of each token's content decides how much of what lies before it stays in view."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.encodings import PositionEncoding, ScoreMod, Shape


class FoX(PositionEncoding):
    """score = q·k/√d + Σ_{t=j+1..i} ln f_t, where f_t = σ(w_f · x_t + b_f) is the forget gate of token t.

    Lin et al. 2025, "Forgetting Transformer: Softmax Attention with a Forget Gate", https://arxiv.org/abs/2503.02130.

    Each layer and head has its own w_f ~ N(0, 0.02²) and b_f = 0, and x is the block's normalised input. The gates
    start at 1/2, so that the score starts at −ln 2 for every token of distance. The paper's other parts (output gate,
    norm of the output, shift of the keys) belong to its block and not to the encoding.

    A sum from j + 1 to i is a difference of two from the start on, each of them 45,000 nats at 65,536 tokens, where
    float32 has steps of 0.004. So they are summed in float64, and looked up as pairs of float32: the sum, and the rest
    that rounding took from it.

    With w_f = 0, three tokens back:

    >>> fox = FoX(Shape(dim=4, num_heads=2, num_layers=1, context=8))
    >>> _ = nn.init.zeros_(fox.weight_LHD)
    >>> mod = fox.score_mod(None, None, torch.arange(4), torch.ones(1, 4, 4), layer=0)
    >>> b, h, i, j = (torch.tensor(index) for index in (0, 0, 3, 0))
    >>> round(mod(torch.tensor(0.0), b, h, i, j).item(), 3)  # −3 · ln 2
    -2.079
    """

    separable_bias = True

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.weight_LHD = nn.Parameter(torch.empty(shape.num_layers, shape.num_heads, shape.dim).normal_(std=0.02))
        self.bias_LH = nn.Parameter(torch.zeros(shape.num_layers, shape.num_heads))

    def log_gates(self, z_BTH: Tensor) -> Tensor:
        """What each token adds to the scores across it, at most 0."""
        return F.logsigmoid(z_BTH)

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        with torch.autocast(x_BTD.device.type, enabled=False):
            dtype = torch.promote_types(x_BTD.dtype, torch.float32)
            z_BTH = F.linear(x_BTD.to(dtype), self.weight_LHD[layer].to(dtype), self.bias_LH[layer].to(dtype))
            exact_BHT = self.log_gates(z_BTH).cumsum(dim=1, dtype=torch.float64).transpose(1, 2)
            by_query_BHT = exact_BHT.to(dtype, memory_format=torch.contiguous_format)
            by_key_BHT = by_query_BHT.clone()  # FlexAttention has gradients for one lookup a tensor
            rest_BHT = (exact_BHT - by_query_BHT).detach().to(dtype, memory_format=torch.contiguous_format)

        def mod(score, b, h, i, j):
            rounded = by_query_BHT[b, h, i] - by_key_BHT[b, h, j]
            return score + (rounded + (rest_BHT[b, h, i] - rest_BHT[b, h, j]))

        return mod
