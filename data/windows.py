"""Which tokens are read together: endless training windows, and the evaluation protocols' windows.

All positions index the token stream of one split, `tokens` of shape (T,), whose document d occupies
`offsets[d]:offsets[d + 1]` and opens with the separator token. A window of N tokens of context that ends at position
e has the inputs `tokens[e - N : e]` and the targets `tokens[e - N + 1 : e + 1]`: its k-th target (k = 1..N) is
predicted from exactly k tokens, and the separator, being first in its document, is never a target.
Windows never cross a document unless asked to; the whole stream then counts as one document.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from data.stream import TokenStream


class Windows(NamedTuple):
    """Evaluation windows: inputs `tokens[start:stop]`, targets `tokens[start + 1 : stop + 1]`; int64 arrays (W,)."""

    starts: np.ndarray
    stops: np.ndarray
    scored: np.ndarray  # how many of the window's last targets count


def document_bounds(stream: TokenStream, cross_documents: bool = False, min_tokens: int | None = None) -> np.ndarray:
    """First and one-past-last position of every stretch that a window must stay within, int64 (D, 2).

    min_tokens: those that aren't longer are left out. Raises ValueError where that leaves none.
    """
    offsets = np.asarray(stream.offsets, dtype=np.int64)
    bounds = np.array([[offsets[0], offsets[-1]]]) if cross_documents else np.stack([offsets[:-1], offsets[1:]], axis=1)
    if min_tokens is None:
        return bounds
    lengths = bounds[:, 1] - bounds[:, 0]
    if lengths.max() <= min_tokens:
        raise ValueError(
            f"data.min_tokens={min_tokens}: no document is longer (the longest of a split has {lengths.max()} tokens); "
            "lower it"
        )
    return bounds[lengths > min_tokens]


# ------------------------------------------------------------------------------------------------ evaluation


def fixed_target_windows(
    stream: TokenStream, lengths: Sequence[int], targets: int, count: int, cross_documents: bool = False
) -> np.ndarray:
    """End positions at which the same last `targets` tokens can be scored with every context length.

    At an end e and for each N in `lengths` the window is `tokens[e - N : e]` -> `tokens[e - N + 1 : e + 1]`; the
    scored targets `tokens[e - targets + 1 : e + 1]` are the same for all N, and those of two ends never overlap.
    Ends are spread evenly over all places that allow the longest context, so each document counts by its length;
    they depend on nothing but the arguments. Crossing documents, a separator can be among the targets.

    Returns int64 (W,), ascending; W = count, or fewer where the stream does not hold as many.
    Raises ValueError if a length is smaller than `targets`, or no document is long enough for all lengths.
    """
    lengths = sorted(lengths)
    if not lengths or min(lengths[0], targets, count) < 1:
        raise ValueError(f"lengths={lengths}, targets={targets}, count={count}: give lengths, and nothing below 1")
    shortest, longest = lengths[0], lengths[-1]
    if targets > shortest:
        raise ValueError(
            f"targets={targets} exceeds the shortest context length {shortest}: score fewer targets, "
            "or drop the lengths below it"
        )
    bounds = document_bounds(stream, cross_documents)
    ends = np.concatenate([np.arange(first + longest, last, targets, dtype=np.int64) for first, last in bounds])
    if len(ends) == 0:
        possible = int((bounds[:, 1] - bounds[:, 0]).max()) - 1
        raise ValueError(
            f"a context of {longest} tokens needs a document of {longest + 1}, the longest allows {possible}: of the "
            f"lengths {lengths} only {[n for n in lengths if n <= possible]} are possible; drop the others"
        )
    if len(ends) > count:
        ends = ends[(2 * np.arange(count) + 1) * len(ends) // (2 * count)]
    return ends


def non_overlapping_windows(
    stream: TokenStream, length: int, cross_documents: bool = False, min_tokens: int | None = None
) -> Windows:
    """Windows of `length` tokens side by side; the last of a document is shorter, so that nothing is dropped.

    Every token but the separator that opens a document (or the stream) is a target of exactly one window; documents of
    no more than min_tokens are left out. Raises ValueError if `length` < 1, or no document is left.
    """
    if length < 1:
        raise ValueError(f"length={length}: a window needs at least one token of context")
    bounds = document_bounds(stream, cross_documents, min_tokens)
    starts = np.concatenate([np.arange(first, last - 1, length, dtype=np.int64) for first, last in bounds])
    lasts = bounds[np.searchsorted(bounds[:, 1], starts, side="right"), 1]
    stops = np.minimum(starts + length, lasts - 1)
    return Windows(starts, stops, stops - starts)


def sliding_windows(stream: TokenStream, length: int, stride: int, cross_documents: bool = False) -> Windows:
    """Windows of `length` tokens, `stride` apart, each scoring the targets that no earlier window has scored.

    A document's first window scores all its targets; each following one scores its last `stride` (the document's
    last window: what is left), with at least `length - stride` tokens before them. All windows are `length` long
    but those of shorter documents. Every token but the separators is scored exactly once.
    Raises ValueError unless 1 <= stride <= length.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride={stride} must lie between 1 and the window's length {length}")
    starts, stops, scored = [], [], []
    for first, last in document_bounds(stream, cross_documents):
        if last - first < 2:
            continue
        regular = np.arange(min(first + length, last - 1), last - 1, stride, dtype=np.int64)
        ends = np.append(regular, last - 1)
        starts.append(np.maximum(ends - length, first))
        stops.append(ends)
        scored.append(np.diff(ends, prepend=first))
    return Windows(*(np.concatenate(part) if part else np.zeros(0, np.int64) for part in (starts, stops, scored)))


