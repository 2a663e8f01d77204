"""All that is measured of a trained model: perplexity and floors, retrieval, probes, a task's exact match."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from conf.schema import EvaluationSettings
from conf.source import source_hash
from conf.typed import digest
from data.module import WindowDataModule
from eval.measure.exact_match import score_task
from eval.measure.extended import check_extensions, extension_configs
from eval.measure.perplexity import Perplexity
from eval.measure.probes import run_probes
from eval.measure.protocols import check_lengths
from eval.measure.retrieval import Retrieval
from eval.measure.rows import Measured, Row
from eval.measure.streams import Streams
from model.transformer import Transformer


def fingerprint(evaluation: EvaluationSettings) -> str:
    """All that an evaluation asks for, as a SHA-256, hexadecimal: its settings, and the settings and the source of its
    extensions, protocols and probes."""
    extensions = extension_configs(evaluation)
    modules = [f"eval.measure.protocols.{name}" for name in evaluation.protocols]
    modules += [f"eval.measure.probes.{name}" for name in evaluation.probes]
    modules += ["eval.measure.retrieval"] * bool(evaluation.retrieval)
    asked = asdict(evaluation), extensions, source_hash(*extensions, *modules)
    return digest(asked)


class Measurement:
    """An evaluation of models that were trained on this data. context: the tokens that its lengths are multiples of,
    `Settings.first_context` of their runs.

    Raises ValueError, before anything is trained, for settings that can't be scored on the data.
    """

    def __init__(self, evaluation: EvaluationSettings, data: WindowDataModule, context: int):
        self.evaluation, self.data = evaluation, data
        self.streams = Streams.of(data.streams, evaluation.split)
        self.perplexity = Perplexity(evaluation, self.streams, context)
        asks = bool(evaluation.retrieval and data.tokenizer)
        if evaluation.probes or asks:
            check_lengths(self.streams.scored, evaluation.context_lengths(context), evaluation.cross_documents)
        self.retrieval = Retrieval(evaluation, self.streams, data.tokenizer, context, self.key) if asks else None

    def check(self, model: Transformer) -> None:
        """Raises ValueError for a setting of an extension that doesn't suit the model, trained or not."""
        check_extensions(self.evaluation, model, max(self.perplexity.lengths))

    def of(self, model: Transformer, results: Mapping[str, Any], stored: Collection[str]) -> Iterator[Measured]:
        """Measures what is missing, a step at a time. results: those that there are, as results.json has them; stored:
        the keys of the rows that have their losses."""
        yield from self.perplexity.rows(model, results["rows"], stored)
        if self.retrieval:
            yield from self.retrieval.rows(model, results.get("retrieval", []), stored)
        yield from run_probes(model, self.streams.scored, self.evaluation, results.get("probe_settings", {}))
        yield from score_task(
            model, self.data, self.evaluation, self.streams, self.key, results.get("tasks", []), stored
        )

    @property
    def key(self) -> str:
        """Of the evaluation that its rows are of."""
        return self.perplexity.key

    def asked(self, results: Mapping[str, Any]) -> dict[str, list[Row]]:
        """Those rows of perplexity and of retrieval that this evaluation asks for."""
        retrieval = self.retrieval.asked(results.get("retrieval", [])) if self.retrieval else []
        return {"rows": self.perplexity.asked(results["rows"]), "retrieval": retrieval}
