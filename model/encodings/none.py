"""NoPE: no position encoding; the causal mask alone breaks the symmetry between tokens."""

from model.encodings import PositionEncoding


class NoPE(PositionEncoding):
    """Scores are q·k/√d and nothing else.

    Haviv et al. 2022, "Transformer Language Models without Positional Encodings Still Learn Positional Information",
    https://arxiv.org/abs/2203.16634; Kazemnejad et al. 2023, https://arxiv.org/abs/2305.19466.
    """

    relative = True
    order_blind = True
