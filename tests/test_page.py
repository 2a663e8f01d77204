"""The report's page in a real browser."""

import csv
import math
import re
from pathlib import Path

import pytest

from eval.compare.comparison import read_comparison
from eval.compare.conclusion import conclude
from eval.compare.report import write_report
from tests.browser import DESKTOP, PHONE, open_browser
from tests.shown import HOSTILE, line, make_sweep
from tests.synthetic import LENGTHS, make_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep with everything in it that a report can show, and its report."""
    return make_sweep(tmp_path_factory.mktemp("runs") / "demo")


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


def test_no_figure_offers_to_upload_it(opened):
    offered = plot(
        opened, "perplexity", "return [...plot.querySelectorAll('.modebar-btn')].map((b) => b.dataset.title)"
    )
    assert offered and not [title for title in offered if "share" in title.lower() or "cloud" in title.lower()]
    assert plot(opened, "perplexity", "return plot._context.showSendToCloud") is False


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


def test_the_reference_is_chosen_on_the_page(opened, sweep):
    choose(opened, "differences", "reference", "alibi")
    title = "[...document.querySelectorAll('#differences .panel:not([hidden]) figcaption b')].map((b) => b.textContent)"
    assert [("alibi's" in each or "Against alibi" in each) for each in opened.run(f"return {title}")] == [True, True]
    alibi = read_comparison(sweep, reference="alibi").summary.query(
        "protocol == 'fixed_targets' and extension == 'none' and context_length == 256 and label == 'rope'"
    )
    drawn = plot(opened, "differences", "return plot.data.find((trace) => trace.meta === 'rope').x[0]")
    assert drawn == pytest.approx(1 + alibi["difference_percent"].item() / 100)
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
    for kind in ("plain", HOSTILE):
        for seed in (0, 1):
            probes = {"probes": {kind: [{"a": HOSTILE}]}}
            make_run(tmp_path, "rope", seed, positions=True, config={"encoding__kind": kind}, results=probes)
    make_run(tmp_path, "alibi", state="failed", error=HOSTILE)
    write_report(tmp_path)
    browser.open(tmp_path / "report.html")
    assert drawn_labels(browser) == {"rope (kind=plain)", f"rope (kind={HOSTILE})"}
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


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The names of forty encodings, the better the earlier, and the page of their sweep, with a floor above them."""
    path = tmp_path_factory.mktemp("many")
    names = [path.stem for path in sorted((ROOT / "conf" / "encoding").glob("*.yaml"))][:40]
    for number, name in enumerate(names):
        rows = {"lengths": (32, 256), "protocols": ("fixed_targets",), "floor": True}
        make_run(path, name, 0, line(4 + number / 50), **rows)
    write_report(path)
    return names, path / "report.html"


@pytest.fixture
def opened_many(browser, many):
    """That page as it is when it opens: the one that is open, if it is."""
    if browser.driver.current_url != many[1].resolve().as_uri():
        browser.open(many[1])
    browser.click("#best")
    return browser


def chips(browser, selector=""):
    return browser.run(f"return [...document.querySelectorAll('.chip{selector}')].map((chip) => chip.dataset.label)")


def test_many_encodings_begin_with_the_best_and_the_others_in_grey(opened_many, many):
    browser, (names, _) = opened_many, many
    assert set(chips(browser, "[aria-pressed=true]")) == {*names[:8], "rope"}
    assert set(chips(browser)) == {*names, "unigram"}
    assert drawn_labels(browser) == {*names, "unigram"}
    grey = plot(browser, "perplexity", "return plot.data.filter((t) => t.name && t.line.color === '#cdd2d8').length")
    assert grey == 32
    browser.click("#all")
    assert len(browser.find(".chip[aria-pressed=true]")) == 41
    assert browser.complaints() == []


def test_the_chosen_encodings_come_first_once_the_pointer_has_left_them(opened_many, many):
    browser, (names, _) = opened_many, many
    chosen = sorted({*names[:8], "rope"})
    assert chips(browser)[:9] == chosen
    browser.click(f".chip[data-label={names[39]}]")
    assert chips(browser)[:9] == chosen and chips(browser)[9] != names[39], "none moves away under the pointer"
    browser.run("document.querySelector('.chips').dispatchEvent(new Event('mouseleave'))")
    assert chips(browser)[:10] == sorted([*chosen, names[39]])


def test_bands_over_each_other_are_no_darker_than_a_few(opened_many):
    browser = opened_many
    browser.click("#all")
    fills = "return plot.data.filter((t) => t.fill && t.visible !== false).map((t) => t.fillcolor)"
    shares = [float(re.findall(r"[\d.]+", colour)[3]) for colour in plot(browser, "perplexity", fills)]
    assert len(shares) >= 40 and min(shares) > 0
    assert 0.2 < 1 - math.prod(1 - share for share in shares) < 0.4


