"""Query scaling with the number of keys in sight, around any encoding; log-n is the plain case."""

import math

import torch
from torch import Tensor

from model.encodings import PositionEncoding, Shape, Wrapper


class QueryScale(Wrapper):
    """q_i × s(n), n the keys that row i sees: the softmax over more keys is made sharper.

    n is i + 1, or where a window hides the rest (inside, around or beside it) no more than the window. It acts on q,
    after the inner encoding's `rotate`, and so keeps every fast kernel; a bias that the inner encoding adds to the
    scores is not scaled. n counts rows, whatever coordinates the inner encoding gives them.
    """

    def __init__(self, shape: Shape, inner: PositionEncoding):
        super().__init__(shape, inner)
        self.relative = False  # n tells rows apart

    def scales(self, n_T: Tensor, layer: int) -> Tensor:
        """s(n) of the rows' n, float64: (T,) or (H, T)."""
        raise NotImplementedError

    def rotate(self, q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer):
        q_BHTK, k_BHTK, v_BHTK = self.inner.rotate(q_BHTK, k_BHTK, v_BHTK, positions, x_BTD, layer)
        n_T = torch.arange(1, q_BHTK.shape[-2] + 1, dtype=torch.float64, device=q_BHTK.device).clamp_max(
            math.inf if self.sees is None else self.sees
        )
        scales = self.scales(n_T, layer)[..., None].to(torch.promote_types(q_BHTK.dtype, torch.float32))
        return (q_BHTK * scales).to(q_BHTK.dtype), k_BHTK, v_BHTK


class LogN(QueryScale):
    """q_i × max(1, ln n / ln L), n the keys that row i sees: unchanged up to L of them, sharper beyond.

    Su 2021, https://kexue.fm/archives/8823; Chiang and Cholak 2022, https://arxiv.org/abs/2202.12172; in the form of
    Qwen (https://arxiv.org/abs/2309.16609). Keeps the entropy of attention about constant as n grows.

    inner: the encoding it goes around. length: L, tokens; null is the training context.
    Raises ValueError for a length below 2, and where a window shows no row more than L keys.

    >>> logn = LogN(Shape(dim=8, num_heads=1, num_layers=1, context=16), PositionEncoding(Shape(8, 1, 1, 16)))
    >>> logn.scales(torch.tensor([2.0, 16.0, 64.0, 256.0]), layer=0).tolist()
    [1.0, 1.0, 1.5, 2.0]
    """

    def __init__(self, shape: Shape, inner: PositionEncoding, length: int | None = None):
        super().__init__(shape, inner)
        self.length = shape.context if length is None else length
        if self.length < 2:
            raise ValueError(f"encoding.length={self.length}: must be at least 2 tokens, since ln 1 = 0")
        if self.sees is not None:
            self.narrow(self.sees)

    def narrow(self, keys: int) -> None:
        super().narrow(keys)
        if self.sees <= self.length:
            raise ValueError(
                f"encoding.length={self.length}: the window shows no row more than {self.sees} keys, so that log-n "
                "would change nothing; choose a length below that, or leave log-n out"
            )

    def scales(self, n_T: Tensor, layer: int) -> Tensor:
        return (n_T.log() / math.log(self.length)).clamp_min(1.0)
