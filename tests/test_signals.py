"""Ctrl-C, SIGTERM and SIGHUP at any moment, and a terminal that is gone.

python -m pytest tests/test_signals.py
python -m pytest tests/test_signals.py -m ""    # every moment with every signal, and whole commands
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from importlib import import_module

import pytest

from conf.schema import ROOT
from eval.record.folder import RunFolder
from model import signals
from model.signals import SIGNALS, asked, deferred, last_words, listen
from model.training.checkpoint import checkpoints
from train import train

SMALL = ["experiment=smoke", "training.tokens=10240", "training.validate_every=0.5", "eval.windows=12"]
SMALL += ["eval.targets=8", "eval.lengths=[1,2]", "trainer=cpu", "trainer.precision=32-true"]
SMALL += ["tokenizer=byte", "data.max_tokens=20000"]  # prepared in a moment
# What is called at a moment of a run, which of its calls it is, and the step of the checkpoint that is there after it.
MOMENTS = {
    "preparing data": ("data.prepare:_build", 1, None),
    "writing tokens": ("data.prepare:write_stream", 2, None),
    "building the model": ("model.training.language_model:build_language_model", 1, None),
    "before the first step": ("model.training.checkpoint:Checkpoint.on_train_start", 1, None),
    "training": ("model.training.language_model:LanguageModel.training_step", 4, 4),
    "validating": ("model.training.language_model:LanguageModel.validation_step", 1, 5),
    "writing a checkpoint": ("model.training.checkpoint:digest", 1, 3),
    "the last step": ("model.training.language_model:LanguageModel.training_step", 10, 10),
    "writing the last checkpoint": ("model.training.checkpoint:digest", 5, 10),
    "describing the run": ("eval.record.folder:RunFolder.describe", 1, 10),
    "scoring": ("eval.measure.scoring:Scorer.score", 2, 10),
    "writing a row": ("eval.record.folder:write_atomic", 2, 10),
    "writing the report": ("eval.compare.report:write_files", 1, 10),
}
DONE = {"writing the report"}  # by then the run is finished
OFTEN = ("writing tokens", "before the first step", "training", "writing a checkpoint", "writing the last checkpoint")
OFTEN += ("scoring", "writing a row", "writing the report")
FAST = [(moment, SIGNALS[number % 3]) for number, moment in enumerate(OFTEN)]
WHOLE = [(moment, signum) for moment in MOMENTS for signum in SIGNALS if (moment, signum) not in FAST]


def strike(target: str, call: int, signum: int, monkeypatch) -> None:
    """From here on a signal comes three times as soon as the target is called for that time."""
    module, _, path = target.partition(":")
    owner = import_module(module)
    *within, name = path.split(".")
    for part in within:
        owner = getattr(owner, part)
    whole, calls = getattr(owner, name), []

    def struck(*arguments, **options):
        calls.append(1)
        for _ in range(3 * (len(calls) == call)):
            os.kill(os.getpid(), signum)
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, struck)


@pytest.fixture
def forked(tmp_path):
    """Carries out a function in a fork of this process, which starts at once: its exit code, and what it says."""

    def carry_out(function, meanwhile=lambda process: None):
        said = tmp_path / "said"

        def target():
            os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
            listen()
            function()

        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        meanwhile(process)
        process.join(120)
        return process.exitcode, said.read_text()

    return carry_out


def assert_stops(composed, forked, monkeypatch, tmp_path, moment, signum):
    target, call, step = MOMENTS[moment]
    settings = composed(*SMALL, *[f"cache_dir={tmp_path / 'cache'}"] * target.startswith("data."))
    with monkeypatch.context() as patch:
        strike(target, call, signum, patch)
        code, said = forked(lambda: train(settings))
    folder = RunFolder.of(settings)
    assert code == 128 + signum, said
    assert said.splitlines().count(f"stopped by {signum.name}: run the same command again to go on") == 1
    assert "Traceback" not in said
    assert folder.status["state"] == ("finished" if moment in DONE else "interrupted")
    written = checkpoints(folder.checkpoints)
    assert [path.stem for path in written[:1]] == ([] if step is None else [f"step-{step:09d}"])
    return settings, folder


@pytest.mark.parametrize(("moment", "signum"), FAST)
def test_a_signal_at_any_moment_stops_the_run_in_good_order(composed, forked, monkeypatch, tmp_path, moment, signum):
    assert_stops(composed, forked, monkeypatch, tmp_path, moment, signum)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "signum"), WHOLE)
def test_a_run_stopped_at_any_moment_by_any_signal_goes_on(composed, forked, monkeypatch, tmp_path, moment, signum):
    settings, folder = assert_stops(composed, forked, monkeypatch, tmp_path, moment, signum)
    assert forked(lambda: train(settings))[0] == 0
    assert folder.finished and (folder.path / "report.html").exists()


# Sent as a module is imported, which takes seconds in all: a folder with this in it stands first on PYTHONPATH.
STRIKING = """
import os, sys

