"""Cable: a penalty for each token in between, learned from that token's content."""

import torch.nn.functional as F

from model.encodings.fox import FoX


class Cable(FoX):
    """score = q·k/√d − Σ_{t=j+1..i} softplus(w · x_t + b), with w and b for each layer and head.

    Veisi et al. 2025, "Context-aware Biases for Length Extrapolation", https://arxiv.org/abs/2503.08067. The authors'
    code starts at w ~ N(0, 0.02²) and b = 0, as here, and does not divide q·k by √d, which is done here.

    Since −softplus(z) = ln σ(−z), this is FoX with w and b of the opposite sign: two papers, published in one month,
    for one family of functions, and the two differ in a run by the sign of the initial w alone.
    """

    def log_gates(self, z_BTH):
        return -F.softplus(z_BTH, threshold=50)  # beyond 20, its own, float64 would see the difference
