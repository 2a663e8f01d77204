"""Random positions for a stage: ordered samples of a longer range, whole or real."""

from model.extensions import Extension
from model.extensions.drawn import DrawnPositions, whole_reason


class RandomPositions(DrawnPositions):
    """In training the T tokens of a window stand at T of 0 .. N − 1, drawn without replacement and sorted, or where
    `continuous` at T real numbers, uniform in [0, N) and sorted. One draw serves a batch.

    Ruoss et al. 2023, https://arxiv.org/abs/2305.16843, whose encoding `randomized` is trained so from the start; the
    real ones are those of https://arxiv.org/abs/2602.14050 ("RFS"), for sinusoids, RoPE and ALiBi. Random positions
    under YaRN, and plain YaRN at test, are those of https://arxiv.org/abs/2606.23687: inner=yarn.

    inner: the extension that it goes on top of (none: positions alone). length: N, tokens, of the stage, above its
    context. continuous: real numbers; refused where positions are looked up in a table. at_test: plain, the tokens'
    own, or random, drawn in evaluation as well, a function of the seed and the length alone; then no text may be longer
    than N, and it can't decode token by token. null is plain for whole numbers, random for real ones, as in RFS.
    seed: of the draws; see PoSE. Raises ValueError for a length that isn't above the context, an inner extension that
    doesn't fit, or one that hides keys or drops positions.
    """

    def __init__(
        self,
        inner: Extension | None = None,
        length: int | None = None,
        continuous: bool = False,
        at_test: str | None = None,
        seed: int = 0,
    ):
        super().__init__(inner, length, seed)
        if at_test not in (None, "plain", "random"):
            raise ValueError(f"extension.at_test={at_test!r}: must be plain or random, or null")
        self.continuous = continuous
        self.how = "real" if continuous else "whole"
        self.at_test = at_test or ("random" if continuous else "plain")

    def fits(self, encoding):
        if (reason := super().fits(encoding)) or not self.continuous or self.inner.needs_tuning:
            return reason
        context = encoding.shape.context
        return whole_reason(self.inner.apply(encoding, context, 2 * context))
