"""The check of a GPU: how its steps end, and that each is the command of something there is.

python -m pytest tests/test_gpu_check.py
"""

import csv
import sys
import time

import pytest

from scripts import gpu_check
from scripts.gpu_check import Step, carry_out


def step(name: str, code: str, seconds: int = 60) -> Step:
    return Step(name, seconds, [sys.executable, "-c", code])


def test_a_step_says_how_it_ended(tmp_path):
    assert carry_out(step("good", "print('seen')"), tmp_path)["ended"] == "ok"
    assert carry_out(step("bad", "raise SystemExit(4)"), tmp_path)["ended"] == "failed with exit code 4"
    assert (tmp_path / "good.log").read_text().endswith("seen\n")


def test_a_step_ends_at_its_limit_with_all_its_processes(tmp_path):
    begin = time.monotonic()
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    assert carry_out(step("long", child, seconds=1), tmp_path)["ended"] == "ended at its limit of 1 s"
    assert time.monotonic() - begin < 30


def test_it_goes_on_after_a_failure_and_keeps_how_each_ended(tmp_path, monkeypatch, capsys):
    steps = [step("bad", "raise SystemExit(1)"), step("good", ""), step("unasked", "")]
    monkeypatch.setattr(gpu_check, "steps", lambda folder, gpu: steps)
    assert gpu_check.main([str(tmp_path), "steps=bad,good"]) == 1
    rows = list(csv.DictReader((tmp_path / "steps.csv").open()))
    assert [(row["step"], row["ended"]) for row in rows] == [("bad", "failed with exit code 1"), ("good", "ok")]
    assert gpu_check.main([str(tmp_path), "steps=good"]) == 0


def test_unknown_steps_are_refused(tmp_path):
    with pytest.raises(ValueError, match="steps=lawz: must be among default, bank, laws"):
        gpu_check.main([str(tmp_path), "steps=lawz"])


@pytest.mark.parametrize("failing", ["nothing", "sweep=rope", "sweep=others"])
def test_the_bank_fails_where_one_of_its_sweeps_does(tmp_path, monkeypatch, failing):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *{failing}*) exit 3;; esac\n')
    python.chmod(0o755)
    monkeypatch.setattr(gpu_check, "PYTHON", str(python))
    (bank,) = (each for each in gpu_check.steps(tmp_path, gpu=False) if each.name == "bank")
    ended = "ok" if failing == "nothing" else "failed with exit code 3"
    assert carry_out(bank, tmp_path)["ended"] == ended
    assert bank.command[-1].count("train.py -m experiment=standard") == 2
