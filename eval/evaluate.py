"""Scores a trained model by every protocol, extension and context length: a row each, written when it is known."""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.stream import TokenStream
from data.windows import Windows, document_bounds
from eval.protocols import documents, plan
from eval.results import RunFolder, row_key
from eval.scoring import Scorer
from eval.statistics import perplexity_interval
from model.attention import record_executors
from model.extensions import build_extension, extension_config, extension_names
from model.transformer import Transformer

BLOCK_TOKENS = 1024  # windows that start in the same stretch of so many tokens are one block of the bootstrap
POSITION_BINS = 16  # a training context is cut into so many stretches by the protocol `positions`


def context_lengths(settings: Mapping[str, Any], context: int) -> list[int]:
    """The lengths to score, in tokens, ascending. Raises ValueError where a multiple is below 1/context."""
    lengths = sorted({round(multiple * context) for multiple in settings["lengths"]})
    if not lengths or lengths[0] < 2:
        raise ValueError(
            f"eval.lengths={list(settings['lengths'])}: multiples of the training context, at least 2 tokens"
        )
    return lengths


def check_settings(settings: Mapping[str, Any], stream: TokenStream, context: int) -> None:
    """Raises ValueError, before anything is trained, for settings that can't be scored on this stream."""
    lengths = context_lengths(settings, context)
    for protocol in settings["protocols"]:
        plan(protocol, stream, max(lengths), lengths, settings)
    extension_list(settings)


def extension_list(settings: Mapping[str, Any]) -> list[str]:
    """The names of the extensions to score; "all" stands for every one. Raises ValueError for an unknown one."""
    names = list(settings["extensions"])
    known = extension_names()
    if "all" in names:
        return known
    for name in names:
        if name not in known:
            raise ValueError(f"eval.extensions={name!r}: the known ones are {', '.join(known)}")
    return names


def evaluate(
    model: Transformer,
    stream: TokenStream,
    folder: RunFolder,
    settings: Mapping[str, Any],
    calibration: TokenStream | None = None,
    *,
    report=lambda rows: None,
) -> list[dict[str, Any]]:
    """Scores what folder's results lack, adds it there, and returns all rows asked for.

    calibration: the stream on which extensions that are tuned choose their settings (never the one scored).
    report: called with each length's new rows.
    """
    context = model.shape.context
    lengths = context_lengths(settings, context)
    scorer = Scorer(model, stream, settings["batch_tokens"], settings["precision"])
    wanted = []
    for name in extension_list(settings):
        config = {**extension_config(name), **(settings.get("extension_settings") or {}).get(name, {})}
        for length in lengths:
            known = {row_key(row): row for row in folder.results["rows"]}
            plans = {p: plan(p, stream, length, lengths, settings) for p in settings["protocols"]}
            if "positions" in plans and length != max(lengths):
                del plans["positions"]
            missing = {
                p: windows for p, windows in plans.items() if not _done(known, p, name, length, _targets_id(windows))
            }
            if missing:
                rows, losses = _score_length(scorer, calibration, config, name, length, missing, context, settings)
                folder.add(rows, losses)
                report(rows)
            wanted += [(p, name, length) for p in plans]
    return [
        row for row in folder.results["rows"] if (row["protocol"], row["extension"], row["context_length"]) in wanted
    ]


def _done(known: Mapping[str, dict], protocol: str, extension: str, length: int, targets_id: str) -> bool:
    prefix = f"{protocol}/{extension}/{length}"
    rows = [row for key, row in known.items() if key == prefix or key.startswith(prefix + "/")]
    return bool(rows) and all(row["targets_id"] == targets_id for row in rows)


def _targets_id(windows: Windows) -> str:
    """What tells one set of scored targets from another: runs are compared on the same targets only."""
    targets = np.concatenate([windows.stops, windows.scored]).astype("<i8")
    return f"{zlib.crc32(targets.tobytes()):08x}"


