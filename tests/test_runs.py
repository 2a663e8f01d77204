"""Which runs a sweep's folder has, which take part, what they are called, and whether they may be compared."""

import shutil

import pytest

from eval.compare.comparison import read_comparison
from eval.record.files import read_json, write_json
from tests.synthetic import make_run


def test_two_runs_of_one_encoding_and_seed_are_refused(tmp_path):
    first = make_run(tmp_path, "rope")
    shutil.copytree(first.path, tmp_path / "again")
    objection = read_comparison(tmp_path).objection
    assert "again" in objection and first.name in objection


def test_a_label_says_in_what_runs_of_one_encoding_differ(tmp_path):
    for base in (100.0, 10000.0):
        for seed in (0, 1):
            make_run(tmp_path, "rope", seed, config={"encoding__base": base})
    make_run(tmp_path, "none")
    assert read_comparison(tmp_path).labels == ["none", "rope (base=100.0)", "rope (base=10000.0)"]


def damage_losses(folder):
    (folder.path / "losses.npz").write_bytes(b"cut")


def lose_losses(folder):
    (folder.path / "losses.npz").unlink()


def damage_results(folder):
    text = (folder.path / "results.json").read_text()
    (folder.path / "results.json").write_text(text[: len(text) // 2])


def damage_config(folder):
    (folder.path / "config.json").write_text("{")


def lose_config(folder):
    (folder.path / "config.json").unlink()


@pytest.mark.parametrize("damage", [damage_losses, lose_losses, damage_results, damage_config, lose_config])
def test_a_damaged_run_does_not_hide_the_others(tmp_path, damage):
    make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi")
    broken = make_run(tmp_path, "t5")
    damage(broken)
    comparison = read_comparison(tmp_path)
    (left_out,) = comparison.left_out
    assert left_out.name == broken.name
    assert left_out.state == "damaged"
    assert str(broken.path) in left_out.problem
    assert set(comparison.summary["label"]) == {"rope", "alibi"}


@pytest.mark.filterwarnings("ignore:.*status.json is damaged")
def test_a_run_whose_status_is_damaged_counts_as_missing(tmp_path):
    make_run(tmp_path, "rope")
    (make_run(tmp_path, "alibi").path / "status.json").write_bytes(b"\xff\xfe\x00")
    comparison = read_comparison(tmp_path)
    assert [(run.label, run.state) for run in comparison.left_out] == [("alibi", "missing")]
    assert comparison.labels == ["rope"]


def test_runs_that_did_not_finish_are_left_out_with_their_reasons(tmp_path):
    make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi", state="failed", error="loss is not finite at step 7")
    make_run(tmp_path, "none", state="running")
    make_run(tmp_path, "t5", state="interrupted", error="stopped by SIGTERM")
    comparison = read_comparison(tmp_path, jobs=["learned-s0-abcdef"])
    problems = {run.label: (run.state, run.problem) for run in comparison.left_out}
    assert problems["alibi"] == ("failed", "loss is not finite at step 7")
    assert problems["t5"] == ("interrupted", "stopped by SIGTERM")
    assert problems["none"][0] == "running" and "run the same command again" in problems["none"][1]
    assert problems["learned-s0-abcdef"][0] == "missing"
    assert comparison.labels == ["rope"]


def test_a_folder_without_runs_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}.*holds no run"):
        read_comparison(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"results": {"corpus_hash": "another"}}, "corpus_hash ("),
        ({"results": {"tokenizer_hash": "another"}}, "tokenizer_hash ("),
        ({"config": {"training__tokens": 1000}}, "training.tokens ("),
        ({"config": {"training__batch_size": 8}}, "tokens a step ("),
        ({"config": {"model__dim": 64}}, "model.dim ("),
        ({"config": {"eval__targets": 8}, "targets_id": "11111111"}, "settings eval.targets"),
    ],
)
def test_runs_that_are_not_comparable_are_not_compared(tmp_path, changes, named):
    for name in ("rope", "none"):
        make_run(tmp_path, name)
    odd = make_run(tmp_path, "alibi", **changes)
    comparison = read_comparison(tmp_path)
    assert named in comparison.objection
    assert odd.name in comparison.objection or "targets" in named
    assert comparison.summary.empty and comparison.positions.empty
    assert len(comparison.rows)


def test_a_run_that_failed_does_not_make_others_incomparable(tmp_path):
    make_run(tmp_path, "rope")
    make_run(tmp_path, "alibi", state="failed", error="no", config={"training__tokens": 7})
    assert read_comparison(tmp_path).objection is None


def test_two_ceilings_are_told_apart_by_their_settings(tmp_path):
    make_run(tmp_path, "rope")
    for base in (1e4, 5e5):
        make_run(tmp_path, "rope", config={"context": 128, "training__batch_size": 8, "encoding__base": base})
    comparison = read_comparison(tmp_path)
    assert comparison.objection is None
    assert comparison.labels == ["rope", "rope (context=128, base=10000.0)", "rope (context=128, base=500000.0)"]


def test_tasks_that_were_scored_otherwise_are_not_compared(tmp_path):
    task = {"task": "copy", "extension": "none", "length": 8, "status": "ok", "examples": 9, "precision": "32"}
    task |= {"context_length": 20, "length_ratio": 1.0, "level": 0.95}
    task |= dict.fromkeys(("exact_match", "low", "high", "token_accuracy"), 0.5)
    for name, split in (("rope", "test"), ("alibi", "validation")):
        make_run(tmp_path, name, results={"tasks": [{**task, "split": split}]})
    assert "copy at 8" in read_comparison(tmp_path).objection


def test_a_run_that_failed_by_its_settings_says_by_what_it_failed(tmp_path):
    make_run(tmp_path, "rope")
    failed = make_run(tmp_path, "alibi", state="failed", error="training.tokens=0: must be at least 1")
    config = read_json(failed.path / "config.json")
    config["training"]["tokens"] = 0
    write_json(failed.path / "config.json", config)
    (left_out,) = read_comparison(tmp_path).left_out
    assert (left_out.state, left_out.problem) == ("failed", "training.tokens=0: must be at least 1")
