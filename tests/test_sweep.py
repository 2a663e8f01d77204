"""A sweep as Hydra carries it out: how many jobs, how far they are, and its end."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from conf.schema import CompareSettings, LoggerSettings
from eval.compare.sweep import SweepReport
from eval.record.sweep import SweepCallback, count_jobs, progress
from tests.synthetic import make_run

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("params", "task", "jobs"),
    [
        (None, ["encoding=none,rope", "seed=0,1,2", "training.lr=1e-3"], 6),
        (None, ["encoding=glob(*)", "seed=range(2)"], 2 * len(list((ROOT / "conf" / "encoding").glob("*.yaml")))),
        ({"encoding": "none,rope,alibi"}, ["seed=0,1"], 6),
        ({"encoding": "none,rope,alibi"}, ["encoding=t5"], 1),
    ],
)
def test_the_jobs_of_a_sweep_are_counted_before_it_starts(params, task, jobs):
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    config = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}})
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert count_jobs(config) == jobs


def test_progress_counts_what_is_done_running_failed_and_left(tmp_path):
    runs = [
        make_run(tmp_path, "rope"),
        make_run(tmp_path, "none", state="failed"),
        make_run(tmp_path, "t5", state="running"),
    ]
    make_run(tmp_path, "alibi")  # of another command
    started = tmp_path / "jobs-1.txt"
    started.write_text("".join(f"{run.name}\n" for run in [*runs, runs[0]]))
    assert progress(started, 5) == "1 of 5 jobs done, 1 running, 1 failed, 2 left"
    assert progress(started, None) == "1 jobs done, 1 running, 1 failed"


@pytest.mark.parametrize(("state", "code"), [("finished", None), ("failed", 3)])
def test_a_sweep_exits_with_three_where_a_job_failed(tmp_path, state, code):
    folder = make_run(tmp_path, "rope", state=state)
    callback = SweepReport()
    callback.job_list = tmp_path / "jobs-1.txt"
    callback.job_list.write_text(f"{folder.name}\n")
    settings = {"logger": LoggerSettings("none"), "compare": CompareSettings("rope", level=0.9)}
    with nullcontext() if code is None else pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(OmegaConf.create({"sweep": "demo", **settings}))
    assert stop is None or stop.value.code == code
    assert (tmp_path / "report.html").exists()
    assert callback.job_list.exists() == (state == "failed")


def test_sweeps_in_one_folder_keep_lists_of_their_own(composed, tmp_path, monkeypatch):
    done, failed = make_run(tmp_path / "both", "rope"), make_run(tmp_path / "both", "alibi", state="failed")
    lists = []
    for number, run in enumerate((done, failed)):
        monkeypatch.setattr("os.getpid", lambda number=number: number)
        monkeypatch.setattr("eval.record.sweep.count_jobs", lambda config: 1)
        callback = SweepCallback()
        callback.on_multirun_start(OmegaConf.create({"runs": str(tmp_path), "sweep": "both", "run_id": "any"}))
        callback.job_list.write_text(f"{run.name}\n")
        lists.append(callback.job_list)
    assert [progress(path, 1) for path in lists] == [
        "1 of 1 jobs done, 0 running, 0 failed, 0 left",
        "0 of 1 jobs done, 0 running, 1 failed, 0 left",
    ]


def test_a_report_that_cannot_be_written_ends_the_sweep_with_one_sentence(tmp_path, capsys):
    callback = SweepReport()
    callback.job_list = tmp_path / "jobs-1.txt"
    callback.job_list.write_text("")
    with pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(OmegaConf.create({"compare": {"reference": "rope", "level": 0.95}}))
    assert stop.value.code == 1
    assert "holds no run" in capsys.readouterr().err