def _score_length(
    scorer: Scorer,
    calibration: TokenStream | None,
    config: Mapping[str, Any],
    name: str,
    length: int,
    plans: Mapping[str, Windows],
    context: int,
    settings: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of one extension and length, and the losses behind them."""
    base = {
        "extension": name,
        "context_length": length,
        "length_ratio": length / context,
        "precision": scorer.precision,
        "split": settings["split"],
    }
    begin = time.perf_counter()
    encoding = scorer.model.encoding
    extension = build_extension(config)
    reason = extension.fits(encoding)
    if reason is None:
        try:
            encoding.check_length(length) if name == "none" else None
            if extension.needs_tuning:
                assert calibration is not None
                extension = extension.tune(
                    _calibration_loss(scorer, calibration, length, settings), encoding, context, length
                )
            extended = extension.apply(encoding, context, length)
            extended.check_length(length)
        except ValueError as error:
            reason = str(error)
    if reason is not None:
        rows = [
            {"protocol": p, **base, "status": "undefined", "reason": reason, "targets_id": _targets_id(windows)}
            for p, windows in plans.items()
        ]
        return rows, {}
    with record_executors() as executors:
        losses = scorer.score(list(plans.values()), extended)
    base |= {
        "status": "ok",
        "executor": "+".join(sorted(executors)),
        "seconds": round(time.perf_counter() - begin, 3),
    }
    if note := extension.describe():
        base["settings"] = note
    rows, arrays = [], {}
    for (protocol, windows), values in zip(plans.items(), losses, strict=True):
        base["targets_id"] = _targets_id(windows)
        key = row_key({"protocol": protocol, **base})
        document = documents(windows.starts, document_bounds(scorer.stream, settings["cross_documents"]))
        arrays[key] = values.astype(np.float32)
        arrays[key + "/windows"] = np.stack([*windows, document], axis=1)
        if protocol == "positions":
            rows += _position_rows(values.reshape(len(windows.starts), -1), windows, scorer.stream, context, base)
        else:
            rows.append({"protocol": protocol, **base, **_figures(values, windows, scorer.stream)})
    return rows, arrays


def _calibration_loss(scorer: Scorer, calibration: TokenStream, length: int, settings: Mapping[str, Any]):
    """A function encoding -> mean loss (nats) of fixed targets at `length` on the calibration stream."""
    calibrator = Scorer(scorer.model, calibration, scorer.batch_tokens, scorer.precision)
    windows = plan(
        "fixed_targets", calibration, length, [length], {**settings, "windows": min(32, settings["windows"])}
    )
    return lambda encoding: float(calibrator.score([windows], encoding)[0].mean())


def _figures(values: np.ndarray, windows: Windows, stream: TokenStream) -> dict[str, Any]:
    """Nats a token, perplexity, bits a byte, their counts, and the interval over the windows of this one run."""
    per_window = np.add.reduceat(values, np.cumsum(windows.scored) - windows.scored)
    byte_count = scored_bytes(windows, stream)
    nats = float(values.sum() / len(values))
    interval = perplexity_interval(per_window[None], windows.scored, blocks_W=windows.stops // BLOCK_TOKENS)
    return {
        "nats": nats,
        "perplexity": interval.perplexity,
        "bits_per_byte": float(values.sum()) / math.log(2) / byte_count if byte_count else None,
        "tokens": len(values),
        "bytes": byte_count,
        "windows": len(windows.starts),
        **interval_fields(interval),
    }


def interval_fields(interval) -> dict[str, Any]:
    """How an interval stands in a row: its bounds and what it covers, or the reason why there is none."""
    if interval.low is None:
        return {"perplexity_low": None, "perplexity_high": None, "interval_reason": interval.reason}
    return {
        "perplexity_low": interval.perplexity_low,
        "perplexity_high": interval.perplexity_high,
        "interval_level": interval.level,
        "interval_covers": interval.covers,
    }


def scored_bytes(windows: Windows, stream: TokenStream) -> int:
    """UTF-8 bytes of the scored targets."""
    cumulative = np.concatenate([[0], np.cumsum(stream.token_bytes, dtype=np.int64)])
    return int((cumulative[windows.stops + 1] - cumulative[windows.stops + 1 - windows.scored]).sum())


def _position_rows(
    values_WN: np.ndarray, windows: Windows, stream: TokenStream, context: int, base: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row a stretch of positions: `position` is the number of tokens of context up to which it reaches."""
    length = values_WN.shape[1]
    edges = _position_edges(length, context)
    rows = []
    for low, high in itertools.pairwise(edges):
        part = Windows(windows.starts, windows.starts + high, np.full_like(windows.starts, high - low))
        figures = _figures(values_WN[:, low:high].ravel(), part, stream)
        rows.append({"protocol": "positions", **base, "position_from": low + 1, "position": high, **figures})
    return rows


def _position_edges(length: int, context: int) -> list[int]:
    """Bounds of the stretches: POSITION_BINS a training context, doubling beyond four training contexts."""
    step = max(1, context // POSITION_BINS)
    edges = list(range(0, min(length, 4 * context) + 1, step))
    while edges[-1] < length:
        edges.append(min(length, max(edges[-1] + step, round(edges[-1] * 1.1))))
    return edges
