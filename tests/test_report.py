"""The report: what it says is what the files say, in the terminal and in Markdown; its figures are plotly's."""

import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from conf.schema import CompareSettings
from eval.compare.comparison import read_comparison
from eval.compare.conclusion import conclude
from eval.compare.figures import difference_figure, position_figure, styles_of
from eval.compare.literature import check
from eval.compare.page import page, report_figures
from eval.compare.plots import MOST_USED, styles
from eval.compare.probe_figures import probe_sections
from eval.compare.report import markdown, write_files, write_report
from eval.compare.show import show_visible
from scripts.report import main
from tests.shown import line, make_sweep
from tests.synthetic import make_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep with everything in it that a report can show, and its report."""
    return make_sweep(tmp_path_factory.mktemp("runs") / "demo")


# ----------------------------------------------------------------------------------------------- what is written, where


def test_a_report_is_four_files_and_counts_the_runs_that_failed(sweep):
    assert {"comparison.csv", "summary.csv", "report.md", "report.html"} <= {path.name for path in sweep.iterdir()}


def test_a_report_asks_the_literature_once(sweep, monkeypatch):
    asked = []
    monkeypatch.setattr("eval.compare.report.check", lambda comparison: asked.append(comparison) or check(comparison))
    write_files(read_comparison(sweep))
    assert len(asked) == 1


def test_only_jobs_that_were_asked_for_are_counted(tmp_path):
    good = make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi", state="failed", error="of an earlier command")
    assert write_report(tmp_path, jobs=[good.name]) == 0
    assert write_report(tmp_path, jobs=[good.name, "none-s0-000000"]) == 1
    assert write_report(tmp_path) == 1


def test_the_command_exits_with_three_where_a_run_failed(sweep, tmp_path):
    make_run(tmp_path, "rope")
    assert main([str(sweep)]) == 3
    assert main([str(tmp_path), "level=0.9"]) == 0


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "colour=red"]])
def test_the_command_refuses_what_it_does_not_know(arguments):
    with pytest.raises(ValueError, match="usage"):
        main(arguments)


def test_the_terminal_shows_the_best_first_and_the_failures(sweep, capsys):
    write_report(sweep)
    shown = capsys.readouterr().out
    order = [shown.index(f"\n{name} ") for name in ("alibi", "rope", "sinusoidal", "learned")]
    assert order == sorted(order)
    assert "no loss <img src=x" in shown
    assert str(sweep / "report.html") in shown


def test_markdown_has_the_numbers_and_lets_nothing_through(sweep):
    comparison = read_comparison(sweep)
    text = markdown(comparison, check(comparison))
    best = comparison.summary.iloc[0]
    assert f"{best['perplexity']:.2f}" in text
    assert "<img" not in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) > 6
    for table in tables:
        cells = {len(each.replace("\\|", "").split("|")) for each in table}
        assert len(cells) == 1, f"the rows differ in cells: {table[0]}"


# -------------------------------------------------------------------------------------------------------------- verdict


def verdict_of(path, *runs, seeds=(0, 1, 2), noise=0.01):
    for name, nats in runs:
        for seed in seeds:
            make_run(path, name, seed, nats, noise=noise)
    return " ".join(conclude(read_comparison(path)))


def test_the_verdict_names_the_best_with_its_uncertainty(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0, 0.1)), ("alibi", line(4.0)))
    assert said.startswith("At 8x the training context (256 tokens), alibi is the best of 2 encodings: it has a perp")
    assert "95\u00a0% interval" in said and "corrected" in said


def test_the_verdict_names_every_encoding_that_cannot_be_told_from_the_best(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.5)), ("alibi", line(4.001)), ("t5", line(4.0)), noise=0.02)
    verdict = said.partition(".")[0]
    assert "t5 and alibi can't be told from the best of 3" in verdict or "alibi and t5 can't be told from" in verdict
    assert "rope" not in verdict and "Of 2 encodings against rope: 2 better; the lowest of them, " in said


def test_the_verdict_says_when_nothing_is_separable_and_what_would_have_been_seen(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0)), ("alibi", line(3.999)), noise=0.1)
    assert "can't be told apart" in said and "would have been seen" in said


def test_a_member_of_the_set_is_shown_by_the_comparisons_that_put_it_there(tmp_path):
    """Corrected with the lowest's comparisons it may be worse, and with its own have none that is better."""
    for name, nats in (("rope", 4.0), ("alibi", 3.999)):
        for seed in (0, 1, 2):
            make_run(tmp_path, name, seed, line(nats), noise=0.1)
    found = read_comparison(tmp_path)
    assert "; p = " in conclude(found)[0].replace("\u00a0", " ")
    (verdict, *_) = conclude(replace(found, differences=found.differences.assign(verdict="worse", p_holm=0.018)))
    assert "0.018" not in verdict and "95\u00a0% interval" in verdict
    assert verdict.endswith("; corrected for all comparisons with rope, none is better than it.") or (
        verdict.endswith("; corrected for all comparisons with alibi, none is better than it.")
    )


