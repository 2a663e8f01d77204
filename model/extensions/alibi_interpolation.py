"""ALiBi interpolated: slopes divided by the stretch."""

from model.encodings.alibi import ALiBi
from model.extensions import Extension, stretch_reason, view


class Flattened:
    """Mixin of a view on an ALiBi: slopes divided by `flattening`."""

    flattening = 1.0

    def slopes(self):
        return super().slopes() / self.flattening


class ALiBiInterpolation(Extension):
    """score = q·k/√d − (m_h / s) · (i − j), s = N / L: the penalty at the longest distance is that of training.

    Al-Khateeb et al. 2023, "Position Interpolation Improves ALiBi Extrapolation", https://arxiv.org/abs/2310.13017.
    PI for ALiBi: a slope divided and a distance divided are the same. It fits ALiBi with fixed and learned slopes where
    a longer text has longer distances: not in a window, nor with positions that training has spread (randomized).
    """

    def fits(self, encoding):
        return stretch_reason(encoding) or super().fits(encoding)

    def fits_part(self, part):
        return None if isinstance(part, ALiBi) else f"{type(part).__name__} has no slopes"

    def extend_part(self, part, train_length, eval_length):
        before = getattr(part, "flattening", 1.0)
        return view(part, Flattened, flattening=before * eval_length / train_length)
