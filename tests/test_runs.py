"""Which runs a sweep's folder has, which take part, what they are called, and whether they may be compared."""

import shutil

import pandas as pd
import pytest

from conf.schema import BLOCK_OPTIONS
from eval.compare.comparison import STAGE, read_comparison, write_comparison
from eval.compare.page import _facts as page_facts
from eval.record.files import read_json, write_json
from tests.synthetic import CONTEXT, make_run, make_stage


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


def test_a_label_says_which_encodings_stand_inside_and_not_what_follows_from_that(tmp_path):
    def make(inner, seed=0, **settings):
        inside = {"name": inner, "_target_": f"model.encodings.{inner}.X", **settings}
        make_run(tmp_path, "layers", seed, config={"encoding": {"name": "layers", "parts": {"global": inside}}})

    for base in (100.0, 10000.0):
        make("rope", base=base)
    for seed in (0, 1):
        make("none", seed)
    labels = read_comparison(tmp_path).labels
    rope = [f"layers (parts.global.base={base}, parts.global=rope)" for base in (100.0, 10000.0)]
    assert labels == [*rope, "layers (parts.global=none)"]


def test_options_of_the_blocks_are_compared_and_said_where_runs_differ_in_them(tmp_path):
    for name in ("rope", "alibi"):
        for options in ({}, {"model__sink": True}, {"model__sink": True, "model__output_gate": "head"}):
            make_run(tmp_path, name, config={**options, "model__qk_norm": True})
    comparison = read_comparison(tmp_path)
    each = ["", " (sink)", " (sink, output_gate=head)"]
    assert comparison.objection is None
    assert comparison.labels == [name + options for name in ("alibi", "rope") for options in each]
    assert "qk_norm" in page_facts(comparison)["model"] and "sink" not in page_facts(comparison)["model"]


def test_a_run_from_before_there_were_options_is_one_without(tmp_path):
    make_run(tmp_path, "rope")
    old = make_run(tmp_path, "rope", seed=1)
    config = read_json(old.path / "config.json")
    config["model"] = {key: value for key, value in config["model"].items() if key not in BLOCK_OPTIONS}
    write_json(old.path / "config.json", config)
    comparison = read_comparison(tmp_path)
    assert comparison.labels == ["rope"] and comparison.objection is None and not comparison.left_out


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


# ------------------------------------------------------------------------------------------------------ second stages


def steady(loss):
    return lambda length: loss


def test_an_arm_is_called_by_its_extension_and_context_and_its_parent_keeps_its_name(tmp_path):
    for seed in (0, 1):
        parent = make_run(tmp_path, "rope", seed, steady(5.0))
        make_stage(parent, steady(4.9))
        make_stage(parent, steady(4.8), context=4 * CONTEXT)
        make_stage(parent, steady(4.7), context=4 * CONTEXT, extension="yarn")
        make_run(tmp_path, "rope", seed, steady(4.6), config={"context": 4 * CONTEXT, "training__batch_size": 8})
    comparison = read_comparison(tmp_path)
    assert comparison.objection is None
    assert comparison.encodings == ["rope", "rope+yarn@128", "rope@128", "rope@32"]
    assert comparison.labels[4:] == ["rope (context=128)"]
    assert comparison.context == CONTEXT
    assert {run.label: run.control for run in comparison.runs if run.control} == {
        "rope (context=128)": "trained on a context of 128 tokens"
    }


def test_of_stages_of_several_lengths_each_says_its_own_even_where_no_other_is_like_it(tmp_path):
    parent = make_run(tmp_path, "rope")
    for extension, tokens in (("yarn", 600), ("yarn", 6_000), ("pi", 600)):
        make_stage(parent, steady(4.7), context=128, extension=extension, tokens=tokens)
    assert read_comparison(tmp_path).encodings == [
        "rope",
        "rope+pi@128 (training.tokens=600)",
        "rope+yarn@128 (training.tokens=600)",
        "rope+yarn@128 (training.tokens=6000)",
    ]


def test_arms_differ_in_their_label_by_what_was_set_and_not_by_what_follows_from_their_parents(tmp_path):
    for seed in (0, 1):
        for base in (1e4, 5e5):
            parent = make_run(tmp_path, "rope", seed, config={"encoding__base": base})
            make_stage(parent, steady(4.7), context=128, extension="longrope")
        make_stage(parent, steady(4.7), context=128, extension="yarn", config={"training__lr": 1e-3})
        make_stage(parent, steady(4.7), context=128, extension="yarn", config={"training__lr": 2e-3})
    assert read_comparison(tmp_path).encodings == [
        "rope (base=10000.0)",
        "rope (base=500000.0)",
        "rope+longrope@128 (base=10000.0)",
        "rope+longrope@128 (base=500000.0)",
        "rope+yarn@128 (training.lr=0.001)",
        "rope+yarn@128 (training.lr=0.002)",
    ]


