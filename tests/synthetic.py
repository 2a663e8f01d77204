"""Sweeps made of files alone, for tests of what reads them: run folders with made-up losses, nothing trained.

An encoding is given as its mean loss (nats a token) by context length; seeds and held-out windows add noise of their
own, the same windows for all encodings, so that differences are paired as in a real sweep.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conf.typed import digest, plain
from eval.measure.rows import Measured, row_key
from eval.measure.statistics import perplexity_interval
from eval.measure.units import answered, retrieved
from eval.record.files import write_json, write_table
from eval.record.folder import RunFolder
from eval.record.identity import run_id, settings_of

CONTEXT = 32
LENGTHS = (32, 64, 128, 256)
WINDOWS, TARGETS = 24, 16  # of fixed_targets
DEPTHS = (0.1, 0.5, 0.9)

CONFIG = plain(
    settings_of(
        "model=nano",
        "tokenizer.vocab_size=512",
        "logger=none",
        "sweep=synthetic",
        "run_id=synthetic",
        f"context={CONTEXT}",
        "training.tokens=60_000",
        "training.batch_size=32",
        f"eval.targets={TARGETS}",
        f"eval.windows={WINDOWS}",
    )
)

RESULTS = {
    "corpus": "shakespeare",
    "corpus_hash": "c0ffee00" * 8,
    "tokenizer_hash": "70ce1234" * 8,
    "commit": "0123456789abcdef0123456789abcdef01234567+",
    "machine": {"device": "cpu", "processor": "a processor", "cores": 2, "threads": 2, "system": "Linux"},
    "versions": {"python": "3.11", "torch": "2.13.0"},
    "parameters": {"total": 41_120, "embedding": 16_384, "encoding": 0, "backbone": 24_736},
}


def settings(**changes: Any) -> dict[str, Any]:
    """CONFIG with changes; `training__tokens=1` changes training.tokens."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *groups, name = key.split("__")
        place = config
        for group in groups:
            place = place[group]
        place[name] = value
    return config


@dataclass(frozen=True)
class Spec:
    """What a run's rows are made of. extensions: what each adds to the loss beyond the training context; tokens: of
    fixed_targets without an extension the losses of all targets by length, (windows, TARGETS), instead of means. gain:
    of a needle (nats a token) by context length, depth and extension, None where it is not defined."""

    encoding: str
    seed: int
    config: Mapping[str, Any]
    nats: Callable[[int], float | None]
    lengths: Iterable[int] = LENGTHS
    protocols: Iterable[str] = ("fixed_targets", "non_overlapping")
    extensions: Mapping[str, float] = field(default_factory=dict)
    positions: bool = False
    floor: bool = False
    windows: int = WINDOWS
    noise: float = 0.02
    targets_id: str = "00000000"
    gain: Callable[[int, float, str], float | None] | None = None
    needles: Iterable[str] = ("span", "pair")
    exact: Mapping[int, np.ndarray] = field(default_factory=dict)  # of a task's length: whether each example is right
    tokens: Callable[[int], np.ndarray] | None = None

    @property
    def first_context(self) -> int:
        stage = self.config["stage"]
        return stage["contexts"][0] if stage else self.config["context"]


def make_run(
    sweep: Path,
    encoding: str,
    seed: int = 0,
    nats: Callable[[int], float | None] = lambda length: 5.0,
    *,
    state: str = "finished",
    error: str | None = None,
    diverged: bool = False,
    config: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    **rows: Any,
) -> RunFolder:
    """One run's folder. nats: mean loss by context length in tokens, None where the encoding is not defined.

    config: changes as `settings` takes them; results: fields of results.json; rows: fields of `Spec`.
    """
    settled = {**settings(**(config or {})), "seed": seed}
    settled["encoding"] = {**settled["encoding"], "name": encoding}
    settled["run_id"] = run_id(settled)
    folder = RunFolder(sweep / settled["run_id"])
    folder.path.mkdir(parents=True)
    write_json(folder.path / "config.json", settled)
    folder.set_status(state, **({"error": error} if error else {}), **({"diverged": True} if diverged else {}))
    if state == "finished":
        folder.add(_measured(Spec(encoding, seed, settled, nats, **rows)))
        folder.update(**facts(settled, seed) | dict(results or {}))
        write_table(folder.path / "curve.csv", _curve(nats(CONTEXT) or 5.0, seed))
    return folder


