"""`python -m eval`: a mistake answers at once, costs no row, and counts in whatever process it was made.

python -m pytest tests/test_score_again.py
"""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from conf.schema import ROOT
from eval.measure.extended import extension_configs
from eval.record.folder import RunFolder, runs_of
from eval.record.trained import load
from tests.small import SETTINGS
from train import train

SMOKE = ["experiment=smoke", "training.tokens=2048", "eval.windows=12", "eval.targets=8", "logger=none"]


@pytest.fixture(scope="module")
def finished(program, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    done = program(*SMOKE, "encoding=rope", "eval.extensions=[none,yarn]", "run_id=rope", runs=runs)
    assert done.returncode == 0, done.stderr
    return runs / "rope"


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "rope")


@pytest.fixture
def score(program):
    return lambda *arguments: program(*arguments, runs=None, command=("-m", "eval"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param(
            ["extension=yarn", "extension.beta_slow=abc"],
            "extension.beta_slow='abc': must be a finite number",
            marks=pytest.mark.slow,
        ),
        (["+eval.extension_settings.yarn._target_=os.system"], "no such setting of yarn"),
    ],
)
def test_an_extension_that_cannot_be_costs_no_row(score, run, argument, message):
    before = RunFolder(run).results
    done = score(f"run={run}", *argument)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert RunFolder(run).results == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "yarn"}, r"extension_settings\.pi\.name=yarn: no such setting of pi"),
        ({"_target_": "yarn"}, r"extension_settings\.pi\._target_=yarn: no such setting of pi"),
        (3, "eval.extension_settings={'pi': 3}: must be settings by name"),
    ],
)
def test_what_is_no_setting_of_an_extension_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        extension_configs(replace(SETTINGS, extensions=["pi"], extension_settings={"pi": changed}))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("eval.split=test", "which run?"),
        ("run=nowhere", "not the folder of a run or a sweep"),
        ("run={run} eval.precision=16", "eval.precision='16'"),
        ("run={run} +eval.foo=1", "foo"),
    ],
)
def test_a_mistake_answers_before_anything_heavy_is_imported(run, argument, message):
    script = f"""
import runpy, sys
sys.argv = ["eval", *{argument.format(run=run).split()!r}]
try:
    runpy.run_module("eval", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 1
assert not {{"torch", "lightning", "datasets"}} & set(sys.modules)
print("light")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("light\n") and message in done.stderr, done.stderr


@pytest.mark.slow
def test_a_run_that_could_not_be_scored_counts_in_whatever_process_its_job_ran(score, run):
    done = score("-m", f"run={run},nowhere", "extension=window", "hydra/launcher=two_jobs")
    assert done.returncode == 3 and "nowhere is not the folder of a run or a sweep" in done.stderr
    assert {row["extension"] for row in RunFolder(run).results["rows"]} == {"none", "yarn", "window"}


def test_a_run_whose_results_are_damaged_is_not_taken_for_a_trained_one(score, run):
    (run / "results.json").write_text("{")
    done = score(f"run={run}")
    assert done.returncode == 1 and "give the run's own command again" in done.stderr
    assert (run / "results.json").read_text() == "{"


def test_a_model_of_a_task_says_that_it_has_no_tokenizer(composed):
    settings = composed("experiment=tasks", "model=nano", "training.tokens=1024", "data.examples=4", "logger=none")
    train(settings)
    with pytest.raises(ValueError, match="data=copy is a task: it has no tokenizer"):
        load(RunFolder.of(settings).path).encode("a text")


@pytest.mark.slow
def test_a_whole_file_of_conf_eval_takes_the_place_of_how_the_run_was_scored(score, run):
    done = score(f"run={run}", "eval=smoke", "eval.extensions=[none,yarn]")
    assert done.returncode == 0, done.stderr
    fixed = {row["tokens"] for row in RunFolder(run).results["rows"] if row["protocol"] == "fixed_targets"}
    assert fixed == {16 * 16}  # windows x targets of conf/eval/smoke.yaml; the run was scored on 12 x 8


def test_a_model_is_not_loaded_beside_data_that_it_was_not_trained_on(run):
    assert load(run).data.streams
    RunFolder(run).update(corpus_hash="of another text")
    with pytest.raises(ValueError, match=r"trained on other data than data=shakespeare is now \(corpus_hash\)"):
        load(run).data  # noqa: B018
    RunFolder(run).update(tokenizer_hash="of another tokenizer")
    with pytest.raises(ValueError, match=r"trained on other data than data=shakespeare is now \(tokenizer_hash\)"):
        load(run)


@pytest.mark.slow
def test_a_sweeps_folder_stands_for_its_runs_and_old_lengths_come_back(score, finished, tmp_path):
    sweep = tmp_path / "sweep"
    folders = [RunFolder(shutil.copytree(finished, sweep / name)) for name in ("one", "two")]
    before = [folder.results["rows"] for folder in folders]
    done = score(f"run={sweep}", "eval.lengths=[16]", "eval.extensions=[none]")
    assert done.returncode == 0 and (sweep / "report.html").exists(), done.stderr
    for folder, rows in zip(folders, before, strict=True):
        assert max(row["context_length"] for row in folder.results["rows"]) == 512
        assert folder.shown_as(rows[0]["evaluation"])["rows"] == rows
    done = score(f"run={folders[0].path}")
    assert done.returncode == 0 and folders[0].results["rows"] == before[0], done.stderr


def test_a_sweep_without_a_finished_run_is_said_to_be_one(finished, tmp_path):
    RunFolder(shutil.copytree(finished, tmp_path / "run")).set_status("failed")
    with pytest.raises(ValueError, match="is a sweep of which no run is finished"):
        runs_of(tmp_path)
    with pytest.raises(ValueError, match="is not the folder of a run or a sweep"):
        runs_of(tmp_path / "run" / "checkpoints")
