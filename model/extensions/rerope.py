"""ReRoPE: distances exact near by and constant far away, or (leaky) growing more slowly there."""

from model.extensions.distances import DistanceExtension


class ReRoPE(DistanceExtension):
    """The score is RoPE's at distance D where D < w, and at distance w beyond: q_i turned by w and k_j not at all.

    Su 2023, "Rectified Rotary Position Embeddings", https://kexue.fm/archives/9708. The authors apply it within the
    training length too; here s ≤ 1 is the trained encoding, like every method.

    window: w, tokens; null is half the training length. Raises ValueError outside of 1 .. L − 1.
    """

    def far(self, near, train_length, eval_length):
        return {"far_q": lambda i: i * 0 + near, "far_k": lambda j: j * 0}


class LeakyReRoPE(DistanceExtension):
    """Distance D where D < w, and w + (D − w) / k beyond, which still tells what is further away.

    Su 2023, https://kexue.fm/archives/9708.

    window: w, as in ReRoPE. slowdown: k; null is the least that keeps the longest distance, N − 1, within the longest
    of training, L − 1, so (N − 1 − w) / (L − 1 − w). Raises ValueError below 1.
    """

    def __init__(self, window: int | None = None, slowdown: float | None = None):
        super().__init__(window)
        if slowdown is not None and slowdown < 1:
            raise ValueError(f"extension.slowdown={slowdown}: must be at least 1")
        self.slowdown = slowdown

    def far(self, near, train_length, eval_length):
        k = self.slowdown or (eval_length - 1 - near) / max(train_length - 1 - near, 1)
        return {"far_q": lambda i: near + (i - near) / k, "far_k": lambda j: j / k}
