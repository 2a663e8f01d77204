"""YaRN: fast pairs kept, slow pairs interpolated, a ramp between, and a temperature; by the authors' code, and by the
paper's own ramp."""

import itertools
import math

import torch

from model.extensions.rotary import FrequencyExtension, blend, kept_by_turns, searched, warn_unreached

REACHED_BY_AUTHORS = 4096 / (2 * math.pi)  # turns of the fastest pair at L = 4096, where 32 was found


class YaRN(FrequencyExtension):
    """θ'_k = θ_k / s · ramp_k + θ_k · (1 − ramp_k), cos and sin × (temperature · ln s + 1), so scores × its square.

    Peng et al. 2023, https://arxiv.org/abs/2309.00071, as in the authors' code: the ramp is linear in the pair index
    k, from low = ⌊corr(beta_fast)⌋ to high = ⌈corr(beta_slow)⌉, both held within 0 and d − 1, where corr(r) =
    d·ln(L/(2πr)) / (2·ln base) is the index of the pair that makes r turns in L tokens. The fastest pairs stay, the
    slowest are divided. The temperature is on cos and sin, as in the authors' code, where the paper's formula has the
    whole score divided: layers, pairs and parts of a head that don't turn keep their scores.
    The ramp is by index, so it needs frequencies in a falling geometric sequence; `yarn_paper` does not.

    beta_fast: pairs with more turns than this in the training length are kept. The authors' 32 suits L = 4096, where
        the fastest pair makes 652; at L = 128 it makes 20, and 32 would keep no pair. null is 32 from L = 4096 on and
        below it the same share of the way from one turn to the fastest pair's (on a log scale: 5 at L = 128). A value
        that no pair reaches is used as it is, with a warning.
    beta_slow: pairs with fewer turns than this are divided by s.
    temperature: the authors' 0.1, fitted on Llama; 0 is none.
    tune: `tune` chooses the three on the calibration split, from at most 13 combinations around these.
    Raises ValueError for beta_slow not in (0, beta_fast) or a negative temperature.
    """

    def __init__(
        self,
        beta_fast: float | None = None,
        beta_slow: float = 1.0,
        temperature: float = 0.1,
        tune: bool = False,
    ):
        if beta_slow <= 0 or (beta_fast is not None and beta_fast <= beta_slow):
            raise ValueError(
                f"extension.beta_slow={beta_slow}: must lie between 0 and extension.beta_fast={beta_fast} turns"
            )
        if temperature < 0:
            raise ValueError(f"extension.temperature={temperature}: must not be negative")
        self.beta_fast, self.beta_slow, self.temperature = beta_fast, beta_slow, temperature
        self.needs_tuning = tune

    def attention_factor(self, train_length, eval_length):
        return self.temperature * math.log(eval_length / train_length) + 1

    def fast_turns(self, train_length: int) -> float:
        """beta_fast, or what null stands for at this training length.

        >>> [round(YaRN().fast_turns(L), 1) for L in (128, 512, 4096, 8192)]
        [5.0, 10.5, 32.0, 32.0]
        """
        if self.beta_fast is not None:
            return self.beta_fast
        share = math.log(32) / math.log(REACHED_BY_AUTHORS)
        return max(min(32.0, (train_length / (2 * math.pi)) ** share), 2 * self.beta_slow)

    def stretch(self, frequencies, train_length, eval_length):
        kept = self.kept(frequencies, train_length, self.fast_turns(train_length))
        stretched = blend(frequencies, kept, eval_length / train_length)
        return torch.where(frequencies == 0, frequencies, stretched)  # a pair that never turned has no place on a ramp

    def extend_part(self, part, train_length, eval_length):
        if self.beta_fast is not None:
            warn_unreached(part, train_length, "beta_fast", self.beta_fast, "null scales it with the training length")
        return super().extend_part(part, train_length, eval_length)

    def kept(self, frequencies: torch.Tensor, train_length: int, fast: float) -> torch.Tensor:
        """1 − ramp: the share of each frequency that stays, 1 for the fastest pairs."""
        pairs = frequencies.shape[-1]
        first, second = frequencies[..., 0:1], frequencies[..., 1:2]

        def index(turns: float) -> torch.Tensor:  # corr(r), with ln(base)·2/d read off the frequencies' ratio
            return (first * train_length / (2 * math.pi * turns)).log() / (first / second).log()

        low = index(fast).floor().clamp_min(0)
        high = index(self.beta_slow).ceil().clamp_max(2 * pairs - 1)
        high = torch.where(high <= low, low + 0.001, high)
        k = torch.arange(pairs, dtype=torch.float64, device=frequencies.device)
        return 1 - ((k - low) / (high - low)).clamp(0, 1)

    def fits_part(self, part):
        if reason := super().fits_part(part):
            return reason
        for layer in range(part.shape.num_layers):
            frequencies = part.frequencies(layer).detach()
            ratios = frequencies[..., 1:] / frequencies[..., :-1]
            turning = frequencies[..., 1:] > 0
            same = torch.isclose(ratios, ratios[..., :1]) | ~turning
            if ratios.shape[-1] == 0 or not (same & ~(ratios >= 1)).all():
                return f"the frequencies of {type(part).__name__} are no falling geometric sequence; use yarn_paper"
        return None

    def settings(self):
        return {**super().settings(), "tune": self.needs_tuning}

    def tune(self, loss, encoding, train_length, eval_length):
        if not self.needs_tuning or eval_length <= train_length:
            return self
        losses: dict[tuple[float, float, float], float] = {}  # by beta_slow, beta_fast, temperature

        def best(settings):
            for setting in settings:
                if setting not in losses:
                    losses[setting] = loss(self._with(setting).apply(encoding, train_length, eval_length))
            return min(losses, key=losses.get)

        slow, fast, t = default = (self.beta_slow, self.fast_turns(train_length), self.temperature)
        ramps = itertools.product((slow, slow / 2, slow * 2), (fast, fast / 2, fast * 2))
        slow, fast, _ = best([(low, high, t) for low, high in ramps if low < high])
        chosen = best([(slow, fast, t) for t in (0.0, 0.05, 0.1, 0.15, 0.2)])
        return self._with(chosen, searched(losses, losses[default]))

    def _with(self, setting: tuple[float, float, float], note: str = "") -> "YaRN":
        slow, fast, temperature = setting
        return self._chosen(note, beta_slow=slow, beta_fast=fast, temperature=temperature, needs_tuning=False)


class YaRNPaper(YaRN):
    """YaRN with the paper's own ramp: γ linear in the turns r = L/λ, 0 below α (beta_slow), 1 above β (beta_fast).

    https://arxiv.org/abs/2309.00071, equations 17 to 19 ("NTK-by-parts") with the temperature of equation 22; settings
    as in YaRN. It needs no order among the frequencies, so it fits learned ones too.
    """

    def kept(self, frequencies, train_length, fast):
        return kept_by_turns(frequencies, train_length, self.beta_slow, fast)

    def fits_part(self, part):
        return FrequencyExtension.fits_part(self, part)
