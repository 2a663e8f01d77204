"""A sweep's runs, read from their folders: what each is called, which take part, and whether they may be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from conf.schema import BLOCK_OPTIONS, Settings, StageSettings
from eval.record.folder import ReadOnce, RunFolder
from eval.record.identity import NOT_TRAINING

# What must be equal between runs that are compared: settings (or whole groups), and the data by results.json. Beside
# them the tokens trained on, but for second stages; see `find_objection`.
COMPARED_SETTINGS = ("model", "data.name")
OPTIONS = tuple(f"model.{name}" for name in BLOCK_OPTIONS)  # but for these, which a label says
COMPARED_RESULTS = ("corpus_hash", "tokenizer_hash")
# The settings that choose which tokens are scored.
TARGET_SETTINGS = ("context", "data", "eval")
# Of a second stage: what only says which parent of its seed it starts from, or follows from other settings.
PARENTAGE = ("init", "extend", "stage")
SAID_OF_STAGES = ("stage.tokens", "stage.contexts")  # and what of that a label says all the same


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a sweep, as its files have it.

    label: the encoding, with the settings in which it differs from other runs of that encoding (the seed apart), and
        the options of its blocks in which it differs from any run. Of a second stage, an arm: the encoding, the
        extension that it trains with and its context, as in "rope+yarn@512".
    state: that of status.json, "missing" where there is none to be read, or "damaged" where another file can't be.
    problem: why the run takes no part in the comparison; None where it does.
    control: what the run is a control for, where it is one: shown beside the encodings, never ranked among them.
    time: when it reached that state, ISO 8601.
    settings: None where they can't be read; flat: config.json as one level, {"training.lr": 0.003, ...}, and how the
        hash of the encoding's source begins.
    windows, units, curve: of eval.record.folder (units: behind its rows of retrieval and tasks); none where the run has
        a problem.
    diverged: whether it failed since its training came to no finite loss or weights.
    """

    folder: RunFolder
    label: str
    state: str
    problem: str | None = None
    control: str | None = None
    time: str | None = None
    settings: Settings | None = field(default=None, repr=False)
    flat: Mapping[str, Any] = field(default_factory=dict, repr=False)
    results: Mapping[str, Any] = field(default_factory=lambda: {"rows": []}, repr=False)
    windows: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    units: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    diverged: bool = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def encoding(self) -> str:
        return self.settings.encoding["name"]

    @property
    def seed(self) -> int | None:
        return self.settings and self.settings.seed

    @property
    def stage(self) -> StageSettings | None:
        """What it goes on from, where it is a second stage."""
        return self.settings and self.settings.stage

    @property
    def extension(self) -> str:
        """The extensions that a second stage is trained with, those of stages before it first, as in "pi+yarn"; empty
        where there is none."""
        if self.stage is None:
            return ""
        names = (each["extension"]["name"] for each in self.settings.extended)
        return "+".join(name for name in names if name != "none")

    @property
    def tokens(self) -> int:
        """Tokens trained on in all, those of the stages before among them."""
        return self.settings.training.tokens + (self.stage.tokens if self.stage else 0)

    @property
    def a_step(self) -> int:
        """Tokens of an optimizer step."""
        return self.settings.training.batch_size * self.settings.context


def read_runs(path: Path, jobs: Collection[str] = (), evaluation: str | None = None) -> list[Run]:
    """The runs of a sweep's folder (or of one run's own), in order of label and seed. A run whose files are missing or
    damaged is among them, with its problem. Raises ValueError where the folder holds none.

    evaluation: the key of the one whose rows are shown, where a run has it; None: of that which most of them have.
    """
    folders = [run.path for run in RunFolder.all_in(path)]
    folders += [path / job for job in sorted(jobs) if path / job not in folders]
    if not folders:
        raise ValueError(f"{path} holds no run: give the folder of a run or of a sweep")
    runs = [_read_run(RunFolder(folder)) for folder in folders]
    if key := evaluation or _evaluation(runs):
        runs = [run if run.results.get("evaluation") == key else _read_run(run.folder, key) for run in runs]
    context = min((run.settings.first_context for run in runs if run.problem is None), default=0)
    runs = [
        replace(run, control=f"trained on a context of {run.settings.context:,} tokens")
        if run.settings and run.settings.first_context > context > 0
        else run
        for run in runs
    ]
    options = differing([run.flat for run in runs if run.settings], OPTIONS)
    runs = [replace(run, label=_label(run, runs, options)) for run in runs]
    return sorted(runs, key=lambda run: (run.label, run.seed if run.seed is not None else -1, run.name))


