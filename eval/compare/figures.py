"""The figures of a report, drawn by plotly. An encoding looks the same in all of them, and every trace says whose it is
(`meta`), so that the page can switch encodings on and off."""

from __future__ import annotations

import csv
import html
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.compare.comparison import Comparison, Run
from eval.compare.tables import (
    Table,
    difference_interval_of,
    perplexity_interval_of,
    show_count,
    show_length,
    show_p,
    show_percent,
    show_perplexity,
)

Row = Mapping[str, Any]

# Okabe & Ito's colours (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers; without their yellow,
# which is faint on white. A second encoding of a colour has another dash and marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
GREY = "#8a8f98"
VERDICT_COLOURS = {"better": "#0072B2", "worse": "#D55E00", "not separable": GREY}
HOVER = "%{customdata}<extra></extra>"  # what customdata says, and no box with the trace's name beside it
FOREST_LINE = 26  # pixels
MANY = 12  # encodings; beyond, figures draw no single seeds, and the page begins with the best ones


@dataclass(frozen=True)
class Style:
    colour: str
    dash: str
    marker: str


@dataclass(frozen=True)
class Figure:
    """title: what it shows, read out too; data, layout: plotly's, as plain data; when: the selections
    under which the page shows it."""

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    when: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the page. texts: longer texts, folded, by their titles."""

    id: str
    title: str
    panels: Sequence[Figure | Table] = ()
    note: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, list[str]]:
        """What can be chosen to see one panel or another: the values of the panels' `when`, by name, in their order."""
        found: dict[str, dict[str, None]] = {}
        for panel in self.panels:
            for name, value in panel.when.items():
                found.setdefault(name, {})[value] = None
        return {name: list(values) for name, values in found.items() if len(values) > 1}


def styles(labels: Iterable[str], controls: Iterable[str] = ()) -> dict[str, Style]:
    """A style a label, by its name: the same in every figure, and in other sweeps as far as no two names collide.

    Each name has a colour of its own, and takes the next of the least used where that is taken. Controls are grey.
    """
    found, used = {}, [0] * len(COLOURS)
    for label in sorted(set(labels) - set(controls)):
        choice = zlib.crc32(label.encode())
        colour = min(range(len(COLOURS)), key=lambda i: (used[i], (i - choice) % len(COLOURS)))
        turn = used[colour]
        used[colour] += 1
        marker = MARKERS[(colour + turn) % len(MARKERS)]
        found[label] = Style(COLOURS[colour], DASHES[turn % len(DASHES)], marker)
    for turn, label in enumerate(sorted(controls)):
        found[label] = Style(GREY, DASHES[1 + turn % (len(DASHES) - 1)], MARKERS[turn % len(MARKERS)])
    return found


def perplexity_figure(comparison: Comparison, style: Mapping[str, Style], protocol: str, extension: str) -> Figure:
    """Perplexity against context length, both logarithmic, with bands for the intervals and dots for the seeds."""
    rows = _of(comparison.summary, protocol=protocol, extension=extension)

    def describe(row: Row) -> str:
        return _describe(row, comparison)

    data = _curves([row for row in rows if row["control"] != "floor"], style, "context_length", "perplexity", describe)
    if len(_by_label(rows)) <= MANY:
        data += _seed_dots(comparison, style, protocol, extension)
    lengths = sorted({row["context_length"] for row in rows})
    data += _curves(_floors(rows, lengths), style, "context_length", "perplexity", describe, markers=False)
    return Figure(
        f"Perplexity against context length, {protocol}" + (f", extension {extension}" * (extension != "none")),
        data,
        _layout(
            x=_length_axis(lengths, comparison.context),
            y=_axis("perplexity (log)", log=True),
            shapes=[_line_at(comparison.context)],
            annotations=[_note_at(comparison.context, "trained up to here")],
        ),
        {"protocol": protocol, "extension": extension},
    )


def _floors(rows: Iterable[Row], lengths: Sequence[int]) -> list[Row]:
    """The floors' rows; one that stands at a single length, for it is the same at all, at the first and the last."""
    found = []
    for own in _by_label(row for row in rows if row["control"] == "floor").values():
        ends = [row | {"context_length": length} for row in own for length in (lengths[0], lengths[-1])]
        found += ends if len(own) == 1 else own
    return found


def position_figure(comparison: Comparison, style: Mapping[str, Style], extension: str) -> Figure:
    """Loss by position in one long window: the mean over each stretch of positions, at its end."""
    rows = _of(comparison.positions, extension=extension)
    rows = _of(rows, context_length=max((row["context_length"] for row in rows), default=None))
    return Figure(
        "Loss by position in the window" + (f", extension {extension}" * (extension != "none")),
        _curves(rows, style, "position", "nats", lambda row: _describe(row, comparison), markers=False),
        _layout(
            x=_axis("position in the window, tokens (log)", log=True),
            y=_axis("nats a token"),
            shapes=[_line_at(comparison.context)],
            annotations=[_note_at(comparison.context, "trained up to here")],
        ),
        {"extension": extension},
    )


