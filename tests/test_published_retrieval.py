"""Published orderings of retrieval, on sweeps made of files with made-up finds, whose true order is known.

python -m pytest tests/test_published_retrieval.py
"""

import csv
import math

import numpy as np
import pandas as pd
import pytest

from eval.compare.comparison import read_comparison
from eval.compare.literature import RETRIEVAL, check, read_published
from eval.compare.page import page
from eval.compare.published_retrieval import POINTS, TASKS, TRAININGS, apart_points, found_in_grid, found_in_tasks
from eval.compare.report import markdown
from eval.measure.statistics import holm
from model.catalogue import encoding_names, extension_names
from scripts.literature import print_statements
from tests.synthetic import CONTEXT, make_run, make_stage

WINDOWS, DEPTHS = 16, (0.1, 0.5, 0.9)
NONE = pd.DataFrame(columns=["study", "protocol", "published_ratio"])  # no study of perplexity


def figure(encoding, accuracy, ratio=4.0, stage=math.nan, **more):
    """A row of what `read_published` returns of published_retrieval.csv, of a training context of 1,024."""
    task = more.pop("task", "NIAH")
    row = {"study": "a study", "corpus": "a corpus", "evidence": "paper", "published_protocol": task}
    row |= {"published": accuracy, "sd": math.nan, "published_seeds": 1, "published_stage": stage}
    row |= {"protocol": TASKS[task.split(",")[0]], "encoding": encoding, "published_ratio": ratio}
    return row | {"published_length": int(ratio * (1024 if math.isnan(stage) else stage))} | more


ALIBI_FINDS = [figure("alibi", 80.0), figure("rope", 20.0)]


def finds(gains, seeds=3, needle="pair", length=4 * CONTEXT, depths=DEPTHS, noise=0.05):
    """`recalled` of (label, extension) with these gains, nats a token, of 2 tokens a window, the same for all."""
    rows = []
    for (label, extension), gain in gains.items():
        for seed in range(seeds):
            own = np.random.default_rng([seed, *f"{label}{extension}".encode()])
            for depth in depths:
                shared = np.random.default_rng(round(100 * depth)).normal(size=WINDOWS)
                for window, value in enumerate(gain + 0.5 * shared + own.normal(size=WINDOWS) * noise):
                    place = {"needle": needle, "extension": extension, "context_length": length}
                    place |= {"length_ratio": length / CONTEXT, "label": label, "seed": seed, "block": window}
                    rows.append(place | {"tokens": 2, "gain": 2 * value})
    return pd.DataFrame(rows)


def asked(sweep, published=None, recalled=None, perplexity=NONE, answered=None):
    comparison = read_comparison(sweep)
    assert comparison.objection is None
    found = [] if recalled is None or recalled.empty else [found_in_grid(recalled)]
    found += [] if answered is None else [found_in_tasks(answered)]
    published = None if published is None else pd.DataFrame(published)
    return check(comparison, perplexity, published, pd.concat(found) if found else pd.DataFrame())


def two(sweep, seeds=3):
    for seed in range(seeds):
        make_run(sweep, "alibi", seed, lambda length: 5.0)
        make_run(sweep, "rope", seed, lambda length: 5.0)
    return sweep


def test_the_verdict_goes_by_what_the_sweep_finds(tmp_path):
    two(tmp_path)
    for name, alibi, rope in (("agree", 2.0, 1.0), ("disagree", 1.0, 2.0), ("not separable", 1.0, 1.0)):
        grid = finds({("alibi", "none"): alibi, ("rope", "none"): rope})
        (row,) = asked(tmp_path, ALIBI_FINDS, grid).to_dict("records")
        assert row["verdict"] == name, row
        assert (row["statement"], row["kind"]) == ("alibi at 4x above rope at 4x", "retrieval")
        assert (row["published_points"], row["seeds"], row["unit"]) == (60.0, 3, "nats")
        assert row["difference"] == pytest.approx(alibi - rope, abs=0.05)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["retrieved_higher"] - row["retrieved_lower"] == pytest.approx(row["difference"])
        assert math.isnan(row["percent"]) and math.isnan(row["published_percent"])


