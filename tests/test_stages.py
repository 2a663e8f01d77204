"""What the second stages of a sweep come to, on sweeps made of files whose true order is known: which arm is held
against what, with the numbers of the losses on disk, and what the report says of it."""

import math
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest

from eval.compare.comparison import read_comparison
from eval.compare.conclusion import conclude
from eval.compare.literature import check
from eval.compare.page import page, report_figures
from eval.compare.report import markdown, write_files
from eval.compare.stages import stages_of
from eval.measure.statistics import difference, holm
from eval.record.files import write_json
from tests.browser import open_browser
from tests.synthetic import CONTEXT, TARGETS, WINDOWS, make_run, make_stage

L, N = CONTEXT, 4 * CONTEXT
LONG = {"context": N, "training__batch_size": 8}
TESTS = {"yarn": -0.3, "pi": 0.1, "drop": 0.5}  # what an extension adds to the parent's loss at test time
ARMS = {"yarn": 4.0, "pi": 4.2, None: 4.4}  # loss at N


def at(inside, beyond):
    """A loss up to L, and another from there on."""
    return lambda length: inside if length <= L else beyond


def make_sweep(path, seeds=(0, 1, 2), lengths=(6_000,), arms=ARMS, noise=0.005, **more):
    """A parent, arms of every length, more tokens at L, drop at L, and a ceiling, for each seed."""
    for seed in seeds:
        parent = make_run(path, "rope", seed, at(4.0, 5.0), extensions=TESTS, noise=noise)
        for tokens in lengths:
            own = {"tokens": tokens, "noise": noise, **more}
            for extension, loss in arms.items():
                make_stage(parent, at(4.1, loss + 60 / tokens), context=N, extension=extension, **own)
            make_stage(parent, at(3.9, 4.9), **own)
            make_stage(parent, at(4.3, 4.3), extension="drop", **own)
        total = {"training__tokens": 60_000 + max(lengths)}
        make_run(path, "rope", seed, at(4.1, 3.9), config=LONG | total, noise=noise)
    return path


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = make_sweep(tmp_path_factory.mktemp("runs") / "extend")
    write_files(read_comparison(path))
    return path


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    return read_comparison(make_sweep(tmp_path_factory.mktemp("runs") / "growing", (0, 1), (600, 6_000)))


def answer(comparison, label, question, length=N):
    rows = stages_of(comparison).answers
    (row,) = rows.query("label == @label and question == @question and context_length == @length").to_dict("records")
    return row


def test_a_sweep_without_stages_has_none_and_says_nothing_of_them(tmp_path):
    make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi")
    comparison = read_comparison(tmp_path)
    write_files(comparison)
    assert stages_of(comparison) is None
    assert "second stage" not in (tmp_path / "report.md").read_text().lower()
    assert 'id="stages"' not in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "stages.csv").exists()


def test_arms_are_compared_at_their_context_at_the_parents_and_beyond(sweep):
    (group,) = stages_of(read_comparison(sweep)).groups
    assert group.places == [N, L, 2 * N]
    assert (group.root, group.before, group.tokens) == ("rope", 60_000, 6_000)
    assert {arm.label for arm in group.arms} == {
        "rope@32",
        "rope@128",
        "rope+yarn@128",
        "rope+pi@128",
        "rope+drop@32",
    }


def test_each_arm_is_held_against_more_tokens_longer_windows_test_time_and_the_ceiling(sweep):
    (group,) = stages_of(read_comparison(sweep)).groups
    same, longer, ceiling = ("rope@32", "none"), ("rope@128", "none"), ("rope (context=128)", "none")
    yarn = {"same": same, "longer": longer, "ceiling": ceiling, "test": ("rope", "yarn")}
    drop = {"same": same, "longer": longer, "ceiling": ceiling, "test": ("rope", "drop")}
    assert group.against["rope+yarn@128"] == yarn
    assert group.against["rope+drop@32"] == drop
    assert group.against["rope@128"] == {"same": same, "ceiling": ceiling, "test": ("rope", "none")}
    assert group.against["rope@32"] == {"longer": longer, "ceiling": ceiling, "test": ("rope", "none")}


