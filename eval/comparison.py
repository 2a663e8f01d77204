"""A sweep read from its runs' files: which runs there are, whether they may be compared, and what comes of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.evaluate import BLOCK_TOKENS
from eval.identity import NOT_IDENTITY
from eval.results import RunFolder, row_key, write_table
from eval.statistics import compare, perplexity_interval

# What must be equal between runs that are compared, by the names of the settings.
COMPARED_ALIKE = ("context", "model", "training.tokens", "training.batch_size", "eval.split", "eval.precision")
COMPARED_RESULTS = ("corpus_hash", "tokenizer_hash")


@dataclass(frozen=True)
class Run:
    """One run of a sweep. `label` tells it from the others: the encoding, and the settings in which it differs from
    other runs of that encoding (the seed apart)."""

    folder: RunFolder
    config: dict[str, Any]
    status: dict[str, Any]
    results: dict[str, Any]
    label: str

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def finished(self) -> bool:
        return self.status["state"] == "finished"

    @functools.cached_property
    def losses(self) -> dict[str, np.ndarray]:
        return self.folder.losses

    def window_losses(self, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Summed losses, token counts and blocks of the windows behind a row: three arrays (W,)."""
        _, stops, scored, _ = self.losses[key + "/windows"].T
        values = self.losses[key].astype(np.float64)
        return np.add.reduceat(values, np.cumsum(scored) - scored), scored, stops // BLOCK_TOKENS


def read_runs(path: Path) -> list[Run]:
    """The runs of a sweep's folder (or of one run's own), in order of label and seed.

    Raises ValueError where the folder holds none.
    """
    folders = [RunFolder(path)] if (path / "config.json").exists() else []
    folders += [RunFolder(child.parent) for child in sorted(path.glob("*/config.json"))]
    if not folders:
        raise ValueError(f"{path} holds no run: give the folder of a run or of a sweep")
    configs = [folder.config for folder in folders]
    labels = _labels(configs)
    runs = [
        Run(folder, config, _recover(lambda f=folder: f.status), _recover(lambda f=folder: f.results), label)
        for folder, config, label in zip(folders, configs, labels, strict=True)
    ]
    return sorted(runs, key=lambda run: (run.label, run.seed))


def _recover(read) -> dict[str, Any]:
    """What a file says, or where it is damaged a failed state that says so: one cut file doesn't hide a sweep."""
    try:
        return read()
    except ValueError as error:
        return {"state": "failed", "error": str(error), "rows": []}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"training.lr": 0.003, ...}."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat


def _labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The encoding's name, with the settings in which runs of the same encoding differ."""
    ignored = (*NOT_IDENTITY, "seed")
    flats = [
        {key: value for key, value in flatten(config).items() if key.split(".")[0] not in ignored} for config in configs
    ]
    labels = []
    for config, flat in zip(configs, flats, strict=True):
        name = config["encoding"]["name"]
        same = [f for c, f in zip(configs, flats, strict=True) if c["encoding"]["name"] == name]
        keys = sorted({key for other in same for key in other if any(o.get(key) != other[key] for o in same)})
        parts = [f"{key.removeprefix('encoding.')}={flat.get(key)}" for key in keys]
        labels.append(f"{name} ({', '.join(parts)})" if parts else name)
    return labels


def check_comparable(runs: Iterable[Run]) -> None:
    """Raises ValueError, naming what differs, for runs whose figures can't stand side by side."""
    runs = list(runs)
    different = []
    for name in COMPARED_ALIKE:
        values = {
            str({k: v for k, v in flatten(run.config).items() if (k + ".").startswith(name + ".")}) for run in runs
        }
        different += [name] if len(values) > 1 else []
    for name in COMPARED_RESULTS:
        different += [name] if len({run.results.get(name) for run in runs}) > 1 else []
    targets: dict[str, set[str]] = {}
    for run in runs:
        for row in run.results["rows"]:
            targets.setdefault(f"{row['protocol']}/{row['context_length']}", set()).add(row["targets_id"])
    different += [f"targets of {key}" for key, ids in sorted(targets.items()) if len(ids) > 1]
    if different:
        raise ValueError(f"these runs are not comparable, they differ in: {', '.join(different)}")


