"""What eval/measure/probes.py left in a sweep's runs, as figures: each probe by encoding, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.compare.comparison import Comparison
from eval.compare.figures import Figure, Section, Style, record_figure
from eval.compare.tables import Table, records_table, words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """How a probe's rows are shown: column y over column x, one figure for each value of the columns `by`; where there
    is one seed, with the columns low and high as its interval."""

    title: str
    note: str
    x: str
    y: str
    by: Sequence[str]
    axes: tuple[str, str]
    interval: tuple[str, str] = ("", "")


# By the name in results["probes"]; one that is not listed here is shown as a table.
PROBES = {
    "repeat": [
        Probe(
            "Repeated text",
            "A span of held-out text comes a second time, so many tokens later: how much lower is its loss than with "
            "other text in the first one's place? Zero is no use of the first one.",
            x="distance",
            y="gain",
            by=["context_length"],
            axes=("distance of the repetition, tokens (log)", "gain, nats a token"),
            interval=("gain_low", "gain_high"),
        )
    ],
    "attention": [
        Probe(
            "Attention distance",
            "How far back attention looks on average, by layer.",
            x="context_length",
            y="attention_distance",
            by=["layer"],
            axes=("context length, tokens (log)", "mean distance, tokens"),
        ),
        Probe(
            "Attention entropy",
            "How evenly attention is spread; the logarithm of the context length where it is even.",
            x="context_length",
            y="attention_entropy",
            by=["layer"],
            axes=("context length, tokens (log)", "entropy, nats"),
        ),
    ],
    "bias": [
        Probe(
            "Bias by distance",
            "What the encoding adds to a score by the distance alone.",
            x="distance",
            y="bias",
            by=["context_length", "layer", "head"],
            axes=("distance, tokens", "added to the score"),
        )
    ],
}


def probe_sections(comparison: Comparison, style: Mapping[str, Style]) -> list[Section]:
    """A section of the page for each probe that any run has."""
    records: dict[str, dict[str, list[Row]]] = {}
    for run in comparison.compared:
        for name, rows in run.results.get("probes", {}).items():
            records.setdefault(name, {}).setdefault(run.label, []).extend(rows)
    sections = []
    for name, by_label in records.items():
        sections += [_section(probe, by_label, style) for probe in PROBES.get(name, [])]
        if name not in PROBES:
            rows = [{"label": label, **row} for label, own in by_label.items() for row in own]
            sections.append(Section(name, f"Probe: {name}", [records_table(name, rows)]))
    return sections


def _section(probe: Probe, by_label: Mapping[str, Sequence[Row]], style: Mapping[str, Style]) -> Section:
    """A figure for each value of probe.by, and a table of the labels that have none."""
    places: dict[tuple, list[Row]] = {}
    for row in _over_seeds(probe, by_label):
        places.setdefault(tuple(row[key] for key in probe.by), []).append(row)
    names = [key.replace("_", " ") for key in probe.by]
    panels: list[Figure | Table] = []
    for place in sorted(places, reverse="context_length" in probe.by):  # the longest context first
        values = dict(zip(names, map(str, place), strict=True))
        where = ", ".join(f"{name} {value}" for name, value in values.items())
        panels.append(record_figure(f"{probe.title}: {where}", places[place], style, probe.axes, values))
    reasons = [
        {"label": label, "reason": next(row["reason"] for row in rows)}
        for label, rows in by_label.items()
        if rows and all(row["status"] != "ok" for row in rows)
    ]
    if reasons:
        panels.append(Table("Without a curve", [words("label", "encoding"), words("reason")], reasons))
    return Section(probe.title.lower().replace(" ", "-"), f"Probe: {probe.title.lower()}", panels, probe.note)


def _over_seeds(probe: Probe, by_label: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """The mean over seeds at each place, with the lowest and highest seed, or with one seed its interval."""
    seen: dict[tuple, list[Row]] = {}
    for label, rows in by_label.items():
        for row in rows:
            if row["status"] == "ok":
                seen.setdefault((label, *(row[key] for key in (*probe.by, probe.x))), []).append(row)
    found = []
    for (label, *place, x), rows in seen.items():
        values = [row[probe.y] for row in rows]
        low, high = (min(values), max(values)) if len(rows) > 1 else (rows[0].get(key) for key in probe.interval)
        place = dict(zip(probe.by, place, strict=True))
        found.append({**place, "label": label, "x": x, "y": statistics.fmean(values), "low": low, "high": high})
    return found
