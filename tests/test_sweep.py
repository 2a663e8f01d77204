"""A sweep as Hydra carries it out: its name, how many jobs, how far they are, its end, and what a sweeper gets of it.

python -m pytest tests/test_sweep.py
"""

import json
import math
import time
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from conf.schema import CONF, CompareSettings, LoggerSettings
from eval.compare.sweep import SweepReport
from eval.record.folder import RunFolder
from eval.record.identity import register_names
from eval.record.objective import objective
from eval.record.sweep import AGENT, SweepCallback, count_jobs, progress, started, sweep_name
from tests.synthetic import make_run


@contextmanager
def multirun(*overrides):
    """The config of `python train.py -m` with these overrides, as Hydra gives it to its callbacks."""
    register_names()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance().hydra.compose_config("train", list(overrides), RunMode.MULTIRUN)


def named(tmp_path, *overrides):
    """The name of the sweep that such a command starts."""
    with multirun(f"runs={tmp_path}", *overrides) as config:
        SweepCallback().on_multirun_start(config)
        return config.sweep


@pytest.mark.parametrize(
    ("params", "task", "jobs"),
    [
        (None, ["encoding=none,rope", "seed=0,1,2", "training.lr=1e-3"], 6),
        (None, ["encoding=glob(*)", "seed=range(2)"], 2 * len(list((CONF / "encoding").glob("*.yaml")))),
        ({"encoding": "none,rope,alibi"}, ["seed=0,1"], 6),
        ({"encoding": "none,rope,alibi"}, ["encoding=t5"], 1),
    ],
)
def test_the_jobs_of_a_sweep_are_counted_before_it_starts(params, task, jobs):
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": params}
    config = OmegaConf.create({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}})
    with initialize_config_dir(str(CONF), version_base="1.3"):
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


def list_of(tmp_path, *ages_and_runs):
    """A command's list of runs that began so many seconds ago."""
    path = tmp_path / "jobs-1.txt"
    path.write_text("".join(f"{run.name}\t{time.time() - age:.3f}\n" for age, run in ages_and_runs))
    return path


def begun(tmp_path, name, state):
    """A run in this state; one whose state is missing has written no file yet."""
    run = make_run(tmp_path, name, state="running" if state == "missing" else state)
    if state == "missing":
        (run.path / "status.json").unlink()
    return run


@pytest.mark.parametrize(
    ("ages", "jobs", "to_go"),
    [
        ({"finished": 300}, 3, "2 left, about 10 min to go"),
        ({"finished": 300, "failed": 100}, 3, "1 left, about 3 min to go"),
        ({"finished": 300, "running": 150}, 4, "2 left, about 6 min to go"),  # (2 * 300 + 150) / 2
        ({"finished": 300, "running": 60}, 2, "0 left, about 4 min to go"),  # one goes on alone
        ({"finished": 300, "running": 900}, 2, "0 left"),
        ({"finished": 300, "missing": 0}, 2, "0 left, about 5 min to go"),  # it has just begun
        ({"finished": 300}, 1, "0 left"),
        ({"running": 300}, 5, "4 left"),
        ({"finished": -300}, 5, "4 left"),  # it was there before the command
        ({"finished": 300}, None, "0 failed"),
    ],
)
def test_a_sweep_says_how_long_it_still_takes(tmp_path, ages, jobs, to_go):
    runs = [
        (age, begun(tmp_path, name, state)) for name, (state, age) in zip(("rope", "t5"), ages.items(), strict=False)
    ]
    assert progress(list_of(tmp_path, *runs), jobs).endswith(to_go)


def test_a_job_that_was_finished_before_takes_no_time(tmp_path):
    runs = [(-60, make_run(tmp_path, "none")), (-60, make_run(tmp_path, "t5")), (60, make_run(tmp_path, "rope"))]
    assert progress(list_of(tmp_path, *runs), 5).endswith(
        "3 of 5 jobs done, 0 running, 0 failed, 2 left, about 2 min to go"
    )


@pytest.mark.parametrize(
    ("state", "force", "lines"),
    [("finished", False, 0), ("finished", True, 2), ("failed", False, 2), ("running", False, 2)],
)
def test_a_job_that_is_finished_already_is_left_to_say_so_itself(tmp_path, capsys, state, force, lines):
    run = make_run(tmp_path, "rope", state=state)
    callback = SweepCallback()
    callback.job_list, callback.jobs = tmp_path / "jobs-1.txt", 3
    config = OmegaConf.create({"run_id": run.name, "force": force, "hydra": {"job": {"num": 1}}})
    callback.on_job_start(config)
    callback.on_job_end(config, None)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == lines and [line for line in said if "job 2 of 3: " + run.name in line] == said[:1]
    assert started(callback.job_list) == [run.name]


