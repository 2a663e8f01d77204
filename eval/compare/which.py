"""Which encoding when: what the bank answers to the questions with which one comes to an encoding. The part of
docs/which.md that is written from it; it names the file by its hash, so that a test sees when it is stale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from conf.compose import composed_each
from eval.compare.comparison import HEADLINE, Comparison
from eval.compare.conclusion import ONE_SEED
from eval.compare.paired import losses_by, paired_differences
from eval.compare.plots import COLOURS, MOST_USED
from eval.compare.ranking import plain_windows
from eval.compare.readme import signed
from eval.compare.report import markdown_table
from eval.compare.show import (
    Table,
    column,
    intervals,
    listed,
    show_interval,
    show_length,
    show_level,
    show_percent,
    show_perplexity,
)
from eval.measure.statistics import Difference, difference, judged, shared_seeds

WHICH = "docs/which.md"
# What a perplexity does from the training context to the longest, by its change, up to so many percent.
BANDS = {
    -1: "falls (by more than 1 %)",
    1: "stays (to 1 %)",
    10: "rises a little (to 10 %)",
    50: "rises (to 50 %)",
    float("inf"): "breaks",
}
EXTENSIONS = 6  # so many of the lowest are named


def which_part(comparison: Comparison, rows: pd.DataFrame, digest: str) -> str:
    """Markdown. rows: those of `ranking.ranked`; digest: the bank's SHA-256."""
    return "\n\n".join([signed(digest), *_sections(comparison, rows)])


def _sections(comparison: Comparison, rows: pd.DataFrame) -> Iterator[str]:
    lengths = np.sort(rows["context_length"].unique()).tolist()
    first, last = lengths[0], lengths[-1]
    near, far = (show_length(length, comparison.context) for length in (first, last))
    at = {length: found.set_index("label") for length, found in rows.groupby("context_length")}
    if rows["seeds"].min() == 1:
        yield ONE_SEED

    yield "### Texts no longer than those trained on"
    yield from _best(at[first], near)
    if len(table := _above_lowest(comparison, at[first], first)):
        yield markdown_table(table)

    if last > first:
        yield "### Longer texts, without training further"
        yield from _best(at[last], far)
        if missing := sorted({*at[first].index} - {*at[last].index}):
            yield f"{' and '.join(missing)}: not defined there, or not trained in every seed."
        yield f"From {near} to {far}, on the same target tokens:"
        yield markdown_table(_growth_table(growth(comparison, first, last)))

        both = [name for name in at[last].index[at[last]["group"] == 1] if at[first]["group"].get(name) == 1]
        yield "### Both at once"
        figures = ", ".join(f"{name} {_figure(at[first].loc[name])} and {_figure(at[last].loc[name])}" for name in both)
        yield f"Among the best at {near} and at {far} are {figures or 'none'}."

    if stretched := [*_extensions(comparison, last)]:
        yield "### A trained RoPE, extended without training"
        yield from stretched


def growth(comparison: Comparison, first: int, last: int) -> dict[str, Difference]:
    """Of each encoding the loss at the length `last` minus that at `first`, on the same targets, judged together."""
    windows = plain_windows(comparison)
    found = {}
    for label, own in windows[windows["context_length"].isin([first, last])].groupby("label"):
        ((_, losses, *scored),) = losses_by(own, ["protocol"], "context_length")
        if len(losses) == 2 and (pair := shared_seeds(losses[last], losses[first])):
            found[label] = difference(*pair, *scored, level=comparison.level, comparisons=None)
    return judged(found, comparison.level)


def above(comparison: Comparison, lowest: str, length: int) -> pd.DataFrame:
    """By label the difference of each other encoding's loss at a length from that of `lowest`; see
    `paired_differences`."""
    windows = plain_windows(comparison)
    here = windows[windows["context_length"] == length]
    return paired_differences(here, ["protocol"], "label", {lowest}, comparison.level).reset_index().set_index("label")


def _figure(row: Any) -> str:
    bounds = show_interval(row.perplexity_low, row.perplexity_high, show_perplexity)
    return f"{show_perplexity(row.perplexity)} ({bounds})"


