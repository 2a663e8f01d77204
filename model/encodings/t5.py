"""T5's relative bias: one learned number a head for each bucket of distances."""

import math

import torch
from torch import Tensor, nn

from model.encodings import PositionEncoding, ScoreMod, Shape
from model.encodings.relative import distance


def causal_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance D ≥ 0 (tokens): D itself below half, then logarithmic, the last from the
    neighbourhood of max_distance on. With T5's own 32 and 128 the last bucket starts at D = 113:

    >>> causal_buckets(torch.tensor([0, 15, 16, 20, 112, 113, 5000]), 32, 128).tolist()
    [0, 15, 16, 17, 30, 31, 31]
    """
    half = num_buckets // 2
    logarithmic = (distances.clamp_min(1).double() / half).log() / math.log(max_distance / half) * (num_buckets - half)
    return torch.where(distances < half, distances.long(), (half + logarithmic.long()).clamp_max(num_buckets - 1))


class T5(PositionEncoding):
    """score = q·k/√d + b_h[bucket(i − j)], the table shared by the layers and zero at the start.

    Raffel et al. 2020, https://arxiv.org/abs/1910.10683. T5 itself does not divide q·k by √d (its initialisation does
    that work); here the scores keep the scale that all encodings share. Its table learns at 100 times the backbone's
    rate: a bias counts in nats, and AdamW moves a number by no more than the sum of its learning rates, under 1 here.

    num_buckets: rows of the table; null is T5's 32, or half the training context where that is less.
    max_distance: where the last bucket begins, in tokens; null is half the training context, so that a good share of
    the pairs trains the bucket that every longer distance will use (T5's own 128 belongs to its context of 512). Raises
    ValueError for an odd number of buckets, and for a max_distance that leaves the logarithmic half no room or exceeds
    the context, where the last buckets would never be trained.
    """

    relative = True
    distance_bias = True
    lr_scale = 100.0

    def __init__(self, shape: Shape, num_buckets: int | None = None, max_distance: int | None = None):
        super().__init__(shape)
        if num_buckets is None:
            num_buckets = min(32, max(2, shape.context // 4 * 2))
        if max_distance is None:
            max_distance = max(num_buckets // 2 + 1, shape.context // 2)
        if num_buckets < 2 or num_buckets % 2:
            raise ValueError(f"encoding.num_buckets={num_buckets}: must be even and at least 2")
        if not num_buckets // 2 < max_distance <= shape.context:
            raise ValueError(
                f"encoding.max_distance={max_distance}: must be above num_buckets/2 = {num_buckets // 2} and at most "
                f"the training context {shape.context}, or some buckets are never trained; lower encoding.num_buckets "
                "or set both to null"
            )
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.table_HN = nn.Parameter(torch.zeros(shape.num_heads, num_buckets))

    def score_mod(self, q_BHTK, k_BHTK, positions, x_BTD, layer) -> ScoreMod:
        def mod(score, b, h, i, j):
            buckets = causal_buckets(distance(positions, b, i, j), self.num_buckets, self.max_distance)
            return score + self.table_HN[h, buckets]

        return mod
