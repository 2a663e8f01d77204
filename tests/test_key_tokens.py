"""LongPPL: by hand on known losses, chosen once and the same for all, and what is said of evaluators that can't choose.

python -m pytest tests/test_key_tokens.py
"""

import math

import numpy as np
import pandas as pd
import pytest

from eval.compare.comparison import read_comparison, summary_table
from eval.compare.conclusion import conclude
from eval.compare.key_tokens import KEY
from eval.compare.literature import check
from eval.compare.page import page
from eval.compare.report import markdown, write_files
from eval.compare.tables import costs
from eval.measure.statistics import compare
from eval.record.files import read_json, write_json
from scripts.report import main
from tests.shown import line
from tests.synthetic import CONTEXT, TARGETS, WINDOWS, make_run

LONG = {"context": 128, "training__batch_size": 8}  # what the evaluator is trained on: four times the others' context
LENGTHS = (32, 64, 128, 256)
SHAPE = (WINDOWS, TARGETS)
KEYS = np.zeros(SHAPE, bool)
KEYS[:14, 3], KEYS[4, 9], KEYS[20, :2] = True, True, True  # 17 tokens in 15 windows; 9 windows have none


def evaluator_losses(length):
    """Key: 3.0 nats by the short context and 1.0 by the long. Beside them what gains, but stays hard; what is easy, but
    gains nothing; what gains by a context beyond that of its training alone."""
    losses = np.full(SHAPE, 4.0)
    losses[KEYS] = 3.0 if length < 128 else 1.0
    losses[0, 0] = 6.0 if length < 128 else 2.5
    losses[1, 1] = 1.2 if length < 128 else 1.0
    losses[2, 2] = 3.0 if length <= 128 else 0.5
    return losses


def own_losses(mean, seed, at_key=0.0):
    """Losses without pattern by length, around a mean; `at_key` more where a token is key."""

    def losses(length):
        rng = np.random.default_rng([seed, length, round(1000 * mean)])
        return rng.uniform(mean - 1, mean + 1, SHAPE) + at_key * KEYS

    return losses


def make_evaluator(path, seed=0, encoding="fire", **more):
    more = {"config": LONG, "tokens": evaluator_losses, "lengths": LENGTHS, **more}
    return make_run(path, encoding, seed, line(4.0), **more)


def make_rivals(path, seeds=(0, 1), floor=False):
    return {
        (name, seed): make_run(
            path, name, seed, line(4.0), lengths=LENGTHS, tokens=own_losses(4.0, seed, at_key), floor=floor
        )
        for name, at_key in (("rope", 0.0), ("alibi", -2.0))
        for seed in seeds
    }


def on_key_tokens(frame):
    return frame[frame["protocol"] == KEY]


def test_longppl_is_e_to_the_mean_loss_on_the_tokens_that_the_evaluator_chose(tmp_path):
    runs = make_rivals(tmp_path)
    make_evaluator(tmp_path)
    comparison = read_comparison(tmp_path)
    chosen = comparison.key_tokens
    assert (chosen.tokens, chosen.targets, chosen.blocks) == (17, WINDOWS * TARGETS, 15)
    assert (chosen.short, chosen.long, chosen.own) == (32, 128, 2.0)
    rows = on_key_tokens(comparison.summary).set_index(["label", "context_length"])
    assert set(rows.index) == {(name, length) for name in ("rope", "alibi") for length in LENGTHS}
    for (name, length), row in rows.iterrows():
        losses = [runs[name, seed].losses[f"fixed_targets/none/{length}"].astype(float) for seed in (0, 1)]
        by_hand = np.mean([own.reshape(SHAPE)[KEYS].mean() for own in losses])
        assert row["perplexity"] == pytest.approx(math.exp(by_hand), rel=1e-12)
        assert (row["tokens"], row["windows"], row["blocks"], row["seeds"]) == (17, 15, 15, 2)
        assert row["perplexity_low"] < row["perplexity"] < row["perplexity_high"]
        assert pd.isna(row["bits_per_byte"])


