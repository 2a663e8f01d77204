"""The report's figures for print, drawn by matplotlib from the plain data that the page draws: the same numbers,
colours, dashes and markers. They have no titles, for a paper's captions say what they show.

Fonts: in PDF embedded as TrueType; in SVG letters are outlines, since a page that shows it may lack the font.
"""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.compare.plots import GREY, Figure, Style

if TYPE_CHECKING:  # takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FORMATS = ("pdf", "svg", "png")
DPI = 300  # of PNG
POINTS = 0.44  # of a pixel on the page
SMALL, TINY = 6, 5.5  # points; other text has 7
LETTER = 0.06  # inches, of a text of 7 points
STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
LINES = {
    "solid": "-",
    "dash": (0, (4, 1.6)),
    "dot": (0, (1, 1.2)),
    "dashdot": (0, (4, 1.5, 1, 1.5)),
    "longdash": (0, (7, 2)),
    "longdashdot": (0, (7, 2, 1, 2)),
}
SHAPES = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "x": "X",
}
LOOK = {
    "font.family": "DejaVu Sans",  # which matplotlib brings
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 8 * POINTS,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "text.parse_math": False,  # a "$" in a name is one
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "trainshort",  # the same figure is the same file
}


def draw(figure: Figure, style: Mapping[str, Style], width: float, formats: Iterable[str]) -> dict[str, bytes]:
    """A figure as files, by format (see FORMATS). width: inches."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        canvas = canvas_of(figure, style, width)
        return {each: saved(canvas, each, Title=figure.title) for each in formats}


def canvas_of(figure: Figure, style: Mapping[str, Style], width: float) -> Canvas:
    """A figure of the report as one of matplotlib's, as wide as that in inches."""
    maps = any(trace["type"] == "heatmap" for trace in figure.data)
    forest = "categoryarray" in figure.layout["yaxis"]
    return _maps(figure, width) if maps else _forest(figure, width) if forest else _curves(figure, style, width)


def saved(canvas: Canvas, form: str, **told: str) -> bytes:
    """A figure as a file, the same each time. form: of FORMATS; told: what the file says of itself, by matplotlib's
    names or, in PNG, any."""
    left_out = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    file = io.BytesIO()
    canvas.savefig(file, format=form, dpi=DPI, metadata={**told, **left_out[form]})
    return file.getvalue()


def _canvas(width: float, height: float) -> Canvas:
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height), layout="constrained")


def _curves(figure: Figure, style: Mapping[str, Style], width: float) -> Canvas:
    """Lines with their bands, and a legend above."""
    from matplotlib.lines import Line2D

    lines = {trace["meta"]: trace for trace in figure.data if "lines" in trace["mode"] and "fill" not in trace}
    labels = [label for label in style if label in lines]
    across = max(1, int(width / (LETTER * max(map(len, labels), default=1) + 0.4)))
    canvas = _canvas(width, min(0.68 * width, 1.2 + 0.35 * width) + 0.15 * math.ceil(len(labels) / across))
    axes = canvas.add_subplot()
    for trace in figure.data:
        _trace(axes, trace)
    _scales(axes, figure)
    handles = [Line2D([], [], **_line(lines[label]), **_marker(lines[label])) for label in labels]
    if handles:
        canvas.legend(handles, labels, loc="outside upper center", ncols=min(across, len(labels)))
    _apart(canvas, axes)
    return canvas


def _trace(axes: Axes, trace: Mapping[str, Any]) -> None:
    """One of plotly's scatter traces: a band, a line, points."""
    if "fill" in trace:
        *colour, share = re.findall(r"[\d.]+", trace["fillcolor"])
        axes.fill(trace["x"], trace["y"], color=[int(part) / 255 for part in colour], alpha=float(share), linewidth=0)
    elif "lines" in trace["mode"]:
        axes.plot(trace["x"], trace["y"], **_line(trace), **_marker(trace), zorder=3)
    else:
        look = {"alpha": trace.get("opacity"), "linestyle": "none", "zorder": 2}
        axes.plot(trace["x"], trace["y"], **look, **_marker(trace), markeredgewidth=0.5)


def _line(trace: Mapping[str, Any]) -> dict[str, Any]:
    return {"color": trace["line"]["color"], "linestyle": LINES[trace["line"]["dash"]]}


