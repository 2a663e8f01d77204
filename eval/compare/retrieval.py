"""Retrieval, encoding beside encoding: what each finds of what lies far back (eval/measure/retrieval.py), over seeds.

An encoding retrieves at its training context where its gain there, over all depths and seeds, is LEAST nats a token or
more, and separable from none. Then its recovery elsewhere is the gain there as a share of that, both over the same
windows; and a seed passes where its own recovery is PASS or more (seeds of one encoding differ by far more in this than
in perplexity, so that the worst of them says what a mean hides). Best is who gains most, as of perplexity who loses
least: a set of those that no other is better than. Where the two verdicts are held
against each other, it is at one length, by the encodings that have both figures there, and the two sets are found
together: Holm's correction with each encoding counts the comparisons by the one and by the other.

What is compared was asked of the same windows and at the same depths. A label takes part with all its seeds or not at
all, and not where one of them couldn't be trained.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.compare.comparison import Comparison, last_place, units_of
from eval.compare.paired import DIFFERENCE, arrays_by, frame_of, losses_by, paired_differences
from eval.compare.runs import Run
from eval.measure.rows import row_key
from eval.measure.statistics import among_best, p_values, perplexity_interval, ratio_interval, share_interval
from eval.measure.units import RETRIEVED

LEAST = 0.1  # nats a token: a copy is worth several, so that less is no retrieval, however sure
PASS = 0.8  # of the gain at the training context
HEADLINES = ("pair", "span")  # the verdict goes by the first of them that was looked for
OBJECTION = "the runs were not asked the same (other settings of eval.probe or eval.lengths): score them again"
PLACE = ["needle", "extension", "context_length"]
DEEP = [*PLACE, "depth"]
SEEN = [*DEEP, "length_ratio", "label", "encoding", "control", "seed", "run_id", "targets_id"]
FOUND = ["gain", "gain_low", "gain_high", "recovery", "recovery_low", "recovery_high", "worst_seed", "best_seed"]
FOUND += ["passed", "exact_match", "exact_low", "exact_high", "nats_without", "nats_found"]
SUMS = ["gain", "without", "found", "exact"]  # what a seed came to in each window
ABOUT = ["windows", "interval_covers", "interval_reason"]


@dataclass(frozen=True, eq=False)
class Retrieval:
    """What a sweep's runs find.

    recalled: a row a (needle, extension, context length, depth, label, seed, window): its block, the tokens scored, the
        summed losses `without` the needle and with it (`found`), the gain, and whether the answer matches exactly.
    by_depth: of each (needle, extension, context length, depth, label) the gain, recovery and exact match with their
        intervals, the recovery of the worst and the best seed, and the share of the seeds that pass.
    summary: the like over all depths; most gain first within a place; and against the reference the difference of the
        loss of gain, so that below zero more is found, its interval and verdict.
    best: the labels that no other is better than, by the headline's needle at the longest context without an extension.
    together: where perplexity was scored too, the longest context at which both were, and the labels that no other is
        better than there, by perplexity and by retrieval; see the head of this file.
    unasked: labels that are compared but have no figure at the longest context, though they have one of perplexity.
    objections: by needle, why it is not compared.
    """

    recalled: pd.DataFrame
    by_depth: pd.DataFrame
    summary: pd.DataFrame
    best: set[str]
    together: tuple[int, set[str], set[str]] | None
    unasked: list[str]
    objections: dict[str, str]

    @property
    def headline(self) -> str:
        """The needle that the verdict goes by."""
        return headline(self.summary["needle"])

    @property
    def trained(self) -> pd.DataFrame:
        """Of encodings at the training context without an extension, by the headline's needle, most gain first."""
        rows = self._plain
        return rows[rows["length_ratio"] == 1]

    @property
    def last(self) -> pd.DataFrame:
        """The summary's rows of encodings at the longest context without an extension, by the headline's needle."""
        rows = self._plain
        return rows[rows["context_length"] == rows["context_length"].max()]

    @property
    def _plain(self) -> pd.DataFrame:
        rows = self.summary.query("extension == 'none' and needle == @self.headline")
        return rows[rows["control"].isna()]


