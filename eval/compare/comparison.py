"""A sweep read from its runs' files: which runs there are, whether they may be compared, and what comes of it.

Nothing here knows of tables or pages: `read_comparison` gives rows, eval/compare/report.py shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import plain
from eval.measure.rows import row_key
from eval.measure.statistics import Difference, difference, holm, perplexity_interval, verdict
from eval.record.folder import RunFolder, write_table
from eval.record.identity import NOT_IDENTITY

HEADLINE = "fixed_targets"  # the protocol that the verdict goes by
# What must be equal between runs that are compared: settings (or whole groups), and the data by results.json.
COMPARED_SETTINGS = ("model", "data.name", "training.tokens", "eval.split", "eval.precision")
COMPARED_RESULTS = ("corpus_hash", "tokenizer_hash")
# The settings that choose which tokens are scored.
TARGET_SETTINGS = ("context", "data", "eval")


@dataclass(frozen=True)
class Windows:
    """The windows behind a row: summed losses (nats), token counts and blocks of the bootstrap, three arrays (W,)."""

    losses: np.ndarray
    tokens: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class Run:
    """One run of a sweep, as its files have it.

    label: the encoding, with the settings in which it differs from other runs of that encoding (the seed apart).
    state: that of status.json, "missing" where there is none to be read, or "damaged" where another file can't be.
    problem: why the run takes no part in the comparison; None where it does.
    control: what the run is a control for, where it is one: shown beside the encodings, never ranked among them.
    time: when it reached that state, ISO 8601.
    """

    folder: RunFolder
    label: str
    state: str
    problem: str | None = None
    control: str | None = None
    time: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=lambda: {"rows": []})
    windows: Mapping[str, Windows] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def encoding(self) -> str:
        return self.config["encoding"]["name"]

    @property
    def seed(self) -> int | None:
        return self.config.get("seed")

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.results["rows"]


@dataclass(frozen=True)
class Scored:
    """A row of a run, with the windows behind it."""

    run: Run
    row: Mapping[str, Any]

    @property
    def windows(self) -> Windows:
        return self.run.windows[row_key(self.row)]


@dataclass(frozen=True)
class Comparison:
    """A sweep's runs and what they come to.

    summary: a row for each (protocol, extension, context length, label), best first within a place; see `summarise`.
    positions: likewise for each stretch of positions of the protocol `positions`.
    tasks: a row for each (task, extension, length, label), most exact first; see `summarise_tasks`.
    objection: why nothing is compared (then all are empty), naming what differs; None where the runs are comparable.
    """

    path: Path
    runs: list[Run]
    reference: str | None
    level: float
    summary: list[dict[str, Any]] = field(default_factory=list)
    positions: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    objection: str | None = None

    @property
    def compared(self) -> list[Run]:
        return [run for run in self.runs if run.problem is None]

    @property
    def left_out(self) -> list[Run]:
        return [run for run in self.runs if run.problem is not None]

    @property
    def labels(self) -> list[str]:
        """Of the runs that are compared and of their floors, controls last."""
        found = {run.label: run.control is not None for run in self.compared}
        found |= {row["control"]: True for run in self.compared for row in run.rows if "control" in row}
        return sorted(found, key=lambda label: (found[label], label))

    @property
    def context(self) -> int | None:
        """The training context, in tokens, of the runs that are no controls."""
        return min((run.config["context"] for run in self.compared if not run.control), default=None)


def read_comparison(
    path: Path,
    *,
    reference: str | None = None,
    level: float | None = None,
    jobs: Collection[str] = (),
    compare: Mapping[str, Any] | None = None,
) -> Comparison:
    """The comparison of a sweep's folder, or the figures of one run's own.

    compare: the settings `compare.reference` and `compare.level`; None: those of the first run.
    reference, level: instead of them. A reference that is not among the runs is refused here.
    jobs: names of runs that should be there; one without a folder is a run that is missing.

    Raises ValueError where the folder holds no run at all.
    """
    runs = read_runs(path, jobs)
    compared = [run for run in runs if run.problem is None]
    own = compared[0].config["compare"] if compared else {"reference": None, "level": 0.95}
    settings = compare or own
    level = level or settings["level"]
    labels = sorted({run.label for run in compared if not run.control})
    found = find_reference(labels, reference or settings["reference"])
    if reference and not (found == reference or (found or "").split(" (")[0] == reference):
        raise ValueError(f"reference={reference}: not among the compared encodings, {', '.join(labels)}")
    if objection := find_objection(compared):
        return Comparison(path, runs, found, level, objection=objection)
    return Comparison(path, runs, found, level, *summarise(compared, found, level), summarise_tasks(compared))


def read_runs(path: Path, jobs: Collection[str] = ()) -> list[Run]:
    """The runs of a sweep's folder (or of one run's own), in order of label and seed. A run whose files are missing or
    damaged is among them, with its problem. Raises ValueError where the folder holds none."""
    folders = [path] if (path / "config.json").exists() else []
    folders += sorted({child.parent for name in ("config.json", "status.json") for child in path.glob(f"*/{name}")})
    folders += [path / job for job in sorted(jobs) if path / job not in folders]
    if not folders:
        raise ValueError(f"{path} holds no run: give the folder of a run or of a sweep")
    runs = [_read_run(RunFolder(folder)) for folder in folders]
    context = min((run.config["context"] for run in runs if run.problem is None), default=0)
    runs = [replace(run, control=_control(run, context)) for run in runs]
    runs = [replace(run, label=_label(run, runs)) for run in runs]
    return sorted(runs, key=lambda run: (run.label, run.seed if run.seed is not None else -1, run.name))


def _read_run(folder: RunFolder) -> Run:
    """One run, labelled by its folder; where a file is damaged, with as much as could be read."""
    known: dict[str, Any] = {"folder": folder, "label": folder.name, "state": "damaged"}
    try:
        status = folder.status
        known |= {"state": status["state"], "time": status.get("time")}
        problem = _unfinished(status)
        if known["state"] != "missing" or (folder.path / "config.json").exists():
            known["config"] = plain(folder.settings)
            known["results"] = folder.results
        if problem is None:
            known["windows"] = dict(_read_windows(folder))
        return Run(**known, problem=problem)
    except (ValueError, OSError) as error:
        return Run(**{**known, "state": "damaged"}, problem=str(error))


def _unfinished(status: Mapping[str, Any]) -> str | None:
    """Why a run isn't finished, None where it is."""
    match status["state"]:
        case "finished":
            return None
        case "missing":
            return "it left no status that can be read: run the same command again"
        case "running":
            return "still running, or ended without a word (killed, out of memory, power): run the same command again"
        case state:
            return status.get("error") or state


