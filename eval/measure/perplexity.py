"""The rows of a trained model by protocol, extension and context length, and beside them those of floors: a unigram and
a bigram of the training text, on the same targets."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from conf.progress import Progress
from conf.schema import CONTROLS, EvaluationSettings
from data.windows import document_bounds
from eval.measure.extended import extended_encoding, extension_configs, extension_identity
from eval.measure.ngram import NGram
from eval.measure.protocols import plan, protocol
from eval.measure.rows import PLACE, Measured, Row, answered, identity, place_of, row_key
from eval.measure.scoring import Scorer
from eval.measure.streams import Streams
from eval.measure.targets import Targets
from model.attention import record_executors
from model.transformer import Transformer

IDENTITY = ("evaluation", *PLACE, "control", "split", "precision", "targets_id")
IDENTITY += ("extension_settings", "extension_source")
FLOOR_TOKENS = 1 << 24  # an n-gram is fitted on at most so many tokens from the start of the training split


class Perplexity:
    """What an evaluation asks for of models that were trained on so many tokens of context.

    Raises ValueError, before anything is trained, for settings that can't be scored on these streams.
    """

    def __init__(self, evaluation: EvaluationSettings, streams: Streams, context: int):
        self.evaluation, self.streams, self.context = evaluation, streams, context
        self.lengths, self.key = evaluation.context_lengths(context), evaluation.targets_key(context)
        self.extensions = extension_configs(evaluation)
        bounds = document_bounds(streams.scored, evaluation.cross_documents)
        self.targets: dict[int, dict[str, Targets]] = {length: {} for length in self.lengths}
        for name in evaluation.protocols:
            for length in protocol(name).scored_at(self.lengths):
                windows = plan(name, streams.scored, length, self.lengths, evaluation)
                self.targets[length][name] = Targets(windows, streams.scored, bounds, max(self.lengths))

    def rows(self, model: Transformer, known: Sequence[Row], stored: Collection[str]) -> Iterator[Measured]:
        """Scores what is missing, an extension at a length at a time, then the floors.

        known: the rows that there are; stored: the keys of those that have their losses.
        """
        there = answered(known, stored, IDENTITY)
        good = {row_key(row) for row in known if row["status"] == "ok"}

        def missing(base: Row) -> dict[str, Targets]:
            """The protocols of one length whose rows are not there yet, or were scored otherwise."""
            asked = {identity(row, IDENTITY): row["protocol"] for row in self._places(base)}
            return {name: self.targets[base["context_length"]][name] for key, name in asked.items() if key not in there}

        asked = [(config, base) for config in self.extensions for base in self._bases(config)]
        steps = [(config, base, targets) for config, base in asked if (targets := missing(base))]
        with Progress("scoring", [_tokens(targets) for _, _, targets in steps]) as progress:
            evaluation = self.evaluation
            scorer = Scorer(model, self.streams.scored, evaluation.batch_tokens, evaluation.precision, progress.share)
            for config, base, targets in steps:
                progress.step(place_of(config["name"], base["context_length"]))
                found = self._score(scorer, config, targets, base)
                _keep_good(good, found.rows)
                yield found
        floors, found = _Floors(self.streams, model.embedding.num_embeddings), []
        with Progress("scoring") as progress:
            for base in self._floor_bases():
                if targets := missing(base):
                    progress.step(f"the {base['control']} floor at {base['context_length']}")
                    found.append(self._score_floor(floors, targets, base))
        if found:
            yield Measured(
                rows=[row for each in found for row in each.rows],
                losses={key: values for each in found for key, values in each.losses.items()},
            )

    def asked(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that this evaluation asks for."""
        bases = [base for config in self.extensions for base in self._bases(config)] + list(self._floor_bases())
        identities = {identity(row, IDENTITY) for base in bases for row in self._places(base)}
        return [row for row in rows if identity(row, IDENTITY) in identities]

    def _bases(self, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The fields by which the rows of an extension say what they are of, by length."""
        own = extension_identity(config)
        for length in self.lengths:
            yield self._base(config["name"], length, self.evaluation.precision) | own

    def _floor_bases(self) -> Iterator[dict[str, Any]]:
        for control in self.evaluation.controls:
            for length in self.lengths:
                yield self._base("none", length, "64") | {"control": control}

    def _base(self, extension: str, length: int, precision: str) -> dict[str, Any]:
        return {
            "evaluation": self.key,
            "extension": extension,
            "context_length": length,
            "length_ratio": length / self.context,
            "split": self.evaluation.split,
            "precision": precision,
        }

    def _places(self, base: Row) -> Iterator[dict[str, Any]]:
        """The fields by which the rows of each protocol say what they are of."""
        for name, targets in self.targets[base["context_length"]].items():
            yield {"protocol": name, **base, "targets_id": targets.id}

    def _score(self, scorer: Scorer, config: Mapping[str, Any], targets: Mapping[str, Targets], base: Row) -> Measured:
        """The rows of one extension and length."""
        begin = time.perf_counter()
        try:
            length = base["context_length"]
            extended, note = extended_encoding(scorer, self.streams.calibration, config, length, self.evaluation)
        except ValueError as error:
            undefined = {"status": "undefined", "reason": str(error)}
            return Measured(rows=[row | undefined for row in self._places(base) if row["protocol"] in targets])
        with record_executors() as executors:
            losses = scorer.score([each.windows for each in targets.values()], extended)
        seconds = round(time.perf_counter() - begin, 3)  # of all protocols at this length, which share passes
        how = {"executor": "+".join(sorted(executors)), "seconds": seconds} | ({"settings": note} if note else {})
        return self._measured(targets, losses, base | how)

    def _score_floor(self, floors: _Floors, targets: Mapping[str, Targets], base: Row) -> Measured:
        """The rows of one n-gram on the targets of one length (its own context is one token, whatever that length)."""
        begin = time.perf_counter()
        losses = [floors[base["control"]][each.places] for each in targets.values()]
        how = {"executor": "ngram", "seconds": round(time.perf_counter() - begin, 3)}
        return self._measured(targets, losses, base | how)

    def _measured(self, targets: Mapping[str, Targets], losses: Sequence[np.ndarray], base: Row) -> Measured:
        """The rows that the losses of several protocols come to."""
        rows, arrays = [], {}
        for (name, each), values in zip(targets.items(), losses, strict=True):
            for place, part, of_part in protocol(name).parts(each, values, self.context):
                row = {"protocol": name, **base, **place, "targets_id": each.id, **part.figures(of_part)}
                rows.append(row)
                arrays |= part.stored(row_key(row), of_part)
        return Measured(rows=rows, losses=arrays)


def _tokens(targets: Mapping[str, Targets]) -> int:
    """What it takes to score them, in tokens that are read."""
    return sum(int((each.windows.stops - each.windows.starts).sum()) for each in targets.values())


def _keep_good(good: Collection[str], rows: Iterable[Row]) -> None:
    """Raises ValueError where a row without a figure would take the place of one that has it; good: their keys."""
    for row in rows:
        if row["status"] == "undefined" and row_key(row) in good:
            settings = f" with {row['extension_settings']}" if "extension_settings" in row else ""
            raise ValueError(
                f"extension={row['extension']}{settings} gives no figure at {row['context_length']} tokens "
                f"({row['reason']}): the row that is there is kept; choose other settings"
            )


class _Floors:
    """The losses of n-grams on every token of the scored stream; each is fitted when it is first asked for."""

    def __init__(self, streams: Streams, vocab_size: int):
        self.training, self.scored, self.vocab_size = streams.training, streams.scored, vocab_size
        self.losses: dict[str, np.ndarray] = {}

    def __getitem__(self, control: str) -> np.ndarray:
        if control not in self.losses:
            tokens, starts = self.training.tokens[:FLOOR_TOKENS], self.training.offsets[:-1]
            order = 1 + CONTROLS.index(control)
            ngram = NGram.fit(tokens, self.vocab_size, order, document_starts=starts[starts < len(tokens)])
            self.losses[control] = ngram.token_losses(self.scored.tokens)
        return self.losses[control]
