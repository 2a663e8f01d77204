"""Every test starts from the same random state, on one thread, and leaves the global generators as it found them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from eval.record.identity import register_names

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts `python train.py` (or a module) with arguments: a process, with one cache for all."""
    cache = tmp_path_factory.mktemp("cache")

    def popen(*arguments, runs, command=("train.py",), cwd=ROOT, **variables):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRAINSHORT_CACHE": str(cache), **variables}
        extra = [f"runs={runs}"] if command == ("train.py",) else []
        return subprocess.Popen(
            [sys.executable, *command, *arguments, *extra],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return popen


@pytest.fixture(scope="session")
def program(start):
    """Runs `python train.py` (or a module) with arguments to its end."""

    def run(*arguments, timeout=240, **options):
        with start(*arguments, **options) as process:
            try:
                stdout, stderr = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture
def composed(tmp_path, tmp_path_factory):
    """The configuration that `python train.py` with these arguments has, as plain dicts."""

    def compose_config(*overrides):
        register_names()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", overrides=[f"runs={tmp_path}", f"cache_dir={cache}", *overrides])
        return OmegaConf.to_container(cfg, resolve=True)

    cache = tmp_path_factory.getbasetemp() / "composed-cache"
    return compose_config
