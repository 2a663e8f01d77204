"""A run that is stopped and started again ends as one that never was: the same weights, optimizer state and losses.

python -m pytest tests/test_resume.py            # real processes, 3 kills
python -m pytest tests/test_resume.py -m slow    # 20 kills
"""

import json
import multiprocessing
import random
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.schema import Settings
from eval.measure.scoring import Scorer
from eval.record.folder import RunFolder
from model.training.checkpoint import checkpoint_step, checkpoints
from model.training.language_model import LanguageModel
from train import train

# Dropout, accumulation, workers, an encoding that draws positions; points, validations and checkpoints at other steps.
SETTINGS = [
    "experiment=smoke",
    "encoding=randomized",
    "model.dropout=0.1",
    "num_workers=2",
    "training.tokens=40960",
    "training.accumulate=2",
    "training.checkpoint_every=0.1",
    "training.validate_every=0.2",
    "training.log_every=7",
    "eval.windows=12",
    "eval.targets=8",
]
TIMINGS = {"seconds", "tokens_per_second"}


class Killed(BaseException):
    """Stands for a process that is gone."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture
def reference(composed, uninterrupted) -> RunFolder:
    """The run that nobody stopped; made once."""
    return run_of(composed, uninterrupted)


def run_of(composed, runs: Path) -> RunFolder:
    settings = composed(*SETTINGS, f"runs={runs}")
    train(settings)
    return RunFolder.of(settings)


def untimed(entries: list[dict]) -> list[dict]:
    return [{key: value for key, value in entry.items() if key not in TIMINGS} for entry in entries]


def assert_same(found: RunFolder, expected: RunFolder) -> None:
    """Bit for bit: the last checkpoint's tensors, the curve, the rows and every token's loss."""
    assert found.finished and expected.finished
    ours, theirs = (torch.load(checkpoints(folder.checkpoints)[0], weights_only=True) for folder in (found, expected))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    curves = [next(c["curve"] for c in content["callbacks"].values() if "curve" in c) for content in (ours, theirs)]
    assert untimed(curves[0]) == untimed(curves[1])
    assert untimed(found.results["rows"]) == untimed(expected.results["rows"])
    losses, expected_losses = found.losses, expected.losses
    assert losses.keys() == expected_losses.keys()
    assert all(np.array_equal(losses[key], expected_losses[key]) for key in losses)


def stop_at(monkeypatch, step: int) -> None:
    """From here on training is gone at a step."""
    whole = LanguageModel.token_losses

    def stopping(self, *given):
        if self.training and self.global_step == step:
            raise Killed
        return whole(self, *given)

    monkeypatch.setattr(LanguageModel, "token_losses", stopping)


def kill_at_random(settings: Settings, seed: int, kills: int, expected: RunFolder, span: float) -> None:
    """Starts the run again and again and kills it, `kills` times in all, at random moments of its first `span` seconds;
    whenever it comes to its end, that must be as expected. Processes are forks of this one, which start at once."""
    chance = random.Random(seed)
    folder = RunFolder.of(settings)
    while kills:
        shutil.rmtree(folder.path, ignore_errors=True)
        while not folder.finished:
            process = multiprocessing.get_context("fork").Process(target=train, args=(settings,))
            process.start()
            process.join(chance.uniform(0, span) if kills else 120)
            if process.exitcode is None:
                process.kill()
                process.join()
                kills -= 1
            assert process.exitcode in (0, -signal.SIGKILL)
        assert_same(folder, expected)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_never_stopped(composed, reference):
    kill_at_random(composed(*SETTINGS), seed=1, kills=3, expected=reference, span=5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_twenty_times_ends_as_one_never_stopped(composed, reference):
    kill_at_random(composed(*SETTINGS), seed=2, kills=20, expected=reference, span=5)


@pytest.mark.parametrize("step", [pytest.param(step, marks=pytest.mark.slow) for step in (3, 17, 39)] + [24])
def test_a_run_that_breaks_off_at_a_step_ends_as_one_never_stopped(
    composed, tmp_path, monkeypatch, reference, step, capsys
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, step)
        run_of(composed, tmp_path)
    torch.rand(5)  # whatever else drew random numbers meanwhile
    there = checkpoints(tmp_path / reference.name / "checkpoints")
    assert "going on" not in capsys.readouterr().out
    assert_same(run_of(composed, tmp_path), reference)
    said = [f"going on after step {checkpoint_step(path)} of 40, from {path}" for path in there[:1]]
    assert [line for line in capsys.readouterr().out.splitlines() if "going on" in line] == said


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(composed, tmp_path, monkeypatch, reference):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 30)
        run_of(composed, tmp_path)
    newest, before = checkpoints(tmp_path / reference.name / "checkpoints")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
        found = run_of(composed, tmp_path)
    assert before.exists() or len(checkpoints(found.checkpoints)) == 2
    assert_same(found, reference)


def test_evaluation_goes_on_at_the_length_where_it_stopped(composed, tmp_path, monkeypatch, reference):
    whole, scored = Scorer.score, []

    def score(self, plans, encoding=None):
        scored.append(int((plans[0].stops - plans[0].starts)[0]))
        if len(scored) == 3:
            raise Killed
        return whole(self, plans, encoding)

    monkeypatch.setattr(Scorer, "score", score)
    with pytest.raises(Killed):
        run_of(composed, tmp_path)
    found = run_of(composed, tmp_path)
    assert scored[:5] == [32, 64, 128, 128, 256]  # then the probes'
    assert_same(found, reference)


@pytest.mark.parametrize("name", ["results.json", "losses.npz", "status.json"])
@pytest.mark.parametrize("part", [0.5, *(pytest.param(part, marks=pytest.mark.slow) for part in (0, 0.9))])
def test_a_cut_file_is_set_aside_and_made_again(composed, tmp_path, reference, name, part):
    shutil.copytree(reference.path, tmp_path / reference.name)
    path = tmp_path / reference.name / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.warns(UserWarning, match=f"{name} is damaged"):
        found = run_of(composed, tmp_path)
    assert_same(found, reference)
    if name != "status.json":
        assert path.with_name(f"{name}.damaged").exists()


SIGNALS = {signal.SIGTERM: 143, signal.SIGHUP: 129}  # Ctrl-C: tests/test_signals.py


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_saves_marks_the_run_interrupted_and_sets_the_exit_code(start, tmp_path, reference, signum):
    settings = [*SETTINGS, "training.tokens=4_000_000", "training.log_every=2"]
    process = start(*settings, runs=tmp_path)
    assert any(line.startswith("step") for line in process.stdout)  # it trains; no checkpoint is due for long
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[signum], errors
    assert "Traceback" not in errors
    (folder,) = tmp_path.glob("randomized-*")
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert len(checkpoints(folder / "checkpoints")) == 1


def test_without_a_stop_nothing_is_warned_of(composed, tmp_path, reference):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert run_of(composed, reference.path.parent).finished