def difference_figure(comparison: Comparison, protocol: str, extension: str, length: int) -> Figure:
    """A forest plot: each encoding's change in perplexity against the reference, with its interval, best on top."""
    rows = _of(comparison.summary, protocol=protocol, extension=extension, context_length=length)
    rows = [row for row in rows if "verdict" in row and math.isfinite(row["difference_percent"])]
    place = show_length(length, comparison.context)
    x = _axis(f"multiples of {_escape(str(comparison.reference))}'s perplexity (log)", log=True)
    y = {"categoryorder": "array", "categoryarray": [_escape(row["label"]) for row in reversed(rows)]}
    return Figure(
        f"Perplexity against {comparison.reference}'s at {place}, {protocol}: multiples with intervals",
        [_forest_line(row) for row in rows],
        _layout(
            x=x,
            y={**y, "automargin": True, "showgrid": True, "gridcolor": "#eee", "tickmode": "linear"},
            shapes=[_line_at(1)],
            height=140 + FOREST_LINE * len(rows),
            meta={"line": FOREST_LINE},
        ),
        {"protocol": protocol, "extension": extension, "context length": place},
    )


def _forest_line(row: Row) -> dict[str, Any]:
    multiple, low, high = (
        None if row[key] is None else 1 + row[key] / 100
        for key in ("difference_percent", "difference_low", "difference_high")
    )
    bounds = {} if low is None else {"array": [high - multiple], "arrayminus": [multiple - low], "symmetric": False}
    verdict = list(VERDICT_COLOURS).index(row["verdict"])
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": row["label"],
        "x": [multiple],
        "y": [_escape(row["label"])],
        "error_x": bounds and {"type": "data", "thickness": 2, "width": 5, **bounds},
        "marker": {"color": VERDICT_COLOURS[row["verdict"]], "size": 10, "symbol": MARKERS[verdict]},
        "customdata": [_describe_difference(row)],
        "hovertemplate": HOVER,
    }


def extension_figure(comparison: Comparison, protocol: str, label: str) -> Figure:
    """A heat map of one label: perplexity by extension and context length."""
    rows = _of(comparison.summary, protocol=protocol, label=label)
    names = sorted({row["extension"] for row in rows}, key=lambda name: (name != "none", name))
    lengths = sorted({row["context_length"] for row in rows})
    cells = {(row["extension"], row["context_length"]): row for row in rows}
    grid = [[cells.get((name, length)) for length in lengths] for name in names]
    data = {
        "type": "heatmap",
        "x": [show_length(length, comparison.context) for length in lengths],
        "y": [_escape(name) for name in names],
        "z": [[cell and _finite(cell["nats"]) for cell in line] for line in grid],
        "text": [[show_perplexity(cell["perplexity"]) if cell else "not defined" for cell in line] for line in grid],
        "texttemplate": "%{text}",
        "customdata": [[cell and _describe(cell, comparison) for cell in line] for line in grid],
        "hovertemplate": HOVER,
        "colorscale": "Viridis",
        "reversescale": True,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    return Figure(
        f"Perplexity of {label} by extension and context length, {protocol}",
        [data],
        _layout(
            x={"type": "category", "title": {"text": "context length, tokens"}},
            y={"type": "category", "autorange": "reversed", "automargin": True},
            height=150 + 34 * len(names),
        ),
        {"protocol": protocol, "encoding": label},
    )


CURVES = {"val_loss": "validation loss", "loss": "training loss", "tokens_per_second": "tokens a second"}


def training_figures(comparison: Comparison, style: Mapping[str, Style]) -> list[Figure]:
    """A figure for each of CURVES, against the tokens trained on: the mean over seeds, and their range as a band."""
    points = [(run.label, point) for run in comparison.compared for point in read_curve(run)]
    figures = []
    for quantity, title in CURVES.items():
        at: dict[tuple[str, int], list[float]] = {}
        for label, point in points:
            if quantity in point:
                at.setdefault((label, int(point["tokens"])), []).append(point[quantity])
        rows = [
            {"label": label, "tokens": tokens, "mean": sum(values) / len(values), "low": min(values)}
            | {"high": max(values), "seeds": len(values)}
            for (label, tokens), values in at.items()
        ]
        if rows:
            y = _axis(title + (", nats a token" if "loss" in quantity else ""))
            data = _curves(rows, style, "tokens", "mean", _describe_point, markers=False)
            figures.append(
                Figure(title.capitalize(), data, _layout(x=_axis("tokens trained on"), y=y), {"curve": title})
            )
    return figures


def read_curve(run: Run) -> list[dict[str, float]]:
    """The points of curve.csv, without the empty cells; none where there is no file or it can't be read."""
    path = run.folder.path / "curve.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        try:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error):
            return []


def cost_figure(comparison: Comparison, costs: Sequence[Row], style: Mapping[str, Style]) -> Figure | None:
    """What the perplexity at the longest context costs in training speed; None where there is nothing to place."""
    rows = _of(comparison.summary, extension="none")
    longest = max((row["context_length"] for row in rows), default=0)
    speed = {row["label"]: row["tokens_per_second"] for row in costs}
    best = {row["label"]: row for row in reversed(_of(rows, context_length=longest)) if row["label"] in speed}
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "meta": label,
            "x": [speed[label]],
            "y": [row["perplexity"]],
            "marker": {"color": style[label].colour, "symbol": style[label].marker, "size": 12},
            "customdata": [f"{_describe(row, comparison)}<br>{show_count(speed[label])} tokens/s in training"],
            "hovertemplate": HOVER,
        }
        for label, row in best.items()
        if math.isfinite(row["perplexity"])
    ]
    y = _axis(f"perplexity at {show_length(longest, comparison.context)} (log)" if data else "", log=True)
    layout = _layout(x=_axis("training speed, tokens a second"), y=y)
    return Figure("Perplexity against training speed", data, layout) if data else None