def losses(comparison, label, extension, length):
    """(seeds, windows), from the runs' own files."""
    runs = sorted((run for run in comparison.runs if run.label == label), key=lambda run: run.seed)
    key = f"fixed_targets/{extension}/{length}"
    return np.stack([run.folder.losses[key].astype(float).reshape(WINDOWS, TARGETS).sum(axis=1) for run in runs])


@pytest.mark.parametrize(("question", "length"), product(("same", "longer", "test", "ceiling"), (L, N, 2 * N)))
def test_an_answer_is_the_paired_difference_of_the_losses_on_disk(sweep, question, length):
    comparison = read_comparison(sweep)
    asked = stages_of(comparison).answers.query("question == @question and context_length == @length")
    found = {}
    for row in asked.itertuples():
        pair = (
            losses(comparison, row.label, "none", length),
            losses(comparison, row.against, row.against_extension, length),
        )
        found[row.label] = difference(*pair, np.full(WINDOWS, TARGETS), comparisons=None)
    adjusted = holm({label: each.p for label, each in found.items()})
    assert len(found) >= 4
    for row in asked.itertuples():
        expected = found[row.label]
        assert row.difference_nats == pytest.approx(expected.nats, rel=1e-9)
        assert (row.difference_low, row.difference_high) == pytest.approx((expected.percent_low, expected.percent_high))
        assert row.p_holm == pytest.approx(adjusted[row.label])


def test_the_verdicts_are_the_true_order(sweep):
    comparison = read_comparison(sweep)
    assert [answer(comparison, "rope+yarn@128", each)["verdict"] for each in ("same", "longer", "test", "ceiling")] == [
        "better",
        "better",
        "better",
        "worse",
    ]
    assert answer(comparison, "rope+drop@32", "longer")["verdict"] == "better"  # 4.3 against 4.4
    assert answer(comparison, "rope+yarn@128", "same", L)["verdict"] == "worse"
    assert answer(comparison, "rope+yarn@128", "test")["difference_nats"] == pytest.approx(4.01 - 4.7, abs=0.03)
    figures = stages_of(comparison).figures
    assert figures[figures["best"] & (figures["context_length"] == N)]["label"].tolist() == ["rope+yarn@128"]
    assert figures[figures["best"] & (figures["context_length"] == L)]["label"].tolist() == ["rope@32"]


def test_arms_stand_against_each_other_in_both_orders(sweep):
    pairs = stages_of(read_comparison(sweep)).pairs.query("context_length == @N").set_index(["label", "against"])
    assert len(pairs) == 5 * 4
    for one, other in pairs.index:
        assert pairs.loc[(one, other), "difference_nats"] == pytest.approx(-pairs.loc[(other, one), "difference_nats"])
    assert pairs.loc[("rope+yarn@128", "rope+pi@128"), "verdict"] == "better"
    assert pairs.loc[("rope+pi@128", "rope+yarn@128"), "verdict"] == "worse"


def test_stages_of_other_lengths_are_not_rivals_and_grow_from_test_time(growing):
    stages = stages_of(growing)
    assert [group.tokens for group in stages.groups] == [6_000, 600]
    for group in stages.groups:
        rivals = {label for asked in group.against.values() for label, _ in asked.values()} - {"rope"}
        assert all(f"={group.tokens})" in label for label in rivals if "context" not in label) and len(rivals) >= 2
    grown = stages.growth.query("kind == 'rope+yarn@128' and context_length == @N").set_index("stage_tokens")
    assert grown["share"].to_dict() == {0: 0, 600: 1, 6_000: 10}
    for tokens, loss in ((0, 4.7), (600, 4.1), (6_000, 4.01)):
        assert math.log(grown.loc[tokens, "perplexity"]) == pytest.approx(loss, abs=0.05)
    summary = growing.summary.query("label == 'rope' and extension == 'yarn' and context_length == @N")
    (test_time,) = summary.query("protocol == 'fixed_targets'")["perplexity"]
    assert grown.loc[0, "perplexity"] == test_time
    plain = stages.growth.query("kind == 'rope@128' and context_length == @N and stage_tokens == 0")
    assert math.log(plain["perplexity"].item()) == pytest.approx(5.0, abs=0.05)