def test_differences_on_key_tokens_are_paired_by_seed_and_window(tmp_path):
    runs = make_rivals(tmp_path, seeds=(0, 1, 2))
    make_evaluator(tmp_path)
    comparison = read_comparison(tmp_path)
    there = KEYS.sum(axis=1) > 0

    def losses(name):
        own = [runs[name, seed].losses["fixed_targets/none/128"].astype(float).reshape(SHAPE) for seed in (0, 1, 2)]
        return np.stack([np.where(KEYS, each, 0).sum(axis=1)[there] for each in own])

    tokens, blocks = KEYS.sum(axis=1)[there], np.arange(WINDOWS)[there]
    (expected,) = compare({"alibi": (losses("alibi"), losses("rope"))}, tokens, blocks, reference="rope").values()
    rows = on_key_tokens(comparison.summary).query("context_length == 128").set_index("label")
    row = rows.loc["alibi"]
    assert row["difference_nats"] == pytest.approx(expected.nats) == pytest.approx(-2.0, abs=0.5)
    assert (row["p_holm"], row["verdict"]) == (pytest.approx(expected.adjusted_p), "better")
    assert rows["among_best"].to_dict() == {"alibi": True, "rope": False}
    (said,) = (each for each in conclude(comparison) if "LongPPL" in each)
    assert said.startswith("At 128 (4x) alibi is the best of 2 encodings: it has a LongPPL of 7.")


def test_thresholds_are_settings_and_their_bounds_are_no_key_tokens(tmp_path):
    make_rivals(tmp_path)
    make_evaluator(tmp_path)
    counts = {
        (gain, loss): read_comparison(tmp_path, key_gain=gain, key_loss=loss).key_tokens.tokens
        for gain, loss in ((0.5, 2.0), (2.0, 2.0), (1.99, 1.0), (1.99, 1.01), (0.5, 3.0), (0.1, 2.0))
    }
    assert counts == {(0.5, 2.0): 17, (2.0, 2.0): 0, (1.99, 1.0): 0, (1.99, 1.01): 17, (0.5, 3.0): 18, (0.1, 2.0): 18}


def test_the_headline_and_the_literature_know_nothing_of_key_tokens(tmp_path):
    make_rivals(tmp_path, seeds=(0, 1, 2), floor=True)
    before = read_comparison(tmp_path)
    make_evaluator(tmp_path)
    after = read_comparison(tmp_path)
    assert before.key_tokens is None and KEY not in set(before.summary["protocol"])
    assert conclude(after)[0] == conclude(before)[0]
    own = after.summary[(after.summary["protocol"] != KEY) & (after.summary["control"] != LONG_CONTROL)]
    frames = [frame.fillna({"control": ""}).reset_index(drop=True) for frame in (own, before.summary)]
    pd.testing.assert_frame_equal(*frames, check_dtype=False)
    assert KEY not in set(check(after)["protocol"])
    assert (
        costs(after).set_index("label")["evaluation"]["rope"] == costs(before).set_index("label")["evaluation"]["rope"]
    )
    assert KEY not in set(after.rows["protocol"])  # comparison.csv has what the runs' results have


LONG_CONTROL = "trained on a context of 128 tokens"


def test_the_evaluator_is_not_judged_by_its_own_choice_and_other_seeds_say_whether_it_holds(tmp_path):
    make_rivals(tmp_path)
    make_evaluator(tmp_path, 3)
    make_evaluator(tmp_path, 4, tokens=lambda length: np.full(SHAPE, 3.0 - 0.25 * (length >= 128)))
    comparison = read_comparison(tmp_path)
    chosen = comparison.key_tokens
    assert chosen.run.startswith("fire, seed 3 (")
    assert (chosen.own, chosen.others) == (2.0, pytest.approx(0.25))
    row = on_key_tokens(comparison.summary).query("label == 'fire (context=128)' and context_length == 128")
    assert row["seeds"].item() == 1 and row["control"].item() == LONG_CONTROL
    assert row["perplexity"].item() == pytest.approx(math.exp(2.75))
    assert "it gains 2.00 nats a token on them, its other seeds 0.25" in " ".join(conclude(comparison))