def task_figure(comparison: Comparison, style: Mapping[str, Style], task: str, extension: str) -> Figure:
    """Exact match against the length of a task's examples."""
    rows = _of(comparison.tasks, task=task, extension=extension)
    longest = next((row["length"] / row["length_ratio"] for row in rows), 1)
    return Figure(
        f"Exact match against length, {task}" + (f", extension {extension}" * (extension != "none")),
        _curves(rows, style, "length", "exact_match", _describe_record),
        _layout(
            x=_length_axis(sorted({row["length"] for row in rows}), longest) | {"title": {"text": "length (log)"}},
            y=_axis("answers right in every token") | {"tickformat": ".0%", "range": [-0.03, 1.05]},
            shapes=[_line_at(longest)],
            annotations=[_note_at(longest, "trained up to here")],
        ),
        {"extension": extension},
    )


def record_figure(
    title: str, rows: Sequence[Row], style: Mapping[str, Style], axes: tuple[str, str], when: Mapping[str, str]
) -> Figure:
    """Any rows of label, x, y, low and high (or None) as curves; the x axis is logarithmic where its title says so."""
    x, y = axes
    log = x.endswith("(log)")
    rows = [row for row in rows if row["x"] > 0 or not log]
    few = len({row["x"] for row in rows}) <= MANY
    return Figure(
        title, _curves(rows, style, "x", "y", None, markers=few), _layout(x=_axis(x, log=log), y=_axis(y)), when
    )


def _of(rows: Iterable[Row], **place: Any) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in place.items())]


def _by_label(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["label"], []).append(row)
    return found


def _curves(
    rows: Iterable[Row],
    style: Mapping[str, Style],
    x: str,
    y: str,
    describe: Callable[[Row], str] | None,
    *,
    markers: bool = True,
) -> list[dict[str, Any]]:
    """A band and a line a label; the band where the rows have `{y}_low`, or `low`. What overflows is left out.

    describe: what the page says of a row that is pointed at; None: its label and its place in the figure.
    """
    data = []
    for label, own in _by_label(rows).items():
        own = sorted((row for row in own if math.isfinite(row[y])), key=lambda row: row[x])
        if not own:
            continue
        look = style[label]
        low, high = next((pair for pair in ((f"{y}_low", f"{y}_high"), ("low", "high")) if pair[0] in own[0]), ("", ""))
        bounded = [row for row in own if row.get(low) is not None and math.isfinite(row[high])]
        if len(bounded) > 1:
            data.append(
                {
                    "type": "scatter",
                    "meta": label,
                    "x": [row[x] for row in bounded] + [row[x] for row in reversed(bounded)],
                    "y": [row[high] for row in bounded] + [row[low] for row in reversed(bounded)],
                    "fill": "toself",
                    "fillcolor": _transparent(look.colour),
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                }
            )
        data.append(
            {
                "type": "scatter",
                "meta": label,
                "name": _escape(label),
                "mode": "lines+markers" if markers else "lines",
                "x": [row[x] for row in own],
                "y": [row[y] for row in own],
                "line": {"color": look.colour, "dash": look.dash, "width": 2},
                "marker": {"color": look.colour, "symbol": look.marker, "size": 8},
                **_hover(label, describe and [describe(row) for row in own]),
            }
        )
    return data