def test_a_sweep_that_could_not_see_a_perplexity_twice_as_high_is_told_to_add_seeds(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0)), ("alibi", line(3.9)), seeds=(0, 1), noise=1.5)
    assert "not even a perplexity twice as high would have been seen: add seeds" in said
    assert "interval too wide to say more" in said
    assert not re.search(r"\d,\d\d\d|e\+\d", said)


@pytest.mark.parametrize(("nats", "shown"), [(0.1, "10.5"), (math.log(1.99), "99.0"), (0.7, ">"), (800.0, ">")])
def test_a_detectable_difference_beyond_twice_the_perplexity_is_no_number(nats, shown):
    assert show_visible(nats).startswith(shown)


def test_the_verdict_says_that_every_encoding_is_worse_than_a_floor_and_where(tmp_path):
    for name, by in (("rope", 1.5), ("alibi", 1.0)):
        make_run(tmp_path, name, 0, line(4.5, by), floor=True)  # of 6 nats a token
    verdict = conclude(read_comparison(tmp_path))[0]
    assert "Every one of them is worse than the unigram floor (4" in verdict and "at 4x and 8x: only fail" in verdict


def test_a_run_that_is_worse_than_its_floor_at_the_trained_length_is_told_to_train_more(tmp_path):
    make_run(tmp_path, "rope", 0, line(6.5), floor=True)
    verdict = conclude(read_comparison(tmp_path))[0]
    assert "It is worse than the unigram floor" in verdict
    assert verdict.endswith("at 1x, 2x, 4x and 8x: train on more tokens (training.tokens).")


def test_encodings_that_beat_the_floor_are_not_warned_of(tmp_path):
    make_run(tmp_path, "rope", 0, line(7.0), floor=True)
    make_run(tmp_path, "alibi", 0, line(4.0), floor=True)
    assert "floor" not in " ".join(conclude(read_comparison(tmp_path)))


def test_rates_at_the_edge_of_their_grid_stand_in_the_report_with_advice(tmp_path):
    tuning = {"seed": 1000, "val_loss": {"0.001": 5.0, "0.003": 4.5, "0.006": None}}
    for name, rate in (("rope", 1e-3), ("alibi", 3e-3)):
        for seed in (0, 1):
            make_run(tmp_path, name, seed, config={"training__lr": rate}, results={"tuning": tuning})
    comparison = read_comparison(tmp_path)
    (said,) = (each for each in conclude(comparison) if "edge" in each)
    assert said == "The learning rate chosen for rope lies at the edge of the grid: add lower rates to tuning.lr."
    text = markdown(comparison, check(comparison))
    assert "| alibi | 0, 1 | 0.003 | 5.0000 | 4.5000 | – |" in text


def test_a_probe_that_has_figures_on_the_page_has_a_table_in_markdown(sweep):
    comparison = read_comparison(sweep)
    text = markdown(comparison, check(comparison))
    assert "## Probe: attention distance" in text and "mean over layers" in text
    assert "| alibi | 1.5 |" in text and "## novel" in text


def test_the_verdict_says_when_the_reference_is_best(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(3.0)), ("none", line(4.0)))
    assert "rope is the best of 2 encodings" in said and "the next, none, has" in said


def test_a_mark_of_the_forest_says_its_label_its_change_and_how_sure_it_is(sweep):
    comparison = read_comparison(sweep)
    place = "fixed_targets", "none", comparison.summary["context_length"].max(), comparison.reference
    found = difference_figure(comparison, styles_of(comparison), *place)
    assert {trace["meta"] for trace in found.data} == {trace["y"][0] for trace in found.data} == {"alibi", "sinusoidal"}
    for trace in found.data:
        (said,) = trace["customdata"]
        assert trace["meta"] in said and trace["text"][0] in said and trace["hovertemplate"].startswith("%{customdata}")


def test_a_single_seed_is_said_to_cover_windows_alone(tmp_path):
    assert "another seed may turn them round" in verdict_of(tmp_path, ("rope", line(3)), ("none", line(4)), seeds=(0,))


def test_a_single_run_is_held_against_its_training_context(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0, 0.1)), seeds=(0,))
    assert f"+{100 * math.expm1(0.3):.1f}\u00a0% against its" in said


