"""How a report shows effective contexts, which eval/measure/effective.py defines: a sentence and a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from eval.compare.comparison import HEADLINE, Comparison
from eval.compare.show import SPACE, Table, column, columns_by_length, intervals, listed, show_length, show_nats
from eval.measure.effective import AT_MOST, SIGNS


def effective_sentences(comparison: Comparison) -> Iterator[str]:
    """Which encodings have which effective context, the longest first, without an extension."""
    if comparison.effective.empty:
        return
    rows = comparison.effective.dropna(subset="effective_context").query("extension == 'none'")
    rows = rows[rows["label"].isin(comparison.encodings)]
    rows = rows.assign(short=rows["effective_bound"] == AT_MOST).sort_values(["short", "label"], kind="stable")
    groups = [own for _, own in rows.groupby(["effective_context", "effective_bound"], sort=False, dropna=False)]
    groups.sort(key=lambda own: (-own["effective_context"].iloc[0], own["short"].iloc[0]))
    who = [f"all {len(rows)}"] if len(groups) == 1 < len(rows) else [listed(own["label"]) for own in groups]
    found = [f"{_shown(next(own.itertuples()), comparison)} for {each}" for own, each in zip(groups, who, strict=True)]
    if found:
        yield f"The effective context, the last at which a doubling still lowers the loss, is {'; '.join(found)}."


def _shown(row: Any, comparison: Comparison) -> str:
    """ "≤ 128 (1x)", or why it is not known."""
    if pd.isna(row.effective_context):
        return row.reason
    shown = SIGNS.get(row.effective_bound, "") + show_length(row.effective_context, comparison.context)
    return shown.replace(" ", SPACE)  # which doesn't break


def effective_table(comparison: Comparison) -> Table:
    """A row a label and extension, the longest effective context first: that, what the doubling to it has gained, and
    the gain of every doubling."""
    rows, gains = comparison.effective, comparison.gains
    if rows.empty:
        return Table("Effective context", [])
    order = [rows["extension"] != "none", rows["extension"], ~rows["label"].isin(comparison.encodings)]
    order += [-rows["effective_context"], rows["label"]]
    rows = rows.loc[pd.concat(order, axis=1, keys=range(5)).sort_values([*range(5)]).index].reset_index(drop=True)
    details = zip(intervals(gains, "gain", show_nats), gains["verdict"], strict=True)
    by_length = gains.assign(at=gains["context_length"], detail=[", ".join(filter(None, each)) for each in details])
    titles = {n: f"to {show_length(n, comparison.context)}" for n in sorted(gains["context_length"].unique().tolist())}
    keys = pd.MultiIndex.from_frame(rows[["label", "extension"]])
    shown = pd.Series([_shown(row, comparison) for row in rows.itertuples()], dtype=object)
    return Table(
        "Effective context",
        [
            column("encoding", rows["label"]),
            *([column("extension", rows["extension"])] if (rows["extension"] != "none").any() else []),
            column("effective context", shown),
            column("gained there", rows["effective_gain"], show_nats, intervals(rows, "effective_gain", show_nats)),
            column("visible", rows["smallest_detectable"], "{:.4f}".format),
            *columns_by_length(by_length, keys, "gain", show_nats, titles),
        ],
        f"{HEADLINE}: the last length, in doublings from the shortest, at which the loss is significantly below that "
        "at half of it; gains in nats a token, on the same targets, paired over "
        f"{' or '.join(sorted(gains['covers'].unique()))}, verdicts after Holm's correction for all doublings and "
        "encodings of an extension; ≤: the first doubling brings nothing, and below nothing was asked; ≥: every one "
        "that could be asked does; visible: a gain of this size by the one that ended it would have been found four "
        "times in five",
        labels=rows["label"],
    )
