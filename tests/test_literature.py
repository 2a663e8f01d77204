"""The literature check, on sweeps made of files whose true order is known.

python -m pytest tests/test_literature.py
"""

import csv
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from eval.compare.comparison import read_comparison
from eval.compare.literature import PROTOCOLS, apart, check, find_statements, match_ratios, read_published
from eval.measure.rows import Measured, row_key
from tests.synthetic import CONTEXT, make_run, make_stage

ROOT = Path(__file__).parent.parent


def figure(encoding, ratio, perplexity, sd=math.nan, protocol="non-overlapping", study="a study", stage=math.nan):
    """A row of what `read_published` returns."""
    published = {"published_protocol": protocol, "published_ratio": ratio, "published": perplexity, "sd": sd}
    published |= {"published_stage": stage}
    ours = {"protocol": PROTOCOLS[protocol.split()[0]], "encoding": encoding}
    return {"study": study, "corpus": "a corpus", "evidence": "paper", **published, **ours}


ALIBI_WINS = [figure("alibi", 4.0, 20.0), figure("rope", 4.0, 30.0)]


def checked(sweep, published):
    comparison = read_comparison(sweep)
    assert comparison.objection is None
    return check(comparison, pd.DataFrame(published)).to_dict("records")


def two_encodings(sweep, alibi, rope, seeds=3, **more):
    for seed in range(seeds):
        make_run(sweep, "alibi", seed, alibi, **more)
        make_run(sweep, "rope", seed, rope, **more)


def test_the_verdict_goes_by_the_sweeps_own_significant_order(tmp_path):
    better, worse = (lambda length: 5.0), (lambda length: 5.5)
    for name, alibi, rope in (("agree", better, worse), ("disagree", worse, better), ("not separable", better, better)):
        two_encodings(tmp_path / name, alibi, rope)
        (row,) = checked(tmp_path / name, ALIBI_WINS)
        assert row["verdict"] == name, row
        assert (row["lower"], row["higher"], row["ratio_lower"], row["kind"]) == ("alibi", "rope", 4.0, "encodings")
        assert row["percent_low"] <= row["percent"] <= row["percent_high"] and row["seeds"] == 3


def test_both_sides_numbers_stand_in_the_row_and_are_each_its_own(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5, noise=1e-6)
    (row,) = checked(tmp_path, ALIBI_WINS)
    assert row["published_percent"] == pytest.approx(50)
    assert row["percent"] == pytest.approx(100 * (math.exp(0.5) - 1), rel=1e-3)
    assert (row["published_lower"], row["published_higher"]) == (20.0, 30.0)
    assert row["perplexity_lower"] == pytest.approx(math.exp(5.0), rel=1e-3)


def test_an_encoding_that_degrades_here_and_there_agrees_with_itself(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.0 + 0.3 * (length > CONTEXT))
    published = [figure("rope", 1.0, 20.0), figure("rope", 4.0, 80.0), figure("alibi", 1.0, 20.0)]
    (row,) = checked(tmp_path, published)
    assert (row["kind"], row["lower"], row["ratio_lower"], row["ratio_higher"]) == ("lengths", "rope", 1.0, 4.0)
    assert row["verdict"] == "agree" and row["statement"] == "rope at 1x below rope at 4x"


def test_lengths_that_scored_other_tokens_are_not_compared(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "rope", seed, lambda length: 5.0, lengths=[CONTEXT])
        folder = make_run(tmp_path, "rope", seed + 10, lambda length: 5.0)
        row = next(row for row in folder.results["rows"] if row["context_length"] == 4 * CONTEXT)
        key = row_key(row)
        losses = folder.losses
        table = losses[key + "/windows"].copy()
        table[-1, 2] -= 1
        shorter = {key: losses[key][:-1], key + "/windows": table}
        short = {**row, "tokens": row["tokens"] - 1, "nats": float(shorter[key].astype(float).mean())}
        folder.add(Measured(rows=[{**short, "perplexity": math.exp(short["nats"])}], losses=shorter))
    rows = checked(
        tmp_path,
        [
            figure("rope", 1.0, 20.0, protocol="last 256 tokens"),
            figure("rope", 4.0, 80.0, protocol="last 256 tokens"),
        ],
    )
    assert [row["verdict"] for row in rows] == ["not separable"]
    assert "same tokens" in rows[0]["reason"]


def test_an_extension_is_known_by_its_name_behind_a_plus(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "rope", seed, lambda length: 5.5, extensions={"yarn": -0.4, "pi": 0.0})
    published = [figure("rope+yarn", 2.0, 10.0), figure("rope+pi", 2.0, 12.0), figure("rope+ntk", 2.0, 14.0)]
    (row,) = checked(tmp_path, published)
    assert (row["lower"], row["higher"], row["verdict"]) == ("rope+yarn", "rope+pi", "agree")