def test_what_runs_have_found_and_answered_is_asked(tmp_path):
    for seed in range(3):
        for encoding, gain, right in (("alibi", 3.0, 20), ("rope", 1.0, 2)):
            found = {"gain": lambda length, depth, extension, gain=gain: gain}
            found |= {"exact": {25: np.arange(24) < right}, "extensions": {"yarn": 0.0}}
            make_run(tmp_path, encoding, seed, **found)
    published = [*ALIBI_FINDS, figure("rope+yarn", 20.0)]
    published += [figure(name, share, 1.65, task="copy") for name, share in (("alibi", 60.0), ("rope", 0.0))]
    rows = check(read_comparison(tmp_path), NONE, pd.DataFrame(published))
    needle = ["alibi at 4x above rope at 4x", "alibi at 4x above rope+yarn at 4x"]
    assert rows["statement"].tolist() == [*needle, "alibi at 1.66667x above rope at 1.66667x"]
    assert rows["protocol"].tolist() == ["pair", "pair", "copy"] and set(rows["verdict"]) == {"agree"}
    assert rows["difference"].tolist() == pytest.approx([2.0, 2.0, 75.0], abs=0.05)


def test_runs_without_needles_and_tasks_are_not_asked(tmp_path):
    assert check(read_comparison(two(tmp_path)), NONE).empty


def test_what_was_not_asked_of_the_sweep_makes_no_statement(tmp_path):
    two(tmp_path)
    grid = finds({("alibi", "none"): 2.0, ("rope", "none"): 1.0})
    assert asked(tmp_path, ALIBI_FINDS).empty
    assert asked(tmp_path, ALIBI_FINDS, grid[:0]).empty
    assert asked(tmp_path, ALIBI_FINDS, grid.assign(needle="span")).empty
    assert asked(tmp_path, ALIBI_FINDS, grid.assign(context_length=CONTEXT, length_ratio=1.0)).empty
    assert asked(tmp_path, [figure("alibi", 80.0), figure("rope", 20.0, study="another")], grid).empty
    assert asked(tmp_path, [figure("alibi", 80.0), figure("rope", 20.0, task="NIAH, multi-key")], grid).empty


def test_all_questions_of_perplexity_and_of_retrieval_are_corrected_together(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "alibi", seed, lambda length: 5.0)
        make_run(tmp_path, "rope", seed, lambda length: 5.4)
    grid = finds({("alibi", "none"): 1.02, ("rope", "none"): 1.0})
    lower = {"study": "b", "corpus": "c", "evidence": "paper", "published_protocol": "non-overlapping", "sd": math.nan}
    lower |= {"protocol": "non_overlapping", "published_ratio": 4.0, "published_stage": math.nan}
    sides = {"alibi": 20.0, "rope": 30.0}
    perplexity = pd.DataFrame([lower | {"encoding": name, "published": ppl} for name, ppl in sides.items()])
    both = asked(tmp_path, ALIBI_FINDS, grid, perplexity)
    assert both["kind"].tolist() == ["encodings", "retrieval"] and both["unit"].tolist() == ["%", "nats"]
    alone = [asked(tmp_path, None, None, perplexity), asked(tmp_path, ALIBI_FINDS, grid)]
    p = {kind: rows["p_holm"].item() for kind, rows in zip(("encodings", "retrieval"), alone, strict=True)}
    assert all(0 < each < 0.5 for each in p.values())
    assert dict(zip(both["kind"], both["p_holm"], strict=True)) == pytest.approx(holm(p))


def test_an_extension_is_known_by_its_name_behind_a_plus(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "rope", seed)
    grid = finds({("rope", "none"): 0.5, ("rope", "yarn"): 2.0, ("rope", "pi"): 1.0})
    published = [figure("rope", 0.0), figure("rope+yarn", 40.0), figure("rope+pi", 25.0), figure("rope+ntk", 90.0)]
    rows = asked(tmp_path, published, grid)
    assert rows["statement"].tolist() == [
        "rope+yarn at 4x above rope at 4x",
        "rope+pi at 4x above rope at 4x",
        "rope+yarn at 4x above rope+pi at 4x",
    ]
    assert set(rows["verdict"]) == {"agree"}


def test_finds_at_other_depths_or_of_other_seeds_are_not_compared(tmp_path):
    two(tmp_path)
    rope = finds({("rope", "none"): 1.0})
    short = finds({("alibi", "none"): 2.0}, depths=DEPTHS[:1])
    (row,) = asked(tmp_path, ALIBI_FINDS, pd.concat([rope, short])).to_dict("records")
    assert row["verdict"] == "not separable" and "same tokens" in row["reason"]
    others = finds({("alibi", "none"): 2.0}).assign(seed=lambda rows: rows["seed"] + 10)
    (row,) = asked(tmp_path, ALIBI_FINDS, pd.concat([rope, others])).to_dict("records")
    assert row["verdict"] == "not separable" and row["reason"] == "no seed in common"


# ------------------------------------------------------------------------------------------------------- second stages


