"""The program as a user runs it: single runs, sweeps, resuming, bad input. Real processes, the nano model.

python -m pytest tests/test_train.py
"""

import json
import re
import shutil
import subprocess
import sys
from unittest.mock import Mock

import pytest

from conf.typed import plain
from eval.measure.rows import row_key
from eval.measure.scoring import Scorer
from eval.record.folder import RunFolder
from tests.conftest import ROOT
from tests.documented import files, stray_files, table, wrong_cells, wrong_fields
from train import train

SMOKE = ["experiment=smoke", "training.tokens=4096", "eval.windows=12", "eval.targets=8"]


@pytest.fixture(scope="session")
def score(program):
    """Runs `python -m eval` with arguments to its end."""
    return lambda *arguments: program(*arguments, runs=None, command=("-m", "eval"))


@pytest.fixture(scope="session")
def finished(program, tmp_path_factory):
    """A finished smoke run of ALiBi: its folder and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    done = program(*SMOKE, "encoding=alibi", runs=runs)
    assert done.returncode == 0, done.stderr
    return next(runs.glob("alibi-s0-*")), done.stdout


def test_a_run_ends_with_a_table_and_its_report(finished):
    folder, printed = finished
    assert printed.endswith(f"\nreport: {folder / 'report.html'}\n") and (folder / "report.html").exists()
    for context in ("32 (1x)", "64 (2x)", "128 (4x)", "256 (8x)"):
        assert context in printed


def test_results_hold_a_row_for_every_protocol_and_length(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    found = {(row["protocol"], row["context_length"]) for row in results["rows"]}
    assert found == {(p, n) for p in ("fixed_targets", "non_overlapping") for n in (32, 64, 128, 256)}
    for name in ("schema", "encoding", "seed", "config_hash", "commit", "machine", "parameters", "training"):
        assert name in results


def test_every_file_field_and_column_is_documented(finished):
    folder = finished[0]
    assert stray_files(folder, files("A run's folder")) == []
    for name in ("results.json", "status.json"):
        assert wrong_fields(json.loads((folder / name).read_text()), name) == []
    for name in ("curve.csv", "comparison.csv", "summary.csv"):
        assert wrong_cells(folder / name, name) == []
    written = {*RunFolder(folder).curve}
    assert table("curve.csv").keys() - written == {"context"}  # of one that grows


def test_stored_losses_add_up_to_the_rows(finished):
    folder = RunFolder(finished[0])
    for row in folder.results["rows"]:
        losses = folder.losses[row_key(row)].astype("float64")
        assert len(losses) == row["tokens"]
        assert losses.mean() == pytest.approx(row["nats"], rel=1e-6)


def test_the_same_command_does_not_train_again(program, finished):
    again = program(*SMOKE, "encoding=alibi", runs=finished[0].parent)
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"{finished[0]} is finished already; report: {finished[0] / 'report.html'}\n"


WINDOW = {  # ways to say it
    "as the extension": ["extension=window", "extension.window=8"],
    "as one of several": [
        "eval.extensions=[alibi_interpolation,window]",
        "+eval.extension_settings.window.window=8",
    ],
}


@pytest.mark.parametrize("way", ["as the extension", pytest.param("as one of several", marks=pytest.mark.slow)])
def test_settings_of_extensions_are_given_and_stand_in_the_rows(score, finished, tmp_path, way):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    done = score(f"run={folder}", "eval.lengths=[2]", *WINDOW[way])
    assert done.returncode == 0, done.stderr
    rows = json.loads((folder / "results.json").read_text())["rows"]
    assert {row["extension_settings"] for row in rows if row["extension"] == "window"} == {"window=8, sinks=4"}
    interpolated = [row for row in rows if row["extension"] == "alibi_interpolation"]
    assert bool(interpolated) == (way == "as one of several")
    assert not any("extension_settings" in row for row in interpolated)


@pytest.mark.slow
def test_several_runs_and_extensions_are_scored_one_after_the_other(score, finished, tmp_path):
    folders = [shutil.copytree(finished[0], tmp_path / name) for name in ("a", "b")]
    runs = f"run={folders[0]},{tmp_path / 'nowhere'},{folders[1]}"
    done = score(runs, "extension=alibi_interpolation,window", "eval.lengths=[2]", "-m")
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert done.stderr.count("nowhere is not the folder of a run") == 2  # an extension each, and the others go on
    for folder in folders:
        rows = json.loads((folder / "results.json").read_text())["rows"]
        assert {row["extension"] for row in rows} == {"none", "alibi_interpolation", "window"}
        assert RunFolder(folder).finished


@pytest.mark.slow
def test_scoring_changes_what_is_given_and_keeps_the_rest_as_the_run_was_scored(score, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    done = score(f"run={folder}", "eval.targets=4")
    assert done.returncode == 0, done.stderr
    rows = [row for row in RunFolder(folder).results["rows"] if "control" not in row]
    fixed = [row for row in rows if row["protocol"] == "fixed_targets"]
    assert {row["windows"] for row in fixed} == {12} and {row["tokens"] for row in fixed} == {4 * 12}
    before = [row for row in RunFolder(finished[0]).results["rows"] if "control" not in row]
    after, before = ([row["nats"] for row in of if row["protocol"] != "fixed_targets"] for of in (rows, before))
    assert after == before


@pytest.mark.slow
def test_a_run_is_scored_from_a_cache_elsewhere(score, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    done = score(f"run={folder}", f"cache_dir={tmp_path / 'cache'}", "eval.lengths=[1]")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "cache").glob("*/tokenizer.json"))


def test_a_command_to_score_that_names_no_run_is_answered_with_how(score, tmp_path):
    for arguments, expected in [
        ([], "python -m eval run=DIR"),
        ([f"run={tmp_path}"], "is not the folder of a run or a sweep"),
        (["run=x", "extension=yarm"], "yarn"),
        (["run=x", "eval.lenghts=[1]"], "eval.lenghts"),
    ]:
        done = score(*arguments)
        assert done.returncode == 1 and expected in done.stderr and "Traceback" not in done.stderr


def test_a_finished_run_is_scored_again_at_other_lengths(score, finished):
    done = score(f"run={finished[0]}", "eval.lengths=[16]")
    assert done.returncode == 0, done.stderr
    assert "512 (16x)" in done.stdout
    rows = json.loads((finished[0] / "results.json").read_text())["rows"]
    fixed = [row for row in rows if row["protocol"] == "fixed_targets" and "control" not in row]
    assert [row["context_length"] for row in sorted(fixed, key=lambda r: r["context_length"])] == [
        32,
        64,
        128,
        256,
        512,
    ]
    assert len({row["targets_id"] for row in fixed}) == 1  # all lengths score the same targets


def test_a_split_that_is_not_held_out_is_refused(score, finished):
    for split in ("train", "valid"):
        done = score(f"run={finished[0]}", f"eval.split={split}")
        assert done.returncode == 1 and "must be validation or test" in done.stderr and "Traceback" not in done.stderr


def test_a_run_whose_scoring_failed_is_rescued_by_scoring_it_again(score, composed, tmp_path, monkeypatch):
    settings = composed(*SMOKE, "encoding=none")
    monkeypatch.setattr("eval.measure.scoring.Scorer.score", Mock(side_effect=MemoryError("out of memory")))
    with pytest.raises(MemoryError):
        train(settings)
    monkeypatch.undo()
    folder = RunFolder(tmp_path / settings.run_id)
    assert folder.status["state"] == "failed"
    assert score(f"run={folder.path}", "eval.lengths=[1]").returncode == 0
    assert folder.finished and folder.results["rows"]


def test_a_name_given_twice_is_refused(composed, tmp_path):
    given = [*SMOKE, "run_id=mine"]
    train(composed(*given, "encoding=none"))
    with pytest.raises(ValueError, match="a run with other settings"):
        train(composed(*given, "encoding=alibi"))
    assert RunFolder(tmp_path / "mine").results["encoding"] == "none"


@pytest.mark.slow
def test_a_name_given_twice_in_a_sweep_is_refused_and_the_first_run_is_left_as_it_is(program, composed, tmp_path):
    settings = composed(*SMOKE, "run_id=mine", "sweep=demo", "encoding=none")
    train(settings)
    folder = RunFolder.of(settings)
    files = {path: path.read_bytes() for path in folder.path.glob("*.json")}
    assert {path.name for path in files} == {"config.json", "status.json", "results.json", "tokenizer.json"}
    done = program("-m", *SMOKE, "run_id=mine", "sweep=demo", "encoding=alibi,rope", runs=tmp_path)
    assert done.returncode == 3 and done.stderr.count("a run with other settings") == 2
    assert folder.finished and all(path.read_bytes() == content for path, content in files.items())
    beside = [RunFolder(path) for path in folder.path.parent.glob("mine-*")]
    assert [each.status["state"] for each in beside] == ["failed", "failed"]
    assert {each.settings.encoding["name"] for each in beside} == {"alibi", "rope"}


def test_a_failure_is_not_recorded_where_another_process_is_at_work(composed, tmp_path):
    folder = RunFolder(tmp_path / "mine")
    with folder.hold():
        noted = folder.note_failure(plain(composed(*SMOKE)), "no", "")
    assert noted.path != folder.path and noted.status["error"] == "no" and not (folder.path / "status.json").exists()


@pytest.mark.parametrize(("every", "at"), [(0.25, [15, 30, 45, 59]), (1.0, [59]), (0.5, [30, 59])])
def test_the_last_step_is_always_validated(composed, every, at):
    run = composed("experiment=smoke", f"training.validate_every={every}", "training.checkpoint_every=1")
    train(run)
    folder = RunFolder.of(run)
    validated = folder.curve.dropna(subset="val_loss")
    assert validated["step"].tolist() == at
    assert folder.results["training"]["val_loss"] == validated["val_loss"].iloc[-1]


def test_a_run_does_not_go_on_with_another_text(composed, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"to be or not to be {n}\n" for n in range(3000)))
    settings = composed(*SMOKE, "data=text", f"data.path={text}", "tokenizer=byte")
    monkeypatch.setattr("eval.measure.scoring.Scorer.score", Mock(side_effect=MemoryError("out of memory")))
    with pytest.raises(MemoryError):
        train(settings)
    monkeypatch.undo()
    text.write_text("that is the question " * 3000)
    with pytest.raises(ValueError, match="is a run with other files of its data"):
        train(settings)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_extensions_are_never_tuned_on_the_tokens_that_are_scored(composed, split, monkeypatch):
    streams = []

    class Spy(Scorer):
        def __init__(self, model, stream, *how):
            super().__init__(model, stream, *how)
            streams.append(stream)

    for module in ("perplexity", "extended"):
        monkeypatch.setattr(f"eval.measure.{module}.Scorer", Spy)
    extension = ["eval.extensions=[longrope]", "+eval.extension_settings.longrope.trials=3"]
    train(composed(*SMOKE, *extension, "eval.lengths=[1,2]", f"eval.split={split}"))
    scored, *tuned_on = streams
    assert tuned_on and not any(stream is scored for stream in tuned_on)


def test_learned_positions_get_rows_that_say_why_they_have_no_number(program, tmp_path):
    done = program(*SMOKE, "encoding=learned", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(next(tmp_path.glob("learned-*/results.json")).read_text())["rows"]
    fixed = [row for row in rows if row["protocol"] == "fixed_targets" and "control" not in row]
    by_length = {row["context_length"]: row for row in fixed}
    assert by_length[32]["status"] == "ok"
    assert by_length[64]["status"] == "undefined" and "not defined beyond 32" in by_length[64]["reason"]


UNKNOWN = {
    "a misspelt key": ("trainin.lr=1", "trainin"),
    "an unknown encoding": ("encoding=rop", "did you mean rope, irope?"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_configuration_does_not_know_ends_in_one_clear_sentence(program, tmp_path, name):
    argument, expected = UNKNOWN[name]
    done = program(argument, runs=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert expected in done.stderr


def test_a_users_mistake_ends_in_one_sentence_and_is_recorded(program, tmp_path):
    done = program(*SMOKE, "model.num_heads=3", runs=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: model.dim=32 is not divisible by model.num_heads=3")
    assert "Traceback" not in done.stderr
    assert json.loads(next(tmp_path.glob("rope-*/status.json")).read_text())["state"] == "failed"


BAD = {
    "a context below two": (["context=1"], "context=1"),
    "a corpus that is missing": (["data=text", "data.path=/nowhere/at/all"], "/nowhere/at/all"),
    "a corpus too short for the longest window": (["eval.lengths=[1,4096]"], "possible"),
    "an odd head width": (["model.dim=30", "model.num_heads=2", "encoding=rope"], "head_dim=15"),
    "an unknown schedule": (["training.schedule=step"], "step"),
    "an unknown protocol": (["eval.protocols=[fixed]"], "fixed_targets"),
    "an unknown extension": (["eval.extensions=[yarm]"], "yarm"),
    "a batch that does not split": (["training.accumulate=5"], "accumulate"),
}
BAD_IN_A_SWEEP = {  # refused by the schema, the model and what follows
    "training.tokens=-1": "training.tokens=-1",
    "encoding.base=-1": "base=-1",
    "data.path=/nowhere": "/nowhere",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named(composed, name):
    overrides, expected = BAD[name]
    with pytest.raises(ValueError, match=re.escape(expected)):
        train(composed(*SMOKE, *overrides))


@pytest.mark.parametrize("override", BAD_IN_A_SWEEP)
def test_a_bad_setting_in_a_sweep_is_recorded_with_the_settings_and_where_it_was_found(program, tmp_path, override):
    command = ["-m", *SMOKE, "data=text", "data.path=data", override, "sweep=demo", "seed=0"]
    done = program(*command, runs=tmp_path)
    assert done.returncode == 3 and BAD_IN_A_SWEEP[override] in done.stderr and "Traceback" not in done.stderr
    (folder,) = (tmp_path / "demo").glob("rope-s0-*")
    status, config = (json.loads((folder / name).read_text()) for name in ("status.json", "config.json"))
    assert status["state"] == "failed" and BAD_IN_A_SWEEP[override] in status["error"]
    assert status["traceback"].startswith("Traceback") and "ValueError" in status["traceback"]
    assert config["seed"] == 0 and config["run_id"] == folder.name


def test_a_misspelt_key_answers_without_loading_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", "trainin.lr=1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(program, tmp_path):
    done = program(*SMOKE, "training.lr=1e30", "training.clip=0", runs=tmp_path)
    assert done.returncode == 1
    assert re.search(r"not finite (at|after) step \d+", done.stderr)
    assert json.loads(next(tmp_path.glob("rope-*/status.json")).read_text())["state"] == "failed"


def test_a_sweep_goes_on_past_a_failing_job_and_exits_with_3(program, tmp_path):
    command = ["-m", *SMOKE, "sweep=demo", "encoding=none,alibi", "model.dim=32,33"]
    done = program(*command, runs=tmp_path)
    assert done.returncode == 3, done.stderr
    folder = tmp_path / "demo"
    states = sorted(json.loads(path.read_text())["state"] for path in folder.glob("*/status.json"))
    assert states == ["failed", "failed", "finished", "finished"]
    for path in folder.glob("*/status.json"):
        if (status := json.loads(path.read_text()))["state"] == "failed":
            assert "dim=33" in status["error"] and status["traceback"].startswith("Traceback")
    for name in ("comparison.csv", "report.html", "report.md"):
        assert (folder / name).stat().st_size > 0
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/losses.npz")}
    again = program(*command, runs=tmp_path)
    assert again.returncode == 3
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/losses.npz")}


@pytest.mark.slow
def test_an_offline_wandb_run_holds_the_curves(program, tmp_path):
    done = program(*SMOKE, "logger=auto", runs=tmp_path, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    assert "W&B: offline" in done.stdout
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    inspected = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)], capture_output=True, text=True
    )
    for metric in ("train/loss", "val/loss", "eval/ppl", "x/context_length"):
        assert metric in inspected.stdout


def test_a_model_that_cannot_be_built_is_refused_before_any_text_is_read(composed, tmp_path):
    missing = ["data=text", f"data.path={tmp_path}/nowhere"]
    with pytest.raises(ValueError, match=r"encoding\.base=-1"):
        train(composed(*SMOKE, *missing, "encoding.base=-1"))
