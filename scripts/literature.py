"""Holds a sweep's orderings against published ones: agree, disagree or not separable, each with its numbers.

    python -m scripts.literature SWEEP

Prints a table and writes SWEEP/literature.csv; eval.compare.literature says what a statement is, and when it counts.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.command import end_with, folder_and_options

if TYPE_CHECKING:
    import pandas as pd

USAGE = "usage: python -m scripts.literature SWEEP"


def main(arguments: list[str]) -> None:
    from eval.compare.comparison import read_comparison
    from eval.compare.literature import check
    from eval.record.files import write_table

    folder = Path(folder_and_options(arguments, USAGE)[0])
    comparison = read_comparison(folder)
    if comparison.objection:
        raise ValueError(comparison.objection)
    rows = check(comparison)
    if rows.empty:
        raise ValueError(
            f"{folder}: no published study has an ordering that this sweep has both sides of; score two of "
            "its encodings, or lengths beyond the training context, by the same protocol, or two by the same needle"
        )
    write_table(folder / "literature.csv", rows)
    print_statements(rows)
    print(folder / "literature.csv")


def differences(row: Any) -> tuple[str, str, str]:
    """That there, that here, and its interval: of perplexity, or of what is retrieved."""
    if row.kind == "retrieval":
        there, numbers = (
            f"{row.published_points:+.1f} points",
            (row.difference, row.difference_low, row.difference_high),
        )
    else:
        there, numbers = f"{row.published_percent:+.1f} %", (row.percent, row.percent_low, row.percent_high)
    here, low, high = (f"{number:+.3f}" if row.unit == "nats" else f"{number:+.1f}" for number in numbers)
    bounded = row.reason if math.isnan(numbers[1]) else f"{low} to {high} {row.unit}"
    return there, "-" if math.isnan(numbers[0]) else f"{here} {row.unit}", bounded


def print_statements(rows: pd.DataFrame) -> None:
    """A table for each study and protocol, and the count of verdicts."""
    from eval.record.terminal import DASH, print_table

    head = ("published statement", "verdict", "there", "here", "interval", "p after Holm", "seeds")
    for (study, published, here), group in rows.groupby(["study", "published_protocol", "protocol"], sort=False):
        cells = [
            (
                row.statement,
                row.verdict,
                *differences(row),
                DASH if math.isnan(row.p_holm) else f"{row.p_holm:.2g}",
                str(row.seeds),
            )
            for row in group.itertuples()
        ]
        print_table(f"{study}: {published} there, {here} here", head, cells, words=2)
    print()
    counts = rows["verdict"].value_counts()
    verdicts = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("agree", "disagree", "not separable"))
    print(f"{verdicts}; verdicts go by p, corrected over all questions, each interval is that of a single one")


if __name__ == "__main__":
    end_with(main)
