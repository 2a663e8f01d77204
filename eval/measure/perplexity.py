"""Scores a trained model by every protocol, extension and context length: a row each, written when it is known.

Beside the model's rows stand those of floors: a unigram and a bigram of the training text, on the same targets.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.stream import TokenStream
from data.windows import Windows, document_bounds
from eval.measure.ngram import NGram
from eval.measure.probes import check_probes
from eval.measure.protocols import blocks, context_lengths, documents, plan, targets_of
from eval.measure.rows import row_key
from eval.measure.scoring import Scorer, check_pass
from eval.measure.statistics import perplexity_interval
from eval.record.folder import RunFolder
from model.attention import record_executors
from model.extensions import build_extension, extension_config, extension_names
from model.transformer import Transformer

POSITION_BINS = 16  # a training context is cut into so many stretches by the protocol `positions`
FLOORS = {"unigram": 1, "bigram": 2}  # the order of each n-gram
FLOOR_TOKENS = 1 << 24  # an n-gram is fitted on at most so many tokens from the start of the training split
CALIBRATION_WINDOWS = 32
CALIBRATION = {"test": "validation", "validation": "train"}  # the split that extensions are tuned on, by that scored


def check_settings(settings: Mapping[str, Any], stream: TokenStream, context: int) -> None:
    """Raises ValueError, before anything is trained, for settings that can't be scored on this stream."""
    lengths = context_lengths(settings, context)
    _plans(stream, max(lengths), lengths, settings)
    check_pass(settings["batch_tokens"], settings["precision"])
    extension_list(settings)
    for name, changed in settings["extension_settings"].items():
        settings_of_each([name], changed)
    for name in settings["controls"]:
        if name not in FLOORS:
            raise ValueError(f"eval.controls={name!r}: must be among {', '.join(FLOORS)}")
    check_probes(settings, stream, context)


def extension_list(settings: Mapping[str, Any]) -> list[str]:
    """The names of the extensions to score; "all" stands for every one. Raises ValueError for an unknown one."""
    names = list(dict.fromkeys(settings["extensions"]))
    known = extension_names()
    if "all" in names:
        return known
    for name in names:
        if name not in known:
            raise ValueError(f"eval.extensions={name!r}: the known ones are {', '.join(known)}")
    return names


