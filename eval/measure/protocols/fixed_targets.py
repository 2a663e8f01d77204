"""fixed_targets, the headline: the same targets at every context length. Windows that end at the same token, the last
`eval.targets` tokens scored: does more context than it was trained on help or hurt?"""

import numpy as np

from data.windows import Windows, fixed_target_windows
from eval.measure import protocols


class Protocol(protocols.Protocol):
    def windows(self, stream, length, lengths, evaluation):
        targets = min(evaluation.targets, min(lengths))
        ends = fixed_target_windows(stream, lengths, targets, evaluation.windows, evaluation.cross_documents)
        return Windows(ends - length, ends, np.full_like(ends, targets))
