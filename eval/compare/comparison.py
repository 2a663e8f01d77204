"""A sweep as data frames: every row of its runs, and what they come to over seeds.

    read_comparison("runs/compare").summary

Nothing here knows of tables or pages; eval/compare/report.py shows them. A field that a row doesn't have is missing
(NaN); counts are whole numbers all the same (Int64).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from conf.quick import uncollected
from conf.schema import CompareSettings
from eval.compare.key_tokens import KeyTokens, find_key_tokens
from eval.compare.paired import BEST, DIFFERENCE, arrays_by, best_by, frame_of, paired_differences
from eval.compare.runs import Run, find_objection, find_reference, read_runs
from eval.compare.tasks import TASK, summarise_tasks
from eval.measure.effective import EFFECTIVE, effective_contexts, gains
from eval.measure.rows import HEADLINE
from eval.measure.statistics import perplexity_interval
from eval.record.files import write_table

PLACE = ["protocol", "extension", "context_length"]
STRETCH = [*PLACE, "position"]  # position: 0 where a row is about whole windows
KEYS = [*STRETCH, "label"]
MANY = 12  # encodings; beyond, a report shows less of each: differences to the reference and the best alone, ...
# Of a second stage: its parent's run (of a label, the runs by seed), the tokens trained on before and in the stage, the
# contexts of all stages ("128>512"), the extension that it is trained with.
STAGE = ["parent", "tokens_before", "stage_tokens", "contexts", "trained_extension"]
# The columns of `scored` that are there in any case; of `summary` and, with the stretch's, `positions`; of `tasks`.
FIELDS = ["run_id", "label", "encoding", "seed", "control", "protocol", "extension", "context_length", "length_ratio"]
FIELDS += ["position_from", "position", "status", "reason", "targets_id", "split", "precision", "executor"]
FIELDS += ["settings", "seconds", "perplexity", "perplexity_low", "perplexity_high", "nats", "bits_per_byte"]
FIELDS += ["tokens", "windows", "blocks", "task", "length", "examples", *STAGE]
FIGURES = ["protocol", "extension", "context_length", "length_ratio", "position_from", "position", "label"]
FIGURES += ["encoding", "control", "seeds", "perplexity", "perplexity_low", "perplexity_high", "nats"]
FIGURES += ["bits_per_byte", "tokens", "windows", "blocks", "interval_level", "interval_covers", "interval_reason"]
FIGURES += ["precision", "executor", "settings", *STAGE]
GAIN = ["gain_percent", "gain_low", "gain_high", "gain_verdict"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A sweep's runs and what they come to.

    rows: every row of every run as its results have it, with what identifies the run; comparison.csv.
    scored: of `rows` those of perplexity of the runs that are compared. Here and below a floor stands under its own
        name as label, seed 0, and `control` says what a label is that is no rival: "floor", or trained on more.
    apart: by a run's name, why the figures of this control can't stand beside those of the others: what differs.
    windows: what was scored in each window of the rows that count: nats (their sum), tokens, block.
    summary: a row for each (protocol, extension, context length, label), best first within a place: perplexity with
        its interval, nats a token, bits a byte; without an extension, whether the label is among the best there (see
        eval/measure/statistics.py); against the reference the difference, its interval and verdict; and gain_..., the
        like of an extension against none.
    differences: the like against others than the reference, a row for each (place, label, reference): each label is one
        in its turn, of more than MANY the reference alone, and the best at the longest context.
    positions: likewise for each stretch of positions of the protocol `positions`, without differences.
    tasks: a row for each (task, extension, length, label), most exact first; see `summarise_tasks`.
    gains, effective: what each doubling of the context brings under the headline's protocol, and the effective context
        that this comes to; see eval/measure/effective.py. Controls are judged with the others, floors are not.
    key_tokens: what an evaluator has chosen, where there is one: all frames but `rows` have rows of the protocol KEY
        then; or, in words, why that of the settings can't choose. See eval/compare/key_tokens.py.
    objection: why nothing is compared (then these are empty), naming what differs; None where the runs are comparable.
    remarks: sentences that stand before the conclusion's own, of whoever has put the runs together.
    """

    path: Path
    runs: list[Run]
    reference: str | None
    level: float
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    scored: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FIELDS, dtype=float))
    windows: pd.DataFrame = field(default_factory=pd.DataFrame)
    summary: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FIGURES, dtype=float))
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    positions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=FIGURES, dtype=float))
    tasks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=TASK, dtype=float))
    apart: Mapping[str, str] = field(default_factory=dict)
    gains: pd.DataFrame = field(default_factory=pd.DataFrame)
    effective: pd.DataFrame = field(default_factory=pd.DataFrame)
    key_tokens: KeyTokens | str | None = None
    objection: str | None = None
    remarks: Sequence[str] = ()

    @functools.cached_property
    def compared(self) -> list[Run]:
        return [run for run in self.runs if run.problem is None and run.name not in self.apart]

    @functools.cached_property
    def left_out(self) -> list[Run]:
        return [run for run in self.runs if run.problem is not None]

    @functools.cached_property
    def encodings(self) -> list[str]:
        """The labels that are compared, sorted."""
        return sorted({run.label for run in self.compared if not run.control})

    @functools.cached_property
    def labels(self) -> list[str]:
        """The encodings, and after them the controls."""
        controls = {run.label for run in self.compared if run.control}
        return self.encodings + sorted(controls | {*self.scored["label"][self.scored["control"].notna()]})

    @functools.cached_property
    def context(self) -> int | None:
        """The training context, in tokens, of the runs that are no controls; of second stages, that of their first."""
        return min((run.settings.first_context for run in self.compared if not run.control), default=None)