def extension_as_set(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an extension with what eval.extension_settings changes in it."""
    return {**extension_config(name), **settings["extension_settings"].get(name, {})}


def streams_for(streams: Mapping[str, TokenStream], split: str) -> tuple[TokenStream, TokenStream, TokenStream]:
    """The stream that is scored, the one that extensions are tuned on, and the one that floors are fitted on."""
    return streams[split], streams[CALIBRATION[split]], streams["train"]


def settings_of_each(names: Sequence[str], changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The changed settings of each extension that has them. Raises ValueError for a setting that none of them has."""
    known = {name: extension_config(name) for name in names}
    for key in changes:
        if not any(key in config for config in known.values()):
            has = sorted({key for config in known.values() for key in config} - {"name", "_target_"})
            raise ValueError(
                f"extension.{key}={changes[key]}: no such setting of {', '.join(names)}; known are "
                f"{', '.join(has) or 'none'}"
            )
    found = {name: {key: changes[key] for key in changes if key in config} for name, config in known.items()}
    return {name: settings for name, settings in found.items() if settings}


def evaluate(
    model: Transformer,
    stream: TokenStream,
    folder: RunFolder,
    settings: Mapping[str, Any],
    calibration: TokenStream | None = None,
    floors: TokenStream | None = None,
    *,
    report=lambda rows: None,
) -> list[dict[str, Any]]:
    """Scores what folder's results lack, adds it there, and returns all rows asked for.

    calibration: the stream on which extensions that are tuned choose their settings (never the one scored).
    floors: the training stream, on which the n-grams of `controls` are fitted; None leaves them out.
    report: called with each length's new rows.
    """
    context = model.shape.context
    lengths = context_lengths(settings, context)
    scorer = Scorer(model, stream, settings["batch_tokens"], settings["precision"])
    bounds = document_bounds(stream, settings["cross_documents"])
    planned = {
        length: {
            protocol: Targets(windows, stream, bounds, max(lengths))
            for protocol, windows in _plans(stream, length, lengths, settings).items()
        }
        for length in lengths
    }
    check_targets(folder, planned, settings)
    wanted, stored = [], folder.losses.keys()  # before: nothing is asked for twice

    def missing(base: Mapping[str, Any]) -> dict[str, Targets]:
        """Those protocols of one length whose rows are not there yet, or were scored otherwise."""
        known, plans = folder.results["rows"], planned[base["context_length"]]
        identities = {p: {"protocol": p, **base, "targets_id": targets.id} for p, targets in plans.items()}
        wanted.extend(identities.values())
        return {
            p: plans[p]
            for p in plans
            if not any(_is(row, identities[p]) and (row["status"] != "ok" or row_key(row) in stored) for row in known)
        }

    def add(rows: list[dict[str, Any]], losses: Mapping[str, np.ndarray]) -> None:
        folder.add(rows, losses)
        report(rows)

    for name in extension_list(settings):
        config = extension_as_set(name, settings)
        own = ", ".join(f"{key}={value}" for key, value in config.items() if key not in ("name", "_target_"))
        for length in lengths:
            base = _base(name, length, context, settings) | {"precision": scorer.precision}
            if own:
                base["extension_settings"] = own
            if plans := missing(base):
                add(*_score_model(scorer, calibration, config, plans, base, settings))
    if floors is not None:
        ngrams = _Floors(floors, stream, model.embedding.num_embeddings)
        rows, losses = [], {}
        for control, length in itertools.product(settings["controls"], lengths):
            base = _base("none", length, context, settings) | {"precision": "64", "control": control}
            if plans := missing(base):
                new_rows, new_losses = _score_floor(ngrams, plans, base)
                rows, losses = rows + new_rows, losses | new_losses
        if rows:
            add(rows, losses)
    return [row for row in folder.results["rows"] if any(_is(row, identity) for identity in wanted)]


def check_targets(folder: RunFolder, planned: Mapping[int, Mapping[str, Targets]], settings: Mapping[str, Any]) -> None:
    """Raises ValueError where rows that are not scored now stand on other targets than those that are: they could not
    stay beside them."""
    asked, lost = extension_list(settings), set()
    for row in folder.results["rows"]:
        targets = planned.get(row["context_length"], {}).get(row["protocol"])
        if "control" not in row and row["split"] == settings["split"] and targets and row["targets_id"] != targets.id:
            lost |= {row["extension"]} - set(asked)
    if lost:
        raise ValueError(
            f"these settings choose other targets at every length, and {', '.join(sorted(lost))} would have no rows: "
            f"give extension={','.join([*sorted(lost), *asked])}"
        )


def _base(extension: str, length: int, context: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by which a row says what it is of."""
    return {
        "extension": extension,
        "context_length": length,
        "length_ratio": length / context,
        "split": settings["split"],
    }


def _is(row: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    optional = dict.fromkeys(("control", "extension_settings"))
    return all(row.get(key) == value for key, value in {**optional, **identity}.items())


def _plans(stream: TokenStream, length: int, lengths: Sequence[int], settings: Mapping[str, Any]) -> dict[str, Windows]:
    """The windows of each protocol at one length; those of `positions` stand at the longest alone."""
    return {
        protocol: plan(protocol, stream, length, lengths, settings)
        for protocol in settings["protocols"]
        if protocol != "positions" or length == max(lengths)
    }


class Targets:
    """The scored tokens of one protocol at one length, and how losses on them become figures.

    Separators, which stand among the targets where windows cross documents, are no text: they are left out.
    id: what tells one set of scored targets from another; figures are compared on the same targets only.
    """

    def __init__(self, windows: Windows, stream: TokenStream, bounds: np.ndarray, longest: int):
        self.windows, self.stream, self.bounds, self.longest = windows, stream, bounds, longest
        self.places = targets_of(windows)
        self.kept = stream.tokens[self.places] != stream.separator
        self.id = f"{zlib.crc32(np.concatenate([windows.stops, windows.scored]).astype('<i8').tobytes()):08x}"

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Start, stop, targets kept, document and block of each window that keeps any: int64 (W, 5)."""
        firsts = np.cumsum(self.windows.scored) - self.windows.scored
        counts = np.add.reduceat(self.kept.astype(np.int64), firsts)
        document = documents(self.windows.starts, self.bounds)
        table = np.stack([self.windows.starts, self.windows.stops, counts, document, self.blocks[0]], axis=1)
        return table[counts > 0]

    @functools.cached_property
    def blocks(self) -> tuple[np.ndarray, int]:
        return blocks(self.windows, self.bounds, self.longest)

    def stretch(self, low: int, high: int) -> Targets:
        """Of windows that are scored whole: the targets with more than `low` and up to `high` tokens of context."""
        starts = self.windows.starts
        part = Windows(starts, starts + high, np.full_like(starts, high - low))
        return Targets(part, self.stream, self.bounds, self.longest)

    def figures(self, losses: np.ndarray) -> dict[str, Any]:
        """Nats a token, perplexity, bits a byte, their counts, and the interval over the windows of this one run; or
        why there are none. losses: (targets,), nats, float64."""
        values = losses[self.kept]
        if wrong := int((~np.isfinite(values)).sum()):
            reason = f"{wrong} of {len(values)} token losses are not finite: the model breaks down at this length"
            return {"status": "diverged", "reason": reason}
        scored_W, block_W = self.table[:, 2], self.table[:, 4]
        per_window = np.add.reduceat(values, np.cumsum(scored_W) - scored_W)
        byte_count = int(self.stream.token_bytes[self.places].sum(dtype=np.int64))
        interval = perplexity_interval(per_window[None], scored_W, blocks_W=block_W)
        return {
            "status": "ok",
            "nats": float(values.sum() / len(values)),
            "perplexity": interval.perplexity,
            "bits_per_byte": float(values.sum()) / math.log(2) / byte_count if byte_count else None,
            "tokens": len(values),
            "bytes": byte_count,
            "windows": len(scored_W),
            "blocks": len(np.unique(block_W)),
            "block_tokens": self.blocks[1],
            **interval_fields(interval),
        }

    def stored(self, key: str, losses: np.ndarray) -> dict[str, np.ndarray]:
        """What losses.npz keeps under a row's key."""
        return {key: losses[self.kept].astype(np.float32), key + "/windows": self.table}


def interval_fields(interval) -> dict[str, Any]:
    """How an interval stands in a row: its bounds and what it covers, or the reason why there is none."""
    fields = {
        "perplexity_low": interval.perplexity_low,
        "perplexity_high": interval.perplexity_high,
        "interval_level": interval.level,
        "interval_covers": interval.covers,
    }
    return fields if interval.reason is None else fields | {"interval_reason": interval.reason}


def _score_model(
    scorer: Scorer,
    calibration: TokenStream | None,
    config: Mapping[str, Any],
    plans: Mapping[str, Targets],
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of one extension and length, and the losses behind them."""
    begin = time.perf_counter()
    context, length = scorer.model.shape.context, base["context_length"]
    try:
        extended, note = extended_encoding(scorer, calibration, config, length, settings)
    except ValueError as error:
        undefined = {"status": "undefined", "reason": str(error)}
        return [{"protocol": p, **base, **undefined, "targets_id": targets.id} for p, targets in plans.items()], {}
    with record_executors() as executors:
        losses = scorer.score([targets.windows for targets in plans.values()], extended)
    base = dict(base) | {
        "executor": "+".join(sorted(executors)),
        "seconds": round(time.perf_counter() - begin, 3),  # of all protocols at this length, which share passes
    }
    if note:
        base["settings"] = note
    return _rows_of(zip(plans.items(), losses, strict=True), base, context)


def extended_encoding(
    scorer: Scorer, calibration: TokenStream | None, config: Mapping[str, Any], length: int, settings: Mapping[str, Any]
):
    """The model's encoding under an extension at this length, and how the extension was set.

    Raises ValueError where the extension doesn't fit, or the encoding is not defined on so many tokens.
    """
    encoding, context = scorer.model.encoding, scorer.model.shape.context
    extension = build_extension(config)
    if reason := extension.fits(encoding):
        raise ValueError(reason)
    if extension.needs_tuning:
        assert calibration is not None
        calibrator = Scorer(scorer.model, calibration, scorer.batch_tokens, scorer.precision)
        few = {**settings, "windows": min(CALIBRATION_WINDOWS, settings["windows"])}
        windows = plan("fixed_targets", calibration, length, [length], few)
        loss = lambda tried: float(calibrator.score([windows], tried)[0].mean())  # noqa: E731
        extension = extension.tune(loss, encoding, context, length)
    extended = extension.apply(encoding, context, length)
    extended.check_length(length)
    return extended, extension.describe()


def _parts(protocol: str, targets: Targets, values: np.ndarray, context: int):
    """The rows that a protocol makes of its losses: (fields of the place, targets, losses) each.

    Those of `positions` are one a stretch: `position` is the number of tokens of context up to which it reaches.
    """
    if protocol != "positions":
        yield {}, targets, values
        return
    values_WN = values.reshape(len(targets.windows.starts), -1)
    for low, high in itertools.pairwise(_position_edges(values_WN.shape[1], context)):
        place = {"position_from": low + 1, "position": high}
        yield place, targets.stretch(low, high), values_WN[:, low:high].ravel()


def _position_edges(length: int, context: int) -> list[int]:
    """Bounds of the stretches: POSITION_BINS a training context, each a tenth longer beyond four training contexts."""
    step = max(1, context // POSITION_BINS)
    edges = list(range(0, min(length, 4 * context) + 1, step))
    while edges[-1] < length:
        edges.append(min(length, max(edges[-1] + step, round(edges[-1] * 1.1))))
    return edges


class _Floors:
    """The losses of n-grams on every token of the held-out stream; each is fitted when it is first asked for."""

    def __init__(self, training: TokenStream, stream: TokenStream, vocab_size: int):
        self.training, self.stream, self.vocab_size = training, stream, vocab_size
        self.losses: dict[str, np.ndarray] = {}

    def __getitem__(self, control: str) -> np.ndarray:
        if control not in self.losses:
            tokens, starts = self.training.tokens[:FLOOR_TOKENS], self.training.offsets[:-1]
            ngram = NGram.fit(tokens, self.vocab_size, FLOORS[control], document_starts=starts[starts < len(tokens)])
            self.losses[control] = ngram.token_losses(self.stream.tokens)
        return self.losses[control]


def _score_floor(
    ngrams: _Floors, plans: Mapping[str, Targets], base: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of one n-gram on the targets of one length (its own context is one token, whatever that length)."""
    begin = time.perf_counter()
    losses = [ngrams[base["control"]][targets.places] for targets in plans.values()]
    context = round(base["context_length"] / base["length_ratio"])
    base = dict(base) | {"executor": "ngram", "seconds": round(time.perf_counter() - begin, 3)}
    return _rows_of(zip(plans.items(), losses, strict=True), base, context)


def _rows_of(
    scored: Iterable[tuple[tuple[str, Targets], np.ndarray]], base: Mapping[str, Any], context: int
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of the losses of several protocols, and what is stored of them."""
    rows, arrays = [], {}
    for (protocol, targets), losses in scored:
        for place, part, values in _parts(protocol, targets, losses, context):
            row = {"protocol": protocol, **base, **place, "targets_id": targets.id, **part.figures(values)}
            rows.append(row)
            arrays |= part.stored(row_key(row), values)
    return rows, arrays
