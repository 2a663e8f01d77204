"""A sweep's report, written from its runs' files: comparison.csv, summary.csv, report.md and report.html.

The page is one file that opens offline: the folder page has its template, style and script, plotly draws its figures.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eval.compare.comparison import Comparison, differing, flatten, read_comparison, write_comparison
from eval.compare.conclusion import conclude, last_place
from eval.compare.figures import (
    MANY,
    Figure,
    Section,
    Style,
    cost_figure,
    difference_figure,
    extension_figure,
    perplexity_figure,
    position_figure,
    styles,
    task_figure,
    training_figures,
)
from eval.compare.literature import check
from eval.compare.probe_figures import probe_sections
from eval.compare.tables import (
    Table,
    control_table,
    cost_table,
    difference_table,
    extension_table,
    left_out_table,
    literature_table,
    perplexity_table,
    places,
    provenance_table,
    run_table,
    task_table,
    undefined_table,
)
from eval.record.folder import write_atomic
from eval.record.identity import NOT_IDENTITY
from eval.record.sweep import last_started

PAGE = Path(__file__).with_name("page")
FAR = 2  # times the worst encoding's perplexity: beyond, a control is switched off when the page opens
BEST = 8  # of many encodings, so many are switched on when the page opens, beside the reference
# How the page draws plotly's dashes and markers in its legend: an SVG dash array, and a path around (14, 6).
DASHES = {"solid": "", "dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "10 3", "longdashdot": "10 3 2 3"}
MARKERS = {
    "circle": "M10 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "square": "M10.5 2.5h7v7h-7z",
    "diamond": "M14 1.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
    "triangle-up": "M14 2l4.5 8h-9z",
    "triangle-down": "M14 10l4.5-8h-9z",
    "cross": "M12.7 2h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
    "x": "M10.5 3.5l1-1l2.5 2.5l2.5-2.5l1 1l-2.5 2.5l2.5 2.5l-1 1l-2.5-2.5l-2.5 2.5l-1-1l2.5-2.5z",
}


def write_report(
    path: Path | str,
    *,
    reference: str | None = None,
    level: float | None = None,
    jobs: Collection[str] | None = None,
    compare: Mapping[str, Any] | None = None,
) -> int:
    """Writes the report of a sweep's folder, or of one run's own, shows its table in the terminal, and returns how many
    runs failed or are missing.

    reference, level: instead of those in the runs' configuration.
    jobs: names of the runs that were asked for; others that lie in the folder are reported, but not counted. None:
        all that lie there, and those that the last sweep there has started.
    compare: the `compare` settings of the sweep's command, instead of those that its first run was made with.

    Raises ValueError where the folder holds no run.
    """
    from eval.record.terminal import print_comparison

    path = Path(path)
    asked = last_started(path) if jobs is None else jobs
    comparison = read_comparison(path, reference=reference, level=level, jobs=asked, compare=compare)
    write_files(comparison)
    print_comparison(comparison)
    return sum(jobs is None or run.name in jobs for run in comparison.left_out)


def write_files(comparison: Comparison) -> None:
    """comparison.csv, summary.csv, report.md and report.html in the comparison's folder, each whole or not at all."""
    write_comparison(comparison)
    write_atomic(comparison.path / "report.md", markdown(comparison).encode())
    write_atomic(comparison.path / "report.html", page(comparison).encode())


# ------------------------------------------------------------------------------------------------------------ markdown


