"""Retrieval over the runs of a sweep: gains, recovery, seeds, the verdict beside that by perplexity.

python -m pytest tests/test_retrieval_report.py
"""

import math

import numpy as np
import pandas as pd
import pytest

from eval.compare.comparison import read_comparison
from eval.compare.conclusion import conclude
from eval.compare.literature import check
from eval.compare.page import report_figures
from eval.compare.report import markdown, write_files
from eval.compare.retrieval import LEAST, retrieval_of
from tests.synthetic import CONTEXT, DEPTHS, LENGTHS, make_run

SEEDS = (0, 1, 2)
LAST = max(LENGTHS)


def keeps(at_context, share, deeper=0.0):
    """A gain that beyond the training context is a share of that within; and more by depth."""
    return lambda length, depth, extension: (at_context if length == CONTEXT else share * at_context) + deeper * depth


def sweep(path, seeds=SEEDS, **encodings):
    """encodings: by name the mean loss and the gain of each."""
    for name, (nats, gain) in encodings.items():
        for seed in seeds:
            make_run(path, name, seed, lambda length, nats=nats: nats, gain=gain)
    return read_comparison(path)


def test_gains_recovery_and_exact_match_are_those_of_the_windows(tmp_path):
    comparison = sweep(tmp_path, rope=(4.0, keeps(5.0, 0.3, 2.0)), alibi=(4.0, keeps(4.0, 0.95)))
    found = retrieval_of(comparison)
    rope = found.by_depth.query("label == 'rope' and needle == 'pair'").set_index(["context_length", "depth"])
    for (length, depth), row in rope.iterrows():
        own = found.recalled.query("label == 'rope' and needle == 'pair' and context_length == @length")
        own = own[own["depth"] == depth]
        assert row["gain"] == pytest.approx(own["gain"].sum() / own["tokens"].sum())
        assert row["exact_match"] == own["exact"].mean()
        assert row["gain"] == pytest.approx((5.0 if length == CONTEXT else 1.5) + 2 * depth, abs=0.1)
    mean = found.summary.query("label == 'rope' and needle == 'pair'").set_index("context_length")
    assert mean["gain"][CONTEXT] == pytest.approx(5 + 2 * np.mean(DEPTHS), abs=0.1)
    assert mean["recovery"][CONTEXT] == 1 and mean["recovery"][LAST] == pytest.approx(2.5 / 6, abs=0.02)
    assert rope["recovery"][LAST, 0.9] == pytest.approx(3.3 / 6, abs=0.02)
    assert (mean["recovery_low"] <= mean["recovery"]).all() and (mean["recovery"] <= mean["recovery_high"]).all()
    alibi = found.summary.query("label == 'alibi' and needle == 'pair'").set_index("context_length")
    assert mean["passed"][LAST] == 0 and alibi["passed"][LAST] == 1


def test_the_worst_seed_and_the_share_that_pass_are_said(tmp_path):
    for seed, share in zip(SEEDS, (0.9, 0.85, 0.2), strict=True):
        make_run(tmp_path, "rope", seed, gain=keeps(5.0, share))
    comparison = read_comparison(tmp_path)
    row = retrieval_of(comparison).last.iloc[0]
    assert row["worst_seed"] == pytest.approx(0.2, abs=0.02) and row["best_seed"] == pytest.approx(0.9, abs=0.02)
    assert row["passed"] == pytest.approx(2 / 3)
    said = " ".join(conclude(comparison))
    assert "its worst seed 2" in said and "2 of 3 seeds keep 80\xa0% or more" in said
    assert row["recovery_high"] - row["recovery_low"] > 0.3  # three seeds that differ so say little of their mean


def test_two_verdicts_that_disagree_are_said_to(tmp_path):
    comparison = sweep(tmp_path, alibi=(3.5, keeps(5.0, 0.02)), rope=(4.5, keeps(5.0, 0.9)))
    first, second, third, *_ = conclude(comparison)
    assert "alibi is the best of 2 encodings" in first
    assert second.startswith("By retrieval at 256 (8x) tokens, rope is the best of 2: it gains 4.5")
    assert third.startswith("At 8x, the two verdicts disagree: alibi can't be told from the best by perplexity")
    assert "; rope can't by retrieval, but can by perplexity." in third
    comparison = sweep(tmp_path / "alike", rope=(3.5, keeps(5.0, 0.9)), alibi=(4.5, keeps(5.0, 0.02)))
    agree = "At 8x, perplexity and retrieval agree on who can't be told from the best: rope."
    assert agree in conclude(comparison)


