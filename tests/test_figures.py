"""The figures and tables for a paper: they are files that print well, and say and look as the report does.

python -m pytest tests/test_figures.py
"""

import re
import struct
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from eval.compare.comparison import read_comparison, write_comparison
from eval.compare.figures import styles_of
from eval.compare.paper import LINES, LOOK, SHAPES, canvas_of, draw
from eval.compare.paper_table import LATEX, escaped, latex, paper_tables
from eval.compare.show import show_perplexity
from eval.record.files import read_table
from scripts.figures import main, make_folder, only, paper_figures
from tests.shown import HOSTILE, line
from tests.synthetic import CONTEXT, make_run

LENGTHS = (CONTEXT, 2 * CONTEXT)


def found(length, depth, extension):
    return 3 * CONTEXT / length + depth


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "demo"
    shared = {"lengths": LENGTHS, "protocols": ["fixed_targets"], "needles": ["pair"]}
    for seed in (0, 1):
        make_run(path, "rope", seed, line(4.0, 0.1), gain=found, floor=True, **shared)
        make_run(path, "alibi", seed, line(4.0), gain=found, floor=True, **shared)
        make_run(path, "t5", seed, line(4.0, 0.105), gain=found, floor=True, **shared)
        make_run(path, "learned", seed, lambda length: 4.1 if length == CONTEXT else None, **shared)
    return path


@pytest.fixture(scope="module")
def written(sweep):
    """The folder of what the command writes, as SVG."""
    main([str(sweep), "--format", "svg", "--width=8cm"])
    return sweep / "figures"


@pytest.fixture(scope="module")
def comparison(sweep):
    return read_comparison(sweep)


@pytest.fixture(scope="module")
def figures(comparison):
    return dict(paper_figures(comparison, comparison.labels))


# ---------------------------------------------------------------------------------------------------------------- files


def test_every_figure_and_table_is_a_file_whose_name_says_what_it_is(written):
    assert {path.name for path in written.iterdir()} == {
        "perplexity-fixed_targets.svg",
        "differences-fixed_targets-32-to-rope.svg",
        "differences-fixed_targets-64-to-rope.svg",
        "retrieval-pair.svg",
        "retrieval-depth-pair.svg",
        "table.tex",
        "table.md",
    }