@functools.lru_cache(maxsize=1)  # the terminal, report.md and the page ask for the same
def retrieval_of(comparison: Comparison) -> Retrieval | None:
    """None where no run that is compared was asked, or none has a figure."""
    rows, recalled = _read(comparison.compared)
    if comparison.objection or rows.empty:
        return None
    objections = dict.fromkeys(_asked_differently(rows[rows["control"].isna()]), OBJECTION)
    standing = _comparable(comparison, rows, recalled, objections)
    if standing.empty:
        return Retrieval(*[standing] * 3, set(), None, [], objections) if objections else None
    whole = _over_depths(standing)
    trained = whole[(whole["context_length"] == comparison.context) & (whole["extension"] == "none")]
    settings = (trained, comparison.level)
    by_depth, summary = _summarise(standing, DEEP, *settings), _summarise(whole, PLACE, *settings)
    losses = whole[whole["control"].isna()].assign(nats=lambda frame: -frame["gain"])
    differences = paired_differences(losses, PLACE, "label", [comparison.reference], comparison.level)
    differences = differences.droplevel("reference")[DIFFERENCE]
    summary = summary.join(differences, differences.index.names)
    summary = summary.sort_values([*PLACE, "gain"], ascending=[True] * 3 + [False], kind="stable")
    summary = summary.reset_index(drop=True)
    plain = losses[(losses["extension"] == "none") & (losses["needle"] == headline(summary["needle"]))]
    longest = plain[plain["context_length"] == plain["context_length"].max()]
    best = {name for place in _sides(longest) for name in among_best(*place, level=comparison.level)}
    unasked = sorted(set(last_place(comparison.summary)["label"]) - set(longest["label"]))
    return Retrieval(
        *(standing, by_depth, summary, best),
        *(_together(comparison, plain), unasked if len(longest) else [], objections),
    )


def headline(needles: pd.Series) -> str:
    """Which of the needles that were looked for the verdict goes by."""
    return next(name for name in HEADLINES if name in set(needles))


def _asked_differently(rows: pd.DataFrame) -> list[str]:
    """The needles that were not the same in all of the runs."""
    asked = rows.groupby("needle")["targets_id"].nunique()
    return asked.index[asked > 1].tolist()


def _comparable(
    comparison: Comparison, rows: pd.DataFrame, recalled: pd.DataFrame, objections: Collection[str]
) -> pd.DataFrame:
    """Those of the windows that can stand side by side: of labels with all their runs, which could all be trained; of
    the same needles (a control that was asked another has none); at depths that all have everywhere."""
    own = rows[rows["control"].isna()].drop_duplicates("needle").set_index("needle")["targets_id"]
    same = recalled["targets_id"] == recalled["needle"].map(own)
    lost = {run.label for run in comparison.runs if run.diverged}
    kept = recalled[same & ~recalled["needle"].isin(objections) & ~recalled["label"].isin(lost)]
    runs = pd.Series([run.label for run in comparison.compared]).value_counts()
    kept = kept[kept.groupby([*DEEP, "label"])["run_id"].transform("nunique") == kept["label"].map(runs)]
    depths = {}  # by needle
    for (needle, *_), own in kept.groupby([*PLACE, "label"])["depth"]:
        depths[needle] = depths.get(needle, set(own)) & set(own)
    return kept[[depth in depths[needle] for needle, depth in zip(kept["needle"], kept["depth"], strict=True)]]


def _over_depths(recalled: pd.DataFrame) -> pd.DataFrame:
    """The windows with the sums over all depths, and the mean of exact matches."""
    over = recalled.groupby([name for name in SEEN if name != "depth"] + ["window"], dropna=False, sort=False)
    sums = {name: (name, "sum") for name in ("tokens", "without", "found", "gain")}
    return over.agg(block=("block", "first"), exact=("exact", "mean"), **sums).reset_index()


def retrieval_rows(found: Retrieval) -> pd.DataFrame:
    """What retrieval.csv holds: of each label at each place the row over all depths, where `depth` is missing, and
    those by depth."""
    table = pd.concat([found.summary, found.by_depth], ignore_index=True)
    return table.sort_values([*PLACE, "label", "depth"], na_position="first", kind="stable")


