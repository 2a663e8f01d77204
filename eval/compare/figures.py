"""The figures of a report, each made from a frame by what eval/compare/plots.py has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from eval.compare.comparison import MANY, Comparison
from eval.compare.plots import (
    HOVER,
    LINE,
    Figure,
    Style,
    axis,
    curves,
    escape,
    layout,
    length_axis,
    line_at,
    points,
    styles,
    trace,
)
from eval.compare.show import show_count, show_interval, show_length, show_p, show_percent, show_perplexity
from eval.compare.tables import costs, name_of

FOREST_LINE = 26  # pixels
CURVES = {"val_loss": "validation loss", "loss": "training loss", "tokens_per_second": "tokens a second"}


def styles_of(comparison: Comparison) -> dict[str, Style]:
    """The style of each label, encodings first, in order of their names."""
    found = styles(comparison.labels, set(comparison.labels) - set(comparison.encodings))
    return {label: found[label] for label in comparison.labels}


def perplexity_figure(comparison: Comparison, style: Mapping[str, Style], protocol: str, extension: str) -> Figure:
    """Perplexity against context length, both logarithmic, with bands for the intervals and dots for the seeds."""
    here = comparison.summary.query("protocol == @protocol and extension == @extension")
    lengths = sorted(here["context_length"].unique().tolist())
    floor = here["control"] == "floor"
    # A floor that stands at a single length, for it is the same at all, is drawn at the first and the last.
    single = floor & (here.groupby("label")["label"].transform("size") == 1)
    ends = [here[single].assign(context_length=length) for length in (lengths[0], lengths[-1])]
    floors = pd.concat([here[floor & ~single], *ends]).sort_index(kind="stable")
    axes, edges = ("context_length", "perplexity"), ("perplexity_low", "perplexity_high")
    data = curves(_described(here[~floor], comparison), style, *axes, edges)
    if here["label"].nunique() <= MANY:
        data += _seed_dots(comparison, style, protocol, extension)
    data += curves(_described(floors, comparison), style, *axes, edges, markers=False)
    return Figure(
        f"Perplexity against context length, {name_of(protocol, extension)}",
        data,
        layout(length_axis(lengths, comparison.context), axis("perplexity (log)", log=True), comparison.context),
        {"protocol": protocol, "extension": extension},
    )


def _seed_dots(
    comparison: Comparison, style: Mapping[str, Style], protocol: str, extension: str
) -> list[dict[str, Any]]:
    """Every seed's own perplexity, as a small open dot, for labels with several."""
    rows = comparison.scored.query("status == 'ok' and protocol == @protocol and extension == @extension")
    rows = rows[(rows["control"] != "floor") & (rows.groupby("label")["seed"].transform("nunique") > 1)]
    rows["hover"] = [
        f"<b>{escape(row.label)}</b>, seed {row.seed}, {show_length(row.context_length, comparison.context)}<br>"
        f"perplexity {row.perplexity:.6g}"
        for row in rows.itertuples()
    ]
    return [
        {
            **points(own, "context_length", "perplexity"),
            "marker": {"color": style[label].colour, "symbol": "circle-open", "size": 5},
            "opacity": 0.7,
        }
        for label, own in rows.groupby("label", sort=False)
    ]


def position_figure(comparison: Comparison, style: Mapping[str, Style], extension: str) -> Figure:
    """Loss by position in one long window: the mean over each stretch of positions, at its end."""
    here = comparison.positions.query("extension == @extension")
    here = here[here["context_length"] == here["context_length"].max()]
    return Figure(
        name_of("Loss by position in the window", extension),
        curves(_described(here, comparison), style, "position", "nats", markers=False),
        layout(axis("position in the window, tokens (log)", log=True), axis("nats a token"), comparison.context),
        {"extension": extension},
    )


