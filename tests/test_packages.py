"""A command in an environment that lacks the packages says in a sentence how to get to one that has them.

python -m pytest tests/test_packages.py
"""

import subprocess
import sys

import pytest

from conf.packages import missing
from tests.conftest import ROOT

COMMANDS = [["train.py"], ["-m", "eval"], ["-m", "scripts.report", "runs"], ["-m", "scripts.explore"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_python_without_the_packages_is_told_how_to_get_to_one_that_has_them(command):
    done = subprocess.run([sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True)  # no packages
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and said.startswith("error: this Python (")
    assert "`make shell`" in said and "source .venv/bin/activate" in said


def test_what_is_missing_of_the_program_itself_is_a_fault_and_no_advice():
    assert missing(ModuleNotFoundError("no", name="model.nothing")) is None
    assert missing(ImportError("no", name="hydra")) is None and missing(ValueError("no")) is None
    assert "no package hydra" in missing(ModuleNotFoundError("no", name="hydra.core"))
