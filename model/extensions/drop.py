"""DroPE: the position encoding is dropped, and the model recalibrated without it."""

from model.encodings.none import NoPE
from model.extensions import Extension


class Drop(Extension):
    """score = q·k/√d and nothing else, at every length: NoPE in the encoding's place, with none of its parameters.

    Gelberg et al. 2025, "Extending the Context of Pretrained LLMs by Dropping Their Positional Embeddings" (DroPE),
    https://arxiv.org/abs/2512.12167: positions help training along and hinder length, so a model is trained with them
    nearly to its end, and trained on briefly without, at the same context (there 14 of 16 thousand steps with RoPE).
    Without that stage the model is broken at any length. At longer text the authors scale the logits (`logit_scale`).

    All of the encoding goes: a window, scales of queries and gates by content too. It acts at s ≤ 1 as well, and fits
    every encoding but NoPE.
    """

    at_any_length = True

    def fits(self, encoding):
        return f"{type(encoding).__name__} has no position encoding to drop" if isinstance(encoding, NoPE) else None

    def extend(self, encoding, train_length, eval_length):
        return NoPE(encoding.shape).train(encoding.training)
