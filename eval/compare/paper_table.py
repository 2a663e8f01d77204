"""A sweep's table for a paper, in LaTeX (booktabs) and Markdown: encodings in rows, context lengths in columns, with
intervals, and the verdicts as marks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from eval.compare.comparison import BEST, Comparison
from eval.compare.report import as_text, markdown_table
from eval.compare.show import MINUS, SPACE, Column, Table, listed
from eval.compare.tables import perplexity_table, places, task_table, tasks
from eval.record.command import CONTROL

MARKS = {"better": "†", "worse": "‡"}
APART, AMONG = "§", "*"
LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", '"': r"{\char34}", "`": r"\textasciigrave{}"},
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{SPACE: "~", MINUS: "$-$", "–": "--", "×": r"$\times$"},
    **{"†": r"\textsuperscript{\textdagger}", "‡": r"\textsuperscript{\textdaggerdbl}"},
    **{"§": r"\textsuperscript{\S}", "*": r"\textsuperscript{*}"},
}


def paper_tables(comparison: Comparison) -> dict[str, Table]:
    """By name: perplexity by the headline's protocol without an extension, where it was scored, and the exact match of
    each task, likewise."""
    plain = [protocol for protocol, extension in places(comparison.summary) if extension == "none"]
    found = {}
    for protocol in plain[:1]:
        rows = comparison.summary.query("protocol == @protocol and extension == 'none'")
        found[""] = _marked(perplexity_table(comparison, protocol), rows, "context_length", comparison.reference)
    for task, extension in tasks(comparison.tasks):
        rows = comparison.tasks.query("task == @task and extension == @extension")
        if extension == "none":
            found[task] = _marked(task_table(comparison, task), rows, "length", comparison.reference)
    return found


def _marked(table: Table, rows: pd.DataFrame, across: str, reference: str | None) -> Table:
    """The table with each verdict against the reference behind its figure, and in the note what the marks say. rows:
    those behind it; across: their column that the table has as columns."""
    lengths, labels = sorted(rows[across].unique()), list(table.labels)
    marks = {(row[across], row["label"]): _marks(row, reference) for row in rows.to_dict("records")}
    columns = [
        replace(each, texts=[text + marks.get((at, label), "") for text, label in zip(each.texts, labels, strict=True)])
        for at, each in zip(lengths, table.columns[-len(lengths) :], strict=True)
    ]
    used, said = "".join(marks.values()), []
    if rows["verdict"].notna().any():
        how = "paired over seeds and windows, corrected by Holm's method"
        words = [f"{mark} {verdict}" for verdict, mark in MARKS.items()]
        said.append(f"{', '.join(words)} than {reference} at that length, without a mark not separable from it ({how})")
    said += [f"{APART} no seed in common with {reference}"] * (APART in used)
    said += [f"{AMONG} among the best: no other is better"] * (AMONG in used)
    if "control" in rows and len(controls := rows["label"][rows["control"].notna()].unique()):
        said.append(f"{listed(controls)}: shown beside, not compared")
    return replace(table, columns=[*table.columns[: -len(lengths)], *columns], note="; ".join([table.note, *said]))


def _marks(row: Mapping[str, object], reference: str | None) -> str:
    """Those of a row of the summary, or of tasks."""
    best = AMONG if row.get(BEST) is True else ""
    if row["label"] == reference or isinstance(row.get("control"), str):
        return best
    return (MARKS.get(row["verdict"], "") if isinstance(row["verdict"], str) else APART) + best


def latex(table: Table, name: str) -> str:
    """A table environment, for \\usepackage{booktabs}: of each row the values, and under them their details."""
    kinds = "".join("l" if column.values is None else "r" for column in table.columns)
    lines = [_row([column.title for column in table.columns]), r"\midrule"]
    for row in range(len(table)):
        lines.append(_row([column.texts[row] for column in table.columns]))
        details = [_detail(column, row) for column in table.columns]
        if any(details):
            lines.append(_row(details, small=True))
    body = "\n".join(f"    {line}" for line in lines)
    return (
        "% \\usepackage{booktabs}\n"
        "\\begin{table}\n"
        "  \\centering\n"
        f"  \\caption{{{escaped(table.title)}}}\n"
        f"  \\label{{tab:{name}}}\n"
        "  \\small\n"
        f"  \\begin{{tabular}}{{{kinds}}}\n"
        f"    \\toprule\n{body}\n    \\bottomrule\n"
        "  \\end{tabular}\n"
        f"  \\par\\smallskip\n  {{\\footnotesize {escaped(table.note)}\\par}}\n"
        "\\end{table}\n"
    )


def _detail(column: Column, row: int) -> str:
    return column.details[row] if column.details else ""


def _row(cells: list[str], *, small: bool = False) -> str:
    shown = [f"{{\\scriptsize {escaped(cell)}}}" if small and cell else escaped(cell) for cell in cells]
    return " & ".join(shown) + r" \\"


def escaped(text: str) -> str:
    """A text that LaTeX sets as it is.

    >>> print(escaped("rope_partial (50 %)"))
    rope\\_partial (50 \\%)
    """
    return "".join(LATEX.get(letter, letter) for letter in text.replace("\n", " ").translate(CONTROL))


def markdown(table: Table) -> str:
    """A title, the table and its note."""
    return f"**{as_text(table.title)}**\n\n{markdown_table(table)}\n\n{as_text(table.note)}\n"