def _hover(label: str, texts: Sequence[str] | None) -> dict[str, Any]:
    if texts is None:
        return {"hovertemplate": f"<b>{_escape(label)}</b><br>%{{x}}: %{{y:.5g}}<extra></extra>"}
    return {"customdata": texts, "hovertemplate": HOVER}


def _seed_dots(
    comparison: Comparison, style: Mapping[str, Style], protocol: str, extension: str
) -> list[dict[str, Any]]:
    """Every seed's own perplexity, as a small open dot, for labels with several."""
    dots: dict[str, list[tuple[int | None, Row]]] = {}
    for run in comparison.compared:
        rows = [row for row in run.rows if row["status"] == "ok" and "control" not in row]
        dots.setdefault(run.label, []).extend(
            (run.seed, row) for row in _of(rows, protocol=protocol, extension=extension)
        )
    return [
        {
            "type": "scatter",
            "meta": label,
            "mode": "markers",
            "x": [row["context_length"] for _, row in seen],
            "y": [row["perplexity"] for _, row in seen],
            "marker": {"color": style[label].colour, "symbol": "circle-open", "size": 5},
            "opacity": 0.7,
            "customdata": [
                f"<b>{_escape(label)}</b>, seed {seed}, {show_length(row['context_length'], comparison.context)}<br>"
                f"perplexity {row['perplexity']:.6g}"
                for seed, row in seen
            ],
            "hovertemplate": HOVER,
        }
        for label, seen in dots.items()
        if len({seed for seed, _ in seen}) > 1
    ]


def _describe(row: Row, comparison: Comparison) -> str:
    """A row in full, for who points at it."""
    place = show_length(row["context_length"], comparison.context)
    if "position" in row:
        place = f"positions {row['position_from']:,} to {row['position']:,} of {place}"
    interval = perplexity_interval_of(row) or row["interval_reason"]
    bits = "" if row["bits_per_byte"] is None else f", {row['bits_per_byte']:.4f} bits/byte"
    return (
        f"<b>{_escape(row['label'])}</b> at {place}<br>perplexity {row['perplexity']:.6g} ({_escape(interval)})<br>"
        f"{row['nats']:.5f} nats/token{bits}<br>{row['tokens']:,} tokens in {row['windows']:,} windows, "
        f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}"
    )


def _describe_difference(row: Row) -> str:
    interval = difference_interval_of(row) or row["verdict_reason"]
    p = "" if row["p_holm"] is None else f"<br>p {show_p(row['p_holm'])} after Holm's correction"
    return (
        f"<b>{_escape(row['label'])}</b>: {row['verdict']}<br>perplexity {show_percent(row['difference_percent'])} "
        f"({_escape(interval)}){p}<br>{row['tokens']:,} tokens, {row['seeds']} seed{'s' * (row['seeds'] > 1)}"
    )


def _describe_point(row: Row) -> str:
    spread = f" ({row['low']:.5g} to {row['high']:.5g} over {row['seeds']} seeds)" if row["seeds"] > 1 else ""
    return f"<b>{_escape(row['label'])}</b><br>{row['mean']:.5g}{spread}<br>after {row['tokens']:,} tokens"


def _describe_record(row: Row) -> str:
    fields = (f"{key.replace('_', ' ')}: {_brief(value)}" for key, value in row.items() if value is not None)
    return "<br>".join(_escape(field) for field in fields)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _brief(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    """Plotly's texts know some HTML; what comes from data is no HTML."""
    return html.escape(text, quote=False)


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _axis(title: str, *, log: bool = False) -> dict[str, Any]:
    axis = {"title": {"text": title}, "gridcolor": "#e6e8eb", "zeroline": False, "automargin": True}
    return axis | ({"type": "log", "tickformat": ",.5~g"} if log else {})


def _length_axis(lengths: Sequence[int], context: float) -> dict[str, Any]:
    ticks = {"tickvals": list(lengths), "ticktext": [f"{length:,}<br>{length / context:g}x" for length in lengths]}
    return _axis("context length, tokens (log)", log=True) | ticks


def _line_at(x: float) -> dict[str, Any]:
    line = {"color": "#555", "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _note_at(x: float, text: str) -> dict[str, Any]:
    """Plotly wants the logarithm of an annotation's place on a logarithmic axis."""
    font = {"size": 12, "color": "#555"}
    place = {"x": math.log10(x), "yref": "paper", "y": 1, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, "font": font, **place}


def _layout(*, x: Mapping[str, Any], y: Mapping[str, Any], height: int = 460, **more: Any) -> dict[str, Any]:
    return {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 28, "b": 60},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#b5bac1", "activecolor": "#22262b"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#22262b"},
        **more,
    }