@uncollected()
def read_comparison(
    path: Path | str,
    *,
    reference: str | None = None,
    level: float | None = None,
    jobs: Collection[str] = (),
    compare: CompareSettings | None = None,
    **chosen_by: Any,
) -> Comparison:
    """The comparison of a sweep's folder, or the figures of one run's own.

    compare: the settings `compare.*`; None: those of the first run.
    reference, level: instead of them. A reference that is not among the runs is refused here.
    chosen_by: evaluator, key_gain, key_loss, likewise; an evaluator that can't choose is refused here.
    jobs: names of runs that should be there; one without a folder is a run that is missing.

    Raises ValueError where the folder holds no run at all.
    """
    asked = {"reference": reference, "level": level, "compare": compare, **chosen_by}
    return compare_runs(Path(path), read_runs(Path(path), jobs), **asked)


def compare_runs(
    path: Path,
    runs: list[Run],
    *,
    reference: str | None = None,
    level: float | None = None,
    compare: CompareSettings | None = None,
    against: Collection[str] = (),
    **chosen_by: Any,
) -> Comparison:
    """`read_comparison` of runs that have been read. path: where the comparison's own files lie; against: labels that
    differences are taken to in any case, however many there are."""
    compared = [run for run in runs if run.problem is None]
    compare = compare or (compared[0].settings.compare if compared else CompareSettings(None, level=0.95))
    level = compare.level if level is None else level
    labels = sorted({run.label for run in compared if not run.control})
    found = find_reference(labels, reference or compare.reference)
    if reference and not (found == reference or (found or "").split(" (")[0] == reference):
        raise ValueError(f"reference={reference}: not among the compared encodings, {', '.join(labels)}")
    rows = tidy_rows(runs)
    whole = rows.reindex(columns=list(dict.fromkeys([*rows, *FIELDS])))
    apart, objection = _objections(compared, whole)
    compared = [run for run in compared if run.name not in apart]
    whole = whole[whole["run_id"].isin([run.name for run in compared])]
    chosen, keyed = (None, []) if objection else _key_tokens(runs, compared, compare, chosen_by)
    whole = pd.concat([tidy_rows(keyed), whole]) if keyed else whole
    whole = pd.concat([whole, *_lost(whole, runs)])
    scored = _stand_ins(whole[whole["task"].isna()], [run for run in runs if run.name not in apart])
    if objection:
        return Comparison(path, runs, found, level, rows, scored, apart=apart, objection=objection)
    standing, windows = _standing(scored, [*compared, *keyed])
    summaries = summarise(standing, windows, found, level, against)
    return Comparison(
        *(path, runs, found, level, rows, scored, windows),
        *(*summaries, summarise_tasks(whole[whole["task"].notna()], units_of(compared), found, level), apart),
        *(doubled := _gains(windows, level), effective_contexts(doubled)),
        key_tokens=chosen,
    )


def units_of(runs: Iterable[Run]) -> pd.DataFrame:
    """What is behind the rows of retrieval and tasks of runs."""
    units = [run.units.assign(run_id=run.name) for run in runs if len(run.units)]
    return pd.concat(units, ignore_index=True) if units else pd.DataFrame(columns=["run_id"])


def _key_tokens(
    runs: Sequence[Run], compared: Sequence[Run], compare: CompareSettings, chosen_by: Mapping[str, Any]
) -> tuple[KeyTokens | str | None, list[Run]]:
    """`find_key_tokens`; in words why the evaluator of the settings can't choose."""
    try:
        return find_key_tokens(runs, compared, replace(compare, **chosen_by))
    except ValueError as error:
        if chosen_by.get("evaluator"):
            raise
        return str(error), []