def test_a_ceiling_of_another_length_in_all_is_no_ceiling(growing):
    stages = stages_of(growing)
    of_600 = next(group for group in stages.groups if group.tokens == 600)
    assert of_600.ceilings == [] and stages.groups[0].ceilings == ["rope (context=128)"]


def test_a_stage_within_its_parents_run_is_held_against_the_parent_and_has_no_test_time_zero(tmp_path):
    for seed in (0, 1):
        parent = make_run(tmp_path, "rope", seed, at(4.0, 5.0), extensions=TESTS)
        drop = make_stage(parent, at(4.1, 4.3), extension="drop", tokens=7_500, config={"init_at": 0.875})
        config = drop.config
        config["stage"] |= {"tokens": 52_500}
        write_json(drop.path / "config.json", config)
    stages = stages_of(read_comparison(tmp_path))
    (group,) = stages.groups
    assert group.against["rope+drop@32"]["same"] == ("rope", "none")
    assert group.places == [32, 64, 128, 256]
    assert 0 not in set(stages.growth["stage_tokens"])


def test_seeds_and_arms_that_are_missing_leave_the_others_standing(tmp_path):
    for seed in (0, 1, 2):
        parent = make_run(tmp_path, "rope", seed, at(4.0, 5.0))
        make_stage(parent, at(4.1, 4.0), context=N, extension="yarn", lengths=[L, N])
        if seed:
            make_stage(parent, at(4.1, 4.4), context=N)
    stages = stages_of(read_comparison(tmp_path))
    (row,) = stages.answers.query("label == 'rope+yarn@128' and context_length == @N").to_dict("records")
    assert (row["question"], row["seeds"]) == (
        "longer",
        2,
    )  # the parent has no row under yarn, and nothing went on at L
    beyond = stages.figures.query("context_length == 2 * @N")["label"]
    assert set(beyond) == {"rope", "rope@128"}


def test_arms_whose_parents_lie_elsewhere_are_compared_with_each_other(tmp_path):
    make_sweep(tmp_path, (0, 1))
    comparison = read_comparison(tmp_path)
    for run in comparison.runs:
        if not run.stage:
            shutil.rmtree(run.folder.path)
    comparison = read_comparison(tmp_path)
    (group,) = stages_of(comparison).groups
    assert group.root == "rope" and group.parent is None
    assert group.against["rope+yarn@128"] == {"same": ("rope@32", "none"), "longer": ("rope@128", "none")}
    assert conclude(comparison)[0].startswith("After a second stage of 6,000 tokens (10 % of rope's 60,000)")


def test_stages_of_two_encodings_are_two_groups_with_a_sentence_each(tmp_path):
    for name, seed in product(("rope", "alibi"), (0, 1)):
        parent = make_run(tmp_path, name, seed, at(4.0, 5.0))
        make_stage(parent, at(4.1, 4.4), context=N)
        make_stage(parent, at(4.0, 4.9))
    comparison = read_comparison(tmp_path)
    assert [group.root for group in stages_of(comparison).groups] == ["alibi", "rope"]
    assert sum(said.startswith("After a second stage") for said in conclude(comparison)) == 2


# --------------------------------------------------------------------------------------------------------- the report


def test_the_first_sentences_are_the_stages(sweep):
    said = conclude(read_comparison(sweep))
    assert said[0].startswith(
        "After a second stage of 6,000 tokens (10 % of rope's 60,000), at 128 (4x), rope+yarn@128 is the best of 5 arms"
    )
    text = " ".join(said)
    assert "4 of 4 arms are better than rope@32, which went on at 32" in text
    assert "3 of 4 than rope@128" in text
    assert "rope+yarn@128, is worse than it" in text  # the ceiling
    assert "rope+pi@128" in next(each for each in said if each.startswith("At 32 (1x)"))
    assert any(each.startswith("At 256 (8x)") for each in said)
    assert "0.4 s beside the 5.0 s before it" in text
    assert "best of 6 encodings" not in text