def difference_figure(
    comparison: Comparison, style: Mapping[str, Style], protocol: str, extension: str, length: int, reference: str
) -> Figure:
    """A forest plot: each encoding's change in perplexity against a reference, with its interval, best on top; open
    markers where the two are not separable."""
    rows = comparison.differences.query(
        "protocol == @protocol and extension == @extension and context_length == @length and reference == @reference"
    )
    rows = rows[rows["verdict"].notna() & np.isfinite(rows["difference_percent"])]
    rows = rows.assign(
        name=rows["label"].map(escape),
        multiple=1 + rows["difference_percent"] / 100,
        low=1 + rows["difference_low"] / 100,
        high=1 + rows["difference_high"] / 100,
        hover=[_describe_difference(row) for row in rows.itertuples()],
    )
    data = []
    for row in rows.itertuples(index=False):
        bounds = {"array": [row.high - row.multiple], "arrayminus": [row.multiple - row.low], "symmetric": False}
        error = {} if pd.isna(row.low) else {"type": "data", "thickness": 2, "width": 5, **bounds}
        symbol = style[row.label].marker + "-open" * (row.verdict == "not separable")
        marker = {"color": style[row.label].colour, "size": 10, "symbol": symbol}
        more = {"text": [show_percent(row.difference_percent)], "error_x": error, "marker": marker}
        data.append(trace(row.label, [row.multiple], [row.name], [row.hover]) | more)
    place = show_length(length, comparison.context)
    y = {"categoryorder": "array", "categoryarray": rows["name"].tolist()[::-1], "automargin": True}
    return Figure(
        f"Perplexity against {reference}'s at {place}, {protocol}: multiples with intervals",
        data,
        layout(
            axis(f"multiples of {escape(reference)}'s perplexity (log)", log=True),
            {**y, "showgrid": True, "gridcolor": LINE, "tickmode": "linear"},
            shapes=[line_at(1)],
            height=140 + FOREST_LINE * len(rows),
            meta={"line": FOREST_LINE},
        ),
        {"protocol": protocol, "extension": extension, "context length": place, "reference": reference},
    )


def extension_figure(comparison: Comparison, protocol: str, label: str) -> Figure:
    """A heat map of one label: perplexity by extension and context length."""
    here = comparison.summary.query("protocol == @protocol and label == @label")
    here = _described(here, comparison).assign(
        nats=here["nats"].where(np.isfinite(here["nats"])), text=here["perplexity"].map(show_perplexity)
    )
    names = sorted(here["extension"].unique(), key=lambda name: (name != "none", name))
    grid = here.set_index(["extension", "context_length"])[["nats", "text", "hover"]].astype(object).unstack()
    grid = grid.loc[names]
    data = {
        "type": "heatmap",
        "x": [show_length(length, comparison.context) for length in grid["nats"]],
        "y": [escape(name) for name in names],
        "z": grid["nats"].where(grid["nats"].notna(), None).to_numpy().tolist(),
        "text": grid["text"].fillna("not defined").to_numpy().tolist(),
        "texttemplate": "%{text}",
        "customdata": grid["hover"].where(grid["hover"].notna(), None).to_numpy().tolist(),
        "hovertemplate": HOVER,
        "colorscale": "Viridis",
        "reversescale": True,
        "showscale": False,
        "colorbar": {"title": {"text": "nats a token"}},
        "xgap": 2,
        "ygap": 2,
    }
    return Figure(
        f"Perplexity of {label} by extension and context length, {protocol}",
        [data],
        layout(
            {"type": "category", "title": {"text": "context length, tokens"}},
            {"type": "category", "autorange": "reversed", "automargin": True},
            height=150 + 34 * len(names),
        ),
        {"protocol": protocol, "encoding": label},
    )


def training_figures(comparison: Comparison, style: Mapping[str, Style]) -> list[Figure]:
    """A figure for each of CURVES, against the tokens trained on: the mean over seeds, and their range as a band."""
    runs = [run.curve.assign(label=run.label) for run in comparison.compared]
    curve = pd.concat([*runs, pd.DataFrame()]).reindex(columns=["label", "tokens", *CURVES])
    figures = []
    for quantity, title in CURVES.items():
        seeds = curve.dropna(subset=quantity).groupby(["label", "tokens"], sort=False)[quantity]
        rows = seeds.agg(["mean", "min", "max", "size"]).reset_index().astype({"tokens": int})
        if rows.empty:
            continue
        rows["hover"] = [
            f"<b>{escape(label)}</b><br>{mean:.5g}"
            + (f" ({low:.5g} to {high:.5g} over {seeds} seeds)" if seeds > 1 else "")
            + f"<br>after {tokens:,} tokens"
            for label, tokens, mean, low, high, seeds in rows.itertuples(index=False)
        ]
        y = axis(title + (", nats a token" if "loss" in quantity else ""))
        data = curves(rows, style, "tokens", "mean", ("min", "max"), markers=False)
        figures.append(Figure(title.capitalize(), data, layout(axis("tokens trained on"), y), {"curve": title}))
    return figures