def test_a_floor_does_not_stretch_the_axis_but_is_named_at_its_end(opened_many, many):
    browser = opened_many
    highest = "return [10 ** plot._fullLayout.yaxis.range[1], (plot.layout.annotations || []).map(({ text }) => text)]"
    worst = math.exp(4 + 39 / 50)
    (floor,) = summary_rows(many[1].parent, label="unigram")
    for switched_on in (False, True):
        end, notes = plot(browser, "perplexity", highest)
        assert worst < end < 1.5 * worst
        assert (f"unigram {float(floor['perplexity']):.4g} ↑" in notes) == switched_on, notes
        browser.click(".chip[data-label=unigram]")


def test_a_floor_far_below_all_does_not_stretch_the_axis_either(browser, tmp_path):
    for name, nats in (("alibi", 8.0), ("rope", 9.0)):
        make_run(tmp_path, name, 0, line(nats), lengths=(32, 256), protocols=("fixed_targets",), floor=True)
    write_report(tmp_path)
    browser.open(tmp_path / "report.html")
    lowest = "return [10 ** plot._fullLayout.yaxis.range[0], (plot.layout.annotations || []).map(({ text }) => text)]"
    if "unigram" in chips(browser, "[aria-pressed=false]"):
        browser.click(".chip[data-label=unigram]")
    (floor, *_) = summary_rows(tmp_path, label="unigram")
    end, notes = plot(browser, "perplexity", lowest)
    assert 2 * float(floor["perplexity"]) < end < math.exp(8)
    assert f"unigram {float(floor['perplexity']):.4g} ↓" in notes


@pytest.fixture
def dark(browser, sweep):
    """The page where the system is set to dark."""
    browser.emulate(scheme="dark")
    browser.open(sweep / "report.html")
    yield browser
    browser.emulate()


@pytest.mark.slow
def test_the_page_is_dark_by_the_systems_setting_but_prints_every_figure_on_white(dark):
    look = (
        "return [getComputedStyle(document.body).backgroundColor, plot.data.find((t) => t.name === 'alibi').line.color]"
    )
    assert plot(dark, "perplexity", look) == ["rgb(20, 24, 28)", "#ffffff"]
    sign = "document.querySelector(document.querySelector('.chip[data-label=alibi] use').getAttribute('href'))"
    assert dark.run(f"return getComputedStyle({sign}).color") == "rgb(255, 255, 255)"
    dark.click(".chip[data-label=learned]")
    plots = "[...document.querySelectorAll('.panel:not([hidden]) .plot')]"
    widths = f"return {plots}.map((plot) => plot.querySelector('.main-svg')?.getBoundingClientRect().width ?? null)"
    assert None in dark.run(widths), "not all are drawn before they are near"
    with dark.on_paper(scheme="dark"):
        assert set(dark.run(widths)) == {680}, "of paper"
        assert plot(dark, "perplexity", look) == ["rgb(255, 255, 255)", "#000000"]
        waiting = "[...document.querySelectorAll('button, select, summary, input')].filter((each) => each.offsetParent)"
        names = dark.run(f"return {waiting}.map((each) => each.closest('thead') ? 'a head' : each.dataset.label)")
        assert {*names} == {"a head", "alibi", "rope", "sinusoidal", "unigram"}, "those that are on, as a legend"
        cut = "[...document.querySelectorAll('.scroll')].filter((e) => getComputedStyle(e).overflowX !== 'visible')"
        assert dark.run(f"return {cut}.length") == 0
    dark.wait(f"return {plots}[0].querySelector('.main-svg')?.getBoundingClientRect().width > 1000")
    dark.emulate(scheme="light")
    dark.wait(f"return {plots}[0].data?.some((trace) => trace.line?.color === '#000000')")
    assert dark.complaints() == []


def test_tables_use_the_width_of_a_wide_window(browser, sweep):
    browser.open(sweep / "report.html", size=(1900, 900))
    tables = "[...document.querySelectorAll('.table:not([hidden]) .scroll')]"
    assert browser.run(f"return {tables}.filter((e) => e.scrollWidth > e.clientWidth).length") == 0
    assert browser.run(f"return Math.max(...{tables}.map((e) => e.clientWidth))") > 1100
    assert browser.run("return document.documentElement.scrollWidth") <= 1900


def test_the_page_weighs_little_and_holds_plotly_once(sweep):
    page = (sweep / "report.html").read_text()
    assert len(page) < 2_500_000
    assert page.count('id="plotly"') == 1 and "plotly.js v" not in page, "packed"
