"""What eval/measure/probes left in a sweep's runs, as figures: each probe by encoding, over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from eval.compare.comparison import Comparison
from eval.compare.figures import MANY
from eval.compare.plots import Figure, Section, Style, axis, curves, layout
from eval.compare.show import Table, columns
from eval.compare.tables import records_table


@dataclass(frozen=True)
class Probe:
    """How a probe's rows are shown: column y over column x, one figure for each value of the columns `by`; where there
    is one seed, with the columns {y}_low and {y}_high as its interval where the rows have them."""

    title: str
    x: str
    y: str
    by: Sequence[str]
    axes: tuple[str, str]
    note: str


LENGTHS = "context length, tokens (log)"
# By the name in results["probes"]; one that is not listed here is shown as a table.
PROBES = {
    "repeat": [
        Probe(
            *("Repeated text", "distance", "gain", ["context_length"]),
            ("distance of the repetition, tokens (log)", "gain, nats a token"),
            "A span of held-out text comes a second time, so many tokens later: how much lower is its loss than with "
            "other text in the first one's place? Zero is no use of the first one.",
        )
    ],
    "attention": [
        Probe(
            *("Attention distance", "context_length", "attention_distance", ["layer"]),
            (LENGTHS, "mean distance, tokens"),
            "How far back attention looks on average, by layer.",
        ),
        Probe(
            *("Attention entropy", "context_length", "attention_entropy", ["layer"]),
            (LENGTHS, "entropy, nats"),
            "How evenly attention is spread; the logarithm of the context length where it is even.",
        ),
    ],
    "bias": [
        Probe(
            *("Bias by distance", "distance", "bias", ["context_length", "layer", "head"]),
            ("distance, tokens", "added to the score"),
            "What the encoding adds to a score by the distance alone.",
        )
    ],
}


def probe_sections(comparison: Comparison, style: Mapping[str, Style]) -> list[Section]:
    """A section of the page for each probe that any run has."""
    found = [(run.label, run.results.get("probes", {})) for run in comparison.compared]
    sections = []
    for name in dict.fromkeys(name for _, probes in found for name in probes):
        records = [{"label": label, **row} for label, probes in found for row in probes.get(name, [])]
        rows = pd.DataFrame(records, dtype=object)
        sections += [_section(probe, rows, style) for probe in PROBES.get(name, []) if records]
        if name not in PROBES:
            sections.append(Section(name, [records_table(name, rows)], f"Probe: {name}", ""))
    return sections


def _section(probe: Probe, rows: pd.DataFrame, style: Mapping[str, Style]) -> Section:
    """A figure for each value of probe.by, and a table of the labels that have none."""
    ok = rows["status"] == "ok"
    panels: list[Figure | Table] = []
    if ok.any():
        seeds = _over_seeds(probe, rows[ok].infer_objects())
        # The longest context first.
        for place, own in sorted(
            seeds.groupby(probe.by), key=lambda group: group[0], reverse="context_length" in probe.by
        ):
            values = {key.replace("_", " "): str(value) for key, value in zip(probe.by, place, strict=True)}
            title = f"{probe.title}: {', '.join(f'{name} {value}' for name, value in values.items())}"
            x, y = probe.axes
            log = x.endswith("(log)")
            own = own[own[probe.x] > 0] if log else own
            data = curves(own, style, probe.x, "mean", ("low", "high"), markers=own[probe.x].nunique() <= MANY)
            panels.append(Figure(title, data, layout(axis(x, log=log), axis(y)), values))
    lacking = rows[~ok.groupby(rows["label"]).transform("any")].drop_duplicates("label")
    if len(lacking):
        shown = columns(lacking, "label", "reason", label="encoding")
        panels.append(Table("Without a curve", shown, labels=lacking["label"]))
    return Section(probe.title.lower().replace(" ", "-"), panels, f"Probe: {probe.title.lower()}", probe.note)


def _over_seeds(probe: Probe, rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds at each place, with the lowest and highest seed, or with one seed the interval of its row."""
    interval = {f"{probe.y}_low": "low", f"{probe.y}_high": "high"}
    rows = rows.reindex(columns=["label", *probe.by, probe.x, probe.y, *interval])
    seeds = rows.groupby(["label", *probe.by, probe.x], sort=False)
    found = (
        seeds[probe.y].agg(["mean", "min", "max", "size"]).join(seeds[list(interval)].first().rename(columns=interval))
    )
    several = found["size"] > 1
    found = found.assign(low=found["low"].mask(several, found["min"]), high=found["high"].mask(several, found["max"]))
    return found.astype({"low": float, "high": float}).reset_index()
