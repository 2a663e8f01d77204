"""report.html: one file that opens offline. Its template, style and script lie in assets/; plotly draws in it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.compare import figures, tables
from eval.compare.comparison import MANY, Comparison, last_place
from eval.compare.conclusion import conclude
from eval.compare.effective import effective_table
from eval.compare.packed import ASSETS, asset, packed, plotly
from eval.compare.plots import SHADES, Figure, Section, Style
from eval.compare.probe_figures import probe_sections
from eval.compare.retrieval_report import retrieval_panels
from eval.compare.runs import differing, flatten
from eval.compare.show import Table
from eval.compare.stage_report import stage_panels
from eval.compare.stages import stages_of
from eval.record.identity import NOT_IDENTITY

FAR = 2  # times the worst encoding's perplexity: beyond, a control is off when the page opens, and outside the axis
BEST = 8  # of many encodings, so many are switched on when the page opens, beside the reference


def page(comparison: Comparison, statements: pd.DataFrame) -> str:
    """report.html. statements: what the literature says; see `literature.check`."""
    loading = {"loader": FileSystemLoader(ASSETS), "undefined": StrictUndefined}
    environment = Environment(**loading, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = figures.styles_of(comparison)
    labels = last_place(comparison.summary)["label"].tolist()[:BEST]
    if stages := stages_of(comparison):
        labels += [label for group in stages.longest for label, _ in group.sides]
    best = list(dict.fromkeys([*labels, *([comparison.reference] if comparison.reference else [])]))
    sections = _sections(comparison, style, statements)
    drawings = [{"data": each.data, "layout": each.layout} for each in _figures(sections)]
    start = {
        "off": _off(comparison, style, best),
        "best": best,
        "controls": sorted({*style} - {*comparison.encodings}),
        "far": FAR,
        "shades": SHADES,
    }
    return environment.get_template("report.html").render(
        title=comparison.path.name,
        verdict=conclude(comparison),
        facts=_facts(comparison),
        legend=list(style) if len(style) > 1 else [],
        best=best,
        many=len(style) > MANY,
        styles=style,
        signs={label: number for number, label in enumerate(style)},
        sections=sections,
        start=start,
        figures=packed(json.dumps(drawings).encode()),
        css=Markup(asset("report.css")),
        js=Markup(asset("unpack.js") + asset("report.js")),
        plotly=plotly(),
    )


def report_figures(comparison: Comparison) -> list[Figure]:
    """All figures of the page."""
    return _figures(_sections(comparison, figures.styles_of(comparison), pd.DataFrame()))


def _figures(sections: Sequence[Section]) -> list[Figure]:
    return [panel for section in sections for panel in section.panels if isinstance(panel, Figure)]


def _off(comparison: Comparison, labels: Collection[str], best: Collection[str]) -> list[str]:
    """The labels that are off when the page opens: of many all but the best; and controls that lie so far above all
    encodings that the others would shrink to a line."""
    if len(labels) > MANY:
        return [label for label in labels if label not in best]
    control = comparison.summary["control"].notna()
    worst = comparison.summary["perplexity"][~control].max()
    lowest = comparison.summary[control].groupby("label", sort=False)["perplexity"].min()
    return lowest.index[lowest > FAR * (0 if pd.isna(worst) else worst)].tolist()


def _facts(comparison: Comparison) -> dict[str, str]:
    """What holds for the whole sweep, for the page's head."""
    if not comparison.compared:
        return {"runs": f"0 of {len(comparison.runs)} finished"}
    finished = len(comparison.runs) - len(comparison.left_out)
    run = min(comparison.compared, key=lambda run: run.stage is not None)  # the first that is no second stage
    stages = stages_of(comparison)
    second = {f"{group.tokens:,} tokens": None for group in stages.groups} if stages else {}
    settings, machine, parameters = run.settings, run.results.get("machine") or {}, run.results.get("parameters", {})
    shared = [each.settings.model.options.items() for each in comparison.compared]
    options = [words for name, words in settings.model.options.items() if all((name, words) in own for own in shared)]
    return {
        "runs": f"{finished} of {len(comparison.runs)} finished",
        "encodings": str(len(comparison.encodings)),
        "seeds": ", ".join(sorted({str(run.seed) for run in comparison.compared}, key=int)),
        "trained on": f"{settings.training.tokens:,} tokens of {settings.data['name']}",
        **({"second stages": ", ".join(second)} if second else {}),
        "training context": f"{comparison.context:,} tokens",
        "model": ", ".join([settings.model.name, *options, f"{parameters.get('total', 0):,} parameters"]),
        "device": f"{machine.get('device', 'not recorded')}, {machine.get('processor', '')}".rstrip(", "),
        "ended": max(run.time or "" for run in comparison.compared)[:16].replace("T", " ") + " UTC",
    }


