"""positions: whole windows of the longest length, the loss reported by position in the window: where does it break?"""

import itertools

from data.windows import non_overlapping_windows
from eval.measure import protocols
from eval.measure.targets import chosen

BINS = 16  # a training context is cut into so many stretches


class Protocol(protocols.Protocol):
    def windows(self, stream, length, lengths, evaluation):
        windows = non_overlapping_windows(stream, max(lengths), evaluation.cross_documents)
        whole = chosen(windows, windows.stops - windows.starts == max(lengths))
        return protocols.capped(whole, stream, max(lengths), evaluation)

    def scored_at(self, lengths):
        return [max(lengths)]

    def parts(self, targets, losses, context):
        """A row each stretch: `position` is the number of tokens of context up to which it reaches."""
        losses_WN = losses.reshape(len(targets.windows.starts), -1)
        for low, high in itertools.pairwise(edges(losses_WN.shape[1], context)):
            place = {"position_from": low + 1, "position": high}
            yield place, targets.stretch(low, high), losses_WN[:, low:high].ravel()


def edges(length: int, context: int) -> list[int]:
    """Bounds of the stretches: BINS a training context, each a tenth longer beyond four training contexts."""
    step = max(1, context // BINS)
    found = list(range(0, min(length, 4 * context) + 1, step))
    while found[-1] < length:
        found.append(min(length, max(found[-1] + step, round(found[-1] * 1.1))))
    return found