def test_other_encodings_keep_their_verdict_behind_the_stages(tmp_path):
    make_sweep(tmp_path, (0, 1))
    for seed in (0, 1):
        make_run(tmp_path, "alibi", seed, at(4.0, 4.2))
    said = conclude(read_comparison(tmp_path))
    assert said[0].startswith("After a second stage")
    assert any("of 7 encodings" in each for each in said[1:])


def test_a_warning_of_one_seed_and_of_the_floor_stays(tmp_path):
    parent = make_run(tmp_path, "rope", 0, at(7.0, 7.5), floor=True)
    make_stage(parent, at(7.1, 7.2), context=N, extension="yarn", floor=True)
    text = " ".join(conclude(read_comparison(tmp_path)))
    assert "With one seed" in text and "worse than the unigram floor" in text


def test_markdown_and_page_have_the_section_and_its_numbers(sweep):
    text, html = (sweep / "report.md").read_text(), (sweep / "report.html").read_text()
    stages = stages_of(read_comparison(sweep))
    assert text.index("## Second stage of 6,000 tokens") < text.index("## Perplexity by context length")
    row = next(line for line in text.splitlines() if line.startswith("| rope, yarn at test time"))
    figure = stages.figures.query("label == 'rope' and extension == 'yarn' and context_length == @N")["perplexity"]
    assert f"{figure.item():.2f} (" in row
    for length in ("32 (1x)", "128 (4x)", "256 (8x)"):
        assert f"must beat, at {length}" in text and f"must beat, at {length}" in html
    assert '<section id="stages">' in html and "What a second stage costs" in html
    table = pd.read_csv(sweep / "stages.csv")
    assert len(table) == len(stages.answers) + len(stages.pairs)
    assert set(table["question"]) == {"same", "longer", "test", "ceiling", "arm"}


def test_costs_are_those_of_the_stage_beside_its_parents(sweep):
    costs = stages_of(read_comparison(sweep)).costs.set_index("label")
    yarn = costs.loc["rope+yarn@128"]
    assert (yarn["tokens_before"], yarn["stage_tokens"], yarn["seconds_before"]) == (60_000, 6_000, 5.0)
    assert yarn["seconds"] == pytest.approx(0.4)
    assert (
        costs.loc["rope (context=128)", "tokens_before"] == costs.loc["rope", "tokens_before"] == 60_416
    )  # as trained


def test_growth_has_its_table_and_its_figure_from_two_lengths_on(growing, sweep):
    text = markdown(growing, check(growing))
    assert "## Perplexity at 128 (4x) by tokens of the stage" in text
    assert "600 (1 %)" in text
    assert "With the stage's length, rope+yarn@128 goes at 128 tokens over" in text
    figures = {figure.title: figure for figure in report_figures(growing)}
    data = figures["Perplexity at 128 (4x) by tokens of the stage: rope"].data
    lines = {trace["name"]: trace for trace in data if "name" in trace}
    yarn = lines["rope+yarn@128 (training.tokens=6000)"]
    assert yarn["x"] == [0, 600, 6_000] and yarn["y"] == sorted(yarn["y"], reverse=True)
    assert lines["rope (context=128)"]["x"] == [0, 6_000]
    assert "by tokens of the stage" not in (sweep / "report.md").read_text()
    assert page(growing, check(growing)).count("by tokens of the stage") > 2


def test_the_page_draws_the_section_without_an_error(growing):
    write_files(growing)
    with open_browser() as browser:
        browser.open(growing.path / "report.html")
        browser.run("document.getElementById('stages').scrollIntoView({behavior: 'instant'})")
        plot = "document.querySelector('#stages .panel:not([hidden]) .plot')"
        browser.wait(f"return {plot} && {plot}.data && {plot}.querySelector('.main-svg')")
        shown = "#stages .panel:not([hidden]) figcaption b"
        captions = browser.run("return [...document.querySelectorAll(arguments[0])].map((b) => b.textContent)", shown)
        assert "Against what an arm must beat, at 128 (4x)" in captions
        assert "Against what an arm must beat, at 32 (1x)" not in captions
        assert browser.complaints() == []
