"""Jobs side by side: one that is killed, a command that is killed, a command that is stopped.

python -m pytest tests/test_processes.py
python -m pytest tests/test_processes.py -m slow    # whole commands
"""

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from conf.schema import CONF
from eval.record.folder import RunFolder
from eval.record.identity import register_names
from eval.record.jobs import carry_out
from eval.record.objective import objective
from eval.record.sweep import last_started
from model.signals import listen

JOBS = 5


def launch(runs, job, jobs=JOBS):
    """Carries out a function as the jobs of `python train.py -m seed=0,1,... hydra/launcher=two_jobs`: what the sweeper
    gets of each."""

    def main(cfg):
        carry_out(job, cfg)
        return objective(RunFolder.of(cfg))

    register_names()
    overrides = ["logger=none", "sweep=demo", f"runs={runs}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        seeds = f"seed={','.join(map(str, range(jobs)))}"
        config = hydra.compose_config(
            "train", [*overrides, seeds, "hydra/launcher=two_jobs", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN
        )
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name="train")
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
            task_function=main,
            config=config,
        )
        done = launcher.launch([[*overrides, f"seed={seed}"] for seed in range(jobs)], initial_job_idx=0)
    return [each.return_value for each in done]


@pytest.fixture
def command(tmp_path):
    """A command with such jobs, in a process of its own. What it says, and what its jobs give, stand in files."""
    started = []

    def start(job):
        def target():
            handle = os.open(tmp_path / "said", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            listen()
            given = launch(tmp_path, job)
            (tmp_path / "given").write_text(json.dumps(given))

        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def states(runs) -> dict[int, str]:
    """How the jobs of a sweep stand, by seed."""
    folders = [RunFolder(path.parent) for path in (runs / "demo").glob("*/status.json")]
    return {int(folder.name.split("-s")[1][0]): folder.status["state"] for folder in folders}


def training(settings):
    """Stands for a run that trains for long; its process is found by its number in the run's folder."""
    folder = RunFolder.of(settings)
    with folder.hold(), folder.recording(settings, ""):
        (folder.path / "pid").write_text(str(os.getpid()))
        time.sleep(60)


def pids(runs) -> list[int]:
    return [int(path.read_text() or 0) for path in (runs / "demo").glob("*/pid")]


def wait_until(what, seconds=30):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_job_that_is_killed_fails_and_the_others_are_carried_out(command, tmp_path):
    def job(settings):
        folder = RunFolder.of(settings)
        with folder.hold(), folder.recording(settings, ""):
            if settings.seed in (1, 3):
                os.kill(os.getpid(), signal.SIGKILL if settings.seed == 1 else signal.SIGUSR1)

    process = command(job)
    process.join(60)
    assert process.exitcode == 0
    assert states(tmp_path) == {0: "finished", 1: "failed", 2: "finished", 3: "failed", 4: "finished"}
    assert json.loads((tmp_path / "given").read_text()) == [None, float("inf"), None, float("inf"), None]
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said and "3 of 5 jobs done, 0 running, 2 failed, 0 left" in said
    errors = [RunFolder(path.parent).status.get("error") or "" for path in (tmp_path / "demo").glob("*/status.json")]
    assert sum("SIGKILL" in error for error in errors) == sum("SIGUSR1" in error for error in errors) == 1


def test_the_jobs_of_a_command_that_is_killed_stop_within_seconds(command, tmp_path):
    process = command(training)
    wait_until(lambda: len(pids(tmp_path)) == 2 and all(pids(tmp_path)))
    jobs = pids(tmp_path)
    process.kill()
    process.join()
    wait_until(lambda: not any(map(is_there, jobs)), seconds=10)
    assert list(states(tmp_path).values()) == ["interrupted", "interrupted"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_a_command_stops_its_jobs_and_none_is_left_running(command, tmp_path, signum):
    process = command(training)
    wait_until(lambda: len(pids(tmp_path)) == 2 and all(pids(tmp_path)))
    for _ in range(3):
        os.kill(process.pid, signum)
    process.join(30)
    assert process.exitcode == 128 + signum
    assert list(states(tmp_path).values()) == ["interrupted", "interrupted"]
    assert not any(map(is_there, pids(tmp_path))) and len(last_started(tmp_path / "demo")) == 2
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said and f"stopped by {signum.name}: run the same command again to go on" in said


@pytest.mark.parametrize("jobs", [0, -2, "two"])
def test_a_number_of_jobs_that_cannot_be_is_refused(jobs):
    from hydra_plugins.processes import Processes

    with pytest.raises(ValueError, match=f"hydra.launcher.n_jobs={jobs}: must be"):
        Processes(jobs)


SWEEP = ["-m", "hydra/launcher=two_jobs", "experiment=smoke", "training.tokens=20480", "tokenizer=byte"]
SWEEP += ["data.max_tokens=20000", "eval.windows=12", "eval.targets=8", "sweep=demo", "encoding=none,rope,alibi"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_of_which_a_job_is_killed_ends_with_its_report_and_is_mended_by_the_same_command(
    start, program, tmp_path
):
    process = start(*SWEEP, runs=tmp_path)
    wait_until(lambda: list((tmp_path / "demo").glob("*/status.json")), seconds=120)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 3 and "Traceback" not in said, said
    found = [RunFolder(path.parent).status["state"] for path in (tmp_path / "demo").glob("*/status.json")]
    assert sorted(found) == ["failed", "finished", "finished"]
    assert "SIGKILL" in (tmp_path / "demo" / "report.md").read_text()
    done = program(*SWEEP, runs=tmp_path, timeout=400)
    assert done.returncode == 0 and "SIGKILL" not in (tmp_path / "demo" / "report.md").read_text(), done.stderr