def test_a_run_whose_name_has_blanks_is_one_job(tmp_path):
    make_run(tmp_path, "rope").path.rename(tmp_path / "my run")
    (tmp_path / "jobs-1.txt").write_text("my run\n")
    assert progress(tmp_path / "jobs-1.txt", 1) == "1 of 1 jobs done, 0 running, 0 failed, 0 left"


@pytest.mark.parametrize(("state", "code"), [("finished", None), ("failed", 3)])
def test_a_sweep_exits_with_three_where_a_job_failed(tmp_path, state, code):
    folder = make_run(tmp_path, "rope", state=state)
    callback = SweepReport()
    callback.job_list = tmp_path / "jobs-1.txt"
    callback.job_list.write_text(f"{folder.name}\n")
    settings = {"logger": LoggerSettings("none"), "compare": CompareSettings("rope", level=0.9)}
    with nullcontext() if code is None else pytest.raises(SystemExit) as stop:
        callback.on_multirun_end(OmegaConf.create({"sweep": "demo", "runs": str(tmp_path.parent), **settings}))
    assert stop is None or stop.value.code == code
    assert (tmp_path / "report.html").exists()
    assert callback.job_list.exists() == (state == "failed")


def test_sweeps_in_one_folder_keep_lists_of_their_own(composed, tmp_path, monkeypatch):
    done, failed = make_run(tmp_path / "both", "rope"), make_run(tmp_path / "both", "alibi", state="failed")
    lists = []
    for number, run in enumerate((done, failed)):
        monkeypatch.setattr("os.getpid", lambda number=number: number)
        callback = SweepCallback()
        with multirun(f"runs={tmp_path}", "sweep=both") as config:
            callback.on_multirun_start(config)
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


BASE = ["experiment=smoke", "training.lr=1e-3,3e-3"]
SAME_SWEEP = {
    "another encoding": ["encoding=alibi"],
    "more encodings, and settings of theirs": ["encoding=rope,alibi", "encoding.base=1,2"],
    "an encoding within one": ["encoding=randomized", "encoding@encoding.inner=t5,alibi"],
    "other seeds": ["seed=1,2"],
    "scored otherwise": ["eval.lengths=[1,16]", "eval.targets=4"],
    "what changes no number": [
        "logger=auto",
        "compare.level=0.9",
        "num_workers=0,1",
        "cache_dir=there",
        "hydra.verbose=true",
    ],
    "what is so anyhow": ["training.batch_size=32", "context=32"],
    "written otherwise": ["++context=32", "training.lr=0.003,0.001"],
}
ANOTHER_SWEEP = {
    "another setting": ["context=64"],
    "more of what is swept over": ["training.lr=1e-3,3e-3,1e-2"],
    "one of what is swept over": ["training.lr=1e-3"],
    "something else that is swept over": ["training.warmup=0,0.1"],
    "another experiment": ["experiment=tasks"],
    "several experiments": ["experiment=smoke,tasks"],
    "other data": ["data=copy"],
}


@pytest.mark.parametrize("more", SAME_SWEEP)
def test_a_sweep_without_a_name_goes_on_in_its_folder(tmp_path, more):
    assert named(tmp_path, *BASE, *SAME_SWEEP[more]) == named(tmp_path, *BASE)


@pytest.mark.parametrize("more", ANOTHER_SWEEP)
def test_a_sweep_of_other_settings_has_another_name(tmp_path, more):
    assert named(tmp_path, *BASE, *ANOTHER_SWEEP[more]) != named(tmp_path, *BASE)


def test_what_only_other_sweepers_take_is_part_of_the_name():
    intervals = ["training.lr=interval(1e-4, 1e-2)", "training.lr=tag(log, interval(1e-4, 1e-2))", "training.lr=1e-3"]
    names = set()
    for interval in intervals:
        with multirun(interval) as config:
            names.add(sweep_name(config))
    assert len(names) == len(intervals)