def test_of_several_controls_the_longest_trained_then_the_lowest_seed_then_the_best_chooses(tmp_path):
    make_rivals(tmp_path)
    longer = {"config": {"context": 256, "training__batch_size": 4}}
    for seed, encoding, more in ((0, "cope", {}), (2, "fire", longer), (1, "kerple_log", longer), (1, "t5", longer)):
        losses = (lambda length: evaluator_losses(length) - 0.1) if encoding == "t5" else evaluator_losses
        make_evaluator(tmp_path, seed, encoding, tokens=losses, **more)
    chosen = read_comparison(tmp_path).key_tokens
    assert chosen.run.startswith("t5, seed 1 (") and (chosen.context, chosen.long) == (256, 256)


def test_a_run_of_another_folder_may_choose_for_a_sweep_and_for_a_single_run(tmp_path):
    runs = make_rivals(tmp_path / "sweep")
    evaluator = make_evaluator(tmp_path / "elsewhere")
    comparison = read_comparison(tmp_path / "sweep", evaluator=str(evaluator.path))
    assert comparison.key_tokens.tokens == 17 and comparison.key_tokens.others is None
    assert set(on_key_tokens(comparison.summary)["label"]) == {"rope", "alibi"}
    alone = read_comparison(runs["rope", 0].path, evaluator=str(evaluator.path))
    losses = runs["rope", 0].losses["fixed_targets/none/256"].astype(float).reshape(SHAPE)
    row = on_key_tokens(alone.summary).query("context_length == 256")
    assert row["nats"].item() == pytest.approx(losses[KEYS].mean())
    assert row["interval_covers"].item() == "windows"


def test_a_control_that_stands_apart_may_choose(tmp_path):
    make_rivals(tmp_path)
    make_evaluator(tmp_path, config={"context": 128, "training__batch_size": 16})  # twice the tokens a step
    comparison = read_comparison(tmp_path)
    assert len(comparison.apart) == 1 and comparison.key_tokens.tokens == 17


def test_lost_and_undefined_labels_have_no_longppl_either_and_floors_have_one(tmp_path):
    make_rivals(tmp_path, floor=True)
    for seed in (0, 1):
        make_run(tmp_path, "learned", seed, lambda n: 4.0 if n == CONTEXT else None, lengths=LENGTHS)
    make_run(tmp_path, "t5", 0, line(4.0), lengths=LENGTHS)
    make_run(tmp_path, "t5", 1, state="failed", error="the loss was not finite", diverged=True)
    make_evaluator(tmp_path, floor=True)
    rows = on_key_tokens(read_comparison(tmp_path).summary)
    at = {length: set(own["label"]) for length, own in rows.groupby("context_length")}
    assert at[32] == {"rope", "alibi", "learned", "unigram"} and at[256] == {"rope", "alibi"}


def test_too_few_key_tokens_for_an_interval_say_so_and_none_gives_no_table(tmp_path):
    def few(length):
        return np.where(np.arange(WINDOWS)[:, None] < 6, evaluator_losses(length), 4.0)

    make_rivals(tmp_path)
    make_evaluator(tmp_path, tokens=few)
    comparison = read_comparison(tmp_path)
    rows = on_key_tokens(comparison.summary)
    assert rows["perplexity_low"].isna().all() and rows["verdict"].dropna().unique().tolist() == ["not separable"]
    assert rows["interval_reason"].str.contains("at least 10 blocks of held-out windows, there are 6").all()
    assert "too few for an interval, which needs 10 blocks" in " ".join(conclude(comparison))
    none = read_comparison(tmp_path, key_gain=5.0)
    assert none.key_tokens.tokens == 0 and KEY not in set(none.summary["protocol"])
    assert "Key tokens are 0 of 384 targets (0.00%)" in " ".join(conclude(none))
    assert "lower compare.key_gain" in " ".join(conclude(none))