@pytest.mark.parametrize("kind", ["perplexity", "differences", "retrieval-depth"])
def test_fonts_are_embedded_as_truetype_and_the_width_is_the_one_asked_for(comparison, figures, kind):
    figure = next(figure for name, figure in figures.items() if name.startswith(kind))
    (content,) = draw(figure, styles_of(comparison), 8 / 2.54, ["pdf"]).values()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in content and b"/Type3" not in content
    (width,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
    assert float(width) == pytest.approx(8 / 2.54 * 72, abs=0.01)


def test_svg_has_all_labels_as_outlines(written):
    for path in written.glob("*.svg"):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg") and "<text" not in text  # which would need a font
        assert {"alibi", "t5"} < {*re.findall(r"<!-- (.*?) -->", text)}, path.name


def test_a_png_has_three_hundred_pixels_an_inch(comparison, figures):
    (content,) = draw(figures["retrieval-pair"], styles_of(comparison), 3.25, ["png"]).values()
    assert struct.unpack(">II", content[16:24])[0] == round(3.25 * 300)


def test_the_same_figure_is_the_same_file(comparison, figures):
    figure, style = figures["differences-fixed_targets-64-to-rope"], styles_of(comparison)
    first, second = (draw(figure, style, 3.25, ["pdf", "svg"]) for _ in range(2))
    assert first == second


# ----------------------------------------------------------------------------------------------------- as in the report


def canvas(comparison, figure):
    with matplotlib.rc_context(LOOK):
        return canvas_of(figure, styles_of(comparison), 3.25)


def test_the_legend_has_every_label_in_the_reports_colour_dash_and_marker(comparison, figures):
    drawn = canvas(comparison, figures["perplexity-fixed_targets"])
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == comparison.labels
    style = styles_of(comparison)
    for label, handle in zip(comparison.labels, legend.get_lines(), strict=True):
        assert to_hex(handle.get_color()).upper() == style[label].colour.upper()
        with matplotlib.rc_context(LOOK):
            same = matplotlib.lines.Line2D([], [], linestyle=LINES[style[label].dash])
        assert handle._dash_pattern == same._dash_pattern
        assert handle.get_marker() == ("None" if label == "unigram" else SHAPES[style[label].marker])


def test_the_lines_are_at_the_summarys_perplexities(comparison, figures):
    drawn = canvas(comparison, figures["perplexity-fixed_targets"])
    lines = [tuple(line.get_ydata()) for line in drawn.axes[0].get_lines() if line.get_linestyle() != "None"]
    whole = comparison.summary.query("control.isna() and label != 'learned'").sort_values("context_length")
    assert {tuple(own["perplexity"]) for _, own in whole.groupby("label")} < {*lines}


def test_a_difference_that_is_not_separable_has_an_open_marker_in_its_encodings_colour(comparison, figures):
    rows = comparison.differences.query("context_length == @LENGTHS[1] and reference == 'rope'").set_index("label")
    assert rows["verdict"]["alibi"] == "better" and rows["verdict"]["t5"] == "not separable"
    drawn = canvas(comparison, figures[f"differences-fixed_targets-{LENGTHS[1]}-to-rope"])
    dots = {line.get_ydata()[0]: line for line in drawn.axes[0].get_lines() if line.get_marker() in SHAPES.values()}
    names = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    style = styles_of(comparison)
    for label, inside in (("alibi", style["alibi"].colour), ("t5", "white")):
        dot = dots[names.index(label)]
        assert to_hex(dot.get_markeredgecolor()).upper() == style[label].colour
        assert to_hex(dot.get_markerfacecolor()) == to_hex(inside)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["separable from rope", "not separable"]


def test_an_interval_reaches_from_its_lower_to_its_upper_end(comparison, figures):
    rows = comparison.differences.query("context_length == @LENGTHS[1] and reference == 'rope'").set_index("label")
    axes = canvas(comparison, figures[f"differences-fixed_targets-{LENGTHS[1]}-to-rope"]).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    drawn = {names[round(ends[0][1])]: ends[:, 0] for bars in axes.collections for ends in bars.get_segments()}
    assert drawn.keys() == {"alibi", "t5"}
    for label, (low, high) in drawn.items():
        at, *ends = 1 + rows.loc[label, ["difference_percent", "difference_low", "difference_high"]].astype(float) / 100
        assert low < at < high and (low, high) == pytest.approx(ends)


def test_the_cells_of_a_map_are_in_the_rows_and_columns_of_their_numbers(comparison, figures):
    figure = figures["retrieval-depth-pair"]
    drawn = canvas(comparison, figure).axes[: len(figure.data)]
    for axes, trace in zip(drawn, figure.data, strict=True):
        np.testing.assert_allclose(axes.collections[0].get_array(), trace["z"])
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {
            (x + 0.5, y + 0.5): text for y, line in enumerate(trace["text"]) for x, text in enumerate(line)
        }


def test_an_encoding_that_is_undefined_at_some_lengths_leaves_cells_empty(comparison, figures):
    figure = figures["retrieval-depth-pair"]
    shorter = {**figure.data[0], **{name: [line[:1] for line in figure.data[0][name]] for name in ("z", "text")}}
    figure.data[0] = {**shorter, "x": figure.data[0]["x"][:1]}
    drawn = canvas(comparison, figure)
    sizes = {axes.collections[0].get_array().shape for axes in drawn.axes[: len(figure.data)]}
    assert sizes == {(3, 2)}
    assert drawn.axes[0].collections[0].get_array().count() == 3


# --------------------------------------------------------------------------------------------------------------- tables


def cells(text):
    """The rows of a Markdown table by their first cell."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows}


def test_a_number_in_the_tables_is_that_of_the_summary(comparison, sweep, written):
    write_comparison(comparison)
    summary = read_table(sweep / "summary.csv").query("protocol == 'fixed_targets'")
    shown, tex = cells((written / "table.md").read_text()), (written / "table.tex").read_text()
    for row in summary.itertuples():
        low, high = show_perplexity(row.perplexity_low), show_perplexity(row.perplexity_high)
        cell = shown[row.label][f"{row.context_length} ({row.context_length // CONTEXT}x)"]
        assert re.sub(r"†|‡|\\\*", "", cell) == f"{show_perplexity(row.perplexity)} ({low} to {high})"
        assert f"{show_perplexity(row.perplexity)}" in tex and f"{low} to {high}" in tex
    assert len(summary) > 7


def test_the_marks_are_the_verdicts_and_the_note_explains_them(written):
    text = (written / "table.md").read_text()
    at = f"{LENGTHS[1]} (2x)"
    assert "†" in cells(text)["alibi"][at] and not {"†", "‡"} & {*cells(text)["t5"][at]}
    note = text.splitlines()[-1]
    assert "† better, ‡ worse than rope" in note and "without a mark not separable" in note and "unigram" in note
    assert cells(text)["learned"][at] == "–"


def test_a_latex_table_has_equal_rows_and_shows_what_it_is_given(comparison):
    (table,) = paper_tables(comparison).values()
    text = latex(table, "demo")
    body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    rows = [row for row in body.splitlines() if row.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(table.columns) - 1}
    assert text.count("{") == text.count("}") and "perplexity" in text.lower()


def test_nothing_in_a_name_is_a_command_of_latex():
    hostile = HOSTILE + r"\input{a_b} 50% $x^2$ #1 ~"
    back, letters = escaped(hostile), dict(enumerate(LATEX, start=0xE000))
    for code, letter in sorted(letters.items(), key=lambda pair: -len(LATEX[pair[1]])):
        back = back.replace(LATEX[letter], chr(code))
    assert not {*back} & {*"\\{}%$#&_~^"}
    assert back.translate(letters) == hostile


# -------------------------------------------------------------------------------------------------------- what is asked


def test_only_some_encodings_are_shown_with_what_was_found_among_all(comparison):
    shown = ["rope", "alibi"]
    (table,) = paper_tables(only(comparison, shown)).values()
    assert sorted(table.labels) == sorted(shown)
    figures = dict(paper_figures(comparison, shown))
    (trace,) = figures[f"differences-fixed_targets-{LENGTHS[1]}-to-rope"].data
    (x,) = trace["x"]
    row = comparison.differences.query("context_length == @LENGTHS[1] and reference == 'rope' and label == 'alibi'")
    assert x == pytest.approx(1 + row["difference_percent"].item() / 100)
    assert {trace["meta"] for trace in figures["perplexity-fixed_targets"].data} == {*shown}
    maps = figures["retrieval-depth-pair"]
    assert len(maps.data) == 2 and {note["text"] for note in maps.layout["annotations"]} == {*shown}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--format", "pdf,jpg"], "format=pdf,jpg: jpg is none of pdf, svg, png"),
        (["--width", "wide"], "width=wide: must be a length with its unit"),
        (["--width=3.25"], "must be a length with its unit"),
        (["--width=1e9in"], "must be a length with its unit"),
        (["--width=900in"], "must be from 2in to 20in"),
        (["--only=rope,mamba"], "only=mamba: not in"),
        (["--reference=mamba"], "reference=mamba: not among"),
        (["--colour=red"], "usage"),
        (["--format"], "usage"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(sweep, tmp_path, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        main([str(sweep), *options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        main([str(tmp_path / "nowhere")])


def test_runs_that_are_not_comparable_have_no_figures(tmp_path):
    make_run(tmp_path, "rope", lengths=LENGTHS)
    make_run(tmp_path, "alibi", lengths=LENGTHS, config={"training__tokens": 1000})
    with pytest.raises(ValueError, match="not comparable"):
        main([str(tmp_path)])


def test_a_place_where_no_folder_can_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"could not be made: .*; choose another folder"):
        make_folder(tmp_path / "file" / "figures")
