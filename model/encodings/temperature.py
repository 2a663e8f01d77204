"""Attention temperature as in Llama 4: query scaling in steps, around any encoding."""

from torch import Tensor

from model.encodings import PositionEncoding, Shape
from model.encodings.logn import QueryScale


class Temperature(QueryScale):
    """q_i × (1 + a·ln(1 + ⌊n / F⌋)), n the keys that row i sees: unchanged below F, then sharper in steps.

    Llama 4 (Meta 2025) in its layers without RoPE, where a = 0.1 and F = 8,192; in the form of the transformers
    library. There F lies well within the training context.

    inner: the encoding it goes around. strength: a. floor: F, tokens; null is a quarter of the training context, so
    that training sees several steps.
    Raises ValueError for a strength that is not positive or a floor below 1.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, strength: float = 0.1, floor: int | None = None):
        super().__init__(shape, inner)
        self.strength = strength
        self.floor = max(1, shape.context // 4) if floor is None else floor
        if strength <= 0:
            raise ValueError(f"encoding.strength={strength}: must be positive")
        if self.floor < 1:
            raise ValueError(f"encoding.floor={self.floor}: must be at least 1 token")

    def scales(self, n_T: Tensor, layer: int) -> Tensor:
        return 1 + self.strength * (n_T / self.floor).floor().log1p()