def _best(rows: pd.DataFrame, where: str) -> Iterator[str]:
    best = rows[rows["group"] == 1].sort_values("nats")
    if len(best) == 1:
        alone = "alone has a figure" if len(rows) == 1 else f"is the best of {len(rows)}"
        yield f"At {where} {best.index[0]} {alone}: {_figure(best.iloc[0])}."
        return
    names = ", ".join(f"{row.Index} {show_perplexity(row.perplexity)}" for row in best.itertuples())
    among = f"At {where} {len(best)} of {len(rows)} can't be told from the best: {names}."
    said = f"{among} {best.index[0]}'s interval is {_figure(best.iloc[0])}."
    last = best.iloc[-1]
    lower = rows[(rows["group"] > 1) & (rows["nats"] < last["nats"])].sort_values("nats")
    if len(lower):
        said += f" Lower than {last.name}, and yet not among them, {'is' if len(lower) == 1 else 'are'} "
        said += (
            f"{listed(lower.index)}: their seeds agree that another is better, those of {last.name} differ too much."
        )
    yield said


def _above_lowest(comparison: Comparison, rows: pd.DataFrame, length: int) -> Table:
    """The encodings that are compared most beside the lowest, at one length."""
    lowest = rows["nats"].idxmin()
    found = above(comparison, lowest, length)
    known = [
        name for name in rows.sort_values("nats").index if name in MOST_USED[: len(COLOURS)] and name in found.index
    ]
    shown = found.loc[known]
    return Table(
        "",
        [
            column("encoding", shown.index),
            column("perplexity", rows["perplexity"].reindex(known), show_perplexity),
            column(f"above {lowest}", shown["difference_percent"], show_percent),
            column(
                f"{show_level(comparison.level)} interval",
                pd.Series(intervals(shown, "difference", show_percent), dtype=object),
            ),
            column("", shown["verdict"].astype(object)),
        ],
    )


def _bounds(change: Difference) -> str:
    return show_interval(change.percent_low, change.percent_high, show_percent)


def _growth_table(found: dict[str, Difference]) -> Table:
    """A row a band of BANDS, with the encodings in it, each with its change and interval."""
    said: dict[str, list[str]] = {}
    for name, change in sorted(found.items(), key=lambda item: item[1].nats):
        limit = next(limit for limit in BANDS if change.percent <= limit)
        said.setdefault(limit, []).append(f"{name} {show_percent(change.percent)} ({_bounds(change)})")
    names = pd.Series(map(", ".join, said.values()))
    return Table("", [column("the perplexity", pd.Series(map(BANDS.get, said))), column("of", names)])


def _extensions(comparison: Comparison, last: int) -> Iterator[str]:
    """The lowest at that length, with their change against none, and how many are better or worse. Of those that come
    to the same figures, as what acts in training alone and what lies inside it do, the innermost stands for all."""
    summary = comparison.summary[comparison.summary["protocol"] == HEADLINE]
    rows = summary[summary["extension"] != "none"].dropna(subset="gain_percent")
    here = rows[rows["context_length"] == last]
    if here.empty:
        return
    around = [name for name, config in composed_each("extension", here["extension"]).items() if "inner" in config]
    here = here.assign(around=here["extension"].isin(around)).sort_values(["nats", "around", "extension"])
    here = here.drop_duplicates("nats")
    plain = summary.query("extension == 'none' and context_length == @last and label == @here.label.iloc[0]")
    (plain,) = plain.itertuples()
    where = show_length(last, comparison.context)
    yield (
        f"At {where} {plain.label} alone comes to {_figure(plain)}; "
        f"{(here['gain_verdict'] == 'better').sum()} of {len(here)} extensions are better, "
        f"{(here['gain_verdict'] == 'worse').sum()} worse. The lowest:"
    )
    shown = here.head(EXTENSIONS)
    by_length = rows.pivot(index="extension", columns="context_length", values="perplexity").loc[shown["extension"]]
    yield markdown_table(
        Table(
            "",
            [
                column("extension", shown["extension"]),
                *(
                    column(show_length(at, comparison.context), by_length[at].reset_index(drop=True), show_perplexity)
                    for at in by_length.columns
                ),
                column("against none there", shown["gain_percent"], show_percent),
                column(
                    f"{show_level(comparison.level)} interval",
                    pd.Series(intervals(shown, "gain", show_percent), dtype=object),
                ),
                column("", shown["gain_verdict"].astype(object)),
            ],
        )
    )