def make_stage(
    parent: RunFolder,
    nats: Callable[[int], float | None],
    *,
    context: int = CONTEXT,
    extension: str | None = None,
    tokens: int = 6_000,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> RunFolder:
    """A second stage of a run, beside it: its context, the extension that it trains with, its tokens. more: as in
    `make_run`; results.json has a hash of its own."""
    before, results = parent.config, parent.results
    of = before["stage"]
    stage = {
        "parent": results["config_hash"],
        "run": parent.name,
        "step": results["training"]["steps"],
        "steps": results["training"]["steps"] + (of["steps"] if of else 0),
        "tokens": before["training"]["tokens"] + (of["tokens"] if of else 0),
        "schedule_step": results["training"]["steps"],
        "schedule_steps": results["training"]["steps"],
        "contexts": [*(of["contexts"] if of else []), before["context"]],
        "trained_length": before["context"],
        "extended": _extended(before),
        # what an extension has chosen for itself is another's with each seed
        "extension": {"name": extension, "factors": [1.0, before["seed"]]} if extension else None,
    }
    a_step = before["training"]["batch_size"] * before["context"]
    own = {"init": str(parent.path), "stage": stage, "context": context, "training__tokens": tokens}
    own |= {"extension": {"name": extension} if extension else None, "training__batch_size": a_step // context}
    given = dict(more.pop("results", {}))
    training = {**results["training"], "tokens": tokens, "seconds": tokens / 15_000, **given.pop("training", {})}
    more["results"] = {"training": training, **given}
    config = {"encoding": before["encoding"], **own, **(config or {})}
    return make_run(parent.path.parent, before["encoding"]["name"], before["seed"], nats, config=config, **more)


def _extended(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not config["stage"]:
        return []
    lengths = [config["stage"]["trained_length"], config["context"]]
    own = [{"extension": config["extension"], "lengths": lengths}] if config["extension"] else []
    return [*config["stage"]["extended"], *own]


def facts(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    training = {"tokens": 60_416, "steps": 59, "seconds": 4.0 + seed, "tokens_per_second": 15_000.0 - 100 * seed}
    training |= {"loss": 5.1, "val_loss": 5.2, "peak_memory": 500_000_000}
    return {
        **RESULTS,
        "config_hash": digest(config),
        "run_id": config["run_id"],
        "encoding": config["encoding"]["name"],
        "seed": seed,
        "context": config["context"],
        "training": training,
    }


def _curve(final: float, seed: int) -> list[dict[str, float]]:
    curve = []
    for step in range(2, 60, 3):
        loss = final + 2 * np.exp(-step / 10) + 0.01 * np.sin(step + seed)
        point = {"step": step, "tokens": step * 1024, "seconds": step / 15, "loss": float(loss)}
        curve.append({**point, "lr": 3e-3, "tokens_per_second": 15_000.0})
        if step % 15 == 14:
            curve.append({"step": step, "tokens": step * 1024, "val_loss": float(loss) + 0.05})
    return curve


def _noise(spec: Spec) -> np.ndarray:
    """(W,): what windows do to all encodings alike, what a seed does, and what is left."""
    shared = np.random.default_rng(1).normal(size=spec.windows) * 5 * spec.noise
    own = (spec.config["extension"], spec.config["context"], spec.config["training"]["tokens"])
    stage = str(own) if spec.config["stage"] else ""
    own = np.random.default_rng([spec.seed, *f"{spec.encoding}{stage}".encode()])
    return shared + own.normal() * spec.noise + own.normal(size=spec.windows) * spec.noise


def _measured(spec: Spec) -> Measured:
    """The rows and the losses behind them."""
    rows, losses = [], {}

    def add(row: dict[str, Any], mean: float | None, targets: int = TARGETS) -> None:
        row = row | {
            "length_ratio": row["context_length"] / spec.first_context,
            "split": spec.config["eval"]["split"],
            "precision": spec.config["eval"]["precision"],
            "targets_id": spec.targets_id,
        }
        if mean is None:
            reason = f"{spec.encoding} is not defined beyond {spec.first_context} tokens"
            rows.append(row | {"status": "undefined", "reason": reason})
            return
        exact = spec.tokens and row["protocol"] == "fixed_targets" and row["extension"] == "none"
        exact = spec.tokens(row["context_length"]) if exact and "control" not in row else None
        per_token = np.tile((mean + _noise(spec))[:, None], targets) if exact is None else exact
        figures, values, table = _figures(per_token)
        rows.append(row | figures)
        losses.update({row_key(row): values, row_key(row) + "/windows": table})

    for protocol in spec.protocols:
        for extension, change in {"none": 0.0, **spec.extensions}.items():
            for length in spec.lengths:
                mean = spec.nats(length)
                place = {"protocol": protocol, "extension": extension, "context_length": length}
                add(place, mean if mean is None or length <= spec.first_context else mean + change)
        if spec.floor:
            place = {"protocol": protocol, "extension": "none", "context_length": min(spec.lengths)}
            add({**place, "control": "unigram"}, 6.0)
    if spec.positions:
        place = {"protocol": "positions", "extension": "none", "context_length": max(spec.lengths)}
        for high in range(8, max(spec.lengths) + 1, 8):
            add({**place, "position_from": high - 7, "position": high}, (spec.nats(high) or 6.0) + 2 / np.sqrt(high), 8)
    (retrieval, windows), (tasks, examples) = _retrieved(spec), _answered(spec)
    return Measured(rows=rows, losses=losses | windows | examples, retrieval=retrieval, tasks=tasks)


def _retrieved(spec: Spec) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of retrieval and the windows behind them: the answer is right where a needle is worth 6 nats a token."""
    rows, units = [], {}
    for needle, extension, length, depth in itertools.product(
        spec.needles if spec.gain else (), ["none", *spec.extensions], spec.lengths, DEPTHS
    ):
        row = {"evaluation": "", "protocol": "retrieval", "needle": needle, "extension": extension}
        row |= {"context_length": length, "length_ratio": length / spec.first_context, "depth": depth}
        row |= {"split": "test", "precision": "32", "targets_id": spec.targets_id, "distance": round(length * depth)}
        gain = spec.gain(length, depth, extension)
        if gain is None:
            rows.append(row | {"status": "undefined", "reason": f"{spec.encoding} is not defined there"})
            continue
        gain_W, tokens = gain + _noise(spec), 2
        found_W = np.maximum(8 - gain_W, 0)
        block_W = np.arange(spec.windows)
        table = [block_W, np.full(spec.windows, tokens), tokens * (found_W + gain_W), tokens * found_W, found_W < 2]
        units[row_key(row)] = np.stack(table, axis=1).astype(float)
        rows.append(row | {"status": "ok", **retrieved(units[row_key(row)])})
    return rows, units


def _answered(spec: Spec) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The rows of a task, trained at lengths up to 15, and the examples behind them, of three tokens each."""
    rows, units = [], {}
    for length, exact in spec.exact.items():
        row = {"evaluation": "", "protocol": "exact_match", "task": "copy", "extension": "none", "length": length}
        row |= {"length_ratio": length / 15, "context_length": 2 * length + 2, "split": "test", "precision": "32"}
        units[row_key(row)] = np.stack([np.where(exact, 3, 1), np.full(len(exact), 3)], axis=1)
        rows.append(row | {"status": "ok", **answered(units[row_key(row)])})
    return rows, units


def _figures(losses_WT: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A row's figures, its token losses, and its windows."""
    windows, targets = losses_WT.shape
    losses = losses_WT.reshape(-1).astype(np.float32)
    scored, ends = np.full(windows, targets), (np.arange(windows) + 1) * 2048
    interval = perplexity_interval(losses.astype(np.float64).reshape(1, windows, targets).sum(axis=2), scored)
    figures = {
        "status": "ok",
        "nats": interval.nats,
        "perplexity": interval.perplexity,
        "bits_per_byte": interval.nats / np.log(2) / 2,
        "tokens": windows * targets,
        "bytes": windows * targets * 2,
        "windows": windows,
        "blocks": windows,
        "block_tokens": 2048,
        "executor": "fused",
        "seconds": 0.25,
        "perplexity_low": interval.perplexity_low,
        "perplexity_high": interval.perplexity_high,
        "interval_level": interval.level,
        "interval_covers": interval.covers,
    }
    return figures, losses, np.stack([ends - 256, ends, scored, 0 * ends, np.arange(windows)], axis=1)