def test_protocols_are_compared_with_their_like_alone(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5, protocols=["fixed_targets"])
    assert checked(tmp_path, ALIBI_WINS) == []
    last = [
        figure("alibi", 4.0, 20.0, protocol="last 256 tokens"),
        figure("rope", 4.0, 30.0, protocol="last 256 tokens"),
    ]
    assert [row["protocol"] for row in checked(tmp_path, last)] == ["fixed_targets"]


def test_figures_of_different_studies_are_never_compared(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5)
    assert checked(tmp_path, [figure("alibi", 4.0, 20.0), figure("rope", 4.0, 30.0, study="another")]) == []


def test_controls_take_no_part(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5)
    comparison = read_comparison(tmp_path)
    control = comparison.summary["control"].mask(comparison.summary["label"] == "alibi", "a ceiling")
    published = pd.DataFrame(ALIBI_WINS)
    assert len(find_statements(comparison.summary, published))
    assert find_statements(comparison.summary.assign(control=control), published).empty


def test_seeds_that_only_one_side_has_are_left_out_and_none_in_common_is_said(tmp_path):
    make_run(tmp_path, "alibi", 0, lambda length: 5.0)
    make_run(tmp_path, "rope", 1, lambda length: 5.5)
    (row,) = checked(tmp_path, ALIBI_WINS)
    assert (row["verdict"], row["reason"], row["seeds"]) == ("not separable", "no seed in common", 0)


def test_holms_correction_is_over_every_question_once(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.03)
    (alone,) = checked(tmp_path, ALIBI_WINS)
    twice = checked(
        tmp_path, ALIBI_WINS + [figure(f["encoding"], 4.0, f["published"], study="again") for f in ALIBI_WINS]
    )
    assert [row["p_holm"] for row in twice] == [alone["p_holm"]] * 2  # the same question, asked by two studies
    more = checked(tmp_path, [*ALIBI_WINS, figure("alibi", 2.0, 20.0), figure("rope", 2.0, 30.0)])
    assert any(row["p_holm"] > alone["p_holm"] for row in more if row["ratio_lower"] == 4.0)


def test_a_study_supports_only_what_it_can_tell_apart():
    nothing = math.nan
    lower = pd.Series([20.0, 20.0, 22.2, 23.9, 22.5])
    higher = pd.Series([20.3, 20.5, 22.5, 24.6, 62.4])
    sds = pd.Series([nothing, nothing, 0.4, 0.6, 0.2]), pd.Series([nothing, nothing, 0.5, 0.6, 6.1])
    within_margin, beyond_it, within_sds, three_percent_within_sds, beyond_sds = apart(lower, higher, *sds)
    assert not within_margin and beyond_it  # of 2 %
    assert not within_sds and not three_percent_within_sds and beyond_sds


def test_multiples_of_the_context_match_their_nearest_within_a_quarter():
    alibis = [1.0, 712 / 512, 1012 / 512, 1512 / 512, 2512 / 512, 5512 / 512]
    assert match_ratios(alibis, [1, 2, 4, 8]) == {1.0: 1, 1012 / 512: 2, 2512 / 512: 4}
    assert match_ratios([1.17], [1.0]) == {}  # beyond the training context there, within it here
    assert match_ratios([1.0], []) == {}


def stages(sweep, tokens=(6_000,), seeds=3):
    """YaRN before none before PI at the last context of 4x, and all alike at the parent's; the parent is poor there."""
    for seed in range(seeds):
        parent = make_run(
            sweep, "rope", seed, lambda length: 5.0 + (length > CONTEXT), extensions={"yarn": 0, "pi": -0.5}
        )
        for extension, loss in (("yarn", 4.0), (None, 4.4), ("pi", 4.8)):
            for more in tokens:
                nats = lambda length, loss=loss: loss if length > CONTEXT else 5.0  # noqa: E731
                make_stage(parent, nats, context=4 * CONTEXT, extension=extension, tokens=more)
    return sweep


YARN_WINS = [figure("rope+yarn", 1.0, 5.0, stage=8192), figure("rope", 1.0, 6.0, stage=8192)]


def test_a_stage_is_asked_of_stages_by_multiples_of_its_own_context(tmp_path):
    published = [*YARN_WINS, figure("rope+pi", 0.25, 7.0, stage=8192), figure("rope", 0.25, 6.0, stage=8192)]
    rows = checked(stages(tmp_path), published)
    found = {row["statement"]: row for row in rows}
    wins = found["rope+yarn@128 at 1x of 128 below rope@128 at 1x of 128"]
    assert (wins["verdict"], wins["seeds"], wins["published_stage"]) == ("agree", 3, 8192)
    assert wins["percent"] == pytest.approx(100 * (math.exp(0.4) - 1), abs=5)
    assert found["rope@128 at 0.25x of 128 below rope+pi@128 at 0.25x of 128"]["verdict"] == "not separable"
    assert len(found) == 2