def test_where_nothing_is_retrieved_within_the_training_context_nothing_is_said_beyond(tmp_path):
    comparison = sweep(tmp_path, rope=(4.0, keeps(LEAST / 3, 1.0)), alibi=(4.0, keeps(LEAST / 2, 1.0)))
    found = retrieval_of(comparison)
    assert found.summary["recovery"].isna().all()
    (said,) = (each for each in conclude(comparison) if "retriev" in each)
    assert "No encoding retrieves at its training context" in said and "train on more tokens" in said


def test_one_that_does_not_retrieve_within_the_training_context_is_named(tmp_path):
    comparison = sweep(tmp_path, rope=(4.0, keeps(5.0, 0.5)), none=(4.0, keeps(0.01, 1.0)))
    assert "At the training context none does not retrieve." in conclude(comparison)


def test_one_whose_seeds_differ_too_much_to_tell_is_named(tmp_path):
    for seed, gain in zip((0, 1), (0.15, 4.0), strict=True):
        make_run(tmp_path, "rope", seed, gain=keeps(gain, 0.5))
        make_run(tmp_path, "alibi", seed, gain=keeps(3.0, 0.5))
    said = conclude(read_comparison(tmp_path))
    assert "Whether rope retrieves at the training context is not separable from chance: add seeds." in said


def test_the_correction_counts_both_verdicts(tmp_path, monkeypatch):
    comparison = sweep(tmp_path, rope=(4.0, keeps(5.0, 0.5)), alibi=(4.02, keeps(5.0, 0.5)), t5=(4.0, keeps(5.0, 0.5)))
    counted = []
    from eval.measure import statistics

    def holm(p_values, own=statistics.holm):
        counted.append(len(p_values))
        return own(p_values)

    monkeypatch.setattr(statistics, "holm", holm)
    retrieval_of.cache_clear()
    retrieval_of(comparison)
    # Each of three encodings is held against two others by perplexity and by one needle: four in a correction.
    assert counted.count(4) == 2 * 3


def test_an_extension_is_shown_beside_the_untreated_control(tmp_path):
    def gain(length, depth, extension):
        return 5.0 if length == CONTEXT or extension == "yarn" else 0.5

    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, extensions={"yarn": -0.1}, gain=gain)
    comparison = read_comparison(tmp_path)
    figures = {figure.title: figure for figure in report_figures(comparison)}
    maps = figures["Gain of a pair of words for rope under extensions, by depth and context length"]
    assert [note["text"] for note in maps.layout["annotations"]] == ["rope, none", "rope, yarn"]
    untreated, treated = ([line[-1] for line in trace["z"]] for trace in maps.data)
    assert max(untreated) < 1 < 4 < min(treated)
    assert maps.data[0]["y"] == ["0.1", "0.5", "0.9"] and maps.data[0]["x"] == ["1x", "2x", "4x", "8x"]
    assert {trace["zmax"] for trace in maps.data} == {max(max(map(max, trace["z"])) for trace in maps.data)}


def test_a_place_without_a_figure_in_one_seed_has_none_and_other_needles_are_not_compared(tmp_path):
    def gain(length, depth, extension):
        return None if length > CONTEXT else 5.0

    make_run(tmp_path, "rope", 0, gain=keeps(5.0, 0.5))
    make_run(tmp_path, "rope", 1, gain=gain)
    found = retrieval_of(read_comparison(tmp_path))
    assert set(found.summary["context_length"]) == {CONTEXT}
    make_run(tmp_path / "others", "rope", 0, gain=keeps(5.0, 0.5))
    make_run(tmp_path / "others", "alibi", 0, gain=keeps(5.0, 0.5), targets_id="00000001", protocols=())
    comparison = read_comparison(tmp_path / "others")
    assert any("Retrieval of a pair of words is not compared" in said for said in conclude(comparison))
    assert "## Retrieval of" not in markdown(comparison, check(comparison))


def test_all_of_it_stands_in_the_files(tmp_path):
    comparison = sweep(tmp_path, rope=(4.0, keeps(5.0, 0.3)), alibi=(4.0, keeps(4.0, 0.95)))
    write_files(comparison)
    table = pd.read_csv(tmp_path / "retrieval.csv")
    found = retrieval_of(comparison)
    assert len(table) == len(found.summary) + len(found.by_depth)
    assert table["depth"].isna().sum() == len(found.summary) == 2 * 2 * len(LENGTHS)
    text = (tmp_path / "report.md").read_text()
    assert "## Retrieval of a pair of words, recovery" in text and "3 of 3 pass" in text
    assert math.isclose(
        table.query("label == 'alibi' and depth.isna() and context_length == 256")["gain"].iloc[0], 3.8, abs_tol=0.1
    )
    assert 'id="retrieval"' in (tmp_path / "report.html").read_text()


