"""The protocols: which tokens are scored, and with which context. Each is a set of windows over one held-out stream.

A protocol is a file of this folder, with a class `Protocol` derived from the one here; the folder is the registry, and
`eval.protocols` names those that a run is scored by. One forward pass serves every protocol that asks for the same
window (see eval/measure/scoring.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from conf.schema import EvaluationSettings, member
from data.stream import TokenStream
from data.windows import Windows, document_bounds
from eval.measure.targets import Targets, chosen, documents

Part = tuple[dict[str, Any], Targets, np.ndarray]  # the fields that tell a row from its neighbours, targets, losses


class Protocol:
    """What a protocol defines."""

    def windows(
        self, stream: TokenStream, length: int, lengths: Sequence[int], evaluation: EvaluationSettings
    ) -> Windows:
        """The windows at one context length (tokens), where `lengths` are all that will be compared."""
        raise NotImplementedError

    def scored_at(self, lengths: Sequence[int]) -> Sequence[int]:
        """Those of the lengths at which the protocol has rows."""
        return lengths

    def parts(self, targets: Targets, losses: np.ndarray, context: int) -> Iterator[Part]:
        """The rows that losses (targets,) come to: one. context: of the training, in tokens."""
        yield {}, targets, losses


def protocol(name: str) -> Protocol:
    """The protocol of a name, a module of this folder."""
    return member("eval/measure/protocols", name, "Protocol")()


def plan(
    name: str, stream: TokenStream, length: int, lengths: Sequence[int], evaluation: EvaluationSettings
) -> Windows:
    """The windows of a protocol at one context length (tokens), where `lengths` are all that will be compared.

    Raises ValueError where no document holds the longest of the lengths (it says which are possible).
    """
    check_lengths(stream, lengths, evaluation.cross_documents)
    return protocol(name).windows(stream, length, lengths, evaluation)


def check_lengths(stream: TokenStream, lengths: Sequence[int], cross_documents: bool) -> None:
    """Raises ValueError, naming the lengths that are possible, where no document holds the longest and its target."""
    bounds = document_bounds(stream, cross_documents)
    possible = int((bounds[:, 1] - bounds[:, 0]).max()) - 1
    if max(lengths) > possible:
        rest = "" if cross_documents else ", or set eval.cross_documents=true"
        raise ValueError(
            f"no held-out document is longer than {possible} tokens: of the context lengths {sorted(lengths)} only "
            f"{[n for n in sorted(lengths) if n <= possible]} are possible; lower eval.lengths{rest}"
        )


def capped(windows: Windows, stream: TokenStream, longest: int, evaluation: EvaluationSettings) -> Windows:
    """Those windows that lie in the first part of each document: whole multiples of the longest context,
    `eval.tokens` in all. Where even one such part a document is too much, every k-th document. A window that reaches
    beyond the part is cut, so that every context length scores the same tokens."""
    if (tokens := evaluation.tokens) is None:
        return windows
    bounds = document_bounds(stream, evaluation.cross_documents)
    document = documents(windows.starts, bounds)
    present = np.unique(document)
    part = max(1, tokens // len(present) // longest) * longest
    held = np.minimum(part, bounds[present, 1] - bounds[present, 0] - 1).sum()
    kept = np.isin(document, present[:: -(-held // max(tokens, longest))])
    stops = np.minimum(windows.stops, bounds[document, 0] + part)
    scored = windows.scored - (windows.stops - stops)
    return chosen(Windows(windows.starts, stops, scored), kept & (scored > 0))