def test_runs_that_are_not_comparable_get_no_verdict_and_the_settings_are_named(tmp_path):
    make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi", config={"training__tokens": 1000})
    comparison = read_comparison(tmp_path)
    said = " ".join(conclude(comparison))
    assert "No comparison is made" in said and "training.tokens" in said
    text = markdown(comparison, check(comparison))
    assert "better" not in text and "worse" not in text
    assert "Figures of each run" in text
    assert "training.tokens" in page(comparison, check(comparison))


def test_a_sweep_in_which_all_failed_still_has_a_report(tmp_path):
    make_run(tmp_path, "rope", state="failed", error="out of disk")
    assert write_report(tmp_path) == 1
    assert "out of disk" in (tmp_path / "report.html").read_text()


# -------------------------------------------------------------------------------------------------------------- figures


NAMES = sorted(path.stem for path in (ROOT / "conf" / "encoding").glob("*.yaml"))


def test_no_two_encodings_look_alike_and_the_seven_most_used_have_seven_colours():
    assert len(set(styles(NAMES).values())) == len(NAMES) > 50
    assert set(MOST_USED) < set(NAMES)
    for start in range(0, len(MOST_USED), 7):
        assert len({style.colour for style in styles(MOST_USED[start : start + 7]).values()}) == 7


def test_an_encoding_has_one_colour_in_every_sweep():
    alone = {name: styles([name])[name] for name in NAMES}
    assert [alone[name].colour for name in ("rope", "cable", "polar")] == ["#E69F00", "#0072B2", "#E69F00"]
    draw = random.Random(0)
    for _ in range(50):
        sweep = draw.sample(NAMES, draw.randint(2, 12))
        found = styles([*sweep, "unigram"], ["unigram"])
        assert {name: found[name].colour for name in sweep} == {name: alone[name].colour for name in sweep}
        used = [name for name in sweep if name in MOST_USED]
        assert [found[name] for name in used] == [alone[name] for name in used]
        assert len(set(found.values())) == len(found)


def test_a_variant_has_its_encodings_style_where_it_alone_stands_for_it_and_else_one_of_its_own():
    rope = styles(["rope"])["rope"]
    assert styles(["rope (base=500)", "alibi"])["rope (base=500)"] == rope
    found = styles(["rope+yarn@64", "rope", "rope (base=500)", "alibi"])
    assert found["rope"] == rope and len({style.colour for style in found.values()}) == 4


def test_a_style_does_not_depend_on_the_order_of_the_names():
    assert styles(["rope", "alibi", "none"]) == styles(["none", "rope", "alibi"])


def test_an_encoding_has_one_colour_and_one_dash_in_all_figures(sweep):
    seen, points = {}, {}
    for figure in report_figures(read_comparison(sweep)):
        for trace in figure.data:
            if trace.get("mode", "").startswith("lines") and "fill" not in trace:
                seen.setdefault(trace["meta"], set()).add((trace["line"]["color"], trace["line"]["dash"]))
            elif trace.get("mode") == "markers":
                points.setdefault(trace["meta"], set()).add(trace["marker"]["color"])
    assert points == {label: {colour for colour, _ in seen[label]} for label in points}
    assert {"rope", "alibi", "sinusoidal", "learned", "unigram"} <= set(seen)
    assert {label: len(looks) for label, looks in seen.items()} == dict.fromkeys(seen, 1)


def test_every_figure_is_one_that_plotly_knows(sweep):
    figures = report_figures(read_comparison(sweep))
    assert len(figures) > 12
    for figure in figures:
        go.Figure(figure.data, figure.layout)  # raises ValueError for a property that plotly doesn't have


def test_the_loss_by_position_is_that_of_the_longest_windows_alone(tmp_path):
    make_run(tmp_path, "rope", positions=True)
    comparison = read_comparison(tmp_path)
    shorter = comparison.positions.assign(context_length=comparison.positions["context_length"] // 2)
    both = replace(comparison, positions=pd.concat([comparison.positions, shorter], ignore_index=True))
    style = styles(comparison.labels)
    assert len(shorter) and position_figure(both, style, "none") == position_figure(comparison, style, "none")


def test_a_probes_curves_at_several_lengths_are_figures_of_their_own(tmp_path):
    place = {"status": "ok", "layer": 0, "head": 0, "windows": 1}
    rows = [{**place, "context_length": n, "distance": d, "bias": float(n)} for n in (8, 16) for d in (1, 2)]
    make_run(tmp_path, "fire", results={"probes": {"bias": rows}})
    comparison = read_comparison(tmp_path)
    (section,) = probe_sections(comparison, styles(comparison.labels))
    assert [panel.when["context length"] for panel in section.panels] == ["16", "8"]


def test_the_settings_of_the_command_choose_the_reference_of_finished_runs(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name)
    write_report(tmp_path, compare=CompareSettings("alibi", level=0.9))
    assert "against alibi" in (tmp_path / "report.md").read_text()
