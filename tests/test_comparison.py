"""A sweep as frames: its figures are those of the losses on disk, and what counts in them."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.compare.comparison import FIGURES, STAGE, Comparison, read_comparison, write_comparison
from eval.compare.conclusion import conclude
from eval.compare.tables import apart_table
from eval.measure.statistics import compare, holm, perplexity_interval, share_interval
from eval.record.files import read_json, write_json
from tests.shown import line
from tests.synthetic import CONTEXT, LENGTHS, make_run


def steady(loss):
    return lambda length: loss


def rising(loss, by=0.1):
    """A loss that grows by `by` nats with each doubling of the context."""
    return lambda length: loss + by * math.log2(length / CONTEXT)


def row_of(comparison: Comparison, label: str, **place):
    """The one row of a label at a place; by default that of the headline at the longest context."""
    place = {"protocol": "fixed_targets", "extension": "none", "context_length": max(LENGTHS), "label": label} | place
    here = (comparison.summary[list(place)] == pd.Series(place)).all(axis="columns")
    (found,) = comparison.summary[here].to_dict("records")
    return found


def labels_of(frame: pd.DataFrame) -> set[str]:
    return set(frame["label"])


def test_figures_are_those_of_the_losses_on_disk(tmp_path):
    runs = {
        (name, seed): make_run(tmp_path, name, seed, rising(4 + 0.1 * len(name)))
        for name in ("rope", "t5")
        for seed in (0, 1)
    }
    comparison = read_comparison(tmp_path)
    for name in ("rope", "t5"):
        losses = np.concatenate([runs[name, seed].losses["fixed_targets/none/128"].astype(float) for seed in (0, 1)])
        row = row_of(comparison, name, context_length=128)
        assert row["nats"] == pytest.approx(losses.mean(), rel=1e-12)
        assert row["perplexity"] == pytest.approx(math.exp(losses.mean()), rel=1e-12)
        assert (row["seeds"], row["tokens"]) == (2, len(losses) / 2)
        interval = perplexity_interval(losses.reshape(2, 24, 16).sum(axis=2), np.full(24, 16), np.arange(24))
        bounds = (interval.perplexity_low, interval.perplexity_high)
        assert (row["perplexity_low"], row["perplexity_high"]) == pytest.approx(bounds, rel=1e-12)


def test_differences_are_those_of_the_statistics(tmp_path):
    names, seeds = ("rope", "t5", "alibi"), (0, 1, 2)
    runs = {
        (name, seed): make_run(tmp_path, name, seed, steady(4 + len(name) / 100)) for name in names for seed in seeds
    }
    key = "fixed_targets/none/256"
    losses = {
        name: np.stack([runs[name, seed].losses[key].astype(float).reshape(24, 16).sum(axis=1) for seed in seeds])
        for name in names
    }
    pairs = {name: (losses[name], losses["rope"]) for name in ("t5", "alibi")}
    expected = compare(pairs, np.full(24, 16), np.arange(24), reference="rope")
    comparison = read_comparison(tmp_path)
    for name in ("t5", "alibi"):
        row, difference = row_of(comparison, name), expected[name]
        assert row["difference_percent"] == pytest.approx(difference.percent)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            (difference.percent_low, difference.percent_high)
        )
        assert row["p_holm"] == pytest.approx(difference.adjusted_p)
        assert row["smallest_detectable"] == pytest.approx(difference.smallest_detectable)
        assert row["verdict"] == difference.verdict


def test_the_table_of_a_sweep_without_figures_has_its_header(tmp_path):
    make_run(tmp_path, "rope", nats=lambda length: None)
    write_comparison(read_comparison(tmp_path))
    assert list(pd.read_csv(tmp_path / "summary.csv")) == [name for name in FIGURES if name not in STAGE]


def test_a_place_begins_with_its_best_label_and_verdicts_are_right(tmp_path):
    for seed in (0, 1, 2):
        for name, loss in (("rope", 4.5), ("alibi", 4.0), ("none", 5.0), ("twin", 4.5)):
            make_run(tmp_path, name, seed, steady(loss), noise=0.01)
    comparison = read_comparison(tmp_path)
    assert comparison.summary["label"].iloc[0] == "alibi"
    assert row_of(comparison, "alibi")["verdict"] == "better"
    assert row_of(comparison, "none")["verdict"] == "worse"
    assert row_of(comparison, "twin")["verdict"] == "not separable"
    assert pd.isna(row_of(comparison, "rope")["verdict"])


def test_seeds_are_paired_and_those_of_one_side_alone_are_left_out_of_the_difference(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, "rope", seed, steady(4.5))
    for seed in (1, 2):
        make_run(tmp_path, "alibi", seed, steady(4.5))
    make_run(tmp_path, "alibi", 7, steady(9.0))
    make_run(tmp_path, "none", 9, steady(4.5))
    comparison = read_comparison(tmp_path)
    assert row_of(comparison, "alibi")["seeds"] == 3
    assert abs(row_of(comparison, "alibi")["difference_nats"]) < 0.2
    assert pd.isna(row_of(comparison, "none")["verdict"])


def test_holms_correction_is_over_all_encodings_even_where_their_seeds_differ(tmp_path):
    for name, seeds in (("rope", (0, 1, 2)), ("alibi", (0, 1, 2)), ("none", (0, 1)), ("t5", (1, 2))):
        for seed in seeds:
            make_run(tmp_path, name, seed, steady(4.4 + len(name) / 50))
    comparison = read_comparison(tmp_path)
    rows = {name: row_of(comparison, name) for name in ("alibi", "none", "t5")}
    assert {name: row["p_holm"] for name, row in rows.items()} == pytest.approx(
        holm({name: row["p"] for name, row in rows.items()})
    )


def test_what_is_undefined_or_has_diverged_with_any_seed_has_no_figure(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "rope", seed)
        make_run(tmp_path, "learned", seed, lambda length: 4.0 if length == CONTEXT else None)
        make_run(tmp_path, "alibi", seed, steady(4.0))
    diverged = read_comparison(tmp_path).compared[0].folder
    results = read_json(diverged.path / "results.json")
    for row in results["rows"]:
        if row["context_length"] == 256:
            row |= {"status": "diverged", "reason": "3 of 384 token losses are not finite"}
    write_json(diverged.path / "results.json", results)
    comparison = read_comparison(tmp_path)
    at = {n: labels_of(here) for n, here in comparison.summary.groupby("context_length")}
    assert at == {32: {"alibi", "learned", "rope"}, 64: {"alibi", "rope"}, 128: {"alibi", "rope"}, 256: {"rope"}}


def test_a_floor_stands_once_and_is_no_rival(tmp_path):
    for seed in (0, 1):
        for name in ("rope", "alibi"):
            make_run(tmp_path, name, seed, steady(7.0), floor=True)
    comparison = read_comparison(tmp_path)
    floor = row_of(comparison, "unigram", context_length=CONTEXT)
    assert (floor["control"], floor["seeds"]) == ("floor", 1)
    assert pd.isna(floor["verdict"])
    assert (
        row_of(comparison, "alibi", context_length=CONTEXT)["p"]
        == row_of(comparison, "alibi", context_length=CONTEXT)["p_holm"]
    )
    assert comparison.labels == ["alibi", "rope", "unigram"]


def test_a_model_trained_on_a_longer_context_is_a_control(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name)
    make_run(tmp_path, "rope", nats=steady(1.0), config={"context": 128, "training__batch_size": 8})
    comparison = read_comparison(tmp_path)
    assert comparison.objection is None
    assert comparison.context == CONTEXT
    ceiling = row_of(comparison, "rope (context=128)")
    assert ceiling["control"] == "trained on a context of 128 tokens"
    assert pd.isna(ceiling["verdict"])
    assert comparison.reference == "rope"
    assert pd.notna(row_of(comparison, "alibi")["verdict"])


def test_an_extension_is_held_against_none_on_the_same_runs(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, "rope", seed, steady(4.5), extensions={"yarn": -0.3, "pi": 0.0})
    comparison = read_comparison(tmp_path)
    yarn, pi = (row_of(comparison, "rope", extension=name) for name in ("yarn", "pi"))
    assert yarn["gain_percent"] == pytest.approx(100 * math.expm1(-0.3), rel=1e-5)
    assert (yarn["gain_verdict"], pi["gain_verdict"]) == ("better", "not separable")
    assert pd.isna(row_of(comparison, "rope")["gain_verdict"])


def test_rows_by_position_stand_apart_from_those_that_are_compared(tmp_path):
    make_run(tmp_path, "rope", positions=True)
    comparison = read_comparison(tmp_path)
    assert set(comparison.summary["protocol"]) == {"fixed_targets", "non_overlapping"}
    assert comparison.positions["position"].tolist() == list(range(8, 257, 8))
    first = comparison.positions.iloc[0]
    assert first["nats"] == pytest.approx(
        comparison.compared[0].folder.losses["positions/none/256/8"].astype(float).mean()
    )


def right(share, examples=256, shift=0):
    """So many examples, of which the share is right."""
    return np.roll(np.arange(examples) < round(share * examples), shift)


def test_exact_match_has_an_interval_over_seeds_and_examples(tmp_path):
    for seed, share in ((0, 0.25), (1, 0.5), (2, 0.75)):
        make_run(tmp_path, "rope", seed, protocols=(), exact={30: right(share, shift=17 * seed)})
    (row,) = read_comparison(tmp_path).tasks.to_dict("records")
    assert (row["exact_match"], row["seeds"], row["length_ratio"]) == (0.5, 3, 2.0)
    assert (row["worst_seed"], row["best_seed"]) == (0.25, 0.75)
    assert row["interval_covers"] == "seeds and examples"
    expected = share_interval(np.stack([right(share, shift=17 * seed) for seed, share in enumerate((0.25, 0.5, 0.75))]))
    assert (row["low"], row["high"]) == (expected.low, expected.high)
    assert row["low"] < 0.25 and row["high"] > 0.75  # wider than the seeds lie apart


def test_a_task_is_paired_over_seeds_and_examples(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, "rope", seed, protocols=(), exact={30: right(0.5, shift=seed)})
        make_run(tmp_path, "alibi", seed, protocols=(), exact={30: right(0.6, shift=seed)})
        make_run(tmp_path, "none", seed, protocols=(), exact={30: right(0.5, shift=1 + seed)})
    comparison = read_comparison(tmp_path, reference="rope")
    rows = comparison.tasks.set_index("label")
    assert rows["verdict"].to_dict()["alibi"] == "better" and rows["verdict"]["none"] == "not separable"
    assert rows["difference_share"]["alibi"] == pytest.approx(-0.1, abs=0.005)
    assert rows.index[rows["among_best"]].tolist() == ["alibi"]


def test_answers_that_an_earlier_version_did_not_keep_have_no_interval(tmp_path):
    task = {"protocol": "exact_match", "task": "copy", "extension": "none", "length": 64, "length_ratio": 2.0}
    task |= {"context_length": 130, "status": "ok", "exact_match": 0.5, "low": 0.1, "high": 0.9, "level": 0.95}
    task |= {"examples": 256, "token_accuracy": 0.9, "tokens": 1000, "split": "test", "precision": "32"}
    make_run(tmp_path, "rope", protocols=(), results={"tasks": [task]})
    comparison = read_comparison(tmp_path)
    (row,) = comparison.tasks.to_dict("records")
    assert row["exact_match"] == 0.5 and pd.isna(row["low"]) and "score the runs again" in row["interval_reason"]
    assert "score the runs again" in conclude(comparison)[0]


def task_verdict(path, **shares):
    """What is said of encodings that answer such shares at 1x, 2x, ..."""
    for name, exact in shares.items():
        make_run(path, name, protocols=(), exact={15 * 2**n: right(share) for n, share in enumerate(exact)})
    (said,) = (each for each in conclude(read_comparison(path)) if "copy" in each)
    return said.replace("\xa0", " ")


def test_a_task_that_none_has_learned_says_so_and_has_no_best(tmp_path):
    said = task_verdict(tmp_path, rope=(0.01, 0.0), alibi=(0.0, 0.0))
    assert said.startswith("At 1x and 2x the longest trained length no encoding answers more than 1.2 % of the")
    assert "rope" not in said and "train on more tokens (training.tokens)" in said


def test_a_task_is_judged_at_the_longest_length_at_which_any_answers(tmp_path):
    said = task_verdict(tmp_path, rope=(0.9, 0.45, 0.0), alibi=(0.9, 0.2, 0.0))
    assert said.startswith("At 2x the longest trained length (30), rope answers 44.9 % of the examples of copy exactly")
    assert "95 % interval over examples 38.9 % to" in said and "the most of 2" in said
    assert "At 4x the longest trained length no encoding answers more than 0 %" in said


def test_encodings_that_answer_alike_are_not_told_apart_by_a_task(tmp_path):
    said = task_verdict(tmp_path, rope=(0.9,), alibi=(0.89,), none=(0.3,))
    assert "can't be told from alibi" in said and "the most of" not in said and "none" not in said


def test_among_the_best_are_those_that_no_other_is_better_than_with_them_as_the_reference(tmp_path):
    for name, loss in (("rope", 4.5), ("alibi", 4.003), ("t5", 4.0), ("none", 4.05)):
        for seed in (0, 1, 2):
            make_run(tmp_path, name, seed, steady(loss), noise=0.01)
    comparison = read_comparison(tmp_path)
    here = comparison.summary.query("protocol == 'fixed_targets' and context_length == 256")
    best = set(here["label"][here["among_best"]])
    verdicts = comparison.differences.query("protocol == 'fixed_targets' and context_length == 256")
    beaten = verdicts.groupby("reference")["verdict"].agg(lambda each: (each == "better").any())
    assert best == set(beaten.index[~beaten]) == {"alibi", "t5"}


def test_every_encoding_is_a_reference_in_its_turn(tmp_path):
    for name, loss in (("rope", 4.5), ("alibi", 4.0), ("none", 4.2)):
        for seed in (0, 1):
            make_run(tmp_path, name, seed, steady(loss), lengths=(256,), protocols=("fixed_targets",), floor=True)
    comparison = read_comparison(tmp_path)
    for name in ("rope", "alibi", "none"):
        other = read_comparison(tmp_path, reference=name)
        rivals = other.summary[other.summary["control"].isna()].reset_index(drop=True)
        own = comparison.differences[comparison.differences["reference"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, rivals)


def test_of_many_encodings_the_reference_and_the_best_alone_are_references(tmp_path):
    for number in range(14):
        make_run(tmp_path, f"e{number:02}", 0, steady(4 + number / 10), lengths=(256,), protocols=("fixed_targets",))
    comparison = read_comparison(tmp_path, reference="e05")
    assert set(comparison.differences["reference"]) == {"e00", "e05"}
    assert "e00 is the best of 14 encodings" in conclude(comparison)[0]


def test_a_control_that_cannot_be_compared_stands_apart_and_leaves_the_others_their_comparison(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name)
    alone = read_comparison(tmp_path).summary
    ceiling = make_run(tmp_path, "rope", config={"context": 64, "training__batch_size": 8})
    comparison = read_comparison(tmp_path)
    pd.testing.assert_frame_equal(comparison.summary, alone)
    assert comparison.objection is None and not comparison.left_out
    assert "tokens a step (" in comparison.apart[ceiling.name]
    (said,) = (each for each in conclude(comparison) if "apart" in each and "control" in each)
    assert said.startswith(
        "The control rope (context=64) stands apart, for it differs from the others in tokens a step"
    )
    assert ceiling.name in apart_table(comparison).columns[0].texts


def test_the_reference_and_the_level_can_be_chosen_anew(tmp_path):
    for seed in (0, 1):
        for name in ("rope", "alibi", "none"):
            make_run(tmp_path, name, seed, steady(4 + len(name) / 20))
    comparison = read_comparison(tmp_path, reference="none", level=0.5)
    assert comparison.reference == "none"
    assert pd.notna(row_of(comparison, "rope")["verdict"])
    wide = row_of(read_comparison(tmp_path), "rope")
    narrow = row_of(comparison, "rope")
    assert narrow["perplexity_high"] - narrow["perplexity_low"] < wide["perplexity_high"] - wide["perplexity_low"]


def test_without_the_wanted_reference_the_first_label_is_taken(tmp_path):
    for name in ("t5", "none"):
        make_run(tmp_path, name)
    assert read_comparison(tmp_path).reference == "none"


def test_a_runs_own_folder_can_be_read(tmp_path):
    folder = make_run(tmp_path, "rope")
    comparison = read_comparison(folder.path)
    assert comparison.labels == ["rope"]
    assert row_of(comparison, "rope")["seeds"] == 1
    assert row_of(comparison, "rope")["interval_covers"] == "windows"


def test_the_tables_on_disk_hold_every_row(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name, positions=True)
    comparison = read_comparison(tmp_path)
    write_comparison(comparison)
    rows = sum(len(json.loads((run.folder.path / "results.json").read_text())["rows"]) for run in comparison.runs)
    assert len((tmp_path / "comparison.csv").read_text().splitlines()) == 1 + rows
    expected = len(comparison.summary) + len(comparison.positions)
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 1 + expected


def test_a_comparison_of_nothing_has_no_context(tmp_path):
    make_run(tmp_path, "rope", state="failed", error="no")
    comparison = read_comparison(tmp_path)
    assert (comparison.context, comparison.labels, len(comparison.summary)) == (None, [], 0)
    assert replace(comparison, objection="x").left_out == comparison.left_out


def test_a_label_of_which_a_seed_diverged_in_training_is_not_ranked_by_those_that_survived(tmp_path):
    for name in ("rope", "alibi"):
        for seed in (0, 1):
            make_run(tmp_path, name, seed, line(4.0, 0.1))
    why = "the loss was not finite at step 7"
    make_run(tmp_path, "alibi", 2, state="failed", error=why, diverged=True)
    comparison = read_comparison(tmp_path)
    assert set(comparison.summary["label"]) == {"rope"}
    lost = comparison.scored.query("status == 'diverged'")
    assert set(lost["label"]) == {"alibi"} and set(lost["reason"]) == {why} and set(lost["seed"]) == {2}
    assert set(lost["context_length"]) == set(comparison.summary["context_length"])
    assert any("Not ranked: alibi" in sentence for sentence in conclude(comparison))
    assert "diverged" not in set(comparison.rows["status"])


def test_a_seed_that_was_interrupted_or_lost_says_nothing_of_its_label(tmp_path):
    for name in ("rope", "alibi"):
        make_run(tmp_path, name, 0, line(4.0, 0.1))
    make_run(tmp_path, "alibi", 1, state="interrupted", error="stopped by SIGTERM")
    make_run(tmp_path, "rope", 1, state="failed", error="the disk is full")
    assert set(read_comparison(tmp_path).summary["label"]) == {"rope", "alibi"}