def _sections(comparison: Comparison, style: Mapping[str, Style], statements: pd.DataFrame) -> list[Section]:
    """The page's sections that have something to show, in order."""
    summary = comparison.summary
    perplexity, differences, extensions, tasks = [], [], [], []
    for place in tables.places(summary):
        perplexity.append(figures.perplexity_figure(comparison, style, *place))
        perplexity.append(tables.perplexity_table(comparison, *place))
        for at in tables.judged(comparison, *place):
            differences.append(figures.difference_figure(comparison, style, *place, *at))
            differences.append(tables.difference_table(comparison, *place, *at))
    for place in tables.extended(summary):
        extensions.append(figures.extension_figure(comparison, *place))
        extensions.append(tables.extension_table(comparison, *place))
    for place in tables.tasks(comparison.tasks):
        tasks.append(figures.task_figure(comparison, style, *place))
        tasks.append(tables.task_table(comparison, *place))
    positions = [
        figures.position_figure(comparison, style, each) for each in comparison.positions["extension"].unique()
    ]
    sections = [
        Section("stages", stage_panels(comparison, style)),
        Section("perplexity", perplexity),
        Section("runs", [tables.run_table(comparison)] if comparison.objection else []),
        Section("differences", differences),
        Section("effective", _filled(effective_table(comparison))),
        Section("positions", positions),
        Section("extensions", extensions),
        Section("retrieval", retrieval_panels(comparison, style)),
        Section("tasks", tasks),
        *probe_sections(comparison, style),
        Section("training", figures.training_figures(comparison, style)),
        Section("tuning", _filled(tables.tuning_table(comparison))),
        Section("cost", _filled(figures.cost_figure(comparison, style), tables.cost_table(comparison))),
        Section("literature", tables.literature_tables(statements)),
        Section("controls", _filled(tables.control_table(comparison), tables.apart_table(comparison))),
        Section("missing", _filled(tables.left_out_table(comparison), tables.undefined_table(comparison))),
        Section("provenance", [tables.provenance_table(comparison)], texts=_settings(comparison)),
    ]
    return [section for section in sections if section.panels or section.texts]


def _filled(*panels: Figure | Table | None) -> list[Figure | Table]:
    return [panel for panel in panels if isinstance(panel, Figure) or panel]


def _settings(comparison: Comparison) -> dict[str, str]:
    """What all runs have in common, and in what they differ."""
    runs = [run for run in comparison.runs if run.settings]
    if not runs:
        return {}
    varied = differing([run.flat for run in runs])
    common = {key: value for key, value in runs[0].flat.items() if key not in varied}
    texts = {"Settings that all runs share": _lines(common)}
    if names := [key for key in varied if key.split(".")[0] not in NOT_IDENTITY]:
        texts["Settings in which they differ"] = "\n\n".join(
            f"{run.name}\n{_lines({key: run.flat.get(key) for key in names})}" for run in runs
        )
    facts = [
        {"machine": run.results.get("machine"), "versions": run.results.get("versions")} for run in comparison.compared
    ]
    for text in dict.fromkeys(_lines(flatten(each)) for each in facts):
        texts[f"Machine and versions{' (another)' * ('Machine and versions' in texts)}"] = text
    return texts


def _lines(values: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value, default=str)}" for key, value in values.items())
