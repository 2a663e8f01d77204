"""What ReRoPE, Self-Extend and the window share: a rotation whose distances change beyond a near range.

Two rotations score every pair: the trained one for distances below `near`, another one beyond. Scores are computed by
blocks of rows, so that memory stays linear in the length; they take about twice the time of RoPE's.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from model.encodings import PositionEncoding, Wrapper
from model.extensions import Extension, view, with_plain_positions
from model.extensions.rotary import rotation_reason, sample
from model.extensions.scales import unscaled


class TwoRanges:
    """Mixin of a view on a RoPE: where i − j ≥ near, the score is that of q turned by far_q(i) and k by far_k(j), and
    only the keys for which seen_far(j) are seen."""

    def rescore(self, scores_BHQT, visible_QT, rows_Q, q_BHTK, k_BHTK, positions, x_BTD, layer):
        # q and k come turned by i and j: turning them on by far_q(i) − i and far_k(j) − j gives the far ones.
        q_BHQK, x_BQD, columns_T = q_BHTK[:, :, rows_Q], x_BTD[:, rows_Q], positions.double()
        places_Q = columns_T[rows_Q]
        turn_q, turn_k = self.far_q(columns_T)[rows_Q] - places_Q, self.far_k(columns_T) - columns_T
        far_q_BHQK, _ = turned_on(super().rotate, q_BHQK, turn_q, x_BQD, layer)
        _, far_k_BHTK = turned_on(super().rotate, k_BHTK, turn_k, x_BTD, layer)
        far_BHQT = (far_q_BHQK * self.shape.head_dim**-0.5) @ far_k_BHTK.transpose(-1, -2)
        near_QT = places_Q[:, None] - positions < self.near
        seen_QT = near_QT | self.seen_far(positions)
        return torch.where(near_QT, scores_BHQT, far_BHQT).masked_fill(~seen_QT, float("-inf"))


def turned_on(rotate: Callable, x_BHTK: Tensor, turn_T: Tensor, x_BTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """What a rotation has turned, turned on, as queries and as keys: by the angle alone, without what it scales them by
    as well (an attention factor, a scale of queries), which is on them already."""
    ones = torch.ones_like(x_BHTK)
    q, k, _ = rotate(x_BHTK, x_BHTK, x_BHTK, turn_T, x_BTD, layer)
    scale_q, scale_k, _ = rotate(ones, ones, ones, torch.zeros_like(turn_T), x_BTD, layer)
    return q / scale_q, k / scale_k


class DistanceExtension(Extension):
    """A method that gives a rotation other distances beyond a near range: override `far`.

    It fits a RoPE, or a variant whose angles are a token's index times a frequency, that turns q and k and nothing
    else; also inside wrappers that only scale the queries.
    """

    def __init__(self, window: int | None = None):
        if window is not None and window < 1:
            raise ValueError(f"extension.window={window}: must be at least 1 token")
        self.window = window

    def near(self, train_length: int) -> int:
        """Distances below this are exact."""
        near = train_length // 2 if self.window is None else self.window
        if near >= train_length:
            raise ValueError(
                f"extension.window={near}: must be below the training length {train_length}, or distances never met in "
                "training would count as near; null is half of it"
            )
        return near

    def far(self, near: int, train_length: int, eval_length: int) -> dict[str, Callable | int]:
        """`TwoRanges`' far_q and far_k, functions of float64 coordinates; and where not all is seen, seen_far and the
        claim `sees`."""
        raise NotImplementedError

    def fits(self, encoding):
        return distance_reason(encoding)

    def extend_part(self, part, train_length, eval_length):
        near = self.near(train_length)
        functions = {
            "seen_far": lambda j: torch.ones_like(j, dtype=torch.bool),
            **self.far(near, train_length, eval_length),
        }
        return view(part, TwoRanges, near=near, rescores=True, relative=False, **functions)

    @staticmethod
    def warn_beyond(longest: int, train_length: int, setting: str, remedy: str) -> None:
        if longest > train_length - 1:
            warnings.warn(
                f"{setting}: distances reach {longest}, beyond the longest of training, {train_length - 1}; {remedy}",
                stacklevel=2,
            )


@torch.no_grad()
def distance_reason(encoding: PositionEncoding) -> str | None:
    """None where all that positions do is to turn q and k, by a token's index times a frequency; else why not."""
    if not with_plain_positions(encoding):
        return f"the coordinates of {type(encoding).__name__} are not the tokens' own 0..T−1"
    while isinstance(encoding, Wrapper):
        cls = type(encoding)
        others = ("embed", "rescore", "score_mod", "weigh", "unrotate")
        if any(getattr(cls, hook) is not getattr(Wrapper, hook) for hook in others):
            return f"{cls.__name__} does more than to scale the queries of the encoding inside"
        encoding = encoding.inner
    if reason := rotation_reason(encoding):
        return reason
    encoding = unscaled(encoding)
    q, k, v, x, positions = sample(encoding, tokens=4)
    turned = []
    for layer in range(encoding.shape.num_layers):
        once, _, same_v = encoding.rotate(q, k, v, positions, x, layer)
        if encoding.rescores or encoding.score_mod(q, k, positions, x, layer) is not None or not torch.equal(same_v, v):
            return f"{type(encoding).__name__} does more than to turn q and k"
        turned.append(not torch.equal(once, q))
        if once.shape == q.shape:
            twice, _ = turned_on(encoding.rotate, once, positions, x, layer)
            if torch.allclose(twice, encoding.rotate(q, k, v, 2 * positions, x, layer)[0], atol=1e-5):
                continue
        return f"{type(encoding).__name__} does not turn q and k in place, so a turn can't be continued"
    return None if any(turned) else f"{type(encoding).__name__} does not turn q and k"
