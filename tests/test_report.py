"""The report: what it says is what the files say, in the terminal, in Markdown, and in a real browser."""

import csv
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from eval.compare.comparison import read_comparison
from eval.compare.conclusion import conclude
from eval.compare.figures import position_figure, styles
from eval.compare.probe_figures import probe_sections
from eval.compare.report import markdown, page, report_figures, write_report
from eval.record.sweep import SweepCallback, count_jobs, progress
from scripts.report import main
from tests.browser import DESKTOP, PHONE, open_browser
from tests.synthetic import CONTEXT, LENGTHS, make_run

ROOT = Path(__file__).parent.parent
HOSTILE = "<img src=x onerror=alert(1)>\"'|&amp;</script>"


def line(loss, by=0.0):
    """A loss that grows by `by` nats with each doubling of the context."""
    return lambda length: loss + by * math.log2(length / CONTEXT)


def probes(gain):
    base = {"context_length": 64, "length_ratio": 2.0, "status": "ok"}
    repeat = [{**base, "distance": n, "gain": gain / n, "gain_low": 0.0, "gain_high": 1.0} for n in (4, 8, 16)]
    undefined = [{"context_length": 64, "length_ratio": 2.0, "status": "undefined", "reason": "adds nothing"}]
    return {"repeat": repeat, "bias": undefined, "novel": [{**base, "score": gain}]}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep with everything in it that a report can show, and its report."""
    path = tmp_path_factory.mktemp("runs") / "demo"
    for seed in (0, 1):
        rows = {"positions": True, "floor": True}
        extended = {**rows, "extensions": {"yarn": -0.2}}
        make_run(path, "rope", seed, line(4.0, 0.1), results={"probes": probes(1.0)}, **extended)
        make_run(path, "alibi", seed, line(4.0, 0.0), results={"probes": probes(2.0)}, **rows)
        make_run(path, "sinusoidal", seed, line(4.2, 0.9), **rows)
        make_run(path, "learned", seed, lambda length: 4.1 if length == CONTEXT else None)
    make_run(path, "t5", 0, state="failed", error=f"no loss {HOSTILE}")
    assert write_report(path) == 1
    return path


# ----------------------------------------------------------------------------------------------- what is written, where


def test_a_report_is_four_files_and_counts_the_runs_that_failed(sweep):
    assert {"comparison.csv", "summary.csv", "report.md", "report.html"} <= {path.name for path in sweep.iterdir()}


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
    order = [shown.index(f"│ {name} ") for name in ("alibi", "rope", "sinusoidal", "learned")]
    assert order == sorted(order)
    assert "no loss <img src=x" in shown
    assert str(sweep / "report.html") in shown


def test_markdown_has_the_numbers_and_lets_nothing_through(sweep):
    comparison = read_comparison(sweep)
    text = markdown(comparison)
    best = comparison.summary[0]
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


def test_the_verdict_names_the_better_one_with_its_uncertainty(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0, 0.1)), ("alibi", line(4.0)))
    assert said.startswith("At 8x the training context (256 tokens), alibi is better than rope: a perplexity of ")
    assert "95\u00a0% interval" in said and "corrected" in said


def test_the_verdict_says_when_nothing_is_separable_and_what_would_have_been_seen(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(4.0)), ("alibi", line(3.999)), noise=0.1)
    assert "no encoding is separably better than rope" in said or "no encoding is better than rope" in said
    assert "would have been seen" in said


def test_the_verdict_says_when_the_reference_is_best(tmp_path):
    said = verdict_of(tmp_path, ("rope", line(3.0)), ("none", line(4.0)))
    assert "no encoding is better than rope; the nearest, none, is worse" in said


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
    text = markdown(comparison)
    assert "better" not in text and "worse" not in text
    assert "Figures of each run" in text
    assert "training.tokens" in page(comparison)


def test_a_sweep_in_which_all_failed_still_has_a_report(tmp_path):
    make_run(tmp_path, "rope", state="failed", error="out of disk")
    assert write_report(tmp_path) == 1
    assert "out of disk" in (tmp_path / "report.html").read_text()


# -------------------------------------------------------------------------------------------------------------- figures


def test_forty_encodings_have_forty_styles_and_seven_have_seven_colours():
    names = [path.stem for path in (ROOT / "conf" / "encoding").glob("*.yaml")][:40]
    found = styles(names)
    assert len(set(found.values())) == len(names) >= 40
    assert len({style.colour for style in styles(names[:7]).values()}) == 7


def test_a_style_does_not_depend_on_the_order_of_the_names():
    assert styles(["rope", "alibi", "none"]) == styles(["none", "rope", "alibi"])


def test_an_encoding_has_one_colour_and_one_dash_in_all_figures(sweep):
    seen = {}
    for figure in report_figures(read_comparison(sweep)):
        for trace in figure.data:
            if trace.get("mode", "").startswith("lines") and "fill" not in trace:
                seen.setdefault(trace["meta"], set()).add((trace["line"]["color"], trace["line"]["dash"]))
    assert {"rope", "alibi", "sinusoidal", "learned", "unigram"} <= set(seen)
    assert {label: len(looks) for label, looks in seen.items()} == dict.fromkeys(seen, 1)


def test_every_figure_is_one_that_plotly_knows(sweep):
    figures = report_figures(read_comparison(sweep))
    assert len(figures) > 12
    for figure in figures:
        go.Figure(figure.data, figure.layout)  # raises ValueError for a property that plotly doesn't have


# ------------------------------------------------------------------------------------------------------------ the sweep


@pytest.mark.parametrize(
    ("params", "task", "jobs"),
    [
        (None, ["encoding=none,rope", "seed=0,1,2", "training.lr=1e-3"], 6),
        (None, ["encoding=glob(*)", "seed=range(2)"], 2 * len(list((ROOT / "conf" / "encoding").glob("*.yaml")))),
        ({"encoding": "none,rope,alibi"}, ["seed=0,1"], 6),
        ({"encoding": "none,rope,alibi"}, ["encoding=t5"], 1),
    ],
)
def test_the_jobs_of_a_sweep_are_counted_before_it_starts(params, task, jobs):
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    config = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}})
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert count_jobs(config) == jobs


def test_the_loss_by_position_is_that_of_the_longest_windows_alone(tmp_path):
    make_run(tmp_path, "rope", positions=True)
    comparison = read_comparison(tmp_path)
    shorter = [{**row, "context_length": row["context_length"] // 2} for row in comparison.positions]
    both = replace(comparison, positions=[*comparison.positions, *shorter])
    style = styles(comparison.labels)
    assert shorter and position_figure(both, style, "none") == position_figure(comparison, style, "none")


def test_a_probes_curves_at_several_lengths_are_figures_of_their_own(tmp_path):
    place = {"status": "ok", "layer": 0, "head": 0, "windows": 1}
    rows = [{**place, "context_length": n, "distance": d, "bias": float(n)} for n in (8, 16) for d in (1, 2)]
    make_run(tmp_path, "fire", results={"probes": {"bias": rows}})
    comparison = read_comparison(tmp_path)
    (section,) = probe_sections(comparison, styles(comparison.labels))
    assert [panel.when["context length"] for panel in section.panels] == ["16", "8"]


def test_progress_counts_what_is_done_running_failed_and_left(tmp_path):
    runs = [
        make_run(tmp_path, "rope"),
        make_run(tmp_path, "none", state="failed"),
        make_run(tmp_path, "t5", state="running"),
    ]
    make_run(tmp_path, "alibi")  # of another command
    started = tmp_path / "jobs-1.txt"
    started.write_text("".join(f"{run.name}\n" for run in [*runs, runs[0]]))
    assert progress(started, 5) == "1 of 5 jobs done, 1 running, 1 failed, 2 left"
    assert progress(started, None) == "1 jobs done, 1 running, 1 failed"


@pytest.mark.parametrize(("state", "code"), [("finished", None), ("failed", 3)])
def test_a_sweep_exits_with_three_where_a_job_failed(tmp_path, state, code):
    folder = make_run(tmp_path, "rope", state=state)
    callback = SweepCallback()
    callback.job_list = tmp_path / "jobs-1.txt"
    callback.job_list.write_text(f"{folder.name}\n")
    compare = {"reference": "rope", "level": 0.9}
    with nullcontext() if code is None else pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(OmegaConf.create({"sweep": "demo", "logger": {"name": "none"}, "compare": compare}))
    assert stop is None or stop.value.code == code
    assert (tmp_path / "report.html").exists()
    assert callback.job_list.exists() == (state == "failed")


def test_sweeps_in_one_folder_keep_lists_of_their_own(composed, tmp_path, monkeypatch):
    done, failed = make_run(tmp_path / "both", "rope"), make_run(tmp_path / "both", "alibi", state="failed")
    lists = []
    for number, run in enumerate((done, failed)):
        monkeypatch.setattr("os.getpid", lambda number=number: number)
        monkeypatch.setattr("eval.record.sweep.count_jobs", lambda config: 1)
        callback = SweepCallback()
        callback.on_multirun_start(OmegaConf.create({"runs": str(tmp_path), "sweep": "both", "run_id": "any"}))
        callback.job_list.write_text(f"{run.name}\n")
        lists.append(callback.job_list)
    assert [progress(path, 1) for path in lists] == [
        "1 of 1 jobs done, 0 running, 0 failed, 0 left",
        "0 of 1 jobs done, 0 running, 1 failed, 0 left",
    ]


def test_the_settings_of_the_command_choose_the_reference_of_finished_runs(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name)
    write_report(tmp_path, compare={"reference": "alibi", "level": 0.9})
    assert "against alibi" in (tmp_path / "report.md").read_text()


def test_a_report_that_cannot_be_written_ends_the_sweep_with_one_sentence(tmp_path, capsys):
    callback = SweepCallback()
    callback.job_list = tmp_path / "jobs-1.txt"
    callback.job_list.write_text("")
    with pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(OmegaConf.create({"compare": {"reference": "rope", "level": 0.95}}))
    assert stop.value.code == 1
    assert "holds no run" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


PLOTS = "[...document.querySelectorAll('section#{} .panel:not([hidden]) .plot')]"


def plot(browser, section, script):
    """What a script returns for the visible figure `plot` of a section, once it is drawn."""
    browser.run(f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})")
    find = PLOTS.format(section) + "[0]"
    browser.wait(f"const plot = {find}; return plot && plot.data && plot.querySelector('.main-svg')")
    return browser.run(f"const plot = {find}; {script}")


def drawn_labels(browser, section="perplexity"):
    script = "return plot.data.filter((trace) => trace.visible !== false && trace.name).map((trace) => trace.meta)"
    return set(plot(browser, section, script))


@pytest.fixture
def opened(browser, sweep):
    browser.open(sweep / "report.html")
    return browser


def summary_rows(sweep, **place):
    with open(sweep / "summary.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if place.items() <= row.items()]


def test_the_page_opens_without_an_error_or_a_request(opened):
    for section in [each.get_attribute("id") for each in opened.find("main section")]:
        if opened.run("return " + PLOTS.format(section) + ".length"):
            plot(opened, section, "return true")
    assert opened.complaints() == []


def test_the_page_begins_with_the_verdict(opened, sweep):
    said = opened.run("return document.querySelector('header .verdict').textContent")
    assert said == conclude(read_comparison(sweep))[0]


def test_figures_and_tables_have_the_numbers_of_the_csv(opened, sweep):
    rows = summary_rows(sweep, protocol="fixed_targets", extension="none")
    curves = dict(plot(opened, "perplexity", "return plot.data.filter((t) => t.name).map((t) => [t.meta, [t.x, t.y]])"))
    for label in ("rope", "alibi", "learned"):
        expected = {int(row["context_length"]): float(row["perplexity"]) for row in rows if row["label"] == label}
        x, y = curves[label]
        assert dict(zip(x, y, strict=True)) == expected
    cells = opened.run(
        "return [...document.querySelectorAll('#perplexity .table:not([hidden]) tr[data-label=rope] td[data-value]')]"
        ".map((cell) => Number(cell.dataset.value))"
    )
    assert cells[1:] == [float(row["perplexity"]) for row in rows if row["label"] == "rope"]
    changes = opened.run(
        "return [...document.querySelectorAll('#differences .table:not([hidden]) tr[data-label=alibi] td')]"
        ".map((cell) => cell.dataset.value)"
    )
    (alibi,) = (row for row in rows if row["label"] == "alibi" and row["context_length"] == str(max(LENGTHS)))
    assert float(alibi["difference_percent"]) in [float(value) for value in changes if value]


def test_pointing_at_a_figure_tells_the_exact_numbers_and_the_tokens(opened, sweep):
    (row,) = summary_rows(sweep, protocol="fixed_targets", extension="none", context_length="32", label="alibi")
    texts = plot(opened, "perplexity", "return plot.data.find((t) => t.meta === 'alibi' && t.name).customdata")
    assert f"perplexity {float(row['perplexity']):.6g}" in texts[0]
    assert f"{int(row['tokens']):,} tokens" in texts[0]


def test_encodings_are_switched_on_and_off_in_every_figure_at_once(opened):
    everything = {"rope", "alibi", "sinusoidal", "learned", "unigram"}
    assert drawn_labels(opened) == everything
    opened.click(".chip[data-label=rope]")
    assert opened.run("return document.querySelector('.chip[data-label=rope]').getAttribute('aria-pressed')") == "false"
    assert drawn_labels(opened) == everything - {"rope"}
    assert drawn_labels(opened, "positions") == {"alibi", "sinusoidal"}
    opened.click("#none")
    assert drawn_labels(opened) == set()
    opened.click("#all")
    assert drawn_labels(opened) == everything
    assert opened.complaints() == []


def test_a_floor_far_above_all_encodings_is_off_at_first(browser, tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name, 0, line(4.0), floor=True)
    write_report(tmp_path)
    browser.open(tmp_path / "report.html")
    assert drawn_labels(browser) == {"rope", "alibi"}
    browser.click(".chip[data-label=unigram]")
    assert drawn_labels(browser) == {"rope", "alibi", "unigram"}


def test_what_is_off_can_stay_in_grey(opened):
    opened.click(".chip[data-label=rope]")
    opened.click("#grey")
    colours = dict(
        plot(opened, "perplexity", "return plot.data.filter((t) => t.name).map((t) => [t.meta, t.line.color])")
    )
    assert colours["rope"] == "#cdd2d8" != colours["alibi"]


def choose(browser, section, name, value):
    browser.run(
        "const select = document.querySelector(`#${arguments[0]} select[data-choice='${arguments[1]}']`);"
        "select.value = arguments[2]; select.dispatchEvent(new Event('change'))",
        section,
        name,
        value,
    )


def test_the_protocol_is_chosen_for_all_sections_at_once(opened):
    shown = "return [...document.querySelectorAll('#{} .panel:not([hidden]) figcaption b')].map((b) => b.textContent)"
    for section in ("perplexity", "differences"):
        assert all("fixed_targets" in title for title in opened.run(shown.format(section)))
    choose(opened, "perplexity", "protocol", "non_overlapping")
    for section in ("perplexity", "differences"):
        titles = opened.run(shown.format(section))
        assert titles and all("non_overlapping" in title for title in titles)
    choose(opened, "differences", "context length", "64 (2x)")
    assert all("64 (2x)" in title for title in opened.run(shown.format("differences")))
    assert plot(opened, "differences", "return plot.data.length") == 2
    assert opened.complaints() == []


def test_tables_are_sorted_by_a_click(opened):
    order = (
        "return [...document.querySelectorAll('#perplexity .table:not([hidden]) tbody tr')].map((r) => r.dataset.label)"
    )
    assert opened.run(order) == ["alibi", "rope", "sinusoidal", "learned", "unigram"]
    header = "#perplexity .table:not([hidden]) thead th:last-child button"
    opened.click(header)
    opened.click(header)
    assert opened.run(order)[:3] == ["sinusoidal", "rope", "alibi"]
    assert opened.run(order)[3:] == ["learned", "unigram"]


def test_names_and_messages_from_data_are_text_and_nothing_else(browser, tmp_path):
    for name in ("rope", HOSTILE.replace("/", "")):
        for seed in (0, 1):
            make_run(tmp_path, name, seed, positions=True, results={"probes": {name: [{"a": HOSTILE}]}})
    make_run(tmp_path, "alibi", state="failed", error=HOSTILE)
    write_report(tmp_path)
    browser.open(tmp_path / "report.html")
    assert drawn_labels(browser) == {"rope", HOSTILE.replace("/", "")}
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert HOSTILE in browser.run("return document.querySelector('#missing').textContent")
    assert browser.complaints() == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_sticks_out_of_the_window(browser, sweep, size):
    browser.open(sweep / "report.html", size=size)
    plot(browser, "perplexity", "return true")
    width = size[0]
    assert browser.run("return document.documentElement.scrollWidth") <= width
    assert plot(browser, "perplexity", "return plot.querySelector('.main-svg').getBoundingClientRect().right") <= width


def test_many_encodings_begin_with_the_best_and_the_others_in_grey(browser, tmp_path):
    names = [path.stem for path in sorted((ROOT / "conf" / "encoding").glob("*.yaml"))][:40]
    for number, name in enumerate(names):
        make_run(tmp_path, name, 0, line(4 + number / 50), lengths=(32, 256), protocols=("fixed_targets",))
    write_report(tmp_path)
    browser.open(tmp_path / "report.html")
    on = browser.run(
        "return [...document.querySelectorAll('.chip[aria-pressed=true]')].map((chip) => chip.dataset.label)"
    )
    assert set(on) == {*names[:8], "rope"}
    assert len(browser.find(".chip")) == 40
    assert drawn_labels(browser) == set(names)
    grey = plot(browser, "perplexity", "return plot.data.filter((t) => t.name && t.line.color === '#cdd2d8').length")
    assert grey == 31
    browser.click("#all")
    assert len(browser.find(".chip[aria-pressed=true]")) == 40
    assert browser.complaints() == []
