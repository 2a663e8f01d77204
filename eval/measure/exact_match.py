"""Scores a model on a task by exact match: at each length, the share of examples whose answer is right in every token.

The answers stand in the input and each token of them is predicted from the true ones before it. All are the most likely
token exactly where greedy decoding writes the same answer, so this is greedy exact match in one forward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from conf.progress import Progress
from conf.schema import EvaluationSettings
from data.module import WindowDataModule
from eval.measure.extended import extended_encoding, extension_configs, extension_identity
from eval.measure.rows import Measured, Row, answered, identity, place_of, row_key
from eval.measure.scoring import Scorer
from eval.measure.streams import Streams
from eval.measure.units import figures_of
from model.extensions import build_extension
from model.transformer import Transformer

IDENTITY = ("extension", "length", "split", "precision", "extension_settings", "extension_source")


def score_task(
    model: Transformer,
    data: WindowDataModule,
    evaluation: EvaluationSettings,
    streams: Streams,
    key: str,
    known: Sequence[Row],
    stored: Collection[str],
) -> Iterator[Measured]:
    """The rows of a task's exact match that are not known, an extension and length each; of a corpus that is no task,
    nothing. key: of the evaluation; stored: the keys of the rows whose examples are kept.

    Lengths are eval.lengths times the longest trained length, at least 1. Tested are the split's examples of that
    length, the same for every run.
    """
    if data.task is None:
        return
    lengths = sorted({max(1, round(multiple * data.longest)) for multiple in evaluation.lengths})
    there, steps = answered(known, stored, IDENTITY), []
    for config in extension_configs(evaluation):
        for length in lengths:
            row = {"protocol": "exact_match", "task": data.task_name, "extension": config["name"], "length": length}
            row |= {"split": evaluation.split, "precision": evaluation.precision, **extension_identity(config)}
            row |= {"evaluation": key}
            if identity(row, IDENTITY) not in there:
                steps.append((config, row))
    with Progress(f"asking {data.task_name}", [row["length"] for _, row in steps]) as progress:
        scorer = Scorer(model, streams.scored, evaluation.batch_tokens, evaluation.precision, progress.share)
        for config, row in steps:
            progress.step(place_of(config["name"], row["length"]))
            yield _measure(scorer, data, config, row, evaluation, streams)


def _measure(
    scorer: Scorer,
    data: WindowDataModule,
    config: Mapping[str, Any],
    row: Row,
    evaluation: EvaluationSettings,
    streams: Streams,
) -> Measured:
    """The row of one extension and length. row: the fields by which it says what it is of."""
    length = row["length"]
    scored_T = data.task.scored(length)
    context = len(scored_T) - 1
    place = {**row, "length_ratio": length / data.longest, "context_length": context}
    try:
        if length > data.longest and build_extension(config).needs_tuning:
            raise ValueError(f"{config['name']} can't be tuned on a task beyond its longest trained length")
        examples = data.examples(evaluation.split, length)
        encoding, note = extended_encoding(scorer, streams.calibration, config, context, evaluation)
    except ValueError as error:
        return Measured(tasks=[place | {"status": "undefined", "reason": str(error)}])
    _, right = scorer.answers(examples, scored_T, encoding)
    units = np.stack([right.sum(axis=1), np.full(len(right), right.shape[1])], axis=1)
    found = place | {"status": "ok", "settings": note, **figures_of(place, units)}
    return Measured(tasks=[found], losses={row_key(found): units})