def _read(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of retrieval of runs, and what each of their windows came to."""
    rows = frame_of(
        {"label": run.label, "encoding": run.encoding, "control": run.control, "seed": run.seed, "run_id": run.name}
        | {"key": row_key(row), **row}
        for run in runs
        for row in run.results.get("retrieval", [])
    )
    if rows.empty:
        return rows, rows
    units = units_of(runs).reindex(columns=["run_id", "key", "unit", *RETRIEVED])
    found = rows[rows["status"] == "ok"][["key", *SEEN]].merge(units, on=["run_id", "key"])
    return rows, found.rename(columns={"unit": "window"}).assign(gain=found["without"] - found["found"])


def _summarise(windows: pd.DataFrame, by: Sequence[str], trained: pd.DataFrame, level: float) -> pd.DataFrame:
    """FOUND of each label at each place. trained: the windows at the training context over all depths, without an
    extension."""
    records = []
    bases = {key: base for key, base in arrays_by(trained, ["needle", "label"], SUMS) if _retrieves(base, level)}
    facts = windows.groupby([*by, "label"])[["length_ratio", "encoding", "control"]].first().to_dict("index")
    for place, own in arrays_by(windows, [*by, "label"], SUMS):
        named = dict(zip([*by, "label"], place, strict=True))
        base = bases.get((named["needle"], named["label"]))
        records.append(named | facts[place] | _found(own, base, level))
    names = [*by, "length_ratio", "label", "encoding", "control", "seeds", *FOUND, *ABOUT]
    return frame_of(records, names).astype(dict.fromkeys(FOUND, float))


def _found(own: dict[str, np.ndarray], base: dict[str, np.ndarray] | None, level: float) -> dict[str, object]:
    """FOUND and ABOUT of one label at one place. base: its windows at the training context, where it retrieves."""
    scored = own["tokens"], own["block"]
    gain = perplexity_interval(own["gain"], *scored, level=level)
    exact = share_interval(own["exact"], own["block"], level=level)
    tokens = own["tokens"].sum() * len(own["gain"])
    found = {
        "seeds": len(own["gain"]),
        **{"gain": gain.nats, "gain_low": gain.low, "gain_high": gain.high},
        **{"exact_match": exact.share, "exact_low": exact.low, "exact_high": exact.high},
        "nats_without": own["without"].sum() / tokens,
        "nats_found": own["found"].sum() / tokens,
        **{"windows": len(own["tokens"]), "interval_covers": gain.covers, "interval_reason": gain.reason},
    }
    if base is None or base["gain"].shape != own["gain"].shape:
        return found
    share = own["tokens"].sum() / base["tokens"].sum()  # those of one depth, or of all
    bounds = ratio_interval(own["gain"] / share, base["gain"], base["tokens"], own["block"], level=level)
    at_L = base["gain"].sum(axis=1) / base["tokens"].sum()
    seeds = np.where(at_L >= LEAST, own["gain"].sum(axis=1) / own["tokens"].sum() / np.maximum(at_L, LEAST), 0.0)
    spread = {"worst_seed": seeds.min(), "best_seed": seeds.max(), "passed": float((seeds >= PASS).mean())}
    return found | dict(zip(("recovery", "recovery_low", "recovery_high"), bounds, strict=True)) | spread


def _retrieves(base: dict[str, np.ndarray], level: float) -> bool:
    """Whether a label with these windows at the training context does; see the head of this file."""
    gain = perplexity_interval(base["gain"], base["tokens"], base["block"], level=level)
    return gain.nats >= LEAST and (gain.low is None or gain.low > 0)


def _sides(windows: pd.DataFrame) -> list[tuple[dict[str, dict[int, np.ndarray]], np.ndarray, np.ndarray]]:
    """`losses_by` of the windows of one place; none where there are none."""
    return [tuple(found) for _, *found in losses_by(windows.assign(place=0), ["place"], "label")]


def _together(comparison: Comparison, plain: pd.DataFrame) -> tuple[int, set[str], set[str]] | None:
    """`Retrieval.together`. plain: windows of one needle over all depths, without an extension."""
    rows = last_place(comparison.summary)
    if rows.empty or plain.empty:
        return None
    windows = comparison.windows.query("extension == 'none' and position == 0")
    windows = windows[windows["control"].isna() & (windows["protocol"] == rows["protocol"].iloc[0])]
    lengths = set(windows["context_length"]) & set(plain["context_length"])
    if not lengths:
        return None
    longest = max(lengths)
    here = [each[each["context_length"] == longest] for each in (windows, plain)]
    both = set(here[0]["label"]) & set(here[1]["label"])
    (perplexity,), (retrieval,) = (_sides(each[each["label"].isin(both)]) for each in here)
    by_perplexity = among_best(*perplexity, level=comparison.level, beside=p_values(*retrieval))
    by_retrieval = among_best(*retrieval, level=comparison.level, beside=p_values(*perplexity))
    return longest, by_perplexity, by_retrieval