def dropped(sweep, context=CONTEXT):
    """Runs of rope, each with a second stage without an encoding and one that goes on as it was."""
    for seed in range(3):
        parent = make_run(sweep, "rope", seed)
        for extension in ("drop", None):
            make_stage(parent, lambda length: 5.0, context=context, extension=extension)
    return sweep


DROP_FINDS = [figure("rope+drop", 75.0, 2.0, stage=1024), figure("rope", 1.0, 2.0, stage=1024)]


def grid_of_stages(context, length):
    at = f"@{context}"
    gains = {(f"rope+drop{at}", "none"): 2.0, (f"rope{at}", "none"): 1.0, ("rope", "none"): 0.5, ("rope", "yarn"): 0.8}
    return finds(gains, length=length)


def test_a_figure_of_a_stage_is_asked_of_stages_alone(tmp_path):
    (row,) = asked(dropped(tmp_path), DROP_FINDS, grid_of_stages(CONTEXT, 2 * CONTEXT)).to_dict("records")
    assert row["statement"] == "rope+drop@32 at 2x of 32 above rope@32 at 2x of 32"
    assert (row["verdict"], row["published_stage"]) == ("agree", 1024)
    first = finds({("rope", "none"): 1.0, ("rope", "drop"): 2.0}, length=2 * CONTEXT)
    assert asked(tmp_path, DROP_FINDS, first).empty


def test_a_stage_that_kept_the_context_is_held_against_first_runs_as_in_the_study(tmp_path):
    published = [DROP_FINDS[0], figure("rope+yarn", 20.0, 2.0)]
    (row,) = asked(dropped(tmp_path), published, grid_of_stages(CONTEXT, 2 * CONTEXT)).to_dict("records")
    assert row["statement"] == "rope+drop@32 at 2x of 32 above rope+yarn at 2x"
    assert row["verdict"] == "agree" and row["difference"] == pytest.approx(1.2, abs=0.05)
    longer = [figure("rope+drop", 75.0, 2.0, stage=4096), figure("rope+yarn", 20.0, 2.0)]
    assert asked(tmp_path, longer, grid_of_stages(CONTEXT, 2 * CONTEXT)).empty


def test_a_stage_at_another_context_is_not_held_against_first_runs(tmp_path):
    grid = pd.concat([grid_of_stages(2 * CONTEXT, length * CONTEXT) for length in (2, 4)])
    rows = asked(dropped(tmp_path, 2 * CONTEXT), [*DROP_FINDS, figure("rope+yarn", 20.0, 2.0)], grid)
    assert rows["statement"].tolist() == ["rope+drop@64 at 2x of 64 above rope@64 at 2x of 64"]


# --------------------------------------------------------------------------------------------------------------- tasks


def answers(shares, task="copy", seeds=3, examples=200):
    """`answered` of labels that answer these shares of the examples, at twice the trained length."""
    rows = []
    for label, share in shares.items():
        for seed in range(seeds):
            right = np.random.default_rng([seed, *label.encode()]).random(examples) < share
            place = {"task": task, "extension": "none", "length": 14, "context_length": 30, "length_ratio": 2.0}
            place |= {"label": label, "seed": seed}
            rows += [{**place, "example": number, "exact": each} for number, each in enumerate(right)]
    return pd.DataFrame(rows)


def test_a_task_is_asked_of_the_like_named_task(tmp_path):
    two(tmp_path)
    published = [figure("alibi", 60.0, 1.65, task="copy"), figure("rope", 0.0, 1.65, task="copy")]
    (row,) = asked(tmp_path, published, answered=answers({"alibi": 0.8, "rope": 0.1})).to_dict("records")
    assert (row["verdict"], row["unit"], row["protocol"]) == ("agree", "points", "copy")
    assert row["difference"] == pytest.approx(70, abs=5)
    (row,) = asked(tmp_path, published, answered=answers({"alibi": 0.1, "rope": 0.8})).to_dict("records")
    assert row["verdict"] == "disagree"
    assert asked(tmp_path, published, answered=answers({"alibi": 0.8, "rope": 0.1}, task="reverse")).empty


# ------------------------------------------------------------------------------------------------------------- figures


def pair(lower, higher, sd=math.nan, seeds=1, encodings=("rope", "alibi"), stages=(math.nan, math.nan)):
    sides = {}
    for side, accuracy, encoding, stage in zip(("lower", "higher"), (lower, higher), encodings, stages, strict=True):
        own = {
            "published": accuracy,
            "sd": sd,
            "published_seeds": seeds,
            "encoding": encoding,
            "published_stage": stage,
        }
        sides |= {f"{name}_{side}": value for name, value in own.items()}
    return apart_points(pd.DataFrame([sides])).item()