def markdown(comparison: Comparison) -> str:
    """report.md: the verdict and the tables; differences at the longest context, where the page has them at each."""
    parts = [f"# {_markdown_text(comparison.path.name)}", *map(_markdown_text, conclude(comparison))]
    for table in _markdown_tables(comparison):
        if table.rows:
            parts += [f"## {_markdown_text(table.title)}", table.note, markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_tables(comparison: Comparison) -> Iterator[Table]:
    for (protocol, extension), lengths in places(comparison).items():
        if extension == "none":
            yield perplexity_table(comparison, protocol)
            if len(comparison.labels) > 1:
                yield difference_table(comparison, protocol, extension, lengths[-1])
    if comparison.objection:
        yield run_table(comparison)
    for protocol, label in _extended(comparison):
        yield extension_table(comparison, protocol, label)
    for task, extension in _tasks(comparison):
        yield task_table(comparison, task, extension)
    yield cost_table(comparison)
    yield from _literature(comparison)
    yield from (control_table(comparison), undefined_table(comparison), left_out_table(comparison))
    yield provenance_table(comparison)


def markdown_table(table: Table) -> str:
    """A table as GitHub's Markdown has it; what comes from data can't end a cell or become HTML."""
    rule = "|" + "|".join(" ---: " if column.value else " --- " for column in table.columns) + "|"
    lines = [[column.title for column in table.columns], *table.texts()]
    head, *body = (f"| {' | '.join(map(_markdown_text, cells))} |" for cells in lines)
    return "\n".join([head, rule, *body])


def _markdown_text(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


# ---------------------------------------------------------------------------------------------------------------- page


def page(comparison: Comparison) -> str:
    """report.html."""
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = _styles(comparison)
    best = _best(comparison)
    return environment.get_template("report.html").render(
        title=comparison.path.name,
        verdict=conclude(comparison),
        facts=_facts(comparison),
        legend=list(style) if len(style) > 1 else [],
        best=best,
        many=len(style) > MANY,
        styles=style,
        dashes=DASHES,
        markers=MARKERS,
        sections=[section for section in _sections(comparison, style) if section.panels or section.texts],
        start={"off": _off(comparison, style, best), "best": best},
        css=Markup((PAGE / "report.css").read_text()),
        js=Markup((PAGE / "report.js").read_text()),
        plotly=Markup(get_plotlyjs()),
    )


def report_figures(comparison: Comparison) -> list[Figure]:
    """All figures of the page."""
    sections = _sections(comparison, _styles(comparison))
    return [panel for section in sections for panel in section.panels if isinstance(panel, Figure)]


def _styles(comparison: Comparison) -> dict[str, Style]:
    """The style of each label, encodings first, in order of their names."""
    controls = {run.label for run in comparison.compared if run.control}
    controls |= {row["control"] for run in comparison.compared for row in run.rows if "control" in row}
    found = styles(comparison.labels, controls)
    return {label: found[label] for label in comparison.labels}


def _best(comparison: Comparison) -> list[str]:
    """The labels of the headline's best rows, and the reference."""
    labels = [row["label"] for row in last_place(comparison)][:BEST]
    return list(dict.fromkeys([*labels, *([comparison.reference] if comparison.reference else [])]))


def _off(comparison: Comparison, labels: Collection[str], best: Collection[str]) -> list[str]:
    """The labels that are off when the page opens: of many all but the best; and controls that lie so far above all
    encodings that the others would shrink to a line."""
    if len(labels) > MANY:
        return [label for label in labels if label not in best]
    worst = max((row["perplexity"] for row in comparison.summary if not row["control"]), default=0)
    lowest: dict[str, float] = {}
    for row in comparison.summary:
        if row["control"]:
            lowest[row["label"]] = min(row["perplexity"], lowest.get(row["label"], math.inf))
    return [label for label, perplexity in lowest.items() if perplexity > FAR * worst]


def _facts(comparison: Comparison) -> dict[str, str]:
    """What holds for the whole sweep, for the page's head."""
    if not comparison.compared:
        return {"runs": f"0 of {len(comparison.runs)} finished"}
    run = comparison.compared[0]
    config, machine = run.config, run.results.get("machine") or {}
    encodings = {run.label for run in comparison.compared if not run.control}
    return {
        "runs": f"{len(comparison.compared)} of {len(comparison.runs)} finished",
        "encodings": str(len(encodings)),
        "seeds": ", ".join(sorted({str(run.seed) for run in comparison.compared}, key=int)),
        "trained on": f"{config['training']['tokens']:,} tokens of {config['data']['name']}",
        "training context": f"{comparison.context:,} tokens",
        "model": f"{config['model']['name']}, {run.results.get('parameters', {}).get('total', 0):,} parameters",
        "device": f"{machine.get('device', 'not recorded')}, {machine.get('processor', '')}".rstrip(", "),
        "ended": max(run.time or "" for run in comparison.compared)[:16].replace("T", " ") + " UTC",
    }


def _sections(comparison: Comparison, style: Mapping[str, Style]) -> Iterator[Section]:
    """Every section in the page's order; one that has nothing to show is empty."""
    at = places(comparison)
    yield Section(
        "perplexity",
        "Perplexity against context length",
        [
            panel
            for protocol, extension in at
            for panel in (
                perplexity_figure(comparison, style, protocol, extension),
                perplexity_table(comparison, protocol, extension),
            )
        ],
        "The same weights, read with more and more context. fixed_targets scores the same tokens at every length, so "
        "that a line that rises means that more context hurts. Bands hold how hard the windows are, which is the same "
        "for all: whether two encodings differ is said below.",
    )
    if comparison.objection:
        yield Section("runs", "The runs, each by itself", [run_table(comparison)])
    yield _differences(comparison, at)
    yield Section(
        "positions",
        "Loss by position",
        [
            position_figure(comparison, style, extension)
            for extension in dict.fromkeys(row["extension"] for row in comparison.positions)
        ],
        "Where in one long window predictions break: the mean loss of each stretch of positions.",
    )
    extended = _extended(comparison)
    yield Section(
        "extensions",
        "Test-time length extensions",
        [
            panel
            for protocol, label in extended
            for panel in (extension_figure(comparison, protocol, label), extension_table(comparison, protocol, label))
        ],
        "Methods that stretch a trained model without training it: the lower the perplexity, the brighter the cell.",
    )
    yield Section(
        "tasks",
        "Tasks",
        [
            panel
            for task, extension in _tasks(comparison)
            for panel in (
                task_figure(comparison, style, task, extension),
                task_table(comparison, task, extension),
            )
        ],
        "Exact match: an answer counts where every token of it is right. Lengths are the task's own.",
    )
    yield from probe_sections(comparison, style)
    yield Section(
        "training",
        "Training",
        training_figures(comparison, style),
        "The mean over seeds; a band from the lowest seed to the highest.",
    )
    costs = cost_table(comparison)
    figure = cost_figure(comparison, costs.rows, style)
    yield Section("cost", "Cost", [*([figure] if figure else []), *([costs] if costs.rows else [])])
    yield Section(
        "literature",
        "Against the literature",
        [table for table in _literature(comparison) if table.rows],
        "Orderings that published perplexities support, and whether this sweep agrees; never absolute perplexities.",
    )
    controls = control_table(comparison)
    yield Section("controls", "Controls", [controls] if controls.rows else [])
    missing = [table for table in (left_out_table(comparison), undefined_table(comparison)) if table.rows]
    yield Section("missing", "Failed, skipped and not defined", missing)
    yield Section("provenance", "Provenance", [provenance_table(comparison)], texts=_settings(comparison))


def _differences(comparison: Comparison, at: Mapping[tuple[str, str], Sequence[int]]) -> Section:
    """The differences to the reference at each length, the longest first."""
    panels: list[Figure | Table] = []
    for (protocol, extension), lengths in at.items():
        for length in reversed(lengths):
            table = difference_table(comparison, protocol, extension, length)
            if any("verdict" in row for row in table.rows):
                panels += [difference_figure(comparison, protocol, extension, length), table]
    return Section(
        "differences",
        f"Differences to {comparison.reference}",
        panels,
        "Paired: the same seeds, the same held-out windows. Left of the line is better than the reference.",
    )


def _extended(comparison: Comparison) -> list[tuple[str, str]]:
    """The (protocol, label) that were scored with extensions."""
    found = {(row["protocol"], row["label"]) for row in comparison.summary if row["extension"] != "none"}
    order = list(places(comparison))
    return sorted(
        found, key=lambda place: (order.index((place[0], "none")) if (place[0], "none") in order else 0, place)
    )


def _tasks(comparison: Comparison) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["task"], row["extension"]) for row in comparison.tasks))


def _literature(comparison: Comparison) -> Iterator[Table]:
    """The check against published orderings."""
    if comparison.objection is None:
        yield literature_table(check(comparison.compared, comparison.summary, comparison.level))


def _settings(comparison: Comparison) -> dict[str, str]:
    """What all runs have in common, and in what they differ."""
    configs = [run.config for run in comparison.runs if run.config]
    if not configs:
        return {}
    varied = differing(configs)
    common = {key: value for key, value in flatten(configs[0]).items() if key not in varied}
    texts = {"Settings that all runs share": _lines(common)}
    names = [key for key in varied if key.split(".")[0] not in NOT_IDENTITY]
    if names:
        texts["Settings in which they differ"] = "\n\n".join(
            f"{run.name}\n{_lines({key: flatten(run.config).get(key) for key in names})}"
            for run in comparison.runs
            if run.config
        )
    facts = [
        {"machine": run.results.get("machine"), "versions": run.results.get("versions")} for run in comparison.compared
    ]
    for text in dict.fromkeys(_lines(flatten(each)) for each in facts):
        texts[f"Machine and versions{' (another)' * ('Machine and versions' in texts)}"] = text
    return texts


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value, default=str)}" for key, value in values.items())