def _gains(windows: pd.DataFrame, level: float) -> pd.DataFrame:
    headline = "protocol == @HEADLINE and position == 0 and control != 'floor'"
    return gains(windows if windows.empty else windows.query(headline), level)


def _objections(runs: Sequence[Run], rows: pd.DataFrame) -> tuple[dict[str, str], str | None]:
    """Which controls stand apart, by name, and why; and why the other runs can't be compared either."""

    def ask(asked: Sequence[Run]) -> str | None:
        return find_objection(asked, rows[rows["run_id"].isin([run.name for run in asked])])

    standing, apart = [run for run in runs if not run.control], {}
    if differing := ask(standing):
        return {}, f"These runs are not comparable: they differ in {differing}."
    controls = [run for run in runs if run.control]
    for label in dict.fromkeys(run.label for run in controls):
        own = [run for run in controls if run.label == label]
        if differing := ask([*standing, *own]):
            apart |= {run.name: differing for run in own}
        else:
            standing += own
    return apart, None


def tidy_rows(runs: Iterable[Run]) -> pd.DataFrame:
    """Every row of every run, with what identifies the run."""
    hashes = ("config_hash", "corpus_hash", "tokenizer_hash")
    return frame_of(
        {"label": run.label, "encoding": run.encoding, "seed": run.seed, "run_id": run.name, "state": run.state}
        | {name: run.results.get(name) for name in hashes}
        | _stage_fields(run)
        | row
        for run in runs
        for row in [*run.results["rows"], *run.results.get("tasks", [])]
    )


def _stage_fields(run: Run) -> dict[str, Any]:
    """STAGE of a run; empty where it is no second stage."""
    if run.stage is None:
        return dict.fromkeys(STAGE)
    contexts = ">".join(map(str, run.settings.contexts))
    values = (run.stage.run, run.stage.tokens, run.settings.training.tokens, contexts, run.extension or None)
    return dict(zip(STAGE, values, strict=True))


def _lost(rows: pd.DataFrame, runs: Sequence[Run]) -> Iterator[pd.DataFrame]:
    """Rows for each run whose training diverged: at every place that its label has in another seed, it has too."""
    keys = [*PLACE, "position_from", "position", "task", "length", "length_ratio", "label", "encoding"]
    own = rows[rows["control"].isna()].drop_duplicates(keys)
    for run in runs:
        if run.diverged and (own["label"] == run.label).any():
            facts = {"run_id": run.name, "seed": run.seed, "status": "diverged", "reason": run.problem}
            yield own.loc[own["label"] == run.label, keys].assign(**facts)