def _read_windows(folder: RunFolder) -> Iterator[tuple[str, Windows]]:
    """The windows behind each row, by the row's key; token losses are summed and let go, run by run.

    Raises ValueError where a row's losses are missing.
    """
    losses = folder.losses
    for key in (row_key(row) for row in folder.results["rows"] if row["status"] == "ok"):
        if key not in losses:
            raise ValueError(f"{folder.path / 'losses.npz'} lacks the losses of {key}: score the run again")
        _, _, scored, _, blocks = losses[key + "/windows"].T
        summed = np.add.reduceat(losses[key].astype(np.float64), np.cumsum(scored) - scored)
        yield key, Windows(summed, scored, blocks)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"training.lr": 0.003, ...}."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat


def differing(configs: Sequence[Mapping[str, Any]], among: Collection[str] | None = None) -> list[str]:
    """The settings, flat, that are not the same in all configs; `among`: only these settings and groups."""
    flats = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [
        key
        for key in keys
        if any(flat.get(key) != flats[0].get(key) for flat in flats)
        and (among is None or any(f"{key}.".startswith(f"{name}.") for name in among))
    ]


def _label(run: Run, runs: Sequence[Run]) -> str:
    """The encoding's name, with the settings in which runs of the same encoding differ; else the folder's."""
    if not run.config:
        return run.name
    alike = (run.encoding, run.control)
    same = [each.config for each in runs if each.config and (each.encoding, each.control) == alike]
    keys = {key for key in differing(same) if key.split(".")[0] not in (*NOT_IDENTITY, "seed")}
    flat = flatten(run.config)
    parts = [f"context={run.config['context']}"] if run.control else []
    parts += [f"{key.removeprefix('encoding.')}={flat.get(key)}" for key in sorted(keys)]
    return f"{run.encoding} ({', '.join(parts)})" if parts else run.encoding


def _control(run: Run, context: int) -> str | None:
    """A run that was trained on a longer context than the shortest is the ceiling for the others."""
    if run.config.get("context", 0) > context > 0:
        return f"trained on a context of {run.config['context']:,} tokens"
    return None


def find_reference(labels: Sequence[str], wanted: str | None) -> str | None:
    """The label that differences are taken to: the one wanted, or the first of that encoding, or the first of all."""
    candidates = [label for label in labels if label == wanted or label.split(" (")[0] == wanted]
    return next(iter([*candidates, *labels]), None)