def cost_figure(comparison: Comparison, style: Mapping[str, Style]) -> Figure | None:
    """What the perplexity at the longest context costs in training speed; None where there is nothing to place."""
    rows = comparison.summary.query("extension == 'none'")
    longest = rows["context_length"].max()
    rows = rows[rows["context_length"] == longest]
    last = rows["label"][::-1].unique()  # the worst first, of the last protocol
    rows = rows.drop_duplicates("label").set_index("label").loc[last].reset_index()
    rows = _described(rows, comparison).merge(costs(comparison)[["label", "tokens_per_second"]])
    rows = rows[np.isfinite(rows["perplexity"])]
    if rows.empty:
        return None
    rows["hover"] += "<br>" + rows["tokens_per_second"].map(show_count) + " tokens/s in training"
    data = []
    for label, own in rows.groupby("label", sort=False):
        marker = {"color": style[label].colour, "symbol": style[label].marker, "size": 12}
        data.append({**points(own, "tokens_per_second", "perplexity"), "marker": marker})
    y = axis(f"perplexity at {show_length(longest, comparison.context)} (log)", log=True)
    x = axis("training speed, tokens a second")
    return Figure("Perplexity against training speed", data, layout(x, y))


def task_figure(comparison: Comparison, style: Mapping[str, Style], task: str, extension: str) -> Figure:
    """Exact match against the length of a task's examples."""
    here = comparison.tasks.query("task == @task and extension == @extension")
    longest = float(here["length"].iloc[0] / here["length_ratio"].iloc[0])
    here["hover"] = [
        "<br>".join(
            escape(f"{name.replace('_', ' ')}: {f'{value:.5g}' if isinstance(value, float) else value}")
            for name, value in record.items()
        )
        for record in here.to_dict("records")
    ]
    x = length_axis(sorted(here["length"].unique().tolist()), longest) | {"title": {"text": "length (log)"}}
    y = axis("answers right in every token") | {"tickformat": ".0%", "range": [-0.03, 1.05]}
    return Figure(
        f"Exact match against length, {name_of(task, extension)}",
        curves(here, style, "length", "exact_match", ("low", "high")),
        layout(x, y, longest),
        {"extension": extension},
    )


def _described(frame: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """Rows of the summary or of positions, each told in full in the column `hover`."""
    texts = []
    for row in frame.itertuples():
        place = show_length(row.context_length, comparison.context)
        if "position" in frame:
            place = f"positions {row.position_from:,} to {row.position:,} of {place}"
        interval = show_interval(row.perplexity_low, row.perplexity_high, show_perplexity) or row.interval_reason
        bits = "" if pd.isna(row.bits_per_byte) else f", {row.bits_per_byte:.4f} bits/byte"
        texts.append(
            f"<b>{escape(row.label)}</b> at {place}<br>perplexity {row.perplexity:.6g} ({escape(interval)})<br>"
            f"{row.nats:.5f} nats/token{bits}<br>{row.tokens:,} tokens in {row.windows:,} windows, "
            f"{row.seeds} seed{'s' if row.seeds > 1 else ''}"
        )
    return frame.assign(hover=texts)


def _describe_difference(row: Any) -> str:
    interval = show_interval(row.difference_low, row.difference_high, show_percent) or row.verdict_reason
    p = "" if pd.isna(row.p_holm) else f"<br>p {show_p(row.p_holm)} after Holm's correction"
    return (
        f"<b>{escape(row.label)}</b>: {row.verdict}<br>perplexity {show_percent(row.difference_percent)} "
        f"({escape(interval)}){p}<br>{row.tokens:,} tokens, {row.seeds} seed{'s' if row.seeds > 1 else ''}"
    )
