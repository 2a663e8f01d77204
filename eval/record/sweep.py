"""A sweep as Hydra carries it out: says how far it is. At its end eval/compare/sweep.py reports.

Jobs may run in other processes (joblib, submitit), so what is known of them is read from files: the list of those that
were started, and the runs' own status files. Light to import.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from conf.schema import check_names
from eval.record.jobs import FAILED, MISTAKES, one_sentence

LISTS = "jobs-*.txt"  # in the sweep's folder, one a command: the run ids of the jobs that it started, a line each


class SweepCallback(Callback):
    """Called by Hydra when a multirun starts and for each of its jobs. It is copied into the processes of the jobs, so
    what changes meanwhile is kept in files."""

    job_list: Path | None = None  # of the jobs that were started; None in a single run
    jobs: int | None = None  # how many the sweep has; None for sweepers that don't know beforehand

    def on_multirun_start(self, config, **kwargs: Any) -> None:
        from eval.record.identity import register_names

        register_names()
        self._check_names(config)
        name = LISTS.replace("*", f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}")
        self.job_list = Path(config.runs) / config.sweep / name
        self.jobs = count_jobs(config)
        try:
            self.job_list.parent.mkdir(parents=True, exist_ok=True)
            self.job_list.write_text("")
        except OSError as error:
            give_up(error)

    def on_run_start(self, config, **kwargs: Any) -> None:
        self._check_names(config)

    def _check_names(self, config) -> None:
        try:
            check_names(config.run_id, config.sweep)
        except ValueError as error:
            give_up(error)

    def on_job_start(self, config, **kwargs: Any) -> None:
        if self.job_list is None:
            return
        with open(self.job_list, "a") as file:  # one short write, which processes don't tear apart
            file.write(f"{config.run_id}\n")
        of = f" of {self.jobs}" if self.jobs else ""
        print(f"--- job {config.hydra.job.num + 1}{of}: {config.run_id}", flush=True)

    def on_job_end(self, config, job_return, **kwargs: Any) -> None:
        if self.job_list is not None:
            print(f"--- {progress(self.job_list, self.jobs)}", flush=True)


def count_jobs(config) -> int | None:
    """The number of jobs of a multirun, None where its sweeper doesn't know beforehand."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *config.hydra.overrides.task]), None)
    return len(batches[0])


def started(path: Path) -> list[str]:
    """The run ids of the jobs in a command's list, each once, in order."""
    return list(dict.fromkeys(path.read_text().split()))


def last_started(folder: Path) -> list[str]:
    """`started` of the last command that began a sweep in this folder and didn't come to its end with all jobs done."""
    lists = sorted(folder.glob(LISTS))
    return started(lists[-1]) if lists else []


def progress(path: Path, jobs: int | None) -> str:
    """ "3 of 6 jobs done, 1 running, 0 failed, 2 left", from a command's list and the files of its jobs."""
    from eval.record.folder import RunFolder

    names = started(path)
    states = Counter(RunFolder(path.parent / name).status["state"] for name in names)
    running = states["running"] + states["missing"]
    done, failed = states["finished"], len(names) - states["finished"] - running
    of, left = (f" of {jobs}", f", {jobs - len(names)} left") if jobs else ("", "")
    return f"{done}{of} jobs done, {running} running, {failed} failed{left}"


def give_up(error: Exception) -> None:
    """Ends the sweep with the error in one sentence; Hydra would turn an exception here into a warning."""
    if not isinstance(error, MISTAKES):
        traceback.print_exc()
    print(f"error: {one_sentence(error)}", file=sys.stderr)
    sys.exit(FAILED)
