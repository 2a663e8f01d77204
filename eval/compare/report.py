"""A sweep's report, written from its runs' files: comparison.csv, summary.csv, report.md and report.html, and what the
terminal shows of it."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from conf.quick import uncollected
from conf.schema import CompareSettings
from eval.compare import tables
from eval.compare.comparison import Comparison, read_comparison, write_comparison
from eval.compare.conclusion import conclude
from eval.compare.effective import effective_table
from eval.compare.literature import check
from eval.compare.page import page
from eval.compare.probe_figures import probe_tables
from eval.compare.retrieval import retrieval_of, retrieval_rows
from eval.compare.retrieval_report import retrieval_tables
from eval.compare.show import Table
from eval.compare.stage_report import stage_tables
from eval.compare.stages import stage_rows, stages_of
from eval.record.command import CONTROL
from eval.record.files import write_atomic, write_table
from eval.record.sweep import last_started
from eval.record.terminal import print_notes, print_table

MARKS = re.compile(r"[\\`*\[\]|~$]|\b_|_\b")  # of GitHub's Markdown, within a line


def write_report(
    path: Path | str,
    *,
    reference: str | None = None,
    level: float | None = None,
    jobs: Collection[str] | None = None,
    compare: CompareSettings | None = None,
    **chosen_by: Any,
) -> int:
    """Writes the report of a sweep's folder, or of one run's own, shows its table in the terminal, and returns how many
    runs failed or are missing.

    reference, level, chosen_by (evaluator, key_gain, key_loss): instead of those in the runs' configuration.
    jobs: names of the runs that were asked for; others that lie in the folder are reported, but not counted. None:
        all that lie there, and those that the last sweep there has started.
    compare: the `compare` settings of the sweep's command, instead of those that its first run was made with.

    Raises ValueError where the folder holds no run.
    """
    path = Path(path)
    print(f"comparing the runs in {path}", flush=True)
    asked = last_started(path) if jobs is None else jobs
    comparison = read_comparison(path, reference=reference, level=level, jobs=asked, compare=compare, **chosen_by)
    write_files(comparison)
    print_comparison(comparison)
    return sum(jobs is None or run.name in jobs for run in comparison.left_out)


@uncollected()
def write_files(comparison: Comparison) -> None:
    """comparison.csv, summary.csv, report.md, report.html and, where there is something of the kind, retrieval.csv and
    stages.csv in the comparison's folder, each whole or not at all."""
    write_comparison(comparison)
    if (retrieval := retrieval_of(comparison)) and len(retrieval.summary):
        write_table(comparison.path / "retrieval.csv", retrieval_rows(retrieval))
    if stages := stages_of(comparison):
        write_table(comparison.path / "stages.csv", stage_rows(stages))
    statements = check(comparison)
    write_atomic(comparison.path / "report.md", markdown(comparison, statements).encode())
    write_atomic(comparison.path / "report.html", page(comparison, statements).encode())


def print_comparison(comparison: Comparison) -> None:
    """A sweep's end: what failed, perplexity by encoding and context length, best first, and the verdict."""
    first = [tables.perplexity_table(comparison, *place) for place in tables.places(comparison.summary)[:1]]
    for table in (*first, tables.left_out_table(comparison)):
        if len(table):
            words = sum(column.values is None for column in table.columns)
            print_table(table.title, [column.title for column in table.columns], table.texts(), words=words)
            print_notes([table.note] * bool(table.note))
    print()
    print_notes(conclude(comparison))
    print(f"report: {comparison.path / 'report.html'}")


def markdown(comparison: Comparison, statements: pd.DataFrame) -> str:
    """report.md: the verdict and the tables; differences at the longest context, where the page has them at each.
    statements: what the literature says; see `literature.check`."""
    parts = [f"# {as_text(comparison.path.name)}", *map(as_text, conclude(comparison))]
    for table in _markdown_tables(comparison, statements):
        if len(table):
            parts += [f"## {as_text(table.title)}", as_text(table.note), markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_tables(comparison: Comparison, statements: pd.DataFrame) -> Iterator[Table]:
    summary = comparison.summary
    yield from stage_tables(comparison)
    for protocol, extension in tables.places(summary):
        if extension == "none":
            yield tables.perplexity_table(comparison, protocol)
            for length, other in tables.judged(comparison, protocol, extension)[:1]:
                yield tables.difference_table(comparison, protocol, extension, length, other)
    yield effective_table(comparison)
    if comparison.objection:
        yield tables.run_table(comparison)
    yield from (tables.extension_table(comparison, *place) for place in tables.extended(summary))
    yield from retrieval_tables(comparison)
    yield from (tables.task_table(comparison, *place) for place in tables.tasks(comparison.tasks))
    yield from probe_tables(comparison)
    yield from (tables.tuning_table(comparison), tables.cost_table(comparison))
    yield from tables.literature_tables(statements)
    yield from (tables.control_table(comparison), tables.apart_table(comparison), tables.undefined_table(comparison))
    yield from (tables.left_out_table(comparison), tables.provenance_table(comparison))


def markdown_table(table: Table) -> str:
    """A table as GitHub's Markdown has it; what comes from data can't end a cell."""
    rule = "|" + "|".join(" --- " if column.values is None else " ---: " for column in table.columns) + "|"
    lines = [[column.title for column in table.columns], *table.texts()]
    head, *body = (f"| {' | '.join(map(as_text, cells))} |" for cells in lines)
    return "\n".join([head, rule, *body])


def as_text(text: str) -> str:
    """A text that is shown as it is: nothing in it becomes HTML, a link, an image or another mark of Markdown."""
    return MARKS.sub(r"\\\g<0>", html.escape(text.replace("\n", " ").translate(CONTROL), quote=False))
