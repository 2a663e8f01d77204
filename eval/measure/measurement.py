"""All that is measured of a trained model: perplexity and floors, probes, a task's exact match."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from conf.schema import EvaluationSettings
from data.module import WindowDataModule
from eval.measure.exact_match import score_task
from eval.measure.perplexity import Perplexity
from eval.measure.probes import run_probes
from eval.measure.protocols import check_lengths
from eval.measure.rows import Measured, Row
from eval.measure.streams import Streams
from model.transformer import Transformer


class Measurement:
    """An evaluation of models that were trained on this data with so many tokens of context.

    Raises ValueError, before anything is trained, for settings that can't be scored on the data.
    """

    def __init__(self, evaluation: EvaluationSettings, data: WindowDataModule, context: int):
        self.evaluation, self.data = evaluation, data
        self.streams = Streams.of(data.streams, evaluation.split)
        self.perplexity = Perplexity(evaluation, self.streams, context)
        if evaluation.probes:
            check_lengths(self.streams.scored, evaluation.context_lengths(context), evaluation.cross_documents)

    def of(self, model: Transformer, results: Mapping[str, Any], stored: Collection[str]) -> Iterator[Measured]:
        """Measures what is missing, a step at a time. results: those that there are, as results.json has them; stored:
        the keys of the rows that have their losses."""
        yield from self.perplexity.rows(model, results["rows"], stored)
        yield from run_probes(model, self.streams.scored, self.evaluation, results.get("probe_settings", {}))
        yield from score_task(model, self.data, self.evaluation, self.streams)

    def asked(self, rows: Iterable[Row]) -> list[Row]:
        """Those rows of perplexity that this evaluation asks for."""
        return self.perplexity.asked(rows)