def test_a_study_must_tell_its_accuracies_apart():
    assert not pair(20.0, 20.0 + TRAININGS - 1) and pair(20.0, 20.0 + TRAININGS + 1)
    assert not pair(20.0 + TRAININGS + 1, 20.0)
    stretched = ("rope", "rope+yarn")
    assert not pair(20.0, 20.0 + POINTS - 1, encodings=stretched) and pair(20.0, 20.0 + POINTS + 1, encodings=stretched)
    assert not pair(20.0, 45.0, encodings=("rope", "rope+drop"), stages=(math.nan, 1024.0))  # trained on: another run
    assert pair(60.0, 80.0, sd=10.0, seeds=6) and not pair(60.0, 80.0, sd=10.0, seeds=2)
    assert not pair(0.0, POINTS - 1, sd=0.0, seeds=3) and pair(0.0, POINTS + 1, sd=0.0, seeds=3)


def test_the_margin_of_two_trainings_is_that_of_the_spreads_in_the_file():
    sd = read_published(RETRIEVAL)["sd"].dropna()
    spread = 2 * math.sqrt(2) * sd[sd > 0]
    assert spread.median() < TRAININGS < math.sqrt((spread**2).mean())
    assert 100 * 2 * math.sqrt(2 * 0.25 / 200) == pytest.approx(POINTS)


def test_the_published_finds_are_read_whole_and_are_what_they_say():
    found = read_published(RETRIEVAL)
    with RETRIEVAL.open() as file:
        assert len(found) == sum(1 for _ in csv.reader(file)) - 1
    assert found["published"].between(0, 100).all() and found["published_ratio"].between(1, 8).all()
    assert set(found["protocol"]) == set(TASKS.values())
    assert (found["published_seeds"] >= 1).all() and found["sd"].isna().equals(found["published_seeds"] == 1)
    assert set(found["evidence"]) == {"paper", "authors' log", "second-hand"}
    stages = found["encoding"] == "rope+drop"
    assert found["published_stage"].notna().equals(stages)
    keys = ["study", "published_protocol", "encoding", "published_length"]
    assert not found.duplicated(keys).any()


def test_published_encodings_are_ours_or_known_not_to_be():
    names = {part for name in read_published(RETRIEVAL)["encoding"] for part in [*name.split("+")]}
    ours = {*encoding_names(), *extension_names()}
    assert names - ours <= {"evq", "mobius", "rnope_swa", "string", "longrope2"}


def test_what_the_papers_are_known_for_is_among_their_statements(tmp_path):
    dropped(two_more(tmp_path))
    labels = ["alibi", "none", "rope"]
    gains = {(label, "none"): 1.0 for label in [*labels, "rope+drop@32", "rope@32"]}
    gains |= {("rope", name): 1.0 for name in ("yarn", "ntk", "pi", "dynamic_ntk")}
    grid = pd.concat([finds(gains, length=length * CONTEXT) for length in (2, 4, 8)])
    answered = answers({"none": 0.5, "rope": 0.5, "alibi": 0.5, "t5": 0.5})
    found = asked(tmp_path, None, grid, answered=answered)
    said = set(zip(found["study"].str.split(",").str[0], found["statement"], strict=True))
    assert ("DroPE", "rope+drop@32 at 8x of 32 above rope+yarn at 8x") in said
    assert ("DroPE", "none at 2x above alibi at 2x") in said
    assert ("misaya-yang/hybrid-rope", "rope+yarn at 2x above rope at 2x") in said
    assert ("DroPE", "alibi at 2x above rope at 2x") not in said  # 5.2 and 0 of 100
    assert set(found["verdict"]) == {"not separable"}


def two_more(sweep):
    for seed in range(3):
        for encoding in ("alibi", "none"):
            make_run(sweep, encoding, seed)
    return sweep


# --------------------------------------------------------------------------------------------------------------- shown


def test_the_report_has_a_table_of_its_own_for_what_is_found(tmp_path, capsys):
    two(tmp_path)
    comparison = read_comparison(tmp_path)
    grid = finds({("alibi", "none"): 2.0, ("rope", "none"): 1.0})
    rows = asked(tmp_path, ALIBI_FINDS, grid)
    text = markdown(comparison, rows)
    assert "## Published orderings of retrieval" in text and "## Published orderings\n" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| alibi at 4x above rope at 4x")]
    assert "| +60.0 |" in line and "nats" in line and "| agree |" in line
    assert "alibi at 4x above rope at 4x" in page(comparison, rows)
    print_statements(rows)
    shown = capsys.readouterr().out
    assert "+60.0 points" in shown and "nats" in shown and "1 agree" in shown