def test_a_stage_of_a_stage_keeps_the_extension_that_it_inherits_and_the_first_context(tmp_path):
    parent = make_run(tmp_path, "rope")
    child = make_stage(parent, steady(4.7), context=64, extension="yarn")
    make_stage(child, steady(4.6), context=128)
    make_stage(child, steady(4.6), context=128, extension="pi")
    comparison = read_comparison(tmp_path)
    assert comparison.encodings == ["rope", "rope+yarn+pi@128", "rope+yarn@128", "rope+yarn@64"]
    assert comparison.context == CONTEXT and comparison.objection is None
    row = comparison.rows[comparison.rows["label"] == "rope+yarn+pi@128"].iloc[0]
    assert row["contexts"] == "32>64>128" and row["trained_extension"] == "yarn+pi"
    assert (row["parent"], row["tokens_before"], row["stage_tokens"]) == (child.name, 66_000, 6_000)


def test_stages_alone_are_compared_at_the_context_of_their_first_run(tmp_path):
    for name in ("elsewhere", "here"):
        (tmp_path / name).mkdir()
    parent = make_run(tmp_path / "elsewhere", "rope")
    for extension in ("yarn", None):
        stage = make_stage(parent, steady(4.7), context=128, extension=extension)
        shutil.move(stage.path, tmp_path / "here" / stage.name)
    comparison = read_comparison(tmp_path / "here")
    assert comparison.context == CONTEXT and comparison.encodings == ["rope+yarn@128", "rope@128"]


def test_stages_stand_beside_their_parents_and_a_ceiling_of_as_many_tokens_in_all(tmp_path):
    long = {"context": 128, "training__batch_size": 8}
    parent = make_run(tmp_path, "rope")
    make_stage(parent, steady(4.7), context=128, tokens=6_000)
    make_run(tmp_path, "rope", 0, steady(4.6), config={**long, "training__tokens": 66_500})
    odd = make_run(tmp_path, "rope", 1, steady(4.6), config={**long, "training__tokens": 80_000})
    comparison = read_comparison(tmp_path)
    assert comparison.objection is None
    assert list(comparison.apart) == [odd.name] and "training.tokens" in comparison.apart[odd.name]


@pytest.mark.parametrize(
    ("config", "results", "named"),
    [
        ({"model__dim": 64}, {}, "model.dim ("),
        ({"training__batch_size": 16}, {}, "tokens a step ("),
        ({}, {"corpus_hash": "another"}, "corpus_hash ("),
        ({}, {"tokenizer_hash": "another"}, "tokenizer_hash ("),
        ({}, {"training": {"precision": "bf16-mixed"}}, "training precision ("),
    ],
)
def test_a_stage_that_differs_in_more_than_its_length_is_not_compared(tmp_path, config, results, named):
    parent = make_run(tmp_path, "rope")
    make_stage(parent, steady(4.7), context=128)
    odd = make_stage(parent, steady(4.7), context=128, extension="yarn", config=config, results=results)
    objection = read_comparison(tmp_path).objection
    assert named in objection and odd.name in objection


def test_runs_from_scratch_of_other_lengths_are_refused_beside_stages_too(tmp_path):
    parent = make_run(tmp_path, "rope")
    make_stage(parent, steady(4.7), context=128)
    odd = make_run(tmp_path, "alibi", config={"training__tokens": 30_000})
    objection = read_comparison(tmp_path).objection
    assert "training.tokens (" in objection and odd.name in objection


def test_the_files_have_columns_of_stages_only_where_there_are_stages(tmp_path):
    parents = [make_run(tmp_path, "rope", seed) for seed in (0, 1)]
    make_run(tmp_path, "alibi", floor=True)
    write_comparison(read_comparison(tmp_path))
    for name in ("comparison.csv", "summary.csv"):
        assert not {*STAGE} & {*pd.read_csv(tmp_path / name)}
    for parent in parents:
        make_stage(parent, steady(4.7), context=128, extension="yarn", floor=True)
    write_comparison(read_comparison(tmp_path))
    for name, found in (("comparison.csv", parents[0].name), ("summary.csv", ", ".join(run.name for run in parents))):
        table = pd.read_csv(tmp_path / name)
        floor = table["control"].notna() if name == "summary.csv" else table["label"] != "rope+yarn@128"
        staged = (table["label"] == "rope+yarn@128") & ~floor
        assert table.loc[~staged, STAGE].isna().all(axis=None)
        (row,) = table.loc[staged, STAGE].drop_duplicates("contexts").to_dict("records")
        assert row == dict(zip(STAGE, (found, 60_000, 6_000, "32>128", "yarn"), strict=True))