def find_objection(runs: Sequence[Run]) -> str | None:
    """Why the figures of these runs can't stand side by side: what differs, and between which; None where they can."""

    def tell_apart(key: str, value: Callable[[Run], Any]) -> list[str]:
        names: dict[Any, list[str]] = {}
        for run in runs:
            names.setdefault(value(run), []).append(run.name)
        return [f"{key} ({_who_has(names)})"] if len(names) > 1 else []

    found = [
        text
        for key in differing([run.config for run in runs], COMPARED_SETTINGS)
        for text in tell_apart(key, lambda run, key=key: str(flatten(run.config).get(key)))
    ]
    found += tell_apart("tokens a step", lambda run: run.config["training"]["batch_size"] * run.config["context"])
    for key in COMPARED_RESULTS:
        found += tell_apart(key, lambda run, key=key: str(run.results.get(key))[:8])
    found += tell_apart("training precision", lambda run: run.results.get("training", {}).get("precision"))
    twins: dict[tuple, list[str]] = {}
    for run in runs:
        twins.setdefault((run.label, run.seed, run.control), []).append(run.name)
    found += [f"the run's name alone ({', '.join(names)})" for names in twins.values() if len(names) > 1]
    targets: dict[tuple, set[tuple]] = {}
    for run in runs:
        for row in run.results.get("tasks", []):
            if row["status"] == "ok":
                place = (row["task"], row["length"], row["extension"])
                targets.setdefault(place, set()).add((row["split"], row["examples"], row["precision"]))
        for row in run.rows:
            same = row["targets_id"], row["split"], None if "control" in row else row["precision"]
            targets.setdefault((row["protocol"], row["context_length"], "control" in row), set()).add(same)
    if places := [place for place, ids in targets.items() if len(ids) > 1]:
        settings = differing([run.config for run in runs], TARGET_SETTINGS)
        cause = f"settings {', '.join(settings)}" if settings else "scored again with other settings"
        found.append(f"what is scored, or how ({cause}; {places[0][0]} at {places[0][1]} and {len(places) - 1} more)")
    return f"These runs are not comparable: they differ in {'; '.join(found)}." if found else None


def _who_has(names: Mapping[Any, Sequence[str]]) -> str:
    """ "60000: rope-s0-1f2e3d and 3 more, 80000: alibi-s0-4a5b6c"."""
    return ", ".join(
        f"{value}: {having[0]}" + (f" and {len(having) - 1} more" if len(having) > 1 else "")
        for value, having in names.items()
    )


def tidy_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Every row of every run, with what identifies the run: one flat dict a row."""
    return [
        {
            "label": run.label,
            "encoding": run.encoding,
            "seed": run.seed,
            "run_id": run.name,
            "state": run.state,
            "config_hash": run.results.get("config_hash"),
            "corpus_hash": run.results.get("corpus_hash"),
            "tokenizer_hash": run.results.get("tokenizer_hash"),
            **row,
        }
        for run in runs
        for row in [*run.rows, *run.results.get("tasks", [])]
    ]


def summarise(
    runs: Iterable[Run], reference: str | None, level: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows over seeds: one for each (protocol, extension, context length, label), and those by position apart.

    Each has the perplexity with its interval. The former also have the difference to the reference, with its interval,
    Holm-corrected p and verdict; a row with an extension has the like (`gain_...`) against the same label without one.
    Best first within a place. A label that is undefined there, or has diverged with any of its seeds, has no row: the
    mean of those that survived would flatter it.
    """
    places: dict[tuple, dict[str, dict[int, Scored]]] = {}
    broken = set()
    for run in runs:
        for row in run.rows:
            place = (row["protocol"], row["extension"], row["context_length"], row.get("position", 0))
            label = row.get("control", run.label)  # a floor has the same figures in every run, so one stands for all
            if row["status"] == "ok":
                seed = 0 if "control" in row else run.seed
                places.setdefault(place, {}).setdefault(label, {})[seed] = Scored(run, row)
            else:
                broken.add((place, label))
    for place, label in broken:
        places.get(place, {}).pop(label, None)
    summary, positions = [], []
    for place, by_label in sorted(places.items(), key=lambda item: item[0]):
        rows = sorted((_over_seeds(label, by_label[label], level) for label in by_label), key=lambda row: row["nats"])
        if place[-1]:
            positions += rows
            continue
        encodings = {row["label"]: by_label[row["label"]] for row in rows if row["control"] is None}
        found = _differences(encodings, reference, level)
        summary += [row | _difference_fields(found.get(row["label"]), reference) for row in rows]
    gains = _gains(places, level)
    return [row | gains.get(_place_of(row), {}) for row in summary], positions


def _place_of(row: Mapping[str, Any]) -> tuple[str, int, str, str]:
    return row["protocol"], row["context_length"], row["label"], row["extension"]


