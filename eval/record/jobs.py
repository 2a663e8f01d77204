"""How a job ends: one clear sentence for a user's mistake, a record of every failure, an exit code that says which.

0 finished · 1 failed · 3 a sweep with failed jobs · 129 stopped by SIGHUP · 130 by Ctrl-C · 143 by SIGTERM
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from conf.mistakes import one_sentence
from conf.quick import quick_imports
from conf.schema import Settings, TrainerSettings, check_names
from eval.record.identity import arms_parent, settings_from
from eval.record.inherit import given
from model.devices import count_gpus, uses_gpu, wait_by_load
from model.signals import listen

FAILED, SWEEP_FAILED = 1, 3
FULL_ERROR = "HYDRA_FULL_ERROR"  # in the environment: Hydra raises its errors, and doesn't print them on many lines
ANSWERING = "TRAINSHORT_ANSWERING"  # in the environment: that FULL_ERROR is set by a command, for itself
DIED = "TRAINSHORT_DIED"  # in the environment: how the process ended that had the job; all that is left is to say so
LISTS = "jobs-*.txt"  # in the sweep's folder, one a command: the run ids of the jobs that it started, a line each
MISTAKES = (ValueError, OSError, MemoryError)  # explained by their message; anything else is a fault of the program


def carry_out(job: Callable[[Settings], None], cfg: DictConfig) -> bool:
    """Runs a job on its settings, and says whether it came to its end. In a multirun a failure is recorded and the
    other jobs go on."""

    def checked_job():
        settings = settings_from(cfg)
        check_devices(settings, in_multirun())
        wait_by_load(settings.trainer.threads)  # before torch is loaded
        with quick_imports():
            check_machine(settings.trainer)
        check_place(settings)
        if parent := _untrained_parent(cfg):
            job(parent)
        job(settings)

    if error := attempt(checked_job, cfg, "run_id"):
        _record(cfg, error)
    return error is None


def _untrained_parent(cfg: DictConfig) -> Settings | None:
    """The settings of the run that an arm of a sweep starts from, where it is not there yet."""
    if parent := arms_parent(given(cfg)):
        from eval.record.folder import RunFolder

        return None if RunFolder.of(parent).finished else parent
    return None


def attempt(job: Callable[[], None], cfg: DictConfig, name: str) -> Exception | None:
    """Runs a job. A failure is said in a sentence and ends the process; in a multirun it is returned, and the other
    jobs go on. A signal ends the process, as model.signals says. name: of the setting that says which job it is."""
    listen()
    try:
        if died := os.environ.get(DIED):
            raise ChildProcessError(died)
        job()
    except Exception as error:
        if not in_multirun():
            give_up(error)
        _say(cfg[name], error)
        return error
    return None


def give_up(error: Exception) -> NoReturn:
    """Ends the process with the error in one sentence; one that is no user's mistake with its traceback too."""
    _say("error", error)
    sys.exit(FAILED)


def traceback_asked() -> bool:
    """Whether a user wants to see where errors are."""
    return os.environ.get(FULL_ERROR) == "1" and ANSWERING not in os.environ


def _say(name: str, error: Exception) -> None:
    if traceback_asked() or not isinstance(error, MISTAKES):
        traceback.print_exception(error)
    print(f"{name}: {one_sentence(error)}", file=sys.stderr)


def in_multirun() -> bool:
    """Whether this job of Hydra's is one of several."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.get().mode == RunMode.MULTIRUN


def check_devices(settings: Settings, multirun: bool) -> None:
    """Raises ValueError where a run on several devices, which starts its command again for each, can't do so."""
    trainer = settings.trainer
    if trainer.devices == 1 and trainer.num_nodes == 1:
        return
    if multirun or settings.tuning:
        raise ValueError(
            f"trainer={trainer.name} with trainer.devices={trainer.devices} and trainer.num_nodes="
            f"{trainer.num_nodes} can't run inside {'a multirun' if multirun else 'a choice of learning rates'}: "
            "give each job one device (trainer.devices=1), or start each run by itself, without "
            f"{'-m' if multirun else 'tuning'}"
        )


def check_machine(trainer: TrainerSettings) -> None:
    """Raises ValueError where this machine lacks what a run asks of it: GPUs, or a compiler."""
    gpu = uses_gpu(trainer.accelerator)
    if gpu and (found := count_gpus()) < trainer.devices:
        remedy = f"set trainer.devices={found}" if found else "trainer=auto takes what there is"
        raise ValueError(
            f"trainer.accelerator={trainer.accelerator} with trainer.devices={trainer.devices}: GPUs that torch can "
            f"use here: {found}; {remedy}"
        )
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]  # Triton's
    if not gpu:
        compilers = [os.environ.get("CXX", "g++")]  # Inductor's
    if trainer.compile and not any(map(shutil.which, compilers)):
        raise ValueError(
            f"trainer.compile=true: there is no {' or '.join(compilers)} here to compile with; install it, or set "
            "trainer.compile=false"
        )


PROCESSES_A_CORE = 4  # more of them, or of threads, only take memory


def check_place(settings: Settings) -> None:
    """Raises ValueError where folders can't lie where the settings say, or more processes or threads are asked for than
    this machine has a use for."""
    sweep = Path(settings.runs, settings.sweep or "")
    places = {"runs": settings.runs, "sweep": sweep, "run_id": sweep / settings.run_id, "cache_dir": settings.cache_dir}
    for key, path in places.items():
        path = Path(path).absolute()
        there = next(each for each in (path, *path.parents) if os.path.lexists(each))
        value = f"{key}={getattr(settings, key)}"
        if not there.is_dir():
            raise ValueError(f"{value}: {there} is no folder; choose another place")
        if key != "cache_dir" and not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{value}: {there} can't be written to; choose another place")
    most = PROCESSES_A_CORE * (os.cpu_count() or 1)
    for key, count in {"num_workers": settings.num_workers, "trainer.threads": settings.trainer.threads or 0}.items():
        if count > most:
            raise ValueError(f"{key}={count}: this machine's {os.cpu_count()} cores have no use for more than {most}")


def _record(cfg: DictConfig, error: Exception) -> None:
    """Notes a failure that came before the run's own folder could, so that the sweep's report knows of it. The settings
    may be what was wrong, so they are written as they came."""
    from eval.record.folder import RunFolder

    try:
        check_names(cfg.run_id, cfg.sweep)
        folder = RunFolder.of(cfg)
        if folder.status["state"] != "failed":
            trace = "".join(traceback.format_exception(error))
            noted = folder.note_failure(OmegaConf.to_container(cfg, resolve=True), one_sentence(error), trace)
            if noted is not folder:
                add_job(noted.path)
    except MISTAKES as second:
        print(f"{cfg.run_id}: its failure could not be recorded: {second}", file=sys.stderr)


def add_job(path: Path) -> None:
    """Adds the folder of one more job to the list of the last command that began a sweep there."""
    with open(max(path.parent.glob(LISTS)), "a", encoding="utf-8") as file:
        file.write(f"{path.name}\n")
