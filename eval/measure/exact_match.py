"""Scores a model on a task by exact match: at each length, the share of examples whose answer is right in every token.

The answers stand in the input and each token of them is predicted from the true ones before it. All are the most likely
token exactly where greedy decoding writes the same answer, so this is greedy exact match in one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from conf.schema import EvaluationSettings
from data.module import WindowDataModule
from eval.measure.extended import extended_encoding, extension_configs, extension_identity
from eval.measure.rows import Measured, Row
from eval.measure.scoring import Scorer
from eval.measure.streams import Streams
from model.encodings import PositionEncoding
from model.extensions import build_extension
from model.transformer import Transformer

LEVEL = 0.95
IDENTITY = ("extension", "length", "split", "precision", "extension_settings", "extension_source")


def score_task(
    model: Transformer, data: WindowDataModule, evaluation: EvaluationSettings, streams: Streams, known: Sequence[Row]
) -> Iterator[Measured]:
    """The rows of a task's exact match that are not known, an extension and length each; of a corpus that is no task,
    nothing.

    Lengths are eval.lengths times the longest trained length, at least 1. Tested are the split's examples of that
    length, the same for every run.
    """
    if data.task is None:
        return
    scorer = Scorer(model, streams.scored, evaluation.batch_tokens, evaluation.precision)
    lengths = sorted({max(1, round(multiple * data.longest)) for multiple in evaluation.lengths})
    there = {_identity(row) for row in known}
    for config in extension_configs(evaluation):
        for length in lengths:
            row = {"protocol": "exact_match", "task": data.name, "extension": config["name"], "length": length}
            row |= {"split": evaluation.split, "precision": scorer.precision, **extension_identity(config)}
            if _identity(row) not in there:
                yield Measured(tasks=[row | _row(scorer, data, config, length, evaluation, streams)])


def _identity(row: Row) -> tuple:
    """What must be the same for a row to answer the same question; examples and model are those of the run."""
    return tuple(row.get(name) for name in IDENTITY)


def _row(
    scorer: Scorer,
    data: WindowDataModule,
    config: Mapping[str, Any],
    length: int,
    evaluation: EvaluationSettings,
    streams: Streams,
) -> dict[str, Any]:
    context = len(data.task.scored(length)) - 1
    place = {
        "length_ratio": length / data.longest,
        "context_length": context,
    }
    try:
        if length > data.longest and build_extension(config).needs_tuning:
            raise ValueError(f"{config['name']} can't be tuned on a task beyond its longest trained length")
        examples = data.examples(evaluation.split, length)
        encoding, note = extended_encoding(scorer, streams.calibration, config, context, evaluation)
    except ValueError as error:
        return place | {"status": "undefined", "reason": str(error)}
    right = answers_right(scorer, examples, data.task.scored(length), encoding)
    whole = right.all(axis=1)
    low, high = wilson(int(whole.sum()), len(whole))
    return place | {
        "status": "ok",
        "settings": note,
        "exact_match": float(whole.mean()),
        "low": low,
        "high": high,
        "level": LEVEL,
        "examples": len(whole),
        "token_accuracy": float(right.mean()),
        "tokens": right.size,
    }


@torch.no_grad()
def answers_right(
    scorer: Scorer, examples_NT: np.ndarray, scored_T: np.ndarray, encoding: PositionEncoding | None = None
) -> np.ndarray:
    """Whether each answer token is the model's most likely one: bool (N, answer tokens)."""
    weight = scorer.model.embedding.weight
    tokens, scored = torch.from_numpy(examples_NT).to(weight.device), torch.from_numpy(scored_T).to(weight.device)
    batches = tokens.split(max(1, scorer.batch_tokens // len(scored_T)))
    right = []
    for batch in batches:
        with torch.autocast(weight.device.type, torch.bfloat16, enabled=scorer.precision == "bf16"):
            hidden = scorer.model.hidden(batch[:, :-1], encoding=encoding)[:, scored[1:]]
        best = F.linear(hidden.to(weight.dtype), weight).argmax(dim=-1)
        right.append(best == batch[:, scored])
    return torch.cat(right).cpu().numpy()


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share: inside [0, 1], and of some width at 0 and 1 too.

    >>> [round(bound, 3) for bound in wilson(0, 10)]
    [0.0, 0.278]
    """
    low, high = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(low), float(high)