def tidy_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Every row of every run, with what identifies the run: one flat dict a row."""
    return [
        {
            "label": run.label,
            "encoding": run.config["encoding"]["name"],
            "seed": run.seed,
            "run_id": run.folder.name,
            "config_hash": run.results.get("config_hash"),
            "corpus_hash": run.results.get("corpus_hash"),
            "tokenizer_hash": run.results.get("tokenizer_hash"),
            **row,
        }
        for run in runs
        for row in run.results["rows"]
    ]


def summarise(runs: Iterable[Run], reference: str, level: float) -> list[dict[str, Any]]:
    """A row for each (protocol, extension, context length, label): perplexity over its seeds with its interval, and the
    difference to the reference with its interval, Holm-corrected p and verdict; best first within each group.

    The reference is a label, an encoding's name, or where neither is in the sweep the first label.
    """
    finished = [run for run in runs if run.finished]
    groups: dict[tuple, dict[str, list[Run]]] = {}
    for run in finished:
        for row in run.results["rows"]:
            if row["status"] == "ok" and "position" not in row:
                place = (row["protocol"], row["extension"], row["context_length"])
                groups.setdefault(place, {}).setdefault(run.label, []).append(run)
    labels = sorted({run.label for run in finished})
    reference = find_reference(labels, reference)
    return [
        row for place, by_label in sorted(groups.items()) for row in _summarise_place(place, by_label, reference, level)
    ]


def find_reference(labels: Sequence[str], wanted: str) -> str | None:
    """The label that differences are taken to."""
    candidates = [label for label in labels if label == wanted or label.split(" (")[0] == wanted]
    return candidates[0] if candidates else (labels[0] if labels else None)


def _summarise_place(
    place: tuple[str, str, int], by_label: Mapping[str, list[Run]], reference: str | None, level: float
) -> list[dict[str, Any]]:
    protocol, extension, length = place
    key = row_key({"protocol": protocol, "extension": extension, "context_length": length})
    losses, seeds = {}, {}
    tokens_W = blocks_W = None
    for label, runs in by_label.items():
        parts = [run.window_losses(key) for run in runs]
        losses[label] = np.stack([part[0] for part in parts])
        seeds[label] = [run.seed for run in runs]
        tokens_W, blocks_W = parts[0][1:]
    differences = _differences(losses, seeds, tokens_W, blocks_W, reference, level)
    rows = []
    for label, loss_SW in losses.items():
        interval = perplexity_interval(loss_SW, tokens_W, blocks_W, level=level)
        figures = _row(by_label[label][0], key)
        row = {
            "protocol": protocol,
            "extension": extension,
            "context_length": length,
            "length_ratio": figures["length_ratio"],
            "label": label,
            "encoding": by_label[label][0].config["encoding"]["name"],
            "seeds": len(seeds[label]),
            "nats": interval.nats,
            "perplexity": interval.perplexity,
            "perplexity_low": interval.perplexity_low,
            "perplexity_high": interval.perplexity_high,
            "interval_covers": interval.covers,
            "interval_reason": interval.reason,
            "bits_per_byte": float(np.mean([_row(run, key)["bits_per_byte"] or np.nan for run in by_label[label]])),
            "tokens": figures["tokens"],
            "windows": figures["windows"],
            "reference": reference,
        }
        if (found := differences.get(label)) is not None:
            row |= {
                "difference_nats": found.nats,
                "difference_percent": found.percent,
                "difference_low": found.percent_low,
                "difference_high": found.percent_high,
                "p": found.p,
                "p_holm": found.adjusted_p,
                "smallest_detectable": found.smallest_detectable,
                "verdict": found.verdict,
                "verdict_reason": found.reason,
            }
        rows.append(row)
    return sorted(rows, key=lambda row: row["nats"])


def _row(run: Run, key: str) -> dict[str, Any]:
    return next(row for row in run.results["rows"] if row_key(row) == key)


def _differences(losses, seeds, tokens_W, blocks_W, reference, level):
    """Differences to the reference over the seeds that both have; labels without a common seed have none."""
    if reference not in losses:
        return {}
    paired = {}
    for label in losses:
        common = sorted(set(seeds[label]) & set(seeds[reference]))
        if common:
            paired.setdefault(tuple(common), []).append(label)
    found = {}
    for common, labels in paired.items():
        names = dict.fromkeys([reference, *labels])
        chosen = {name: losses[name][[seeds[name].index(seed) for seed in common]] for name in names}
        if len(chosen) > 1:
            found |= compare(chosen, tokens_W, blocks_W, reference=reference, level=level)
    return found


def write_comparison(path: Path, runs: Sequence[Run], summary: Sequence[Mapping[str, Any]]) -> None:
    """comparison.csv (every row of every run) and summary.csv (every label at every length) in the sweep's folder."""
    write_table(path / "comparison.csv", tidy_rows(runs))
    write_table(path / "summary.csv", list(summary))
