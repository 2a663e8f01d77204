"""non_overlapping: all tokens of windows of length N side by side, the literature's usual figure. The early tokens of a
window see little, and a longer window has fewer of them: that flatters it."""

from data.windows import non_overlapping_windows
from eval.measure import protocols


class Protocol(protocols.Protocol):
    def windows(self, stream, length, lengths, evaluation):
        windows = non_overlapping_windows(stream, length, evaluation.cross_documents)
        return protocols.capped(windows, stream, max(lengths), evaluation)
