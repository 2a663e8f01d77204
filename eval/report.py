"""A sweep's report, written from its runs' files: comparison.csv, summary.csv, report.md and report.html."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator
from pathlib import Path

from eval.comparison import Comparison, read_comparison, write_comparison
from eval.conclusion import conclude
from eval.results import write_atomic
from eval.tables import (
    Table,
    control_table,
    cost_table,
    difference_table,
    left_out_table,
    perplexity_table,
    places,
    provenance_table,
    undefined_table,
)


def write_report(
    path: Path | str, *, reference: str | None = None, level: float | None = None, jobs: Collection[str] = ()
) -> int:
    """Writes the report of a sweep's folder, or of one run's own, shows its table in the terminal, and returns how many
    runs failed or are missing.

    reference, level: instead of those in the runs' configuration.
    jobs: names of the runs that were asked for; others that lie in the folder are reported, but not counted.

    Raises ValueError where the folder holds no run.
    """
    from eval.terminal import print_comparison

    comparison = read_comparison(Path(path), reference=reference, level=level, jobs=jobs)
    write_comparison(comparison)
    write_atomic(comparison.path / "report.md", markdown(comparison).encode())
    print_comparison(comparison)
    return sum(not jobs or run.name in jobs for run in comparison.left_out)


def tables(comparison: Comparison) -> Iterator[Table]:
    """Those of report.md: without extensions, and the differences at the longest context."""
    for (protocol, extension), lengths in places(comparison).items():
        if extension == "none":
            yield perplexity_table(comparison, protocol)
            yield difference_table(comparison, protocol, extension, lengths[-1])
    yield from (
        cost_table(comparison),
        control_table(comparison),
        undefined_table(comparison),
        left_out_table(comparison),
        provenance_table(comparison),
    )


def markdown(comparison: Comparison) -> str:
    """report.md: the verdict and the tables."""
    parts = [f"# {comparison.path.name}", conclude(comparison)]
    for table in tables(comparison):
        if table.rows:
            parts += [f"## {table.title}", table.note, markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table as GitHub's Markdown has it; what comes from data can't end a cell or become HTML."""

    def line(cells):
        return (
            "| "
            + " | ".join(html.escape(cell, quote=False).replace("|", "\\|").replace("\n", " ") for cell in cells)
            + " |"
        )

    rule = "|" + "|".join(" ---: " if column.value else " --- " for column in table.columns) + "|"
    return "\n".join([line([column.title for column in table.columns]), rule, *map(line, table.texts())])
