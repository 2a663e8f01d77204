"""Jobs of a sweep side by side on this machine, each in a process of its own: hydra/launcher=processes.

A process that is killed takes no other with it: its job counts as failed, the rest goes on. A signal that asks the
command to stop is passed on to its jobs, and the end of the command is a signal to them. Hydra looks for launchers in a
package of this name, and imports what lies there at every start: light.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from conf.progress import SIDE_BY_SIDE
from conf.quick import quick_imports
from eval.record.jobs import DIED
from model.devices import wait_asleep
from model.signals import asked, deferred, end_with_parent

LOOK = 0.2  # seconds between looks at processes that say nothing
JOBS_NEED = ("eval.compare.report", "eval.measure.measurement", "eval.record.tracking", "model.training.trainer")


class Processes(Launcher):
    """Carries out n_jobs jobs at once; -1: as many as there are cores."""

    def __init__(self, n_jobs: int = -1):
        if type(n_jobs) is not int or n_jobs < -1 or n_jobs == 0:
            raise ValueError(f"hydra.launcher.n_jobs={n_jobs}: must be a number of jobs, or -1 for a job a core")
        self.n_jobs = len(os.sched_getaffinity(0)) if n_jobs == -1 else n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        if self.n_jobs > 1:
            wait_asleep()  # they are one another's load
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that has looked by CUDA can't be forked
        with quick_imports():  # seconds, once and not in each job; nothing is computed, and no device touched
            for name in JOBS_NEED:
                importlib.import_module(name)
            if (OmegaConf.select(self.config, "logger.name") or "none") != "none":  # of a run; a scoring has no logger
                with suppress(ImportError):  # a run says so, and goes on without
                    importlib.import_module("wandb")
        waiting = deque(enumerate(job_overrides, initial_job_idx))
        returned: dict[int, JobReturn] = {}
        running: list[Job] = []
        with deferred():
            try:
                while running or (waiting and not asked()):
                    while waiting and len(running) < self.n_jobs and not asked():
                        running.append(self._start(*waiting.popleft()))
                    wait([job.reader for job in running], LOOK)
                    for job in [job for job in running if job.ended()]:
                        running.remove(job)
                        if (died := job.died()) and not job.replaced:
                            running.append(Job(self, job.config, died))
                        else:
                            returned[job.config.hydra.job.num] = job.returned
                    for job in running:
                        job.tell(asked())
            finally:
                for job in running:  # an error of this process
                    job.tell(signal.SIGTERM)
                    job.process.join()
        return [returned[number] for number in sorted(returned)]

    def _start(self, number: int, overrides: Sequence[str]) -> Job:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{number}"
            config.hydra.job.num = number
        return Job(self, config)


class Job:
    """A job in a process of its own. died: how the process ended that has had the job before; this one fails, and so
    leaves behind what a failed job does.

    returned: what the sweeper gets; a job that says nothing is as bad as can be.
    """

    def __init__(self, launcher: Processes, config: DictConfig, died: str = ""):
        self.config, self.replaced, self.told = config, bool(died), bool(died)
        self.returned = JobReturn(cfg=config, status=JobStatus.COMPLETED)
        self.returned.return_value = math.inf
        self.reader, writer = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(
            target=_carry_out, args=(launcher, config, died, writer, os.getpid())
        )
        self.process.start()
        writer.close()

    def ended(self) -> bool:
        """Whether the process has come to its end, whichever."""
        alive = self.process.is_alive()
        if self.reader.poll():
            with suppress(EOFError):
                self.returned = self.reader.recv()
            self.process.join()
            alive = False
        return not alive

    def died(self) -> str:
        """How the process was ended from outside; empty where it came to its end itself, or stopped as it was told."""
        if self.process.exitcode in (0, *range(1, 256)) or -self.process.exitcode == asked():
            return ""
        name = signal.Signals(-self.process.exitcode).name
        return f"its process was ended by {name}, by hand or for want of memory: the same command goes on with it"

    def tell(self, signum: int) -> None:
        """Passes a signal on, once."""
        if signum and not self.told:
            self.told = True
            os.kill(self.process.pid, signum)


def _carry_out(launcher: Processes, config: DictConfig, died: str, writer: Connection, parent: int) -> None:
    end_with_parent(parent)
    if died:
        os.environ[DIED] = died
    if launcher.n_jobs > 1:
        os.environ[SIDE_BY_SIDE] = "1"
    writer.send(
        run_job(
            hydra_context=launcher.hydra_context,
            task_function=launcher.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    )
