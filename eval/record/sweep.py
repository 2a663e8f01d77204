"""A sweep as Hydra carries it out: says how far it is. At its end eval/compare/sweep.py reports.

Jobs may run in other processes (hydra_plugins/processes.py, submitit), so what is known of them is read from files:
the list of those that were started, and the runs' own status files. Light to import.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from conf.mistakes import naming_settings
from conf.progress import duration
from conf.schema import check_names
from conf.typed import digest
from eval.record.identity import NOT_IDENTITY, as_before
from eval.record.jobs import LISTS, give_up

AGENT = "WANDB_SWEEP_ID"  # in the environment: what an agent of a W&B sweep tells the runs that it starts


class SweepCallback(Callback):
    """Called by Hydra when a multirun starts and for each of its jobs. It is copied into the processes of the jobs, so
    what changes meanwhile is kept in files."""

    job_list: Path | None = None  # of the jobs that were started; None in a single run
    jobs: int | None = None  # how many the sweep has; None for sweepers that don't know beforehand
    idle = False  # whether the job finds its run finished

    def on_multirun_start(self, config, **kwargs: Any) -> None:
        try:
            with naming_settings():
                _check_alone(config)
                _name(config)
                self.jobs = count_jobs(config)
            name = LISTS.replace("*", f"{datetime.now():%Y%m%d-%H%M%S-%f}-{os.getpid()}")
            self.job_list = Path(config.runs) / config.sweep / name
            _make_list(self.job_list)
        except Exception as error:
            give_up(error)

    def on_job_start(self, config, **kwargs: Any) -> None:
        if self.job_list is None:
            return
        from eval.record.folder import RunFolder

        with open(self.job_list, "a", encoding="utf-8") as file:  # one short write, which processes don't tear apart
            file.write(f"{config.run_id}\t{time.time():.3f}\n")
        self.idle = RunFolder(self.job_list.parent / config.run_id).finished and not config.force
        of = f" of {self.jobs}" if self.jobs else ""
        if not self.idle:  # else it says so itself, or what is missing
            print(f"--- job {config.hydra.job.num + 1}{of}: {config.run_id}", flush=True)

    def on_job_end(self, config, job_return, **kwargs: Any) -> None:
        if self.job_list is not None and not self.idle:
            print(f"--- {progress(self.job_list, self.jobs)}", flush=True)


def _make_list(path: Path) -> None:
    """An empty list of jobs, in a folder that Hydra will then find there. Raises OSError, with the remedy."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
        (path.parent / "multirun.yaml").unlink(missing_ok=True)  # Hydra would write its own through a link
    except OSError as error:
        raise OSError(
            f"{path.parent} can't be written ({error.strerror}): give rights there, or set runs to another folder"
        ) from error


def _check_alone(config) -> None:
    """Raises ValueError under an agent of a W&B sweep, which gives its name in W&B to one run alone."""
    if AGENT in os.environ and config.logger.name != "none":
        raise ValueError(
            f"a W&B sweep's agent ({AGENT}={os.environ[AGENT]}) starts runs one by one, each with a record of its own: "
            "leave out -m (or hydra.mode), or set logger=none"
        )


def _name(config) -> None:
    """Gives a sweep that has no name its default one, as if the command line had: its jobs are composed anew from
    that. Raises ValueError for a name that leads out of the runs' folder, or several."""
    if any(override.key_or_group == "sweep" for override in _overrides(config) if override.is_sweep_override()):
        raise ValueError("sweep: a multirun lies in one folder; give one name")
    if config.sweep is None:
        config.sweep = sweep_name(config)
        config.hydra.overrides.task.append(f"sweep={config.sweep}")
    check_names(config.run_id, config.sweep)


def sweep_name(config) -> str:
    """A hash of what the runs of a multirun have in common, and of what else is swept over: with another encoding or
    seed, or scored otherwise, it goes on in its folder."""
    left_out = {*NOT_IDENTITY, "encoding", "seed", "eval"} - {"experiment", "init", "extend"}
    common = as_before({key: value for key, value in OmegaConf.to_container(config).items() if key not in left_out})
    last = {override.get_key_element().lstrip("+"): override for override in _overrides(config)}
    swept = {
        key: _values(override)
        for key, override in last.items()
        if (override.is_sweep_override() or key in _params(config))
        and override.key_or_group.partition(".")[0] not in left_out
    }
    return f"sweep-{digest(common | {'swept': swept})[:6]}"


def _values(override: Override) -> list[str]:
    """What is swept over, in any order; an interval as it is written."""
    if override.is_discrete_sweep():
        return sorted(override.sweep_string_iterator())
    return [override.input_line.partition("=")[2]]


def _overrides(config) -> list[Override]:
    """The overrides of a multirun: those of hydra.sweeper.params where it has them, then the command line's."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in _params(config).items()]
    return parser.parse_overrides([*params, *config.hydra.overrides.task])


def _params(config) -> Mapping[str, Any]:
    return config.hydra.sweeper.get("params") or {}


def count_jobs(config) -> int | None:
    """The number of jobs of a multirun, None where its sweeper doesn't know beforehand."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return None
    return len(BasicSweeper.split_arguments(_overrides(config), None)[0])


def started(path: Path) -> list[str]:
    """The run ids of the jobs in a command's list, each once, in order."""
    return list(_begun(path))


def _begun(path: Path) -> dict[str, float | None]:
    """When each job of a command's list began, in seconds since the epoch, by its run id."""
    lines = [line.partition("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: float(seconds) if seconds else None for name, _, seconds in lines}


def last_started(folder: Path) -> list[str]:
    """`started` of the last command that began a sweep in this folder and didn't come to its end with all jobs done."""
    lists = sorted(folder.glob(LISTS))
    return started(lists[-1]) if lists else []


def progress(path: Path, jobs: int | None) -> str:
    """ "3 of 6 jobs done, 1 running, 0 failed, 2 left, about 4 min to go", from a command's list and the files of its
    jobs."""
    from eval.record.folder import RunFolder

    begun = _begun(path)
    found = {name: RunFolder(path.parent / name).status for name in begun}
    states = Counter(status["state"] for status in found.values())
    running = states["running"] + states["missing"]
    done, failed = states["finished"], len(begun) - states["finished"] - running
    of, left = (f" of {jobs}", f", {jobs - len(begun)} left") if jobs else ("", "")
    seconds = _to_go(begun, found, jobs - len(begun)) if jobs else 0
    to_go = f", about {duration(seconds)} to go" if seconds else ""
    return f"{done}{of} jobs done, {running} running, {failed} failed{left}{to_go}"


def _to_go(begun: Mapping[str, float | None], found: Mapping[str, Mapping[str, Any]], left: int) -> float:
    """How long the jobs that are running or left will take, in seconds, if they take as long as those did that this
    command has carried out; 0 where none are left, or none were."""
    now, taken, ages = time.time(), [], []
    for name, begin in begun.items():
        status = found[name]
        if begin is None:
            continue
        if status["state"] in ("running", "missing"):
            ages.append(now - begin)
        elif (spent := datetime.fromisoformat(status["time"]).timestamp() - begin) > 0:
            taken.append(spent)  # what was finished before has taken no time
    if not taken:
        return 0
    each = sum(taken) / len(taken)
    rest = [max(each - age, 0) for age in ages]
    return max([*rest, (left * each + sum(rest)) / (len(ages) + 1)])  # one has just ended, and the next takes its place