def _evaluation(runs: Sequence[Run]) -> str | None:
    """The key of the evaluation by which the runs are compared: the one that most of them have, of several such the one
    that most of them show. A single run that was scored otherwise since takes part as it was."""
    shown = Counter(run.results.get("evaluation") for run in runs if run.problem is None)
    known = Counter(key for run in runs if run.problem is None for key in run.results.get("others", {})) + shown
    return max(sorted(filter(None, known)), key=lambda key: (known[key], shown[key]), default=None)


def _read_run(folder: RunFolder, evaluation: str | None = None) -> Run:
    """One run, labelled by its folder, with the rows of an evaluation (None: the one that it shows); where a file is
    damaged, with as much as could be read."""
    once = ReadOnce(folder.path)
    status = once.status
    known: dict[str, Any] = {"folder": folder, "label": once.name, "state": status["state"]}
    known |= {"time": status.get("time"), "problem": _unfinished(status), "diverged": status.get("diverged", False)}
    try:
        if known["state"] != "missing" or (once.path / "config.json").exists():
            known |= {"settings": once.settings, "flat": flatten(once.config)}
            results = known["results"] = once.shown_as(evaluation)
            known["flat"]["source"] = results.get("identity", {}).get("source", "")[:6]
        if known["problem"] is None:
            once.check_owner()
            known |= {"windows": once.windows_of(results["rows"]), "curve": once.curve}
            known["units"] = once.units_of([*results.get("retrieval", []), *results.get("tasks", [])])
    except (ValueError, OSError) as error:
        if known["state"] != "failed":  # settings that can't be may be what it failed by
            known |= {"state": "damaged", "problem": str(error)}
    return Run(**known)


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"training.lr": 0.003, ...}."""
    flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, name + ".") if isinstance(value, Mapping) else {name: value}
    return flat


def differing(flats: Sequence[Mapping[str, Any]], among: Iterable[str] = ("",)) -> list[str]:
    """The flat settings that are not the same in all; `among`: only these settings and groups."""
    names = tuple(name and f"{name}." for name in among)
    return [
        key
        for key in dict.fromkeys(key for flat in flats for key in flat)
        if f"{key}.".startswith(names) and any(flat.get(key) != flats[0].get(key) for flat in flats)
    ]


def _label(run: Run, runs: Sequence[Run], options: Collection[str]) -> str:
    """The encoding's name, of an arm with its extension and context, and the settings in which runs of the same name
    differ; else the folder's. Where a sweep's stages are of several lengths, each says its own. options: those of the
    blocks in which any of the runs differ, of which each says its own."""
    if run.settings is None:
        return run.name
    alike = (_named(run), run.control)
    read = [each for each in runs if each.settings]
    same = [each.flat for each in read if (_named(each), each.control) == alike]
    keys = {key for key in differing(same) if key.split(".")[0] not in (*NOT_TRAINING, *PARENTAGE, "seed")}
    keys |= {*differing(same)} & {*SAID_OF_STAGES}
    if run.stage and len({each.settings.training.tokens for each in read if each.stage}) > 1:
        keys.add("training.tokens")
    keys -= {*options, *_following(run, same, keys)}
    parts = [f"context={run.settings.first_context}"] if run.control else []
    parts += [f"{key.removeprefix('encoding.').removesuffix('.name')}={run.flat.get(key)}" for key in sorted(keys)]
    parts += [words for name, words in run.settings.model.options.items() if f"model.{name}" in options]
    return f"{_named(run)} ({', '.join(parts)})" if parts else _named(run)


def _following(run: Run, flats: Sequence[Mapping[str, Any]], keys: Collection[str]) -> set[str]:
    """Of the settings in which runs differ, those that follow from which encodings stand inside theirs: what such a one
    has of settings, and the source, are said where runs with the same ones inside differ in them."""
    inside = [key for key in keys if key.startswith("encoding.") and key.endswith(".name")]
    if not inside:
        return set()
    owned = tuple(key.removesuffix("name") for key in inside)
    alike = differing([flat for flat in flats if all(flat.get(key) == run.flat.get(key) for key in inside)])
    of_them = {key for key in keys if key == "source" or key.startswith(owned)}
    return of_them - {*inside, *alike}


def _named(run: Run) -> str:
    """ "rope", or of a second stage "rope+yarn@512"."""
    extension = f"+{run.extension}" * bool(run.extension)
    return f"{run.encoding}{extension}@{run.settings.context}" if run.stage else run.encoding


def find_reference(labels: Sequence[str], wanted: str | None) -> str | None:
    """The label that differences are taken to: the one wanted, or the first of that encoding, or the first of all."""
    candidates = [label for label in labels if label == wanted or label.split(" (")[0] == wanted]
    return next(iter([*candidates, *labels]), None)


def find_objection(runs: Sequence[Run], rows: pd.DataFrame) -> str | None:
    """In what the runs differ, and between which, so that their figures can't stand side by side; None where they can.

    A second stage differs from its parent in tokens and context, and stages in their lengths: that is what they are
    for. A control may have been trained on as many tokens as a stage and its parent together.

    rows: those of eval.compare.comparison.Comparison, of these runs alone.
    """
    flats = [run.flat for run in runs]
    unequal = [key for key in differing(flats, COMPARED_SETTINGS) if key not in OPTIONS]
    facts = {key: [str(flat.get(key)) for flat in flats] for key in unequal}
    staged = [run for run in runs if run.stage]
    wholes = [run for run in runs if run.stage or (run.control and any(as_many(run, each) for each in staged))]
    facts["training.tokens"] = [None if run in wholes else str(run.settings.training.tokens) for run in runs]
    facts["tokens a step"] = [run.a_step for run in runs]
    facts |= {key: [str(run.results.get(key))[:8] for run in runs] for key in COMPARED_RESULTS}
    facts["training precision"] = [str(run.results.get("training", {}).get("precision")) for run in runs]
    names = pd.Series([run.name for run in runs], dtype=str)
    found = [f"{key} ({_who_has(values, names)})" for key, values in facts.items() if len({*values} - {None}) > 1]
    twins = names.groupby([[run.label for run in runs], [run.seed for run in runs]], sort=False).agg(list)
    found += [f"the run's name alone ({', '.join(each)})" for each in twins if len(each) > 1]
    # Tasks are scored on examples, other rows on targets, the same for all extensions; floors in a precision of theirs.
    task = rows["task"].notna()
    scored = pd.DataFrame(
        {
            "what": rows["task"].where(task, rows["protocol"]),
            "at": rows["length"].where(task, rows["context_length"]).astype("Int64"),
            "extension": rows["extension"].where(task),
            "floor": rows["control"].notna(),
            "precision": rows["precision"].where(rows["control"].isna()),
            **{name: rows[name] for name in ("targets_id", "split", "examples")},
        }
    )
    scored = pd.concat([scored[task & (rows["status"] == "ok")], scored[~task]]).drop_duplicates()
    ways = scored.groupby(["what", "at", "extension", "floor"], sort=False, dropna=False).size()
    if places := ways.index[ways > 1].tolist():
        settings = differing(flats, TARGET_SETTINGS)
        cause = f"settings {', '.join(settings)}" if settings else "scored again with other settings"
        found.append(f"what is scored, or how ({cause}; {places[0][0]} at {places[0][1]} and {len(places) - 1} more)")
    return "; ".join(found) or None


def as_many(run: Run, stage: Run) -> bool:
    """Whether a run was trained on as many tokens as a second stage and those before it, but for what each of them was
    rounded up by, less than a step."""
    return abs(run.tokens - stage.tokens) <= stage.a_step * (1 + len(stage.stage.contexts))


def _who_has(values: Sequence[Any], names: pd.Series) -> str:
    """Who has which value, None apart: "60000: rope-s0-1f2e3d and 3 more, 80000: alibi-s0-4a5b6c"."""
    return ", ".join(
        f"{value}: {having.iloc[0]}" + (f" and {len(having) - 1} more" if len(having) > 1 else "")
        for value, having in names.groupby(values, sort=False)
    )
