"""What the figures of a report are made of, for plotly: the style of an encoding, the same in all of them, curves and
points, axes and layouts. Every trace says whose it is (`meta`), so that the page can switch encodings on and off."""

from __future__ import annotations

import html
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from eval.compare.show import Table

# Okabe & Ito's colours (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers; without their yellow,
# which is faint on white. A second encoding of a colour has another dash and marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
TURNS = math.lcm(len(DASHES), len(MARKERS))  # of dash and marker, until they come together again
# The encodings whose style is chosen: of each line each has a colour of its own, and those of a family stand apart.
MOST_USED = (
    *("none", "sinusoidal", "t5", "kerple_log", "alibi", "rope", "learned"),
    *("fire", "xpos", "cope", "fox", "rope_partial", "shaw", "transformer_xl"),
    *("rope_abf", "kerple_power", "sandwich", "rope_nope", "deberta", "window", "stick_breaking"),
)
GREY = "#8a8f98"
INK, SOFT, LINE, BUTTON = "#22262b", "#555555", "#e6e8eb", "#b5bac1"  # text, marks, grids, what floats above a figure
# What assets/report.css has in the place of a figure's colour where the page is dark.
SHADES = {COLOURS[4]: "--black", INK: "--ink", SOFT: "--soft", LINE: "--line", BUTTON: "--soft"}
MAPS, MAP_HEIGHT = 4, 230  # heat maps side by side; pixels
HOVER = "%{customdata}<extra></extra>"  # what customdata says, and no box with the trace's name beside it


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
    """A part of the page. title, note: instead of those that the page's template has for its id; texts: longer texts,
    folded, by their titles."""

    id: str
    panels: Sequence[Figure | Table] = ()
    title: str = ""
    note: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def choices(self) -> dict[str, list[str]]:
        """What can be chosen to see one panel or another: the values of the panels' `when`, by name, in their order."""
        chosen = pd.DataFrame([dict(panel.when) for panel in self.panels])
        return {name: values.dropna().unique().tolist() for name, values in chosen.items() if values.nunique() > 1}


