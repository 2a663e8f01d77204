"""The learning rate that trials choose: the lowest validation loss, on validation alone, the trials apart from the run.

python -m pytest tests/test_tuning.py
"""

import pytest

from eval.record.folder import RunFolder
from eval.record.identity import settings_of
from eval.record.tuning import tuned, widen
from model.training.language_model import DivergedError
from tests.synthetic import RESULTS


def settings_for(runs, rates):
    return settings_of(f"runs={runs}", "sweep=fair", "logger=none", f"tuning={{lr:{rates},seed:7}}")


def test_the_rate_of_the_lowest_validation_loss_is_taken(tmp_path, capsys):
    trials = []

    def train(trial):
        trials.append(trial)
        facts = {**RESULTS, "run_id": trial.run_id, "encoding": "rope"}
        training = {"tokens": 1, "steps": 1, "seconds": 1.0, "tokens_per_second": 1.0, "loss": 1.0, "peak_memory": 1}
        folder = RunFolder.of(trial)
        folder.path.mkdir(parents=True)
        folder.update(**facts, training={**training, "val_loss": abs(trial.training.lr - 2e-3)})

    settings = settings_for(tmp_path, "[1e-3,2e-3,3e-3]")
    with RunFolder.of(settings).hold():
        chosen = tuned(settings, train)
    assert chosen.training.lr == 2e-3 and chosen.run_id == settings.run_id and chosen.seed == settings.seed
    assert {trial.eval.split for trial in trials} == {"validation"} and {trial.seed for trial in trials} == {7}
    assert all(trial.eval.protocols == trial.eval.probes == [] and trial.tuning is None for trial in trials)
    assert len({trial.run_id for trial in trials}) == 3 and {trial.sweep for trial in trials} == {"fair/tuning"}
    assert "edge" not in capsys.readouterr().out
    kept = RunFolder.of(settings).results["tuning"]
    assert kept["seed"] == 7 and list(map(float, kept["val_loss"])) == [1e-3, 2e-3, 3e-3]
    assert kept["val_loss"]["0.002"] == 0


@pytest.mark.parametrize(
    ("chosen", "advice"), [(1e-3, "add lower rates to tuning.lr"), (2e-3, ""), (3e-3, "add higher rates to tuning.lr")]
)
def test_at_the_edge_of_the_grid_it_says_which_way_to_widen_it(chosen, advice):
    said = widen([1e-3, 2e-3, 3e-3], chosen)
    assert said.endswith(advice) and bool(said) == bool(advice)


def test_where_no_rate_gives_a_finite_loss_the_grid_is_named(tmp_path):
    def train(trial):
        raise DivergedError("not finite")

    with pytest.raises(ValueError, match=r"tuning.lr=\[1.0, 2.0\]: no rate gave a finite loss"):
        tuned(settings_for(tmp_path, "[1,2]"), train)