def test_the_jobs_are_told_the_name_that_the_sweep_got(tmp_path):
    with multirun(f"runs={tmp_path}", "encoding=rope,alibi") as config:
        SweepCallback().on_multirun_start(config)
        assert config.hydra.overrides.task[-1] == f"sweep={config.sweep}"
        assert config.hydra.sweep.dir == f"{tmp_path}/{config.sweep}"


@pytest.mark.parametrize("override", ["sweep=mine", "++sweep=mine"])
def test_a_name_that_is_given_is_the_sweeps(tmp_path, override):
    assert named(tmp_path, override) == "mine"


REFUSED = {
    "two names": (["sweep=a,b"], "sweep: a multirun lies in one folder"),
    "a name that leads out": (["sweep=../a"], "sweep='../a'"),
    "a run's name that leads out": (["run_id=../a"], "run_id='../a'"),
    "no encoding": (["~encoding"], "encoding.name: needs a value"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_sweep_that_cannot_be_is_refused_before_its_first_job(tmp_path, capsys, what):
    overrides, message = REFUSED[what]
    with pytest.raises(SystemExit) as stop:
        named(tmp_path / "runs", *overrides)
    assert stop.value.code == 1 and capsys.readouterr().err.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_an_agent_of_wandb_starts_runs_and_no_sweeps(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(AGENT, "abc123")
    with pytest.raises(SystemExit):
        named(tmp_path, "encoding=rope,alibi")
    assert "leave out -m" in capsys.readouterr().err
    assert named(tmp_path, "encoding=rope,alibi", "logger=none")


def row(length, nats, **more):
    place = {"protocol": "fixed_targets", "extension": "none", "context_length": 32 * length, "length_ratio": length}
    return place | {"status": "ok", "nats": nats} | more


OBJECTIVES = {
    "the longest context": ({"rows": [row(1, 2.0), row(8, 3.0), row(4, 1.0)]}, 3.0),
    "of the headline": ({"rows": [row(1, 2.0), row(8, 3.0, protocol="sliding")]}, 2.0),
    "of the model itself": ({"rows": [row(1, 2.0), row(8, 1.0, extension="yarn"), row(8, 3.0, control="bigram")]}, 2.0),
    "undefined there": ({"rows": [row(1, 2.0), row(8, None, status="undefined")]}, math.inf),
    "a task": ({"rows": [], "tasks": [row(1, None, exact_match=1.0), row(2, None, exact_match=0.25)]}, 0.75),
    "not scored": ({"rows": [row(1, 2.0, protocol="sliding")]}, None),
}


@pytest.mark.parametrize("what", OBJECTIVES)
def test_a_sweeper_gets_the_number_that_compare_goes_by(what):
    results, wanted = OBJECTIVES[what]
    assert objective(SimpleNamespace(finished=False, results=results)) == math.inf
    assert objective(SimpleNamespace(finished=True, results=results)) == wanted


SWEEPER = """
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Halving(Sweeper):
    '''Halves the learning rate, and says what came of it.'''

    def __init__(self, **settings):
        pass

    def setup(self, *, hydra_context, task_function, config):
        arguments = dict(hydra_context=hydra_context, task_function=task_function, config=config)
        self.launcher = Plugins.instance().instantiate_launcher(**arguments)

    def sweep(self, arguments):
        for job, rate in enumerate((0.002, 0.001)):
            (done,) = self.launcher.launch([[*arguments, f"training.lr={rate}"]], initial_job_idx=job)
            print(f"halving: {done.return_value!r}")
"""
EXPERIMENT = """# @package _global_
hydra:
  mode: MULTIRUN
  sweeper:
    _target_: hydra_plugins.halving.Halving
training:
  tokens: 2048
"""


@pytest.mark.slow
def test_a_file_says_that_it_is_a_sweep_and_another_sweeper_gets_its_name_and_numbers(program, tmp_path):
    for path, text in {"hydra_plugins/halving.py": SWEEPER, "conf/experiment/mine.yaml": EXPERIMENT}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    small = ["model=nano", "context=32", "eval=smoke", "eval.windows=12", "eval.targets=8", "eval.lengths=[1,2]"]
    command = ["--config-dir", str(tmp_path / "conf"), "experiment=mine", *small, "logger=none"]
    done = program(*command, runs=tmp_path / "runs", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-") and done.stdout.rstrip().endswith(str(folder / "report.html"))
    given = sorted(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("halving: "))
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/results.json")]
    assert given == sorted(objective(RunFolder(folder / run["run_id"])) for run in runs) and len(given) == 2
