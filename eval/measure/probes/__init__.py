"""What perplexity doesn't show of a trained model, from held-out text: results["probes"][name], a list of flat rows.

A probe is a file of this folder with a function `probe(probed) -> rows`; the folder is the registry, and `eval.probes`
names those that run. A row at a length on which the encoding isn't defined, or of an encoding that the probe can't look
into, has the status "undefined" and says why. Memory is linear in the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from conf.progress import Progress
from conf.schema import EvaluationSettings, member
from conf.source import source_hash
from data.stream import TokenStream
from data.windows import Windows, document_bounds, fixed_target_windows
from eval.measure.rows import Measured
from eval.measure.targets import blocks
from model.transformer import Transformer

DIVERGED = {"status": "diverged", "reason": "the model's numbers are not finite at this length"}
SETTINGS = ("split", "precision", "cross_documents", "lengths", "targets", "probe")  # what a probe's rows depend on


def run_probes(
    model: Transformer, stream: TokenStream, evaluation: EvaluationSettings, known: Mapping[str, Mapping[str, Any]]
) -> Iterator[Measured]:
    """Runs the probes that are not known with these settings. known: the settings of each that was run, by its name."""
    values, missing = asdict(evaluation), {}
    for name in evaluation.probes:
        source = source_hash(f"eval.measure.probes.{name}")
        asked = {key: values[key] for key in SETTINGS} | {"source": source}
        if known.get(name) != asked:
            missing[name] = asked
    with Progress("probe", [1] * len(missing)) as progress:
        for name, asked in missing.items():
            progress.step(name)
            probe = member("eval/measure/probes", name, "probe")
            found = probe(Probed(model, stream, evaluation, progress.share))
            yield Measured(probes={name: found}, probe_settings={name: asked})


def probe_windows(stream: TokenStream, evaluation: EvaluationSettings, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the windows end that `eval.probe` asks for, the same at every length, and each one's block for the
    statistics: int64 (W,) both. context: tokens that lengths are multiples of."""
    cross, longest = evaluation.cross_documents, max(evaluation.context_lengths(context))
    lengths = evaluation.probe_lengths(context)
    targets = min(evaluation.targets, lengths[0])
    ends = fixed_target_windows(stream, [*lengths, longest], targets, evaluation.probe.windows, cross)
    windows = Windows(ends - longest, ends, np.full_like(ends, targets))
    return ends, blocks(windows, document_bounds(stream, cross), longest)[0]


class Probed:
    """The model, the held-out text and the evaluation's settings that every probe is given.

    ends: where its windows end in the stream, the same at every length; block: each one's block for the statistics.
    report: called with the share of the lengths that is done.
    """

    def __init__(
        self,
        model: Transformer,
        stream: TokenStream,
        evaluation: EvaluationSettings,
        report: Callable[[float], None] = lambda share: None,
    ):
        self.model, self.stream, self.evaluation, self.report = model.eval(), stream, evaluation, report
        self.context = model.shape.context
        self.lengths = evaluation.probe_lengths(self.context)
        self.ends, self.block = probe_windows(stream, evaluation, self.context)

    def at_each(self, lengths: Sequence[int], rows) -> list[dict[str, Any]]:
        """rows(length) at each length where the encoding is defined, with the fields that say which length it is."""
        found = []
        for length in lengths:
            base = {"context_length": length, "length_ratio": length / self.context}
            try:
                self.model.encoding.check_length(length)
            except ValueError as error:
                found.append({**base, "status": "undefined", "reason": str(error)})
                continue
            found += [{**base, "status": "ok", **row} for row in rows(length)]
            self.report(sum(each <= length for each in lengths) / len(lengths))
        return found
