"""A command, from its first line to its last: what it prints, how it answers a mistake, what it has settled of Hydra.
Light to import."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from conf.mistakes import naming_settings
from conf.schema import CONF
from eval.record.jobs import MISTAKES, give_up

FULL_ERROR = "HYDRA_FULL_ERROR"  # in the environment: Hydra raises its errors, and doesn't print them on many lines
# Settings of Hydra's that a command's own yaml file has settled: why, and what to do instead.
RUNS = "runs lie where runs, sweep and run_id say: set those instead"
SETTLED = {
    "run.dir": RUNS,
    "sweep.dir": RUNS,
    "sweep.subdir": RUNS,
    "job.chdir": "paths are read from the folder in which the command is given: leave it out",
}


@contextmanager
def answering() -> Iterator[None]:
    """Around a command: a user's mistake ends the process with one sentence and exit code 1. What the terminal's
    encoding lacks is printed as "?", here and in processes that the command starts."""
    sys.stdout.reconfigure(errors="replace")
    os.environ.setdefault("PYTHONIOENCODING", ":replace")
    if os.environ.get(FULL_ERROR) == "1":  # by a user who wants to see where errors come from
        yield
        return
    os.environ[FULL_ERROR] = "1"
    try:
        with naming_settings():
            yield
    except MISTAKES as error:
        give_up(error)


class Settled(Callback):
    """Called by Hydra before a command's first job: refuses SETTLED where they are not as conf/`file`.yaml has them."""

    def __init__(self, file: str):
        self.file = file

    def on_run_start(self, config, **kwargs: Any) -> None:
        given, own = (
            OmegaConf.to_container(each.hydra, resolve=False) for each in (config, OmegaConf.load(CONF / self.file))
        )
        for key, advice in SETTLED.items():
            group, name = key.split(".")
            if given[group][name] != own[group][name]:
                give_up(ValueError(f"hydra.{key}={given[group][name]}: {advice}"))

    on_multirun_start = on_run_start
