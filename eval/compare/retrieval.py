"""Retrieval, encoding beside encoding: what each finds of what lies far back (eval/measure/retrieval.py), over seeds.

An encoding retrieves at its training context where its gain there, over all depths and seeds, is LEAST nats a token or
more, and separable from none. Then its recovery elsewhere is the gain there as a share of that, both over the same
windows; and a seed passes where its own recovery is PASS or more (seeds of one encoding differ by far more in this than
in perplexity, so that the worst of them says what a mean hides). Best is who gains most, as of perplexity who loses
least: a set of those that no other is better than. The two sets, by perplexity and by retrieval, are found together:
Holm's correction with each encoding counts the comparisons by the one and by the other.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.compare.comparison import Comparison, last_place, units_of
from eval.compare.paired import DIFFERENCE, frame_of, losses_by, paired_differences
from eval.compare.runs import Run
from eval.measure.rows import row_key
from eval.measure.statistics import among_best, p_values, perplexity_interval, ratio_interval, share_interval
from eval.measure.units import RETRIEVED

LEAST = 0.1  # nats a token: a copy is worth several, so that less is no retrieval, however sure
PASS = 0.8  # of the gain at the training context
HEADLINES = ("pair", "span")  # the verdict goes by the first of them that was looked for
PLACE = ["needle", "extension", "context_length"]
DEEP = [*PLACE, "depth"]
SEEN = [*DEEP, "length_ratio", "label", "encoding", "control", "seed", "run_id"]
FOUND = ["gain", "gain_low", "gain_high", "recovery", "recovery_low", "recovery_high", "worst_seed", "best_seed"]
FOUND += ["passed", "exact_match", "exact_low", "exact_high", "nats_without", "nats_found"]
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
    best: by needle the labels that no other is better than, at the longest context without an extension.
    beside: the like by perplexity, at the longest context of its own headline; empty where there is none.
    undefined: a row a (extension, context length, label) without a figure, and why.
    objection: why nothing is compared; None where it is.
    """

    recalled: pd.DataFrame
    by_depth: pd.DataFrame
    summary: pd.DataFrame
    best: dict[str, set[str]]
    beside: set[str]
    undefined: pd.DataFrame
    objection: str | None = None

    @property
    def headline(self) -> str:
        """The needle that the verdict goes by."""
        return next(name for name in HEADLINES if name in self.best)

    @property
    def trained(self) -> pd.DataFrame:
        """Of encodings at the training context without an extension, by the headline's needle, most gain first."""
        rows = self.summary.query("extension == 'none' and needle == @self.headline and length_ratio == 1")
        return rows[rows["control"].isna()]

    @property
    def last(self) -> pd.DataFrame:
        """The summary's rows of encodings at the longest context without an extension, by the headline's needle."""
        rows = self.summary.query("extension == 'none' and needle == @self.headline")
        rows = rows[rows["control"].isna()]
        return rows[rows["context_length"] == rows["context_length"].max()]


@functools.lru_cache(maxsize=1)  # the terminal, report.md and the page ask for the same
def retrieval_of(comparison: Comparison) -> Retrieval | None:
    """None where no run that is compared was asked."""
    rows, recalled = _read(comparison.compared)
    if comparison.objection or rows.empty or recalled.empty:
        return None
    asked = rows.groupby("needle")["targets_id"].nunique()
    if (asked > 1).any():
        objection = "the runs were not asked the same (other settings of eval.probe or eval.lengths): score them again"
        return Retrieval(recalled, *[pd.DataFrame()] * 2, {}, set(), pd.DataFrame(), objection)
    recalled = recalled[_whole(rows, recalled)]
    if recalled.empty:
        return None
    over = recalled.groupby([name for name in SEEN if name != "depth"] + ["window"], dropna=False, sort=False)
    sums = {name: (name, "sum") for name in ("tokens", "without", "found", "gain")}
    whole = over.agg(block=("block", "first"), exact=("exact", "mean"), **sums).reset_index()
    trained = whole[(whole["context_length"] == comparison.context) & (whole["extension"] == "none")]
    settings = (trained, comparison.level)
    by_depth, summary = _summarise(recalled, DEEP, *settings), _summarise(whole, PLACE, *settings)
    losses = whole[whole["control"].isna()].assign(nats=lambda frame: -frame["gain"])
    differences = paired_differences(losses, PLACE, "label", [comparison.reference], comparison.level)
    differences = differences.droplevel("reference")[DIFFERENCE]
    summary = summary.join(differences, differences.index.names)
    summary = summary.sort_values([*PLACE, "gain"], ascending=[True] * 3 + [False], kind="stable")
    best, beside = _best(comparison, losses)
    undefined = rows[rows["status"] != "ok"].drop_duplicates(["extension", "context_length", "label"])
    return Retrieval(recalled, by_depth, summary.reset_index(drop=True), best, beside, undefined)


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


