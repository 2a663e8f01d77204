"""Holds a sweep's orderings against published ones: agree, disagree or not separable, each with its numbers.

    python -m scripts.literature SWEEP

Prints a table and writes SWEEP/literature.csv; eval.compare.literature says what a statement is, and when it counts.
"""

import sys
from pathlib import Path

from eval.record.jobs import FAILED, MISTAKES, one_sentence

USAGE = "usage: python -m scripts.literature SWEEP"


def main(arguments: list[str]) -> None:
    from eval.compare.comparison import read_comparison
    from eval.compare.literature import check
    from eval.record.folder import write_table

    if len(arguments) != 1:
        raise ValueError(USAGE)
    folder = Path(arguments[0])
    comparison = read_comparison(folder)
    if comparison.objection:
        raise ValueError(comparison.objection)
    rows = check(comparison.compared, comparison.summary, comparison.level)
    if not rows:
        raise ValueError(
            f"{folder}: no published study has an ordering that this sweep has both sides of; score two of "
            "its encodings, or lengths beyond the training context, by the same protocol"
        )
    write_table(folder / "literature.csv", rows)
    print_statements(rows)
    print(folder / "literature.csv")


def print_statements(rows: list[dict]) -> None:
    """A table for each study and protocol, and the count of verdicts."""
    from collections import Counter
    from itertools import groupby

    from rich.table import Table

    from eval.record.terminal import console

    for (study, published, protocol), group in groupby(
        rows, key=lambda row: (row["study"], row["published_protocol"], row["protocol"])
    ):
        table = Table(title=f"{study}: {published} there, {protocol} here")
        table.add_column("published statement")
        for name in ("there", "here", "interval", "p after Holm", "seeds"):
            table.add_column(name, justify="right")
        table.add_column("verdict")
        for row in group:
            there = f"{row['published_percent']:+.1f} %"
            p = "-" if row.get("p_holm") is None else f"{row['p_holm']:.2g}"
            table.add_row(row["statement"], there, *_here(row), p, str(row["seeds"]), row["verdict"])
        console().print(table)
    counts = Counter(row["verdict"] for row in rows)
    verdicts = ", ".join(f"{counts[name]} {name}" for name in ("agree", "disagree", "not separable"))
    print(f"{verdicts}; verdicts go by p, corrected over all questions, each interval is that of a single one")


def _here(row: dict) -> tuple[str, str]:
    """The sweep's change and its interval, or why there is none."""
    if row.get("percent") is None:
        return "-", row["reason"]
    if row["percent_low"] is None:
        return f"{row['percent']:+.1f} %", row["reason"]
    return f"{row['percent']:+.1f} %", f"{row['percent_low']:+.1f} to {row['percent_high']:+.1f} %"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MISTAKES as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr)
        sys.exit(FAILED)
