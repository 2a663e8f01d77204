"""sliding: windows of length N, `eval.stride` apart, each scoring what none before it has (ALiBi's figure)."""

from data.windows import sliding_windows
from eval.measure import protocols


class Protocol(protocols.Protocol):
    def windows(self, stream, length, lengths, evaluation):
        stride = min(evaluation.stride, length)
        windows = sliding_windows(stream, length, stride, evaluation.cross_documents)
        return protocols.capped(windows, stream, max(lengths), evaluation)
