"""Every test starts from the same random state, on one thread, and leaves the global generators as it found them."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from conf import own
from conf.schema import ROOT
from eval.record.identity import settings_of

torch.set_num_threads(1)

# Presets of `layers`: what holds for every encoding is slow for them, but for one that stands for all.
PRESETS = {"gemma3", "gemma4", "gpt_oss", "irope", "rnope_swa", "smollm3"}


def pytest_addoption(parser):
    parser.addoption("--encoding-path", metavar="FOLDER", help="encodings of one's own, held to all that encodings are")


def pytest_configure(config):
    if folder := config.getoption("--encoding-path"):
        own.use(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        named = getattr(getattr(item, "callspec", None), "params", {}).values()
        if item.path.stem != "test_layers" and any(isinstance(value, str) and value in PRESETS for value in named):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def same_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(1)  # whatever a command chose: no fork of a process computes that has computed with several


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
    """The settings that `python train.py` with these arguments has, their runs and their cache in temporary folders."""
    elsewhere = {"runs": tmp_path, "cache_dir": tmp_path_factory.getbasetemp() / "composed-cache"}

    def settings(*overrides):
        given = {override.partition("=")[0] for override in overrides}
        return replace(
            settings_of(*overrides), **{key: str(path) for key, path in elsewhere.items() if key not in given}
        )

    return settings


@pytest.fixture
def texts(tmp_path):
    """A folder of 40 texts, each of its own words."""
    from tests.texts import write_texts  # which takes seconds to import

    return write_texts(tmp_path / "texts")
