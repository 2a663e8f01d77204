"""PI: position interpolation, all frequencies divided by the stretch."""

from model.extensions.rotary import FrequencyExtension


class PI(FrequencyExtension):
    """Position i is read as i / s, s = N / L: no angle is larger than in training, but neighbours are closer.

    Chen et al. 2023, https://arxiv.org/abs/2306.15595, equation 4. A position divided and a frequency divided are the
    same angle; here it is the frequency.
    """

    def stretch(self, frequencies, train_length, eval_length):
        return frequencies * train_length / eval_length