class Striking:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["STRIKE"]:
            for _ in range(3):
                os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Striking())
"""
RUN = ("train.py", *SMALL, "logger=none")
IMPORTS = {
    "a run, Hydra": (RUN, "hydra"),
    "a sweep, what it reports with": (("train.py", "-m", *RUN[1:]), "eval.compare.sweep"),
    "an evaluation": (("-m", "eval", "run=nowhere"), "omegaconf"),
    "a script": (("-m", "scripts.report", "nowhere"), "pandas"),
}
MORE_IMPORTS = {
    "a run, PyTorch": (RUN, "torch"),
    "a run, Lightning": (RUN, "lightning.pytorch"),
    "a run, what it reports with": (RUN, "plotly"),
    "the explorer": (("-m", "scripts.explore"), "torch"),
    "the benchmark": (("-m", "scripts.benchmark"), "rich"),
}


def assert_import_stops(start, tmp_path, arguments, module, signum):
    (tmp_path / "sitecustomize.py").write_text(STRIKING)
    command, runs = arguments[:1] if arguments[0] == "train.py" else arguments[:2], tmp_path / "runs"
    variables = {"STRIKE": module, "SIGNAL": str(int(signum)), "PYTHONPATH": str(tmp_path)}
    with start(*arguments[len(command) :], runs=runs, command=command, **variables) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, said
    assert said == f"stopped by {signum.name}: run the same command again to go on\n"


@pytest.mark.parametrize("what", IMPORTS)
def test_a_signal_while_a_command_imports_ends_it_in_one_sentence(start, tmp_path, what):
    assert_import_stops(start, tmp_path, *IMPORTS[what], signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("what", MORE_IMPORTS)
@pytest.mark.parametrize("signum", SIGNALS)
def test_any_signal_at_any_import_ends_a_command_in_one_sentence(start, tmp_path, what, signum):
    assert_import_stops(start, tmp_path, *MORE_IMPORTS[what], signum)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("signum", SIGNALS)
def test_a_command_struck_at_random_ends_with_its_code_and_then_goes_on(start, program, tmp_path, signum):
    chance = random.Random(int(signum))
    for _ in range(12):
        process = start(*RUN[1:], "force=true", runs=tmp_path)
        time.sleep(chance.uniform(0.5, 12))
        process.send_signal(signum)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 128 + signum) and "Traceback" not in said, said
        states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("*/status.json")]
        assert "running" not in states
    assert program(*RUN[1:], runs=tmp_path).returncode == 0


def test_a_hangup_that_nohup_ignores_stays_ignored(forked):
    def ignoring():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        listen()
        os.kill(os.getpid(), signal.SIGHUP)

    assert forked(ignoring) == (0, "")


def test_a_later_signal_ends_at_once_what_has_not_stopped_yet(forked, tmp_path):
    def stubborn():
        with last_words(lambda stop: (tmp_path / "words").write_text(str(stop))), deferred():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                assert asked() == signal.SIGTERM
            signals.PATIENCE = 0
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError

    code, said = forked(stubborn)
    assert code == 128 + signal.SIGTERM and said.startswith("stopped by SIGTERM")
    assert (tmp_path / "words").read_text() == "stopped by SIGTERM"


WRITING = """
from eval.record.command import print_what_can_be
print_what_can_be()
with open({path!r}, "w") as file:
    assert file.fileno() > 2
    for number in range(20_000):
        print("line", number)
    print("done", file=file)
"""
TERMINALS = {
    "a reader that goes": "| head -1",
    "a full disk": "> /dev/full",
    "nothing, closed": ">&-",
    "all closed": "<&- >&- 2>&-",
}


@pytest.mark.parametrize("terminal", TERMINALS)
def test_what_cannot_be_printed_ends_nothing(tmp_path, terminal):
    path = tmp_path / "file"
    command = f'"$0" -c "$1" {TERMINALS[terminal]}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, WRITING.format(path=str(path))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "") and path.read_text() == "done\n"


@pytest.mark.slow
@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_run_is_not_lost_to_what_it_cannot_print(tmp_path, terminal):
    command = f'"$0" "$@" runs={tmp_path} {TERMINALS[terminal]}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command, sys.executable, *RUN], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(RunFolder(path.parent).finished for path in tmp_path.glob("*/config.json"))


@pytest.mark.slow
def test_a_run_goes_on_when_its_terminal_is_gone(tmp_path):
    ours, theirs = os.openpty()
    command = [sys.executable, *RUN, "training.tokens=65536", f"runs={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while b"loss" not in shown:
            shown += os.read(ours, 4096)
        os.close(ours)
    assert process.returncode == 0
    assert all(RunFolder(path.parent).finished for path in tmp_path.glob("*/config.json"))