def _whole(rows: pd.DataFrame, recalled: pd.DataFrame) -> pd.Series:
    """Which of the windows are of a place at which all runs of their label have a figure: the mean of those that
    survive would flatter it."""
    runs = rows.groupby("label")["run_id"].nunique()
    figures = recalled.groupby([*DEEP, "label"])["run_id"].transform("nunique")
    return figures == recalled["label"].map(runs)


def _summarise(windows: pd.DataFrame, by: Sequence[str], trained: pd.DataFrame, level: float) -> pd.DataFrame:
    """FOUND of each label at each place. trained: the windows at the training context over all depths, without an
    extension."""
    records = []
    bases = {key: _arrays(own) for key, own in trained.groupby(["needle", "label"])}
    for place, own in windows.groupby([*by, "label"]):
        first, arrays = own.iloc[0], _arrays(own)
        facts = {name: first[name] for name in ("length_ratio", "encoding", "control")}
        base = bases.get((first["needle"], first["label"]))
        records.append(dict(zip([*by, "label"], place, strict=True)) | facts | _found(arrays, base, level))
    names = [*by, "length_ratio", "label", "encoding", "control", "seeds", *FOUND, *ABOUT]
    return frame_of(records, names).astype(dict.fromkeys(FOUND, float))


def _arrays(own: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a label's windows came to: seeds in rows (S, W), and of the windows tokens and block (W,)."""
    own = own.sort_values(["seed", "window"])
    seeds = own["seed"].nunique()
    found = {name: own[name].to_numpy(float).reshape(seeds, -1) for name in ("gain", "without", "found", "exact")}
    return found | {name: own[name].to_numpy(float)[: len(own) // seeds] for name in ("tokens", "block")}


def _found(own: dict[str, np.ndarray], base: dict[str, np.ndarray] | None, level: float) -> dict[str, object]:
    """FOUND and ABOUT of one label at one place. base: its windows at the training context."""
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
    there = perplexity_interval(base["gain"], base["tokens"], base["block"], level=level)
    if there.nats < LEAST or (there.low is not None and there.low <= 0):
        return found
    share = own["tokens"].sum() / base["tokens"].sum()  # those of one depth, or of all
    bounds = ratio_interval(own["gain"] / share, base["gain"], base["tokens"], own["block"], level=level)
    at_L = base["gain"].sum(axis=1) / base["tokens"].sum()
    seeds = np.where(at_L >= LEAST, own["gain"].sum(axis=1) / own["tokens"].sum() / np.maximum(at_L, LEAST), 0.0)
    spread = {"worst_seed": seeds.min(), "best_seed": seeds.max(), "passed": float((seeds >= PASS).mean())}
    return found | dict(zip(("recovery", "recovery_low", "recovery_high"), bounds, strict=True)) | spread


def _best(comparison: Comparison, losses: pd.DataFrame) -> tuple[dict[str, set[str]], set[str]]:
    """Of each needle, and by perplexity, the labels that no other is better than at the longest context without an
    extension, found together. losses: of windows over all depths."""
    plain = losses[losses["extension"] == "none"]
    plain = plain[plain["context_length"] == plain["context_length"].max()]
    measures = {place[0]: found for place, *found in losses_by(plain, ["needle"], "label")}
    perplexity = None
    if len(rows := last_place(comparison.summary)):
        place = rows[["protocol", "extension", "context_length"]].head(1)
        windows = comparison.windows[comparison.windows["control"].isna()].query("position == 0").merge(place)
        ((_, *perplexity),) = losses_by(windows, ["protocol"], "label")
    headline = next(name for name in HEADLINES if name in measures)
    compared = {name: p_values(*found) for name, found in measures.items()}
    by_perplexity = p_values(*perplexity) if perplexity else {}
    best = {name: among_best(*found, level=comparison.level, beside=by_perplexity) for name, found in measures.items()}
    together = compared[headline]
    beside = among_best(*perplexity, level=comparison.level, beside=together) if perplexity else set()
    return best, beside