def _stand_ins(rows: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Rows with floors under their own names, and controls marked as such."""
    floor = rows["control"].notna()
    return rows.assign(
        label=rows["control"].where(floor, rows["label"]),
        encoding=rows["control"].where(floor, rows["encoding"]),
        seed=rows["seed"].mask(floor, 0),
        control=rows["run_id"].map({run.name: run.control for run in runs}).astype(object).mask(floor, "floor"),
        position=rows["position"].fillna(0).astype("Int64"),
        **rows[STAGE].mask(floor),
    )


def _standing(scored: pd.DataFrame, runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that count, and the windows behind them.

    A label that is undefined at a place, or has diverged there or in training with any of its seeds, has no row: the
    mean of those that survived would flatter it. A floor has the same figures in every run, so one stands for all.
    """
    whole = scored["status"].eq("ok").groupby([scored[key] for key in KEYS]).transform("all")
    rows = scored[whole.astype(bool)].drop_duplicates([*KEYS, "seed"], keep="last")
    if rows.empty:
        return rows, pd.DataFrame()
    windows = pd.concat([run.windows.assign(run_id=run.name, label=run.label) for run in runs], ignore_index=True)
    windows = windows.assign(
        window=windows.groupby(["run_id", "key"]).cumcount(),
        label=windows["control"].where(windows["control"].notna(), windows["label"]),
        position=windows["position"].fillna(0).astype("Int64"),
    )
    windows = windows[["run_id", *KEYS, "window", "tokens", "block", "nats"]]
    return rows, windows.merge(rows[["run_id", *KEYS, "seed", "control"]])


def last_place(summary: pd.DataFrame) -> pd.DataFrame:
    """The encodings' rows at the longest context without an extension, best first: of the headline's protocol where it
    was run."""
    rows = summary[summary["control"].isna()].query("extension == 'none'")
    protocol = HEADLINE if HEADLINE in set(rows["protocol"]) else rows["protocol"].min()
    rows = rows[rows["context_length"] == rows["context_length"].max()]
    return rows[rows["protocol"] == protocol]


def summarise(
    rows: pd.DataFrame, windows: pd.DataFrame, reference: str | None, level: float, against: Collection[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """`summary`, `differences` and `positions` of a comparison, from rows that count and the windows behind them.
    against: labels that are references in any case."""
    columns = [name for name in FIGURES if "position" not in name] + [BEST, "reference", *GAIN, *DIFFERENCE]
    if rows.empty:
        empty = pd.DataFrame(columns=columns, dtype=float)
        return empty, empty, pd.DataFrame(columns=FIGURES, dtype=float)
    seeds, intervals = rows.groupby(KEYS), _intervals(windows, level)
    figures = rows.drop_duplicates(KEYS).set_index(KEYS)  # of the first seed, what is the same for all
    figures["seeds"] = seeds.size().astype("Int64")
    figures["parent"] = seeds["parent"].agg(lambda runs: ", ".join(runs.dropna().unique()) or None)
    figures["bits_per_byte"] = seeds["bits_per_byte"].agg(lambda bits: bits.mean(skipna=False))
    figures = figures.drop(columns=intervals.columns, errors="ignore").join(intervals)
    figures = figures.reset_index().sort_values([*STRETCH, "nats"], kind="stable")
    summary, positions = figures[figures["position"] == 0], figures[figures["position"] > 0]
    whole = windows[windows["position"] == 0]
    rivals = whole[whole["control"].isna()]
    labels = rivals["label"].unique().tolist()
    few = {reference, *last_place(summary)["label"].head(1), *against}
    references = labels if len(labels) <= MANY else few
    differences = paired_differences(rivals, PLACE, "label", references, level)
    gains = paired_differences(whole, ["protocol", "context_length", "label"], "extension", ["none"], level)
    gains = gains.rename(columns={name.replace("gain", "difference"): name for name in GAIN} | {"verdict": GAIN[-1]})
    gains = gains.droplevel("reference")[GAIN]
    best = best_by(rivals[rivals["extension"] == "none"], PLACE, level)
    summary = summary.join(best, best.index.names).join(gains, gains.index.names)

    def judged(reference: str | None, rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.assign(reference=reference)
        return rows.join(differences[DIFFERENCE], differences.index.names)[columns].reset_index(drop=True)

    compared = [judged(each, summary[summary["control"].isna()]) for each in references]
    return judged(reference, summary), pd.concat(compared), positions[FIGURES].reset_index(drop=True)


def _intervals(windows: pd.DataFrame, level: float) -> pd.DataFrame:
    """Each label's perplexity at each place, over its seeds; by KEYS."""
    records = []
    for place, own in arrays_by(windows, KEYS, ["nats"]):
        found = perplexity_interval(own["nats"], own["tokens"], own["block"], level=level)
        figures = {name: getattr(found, name) for name in ("perplexity", "perplexity_low", "perplexity_high", "nats")}
        figures |= {f"interval_{name}": getattr(found, name) for name in ("level", "covers", "reason")}
        records.append(dict(zip(KEYS, place, strict=True)) | figures)
    return frame_of(records).set_index(KEYS)


def summary_table(comparison: Comparison) -> pd.DataFrame:
    """What summary.csv holds: every label at every place; without the columns of differences, of effective contexts
    (which stand with the headline's protocol) and of second stages, where there are none."""
    frames = [_with_effective(comparison), comparison.positions, comparison.tasks]
    table = pd.concat([frame for frame in frames if len(frame)] or [pd.DataFrame(columns=FIGURES)], ignore_index=True)
    return _without_empty(table, DIFFERENCE, GAIN, EFFECTIVE, STAGE)


def _with_effective(comparison: Comparison) -> pd.DataFrame:
    if comparison.effective.empty:
        return comparison.summary
    found = comparison.effective[["extension", "label", *EFFECTIVE]].assign(protocol=HEADLINE)
    table = comparison.summary.merge(found, "left", on=["protocol", "extension", "label"])
    ratio = table["effective_context"] * table["length_ratio"] / table["context_length"]
    table.insert(table.columns.get_loc("effective_context") + 1, "effective_ratio", ratio)
    return table


def _without_empty(table: pd.DataFrame, *groups: Sequence[str]) -> pd.DataFrame:
    """The table without those groups of columns that hold nothing."""
    for fields in groups:
        if table.reindex(columns=fields).isna().all(axis=None):
            table = table.drop(columns=fields, errors="ignore")
    return table


def write_comparison(comparison: Comparison) -> None:
    """comparison.csv (every row of every run) and summary.csv (every label at every place) in the sweep's folder."""
    write_table(comparison.path / "comparison.csv", _without_empty(comparison.rows, STAGE))
    write_table(comparison.path / "summary.csv", summary_table(comparison))