def _marker(trace: Mapping[str, Any], inside: str = "none") -> dict[str, Any]:
    """Nothing for a line without markers. inside: the colour within open ones."""
    if "markers" not in trace["mode"]:
        return {}
    marker = trace["marker"]
    filled = marker["color"] if "-open" not in marker["symbol"] else inside
    colours = {"markeredgecolor": marker["color"], "markerfacecolor": filled}
    return {"marker": SHAPES[marker["symbol"].removesuffix("-open")], "markersize": marker["size"] * POINTS, **colours}


def _forest(figure: Figure, width: float) -> Canvas:
    """A row an encoding with its interval, the change at its right; a legend of what open markers say."""
    from matplotlib.lines import Line2D

    rows = {name: place for place, name in enumerate(figure.layout["yaxis"]["categoryarray"])}
    canvas = _canvas(width, 0.75 + 0.17 * len(rows))
    axes = canvas.add_subplot()
    for trace in figure.data:
        (x,), place, bounds = trace["x"], rows[trace["y"][0]], trace["error_x"]
        edges = [bounds["arrayminus"], bounds["array"]] if bounds else None
        bar = {"ecolor": trace["marker"]["color"], "elinewidth": 1, "capsize": 1.5, "capthick": 1}
        axes.errorbar([x], [place], xerr=edges, fmt="none", **bar, zorder=2)
        axes.plot([x], [place], **_marker(trace, inside="white"), zorder=3)
        beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": SMALL}
        axes.annotate(trace["text"][0], (1, place), (4, 0), **beside, va="center")
    _scales(axes, figure)
    axes.set_yticks(list(rows.values()), [_plain(name) for name in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(axis="y", length=0)
    told = {"": f"separable from {figure.when['reference']}", "-open": "not separable"}
    seen = {"-open" * trace["marker"]["symbol"].endswith("-open") for trace in figure.data}
    handles = [
        Line2D([], [], linestyle="none", **_marker({"mode": "markers", "marker": dot}))
        for kind in told
        if kind in seen
        for dot in [{"color": GREY, "symbol": f"circle{kind}", "size": 10}]
    ]
    if handles:
        canvas.legend(handles, [told[kind] for kind in told if kind in seen], loc="outside upper center", ncols=2)
    _apart(canvas, axes)
    return canvas


def _maps(figure: Figure, width: float) -> Canvas:
    """Heat maps side by side, in one scale, with their values in the cells."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    traces, layout = figure.data, figure.layout
    longest = sorted(traces, key=lambda trace: -len(trace["x"]))  # an encoding may be undefined at some lengths
    names = list(dict.fromkeys(name for trace in longest for name in trace["x"]))
    letters = max(len(word) for trace in traces for line in trace["text"] for text in line for word in text.split())
    cells, rows = len(names), max(len(trace["y"]) for trace in traces)
    across = max(1, min(len(traces), int((width - 0.85) / (cells * (0.046 * letters + 0.03) + 0.06))))
    down = math.ceil(len(traces) / across)
    across = math.ceil(len(traces) / down)
    canvas = _canvas(width, 0.55 + (0.2 + 0.19 * rows) * down)
    grid = canvas.subplots(down, across, squeeze=False)
    values = [np.array(trace["z"], float) for trace in traces]
    ends = traces[0].get("zmin", min(map(np.nanmin, values))), traces[0].get("zmax", max(map(np.nanmax, values)))
    scale = Normalize(*ends)
    colours = colormaps[traces[0]["colorscale"].lower() + "_r" * traces[0].get("reversescale", False)]
    for number, (axes, trace, value) in enumerate(zip(grid.flat, traces, values, strict=False)):
        columns = [names.index(name) for name in trace["x"]]
        shown = np.full((len(value), cells), np.nan)
        shown[:, columns] = value
        shape = {"edgecolors": "white", "linewidth": 1}  # lines instead of an image, sharp at any size
        mesh = axes.pcolormesh(np.ma.masked_invalid(shown), cmap=colours, norm=scale, **shape)
        for (y, x), each in np.ndenumerate(value):
            ink = "black" if math.isnan(each) or _light(colours(scale(each))) else "white"
            place = {"ha": "center", "va": "center", "fontsize": TINY, "linespacing": 0.9}
            axes.text(columns[x] + 0.5, y + 0.5, trace["text"][y][x].replace(" ", "\n"), color=ink, **place)
        left, lowest = number % across == 0, number + across >= len(traces)
        axes.set_xticks(np.arange(cells) + 0.5, names if lowest else [""] * cells)
        axes.set_yticks(np.arange(len(value)) + 0.5, [_plain(text) if left else "" for text in trace["y"]])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if layout["yaxis"].get("autorange") == "reversed":
            axes.invert_yaxis()
    for axes in grid.flat[len(traces) :]:
        axes.set_visible(False)
    for axes, title in zip(grid.flat, layout.get("annotations", ()), strict=False):
        axes.set_title(_plain(title["text"]), pad=2)
    for name, label in (("xaxis", canvas.supxlabel), ("yaxis", canvas.supylabel)):
        titles = [_title(axis) for key, axis in layout.items() if key.startswith(name)]
        label(next(filter(None, titles), ""), fontsize=LOOK["axes.labelsize"])
    bar = canvas.colorbar(mesh, ax=grid, aspect=25, pad=0.02, fraction=0.05)
    bar.set_label(traces[0]["colorbar"]["title"]["text"])
    bar.outline.set_visible(False)
    return canvas


def _light(colour: tuple[float, ...]) -> bool:
    """Whether black can be read on it better than white."""
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5


def _scales(axes: Axes, figure: Figure) -> None:
    """The axes' scales, ticks and titles, and the lines across with what is written above them."""
    axes.grid(True)
    for name in "xy":
        spec = figure.layout[f"{name}axis"]
        if spec.get("type") == "log":
            axes.set(**{f"{name}scale": "log"})
        if "range" in spec:
            axes.set(**{f"{name}lim": spec["range"]})
        set_ticks(axes, name, spec)
    across = int(axes.figure.get_figwidth() / LETTER) - 8
    title = textwrap.fill(_title(figure.layout["xaxis"]), across)
    if "categoryarray" in figure.layout["yaxis"]:  # whose names may leave little room under the axis itself
        axes.figure.supxlabel(title, fontsize=LOOK["axes.labelsize"])
    else:
        axes.set_xlabel(title)
    axes.set_ylabel(_title(figure.layout["yaxis"]))
    for line in figure.layout.get("shapes", ()):
        axes.axvline(line["x0"], color=line["line"]["color"], linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    for note in figure.layout.get("annotations", ()):
        above = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "color": note["font"]["color"]}
        axes.annotate(_plain(note["text"]), (10 ** note["x"], 1), (0, 1.5), fontsize=SMALL, **above)


def set_ticks(axes: Axes, name: str, spec: Mapping[str, Any]) -> None:
    """The ticks of one axis, "x" or "y", and their texts. spec: plotly's of the axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

    axis = getattr(axes, f"{name}axis")
    if "tickvals" in spec:
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(spec["tickvals"], [_plain(text) for text in spec["ticktext"]])
    elif spec.get("type") == "log":
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(FixedLocator(log_ticks(*getattr(axes, f"get_{name}lim")())))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}" if value < 1e6 else f"{value:.0e}"))
    elif spec.get("categoryarray") is None:
        axis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.5g}"))
        if "%" in spec.get("tickformat", ""):
            axis.set_major_formatter(PercentFormatter(1, decimals=0))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high on a logarithmic axis, about five.

    >>> log_ticks(45, 140), log_ticks(3, 900), log_ticks(1, 3e7)
    ([60.0, 80.0, 100.0, 120.0, 140.0], [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0], [1.0, 100.0, 10000.0, 1000000.0])
    """
    from matplotlib.ticker import MaxNLocator

    if high < 5 * low:
        found = MaxNLocator(5, steps=STEPS).tick_values(low, high).tolist()
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        parts, every = ((1, 2, 5), 1) if high < 1000 * low else ((1,), math.ceil(len(decades) / 5))
        parts = (1, 2, 3, 5, 7) if high < 30 * low else parts
        found = [part * 10.0**decade for decade in decades[::every] for part in parts]
    return [tick for tick in found if low <= tick <= high]


def _apart(canvas: Canvas, axes: Axes) -> None:
    """Leaves out the texts of ticks of the x axis that would run into the one before."""
    canvas.draw_without_rendering()
    texts = [label.get_text() for label in axes.get_xticklabels()]
    end = -math.inf
    for number, label in enumerate(axes.get_xticklabels()):
        box = label.get_window_extent()
        if texts[number] and box.x0 < end + 1:
            texts[number] = ""
        elif texts[number]:
            end = box.x1
    axes.set_xticks(axes.get_xticks(), texts)


def _title(axis: Mapping[str, Any]) -> str:
    return _plain(axis.get("title", {}).get("text", ""))


def _plain(text: str) -> str:
    """A text of plotly's without its HTML."""
    return html.unescape(text.replace("<br>", "\n"))
