"""What eval/measure/probes left in a sweep's runs, as figures: each probe by encoding, over its seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval.compare.comparison import MANY, Comparison
from eval.compare.plots import Figure, Section, Style, axis, curves, layout
from eval.compare.show import Table, column, columns
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
POINTS = 6  # of a curve, in a table
# By the name in results["probes"]; one that is not listed here is shown as a table.
PROBES = {
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
    sections = []
    for name, rows in _probed(comparison).items():
        sections += [_section(probe, rows, style) for probe in PROBES.get(name, []) if len(rows)]
        if name not in PROBES:
            sections.append(Section(name, [records_table(name, rows)], f"Probe: {name}", ""))
    return sections


def probe_tables(comparison: Comparison) -> Iterator[Table]:
    """The same as tables, where figures can't be shown: of each curve a few points, at the longest context, its mean
    over layers and heads."""
    for name, rows in _probed(comparison).items():
        if name not in PROBES:
            yield records_table(name, rows)
        elif len(rows) and (ok := rows["status"] == "ok").any():
            yield from (_table(probe, _over_seeds(probe, rows[ok].infer_objects())) for probe in PROBES[name])


def _table(probe: Probe, seeds: pd.DataFrame) -> Table:
    """seeds: of `_over_seeds`."""
    at = ""
    if "context_length" in probe.by:
        longest = seeds["context_length"].max()
        seeds, at = seeds[seeds["context_length"] == longest], f" at a context of {longest:,} tokens"
    over = " and ".join(f"{key}s" for key in probe.by if key != "context_length")
    means = seeds.groupby(["label", probe.x])["mean"].mean().unstack()
    points = np.unique(np.linspace(0, len(means.columns) - 1, POINTS).astype(int))
    shown = [column(f"{probe.x.replace('_', ' ')} {x:,}", means[x], "{:.3g}".format) for x in means.columns[points]]
    note = f"{probe.axes[1]}{at}" + f"; mean over {over}" * bool(over)
    return Table(f"Probe: {probe.title.lower()}", [column("encoding", means.index), *shown], note, labels=means.index)


def _probed(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """The rows of each probe that any run has, with the runs' labels."""
    found = [(run.label, run.results.get("probes", {})) for run in comparison.compared]
    return {
        name: pd.DataFrame(
            [{"label": label, **row} for label, probes in found for row in probes.get(name, [])], dtype=object
        )
        for name in dict.fromkeys(name for _, probes in found for name in probes)
    }


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