# ------------------------------------------------------------------------------------------------ training


class TrainingWindows(Dataset):
    """Window n (n = 0, 1, 2, ... without end) is a pure function of the stream, the context length, the seed and n.

    Epoch e holds windows e * windows_per_epoch onwards. In each epoch every document is cut from a new random offset
    into windows of context + 1 tokens that share one token (the last target of one is the first input of the next),
    and all windows are shuffled. A document of L tokens yields L // context - 1 windows, at least one if
    L > context: one less than fits, so that every offset is as likely and no token is always at a window's end.
    Nothing depends on the encoding, on workers or ranks, or on a global random generator; orders are taken from
    the raw output of PCG64, which numpy keeps stable across versions.

    `dataset[n]` is int64 (context + 1,): inputs `[:-1]`, targets `[1:]`. `num_documents` are longer than `context`
    (and than `min_tokens`) and read; `readable` is their share of the text, in tokens.
    Raises ValueError if no document is longer than `context`, or `min_tokens`.
    """

    def __init__(
        self,
        stream: TokenStream,
        context: int,
        seed: int,
        cross_documents: bool = False,
        min_tokens: int | None = None,
    ):
        if context < 1:
            raise ValueError(f"context={context}: a window needs at least one token of context")
        self.stream, self.context, self.seed = stream, context, seed
        bounds = document_bounds(stream, cross_documents, min_tokens)
        lengths = bounds[:, 1] - bounds[:, 0]
        long_enough = lengths > context
        if not long_enough.any():
            raise ValueError(
                f"no training document is longer than context={context} tokens (the longest has {lengths.max()}): "
                "shorten the context, or set data.cross_documents=true"
            )
        self._firsts = bounds[long_enough, 0]
        self._counts = np.maximum(1, lengths[long_enough] // context - 1)
        self._slack = lengths[long_enough] - 1 - self._counts * context
        self.windows_per_epoch = int(self._counts.sum())
        self.num_documents = len(self._firsts)
        self.readable = float((lengths - 1)[long_enough].sum() / num_targets(stream, cross_documents))
        self._cached_epochs: dict[int, np.ndarray] = {}

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.__getitems__([n])[0]

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """A batch at once, int64 (B, context + 1)."""
        starts = [self.epoch_starts(n // self.windows_per_epoch)[n % self.windows_per_epoch] for n in indices]
        return gather_windows(self.stream, np.array(starts), self.context + 1)

    def epoch_starts(self, epoch: int) -> np.ndarray:
        """Where the windows of an epoch start, in the order in which they are read; int64 (windows_per_epoch,)."""
        if epoch not in self._cached_epochs:
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
            offsets = bits.random_raw(len(self._firsts)) % (self._slack + 1).astype(np.uint64)
            steps = np.arange(self.windows_per_epoch) - np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
            starts = np.repeat(self._firsts + offsets.astype(np.int64), self._counts) + steps * self.context
            order = np.argsort(bits.random_raw(self.windows_per_epoch), kind="stable")
            # A batch touches one epoch, or two at a boundary: keep no more.
            self._cached_epochs = {e: s for e, s in self._cached_epochs.items() if e == epoch - 1}
            self._cached_epochs[epoch] = starts[order]
        return self._cached_epochs[epoch]


class Read(NamedTuple):
    """What training at a context reads of a stream: so many documents; their tokens, and the share of all text that
    those are; the tokens of an epoch's windows, which leave out a part of each document (see `TrainingWindows`)."""

    context: int
    documents: int
    tokens: int
    share: float
    an_epoch: int


def read_at(
    stream: TokenStream, contexts: Sequence[int], cross_documents: bool = False, min_tokens: int | None = None
) -> list[Read]:
    """What training at each of these contexts reads: of a stream's documents a longer one reads some of those that a
    shorter one does, so that two read the same ones where they read as many.

    Raises ValueError, as TrainingWindows does, where one reads nothing.
    """
    found = []
    for context in contexts:
        windows = TrainingWindows(stream, context, 0, cross_documents, min_tokens)
        tokens = round(windows.readable * num_targets(stream, cross_documents))
        epoch = windows.windows_per_epoch * context
        found.append(Read(context, windows.num_documents, tokens, windows.readable, epoch))
    return found


def difference_of(found: Sequence[Read]) -> str | None:
    """A sentence on how what is read changes with the context, with the remedy; None where it is the same documents."""
    if len({each.documents for each in found}) < 2:
        return None
    shown = (f"{each.documents:,} documents ({100 * each.share:.3g} %) at {each.context}" for each in found)
    return (
        f"of the training text a longer context reads less: {', '.join(shown)} tokens; with data.min_tokens="
        f"{max(each.context for each in found)} all read the same documents, with data.cross_documents=true all text"
    )


def num_targets(stream: TokenStream, cross_documents: bool = False) -> int:
    """The tokens of a stream that can be predicted: all but the first of each stretch."""
    return len(stream) - (1 if cross_documents else stream.num_documents)


class EndlessSampler(Sampler[int]):
    """Counts start + rank, start + rank + world, ... without end.

    With a batch of B a rank, step t of all ranks together reads the B * world windows from start + t * B * world, so
    the global batch does not depend on how many ranks share it. To resume, start from the windows already read.
    Raises ValueError for a negative start or a rank outside 0..world - 1.
    """

    def __init__(self, start: int = 0, rank: int = 0, world: int = 1):
        if start < 0 or not 0 <= rank < world:
            raise ValueError(f"start={start}, rank={rank}, world={world}: start >= 0 and 0 <= rank < world are needed")
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[int]:
        n = self.start + self.rank
        while True:
            yield n
            n += self.world


def gather_windows(stream: TokenStream, starts: np.ndarray, width: int) -> torch.Tensor:
    """`tokens[start : start + width]` for each start: int64 (len(starts), width)."""
    index = np.asarray(starts, dtype=np.int64)[:, None] + np.arange(width)
    return torch.from_numpy(stream.tokens[index].astype(np.int64))