def test_a_sweep_without_retrieval_says_nothing_of_it(tmp_path):
    make_run(tmp_path, "rope")
    comparison = read_comparison(tmp_path)
    assert retrieval_of(comparison) is None and "Retrieval" not in markdown(comparison, check(comparison))


def scored_again(run, **changes):
    """A run whose rows of retrieval are changed by the fields given, or are gone where a change is None."""
    rows = [row for row in run.results["retrieval"] if all(row[name] != value for name, value in changes.items())]
    run.update(retrieval=rows)


def test_encodings_with_other_depths_are_compared_at_those_that_all_have(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, gain=keeps(1.0, 1.0, 3.0))
        scored_again(make_run(tmp_path, "alibi", seed, gain=keeps(1.0, 1.0, 3.0)), depth=0.9)
    found = retrieval_of(read_comparison(tmp_path))
    assert set(found.by_depth["depth"]) == {0.1, 0.5}
    assert set(found.summary["verdict"].dropna()) == {"not separable"} and found.best == {"rope", "alibi"}


def test_a_label_of_which_a_seed_could_not_be_trained_is_not_ranked_by_the_others(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "alibi", seed, gain=keeps(3.0, 0.5))
        lost = {"state": "failed", "diverged": True, "error": "no loss"} if seed == 2 else {"gain": keeps(9.0, 1.0)}
        make_run(tmp_path, "rope", seed, **lost)
    found = retrieval_of(read_comparison(tmp_path))
    assert set(found.summary["label"]) == {"alibi"}


def test_who_was_not_asked_is_named_and_not_beaten(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, gain=keeps(3.0, 0.5))
        make_run(tmp_path, "alibi", seed, gain=keeps(3.0, 0.5) if seed else None)
        make_run(tmp_path, "none", seed)
    comparison = read_comparison(tmp_path)
    found, said = retrieval_of(comparison), " ".join(conclude(comparison))
    assert set(found.summary["label"]) == {"rope"} and found.together[1:] == ({"rope"}, {"rope"})
    assert "Of retrieval alibi and none have no figure there." in said and "disagree" not in said


def test_a_control_that_was_asked_otherwise_has_no_figure_and_the_others_have(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, gain=keeps(3.0, 0.5))
        ceiling = {"context": 8 * CONTEXT, "training__batch_size": 4}
        make_run(tmp_path, "rope", seed, config=ceiling, gain=keeps(3.0, 0.5), targets_id="00000000")
    for run in read_comparison(tmp_path).runs:
        if run.control:
            rows = [{**row, "targets_id": "1"} for row in run.results["retrieval"]]
            run.folder.update(retrieval=rows)
    found = retrieval_of(read_comparison(tmp_path))
    assert set(found.summary["label"]) == {"rope"} and not found.objections


def test_verdicts_are_held_against_each_other_at_a_length_that_both_have(tmp_path):
    for seed in SEEDS:
        for name, nats in (("rope", 3.5), ("alibi", 4.5)):
            run = make_run(tmp_path, name, seed, lambda length, nats=nats: nats, gain=keeps(5.0, 0.9))
            scored_again(run, context_length=LAST)
    comparison = read_comparison(tmp_path)
    assert retrieval_of(comparison).together == (LAST // 2, {"rope"}, {"rope", "alibi"})
    assert any(
        said.startswith("At 4x, the two verdicts disagree: alibi can't by retrieval") for said in conclude(comparison)
    )


def test_figures_under_extensions_alone_are_shown_without_a_verdict(tmp_path):
    def gain(length, depth, extension):
        return None if extension == "none" else 3.0

    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, extensions={"yarn": 0.0}, gain=gain)
    comparison = read_comparison(tmp_path)
    found = retrieval_of(comparison)
    assert set(found.summary["extension"]) == {"yarn"} and found.best == set()
    write_files(comparison)


@pytest.mark.slow
def test_many_encodings_of_which_the_reference_was_not_asked_have_a_page(tmp_path):
    for number in range(13):
        make_run(tmp_path, f"encoding{number}", gain=keeps(3.0, number / 13))
    make_run(tmp_path, "rope")
    write_files(read_comparison(tmp_path))
    assert 'id="retrieval"' in (tmp_path / "report.html").read_text()


def test_retrieval_by_itself_has_its_verdict(tmp_path):
    for seed in SEEDS:
        make_run(tmp_path, "rope", seed, protocols=(), gain=keeps(5.0, 0.9))
        make_run(tmp_path, "alibi", seed, protocols=(), gain=keeps(5.0, 0.1))
    assert conclude(read_comparison(tmp_path))[0].startswith("By retrieval at 256 (8x) tokens, rope is the best of 2")