def _over_seeds(label: str, seeds: Mapping[int, Scored], level: float) -> dict[str, Any]:
    """One label's figures at one place, over its seeds."""
    first, *_ = scored = list(seeds.values())
    windows = first.windows
    interval = perplexity_interval(
        np.stack([each.windows.losses for each in scored]), windows.tokens, windows.blocks, level=level
    )
    bits = [each.row["bits_per_byte"] for each in scored]
    place = ("protocol", "extension", "context_length", "length_ratio", "position_from", "position")
    return {
        **{name: first.row[name] for name in place if name in first.row},
        "label": label,
        "encoding": label if "control" in first.row else first.run.encoding,
        "control": "floor" if "control" in first.row else first.run.control,
        "seeds": len(scored),
        "perplexity": interval.perplexity,
        "perplexity_low": interval.perplexity_low,
        "perplexity_high": interval.perplexity_high,
        "nats": interval.nats,
        "bits_per_byte": None if None in bits else float(np.mean(bits)),
        **{name: first.row[name] for name in ("tokens", "windows", "blocks")},
        "interval_level": level,
        "interval_covers": interval.covers,
        "interval_reason": interval.reason,
        **{name: first.row.get(name) for name in ("precision", "executor", "settings")},
    }


def _difference_fields(found: Difference | None, reference: str | None) -> dict[str, Any]:
    fields = {"reference": reference}
    if found is not None:
        fields |= {
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
    return fields


def _gains(
    places: Mapping[tuple, Mapping[str, Mapping[int, Scored]]], level: float
) -> dict[tuple[str, int, str, str], dict[str, Any]]:
    """What each extension gains over none on the same runs, by (protocol, context length, label, extension)."""
    sides: dict[tuple, dict[str, Mapping[int, Scored]]] = {}
    for (protocol, extension, length, position), by_label in places.items():
        for label, seeds in by_label.items():
            if not position:
                sides.setdefault((protocol, length, label), {})[extension] = seeds
    return {
        (*place, extension): {
            "gain_percent": found.percent,
            "gain_low": found.percent_low,
            "gain_high": found.percent_high,
            "gain_verdict": found.verdict,
        }
        for place, by_extension in sides.items()
        for extension, found in _differences(by_extension, "none", level).items()
    }


def _differences(
    sides: Mapping[str, Mapping[int, Scored]], reference: str | None, level: float
) -> dict[str, Difference]:
    """Each side minus the reference, paired over the seeds that both have; a side without a common seed has none.

    As eval.measure.statistics.compare, but seeds may be missing here and there; Holm's correction is over all sides.
    """
    common = {name: sorted(set(sides[name]) & set(sides.get(reference, ()))) for name in sides if name != reference}
    common = {name: seeds for name, seeds in common.items() if seeds}
    found = {}
    for name, seeds in common.items():
        own, other = (np.stack([sides[side][seed].windows.losses for seed in seeds]) for side in (name, reference))
        windows = sides[reference][seeds[0]].windows
        found[name] = difference(own, other, windows.tokens, windows.blocks, level=level, comparisons=len(common))
    adjusted = holm({name: each.p for name, each in found.items() if each.p is not None})
    return {
        name: replace(each, adjusted_p=adjusted.get(name), verdict=verdict(each, adjusted.get(name), level))
        for name, each in found.items()
    }


def summarise_tasks(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Exact match over seeds: a row for each (task, extension, length, label), the most exact first within a place.

    `low` and `high` are the lowest and the highest seed, or with a single seed its interval over the examples.
    """
    places: dict[tuple, dict[str, list[Scored]]] = {}
    for run in runs:
        for row in run.results.get("tasks", []):
            if row["status"] == "ok":
                place = (row["task"], row["extension"], row["length"])
                places.setdefault(place, {}).setdefault(run.label, []).append(Scored(run, row))
    rows = []
    for place, by_label in sorted(places.items(), key=lambda item: item[0]):
        here = [_task_over_seeds(label, [each.row for each in scored]) for label, scored in by_label.items()]
        shared = {"protocol": "exact_match"} | dict(zip(("task", "extension", "length"), place, strict=True))
        rows += [shared | row for row in sorted(here, key=lambda row: -row["exact_match"])]
    return rows


def _task_over_seeds(label: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shares = [row["exact_match"] for row in rows]
    several = len(rows) > 1
    return {
        "length_ratio": rows[0]["length_ratio"],
        "context_length": rows[0]["context_length"],
        "label": label,
        "seeds": len(rows),
        "exact_match": float(np.mean(shares)),
        "low": min(shares) if several else rows[0]["low"],
        "high": max(shares) if several else rows[0]["high"],
        "range": "lowest and highest seed" if several else f"{100 * rows[0]['level']:g} % interval over the examples",
        "token_accuracy": float(np.mean([row["token_accuracy"] for row in rows])),
        "examples": rows[0]["examples"],
    }


def write_comparison(comparison: Comparison) -> None:
    """comparison.csv (every row of every run) and summary.csv (every label at every place) in the sweep's folder."""
    write_table(comparison.path / "comparison.csv", tidy_rows(comparison.runs))
    write_table(comparison.path / "summary.csv", comparison.summary + comparison.positions + comparison.tasks)