def test_test_time_figures_are_asked_of_first_runs_alone_and_stages_of_stages_alone(tmp_path):
    stages(tmp_path)
    first = [figure("rope+pi", 4.0, 10.0), figure("rope+yarn", 4.0, 12.0)]
    (row,) = checked(tmp_path, first)
    assert (row["lower"], row["higher"], row["ratio_lower"]) == ("rope+pi", "rope+yarn", 4.0)
    assert row["perplexity_lower"] == pytest.approx(math.exp(5.5), rel=0.05)
    mixed = [figure("rope+yarn", 1.0, 5.0, stage=8192), figure("rope", 1.0, 6.0)]
    assert checked(tmp_path, mixed) == []


def test_first_runs_are_not_asked_what_a_study_found_after_a_stage(tmp_path):
    for seed in range(3):
        make_run(tmp_path, "rope", seed, lambda length: 5.5, extensions={"yarn": -0.4, "pi": 0.0})
    assert checked(tmp_path, [figure("rope+yarn", 1.0, 5.0, stage=8192), figure("rope+pi", 1.0, 6.0, stage=8192)]) == []


def test_of_stages_of_several_lengths_the_longest_are_asked(tmp_path):
    (row,) = checked(stages(tmp_path, (600, 6_000)), YARN_WINS)
    assert row["lower"] == "rope+yarn@128 (training.tokens=6000)"
    assert row["higher"] == "rope@128 (training.tokens=6000)"


def test_what_a_stage_is_known_for_is_among_the_statements(tmp_path):
    for seed in range(2):
        parent = make_run(tmp_path, "rope", seed, protocols=["sliding"])
        for extension, loss in (("yarn", 4.0), (None, 4.4), ("pi", 4.2)):
            nats = lambda length, loss=loss: loss  # noqa: E731
            make_stage(parent, nats, context=4 * CONTEXT, extension=extension, protocols=["sliding"])
    found = {
        (row["study"].split(",")[0], row["statement"]) for row in check(read_comparison(tmp_path)).to_dict("records")
    }
    assert ("PI", "rope+pi@128 at 1x of 128 below rope@128 at 1x of 128") in found
    assert ("TAPA", "rope+yarn@128 at 1x of 128 below rope@128 at 1x of 128") in found
    assert ("TAPA", "rope@128 at 1x of 128 below rope@128 at 2x of 128") in found
    assert not {study for study, _ in found} & {"ALiBi", "KERPLE"}


def test_the_published_figures_are_read_whole_and_every_protocol_is_known():
    figures = read_published()
    with (ROOT / "eval" / "compare" / "published.csv").open() as file:
        assert len(figures) == sum(1 for _ in csv.reader(file)) - 1
    assert set(figures["protocol"]) == set(PROTOCOLS.values())
    assert (figures["published"] > 1).all() and (figures["published_ratio"] > 0).all()
    assert set(figures["study"][figures["published_stage"].notna()].str.split(",").str[0]) == {"YaRN", "PI", "TAPA"}
    assert not figures.duplicated(
        ["study", "corpus", "encoding", "published_ratio", "published_stage", "protocol"]
    ).any()


def test_what_the_papers_are_known_for_is_among_their_statements(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5)
    comparison = read_comparison(tmp_path)
    rows = check(comparison)
    found = set(zip(rows["study"].str.split(",").str[0], rows["statement"], strict=True))
    assert ("KERPLE", "alibi at 4x below rope at 4x") in found
    assert ("KERPLE", "rope at 1x below rope at 2x") in found
    assert ("ALiBi", "alibi at 2x below alibi at 1x") in found
    assert ("KERPLE", "alibi at 1x below rope at 1x") not in found  # 23.9 ± 0.6 and 24.2 ± 0.6


def test_the_script_prints_each_study_and_writes_its_table(tmp_path):
    two_encodings(tmp_path, lambda length: 5.0, lambda length: 5.5)
    command = [sys.executable, "-m", "scripts.literature"]
    done = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "KERPLE" in done.stdout and "not separable" in done.stdout
    with (tmp_path / "literature.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["verdict"] for row in rows} <= {"agree", "disagree", "not separable"} and rows
    lacking = subprocess.run([*command, str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True)
    assert lacking.returncode == 1 and "holds no run" in lacking.stderr and "Traceback" not in lacking.stderr
