"""Llama 3.1's scaling: long waves divided, short waves kept, a smooth passage between; no temperature."""

from model.extensions.rotary import FrequencyExtension, blend, kept_by_turns, warn_unreached


class Llama3(FrequencyExtension):
    """θ' = θ where λ < L/high; θ / factor where λ > L/low; between, (1 − γ)·θ/factor + γ·θ.

    Llama Team 2024, https://arxiv.org/abs/2407.21783, and the released code. λ = 2π/θ, in tokens; γ = (L/λ − low) /
    (high − low), linear in the turns; L the training length (theirs: 8192).

    factor: what the slow pairs are divided by; null is the stretch N / L (theirs is 8, for 128k tokens).
    low, high: turns in the training length below which a pair is divided, and above which it is kept.
    Raises ValueError for a factor below 1 or low not in (0, high). Warns where no pair reaches `high` turns.
    """

    def __init__(self, factor: float | None = None, low: float = 1.0, high: float = 4.0):
        if factor is not None and factor < 1:
            raise ValueError(f"extension.factor={factor}: must be at least 1")
        if not 0 < low < high:
            raise ValueError(f"extension.low={low}: must lie between 0 and extension.high={high} turns")
        self.factor, self.low, self.high = factor, low, high

    def stretch(self, frequencies, train_length, eval_length):
        kept = kept_by_turns(frequencies, train_length, self.low, self.high)
        return blend(frequencies, kept, self.factor or eval_length / train_length)

    def extend_part(self, part, train_length, eval_length):
        warn_unreached(part, train_length, "high", self.high, "lower it")
        return super().extend_part(part, train_length, eval_length)
