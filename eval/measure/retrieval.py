"""Retrieval on text: is what stands far back in a window found again? A needle in a haystack, for a model that was
trained on nothing but text.

The needle stands in a window of held-out text at a depth, and is asked for at the window's end, where it stands once
more. Depth 0 is the window's beginning, 1 right before its end: the share of the places that there are for it. Its gain
is by how much lower the loss of the end is than in the same window without the needle, nats a token: paired, since
nothing else differs. An answer matches exactly where each of its tokens is the model's most likely one. What is asked,
and of which windows, is the same at every depth, context length and extension, and for every run.

- `span`: the end of the window as it is, some words of text. All but its first token is scored, at which nothing says
  yet that the needle has begun again.
- `pair`: a key and a value, random words of the vocabulary. At the end the key is given again, and the value is scored:
  no model can guess it, so that the gain is no matter of how well a model predicts text.

The haystack and its depths are Kamradt's (2023, https://github.com/gkamradt/LLMTest_NeedleInAHaystack); the gain in
nats instead of a judged answer is what a model of a few million parameters can be asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from conf.progress import Progress
from conf.schema import NEEDLES, EvaluationSettings
from conf.typed import digest
from data.stream import TokenStream
from data.task import shuffled
from data.tokenizer import TextTokenizer
from data.windows import gather_windows
from eval.measure.extended import extended_encoding, extension_configs, extension_identity
from eval.measure.probes import probe_windows
from eval.measure.rows import Measured, Row, answered, identity, place_of, row_key
from eval.measure.scoring import Scorer
from eval.measure.streams import Streams
from eval.measure.units import retrieved
from model.encodings import PositionEncoding
from model.transformer import Transformer

KEY, VALUE = 2, 2  # words of a pair
WORD, FEWEST = 3, 64  # letters of a word at least; words that a vocabulary must have, else any of its tokens is one
SEED = 0  # of the pairs
IDENTITY = ("evaluation", "needle", "extension", "context_length", "depth", "distance", "split", "precision")
IDENTITY += ("targets_id", "extension_settings", "extension_source")


@dataclass(frozen=True)
class Needle:
    """What is asked for: tokens_Wn end each window, and stand in it a first time; the last `scored` of them count."""

    tokens_Wn: np.ndarray
    scored: int


def span(haystack: Haystack) -> Needle:
    """The text that ends each window."""
    tokens_Wn = gather_windows(haystack.stream, haystack.ends + 1 - haystack.span, haystack.span).numpy()
    return Needle(tokens_Wn, haystack.span - 1)


def pair(haystack: Haystack) -> Needle:
    """Words of the vocabulary, in each window others: a key and a value."""
    words, bits = words_of(haystack.tokenizer, haystack.stream), np.random.PCG64(np.random.SeedSequence(SEED))
    tokens_Wn = np.stack([words[shuffled(bits, len(words))[: KEY + VALUE]] for _ in haystack.ends])
    return Needle(tokens_Wn, VALUE)


MAKERS = dict(zip(NEEDLES, (span, pair), strict=True))


@dataclass(frozen=True)
class Haystack:
    """The windows of a held-out stream that end at `ends` (W,), whatever their length; `block` (W,) of
    the statistics; span: tokens of the needle of that name."""

    stream: TokenStream
    tokenizer: TextTokenizer
    ends: np.ndarray
    block: np.ndarray
    span: int


def words_of(tokenizer: TextTokenizer, stream: TokenStream) -> np.ndarray:
    """The tokens of a text that are whole words, a space before their letters, int64, ascending; where there are too
    few, as in a vocabulary of bytes, all but the separator."""
    tokens = np.unique(stream.tokens).astype(np.int64)
    tokens = tokens[tokens != stream.separator]
    texts = [tokenizer.decode([token]) for token in tokens]
    words = tokens[[text[:1] == " " and len(text) > WORD and text[1:].isalpha() for text in texts]]
    return words if len(words) >= FEWEST else tokens


class Retrieval:
    """The grid that an evaluation asks for: needles, extensions, context lengths, depths.

    context: as of `eval.measure.measurement.Measurement`; key: that of the evaluation. Raises ValueError, before
    anything is trained, for settings that can't be.
    """

    def __init__(
        self, evaluation: EvaluationSettings, streams: Streams, tokenizer: TextTokenizer, context: int, key: str
    ):
        self.evaluation, self.streams, self.context, self.key = evaluation, streams, context, key
        self.lengths, self.extensions = evaluation.probe_lengths(context), extension_configs(evaluation)
        ends, block = probe_windows(streams.scored, evaluation, context)
        self.haystack = Haystack(streams.scored, tokenizer, ends, block, evaluation.span(context))
        self.needles = {name: MAKERS[name](self.haystack) for name in evaluation.retrieval}
        for name, needle in self.needles.items():
            longest, shortest = needle.tokens_Wn.shape[1], min(self.lengths)
            if 2 * longest > shortest + 1:
                raise ValueError(
                    f"eval.retrieval={name}: its {longest} tokens don't fit twice into a context of {shortest}: "
                    "leave short eval.lengths out, or set 'eval.retrieval=[]'"
                )
        asked = {name: [ends.tolist(), each.tokens_Wn.tolist(), each.scored] for name, each in self.needles.items()}
        self.ids = {name: digest(each)[:8] for name, each in asked.items()}

    def rows(self, model: Transformer, known: Sequence[Row], stored: Collection[str]) -> Iterator[Measured]:
        """Measures what is missing, all depths of a needle under an extension at a length at a time.

        known: the rows that there are; stored: the keys of those that have their losses.
        """
        there = answered(known, stored, IDENTITY)
        steps = [
            (config, length, missing)
            for config, length in itertools.product(self.extensions, self.lengths)
            if (missing := [place for place in self._places(config, length) if identity(place, IDENTITY) not in there])
        ]
        scorer = Scorer(model, self.streams.scored, self.evaluation.batch_tokens, self.evaluation.precision)
        with Progress("retrieval", [length * len(missing) for _, length, missing in steps]) as progress:
            for config, length, missing in steps:
                progress.step(place_of(config["name"], length))
                yield from self._measured(scorer, config, length, missing)

    def asked(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the rows that this evaluation asks for."""
        places = itertools.chain(*itertools.starmap(self._places, itertools.product(self.extensions, self.lengths)))
        identities = {identity(place, IDENTITY) for place in places}
        return [row for row in rows if identity(row, IDENTITY) in identities]

    def _places(self, config: Mapping[str, Any], length: int) -> Iterator[dict[str, Any]]:
        """The fields by which rows say what they are of, of all needles and depths."""
        own = extension_identity(config)
        for (name, needle), depth in itertools.product(self.needles.items(), self.evaluation.depths):
            size = needle.tokens_Wn.shape[1]
            yield {
                "evaluation": self.key,
                "protocol": "retrieval",
                "needle": name,
                "extension": config["name"],
                "context_length": length,
                "length_ratio": length / self.context,
                "depth": depth,
                "distance": length + 1 - size - _start(length, size, depth),
                "split": self.evaluation.split,
                "precision": self.evaluation.precision,
                "targets_id": self.ids[name],
                **own,
            }

    def _measured(
        self, scorer: Scorer, config: Mapping[str, Any], length: int, places: Sequence[Row]
    ) -> Iterator[Measured]:
        """The rows of some places under one extension at one length, a needle at a time."""
        try:
            encoding, note = extended_encoding(scorer, self.streams.calibration, config, length, self.evaluation)
        except ValueError as error:
            undefined = {"status": "undefined", "reason": str(error)}
            yield Measured(retrieval=[place | undefined for place in places])
            return
        how = {"settings": note} if note else {}
        for name in dict.fromkeys(place["needle"] for place in places):
            own = [place | how for place in places if place["needle"] == name]
            yield self._measure(scorer, encoding, self.needles[name], own)

    def _measure(self, scorer: Scorer, encoding: PositionEncoding, needle: Needle, places: Sequence[Row]) -> Measured:
        """The rows of a needle at one length and some depths."""
        length = places[0]["context_length"]
        count, size = needle.tokens_Wn.shape
        plain_WT = gather_windows(self.haystack.stream, self.haystack.ends - length, length + 1).numpy()
        plain_WT[:, -size:] = needle.tokens_Wn
        asked = [plain_WT]
        for place in places:
            start = _start(length, size, place["depth"])
            asked.append(plain_WT.copy())
            asked[-1][:, start : start + size] = needle.tokens_Wn
        scored_T = np.arange(length + 1) > length - needle.scored
        losses, right = scorer.answers(np.concatenate(asked), scored_T, encoding)
        without_W, *found = losses.sum(axis=1).reshape(-1, count)
        blind_W, *exact = right.all(axis=1).reshape(-1, count)
        rows, arrays = [], {}
        for place, found_W, exact_W in zip(places, found, exact, strict=True):
            if not np.isfinite([without_W, found_W]).all():
                reason = "the model's losses are not finite at this length"
                rows.append({**place, "status": "diverged", "reason": reason})
                continue
            tokens_W = np.full(count, needle.scored)
            units = np.stack([self.haystack.block, tokens_W, without_W, found_W, exact_W], axis=1)
            arrays[row_key(place)] = units
            rows.append({**place, "status": "ok", **retrieved(units), "exact_without": float(blind_W.mean())})
        return Measured(retrieval=rows, losses=arrays)


def _start(length: int, size: int, depth: float) -> int:
    """Where a needle of so many tokens begins in a window of length + 1; depth 1 is right before its end."""
    return round(depth * (length + 1 - 2 * size))