def test_the_page_markdown_and_summary_csv_show_it_with_the_share_and_who_chose(tmp_path):
    make_rivals(tmp_path)
    make_evaluator(tmp_path)
    comparison = read_comparison(tmp_path)
    write_files(comparison)
    table = pd.read_csv(tmp_path / "summary.csv")
    assert len(on_key_tokens(table)) == len(on_key_tokens(summary_table(comparison))) == 8
    statements = check(comparison)
    for text in (markdown(comparison, statements), page(comparison, statements)):
        assert "17 of 384 targets (4.43%) in 15 blocks: those on which fire, seed 0" in text.replace("\\", "")
        assert "it takes no part itself" in text
        assert "Perplexity by context length: key" in text


# ---------------------------------------------------------------------------------------- who can't be an evaluator


def refused(path, evaluator):
    with pytest.raises(ValueError) as error:
        read_comparison(path, evaluator=str(evaluator))
    said = str(error.value)
    assert said.startswith(f"evaluator={evaluator}: ") and "\n" not in said
    return said


def test_an_evaluator_that_cannot_choose_is_refused_in_a_sentence(tmp_path):
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    rivals = make_rivals(sweep)
    assert "not a run's folder" in refused(sweep, tmp_path / "nowhere")
    assert "not a run's folder" in refused(sweep, sweep)
    assert "no longer than the 32 of the compared runs" in refused(sweep, rivals["rope", 0].path)
    others = {"corpus_hash": "1" * 64, "tokenizer_hash": "2" * 64}
    for (name, value), said in zip(others.items(), ("other data", "another tokenizer"), strict=True):
        run = make_evaluator(elsewhere / name, results={name: value})
        assert said in refused(sweep, run.path)
    running = make_evaluator(elsewhere / "running", state="running")
    assert "it is not finished (still running" in refused(sweep, running.path)
    assert "no losses of fixed_targets on the targets" in refused(
        sweep, make_evaluator(elsewhere / "targets", targets_id="11111111").path
    )
    assert "was scored at 128, 256 tokens, but takes two lengths" in refused(
        sweep, make_evaluator(elsewhere / "lengths", lengths=(128, 256)).path
    )


def test_another_split_is_other_targets(tmp_path):
    make_rivals(tmp_path / "sweep")
    run = make_evaluator(tmp_path / "elsewhere", config={**LONG, "eval__split": "validation"})
    assert "no losses of fixed_targets on the targets" in refused(tmp_path / "sweep", run.path)


def test_an_evaluator_of_the_settings_that_cannot_choose_costs_no_report(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "rope", seed, line(4.0), config={"compare__evaluator": str(tmp_path / "nowhere")})
    comparison = read_comparison(tmp_path)
    assert len(comparison.summary) and KEY not in set(comparison.summary["protocol"])
    (said,) = (each for each in conclude(comparison) if "key tokens" in each)
    assert said.startswith(f"No key tokens are chosen: evaluator={tmp_path / 'nowhere'}: this is not a run's folder")


def test_the_report_command_takes_an_evaluator_and_thresholds(tmp_path):
    make_rivals(tmp_path / "sweep")
    evaluator = make_evaluator(tmp_path / "elsewhere")
    assert main([str(tmp_path / "sweep"), f"evaluator={evaluator.path}", "key_gain=1.5"]) == 0
    assert "gains more than 1.5 nats" in (tmp_path / "sweep" / "report.md").read_text()
    with pytest.raises(ValueError, match=r"compare\.key_gain=-1\.0: nats, must be above 0"):
        main([str(tmp_path / "sweep"), "key_gain=-1"])
    with pytest.raises(ValueError, match="key_loss=much: must be a number"):
        main([str(tmp_path / "sweep"), "key_loss=much"])


def test_runs_from_before_there_were_such_settings_are_read(tmp_path):
    for folder in make_rivals(tmp_path).values():
        config = read_json(folder.path / "config.json")
        config["compare"] = {"reference": "rope", "level": 0.95}
        write_json(folder.path / "config.json", config)
    make_evaluator(tmp_path)
    assert read_comparison(tmp_path).key_tokens.tokens == 17