def styles(labels: Iterable[str], controls: Iterable[str] = ()) -> dict[str, Style]:
    """A style a label, no two alike as far as there are styles; controls are grey.

    The colour of an encoding goes by its name alone, so that it is the same in every sweep; so do dash and marker of
    MOST_USED, and those of others but where two names meet. A label that says more than its encoding's name has the
    encoding's style where nothing else in the sweep has it, else the next of the least used colours.
    """
    labels, found, taken = set(labels) - set(controls), {}, [set() for _ in COLOURS]

    def take(label: str, colour: int, turns: Iterable[int]) -> None:
        turns = list(turns)
        turn = next((turn for turn in turns if turn not in taken[colour]), turns[0])
        taken[colour].add(turn)
        marker = MARKERS[(colour + turn) % len(MARKERS)]
        found[label] = Style(COLOURS[colour], DASHES[turn % len(DASHES)], marker)

    variants = []
    named = {label: encoding_of(label) for label in labels}
    for label, name in sorted(named.items(), key=lambda each: (each[1] not in MOST_USED, each[1] != each[0], each)):
        if label != name and name in [named[other] for other in found]:
            variants.append(label)
        elif name in MOST_USED:
            take(label, MOST_USED.index(name) % len(COLOURS), [MOST_USED.index(name) // len(COLOURS)])
        else:
            choice, first = zlib.crc32(name.encode()), len(MOST_USED) // len(COLOURS)
            turns = range(first, TURNS)
            start = choice // len(COLOURS) % len(turns)
            take(label, choice % len(COLOURS), [*turns[start:], *turns[:start]])
    for label in variants:
        choice = zlib.crc32(label.encode())
        colour = min(range(len(COLOURS)), key=lambda i: (len(taken[i]), (i - choice) % len(COLOURS)))
        take(label, colour, range(TURNS))
    for turn, label in enumerate(sorted(controls)):
        found[label] = Style(GREY, DASHES[1 + turn % (len(DASHES) - 1)], MARKERS[turn % len(MARKERS)])
    return found


def encoding_of(label: str) -> str:
    """The encoding that a label (see `Run`) begins with.

    >>> [encoding_of(label) for label in ("rope (base=500000)", "rope+yarn@512", "rope@512 (tokens=1000)", "rope")]
    ['rope', 'rope', 'rope', 'rope']
    """
    return re.split(r" \(|[+@]", label, maxsplit=1)[0]


def curves(
    frame: pd.DataFrame,
    style: Mapping[str, Style],
    x: str,
    y: str,
    edges: tuple[str, str] | None = None,
    *,
    markers: bool = True,
) -> list[dict[str, Any]]:
    """A line a label, column `y` over column `x`, and a band under it between the columns `edges`. What overflows is
    left out. A column `hover` has what the page says of a point that is pointed at; else its label and place."""
    data = []
    for label, own in frame.groupby("label", sort=False):
        own = own[np.isfinite(own[y])].sort_values(x, kind="stable")
        if own.empty:
            continue
        look = style[label]
        band = own[np.isfinite(own[[*edges]]).all(axis="columns")] if edges else own[:0]
        if len(band) > 1:
            red, green, blue = (int(look.colour[i : i + 2], 16) for i in (1, 3, 5))
            data.append(
                {
                    "type": "scatter",
                    "meta": label,
                    "x": band[x].tolist() + band[x].tolist()[::-1],
                    "y": band[edges[1]].tolist() + band[edges[0]].tolist()[::-1],
                    "fill": "toself",
                    "fillcolor": f"rgba({red},{green},{blue},0.13)",
                    "line": {"width": 0},
                    "mode": "lines",
                    "hoverinfo": "skip",
                }
            )
        data.append(
            {
                **points(own, x, y),
                "name": escape(label),
                "mode": "lines+markers" if markers else "lines",
                "line": {"color": look.colour, "dash": look.dash, "width": 2},
                "marker": {"color": look.colour, "symbol": look.marker, "size": 8},
            }
        )
    return data


def heat_maps(
    grids: Mapping[str, pd.DataFrame], titles: tuple[str, str, str], show: Callable[[float], str], unit: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Data and layout of heat maps side by side, in one scale from zero on: grids, rows upwards, by their titles.
    titles: of the axes and of the colours; unit: of the values, which `show` writes into the cells."""
    across = min(MAPS, len(grids))
    down = -(-len(grids) // across)
    highest = max(float(np.nanmax(grid.to_numpy(float))) for grid in grids.values())
    data, axes, names = [], {}, []
    for number, (title, grid) in enumerate(grids.items()):
        own = str(number + 1) if number else ""  # of plotly's axes
        values = grid.to_numpy(float)
        data.append(
            {
                "type": "heatmap",
                "x": [str(name) for name in grid.columns],
                "y": [str(name) for name in grid.index],
                "z": [[None if np.isnan(value) else value for value in line] for line in values],
                "text": [["" if np.isnan(value) else show(value) for value in line] for line in values],
                "texttemplate": "%{text}",
                "hovertemplate": f"{escape(title)}<br>%{{x}}, {titles[1]} %{{y}}: %{{text}} {unit}<extra></extra>",
                "colorscale": "Cividis",
                **{"zmin": 0, "zmax": max(highest, 1e-9), "showscale": False, "xgap": 2, "ygap": 2},
                **{"xaxis": f"x{own}", "yaxis": f"y{own}", "colorbar": {"title": {"text": titles[2]}}},
            }
        )
        below, first = number + across >= len(grids), number % across == 0
        axes[f"xaxis{own}"] = {"type": "category", "title": {"text": titles[0] if below else ""}}
        axes[f"yaxis{own}"] = {"type": "category", "title": {"text": titles[1] if first else ""}, "automargin": True}
        place = {"xref": f"x{own} domain", "yref": f"y{own} domain", "x": 0.5, "y": 1, "yanchor": "bottom"}
        names.append({"text": escape(title), "showarrow": False, **place})
    side_by_side = {"rows": down, "columns": across, "pattern": "independent", "xgap": 0.12, "ygap": 0.3}
    found = layout({}, {}, height=80 + MAP_HEIGHT * down, grid=side_by_side, annotations=names)
    return data, found | axes


def points(own: pd.DataFrame, x: str, y: str) -> dict[str, Any]:
    """A trace of one label's rows, with what the page says of a point that is pointed at; see `curves`."""
    hover = own["hover"].tolist() if "hover" in own else None
    return trace(own["label"].iloc[0], own[x].tolist(), own[y].tolist(), hover)


def trace(label: str, x: Sequence, y: Sequence, hover: Sequence[str] | None = None) -> dict[str, Any]:
    """A trace of plotly's, points of a label; hover: see `points`."""
    if hover is None:
        said = {"hovertemplate": f"<b>{escape(label)}</b><br>%{{x}}: %{{y:.5g}}<extra></extra>"}
    else:
        said = {"customdata": hover, "hovertemplate": HOVER}
    return {"type": "scatter", "mode": "markers", "meta": label, "x": x, "y": y, **said}


def escape(text: str) -> str:
    """Plotly's texts know some HTML; what comes from data is no HTML."""
    return html.escape(text, quote=False)


def axis(title: str, *, log: bool = False) -> dict[str, Any]:
    """An axis of plotly's."""
    found = {"title": {"text": title}, "gridcolor": LINE, "zeroline": False, "automargin": True}
    return found | ({"type": "log", "tickformat": ",.5~g"} if log else {})


def length_axis(lengths: Iterable[int], context: float) -> dict[str, Any]:
    """A logarithmic axis of context lengths, tokens, with these marked, in multiples of the training context too."""
    lengths = list(lengths)
    ticks = {"tickvals": lengths, "ticktext": [f"{length:,}<br>{length / context:g}x" for length in lengths]}
    return axis("context length, tokens (log)", log=True) | ticks


def line_at(x: float) -> dict[str, Any]:
    line = {"color": SOFT, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line, "layer": "below"}


def layout(
    x: Mapping[str, Any], y: Mapping[str, Any], trained: float | None = None, *, height: int = 460, **more: Any
) -> dict[str, Any]:
    """A layout of plotly's. trained: where on a logarithmic x axis a line says that training went no further."""
    if trained is not None:  # plotly wants the logarithm of an annotation's place on such an axis
        place = {"x": math.log10(trained), "yref": "paper", "y": 1, "xanchor": "left", "yanchor": "bottom"}
        note = {"text": "trained up to here", "showarrow": False, "font": {"size": 12, "color": SOFT}, **place}
        more |= {"shapes": [line_at(trained)], "annotations": [note]}
    return {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 28, "b": 60},
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": BUTTON, "activecolor": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        **more,
    }
